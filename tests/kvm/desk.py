"""A desk for calls that wait: one process, one device, locks and flags, and a log of what its handlers did."""

from __future__ import annotations

from errno import EBUSY
from typing import Any

from bare_kernel import BareKernel

from sevlab.kvm.call import Flag, Lock, Locks, Mutex, Tick, TryLock, Wait


class Desk:
    """One process, one device, two locks, two flags; `log` is what the handlers wrote down."""

    def __init__(self) -> None:
        self.kernel = BareKernel()
        self.process = self.kernel.process()
        self.fd = self.process.open("/dev/test")
        self.table = self.kernel.dev.table
        self.a, self.b = Mutex("a"), Mutex("b")
        self.flag, self.other = Flag("flag"), Flag("other")
        self.log: list[str] = []

    def begin(self, nr: int, arg: int = 0) -> Any:
        return self.process.begin(self.fd, nr, arg)

    def ioctl(self, nr: int, arg: int = 0) -> int:
        return self.process.ioctl(self.fd, nr, arg)

    def hold(self, mutex: Mutex, until: list[Any], *, code: int | None = None, ticks: bool = False) -> Any:
        """A handler that takes a lock and keeps it until `until` is not empty."""

        async def handler(caller: Any, arg: int) -> int:
            async with Lock(mutex, code):
                self.log.append(f"{mutex.name} taken")
                while not until:
                    await (Tick("the guest computes") if ticks else Wait(lambda: until, "somebody to say so"))
            self.log.append(f"{mutex.name} given")
            return 7

        return handler

    def take(self, *requests: tuple[Any, int | None]) -> Any:
        """A handler that takes these locks and flags in order."""

        async def handler(caller: Any, arg: int) -> int:
            async with Locks(*(TryLock(m, c or EBUSY) if isinstance(m, Flag) else Lock(m, c) for m, c in requests)):
                self.log.append("all taken")
            return 0

        return handler

    @property
    def holders(self) -> list[str]:
        return [lock.name for lock in (self.a, self.b, self.flag, self.other) if lock.holder is not None]
