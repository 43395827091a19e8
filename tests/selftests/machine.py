"""One test, two machines: the system calls that a test of KVM makes, to the emulator or to the kernel under this very program.

Both have the same methods and raise OSError with the same errno; a Wire given to `ioctl` is read back in place.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from typing import Any, Protocol

from sev_rig import Rig

from sevlab.wire import Wire


class Machine(Protocol):
    """What a test may ask for."""

    emulated: bool
    vcpus: dict[int, list[int]]  # a VM's descriptor to its vCPUs', for tests that free them together

    def open(self, path: str) -> int: ...
    def close(self, fd: int) -> None: ...
    def dup(self, fd: int) -> int: ...
    def ioctl(self, fd: int, nr: int, arg: int | Wire = 0) -> int: ...
    def mmap(self, size: int, fd: int = -1) -> int: ...
    def read(self, at: int, n: int) -> bytes: ...
    def write(self, at: int, data: bytes) -> None: ...
    def put(self, value: Wire | bytes) -> int: ...
    def get(self, at: int, kind: type[Any]) -> Any: ...
    def child_errno(self, fd: int, nr: int, arg: int = 0) -> int: ...


class Emulated:
    """A process of an emulated host."""

    emulated = True

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.vcpus: dict[int, list[int]] = {}
        self.process = rig.qemu
        for name in ("open", "close", "dup", "ioctl", "read", "write", "put", "get"):
            setattr(self, name, getattr(rig.qemu, name))

    def mmap(self, size: int, fd: int = -1) -> int:
        return self.process.mmap(size, fd=fd)

    def child_errno(self, fd: int, nr: int, arg: int = 0) -> int:
        """What a forked child is answered; 0 for success."""
        child = self.process.fork()
        try:
            child.ioctl(fd, nr, arg)
        except OSError as error:
            return error.errno or 0
        finally:
            child.kill()
        return 0


class Real:
    """This program and the kernel that it runs on. What it takes is given back by `finish`."""

    emulated = False

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.ioctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p)
        self.vcpus: dict[int, list[int]] = {}
        self._fds: set[int] = set()
        self._kept: list[Any] = []

    def open(self, path: str) -> int:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._fds.add(fd)
        return fd

    def close(self, fd: int) -> None:
        os.close(fd)
        self._fds.discard(fd)

    def dup(self, fd: int) -> int:
        copy = os.dup(fd)
        self._fds.add(copy)
        return copy

    def ioctl(self, fd: int, nr: int, arg: int | Wire = 0) -> int:
        if not isinstance(arg, Wire):
            return self._ioctl(fd, nr, arg)
        at = self.put(arg)
        try:
            return self._ioctl(fd, nr, at)
        finally:
            arg.load(self.read(at, arg.SIZE))

    def _ioctl(self, fd: int, nr: int, arg: int) -> int:
        ctypes.set_errno(0)
        result = int(self._libc.ioctl(fd, nr, ctypes.c_void_p(arg)))
        if result < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        return result

    def mmap(self, size: int, fd: int = -1) -> int:
        area = mmap.mmap(fd, size, mmap.MAP_SHARED if fd >= 0 else mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._kept.append(area)
        return ctypes.addressof(ctypes.c_char.from_buffer(area))

    def read(self, at: int, n: int) -> bytes:
        return ctypes.string_at(at, n)

    def write(self, at: int, data: bytes) -> None:
        ctypes.memmove(at, data, len(data))

    def put(self, value: Wire | bytes) -> int:
        data = value.pack() if isinstance(value, Wire) else value
        buffer = ctypes.create_string_buffer(data, max(len(data), 1))
        self._kept.append(buffer)
        return ctypes.addressof(buffer)

    def get(self, at: int, kind: type[Any]) -> Any:
        return kind.unpack(self.read(at, kind.SIZE))

    def child_errno(self, fd: int, nr: int, arg: int = 0) -> int:
        pid = os.fork()
        if pid == 0:
            try:
                self._ioctl(fd, nr, arg)
            except OSError as error:
                os._exit(error.errno or 255)
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def adopt(self, fd: int) -> int:
        """A descriptor that an ioctl made: closed at the end."""
        self._fds.add(fd)
        return fd

    def finish(self) -> None:
        for fd in sorted(self._fds):
            try:
                os.close(fd)
            except OSError as error:
                if error.errno != errno.EBADF:  # the test closed it itself
                    raise
        self._fds.clear()
