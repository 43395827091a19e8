"""A VM: memory slots, vCPUs, one lock, and whose it is. The file behind a VM's descriptor.

Source: kvm.md A1, A9, A10, B0, D (kvm_vm_ioctl, kvm_arch_vm_ioctl). Every ioctl of
a VM first asks who calls: a VM serves the address space that made it, and nobody
when its context was moved away.
"""

from __future__ import annotations

from errno import EEXIST, EINVAL, EIO, ENOTTY
from typing import TYPE_CHECKING, Any

from sevlab.abi.kvm import (
    KVM_CAP_EXIT_HYPERCALL,
    KVM_CHECK_EXTENSION,
    KVM_CREATE_IRQCHIP,
    KVM_CREATE_VCPU,
    KVM_ENABLE_CAP,
    KVM_MAX_VCPUS,
    KVM_MEMORY_ENCRYPT_OP,
    KVM_MEMORY_ENCRYPT_REG_REGION,
    KVM_MEMORY_ENCRYPT_UNREG_REGION,
    KVM_SET_USER_MEMORY_REGION,
    kvm_enable_cap,
    kvm_enc_region,
    kvm_sev_cmd,
    kvm_userspace_memory_region,
)
from sevlab.hw.npt import Npt
from sevlab.kvm import Row, copy_from_user
from sevlab.kvm.fd import File, KvmError, need
from sevlab.kvm.irqchip import create_irqchip
from sevlab.kvm.lock import Flag, Lock, Mutex
from sevlab.kvm.memslot import Slots, SlotSet
from sevlab.kvm.sev_commands import memory_encrypt_op
from sevlab.kvm.sev_info import Region, SevInfo, flush, pin_memory
from sevlab.kvm.sev_init import vm_destroy
from sevlab.kvm.vcpu import Vcpu
from sevlab.trace import Event, u8, u32, u64

if TYPE_CHECKING:
    from sevlab.kvm.kernel import Kernel
    from sevlab.kvm.task import Task

KVM_MAX_VCPU_IDS = 4 * KVM_MAX_VCPUS


class VmMade(Event, lane="kvm"):
    """A VM was created: its number, its type, the process whose memory it runs on."""

    vm: u32
    vm_type: u8
    pid: u32


class VmGone(Event, lane="kvm"):
    """The last reference on a VM went: it is destroyed."""

    vm: u32


class RegionSet(Event, lane="kvm"):
    """Memory was registered (`registered` 1: it is pinned) or unregistered as possibly encrypted."""

    vm: u32
    hva: u64
    size: u64
    registered: u8


