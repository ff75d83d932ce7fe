"""What a plugin says of itself, for its manifest: one JSON line on stdout.

Owns: the `introspect` command. Never: initialising the plugin, which may need a GPU that is not here.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from .failures import describe
from .link import EXIT_NOT_LOADED
from .plugin import LoadError, Plugin, defaults_of, load
from .values import encode


def introspect(arguments: list[str]) -> int:
    """Print the description of a plugin, or its error; return the exit status."""
    import argparse

    parser = argparse.ArgumentParser(prog="grange_worker introspect", description="Describe a plugin as JSON.")
    parser.add_argument("--module", required=True)
    parser.add_argument("--class", dest="class_name", required=True)
    parser.add_argument("--path", dest="paths", nargs="*", action="extend", default=[])
    options = parser.parse_args(arguments)
    answer_to = _keep_stdout()
    status = 0
    try:
        plugin = load(options.module, options.class_name, options.paths, "")
        text = encode(_described(plugin), "plugin").text
    except BaseException as error:
        cause = error.__cause__ if isinstance(error, LoadError) and error.__cause__ else error
        stage = error.stage if isinstance(error, LoadError) else "construct"
        text = encode({"error": {"stage": stage, **describe(cause)}}, "error").text
        status = EXIT_NOT_LOADED
    with os.fdopen(answer_to, "w", encoding="utf-8", errors="replace") as answer:
        answer.write(text + "\n")
    return status


def _described(plugin: Plugin) -> dict[str, Any]:
    schema = plugin.schema()
    return {
        "name": plugin.name,
        "version": plugin.version,
        "config_schema": schema,
        "streams": plugin.streams,
        "cancels": plugin.cancels,
        "releases": plugin.release is not None,
        "defaults": defaults_of(schema),
    }


def _keep_stdout() -> int:
    """Take stdout for the answer; whatever the plugin and its libraries print goes to stderr."""
    sys.stdout.flush()
    answer_to = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return answer_to
