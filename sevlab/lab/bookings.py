"""A day to plan: guests that want to run for a time, a machine of four key slots, and as few flushes as can be.

    bookings = day(seed=1, guests=10)
    play(bookings, {"A": 0, ...})       # 3 flushes: what the plan takes on a machine
    Plan(bookings)                      # the same as a picture whose bars can be moved

Lab `asids`, scene 8. The counting (`flushes_of`) and the machine (`play`) must agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

from sevlab import vmm
from sevlab.crypto import Stream
from sevlab.host import Host
from sevlab.lab import ask
from sevlab.lab.attempt import Refusal, attempt
from sevlab.lab.show import table
from sevlab.lab.tenants import naples, slot_of, tenant
from sevlab.lab.views import View, imaginary


class Booking(NamedTuple):
    """A guest that wants to run for `ticks` ticks, and to start no earlier than `first` and no later than `last`."""

    name: str
    first: int
    last: int
    ticks: int


class Stay(NamedTuple):
    """A guest that ran: in which key slot, and from which tick to which."""

    name: str
    slot: int
    start: int
    end: int


class Played(NamedTuple):
    """What became of a plan: the flushes it took, who was refused, and the machine on which it was played.

    `stays` says who ran where, `flushed` at which ticks there was a flush.
    """

    flushes: int
    refused: tuple[str, ...]
    host: Host
    stays: tuple[Stay, ...] = ()
    flushed: tuple[int, ...] = ()

    def __repr__(self) -> str:
        refused = f", refused: {', '.join(self.refused)}" if self.refused else ""
        return f"{self.flushes} flush{'es' * (self.flushes != 1)}{refused}"


SLOTS = 4  # of the machine that a day is played on


def day(seed: int, guests: int = 8) -> list[Booking]:
    """The bookings of a day, drawn from `seed`: at most four guests can run at a time, so not every plan will do."""
    stream = Stream(seed)
    found = []
    for number in range(guests):
        a, b, c = stream.draw(f"lab/day/{number}", 3)
        first = number * 2 + a % 2
        found.append(Booking("ABCDEFGHIJKLMNOP"[number], first, first + 1 + b % 3, 2 + c % 4))
    return found


def _events(bookings: Sequence[Booking], plan: Mapping[str, int]) -> list[tuple[int, int, Booking]]:
    """(tick, 0 leaves or 1 arrives, who) in their order: at one tick those who leave go first."""
    coming = [(plan[one.name], 1, one) for one in bookings]
    return sorted(coming + [(start + one.ticks, 0, one) for start, _, one in coming])


def play(bookings: Sequence[Booking], plan: Mapping[str, int], seed: int = 7) -> Played:
    """Play a plan (name to starting tick) on a machine of four key slots; it is handed back with the result.

    Raises ValueError for a guest without a start, or with one outside its window.
    """
    for one in bookings:
        if not one.first <= plan.get(one.name, -1) <= one.last:
            raise ValueError(f"{one.name} must start between {one.first} and {one.last}, not at {plan.get(one.name)}")
    host = Host(naples(es=0, slots=SLOTS), seed=seed, memory=1 << 30)
    running: dict[str, vmm.Vm] = {}
    refused: list[str] = []
    stays: list[Stay] = []
    flushed: list[int] = []
    for tick, arrives, one in _events(bookings, plan):
        if arrives:
            vm = attempt(tenant, host)
            flushed += [tick] * (host.asids.flushes - len(flushed))
            if isinstance(vm, Refusal):
                refused.append(one.name)
            else:
                running[one.name] = vm
                stays.append(Stay(one.name, slot_of(host, vm), tick, tick + one.ticks))
        elif one.name in running:
            running.pop(one.name).process.kill()
    return Played(host.asids.flushes, tuple(refused), host, tuple(stays), tuple(flushed))


def flushes_of(bookings: Sequence[Booking], plan: Mapping[str, int]) -> int | None:
    """How many flushes a plan takes, by counting alone; None where somebody would be refused."""
    used = dirty = flushes = 0
    for _, arrives, _one in _events(bookings, plan):
        if not arrives:
            used, dirty = used - 1, dirty + 1
        elif used == SLOTS:
            return None
        else:
            if used + dirty == SLOTS:
                dirty, flushes = 0, flushes + 1
            used += 1
    return flushes


def par(bookings: Sequence[Booking]) -> int:
    """The fewest flushes with which everybody runs, found by trying every plan. Raises ValueError where no plan does."""
    windows = [range(one.first, one.last + 1) for one in bookings]
    names = [one.name for one in bookings]
    tried = (flushes_of(bookings, dict(zip(names, starts, strict=True))) for starts in product(*windows))
    return min(found for found in tried if found is not None)


class Plan(View):
    """A plan that can be changed: displayed, a timeline whose bars are dragged (or moved by Shift and an arrow), or a table.

    `starts` has the tick at which each guest starts; without any, everybody starts as early as possible. `played` is what
    the machine made of it, played anew after each move.
    Raises ValueError as `play` does, and where somebody would be refused.
    """

    def __init__(self, bookings: Sequence[Booking], starts: Mapping[str, int] | None = None) -> None:
        self.bookings = {one.name: one for one in bookings}
        self.starts = {one.name: one.first for one in bookings} | dict(starts or {})
        self.played = self._play(self.starts)
        super().__init__("timeline", self._picture, self._words)

    @property
    def flushes(self) -> int:
        """How many flushes it takes."""
        return self.played.flushes

    def move(self, name: str, start: int) -> int:
        """Let a guest start at another tick, no further than its window goes; the tick. The plan is played again.

        Raises ValueError where somebody would be refused then, and KeyError for a guest that is none: all stays as it was.
        """
        one = self.bookings[name]
        tick = min(max(start, one.first), one.last)
        starts = self.starts | {name: tick}
        played = self._play(starts)

        self.played.host.close()
        self.starts, self.played = starts, played
        if self._widget is not None:
            self._widget.title = self._title()
            self._widget.show(self._slots(ask.widgets("slots")))
        return tick

    def _play(self, starts: Mapping[str, int]) -> Played:
        played = play(list(self.bookings.values()), starts)
        if played.refused:
            played.host.close()
            names = " and ".join(played.refused)
            raise ValueError(f"all {SLOTS} slots are in use when {names} would start, so {names} would be refused")
        return played

    def _title(self) -> str:
        return f"{len(self.bookings)} bookings, {self.played!r}"

    def _slots(self, made: Any) -> Any:
        """The plan as the rows of a timeline: what the machine did, at the ticks of the plan."""
        slots = made.Slots(SLOTS, [("SEV", 1, SLOTS)])
        moments = [(stay.end, 0, stay) for stay in self.played.stays]
        moments += [(stay.start, 2, stay) for stay in self.played.stays]
        todo = [*moments, *((tick, 1, None) for tick in self.played.flushed)]
        for tick, what, stay in sorted(todo, key=lambda row: row[:2]):  # at one tick: who leaves, a flush, who comes
            when = made.When(tick, tick)
            if stay is None:
                slots.flush(when)
            elif what:
                slots.take(stay.slot, stay.name, when)
                one = self.bookings[stay.name]
                slots.note(stay.slot, f"may start at tick {one.first} to {one.last}")
            else:
                slots.give_back(stay.slot, when)
        return slots

    def _picture(self, made: Any) -> Any:
        banner = imaginary(self.played.host)
        return made.AsidTimeline(self._slots(made), unit="tick", on_move=self.move, title=self._title(), imaginary=banner)

    def _words(self) -> str:
        stays = {stay.name: stay for stay in self.played.stays}
        rows = [
            {
                "guest": one.name, "may start": f"{one.first} to {one.last}", "starts": self.starts[one.name],
                "runs for": one.ticks, "slot": stays[one.name].slot,
            }
            for one in self.bookings.values()
        ]  # fmt: skip
        at = f", at tick {' and '.join(map(str, self.played.flushed))}" if self.played.flushed else ""
        return f"{self._title()}{at}\n\n{table(rows)}"
