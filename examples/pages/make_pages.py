# /// script
# requires-python = ">=3.10"
# dependencies = ["pillow==12.3.0"]
# ///
"""Draw the example pages: a letter, an invoice, and a photograph of a delivery note.

    uv run make_pages.py            # draws the three pictures beside this file
    uv run make_pages.py --check    # says whether the pictures are what this script draws

Pillow only, with the font inside Pillow, so that no font of the machine is needed. Every random number comes
from one seed: the same Pillow draws the same pixels. What the pages say is invented.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Callable, NamedTuple

from PIL import Image, ImageChops, ImageDraw

from delivery_note import photograph
from sheet import GREEN, INK, MARGIN, PAGE_SIZE, PALE_GREEN, SOFT_INK, Colour, Point, Sheet, font

HERE = Path(__file__).resolve().parent


class Item(NamedTuple):
    """One row of the invoice."""

    what: str
    quantity: int
    unit: str
    cents: int  # the price of one


INVOICE_ITEMS = (
    Item("Page recognition, scanned letters", 1240, "pages", 9),
    Item("Speech to text, field recordings", 86, "hours", 310),
    Item("GPU time beyond the plan", 42, "hours", 275),
    Item("Object storage, one month", 3, "TB", 1450),
    Item("Setting up two new hosts", 2, "hosts", 18000),
)
VAT_PERCENT = 20


def barn(sheet: Sheet, x: int, y: int, size: int, colour: Colour = GREEN) -> None:
    """The mark of Grange: a barn with its door open. Drawn large and made small, for even edges."""
    mark = Image.new("L", (size * 4, size * 4), 0)
    roof = [(0, 0.42), (0.5, 0), (1, 0.42)]
    walls = [(0.1, 0.42), (0.9, 0.42), (0.9, 1), (0.1, 1)]
    door = [(0.36, 0.58), (0.64, 0.58), (0.64, 1), (0.36, 1)]
    for shape, fill in ((roof, 255), (walls, 255), (door, 0)):
        ImageDraw.Draw(mark).polygon([(px * mark.width, py * mark.height) for px, py in shape], fill=fill)
    sheet.image.paste(colour, (x, y), mark.resize((size, size), Image.Resampling.LANCZOS))


def letterhead(sheet: Sheet) -> None:
    right = PAGE_SIZE[0] - MARGIN
    barn(sheet, MARGIN, MARGIN - 14, 74)
    sheet.text(MARGIN + 96, "Grange", 52, GREEN, bold=True)
    for row, line in enumerate(("Home Farm, 3 Orchard Lane", "Lower Meadow", "hello@grange.example")):
        sheet.draw.text((right, MARGIN - 14 + row * 30), line, fill=SOFT_INK, font=font(21), anchor="ra")
    sheet.y = MARGIN + 96
    sheet.rule(MARGIN, right, GREEN, 3)


LETTER = (
    "Dear neighbours,",
    "As of the first of May the two older machines in the east barn will be switched off for good. Their work moves "
    "to the new hosts, which have four times the memory and use about half of the power.",
    "You do not need to change anything. Jobs that wait will be picked up by whichever host has room, and jobs "
    "that run while a machine goes down are started again elsewhere. A result is never counted twice.",
    "Three things are worth knowing before the move:",
)
LETTER_POINTS = (
    "1.  Between 18:00 and 19:30 the queue may grow. Nothing is lost.",
    "2.  Scans larger than 40 MB should be sent as files, not inline.",
    "3.  Old results are kept for seven days, as before.",
)
LETTER_END = (
    "If a job of yours waits longer than ten minutes, ask the farm why: it will tell you which host declined it, "
    "and for what reason. Should that not help, write to us and quote the reference above.",
    "With kind regards,",
)


def letter() -> Image.Image:
    sheet = Sheet()
    letterhead(sheet)
    width = PAGE_SIZE[0] - 2 * MARGIN
    sheet.y += 62
    sheet.text(MARGIN, "To everyone who farms with us", 26)
    sheet.text(MARGIN + width, "14 April 2025", 26, anchor="ra")
    sheet.y += 40
    sheet.text(MARGIN, "Reference: GR-2041", 26, SOFT_INK)
    sheet.y += 92
    sheet.text(MARGIN, "The east barn is moving", 38, bold=True)
    sheet.y += 84
    for text in LETTER:
        sheet.paragraph(text, MARGIN, width)
        sheet.y += 24
    for text in LETTER_POINTS:
        sheet.paragraph(text, MARGIN + 40, width - 40)
        sheet.y += 8
    sheet.y += 24
    for text in LETTER_END:
        sheet.paragraph(text, MARGIN, width)
        sheet.y += 24
    signature(sheet, MARGIN + 4, sheet.y + 6)
    sheet.y += 112
    sheet.text(MARGIN, "The Grange team", 26)
    sheet.y = PAGE_SIZE[1] - MARGIN
    sheet.rule(MARGIN, MARGIN + width)
    sheet.y += 18
    sheet.text(PAGE_SIZE[0] / 2, "Page 1 of 1", 20, SOFT_INK, anchor="ma")
    return sheet.image


def signature(sheet: Sheet, x: float, y: float) -> None:
    """A flourish that no reader should take for letters."""
    points = [(0, 60), (30, 8), (44, 70), (70, 22), (88, 66), (120, 30), (150, 58), (210, 40), (300, 50)]
    curve = smooth([(x + px, y + py) for px, py in points])
    sheet.draw.line(curve, fill=(40, 62, 130), width=4, joint="curve")


def smooth(points: list[Point], rounds: int = 4) -> list[Point]:
    """Chaikin's corner cutting."""
    for _ in range(rounds):
        cut = [points[0]]
        for (ax, ay), (bx, by) in zip(points, points[1:]):
            cut += [
                (0.75 * ax + 0.25 * bx, 0.75 * ay + 0.25 * by),
                (0.25 * ax + 0.75 * bx, 0.25 * ay + 0.75 * by),
            ]
        points = [*cut, points[-1]]
    return points


