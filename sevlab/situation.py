"""Situations: the state of a kernel, to go back to and to tell from another one.

A snapshot walks all that can be reached from its roots and keeps a shallow copy of
every container and object on the way. Going back writes into what differs, so that
every object stays the object it was. Coroutines cannot be copied: a call under way
is closed and begun again, a guest's thread is rebuilt from its log.
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from operator import attrgetter
from types import BuiltinFunctionType, CellType, CodeType, CoroutineType, FunctionType, GeneratorType, MethodType, ModuleType
from typing import Any

from sevlab.bulk import Key, Memory, Tweak
from sevlab.columns import Column
from sevlab.crypto import Ecb
from sevlab.gate import Gate, World
from sevlab.hw.chips import Chip
from sevlab.hw.program import Program, Programs
from sevlab.hw.thread import Thread
from sevlab.journal import Journal
from sevlab.kvm.call import Call
from sevlab.kvm.designs import Design
from sevlab.kvm.lock import Lock, TryLock, Unlock
from sevlab.trace import Trace

PLAIN = frozenset({int, str, bytes, bool, float, type(None)})
ATOMS = (int, str, bytes, float, type(None), type, ModuleType, CodeType, memoryview, BuiltinFunctionType)
# What no call changes, or what is a cache of something else.
CONSTANT = (Trace, Gate, World, Journal, Memory, Tweak, Key, Ecb, Program, Programs, Chip, Design)
FOREIGN = ("numpy", "mmap", "_thread", "threading", "cryptography", "_struct", "re", "weakref", "_weakref")


@cache
def _slots(kind: Any) -> tuple[str, ...]:
    """The names of all slots of a class."""
    return tuple(
        name for base in kind.__mro__ for name in _names(vars(base).get("__slots__", ())) if name not in ("__dict__", "__weakref__")
    )


def _names(slots: Any) -> Iterable[str]:
    return (slots,) if isinstance(slots, str) else tuple(slots)


class Kept:
    """One container or object as it was: `now()` gives its content, `restore()` puts it back."""

    __slots__ = ("now", "restore", "saved")

    def __init__(self, now: Callable[[], Any], restore: Callable[[Any], object]) -> None:
        self.now = now
        self.restore = restore
        self.saved = now()

    def changed(self) -> bool:
        """Whether it is no longer what it was."""
        try:
            return bool(self.now() != self.saved)
        except ValueError:  # two arrays: whoever replaces one has changed something
            return True


class _Contents(Kept):
    """A dict, list, set, deque or bytearray: compared itself, copied once."""

    __slots__ = ("live",)

    def __init__(self, live: Any, restore: Callable[[Any], object]) -> None:
        self.live = live
        super().__init__(lambda: live, restore)
        self.saved = live.copy()

    def changed(self) -> bool:
        try:
            return bool(self.live != self.saved)
        except ValueError:
            return True


def _put_back(live: Any, add: str) -> Callable[[Any], object]:
    def restore(saved: Any) -> None:
        live.clear()
        getattr(live, add)(saved)

    return restore


class Situation:
    """What all that `roots` lead to was when this was made.

    `memories` are arrays of words, each with a function that says how many of them are in use.
    """

    def __init__(self, roots: Iterable[object], memories: Iterable[tuple[Any, Callable[[], int]]] = ()) -> None:
        self.kept: list[Kept] = []
        self.index: dict[int, int] = {}  # of an object that was there: its number
        self._alive: list[object] = []  # so that no id is given out twice
        self._walk(list(roots))
        self.memories = [self._array(words, used) for words, used in memories]
        self._contents = [(one.live, one.saved, number) for number, one in enumerate(self.kept) if isinstance(one, _Contents)]
        self._others = [(one, number) for number, one in enumerate(self.kept) if not isinstance(one, _Contents)]

    # ------------------------------------------------------------- the walk

    def _walk(self, todo: list[Any]) -> None:
        while todo:
            one = todo.pop()
            if isinstance(one, ATOMS) or id(one) in self.index:
                continue
            self.index[id(one)] = len(self._alive)
            self._alive.append(one)
            todo += self._take(one)

    def _take(self, one: Any) -> Iterable[Any]:
        """Keep one object; what it leads to."""
        kind = type(one)
        if isinstance(one, CONSTANT) or kind.__module__.partition(".")[0] in FOREIGN:
            return ()
        if isinstance(one, dict):
            self.kept.append(_Contents(one, _put_back(one, "update")))
            return [*one, *one.values()]
        if isinstance(one, list | set | deque | bytearray):
            self.kept.append(_Contents(one, _put_back(one, "update" if isinstance(one, set) else "extend")))
            return () if isinstance(one, bytearray) else list(one)
        if isinstance(one, tuple | frozenset):
            return one
        if isinstance(one, MethodType):
            return (one.__self__,)
        if isinstance(one, partial):
            return (one.func, one.args, one.keywords)
        if isinstance(one, FunctionType):
            return (*(one.__closure__ or ()), *(one.__defaults__ or ()))
        if isinstance(one, CellType):
            return self._cell(one)
        if isinstance(one, CoroutineType | GeneratorType):
            return ()
        if isinstance(one, Column):
            self.kept.append(self._array(one.array, lambda: one._end))
        if hasattr(one, "hexdigest"):
            return ()  # a running digest: its owner keeps it, see _object
        return self._object(one)

    def _cell(self, cell: CellType) -> Iterable[Any]:
        try:
            value = cell.cell_contents
        except ValueError:
            return ()
        self.kept.append(Kept(lambda: cell.cell_contents, lambda saved: setattr(cell, "cell_contents", saved)))
        return (value,)

    def _object(self, one: Any) -> Iterable[Any]:
        leads: list[Any] = []
        names = _slots(one.__class__)
        if isinstance(one, Thread):
            self.kept.append(self._thread(one))
            return (one.args,)
        if names:
            leads += [getattr(one, name, None) for name in names]
            read = (
                attrgetter(*names)
                if all(hasattr(one, name) for name in names)
                else lambda it: [getattr(it, n, None) for n in names]
            )

            def write(saved: Any) -> None:
                for name, value in zip(names, saved if len(names) > 1 else (saved,), strict=True):
                    setattr(one, name, value)

            self.kept.append(Kept(lambda: read(one), write))
        fields = getattr(one, "__dict__", None)
        if fields is not None:
            self.kept.append(_Contents(fields, _put_back(fields, "update")))
            leads += fields.values()
        for digest in [value for value in leads if hasattr(value, "hexdigest")]:
            self.kept.append(self._digest(one, digest))
        return leads

    @staticmethod
    def _digest(owner: Any, digest: Any) -> Kept:
        """A running digest is changed in place: a copy takes its place."""
        name = next(
            name for name in (*_slots(owner.__class__), *getattr(owner, "__dict__", ())) if getattr(owner, name, None) is digest
        )
        saved = digest.copy()

        def now() -> Any:
            found = getattr(owner, name)
            return found.digest() if hasattr(found, "digest") else found

        return Kept(now, lambda _: setattr(owner, name, saved.copy()))

    @staticmethod
    def _thread(thread: Thread) -> Kept:
        """A guest's thread is its log; the coroutine is rebuilt from it."""
        log, pending = list(thread.log), thread.pending

        def restore(_: Any) -> None:
            thread.log[:] = log
            thread.frames, thread.pending, thread.send = [], pending, None

        return Kept(lambda: (len(thread.log), thread.log[-1:], thread.pending), restore)

    @staticmethod
    def _array(array: Any, used: Callable[[], int]) -> Kept:
        """The used part of an array of numbers; what lies behind it is zero."""
        count = used()
        saved = array[:count].copy()

        def now() -> Any:
            end = used()
            if end == count and not (array[:count] != saved).any():
                return 0
            return hash(bytes(array[: max(end, count)]))

        def restore(_: Any) -> None:
            array[:count] = saved
            array[count : max(used(), count)] = 0

        return Kept(now, restore)

    # ------------------------------------------------------------- to and fro

    def written(self) -> bool:
        """Whether memory is not as it was."""
        return any(kept.changed() for kept in self.memories)

    def changed(self) -> list[int]:
        """The numbers of what is not as it was, memory left out."""
        try:
            found = [number for live, saved, number in self._contents if live != saved]
        except ValueError:  # an array was replaced, and cannot be compared with != alone
            found = [number for _, _, number in self._contents if self.kept[number].changed()]
        return found + [number for one, number in self._others if one.changed()]

    def restore(self) -> None:
        """Put everything back, memory left out."""
        for number in self.changed():
            one = self.kept[number]
            one.restore(one.saved)

    def restore_memory(self) -> None:
        """Put the bytes of memory back."""
        for one in self.memories:
            if one.changed():
                one.restore(one.saved)

    # ------------------------------------------------------------- what tells two apart

    def key(self, own: frozenset[int], calls: Sequence[Call]) -> Any:
        """A value that two situations share only if they are the same: what changed, and where each call stands.

        `own` are the numbers of the calls' own attributes, which are no part of the machine.
        """
        canon = _Canon(self.index, calls)
        kept = [(number, self.kept[number]) for number in self.changed() if number not in own]
        parts = [(number, canon.difference(one.now(), one.saved)) for number, one in kept]
        return tuple(parts), tuple([canon.call(call) for call in calls])


