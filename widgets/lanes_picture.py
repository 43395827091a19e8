"""The still picture of a Lanes: its first lines, for files and for readers without a front end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from sevlab_widgets.palette import PARTIES
from sevlab_widgets.picture import Svg, width_of

if TYPE_CHECKING:
    from sevlab_widgets.lanes import Line

WIDTH, TOP, HIGH = 760, 30, 24  # px: of the picture, of the lifelines' names, of a line
TAKEN, GIVEN, AWAITED = 1, 2, 4  # Line.lock: what became of a lock of this lifeline


def stretches(lines: Sequence[Line]) -> Iterator[tuple[str, int, int, bool]]:
    """Where a lifeline holds a lock, or waits for one: (lifeline, from line, to line, whether it waits)."""
    held: dict[str, list[int]] = {}
    waits: dict[str, int] = {}
    for i, line in enumerate(lines):
        mine = held.setdefault(line.source, [])
        if line.lock == AWAITED:
            waits[line.source] = i
        elif line.lock == TAKEN:
            if line.source in waits:
                yield line.source, waits.pop(line.source), i, True
            mine.append(i)
        elif line.lock == GIVEN and mine:
            yield line.source, mine.pop(), i, False
    for name, starts in held.items():
        yield from ((name, start, len(lines) - 1, False) for start in starts)
    yield from ((name, start, len(lines) - 1, True) for name, start in waits.items())


class LanesPicture:
    """Draws the groups of lines one below the other, each behind its words: one trace, or both behind what they share."""

    def __init__(self, lifelines: Sequence[tuple[str, str]], groups: Sequence[tuple[str, Sequence[Line]]]) -> None:
        self.groups = groups
        touched = {name for _, lines in groups for line in lines for name in (line.source, line.target)}
        self.columns = [pair for pair in lifelines if pair[0] in touched or not touched]
        self.letters = dict(self.columns)
        step = (WIDTH - 70) / max(1, len(self.columns))
        self.at = {name: 70 + step * (i + 0.5) for i, (name, _) in enumerate(self.columns)}
        rows = sum(len(lines) + bool(words) for words, lines in groups)
        self.svg = Svg(WIDTH, TOP + HIGH * rows + 8)
        for name, letter in self.columns:
            party = PARTIES.get(letter)
            if party is not None:
                self.svg.letter(self.at[name] - 8, 0, party.letter, party.colour)
            self.svg.text(self.at[name], 28, name, "soft middle", room=step - 4, size=11)
            self.svg.line(self.at[name], TOP + 4, self.at[name], self.svg.height, "rule")
        top = TOP
        for words, lines in groups:
            if words:
                self._border(top, words)
                top += HIGH
            self._locks(top, lines)
            for i, line in enumerate(lines):
                self._line(top + HIGH * i + 18, line)
            top += HIGH * len(lines)

    def _border(self, top: float, words: str) -> None:
        self.svg.rect(0, top + 5, WIDTH, HIGH - 6, "fill", fill="#ececec")
        self.svg.text(8, top + 18, words, "bold", size=11)

    def _locks(self, top: float, lines: Sequence[Line]) -> None:
        for name, start, end, waits in stretches(lines):
            x, y, to = self.at[name], top + HIGH * start + 18, top + HIGH * end + 18
            party = PARTIES.get(self.letters[name])
            if waits:
                self.svg.line(x, y, x, to, "dotted")
            else:
                self.svg.rect(x - 2.5, y, 5, max(4, to - y), "fill", fill=party.colour if party else "#1976d2")

    def _line(self, y: float, line: Line) -> None:
        x, to = self.at[line.source], self.at[line.target or line.source]
        self.svg.text(34, y, str(line.n), "soft end", size=11)
        if x == to:
            self.svg.rect(x - 3, y - 6, 6, 6, "fill edge", fill="#8a8a8a")
        else:
            self.svg.line(x, y, to, y, "fail" if line.bad else "line", arrow=True)
        words, style = f"{line.label}  {line.answer}".rstrip(), "bold" if line.bad else ""
        left = min(min(x, to) + 7, WIDTH - width_of(words, 11) * (1.1 if style else 1) - 2)
        self.svg.text(left, y - 4, words, style, size=11)
