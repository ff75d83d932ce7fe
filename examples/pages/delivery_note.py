"""A delivery note, photographed on a table: in perspective, unevenly lit, a little noisy and not quite sharp."""

from __future__ import annotations

import random

from PIL import Image, ImageChops, ImageDraw, ImageFilter

from sheet import INK, Point, Sheet, font

SEED = 20250417
NOTE_SIZE = (900, 1180)
PHOTO_SIZE = (900, 1160)
GRAIN = 7
NOTE_ITEMS = (
    ("4 x", "graphics card, 80 GB"),
    ("16 x", "memory module, 64 GB"),
    ("8 x", "solid state disk, 4 TB"),
    ("2 x", "network switch, 32 ports"),
    ("30 m", "fibre cable, yellow"),
)
# Where the corners of the sheet lie in the photograph: left top, right top, right bottom, left bottom.
CORNERS: tuple[Point, ...] = ((128, 84), (792, 138), (842, 1080), (52, 1044))


def delivery_note() -> Image.Image:
    sheet = Sheet(NOTE_SIZE, (250, 249, 245))
    left, right = 80, NOTE_SIZE[0] - 80
    sheet.y = 80
    sheet.text(left, "Delivery note", 58, bold=True)
    sheet.y += 96
    sheet.text(left, "No. 7731", 34)
    sheet.text(right, "22 April 2025", 34, anchor="ra")
    sheet.y += 66
    sheet.rule(left, right, INK, 3)
    sheet.y += 34
    sheet.text(left, "For: Grange, east barn, gate 2", 34)
    sheet.y += 86
    for count, what in NOTE_ITEMS:
        sheet.text(left, count, 36)
        sheet.text(left + 120, what, 36)
        sheet.y += 72
    sheet.y += 4
    sheet.rule(left, right, INK, 3)
    sheet.y += 34
    sheet.text(left, "Five boxes, 61 kg in all", 36, bold=True)
    sheet.y += 76
    sheet.text(left, "Keep dry. Do not stack.", 36)
    stamp(sheet, right - 150, sheet.y + 175)
    return sheet.image


def stamp(sheet: Sheet, x: float, y: float) -> None:
    size = 330
    layer = Image.new("L", (size, 130), 0)
    draw = ImageDraw.Draw(layer)
    draw.rounded_rectangle((4, 4, size - 5, 125), 14, outline=200, width=5)
    draw.text((size / 2, 64), "RECEIVED", fill=210, font=font(52), anchor="mm", stroke_width=1)
    turned = layer.rotate(9, resample=Image.Resampling.BICUBIC, expand=True)
    corner = (round(x - turned.width / 2), round(y - turned.height / 2))
    sheet.image.paste((168, 44, 52), corner, turned)


def photograph() -> Image.Image:
    """The delivery note on a table: turned, in perspective, unevenly lit, a little noisy and not sharp."""
    rng = random.Random(SEED)
    back = coefficients(CORNERS, NOTE_SIZE)
    note = warp(delivery_note(), back)
    mask = warp(Image.new("L", NOTE_SIZE, 255), back)
    scene = table(rng)
    shadow = ImageChops.offset(mask.filter(ImageFilter.GaussianBlur(14)), 12, 16).point(lambda v: v * 0.55)
    scene.paste((18, 12, 8), (0, 0), shadow)
    scene.paste(note, (0, 0), mask.filter(ImageFilter.GaussianBlur(0.8)))
    scene = ImageChops.multiply(scene, light())
    scene = ImageChops.add(scene.filter(ImageFilter.GaussianBlur(0.9)), noise(rng), scale=1, offset=-GRAIN)
    return scene.quantize(64, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)


def table(rng: random.Random) -> Image.Image:
    """Wood: a few columns of random brown, stretched along the grain and softened."""
    columns, rows = 140, 5
    grain = bytes(rng.randint(84, 150) for _ in range(columns * rows))
    shade = Image.frombytes("L", (columns, rows), grain).resize(PHOTO_SIZE, Image.Resampling.BICUBIC)
    shade = shade.filter(ImageFilter.GaussianBlur(2))
    return Image.merge("RGB", [shade.point(lambda v, k=k: v * k) for k in (1.12, 0.84, 0.62)])


def light() -> Image.Image:
    """A lamp at the upper left; warm, and darker toward the far corner."""
    glow = Image.radial_gradient("L").resize((PHOTO_SIZE[0] * 3, PHOTO_SIZE[1] * 3))
    lamp = (PHOTO_SIZE[0] * 0.34, PHOTO_SIZE[1] * 0.28)
    left, top = (round(side * 1.5 - at) for side, at in zip(PHOTO_SIZE, lamp))
    glow = glow.crop((left, top, left + PHOTO_SIZE[0], top + PHOTO_SIZE[1]))
    return Image.merge("RGB", [glow.point(lambda v, k=k: min(255, 252 - v * k)) for k in (0.75, 0.86, 1.02)])


def noise(rng: random.Random) -> Image.Image:
    """Grey grain around GRAIN, about as strong as a telephone's in a barn."""
    count = PHOTO_SIZE[0] * PHOTO_SIZE[1]
    layers = [
        Image.frombytes("L", PHOTO_SIZE, rng.randbytes(count)).point(lambda v: v * GRAIN // 255) for _ in range(2)
    ]
    grain = ImageChops.add(*layers)
    return Image.merge("RGB", (grain, grain, grain))


def warp(image: Image.Image, back: list[float]) -> Image.Image:
    return image.transform(PHOTO_SIZE, Image.Transform.PERSPECTIVE, back, Image.Resampling.BICUBIC)


def coefficients(corners: tuple[Point, ...], size: tuple[int, int]) -> list[float]:
    """The eight numbers that lead from a point of the photograph back to the sheet."""
    width, height = size
    equations: list[list[float]] = []
    for (x, y), (u, v) in zip(corners, ((0, 0), (width, 0), (width, height), (0, height))):
        equations.append([x, y, 1, 0, 0, 0, -u * x, -u * y, u])
        equations.append([0, 0, 0, x, y, 1, -v * x, -v * y, v])
    return solved(equations)


def solved(rows: list[list[float]]) -> list[float]:
    """Gauss and Jordan, with the largest pivot; the last column is the right-hand side."""
    for column in range(len(rows)):
        pivot = max(range(column, len(rows)), key=lambda r: abs(rows[r][column]))
        rows[column], rows[pivot] = rows[pivot], rows[column]
        rows[column] = [value / rows[column][column] for value in rows[column]]
        for other in range(len(rows)):
            if other != column:
                factor = rows[other][column]
                rows[other] = [a - factor * b for a, b in zip(rows[other], rows[column])]
    return [row[-1] for row in rows]
