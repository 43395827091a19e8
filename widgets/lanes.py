"""Lanes: a trace as a sequence diagram. Lifelines from left to right, time downward. It knows no SEV.

    Lanes([Line(1, "VMM", "kernel", "KVM_CREATE_VM", "0"), ...])           # lines of one's own
    Lanes.of(host, read, lifelines)                                        # live: `read(rows)` makes trace rows Lines
    Lanes(lines, against=other_lines, names=("posted", "linux-6.1"))       # joined at their common beginning
    Lanes(lines, schedules=[Tile("A", ("done", "EBUSY"), 35, "1112"), ...], on_pick=lines_of)

A view gets all lines once, packed and compressed, and draws only those that are
visible: it filters, searches and scrolls by itself. Fields and bytes of a line
are asked for when it is selected.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
from sevlab_widgets.frame import Frame, Message, Table
from sevlab_widgets.lanes_picture import AWAITED as AWAITED
from sevlab_widgets.lanes_picture import GIVEN as GIVEN
from sevlab_widgets.lanes_picture import TAKEN as TAKEN
from sevlab_widgets.lanes_picture import LanesPicture
from sevlab_widgets.layout import Layout
from sevlab_widgets.runs import squeeze
from sevlab_widgets.words import facts_of, notes_of

COLUMN = np.dtype(
    [
        ("source", "u1"),
        ("target", "u1"),
        ("lock", "u1"),
        ("bad", "u1"),
        ("label", "<u4"),
        ("answer", "<u4"),
        ("kind", "<u4"),
        ("n", "<u4"),
    ]
)
STATIC = 40  # lines of the picture where no front end runs, of each trace


class Line(NamedTuple):
    """One line: at which entry, from which lifeline to which, what, and what was answered.

    Without `target` it is a note on its lifeline. `bad` says that the answer is a refusal; `lock` what happened to a
    lock. `fields` are shown when the line is selected, `data` are the bytes it moved; `layout` names those, as for a Layout.
    """

    n: int
    source: str
    target: str
    label: str
    answer: str = ""
    kind: str = ""
    bad: bool = False
    lock: int = 0
    fields: Mapping[str, Any] = {}
    data: bytes = b""
    layout: Any = None

    @property
    def said(self) -> str:
        """The line in words."""
        to = f" to {self.target}" if self.target and self.target != self.source else ""
        return f"entry {self.n}: {self.source}{to}, {self.label}" + (f": {self.answer}" if self.answer else "")


class Tile(NamedTuple):
    """A way in which calls can come out: a letter, what became of each call, in how many schedules, and the first of them."""

    letter: str
    ends: Sequence[str]
    schedules: int
    schedule: str


Read = Callable[[list[dict[str, Any]]], list[Line]]


class Lanes(Frame):
    """A trace as a sequence diagram. See the head of this file.

    `lifelines` are (name, letter of the party) from left to right; without them those that occur, in order.
    `others` says where those go that come later: behind how many, with which letter.
    A lifeline has a column from the first line on that touches it; while there is no line all have.
    Where two traces part stands `parting`, between their `names`. `unit` is what a line's number counts.
    `on_select(line)` is told which line was selected.
    """

    FILES: ClassVar[tuple[str, ...]] = ("drawing", "lanes_columns", "lanes_paint", "lanes")  # drawing: how a Layout looks
    MAKER: ClassVar[str] = "lanes"
    KEYS: ClassVar[tuple[tuple[str, str], ...]] = (
        ("↑ ↓", "line by line"), ("Page Up, Down", "a screen"), ("Home End", "first, last"),
        ("Enter", "fields and bytes"), ("g", "go to the entry of the line"), ("← →", "left, right trace"), ("/", "search"),
        ("+ −", "zoom"),
    )  # fmt: skip

    def __init__(
        self,
        lines: Iterable[Line] = (),
        *,
        lifelines: Sequence[tuple[str, str]] = (),
        others: tuple[int, str] | None = None,
        against: Iterable[Line] | None = None,
        names: tuple[str, str] = ("", ""),
        parting: str = "here the kernels differ",
        unit: str = "entry",
        schedules: Sequence[Any] = (),
        on_pick: Callable[[str], Iterable[Line]] | None = None,
        on_select: Callable[[Line], Any] | None = None,
        title: str = "trace",
        **keywords: Any,
    ) -> None:
        self.lifelines = list(lifelines)
        self.others = others
        self.names, self.parting, self.unit = names, parting, unit
        self.schedules = [Tile(tile.letter, tuple(tile.ends), tile.schedules, tile.schedule) for tile in schedules]
        self.picked = ""
        self.on_pick, self.on_select = on_pick, on_select
        self._read: Read | None = None
        self._clear()
        self._take(lines, against)
        super().__init__(title=title, **keywords)

    @classmethod
    def of(cls, host: Any, read: Read, lifelines: Sequence[tuple[str, str]] = (), **keywords: Any) -> Lanes:
        """A host's trace, live. `read(rows)` makes the rows of whole entries into lines."""
        made = cls(lifelines=lifelines, **{"host": host, "facts": facts_of(host), **keywords})
        made._read = read
        made.fed(host.trace.rows())
        return made

    # ------------------------------------------------- the lines

    def _clear(self) -> None:
        self.lines: list[Line] = []
        self.split: int | None = None  # how many lines both traces have in common
        self.left = 0  # where the lines of the first trace end
        self._texts: dict[str, int] = {"": 0}
        self._packed = np.zeros(0, COLUMN)
        self._sent = (0, 1)  # lines and texts that the views have

    def _take(self, lines: Iterable[Line], against: Iterable[Line] | None = None) -> None:
        mine = list(lines)
        if against is None:
            self._append(mine)
            return
        theirs = list(against)
        pairs = zip(mine, theirs, strict=False)
        self.split = next((i for i, (a, b) in enumerate(pairs) if a[1:6] != b[1:6]), min(len(mine), len(theirs)))
        self.left = len(mine)
        self._append(mine + theirs[self.split :])

    def _append(self, lines: Sequence[Line]) -> None:
        """Number the texts of new lines, and pack them."""
        known = {name for name, _ in self.lifelines}
        for name in dict.fromkeys(name for line in lines for name in (line.source, line.target)):
            if name and name not in known:
                self._add_lifeline(name)
        places = {name: i for i, (name, _) in enumerate(self.lifelines)}
        texts = self._texts
        packed = np.zeros(len(lines), COLUMN)
        for i, line in enumerate(lines):
            numbers = (texts.setdefault(text, len(texts)) for text in (line.label, line.answer, line.kind))
            source = places[line.source]
            packed[i] = (source, places.get(line.target, source), line.lock, line.bad, *numbers, line.n)
        self.lines += lines
        self._packed = np.concatenate([self._packed, packed])

    def _add_lifeline(self, name: str) -> None:
        """A lifeline that was not foreseen: at the end, or where `others` says; then all later ones move on."""
        if self.others is None:
            self.lifelines.append((name, ""))
            return
        at, letter = self.others
        self.lifelines.insert(at, (name, letter))
        self.others = at + 1, letter
        for column in ("source", "target"):
            self._packed[column][self._packed[column] >= at] += 1
        self._sent = 0, 0  # the views get everything anew

    def show(self, lines: Iterable[Line], against: Iterable[Line] | None = None) -> None:
        """Draw other lines."""
        with self.lock:
            self._clear()
            self._take(lines, against)
        self.mark()

    def fed(self, rows: list[dict[str, Any]]) -> None:
        if self._read is not None:
            self._append(self._read(rows))

    @property
    def empty(self) -> str:  # type: ignore[override]
        if self.lines:
            return ""
        if self.schedules and not self.picked:
            return "Pick an outcome: the steps of its first schedule become arrows."
        return "Nothing has happened. Each call you make becomes an arrow."

    # ------------------------------------------------- frames

    def full(self) -> Message:
        with self.lock:
            self._sent = 0, 0
            fields, buffers = self._news()
            fields |= {"split": self.split, "left": self.left, "names": list(self.names), "parting": self.parting, "again": True}
            fields |= {"schedules": [list(tile) for tile in self.schedules], "picked": self.picked}
            fields |= {"unit": self.unit, "say": self.says()}
            return fields, buffers

    def changes(self) -> Message | None:
        with self.lock:
            if self._sent[0] == 0 and self.lines:
                return self.full()
            fields, buffers = self._news()
            return {**fields, "say": self.says()}, buffers

    def _news(self) -> Message:
        """The lines and texts that the views have not."""
        first, known = self._sent
        self._sent = len(self.lines), len(self._texts)
        texts = "\0".join(list(self._texts)[known:])
        parts = [squeeze(data) for data in (self._packed[first:].tobytes(), texts.encode(errors="replace"))]
        fields = {"first": first, "known": known, "lifelines": [list(pair) for pair in self.lifelines], "z": [z for _, z in parts]}
        return fields, [data for data, _ in parts]

    # ------------------------------------------------- messages from the views

    def got_select(self, view: str, value: Any) -> None:
        super().got_select(view, value)
        if value is None:
            return
        line = self.lines[int(value)]
        if self.on_select is not None:
            self.call("What follows a selection", self.on_select, line)
        fields = [[name, _shown(entry)] for name, entry in line.fields.items()]
        drawn = self._layout(line, *self._views.get(view, (760, "M")))
        detail = {"n": line.n, "said": self.said(line), "fields": fields, "hex": "" if drawn else _hexdump(line.data), "svg": drawn}
        self.post({"kind": "detail", "index": int(value), **detail}, to=view)

    @staticmethod
    def _layout(line: Line, width: int, size: str) -> str:
        """The bytes that a line moved as a small Layout for its drawer; "" where nobody says what they are."""
        if not line.data or line.layout is None:
            return ""
        room = max(240, round({"S": width, "M": width - 320, "L": 0.3 * width}[size]) - 24)
        small = Layout(line.data, layout=line.layout)
        small.selected = None
        return str(small.picture(room, "M" if room >= 380 else "S"))

    def got_pick(self, view: str, schedule: str) -> None:
        """A schedule was picked: show its lines."""
        lines = self.call("The schedule", self.on_pick, schedule)
        with self.lock:
            self.picked = schedule
        if lines is not None:
            self.show(lines)
        else:
            self.mark()

    def draw_at(self, n: int | None) -> None:
        self.mark()

    # ------------------------------------------------- words

    def says(self) -> str:
        """The status line when nothing is selected."""
        if not self.lines:
            return self.empty
        count = len(self.lines) if self.split is None else self.left
        first, last = self.lines[0].n, self.lines[count - 1].n
        many = "entries" if self.unit == "entry" else f"{self.unit}s"
        said = f"{count:,} line{'s' * (count != 1)}, {many} {first} to {last}; {self._refused(count)}."
        if self.split is not None:
            a, b = (name or other for name, other in zip(self.names, ("the first", "the second"), strict=True))
            said += f" {a} and {b} have the first {self.split} in common" + (
                "." if self.split == count == len(self.lines) else f", {self.parting.replace('here', 'then', 1)}."
            )
        if self.schedules:
            said += f" {len(self.schedules)} outcomes of {sum(tile.schedules for tile in self.schedules)} schedules."
        return said

    def _refused(self, end: int) -> str:
        """How many lines were refused, of the first `end`; of two traces it is said of each, where they do not agree."""
        bad = sum(line.bad for line in self.lines[:end])
        if self.split is None:
            return f"{bad} refused"
        other = sum(line.bad for line in self.lines[: self.split] + self.lines[self.left :])
        return f"{bad} refused" if bad == other else f"{bad} refused, {other} of {self.names[1] or 'the second'}"

    def describe(self) -> str:
        head = f"{super().describe()}: {self.says()}"
        tiles = [
            f"  {tile.letter}: {', '.join(tile.ends)} ({tile.schedules}, the first {tile.schedule})" for tile in self.schedules
        ]
        shown = [f"  {self.said(line)}" for line in self.lines[:STATIC]]
        more = len(self.lines) - len(shown)
        return "\n".join([head, *tiles, *shown, *([f"  and {more:,} more"] if more else [])])

    def said(self, line: Line) -> str:
        """A line in words, with what its number counts."""
        return line.said.replace("entry", self.unit, 1)

    def table(self) -> Table:
        rows = [[line.n, line.source, line.target or line.source, line.label, line.answer, line.kind] for line in self.lines]
        head = [self.unit, "from", "to", "what", "answer", "kind"]
        if self.split is None:
            return head, rows
        of = [*["both"] * self.split, *[self.names[0]] * (self.left - self.split), *[self.names[1]] * (len(rows) - self.left)]
        return ["trace", *head], [[who, *row] for who, row in zip(of, rows, strict=True)]

    def svg(self) -> str:
        """The first lines as a picture; of two traces what they share, then what each goes on with."""
        if self.split is None:
            groups = [("", self.lines)]
        else:
            first, second = (name or other for name, other in zip(self.names, ("the first", "the second"), strict=True))
            groups = [("", self.lines[: self.split])]
            if self.split < len(self.lines):  # they part
                groups += [(f"{self.parting}: {first}", self.lines[self.split : self.left])]
                groups += [(second, self.lines[self.left :])]
        more = sum(max(0, len(lines) - STATIC) for _, lines in groups)
        shown = [(words, lines[:STATIC]) for words, lines in groups]
        notes = [*notes_of(self), *([f"and {more:,} more, in the table"] if more else [])]
        return LanesPicture(self.lifelines, shown).svg.file(" · ".join([self.title, *self.facts]), notes)


def _shown(value: Any) -> str:
    if isinstance(value, bytes | bytearray):
        return f"{len(value)} bytes"
    return f"{value:#x}" if isinstance(value, int) and value > 4095 else str(value)


def _hexdump(data: bytes) -> str:
    rows = []
    for at in range(0, min(len(data), 1024), 16):
        row = data[at : at + 16]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        rows.append(f"{at:04x}  {row.hex(' '):47}  {text}")
    return "\n".join(rows)
