"""What a PageMap shows of a host: every frame of the machine, or one guest's pages in the guest's own order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from sevlab.host import Host
from sevlab.hw import pages as states
from sevlab.lab.bus import PAGE
from sevlab.lab.views import Picture, View, facts, imaginary
from sevlab.lab.views_lens import Place

Run = tuple[int, int, int, int, int]  # first page, pages, state, slot, pins
NAMES = {
    states.FREE: "free", states.HOST: "host", states.SHARED: "shared", states.PRIVATE: "private", states.FIRMWARE: "firmware",
    states.VMSA: "save area", states.GHCB: "GHCB", states.MOVED: "moved away", states.STALE: "no longer reads what it wrote",
}  # fmt: skip


def guest_pages(vm: Any, pages: Any) -> Iterator[Run]:
    """The pages of a VM by gpa, as far as there are frames behind them: the nested table's, else the VMM's mapping's."""
    for slot in vm.slots:
        gfn, end, hva = slot.gfn, slot.gfn + slot.pages, slot.hva
        while gfn < end:
            mapping = vm.mm.find(hva)
            if mapping is None:  # unmapped by the VMM: nothing is behind it
                gfn, hva = gfn + 1, hva + PAGE
                continue
            count = min(end - gfn, (mapping.end - hva) // PAGE)
            for pfn, length in mapping.backing.runs(mapping.offset + (hva - mapping.start) // PAGE, count):
                if pfn is not None:
                    for run in pages.runs(pfn, length):
                        yield gfn + run.first - pfn, *run[1:]
                gfn, hva = gfn + length, hva + length * PAGE
    for gfn, pfn in vm.npt.table.items():  # what the guest reads, where the host's kernel has pointed it elsewhere
        yield gfn, 1, *pages.runs(pfn, 1)[0][2:]


def pagemap(
    host: Host,
    vm: Any = None,
    *,
    title: str = "",
    on_enter: Callable[[int], Any] | None = None,
    slots: Mapping[int, str] | None = None,
) -> View:
    """The pages of a machine by hpa, live; with `vm` (as `vmm.launch` gives it) those of a guest by gpa, behind its memory slots.

    `on_enter(address)` is told the gpa or hpa of a page that a reader takes elsewhere; `slots` names owners by key slot.
    """
    place = None if vm is None else Place(host, vm, 0, PAGE)

    def look(at: Host) -> tuple[int, list[Run], list[tuple[int, int, str]]]:
        assert place is not None

        def rows() -> tuple[int, list[Run], list[tuple[int, int, str]]]:
            try:
                kvm = place.kvm(at)
            except LookupError:
                return 1, [], []  # before it was made it has no memory
            regions = [(slot.gfn, slot.pages, f"memslot {slot.id}") for slot in kvm.slots]
            return max((first + count for first, count, _ in regions), default=1), list(guest_pages(kvm, at.pages)), regions

        found: tuple[int, list[Run], list[tuple[int, int, str]]] = at.gate.look(rows)
        return found

    def widget(module: Any) -> Any:
        enter = None if on_enter is None else lambda page: on_enter(page * PAGE)
        given = {"host": host, "facts": facts(host), "word": "slot", "owners": slots, "on_enter": enter}
        given["imaginary"] = imaginary(host)
        if place is None:
            del given["host"]
            return module.PageMap.of(host, **given, title=title or "machine memory")
        untouched = module.Kind("nothing behind it yet", *module.PAGES[0][1:])  # a page of a memory slot that nobody has touched
        kinds = untouched, *module.PAGES[1:]
        called = title or f"memory of {vm.process.name}"
        return module.PageMap(look=look, folded=True, kinds=kinds, **given, title=called)

    def text() -> str:
        found = Picture(title or ("machine memory" if vm is None else f"memory of {vm.process.name}"), facts(host))
        runs = host.pages.runs() if place is None else look(host)[1]
        tally: Counter[str] = Counter()
        seen: dict[int, Run] = {}
        for run in runs:
            for first in () if place is None else range(run[0], run[0] + run[1]):
                seen[first] = (first, 1, *run[2:])
        for _, length, state, _, pins in seen.values() if place is not None else runs:
            tally[NAMES[state]] += length
            tally["pinned"] += length if pins else 0
        for name in (*NAMES.values(), "pinned"):
            if tally[name]:
                found.row(name, f"{tally[name]:,} page{'s' if tally[name] > 1 else ''}")
        return str(found)

    return View("pagemap", widget, text)
