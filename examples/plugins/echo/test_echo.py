"""Runs with any Python from 3.9 on: `python3 -m unittest discover -s examples/plugins/echo`."""

from __future__ import annotations

import shutil
import sys
import threading
import time
import unittest
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from echo_plugin import BLOCK, CancelledError, EchoError, EchoPlugin


def drained(stream: Any) -> tuple[list[Any], Any]:
    chunks = []
    while True:
        try:
            chunks.append(next(stream))
        except StopIteration as end:
            return chunks, end.value


class Echo(unittest.TestCase):
    def setUp(self) -> None:
        self.plugin = EchoPlugin()

    def test_text(self) -> None:
        self.assertEqual(self.plugin.execute(), "hello")
        self.assertEqual(self.plugin.execute(text="hi", repeat=3), "hi")
        self.assertEqual(self.plugin.execute(bytes=5), "xxxxx")

    def test_stream(self) -> None:
        chunks, end = drained(self.plugin.execute_stream(text="hi", repeat=2))
        self.assertEqual((chunks, end), ([{"n": 0, "text": "hi"}, {"n": 1, "text": "hi"}], "hi"))
        self.assertEqual(drained(self.plugin.execute_stream(repeat=3, bytes=4)), (["xxxx"] * 3, "xxxx"))

    def test_files(self) -> None:
        size = BLOCK + 77
        path = self.plugin.execute(write_bytes=size)
        self.addCleanup(shutil.rmtree, path.parent)
        self.assertIsInstance(path, Path)
        self.assertEqual(path.stat().st_size, size)
        self.assertEqual(self.plugin.execute(read=str(path)), {"size": size, "name": path.name})

    def test_failure(self) -> None:
        with self.assertRaisesRegex(EchoError, "as told"):
            self.plugin.execute(fail="as told")
        stream = self.plugin.execute_stream(fail="as told")
        self.assertEqual(next(stream), {"n": 0, "text": "hello"})
        with self.assertRaisesRegex(EchoError, "as told"):
            next(stream)

    def test_cancel_ends_a_run_that_waits_and_not_the_next(self) -> None:
        begun = time.monotonic()
        threading.Timer(0.1, self.plugin.cancel).start()
        with self.assertRaises(CancelledError):
            self.plugin.execute(delay_s=30)
        self.assertLess(time.monotonic() - begun, 10)
        self.assertEqual(self.plugin.execute(delay_s=0.001), "hello")


if __name__ == "__main__":
    unittest.main()
