"""The ledger of a Topology: what was counted before and what is now, in columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sevlab_widgets.picture import Svg, fit, width_of

if TYPE_CHECKING:
    from sevlab_widgets.topology import Row

BOLD = 1.2  # how much wider bold letters are than width_of says
TAG = 11  # px, the type of a tag
HIGH = 1.4  # of a row, in sizes of its type


def wanted(rows: Sequence[Row], size: float) -> float:
    """How wide a column must be to cut no name, px."""
    return max((_of_name(row, size) + _of_tag(row) + _of_value(row, size) + 12 for row in rows), default=0.0)


def draw(svg: Svg, rows: Sequence[Row], x: float, y: float, width: float, columns: int, size: float) -> float:
    """Draw the rows, in as many columns as there is room for and at most `columns`; where they end."""
    if not rows:
        return y
    fitting = int((width + 24) // (wanted(rows, size) + 24))
    columns = max(1, min(columns, len(rows), fitting))
    each, wide, high = -(-len(rows) // columns), (width - 24 * (columns - 1)) / columns, HIGH * size
    for index, row in enumerate(rows):
        _row(svg, row, x + index // each * (wide + 24), y + index % each * high, wide, high, size)
    return y + each * high + 2


def _row(svg: Svg, row: Row, left: float, top: float, wide: float, high: float, size: float) -> None:
    weight, base = "bold" if row.changed else "", top + 1.03 * size
    said = f"{row.name}: {row.words}{', changed' if row.changed else ''}{f'; {row.tag}' if row.tag else ''}."
    value = fit(row.words, wide * 0.6, size) or row.words
    room = wide - width_of(value, size) * BOLD - 10
    with svg.item(f"ledger {row.name}", say=said):
        svg.rect(left, top, wide, high, "bare")
        svg.text(left + 1, base, row.name, weight or "soft", room=(room - _of_tag(row)) / (BOLD if weight else 1), size=size)
        if row.tag:
            svg.tag(left + room - _of_tag(row) + 12, base + 0.4, row.tag)
        svg.text(left + wide - 1, base, value, f"{weight} end", size=size, font_variant_numeric="tabular-nums")
    svg.line(left, top + high - 0.5, left + wide, top + high - 0.5, "rule")


def _of_name(row: Row, size: float) -> float:
    return width_of(row.name, size) * (BOLD if row.changed else 1)


def _of_value(row: Row, size: float) -> float:
    return width_of(row.words, size) * BOLD


def _of_tag(row: Row) -> float:
    return width_of(row.tag, TAG) + 20 if row.tag else 0.0
