"""A picture of what was read: the page with its lines marked, and beside it the text where it stands.

The font is the one inside Pillow, which has Latin letters only: other scripts show as boxes in the picture.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from layout import Box

MAX_HEIGHT = 1400  # of the picture
GAP = 8
CERTAIN, DOUBTFUL = (38, 132, 82), (204, 92, 28)
DOUBT_BELOW = 0.85
INK = (32, 36, 42)
Colour = tuple[int, int, int]


class ReadLine(Protocol):
    """What is drawn of a line."""

    text: str
    confidence: float
    box: Box


def annotated(page: np.ndarray, lines: list[ReadLine]) -> Image.Image:
    """`page` as blue, green, red; the lines in green, in orange where the network was in doubt."""
    scale = min(1.0, MAX_HEIGHT / page.shape[0])
    picture = Image.fromarray(page[:, :, ::-1])
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    picture = picture.resize(size, Image.Resampling.LANCZOS)
    sheet = Image.new("RGB", (size[0] * 2 + GAP, size[1]), (206, 212, 208))
    sheet.paste(Image.new("RGB", size, "white"), (size[0] + GAP, 0))
    sheet.paste(picture, (0, 0))
    marks = Image.new("RGBA", sheet.size, (0, 0, 0, 0))
    draw = ImageDraw.Draw(marks)
    for line in lines:
        corners = [(x * scale, y * scale) for x, y in line.box]
        colour = CERTAIN if line.confidence >= DOUBT_BELOW else DOUBTFUL
        draw.polygon(corners, fill=(*colour, 40), outline=(*colour, 255), width=2)
        write(draw, line.text, [(x + size[0] + GAP, y) for x, y in corners], colour)
    sheet = Image.alpha_composite(sheet.convert("RGBA"), marks).convert("RGB")
    return sheet.quantize(128, dither=Image.Dither.NONE)


def write(draw: ImageDraw.ImageDraw, text: str, corners: list[tuple[float, float]], colour: Colour) -> None:
    """The text as large as its box allows, on a tint of its colour."""
    draw.polygon(corners, fill=(*colour, 22))
    (ax, ay), (bx, by), (cx, cy), (dx, dy) = corners
    across, down = (bx - ax + cx - dx) / 2, (dy - ay + cy - by) / 2
    font = ImageFont.load_default(size=max(6.0, down * 0.74))
    length = font.getlength(text)
    if length > across > 0:
        font = ImageFont.load_default(size=max(6.0, down * 0.74 * across / length))
        length = across
    fall = (by - ay + cy - dy) / 2 * (length / across) if across > 0 else 0.0
    draw.text(((ax + dx) / 2 + 2, (ay + dy + fall) / 2), text, fill=(*INK, 255), font=font, anchor="lm")
