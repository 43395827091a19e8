"""Every schedule of two or three calls, at their lock points, by the handlers that serve every other call.

    a = qemu.begin(vm_1, KVM_ENABLE_CAP, move_from(vm_2))
    b = qemu.begin(vm_2, KVM_ENABLE_CAP, move_from(vm_1))
    found = explore(a, b)
    found                           # 2 outcomes of 70 schedules ...
    found.outcomes                  # [<Tile A: 1 done, 2 EBUSY; 35 schedules, the first 1111111222>, ...]
    found.deadlocks[0].schedule     # "12112": the first call, the second, ...
    machine = found.replay("12112") # a twin of the machine after those steps, with every row of them in its trace

A schedule names who moves at each step. A step is what a call does between two
requests: it begins, is given a lock, gives one back. Explored is a twin of the
machine; the calls, begun and not yet stepped, stay as they are.

A situation met before is not followed again: the same content of the kernel, and
every call at the same place with the same variables. Virtual time does not tell
situations apart. `all=True` follows and lists every schedule.
"""

from __future__ import annotations

from collections.abc import Sequence
from errno import errorcode
from functools import partial
from types import CoroutineType
from typing import Any, NamedTuple

from sevlab.given import shown
from sevlab.hw.thread import moments
from sevlab.kvm.call import Call
from sevlab.kvm.lock import Lock, Tick, Wait
from sevlab.situation import Situation

LIMIT = 200_000  # steps after which a search is given up
TICKS = 2  # stretches of work that a call is let go on for, before a signal ends it


Ends = tuple[str, ...]  # what became of each call


class Tile(NamedTuple):
    """One way in which the calls can come out: a letter, what became of each call, in how many schedules, and the first."""

    letter: str
    ends: Ends
    schedules: int
    schedule: str

    @property
    def deadlock(self) -> bool:
        """Whether calls wait for one another, or for locks that nobody gives back."""
        return any(end.startswith("waits for") for end in self.ends)

    def __repr__(self) -> str:
        ends = ", ".join(f"{number} {end}" for number, end in enumerate(self.ends, 1))
        many = f"{self.schedules} schedules, the first" if self.schedules > 1 else "one schedule,"
        return f"<Tile {self.letter}: {ends}; {many} {self.schedule}>"


class Explored:
    """What a search has found.

    `outcomes` are Tiles, in the order in which they were met. `schedules` counts all schedules there are,
    `steps` those that were taken to find this, `situations` the different states seen (0 with all=True).
    `calls` are those explored. With all=True `every` is a dict of all schedules: the schedule to its letter.
    """

    def __init__(self, calls: Sequence[Call], search: Search) -> None:
        self.calls = tuple(calls)
        self.steps = search.steps
        self.situations = len(search.known)
        counts, first = search.counted()
        self.outcomes = [
            Tile(_letter(number), ends, counts[ends], first[ends])
            for number, ends in enumerate(sorted(counts, key=lambda it: first[it]))
        ]
        letters = {tile.ends: tile.letter for tile in self.outcomes}
        self.schedules = sum(counts.values())
        self.every = {schedule: letters[ends] for schedule, ends in sorted(search.leaves)} if search.all else {}

    @property
    def deadlocks(self) -> list[Tile]:
        """The outcomes after which calls wait for ever."""
        return [tile for tile in self.outcomes if tile.deadlock]

    def replay(self, schedule: str) -> Any:
        """A twin of the machine in which the calls were stepped in this order: a live Host, as far as the schedule goes.

        Raises ValueError for a digit that names no call, and for a step that a call cannot take there.
        """
        host, calls = _twin(self.calls)
        ticks = [0] * len(calls)
        for at, digit in enumerate(schedule):
            if not digit.isdecimal() or not 1 <= int(digit) <= len(calls):
                raise ValueError(f"step {at + 1} of {schedule!r} names no call: there are 1 to {len(calls)}")
            call = calls[int(digit) - 1]
            if call.done or not call._can():
                raise ValueError(f"step {at + 1} of {schedule!r}: call {digit} {'is done' if call.done else call.waits_for}")
            if isinstance(call._request, Tick):
                if ticks[int(digit) - 1] == TICKS:
                    call.interrupt()
                ticks[int(digit) - 1] += 1
            call.step()
        return host

    def __repr__(self) -> str:
        head = f"{len(self.outcomes)} outcome{'s' * (len(self.outcomes) != 1)} of {self.schedules} schedules"
        return "\n".join([head, *[f"  {tile!r}" for tile in self.outcomes]])