class _Canon:
    """Turns what is new since the snapshot into values that compare by content."""

    def __init__(self, index: dict[int, int], calls: Sequence[Call]) -> None:
        self.index = index
        self.calls = {id(call): ("call", number) for number, call in enumerate(calls)}
        self.seen: dict[int, int] = {}

    def value(self, one: Any) -> Any:
        kind = one.__class__
        if kind in PLAIN:
            return one
        if id(one) in self.calls:
            return self.calls[id(one)]
        number = self.index.get(id(one))
        if number is not None and kind not in (tuple, frozenset):
            return ("#", number)  # it was there already, and counts by itself
        if isinstance(one, Lock | TryLock | Unlock):
            return (kind.__name__, getattr(one, "code", None), self.value(one.mutex))
        if id(one) in self.seen:
            return ("again", self.seen[id(one)])
        self.seen[id(one)] = len(self.seen)
        return self._content(one, kind)

    def difference(self, now: Any, saved: Any) -> Any:
        """What is new in the content of an object that was there."""
        kind, value = now.__class__, self.value
        if kind is list:
            same = next(
                (at for at, (one, two) in enumerate(zip(now, saved, strict=False)) if one is not two), min(len(now), len(saved))
            )
            return same, *[one if one.__class__ in PLAIN else value(one) for one in now[same:]]
        if kind is not dict:
            return self._content(now, kind) if kind in (set, deque) else value(now)
        gone = tuple([self.value(key) for key in saved if key not in now]) if saved.keys() - now.keys() else None
        return gone, *[
            (key if key.__class__ in PLAIN else value(key), item if item.__class__ in PLAIN else value(item))
            for key, item in now.items()
            if saved.get(key, saved) is not item
        ]

    def _content(self, one: Any, kind: type) -> Any:
        self.seen.setdefault(id(one), len(self.seen))
        value = self.value
        if kind in (list, tuple, deque):
            return (kind.__name__, *[item if item.__class__ in PLAIN else value(item) for item in one])
        if kind is dict:
            return ("dict", *[(value(key), value(item)) for key, item in one.items()])
        if kind in (set, frozenset):
            return ("set", frozenset(value(item) for item in one))
        if kind is bytearray:
            return bytes(one)
        if kind is MethodType:
            return ("method", one.__func__.__qualname__, value(one.__self__))
        if kind is partial:
            return ("partial", value(one.func), value(one.args), value(one.keywords))
        if kind is FunctionType:
            return ("function", one.__qualname__, *[value(cell.cell_contents) for cell in one.__closure__ or ()])
        if kind is CoroutineType:
            return self.coroutine(one)
        if kind is GeneratorType:
            return (one.__qualname__, one.gi_frame and (one.gi_frame.f_lasti, value(list(one.gi_frame.f_locals.values()))))
        if hasattr(one, "__next__") and not isinstance(one, type):
            return value(one.__reduce__())
        if isinstance(one, BaseException):
            return (kind.__name__, *[value(arg) for arg in one.args])
        if isinstance(one, int | str | bytes | type | ModuleType):
            return one
        if hasattr(one, "hexdigest"):
            return one.digest()
        fields = [value(getattr(one, name, None)) for name in _slots(kind)]
        fields += [(name, item if item.__class__ in PLAIN else value(item)) for name, item in getattr(one, "__dict__", {}).items()]
        return (kind.__name__, *fields)

    def coroutine(self, one: Any) -> Any:
        """Where a coroutine stands: the instruction, its variables, and what it awaits."""
        frame = one.cr_frame
        if frame is None:
            return "ended"
        inner = one.cr_await
        return (
            one.__qualname__,
            frame.f_lasti,
            tuple([item if item.__class__ in PLAIN else self.value(item) for item in frame.f_locals.values()]),
            tuple(frame.f_locals),
            self.coroutine(inner) if isinstance(inner, CoroutineType) else None,
            # Loops under way stand on the frame's stack, where only the garbage collector sees them.
            tuple([self.value(loop) for loop in gc.get_referents(one) if hasattr(loop, "__next__")]),
        )

    def call(self, call: Call) -> Any:
        work = call._work
        if call.done:
            return ("done", self.value(call.result), self.value(call.error))
        where = self.coroutine(work) if isinstance(work, CoroutineType) else "not begun"
        return (where, call.signalled, call.killed, call._ended)
