"""Builds, with uv, the environment that a plugin's manifest asks for, for the tests that lie beside the plugin.

Usage: plugin_env.py UV MANIFEST FOLDER. A folder that was built from the same manifest is kept as it is.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

BUILT_FROM = "built-from.json"


def build(uv: str, manifest: Path, folder: Path) -> None:
    wanted = json.loads(manifest.read_text())["environment"]
    marker = folder / BUILT_FROM
    if marker.is_file() and json.loads(marker.read_text()) == wanted:
        return
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([uv, "venv", "--quiet", "--python", wanted["python"], str(folder)], check=True)
    command = [uv, "pip", "install", "--quiet", "--python", str(folder / "bin" / "python"), "--only-binary", ":all:"]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as overrides:
        overrides.write("\n".join(wanted.get("overrides", [])))
        overrides.flush()
        subprocess.run([*command, "--overrides", overrides.name, *wanted["requirements"]], check=True)
    marker.write_text(json.dumps(wanted))


if __name__ == "__main__":
    build(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
