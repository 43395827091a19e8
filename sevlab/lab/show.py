"""Bytes and rows as a reader wants to see them: text, so that what is read is what is checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from textwrap import wrap
from typing import Any

from sevlab.abi.ghcb import VALID_BITS, Ghcb
from sevlab.lab.views import View
from sevlab.wire import Wire

ROW = 16
WIDTH = 92  # letters of a line of prose
NUMBERS = ("u8", "u16", "u32", "u64", "i32")
SHORT = 16  # bytes of a value that are shown; the rest is an ellipsis


class Text:
    """A block of monospaced text that a notebook shows as it stands, under its title."""

    def __init__(self, text: str, title: str = "") -> None:
        self.text = text
        self.title = title

    def __repr__(self) -> str:
        return f"{self.title}\n\n{self.text}" if self.title else self.text


class Structure(View):
    """A structure as text, and where a front end listens as a live picture."""

    def __init__(self, text: str, title: str, make: Callable[[Any, str], Any]) -> None:
        self.text = text
        self.title = title
        super().__init__("layout", lambda made: make(made, repr(self)), lambda: repr(Text(text, title)))


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
    what: Wire | Iterable[tuple[str, bytes]],
    notes: Mapping[str, str] | None = None,
    *,
    title: str = "",
    only: Sequence[str] = (),
    valid: Mapping[str, bool] | None = None,
    writers: Mapping[str, str] | None = None,
    beside: Wire | bytes | None = None,
    names: tuple[str, str] = ("this", "beside"),
    **live: Any,
) -> Structure:
    """A structure as named bytes: a Wire, or (name, bytes) pairs that follow one another.

    `notes` says in a few words what a field is, `only` names the fields to show of a long structure, in their order. `valid`
    says for which fields somebody vouches; a GHCB says so itself. `writers` gives the letter of the party that wrote a field
    last ("G" the guest, "K" the kernel). `beside` is a second one of the same layout, `names` are those of both.
    Long values are cut, with an ellipsis; where `only` picks fields, numbers are written as such. Displayed, it is a live
    picture where one can be shown; `live` goes to it, as `covers=[("the MAC", ("iv", "mac"))]`.

    Raises ValueError for a field in `only` that is none.
    """
    if isinstance(what, bytes | bytearray):
        what = [("bytes", bytes(what))]
    given: Any = what if isinstance(what, Wire) else [(name, bytes(data)) for name, data in what]
    if isinstance(given, Wire):
        title = title or f"{type(given).__name__}, {given.SIZE} bytes"
        pieces = [(field.name, field.offset, field.size, field.kind) for field in given.LAYOUT]
        whole = given.pack()
    else:
        whole = b"".join(data for _, data in given)
        title = title or f"{len(whole)} bytes"
        pieces, at = [], 0
        for name, data in given:
            pieces.append((name, at, len(data), "bytes"))
            at += len(data)
    if unknown := set(only) - {name for name, *_ in pieces}:
        raise ValueError(f"there is no field {', '.join(sorted(unknown))}")
    if valid is None and isinstance(given, Ghcb):
        valid = {name: given.is_valid(name) for name in VALID_BITS}
    second = beside.pack() if isinstance(beside, Wire) else beside
    shown = [piece for piece in pieces if not only or piece[0] in only]
    rows = []
    head = "value" if only else "bytes"
    for name, at, size, kind in shown:
        row: dict[str, Any] = {"offset": f"{at:#04x}", "size": size, "field": name}
        if valid is not None:
            row["valid"] = "●" if valid.get(name) else "○" if name in valid and any(whole[at : at + size]) else ""
        if writers:
            row["by"] = writers.get(name, "")
        number = bool(only) and kind in NUMBERS
        row[head if second is None else names[0]] = _cut(whole[at : at + size], number)
        if second is not None:
            row[names[1]] = _cut(second[at : at + size], number)
        rows.append(row | ({"what it is": notes.get(name, "")} if notes else {}))
    text = table(rows).text
    more = {"valid": valid, "writers": writers, "beside": second, "names": names, **live}

    def make(made: Any, words: str) -> Any:
        if not only:
            return made.Layout(given, notes=notes, title=title, text=words, **more)
        parts = [made.Part(*piece) for piece in shown]
        return made.Layout(whole, layout=parts, notes=notes, title=title, text=words, **more)

    return Structure(text, title, make)


def _cut(data: bytes, number: bool = False) -> str:
    if number:
        return f"{int.from_bytes(data, 'little'):#x}"
    return data[:SHORT].hex() + ("…" if len(data) > SHORT else "")


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
