"""Topology: who holds whom on one machine, and its ledger. It knows no SEV.

    Topology(Scene(boxes, things, below, links, ledger))              # rows of one's own
    Topology(lambda host: scene_of(host), host=host)                  # a machine, live
    Topology(after, before)                                           # two moments, compared

Three bands: boxes (processes) with their plugs (descriptors), things that plugs and
other things hold, and what lies below those. What is held lives until everybody who
holds it has let go: the status line says who that is. `verbs` are the notebook's
callbacks: close(box, number), kill(box), pass(box, number, to).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from sevlab_widgets.acts import Act, Acts
from sevlab_widgets.drawing import Choice
from sevlab_widgets.frame import Table
from sevlab_widgets.picture import Svg
from sevlab_widgets.topology_picture import CAME, WENT, TopologyPicture
from sevlab_widgets.words import named

NOTHING = "One machine, no process. host.process('qemu') puts the first box here."
VERBS = (("close", "x", "Close"), ("kill", "k", "Kill"), ("pass", "p", "Pass to"))


class Plug(NamedTuple):
    """A descriptor: its number, what it is, the key of the thing it holds ("" for one that holds nothing drawn)."""

    number: int
    kind: str = ""
    holds: str = ""
    words: str = ""  # on the plug, where the number alone will not do


class Box(NamedTuple):
    """A process, and its plugs in order."""

    key: str
    name: str
    note: str = ""
    plugs: Sequence[Plug] = ()


class Thing(NamedTuple):
    """What is held, or what lies below it. `style`: "" alive, "dead", "waits" (hatched); `note` stands below the name."""

    key: str
    name: str
    note: str = ""
    style: str = ""


class Link(NamedTuple):
    """From one thing to another; one that `holds` keeps its target alive."""

    source: str
    target: str
    words: str = ""
    holds: bool = False


class Scene(NamedTuple):
    """One moment."""

    boxes: Sequence[Box] = ()
    things: Sequence[Thing] = ()
    below: Sequence[Thing] = ()
    links: Sequence[Link] = ()
    ledger: Sequence[tuple[str, Any]] = ()
    defects: Mapping[str, str] = {}  # by the name of a row: a tag for a figure that is wrong because the kernel is


class Row(NamedTuple):
    """A line of the ledger: what, before, after."""

    name: str
    before: Any
    after: Any
    tag: str = ""

    @property
    def changed(self) -> bool:
        return bool(self.before != self.after)

    @property
    def words(self) -> str:
        dash = ["–" if value is None else str(value) for value in (self.before, self.after)]
        return " → ".join(dash) if self.changed else dash[1]


class Topology(Acts):
    """Who holds whom. `bands` names the three bands; `noun` is what a plug is called in sentences."""

    OWN_RING: ClassVar[bool] = False
    KEYS: ClassVar[tuple[tuple[str, str], ...]] = (
        ("← → ↑ ↓", "from thing to thing"),
        ("Home End", "first, last"),
        ("b", "what is now is the before"),
    )
    choices = (Choice("show", "Show", ("now", "compare")),)

    def __init__(
        self,
        scene: Scene | Callable[[Any], Scene] = Scene(),  # noqa: B008 - it cannot be changed
        before: Scene | None = None,
        *,
        verbs: Mapping[str, Callable[..., Any]] | None = None,
        bands: tuple[str, str, str] = ("user space", "kernel", "firmware and engine"),
        title: str = "who holds whom",
        **keywords: Any,
    ) -> None:
        self._source = scene
        self._past: Any = None
        self._scene = Scene()
        self._looked: Any = ()
        self.verbs = dict(verbs or {})
        self.bands = bands
        super().__init__(title=title, **keywords)
        self.before = self.scene if before is None else before
        if before is not None:
            self.chosen["show"] = "compare"

    # ------------------------------------------------- the moment

    @property
    def scene(self) -> Scene:
        """What is drawn: taken anew where the host has gone on."""
        if not callable(self._source):
            return self._source
        at = (self.now, self.entry)
        if at != self._looked:
            self._looked = at
            found = self.call("The scene", self._source, self.host if self._past is None else self._past)
            self._scene = Scene() if found is None else found
        return self._scene

    def show(self, scene: Scene, before: Scene | None = None) -> None:
        """Draw another moment."""
        with self.lock:
            self._source = scene
            self.before = self.before if before is None else before
        self.mark()

    def draw_at(self, n: int | None) -> None:
        self._past = None if n is None else self.call("The past", getattr(self.host, "at", None), n)

    @property
    def ledger(self) -> list[Row]:
        """What was counted before, and what is now."""
        before, after = dict(self.before.ledger), dict(self.scene.ledger)
        names = [*after, *(name for name in before if name not in after)]
        return [Row(name, before.get(name), after.get(name), self.scene.defects.get(name, "")) for name in names]

    # ------------------------------------------------- the picture

    @property
    def empty(self) -> str:  # type: ignore[override]
        return "" if self.scene.boxes or self.scene.things or self.before.boxes else NOTHING

    def picture(self, width: int, size: str) -> Svg:
        return TopologyPicture(self, width, size).svg

    def legend(self) -> list[tuple[Svg, str]]:
        if self.chosen["show"] != "compare":
            return []
        marks = []
        for look, text in ((WENT, "went"), (CAME, "came"), ("stroke-width:1", "as before")):
            svg = Svg(18, 18)
            svg.line(1, 9, 17, 9, "line", style_=look)
            marks.append((svg, text))
        return marks

    # ------------------------------------------------- who holds what

    def holders(self, key: str, scene: Scene | None = None) -> list[str]:
        """Whoever keeps a thing alive, in words: "fd 5 of qemu", "vm-b"."""
        scene = self.scene if scene is None else scene
        names = {thing.key: thing.name for thing in (*scene.things, *scene.below)}
        plugs = [f"fd {plug.words or plug.number} of {box.name}" for box in scene.boxes for plug in box.plugs if plug.holds == key]
        return plugs + [names[link.source] for link in scene.links if link.holds and link.target == key and link.source in names]

    def near(self, key: str, scene: Scene) -> set[str]:
        """The keys of a thing and of all that its lines lead to."""
        found = {key}
        for box in scene.boxes:
            for plug in box.plugs:
                at = plug_key(box, plug)
                if key == box.key:
                    found |= {at, plug.holds}
                elif key == at:
                    found |= {box.key, plug.holds}
                elif plug.holds == key:
                    found |= {box.key, at}
        found |= {end for link in scene.links if key in (link.source, link.target) for end in (link.source, link.target)}
        return found - {""}

    def say(self, key: str, scene: Scene | None = None) -> str:
        """A thing in a sentence."""
        scene = self.scene if scene is None else scene
        for box in scene.boxes:
            if box.key == key:
                held = [plug for plug in box.plugs if plug.holds]
                more = f", {len(held)} of which hold something here" if held else ""
                return f"{box.name}{f' ({box.note})' if box.note else ''}: {len(box.plugs)} descriptors{more}."
            for plug in box.plugs:
                if plug_key(box, plug) == key:
                    name = next((thing.name for thing in scene.things if thing.key == plug.holds), "")
                    reference = f", a reference on {name}" if name else ""
                    return f"fd {plug.words or plug.number} of {box.name}: {plug.kind or 'a file'}{reference}."
        thing = next((thing for thing in (*scene.things, *scene.below) if thing.key == key), None)
        if thing is None:
            return ""
        holders = self.holders(key, scene)
        note = f"{thing.name}{f' ({thing.note})' if thing.note else ''}"
        if not holders:
            return f"{note}."
        closed = listed(holders)
        end = "closed" if any(holder.startswith("fd ") for holder in holders) else "gone"
        return f"{note} lives until {closed} {'is' if len(holders) == 1 else 'are'} {end}."

    def says(self) -> str:
        scene = self.scene
        if self.empty:
            return NOTHING
        changed = [f"{row.name} {row.words}" for row in self.ledger if row.changed]
        counts = (
            f"{len(scene.boxes)} process{'es' * (len(scene.boxes) != 1)}, {len(scene.things)} VM{'s' * (len(scene.things) != 1)}."
        )
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        tagged = [f"{row.name} {row.words}, {row.tag}" for row in self.ledger if row.tag]
        counts += f" Changed: {'; '.join(changed[:3])}{more}." if changed else ""
        return counts + (f" Not your mistake: {'; '.join(tagged)}." if tagged else "")

    def describe(self) -> str:
        parts = [f"{' · '.join([self.title, *self.facts])}: {self.says()}"]
        parts += [self.say(thing.key) for thing in self.scene.things]
        return " ".join(parts)

    def table(self) -> Table:
        return ["what", "before", "after", ""], [
            [row.name, *("" if v is None else v for v in row[1:3]), " · ".join(filter(None, ("changed" * row.changed, row.tag)))]
            for row in self.ledger
        ]

    # ------------------------------------------------- what a reader can do

    def find(self, words: str) -> Any:
        scene = self.scene
        names = {thing.name: thing.key for thing in (*scene.below, *scene.things)} | {box.name: box.key for box in scene.boxes}
        names |= {row.name: f"ledger {row.name}" for row in self.ledger}
        return names.get(named(words, names, ""), words)

    def means(self, value: Any) -> str:
        """A thing is called by its key, a plug as what it holds."""
        found = self.chosen_plug(value)
        key = found[1].holds if found is not None else value
        return str(key) if any(thing.key == key for thing in self.scene.things) else ""

    def light(self, name: str) -> None:
        if any(thing.key == name for thing in self.scene.things):
            self.selected = name
            self.mark()

    def got_select(self, view: str, value: Any) -> None:
        super().got_select(view, value)
        self.mark()

    def chosen_plug(self, key: Any = None) -> tuple[Box, Plug] | None:
        """The plug that is selected, and its process."""
        key = self.selected if key is None else key
        return next(((box, plug) for box in self.scene.boxes for plug in box.plugs if plug_key(box, plug) == key), None)

    def acts(self) -> list[Act]:
        plug, box = self.chosen_plug(), next((box for box in self.scene.boxes if box.key == self.selected), None)
        ask = "name of a process"
        ready = {"close": plug, "kill": box, "pass": plug}
        why = {
            "close": "Select the plug that is to be closed.",
            "kill": "Select the process that is to be killed.",
            "pass": "Select the plug that is to be passed.",
        }
        found = [
            Act(name, label, key, field=ask if name == "pass" and ready[name] else "", why="" if ready[name] else why[name])
            for name, key, label in VERBS if name in self.verbs
        ]  # fmt: skip
        return [*found, Act("before", "Now is before", "b")] if callable(self._source) or found else []

    def press(self, name: str, value: str) -> None:
        if name == "before":
            self.before = self.scene
            return
        found = self.chosen_plug()
        if name == "kill":
            self.verbs[name](self.selected)
        elif found is not None:
            box, plug = found
            if name == "pass" and value.strip() not in [box.name for box in self.scene.boxes]:
                raise ValueError(f"there is no process {value.strip()!r}")
            self.verbs[name](
                box.key,
                plug.number,
                *([next(b.key for b in self.scene.boxes if b.name == value.strip())] if name == "pass" else []),
            )

    def drop(self, key: str, dx: float, dy: float) -> None:
        """A plug was dragged: into another process's box it is passed."""
        found = self.chosen_plug(key)
        if found is None or "pass" not in self.verbs:
            return
        picture = TopologyPicture(self, *self.sizes()[0])
        x, y = picture.places[key]
        target = next((k for k, (a, b, c, d) in picture.boxes.items() if a <= x + dx <= c and b <= y + dy <= d), None)
        if target is not None and target != found[0].key:
            self.call("Passing a descriptor", self.verbs["pass"], found[0].key, found[1].number, target)


def plug_key(box: Box, plug: Plug) -> str:
    """The key of a plug."""
    return f"{box.key}:{plug.number}"


def listed(names: Sequence[str]) -> str:
    """ "a, b and c", and where there are many, how many more."""
    if len(names) > 4:
        names = [*names[:3], f"{len(names) - 3} more"]
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
