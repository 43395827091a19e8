"""Host: the whole machine, put together.

The one place that knows everything: chip, firmware, kernel design, seed, trace.
Two hosts in one notebook are two objects; hosts that share a `trace` share a
world, and their order is real.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from sevlab.abi.sev import Cmd
from sevlab.crypto import Stream
from sevlab.gate import Gate
from sevlab.hw import chips
from sevlab.hw.program import Program
from sevlab.hw.soc import Soc
from sevlab.kvm import designs
from sevlab.kvm.kernel import Kernel
from sevlab.kvm.process import Process
from sevlab.psp import kds
from sevlab.psp.firmware import Psp
from sevlab.trace import Event, Trace, name, u32, u64
from sevlab.wire import Wire


class HostMade(Event, lane="host"):
    """A machine was put together: its chip, its kernel and the seed that repeats it."""

    chip: name
    kernel: name
    seed: name


class Probed(Event, lane="host"):
    """Somebody looked at the memory bus: raw bytes, as the DRAM chips carry them."""

    hpa: u64
    length: u32


class XrayTaken(Event, lane="host"):
    """Somebody looked at what real hardware shows to nobody. A grader can tell."""

    what: name


class Host:
    """One emulated AMD SEV machine.

    `chip` is a row of `sevlab.chips` or its name; `design` a kernel of
    `sevlab.designs`. `seed` fixes every key, nonce and serial number; without
    one the system gives one, and `host.seed` shows it. `memory` counts bytes of
    DRAM (reserved, not touched). `api` is the firmware's (major, minor, build).
    `cgroups` maps a path to its misc limits, as {"/tenant-a": {"sev": 3}}.
    `nv` keeps the platform's persistent state (INIT_EX's 32 KiB). `trace` joins
    the world of another host.

    Raises ValueError for what no such machine can be.
    """

    def __init__(
        self,
        chip: str | chips.Chip = "rome",
        design: designs.Design | None = None,
        *,
        seed: int | bytes | None = None,
        memory: int = 64 << 30,
        api: tuple[int, int, int] = (0, 24, 15),
        cgroups: Mapping[str, Mapping[str, int]] | None = None,
        caches: bool = False,
        nv: Any = None,
        trace: Trace | None = None,
    ) -> None:
        if caches:
            raise ValueError("caches=True: cache lines are not modelled yet; every access is coherent (see the limitations page)")
        self.trace = Trace() if trace is None else trace
        self.design = designs.LINUX_6_1 if design is None else design
        stream = Stream(seed)
        self.seed = stream.seed
        self.gate = Gate(self.trace)
        self.soc = Soc(chips.by_name(chip), stream, self.trace, memory)
        self.soc.programs.catalogue = _course_programs
        self.psp = Psp(self.soc, api=api, nv=nv)
        self.kernel = Kernel(self.soc, self.psp, self.design, dict(cgroups or {}), self.gate)
        self.trace.emit(HostMade, self.chip.name, self.design.name, str(self.seed))

    # ------------------------------------------------- the parties' way in

    def process(self, name: str, *, cgroup: str = "/", memlock: int = 64 << 20, caps: Collection[str] = ()) -> Process:
        """A new process of this host: an address space, descriptors, a cgroup and limits.

        `memlock` counts bytes (RLIMIT_MEMLOCK). Raises OSError ENOENT for an unknown cgroup.
        """
        return self.gate.enter("process", self.kernel.process, name, cgroup=cgroup, memlock=memlock, caps=frozenset(caps))

    def register(self, program: Program, *, page: bytes | None = None, args: tuple[Any, ...] = ()) -> None:
        """Make `program` known to the processors: it runs where its image, or the stand-in's `page`, is fetched."""
        self.gate.enter("register", self.soc.programs.add, program, page=page, args=args)

    def mailbox(self, command: Cmd | int, buffer: Wire | None = None) -> int:
        """A hostile kernel's raw mailbox command: the firmware's status; `buffer` is written back in place.

        Source: firmware.md 1.2 to 1.4. Nothing of the kernel's own bookkeeping is asked or told.
        """
        return self.gate.enter("mailbox", self.kernel.ccp.raw, int(command), buffer)

    # ------------------------------------------------- what an observer sees

    def probe(self, hpa: int, n: int = 64) -> bytes:
        """The `n` bytes at machine address `hpa` as the memory bus carries them: ciphertext where a key is in use.

        A look, not an act: it is a row of the trace and never an entry of the journal.
        """
        self.trace.emit(Probed, hpa, n)
        return self.soc.dram.read(hpa, n)

    def hpa(self, process: Process, hva: int) -> int:
        """The machine address behind a process's pointer.

        Raises OSError EFAULT where nothing is mapped or nothing was touched yet.
        """
        return process.mm.translate(hva)

    def npt(self, vm: Any) -> Any:
        """The nested page table of a VM (a `vmm.Vm`): gpa to hpa, the host's to change."""
        return self.kernel.vm_of(vm.process, vm.fd).npt

    def chain(self) -> dict[str, bytes]:
        """The six certificate files of this platform, the CEK signed as AMD's key server would: name to bytes."""
        return kds.chain(self.psp)

    @property
    def xray(self) -> Xray:
        """What real hardware shows to nobody. Each look leaves a row in the trace."""
        return Xray(self)

    @property
    def chip(self) -> chips.Chip:
        return self.soc.chip

    @property
    def dram(self) -> Any:
        """The memory chips themselves: `read` and `write` raw bytes by machine address."""
        return self.soc.dram

    @property
    def pages(self) -> Any:
        """State, owner and pins of every page frame."""
        return self.soc.pages

    @property
    def asids(self) -> Any:
        """The key slots: who has which, and which wait for a flush."""
        return self.kernel.asids

    @property
    def processes(self) -> dict[str, Process]:
        return self.kernel.processes

    @property
    def dmesg(self) -> list[str]:
        """The lines the kernel has logged."""
        return self.kernel.dmesg

    def close(self) -> None:
        """Kill every process and give the memory back."""
        for process in list(self.processes.values()):
            process.kill()

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Host: {self.chip.name}, {self.design.name}, seed {self.seed}>"


def _course_programs() -> Any:
    """The course's own programs, imported when a processor first meets a page it does not know."""
    from sevlab import guest

    return guest.catalogue()


class Xray:
    """What real hardware shows to nobody: each look leaves a row in the trace."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def _look(self, what: str) -> None:
        self._host.trace.emit(XrayTaken, what)

    def guest(self, handle: int) -> Any:
        """The firmware's whole context of guest `handle`: keys, running digest, policy."""
        self._look(f"guest {handle}")
        return self._host.psp.guests[handle]

    def digest(self, handle: int) -> bytes:
        """The running launch digest of guest `handle` (32 bytes)."""
        self._look(f"digest {handle}")
        return self._host.psp.guests[handle].digest.copy().digest()

    def read(self, asid: int, hpa: int, n: int) -> bytes:
        """What the key of slot `asid` makes of the `n` bytes at `hpa`."""
        self._look(f"read {asid} {hpa:#x} {n}")
        return self._host.soc.engine.read(asid, hpa, n)

    def tweak(self, hpa: int) -> bytes:
        """The engine's tweak at `hpa` (16 bytes)."""
        self._look(f"tweak {hpa:#x}")
        return self._host.soc.engine.tweak(hpa)
