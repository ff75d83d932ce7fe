"""Reads the text of a page: one neural network finds the lines, another recognises them one by one.

The networks (PP-OCRv4, for English and Chinese) come inside the package `rapidocr-onnxruntime`; nothing is
downloaded, and everything runs on the processor. The order of reading is in `layout.py`, the picture of what was
read in `drawing.py`.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Generator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from drawing import annotated
from layout import Box, in_reading_order, joined, roomy

if TYPE_CHECKING:
    from rapidocr_onnxruntime import RapidOCR

FORMATS = "PNG, JPEG, WebP, TIFF, BMP or GIF"
LANGUAGES = ("en", "zh")
LAST_LATIN = 0x20CF  # code points up to here: Latin letters, their punctuation, signs of currencies
MAX_PIXELS = 100_000_000  # of a page; larger ones would take gigabytes
DETECTED = 0.25  # the progress when the lines are found
RECOGNISED = 0.95  # and when they are all read
DOUBT = 0.75  # below this confidence a line is also tried upside down
WORD = 2  # so many times as wide as it is high: a single letter upside down may be another letter
# What the recogniser is shown of a line. Measured on the example pages: with the bare boxes 23 of 94 lines had
# a letter or a space wrong, with these 5.
ROOM = 0.16  # above and below, as a part of the height
STRETCH = 1.15  # in width, so that the spaces between words are seen


class PageError(ValueError):
    """The page cannot be read; the message names it and says why."""


class CancelledError(Exception):
    """The run was asked to stop."""


@dataclass(frozen=True)
class OcrConfig:
    """What can be configured; a missing key keeps its value."""

    min_confidence: float = 0.5
    max_side: int = 1280
    annotate: bool = True
    threads: int = 2


CONFIG_SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "min_confidence": {
            "type": "number",
            "minimum": 0,
            "maximum": 1,
            "default": 0.5,
            "description": "Lines recognised with less confidence than this are left out.",
        },
        "max_side": {
            "type": "integer",
            "minimum": 320,
            "maximum": 4096,
            "default": 1280,
            "description": "Lines are looked for in a copy of the page whose longer side has at most so many "
            "pixels; they are recognised at full size.",
        },
        "annotate": {
            "type": "boolean",
            "default": True,
            "description": "Also draw a picture of the page with the lines that were found.",
        },
        "threads": {
            "type": "integer",
            "minimum": 1,
            "maximum": 64,
            "default": 2,
            "description": "Processor threads for each network.",
        },
    },
}


@dataclass(frozen=True)
class Line:
    """A line of text on the page."""

    text: str
    confidence: float
    box: Box


class OcrPlugin:
    """`execute_stream` yields each line as it is recognised; `execute` gives only the summary."""

    name = "ocr"
    version = "1.0.0"
    grange_scratch: str | None = None  # set by the worker: the folder of the run

    def __init__(self) -> None:
        self._config = OcrConfig()
        self._engine: RapidOCR | None = None
        self._not_latin: list[int] = []  # what the recogniser knows besides Latin letters
        self._cancel = threading.Event()

    def initialize(self, config: dict[str, Any] | None = None) -> None:
        """Takes over the keys that are given and loads the networks, so that the first page need not wait."""
        merged = {**asdict(self._config), **(config or {})}
        check_config(merged)
        before, self._config = self._config, OcrConfig(**merged)
        if before.threads != self._config.threads:
            self.release()
        self._loaded()

    def get_config_schema(self) -> dict[str, Any]:
        return CONFIG_SCHEMA

    def get_current_config(self) -> dict[str, Any]:
        return asdict(self._config)

    def execute(self, page: str, languages: list[str] | None = None) -> dict[str, Any]:
        """What `execute_stream` returns at its end."""
        stream = self.execute_stream(page, languages)
        while True:
            try:
                next(stream)
            except StopIteration as end:
                return end.value

    def execute_stream(
        self, page: str, languages: list[str] | None = None
    ) -> Generator[dict[str, Any], None, dict[str, Any]]:
        """Reads `page`, the path of a picture. `languages` is a list of "en" and "zh" (None: both).

        Yields {"line", "of", "text", "confidence", "box"} in reading order: `line` counts what was found on the
        page from 1 to `of` (a line with too little confidence is left out, so a number may be missing), `box` has
        the four corners in pixels of the page. Returns {"lines", "text", "mean_confidence", "width", "height",
        "seconds", "annotated"}; `annotated` is a picture with the boxes and the texts, or None where that is
        switched off.
        """
        self._cancel.clear()
        started = time.perf_counter()
        check_languages(languages)
        english = languages is not None and "zh" not in languages
        self._tell(0.0, "loading the page")
        image = load_page(page)
        self._tell(0.02, "looking for lines")
        rows = in_reading_order(self._boxes(image))
        of = sum(map(len, rows))
        self._tell(DETECTED, f"found {of} lines")
        kept: list[list[Line]] = []
        number = 0
        for row in rows:
            kept.append([])
            for box in row:
                self._stop_if_cancelled()
                number += 1
                line = self._read(image, box, english)
                self._tell(DETECTED + (RECOGNISED - DETECTED) * number / of, f"line {number} of {of}")
                if line.text and line.confidence >= self._config.min_confidence:
                    kept[-1].append(line)
                    yield {"line": number, "of": of, **asdict(line)}
        return self._summary(Path(page), image, kept, started)

    def cancel(self) -> bool:
        """Ends the run before its next line."""
        self._cancel.set()
        return True

    def release(self) -> None:
        """Gives the memory of the networks back; the next page loads them again."""
        self._engine = None

    def cleanup(self) -> None:
        self.release()

    def _loaded(self) -> RapidOCR:
        if self._engine is None:
            from rapidocr_onnxruntime import RapidOCR

            cv2.setNumThreads(self._config.threads)
            self._engine = RapidOCR(intra_op_num_threads=self._config.threads, inter_op_num_threads=1)
            # A page is scaled here, by `max_side`; the detector shall not enlarge it again.
            self._engine.text_det.limit_side_len = 320
            letters = self._engine.text_rec.postprocess_op.character
            self._not_latin = [n for n, letter in enumerate(letters) if max(map(ord, letter), default=0) > LAST_LATIN]
        return self._engine

    def _boxes(self, image: np.ndarray) -> list[Box]:
        """The corners of every line, in pixels of the whole page."""
        height, width = image.shape[:2]
        scale = min(1.0, self._config.max_side / max(height, width))
        small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else image
        found, _ = self._loaded().text_det(small)
        if found is None:
            return []
        ratio = np.array([width / small.shape[1], height / small.shape[0]])
        return [[[round(float(v), 1) for v in corner] for corner in box * ratio] for box in found]

    def _read(self, image: np.ndarray, box: Box, english: bool) -> Line:
        """One line per call: that is what lets lines leave as they are read, and nothing is padded."""
        [crop] = self._loaded().get_crop_img_list(image, [np.array(roomy(box, ROOM), dtype=np.float32)])
        crop = cv2.resize(crop, None, fx=STRETCH, fy=1, interpolation=cv2.INTER_CUBIC)
        line = self._recognised(crop, box, english)
        if line.confidence >= DOUBT or crop.shape[1] < WORD * crop.shape[0]:
            return line
        turned = self._recognised(np.ascontiguousarray(crop[::-1, ::-1]), box, english)
        return max(line, turned, key=lambda read: read.confidence)

    def _recognised(self, crop: np.ndarray, box: Box, english: bool) -> Line:
        recogniser = self._loaded().text_rec
        _, least_height, least_width = recogniser.rec_image_shape
        ratio = max(crop.shape[1] / crop.shape[0], least_width / least_height)
        [scores] = recogniser.session(recogniser.resize_norm_img(crop, ratio)[np.newaxis])
        if english:
            scores[:, :, self._not_latin] = 0
        [(text, confidence)] = recogniser.postprocess_op(scores)
        return Line(text.strip(), round(float(confidence), 4), box)

    def _summary(self, page: Path, image: np.ndarray, rows: list[list[Line]], started: float) -> dict[str, Any]:
        lines = [line for row in rows for line in row]
        picture = None
        if self._config.annotate:
            self._tell(RECOGNISED, "drawing the lines")
            picture = self._scratch() / f"{page.stem}-annotated.png"
            annotated(image, lines).save(picture)
        self._tell(1.0, f"{len(lines)} lines")
        return {
            "lines": len(lines),
            "text": joined([[line.text for line in row] for row in rows]),
            "mean_confidence": round(sum(line.confidence for line in lines) / len(lines), 4) if lines else None,
            "width": image.shape[1],
            "height": image.shape[0],
            "seconds": round(time.perf_counter() - started, 3),
            "annotated": picture,
        }

    def _scratch(self) -> Path:
        return Path(self.grange_scratch or tempfile.mkdtemp(prefix="grange-ocr-"))

    def _stop_if_cancelled(self) -> None:
        if self._cancel.is_set():
            raise CancelledError("cancelled before the page was read to its end")

    def _tell(self, progress: float, message: str) -> None:
        report = getattr(self, "report_progress", None)  # the worker gives it
        if report is not None:
            report(round(progress, 4), message)


def load_page(page: str) -> np.ndarray:
    """The picture as rows of blue, green and red, turned as its camera says."""
    path = Path(page)
    try:
        with Image.open(path) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise PageError(f"`{page}` has {picture.width} x {picture.height} pixels; the limit is {MAX_PIXELS}")
            upright = on_white(ImageOps.exif_transpose(picture))
    except FileNotFoundError:
        raise PageError(f"`{page}` does not exist") from None
    except IsADirectoryError:
        raise PageError(f"`{page}` is a folder, not a picture") from None
    except PermissionError:
        raise PageError(f"`{page}` may not be read by this user") from None
    except UnidentifiedImageError:
        raise PageError(f"`{page}` is not a picture that can be read: {FORMATS} is needed") from None
    except Image.DecompressionBombError as error:
        raise PageError(f"`{page}` is too large: {error}") from None
    except (OSError, SyntaxError) as error:  # cut short or damaged
        raise PageError(f"`{page}` is damaged ({error}): {FORMATS} is needed") from error
    return np.asarray(upright)[:, :, ::-1].copy()


def on_white(picture: Image.Image) -> Image.Image:
    """Colours only: what is transparent becomes paper."""
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    clear = picture.convert("RGBA")
    paper = Image.new("RGBA", clear.size, "white")
    return Image.alpha_composite(paper, clear).convert("RGB")


def check_languages(languages: list[str] | None) -> None:
    unknown = sorted(set(languages or ()) - set(LANGUAGES))
    if unknown:
        raise ValueError(f"language `{unknown[0]}` is not known to this model; it reads {' and '.join(LANGUAGES)}")


def check_config(config: dict[str, Any]) -> None:
    """The schema's limits, for who hosts this class without checking it."""
    known = {field.name for field in fields(OcrConfig)}
    unknown = sorted(set(config) - known)
    if unknown:
        raise ValueError(f"unknown configuration key `{unknown[0]}`; known are {', '.join(sorted(known))}")
    if not isinstance(config["annotate"], bool):
        raise ValueError(f"`annotate` is true or false, not {config['annotate']!r}")
    for key in ("min_confidence", "max_side", "threads"):
        rule, value = CONFIG_SCHEMA["properties"][key], config[key]
        kinds = (int,) if rule["type"] == "integer" else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds):
            raise ValueError(f"`{key}` is of type {rule['type']}, not {value!r}")
        if not rule["minimum"] <= value <= rule["maximum"]:
            raise ValueError(f"`{key}` is {value}; it may be from {rule['minimum']} to {rule['maximum']}")
