"""What the kernel sees of a process, and the two kinds of file that are no device.

A handler gets the caller's Task, never the Process, so no handler can make an
entry by mistake. The bridge's programs have Tasks of their own making.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EMFILE
from typing import TYPE_CHECKING

from sevlab.hw.dram import Dram
from sevlab.kvm.backing import Backing
from sevlab.kvm.cgroup import Cgroup
from sevlab.kvm.fd import File, KvmError
from sevlab.kvm.frames import Run
from sevlab.kvm.mm import Mm, Pin

if TYPE_CHECKING:
    from sevlab.kvm.kernel import Kernel

NOFILE = 1024  # RLIMIT_NOFILE
CAPS = ("CAP_IPC_LOCK", "CAP_SYS_ADMIN")  # the capabilities that a process of the course may have


class MemFile(File):
    """Memory with a descriptor (memfd_create): processes that map it share it."""

    name = "memfd"

    def __init__(self, backing: Backing) -> None:
        super().__init__()
        self._backing = backing.hold()

    def backing(self) -> Backing:
        return self._backing

    def release(self) -> None:
        self._backing.drop()


class Console(File):
    """What descriptors 0, 1 and 2 are."""

    name = "console"


class Task:
    """What the kernel sees of a process: all that a handler may use of its caller.

    `mm` (its identity says whose VM it is), `cgroup`, `memlock` in bytes, `caps`,
    `cpu` (the processor it runs on), `fds`; `read` and `write` raise EFAULT.
    """

    __slots__ = ("caps", "cgroup", "cpu", "dram", "fds", "kernel", "memlock", "mm", "name", "pid", "pin", "read", "write")

    def __init__(self, kernel: Kernel, pid: int, name: str, mm: Mm, cgroup: Cgroup, memlock: int, caps: frozenset[str]) -> None:
        self.kernel = kernel
        self.pid = pid
        self.name = name
        self.mm = mm
        self.cgroup = cgroup
        self.memlock = memlock
        self.cpu = 0  # the processor it runs on
        self.caps = caps
        self.fds: dict[int, File] = {}
        self.dram: Dram = kernel.frames.dram
        self.read: Callable[[int, int], bytes] = mm.read  # (va, n)
        self.write: Callable[[int, bytes], None] = mm.write  # (va, data)
        self.pin: Callable[..., Pin] = mm.pin  # (va, n, write=True)

    def fget(self, number: int) -> File | None:
        """The file behind a descriptor, None if there is none. A handler that waits takes a reference of its own."""
        return self.fds.get(number)

    def buffer(self, run: Run, write: bool = True) -> memoryview:
        """The raw bytes of a run of frames, without a copy."""
        pfn, count = run
        return self.dram.view(pfn << 12, count << 12)

    def install(self, file: File, at: int = 0) -> int:
        """Give a file the lowest free number from `at` on; the maker's reference becomes the descriptor's. Raises EMFILE."""
        number = at
        while number in self.fds:
            number += 1
        if number >= NOFILE:
            file.put()
            raise KvmError(EMFILE, why=f"{self.name} has all {NOFILE} descriptors of its RLIMIT_NOFILE in use")
        self.fds[number] = file
        return number

    def __repr__(self) -> str:
        return f"<Task {self.pid}: {self.name}>"
