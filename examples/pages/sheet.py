"""A page that is written on from the top down, with the font and the colours of all example pages."""

from __future__ import annotations

from functools import cache

from PIL import Image, ImageDraw, ImageFont

PAGE_SIZE = (1240, 1754)  # A4 at 150 dots per inch
MARGIN = 130
INK = (38, 42, 48)
SOFT_INK = (112, 118, 126)
GREEN = (52, 104, 74)
PALE_GREEN = (232, 240, 234)
RULE = (205, 211, 207)

Colour = tuple[int, int, int]
Point = tuple[float, float]


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=size)


class Sheet:
    """A page with a pen that moves down as lines are written."""

    def __init__(self, size: tuple[int, int] = PAGE_SIZE, paper: Colour = (255, 255, 255)) -> None:
        self.image = Image.new("RGB", size, paper)
        self.draw = ImageDraw.Draw(self.image)
        self.y = MARGIN

    def text(
        self,
        x: float,
        text: str,
        size: int = 26,
        colour: Colour = INK,
        anchor: str = "la",
        bold: bool = False,
    ) -> None:
        width = size / 48 if bold else 0
        self.draw.text((x, self.y), text, fill=colour, font=font(size), anchor=anchor, stroke_width=width)

    def paragraph(self, text: str, x: float, width: float, size: int = 26, leading: float = 1.55) -> None:
        for line in wrapped(text, width, size):
            self.text(x, line, size)
            self.y += round(size * leading)

    def rule(self, x: float, right: float, colour: Colour = RULE, width: int = 2) -> None:
        self.draw.line([(x, self.y), (right, self.y)], fill=colour, width=width)


def wrapped(text: str, width: float, size: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font(size).getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
