"""Start-up: load, its failures, introspection, and the end of the process."""

import json
import os
import select
import signal
import subprocess
import sys
import time

import pytest
from peer import PLUGINS, WORKER, LinkEndedError, Worker


def test_ready_says_what_the_plugin_is_and_can(worker):
    ready = worker.load("lifecycle", "Configured")
    assert ready == {
        "t": "ready",
        "protocol": 1,
        "pid": worker.process.pid,
        "name": "configured",
        "version": "2.3.4",
        "config": {"mode": "fast"},
        "schema": {"type": "object", "properties": {"mode": {"default": "fast"}, "size": {"type": "integer"}}},
        "streams": False,
        "cancels": False,
        "releases": True,
    }


def test_a_plugin_without_name_gets_the_one_of_its_load(worker):
    ready = worker.load("general", "Plain")
    assert (ready["name"], ready["version"], ready["config"], ready["schema"]) == ("under-test", "0.0.0", None, None)


@pytest.mark.parametrize(
    ("class_", "config", "calls"),
    [
        ("Configured", None, [{"mode": "fast"}]),
        ("Configured", {"mode": "slow"}, [{"mode": "slow"}]),
        ("Configured", {}, [{}]),
        ("NoDefaults", None, []),
    ],
)
def test_initialize_is_called_as_the_configuration_says(worker, class_, config, calls):
    assert worker.load("lifecycle", class_, config=config)["t"] == "ready"
    assert worker.result()["value"] == calls


@pytest.mark.parametrize(
    ("module", "class_", "stage", "type_", "message"),
    [
        ("broken_import", "Any", "import", "ModuleNotFoundError", "no_such_module_anywhere"),
        ("no_module", "Any", "import", "ModuleNotFoundError", "no_module"),
        ("lifecycle", "Missing", "import", "AttributeError", "Missing"),
        ("lifecycle", "FailsToConstruct", "construct", "RuntimeError", "no GPU here"),
        ("pathlib", "Path", "construct", "TypeError", "has no method `execute`"),
        ("lifecycle", "FailsToInitialize", "initialize", "SystemExit", "9"),
    ],
)
def test_a_failed_start_is_told_at_once(worker, module, class_, stage, type_, message):
    failed = worker.load(module, class_, config={})
    assert (failed["t"], failed["stage"], failed["type"]) == ("failed", stage, type_)
    assert message in failed["message"]
    assert "grange_worker" not in failed["traceback"]
    assert worker.ended() == 3


@pytest.mark.parametrize(("class_", "streams"), [("General", True), ("Child", False), ("Plain", False)])
def test_streams_follows_the_more_derived_method(worker, class_, streams):
    assert worker.load("general", class_)["streams"] is streams


def test_it_runs_as_a_module_too():
    with Worker(as_module=True) as worker:
        assert worker.load("general", "Plain")["t"] == "ready"
        assert worker.result(1)["value"] == [1, 2]


def test_the_worker_does_not_hide_modules_of_the_plugin(general):
    code = "[p for p in sys.path if 'grange_worker' in p or p == os.path.dirname(sys.argv[0])]"
    assert general.result(code)["value"] == []
    assert general.result("sys.path[0]")["value"] == str(PLUGINS)


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x00\x00\x03abc",
        b"\x00\x00\x00\x02[]",
        b"\x00\x00\x00\x09" + b'{"t":"x"}',
        b"\xff\xff\xff\xff",
        b"\x00\x00\x00\x0c" + b'{"t":"load"}',
    ],
)
def test_a_broken_first_frame_ends_the_worker(worker, data):
    worker.send_bytes(data)
    assert worker.ended() == 4
    assert "broken frame from the agent" in worker.stderr()


@pytest.mark.parametrize("data", [b"\x00\x00\x00\x01{", b'\x00\x00\x00\x0b{"t":"run"}', b"\x7f\x00\x00\x00"])
def test_a_broken_later_frame_ends_the_worker(general, data):
    general.send_bytes(data)
    with pytest.raises(LinkEndedError):
        general.next()
    assert general.ended() == 4


def test_unknown_frames_and_fields_are_ignored(general):
    general.send("dance", run=1)
    general.send("run", run=1, args=["1"], kwargs={}, stream=False, new=True)
    assert general.frame("done")["value"] == 1


