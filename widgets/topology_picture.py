"""The drawing of a Topology: three bands of boxes, the lines between them, and the ledger."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sevlab_widgets.palette import VERMILION
from sevlab_widgets.picture import Svg, fit, width_of
from sevlab_widgets.strokes import stroke

if TYPE_CHECKING:
    from sevlab_widgets.topology import Box, Plug, Row, Scene, Thing, Topology

FAR = 1e6  # px: nobody says where
GAP = 14  # px between two boxes
WENT, CAME = f"stroke:{VERMILION};stroke-dasharray:5 4", "stroke-width:2"
MOST = 430  # px that a process with many descriptors is wide


class TopologyPicture:
    """One picture, in `svg`. `boxes` are the processes' rectangles, `places` the middle of each plug."""

    def __init__(self, topology: Topology, width: int, size: str) -> None:
        self.topology, self.size = topology, size
        self.k = 1.3 if size == "L" else 1.0
        self.type = 12.5 * self.k
        self.svg = Svg(width, 0)
        self.boxes: dict[str, tuple[float, float, float, float]] = {}
        self.places: dict[str, tuple[float, float]] = {}
        self.tops: dict[str, tuple[float, float, float]] = {}  # of a thing: left, width, top
        self.near: set[str] = set()
        if topology.empty:
            self.svg.height = 110
            return
        compare = topology.chosen["show"] == "compare"
        if size == "S":
            self.svg.height = round(self._ledger(0, 0, width, 1))
        elif size == "L" and compare:
            side, middle = width * 0.375, width * 0.25
            left = self._scene(topology.before, 0, side - 14, "before", mark="went")
            right = self._scene(topology.scene, side + middle + 14, side - 14, "after", mark="came")
            down = self._ledger(side + 10, 2 * self.type, middle - 20, 1)
            self.svg.height = round(max(left, right, down))
        elif size == "L":
            down = self._scene(topology.scene, 0, width * 0.73, "")
            self.svg.height = round(max(down, self._ledger(width * 0.75, 2, width * 0.25, 1)))
        else:
            scene = self._merged() if compare else topology.scene
            down = self._scene(scene, 0, width, "", mark="both" if compare else "")
            self.svg.height = round(self._ledger(0, down + 10, width, 3 if width > 640 else 2))

    # ------------------------------------------------- what is drawn how

    def _merged(self) -> Scene:
        """Both moments in one: what is now, and what went."""
        from sevlab_widgets.topology import Scene

        old, new = self.topology.before, self.topology.scene
        boxes: list[Box] = []
        olds = {box.key: box for box in old.boxes}
        for box in new.boxes:
            gone = [
                plug for plug in (olds[box.key].plugs if box.key in olds else ()) if _at(plug) not in [_at(p) for p in box.plugs]
            ]
            boxes.append(box._replace(plugs=sorted([*box.plugs, *gone], key=_at)))
        boxes += [box for box in old.boxes if box.key not in {b.key for b in new.boxes}]
        return Scene(
            boxes, _union(new.things, old.things), _union(new.below, old.below), list(dict.fromkeys([*new.links, *old.links]))
        )

    def _style(self, key: str, mark: str) -> str | None:
        """How a line is drawn: what went, what came, or neither."""
        if not mark:
            return None
        old, new = _keys(self.topology.before), _keys(self.topology.scene)
        if key in old and key not in new and mark in ("went", "both"):
            return WENT
        return CAME if key in new and key not in old and mark in ("came", "both") else None

    @contextmanager
    def _seen(self, *keys: str) -> Iterator[None]:
        """What is drawn inside is faint while something else is selected: all of its keys must be near that."""
        faint = bool(self.near) and not all(key in self.near for key in keys)
        if faint:
            self.svg.parts.append('<g class="sl-faint">')
        yield
        if faint:
            self.svg.parts.append("</g>")

    # ------------------------------------------------- a moment

    def _scene(self, scene: Scene, x: float, width: float, title: str, mark: str = "") -> float:
        t, k = self.topology, self.k
        self.near = t.near(t.selected, scene) if t.selected in _keys(scene) else set()
        y = 0.0
        if title:
            self.svg.text(x, self.type, title, "bold", size=self.type)
            y = self.type * 1.6
        gutter = 0 if mark in ("went", "came") else 74 * k
        lines: list[tuple[Any, ...]] = []
        starts = [y]
        y = self._processes(scene, x + gutter, y, width - gutter, mark, lines)
        starts.append(y + 26 * k)
        y = self._things(scene.things, x + gutter, y + 26 * k, width - gutter, scene, mark, 38 * k) if scene.things else y
        if scene.below:
            starts.append(y + 30 * k)
            y = self._things(scene.below, x + gutter, y + 30 * k, width - gutter, scene, mark, 24 * k)
        self._lines(scene, mark)
        for name, top in zip(t.bands, starts, strict=False):
            if gutter:
                for row, word in enumerate(_two(name)):
                    self.svg.text(x, top + (1 + 1.15 * row) * self.type, word, "soft", size=self.type * 0.93)
            if top != starts[0]:
                self.svg.line(x, top - 9 * k, x + width, top - 9 * k, "rule", stroke_dasharray="1 4")
        return y + 2

    def _processes(self, scene: Scene, x: float, y: float, width: float, mark: str, lines: list[tuple[Any, ...]]) -> float:
        left, top, bottom = x, y, y
        for box in scene.boxes:
            rows = self._rows(box)
            wide = max(self._head(box), *(sum(w + 4 for _, w in row) for row in rows), 60 * self.k) + 12
            high = (23 + 23 * len(rows)) * self.k
            if left > x and left + wide > x + width:
                left, top = x, bottom + 8 * self.k
            self._process(box, rows, left, top, wide, high, scene, mark)
            left, bottom = left + wide + GAP, max(bottom, top + high)
        return bottom

    def _head(self, box: Box) -> float:
        return width_of(box.name, self.type) * 1.2 + (width_of(box.note, self.type * 0.92) + 8 if box.note else 0)

    def _rows(self, box: Box) -> list[list[tuple[Plug, float]]]:
        """The plugs of a process in rows, each with its width."""
        rows: list[list[tuple[Plug, float]]] = [[]]
        used = 0.0
        for plug in box.plugs:
            wide = max(width_of(_label(plug), self.type * 0.92) * 1.04 + 9, 20 * self.k)
            if used + wide > MOST * self.k and rows[-1]:
                rows.append([])
                used = 0.0
            rows[-1].append((plug, wide))
            used += wide + 4
        return rows

    def _process(self, box: Box, rows: list[Any], x: float, y: float, wide: float, high: float, scene: Scene, mark: str) -> None:
        from sevlab_widgets.topology import plug_key

        t, style = self.topology, self._style(box.key, mark)
        self.boxes[box.key] = x, y, x + wide, y + high
        with self._seen(box.key), self.svg.item(box.key, say=t.say(box.key, scene)):
            self.svg.rect(x + 0.5, y + 0.5, wide - 1, high - 1, "box", rx=4, style_=style)
            self.svg.text(x + 7, y + 15.5 * self.k, box.name, "bold", size=self.type)
            self.svg.text(
                x + 7 + width_of(box.name, self.type) * 1.2 + 8, y + 15.5 * self.k, box.note, "soft", size=self.type * 0.92
            )
        for number, row in enumerate(rows):
            at, base = x + 6, y + (22 + 23 * number) * self.k
            for plug, w in row:
                key = plug_key(box, plug)
                drag = "xy" if "pass" in t.verbs and not plug.words else None
                with self._seen(key), self.svg.item(key, say=t.say(key, scene), drag=drag):
                    self.svg.rect(
                        at + 0.5,
                        base,
                        w - 1,
                        18 * self.k,
                        "box" if plug.kind != "console" else "void",
                        rx=3,
                        style_=self._style(key, mark),
                    )
                    ink = "middle" if plug.kind != "console" else "middle soft"
                    self.svg.text(at + w / 2, base + 13 * self.k, _label(plug), ink, size=self.type * 0.92)
                self.places[key] = at + w / 2, base + 18 * self.k
                at += w + 4

    def _things(self, things: Sequence[Thing], x: float, y: float, width: float, scene: Scene, mark: str, high: float) -> float:
        t = self.topology
        wides = [
            max(width_of(thing.name, self.type) * 1.16, width_of(thing.note, self.type * 0.92) if high > 30 * self.k else 0) + 22
            for thing in things
        ]
        wanted = [self._above(thing.key, scene, x) - wide / 2 for thing, wide in zip(things, wides, strict=True)]
        at_of = {thing.key: wanted[i] + wides[i] for i, thing in enumerate(things)}
        for i, thing in enumerate(things):  # what only a neighbour holds stands beside it
            beside = [
                at_of[link.source]
                for link in scene.links
                if link.target == thing.key and link.source in at_of and at_of[link.source] < FAR
            ]
            if wanted[i] > FAR / 2 and beside:
                wanted[i] = beside[0] + 80 * self.k
        order = sorted(range(len(things)), key=lambda i: wanted[i])
        right, lines = x + width, 1
        left, placed = x, {}
        for i in order:
            at = left if wanted[i] > FAR / 2 else max(left, min(wanted[i], right - wides[i]))
            if at + wides[i] > right + 1 and left > x:
                left, at, lines = x, x, lines + 1
            placed[i] = at, lines - 1
            left = at + wides[i] + GAP
        last = [i for i in order if placed[i][1] == lines - 1]
        over = max((placed[i][0] + wides[i] for i in last), default=0) - right
        for i in reversed(last):  # what is too far right pushes its neighbours left
            if over <= 0:
                break
            at = placed[i][0] - over
            placed[i] = max(x, at), lines - 1
            before = [j for j in last if placed[j][0] < placed[i][0]]
            over = max((placed[j][0] + wides[j] + GAP for j in before), default=0) - placed[i][0]
        for i, thing in enumerate(things):
            at, line = placed[i]
            top = y + line * (high + 8)
            self.tops[thing.key] = at, wides[i], top
            self.places[thing.key] = at + wides[i] / 2, top + high
            dead = {"stroke_dasharray": "5 4"} if thing.style == "dead" else {}
            with self._seen(thing.key), self.svg.item(thing.key, say=t.say(thing.key, scene)):
                self.svg.rect(
                    at + 0.5,
                    top + 0.5,
                    wides[i] - 1,
                    high - 1,
                    "box",
                    rx=high / 2 if high < 30 * self.k else 4,
                    style_=self._style(thing.key, mark),
                    **dead,
                )
                if thing.style == "waits":
                    self.svg.rect(
                        at + 2.5, top + 2.5, wides[i] - 5, high - 5, "hatch", rx=high / 2, style_="opacity:.25;stroke:none"
                    )
                one = high < 30 * self.k
                self.svg.text(
                    at + wides[i] / 2,
                    top + (16 * self.k if one else 15.5 * self.k),
                    thing.name,
                    "middle" if one else "middle bold",
                    size=self.type,
                )
                if not one:
                    self.svg.text(at + wides[i] / 2, top + 30.5 * self.k, thing.note, "middle soft", size=self.type * 0.92)
        return y + lines * (high + 8) - 8

    def _above(self, key: str, scene: Scene, x: float) -> float:
        """The middle of whatever holds a thing: where it would best stand."""
        from sevlab_widgets.topology import plug_key

        xs = [
            self.places[plug_key(box, plug)][0]
            for box in scene.boxes
            for plug in box.plugs
            if plug.holds == key and plug_key(box, plug) in self.places
        ]
        xs = xs or [self.places[link.source][0] for link in scene.links if link.target == key and link.source in self.places]
        return sum(xs) / len(xs) if xs else x + FAR

    # ------------------------------------------------- lines

    def _lines(self, scene: Scene, mark: str) -> None:
        from sevlab_widgets.topology import plug_key

        ends: dict[str, list[tuple[str, float, float, str | None]]] = {}
        for box in scene.boxes:
            for plug in box.plugs:
                key = plug_key(box, plug)
                if plug.holds in self.tops:
                    ends.setdefault(plug.holds, []).append((key, *self.places[key], self._style(key, mark)))
        level = {thing.key for thing in scene.things}
        for link in scene.links:
            if link.target in self.tops and link.source in self.places and not (link.source in level and link.target in level):
                ends.setdefault(link.target, []).append((link.source, *self.places[link.source], self._style(_link(link), mark)))
        for target, sources in ends.items():
            left, wide, top = self.tops[target]
            for number, (key, x, y, style) in enumerate(sorted(sources, key=lambda one: one[1])):
                to = left + wide * (number + 1) / (len(sources) + 1)
                with self._seen(key, target):
                    bend = min(18, (top - y) / 2)
                    self.svg.path(
                        stroke("M", x, y, "C", x, y + bend, to, top - bend, to, top),
                        "line",
                        pointer_events="none",
                        style_=style or "stroke-width:1.2",
                    )
        for link in scene.links:
            if link.source in level and link.target in level and link.source in self.tops and link.target in self.tops:
                self._sideways(link, mark)

    def _sideways(self, link: Any, mark: str) -> None:
        """A thing that holds its neighbour: an arrow below both, with its word."""
        (a, wa, ta), (b, wb, tb) = self.tops[link.source], self.tops[link.target]
        bottom = max(ta, tb) + 38 * self.k
        x1, x2 = (a + wa * 0.25, b + wb * 0.75) if a > b else (a + wa * 0.75, b + wb * 0.25)
        dip, words = 15 * self.k, fit(link.words, abs(x1 - x2), self.type * 0.92)
        with self._seen(link.source, link.target):
            style = self._style(_link(link), mark) or "stroke-width:1.5"
            self.svg.path(
                stroke("M", x1, ta + 38 * self.k, "C", x1, bottom + dip, x2, bottom + dip, x2, tb + 38 * self.k + 1),
                "line",
                arrow=True,
                pointer_events="none",
                style_=style,
            )
            if words:
                middle, wide = (x1 + x2) / 2, width_of(words, self.type * 0.92) + 8
                self.svg.rect(
                    middle - wide / 2,
                    bottom + dip * 0.75 - 8 * self.k,
                    wide,
                    15 * self.k,
                    "ground",
                    style_="fill:var(--sl-here,#fff);stroke:none",
                )
                self.svg.text(middle, bottom + dip * 0.75 + 4 * self.k, words, "middle soft", size=self.type * 0.92)

    # ------------------------------------------------- the ledger

    def _ledger(self, x: float, y: float, width: float, columns: int) -> float:
        rows: list[Row] = self.topology.ledger
        if not rows:
            return y
        columns = min(columns, len(rows))
        each, wide, high = -(-len(rows) // columns), (width - 24 * (columns - 1)) / columns, 17.5 * self.k
        for index, row in enumerate(rows):
            left, top = x + index // each * (wide + 24), y + index % each * high
            weight = "bold" if row.changed else ""
            said = f"{row.name}: {row.words}{', changed' if row.changed else ''}."
            with self.svg.item(f"ledger {row.name}", say=said):
                self.svg.rect(left, top, wide, high, "bare")
                value = fit(row.words, wide * 0.6, self.type) or row.words
                self.svg.text(
                    left + 1,
                    top + 12.8 * self.k,
                    row.name,
                    weight or "soft",
                    room=wide - width_of(value, self.type) * 1.1 - 10,
                    size=self.type,
                )
                self.svg.text(
                    left + wide - 1,
                    top + 12.8 * self.k,
                    value,
                    f"{weight} end",
                    size=self.type,
                    font_variant_numeric="tabular-nums",
                )
            self.svg.line(left, top + high - 0.5, left + wide, top + high - 0.5, "rule")
        return y + each * high + 2


def _at(plug: Plug) -> int:
    return plug.number


def _label(plug: Plug) -> str:
    return plug.words or (f"{plug.number} {plug.kind}" if plug.kind and plug.kind != "console" else str(plug.number))


def _link(link: Any) -> str:
    return f"{link.source} → {link.target}"


def _union(new: Sequence[Thing], old: Sequence[Thing]) -> list[Thing]:
    return [*new, *(thing for thing in old if thing.key not in {n.key for n in new})]


def _keys(scene: Scene) -> set[str]:
    """Everything in a scene that can come and go."""
    plugs = {f"{box.key}:{plug.number}" for box in scene.boxes for plug in box.plugs}
    return (
        {box.key for box in scene.boxes}
        | plugs
        | {t.key for t in (*scene.things, *scene.below)}
        | {_link(link) for link in scene.links}
    )


def _two(name: str) -> list[str]:
    """A band's name in at most two lines."""
    words = name.split()
    half = (len(words) + 1) // 2
    return [" ".join(words[:half]), " ".join(words[half:])] if len(words) > 1 else words
