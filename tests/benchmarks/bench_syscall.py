"""System calls of the emulated kernel against the least that any of them must do.

The floor is a lock, a lookup of the ioctl, a check of a state and one packed
event, written out in a row. Ours has descriptors, a gate with its order and its
count, explained refusals and calls that can wait.
"""

from __future__ import annotations

import struct
import sys
import threading
from collections.abc import Callable, Iterator
from errno import EINVAL
from pathlib import Path
from typing import Any

from harness import Figure, pair

sys.path.append(str(Path(__file__).resolve().parents[1]))

from bare_kernel import BareKernel

from sevlab.kvm.call import Lock, Mutex
from sevlab.kvm.fd import need
from sevlab.wire import Wire, u32, u64

PLAIN, FAIL, LOCKED = 1, 2, 3


class Status(Wire):
    """An argument as KVM_SEV_GUEST_STATUS has one."""

    handle: u32 = 0  # 0x00
    policy: u32 = 0  # 0x04
    state: u64 = 0  # 0x08


def floor() -> Callable[[], int]:
    """Lock, dict, state, event."""
    lock, running, table = threading.Lock(), True, {PLAIN: lambda caller, arg: 0}
    pack, rows, count = struct.Struct("<IQIBIIIQIHI").pack, bytearray(), 0

    def call() -> int:
        nonlocal count
        with lock:
            if not running:
                raise OSError(EINVAL, "no")
            result = table[PLAIN](None, 0)
            rows.extend(pack(count, 0, 0, 0, 1, 3, PLAIN, 0, result, 0, 0))
            count += 1
            return result

    return call


def figures() -> Iterator[Figure]:
    kernel = BareKernel()
    process = kernel.process()
    fd, lock = process.open("/dev/test"), Mutex("lock")
    ioctl = process.ioctl

    def fail(caller: Any, arg: int) -> int:
        need(arg, EINVAL)  # !arg
        return 0

    async def locked(caller: Any, arg: int) -> int:
        async with Lock(lock):
            status = Status.unpack(caller.read(arg, Status.SIZE))
            status.state = 3
            caller.write(arg, status.pack())
        return 0

    def refused() -> None:
        try:
            ioctl(fd, FAIL, 0)
        except OSError as error:
            if error.errno != EINVAL:
                raise

    kernel.dev.table.update({PLAIN: lambda caller, arg: 0, FAIL: fail, LOCKED: locked})
    pointer, wire = process.put(Status()), Status()

    yield pair("ioctl without bulk work, traced", 12, lambda: ioctl(fd, PLAIN, 0), floor(), note="stretch 6")
    yield pair("ioctl with a lock and a struct by pointer", 30, lambda: ioctl(fd, LOCKED, pointer), floor(), note="stretch 20")
    yield pair("ioctl with a lock and a struct by Wire", 30, lambda: ioctl(fd, LOCKED, wire), floor(), note="stretch 20")
    yield pair("a refused ioctl against the same succeeding", 2, refused, lambda: ioctl(fd, FAIL, 1))
