"""The order in which boxes on a page are read: rows from the top, and in a row from the left."""

from __future__ import annotations

Box = list[list[float]]  # four corners, clockwise from the upper left

COLUMN_GAP = "    "


def in_reading_order(boxes: list[Box]) -> list[list[Box]]:
    """Rows of boxes.

    A box joins the row whose nearest box at its left, followed along its own slope, leads into it. So rows
    hold together also where a page was photographed at an angle and its right end lies lower than its left.
    """
    rows: list[list[Box]] = []
    for box in sorted(boxes, key=left):
        row = min((r for r in rows if continues(r[-1], box)), key=lambda r: offset(r[-1], box), default=None)
        if row is None:
            rows.append([box])
        else:
            row.append(box)
    return sorted(rows, key=lambda row: middle(row[0])[1] - slope(row[0]) * middle(row[0])[0])


def joined(rows: list[list[str]]) -> str:
    """The text of the page: a row a line, with the cells of a table set apart."""
    return "\n".join(COLUMN_GAP.join(row) for row in rows if row)


def roomy(box: Box, part: float) -> Box:
    """The box with so much of its height added above and below."""
    (ax, ay), (bx, by), (cx, cy), (dx, dy) = box
    (lx, ly), (rx, ry) = ((dx - ax) * part, (dy - ay) * part), ((cx - bx) * part, (cy - by) * part)
    return [[ax - lx, ay - ly], [bx - rx, by - ry], [cx + rx, cy + ry], [dx + lx, dy + ly]]


def continues(before: Box, box: Box) -> bool:
    """Whether `box` stands at the right of `before`, on the same line."""
    beside = left(box) > middle(before)[0]
    return beside and offset(before, box) < 0.5 * min(height(before), height(box))


def offset(before: Box, box: Box) -> float:
    """How far the middle of `box` lies above or below the line through `before` and its slope."""
    (ax, ay), (bx, by) = middle(before), middle(box)
    tilt = max((before, box), key=width)  # a wide box knows its slope better than a narrow one
    return abs(by - ay - slope(tilt) * (bx - ax))


def slope(box: Box) -> float:
    """Of the upper and the lower edge together, down for each step to the right."""
    (ax, ay), (bx, by), (cx, cy), (dx, dy) = box
    across = (bx - ax) + (cx - dx)
    return ((by - ay) + (cy - dy)) / across if across > 0 else 0.0


def middle(box: Box) -> tuple[float, float]:
    return sum(x for x, _ in box) / 4, sum(y for _, y in box) / 4


def left(box: Box) -> float:
    return min(box[0][0], box[3][0])


def width(box: Box) -> float:
    return (box[1][0] - box[0][0] + box[2][0] - box[3][0]) / 2


def height(box: Box) -> float:
    return (box[3][1] - box[0][1] + box[2][1] - box[1][1]) / 2
