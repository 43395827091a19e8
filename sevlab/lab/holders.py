"""Who holds whom: every VM of a machine with what it has, and what keeps it alive. A look, in text."""

from __future__ import annotations

from typing import Any

from sevlab.host import Host
from sevlab.kvm.vcpu import Vcpu
from sevlab.kvm.vm import Vm
from sevlab.lab.show import Text, table


def letter(vm: Vm) -> str:
    """A VM's name in a lesson: VM 1 is vm-a."""
    return f"vm-{chr(ord('a') + vm.number - 1)}" if vm.number <= 26 else f"vm-{vm.number}"


def holders(host: Host, vm: Vm) -> list[str]:
    """What holds a VM: descriptors of it and of its vCPUs, and mirrors. None of these: a vCPU's page that is still mapped."""
    found = []
    for process in host.processes.values():
        fds = process.task.fds.items()
        found += [f"{process.name} fd {fd}" for fd, file in fds if file is vm]
        found += [f"{process.name} fd {fd} (vCPU {file.index})" for fd, file in fds if isinstance(file, Vcpu) and file.vm is vm]
    return [*found, *(letter(mirror) for mirror in vm.sev.mirrors)]


def topology(host: Host, *columns: str) -> Text:
    """Every VM that is alive as a row: who holds it, its slot, key, memory, vCPUs, pins, owner, and who pays.

    With `columns` those alone, beside the VM's name. Raises KeyError for a column that is none.
    """
    return table([{name: row[name] for name in ("VM", *(columns or list(row)[1:]))} for row in rows(host)])


def rows(host: Host) -> list[dict[str, Any]]:
    """The rows of `topology`."""
    return host.gate.look(lambda: [_row(host, vm) for vm in host.kernel.vms.values()])


def _row(host: Host, vm: Vm) -> dict[str, Any]:
    sev = vm.sev
    return {
        "VM": letter(vm) + (" (dead)" if vm.dead else ""),
        "held by": ", ".join(holders(host, vm)) or "a vCPU's mapped page",
        "slot": sev.asid or "-",
        "handle": sev.handle or "-",
        "memslots": len(list(vm.slots)),
        "vCPUs": len(vm.vcpus),
        "pages pinned": sev.pages_locked,
        "regions": len(sev.regions),
        "owner": letter(sev.owner) if sev.owner is not None else "-",
        "pays": sev.misc_cg.path if sev.misc_cg is not None else "-",
    }
