"""The ccp driver: the kernel's one way to the secure processor.

A command goes out in three steps: its buffer is written into a page of host
memory, id and address go to the mailbox, the buffer is read back, also when the
firmware refused (that is how one asks for a length). Here a firmware status
becomes an errno, and nowhere else.

Source: kvm.md A8, A11 (drivers/crypto/ccp/sev-dev.c).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from errno import EBADF, EBUSY, EINVAL, EIO, ENODEV, ENOMEM, ETIMEDOUT
from typing import TYPE_CHECKING, Protocol

from sevlab.abi.kvm import SEV_FW_BLOB_MAX_SIZE, sev_issue_cmd
from sevlab.abi.sev import INIT_FLAG_ES, TMR_LEN, Cmd, Init, PlatformState, PlatformStatus, Status
from sevlab.hw.soc import Soc
from sevlab.kvm.designs.release import Release
from sevlab.kvm.fd import CARRIERS, File, KvmError, need
from sevlab.kvm.frames import Frames
from sevlab.psp.firmware import Psp
from sevlab.wire import Wire

if TYPE_CHECKING:
    from sevlab.kvm.task import Task

PAGE = 4096
KMALLOC_MAX = 1 << 22  # bytes the allocator gives in one piece


class HasError(Protocol):
    """A structure of user space with an `error` for the firmware's status: kvm_sev_cmd, sev_issue_cmd."""

    error: int


class Heap:
    """Kernel memory for one call: physically contiguous, zeroed, given back when the call is over."""

    def __init__(self, frames: Frames) -> None:
        self.frames = frames
        self.dram = frames.dram
        self._runs: list[tuple[int, int]] = []

    def alloc(self, n: int) -> int:
        """The hpa of `n` bytes. Raises ENOMEM, also for what no allocator gives in one piece."""
        need(n <= KMALLOC_MAX, ENOMEM)  # kzalloc() failed
        count = (n + PAGE - 1) // PAGE or 1
        pfn = self.frames.take_run(count)
        self._runs.append((pfn, count))
        return pfn * PAGE

    def copy_in(self, data: bytes) -> int:
        """The hpa of a copy of `data`."""
        hpa = self.alloc(len(data))
        self.dram.write(hpa, data)
        return hpa

    def copy_user_blob(self, caller: Task, uaddr: int, n: int) -> int:
        """The hpa of a copy of `n` bytes of user memory (psp_copy_user_blob). Raises EINVAL, ENOMEM, EFAULT."""
        need(uaddr and n, EINVAL)  # !uaddr || !len
        need(n <= SEV_FW_BLOB_MAX_SIZE, EINVAL)  # len > SEV_FW_BLOB_MAX_SIZE
        return self.copy_in(caller.read(uaddr, n))

    def read(self, hpa: int, n: int) -> bytes:
        """`n` bytes back."""
        return self.dram.read(hpa, n)

    def __enter__(self) -> Heap:
        return self

    def __exit__(self, *_: object) -> None:
        for run in self._runs:
            self.frames.give(*run)
        self._runs.clear()


