"""/dev/kvm: what this kernel can do, and new VMs.

Source: kvm.md A2, A9, A10 (kvm_dev_ioctl, kvm_arch_dev_ioctl).
"""

from __future__ import annotations

from collections.abc import Callable
from errno import E2BIG, EINVAL, ENXIO
from typing import TYPE_CHECKING, Any

from sevlab.abi.kvm import (
    KVM_API_VERSION,
    KVM_CAP_CHECK_EXTENSION_VM,
    KVM_CAP_ENABLE_CAP_VM,
    KVM_CAP_EXIT_HYPERCALL,
    KVM_CAP_EXT_CPUID,
    KVM_CAP_HLT,
    KVM_CAP_IMMEDIATE_EXIT,
    KVM_CAP_IRQCHIP,
    KVM_CAP_MAX_VCPU_ID,
    KVM_CAP_MAX_VCPUS,
    KVM_CAP_MP_STATE,
    KVM_CAP_NR_MEMSLOTS,
    KVM_CAP_NR_VCPUS,
    KVM_CAP_READONLY_MEM,
    KVM_CAP_SYS_ATTRIBUTES,
    KVM_CAP_SYSTEM_EVENT_DATA,
    KVM_CAP_USER_MEMORY,
    KVM_CAP_VM_TYPES,
    KVM_CHECK_EXTENSION,
    KVM_CREATE_VM,
    KVM_GET_API_VERSION,
    KVM_GET_DEVICE_ATTR,
    KVM_GET_SUPPORTED_CPUID,
    KVM_GET_VCPU_MMAP_SIZE,
    KVM_HAS_DEVICE_ATTR,
    KVM_HC_MAP_GPA_RANGE,
    KVM_MAX_VCPUS,
    KVM_USER_MEM_SLOTS,
    KVM_VCPU_MMAP_SIZE,
    KVM_X86_GRP_SEV,
    KVM_X86_SEV_VMSA_FEATURES,
    kvm_cpuid2,
    kvm_cpuid_entry2,
    kvm_device_attr,
)
from sevlab.hw.chips import COHERENT, SEV, SEV_ES, SME
from sevlab.kvm import Row, copy_from_user
from sevlab.kvm.fd import File, KvmError, need
from sevlab.kvm.lapic import CPUID_X2APIC
from sevlab.kvm.vm import KVM_MAX_VCPU_IDS, Vm

if TYPE_CHECKING:
    from sevlab.kvm.kernel import Kernel
    from sevlab.kvm.task import Task

KVM_MAX_CPUID_ENTRIES = 256
XCOMP_GUEST_SUPP = (0, 0)  # device attribute: the xcr0 bits that a guest may have
XCR0 = 7  # x87, SSE, AVX

# What KVM_CHECK_EXTENSION answers. A capability without a row is 0: this kernel does not have it.
EXTENSIONS: dict[int, int | Callable[[Kernel], int]] = {
    KVM_CAP_IRQCHIP: 1,
    KVM_CAP_HLT: 1,
    KVM_CAP_USER_MEMORY: 1,
    KVM_CAP_EXT_CPUID: 1,
    KVM_CAP_NR_VCPUS: KVM_MAX_VCPUS,
    KVM_CAP_NR_MEMSLOTS: KVM_USER_MEM_SLOTS,
    KVM_CAP_MP_STATE: 1,
    KVM_CAP_MAX_VCPUS: KVM_MAX_VCPUS,
    KVM_CAP_READONLY_MEM: 1,
    KVM_CAP_ENABLE_CAP_VM: 1,
    KVM_CAP_CHECK_EXTENSION_VM: 1,
    KVM_CAP_MAX_VCPU_ID: KVM_MAX_VCPU_IDS,
    KVM_CAP_IMMEDIATE_EXIT: 1,
    KVM_CAP_EXIT_HYPERCALL: lambda kernel: kernel.design.release.exit_hypercall << KVM_HC_MAP_GPA_RANGE,
    KVM_CAP_SYS_ATTRIBUTES: lambda kernel: int(kernel.design.release.sys_attributes),
    KVM_CAP_SYSTEM_EVENT_DATA: lambda kernel: int(kernel.design.release.system_event_data),
    KVM_CAP_VM_TYPES: lambda kernel: kernel.design.init.vm_types(kernel.soc.chip) if kernel.design.init.has_vm_types else 0,
}


def extension(kernel: Kernel, cap: int) -> int:
    """The answer of KVM_CHECK_EXTENSION, but for the capabilities that are a seam's."""
    answer = EXTENSIONS.get(cap, 0)
    return answer if isinstance(answer, int) else answer(kernel)


def supported_cpuid(kernel: Kernel) -> list[kvm_cpuid_entry2]:
    """The CPUID leaves that a VMM may offer its guest: identity, x2APIC, and what is said of memory encryption.

    Of leaf 8000_001F the kernel passes on the features that it virtualises, the
    C-bit's position (without the lost address bits) and the two counts of slots;
    all of it is zero where SEV is off. Source: kvm.md I.
    """
    chip = kernel.soc.chip
    eax, ebx, ecx, edx = chip.cpuid_8000001f()
    mask = SME | COHERENT | (SEV if kernel.asids.slots(False) else 0) | (SEV_ES if kernel.sev_es_enabled else 0)
    sev = (eax & mask, ebx & 0x3F, ecx, edx) if kernel.sev_enabled else (0, 0, 0, 0)
    auth, camd, enti = (int.from_bytes(b"AuthcAMDenti"[at : at + 4], "little") for at in (0, 4, 8))
    leaves = {
        0: (1, auth, camd, enti),
        1: (chip.signature, 0, CPUID_X2APIC, 0),
        0x80000000: (0x8000001F, auth, camd, enti),
        0x8000001F: sev,
    }
    return [kvm_cpuid_entry2(leaf, eax=a, ebx=b, ecx=c, edx=d) for leaf, (a, b, c, d) in leaves.items()]


