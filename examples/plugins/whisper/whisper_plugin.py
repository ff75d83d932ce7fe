"""Writes down speech with Whisper, by faster-whisper: each segment leaves as soon as it is understood.

The model is a folder (environment variable `GRANGE_WHISPER_MODEL`, given in the manifest's `env_vars`, or the
configuration key `model`), or a name such as `base` that is downloaded once from the hub. How one is found is in
`model_source.py`. It runs on the first GPU that the worker was given, else on the processor.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Generator
from dataclasses import asdict, dataclass
from math import exp
from pathlib import Path
from typing import Any

from model_source import MODEL_VARIABLE, find_model, load

DEVICES = ("auto", "cuda", "cpu")
COMPUTE_TYPES = ("default", "auto", "float32", "float16", "bfloat16", "int8", "int8_float16", "int8_float32")
TASKS = ("transcribe", "translate")


class AudioError(ValueError):
    """The recording cannot be read; the message names it and says why."""


class CancelledError(Exception):
    """The run was asked to stop."""


@dataclass(frozen=True)
class WhisperConfig:
    """What can be configured; a missing key keeps its value."""

    model: str = "base"
    device: str = "auto"
    compute_type: str = "default"
    beam_size: int = 5
    skip_silence: bool = True


CONFIG_SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "model": {
            "type": "string",
            "minLength": 1,
            "default": "base",
            "description": f"A folder with a model for CTranslate2, or a name such as tiny, base, small, medium, "
            f"large-v3, turbo, owner/model. The environment variable {MODEL_VARIABLE} goes before it.",
        },
        "device": {"type": "string", "enum": list(DEVICES), "default": "auto"},
        "compute_type": {"type": "string", "enum": list(COMPUTE_TYPES), "default": "default"},
        "beam_size": {"type": "integer", "minimum": 1, "maximum": 20, "default": 5},
        "skip_silence": {
            "type": "boolean",
            "default": True,
            "description": "Leave out what the voice detector takes for silence.",
        },
    },
}


class WhisperPlugin:
    """`execute_stream` yields segments as they are understood; `execute` gives only the transcript."""

    name = "whisper"
    version = "1.0.0"

    def __init__(self) -> None:
        self._config = WhisperConfig()
        self._model: Any = None
        self._cancel = threading.Event()

    def initialize(self, config: dict[str, Any] | None = None) -> None:
        """Takes over the keys that are given and loads the model, so that the first recording need not wait."""
        merged = WhisperConfig(**{**asdict(self._config), **(config or {})})
        check_config(merged)
        before, self._config = self._config, merged
        if loaded_part(before) != loaded_part(merged):
            self.release()
        self._loaded()

    def get_config_schema(self) -> dict[str, Any]:
        return CONFIG_SCHEMA

    def get_current_config(self) -> dict[str, Any]:
        return asdict(self._config)

    def execute(self, audio: str, language: str | None = None, task: str = "transcribe") -> dict[str, Any]:
        """What `execute_stream` returns at its end."""
        stream = self.execute_stream(audio, language, task)
        while True:
            try:
                next(stream)
            except StopIteration as end:
                return end.value

    def execute_stream(
        self, audio: str, language: str | None = None, task: str = "transcribe"
    ) -> Generator[dict[str, Any], None, dict[str, Any]]:
        """Writes down `audio`, the path of a recording; `task` `translate` writes it in English.

        Yields {"segment", "start", "end", "text", "confidence"}, times in seconds. Returns {"text", "segments",
        "language", "language_probability", "duration", "seconds"}. Progress is the time that was heard.
        """
        self._cancel.clear()
        started = time.perf_counter()
        if task not in TASKS:
            raise ValueError(f"task `{task}` is not known; it is {' or '.join(TASKS)}")
        self._tell(0.0, "reading the recording")
        segments, about = self._loaded().transcribe(
            decoded(audio),
            language=language,
            task=task,
            beam_size=self._config.beam_size,
            vad_filter=self._config.skip_silence,
        )
        texts: list[str] = []
        for number, segment in enumerate(segments, 1):
            self._stop_if_cancelled()
            texts.append(segment.text.strip())
            self._tell(min(1.0, segment.end / about.duration), f"{segment.end:.0f} of {about.duration:.0f} s")
            yield {
                "segment": number,
                "start": round(segment.start, 2),
                "end": round(segment.end, 2),
                "text": texts[-1],
                "confidence": round(exp(min(0.0, segment.avg_logprob)), 4),
            }
        self._stop_if_cancelled()
        self._tell(1.0, f"{len(texts)} segments")
        return {
            "text": " ".join(texts),
            "segments": len(texts),
            "language": about.language,
            "language_probability": round(about.language_probability, 4),
            "duration": round(about.duration, 2),
            "seconds": round(time.perf_counter() - started, 3),
        }

    def cancel(self) -> bool:
        """Ends the run before its next segment."""
        self._cancel.set()
        return True

    def release(self) -> None:
        """Gives the memory of the model back; the next recording loads it again."""
        self._model = None

    def cleanup(self) -> None:
        self.release()

    def _loaded(self) -> Any:
        if self._model is None:
            folder = find_model(os.environ.get(MODEL_VARIABLE) or self._config.model)
            self._model = load(folder, self._config.device, self._config.compute_type)
        return self._model

    def _stop_if_cancelled(self) -> None:
        if self._cancel.is_set():
            raise CancelledError("cancelled before the recording was heard to its end")

    def _tell(self, progress: float, message: str) -> None:
        report = getattr(self, "report_progress", None)  # the worker gives it
        if report is not None:
            report(round(progress, 4), message)


def decoded(audio: str) -> Any:
    """The recording as samples at 16 kHz."""
    from av.error import FFmpegError
    from faster_whisper.audio import decode_audio

    path = Path(audio)
    if not path.is_file():
        raise AudioError(f"`{audio}` {'is a folder' if path.is_dir() else 'does not exist'}")
    try:
        samples = decode_audio(audio)
    except (FFmpegError, IndexError) as error:
        raise AudioError(
            f"`{audio}` is not a recording that can be read ({error}): WAV, MP3, FLAC, OGG, M4A or a video is needed"
        ) from None
    if not len(samples):
        raise AudioError(f"`{audio}` holds no sound")
    return samples


def loaded_part(config: WhisperConfig) -> tuple[str, str, str]:
    """What the model has to be loaded again for."""
    return config.model, config.device, config.compute_type


def check_config(config: WhisperConfig) -> None:
    """The schema's limits, for who hosts this class without checking it."""
    for key, known in (("device", DEVICES), ("compute_type", COMPUTE_TYPES)):
        if getattr(config, key) not in known:
            raise ValueError(f"`{key}` is `{getattr(config, key)}`; it may be {', '.join(known)}")
    size = config.beam_size
    if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= 20:
        raise ValueError(f"`beam_size` is {config.beam_size!r}; it may be from 1 to 20")
    if not isinstance(config.model, str) or not config.model:
        raise ValueError("`model` is a name or a folder")