def test_frames_may_come_in_pieces(general):
    for number, step in ((1, 99991), (2, 10**6), (3, 1)):
        text = "y" * (step * 3 + 7)
        run = {"t": "run", "run": number, "args": ["len(given['x'])"], "kwargs": {"x": text}, "stream": False}
        body = json.dumps(run).encode()
        data = len(body).to_bytes(4, "big") + body
        for start in range(0, len(data), step):
            general.send_bytes(data[start : start + step])
        assert general.frame("done")["value"] == len(text)


def test_the_end_of_the_link_ends_an_idle_worker(general):
    general.link.close()
    assert general.ended(1.0) == 0


@pytest.mark.parametrize("class_", ["Cancellable", "Busy"])
def test_the_end_of_the_link_ends_a_busy_worker(worker, class_):
    worker.load("lifecycle", class_)
    worker.run(*([3600] if class_ == "Busy" else []))
    worker.frame("log")
    begun = time.monotonic()
    worker.link.close()
    assert worker.ended(1.0) == 5
    assert time.monotonic() - begun < 1.0


def test_the_end_of_the_link_ends_a_worker_that_loads(worker, tmp_path):
    os.mkfifo(tmp_path / "gate")
    (tmp_path / "slow_import.py").write_text(f"print('importing')\nopen({str(tmp_path / 'gate')!r}).read()\n")
    body = {"protocol": 1, "plugin": "p", "module": "slow_import", "class_": "X", "paths": [str(tmp_path)]}
    worker.send("load", **body)
    assert worker.frame("log")["line"] == "importing"
    assert worker.ask("health")["value"]["status"] == "loading"
    assert worker.ask("config")["ok"] is False
    worker.link.close()
    assert worker.ended(1.0) == 0


@pytest.mark.parametrize("class_", ["Cancellable", "Busy"])
def test_sigterm_works_while_execute_blocks_and_sigint_does_nothing(worker, class_):
    worker.load("lifecycle", class_)
    worker.run(*([3600] if class_ == "Busy" else []))
    worker.frame("log")
    worker.process.send_signal(signal.SIGINT)
    assert worker.ask("health")["value"]["status"] == "running"
    worker.process.terminate()
    assert worker.ended(1.0) == -signal.SIGTERM


def test_exit_cleans_up_after_what_runs(worker):
    worker.load("lifecycle", "Configured")
    worker.run()
    worker.send("exit")
    worker.frame("done")
    assert worker.frame("log")["line"] == "cleaned up"
    assert worker.ended() == 0


def test_a_file_is_no_link():
    done = subprocess.run([sys.executable, str(WORKER)], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 2
    assert "not a socket" in done.stderr


def test_garbage_on_stdout_does_not_reach_the_link(worker):
    assert worker.load("lifecycle", "Noisy")["t"] == "ready"
    logs = []
    number = worker.run()
    frames = worker.until_end(number)
    logs = [(frame["run"], frame["stream"], frame["line"]) for frame in frames[:-1]]
    assert frames[-1]["value"] == ["", "", True]
    assert logs == [(number, "stdout", "bytes line"), (number, "stderr", "error line")]
    readable, _, _ = select.select([worker.process.stdout], [], [], 5)
    assert readable
    assert os.read(worker.process.stdout.fileno(), 1000) == b"garbage \xff\xfe not a frame\nraw line\n"


def introspect(module, class_):
    command = [sys.executable, str(WORKER), "introspect", "--module", module, "--class", class_]
    done = subprocess.run([*command, "--path", str(PLUGINS)], capture_output=True, text=True, errors="replace")
    return done.returncode, json.loads(done.stdout), done.stderr


def test_introspect():
    status, told, _ = introspect("lifecycle", "Configured")
    assert status == 0
    assert set(told) == {"name", "version", "config_schema", "streams", "cancels", "releases", "defaults"}
    assert (told["name"], told["version"], told["defaults"]) == ("configured", "2.3.4", {"mode": "fast"})


def test_introspect_of_a_plugin_that_prints():
    status, told, stderr = introspect("lifecycle", "Noisy")
    assert (status, told["defaults"], told["config_schema"]) == (0, None, None)
    assert "constructing" in stderr and "garbage" in stderr


def test_introspect_of_a_broken_plugin():
    status, told, _ = introspect("broken_import", "Any")
    assert status == 3
    assert (told["error"]["stage"], told["error"]["type"]) == ("import", "ModuleNotFoundError")