class Ccp:
    """The driver of one machine's secure processor.

    `state` is what the driver believes: after INIT it stays INIT also while the
    firmware is WORKING. `dead` is set for ever by a command that got no answer.
    `psp` None is a machine without one: ENODEV.
    """

    def __init__(self, soc: Soc, frames: Frames, psp: Psp | None, release: Release, log: Callable[[str], None]) -> None:
        self.soc = soc
        self.psp = psp
        self.release = release
        self.frames = frames
        self._dram = soc.dram
        self.state = PlatformState.UNINIT
        self.dead = False
        self.api = (0, 0, 0)
        self._log = log
        self._logged: set[str] = set()
        self._buffer = frames.take_run(1) * PAGE
        self._tmr = frames.take_run(TMR_LEN // PAGE, TMR_LEN // PAGE) * PAGE

    def heap(self) -> Heap:
        """Memory for the blobs of one command."""
        return Heap(self.frames)

    def log_once(self, line: str) -> None:
        """A line that the kernel logs at its first occasion only."""
        if line not in self._logged:
            self._logged.add(line)
            self._log(line)

    # ------------------------------------------------------------- commands

    def raw(self, cmd: int, buffer: Wire | None = None) -> int:
        """A command without any of the driver's rules: the firmware's status; `buffer` is read back in place."""
        status, after = self._exchange(cmd, b"" if buffer is None else buffer.pack())
        if buffer is not None:
            buffer.load(after)
        return status

    def _exchange(self, cmd: int, data: bytes) -> tuple[int, bytes]:
        """Buffer out, mailbox, buffer in: the firmware's status and the buffer as it left it."""
        assert self.psp is not None
        if not data:
            return self.psp.mailbox(cmd), data
        self._dram.write(self._buffer, data)
        status = self.psp.mailbox(cmd, self._buffer)
        return status, self._dram.read(self._buffer, len(data))

    def command(self, cmd: int, buffer: Wire | bytes = b"", answer: HasError | None = None) -> bytes:
        """One command from inside the kernel: its buffer as the firmware left it, a Wire in place too (__sev_do_cmd_locked).

        `answer.error` gets the status. Raises ENODEV, EBUSY (a command timed out before), ETIMEDOUT, and EIO for
        every refusal of the firmware; then too the buffer has been read back.
        """
        need(self.psp is not None, ENODEV)  # !psp_master
        need(not self.dead, EBUSY)  # psp_dead
        data = buffer if buffer.__class__ is bytes else buffer.pack()  # type: ignore[union-attr]
        status, after = self._exchange(cmd, data)
        if after != data and buffer is not data:
            buffer.load(after)  # type: ignore[union-attr]
        if status is None:  # a secure processor that hangs is somebody's experiment; ours always answers
            self.dead = True
            self._log(f"sev command {cmd:#x} timed out, disabling PSP")
            status = 0
        if answer is not None:
            answer.error = status
        need(not self.dead, ETIMEDOUT)  # sev_wait_cmd_ioc() ran out of time
        if status:
            raise KvmError(EIO, fw=status, why=f"the firmware refused: {self.psp.why}")  # type: ignore[union-attr]
        return after

    def issue(self, caller: Task, fd: int | File, cmd: int, buffer: Wire | bytes, answer: HasError) -> bytes:
        """One command in the name of whoever holds descriptor `fd` of /dev/sev (sev_issue_cmd_external_user).

        Its open mode is not asked. Where the kernel has kept the file (the seam `quirks`), that is used. Raises
        EBADF when `fd` is no /dev/sev, else as `command`.
        """
        file = caller.fget(fd) if isinstance(fd, int) else fd
        need(getattr(file, "ccp", None) is self, EBADF)  # filep->f_op != &sev_fops
        return self.command(cmd, buffer, answer)

    def attempt(self, cmd: int, buffer: Wire | bytes = b"", answer: HasError | None = None) -> KvmError | None:
        """`command` for a caller that has more to do whatever comes of it: the refusal, or None."""
        try:
            self.command(cmd, buffer, answer)
        except KvmError as no:
            return no
        return None

    # ------------------------------------------------------------- the platform

    def probe(self) -> None:
        """The driver finds its device: it asks for the version and, where this kernel does so, brings it up."""
        if self.psp is None:
            return
        status = PlatformStatus()
        self.command(Cmd.PLATFORM_STATUS, status)
        self.api = (status.api_major, status.api_minor, status.build)
        self.state = PlatformState(status.state)
        if self.release.init_on_probe:
            failed = sev_issue_cmd()
            try:
                self.platform_init(failed)
            except KvmError as no:
                self._log(f"SEV: failed to INIT error {failed.error:#x}, rc -{no.errno}")

    def platform_init(self, answer: HasError) -> None:
        """INIT, unless the driver believes it done: then `answer.error` stays as it is (__sev_platform_init_locked).

        A corrupt persistent state is met once: the firmware has erased it, the second try starts afresh.
        """
        need(self.psp is not None, ENODEV)  # !psp || !psp->sev_data
        if self.state == PlatformState.INIT:
            return
        init = Init(flags=INIT_FLAG_ES, tmr_paddr=self._tmr, tmr_len=TMR_LEN)
        answer.error = Status.NO_FW_CALL
        try:
            self.command(Cmd.INIT, init, answer)
        except KvmError as no:
            if no.fw != Status.SECURE_DATA_INVALID:
                raise
            self.command(Cmd.INIT, init, answer)

        self.state = PlatformState.INIT
        self.soc.wbinvd()
        self.command(Cmd.DF_FLUSH, answer=answer)
        self._log("SEV API:{}.{} build:{}".format(*self.api))

    def platform_shutdown(self, answer: HasError) -> None:
        """SHUTDOWN, unless the driver believes it done (__sev_platform_shutdown_locked)."""
        if self.state == PlatformState.UNINIT:
            return
        self.command(Cmd.SHUTDOWN, answer=answer)
        self.state = PlatformState.UNINIT

    @contextmanager
    def up(self, answer: HasError) -> Iterator[None]:
        """The platform initialised, for one command; newer kernels shut down afterwards what they brought up for it."""
        brought_up = self.state != PlatformState.INIT
        if brought_up:
            self.platform_init(answer)
        try:
            yield
        finally:
            if brought_up and self.release.shutdown_after_ioctl:
                self.platform_shutdown(sev_issue_cmd())

    def __repr__(self) -> str:
        return f"<Ccp: API {'.'.join(map(str, self.api))}, {'dead' if self.dead else self.state.name}>"


CARRIERS.update({Ccp.command.__code__, Ccp.issue.__code__})
