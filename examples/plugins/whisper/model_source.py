"""Finds a Whisper model: a folder, what was downloaded before, or the hub; says what to do when none is there.

Never waits long for a hub that cannot be reached.
"""

from __future__ import annotations

import ctypes
import os
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import Any

CONNECT_S = 8  # how long to wait until the hub answers at all
MODEL_VARIABLE = "GRANGE_WHISPER_MODEL"
NEEDED_FILES = ("model.bin", "config.json")
ADVICE = (
    f"set the environment variable {MODEL_VARIABLE} (in the manifest's `env_vars`) or the configuration key `model` to "
    "a folder that holds a model for CTranslate2 (model.bin, config.json, tokenizer.json)"
)

# huggingface_hub reads these when it is imported, which happens only below.
os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", str(CONNECT_S))
os.environ.setdefault("HF_HUB_DOWNLOAD_TIMEOUT", "30")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


class ModelError(RuntimeError):
    """There is no model to work with; the message says what to do."""


def find_model(name: str) -> Path:
    """The folder of the model that `name` (a folder, a size such as `base`, or `owner/model`) stands for."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return complete(folder)
    if folder.is_absolute() or name.startswith((".", "~")):
        raise ModelError(f"the model folder `{name}` does not exist: {ADVICE}")
    from faster_whisper.utils import available_models

    if "/" not in name and name not in available_models():
        raise ModelError(f"`{name}` is neither a folder nor one of the models {', '.join(available_models())}")
    return downloaded(name) or download(name)


def complete(folder: Path) -> Path:
    missing = [file for file in NEEDED_FILES if not (folder / file).is_file()]
    if missing:
        raise ModelError(f"the folder `{folder}` has no {' and no '.join(missing)}: {ADVICE}")
    return folder


def downloaded(name: str) -> Path | None:
    from faster_whisper.utils import download_model
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return complete(Path(download_model(name, local_files_only=True)))
    except (LocalEntryNotFoundError, ModelError):  # never or not wholly downloaded
        return None


def download(name: str) -> Path:
    from faster_whisper.utils import download_model

    require_hub(name)
    try:
        return Path(download_model(name))
    except Exception as error:
        raise ModelError(f"the model `{name}` could not be downloaded ({in_short(error)}): {ADVICE}") from error


def require_hub(name: str) -> None:
    """Asks the hub for one small answer; a name server that never answers is not waited for either."""
    failure = [f"no answer for {CONNECT_S} s"]

    def ask() -> None:
        from huggingface_hub import constants, get_session

        try:
            get_session().head(constants.ENDPOINT, timeout=CONNECT_S)
            failure.clear()
        except Exception as error:
            failure[0] = in_short(error)

    asking = threading.Thread(target=ask, name="ask-the-hub", daemon=True)
    asking.start()
    asking.join(CONNECT_S + 1)
    if failure:
        raise ModelError(
            f"the model `{name}` is not on this machine and the hub cannot be reached ({failure[0]}): {ADVICE}"
        )


def in_short(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def load(folder: Path, device: str, compute_type: str) -> Any:
    """The model in memory; `device` is `auto`, `cuda` or `cpu`."""
    import ctranslate2
    from faster_whisper import WhisperModel

    gpus = ctranslate2.get_cuda_device_count()
    if device == "cuda" and not gpus:
        raise ModelError("device `cuda` is configured but no GPU can be used here: set `device` to `auto` or `cpu`")
    if gpus and device != "cpu":
        load_cublas()
    try:
        return WhisperModel(str(folder), device=device, compute_type=compute_type)
    except (RuntimeError, ValueError, OSError) as error:
        raise ModelError(f"the model in `{folder}` cannot be loaded ({in_short(error)})") from error


def load_cublas() -> None:
    """Loads the cuBLAS of this environment, so that CTranslate2 does not look for one of the machine."""
    package = find_spec("nvidia.cublas") if find_spec("nvidia") else None
    folders = package.submodule_search_locations if package else None
    for folder in folders or ():
        for name in ("libcublasLt.so.12", "libcublas.so.12"):
            library = Path(folder) / "lib" / name
            if library.is_file():
                ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
