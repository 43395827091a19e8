"""What a Topology shows of a host: processes and descriptors, VMs and who keeps them, key slots, and the ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from sevlab.host import Host
from sevlab.kvm.asid import RECLAIMABLE
from sevlab.kvm.designs import AS_IS
from sevlab.lab.views import Picture, View, facts, imaginary

FEW = 4  # descriptors of one kind that are drawn one by one
RESOURCES = ("sev", "sev_es")
SHIPPED = "as shipped, see J26"


def vm_names(host: Host, names: Mapping[int, str] | None = None) -> dict[int, str]:
    """A name for each VM, by its number: the process's, where that has but one."""
    owners: dict[int, list[int]] = {}
    for number, vm in host.kernel.vms.items():
        owners.setdefault(id(vm.mm), []).append(number)
    found: dict[int, str] = {}
    for process in host.processes.values():
        mine = owners.get(id(process.task.mm), [])
        found |= {number: process.name if len(mine) == 1 else f"{process.name}, VM {number}" for number in mine}
    return {number: found.get(number, f"VM {number}") for number in host.kernel.vms} | dict(names or {})


def _plugs(process: Any) -> Iterable[tuple[int, str, str, str]]:
    """(number, kind, key of the VM it holds, words) of each descriptor; many vCPUs in a row are one."""
    rows = []
    for number, file in sorted(process.task.fds.items()):
        kind = {"/dev/kvm": "kvm", "/dev/sev": "sev", "kvm-vm": "vm", "kvm-vcpu": "cpu"}.get(file.name, file.name)
        vm = file if kind == "vm" else getattr(file, "vm", None)
        rows.append((number, kind, f"vm {vm.number}" if vm is not None else "", ""))
    run: list[tuple[int, str, str, str]] = []
    for row in [*rows, (-1, "", "", "")]:
        if run and (row[1:3] != run[-1][1:3] or row[0] != run[-1][0] + 1):
            if len(run) > FEW and run[0][1] == "cpu":
                yield (*run[0][:3], f"{run[0][0]} to {run[-1][0]}: {len(run)} cpus")
            else:
                yield from run
            run = []
        run.append(row)


def ledger(host: Host, names: Mapping[int, str] | None = None) -> list[tuple[str, Any]]:
    """What is counted on a host: references, slots, pages, charges, guests."""
    called, asids = vm_names(host, names), host.asids.counts()
    rows: list[tuple[str, Any]] = []
    for number, vm in host.kernel.vms.items():
        rows.append((f"references on {called[number]}", vm.refs))
        if vm.sev.active:
            rows.append((f"pages locked, {called[number]}", vm.sev.pages_locked))
    rows += [
        ("slots in use", asids["used"]),
        ("slots waiting for a flush", asids["reclaimable"]),
        ("firmware guests", len(host.psp.guests)),
    ]
    groups = [host.kernel.root_cgroup]
    while groups:
        group = groups.pop(0)
        groups += group.children.values()
        for resource in RESOURCES:
            limit = group.max[resource]
            if group.current[resource] or limit < 1 << 63:
                rows.append((f"{group.path} {resource}", f"{group.current[resource]}{f' of {limit}' if limit < 1 << 63 else ''}"))
            if group.events[resource] and group.path != "/":
                rows.append((f"{group.path} {resource} events", group.events[resource]))
    return rows


def defects(host: Host) -> dict[str, str]:
    """The figures of the ledger that are wrong as the kernel shipped, by the name of their row: charges that nobody owes."""
    if host.design.quirks is not AS_IS:
        return {}
    found: dict[str, str] = {}
    groups = [host.kernel.root_cgroup]
    while groups:
        group = groups.pop(0)
        groups += group.children.values()
        owed = Counter(
            RESOURCES[vm.sev.es]
            for vm in host.kernel.vms.values()
            if vm.sev.active and vm.sev.owner is None and _inside(vm.sev.misc_cg, group)
        )
        found |= {f"{group.path} {name}": SHIPPED for name in RESOURCES if group.current[name] != owed[name]}
    return found


def _inside(group: Any, outer: Any) -> bool:
    """Whether what `group` is charged for is charged to `outer` as well."""
    while group is not None and group is not outer:
        group = group.parent
    return group is not None


