"""The hosted plugin: loading it, and what it can do.

Owns: import, construction and initialisation, and the questions asked of a plugin's class. Never: runs, or the link.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any, Callable

_PLAIN = frozenset((type(None), str, bytes, bool, int, float, list, dict, tuple))

COROUTINE = 0x80  # inspect.CO_COROUTINE, without importing inspect


class LoadError(Exception):
    """A plugin cannot be loaded; the cause is the exception's `__cause__`."""

    def __init__(self, stage: str) -> None:
        super().__init__(stage)
        self.stage = stage


class Plugin:
    """One instance of a plugin's class."""

    def __init__(self, instance: Any, fallback_name: str) -> None:
        cls = type(instance)
        self.instance = instance
        self.name = _text_of(instance, "name") or fallback_name
        self.version = _text_of(instance, "version") or "0.0.0"
        self.streams = owns_stream(cls)
        self.execute: Callable[..., Any] = instance.execute
        self.execute_stream: Callable[..., Any] | None = _method(instance, "execute_stream")
        self.cancel = _acting(instance, "cancel")
        self.release = _method(instance, "release")
        self.asynchronous = _is_asynchronous(self.execute)

    @property
    def cancels(self) -> bool:
        """Say whether a blocked run can be asked to stop: by `cancel()`, or because it is a coroutine."""
        return self.cancel is not None or self.asynchronous

    def initialize(self, config: Any) -> bool:
        """Configure the plugin, first or again; false when it has no `initialize`."""
        initialize = _method(self.instance, "initialize")
        if initialize is None:
            return False
        settle(initialize(config))
        return True

    def cleanup(self) -> None:
        """Let the plugin give back what it holds."""
        cleanup = _method(self.instance, "cleanup")
        if cleanup is not None:
            settle(cleanup())

    def config(self) -> Any:
        """Return the current configuration, or None when the plugin does not tell."""
        return self._told("get_current_config")

    def schema(self) -> Any:
        """Return the configuration's JSON Schema, or None when the plugin has none."""
        return self._told("get_config_schema")

    def _told(self, name: str) -> Any:
        method = _method(self.instance, name)
        return None if method is None else settle(method())

    def progress(self) -> tuple[Any, Any] | None:
        """Return the progress that the plugin keeps in attributes, as cjm-plugin-system has it."""
        value = getattr(self.instance, "_progress", None)
        if value is None:
            return None
        message = getattr(self.instance, "_status_message", None)
        if message is None:
            message = getattr(self.instance, "_progress_message", "")
        return value, message

    def adopt_report(self, report: Callable[..., None]) -> None:
        """Give the instance `report_progress`, or listen to the one that it has."""
        own = _method(self.instance, "report_progress")

        def heard(*args: Any, **kwargs: Any) -> Any:
            answer = own(*args, **kwargs) if own is not None else None
            values = (*args, kwargs.get("progress"))
            report(values[0], args[1] if len(args) > 1 else kwargs.get("message", ""))
            return answer

        set_quietly(self.instance, "report_progress", heard)

    @property
    def keeps_progress(self) -> bool:
        """Say whether there are progress attributes to watch."""
        return hasattr(self.instance, "_progress") or hasattr(type(self.instance), "report_progress")


def load(module: str, class_name: str, paths: list[str], fallback_name: str) -> Plugin:
    """Import and construct; raises `LoadError` whatever the plugin does, `SystemExit` included."""
    sys.path[:0] = [path for path in paths if path not in sys.path]
    try:
        found: Any = import_module(module)
        for part in class_name.split("."):
            found = getattr(found, part)
    except BaseException as error:
        raise LoadError("import") from error
    try:
        instance = found()
        if not callable(getattr(instance, "execute", None)):
            raise TypeError(f"`{module}:{class_name}` has no method `execute`")
        return Plugin(instance, fallback_name or class_name)
    except BaseException as error:
        raise LoadError("construct") from error


def first_config(plugin: Plugin, config: Any) -> None:
    """Initialise as the contract says; raises `LoadError`."""
    try:
        if config is None:
            config = defaults_of(plugin.schema())
            if config:
                plugin.initialize(config)
        elif not plugin.initialize(config):
            print("the plugin has no `initialize`: its configuration is not used", file=sys.stderr)
    except BaseException as error:
        raise LoadError("initialize") from error


def defaults_of(schema: Any) -> dict[str, Any] | None:
    """Return the defaults of a schema's properties, or None when it has none."""
    properties = schema.get("properties") if isinstance(schema, dict) else None
    if not isinstance(properties, dict):
        return None
    found = {
        name: field["default"] for name, field in properties.items() if isinstance(field, dict) and "default" in field
    }
    return found or None


def owns_stream(cls: type) -> bool:
    """Say whether `execute_stream` is meant: defined by a class at least as derived as the one with `execute`."""
    for base in cls.__mro__:
        if "execute_stream" in vars(base):
            return True
        if "execute" in vars(base):
            return False
    return False


def settle(value: Any) -> Any:
    """Wait for what an async method returned; everything else passes."""
    if type(value) in _PLAIN or not hasattr(value, "__await__"):
        return value
    import asyncio

    return asyncio.run(_awaited(value))


def is_awaitable(value: Any) -> bool:
    """Say whether a call gave a coroutine or the like instead of its result."""
    return type(value) not in _PLAIN and hasattr(value, "__await__")


def set_quietly(instance: Any, name: str, value: Any) -> bool:
    """Set an attribute where the instance allows it (classes with slots or frozen ones do not)."""
    try:
        setattr(instance, name, value)
    except Exception:
        return False
    return True


async def _awaited(value: Any) -> Any:
    return await value


def _method(instance: Any, name: str) -> Callable[..., Any] | None:
    method = getattr(instance, name, None)
    return method if callable(method) else None


def _is_asynchronous(method: Callable[..., Any]) -> bool:
    code = getattr(getattr(method, "__func__", None), "__code__", None)
    return code is not None and bool(code.co_flags & COROUTINE)


def _acting(instance: Any, name: str) -> Callable[..., Any] | None:
    """Return a method, unless its body is empty as in base classes that make it optional."""
    method = _method(instance, name)
    code = getattr(getattr(method, "__func__", None), "__code__", None)
    if code is not None and code.co_code in (_empty.__code__.co_code, _documented.__code__.co_code):
        constants = [value for value in code.co_consts if value is not None]
        if not constants or (len(constants) == 1 and isinstance(constants[0], str)):
            return None
    return method


def _empty(self: object) -> None:
    pass


def _documented(self: object) -> None:
    """Do nothing, and say so."""


def _text_of(instance: Any, name: str) -> str | None:
    try:
        value = getattr(instance, name, None)
    except Exception as error:
        print(f"`{name}` of the plugin cannot be read: {type(error).__name__}: {error}", file=sys.stderr)
        return None
    return value if isinstance(value, str) and value else None
