"""Returns a value of the kind that is asked for, or says what a file holds."""

import dataclasses
import datetime
import decimal
import enum
import hashlib
import os
import tempfile
from pathlib import Path

from grange_worker import scratch


class Picture:
    """A FileBackedDTO: it has its bytes in memory and writes them to a file when it is asked to."""

    def __init__(self, content):
        self.content = content

    def to_temp_file(self):
        descriptor, path = tempfile.mkstemp(suffix=".png")
        os.write(descriptor, self.content)
        os.close(descriptor)
        return path


@dataclasses.dataclass
class Line:
    text: str
    box: tuple


class Colour(enum.Enum):
    RED = "red"


def pictures():
    first, second = Picture(b"first picture"), Picture(b"second picture")
    return {"pages": [{"n": 1, "image": first}, {"n": 2, "image": second}], "first": first}


def files():
    path = scratch() / "deep" / "report.txt"
    path.parent.mkdir()
    path.write_text("a report")
    return {"file": path, "text": str(path), "outside": Path("/etc/hostname")}


def numbers():
    import numpy

    return {
        "f": numpy.float32(0.5),
        "i": numpy.int64(7),
        "b": numpy.bool_(True),
        "a": numpy.arange(6).reshape(2, 3),
        "nan": numpy.float64("nan"),
        "deep": [{"x": numpy.uint8(255)}],
    }


KINDS = {
    "pictures": pictures,
    "files": files,
    "numbers": numbers,
    "bytes": lambda: {"small": b"\x00\xffab", "large": [bytes(200_000)]},
    "dataclass": lambda: [Line("hello", (1, 2)), {"nested": Line("x", ())}],
    "others": lambda: {
        "enum": Colour.RED,
        "day": datetime.date(2024, 2, 29),
        "sum": decimal.Decimal("1.50"),
        "set": {3, 1, 2},
        "inf": float("inf"),
    },
    "big": lambda: {"text": "ü" * 500_000},
    "nothing": lambda: None,
    "lock": lambda: {"pages": [1, {"image": object()}]},
}


def told(path):
    content = Path(path).read_bytes()
    return {
        "name": os.path.basename(path),
        "sha256": hashlib.sha256(content).hexdigest(),
        "mine": Path(path).is_relative_to(scratch()),
    }


class Values:
    def execute(self, kind=None, file=None, files=None, log=None, spoil=None):
        if log is not None:
            with open(log, "a") as out:
                out.write("ran\n")
        if spoil is not None:
            with open(spoil, "r+b") as out:
                out.write(b"SPOILT")
            return None
        if file is not None:
            return told(file)
        if files is not None:
            return [told(path["path"]) for path in files]
        return KINDS[kind]()
