"""Host: the whole machine, put together.

The one place that knows everything: chip, firmware, kernel design, seed, trace.
Two hosts in one notebook are two objects; hosts that share a `trace` share a world, and their order is real.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from sevlab import given, settings, upkeep
from sevlab.crypto import Stream
from sevlab.gate import Gate
from sevlab.given import checked
from sevlab.hw import chips
from sevlab.hw.program import Program
from sevlab.hw.soc import Soc
from sevlab.journal import Journal, Look
from sevlab.kvm import designs
from sevlab.kvm.kernel import Kernel
from sevlab.kvm.process import Process
from sevlab.psp import kds
from sevlab.psp.firmware import Psp
from sevlab.trace import Event, Trace, name
from sevlab.views import Bus, NestedTable, Probed, Xray, XrayTaken
from sevlab.wire import Wire

__all__ = ["Host", "HostMade", "Probed", "Xray", "XrayTaken"]

PAGE = 0x1000


class HostMade(Event, lane="host"):
    """A machine was put together: its chip, its kernel and the seed that repeats it."""

    chip: name
    kernel: name
    seed: name


class Host:
    """One emulated AMD SEV machine.

    `chip` is a row of `sevlab.chips` or its name; `design` a kernel of `sevlab.designs`, or its name.
    `seed` fixes every key, nonce and serial number; without one the system gives one, and `host.seed` shows it.
    `memory` counts bytes of DRAM (reserved, not touched). `api` is the firmware's (major, minor, build).
    `cgroups` maps a path to its misc limits, as {"/tenant-a": {"sev": 3}}.
    `caches` puts cache lines before the memory, as on real chips; without them every access is coherent.
    `nv` keeps the platform's persistent state (INIT_EX's 32 KiB). `trace` joins the world of another host.

    Raises ValueError for what no such machine can be, TypeError for what is no such thing at all.
    After `close` it can still be looked at; what would change it raises RuntimeError.
    """

    @checked
    def __init__(
        self,
        chip: str | chips.Chip = "rome",
        design: str | designs.Design | None = None,
        *,
        seed: int | bytes | None = None,
        memory: int = 64 << 30,
        api: Sequence[int] = (0, 24, 15),
        cgroups: Mapping[str, Mapping[str, int]] | None = None,
        caches: bool = False,
        nv: Any = None,
        trace: Trace | None = None,
    ) -> None:
        self.trace = Trace() if trace is None else trace
        self.closed = 0  # after which entry `close` was called; 0 for a host in use
        self.design = designs.LINUX_6_1 if design is None else designs.by_name(design)
        self.seed = Stream(seed).seed
        self.present: Host | None = None  # of a past machine: the one that it was
        self._nv = nv
        kept = {
            "chip": chip, "design": self.design, "seed": self.seed, "memory": memory, "api": settings.version(api),
            "caches": caches, "cgroups": settings.limits(cgroups), "nv": settings.area(nv),
        }  # fmt: skip
        self.gate = Gate(self.trace, self)
        world = self.gate.world
        if world.rebuild is None:
            world.rebuild = lambda: _rebuild(self)
        try:
            self.act("host")(**kept)
        except BaseException:
            world.members.pop()
            raise

    def _make(
        self, *, chip: Any, design: designs.Design, seed: Any, memory: int, api: Any, caches: bool, cgroups: Any, nv: bytes | None
    ) -> None:
        """Build the machine, for the first time or anew."""
        try:
            self.soc = Soc(chips.by_name(chip), Stream(seed), self.trace, memory, caches=caches)
        except OSError as error:
            raise MemoryError(f"this computer has no room for a machine of {memory >> 20} MiB: {error}") from error
        self.soc.programs.catalogue = _course_programs
        if self._nv is not None and not isinstance(self._nv, bytes | bytearray) and self.gate.world.replaying:
            self._nv.write(nv)  # as it was then
        self.psp = Psp(self.soc, api=api, nv=self._nv)
        self.kernel = Kernel(self.soc, self.psp, design, cgroups, self.gate)
        self.trace.emit(HostMade, self.chip.name, design.name, self.seed.hex() if isinstance(self.seed, bytes) else str(self.seed))

    def act(self, what: str) -> Callable[..., Any]:
        """The host action of this name, as an entry. Raises LookupError for a name that is none, RuntimeError after `close`."""
        if what not in ACTS:
            raise LookupError(f"{what} is no action of a host; there are {', '.join(ACTS)}")
        if self.closed and not self.gate.world.replaying:
            raise RuntimeError(f"this host is closed: its processes are gone; host.fork({self.closed}) goes on from before")
        return lambda *args, **kw: self.gate.run(what, 0, getattr(self, ACTS[what]), args, kw)

    # ------------------------------------------------- the parties' way in

    @checked
    def process(self, name: str, *, cgroup: str = "/", memlock: int = 64 << 20, caps: Collection[str] = ()) -> Process:
        """A new process of this host: an address space, descriptors, a cgroup and limits.

        `memlock` counts bytes (RLIMIT_MEMLOCK), `caps` are names such as CAP_IPC_LOCK. Raises OSError ENOENT for
        an unknown cgroup, ValueError and TypeError for what can be no limit, capability or name.
        """
        if not name:
            raise ValueError("a process has a name: it is how host.processes finds it")
        given.number("memlock", memlock, 0)
        caps = settings.capabilities(caps)
        made: Process = self.act("process")(name, cgroup=cgroup, memlock=memlock, caps=caps)
        return made

    @checked
    def register(self, program: Program | Callable[..., Any], *, page: bytes | None = None, args: tuple[Any, ...] = ()) -> None:
        """Make `program` known to the processors: it runs where its image, or the stand-in's `page`, is fetched."""
        self.act("register")(program if isinstance(program, Program) else Program(program), page=page, args=args)

    @checked
    def mailbox(self, command: int, buffer: Wire | None = None) -> int:
        """A hostile kernel's raw mailbox command: the firmware's status; `buffer` is written back in place.

        Source: firmware.md 1.2 to 1.4. Nothing of the kernel's own bookkeeping is asked or told.
        """
        return int(self.act("mailbox")(given.number("command", command, 0, 0xFFFF_FFFF), buffer))

    @checked
    def compact(self, process: Process, hva: int, n: int = PAGE, *, to: int | None = None) -> list[tuple[int, int, int]]:
        """An honest kernel's compaction of the pages under `n` bytes at `hva`: those moved, as (hva, old hpa, new hpa).

        Pages that are pinned, or were never touched, stay. With `to` (an hpa) the first page goes exactly
        there. Raises OSError EFAULT where nothing is mapped, EBUSY when `to` is in use, ENOMEM.
        """
        moved: list[tuple[int, int, int]] = self.act("compact")(self._own(process), hva, n, to)
        return moved

    @checked
    def swap_out(self, process: Process, hva: int, n: int = PAGE) -> list[tuple[int, int]]:
        """An honest kernel short of memory: the pages under `n` bytes at `hva` go to the disk: (hva, the hpa they left).

        They come back when somebody looks, in whatever frame is free then. Pages that are pinned, or were
        never touched, stay. Raises OSError EFAULT where nothing is mapped.
        """
        gone: list[tuple[int, int]] = self.act("swap_out")(self._own(process), hva, n)
        return gone

    @checked
    def balance(self, process: Process, hva: int, n: int = PAGE) -> list[tuple[int, int, int]]:
        """NUMA balancing: the pages under `n` bytes at `hva` go to the other half of memory: (hva, old hpa, new hpa).

        Which stay, and what it raises: as `compact`.
        """
        moved: list[tuple[int, int, int]] = self.act("balance")(self._own(process), hva, n)
        return moved

    def wbinvd(self) -> None:
        """WBINVD on all cores, as a kernel does it between two tenants of a key slot."""
        self.act("wbinvd")()

    def _own(self, process: Process) -> Process:
        """The process as it is. Raises ValueError for one of another machine: a past one has its own, in `processes`."""
        if process.kernel is not self.kernel:
            raise ValueError(f"process {process.name} is another machine's; this one's own are in host.processes")
        return process

    # What these do is an entry; see ACTS.

    def _process(self, name: str, **kw: Any) -> Process:
        return self.kernel.process(name, **kw)

    def _register(self, program: Program, **kw: Any) -> None:
        self.soc.programs.add(program, **kw)

    def _mailbox(self, command: int, buffer: Wire | None) -> int:
        return self.kernel.ccp.raw(command, buffer)

    def _wbinvd(self) -> None:
        self.soc.wbinvd()

    def _dram_write(self, hpa: int, data: bytes) -> None:
        changed = self.soc.dram.read(hpa, len(data)) != data
        self.soc.dram.write(hpa, data)
        if changed:
            self.soc.pages.overwritten(hpa, len(data))

    def _npt_remap(self, process: Process, fd: int, gpa: int, hpa: int) -> None:
        self.kernel.vm_of(process, fd).npt.remap(gpa, hpa)

    def _npt_drop(self, process: Process, fd: int, gfn: int, count: int) -> None:
        self.kernel.vm_of(process, fd).npt.drop(gfn, count)

    def _compact(self, process: Process, hva: int, n: int, to: int | None) -> list[tuple[int, int, int]]:
        return upkeep.compact(process, hva, n, to)

    def _swap_out(self, process: Process, hva: int, n: int) -> list[tuple[int, int]]:
        return upkeep.swap_out(process, hva, n)

    def _balance(self, process: Process, hva: int, n: int) -> list[tuple[int, int, int]]:
        return upkeep.balance(self.kernel.frames, process, hva, n)

    # ------------------------------------------------- what an observer sees

    @checked
    def probe(self, hpa: int, n: int = 64) -> bytes:
        """The `n` bytes at machine address `hpa` as the memory bus carries them: ciphertext where a key is in use.

        A look, not an act: it is a row of the trace and never an entry of the journal.
        """

        def look() -> bytes:
            found = self.soc.dram.read(hpa, n)
            self.trace.emit(Probed, hpa, n)
            return found

        return self.gate.look(look)

    @checked
    def same_pages(self, process: Process, hva: int, n: int) -> list[list[int]]:
        """What KSM would find under `n` bytes at `hva`: groups of pages with equal raw bytes, as hvas. It merges nothing here."""
        return self.gate.look(upkeep.same_pages, self._own(process), hva, n)

    @checked
    def hpa(self, process: Process, hva: int) -> int:
        """The machine address behind a process's pointer.

        Raises OSError EFAULT where nothing is mapped or nothing was touched yet.
        """
        return self.gate.look(self._own(process).mm.translate, hva)

    def npt(self, vm: Any) -> NestedTable:
        """The nested page table of a VM (a `vmm.Vm`): gpa to hpa, the host's to change. Raises TypeError for what is none."""
        given.having("vm", vm, ("process", "fd"), "a VM, such as vmm.launch returns")
        return NestedTable(self, vm.process, vm.fd)

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
    def dram(self) -> Bus:
        """The memory chips themselves: `read` and `write` raw bytes by machine address."""
        return Bus(self)

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

    # ------------------------------------------------------------- time

    @property
    def n(self) -> int:
        """How many entries the journal has; the making of the first host is entry 1."""
        return self.gate.n

    @property
    def journal(self) -> Journal:
        """The journal of this host's world."""
        return self.gate.world.journal

    @property
    def world(self) -> tuple[Host, ...]:
        """All hosts that share this one's trace, in the order of their making."""
        return tuple(self.gate.world.members)

    @checked
    def at(self, n: int) -> Host:
        """The machine as it was after entry `n`, to be looked at only: what is done to it raises ReadOnly.

        Raises IndexError when there is no such entry, or this host was not there yet, and RuntimeError
        when the journal cannot be repeated.
        """
        from sevlab import replay

        return replay.past(self, n)

    @checked
    def fork(self, n: int | None = None) -> Host:
        """A new live machine that begins where this one was after entry `n`, or where it is now.

        All hosts of the world are made anew; this one's twin is returned (`world` has the others). Raises as `at`.
        """
        from sevlab import replay

        return replay.fork(self, self.n if n is None else n)

    def save(self, file: str | Path | IO[bytes]) -> None:
        """Write the journal of the world, and every look through the x-ray, to a file or a path.

        Raises ValueError for what a file cannot hold, TypeError for what is no file, in one sentence.
        """
        from sevlab import replay

        replay.save(self, file)

    @staticmethod
    def load(file: str | Path | IO[bytes], programs: Sequence[Any] = (), *, design: designs.Design | None = None) -> Host:
        """The machine that a journal makes. Nothing in the file is executed: guest programs come from `programs`.

        A program of the course need not be given. `design` is the kernel, where it was one of your own.
        Raises ValueError (JournalError) for a file that is damaged, foreign or newer, and for a program that is missing.
        """
        from sevlab import replay

        return replay.load(file, programs, design)

    def noted(self, n: int, host: int, what: str) -> None:
        """A look through the x-ray of a past machine: kept here too."""

        def note() -> None:
            self.trace.emit(XrayTaken, f"at {n}: {what}")
            self.journal.looks.append(Look(self.n, host, f"at {n}: {what}"))

        self.gate.look(note)

    def close(self) -> None:
        """Kill every process and give the memory back; nothing changes it any more. A past machine has nobody to kill."""
        if self.present is None and not self.closed:
            self.closed = self.n
            for process in list(self.processes.values()):
                process.kill()

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        past = f", after entry {self.n}, read only" if self.present is not None else ""
        seed = self.seed.hex() if isinstance(self.seed, bytes) else self.seed
        return f"<Host: {self.chip.name}, {self.design.name}, seed {seed}{past}>"


# The actions of a host, by their names in the journal.
ACTS = {
    "host": "_make",
    "process": "_process",
    "register": "_register",
    "mailbox": "_mailbox",
    "dram.write": "_dram_write",
    "npt.remap": "_npt_remap",
    "npt.drop": "_npt_drop",
    "compact": "_compact",
    "balance": "_balance",
    "swap_out": "_swap_out",
    "wbinvd": "_wbinvd",
}


def _rebuild(host: Host) -> None:
    from sevlab import replay

    replay.rebuild(host)


def _course_programs() -> Any:
    """The course's own programs, imported when a processor first meets a page it does not know."""
    from sevlab import guest

    return guest.catalogue()
