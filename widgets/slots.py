"""Slots over time: who had which key slot from when to when, which wait for a flush, what was refused.

Filled by hand, or folded from the rows of a trace. What the rows are called, and
what the steps of a flush are, is data in this file's tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from errno import errorcode
from typing import Any, NamedTuple

USED, WAITING, MIRROR = "in use", "waiting", "mirror"
STEPS = (("W", "WBINVD on all processors"), ("D", "DF_FLUSH"))  # a flush, step by step: letter, words
INIT, ES_INIT, INIT2 = 0, 1, 22  # the sub-commands that hand out a slot
ES_TYPE = 3  # the type of a VM whose registers are encrypted too
IN_USE = 3  # an AsidsChanged row: the firmware knows the slot's guest


class When(NamedTuple):
    """A moment: virtual nanoseconds, and the journal entry under way."""

    t: int
    n: int


class Bar(NamedTuple):
    """A slot's stretch: `what` is "in use", "waiting" or "mirror"; `end` None is still so. `key` names the VM it belongs to."""

    slot: int
    name: str
    key: str
    what: str
    start: When
    end: When | None = None
    group: str = ""
    note: str = ""


class Flush(NamedTuple):
    """A flush of all waiting slots: how many became free, and the code with which it failed, or ""."""

    when: When
    freed: int
    error: str = ""


class Refusal(NamedTuple):
    """A launch that got no slot: the answer it saw, and the real cause."""

    when: When
    who: str
    answer: str
    cause: str


@dataclass
class Slots:
    """`count` slots, numbered from 1, in `groups` of (name, first, last). `limits` maps a cgroup's label to its maximum."""

    count: int
    groups: list[tuple[str, int, int]]
    limits: dict[str, int] = field(default_factory=dict)
    bars: list[Bar] = field(default_factory=list)
    flushes: list[Flush] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    levels: dict[str, list[tuple[When, int]]] = field(default_factory=dict)  # label -> (when, how many from then on)

    # ------------------------------------------------- by hand

    def take(self, slot: int, name: str, when: When, *, key: str = "", group: str = "", what: str = USED) -> None:
        """A slot is handed out (or, as a mirror, used by one more). Raises ValueError for a slot that there is not."""
        if not 1 <= slot <= self.count:
            raise ValueError(f"there is no slot {slot}; there are {self.count}")
        self.bars.append(Bar(slot, name, key or name, what, when, None, group))
        if what == USED:
            self._charge(group, slot, when, 1)

    def give_back(self, slot: int, when: When) -> None:
        """The slot's guest is gone: it waits for a flush."""
        used = self._end(slot, when, USED, MIRROR)
        if used is not None:
            self.bars.append(used._replace(what=WAITING, start=when, end=None))
            self._charge(used.group, slot, when, -1)

    def flush(self, when: When, error: str = "") -> int:
        """All waiting slots become free, unless there is an error; how many did."""
        waiting = [] if error else [bar.slot for bar in self.bars if bar.what == WAITING and bar.end is None]
        for slot in waiting:
            self._end(slot, when, WAITING)
        self.flushes.append(Flush(when, len(waiting), error))
        return len(waiting)

    def refuse(self, when: When, answer: str, cause: str = "", who: str = "") -> None:
        """A launch got no slot."""
        self.refusals.append(Refusal(when, who, answer, cause))

    def _end(self, slot: int, when: When, *kinds: str) -> Bar | None:
        found = None
        for i, bar in enumerate(self.bars):
            if bar.slot == slot and bar.end is None and bar.what in kinds:
                self.bars[i] = bar._replace(end=when)
                found = self.bars[i] if found is None or bar.what == USED else found
        return found

    def end(self, when: When, key: str, what: str) -> bool:
        """A VM's stretch of a slot ends, and the slot goes on; whether there was one."""
        for i, bar in enumerate(self.bars):
            if bar.key == key and bar.what == what and bar.end is None:
                self.bars[i] = bar._replace(end=when)
                if what == USED:
                    self._charge(bar.group, bar.slot, when, -1)
                return True
        return False

    def note(self, slot: int, note: str) -> None:
        """Say one more thing about the guest in a slot."""
        for i, bar in enumerate(self.bars):
            if bar.slot == slot and bar.end is None and bar.what == USED:
                self.bars[i] = bar._replace(note=note)

    def _charge(self, group: str, slot: int, when: When, change: int) -> None:
        for label in self.labels(group, slot):
            steps = self.levels.setdefault(label, [(When(0, 0), 0)])
            steps.append((when, steps[-1][1] + change))

    def labels(self, group: str, slot: int) -> Iterator[str]:
        """The labels of a cgroup and of all above it, but for the root, which has no limit: "/tenant-a sev"."""
        resource = self.kind(slot).lower().replace("-", "_")
        parts = [part for part in group.split("/") if part]
        for depth in range(len(parts), 0, -1):
            yield f"/{'/'.join(parts[:depth])} {resource}"

    # ------------------------------------------------- what a picture asks

    def kind(self, slot: int) -> str:
        """The name of the group that a slot is in."""
        return next((name for name, first, last in self.groups if first <= slot <= last), "")

    def at(self, n: int | None) -> Slots:
        """The same slots as they were after entry `n`; None is now."""
        if n is None:
            return self
        bars = [bar._replace(end=bar.end if bar.end and bar.end.n <= n else None) for bar in self.bars if bar.start.n <= n]
        levels = {label: [step for step in steps if step[0].n <= n] for label, steps in self.levels.items()}
        past = Slots(self.count, self.groups, self.limits, bars, levels=levels)
        past.flushes = [flush for flush in self.flushes if flush.when.n <= n]
        past.refusals = [one for one in self.refusals if one.when.n <= n]
        return past

    def state(self, slot: int) -> Bar | None:
        """The bar that a slot shows now; None when it is free."""
        return next((bar for bar in reversed(self.bars) if bar.slot == slot and bar.end is None and bar.what != MIRROR), None)

    def tally(self) -> dict[str, int]:
        """How many slots are in use, waiting and free."""
        now = [bar.what for bar in self.bars if bar.end is None and bar.what != MIRROR]
        used, waiting = now.count(USED), now.count(WAITING)
        return {USED: used, WAITING: waiting, "free": self.count - used - waiting}

    @property
    def last(self) -> When:
        """The latest moment that anything here has."""
        moments = [moment for bar in self.bars for moment in (bar.start, bar.end) if moment]
        moments += [flush.when for flush in self.flushes] + [refusal.when for refusal in self.refusals]
        return max(moments, default=When(0, 0))


