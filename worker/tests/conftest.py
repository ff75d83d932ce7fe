"""Fixtures of the worker's tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from peer import Worker


@pytest.fixture
def worker():
    with Worker() as started:
        yield started


@pytest.fixture
def general(worker):
    """A worker with the plugin `general:General`."""
    assert worker.load("general", "General")["t"] == "ready"
    return worker
