"""Runs: results, errors, order, concurrency, streams and their window."""

import pytest
from peer import Worker


def test_done_tells_the_value_and_the_time(worker):
    worker.load("general", "Plain")
    end = worker.result(1, y=3)
    assert (end["t"], end["value"], end["files"]) == ("done", [1, 3], False)
    assert 0 <= end["ms"] < 1000


def test_an_exception_has_type_message_and_the_plugins_traceback(general):
    end = general.result("1 / 0")
    assert (end["t"], end["type"], end["kind"], end["cancelled"]) == ("error", "ZeroDivisionError", "raised", False)
    assert end["message"] == "division by zero"
    assert "in execute" in end["traceback"] and "grange_worker" not in end["traceback"]


@pytest.mark.parametrize(
    ("code", "type_"), [("sys.exit(4)", "SystemExit"), ("exec('raise KeyboardInterrupt')", "KeyboardInterrupt")]
)
def test_what_would_end_a_process_ends_only_the_run(general, code, type_):
    end = general.result(code)
    assert (end["t"], end["type"]) == ("error", type_)
    assert general.result("'alive'")["value"] == "alive"


def test_os_exit_ends_the_process(general):
    general.run("os._exit(17)")
    assert general.ended() == 17


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ([], {}, "missing 1 required positional argument"),
        ([1, 2, 3], {}, "takes from 2 to 3 positional arguments"),
        ([1], {"z": 1}, "unexpected keyword argument 'z'"),
    ],
)
def test_arguments_that_do_not_fit(worker, args, kwargs, message):
    worker.load("general", "Plain")
    end = worker.result(*args, **kwargs)
    assert (end["type"], end["kind"]) == ("TypeError", "bad_arguments")
    assert message in end["message"]


def test_a_type_error_inside_is_no_bad_argument(general):
    assert general.result("len(3)")["kind"] == "raised"


