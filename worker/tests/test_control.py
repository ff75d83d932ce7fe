"""What is answered beside runs: health, statistics, cancel, configuration, progress, output."""

import os
import threading

import pytest


def blocked(worker, *args, class_="Cancellable", **load):
    """Start a run that blocks, and wait until it does."""
    worker.load("lifecycle", class_, **load)
    number = worker.run(*args)
    assert worker.frame("log")["line"] in ("blocking", "spinning", "begun")
    return number


def frames_by_kind(worker, *kinds):
    found = {}
    while set(found) != set(kinds):
        frame = worker.frame(*kinds)
        found[frame["t"]] = frame
    return found


@pytest.mark.parametrize(("class_", "args"), [("Cancellable", []), ("Busy", [3600])])
def test_questions_are_answered_while_execute_blocks(worker, class_, args):
    blocked(worker, *args, class_=class_)
    assert worker.ask("health", 1)["value"]["status"] == "running"
    answer = worker.ask("stats", "two")
    assert answer["id"] == "two"
    stats = answer["value"]
    assert stats["pid"] == worker.process.pid and stats["runs"] == stats["active"] == 1
    assert stats["rss_mb"] > 5 and stats["cpu_percent"] >= 0
    assert worker.ask("schema")["value"] is None
    refused = worker.ask("weather")
    assert (refused["ok"], refused["error"]["message"]) == (False, "unknown question `weather`")


def test_stats_count_children(general):
    alone = general.ask("stats")["value"]["rss_mb"]
    general.result("self.__dict__.update(child=__import__('subprocess').Popen(['cat'], stdin=-1, bufsize=0)) or 1")
    assert general.ask("stats")["value"]["rss_mb"] > alone
    general.result("self.child.stdin.close() or self.child.wait()")


def test_config_and_schema(worker):
    worker.load("lifecycle", "Configured")
    assert worker.ask("config")["value"] == {"mode": "fast"}
    assert worker.ask("schema")["value"]["type"] == "object"


@pytest.mark.parametrize(("how", "end"), [("raise", "error"), ("return", "done")])
def test_cancel_of_a_blocked_run(worker, how, end):
    number = blocked(worker, how)
    worker.send("cancel", run=number)
    found = frames_by_kind(worker, "cancelling", end)
    assert found["cancelling"] == {"t": "cancelling", "run": number, "answer": "cancelled", "message": ""}
    if end == "error":
        assert (found["error"]["cancelled"], found["error"]["type"]) == (True, "RuntimeError")
    assert worker.ask("health")["value"]["status"] == "idle"


def test_cancel_that_fails(worker):
    number = blocked(worker, class_="CancelFails")
    worker.send("cancel", run=number)
    found = frames_by_kind(worker, "cancelling", "error")
    assert found["cancelling"]["answer"] == "error"
    assert found["cancelling"]["message"] == "ValueError: cannot stop"


def test_cancel_that_hangs_does_not_take_health_with_it(worker):
    number = blocked(worker, class_="CancelHangs")
    worker.send("cancel", run=number)
    assert worker.ask("health")["value"]["active"] == 1


@pytest.mark.parametrize("class_", ["CancelNothing", "Busy"])
def test_cancel_that_is_not_supported(worker, class_, tmp_path):
    os.mkfifo(tmp_path / "gate")
    number = blocked(worker, str(tmp_path / "gate") if class_ == "CancelNothing" else 3600, class_=class_)
    assert worker.ready["cancels"] is False
    worker.send("cancel", run=number)
    assert worker.frame("cancelling")["answer"] == "not_supported"


def test_cancel_of_an_asynchronous_run(worker):
    worker.load("lifecycle", "Asynchronous", config={})
    number = worker.run(True, stream=False)
    assert worker.frame("log")["line"] == "begun"
    worker.send("cancel", run=number)
    found = frames_by_kind(worker, "cancelling", "error")
    assert (found["error"]["cancelled"], found["error"]["type"]) == (True, "CancelledError")
    assert worker.result(stream=False)["t"] == "done"


def test_cancel_of_what_is_not_there(general):
    general.send("cancel", run=99)
    assert general.frame("cancelling")["answer"] == "unknown"
    number = general.run("1")
    general.frame("done")
    general.send("cancel", run=number)
    assert general.frame("cancelling")["answer"] == "unknown"


def test_cancel_of_a_waiting_run_drops_it(worker):
    first = blocked(worker, "return")
    second, third = worker.run("return"), worker.run("return")
    worker.send("cancel", run=second)
    assert worker.frame("cancelling") == {
        "t": "cancelling",
        "run": second,
        "answer": "cancelled",
        "message": "it had not begun",
    }
    end = worker.frame("error")
    assert (end["run"], end["cancelled"], end["type"]) == (second, True, "Cancelled")
    worker.send("cancel", run=first)
    frames_by_kind(worker, "cancelling", "done")
    assert worker.frame("started")["run"] == third


