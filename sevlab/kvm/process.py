"""A process, as its program sees it: system calls, each an entry through the gate.

Of its kernel a process uses: `gate`, `frames` (Frames), `calls` (Calls),
`devices` (path -> function(kernel, mode) -> File), `root_cgroup`, `processes`
(name -> Process, live ones; it enters and removes itself) and `log(line)`.
"""

from __future__ import annotations

from collections.abc import Collection
from errno import EBADF, EINVAL, ENOENT, ESRCH
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from sevlab import given
from sevlab.journal import Who
from sevlab.kvm.arena import Arena
from sevlab.kvm.backing import PAGE, Backing
from sevlab.kvm.call import Blocked, Call
from sevlab.kvm.cgroup import Cgroup
from sevlab.kvm.fd import File, KvmError, Oops, need
from sevlab.kvm.mm import Mm
from sevlab.kvm.syscall import U32, U64, Ioctl, ProcessGone, ProcessMade, entry
from sevlab.kvm.task import NOFILE, Console, MemFile, Task
from sevlab.kvm.tlb import CPUS
from sevlab.wire import Wire

if TYPE_CHECKING:
    from sevlab.kvm.kernel import Kernel

W = TypeVar("W", bound=Wire)
AT_ONCE = int, File  # what a handler that does not wait answers


