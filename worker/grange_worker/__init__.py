"""The universal worker of Grange: hosts one plugin class and speaks the worker link.

Owns: what a plugin may import from its worker (`scratch()`). Never: anything that a plugin has to import;
a plugin that knows nothing of Grange runs just as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .scope import CURRENT

if TYPE_CHECKING:
    from pathlib import Path

__version__ = "0.1.0"


def scratch() -> Path | None:
    """Return the folder of the run that calls, or None outside of a run. It is made when it is first asked for.

    A file in it that is returned as a `Path` becomes an object of the job.
    """
    from pathlib import Path

    run = CURRENT.get()
    return Path(run.folder()) if run is not None and run.scratch else None
