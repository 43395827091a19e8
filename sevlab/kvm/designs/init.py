"""The seam `init`: how an ordinary VM becomes an encrypted one.

`Init` is KVM_SEV_INIT (4.16) and KVM_SEV_ES_INIT (5.11): every VM is born
ordinary and turned into an SEV guest by a command. `Init2` is what came of it in
6.10 (Paolo Bonzini, "KVM: SEV: allow customizing VMSA features", v5 of 4 April
2024, https://lore.kernel.org/kvm/20240404121327.3107131-1-pbonzini@redhat.com):
a VM is *created* with an SEV type, KVM_SEV_INIT2 carries the features that become
part of the measurement, the floating-point state is measured, and registers that
the kernel may not see are refused instead of invented. The old commands stay, for
the default type alone and bit for bit as they were, so that a guest owner's
expected measurement holds. Source: kvm.md A9, B1, B2, G8.
"""

from __future__ import annotations

from typing import Protocol

from sevlab.abi.kvm import (
    KVM_SEV_ES_INIT,
    KVM_SEV_INIT,
    KVM_SEV_INIT2,
    KVM_X86_DEFAULT_VM,
    KVM_X86_SEV_ES_VM,
    KVM_X86_SEV_VM,
    kvm_sev_init,
)
from sevlab.hw.chips import Chip
from sevlab.kvm import Row
from sevlab.kvm.sev_init import guest_init, guest_init2, guest_init_default


class InitSeam(Protocol):
    """What the kernel asks of this seam."""

    commands: dict[int, Row]  # sub-commands of KVM_MEMORY_ENCRYPT_OP that this kernel has for it
    has_vm_types: bool  # KVM_CAP_VM_TYPES, and device attributes of the SEV group

    def vm_types(self, chip: Chip) -> int:
        """The types that KVM_CREATE_VM takes, one bit each."""

    def protects_state(self, vm_type: int) -> bool:
        """Whether ioctls on the registers of an encrypted vCPU of such a VM are refused with EINVAL (has_protected_state)."""


class Init:
    """KVM_SEV_INIT and KVM_SEV_ES_INIT."""

    commands = {
        KVM_SEV_INIT: Row(guest_init),
        KVM_SEV_ES_INIT: Row(guest_init),
    }
    has_vm_types = False

    def vm_types(self, chip: Chip) -> int:
        return 1 << KVM_X86_DEFAULT_VM

    def protects_state(self, vm_type: int) -> bool:
        return False

    def __repr__(self) -> str:
        return "Init()"


class Init2:
    """VM types and KVM_SEV_INIT2; the two old commands for the default type."""

    commands = {
        KVM_SEV_INIT: Row(guest_init_default),
        KVM_SEV_ES_INIT: Row(guest_init_default),
        KVM_SEV_INIT2: Row(guest_init2, kvm_sev_init, "no SEV-SNP"),
    }
    has_vm_types = True

    def vm_types(self, chip: Chip) -> int:
        sev = 1 << KVM_X86_SEV_VM if chip.min_asid <= chip.max_asid else 0
        es = 1 << KVM_X86_SEV_ES_VM if chip.min_asid > 1 else 0
        return 1 << KVM_X86_DEFAULT_VM | sev | es

    def protects_state(self, vm_type: int) -> bool:
        return vm_type == KVM_X86_SEV_ES_VM

    def __repr__(self) -> str:
        return "Init2()"


INIT, INIT2 = Init(), Init2()