class Process:
    """One process of the host, as its program sees it. Every method is a system call.

    Refusals are OSErrors with `errno`, `fw` and `why`. Addresses are hvas, lengths
    bytes. `memlock` is RLIMIT_MEMLOCK in bytes, `caps` names such as CAP_IPC_LOCK.
    After `kill` (or an oops) every call raises ESRCH.
    """

    task: Task
    _arena: Arena

    def __new__(cls, kernel: Kernel, *_: Any, **__: Any) -> Process:
        """A new object; when an entry is undone, the one that the user holds since the first time."""
        old = kernel.calls.old_process() if kernel.calls.old else None
        return object.__new__(cls) if old is None else old

    def __init__(
        self,
        kernel: Kernel,
        name: str,
        cgroup: Cgroup | str = "/",
        memlock: int = 64 << 20,
        caps: Collection[str] = (),
        *,
        parent: Process | None = None,
    ) -> None:
        if name in kernel.processes:
            raise KvmError(EINVAL, why=f"a live process is called {name} already")
        group = kernel.root_cgroup.find(cgroup) if isinstance(cgroup, str) else cgroup

        self.kernel = kernel
        self.name = name
        self.pid = kernel.calls.new_pid()
        self.dead = False
        self._trace = kernel.gate.trace
        self._run = kernel.gate.run
        kernel.calls.made[self.pid] = self
        mm = parent.task.mm.fork() if parent else Mm(kernel.frames)
        self.task = Task(kernel, self.pid, name, mm, group, memlock, frozenset(caps))
        if parent:
            self.task.fds = {number: file.get() for number, file in parent.task.fds.items()}
            self.task.cpu = parent.task.cpu
            self._arena = parent._arena.fork(mm)
        else:
            console = Console()
            self.task.fds = {0: console, 1: console.get(), 2: console.get()}
            self._arena = Arena(mm)
        kernel.processes[name] = self
        self._trace.emit(ProcessMade, self.pid, name, group.path)

    # ------------------------------------------------------- descriptors

    @entry
    def open(self, path: str, mode: str = "r+") -> int:
        """Open a device: the lowest free descriptor. `mode` is "r" or "r+"; only the second may change the platform.

        Raises ENOENT, EINVAL, EMFILE.
        """
        need(mode in ("r", "r+", "w"), EINVAL)  # no such mode
        make = self.kernel.devices.get(path)
        if make is None:
            raise KvmError(ENOENT)  # no such file
        return self.task.install(make(self.kernel, mode))

    @entry
    def close(self, fd: int) -> None:
        """Give a descriptor up; its file is released with its last reference only. Raises EBADF."""
        self._file(fd)

        self.task.fds.pop(fd).put()

    @entry
    def dup(self, fd: int) -> int:
        """The lowest free descriptor, for the same file. Raises EBADF, EMFILE."""
        return self.task.install(self._file(fd).get())

    @entry
    def dup2(self, fd: int, number: int) -> int:
        """Make `number` another descriptor of the same file, whatever it was before. Raises EBADF."""
        file = self._file(fd)
        need(0 <= number < NOFILE, EBADF)  # newfd >= rlimit(RLIMIT_NOFILE)

        if number != fd:
            before = self.task.fds.get(number)
            self.task.fds[number] = file.get()
            if before is not None:
                before.put()
        return number

    @entry
    def send_fd(self, fd: int, to: Process) -> int:
        """Pass a descriptor to another process of this host (SCM_RIGHTS): its number there. Raises EBADF, EINVAL, EMFILE."""
        file = self._file(fd)
        need(isinstance(to, Process) and to.kernel is self.kernel and not to.dead, EINVAL)  # no such peer on this host
        return to.task.install(file.get())

    @entry
    def memfd(self, size: int) -> int:
        """Memory with a descriptor, `size` bytes rounded up to pages. Raises EINVAL, EMFILE."""
        need(size > 0, EINVAL)  # no length
        backing = Backing(self.kernel.frames, -(-size // PAGE), shared=True)
        return self.task.install(MemFile(backing))

    def _file(self, fd: int) -> File:
        file = self.task.fds.get(fd)
        if file is None:
            raise KvmError(EBADF)  # no such descriptor
        return file

    # ------------------------------------------------------------- ioctl

    def ioctl(self, fd: int, nr: int, arg: int | Wire = 0) -> int:
        """Make an ioctl and see it to its end: its result, 0 or a number such as a new descriptor.

        A Wire as `arg` is put into memory, its address passed, and afterwards, refused or not, read back
        into the same object. Raises OSError: EBADF, whatever the file's handler refuses with, and Blocked
        (EINTR) when nobody can bring about what the call waits for. TypeError for what is no number.
        """
        if fd.__class__ is not int or nr.__class__ is not int:
            given.number("fd", fd), given.number("nr", nr)
        return self._run("ioctl", self.pid, self._ioctl, (fd, nr, arg))  # type: ignore[no-any-return]

    def begin(self, fd: int, nr: int, arg: int | Wire = 0) -> Call:
        """Begin an ioctl without driving it: a Call, to be stepped or finished. A Wire is read back when the call is done."""
        given.number("fd", fd), given.number("nr", nr)
        return self._run("begin", self.pid, self._begin, (fd, nr, arg))  # type: ignore[no-any-return]

    def _ioctl(self, fd: int, nr: int, arg: int | Wire) -> int:
        if self.dead:
            raise KvmError(ESRCH, why=f"the process {self.name} is dead")
        task = self.task
        at = arg if arg.__class__ is int else self._address(arg)
        try:
            file = task.fds.get(fd)
            if file is None:
                raise KvmError(EBADF)  # no such descriptor
            result = file.ioctl(task, nr, at)
            if result.__class__ is not int:
                result = self._number(result, file, fd, nr, at, arg)
        except OSError as refusal:
            if not (isinstance(refusal, Blocked) and not refusal.call.done):  # else it answers when it is done
                self._answered(fd, nr, at, arg, 0, refusal)
            raise
        if at is not arg and isinstance(arg, Wire) and not self.dead:
            self._arena.take_back(at, arg)
        self._trace.emit(Ioctl, self.pid, fd & U32, nr & U32, at & U64, result & U32, 0, 0)
        return result

    def _number(self, result: Any, file: File, fd: int, nr: int, at: int, arg: int | Wire) -> int:
        """What a handler answered, as a number: a File is installed, a coroutine driven to its end."""
        if not isinstance(result, AT_ONCE):
            calls = self.kernel.calls
            call = calls.again(self.task, nr, result) if calls.old else Call(calls, self.task, nr, result)
            call.file = file.get()
            try:
                result = call._finish()
            finally:
                if call.done:
                    file.put()
                else:
                    call.end = partial(self._ended, fd, nr, at, arg)
        if not isinstance(result, File):
            return int(result)
        if not self.dead:
            return self.task.install(result)
        result.put()  # the process died while it waited
        return 0

    def _begin(self, fd: int, nr: int, arg: int | Wire) -> Call:
        if self.dead:
            raise KvmError(ESRCH, why=f"the process {self.name} is dead")
        at = arg if arg.__class__ is int else self._address(arg)
        calls, work = self.kernel.calls, partial(self._serve, fd, nr, at)
        call = calls.again(self.task, nr, work) if calls.old else Call(calls, self.task, nr, work)
        call.end = partial(self._ended, fd, nr, at, arg)
        calls.begun[call] = None
        calls.kept[call.number] = call
        return call

    def _serve(self, fd: int, nr: int, at: int, call: Call) -> Any:
        """The first step of a call that was begun: look the descriptor up, then ask its handler."""
        call.file = self._file(fd).get()
        return call.file.ioctl(self.task, nr, at)

    def _ended(self, fd: int, nr: int, at: int, arg: int | Wire, call: Call) -> None:
        """A call is done: install what it made, give back what it kept, tell the trace."""
        if isinstance(call.result, File):
            if self.dead:
                call.result.put()
                call.result = 0
            else:
                try:
                    call.result = self.task.install(call.result)
                except KvmError as refusal:
                    call.result, call.error = 0, refusal
        if call.file is not None:
            call.file.put()
        if call.error is None or isinstance(call.error, OSError):
            self._answered(fd, nr, at, arg, call.result or 0, call.error)
        if self.dead and not self._calls():
            self._gone()

    def _answered(self, fd: int, nr: int, at: int, arg: int | Wire, result: int, error: OSError | None) -> None:
        """Tell the trace what an ioctl was answered, and read its argument back. An oops takes the process with it."""
        code, fw = 0, 0
        if error is not None:
            code, fw = error.errno or 0, getattr(error, "fw", None) or 0
        self._trace.emit(Ioctl, self.pid, fd & U32, nr & U32, at & U64, result & U32, code, fw & U32)
        if at is not arg and isinstance(arg, Wire) and not self.dead:
            self._arena.take_back(at, arg)
        if isinstance(error, Oops):
            self.kernel.log(f"BUG: {error.why}")
            self._die()

    def _address(self, arg: object) -> int:
        """What the kernel gets for an argument: a number is itself, a Wire is lent a slot of memory."""
        if isinstance(arg, Wire):
            return self._arena.lend(arg)
        if isinstance(arg, int):
            return int(arg)
        raise TypeError(f"the argument of an ioctl is a number or a Wire, not {given.shown(arg)}")

    # ------------------------------------------------------------ memory

    @entry
    def mmap(self, length: int, *, fd: int = -1, at: int | None = None, offset: int = 0) -> int:
        """Map memory: its address. Private and zero, or the memory of `fd` from byte `offset` on.

        With `at` exactly there, in place of what was mapped. Raises EINVAL, ENOMEM, EPERM; EBADF, and
        ENODEV for a file without memory.
        """
        file = None if fd == -1 else self._file(fd)
        need(offset >= 0 and offset % PAGE == 0, EINVAL)  # offset_in_page(off)
        backing = file.backing() if file else None
        return self.task.mm.mmap(length, at=at, backing=backing, offset=offset // PAGE, file=file)

    @entry
    def munmap(self, hva: int, length: int) -> None:
        """Unmap a range of pages. Raises EINVAL."""
        self.task.mm.munmap(hva, length)

    @entry
    def read(self, hva: int, n: int) -> bytes:
        """What the process sees at `hva`: ciphertext, in a guest's private page. Raises EFAULT, EINVAL."""
        need(n >= 0, EINVAL)  # a length is not negative
        return self.task.mm.read(hva, n)

    @entry
    def write(self, hva: int, data: bytes) -> None:
        """Put bytes at `hva`. Raises EFAULT at a hole; what lies before it is written."""
        self.task.mm.write(hva, data)

    @entry
    def put(self, value: Wire | bytes) -> int:
        """Put a structure or bytes on the heap: its address. Freed with the process."""
        return self._arena.put(value.pack() if isinstance(value, Wire) else bytes(value))

    @entry
    def get(self, hva: int, kind: type[W]) -> W:
        """The structure of this kind at `hva`. Raises EFAULT, and TypeError for what is no kind of Wire."""
        if not (isinstance(kind, type) and issubclass(kind, Wire)):
            raise TypeError(f"kind is a class of Wire, not {given.shown(kind)}")
        return kind.unpack(self.task.mm.read(hva, kind.SIZE))

    # --------------------------------------------------- the process itself

    @entry
    def fork(self, name: str | None = None) -> Process:
        """A copy of this process: its memory as it is now, its descriptors, its limits. Raises ENOMEM, EINVAL.

        Without a `name` it is called after its parent, with a number.
        """
        number = 1
        while f"{self.name}-{number}" in self.kernel.processes:
            number += 1
        task = self.task
        return Process(self.kernel, name or f"{self.name}-{number}", task.cgroup, task.memlock, task.caps, parent=self)

    @entry
    def setrlimit(self, *, memlock: int) -> None:
        """Change RLIMIT_MEMLOCK, in bytes. Raises EINVAL. (There is no hard limit above it.)"""
        need(memlock >= 0, EINVAL)  # a limit is not negative

        self.task.memlock = memlock

    @entry
    def setaffinity(self, cpu: int) -> None:
        """Run on this processor from now on (sched_setaffinity, with one processor in the mask). Raises EINVAL."""
        need(0 <= cpu < CPUS, EINVAL)  # no processor of the mask is there

        self.task.cpu = cpu

    @entry
    def kill(self) -> None:
        """SIGKILL. Waits that death ends do end; the kernel cleans up when the last call has left it."""
        self._die()

    @property
    def cgroup(self) -> Cgroup:
        """The process's cgroup. Set it to a path to move there; what was charged before stays where it is. Raises ENOENT."""
        return self.task.cgroup

    @cgroup.setter
    def cgroup(self, group: str | Cgroup) -> None:
        self._join(group.path if isinstance(group, Cgroup) else group)

    @entry
    def _join(self, path: str) -> None:
        self.task.cgroup = self.kernel.root_cgroup.find(path)

    @property
    def mm(self) -> Mm:
        """The address space."""
        return self.task.mm

    @property
    def fds(self) -> dict[int, File]:
        """The descriptors, for those who look: number to file."""
        return dict(self.task.fds)

    @property
    def memlock(self) -> int:
        """RLIMIT_MEMLOCK, in bytes."""
        return self.task.memlock

    @property
    def caps(self) -> frozenset[str]:
        """The capabilities, by name."""
        return self.task.caps

    def journaled(self) -> Who:
        """How the journal names this process where it is an argument."""
        return Who(self.kernel.gate.host, self.pid)

    def _calls(self) -> list[Call]:
        return [call for call in self.kernel.calls.begun if call.task is self.task]

    def _die(self) -> None:
        """The process takes no more calls; those under way end as far as death can end them."""
        self.dead = True
        for call in self._calls():
            call._abandon()
        if not self._calls():
            self._gone()

    def _gone(self) -> None:
        """Clean up: first the address space (exit_mm), then the descriptors from 0 on (exit_files)."""
        if self.kernel.processes.get(self.name) is not self:
            return
        del self.kernel.processes[self.name]
        self.task.mm.teardown()
        for number in sorted(self.task.fds):
            self.task.fds.pop(number).put()
        self._trace.emit(ProcessGone, self.pid, self.name)

    def __repr__(self) -> str:
        dead = ", dead" if self.dead else ""
        return f"<Process {self.pid}: {self.name}{dead}, {len(self.task.fds)} descriptors, cgroup {self.task.cgroup}>"
