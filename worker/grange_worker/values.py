"""Values on the link: JSON with marked objects, both ways.

Owns: what a plugin's value becomes in a frame, and what an argument becomes for a plugin. Never: frames, or
sending. What is plain JSON already is left to the C encoder; only a value that it refuses is looked at here.

A subclass of str, int, float, list, tuple or dict is read as that type.
"""

from __future__ import annotations

import json
import math
import os
import sys
from typing import Any, Callable, NamedTuple

DEPTH_LIMIT = 200  # levels that the slow way follows before it says that a value contains itself
CACHED_TYPES = 512

_OPTIONS: dict[str, Any] = {
    "ensure_ascii": False,
    "allow_nan": False,
    "check_circular": False,
    "separators": (",", ":"),
}
_encode_plain = json.JSONEncoder(**_OPTIONS).encode
_REFUSALS = (TypeError, ValueError, RecursionError)


class UnserialisableError(Exception):
    """A value has no form on the link; the message names the path to it and its type."""


class _NoFormError(TypeError):
    """One value has no form; the slow way finds out where it stands."""


class Encoded(NamedTuple):
    """JSON text, whether a `$file` is in it, and the temporary files that go with it."""

    text: str
    files: bool = False
    temporary: tuple[str, ...] = ()

    def discard(self) -> None:
        """Remove the temporary files of a value that is not sent."""
        _remove(self.temporary)


def encode(value: Any, root: str, scratch: str = "", inline_bytes: int = 0) -> Encoded:
    """Return the JSON text of a value, or raise `UnserialisableError`; `root` is how errors call the value.

    Bytes above `inline_bytes` become files in `scratch`; without a scratch folder all bytes stay in the text.
    """
    try:
        return Encoded(_encode_plain(value))
    except _REFUSALS:
        pass
    conversion = _Conversion(scratch, inline_bytes)
    try:
        text = conversion.text_of(value, root)
    except UnserialisableError:
        _remove(conversion.temporary)
        raise
    return Encoded(text, bool(conversion.files), tuple(conversion.temporary))


def revive(value: Any) -> Any:
    """Turn `{"$bytes": …}` in arguments into `bytes`, at any depth; raises `ValueError` for bad base64."""
    if type(value) is list:
        return [revive(item) for item in value]
    if type(value) is not dict:
        return value
    if len(value) == 1 and type(value.get("$bytes")) is str:
        from base64 import b64decode

        return b64decode(value["$bytes"], validate=True)
    return {key: revive(item) for key, item in value.items()}


class _Conversion:
    """The conversion of one value that is not plain JSON."""

    def __init__(self, scratch: str, inline_bytes: int) -> None:
        self._scratch = scratch
        self._inline_bytes = inline_bytes
        self.temporary: list[str] = []
        # By identity, with the value to keep it alive: the slow way after the fast one makes no second file.
        self.files: dict[int, tuple[Any, Any]] = {}

    def text_of(self, value: Any, root: str) -> str:
        try:
            return json.JSONEncoder(default=self._simpler, **_OPTIONS).encode(value)
        except _REFUSALS:
            pass
        try:
            return _encode_plain(self._rebuild(value, root, 0))
        except RecursionError:
            raise UnserialisableError(f"`{root}` is nested too deeply, or contains itself") from None
        except (TypeError, ValueError) as error:
            raise UnserialisableError(f"`{root}` cannot be sent: {error}") from error

    def _rebuild(self, value: Any, path: str, depth: int) -> Any:
        """The slow way: look at every value, so that an error can say where; NaN becomes null."""
        if depth > DEPTH_LIMIT:
            raise RecursionError
        if value is None or isinstance(value, (str, int)):
            return value
        if isinstance(value, float):
            return value if math.isfinite(value) else None
        if isinstance(value, dict):
            rebuilt = {}
            for key, item in value.items():
                name = self._key(key, path)
                rebuilt[name] = self._rebuild(item, _member(path, name), depth + 1)
            return rebuilt
        if isinstance(value, (list, tuple)):
            return [self._rebuild(item, f"{path}[{i}]", depth + 1) for i, item in enumerate(value)]
        try:
            simpler = self._simpler(value)
        except _NoFormError as error:
            raise UnserialisableError(f"`{path}` of type `{_type_name(value)}` cannot be sent{error}") from error
        return self._rebuild(simpler, path, depth + 1)

    def _key(self, key: Any, path: str) -> Any:
        if key is None or isinstance(key, (str, int)):
            return key
        if isinstance(key, float):
            return key if math.isfinite(key) else str(key)
        try:
            simpler = os.fspath(key) if isinstance(key, os.PathLike) else self._simpler(key)
        except _NoFormError:
            simpler = None
        if isinstance(simpler, (str, int, float)):
            return simpler
        raise UnserialisableError(f"`{path}` has a key of type `{_type_name(key)}`, which is no JSON key")

    def _simpler(self, value: Any) -> Any:
        """Return a value that is one step closer to JSON, or raise `_NoFormError` with what to add to the message."""
        form = _form_of(type(value))
        if form is None:
            raise _NoFormError("")
        known = self.files.get(id(value))
        if known is not None:
            return known[1]
        try:
            return form(self, value)
        except (_NoFormError, RecursionError):
            raise
        except Exception as error:
            raise _NoFormError(f": {type(error).__name__}: {error}") from error

    def file(self, value: Any, path: str, temporary: bool) -> Any:
        """Mark a file, which has to be one."""
        if temporary:
            self.temporary.append(path)
        if not os.path.isfile(path):
            raise _NoFormError(f": there is no file `{path}`")
        marked = {"$file": {"path": path, "name": os.path.basename(path), "temp": temporary}}
        self.files[id(value)] = (value, marked)
        return marked

    def bytes_form(self, value: Any) -> Any:
        content = value if isinstance(value, bytes) else bytes(value)
        if self._scratch and len(content) > self._inline_bytes:
            return self.file(value, _write_new(self._scratch, content), temporary=True)
        from base64 import b64encode

        return {"$bytes": b64encode(content).decode("ascii")}

    def dto_form(self, value: Any) -> Any:
        path = value.to_temp_file()
        if not isinstance(path, (str, os.PathLike)):
            raise _NoFormError(f": to_temp_file() returned a `{_type_name(path)}`, not a path")
        absolute = os.path.abspath(os.fspath(path))
        return self.file(value, absolute, temporary=self._may_remove(absolute))

    def path_form(self, value: Any) -> Any:
        path = os.fspath(value)
        if isinstance(path, bytes):
            path = os.fsdecode(path)
        if self._scratch and _inside(path, self._scratch):
            return self.file(value, os.path.abspath(path), temporary=False)
        return path

    def _may_remove(self, path: str) -> bool:
        """A DTO may hand out a file that was there before it: only what lies among temporary files is removed."""
        from tempfile import gettempdir

        return _inside(path, gettempdir()) or (bool(self._scratch) and _inside(path, self._scratch))


