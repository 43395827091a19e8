"""What the journal costs: a system call that is recorded beside one that is not, and a past machine beside a new one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from harness import Figure, pair

sys.path.append(str(Path(__file__).resolve().parents[1]))

from bare_kernel import BareKernel

from sevlab.gate import World, _not_recorded
from sevlab.host import Host
from sevlab.kvm.call import Lock, Mutex
from sevlab.wire import Wire, u32, u64

PLAIN, LOCKED = 1, 2
BYTES = 251  # of memory an entry, as the prototype had


class Status(Wire):
    """An argument as KVM_SEV_GUEST_STATUS has one."""

    handle: u32 = 0  # 0x00
    policy: u32 = 0  # 0x04
    state: u64 = 0  # 0x08


class Nothing:
    """A journal that keeps nothing: what an argument looks like is not asked."""

    def freeze(self, value: Any) -> Any:
        return value


def _calls(recorded: bool) -> tuple[World, dict[str, Callable[[], Any]]]:
    """System calls on a kernel with one device, with the journal or without."""
    kernel, lock = BareKernel(), Mutex("lock")

    async def locked(caller: Any, arg: int) -> int:
        async with Lock(lock):
            status = Status.unpack(caller.read(arg, Status.SIZE))
            status.state = 3
            caller.write(arg, status.pack())
        return 0

    kernel.dev.table.update({PLAIN: lambda caller, arg: 0, LOCKED: locked})
    process = kernel.process()
    fd, wire, ioctl = process.open("/dev/test"), Status(), process.ioctl
    pointer = process.put(wire)
    world = kernel.gate.world
    if not recorded:
        world.append, world.journal = _not_recorded, Nothing()  # type: ignore[assignment]
    return world, {
        "plain": lambda: ioctl(fd, PLAIN, 0),
        "with a lock and a struct by pointer": lambda: ioctl(fd, LOCKED, pointer),
        "with a lock and a struct by Wire": lambda: ioctl(fd, LOCKED, wire),
    }


def aged(n: int) -> Host:
    """A host with a journal of `n` entries: ioctls, writes and reads of one process."""
    host = Host(seed=1, memory=1 << 30)
    process = host.process("qemu")
    kvm, hva = process.open("/dev/kvm"), process.mmap(1 << 20)
    while host.n < n:
        process.ioctl(kvm, 0xAE00, 0)
        process.write(hva + (host.n & 255) * 64, b"sixteen bytes...")
        process.read(hva, 64)
    return host


def figures() -> Iterator[Figure]:
    world, ours = _calls(recorded=True)
    _, limit = _calls(recorded=False)

    def emptied() -> None:
        world.journal.entries.clear()
        world.entries = 0

    for name, call in ours.items():
        yield pair(f"journal: an ioctl, {name}", 1.6 if "Wire" in name else 1.3, call, limit[name], before=emptied)

    host = aged(1000)
    n = host.n

    def straight() -> None:
        aged(n).close()

    yield pair("host.at(1000) against the same entries for the first time", 1.5, lambda: host.at(n), straight, rounds=5)

    import tracemalloc

    host = aged(100)
    process, kvm = host.processes["qemu"], 3
    host.trace.on = False
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(20_000):
        process.ioctl(kvm, 0xAE00, 0)
    each = (tracemalloc.get_traced_memory()[0] - before) / 20_000
    tracemalloc.stop()
    yield Figure("journal: bytes an entry against the prototype's 251", 1.0, each / BYTES, note=f"{each:.0f} bytes")
