"""The end of a process: what the kernel cleans up, in which order."""

from __future__ import annotations

from errno import EBADF, EINVAL, ESRCH

import pytest
from bare_kernel import BareKernel, Device
from kvm.orders import ECHO, MAKE, Order, refused

from sevlab.kvm.mm import PAGE, Backing
from sevlab.kvm.process import Process


@pytest.fixture
def kernel() -> BareKernel:
    return BareKernel()


@pytest.fixture
def qemu(kernel: BareKernel) -> Process:
    return kernel.process()


def test_kill_gives_everything_back_memory_before_descriptors(kernel: BareKernel) -> None:
    free, order = kernel.frames.free, []
    qemu = kernel.process()
    made = Device(backing=Backing(kernel.frames, 1, shared=True))
    made.release = lambda: order.append("file")  # type: ignore[method-assign]
    kernel.dev.table[MAKE] = lambda caller, arg: made
    fd = qemu.ioctl(qemu.open("/dev/test"), MAKE)
    qemu.mmap(PAGE, fd=fd)
    qemu.put(b"x" * 5000)
    qemu.mm.notifiers.append(lambda va, n: order.append("memory"))

    qemu.kill()

    assert order[-1] == "file"
    assert "memory" in order
    assert (kernel.frames.free, kernel.processes, qemu.fds) == (free, {}, {})


def test_after_death_every_call_is_esrch(qemu: Process, kernel: BareKernel) -> None:
    fd = qemu.open("/dev/test")
    qemu.kill()
    for use in (
        lambda: qemu.ioctl(fd, ECHO),
        lambda: qemu.ioctl(fd, ECHO, Order()),
        lambda: qemu.begin(fd, ECHO),
        lambda: qemu.open("/dev/test"),
        lambda: qemu.mmap(PAGE),
        lambda: qemu.fork(),
        lambda: qemu.kill(),
        lambda: qemu.close(0),
    ):
        assert refused(use) == ESRCH
    assert refused(kernel.process("other").send_fd, 0, qemu) == EINVAL


def test_a_process_shows_itself(qemu: Process) -> None:
    assert repr(qemu) == "<Process 1: qemu, 3 descriptors, cgroup />"
    qemu.kill()
    assert repr(qemu) == "<Process 1: qemu, dead, 0 descriptors, cgroup />"


def test_every_system_call_is_an_entry_with_a_name_and_a_row(kernel: BareKernel) -> None:
    qemu = kernel.process()
    before = kernel.gate.n
    hva = qemu.mmap(PAGE)
    qemu.write(hva, b"abc")
    refused(qemu.close, 99)
    qemu.cgroup = "/a"  # type: ignore[assignment]

    rows = [(row["n"] - before, row["what"], row["errno"]) for row in kernel.trace.rows() if row["kind"] == "Syscall"]
    assert rows == [(1, "mmap", 0), (2, "write", 0), (3, "close", EBADF), (4, "join", 0)]
