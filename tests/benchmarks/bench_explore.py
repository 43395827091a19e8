"""The explorer's lock steps beside the same calls run straight, and three calls among three VMs in time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from harness import Figure

from sevlab.abi.kvm import KVM_CREATE_VM, KVM_ENABLE_CAP, KVM_MEMORY_ENCRYPT_OP, KVM_SEV_INIT, kvm_enable_cap, kvm_sev_cmd
from sevlab.host import Host
from sevlab.schedules import Search, explore

MOVE = 206
SECONDS = 1.0


def machine(vms: int) -> tuple[Host, Any, list[int]]:
    """A host with so many VMs; all but the last are encrypted."""
    host = Host(seed=1, memory=1 << 30)
    process = host.process("qemu")
    kvm, sev = process.open("/dev/kvm"), process.open("/dev/sev")
    fds = [process.ioctl(kvm, KVM_CREATE_VM, 0) for _ in range(vms)]
    for fd in fds[:-1]:
        process.ioctl(fd, KVM_MEMORY_ENCRYPT_OP, kvm_sev_cmd(id=KVM_SEV_INIT, sev_fd=sev))
    return host, process, fds


def moves(process: Any, pairs: list[tuple[int, int]]) -> list[Any]:
    """Calls that move the second VM's context of each pair to the first, begun."""
    return [process.begin(to, KVM_ENABLE_CAP, kvm_enable_cap(cap=MOVE, args=(of, 0, 0, 0))) for to, of in pairs]


def figures() -> Iterator[Figure]:
    _, process, (a, b) = machine(2)
    calls = moves(process, [(a, b), (b, a)])
    search = Search(calls, all=True)
    found = search.run()
    taken = found.steps
    trace = calls[0].calls.trace
    trace.on = False
    alone = 0
    search._reset()
    for call in calls:
        while not call.done:
            call._step()
            alone += 1
    search._reset()

    def run_straight() -> None:
        for call in calls:
            while not call.done:
                call._step()

    def explored() -> None:
        search.steps = 0
        search._search()
        search._reset()

    limit = _seconds(run_straight, search._reset) / alone
    ours = _seconds(explored, lambda: None) / search.steps
    yield Figure("explorer: a lock step, of the same calls run straight", 1 / 0.3, ours / limit, ours, limit, f"{taken} steps")

    _, process, (a, b, c) = machine(3)
    calls = moves(process, [(a, b), (b, c), (c, a)])
    took = min(_once(lambda: explore(*calls)) for _ in range(3))
    yield Figure("explorer: three calls among three VMs, seconds", SECONDS, took / SECONDS, took, SECONDS)


def _once(call: Callable[[], Any]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def _seconds(call: Callable[[], Any], after: Callable[[], Any]) -> float:
    """Seconds a call takes, at best; what puts things back is not counted."""
    best = 1.0
    for _ in range(50):
        best = min(best, _once(call))
        after()
    return best
