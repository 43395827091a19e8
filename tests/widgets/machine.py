"""A host as a widget sees it, without a machine: entries, and rows that a test writes down."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any


class Trace:
    """Rows, and who is told of new ones."""

    def __init__(self) -> None:
        self.now = 0
        self._rows: list[dict[str, Any]] = []
        self.watchers: list[Callable[[list[dict[str, Any]]], None]] = []

    def rows(self) -> list[dict[str, Any]]:
        return list(self._rows)

    def watch(self, callback: Callable[[list[dict[str, Any]]], None]) -> Callable[[], None]:
        self.watchers.append(callback)
        return lambda: self.watchers.remove(callback)


class Machine:
    """`count` pages and fifteen key slots; `entry(...)` is a journal entry that leaves the rows given."""

    def __init__(self, count: int = 4096, *, max_asid: int = 15, min_asid: int = 6) -> None:
        self.n = 0
        self.trace = Trace()
        self.pages = SimpleNamespace(count=count)
        self.chip = SimpleNamespace(name="naples", max_asid=max_asid, min_asid=min_asid)
        self.design = SimpleNamespace(name="linux-6.1")
        self.seed = 7

    def entry(self, *rows: tuple[str, dict[str, Any]], ns: int = 1_000_000) -> None:
        """One more entry, which took `ns` and caused these rows: (kind, columns)."""
        self.n += 1
        self.trace.now += ns
        new = [
            {"seq": 0, "t": self.trace.now, "n": self.n, "host": 0, "lane": "host", "kind": kind, **columns}
            for kind, columns in rows
        ]
        self.trace._rows += new
        for watcher in list(self.trace.watchers):
            watcher(new)

    def mark(self, first: int, count: int, state: int, asid: int = 0) -> None:
        """An entry that gives pages a state."""
        self.entry(("PagesMarked", {"first": first, "count": count, "state": state, "asid": asid}))

    def pin(self, first: int, count: int, by: int = 1) -> None:
        """An entry that pins (or with -1 unpins) pages."""
        self.entry(("PagesPinned" if by > 0 else "PagesUnpinned", {"first": first, "count": count}))

    def take(self, asid: int, vm: int, cgroup: str = "/") -> None:
        """An entry in which a VM gets a slot."""
        self.entry(
            ("VmMade", {"vm": vm, "vm_type": 0, "pid": vm}), ("AsidTaken", {"asid": asid, "es": 0, "vm": vm, "cgroup": cgroup})
        )

    def give(self, asid: int, vm: int) -> None:
        """An entry in which it gives it back."""
        self.entry(("AsidFreed", {"asid": asid, "vm": vm}))

    def flush(self, freed: int, errno: int = 0) -> None:
        """An entry in which all waiting slots are flushed."""
        self.entry(("AsidsFlushed", {"freed": freed, "errno": errno}))
