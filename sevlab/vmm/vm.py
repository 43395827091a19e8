"""A virtual machine as its VMM holds it: numbers of file descriptors, and memory of its own process.

Nothing here looks behind a descriptor. `read` shows what the process itself
would see at a guest address: what the guest shares is readable, what it keeps
private is not.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, NamedTuple

from sevlab.abi import boot, ovmf
from sevlab.abi.kvm import (
    EXIT_NAMES,
    KVM_EXIT_FAIL_ENTRY,
    KVM_EXIT_HYPERCALL,
    KVM_EXIT_INTERNAL_ERROR,
    KVM_EXIT_INTR,
    KVM_EXIT_IO,
    KVM_EXIT_MEMORY_FAULT,
    KVM_EXIT_MMIO,
    KVM_EXIT_SYSTEM_EVENT,
    KVM_GET_REGS,
    KVM_GET_SREGS,
    KVM_MEMORY_ENCRYPT_OP,
    KVM_RUN,
    KVM_RUN_UNION,
    KVM_SET_REGS,
    KVM_SET_SREGS,
    KVM_SEV_GUEST_STATUS,
    KVM_SEV_LAUNCH_FINISH,
    KVM_SEV_LAUNCH_SECRET,
    KVM_VCPU_MMAP_SIZE,
    SEV_CMD_NAMES,
    kvm_regs,
    kvm_run,
    kvm_run_fail_entry,
    kvm_run_hypercall,
    kvm_run_internal,
    kvm_run_io,
    kvm_run_memory_fault,
    kvm_run_mmio,
    kvm_run_system_event,
    kvm_sev_cmd,
    kvm_sev_guest_status,
    kvm_sev_launch_secret,
    kvm_sregs,
)
from sevlab.given import checked
from sevlab.kvm.process import Process
from sevlab.vmm import ram
from sevlab.wire import Wire

# What the union of kvm_run holds after an exit of this reason.
VIEWS: dict[int, type[Wire]] = {
    KVM_EXIT_IO: kvm_run_io,
    KVM_EXIT_HYPERCALL: kvm_run_hypercall,
    KVM_EXIT_MMIO: kvm_run_mmio,
    KVM_EXIT_FAIL_ENTRY: kvm_run_fail_entry,
    KVM_EXIT_INTERNAL_ERROR: kvm_run_internal,
    KVM_EXIT_SYSTEM_EVENT: kvm_run_system_event,
    KVM_EXIT_MEMORY_FAULT: kvm_run_memory_fault,
}


TURN = 4  # steps of a KVM_RUN in one turn: its lock, 10,000 instructions or a wait, and some more


class Slot(NamedTuple):
    """A memslot: `size` bytes of the process's memory at `hva` are the guest's at `gpa`.

    `fd` is the memfd behind it, or -1; `number` the kernel's name for the slot.
    """

    gpa: int
    size: int
    hva: int
    fd: int = -1
    number: int = 0


class Exit(NamedTuple):
    """Why KVM_RUN came back: which vCPU, the reason and its name, and the union's view where the reason has one."""

    vcpu: int
    reason: int
    name: str
    detail: Any = None

    def __repr__(self) -> str:
        return f"<Exit: vCPU {self.vcpu} {self.name}{f' {self.detail}' if self.detail is not None else ''}>"