def scene(host: Host, made: Any, names: Mapping[int, str] | None = None) -> Any:
    """A host at one moment as the rows of `made`, the widget's module or anything with the same five names."""
    called = vm_names(host, names)
    boxes = [
        made.Box(
            process.name, process.name, f"pid {process.pid} · {process.task.cgroup.path}",
            tuple(made.Plug(*plug) for plug in _plugs(process)),
        )
        for process in host.processes.values() if not process.dead
    ]  # fmt: skip
    things, links, below = [], [], []
    plugged = {plug.holds for box in boxes for plug in box.plugs if plug.kind == "vm"}
    for number, vm in host.kernel.vms.items():
        key, sev = f"vm {number}", vm.sev
        notes = ["dead: its context was moved"] if vm.dead else ["mirror"] if sev.owner is not None else []
        if key not in plugged and sev.mirrors:
            notes.append("kept by " + ", ".join(called[mirror.number] for mirror in sev.mirrors))
        notes += [] if sev.active or vm.dead else ["no key"]
        things.append(made.Thing(key, called[number], " · ".join(notes or ["alive"]), "dead" if vm.dead else ""))
        if sev.owner is not None:
            links.append(made.Link(key, f"vm {sev.owner.number}", "holds", True))
        if sev.active:
            links.append(made.Link(key, f"slot {sev.asid}"))
            if sev.handle and sev.owner is None:
                below.append(made.Thing(f"guest {sev.handle}", f"handle {sev.handle}", "a guest, as the firmware knows it"))
                links.append(made.Link(key, f"guest {sev.handle}"))
    for asid, state in enumerate(host.asids.states):
        if asid and (host.asids.owners[asid] or state == RECLAIMABLE):
            waits = state == RECLAIMABLE
            note = "given back, and not usable before a flush" if waits else "a key in the engine"
            below.append(made.Thing(f"slot {asid}", f"slot {asid}{' waits' if waits else ''}", note, "waits" if waits else ""))
    return made.Scene(tuple(boxes), tuple(things), tuple(below), tuple(links), tuple(ledger(host, names)), defects(host))


def topology(host: Host, before: Host | int | None = None, *, names: Mapping[int, str] | None = None, act: bool = True) -> View:
    """Who holds whom on a host, with its ledger.

    `before` is what to compare with: a host as it was (`host.at(n)`) or the number of a journal entry. `names` gives VMs,
    by number, a name. With `act` the reader can close descriptors, kill processes, and pass a descriptor on.
    """
    old = host.at(before) if isinstance(before, int) else before

    def close(name: str, fd: int) -> None:
        host.processes[name].close(fd)

    def kill(name: str) -> None:
        host.processes[name].kill()

    def hand(name: str, fd: int, to: str) -> None:
        host.processes[name].send_fd(fd, host.processes[to])

    def widget(module: Any) -> Any:
        verbs = {"close": close, "kill": kill, "pass": hand} if act else {}
        earlier = None if old is None else scene(old, module, names)
        return module.Topology(
            lambda at: scene(at, module, names), earlier, host=host, verbs=verbs, facts=facts(host), imaginary=imaginary(host)
        )

    def text() -> str:
        found = Picture("who holds whom", facts(host))
        called = vm_names(host, names)
        for process in host.processes.values():
            held = [f"{words or number} {kind}" if kind != "console" else str(number) for number, kind, _, words in _plugs(process)]
            found.row(process.name, f"pid {process.pid}, {process.task.cgroup.path}; descriptors {', '.join(held)}")
        for number, vm in host.kernel.vms.items():
            owner = f", a mirror, holds {called[vm.sev.owner.number]}" if vm.sev.owner is not None else ""
            slot = f", slot {vm.sev.asid}" if vm.sev.active else ", no key"
            found.row(f"VM {number}", f"{called[number]}{', dead' if vm.dead else ''}{slot}{owner}")
        now = dict(ledger(host, names))
        earlier = now if old is None else dict(ledger(old, names))
        for name in dict.fromkeys([*now, *earlier]):
            was, value = earlier.get(name, "–"), now.get(name, "–")
            found.row(name, value if was == value else f"{was} → {value}")
        return str(found)

    return View("topology", widget, text)