def device_attributes(kernel: Kernel) -> dict[tuple[int, int], int]:
    """The attributes of /dev/kvm itself: (group, attribute) to its value."""
    known = {XCOMP_GUEST_SUPP: XCR0}
    if kernel.design.init.has_vm_types:
        known[KVM_X86_GRP_SEV, KVM_X86_SEV_VMSA_FEATURES] = kernel.vmsa_features
    return known


# ------------------------------------------------------------------- its ioctls


def get_api_version(system: System, caller: Task, arg: int) -> int:
    """KVM_GET_API_VERSION: 12, since 2007."""
    need(not arg, EINVAL)  # arg
    return KVM_API_VERSION


def create_vm(system: System, caller: Task, vm_type: int) -> Vm:
    """KVM_CREATE_VM: the argument is the machine type (kvm_arch_init_vm)."""
    kernel = system.kernel
    types = kernel.design.init.vm_types(kernel.soc.chip)
    need(0 <= vm_type < 64 and types >> vm_type & 1, EINVAL)  # !kvm_is_vm_type_supported(type)
    return Vm(kernel, caller, vm_type)


def check_extension(system: System, caller: Task, cap: int) -> int:
    """KVM_CHECK_EXTENSION."""
    return system.kernel.extension(cap)


def get_vcpu_mmap_size(system: System, caller: Task, arg: int) -> int:
    """KVM_GET_VCPU_MMAP_SIZE: kvm_run, the port I/O page, the coalesced page."""
    need(not arg, EINVAL)  # arg
    return KVM_VCPU_MMAP_SIZE


def get_supported_cpuid(system: System, caller: Task, argp: int) -> int:
    """KVM_GET_SUPPORTED_CPUID: `nent` says how much room there is, and afterwards how much was needed."""
    head = copy_from_user(caller, argp, kvm_cpuid2)  # EFAULT
    entries = supported_cpuid(system.kernel)
    need(len(entries) <= min(head.nent, KVM_MAX_CPUID_ENTRIES), E2BIG)  # cpuid->nent is too small

    caller.write(argp + kvm_cpuid2.SIZE, b"".join(entry.pack() for entry in entries))  # EFAULT
    caller.write(argp, kvm_cpuid2(len(entries)).pack())  # EFAULT
    return 0


def has_device_attr(system: System, caller: Task, argp: int) -> int:
    """KVM_HAS_DEVICE_ATTR: 0 for an attribute that is there (kvm_x86_dev_has_attr)."""
    _attribute(system, caller, argp)
    return 0


def get_device_attr(system: System, caller: Task, argp: int) -> int:
    """KVM_GET_DEVICE_ATTR: a u64 to `addr` (kvm_x86_dev_get_attr)."""
    attr, value = _attribute(system, caller, argp)

    caller.write(attr.addr, value.to_bytes(8, "little"))  # EFAULT
    return 0


def _attribute(system: System, caller: Task, argp: int) -> tuple[kvm_device_attr, int]:
    need(system.kernel.design.release.sys_attributes, EINVAL)  # before 5.17 /dev/kvm had no such ioctl
    attr = copy_from_user(caller, argp, kvm_device_attr)  # EFAULT
    value = device_attributes(system.kernel).get((attr.group, attr.attr))
    if attr.flags or value is None:
        raise KvmError(ENXIO)  # attr->flags, or no such group or attribute
    return attr, value


IOCTLS: dict[int, Row] = {
    # ioctl                   handler              argument          what it leaves out
    KVM_GET_API_VERSION:     Row(get_api_version),
    KVM_CREATE_VM:           Row(create_vm),
    KVM_CHECK_EXTENSION:     Row(check_extension),
    KVM_GET_VCPU_MMAP_SIZE:  Row(get_vcpu_mmap_size),
    KVM_GET_SUPPORTED_CPUID: Row(get_supported_cpuid, kvm_cpuid2,       "four leaves: identity and memory encryption"),
    KVM_HAS_DEVICE_ATTR:     Row(has_device_attr,     kvm_device_attr),
    KVM_GET_DEVICE_ATTR:     Row(get_device_attr,     kvm_device_attr),
}  # fmt: skip


class System(File):
    """/dev/kvm."""

    name = "/dev/kvm"

    def __init__(self, kernel: Kernel) -> None:
        super().__init__()
        self.kernel = kernel

    def ioctl(self, caller: Task, nr: int, arg: int) -> Any:
        """Serve one ioctl (kvm_dev_ioctl)."""
        row = IOCTLS.get(nr)
        if row is None:
            raise KvmError(EINVAL)  # no such ioctl of /dev/kvm
        return row.handler(self, caller, arg)
