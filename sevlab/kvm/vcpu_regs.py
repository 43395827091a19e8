"""A vCPU's registers, between user space and the save area: reset, get, set, and the page that is measured.

Source: kvm.md A3, B5, G8; firmware.md 5.1, 5.2 (svm_vcpu_reset, init_vmcb,
sev_es_sync_vmsa; kvm_arch_vcpu_ioctl_get_regs and its siblings).

RIP is the address of the page that a program was fetched from, and RSP names a
moment of it: registers that are put back continue the guest from there.
"""

from __future__ import annotations

from errno import EINVAL
from functools import cache
from typing import TYPE_CHECKING, Any

from sevlab.abi.kvm import kvm_dtable, kvm_regs, kvm_segment, kvm_sregs
from sevlab.abi.kvm_vcpu import KVM_SREGS2_FLAGS_PDPTRS_VALID, kvm_sregs2
from sevlab.abi.vmsa import Segment, Vmsa
from sevlab.hw import xstate
from sevlab.hw.thread import moments
from sevlab.kvm import copy_from_user, copy_to_user
from sevlab.kvm.fd import need

if TYPE_CHECKING:
    from sevlab.kvm.vcpu import Vcpu

SEGMENTS = {"cs": "cs", "ds": "ds", "es": "es", "fs": "fs", "gs": "gs", "ss": "ss", "tr": "tr", "ldt": "ldtr"}

EFER_LME, EFER_LMA, EFER_SVME = 1 << 8, 1 << 10, 1 << 12
CR0_PE, CR0_ET, CR0_NW, CR0_CD, CR0_PG = 1 << 0, 1 << 4, 1 << 29, 1 << 30, 1 << 31
CR4_PAE, CR4_MCE = 1 << 5, 1 << 6
CR0_RESERVED = ~0xE005003F & (1 << 64) - 1
CR4_RESERVED = ~0x037777FF & (1 << 64) - 1
APIC_BASE, APIC_ENABLE, APIC_BSP = 0xFEE0_0000, 1 << 11, 1 << 8
RDX_AT_RESET = 0x600  # where CPUID leaf 1 is not known
RFLAGS_FIXED = 2


def reset_state() -> Vmsa:
    """The save area of a vCPU out of reset, as KVM leaves it: CS:IP at the last paragraph below 4 GiB."""
    save, (numbers, segments) = Vmsa.__new__(Vmsa), _reset_values()
    for name, value in numbers:
        setattr(save, name, value)
    for name, value in segments:
        setattr(save, name, Segment.unpack(value))
    return save


@cache
def _reset_values() -> tuple[list[tuple[str, Any]], list[tuple[str, bytes]]]:
    """Its fields, made once: numbers and bytes as they are, segments packed."""
    save = Vmsa(efer=EFER_SVME, cr0=CR0_ET, cr4=CR4_MCE, dr6=0xFFFF0FF0, dr7=0x400, g_pat=0x0007_0406_0007_0406, xcr0=1)
    for name in ("es", "ss", "ds", "fs", "gs"):
        setattr(save, name, Segment(attrib=0x92, limit=0xFFFF))
    save.cs = Segment(0xF000, 0x9A, 0xFFFF, 0xFFFF_0000)
    save.gdtr, save.idtr = Segment(limit=0xFFFF), Segment(limit=0xFFFF)
    save.ldtr, save.tr = Segment(attrib=0x82, limit=0xFFFF), Segment(attrib=0x83, limit=0xFFFF)
    fields = [(name, getattr(save, name)) for name in Vmsa.NAMES]
    plain = [(name, value) for name, value in fields if not isinstance(value, Segment)]
    return plain, [(name, value.pack()) for name, value in fields if isinstance(value, Segment)]


def reset(vcpu: Vcpu) -> None:
    """INIT: registers as out of reset, whatever ran before is forgotten (kvm_vcpu_reset). A sealed save area is not touched."""
    vmcb = vcpu.vmcb
    vmcb.save = reset_state()
    vmcb.regs = kvm_regs(rip=0xFFF0, rflags=RFLAGS_FIXED)
    leaf = vcpu.leaves.get(1)
    vmcb.regs.rdx = leaf[0] if leaf else RDX_AT_RESET
    vcpu.cr0 = CR0_NW | CR0_CD | CR0_ET
    vcpu.cr4 = vcpu.efer = 0
    if not vcpu.guest_state_protected:  # a sealed guest goes on behind its VMGEXIT, whose answer is still due
        vcpu.complete = None
        vmcb.thread, vmcb.exit_code, vmcb.skip, vmcb.event = None, 0, False, None


