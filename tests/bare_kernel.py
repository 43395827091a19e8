"""A kernel with nothing in it but what a process needs, and files that do what a test says."""

from __future__ import annotations

from collections.abc import Callable
from errno import ENOTTY
from typing import Any

from sevlab.crypto import Stream
from sevlab.gate import Gate
from sevlab.hw.soc import Soc
from sevlab.kvm.call import Calls
from sevlab.kvm.cgroup import Cgroup
from sevlab.kvm.fd import File, need
from sevlab.kvm.frames import Frames
from sevlab.kvm.process import Process
from sevlab.trace import Trace


class Device(File):
    """A file whose ioctls are `table`: number to function(caller, arg). `released` counts how often it was let go."""

    name = "device"

    def __init__(self, table: dict[int, Callable[..., Any]] | None = None, backing: Any = None) -> None:
        super().__init__()
        self.table = table or {}
        self.memory = backing
        self.released = 0

    def ioctl(self, caller: Any, nr: int, arg: int) -> Any:
        handler = self.table.get(nr)
        need(handler is not None, ENOTTY)  # an ioctl that the device does not know
        return handler(caller, arg)

    def backing(self) -> Any:
        return self.memory if self.memory is not None else super().backing()

    def release(self) -> None:
        self.released += 1


class BareKernel:
    """The kernel side of a host: frames, calls, cgroups, devices. `dev` is /dev/test, one file for all who open it."""

    def __init__(self, memory: int = 64 << 20) -> None:
        self.trace = Trace()
        self.gate = Gate(self.trace)
        self.soc = Soc("rome", Stream(7), self.trace, memory)
        self.frames = Frames(self.soc)
        self.calls = Calls(self.gate)
        self.processes: dict[str, Process] = {}
        self.dmesg: list[str] = []
        self.root_cgroup = Cgroup.root({"sev": 3, "sev_es": 2}, {"/a": {"sev": 2}, "/a/b": {}}, self.log)
        self.dev = Device()
        self.devices = {"/dev/test": lambda kernel, mode: self.dev.get()}

    def log(self, line: str) -> None:
        self.dmesg.append(line)

    def process(self, name: str = "qemu", **kw: Any) -> Process:
        return Process(self, name, **kw)  # type: ignore[arg-type]
