"""How an AsidTimeline is drawn: rows of bars in three sizes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from sevlab_widgets.drawing import HEIGHTS
from sevlab_widgets.palette import BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILION, ink
from sevlab_widgets.picture import Svg, fit, width_of
from sevlab_widgets.slots import MIRROR, STEPS, USED, WAITING, Bar, When

if TYPE_CHECKING:
    from sevlab_widgets.timeline import AsidTimeline

COLOURS = (BLUE, ORANGE, GREEN, PURPLE, SKY)
ALL = 16  # up to so many slots every one has a row; of more, those that were ever used
HEAD, AXIS, CROSSES, GRAPH = 18, 21, 16, 20  # heights, px at M
GRAPHS = 4  # cgroups drawn at most
UNITS = ((1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "µs"), (1, "ns"))


def duration(ns: float) -> str:
    """Nanoseconds in the largest unit that leaves a number of at least one."""
    unit, name = next(((size, name) for size, name in UNITS if ns >= size), UNITS[-1])
    return f"{ns / unit:.3g} {name}" if ns else "0"


def ticks(end: float, most: int) -> list[float]:
    """Round numbers from 0 to `end`, at most `most` of them."""
    if end <= 0:
        return [0]
    rough = end / max(1, most - 1)
    size = 10 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough)
    return [i * step for i in range(int(end / step + 1e-9) + 1)]


class TimelinePicture:
    """The picture of a timeline for a stage of `width` px; `svg` is the result, `scale` px a unit of the axis."""

    def __init__(self, line: AsidTimeline, width: int, size: str) -> None:
        self.line = line
        self.slots = line.slots
        self.type = 1.35 if size == "L" else 1.0
        self.width = width
        self.size = size
        names = list(dict.fromkeys(bar.key for bar in self.slots.bars))
        self.colour = {key: COLOURS[i % len(COLOURS)] for i, key in enumerate(names)}
        labels = [text for name, a, b in self.slots.groups for text in (name, f"{a} to {b}")] + [
            label.partition(" ")[0] for label in self._graphs()
        ]
        widest = max((width_of(text, 12.5) for text in labels), default=0)
        self.gutter = min(widest, 110) * self.type + 8  # where the numbers of the slots begin
        self.left = round(self.gutter + 34 * self.type)
        self.right = width - 6
        end = line.end
        self.began = bool(end.n if line.by_entry else end.t)
        self.end = max(1, (end.n if line.by_entry else end.t) * 1.02)
        self.scale = (self.right - self.left) / self.end
        self.svg = self._now() if size == "S" else self._history()

    # ------------------------------------------------- where things lie

    def x(self, when: When) -> float:
        """A moment on the axis, px."""
        return self.left + (when.n if self.line.by_entry else when.t) * self.scale

    def rows(self) -> list[int | tuple[int, int]]:
        """What has a row, from top to bottom: a slot, or a stretch of slots that were never used."""
        ever = {bar.slot for bar in self.slots.bars}
        if self.slots.count <= ALL:
            return list(range(1, self.slots.count + 1))
        rows: list[int | tuple[int, int]] = []
        for _, first, last in self.slots.groups:
            for slot in range(first, last + 1):
                before = rows[-1] if rows else None
                if slot in ever:
                    rows.append(slot)
                elif isinstance(before, tuple) and before[1] == slot - 1 and slot != first:
                    rows[-1] = before[0], slot
                else:
                    rows.append((slot, slot))
        return rows

    # ------------------------------------------------- M and L

    def _history(self) -> Svg:
        rows = self.rows()
        graphs = self._graphs()
        head, axis, crosses, graph = (
            round(part * self.type) for part in (HEAD, AXIS, CROSSES if self.slots.refusals else 0, GRAPH)
        )
        room = HEIGHTS[self.size] - head - axis - crosses - graph * len(graphs)
        high = max(13 * self.type, min(22 * self.type, room / max(1, len(rows))))
        bottom = head + high * len(rows)
        svg = Svg(self.width, bottom + axis + crosses + graph * len(graphs))
        self._rows(svg, rows, head, high)
        self._axis(svg, bottom)
        place = {slot: head + i * high for i, slot in enumerate(rows)}
        for i, bar in enumerate(self.slots.bars):
            if bar.what != MIRROR:
                self._bar(svg, i, bar, place[bar.slot], high)
        for i, bar in enumerate(self.slots.bars):
            if bar.what == MIRROR:
                self._bar(svg, i, bar, place[bar.slot], high)
        self._flushes(svg, head, bottom)
        self._refusals(svg, bottom + axis)
        for i, label in enumerate(graphs):
            self._graph(svg, label, bottom + axis + crosses + i * graph, graph)
        self._past(svg, head, bottom)
        return svg

    def _rows(self, svg: Svg, rows: list[Any], head: float, high: float) -> None:
        size = min(12 * self.type, high - 1)
        for name, first, last in self.slots.groups:
            mine = [i for i, row in enumerate(rows) if first <= (row if isinstance(row, int) else row[0]) <= last]
            if not mine:
                continue
            top, end = head + mine[0] * high, head + (mine[-1] + 1) * high
            x = self.gutter
            svg.path(f"M{x + 4:.1f} {top + 2:.1f}H{x:.1f}V{end - 2:.1f}H{x + 4:.1f}", "line")
            svg.text(0, top + 11 * self.type, name, "bold", size=12 * self.type)
            if end - top >= 26 * self.type:
                svg.text(0, top + 25 * self.type, f"{first} to {last}", "soft", size=12 * self.type)
            if first != 1:
                svg.line(0, top, self.right, top, "rule")
        for i, row in enumerate(rows):
            y = head + i * high
            if isinstance(row, int):
                svg.line(self.left, y + high - 0.5, self.right, y + high - 0.5, "rule")
                svg.text(self.left - 6, y + high / 2 + size * 0.36, str(row), "soft end", size=size)
            else:
                many = f"slots {row[0]} to {row[1]}: never used" if row[0] != row[1] else f"slot {row[0]}: never used"
                svg.text(self.left + 4, y + high / 2 + size * 0.36, many, "soft", size=size)

    def _bar(self, svg: Svg, index: int, bar: Bar, top: float, high: float) -> None:
        x, end = self.x(bar.start), self.x(bar.end) if bar.end else self.right
        width, inner = max(2.0, end - x), high - 3
        lit = bar.key == self._lit
        drag = "x" if self.line.on_move is not None and bar.what == USED else None
        step = self.scale if self.scale >= 4 else None
        with svg.item(self.line.key(index), say=self.line.say(bar), drag=drag, data_step=step, style="lit" if lit else ""):
            if bar.what == MIRROR:
                svg.rect(x + 3, top + inner * 0.7, max(2.0, width - 6), max(3.0, inner * 0.3), "fill edge", fill="#ffffff", rx=1)
                return
            if bar.what == WAITING:
                svg.rect(x + 0.5, top + 1.5, width - 1, inner - 1, "hatch")
                return
            colour = self.colour[bar.key]
            svg.rect(x + 0.5, top + 1.5, width - 1, inner - 1, "fill edge", fill=colour, rx=1)
            name = (
                bar.name
                + (f" · {bar.note}" if self.size == "L" and bar.note else "")
                + (f" · {bar.group}" if self.size == "L" and bar.group else "")
            )
            size = min(12 * self.type, inner - 1)
            shown = fit(name, width - 8, size) or fit(bar.name, width - 8, size)
            if shown:
                svg.text(x + 5, top + 1 + inner / 2 + size * 0.35, shown, style_=f"fill:{ink(colour)}", size=size)

    @property
    def _lit(self) -> str:
        bar = self.line.bar(self.line.selected)
        return bar.key if bar else ""

    def _axis(self, svg: Svg, bottom: float) -> None:
        size = 12 * self.type
        for value in ticks(self.end, max(2, int((self.right - self.left) / (90 * self.type)))) if self.began else [0]:
            x = self.left + value * self.scale
            text = (f"entry {value:.0f}" if value else "entry 0") if self.line.by_entry else duration(value)
            svg.line(x, bottom, x, bottom + 4, "rule")
            if x + width_of(text, size) / 2 <= self.right + 6:
                svg.text(x, bottom + 5 + size, text, "soft middle", size=size)

    def _flushes(self, svg: Svg, head: float, bottom: float) -> None:
        side, before = 13 * self.type, -math.inf
        for i, flush in enumerate(self.slots.flushes):
            x = round(self.x(flush.when)) + 0.5
            with svg.item(f"flush {i}", say=self.line.say(flush)):
                svg.line(x, head - 2, x, bottom, "broken" if flush.error else "line")
                if x - before > 2 * side + 6:
                    for step, (letter, _) in enumerate(STEPS):
                        left = x + (step - 1) * (side + 1) + 0.5
                        svg.rect(left, head - side - 3, side, side, "box", rx=2)
                        svg.text(left + side / 2, head - side - 3 + side * 0.79, letter, "bold middle", size=side * 0.78)
                    if flush.error:
                        svg.line(x, head - side - 3, x + side + 2, head - 2, "fail")
                    before = x

    def _refusals(self, svg: Svg, top: float) -> None:
        size, y, r = 12 * self.type, top + 8 * self.type, 4 * self.type
        places = [self.x(one.when) for one in self.slots.refusals]
        taken = [(x - r - 2, x + r + 2) for x in places]  # what a text must leave free
        for i, (refusal, x) in enumerate(zip(self.slots.refusals, places, strict=True)):
            text = f"{refusal.answer}: {refusal.cause}" if refusal.cause else refusal.answer
            wide = width_of(text, size) * 1.1
            with svg.item(f"refusal {i}", say=self.line.say(refusal)):
                svg.path(
                    f"M{x - r:.1f} {y - r:.1f}L{x + r:.1f} {y + r:.1f}M{x + r:.1f} {y - r:.1f}L{x - r:.1f} {y + r:.1f}", "fail"
                )
                for at, style, room in ((x + 9, "", (x + r + 3, x + 13 + wide)), (x - 9, "end", (x - 13 - wide, x - r - 3))):
                    inside = self.left <= room[0] and room[1] <= self.right + 4
                    if inside and not any(a < room[1] and room[0] < b for a, b in taken):
                        svg.text(at, y + size * 0.36, text, style, size=size)
                        taken.append(room)
                        break

    def _graphs(self) -> list[str]:
        return sorted(self.slots.levels)[:GRAPHS]

    def _graph(self, svg: Svg, label: str, top: float, high: float) -> None:
        steps, limit = self.slots.levels[label], self.slots.limits.get(label)
        most = max([count for _, count in steps] + ([limit] if limit else []) + [1])
        size, floor, room = 12 * self.type, top + high - 3, high - 7
        path = f"M{self.left} {floor:.1f}"
        for when, count in steps:
            path += f"H{self.x(when):.1f}V{floor - room * count / most:.1f}"
        now = f"{steps[-1][1]} of {limit}" if limit else str(steps[-1][1])
        with svg.item(label, say=f"misc.current of {label}: {now}, at most {max(count for _, count in steps)} so far."):
            svg.rect(self.left, floor - room - 2, self.right - self.left, room + 4, "bare")
            if limit:
                y = floor - room * limit / most
                svg.line(self.left, y, self.right, y, "dotted")
            svg.path(f"{path}H{self.right}", "line")
            svg.text(0, floor - room / 2 + size * 0.36, label.partition(" ")[0], room=self.gutter, size=size)
            svg.text(
                self.left - 6,
                floor - room / 2 + size * 0.36,
                f"{steps[-1][1]}/{limit}" if limit else str(steps[-1][1]),
                "soft end",
                size=size,
            )

    def _past(self, svg: Svg, head: float, bottom: float) -> None:
        if self.line.entry is None:
            return
        moments = (
            [bar.start for bar in self.slots.bars]
            + [bar.end for bar in self.slots.bars if bar.end]
            + [flush.when for flush in self.slots.flushes]
        )
        n = self.line.entry
        known = max((moment.t for moment in moments if moment.n <= n), default=0)
        x = self.left + (n if self.line.by_entry else known) * self.scale
        svg.rect(x, head, self.right - x, bottom - head, "veil")
        svg.line(x, head - 6, x, bottom + 4, "now")
        svg.path(f"M{x - 5:.1f} {head - 6:.1f}h10l-5 6z", "nowhead")

    # ------------------------------------------------- S

    def _now(self) -> Svg:
        slots, width = self.slots.at(self.line.entry), self.width
        columns = max(2, int(width / 84))
        rows = [row for row in self.rows() if isinstance(row, int)][: columns * 6]
        if not rows:
            rows = list(range(1, min(slots.count, columns * 4) + 1))
        cell, high = (width - 2) / columns, 22
        lines = math.ceil(len(rows) / columns)
        svg = Svg(width, lines * high + 20)
        for i, slot in enumerate(rows):
            x, y = 1 + i // lines * cell, i % lines * high
            bar = slots.state(slot)
            index = (
                self.slots.bars.index(
                    next(b for b in self.slots.bars if b.slot == slot and b.start == bar.start and b.what == bar.what)
                )
                if bar
                else -1
            )
            key = self.line.key(index) if bar else f"slot {slot}"
            with svg.item(key, say=self.line.say(bar) if bar else f"Slot {slot} ({slots.kind(slot)}): free."):
                svg.text(x + 18, y + 15, str(slot), "soft end")
                inside = cell - 28
                if bar is None:
                    svg.rect(x + 22, y + 2.5, inside, high - 5, "void")
                elif bar.what == WAITING:
                    svg.rect(x + 22, y + 2.5, inside, high - 5, "hatch")
                else:
                    svg.rect(x + 22, y + 2.5, inside, high - 5, "fill edge", fill=self.colour[bar.key])
                    svg.text(x + 26, y + 15, bar.name, room=inside - 6, style_=f"fill:{ink(self.colour[bar.key])}")
        flushes = len(slots.flushes)
        more = slots.count - len(rows)
        svg.text(
            1,
            lines * high + 14,
            f"{flushes} flush{'' if flushes == 1 else 'es'}" + (f" · {more} more slots never used" if more > 0 else ""),
            "soft",
        )
        return svg

    # ------------------------------------------------- legend

    @staticmethod
    def swatch(svg: Svg, what: str) -> None:
        """A mark of the legend, 18 px square."""
        if what == USED:
            svg.rect(1, 4.5, 16, 10, "fill edge", fill=BLUE)
        elif what == MIRROR:
            svg.rect(1, 4.5, 16, 10, "fill edge", fill=BLUE)
            svg.rect(3, 10, 12, 3, "fill edge", fill="#ffffff")
        elif what == WAITING:
            svg.rect(1, 4.5, 16, 10, "hatch")
        elif what == "flush":
            svg.line(9, 1, 9, 17)
        else:
            svg.path("M5 5L13 13M13 5L5 13", "fail", stroke=VERMILION)