def vmsa_page(vcpu: Vcpu) -> bytes:
    """What LAUNCH_UPDATE_VMSA hands to the firmware: 4,096 bytes (sev_es_sync_vmsa).

    The VMCB's save area, the general registers, RIP, XCR0, PKRU, XSS, DR6; for a VM that
    was created with a type also the features and the floating-point state.
    """
    vmsa = Vmsa.unpack(vcpu.vmcb.save.pack())
    for name in kvm_regs.CODECS:
        setattr(vmsa, name, getattr(vcpu.vmcb.regs, name))
    vmsa.xcr0 = vcpu.xcr0
    vmsa.sev_features = vcpu.vm.sev.vmsa_features
    page = bytearray(vmsa.pack())
    if vcpu.vm.kernel.design.init.protects_state(vcpu.vm.vm_type):
        xstate.into_area(page, vcpu.xsave)
    return bytes(page)


def shown(vcpu: Vcpu) -> None:
    """Registers of a sealed vCPU: refused where the VM has a type for it, answered with nothing true elsewhere (G8)."""
    protected = vcpu.vm.kernel.design.init.protects_state(vcpu.vm.vm_type)
    need(not (protected and vcpu.guest_state_protected), EINVAL)  # has_protected_state && guest_state_protected


# ------------------------------------------------------- general registers


def get_regs(vcpu: Vcpu, caller: Any, arg: int) -> int:
    """KVM_GET_REGS. A running guest's RSP then names this moment of it."""
    shown(vcpu)
    vmcb = vcpu.vmcb
    if vmcb.thread is not None and not vmcb.es and vcpu.moment is None:
        vcpu.moment = vmcb.regs.rsp = moments(vcpu.vm.kernel.soc.trace).mint(vmcb.thread, vmcb.skip)
    copy_to_user(caller, arg, vmcb.regs)  # EFAULT
    return 0


def set_regs(vcpu: Vcpu, caller: Any, arg: int) -> int:
    """KVM_SET_REGS. A known RSP continues the guest it names from there; any other starts what RIP points at."""
    shown(vcpu)
    regs = copy_from_user(caller, arg, kvm_regs)  # EFAULT

    vmcb = vcpu.vmcb
    same = regs.rip == vmcb.regs.rip and regs.rsp == vcpu.moment  # this very moment: nothing has run since it was read
    regs.rflags |= RFLAGS_FIXED
    vmcb.regs = regs
    if not same and not vcpu.guest_state_protected:
        _continue(vcpu)
    return 0


def _continue(vcpu: Vcpu) -> None:
    """What runs is what the registers say: the moment in RSP, or a program from its top."""
    vmcb = vcpu.vmcb
    moment = moments(vcpu.vm.kernel.soc.trace).find(vmcb.regs.rsp)
    vmcb.thread = moment.thread() if moment else None
    vmcb.skip, vmcb.event, vmcb.exit_code = bool(moment and moment.skip), None, 0
    vmcb.code, vmcb.seen = vmcb.save.cs.base + vmcb.regs.rip, ()
    vcpu.moment = vmcb.regs.rsp if moment else None
    vcpu.complete = None


# ------------------------------------------------------- system registers


def _segment(segment: Segment) -> kvm_segment:
    a = segment.attrib
    return kvm_segment(
        base=segment.base, limit=segment.limit, selector=segment.selector, type=a & 15, present=a >> 7 & 1, dpl=a >> 5 & 3,
        db=a >> 10 & 1, s=a >> 4 & 1, l=a >> 9 & 1, g=a >> 11 & 1, avl=a >> 8 & 1, unusable=int(not a >> 7 & 1),
    )  # fmt: skip


def _attrib(user: kvm_segment) -> int:
    """The attributes as a VMCB keeps them (svm_set_segment)."""
    return (
        user.type & 15 | (user.s & 1) << 4 | (user.dpl & 3) << 5 | (user.present & 1 and not user.unusable) << 7
        | (user.avl & 1) << 8 | (user.l & 1) << 9 | (user.db & 1) << 10 | (user.g & 1) << 11
    )  # fmt: skip


def get_sregs(vcpu: Vcpu, caller: Any, arg: int) -> int:
    """KVM_GET_SREGS. Of a sealed vCPU only control registers and the APIC base mean anything."""
    shown(vcpu)
    copy_to_user(caller, arg, _sregs(vcpu, kvm_sregs()))  # EFAULT
    return 0


