"""Measures the worker: cold start, round trip, no-op runs a second, chunks a second.

Run it as `python worker/tests/speed.py`; it prints one line of JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time

from peer import PLUGINS, Worker


def frame(**fields):
    body = json.dumps(fields, separators=(",", ":")).encode()
    return len(body).to_bytes(4, "big") + body


class Counter:
    """Reads frames as cheaply as Python can, to measure the worker and not this script."""

    def __init__(self, link):
        self.link = link
        self.link.settimeout(60)
        self.rest = b""

    def bodies(self):
        data = self.rest + self.link.recv(1 << 18)
        position, held, found = 0, len(data), []
        while held - position >= 4:
            end = position + 4 + int.from_bytes(data[position : position + 4], "big")
            if end > held:
                break
            found.append(data[position + 4 : end])
            position = end
        self.rest = data[position:]
        return found


def cold_start(n=15):
    times, bare = [], []
    for _ in range(n):
        begun = time.perf_counter()
        with Worker() as worker:
            assert worker.load("lifecycle", "NoOp")["t"] == "ready"
            times.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-c", "pass"], check=True)
        bare.append(time.perf_counter() - begun)
    return sorted(times)[n // 2] * 1e3, sorted(bare)[n // 2] * 1e3


def run_frame(number, stream=None, **kwargs):
    return frame(t="run", run=number, args=[], kwargs=kwargs, stream=stream, scratch="/tmp", job="j", attempt=1)


def round_trip(worker, n=5000):
    counter, times = Counter(worker.link), []
    for number in range(n):
        request = run_frame(number, stream=False)
        begun = time.perf_counter()
        worker.link.sendall(request)
        while not counter.bodies():
            pass
        times.append(time.perf_counter() - begun)
    times.sort()
    return times[n // 2] * 1e6, times[int(n * 0.99)] * 1e6


def runs_per_second(worker, n=40000, window=32):
    counter, sent, done = Counter(worker.link), 0, 0
    requests = [run_frame(100000 + number, stream=False) for number in range(n)]
    begun = time.perf_counter()
    while done < n:
        room = min(window - (sent - done), n - sent)
        if room > 0:
            worker.link.sendall(b"".join(requests[sent : sent + room]))
            sent += room
        done += sum(body.startswith(b'{"t":"done"') for body in counter.bodies())
    return n / (time.perf_counter() - begun)


def chunks_per_second(worker, n=200000, window=64):
    counter, number, got, credited = Counter(worker.link), 999999, 0, 0
    begun = time.perf_counter()
    worker.link.sendall(run_frame(number, stream=True, n=n, size=64))
    while True:
        bodies = counter.bodies()
        got += sum(body.startswith(b'{"t":"chunk"') for body in bodies)
        if bodies and bodies[-1].startswith(b'{"t":"done"'):
            return n / (time.perf_counter() - begun)
        if got - credited >= window // 2:
            worker.link.sendall(frame(t="credit", run=number, chunks=got - credited))
            credited = got


def first_chunk(worker, n=500):
    """The first chunk of a stream whose generator then computes on and on."""
    counter, times = Counter(worker.link), []
    for number in range(n):
        begun = time.perf_counter()
        worker.link.sendall(run_frame(500000 + number, stream=True, n=30, size=64))
        bodies = counter.bodies()
        times.append(time.perf_counter() - begun)
        while not bodies or not bodies[-1].startswith(b'{"t":"done"'):
            bodies = counter.bodies()
    return sorted(times)[n // 2] * 1e6


def processor_seconds(worker):
    with open(f"/proc/{worker.process.pid}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100.0


def main():
    cold, bare = cold_start()
    figures = {"cold_start_ms": cold, "bare_python_ms": bare}
    with Worker() as worker:
        assert worker.load("lifecycle", "NoOp", paths=[str(PLUGINS)])["t"] == "ready"
        round_trip(worker, 500)
        figures["round_trip_p50_us"], figures["round_trip_p99_us"] = round_trip(worker)
        figures["first_chunk_p50_us"] = first_chunk(worker)
        used = processor_seconds(worker)
        figures["runs_per_s"] = runs_per_second(worker)
        figures["worker_cpu_us_per_run"] = (processor_seconds(worker) - used) / 40000 * 1e6
    for window in (64, 512):
        with Worker() as worker:
            assert worker.load("lifecycle", "NoOp", window=window)["t"] == "ready"
            used = processor_seconds(worker)
            figures[f"chunks_per_s_window_{window}"] = chunks_per_second(worker, window=window)
            figures[f"worker_cpu_us_per_chunk_window_{window}"] = (processor_seconds(worker) - used) / 200000 * 1e6
    print(json.dumps({name: round(value, 2) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