def test_configure_keeps_its_place(worker):
    worker.load("lifecycle", "Configured")
    worker.run()
    worker.send("configure", id="c", config={"mode": "slow"})
    worker.run()
    assert worker.frame("done")["value"] == [{"mode": "fast"}]
    assert worker.frame("answer") == {"t": "answer", "id": "c", "ok": True, "value": {"mode": "slow"}}
    end = worker.frame("started", "done")
    if end["t"] == "started":
        end = worker.frame("done")
    assert end["value"] == [{"mode": "fast"}, {"mode": "slow"}]
    worker.send("configure", id=1, config={"mode": "bad"})
    answer = worker.frame("answer")
    assert answer["error"]["type"] == "ValueError"
    assert "mode `bad` is not known" in answer["error"]["message"]


def test_configure_waits_for_every_run(worker):
    worker.load("lifecycle", "Parallel", concurrency=2)
    runs = [worker.run("a"), worker.run("b")]
    worker.send("configure", id=1, config={})
    ends = [worker.frame("done")["run"] for _ in range(2)]
    assert sorted(ends) == runs
    answer = worker.frame("answer")
    assert (answer["ok"], answer["error"]["message"]) == (False, "the plugin has no `initialize`")


def test_release(worker):
    worker.load("lifecycle", "Configured")
    worker.send("release", id=3)
    assert worker.frame("answer") == {"t": "answer", "id": 3, "ok": True, "value": True}
    assert worker.result()["value"][-1] == "released"


def test_release_of_a_plugin_that_has_none(general):
    general.send("release", id=3)
    assert general.frame("answer")["value"] is False


# === progress ===


def progress_of(worker, *args):
    frames = worker.until_end(worker.run(*args))
    return [(frame["progress"], frame["message"]) for frame in frames if frame["t"] == "progress"]


def test_progress_is_pushed_and_its_last_value_always(worker):
    worker.load("lifecycle", "Progressing")
    assert progress_of(worker, [[0.5, "half"], [0.5, "half"]]) == [(0.5, "half")]
    seen = progress_of(worker, [[i / 1000, "step"] for i in range(1001)])
    assert seen[0] == (0.0, "step") and seen[-1] == (1.0, "step")
    assert len(seen) < 50


def test_strange_progress_does_not_hurt(worker):
    worker.load("lifecycle", "Progressing")
    assert progress_of(worker, [[-1, "unknown"]]) == [(-1.0, "unknown")]
    assert progress_of(worker, [["x", None]]) == [(-1.0, "")]
    assert progress_of(worker, [[7]]) == [(1.0, "")]


def test_progress_in_attributes_is_watched(worker, tmp_path):
    worker.load("lifecycle", "CjmStyle")
    os.mkfifo(tmp_path / "gate")
    number = worker.run(str(tmp_path / "gate"))
    seen = [worker.frame("progress"), worker.frame("progress")]
    assert [(f["run"], f["progress"], f["message"]) for f in seen] == [(number, 0.25, "called"), (number, 0.5, "set")]
    opener = threading.Thread(target=lambda: open(tmp_path / "gate", "w").close())
    opener.start()
    assert worker.frame("progress")["progress"] == 0.75
    assert worker.frame("done")["run"] == number
    opener.join()


# === output ===


def lines_of(worker, code):
    number = worker.run(code, stream=False)
    frames = worker.until_end(number)
    assert frames[-1]["t"] == "done", frames[-1]
    assert all(frame["run"] == number for frame in frames)
    return [(frame["stream"], frame["line"]) for frame in frames[:-1]]


@pytest.mark.parametrize(
    ("code", "lines"),
    [
        ("say('one\\ntwo')", [("stdout", "one"), ("stdout", "two")]),
        ("say('oops', err=True)", [("stderr", "oops")]),
        ("(say('no ', end=''), say('newline', end=''))", [("stdout", "no newline")]),
        ("[say(f'\\r{i}%', end='') for i in range(101)]", [("stdout", "100%")]),
        ("say('10%\\r20%\\r')", [("stdout", "20%")]),
        ("say('')", [("stdout", "")]),
        ("say('a' * 20000)", [("stdout", "a" * 8192), ("stdout", "a" * 8192), ("stdout", "a" * 3616)]),
        ("say('b' * 9000, end='')", [("stdout", "b" * 8192), ("stdout", "b" * 808)]),
        ("say('\\udcff')", [("stdout", "\ufffd")]),
    ],
)
def test_lines(general, code, lines):
    assert lines_of(general, code) == lines


def test_late_output_belongs_to_no_run(general):
    general.result("setattr(self, 'context', __import__('contextvars').copy_context())")
    frames = general.until_end(general.run("self.context.run(say, 'late')"))
    assert [(frame["run"], frame["line"]) for frame in frames[:-1]] == [(None, "late")]


def test_a_forked_child_leaves_the_link_alone(worker):
    worker.load("lifecycle", "Forks")
    end = worker.result()
    assert (end["t"], end["value"]) == ("done", "parent")
    assert os.read(worker.process.stdout.fileno(), 100) == b"from the child\n"
    assert worker.result()["value"] == "parent"


def test_multiprocessing(general):
    code = "__import__('multiprocessing').get_context('fork').Pool(2).map(abs, [-1, -2])"
    assert general.result(code)["value"] == [1, 2]
    code = "__import__('multiprocessing').get_context('spawn').Pool(1).map(abs, [-3])"
    assert general.result(code)["value"] == [3]