class Vm(File):
    """One virtual machine.

    `mm` is the address space it serves; `created` counts vCPUs from the moment
    their making begins, `vcpus` holds them from the moment they can be run: what
    lies between is a vCPU in the making. `number` is ours, for traces.
    """

    name = "kvm-vm"

    def __init__(self, kernel: Kernel, caller: Task, vm_type: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.number = kernel.new_vm(self)
        self.vm_type = vm_type
        self.mm = caller.mm
        self.lock = Mutex(f"kvm->lock of VM {self.number}")
        self.migration_in_progress = Flag(f"migration_in_progress of VM {self.number}")
        self.dead = False
        self.created = 0
        self.vcpus: list[Vcpu] = []
        self.irqchip = False
        self.hypercall_exits = 0  # hypercalls that user space wants to see, one bit each
        self.slots = Slots()
        self.npt = Npt(self._fault)
        self.sev = SevInfo(need_init=kernel.needs_init(vm_type))
        self.mm.notifiers.append(self._invalidate)
        kernel.trace.emit(VmMade, self.number, vm_type, caller.pid)

    def ioctl(self, caller: Task, nr: int, arg: int) -> Any:
        """Serve one ioctl (kvm_vm_ioctl)."""
        if caller.mm is not self.mm or self.dead:
            raise KvmError(EIO)  # kvm->mm != current->mm || kvm->vm_dead
        row = IOCTLS.get(nr)
        if row is None or nr in self.kernel.design.pinning.without:
            raise KvmError(ENOTTY)  # no such ioctl of a VM
        return row.handler(self, caller, arg)

    # ------------------------------------------------------------- memory

    def _fault(self, gfn: int) -> int | None:
        """The frame to map at `gfn`: slot, then the process's page, given at this touch; None where no slot is."""
        slot = self.slots.find(gfn)
        if slot is None:
            return None
        self.kernel.soc.clock.spend("page fault")
        return self.mm.page(slot.hva + ((gfn - slot.gfn) << 12))

    def _invalidate(self, hva: int, size: int) -> None:
        """The process is about to lose pages: the nested table forgets them (kvm_mmu_notifier_invalidate_range_start)."""
        lost = list(self.slots.behind(hva, size))
        for gfn, count in lost:
            self.npt.drop(gfn, count)
        if lost:
            self.memory_reclaimed()

    def memory_reclaimed(self) -> None:
        """Pages leave the guest: no line of its key may be written over what others keep there (sev_guest_memory_reclaimed)."""
        if self.sev.active and self.kernel.design.release.wbinvd_on_reclaim:
            self.kernel.soc.wbinvd()

    # ------------------------------------------------------------- its end

    def release(self) -> None:
        """The last reference is gone: SEV first, then the vCPUs (kvm_destroy_vm)."""
        if self._invalidate in self.mm.notifiers:
            self.mm.notifiers.remove(self._invalidate)
        vm_destroy(self)
        for vcpu in self.vcpus:
            vcpu.destroy()
        self.vcpus.clear()
        self.kernel.vms.pop(self.number)
        self.kernel.trace.emit(VmGone, self.number)

    def __repr__(self) -> str:
        return f"<Vm {self.number}: {len(self.vcpus)} vCPUs, {len(self.slots)} slots, {self.sev!r}{', dead' if self.dead else ''}>"


# ------------------------------------------------------------------- its ioctls


async def create_vcpu(vm: Vm, caller: Task, vcpu_id: int) -> Vcpu:
    """KVM_CREATE_VCPU: counted first, made without the lock, and only then to be seen (kvm_vm_ioctl_create_vcpu)."""
    need(vcpu_id < KVM_MAX_VCPU_IDS, EINVAL)  # id >= KVM_MAX_VCPU_IDS
    async with Lock(vm.lock):
        need(vm.created < KVM_MAX_VCPUS, EINVAL)  # kvm->created_vcpus >= kvm->max_vcpus

        vm.created += 1
    vcpu = None
    try:
        vcpu = Vcpu(vm, vcpu_id)  # ENOMEM
        async with Lock(vm.lock):
            need(all(other.id != vcpu_id for other in vm.vcpus), EEXIST)  # kvm_get_vcpu_by_id()

            vcpu.index = len(vm.vcpus)
            vm.vcpus.append(vcpu)
    except BaseException:
        vm.created -= 1
        if vcpu is not None:
            vcpu.destroy()
            vcpu.put()
        raise
    return vcpu


def set_memory_region(vm: Vm, caller: Task, argp: int) -> int:
    """KVM_SET_USER_MEMORY_REGION: make, move, change or delete a slot. Nothing is pinned by it (kvm_set_memory_region)."""
    region = copy_from_user(caller, argp, kvm_userspace_memory_region)  # EFAULT
    old, new = vm.slots.set(region)  # EINVAL, EEXIST

    if old and (new is None or new.gfn != old.gfn):
        vm.npt.drop(old.gfn, old.pages)
        vm.memory_reclaimed()
    vm.kernel.design.pinning.slot_changed(vm, caller, old, new)
    gpa, size, hva = region.guest_phys_addr, region.memory_size, region.userspace_addr
    vm.kernel.trace.emit(SlotSet, vm.number, region.slot, gpa, size, hva)
    return 0


def check_extension(vm: Vm, caller: Task, cap: int) -> int:
    """KVM_CHECK_EXTENSION on a VM: the same answers as on /dev/kvm, until the VM is dead."""
    return vm.kernel.extension(cap)


def enable_cap(vm: Vm, caller: Task, argp: int) -> Any:
    """KVM_ENABLE_CAP (kvm_vm_ioctl_enable_cap). Which capabilities there are is for the design to say."""
    cap = copy_from_user(caller, argp, kvm_enable_cap)  # EFAULT
    need(not cap.flags, EINVAL)  # cap->flags
    if cap.cap == KVM_CAP_EXIT_HYPERCALL and vm.kernel.extension(cap.cap):
        need(not cap.args[0] & ~vm.kernel.extension(cap.cap), EINVAL)  # args[0] & ~KVM_EXIT_HYPERCALL_VALID_MASK
        vm.hypercall_exits = cap.args[0]
        return 0
    answer = vm.kernel.capabilities.get(cap.cap)
    if answer is None:
        raise KvmError(EINVAL)  # default: of the switch
    return answer.enable(vm, caller, cap.args[0] & 0xFFFFFFFF)


async def reg_region(vm: Vm, caller: Task, argp: int) -> int:
    """KVM_MEMORY_ENCRYPT_REG_REGION: this memory may hold ciphertext, so it must not move (sev_mem_enc_register_region).

    Slots are not asked, nor other regions: the same range twice is pinned twice.
    """
    region = copy_from_user(caller, argp, kvm_enc_region)  # EFAULT
    async with Lock(vm.lock):
        need(vm.sev.active, ENOTTY)  # !sev_guest(kvm)
        need(vm.sev.owner is None, EINVAL)  # is_mirroring_enc_context(kvm)
        pin = pin_memory(vm, caller, region.addr, region.size, write=False)  # EINVAL, ENOMEM

        flush(vm.kernel, pin)
        vm.sev.regions.append(Region(region.addr, region.size, pin))
        vm.kernel.trace.emit(RegionSet, vm.number, region.addr, region.size, 1)
    return 0


async def unreg_region(vm: Vm, caller: Task, argp: int) -> int:
    """KVM_MEMORY_ENCRYPT_UNREG_REGION: the first region of exactly this address and size (sev_mem_enc_unregister_region)."""
    key = copy_from_user(caller, argp, kvm_enc_region)  # EFAULT
    need(vm.sev.owner is None, EINVAL)  # is_mirroring_enc_context(kvm), before the lock
    async with Lock(vm.lock):
        need(vm.sev.active, ENOTTY)  # !sev_guest(kvm)
        found = next((region for region in vm.sev.regions if (region.addr, region.size) == (key.addr, key.size)), None)
        if found is None:
            raise KvmError(EINVAL)  # !find_enc_region(kvm, range)

        vm.kernel.soc.wbinvd()  # CLFLUSH by the host does not reach lines of the guest's key
        found.pin.release()
        vm.sev.regions.remove(found)
        vm.kernel.trace.emit(RegionSet, vm.number, key.addr, key.size, 0)
    return 0


IOCTLS: dict[int, Row] = {
    # ioctl                            handler              argument                     what it leaves out
    KVM_CREATE_VCPU:                 Row(create_vcpu),
    KVM_SET_USER_MEMORY_REGION:      Row(set_memory_region, kvm_userspace_memory_region, "dirty log; SMM's address space"),
    KVM_CREATE_IRQCHIP:              Row(create_irqchip,    None,                        "PIC, IOAPIC, interrupt routing"),
    KVM_CHECK_EXTENSION:             Row(check_extension),
    KVM_ENABLE_CAP:                  Row(enable_cap,        kvm_enable_cap,              "all but hypercall exits and SEV"),
    KVM_MEMORY_ENCRYPT_OP:           Row(memory_encrypt_op, kvm_sev_cmd),
    KVM_MEMORY_ENCRYPT_REG_REGION:   Row(reg_region,        kvm_enc_region),
    KVM_MEMORY_ENCRYPT_UNREG_REGION: Row(unreg_region,      kvm_enc_region),
}  # fmt: skip