def test_a_long_message_and_a_bad_one(general):
    end = general.result("exec('raise ValueError(\"x\" * 100000)')")
    assert len(end["message"]) == 8192 and len(end["traceback"]) < 40000
    end = general.result("exec('class E(Exception):\\n def __str__(self): return 1 / 0\\nraise E')")
    assert "its message cannot be read" in end["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_too_large_breaks_nothing(worker, stream):
    worker.load("general", "General", frame_bytes=70000)
    number = worker.run("iter([1, 'x' * 70001])" if stream else "'x' * 70001", stream=stream)
    end = worker.until_end(number)[-1]
    assert (end["t"], end["kind"]) == ("error", "too_large")
    assert "exceeds the limit of 70000 bytes" in end["message"] and "frame of 700" in end["message"]
    assert worker.result("1")["value"] == 1


def test_an_error_fits_into_a_small_frame(worker):
    worker.load("general", "General", frame_bytes=2000)
    end = worker.result("exec('raise ValueError(\"x\" * 5000)')")
    assert (end["type"], end["message"], end["traceback"]) == ("ValueError", "x" * 200, "")
    assert len(worker.result("say('y' * 5000)[:3]")["value"]) == 3


def test_one_at_a_time_and_in_order(general):
    numbers = [general.run("say(given['i'])", i=i) for i in range(50)]
    frames = []
    while not frames or frames[-1]["run"] != numbers[-1] or frames[-1]["t"] != "done":
        frames.append(general.next())
    ends = [frame["run"] for frame in frames if frame["t"] == "done"]
    assert ends == numbers
    current = None
    for frame in frames:  # between the lines of one run there is nothing of another
        if frame["t"] == "started":
            assert current is None
        current = None if frame["t"] == "done" else frame["run"]
        assert frame["run"] in (current, None) or frame["t"] == "done"


def test_only_a_run_that_waited_says_started(worker):
    worker.load("lifecycle", "Cancellable")
    first = worker.run("return")
    worker.frame("log")
    second = worker.run("return")
    assert worker.ask("health")["value"] == {
        "status": "running",
        "pid": worker.process.pid,
        "name": "under-test",
        "version": "0.0.0",
        "active": 1,
        "waiting": 1,
    }
    worker.send("cancel", run=first)
    frames = [worker.frame("cancelling", "done", "started") for _ in range(3)]
    kinds = {frame["t"]: frame["run"] for frame in frames}
    assert kinds == {"cancelling": first, "done": first, "started": second}


def test_two_at_a_time():
    with Worker() as worker:
        worker.load("lifecycle", "Parallel", concurrency=2)
        runs = {worker.run("a"): "a", worker.run("b"): "b"}
        ends, lines = {}, {}
        while len(ends) < 2:
            frame = worker.next()
            if frame["t"] == "log":
                lines[frame["run"]] = frame["line"]
            else:
                assert frame["t"] == "done", frame
                ends[frame["run"]] = frame["value"]
        assert ends == runs
        assert lines == {number: f"line of {tag}" for number, tag in runs.items()}


def test_an_asynchronous_plugin(worker):
    ready = worker.load("lifecycle", "Asynchronous", config={"a": 1})
    assert (ready["t"], ready["streams"]) == ("ready", True)
    assert worker.result(stream=False)["value"] == {"a": 1}
    frames = worker.until_end(worker.run(stream=None, n=3))
    assert [frame.get("value") for frame in frames] == [0, 1, 2, None]


def test_an_asynchronous_stream_blocks_at_the_window(worker):
    worker.load("lifecycle", "Asynchronous", config={}, window=2)
    number = worker.run(stream=None, n=5)
    assert [worker.frame("chunk")["value"] for _ in range(2)] == [0, 1]
    assert worker.ask("stats")["value"]["active"] == 1
    worker.send("credit", run=number, chunks=3)
    assert [frame.get("value") for frame in worker.until_end(number)] == [2, 3, 4, None]


def test_a_slotted_plugin_runs(worker):
    worker.load("lifecycle", "Slotted")
    assert worker.result()["value"] == "slotted"


# === streams ===


def test_a_stream_has_its_chunks_and_its_value(general):
    frames = general.until_end(general.run("iter([1, 2])", stream=True))
    assert [(frame["t"], frame["value"]) for frame in frames] == [("chunk", 1), ("chunk", 2), ("done", None)]
    frames = general.until_end(general.run("(i for i in 'ab')", stream=None))
    assert [frame["value"] for frame in frames] == ["a", "b", None]


def test_the_value_of_a_generator_is_the_result(general):
    code = "self._gen()"
    general.result("exec('def g(self):\\n yield 1\\n return {\"total\": 1}\\ntype(self)._gen = g')", stream=False)
    frames = general.until_end(general.run(code, stream=True))
    assert [(frame["t"], frame["value"]) for frame in frames] == [("chunk", 1), ("done", {"total": 1})]


def test_a_class_without_streams_gives_one_chunk(worker):
    worker.load("general", "Plain")
    assert [f["value"] for f in worker.until_end(worker.run(1, stream=True))] == [[1, 2], None]
    assert [f["value"] for f in worker.until_end(worker.run(1, stream=None))] == [[1, 2]]


def test_a_more_derived_execute_wins_unless_a_stream_is_asked_for(worker):
    worker.load("general", "Child")
    assert [f["value"] for f in worker.until_end(worker.run(stream=None))] == ["child"]
    assert [f["value"] for f in worker.until_end(worker.run("iter([5])", stream=True))] == [5, None]


def test_an_exception_after_chunks(general):
    frames = general.until_end(general.run("map(lambda x: 1 // x, [1, 0])", stream=True))
    assert [frame["t"] for frame in frames] == ["chunk", "error"]
    assert frames[1]["type"] == "ZeroDivisionError"


def test_bad_arguments_of_a_stream(general):
    general_end = general.until_end(general.run("()", "one too many", stream=True))[-1]
    assert (general_end["t"], general_end["kind"]) == ("error", "bad_arguments")


def test_the_window_blocks_the_generator(worker, tmp_path):
    worker.load("general", "General", window=3)
    count = tmp_path / "count"
    code = f"(open({str(count)!r}, 'a').write('x') and i for i in range(1000))"
    number = worker.run(code, stream=True)
    assert [worker.frame("chunk")["value"] for _ in range(3)] == [0, 1, 2]
    assert worker.ask("stats")["value"]["active"] == 1  # and nothing but the answer came
    assert len(count.read_text()) <= 4
    worker.send("credit", run=number, chunks=2)
    assert [worker.frame("chunk")["value"] for _ in range(2)] == [3, 4]
    assert worker.ask("health")["ok"] is True
    assert len(count.read_text()) <= 6
    worker.send("credit", run=number, chunks=1000)
    frames = worker.until_end(number)
    assert (len(frames), frames[-1]["t"]) == (996, "done")


def test_a_stream_of_exactly_the_window_needs_no_credit(worker):
    worker.load("general", "General", window=3)
    assert len(worker.until_end(worker.run("range(3)", stream=True))) == 4


def test_a_cancelled_stream_is_closed(worker, tmp_path):
    worker.load("general", "General", window=2)
    closed = tmp_path / "closed"
    number = worker.run("range(100)", stream=True, closed=str(closed))
    for _ in range(2):
        worker.frame("chunk")
    worker.send("cancel", run=number)
    frames = [worker.frame("cancelling", "error"), worker.frame("cancelling", "error")]
    end = next(frame for frame in frames if frame["t"] == "error")
    answer = next(frame for frame in frames if frame["t"] == "cancelling")
    assert (end["cancelled"], end["type"], answer["answer"]) == (True, "Cancelled", "cancelled")
    assert closed.read_text() == "closed"
    assert worker.result("3", stream=False)["value"] == 3
