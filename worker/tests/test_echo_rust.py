"""A worker that is no Python: `examples/plugins/echo-rust`, built by `cargo build --release -p echo-rust`."""

import os
from pathlib import Path

import pytest
from peer import LinkEndedError, Worker

PROGRAM = Path(__file__).resolve().parents[2] / "target" / "release" / "echo-rust"
pytestmark = pytest.mark.skipif(not PROGRAM.exists(), reason="echo-rust is not built")


@pytest.fixture
def worker():
    with Worker(command=[str(PROGRAM)]) as started:
        ready = started.load("", "", window=3, frame_bytes=100_000)
        assert (ready["t"], ready["name"], ready["streams"], ready["cancels"]) == ("ready", "echo-rust", True, True)
        yield started


@pytest.mark.parametrize(
    ("args", "kwargs", "value"),
    [
        ([], {}, "hello"),
        (["é"], {}, "é"),
        ([], {"text": "named"}, "named"),
        ([], {"bytes": 5}, "xxxxx"),
        ([], {"read": __file__}, {"size": os.path.getsize(__file__), "name": "test_echo_rust.py"}),
    ],
)
def test_results(worker, args, kwargs, value):
    end = worker.result(*args, **kwargs)
    assert (end["t"], end["value"], end["files"]) == ("done", value, False)


def test_a_file_is_written_into_scratch(worker, tmp_path):
    end = worker.result(write_bytes=(1 << 20) + 3, scratch=tmp_path)
    name = f"echo-{(1 << 20) + 3}.bin"
    assert end["value"] == {"$file": {"path": str(tmp_path / name), "name": name, "temp": False}}
    assert end["files"] is True
    assert (tmp_path / name).stat().st_size == (1 << 20) + 3


@pytest.mark.parametrize(
    ("args", "kwargs", "kind", "message"),
    [
        ([], {"fail": "on purpose"}, "raised", "on purpose"),
        ([], {"colour": 1}, "bad_arguments", "unknown field `colour`"),
        ([], {"bytes": "many"}, "bad_arguments", "invalid type"),
        ([], {"delay_s": -1}, "bad_arguments", "`delay_s`"),
        ([1, 2], {}, "bad_arguments", "only `text`"),
        ([], {"read": "/no/such/file"}, "raised", "`/no/such/file`"),
        ([], {"bytes": 100_001}, "too_large", "exceeds the limit of 100000 bytes"),
    ],
)
def test_errors(worker, args, kwargs, kind, message):
    end = worker.result(*args, **kwargs)
    assert (end["t"], end["kind"], end["cancelled"]) == ("error", kind, False)
    assert message in end["message"]
    assert worker.result()["value"] == "hello"


def test_a_stream_blocks_at_its_window(worker):
    number = worker.run(repeat=10, stream=True)
    assert [worker.frame("chunk")["value"]["n"] for _ in range(3)] == [0, 1, 2]
    assert worker.ask("health")["value"]["active"] == 1
    worker.send("credit", run=number, chunks=2)
    assert [worker.frame("chunk")["value"]["n"] for _ in range(2)] == [3, 4]
    assert worker.ask("stats")["value"]["rss_mb"] > 0
    worker.send("credit", run=number, chunks=100)
    frames = worker.until_end(number)
    assert [frame.get("value") for frame in frames][4:] == [{"n": 9, "text": "hello"}, "hello"]


@pytest.mark.parametrize("kwargs", [{"delay_s": 3600}, {"repeat": 9, "stream": True}])
def test_cancel(worker, kwargs):
    number = worker.run(**kwargs)
    waiting = worker.run()
    if "repeat" in kwargs:
        for _ in range(3):
            worker.frame("chunk")
    while worker.ask("health")["value"]["active"] == 0:
        pass
    assert worker.ask("health")["value"]["waiting"] == 1
    worker.send("cancel", run=waiting)
    assert worker.frame("cancelling")["answer"] == "cancelled"
    assert worker.frame("error")["run"] == waiting
    worker.send("cancel", run=number)
    frames = {frame["t"]: frame for frame in (worker.frame("cancelling", "error") for _ in range(2))}
    assert (frames["cancelling"]["answer"], frames["error"]["cancelled"]) == ("cancelled", True)
    worker.send("cancel", run=number)
    assert worker.frame("cancelling")["answer"] == "unknown"


def test_order_and_exit(worker):
    numbers = [worker.run(delay_s=0.01), worker.run(), worker.run()]
    worker.send("exit")
    frames = [worker.frame("done", "started") for _ in range(5)]
    assert [(frame["t"], frame["run"]) for frame in frames] == [
        ("done", numbers[0]),
        ("started", numbers[1]),
        ("done", numbers[1]),
        ("started", numbers[2]),
        ("done", numbers[2]),
    ]
    assert worker.ended() == 0


def test_questions(worker):
    assert worker.ask("config")["value"] is None
    assert worker.ask("weather")["ok"] is False
    worker.send("configure", id=1, config={})
    assert worker.frame("answer")["ok"] is False
    worker.send("release", id=2)
    assert worker.frame("answer")["value"] is False
    worker.send("dance")
    assert worker.result()["t"] == "done"


@pytest.mark.parametrize(("busy", "status"), [(False, 0), (True, 5)])
def test_the_end_of_the_link_ends_the_process(worker, busy, status):
    if busy:
        worker.run(delay_s=3600)
        worker.ask("health")
    worker.link.close()
    assert worker.ended(1.0) == status


@pytest.mark.parametrize("data", [b"\x00\x00\x00\x02[]", b"\x7f\x00\x00\x00"])
def test_a_broken_frame_ends_the_process(worker, data):
    worker.send_bytes(data)
    with pytest.raises(LinkEndedError, match="broken frame from the agent"):
        worker.next()
    assert worker.ended() == 4
