"""How an AsidTimeline is drawn: rows of bars in three sizes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from sevlab_widgets.drawing import HEIGHTS
from sevlab_widgets.palette import BLUE, GREEN, ORANGE, PURPLE, SKY, ink
from sevlab_widgets.picture import Svg, fit, width_of
from sevlab_widgets.slots import MIRROR, STEPS, USED, WAITING, Bar, When

if TYPE_CHECKING:
    from sevlab_widgets.timeline import AsidTimeline

COLOURS = (BLUE, ORANGE, GREEN, PURPLE, SKY)
ALL = 16  # up to so many slots every one has a row; of more, those that were ever used
HEAD, AXIS, CROSSES, GRAPH = 18, 21, 16, 19  # heights, px at M
ROW, THIN = 15, 5  # a row is at least so high, and so much higher where mirrors share the slot
WIDER = 1.08  # of a name in a bar: some faces are so much wider than `width_of` says
GRAPHS = {"M": 2, "L": 4}  # cgroups drawn at most
UNITS = ((1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "µs"), (1, "ns"))


def duration(ns: float) -> str:
    """Nanoseconds in the largest unit that leaves a number of at least one."""
    unit, name = next(((size, name) for size, name in UNITS if ns >= size), UNITS[-1])
    return f"{ns / unit:.3g} {name}" if ns else "0"


def ticks(end: float, most: int, least: float = 0) -> list[float]:
    """Round numbers from 0 to `end`, at most `most` of them, not closer than `least`."""
    if end <= 0:
        return [0]
    rough = end / max(1, most - 1)
    size = 10 ** math.floor(math.log10(rough))
    step = max(least, next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough))
    return [i * step for i in range(int(end / step + 1e-9) + 1)]


def tail(text: str, room: float, size: float) -> str:
    """The end of `text` where it is too long: of a path that says most."""
    short = text
    while len(short) > 1 and width_of(f"…{short}", size) > room:
        short = short[1:]
    return text if width_of(text, size) <= room else f"…{short}"


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
        self.keys = line.bar_keys()
        chosen = line.bar(line.selected)
        self._lit = chosen.key if chosen else ""
        self.mirrored = {bar.slot for bar in self.slots.bars if bar.what == MIRROR}
        labels = [text for name, a, b in self.slots.groups for text in (name, f"{a} to {b}")]
        labels += [self._purse(label) for label in self._graphs()]
        widest = max((width_of(text, 12.5) for text in labels), default=0)
        self.gutter = min(widest, 110) * self.type + 8  # where the numbers of the slots begin
        digits = max([len(str(self.slots.count))] + [len(self._level(label)) for label in self._graphs()])
        self.left = round(self.gutter + (14 + 7.5 * max(2, digits)) * self.type)
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

    def rows(self, tight: bool = False) -> list[int | tuple[int, int]]:
        """What has a row, from top to bottom: a slot, or, of many and where it is `tight`, slots that were never used."""
        ever = {bar.slot for bar in self.slots.bars}
        if self.slots.count <= ALL and not (tight and ever):
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
        graphs = self._graphs()
        head, axis, crosses, graph = (
            round(part * self.type) for part in (HEAD, AXIS, CROSSES if self.slots.refusals else 0, GRAPH)
        )
        more = len(self.slots.levels) - len(graphs)
        below = axis + crosses + graph * len(graphs) + (14 * self.type if more else 0)
        room = HEIGHTS[self.size] - head - below
        rows = self.rows()
        if len(rows) * ROW * self.type > room:
            rows = self.rows(tight=True)
        high = max(ROW * self.type, min(22 * self.type, room / max(1, len(rows))))
        tops = [head + 0.0]
        for row in rows:
            tops.append(tops[-1] + high + (THIN * self.type if row in self.mirrored else 0))
        bottom = tops[-1]
        svg = Svg(self.width, bottom + below)
        self._rows(svg, rows, tops, high)
        self._axis(svg, bottom)
        place = dict(zip(rows, tops, strict=False))
        for mirrors in (False, True):
            for i, bar in enumerate(self.slots.bars):
                if (bar.what == MIRROR) is mirrors:
                    self._bar(svg, i, bar, place[bar.slot], high)
        self._flushes(svg, head, bottom)
        self._refusals(svg, bottom + axis)
        for i, label in enumerate(graphs):
            self._graph(svg, label, bottom + axis + crosses + i * graph, graph)
        if more:
            said = f"and {more} more cgroup{'s' * (more > 1)}, in the table"
            svg.text(0, svg.height - 4 * self.type, said, "soft", size=12 * self.type)
        self._past(svg, head, bottom, bottom + axis + crosses)
        return svg

    def _rows(self, svg: Svg, rows: list[Any], tops: list[float], high: float) -> None:
        size = 12 * self.type
        for name, first, last in self.slots.groups:
            mine = [i for i, row in enumerate(rows) if first <= (row if isinstance(row, int) else row[0]) <= last]
            if not mine:
                continue
            top, end = tops[mine[0]], tops[mine[-1] + 1]
            x = self.gutter
            svg.path(f"M{x + 4:.1f} {top + 2:.1f}H{x:.1f}V{end - 2:.1f}H{x + 4:.1f}", "line")
            svg.text(0, top + 12 * self.type, name, "bold", size=size)
            if end - top >= 28 * self.type:
                svg.text(0, top + 26 * self.type, f"{first} to {last}", "soft", size=size)
            if first != 1:
                svg.line(0, top, self.right, top, "rule")
        for row, y, end in zip(rows, tops, tops[1:], strict=False):
            base = y + high / 2 + size * 0.36
            if isinstance(row, int):
                svg.line(self.left, end - 0.5, self.right, end - 0.5, "rule")
                svg.text(self.left - 6, base, str(row), "soft end", size=size)
            else:
                many = f"slots {row[0]} to {row[1]}: never used" if row[0] != row[1] else f"slot {row[0]}: never used"
                svg.text(self.left + 4, base, many, "soft", size=size)

    def _bar(self, svg: Svg, index: int, bar: Bar, top: float, high: float) -> None:
        x, end = self.x(bar.start), self.x(bar.end) if bar.end else self.right
        width, inner = max(2.0, end - x), high - 3
        thin = THIN * self.type if bar.slot in self.mirrored else 0
        lit = bar.key == self._lit
        drag = "x" if self.line.on_move is not None and bar.what == USED else None
        step = self.scale if self.scale >= 4 else None
        with svg.item(self.keys[index], say=self.line.say(bar), drag=drag, data_step=step, style="lit" if lit else ""):
            if bar.what == MIRROR:  # below the name of whose slot it is
                svg.rect(x + 3, top + inner, max(2.0, width - 6), thin - 1, "fill edge", fill="#ffffff", rx=1)
                return
            if bar.what == WAITING:
                svg.rect(x + 0.5, top + 1.5, width - 1, inner + thin - 1, "hatch")
                return
            colour = self.colour[bar.key]
            svg.rect(x + 0.5, top + 1.5, width - 1, inner + thin - 1, "fill edge", fill=colour, rx=1)
            name = (
                bar.name
                + (f" · {bar.note}" if self.size == "L" and bar.note else "")
                + (f" · {bar.group}" if self.size == "L" and len(bar.group) > 1 else "")
            )
            size = min(12 * self.type, inner - 1)
            clear = [(text, self._clear(x + 5, width_of(text, size) * WIDER)) for text in dict.fromkeys((name, bar.name))]
            for text, at in [*clear, (bar.name, x + 5)]:  # rather crossed by a flush than cut
                shown = fit(text, (end - at - 3) / WIDER, size)
                if shown == text or (shown and at == x + 5 and text == bar.name):
                    svg.text(at, top + 1 + inner / 2 + size * 0.35, shown, style_=f"fill:{ink(colour)}", size=size)
                    break

    def _clear(self, x: float, wide: float) -> float:
        """From `x` on, the first place where a text of this width is crossed by no flush."""
        for line in sorted(self.x(flush.when) for flush in self.slots.flushes):
            if x - 3 < line < x + wide + 2:
                x = line + 5
        return x

    def _axis(self, svg: Svg, bottom: float) -> None:
        size, least = 12 * self.type, 1 if self.line.by_entry else 0
        most = max(2, int((self.right - self.left) / (90 * self.type)))
        for value in ticks(self.end, most, least) if self.began else [0]:
            x = self.left + value * self.scale
            text = f"{self.line.unit or 'entry'} {value:.0f}" if self.line.by_entry else duration(value)
            svg.line(x, bottom, x, bottom + 4, "rule")
            if x + width_of(text, size) / 2 <= self.right + 6:
                svg.text(x, bottom + 5 + size, text, "soft middle", size=size)

    def _flushes(self, svg: Svg, head: float, bottom: float) -> None:
        side, before = 13 * self.type, -math.inf
        for i, flush in enumerate(self.slots.flushes):
            x = round(self.x(flush.when)) + 0.5
            wide = 2 * side + 2 + (side if flush.error else 0)
            with svg.item(f"flush {i}", say=self.line.say(flush)):
                svg.line(x, head - 2, x, bottom, "broken" if flush.error else "line")
                start = min(x - side - 0.5, self.width - wide)
                if start > before:
                    top = head - side - 3
                    for step, (letter, _) in enumerate(STEPS):
                        left = start + step * (side + 1)
                        svg.rect(left, top, side, side, "box", rx=2)
                        svg.text(left + side / 2, top + side * 0.79, letter, "bold middle", size=side * 0.78)
                    if flush.error:
                        cross(svg, start + 2 * side + 2 + side / 2, top + side / 2, side * 0.3)
                    before = start + wide + 2

    def _refusals(self, svg: Svg, top: float) -> None:
        size, y, r = 12 * self.type, top + 8 * self.type, 4 * self.type
        places = [self.x(one.when) for one in self.slots.refusals]
        taken = [(x - r - 2, x + r + 2) for x in places]  # what a text must leave free
        for i, (refusal, x) in enumerate(zip(self.slots.refusals, places, strict=True)):
            text = f"{refusal.answer}: {refusal.cause}" if refusal.cause else refusal.answer
            wide = width_of(text, size) * 1.1
            with svg.item(f"refusal {i}", say=self.line.say(refusal)):
                cross(svg, x, y, r)
                gap = r + 5
                for at, style, room in ((x + gap, "", (x + r + 3, x + gap + wide)), (x - gap, "end", (x - gap - wide, x - r - 3))):
                    inside = self.left <= room[0] and room[1] <= self.right + 4
                    if inside and not any(a < room[1] and room[0] < b for a, b in taken):
                        svg.text(at, y + size * 0.36, text, style, size=size)
                        taken.append(room)
                        break

    # ------------------------------------------------- cgroups

    def _graphs(self) -> list[str]:
        """The cgroups that are drawn: those with a limit first, then those that pay for most."""
        levels, limits = self.slots.levels, self.slots.limits
        wanted = sorted(levels, key=lambda label: (label not in limits, -max(count for _, count in levels[label]), label))
        return sorted(wanted[: GRAPHS.get(self.size, 0)])

    @staticmethod
    def _purse(label: str) -> str:
        """A label as it is drawn: the cgroup's path, and ES where it is slots of that kind."""
        path, _, resource = label.partition(" ")
        return f"{path} ES" if resource == "sev_es" else path

    def _count(self, label: str) -> int:
        """What a cgroup is charged at the moment that is drawn."""
        entry = self.line.entry
        return [count for when, count in self.slots.levels[label] if entry is None or when.n <= entry][-1]

    def _level(self, label: str) -> str:
        limit = self.slots.limits.get(label)
        return f"{self._count(label)}/{limit}" if limit else str(self._count(label))

    def _graph(self, svg: Svg, label: str, top: float, high: float) -> None:
        steps, limit = self.slots.levels[label], self.slots.limits.get(label)
        most = max([count for _, count in steps] + ([limit] if limit else []) + [1])
        size, floor, room = 12 * self.type, top + high - 3, high - 7
        path = f"M{self.left} {floor:.1f}"
        for when, count in steps:
            path += f"H{self.x(when):.1f}V{floor - room * count / most:.1f}"
        now = f"{self._count(label)} of {limit}" if limit else str(self._count(label))
        base = floor - room / 2 + size * 0.36
        with svg.item(label, say=f"misc.current of {label}: {now}, at most {max(count for _, count in steps)} so far."):
            svg.rect(self.left, floor - room - 2, self.right - self.left, room + 4, "bare")
            if limit:
                y = floor - room * limit / most
                svg.line(self.left, y, self.right, y, "dotted")
            svg.path(f"{path}H{self.right}", "line")
            svg.text(0, base, tail(self._purse(label), self.gutter, size), size=size)
            svg.text(self.left - 6, base, self._level(label), "soft end", size=size)

    def _past(self, svg: Svg, head: float, bottom: float, graphs: float) -> None:
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
        for top, end in ((head, bottom), (graphs, svg.height)):
            if end > top:
                svg.rect(x, top, self.right - x, end - top, "veil")
        svg.line(x, head - 6, x, bottom + 4, "now")
        svg.path(f"M{x - 5:.1f} {head - 6:.1f}h10l-5 6z", "nowhead")

    # ------------------------------------------------- S

    def _now(self) -> Svg:
        slots, width = self.slots.at(self.line.entry), self.width
        number = width_of(str(slots.count), 12) + 5
        columns = max(2, int(width / (62 + number)))
        used = [row for row in self.rows() if isinstance(row, int)]
        rows = used[: columns * 5] or list(range(1, min(slots.count, columns * 4) + 1))
        cell, high = (width - 2) / columns, 22
        lines = math.ceil(len(rows) / columns)
        svg = Svg(width, lines * high + 20)
        places = {(bar.slot, bar.start, bar.what): i for i, bar in enumerate(self.slots.bars)}
        for i, slot in enumerate(rows):
            x, y = 1 + i // lines * cell, i % lines * high
            bar = slots.state(slot)
            key = self.keys[places[bar.slot, bar.start, bar.what]] if bar else f"slot {slot}"
            with svg.item(key, say=self.line.say(bar) if bar else f"Slot {slot} ({slots.kind(slot)}): free."):
                svg.text(x + number, y + 15, str(slot), "soft end")
                left, inside = x + number + 4, cell - number - 10
                if bar is None:
                    svg.rect(left, y + 2.5, inside, high - 5, "void")
                elif bar.what == WAITING:
                    svg.rect(left, y + 2.5, inside, high - 5, "hatch")
                else:
                    svg.rect(left, y + 2.5, inside, high - 5, "fill edge", fill=self.colour[bar.key])
                    svg.text(left + 4, y + 15, bar.name, room=inside - 6, style_=f"fill:{ink(self.colour[bar.key])}")
        flushes, more = len(slots.flushes), len(used) - len(rows)
        never = slots.count - max(len(used), len(rows))
        said = [f"{flushes} flush{'' if flushes == 1 else 'es'}"]
        said += [f"{more} more that were used"] * (more > 0) + [f"{never} never used"] * (never > 0)
        svg.text(1, lines * high + 14, " · ".join(said), "soft", room=width - 2)
        return svg


# ------------------------------------------------- marks


def cross(svg: Svg, x: float, y: float, r: float) -> None:
    """What was refused, or failed."""
    svg.path(f"M{x - r:.1f} {y - r:.1f}L{x + r:.1f} {y + r:.1f}M{x + r:.1f} {y - r:.1f}L{x - r:.1f} {y + r:.1f}", "fail")


def swatch(svg: Svg, what: str) -> None:
    """A mark of the legend, 18 px square."""
    if what == USED:
        svg.rect(1, 4.5, 16, 10, "fill edge", fill=BLUE)
    elif what == MIRROR:
        svg.rect(1, 4.5, 16, 10, "fill edge", fill=BLUE)
        svg.rect(3, 10, 12, 3, "fill edge", fill="#ffffff")
    elif what == WAITING:
        svg.rect(1, 4.5, 16, 10, "hatch")
    elif what in ("flush", "failed"):
        svg.line(6.5 if what == "failed" else 9, 1, 6.5 if what == "failed" else 9, 17, "broken" if what == "failed" else "line")
        if what == "failed":
            cross(svg, 13, 9, 3)
    else:
        cross(svg, 9, 9, 4)
