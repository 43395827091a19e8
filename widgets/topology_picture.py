"""The drawing of a Topology: three bands of boxes, the lines between them, and the ledger."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sevlab_widgets import topology_ledger
from sevlab_widgets.palette import VERMILION
from sevlab_widgets.picture import Svg, width_of
from sevlab_widgets.topology_lines import MANY, Lines, name_of
from sevlab_widgets.topology_places import FAR, GAP, columns, placed, span

if TYPE_CHECKING:
    from sevlab_widgets.topology import Box, Plug, Scene, Thing, Topology

WENT, CAME = f"stroke:{VERMILION};stroke-dasharray:5 4", "stroke-width:2.4"
MOST, LEAST = 430, 120  # px that a process with many descriptors is wide
SMALL = 0.78  # of the usual type, in a row that would not fit otherwise
BOLD = 1.2  # a bold letter is so much wider


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
        rows = topology.ledger
        if size == "S":
            self.svg.height = round(topology_ledger.draw(self.svg, rows, 0, 0, width, 1, self.type))
        elif size == "L":
            middle = max(0.2 * width, min(topology_ledger.wanted(rows, self.type), (0.34 if compare else 0.36) * width))
            side = (width - middle) / 2 - 24 if compare else width - middle - 24
            at = side + 24, 2 * self.type if compare else 2
            if compare:
                down = self._scene(topology.before, 0, side, "before", "went")
                down = max(down, self._scene(topology.scene, side + middle + 48, side, "after", "came"))
            else:
                down = self._scene(topology.scene, 0, side, "")
            self.svg.height = round(max(down, topology_ledger.draw(self.svg, rows, *at, middle, 1, self.type)))
        else:
            scene = self._merged() if compare else topology.scene
            down = self._scene(scene, 0, width, "", "both" if compare else "")
            self.svg.height = round(topology_ledger.draw(self.svg, rows, 0, down + 10, width, 3 if width > 640 else 2, self.type))

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

    def style(self, key: str, mark: str) -> str | None:
        """How a line is drawn: what went, what came, or neither."""
        if not mark:
            return None
        old, new = _keys(self.topology.before), _keys(self.topology.scene)
        if key in old and key not in new and mark in ("went", "both"):
            return WENT
        return CAME if key in new and key not in old and mark in ("came", "both") else None

    @contextmanager
    def seen(self, *keys: str) -> Iterator[None]:
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
        below = len(self.svg.parts)  # lines lie below boxes
        least = LEAST * k + 14
        count = columns(len(scene.boxes), width - gutter, least) if len(scene.boxes) <= MANY else 2
        self.most = min(MOST * k, (width - gutter - GAP * (count - 1)) / count - 14)
        starts = [y]
        y = self._processes(scene, x + gutter, y, width - gutter, mark)
        starts.append(y + 26 * k)
        if scene.things:
            y = self._things(scene.things, x + gutter, y + 26 * k, width - gutter, scene, mark, 38 * k)
        elif gutter:  # an empty band has room for its name
            y += 26 * k + 1.2 * self.type
        if scene.below:
            starts.append(y + 30 * k)
            y = self._things(scene.below, x + gutter, y + 30 * k, width - gutter, scene, mark, 24 * k)
        boxes = self.svg.parts[below:]
        del self.svg.parts[below:]
        lines = Lines(self, scene, mark)
        lines.down()
        self.svg.parts += boxes
        lines.across()
        for name, top in zip(t.bands, starts, strict=False):
            if gutter:
                for row, word in enumerate(_two(name)):
                    self.svg.text(x, top + (1 + 1.15 * row) * self.type, word, "soft", size=self.type * 0.93)
            if top != starts[0]:
                self.svg.line(x, top - 9 * k, x + width, top - 9 * k, "rule", stroke_dasharray="1 4")
        return max(y, starts[-1] + (2.4 * self.type if gutter else 0)) + 2

    def _processes(self, scene: Scene, x: float, y: float, width: float, mark: str) -> float:
        left, top, bottom = x, y, y
        for box in scene.boxes:
            rows = self._rows(box)
            wide = max(min(self._head(box), self.most), *(sum(w + 4 for _, w in row) for row in rows), 60 * self.k) + 12
            high = (23 + 23 * len(rows)) * self.k
            if left > x and left + wide > x + width:
                left, top = x, bottom + 8 * self.k
            self._process(box, rows, left, top, wide, high, scene, mark)
            left, bottom = left + wide + GAP, max(bottom, top + high)
        return bottom

    def _head(self, box: Box) -> float:
        return self._name(box) + (width_of(box.note, self.type * 0.92) * 1.05 + 8 if box.note else 0)

    def _name(self, box: Box) -> float:
        """How wide a process's name is, in bold."""
        return min(width_of(box.name, self.type) * 1.24, 0.6 * self.most)

    def _rows(self, box: Box) -> list[list[tuple[Plug, float]]]:
        """The plugs of a process in rows, each with its width."""
        rows: list[list[tuple[Plug, float]]] = [[]]
        used = 0.0
        for plug in box.plugs:
            wide = max(width_of(_label(plug), self.type * 0.92) * 1.1 + 9, 20 * self.k)
            if used + wide > self.most and rows[-1]:
                rows.append([])
                used = 0.0
            rows[-1].append((plug, wide))
            used += wide + 4
        return rows

    def _process(self, box: Box, rows: list[Any], x: float, y: float, wide: float, high: float, scene: Scene, mark: str) -> None:
        from sevlab_widgets.topology import plug_key

        t, style = self.topology, self.style(box.key, mark)
        self.boxes[box.key] = x, y, x + wide, y + high
        with self.seen(box.key), self.svg.item(box.key, say=t.say(box.key, scene)):
            self.svg.rect(x + 0.5, y + 0.5, wide - 1, high - 1, "box", rx=4, style_=style)
            base, after = y + 15.5 * self.k, x + 15 + self._name(box)
            self.svg.text(x + 7, base, box.name, "bold", size=self.type, room=self._name(box) / 1.2)
            self.svg.text(after, base, box.note, "soft", size=self.type * 0.92, room=x + wide - after)
        for number, row in enumerate(rows):
            at, base = x + 6, y + (22 + 23 * number) * self.k
            for plug, w in row:
                key = plug_key(box, plug)
                drag = "xy" if "pass" in t.verbs and not plug.words and t.entry is None else None
                with self.seen(key), self.svg.item(key, say=t.say(key, scene), drag=drag):
                    self.svg.rect(
                        at + 0.5,
                        base,
                        w - 1,
                        18 * self.k,
                        "box" if plug.kind != "console" else "void",
                        rx=3,
                        style_=self.style(key, mark),
                    )
                    ink = "middle" if plug.kind != "console" else "middle soft"
                    self.svg.text(at + w / 2, base + 13 * self.k, _label(plug), ink, size=self.type * 0.92)
                self.places[key] = at + w / 2, base + 18 * self.k
                at += w + 4

    def _things(self, things: Sequence[Thing], x: float, y: float, width: float, scene: Scene, mark: str, high: float) -> float:
        one = high < 30 * self.k  # pills have one line of text, boxes two
        size, pad = self.type, 22.0
        held = {frozenset((link.source, link.target)): width_of(link.words, size) + 36 for link in scene.links if link.words}

        def gap(a: int, b: int) -> float:
            """Between two neighbours of which one holds the other stands an arrow with its word."""
            return held.get(frozenset((things[a].key, things[b].key)), GAP)

        wides = self._wides(things, size, pad, one, width)
        if (whole := span(range(len(things)), wides, gap)) > width:
            size, pad = size * max(SMALL, width / whole), 14.0
            wides = self._wides(things, size, pad, one, width)
        wanted = self._wanted(things, wides, scene, x)
        places = placed(wanted, wides, x, x + width, gap)
        for thing, wide, (at, line) in zip(things, wides, places, strict=True):
            self._thing(thing, at, y + line * (high + 8), wide, high, size, scene, mark)
        return y + (max(place.row for place in places) + 1) * (high + 8) - 8

    def _wides(self, things: Sequence[Thing], size: float, pad: float, one: bool, most: float) -> list[float]:
        """How wide each thing is drawn, px: as its words ask for, and never wider than the row."""
        names = [width_of(thing.name, size) * (1.1 if one else BOLD) for thing in things]
        notes = [0 if one else width_of(thing.note, size * 0.92) for thing in things]
        return [min(max(pair) + pad, most) for pair in zip(names, notes, strict=True)]

    def _wanted(self, things: Sequence[Thing], wides: Sequence[float], scene: Scene, x: float) -> list[float]:
        """The left edge at which each thing would best stand."""
        wanted = [self._above(thing.key, scene, x) - wide / 2 for thing, wide in zip(things, wides, strict=True)]
        right = {thing.key: wanted[i] + wides[i] for i, thing in enumerate(things)}
        for i, thing in enumerate(things):  # what only a neighbour holds stands beside it
            beside = [right[link.source] for link in scene.links if link.target == thing.key and right.get(link.source, FAR) < FAR]
            if wanted[i] > FAR / 2 and beside:
                wanted[i] = beside[0] + 80 * self.k
        return wanted

    def _thing(self, thing: Thing, at: float, top: float, wide: float, high: float, size: float, scene: Scene, mark: str) -> None:
        one, k, t = high < 30 * self.k, self.k, self.topology
        self.tops[thing.key] = at, wide, top
        self.places[thing.key] = at + wide / 2, top + high
        dead = {"stroke_dasharray": "5 4"} if thing.style == "dead" else {}
        look = self.style(thing.key, mark)
        with self.seen(thing.key), self.svg.item(thing.key, say=t.say(thing.key, scene)):
            self.svg.rect(at + 0.5, top + 0.5, wide - 1, high - 1, "box", rx=high / 2 if one else 4, style_=look, **dead)
            if thing.style == "waits":
                self.svg.rect(at + 2.5, top + 2.5, wide - 5, high - 5, "hatch", rx=high / 2, style_="opacity:.25;stroke:none")
            base = top + (16 if one else 15.5) * k
            room = (wide - 8) / (1.1 if one else BOLD)
            self.svg.text(at + wide / 2, base, thing.name, "middle" if one else "middle bold", room=room, size=size)
            if not one:
                self.svg.text(at + wide / 2, top + 30.5 * k, thing.note, "middle soft", room=wide - 8, size=size * 0.92)

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


def _at(plug: Plug) -> int:
    return plug.number


def _label(plug: Plug) -> str:
    return plug.words or (f"{plug.number} {plug.kind}" if plug.kind and plug.kind != "console" else str(plug.number))


def _union(new: Sequence[Thing], old: Sequence[Thing]) -> list[Thing]:
    return [*new, *(thing for thing in old if thing.key not in {n.key for n in new})]


def _keys(scene: Scene) -> set[str]:
    """Everything in a scene that can come and go."""
    plugs = {f"{box.key}:{plug.number}" for box in scene.boxes for plug in box.plugs}
    return (
        {box.key for box in scene.boxes}
        | plugs
        | {t.key for t in (*scene.things, *scene.below)}
        | {name_of(link) for link in scene.links}
    )


def _two(name: str) -> list[str]:
    """A band's name in at most two lines."""
    words = name.split()
    half = len(words) // 2
    return [" ".join(words[:half]), " ".join(words[half:])] if len(words) > 1 else words