def explore(*calls: Call, all: bool = False) -> Explored:
    """Try every schedule of two or more calls that have begun and were not stepped.

    Raises ValueError for anything else, and RuntimeError when there are more schedules than can be followed.
    """
    if len(calls) < 2 or len(set(calls)) != len(calls):
        raise ValueError("explore takes two or more calls: process.begin(fd, nr, arg), each once")
    for number, call in enumerate(calls, 1):
        if not isinstance(call, Call):
            raise TypeError(f"call {number} is a Call, as process.begin makes them, not {shown(call)}")
        if call.done or call._request is not None or isinstance(call._work, CoroutineType):
            raise ValueError(f"call {number} ({call}) has been stepped already: only calls that were just begun can be explored")
    host, twins = _twin(calls)
    search = host.gate.look(lambda: Search(twins, all=all).run())
    return Explored(calls, search)


def _twin(calls: Sequence[Call]) -> tuple[Any, list[Call]]:
    """A fork of the machine, and these calls in it."""
    gate = calls[0].calls.gate
    if any(call.calls.gate.world is not gate.world for call in calls):
        raise ValueError("the calls belong to machines of different worlds: they cannot meet")
    host = gate.world.members[gate.host]
    if host is None:
        raise ValueError("the calls belong to no Host, which could be made anew")
    twin = host.fork()
    kept = {number: call for one in twin.world for number, call in one.kernel.calls.kept.items()}
    return twin, [kept[call.number] for call in calls]


def _letter(number: int) -> str:
    return chr(ord("A") + number) if number < 26 else f"{_letter(number // 26 - 1)}{_letter(number % 26)}"


def _words_in_use(kernel: Any) -> int:
    return int(kernel.frames.fresh) << 9


