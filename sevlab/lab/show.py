"""Bytes and rows as a reader wants to see them: text, so that what is read is what is checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from textwrap import wrap
from typing import Any

from sevlab.wire import Wire

ROW = 16
WIDTH = 92  # letters of a line of prose
SHORT = 16  # bytes of a value that are shown; the rest is an ellipsis


class Text:
    """A block of monospaced text that a notebook shows as it stands, under its title."""

    def __init__(self, text: str, title: str = "") -> None:
        self.text = text
        self.title = title

    def __repr__(self) -> str:
        return f"{self.title}\n\n{self.text}" if self.title else self.text


class Structure(Text):
    """A structure as text, and where a front end listens as a live picture; `widget` is that picture."""

    def __init__(self, text: str, title: str, make: Callable[[Any, str], Any]) -> None:
        super().__init__(text, title)
        self._make = make
        self._widget: Any = None

    @property
    def widget(self) -> Any:
        if self._widget is None:
            from sevlab.lab.ask import widgets

            self._widget = self._make(widgets("layout"), repr(self))
        return self._widget

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        from sevlab.lab.ask import live

        if not live():
            return {"text/plain": repr(self)}
        data, metadata = self.widget._repr_mimebundle_()
        return {**data, "text/plain": repr(self)}, metadata


def hexdump(data: bytes, start: int = 0, *, title: str = "") -> Text:
    """`data` as 16 bytes a row, hexadecimal at the left and text at the right; `start` is the first byte's address."""
    lines = []
    for at in range(0, len(data), ROW):
        row = data[at : at + ROW]
        letters = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        lines.append(f"{start + at:08x}  {row[:8].hex(' '):23}  {row[8:].hex(' '):23}  {letters}".rstrip())
    return Text("\n".join(lines) or "(no bytes)", title)


def table(rows: Sequence[Mapping[str, Any]], *, title: str = "") -> Text:
    """Rows of equal keys as a text table; numbers stand right, all else left.

    Raises KeyError for a row that lacks a key of the first.
    """
    if not rows:
        return Text("(no rows)", title)
    heads = list(rows[0])
    cells = [[str(row[head]) for head in heads] for row in rows]
    widths = [max(len(head), *(len(line[i]) for line in cells)) for i, head in enumerate(heads)]
    right = [all(isinstance(row[head], int) for row in rows) for head in heads]

    def line(texts: Sequence[str]) -> str:
        return "  ".join(t.rjust(w) if r else t.ljust(w) for t, w, r in zip(texts, widths, right, strict=True)).rstrip()

    return Text("\n".join([line(heads), line(["─" * w for w in widths]), *(line(row) for row in cells)]), title)


def layout(
    what: Wire | Iterable[tuple[str, bytes]], notes: Mapping[str, str] | None = None, *, title: str = "", **live: Any
) -> Structure:
    """A structure as named bytes: a Wire, or (name, bytes) pairs that follow one another.

    `notes` says in a few words what a field is. Long values are cut, with an ellipsis. Displayed, it is a live
    picture where one can be shown; `live` goes to it, as `covers=[("the MAC", ("iv", "mac"))]` or `beside=` another.
    """
    given: Any = what if isinstance(what, Wire) else [(name, bytes(data)) for name, data in what]
    what = given
    if isinstance(what, Wire):
        whole = what.pack()
        title = title or f"{type(what).__name__}, {what.SIZE} bytes"
        pieces = [(field.name, whole[field.offset : field.offset + field.size]) for field in what.LAYOUT]
    else:
        pieces = list(what)
        title = title or f"{sum(len(data) for _, data in pieces)} bytes"
    rows, at = [], 0
    for name, data in pieces:
        value = data[:SHORT].hex() + ("…" if len(data) > SHORT else "")
        row = {"offset": f"{at:#04x}", "size": len(data), "field": name, "bytes": value}
        rows.append(row | ({"what it is": notes.get(name, "")} if notes else {}))
        at += len(data)
    return Structure(table(rows).text, title, lambda made, text: made.Layout(given, notes=notes, title=title, text=text, **live))


def verdicts(found: Mapping[str, object]) -> Text:
    """Named verdicts, each in a paragraph of its own under its name."""
    lines: list[str] = []
    for name, verdict in found.items():
        lines += [name, *wrap(str(verdict), WIDTH, initial_indent="    ", subsequent_indent="    ")]
    return Text("\n".join(lines))


def flip(data: bytes, bit: int = 0) -> bytes:
    """A copy with one bit changed; bit 0 is the lowest of the first byte."""
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)