_Form = Callable[[_Conversion, Any], Any]
_forms: dict[type, _Form | None] = {}


def _form_of(cls: type) -> _Form | None:
    try:
        return _forms[cls]
    except KeyError:
        form = _find_form(cls)
    if len(_forms) < CACHED_TYPES:
        _forms[cls] = form
    return form


def _find_form(cls: type) -> _Form | None:
    """Choose by what a class is and offers, without importing what it may come from."""
    if issubclass(cls, (bytes, bytearray, memoryview)):
        return _Conversion.bytes_form
    if callable(getattr(cls, "to_temp_file", None)):
        return _Conversion.dto_form
    if issubclass(cls, os.PathLike):
        return _Conversion.path_form
    if hasattr(cls, "__dataclass_fields__"):
        return _dataclass_form
    if _is(cls, "enum", "Enum"):
        return lambda _, value: value.value
    if _is(cls, "datetime", "date"):
        return lambda _, value: value.isoformat()
    if _is(cls, "decimal", "Decimal") or _is(cls, "uuid", "UUID"):
        return lambda _, value: str(value)
    if issubclass(cls, (set, frozenset)):
        return _set_form
    if callable(getattr(cls, "tolist", None)) or callable(getattr(cls, "item", None)):
        return _numeric_form
    if callable(getattr(cls, "model_dump", None)):
        return lambda _, value: value.model_dump()
    return None


def _is(cls: type, module: str, name: str) -> bool:
    """Say whether a class descends from one of a module that is loaded, if at all, by whoever uses it."""
    loaded = sys.modules.get(module)
    return loaded is not None and issubclass(cls, getattr(loaded, name))


def _dataclass_form(_: _Conversion, value: Any) -> Any:
    from dataclasses import fields

    return {field.name: getattr(value, field.name) for field in fields(value)}


def _set_form(_: _Conversion, value: Any) -> Any:
    try:
        return sorted(value)
    except TypeError:
        return list(value)


def _numeric_form(_: _Conversion, value: Any) -> Any:
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and not shape and callable(getattr(value, "item", None)):
        item = value.item()
        return float(item) if type(item) is type(value) else item  # numpy's longdouble answers itself
    if callable(getattr(value, "tolist", None)):
        return value.tolist()
    raise _NoFormError("")


def _inside(path: str, folder: str) -> bool:
    absolute, root = os.path.abspath(path), os.path.abspath(folder)
    if absolute.startswith(root + os.sep):
        return True
    return os.path.realpath(absolute).startswith(os.path.realpath(root) + os.sep)


def _write_new(folder: str, content: bytes) -> str:
    os.makedirs(folder, exist_ok=True)
    number = 1
    while True:
        path = os.path.join(folder, f"value-{number}.bin")
        try:
            with open(path, "xb") as file:
                file.write(content)
            return path
        except FileExistsError:
            number += 1


def _remove(paths: list[str] | tuple[str, ...]) -> None:
    for path in paths:
        try:
            os.unlink(path)
        except OSError:
            continue  # gone already, or never made


def _member(path: str, name: Any) -> str:
    text = str(name)
    return f"{path}.{text}" if text.isidentifier() else f"{path}[{json.dumps(text[:80])}]"


def _type_name(value: Any) -> str:
    cls = type(value)
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
