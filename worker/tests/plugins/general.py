"""A plugin whose `execute` evaluates: what a test wants done stands in the test."""

import dataclasses
import datetime
import decimal
import enum
import os
import sys
import tempfile
import threading
import uuid
from collections import OrderedDict, namedtuple
from pathlib import Path

Pair = namedtuple("Pair", "left right")


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Tag(str, enum.Enum):
    NEW = "new"


@dataclasses.dataclass
class Page:
    number: int
    content: object = None


class Dto:
    def __init__(self, content=b"dto", path=None):
        self.content, self.path = content, path

    def to_temp_file(self):
        if self.path:
            return self.path
        with tempfile.NamedTemporaryFile(delete=False, suffix=".wav") as file:
            file.write(self.content)
        with open(os.environ.get("DTO_LIST", os.devnull), "a") as made:
            made.write(file.name + "\n")
        return file.name


class Model:
    def model_dump(self):
        return {"dumped": Path("/x/y")}


class Scalar:
    shape = ()

    def __init__(self, value):
        self.value = value

    def item(self):
        return self.value

    def tolist(self):
        return self.value


class Array:
    shape = (2, 2)

    def tolist(self):
        return [[1, float("nan")], [3, 4]]


class BrokenDto:
    def to_temp_file(self):
        raise OSError("disk full")


def circle():
    value = []
    value.append(value)
    return value


class General:
    """Evaluates its first argument."""

    gate = threading.Event()

    grange_scratch: str | None = None  # declared, so the worker fills it in

    def execute(self, code="None", **given):
        return eval(code, {**globals(), **given, "self": self, "given": given, "gate": self.gate})

    def execute_stream(self, code="()", **given):
        closed = given.get("closed")
        try:
            value = yield from eval(code, {**globals(), **given, "self": self, "given": given})
            return value
        finally:
            if closed:
                Path(closed).write_text("closed")


class Plain:
    """Nothing but what has to be there."""

    def execute(self, x, y=2):
        return [x, y]


class Child(General):
    """Derives `execute` further than `execute_stream`."""

    def execute(self, *args):
        return "child"


def say(text, err=False, end="\n"):
    print(text, end=end, file=sys.stderr if err else sys.stdout)
    return text


def ordered():
    return OrderedDict(b=1, a=2)


def known():
    return [
        datetime.date(2024, 1, 2),
        datetime.datetime(2024, 1, 2, 3, 4, 5),
        decimal.Decimal("1.50"),
        uuid.UUID(int=1),
    ]
