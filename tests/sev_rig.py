"""A booted kernel with one process, /dev/kvm and /dev/sev open: what the kernel's SEV tests stand on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from errno import errorcode
from typing import Any, TypeVar

from sevlab.abi.kvm import (
    KVM_CAP_VM_COPY_ENC_CONTEXT_FROM,
    KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM,
    KVM_CREATE_VCPU,
    KVM_CREATE_VM,
    KVM_ENABLE_CAP,
    KVM_MEMORY_ENCRYPT_OP,
    KVM_MEMORY_ENCRYPT_REG_REGION,
    KVM_MEMORY_ENCRYPT_UNREG_REGION,
    KVM_SET_USER_MEMORY_REGION,
    KVM_SEV_ES_INIT,
    KVM_SEV_GUEST_STATUS,
    KVM_SEV_INIT,
    KVM_SEV_LAUNCH_FINISH,
    KVM_SEV_LAUNCH_MEASURE,
    KVM_SEV_LAUNCH_START,
    KVM_SEV_LAUNCH_UPDATE_DATA,
    SEV_ISSUE_CMD,
    kvm_enable_cap,
    kvm_enc_region,
    kvm_sev_cmd,
    kvm_sev_guest_status,
    kvm_sev_launch_measure,
    kvm_sev_launch_start,
    kvm_sev_launch_update_data,
    kvm_userspace_memory_region,
    sev_issue_cmd,
)
from sevlab.crypto import Stream
from sevlab.hw import chips
from sevlab.hw.soc import Soc
from sevlab.kvm import designs
from sevlab.kvm.kernel import Kernel
from sevlab.kvm.process import Process
from sevlab.kvm.vm import Vm
from sevlab.psp.firmware import Psp
from sevlab.trace import Trace
from sevlab.wire import Wire

W = TypeVar("W", bound=Wire)
UNTOUCHED = 0x5EED  # put into `error` before a call, to see whether anybody wrote there


@contextmanager
def refuses(code: int, fw: int | None = None) -> Iterator[OSErrorBox]:
    """The block ends in an OSError with this errno, and with this firmware status (None: the firmware did not refuse)."""
    box = OSErrorBox()
    try:
        yield box
    except OSError as error:
        box.error = error
    assert box.error is not None, f"nobody refused; {errorcode.get(code, code)} was expected"
    assert (errorcode.get(box.error.errno or 0, box.error.errno), box.fw) == (errorcode.get(code, code), fw), str(box.error)


class OSErrorBox:
    """The refusal that was caught."""

    error: OSError | None = None

    @property
    def fw(self) -> Any:
        return getattr(self.error, "fw", None)

    @property
    def why(self) -> str:
        return str(getattr(self.error, "why", ""))


class Rig:
    """One machine, booted, with the process `qemu` and its two devices."""

    def __init__(
        self,
        design: designs.Design = designs.LINUX_6_1,
        chip: str | chips.Chip = "rome",
        *,
        cgroups: Mapping[str, Mapping[str, int]] | None = None,
        memory: int = 64 << 20,
        api: tuple[int, int, int] = (0, 24, 15),
        nv: Any = None,
        memlock: int = 16 << 20,
        cgroup: str = "/",
    ) -> None:
        self.trace = Trace()
        self.soc = Soc(chips.by_name(chip), Stream(7), self.trace, memory)
        self.psp = Psp(self.soc, api=api, nv=nv)
        self.kernel = Kernel(self.soc, self.psp, design, cgroups)
        self.frames_after_boot = self.kernel.frames.free
        self.leaks: dict[str, dict[str, int]] = {}  # what a test expects to stay charged: path to {resource: number}
        self.qemu = self.kernel.process("qemu", cgroup=cgroup, memlock=memlock)
        self.kvm = self.qemu.open("/dev/kvm")
        self.sev = self.qemu.open("/dev/sev")

    # ------------------------------------------------------- short ways

    def vm(self, vm_type: int = 0, process: Process | None = None) -> int:
        """A new VM's descriptor."""
        process = process or self.qemu
        return process.ioctl(self.kvm if process is self.qemu else process.open("/dev/kvm"), KVM_CREATE_VM, vm_type)

    def file(self, vm: int, process: Process | None = None) -> Vm:
        """The VM behind a descriptor."""
        return self.kernel.vm_of(process or self.qemu, vm)

    def op(
        self, vm: int, id: int, data: Wire | int = 0, *, sev_fd: int | None = None, process: Process | None = None
    ) -> kvm_sev_cmd:
        """One KVM_MEMORY_ENCRYPT_OP; `data` is put into memory and read back in place, refused or not."""
        process = process or self.qemu
        cmd = kvm_sev_cmd(id=id, error=UNTOUCHED, sev_fd=self.sev if sev_fd is None else sev_fd)
        cmd.data = process.put(data) if isinstance(data, Wire) else data
        self.last = cmd
        try:
            process.ioctl(vm, KVM_MEMORY_ENCRYPT_OP, cmd)
        finally:
            if isinstance(data, Wire):
                data.load(process.read(cmd.data, data.SIZE))
        return cmd

    def init(self, es: bool = False) -> int:
        """A VM made encrypted."""
        vm = self.vm()
        self.op(vm, KVM_SEV_ES_INIT if es else KVM_SEV_INIT)
        return vm

    def start(self, vm: int, policy: int = 0) -> int:
        """LAUNCH_START without a session: the handle."""
        start = kvm_sev_launch_start(policy=policy)
        self.op(vm, KVM_SEV_LAUNCH_START, start)
        return start.handle

    def started(self, policy: int = 0) -> int:
        """A VM with a firmware context."""
        vm = self.init(es=bool(policy & 4))
        self.start(vm, policy)
        return vm

    def memory(self, data: bytes | int) -> int:
        """Fresh memory of the process with these bytes, or so many zeros: its hva."""
        size = data if isinstance(data, int) else len(data)
        hva = self.qemu.mmap(size)
        if not isinstance(data, int):
            self.qemu.write(hva, data)
        return hva

    def update(self, vm: int, hva: int, size: int) -> kvm_sev_cmd:
        return self.op(vm, KVM_SEV_LAUNCH_UPDATE_DATA, kvm_sev_launch_update_data(hva, size))

    def measure(self, vm: int) -> bytes:
        """LAUNCH_MEASURE into a buffer: the 48 bytes."""
        uaddr = self.qemu.put(bytes(48))
        self.op(vm, KVM_SEV_LAUNCH_MEASURE, kvm_sev_launch_measure(uaddr, 48))
        return self.qemu.read(uaddr, 48)

    def finish(self, vm: int) -> None:
        self.op(vm, KVM_SEV_LAUNCH_FINISH)

    def status(self, vm: int) -> kvm_sev_guest_status:
        status = kvm_sev_guest_status()
        self.op(vm, KVM_SEV_GUEST_STATUS, status)
        return status

    def vcpu(self, vm: int, vcpu_id: int = 0) -> int:
        return self.qemu.ioctl(vm, KVM_CREATE_VCPU, vcpu_id)

    def slot(self, vm: int, hva: int, size: int, gpa: int = 0, slot: int = 0, flags: int = 0) -> None:
        self.qemu.ioctl(vm, KVM_SET_USER_MEMORY_REGION, kvm_userspace_memory_region(slot, flags, gpa, size, hva))

    def register(self, vm: int, hva: int, size: int) -> None:
        self.qemu.ioctl(vm, KVM_MEMORY_ENCRYPT_REG_REGION, kvm_enc_region(hva, size))

    def unregister(self, vm: int, hva: int, size: int) -> None:
        self.qemu.ioctl(vm, KVM_MEMORY_ENCRYPT_UNREG_REGION, kvm_enc_region(hva, size))

    def copy(self, mirror: int, source: int, process: Process | None = None) -> None:
        """COPY: the VM `mirror` becomes one of `source`."""
        cap = kvm_enable_cap(KVM_CAP_VM_COPY_ENC_CONTEXT_FROM, args=(source, 0, 0, 0))
        (process or self.qemu).ioctl(mirror, KVM_ENABLE_CAP, cap)

    def move(self, dst: int, src: int, process: Process | None = None) -> None:
        """MOVE: the encryption context of `src` becomes `dst`'s."""
        cap = kvm_enable_cap(KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM, args=(src, 0, 0, 0))
        (process or self.qemu).ioctl(dst, KVM_ENABLE_CAP, cap)

    def aux(self, vcpus: int = 0) -> int:
        """An ordinary VM with so many vCPUs."""
        vm = self.vm()
        for vcpu_id in range(vcpus):
            self.vcpu(vm, vcpu_id)
        return vm

    def charges(self) -> dict[str, dict[str, int]]:
        """What is charged where: a cgroup's path to its resources, zeros left out."""
        found, groups = {}, [self.kernel.root_cgroup]
        while groups:
            group = groups.pop()
            groups.extend(group.children.values())
            if charged := {resource: number for resource, number in group.current.items() if number}:
                found[group.path] = charged
        return found

    def issue(self, cmd: int, data: Wire | int = 0, *, fd: int | None = None) -> sev_issue_cmd:
        """One SEV_ISSUE_CMD on /dev/sev; `data` is read back in place, refused or not."""
        request = sev_issue_cmd(cmd=cmd, error=UNTOUCHED)
        request.data = self.qemu.put(data) if isinstance(data, Wire) else data
        self.last = request
        try:
            self.qemu.ioctl(self.sev if fd is None else fd, SEV_ISSUE_CMD, request)
        finally:
            if isinstance(data, Wire):
                data.load(self.qemu.read(request.data, data.SIZE))
        return request

    def rows(self, *events: Any) -> list[dict[str, Any]]:
        return self.trace.rows(*events)

    # ------------------------------------------------------- the balance

    def close(self) -> None:
        """Everybody goes."""
        for process in list(self.kernel.processes.values()):
            process.kill()

    def check_balance(self) -> None:
        """Nothing of what was taken is left: VMs, key slots, charges, firmware contexts, pins, frames."""
        assert self.kernel.vms == {}
        assert self.kernel.asids.used() == {}
        assert self.psp.guests == {}
        assert self.charges() == self.leaks
        assert self.soc.pages.pinned() == 0
        assert self.kernel.frames.free == self.frames_after_boot
