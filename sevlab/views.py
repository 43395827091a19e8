"""What a Host shows to those who look, and lets them do beside the system calls.

A look has the machine at rest, may leave a row in the trace, and is no entry. What
changes the machine is one, and stands in the journal.
"""

from __future__ import annotations

from errno import EFAULT
from typing import TYPE_CHECKING, Any

from sevlab.given import checked
from sevlab.journal import Look
from sevlab.kvm.fd import KvmError
from sevlab.trace import Event, name, u32, u64

if TYPE_CHECKING:
    from sevlab.host import Host
    from sevlab.kvm.process import Process


class Probed(Event, lane="host"):
    """Somebody looked at the memory bus: raw bytes, as the DRAM chips carry them."""

    hpa: u64
    length: u32


class XrayTaken(Event, lane="host"):
    """Somebody looked at what real hardware shows to nobody. A grader can tell."""

    what: name


class Bus:
    """The memory chips of a host. Addresses are hpas, lengths bytes; what a range outside raises is ValueError."""

    def __init__(self, host: Host) -> None:
        self._host = host

    @property
    def size(self) -> int:
        """Bytes of memory."""
        return self._host.soc.dram.size

    @checked
    def read(self, hpa: int, n: int) -> bytes:
        """The raw bytes."""
        return self._host.gate.look(self._host.soc.dram.read, hpa, n)

    @checked
    def view(self, hpa: int, n: int) -> memoryview:
        """The raw bytes themselves, without a copy, to be read only."""
        return self._host.gate.look(self._host.soc.dram.view, hpa, n).toreadonly()

    @checked
    def write(self, hpa: int, data: bytes | bytearray | memoryview) -> None:
        """Put raw bytes there, behind everybody's back: an entry of the journal."""
        self._host.act("dram.write")(hpa, bytes(data))

    def __len__(self) -> int:
        return self.size

    def __repr__(self) -> str:
        return f"<Bus: {self.size >> 20} MiB>"


class NestedTable:
    """The nested page table of one VM, found anew at each use: gpa to hpa, the host's to read and to change."""

    def __init__(self, host: Host, process: Process, fd: int) -> None:
        self._host, self._process, self._fd = host, process, fd

    @checked
    def translate(self, gpa: int) -> int:
        """The hpa behind `gpa`, and nothing is touched by asking. Raises OSError EFAULT where no frame is yet."""
        return self._host.gate.look(self._translate, gpa)

    @checked
    def remap(self, gpa: int, hpa: int) -> None:
        """Point the page at `gpa` to the frame at `hpa`: no byte moves. Both page-aligned, else ValueError."""
        if (gpa | hpa) & 0xFFF:
            raise ValueError(f"a mapping is a page to a page; gpa {gpa:#x} and hpa {hpa:#x} are not both page-aligned")
        self._host.act("npt.remap")(self._process, self._fd, gpa, hpa)

    @checked
    def drop(self, gfn: int, count: int = 1) -> None:
        """Forget `count` frames from `gfn`: the next access asks the kernel again."""
        self._host.act("npt.drop")(self._process, self._fd, gfn, count)

    @property
    def table(self) -> dict[int, int]:
        """What is mapped now, gfn to pfn: a copy."""
        return self._host.gate.look(lambda: dict(self._vm().npt.table))

    def _vm(self) -> Any:
        return self._host.kernel.vm_of(self._process, self._fd)

    def _translate(self, gpa: int) -> int:
        vm = self._vm()
        pfn = vm.npt.table.get(gpa >> 12)
        if pfn is not None:
            return int(pfn << 12 | gpa & 0xFFF)
        slot = vm.slots.find(gpa >> 12)
        if slot is None:
            raise KvmError(EFAULT, why=f"no memory slot is at gpa {gpa:#x}")
        return int(vm.mm.translate(slot.hva + gpa - (slot.gfn << 12)))

    def __len__(self) -> int:
        """How many pages are mapped."""
        return len(self._vm().npt)

    def __repr__(self) -> str:
        return f"<NestedTable: {len(self)} pages mapped>"


class Xray:
    """What real hardware shows to nobody: each look leaves a row in the trace, and is saved with the journal."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def _look(self, what: str, function: Any, *args: Any) -> Any:
        host = self._host

        def look() -> Any:
            host.trace.emit(XrayTaken, what)
            host.gate.world.journal.looks.append(Look(host.n, host.gate.host, what))
            return function(*args)

        found = host.gate.look(look)
        if host.present is not None:  # a look into the past is one of the present's
            host.present.noted(host.n, host.gate.host, what)
        return found

    @checked
    def guest(self, handle: int) -> Any:
        """The firmware's whole context of guest `handle`: keys, running digest, policy. Raises KeyError for a handle of nobody."""
        return self._look(f"guest {handle}", lambda: self._context(handle))

    @checked
    def digest(self, handle: int) -> bytes:
        """The running launch digest of guest `handle` (32 bytes). Raises KeyError for a handle of nobody."""
        return bytes(self._look(f"digest {handle}", lambda: self._context(handle).digest.copy().digest()))

    def _context(self, handle: int) -> Any:
        guests = self._host.psp.guests
        if handle not in guests:
            raise KeyError(f"no guest has handle {handle}; there are {', '.join(map(str, guests)) or 'none'}")
        return guests[handle]

    @checked
    def read(self, asid: int, hpa: int, n: int) -> bytes:
        """What the key of slot `asid` makes of the `n` bytes at `hpa`."""
        return bytes(self._look(f"read {asid} {hpa:#x} {n}", self._host.soc.engine.read, asid, hpa, n))

    def keys(self) -> Any:
        """The platform's own key pairs, private halves and all: `owner`, `oca`, `pek`, `pdh`."""
        return self._look("the platform's private keys", lambda: self._host.psp.keys)

    @checked
    def tweak(self, hpa: int) -> bytes:
        """The engine's tweak at `hpa` (16 bytes)."""
        return bytes(self._look(f"tweak {hpa:#x}", self._host.soc.engine.tweak, hpa))