class Vcpu:
    """One vCPU: its descriptor, and the page that kernel and VMM share (`run_hva`).

    `started` says whether the loop runs it: where the kernel has no interrupt
    controllers the first one does, the others wait for a start-up message. `waiting` says why it does not go on just now.
    """

    __slots__ = ("call", "fd", "index", "process", "run_hva", "started", "waiting")

    def __init__(self, process: Process, index: int, fd: int, run_hva: int) -> None:
        self.process, self.index, self.fd, self.run_hva = process, index, fd, run_hva
        self.started = index == 0
        self.waiting = ""
        self.call: Any = None  # the KVM_RUN under way

    def ioctl(self, nr: int, arg: Any = 0) -> int:
        """One ioctl of the vCPU's descriptor."""
        return self.process.ioctl(self.fd, nr, arg)

    def registers(self) -> tuple[kvm_regs, kvm_sregs]:
        """The general and the system registers, as the kernel shows them."""
        regs, sregs = kvm_regs(), kvm_sregs()
        self.ioctl(KVM_GET_REGS, regs)
        self.ioctl(KVM_GET_SREGS, sregs)
        return regs, sregs

    def set_registers(self, regs: kvm_regs, sregs: kvm_sregs) -> None:
        """Set both kinds; what runs next is what they say."""
        self.ioctl(KVM_SET_SREGS, sregs)
        self.ioctl(KVM_SET_REGS, regs)

    def enter(self) -> Exit:
        """One KVM_RUN, to its end.

        Raises OSError as KVM_RUN does: EINTR when nothing could go on, EAGAIN after an INIT.
        """
        self.go_on(alone=True)
        return self.left()

    def go_on(self, *, alone: bool = False) -> bool:
        """A turn of this vCPU's KVM_RUN, which begins if none is under way: whether it could do anything.

        `alone` drives it to its end, and whatever else has begun where it waits.
        """
        if self.call is None:
            self.call = self.process.begin(self.fd, KVM_RUN, 0)
        call = self.call
        if alone:
            with suppress(OSError):  # left() raises it
                call.finish()
            return True
        moved = False
        for _ in range(TURN):
            if call.state != "runnable":
                break
            call.step()
            moved = True
        return moved

    @property
    def came_back(self) -> bool:
        """Whether the KVM_RUN under way is over: `left` says how."""
        return self.call is not None and self.call.state == "done"

    def left(self) -> Exit:
        """The exit of a KVM_RUN that is over. Raises OSError as KVM_RUN does."""
        call, self.call = self.call, None
        assert call is not None
        try:
            call.finish()
        except OSError as error:
            error.step = "KVM_RUN"  # type: ignore[attr-defined]
            raise
        page = self.process.read(self.run_hva, kvm_run.SIZE)
        reason = kvm_run.unpack(page).exit_reason
        view = VIEWS.get(reason)
        return Exit(self.index, reason, EXIT_NAMES.get(reason, str(reason)), view and view.unpack(page, KVM_RUN_UNION))

    def stop(self) -> Exit:
        """A signal for the thread in KVM_RUN: it comes back with what it was waiting for."""
        call = self.call
        assert call is not None
        why = str(call.waits_for) if call.waits_for else None
        call.interrupt()
        with suppress(OSError):
            call.finish()
        self.call = None
        self.waiting = "INTR"
        return Exit(self.index, KVM_EXIT_INTR, "INTR", why)

    def give_up(self) -> None:
        """Leave no KVM_RUN under way: one that met an error would only meet it again."""
        call, self.call = self.call, None
        if call is not None:
            call.abandon()

    def __repr__(self) -> str:
        return f"<Vcpu {self.index}: fd {self.fd}, {self.waiting or ('running' if self.started else 'not started')}>"


