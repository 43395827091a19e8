"""The drawing of a Ladder: rungs as rows, who checks as headings, two designs side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sevlab_widgets.palette import PARTIES, VERMILION
from sevlab_widgets.picture import Svg, fit, width_of

if TYPE_CHECKING:
    from sevlab_widgets.ladder import Ladder, Rung

LINE, PAD, HEAD, GAP = 17, 7, 30, 44  # a line of words, above and below them, a heading, between two columns
SIGNS = {"passed": "✓", "refused": "✕", "unasked": "", "also": "!", "open": ""}


def lines_of(text: str, room: float, size: float, most: int = 3) -> list[str]:
    """`text` in lines of at most `room` px; the last one is cut where there would be more than `most`."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and width_of(longer, size) <= room:
            lines[-1] = longer
        else:
            lines.append(word)
    if len(lines) > most:
        lines = [*lines[: most - 1], " ".join(lines[most - 1 :])]
    return [fit(line, room, size) or line for line in lines] or [""]


class LadderPicture:
    """One picture of a ladder, in `svg`."""

    def __init__(self, ladder: Ladder, width: int, size: str) -> None:
        self.ladder, self.width, self.size = ladder, width, size
        self.type = 17 if size == "L" else 12.5
        self.scale = self.type / 12.5
        self.one = ladder.one if size == "S" else None
        two = len(ladder.columns) == 2 and self.one is None
        gap = GAP * self.scale if two else 0
        sources = any(rung.source for column in ladder.columns for rung in column.rungs)
        self.source = min(0.28 * width, 25 * self.type) if size == "L" and sources else 0  # the last column, where there is room
        self.wide = (width - gap - 8 - (self.source + 24 * self.scale if self.source else 0)) / (2 if two else 1)
        self.lefts = [4.0, 4.0 + self.wide + gap if two else 4.0]
        self.number = (22 if size != "S" else 20) * self.scale
        self.code = max([self._code_width(rung) for column in ladder.columns for rung in column.rungs] or [0]) + 8
        self.code = min(self.code, self.wide * 0.4)
        self.svg = Svg(width, 0)
        self._draw()

    def _code_width(self, rung: Rung) -> float:
        bold = max(width_of(rung.code, self.type), width_of(rung.fw, self.type * 0.9))
        return bold * 1.12

    def _short(self, rung: Rung) -> bool:
        return self.size == "S" and rung.state != "refused"

    def _room(self) -> float:
        return self.wide - self.number - 26 * self.scale - self.code - 14 * self.scale

    def _lines(self, rung: Rung) -> list[str]:
        bold = 1.12 if rung.state == "refused" else 1  # is wider
        return [] if self._short(rung) else lines_of(rung.words, self._room() / bold, self.type, 4)

    def _opened(self, column: int, number: int) -> bool:
        """Whether the source of a rung stands below its words: where it has no column of its own."""
        rung = self.ladder.columns[column].rungs[number]
        return self.ladder.opened == f"{column}/{number}" and bool(rung.source) and not self.source

    def _codes(self, rung: Rung) -> list[str]:
        room = self.wide - self.number - 30 * self.scale if self._short(rung) else self.code
        return lines_of(rung.code, room / 1.12, self.type, 4)

    def _sources(self, rung: Rung) -> list[str]:
        return lines_of(rung.source, self.source / 1.1, self.type * 0.9, 3) if self.source and rung.source else []

    def _height(self, column: int, number: int | None) -> float:
        if number is None:
            return 0
        rung = self.ladder.columns[column].rungs[number]
        count = max(1, len(self._lines(rung)))
        count += rung.state == "also" and not self._short(rung)
        count += bool(rung.tag)
        if self._opened(column, number):
            count += len(lines_of(rung.source, self._room(), self.type, 3))
        below = bool(rung.fw) and rung.state == "refused"  # the firmware's code stands under the kernel's
        count = max(count, len(self._sources(rung)), len(self._codes(rung)) + below)
        pad = PAD * (1.5 if rung.state == "refused" else 0.6 if self.size == "S" else 1)
        return (count * LINE + pad) * self.scale

    def _draw(self) -> None:
        ladder, scale, y = self.ladder, self.scale, 0.0
        if len(ladder.columns) == 2 and self.one is None:
            for left, column in zip(self.lefts, ladder.columns, strict=False):
                self.svg.text(left, 15 * scale, column.name, "bold", room=self.wide, size=self.type)
            y = 24 * scale
        if self.source:
            self.svg.text(self.width - 4 - self.source, 15 * scale, "where the fact comes from", "soft", size=self.type * 0.9)
        by: str | None = None
        for pair in self._pairs():
            rungs = [ladder.columns[i].rungs[n] if n is not None else None for i, n in enumerate(pair[: len(ladder.columns)])]
            first = next(rung for rung in rungs if rung is not None)
            if first.by != by:
                by = first.by
                y = self._heading(first, y)
            height = max(self._height(i, n) for i, n in enumerate(pair))
            for column, number in enumerate(pair[: len(rungs)]):
                if number is not None:  # a rung that only the other column has leaves a gap
                    self._rung(column, number, y, height)
            if len(rungs) == 2 and None not in rungs:
                middle = y + height / 2
                self.svg.line(self.lefts[0] + self.wide + 3, middle, self.lefts[1] - 3, middle, "rule")
            for i, line in enumerate(self._sources(first)):
                base = y + (PAD * 0.5 + 12.6 + i * LINE) * scale
                self.svg.text(self.width - 4 - self.source, base, line, "soft", size=self.type * 0.9)
            y += height + 3 * scale
        self.svg.height = max(round(y), 40)

    def _pairs(self) -> list[tuple[int | None, int | None]]:
        """What stands beside what; of one column alone, nothing."""
        if self.one is None:
            return self.ladder.pairs
        numbers = range(len(self.ladder.columns[self.one].rungs))
        return [(n, None) if self.one == 0 else (None, n) for n in numbers]

    def _heading(self, rung: Rung, y: float) -> float:
        scale = self.scale
        if not rung.by:
            return y
        top = y + (8 * scale if y else 0)
        party = PARTIES.get(rung.letter)
        left = self.lefts[0]
        if party is not None:
            self.svg.letter(left, top, party.letter, party.colour, 16 * scale)
            left += 22 * scale
        self.svg.text(left, top + 12.5 * scale, f"the {rung.by} refuses if", "soft", size=self.type * 0.96)
        return top + 21 * scale

    def _rung(self, column: int, number: int, y: float, height: float) -> None:
        ladder, scale, left = self.ladder, self.scale, self.lefts[column]
        rung = ladder.columns[column].rungs[number]
        key = f"{column}/{number}"
        faint = rung.state in ("unasked", "also")
        with self.svg.item(key, say=ladder.sentence(column, number), act=bool(rung.source)):
            self._ground(rung, left, y, height)
            base = y + ((PAD * (0.75 if rung.state == "refused" else 0.3 if self.size == "S" else 0.5)) + 12.6) * scale
            ink = "soft" if faint else ""
            self.svg.text(left + self.number - 4 * scale, base, str(number + 1), "soft end", size=self.type * 0.92)
            self._sign(rung, left + self.number + 9 * scale, base - 4.4 * scale)
            x = left + self.number + 24 * scale
            for i, line in enumerate(self._lines(rung)):
                self.svg.text(x, base + i * LINE * scale, line, ("bold" if rung.state == "refused" else ink), size=self.type)
            after = base + max(1, len(self._lines(rung))) * LINE * scale
            if rung.state == "also" and not self._short(rung):
                self.svg.text(x, after, "also wrong, never asked", "soft", size=self.type * 0.92, font_style="italic")
                after += LINE * scale
            if rung.tag:
                self.svg.tag(x, after, rung.tag, self.scale)
                after += LINE * scale
            if self._opened(column, number):
                for line in lines_of(rung.source, self._room(), self.type, 3):
                    self.svg.text(x, after, line, "soft", size=self.type * 0.92)
                    after += LINE * scale
            self._code(rung, left + self.wide - 8 * scale, base, ink)

    def _ground(self, rung: Rung, left: float, y: float, height: float) -> None:
        """What a rung stands on: a beam for the one that refused, a hairline for the rest."""
        if rung.state == "refused":
            self.svg.rect(left, y, self.wide, height, "fill", fill=VERMILION, fill_opacity=0.12, rx=3)
            self.svg.rect(left, y, self.wide, height, "fail", rx=3)
        else:
            self.svg.rect(left, y, self.wide, height, "bare")
            self.svg.line(left, y + height + 1, left + self.wide, y + height + 1, "rule")

    def _sign(self, rung: Rung, x: float, y: float) -> None:
        size = 6.5 * self.scale
        if rung.state == "passed":
            self.svg.path(
                f"M{x - size * 0.6:.1f} {y:.1f}l{size * 0.45:.1f} {size * 0.5:.1f}l{size * 0.8:.1f} {-size * 1.1:.1f}",
                "line",
                stroke_width=1.8 * self.scale,
            )
        elif rung.state == "refused":
            self.svg.add("circle", "fill edge", cx=x, cy=y, r=size * 1.15, fill=VERMILION)
            self.svg.text(x, y + 4.2 * self.scale, "✕", "bold middle", size=self.type * 0.86, style_="fill:#111")
        elif rung.state == "also":
            self.svg.add("circle", "void", cx=x, cy=y, r=size, stroke_dasharray="2 2")
            self.svg.text(x, y + 4.2 * self.scale, "!", "soft bold middle", size=self.type * 0.86)
        else:
            self.svg.add("circle", "void", cx=x, cy=y, r=size * 0.55)

    def _code(self, rung: Rung, right: float, base: float, ink: str) -> None:
        style = "bold end" if rung.state == "refused" else f"{ink} end"
        for line in self._codes(rung):
            self.svg.text(right, base, line, style, size=self.type)
            base += LINE * self.scale
        if rung.fw and rung.state == "refused":
            self.svg.text(right, base, rung.fw, "end", room=self.code, size=self.type * 0.9)
