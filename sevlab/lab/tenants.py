"""Tenants of key slots: guests that want nothing but a slot, on a Naples whose BIOS one may choose; and the books of both.

Labs `asids` and its exercises. What changes a machine says so.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import chain, count

from sevlab import vmm
from sevlab.host import Host
from sevlab.hw import chips
from sevlab.kvm.syscall import ProcessMade
from sevlab.lab.show import Text, table
from sevlab.vmm import steps

WORDS = {"free": "free", "used": "in use", "reclaimable": "waiting"}
MEMORY = 64 << 10  # bytes of a tenant who only wants a slot
POLICY, POLICY_ES = 1, 5


def naples(*, es: int = 5, slots: int = 15) -> chips.Chip:
    """A Naples whose BIOS gave its first `es` key slots to SEV-ES; with fewer `slots` than 15 it is one that never existed."""
    banner = "" if slots == chips.NAPLES.max_asid else f"This machine never existed: a Naples with {slots} key slots."
    return replace(chips.NAPLES, min_asid=es + 1, max_asid=slots, banner=banner)


def tenant(host: Host, *, es: bool = False, cgroup: str = "/") -> vmm.Vm:
    """A guest that only wants a key slot: a process and a VM, and launched no further than LAUNCH_START.

    Raises OSError as KVM_SEV_INIT refuses; then nobody is left behind.
    """
    taken = {row["process"] for row in host.trace.rows(ProcessMade)}  # of those who left too: a name is one guest's for ever
    name = next(one for one in chain(["tenant"], (f"tenant-{n}" for n in count(2))) if one not in taken)
    process = host.process(name, cgroup=cgroup, memlock=2 * MEMORY)
    try:
        vm = steps.create_vm(process, es=es)
        steps.launch_start(vm, POLICY_ES if es else POLICY)
    except OSError:
        process.kill()
        raise
    return vm


def everybody_leaves(host: Host) -> Host:
    """End every process of a machine; the machine."""
    for process in list(host.processes.values()):
        process.kill()
    return host


def slot_of(host: Host, vm: vmm.Vm) -> int:
    """The key slot of a VM: what its VMM is never told."""
    return int(host.kernel.vm_of(vm.process, vm.fd).sev.asid)


def slots(host: Host) -> Text:
    """How many slots of each kind are free, in use or waiting for a flush."""
    pool = host.asids
    kinds = [("SEV-ES", True), ("SEV", False)]
    return table([
        {"kind": name, "slots": f"{pool.slots(es).start} to {pool.slots(es)[-1]}",
         **{WORDS[state]: number for state, number in pool.counts(es).items()}}
        for name, es in kinds if pool.slots(es)
    ])  # fmt: skip


def books(host: Host, resource: str = "sev") -> Text:
    """The misc controller's files of every cgroup below the root, as rows."""
    rows, todo = [], list(host.kernel.root_cgroup.children.values())
    while todo:
        group = todo.pop(0)
        todo += group.children.values()
        names = ("max", "current", "events")
        rows.append({"cgroup": group.path, **{f"misc.{name}": getattr(group, name)[resource] for name in names}})
    return table(sorted(rows, key=lambda row: str(row["cgroup"])))