def get_sregs2(vcpu: Vcpu, caller: Any, arg: int) -> int:
    """KVM_GET_SREGS2: the same with PDPTRs, which no guest here has."""
    shown(vcpu)
    copy_to_user(caller, arg, _sregs(vcpu, kvm_sregs2()))  # EFAULT
    return 0


def _sregs(vcpu: Vcpu, sregs: Any) -> Any:
    save = vcpu.vmcb.save
    if not vcpu.guest_state_protected:
        for user, own in SEGMENTS.items():
            setattr(sregs, user, _segment(getattr(save, own)))
        sregs.gdt = kvm_dtable(save.gdtr.base, save.gdtr.limit & 0xFFFF)
        sregs.idt = kvm_dtable(save.idtr.base, save.idtr.limit & 0xFFFF)
        sregs.cr2, sregs.cr3 = save.cr2, save.cr3
    sregs.cr0, sregs.cr4, sregs.efer, sregs.apic_base = vcpu.cr0, vcpu.cr4, vcpu.efer, vcpu.apic_base
    return sregs


def set_sregs(vcpu: Vcpu, caller: Any, arg: int) -> int:
    """KVM_SET_SREGS. Of a sealed vCPU it sets the APIC base and nothing else."""
    shown(vcpu)
    return _set_sregs(vcpu, copy_from_user(caller, arg, kvm_sregs))  # EFAULT, EINVAL


def set_sregs2(vcpu: Vcpu, caller: Any, arg: int) -> int:
    """KVM_SET_SREGS2. PDPTRs are an ordinary guest's alone."""
    shown(vcpu)
    sregs = copy_from_user(caller, arg, kvm_sregs2)  # EFAULT
    need(not sregs.flags & ~KVM_SREGS2_FLAGS_PDPTRS_VALID, EINVAL)  # sregs2->flags & ~KVM_SREGS2_FLAGS_PDPTRS_VALID
    pdptrs = bool(sregs.flags & KVM_SREGS2_FLAGS_PDPTRS_VALID)
    pae = sregs.cr0 & CR0_PG and sregs.cr4 & CR4_PAE and not sregs.efer & EFER_LMA
    need(not (pdptrs and (not pae or vcpu.guest_state_protected)), EINVAL)  # valid_pdptrs && (!pae || guest_state_protected)
    return _set_sregs(vcpu, sregs)  # EINVAL


def _set_sregs(vcpu: Vcpu, sregs: Any) -> int:
    need(_valid(sregs), EINVAL)  # !kvm_is_valid_sregs()

    vcpu.apic_base = sregs.apic_base
    if vcpu.guest_state_protected:
        return 0
    save, start = vcpu.vmcb.save, vcpu.vmcb.save.cs.base
    for user, own in SEGMENTS.items():
        given = getattr(sregs, user)
        setattr(save, own, Segment(given.selector, _attrib(given), given.limit, given.base))
    save.gdtr, save.idtr = Segment(limit=sregs.gdt.limit, base=sregs.gdt.base), Segment(limit=sregs.idt.limit, base=sregs.idt.base)
    save.cr2, save.cr3 = sregs.cr2, sregs.cr3
    vcpu.cr0, vcpu.cr4, vcpu.efer = sregs.cr0, sregs.cr4, sregs.efer
    # What the processor gets: caches on whatever the guest says, machine checks as the host has them, SVM enabled.
    save.cr0, save.cr4, save.efer = sregs.cr0 & ~(CR0_CD | CR0_NW), sregs.cr4 | CR4_MCE, sregs.efer | EFER_SVME
    if save.cs.base != start:
        _continue(vcpu)
    return 0


def _valid(sregs: Any) -> bool:
    """kvm_is_valid_sregs: modes that contradict each other, bits that do not exist."""
    paged = sregs.efer & EFER_LME and sregs.cr0 & CR0_PG
    if paged and not (sregs.cr4 & CR4_PAE and sregs.efer & EFER_LMA):
        return False
    if not paged and (sregs.efer & EFER_LMA or sregs.cs.l):
        return False
    if (sregs.cr0 & CR0_NW and not sregs.cr0 & CR0_CD) or (sregs.cr0 & CR0_PG and not sregs.cr0 & CR0_PE):
        return False
    return not (sregs.cr0 & CR0_RESERVED or sregs.cr4 & CR4_RESERVED)