def code(errno: int) -> str:
    """The name of an error number; "" for 0."""
    return errorcode.get(errno, str(errno)) if errno else ""


class Fold:
    """Fills `slots` from trace rows of the host with number `host`. `names` gives VMs, by number, a name."""

    def __init__(self, slots: Slots, host: int = 0, names: Mapping[int, str] | None = None) -> None:
        self.slots = slots
        self.host = host
        self.names = dict(names or {})
        self._processes: dict[int, tuple[str, str]] = {}  # pid -> name, cgroup
        self._vms: dict[int, tuple[int, bool]] = {}  # VM -> pid, whether its registers are encrypted
        self._failed = -1  # the entry in which a flush failed

    def add(self, rows: Iterable[Mapping[str, Any]]) -> bool:
        """Take rows in; whether any of them changed the picture."""
        changed = False
        for row in rows:
            handler = getattr(self, f"_{row['kind']}", None)
            if handler is not None and row["host"] == self.host:
                handler(row, When(row["t"], row["n"]))
                changed = True
        return changed

    def name(self, vm: int) -> str:
        """What a VM is called: the name given, else its process's, with a number when that has several."""
        if vm in self.names:
            return self.names[vm]
        pid = self._vms.get(vm, (0, False))[0]
        process = self._processes.get(pid, ("", ""))[0]
        siblings = [other for other, (owner, _) in self._vms.items() if owner == pid]
        return f"VM {vm}" if not process else process if siblings[0] == vm else f"{process} {siblings.index(vm) + 1}"

    def _ProcessMade(self, row: Mapping[str, Any], when: When) -> None:
        self._processes[row["pid"]] = row["process"], row["cgroup"]

    def _VmMade(self, row: Mapping[str, Any], when: When) -> None:
        self._vms[row["vm"]] = row["pid"], row["vm_type"] == ES_TYPE

    def _AsidTaken(self, row: Mapping[str, Any], when: When) -> None:
        self.slots.take(row["asid"], self.name(row["vm"]), when, key=f"VM {row['vm']}", group=row["cgroup"])

    def _AsidFreed(self, row: Mapping[str, Any], when: When) -> None:
        self.slots.give_back(row["asid"], when)

    def _AsidsFlushed(self, row: Mapping[str, Any], when: When) -> None:
        self.slots.flush(when, code(row["errno"]))
        if row["errno"]:
            self._failed = when.n

    def _ContextCopied(self, row: Mapping[str, Any], when: When) -> None:
        self.slots.take(row["asid"], self.name(row["mirror"]), when, key=f"VM {row['mirror']}", what=MIRROR)

    def _MirrorGone(self, row: Mapping[str, Any], when: When) -> None:
        self.slots.end(when, f"VM {row['mirror']}", MIRROR)

    def _ContextMoved(self, row: Mapping[str, Any], when: When) -> None:
        what = MIRROR if self.slots.end(when, f"VM {row['src']}", MIRROR) else USED
        self.slots.end(when, f"VM {row['src']}", USED)
        self.slots.take(row["asid"], self.name(row["dst"]), when, key=f"VM {row['dst']}", group=row["cgroup"], what=what)

    def _AsidsChanged(self, row: Mapping[str, Any], when: When) -> None:
        if row["state"] == IN_USE:
            self.slots.note(row["first"], f"handle {row['handle']}")

    def _SevCommand(self, row: Mapping[str, Any], when: When) -> None:
        if row["errno"] and row["id"] in (INIT, ES_INIT, INIT2):
            self.slots.refuse(when, code(row["errno"]), self._cause(row, when), self.name(row["vm"]))

    def _cause(self, row: Mapping[str, Any], when: When) -> str:
        """Why a launch got no slot: the caller sees one number for all of these."""
        pid, es = self._vms.get(row["vm"], (0, False))
        group = self._processes.get(pid, ("", "/"))[1]
        slots, es = self.slots, es or row["id"] == ES_INIT
        _, first, last = slots.groups[0 if es else -1]
        if self._failed == when.n:
            return "the flush failed"
        if any(bar.key == f"VM {row['vm']}" and bar.end is None for bar in slots.bars):
            return "it has one already"
        for label in slots.labels(group, first):
            if label in slots.limits and slots.levels.get(label, [(when, 0)])[-1][1] >= slots.limits[label]:
                return f"limit of {label.partition(' ')[0]}"
        busy = {bar.slot for bar in slots.bars if bar.end is None}
        return "no slot free" if all(slot in busy for slot in range(first, last + 1)) else ""
