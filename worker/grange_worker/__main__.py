"""The entry: `python -m grange_worker`, or `python <folder>/grange_worker` where the package is not installed.

Owns: making the package importable without leaving its folder on the plugin's module path. Never: anything else.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn


def main() -> NoReturn:
    """Serve, or introspect when that is the first argument."""
    _import_package()
    arguments = sys.argv[1:]
    if arguments[:1] == ["introspect"]:
        from grange_worker.introspect import introspect

        status = introspect(arguments[1:])
        sys.stderr.flush()
        os._exit(status)  # a thread that the plugin left behind must not keep the answer waiting
    if arguments:
        sys.stderr.write("usage: grange_worker [introspect --module M --class C [--path P ...]]\n")
        sys.exit(2)
    from grange_worker.host import serve

    serve()


def _import_package() -> None:
    """Run as a folder, Python puts that folder first on the module path: there our files would hide a plugin's."""
    folder = os.path.dirname(os.path.abspath(__file__))
    if __package__:
        return
    if sys.path and os.path.abspath(sys.path[0]) == folder:
        del sys.path[0]
    parent = os.path.dirname(folder)
    sys.path.insert(0, parent)
    import grange_worker  # noqa: F401

    sys.path.remove(parent)


if __name__ == "__main__":
    main()
