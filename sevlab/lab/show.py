"""Bytes and rows as a reader wants to see them: text first, so that what is read is what is checked."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any


class Text:
    """A block of monospaced text that a notebook shows as it stands."""

    def __init__(self, text: str, title: str = "") -> None:
        self.text = text
        self.title = title

    def __repr__(self) -> str:
        return f"{self.title}\n{self.text}" if self.title else self.text

    def _repr_html_(self) -> str:
        title = f"<figcaption>{html.escape(self.title)}</figcaption>" if self.title else ""
        return f'<figure style="margin:4px 0">{title}<pre style="margin:0">{html.escape(self.text)}</pre></figure>'


def hexdump(data: bytes, start: int = 0, *, title: str = "") -> Text:
    """`data` as 16 bytes a row, hexadecimal at the left and text at the right; `start` is the first byte's address."""
    lines = []
    for at in range(0, len(data), 16):
        row = data[at : at + 16]
        letters = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        lines.append(f"{start + at:08x}  {row[:8].hex(' '):23}  {row[8:].hex(' '):23}  {letters}")
    return Text("\n".join(lines), title)


def table(rows: Sequence[Mapping[str, Any]], *, title: str = "") -> Text:
    """Rows of equal keys as a text table; numbers stand right, all else left."""
    if not rows:
        return Text("(no rows)", title)
    heads = list(rows[0])
    cells = [[str(row[head]) for head in heads] for row in rows]
    widths = [max(len(head), *(len(line[i]) for line in cells)) for i, head in enumerate(heads)]
    right = [all(isinstance(row[head], int) for row in rows) for head in heads]

    def line(texts: Sequence[str]) -> str:
        return "  ".join(t.rjust(w) if r else t.ljust(w) for t, w, r in zip(texts, widths, right, strict=True)).rstrip()

    return Text("\n".join([line(heads), line(["-" * w for w in widths]), *(line(row) for row in cells)]), title)
