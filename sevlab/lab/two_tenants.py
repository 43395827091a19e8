"""Two tenants and one guest that changes hands: who pays, and what is left of the source. On any kernel design.

Lab `move`, scenes 4 and 5. Each function makes a machine of its own.
"""

from __future__ import annotations

from typing import NamedTuple

from sevlab import guest, vmm
from sevlab.host import Host
from sevlab.kvm import designs
from sevlab.kvm.process import Process
from sevlab.lab.attempt import Refusal, attempt
from sevlab.vmm import steps


class Tenants(NamedTuple):
    """A machine with tenant /a, who has a guest, and tenant /b, who has a process; `n` entries are in its journal by then."""

    host: Host
    old: vmm.Vm
    process: Process
    n: int

    @property
    def current(self) -> tuple[int, int]:
        """misc.current of /a and of /b."""
        a, b = (self.host.kernel.root_cgroup.find(path).current["sev"] for path in ("/a", "/b"))
        return a, b


def tenants(design: designs.Design = designs.LINUX_6_1, *, full: bool = False, seed: int = 7) -> Tenants:
    """Two tenants who may have one guest each; with `full`, /b has one already."""
    host = Host(design=design, seed=seed, cgroups={"/a": {"sev": 1}, "/b": {"sev": 1}})
    old = vmm.launch(host, program=guest.counter, shared=True, process=host.process("qemu-a", cgroup="/a"))
    old.finish()
    old.run()
    if full:
        steps.create_vm(host.process("other-b", cgroup="/b"))
    process = host.process("qemu-b", cgroup="/b")
    return Tenants(host, old, process, host.n)


def carried(design: designs.Design = designs.LINUX_6_1) -> Tenants:
    """The guest of /a has moved to /b's process; then somebody asked the source's vCPU for its registers."""
    two = tenants(design)
    vmm.move(two.old, to=two.process)
    attempt(two.old.vcpus[0].registers)
    return two


def balance(design: designs.Design) -> dict[str, str]:
    """A row: who pays for a guest of /a that moves to /b, at four moments. On a machine of its own."""
    two = tenants(design)
    row = {"design": design.name, "before": pair(two.current)}
    vmm.move(two.old, to=two.process)
    row["after the move"] = pair(two.current)
    two.old.process.kill()
    row["old process killed"] = pair(two.current)
    two.process.kill()
    return row | {"guest gone": pair(two.current)}


def pair(books: tuple[int, int]) -> str:
    return f"a {books[0]}, b {books[1]}"


def into_a_full_tenant(design: designs.Design) -> dict[str, str]:
    """A row: the same move while /b has all that it may have. On a machine of its own."""
    two = tenants(design, full=True)
    moved = attempt(vmm.move, two.old, to=two.process)
    answer = moved.errno_name if isinstance(moved, Refusal) else "0"
    guests = 1 + (not isinstance(moved, Refusal))
    return {"design": design.name, "MOVE says": answer, "charged": pair(two.current), "guests of b": str(guests)}


def asked_afterwards(design: designs.Design) -> dict[str, str]:
    """A row: what the source's vCPU answers after the move. On a machine of its own."""
    two = tenants(design)
    stood = two.old.vcpus[0].registers()[0]
    vmm.move(two.old, to=two.process)
    found = attempt(two.old.vcpus[0].registers)
    ran = attempt(two.old.run)
    return {
        "design": design.name,
        "RSP before": f"{stood.rsp:#x}",
        "GET_REGS after": found.errno_name if isinstance(found, Refusal) else f"RSP {found[0].rsp:#x}",
        "RUN after": ran.errno_name if isinstance(ran, Refusal) else ran.name,
    }
