"""AsidTimeline: key slots over time, one row a slot.

    AsidTimeline.of(host)                                   # a machine, live
    AsidTimeline(Slots(15, [("SEV-ES", 1, 5), ("SEV", 6, 15)]))    # rows of one's own

Solid is in use, a thin bar inside it a mirror, hatched is given back and not yet
usable, nothing is free. A flush is a line through all rows, since it serves all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import traitlets as t
from sevlab_widgets.drawing import Choice, Drawing
from sevlab_widgets.frame import Table
from sevlab_widgets.picture import Svg
from sevlab_widgets.slots import MIRROR, STEPS, USED, WAITING, Bar, Flush, Fold, Refusal, Slots, When
from sevlab_widgets.timeline_picture import TimelinePicture, duration, swatch
from sevlab_widgets.words import facts_of


class AsidTimeline(Drawing):
    """Slots over time.

    `on_select(key)` is told which VM was selected; `on_move(key, start)`, when given, makes
    the bars draggable along the axis: `start` is where the bar was let go, in units of the axis.
    `unit` names the steps of slots that were made by hand, as "tick": then their `When.n` counts those, and there is no other axis.
    """

    FILES: ClassVar[tuple[str, ...]] = ("timeline",)
    KEYS: ClassVar[tuple[tuple[str, str], ...]] = (("← → ↑ ↓", "from bar to bar"), ("Home End", "first, last"))
    choices = (Choice("axis", "Axis", ("virtual time", "entries")),)

    slot = t.Int(None, allow_none=True, help="the slot of the selected bar")

    def __init__(
        self,
        slots: Slots,
        *,
        on_move: Callable[[str, int], Any] | None = None,
        unit: str = "",
        title: str = "key slots",
        **keywords: Any,
    ) -> None:
        self.slots = slots
        self.unit = unit
        if unit:
            self.choices = ()
        self.on_move = on_move
        self._fold: Fold | None = None
        super().__init__(title=title, **keywords)

    @classmethod
    def of(cls, host: Any, *, names: Mapping[int, str] | None = None, **keywords: Any) -> AsidTimeline:
        """The key slots of a host, drawn from its trace. `names` gives VMs, by number, a name.

        Of the host it asks `chip.max_asid`, `chip.min_asid` and `trace`, and if it has one the tree of cgroups.
        """
        first, last = host.chip.min_asid, host.chip.max_asid
        groups = [(name, a, b) for name, a, b in (("SEV-ES", 1, first - 1), ("SEV", first, last)) if a <= b]
        made = cls(Slots(last, groups, limits_of(host)), **{"host": host, "facts": facts_of(host), **keywords})
        made._fold = Fold(made.slots, getattr(getattr(host, "gate", None), "host", 0), names)
        made.fed(host.trace.rows())
        return made

    def show(self, slots: Slots) -> None:
        """Draw other slots."""
        with self.lock:
            self.slots = slots
        self.mark()

    def fed(self, rows: list[dict[str, Any]]) -> None:
        if self._fold is not None:
            if self.host is not None:
                self.slots.limits.update(limits_of(self.host))
            self._fold.add(rows)

    # ------------------------------------------------- the picture

    @property
    def by_entry(self) -> bool:
        """Whether the axis counts journal entries (or steps of a unit of its own), not virtual time."""
        return bool(self.unit) or self.chosen["axis"] == "entries"

    @property
    def end(self) -> When:
        """Where the axis ends: now."""
        last = self.slots.last
        return When(max(last.t, int(getattr(self.trace, "now", 0))), max(last.n, self.now or 0))

    def picture(self, width: int, size: str) -> Svg:
        return TimelinePicture(self, width, size).svg

    def legend(self) -> list[tuple[Svg, str]]:
        marks = []
        words = {
            USED: USED,
            MIRROR: MIRROR,
            WAITING: "waiting for a flush",
            "flush": "flush",
            "failed": "flush that failed",
            "refused": "launch refused",
        }
        met = {
            MIRROR: any(bar.what == MIRROR for bar in self.slots.bars),
            "failed": any(flush.error for flush in self.slots.flushes),
            "refused": bool(self.slots.refusals),
        }
        for what, said in words.items():
            if met.get(what, True):
                svg = Svg(18, 18)
                swatch(svg, what)
                marks.append((svg, said))
        return marks

    @property
    def empty(self) -> str:  # type: ignore[override]
        if self.slots.bars or self.slots.refusals:
            return ""
        ranges = [
            f"{a} to {b} are for {name} guests" if i == 0 else f"{a} to {b} for {name} guests"
            for i, (name, a, b) in enumerate(self.slots.groups)
        ]
        return f"{self.slots.count} slots, none handed out. Slots {', '.join(ranges)}."

    # ------------------------------------------------- in words

    def say(self, mark: Bar | Flush | Refusal) -> str:
        """One mark of the picture in a sentence."""
        if isinstance(mark, Flush):
            steps = ", then ".join(words for _, words in STEPS)
            done = (
                f"it failed with {mark.error}, no slot became free"
                if mark.error
                else f"{mark.freed} {'slot is' if mark.freed == 1 else 'slots are'} free again"
            )
            return f"Flush at {self.moment(mark.when)}: {steps}; {done}."
        if isinstance(mark, Refusal):
            cause = f", really: {mark.cause}" if mark.cause else ""
            return f"{mark.who or 'A launch'} got no slot at {self.moment(mark.when)}: {mark.answer}{cause}."
        until = f" to {self.moment(mark.end)}" if mark.end else ", still so"
        words = {
            USED: f"{mark.name} has it",
            WAITING: f"given back by {mark.name}, waits for a flush",
            MIRROR: f"{mark.name}, a mirror, uses it too",
        }
        more = "".join(f", {part}" for part in (mark.group, mark.note) if part and mark.what == USED)
        return f"Slot {mark.slot}: {words[mark.what]}{more}; from {self.moment(mark.start)}{until}."

    def moment(self, when: When) -> str:
        """A moment in words."""
        if self.unit:
            return f"{self.unit} {when.n}"
        return f"entry {when.n} ({duration(when.t)})" if when.n and when.t else f"entry {when.n}" if when.n else duration(when.t)

    def describe(self) -> str:
        groups = ", ".join(f"{name} {a} to {b}" for name, a, b in self.slots.groups)
        moment = "" if self.entry is None else f" Entry {self.entry} of {self.now}."
        return f"{' · '.join([self.title, *self.facts])}: {self.slots.count} slots ({groups}). {self.says()}{moment}"

    def says(self) -> str:
        slots = self.slots.at(self.entry)
        tally = slots.tally()
        said = [f"{tally[USED]} in use, {tally[WAITING]} waiting for a flush, {tally['free']} free."]
        if slots.flushes:
            failed = sum(1 for flush in slots.flushes if flush.error)
            said.append(f"{len(slots.flushes)} flush{'es' * (len(slots.flushes) > 1)}{f', {failed} failed' if failed else ''}.")
        said += [self.say(refusal) for refusal in slots.refusals[-2:]]
        return " ".join(said)

    def table(self) -> Table:
        step = self.unit or "entry"
        heads = ["slot", "kind", "state", "VM", "cgroup", f"from {step}", f"to {step}", "from ns", "to ns"]
        rows = [
            [
                bar.slot,
                self.slots.kind(bar.slot),
                bar.what,
                bar.name,
                bar.group,
                bar.start.n,
                bar.end.n if bar.end else "",
                bar.start.t,
                bar.end.t if bar.end else "",
            ]
            for bar in sorted(self.slots.bars, key=lambda bar: (bar.slot, bar.start))
        ]
        rows += [
            ["", "", "flush failed" if f.error else "flush", "", "", f.when.n, f.when.n, f.when.t, f.when.t]
            for f in self.slots.flushes
        ]
        rows += [
            ["", "", ", ".join(filter(None, (f"refused: {r.answer}", r.cause))), r.who, "", r.when.n, r.when.n, r.when.t, r.when.t]
            for r in self.slots.refusals
        ]
        rows += [
            ["", label.partition(" ")[2], f"misc.current {count}", "", label.partition(" ")[0], at.n, "", at.t, ""]
            for label, steps in sorted(self.slots.levels.items())
            for at, count in steps[1:]
        ]
        return (heads, rows) if not self.unit else (heads[:-2], [row[:-2] for row in rows])

    # ------------------------------------------------- hand and keyboard

    @t.observe("selected")
    def _light(self, change: Any) -> None:
        bar = self.bar(change["new"])
        self.slot = bar.slot if bar else None
        self.mark()  # all bars of its VM are lit

    def bar(self, key: Any) -> Bar | None:
        """The bar of a key in the picture."""
        return dict(zip(self.bar_keys(), self.slots.bars, strict=True)).get(key)

    def bar_keys(self) -> list[str]:
        """The keys of all bars: VM, slot (a bar that is moved may change it) and what it is, with a number from the second on."""
        found: list[str] = []
        seen: Counter[str] = Counter()
        for bar in self.slots.bars:
            key = f"{bar.key}, {bar.what}" if self.on_move is not None else f"{bar.key}, slot {bar.slot}, {bar.what}"
            seen[key] += 1
            found.append(key if seen[key] == 1 else f"{key}, {seen[key]}")
        return found

    def key(self, index: int) -> str:
        """The key of a bar in the picture."""
        return self.bar_keys()[index]

    def means(self, value: Any) -> str:
        """A bar is called by its VM."""
        bar = self.bar(value)
        return bar.key.casefold() if bar else ""

    def light(self, name: str) -> None:
        """Its newest bar, where the one selected is not one of them."""
        bars = [key for key, bar in zip(self.bar_keys(), self.slots.bars, strict=True) if bar.key.casefold() == name]
        if bars and self.selected not in bars:
            self.selected = bars[-1]

    def chose(self, value: Any) -> None:
        bar = self.bar(value)
        if bar is not None:
            super().chose(bar.key)

    def drop(self, key: str, dx: float, dy: float) -> None:
        bar = self.bar(key)
        if bar is not None and self.on_move is not None:
            scale = TimelinePicture(self, *self.sizes()[0]).scale
            start = bar.start.n if self.by_entry else bar.start.t
            self.call("The move", self.on_move, bar.key, max(0, round(start + dx / scale)))


def limits_of(host: Any) -> dict[str, int]:
    """The limits of a host's cgroups, by label: "/tenant-a sev" -> 3. Empty where it has no such tree."""
    found: dict[str, int] = {}
    groups = [getattr(getattr(host, "kernel", None), "root_cgroup", None)]
    while groups:
        group = groups.pop()
        if group is not None:
            groups += group.children.values()
            found |= {
                f"{group.path} {resource}": limit for resource, limit in group.max.items() if group.path != "/" and limit < 1 << 63
            }
    return found