class Search:
    """The search itself, on calls that may be stepped and put back as one likes. They are as before when it is over."""

    def __init__(self, calls: Sequence[Call], *, all: bool = False) -> None:
        self.calls = calls
        self.all = all
        self.steps = 0
        self.leaves: list[tuple[str, Ends]] = []  # with all=True every schedule
        self.known: dict[Any, int] = {}  # a situation: its number
        self._next: list[list[tuple[str, int | Ends]]] = []  # of each situation: who moved, and what came of it
        self._level: list[int] = []  # of each situation: how many steps led there
        self._ticks = [0] * len(calls)
        self._taken = [0] * len(calls)
        kernels = list({id(call.task.kernel): call.task.kernel for call in calls}.values())
        self._trace = calls[0].calls.trace
        for kernel in kernels:
            kernel.soc.dram.settle()
        self._base = Situation(
            [*kernels, moments(self._trace), *calls],
            [(kernel.soc.dram.memory.words, partial(_words_in_use, kernel)) for kernel in kernels],
        )
        self._own = frozenset(n for n, kept in enumerate(self._base.kept) if any(kept.now() is vars(call) for call in calls))
        self._writes = False  # whether they write to memory

    def run(self) -> Search:
        """Search; the search itself."""
        trace = self._trace
        before = trace.on, trace.now
        trace.on = False
        try:
            self._search()
            if not self._writes and self._base.written():
                self._writes = True  # they write to memory: it counts too
                self._reset()
                self._search()
            return self
        finally:
            self._close()
            self._base.restore()
            self._base.restore_memory()
            trace.on, trace.now = before

    # ------------------------------------------------------------- stepping

    def _close(self) -> None:
        """End the coroutines of calls under way; what they do on their way out is put back with all the rest."""
        for call in self.calls:
            if isinstance(call._work, CoroutineType):
                try:
                    call._work.close()
                except RuntimeError:
                    call._work = None  # it awaited something on its way out; nobody drives it any more

    def _reset(self) -> None:
        self._close()
        self._base.restore()
        if self._writes:
            self._base.restore_memory()
        self._ticks = [0] * len(self.calls)
        self._taken = [0] * len(self.calls)

    def _step(self, number: int) -> None:
        call = self.calls[number]
        if call._request.__class__ is Tick:
            if self._ticks[number] == TICKS:
                call.signalled = True
            self._ticks[number] += 1
        call._step()
        self._taken[number] += 1
        self.steps += 1
        if self.steps > LIMIT:
            raise RuntimeError(f"after {LIMIT} steps there are still schedules left: explore fewer or shorter calls")

    def _able(self) -> list[int]:
        return [number for number, call in enumerate(self.calls) if call._can()]

    # ------------------------------------------------------------- searching

    def _search(self) -> None:
        self.leaves, self.known, self._next, self._level = [], {}, [], []
        todo: list[tuple[str, tuple[int, str] | None]] = [("", None)]
        while todo:
            path, parent = todo.pop()
            self._reset()
            for digit in path:
                self._step(int(digit) - 1)
            while True:
                able = self._able()
                if not able:
                    self._came_out(path, parent)
                    break
                if not self.all:
                    seen = len(self.known)
                    node = self.known.setdefault(self._key(), seen)
                    if parent is not None:
                        self._next[parent[0]].append((parent[1], node))
                    if node != seen:
                        break
                    self._next.append([])
                    self._level.append(len(path))
                else:
                    node = 0
                todo += [(f"{path}{number + 1}", (node, str(number + 1))) for number in able[:0:-1]]
                digit = str(able[0] + 1)
                self._step(able[0])
                path, parent = path + digit, (node, digit)

    def _key(self) -> Any:
        """What tells this situation from another one; of the calls themselves, where they stand."""
        memory = tuple(kept.now() for kept in self._base.memories) if self._writes else ()
        return self._base.key(self._own, self.calls), tuple(self._taken), memory

    def _came_out(self, path: str, parent: tuple[int, str] | None) -> None:
        ends = tuple(_end(call) for call in self.calls)
        if self.all:
            self.leaves.append((path, ends))
        elif parent is not None:
            self._next[parent[0]].append((parent[1], ends))

    def counted(self) -> tuple[dict[Ends, int], dict[Ends, str]]:
        """How many schedules lead to each outcome, and the first of them."""
        if self.all:
            counts: dict[Ends, int] = {}
            first: dict[Ends, str] = {}
            for path, ends in sorted(self.leaves):
                counts[ends] = counts.get(ends, 0) + 1
                first.setdefault(ends, path)
            return counts, first
        below: dict[int, dict[Ends, tuple[int, str]]] = {}
        for node in sorted(range(len(self._next)), key=self._level.__getitem__, reverse=True):
            total: dict[Ends, tuple[int, str]] = {}
            for digit, target in self._next[node]:
                for ends, (count, path) in ({target: (1, "")} if isinstance(target, tuple) else below[target]).items():
                    before, best = total.get(ends, (0, digit + path))
                    total[ends] = before + count, min(best, digit + path)
            below[node] = total
        return {ends: count for ends, (count, _) in below[0].items()}, {ends: path for ends, (_, path) in below[0].items()}


def _end(call: Call) -> str:
    """What became of a call, in words."""
    if not call.done:
        request = call._request
        if isinstance(request, Lock):
            return f"waits for {request.mutex.name}"
        return f"sleeps: {request.why}" if isinstance(request, Wait) else f"stands still: {request}"
    if call.error is None:
        return f"done, {call.result}" if call.result else "done"
    if isinstance(call.error, OSError):
        return errorcode.get(call.error.errno or 0, str(call.error.errno))
    return f"fails: {type(call.error).__name__}"
