"""What an AsidTimeline shows of a host: its key slots over time. The widget folds the trace itself; this gives it to readers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sevlab.host import Host
from sevlab.kvm.asid import RECLAIMABLE
from sevlab.lab.views import Picture, View, facts, imaginary
from sevlab.lab.views_topology import vm_names


def timeline(host: Host, *, names: Mapping[int, str] | None = None, title: str = "key slots") -> View:
    """The key slots of a host over virtual time, live. `names` gives VMs, by number, a name."""

    def widget(module: Any) -> Any:
        return module.AsidTimeline.of(host, names=names, title=title, imaginary=imaginary(host))

    def text() -> str:
        found, called = Picture(title, facts(host)), vm_names(host, names)
        for asid, state in enumerate(host.asids.states):
            if state == RECLAIMABLE:
                found.row(f"slot {asid}", "given back, waits for a flush")
            elif owner := host.asids.owners[asid]:
                found.row(f"slot {asid}", called.get(owner, f"VM {owner}"))
        counts = host.asids.counts()
        found.row("all", f"{counts['used']} in use, {counts['reclaimable']} waiting for a flush, {counts['free']} free")
        found.row("flushes", host.asids.flushes)
        return str(found)

    return View("timeline", widget, text)