class Vm:
    """A guest under launch or running.

    `process` and `fd` are what a script needs to call ioctls itself; `vcpus`
    are the vCPUs, `slots` the guest's memory, `firmware` its image with the
    table in it, `measurement` the 48 bytes of LAUNCH_MEASURE once they are
    there, `console` what the guest wrote to its debug port.
    """

    def __init__(self, process: Process, kvm: int, sev: int, fd: int, *, es: bool) -> None:
        self.process, self.kvm, self.sev, self.fd, self.es = process, kvm, sev, fd, es
        self.vcpus: list[Vcpu] = []
        self.slots: list[Slot] = []
        self.ram_listeners: list[ram.Listener] = [ram.register]  # told of each RAM block that comes or goes
        self.firmware: ovmf.Ovmf | None = None
        self.handle = 0  # the firmware's name for the guest, from LAUNCH_START
        self.policy = 0
        self.measurement: bytes | None = None
        self.console = bytearray()
        self.vm_type = 0  # what KVM_CREATE_VM was given
        self.irqchip = False  # whether the kernel has the interrupt controllers
        self.encrypted = True  # whether it is an SEV guest: an ordinary VM has no key, and its processor does not offer any
        self.shared = False  # whether the guest's memory can be mapped by another process
        self.borrowed = False  # whether its slots are another VM's of this process
        self.closed = False
        self.icr_target = 0  # whom the next message between vCPUs is for

    # ------------------------------------------------------------- memory

    @checked
    def hva(self, gpa: int, n: int = 1) -> int:
        """Where the process has the guest's bytes [gpa, gpa + n).

        Raises ValueError where no slot holds them all.
        """
        for slot in self.slots:
            if slot.gpa <= gpa and gpa + n <= slot.gpa + slot.size:
                return slot.hva + gpa - slot.gpa
        raise ValueError(f"the guest has no memory at {gpa:#x} to {gpa + n:#x}")

    @checked
    def read(self, gpa: int, n: int) -> bytes:
        """`n` bytes of guest memory as the VMM's own process sees them."""
        return self.process.read(self.hva(gpa, n), n)

    @checked
    def write(self, gpa: int, data: bytes) -> None:
        """Write guest memory as the VMM's own process can: without the guest's key."""
        self.process.write(self.hva(gpa, len(data)), data)

    def answer(self) -> tuple[int, bytes]:
        """What the guest left in the mailbox of the boot protocol: (status, data), (0, b"") when there is nothing yet.

        The page is shared, so the host could have written it as well: believe it
        as far as you trust the host.
        """
        return boot.read_answer(self.read(boot.MAILBOX, boot.MAILBOX_LIMIT))

    # ------------------------------------------------------------- SEV commands

    @checked
    def sev_op(self, command: int, argument: Wire | None = None) -> Any:
        """One KVM_MEMORY_ENCRYPT_OP, with the command's own structure; returns it as the kernel left it.

        Raises OSError with .errno, .fw (the firmware's status) and .step (the command's name).
        """
        data = self.process.put(argument) if argument is not None else 0
        self.ioctl(KVM_MEMORY_ENCRYPT_OP, kvm_sev_cmd(id=command, data=data, sev_fd=self.sev), step=SEV_CMD_NAMES.get(command, ""))
        return self.process.get(data, type(argument)) if argument is not None else None

    def ioctl(self, nr: int, arg: Any = 0, *, step: str = "") -> int:
        """One ioctl of the VM's descriptor; a refusal carries `step`, for whoever reports it."""
        try:
            return self.process.ioctl(self.fd, nr, arg)
        except OSError as error:
            error.step = step  # type: ignore[attr-defined]
            raise

    def status(self) -> kvm_sev_guest_status:
        """Handle, policy and state, as the firmware has them (GUEST_STATUS)."""
        found: kvm_sev_guest_status = self.sev_op(KVM_SEV_GUEST_STATUS, kvm_sev_guest_status())
        return found

    def inject_secret(self, header: bytes, payload: bytes, gpa: int | None = None) -> None:
        """LAUNCH_SECRET: a packet of the owner's, put where the firmware's table says, or at `gpa`.

        Raises ValueError when no place is known or the guest has no such memory,
        OSError when kernel or firmware refuse (BAD_MEASUREMENT: the packet is
        not for this very launch).
        """
        for what, part in (("header", header), ("payload", payload)):
            if not isinstance(part, bytes | bytearray | memoryview):
                raise TypeError(f"a secret's {what} is bytes, as owner.wrap_secret makes them, not {type(part).__name__}")
        if gpa is None:
            gpa = self._secret_area(len(payload))
        self.sev_op(
            KVM_SEV_LAUNCH_SECRET,
            kvm_sev_launch_secret(
                hdr_uaddr=self.process.put(header),
                hdr_len=len(header),
                guest_uaddr=self.hva(gpa, len(payload)),
                guest_len=len(payload),
                trans_uaddr=self.process.put(payload),
                trans_len=len(payload),
            ),
        )

    def _secret_area(self, length: int) -> int:
        area = self.firmware and self.firmware.secret_area
        if not area or not area.size:
            raise ValueError("the firmware has no secret area; say where the secret goes")
        if length > area.size:
            raise ValueError(f"the firmware's secret area has {area.size} bytes, the packet {length}")
        return area.base

    def finish(self) -> None:
        """LAUNCH_FINISH: the guest is what was measured, from now on."""
        self.sev_op(KVM_SEV_LAUNCH_FINISH)

    # ------------------------------------------------------------- running

    @checked
    def run(self, *, rounds: int = 10_000) -> Exit:
        """Let the vCPUs run in turn until none can go on, or one needs somebody; the last exit.

        `rounds` bounds the number of KVM_RUNs of each vCPU. See `sevlab.vmm.loop`.
        """
        from sevlab.vmm.loop import run

        return run(self, rounds)

    def close(self) -> None:
        """Unmap and close all that the VM has; the kernel frees it with its last reference. Twice is once."""
        if self.closed:
            return  # its numbers may be another's by now
        self.closed = True
        for slot in () if self.borrowed else self.slots:
            self.process.munmap(slot.hva, slot.size)
            if slot.fd >= 0:
                self.process.close(slot.fd)
        for vcpu in self.vcpus:
            self.process.munmap(vcpu.run_hva, KVM_VCPU_MMAP_SIZE)
        for fd in (*(vcpu.fd for vcpu in self.vcpus), self.fd, self.kvm, self.sev):
            self.process.close(fd)

    def __repr__(self) -> str:
        kind = "SEV-ES" if self.es else "SEV" if self.encrypted else "without a key"
        policy = f", policy {self.policy:#x}" if self.encrypted else ""
        return f"<Vm: {kind}, fd {self.fd} of {self.process.name}, {len(self.vcpus)} vCPUs{policy}>"