def money(cents: int) -> str:
    return f"{cents // 100:,}.{cents % 100:02}"


def invoice() -> Image.Image:
    sheet = Sheet()
    letterhead(sheet)
    right = PAGE_SIZE[0] - MARGIN
    sheet.y += 62
    sheet.text(MARGIN, "INVOICE", 46, bold=True)
    sheet.y += 96
    invoice_head(sheet, right)
    sheet.y += 70
    net = invoice_table(sheet, right)
    vat = net * VAT_PERCENT // 100
    sheet.y += 30
    for label, cents in (("Subtotal", net), (f"VAT {VAT_PERCENT} %", vat)):
        sheet.text(right - 300, label, 26, SOFT_INK)
        sheet.text(right - 20, money(cents), 26, anchor="ra")
        sheet.y += 46
    sheet.y += 4
    sheet.draw.rectangle((right - 400, sheet.y, right, sheet.y + 66), fill=GREEN)
    sheet.y += 17
    sheet.text(right - 300, "Total due", 30, (255, 255, 255), bold=True)
    sheet.text(right - 20, money(net + vat), 30, (255, 255, 255), anchor="ra", bold=True)
    sheet.y += 130
    sheet.paragraph(
        "Please pay within 30 days and quote the invoice number. Amounts are in EUR. Jobs that failed on our "
        "side are not charged.",
        MARGIN,
        right - MARGIN,
        24,
    )
    sheet.y = PAGE_SIZE[1] - MARGIN
    sheet.rule(MARGIN, right)
    sheet.y += 18
    sheet.text(PAGE_SIZE[0] / 2, "Thank you for farming with us.", 20, SOFT_INK, anchor="ma")
    return sheet.image


def invoice_head(sheet: Sheet, right: float) -> None:
    top = sheet.y
    for row, line in enumerate(("North Field Archive", "Reading Room 2", "12 Mill Road, Lower Meadow")):
        sheet.y = top + row * 42
        sheet.text(MARGIN, line, 26, INK if row else GREEN, bold=row == 0)
    rows = (("Invoice number", "GR-2025-0417"), ("Date", "17 April 2025"), ("Due", "17 May 2025"))
    for row, (label, value) in enumerate(rows):
        sheet.y = top + row * 42
        sheet.text(right - 420, label, 26, SOFT_INK)
        sheet.text(right, value, 26, anchor="ra")
    sheet.y = top + 3 * 42


def invoice_table(sheet: Sheet, right: float) -> int:
    """Draws the rows and returns their sum in cents."""
    columns = (
        (MARGIN + 20, "la"),
        (right - 400, "ra"),
        (right - 380, "la"),
        (right - 190, "ra"),
        (right - 20, "ra"),
    )
    height = 62
    total = 0

    def row(cells: tuple[str, ...], colour: Colour, bold: bool = False) -> None:
        sheet.y += 16
        for (x, anchor), cell in zip(columns, cells):
            sheet.text(x, cell, 26, colour, anchor, bold)
        sheet.y += height - 16

    sheet.draw.rectangle((MARGIN, sheet.y, right, sheet.y + height), fill=GREEN)
    row(("Description", "Quantity", "", "Price", "Amount"), (255, 255, 255), bold=True)
    for number, item in enumerate(INVOICE_ITEMS):
        if number % 2:
            sheet.draw.rectangle((MARGIN, sheet.y, right, sheet.y + height), fill=PALE_GREEN)
        amount = item.quantity * item.cents
        row((item.what, f"{item.quantity:,}", item.unit, money(item.cents), money(amount)), INK)
        total += amount
    sheet.rule(MARGIN, right, GREEN)
    return total


def few_colours(draw: Callable[[], Image.Image]) -> Image.Image:
    """Rendered pages have few colours, and as a palette they are a quarter of the size."""
    return draw().quantize(64, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)


PAGES: dict[str, Callable[[], Image.Image]] = {
    "letter.png": lambda: few_colours(letter),
    "invoice.png": lambda: few_colours(invoice),
    "delivery-note.png": photograph,
}


def same_pixels(drawn: Image.Image, path: Path) -> bool:
    if not path.is_file():
        return False
    with Image.open(path) as stored:
        return ImageChops.difference(drawn.convert("RGB"), stored.convert("RGB")).getbbox() is None


def main() -> int:
    parser = argparse.ArgumentParser(description="Draw the example pages.")
    parser.add_argument("--check", action="store_true", help="compare with the pictures that are there; draw nothing")
    parser.add_argument(
        "--into", type=Path, default=HERE, help="the folder for the pictures (default: beside this file)"
    )
    options = parser.parse_args()
    different = 0
    for name, draw in PAGES.items():
        image, path = draw(), options.into / name
        if options.check:
            same = same_pixels(image, path)
            different += not same
            print(f"{name}: {'as drawn' if same else 'different'}")
            continue
        image.save(path, optimize=True)
        print(f"{path}: {image.width} x {image.height}, {path.stat().st_size // 1024} KiB")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
