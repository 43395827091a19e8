"""A vCPU's state beyond its registers, between user space and KVM: floating point, XSAVE, XCR0, debug registers, MSRs, events.

Of an SEV-ES vCPU the floating-point state is confidential and is not transferred;
where the VM has a type for it, every one of these is refused once the state is
sealed. Source: kvm.md A3, B5, G8 (kvm_arch_vcpu_ioctl and what it calls).
"""

from __future__ import annotations

import struct
from errno import E2BIG, EINVAL
from typing import TYPE_CHECKING, Any

from sevlab.abi.kvm import kvm_debugregs, kvm_fpu
from sevlab.abi.kvm_vcpu import kvm_msr_entry, kvm_msrs, kvm_vcpu_events, kvm_xcr, kvm_xcrs, kvm_xsave
from sevlab.hw import xstate
from sevlab.kvm import copy_from_user, copy_to_user
from sevlab.kvm.fd import need
from sevlab.kvm.vcpu_regs import shown

if TYPE_CHECKING:
    from sevlab.kvm.vcpu import Vcpu

MAX_IO_MSRS = 256
XCR0 = 0
MXCSR_AT = 24


def confidential(vcpu: Vcpu) -> bool:
    """From the creation of an SEV-ES vCPU on (6.1); with VM types only once it is sealed (fpstate_is_confidential)."""
    return bool(vcpu.vm.sev.es and (vcpu.guest_state_protected or not vcpu.vm.kernel.design.init.has_vm_types))


# ------------------------------------------------------- floating point


def get_fpu(vcpu: Vcpu, caller: Any, arg: int) -> int:
    """KVM_GET_FPU. Of an SEV-ES vCPU nothing is transferred."""
    shown(vcpu)
    fpu, image = kvm_fpu(), vcpu.xsave
    if not confidential(vcpu):
        fpu.fcw, fpu.fsw, fpu.ftwx, _, fpu.last_opcode, fpu.last_ip, fpu.last_dp = struct.unpack_from("<2H2BH2Q", image)
        fpu.mxcsr = int.from_bytes(image[MXCSR_AT : MXCSR_AT + 4], "little")
        fpu.fpr, fpu.xmm = bytes(image[32:160]), bytes(image[160:416])
    copy_to_user(caller, arg, fpu)  # EFAULT
    return 0


def set_fpu(vcpu: Vcpu, caller: Any, arg: int) -> int:
    """KVM_SET_FPU."""
    shown(vcpu)
    fpu = copy_from_user(caller, arg, kvm_fpu)  # EFAULT

    if not confidential(vcpu):
        image = vcpu.xsave
        struct.pack_into("<2H2BH2Q", image, 0, fpu.fcw, fpu.fsw, fpu.ftwx, 0, fpu.last_opcode, fpu.last_ip, fpu.last_dp)
        image[MXCSR_AT : MXCSR_AT + 4] = fpu.mxcsr.to_bytes(4, "little")
        image[32:160], image[160:416] = fpu.fpr, fpu.xmm
    return 0


def get_xsave(vcpu: Vcpu, caller: Any, arg: int) -> int:
    """KVM_GET_XSAVE: the image as XSAVE writes it; of an SEV-ES vCPU the caller's buffer stays as it is."""
    shown(vcpu)
    if not confidential(vcpu):
        copy_to_user(caller, arg, kvm_xsave(xstate.finish(vcpu.xsave)))  # EFAULT
    return 0


def set_xsave(vcpu: Vcpu, caller: Any, arg: int) -> int:
    """KVM_SET_XSAVE: components that the header does not name are initialised (kvm_vcpu_ioctl_x86_set_xsave)."""
    shown(vcpu)
    image = copy_from_user(caller, arg, kvm_xsave).region  # EFAULT
    if confidential(vcpu):
        return 0
    features, compact = struct.unpack_from("<2Q", image, xstate.HEADER)
    need(not features & ~xstate.SUPPORTED and not compact, EINVAL)  # xstate_bv & ~supported, or compacted
    mxcsr = int.from_bytes(image[MXCSR_AT : MXCSR_AT + 4], "little")
    need(not features & 6 or not mxcsr & ~xstate.MXCSR_MASK, EINVAL)  # reserved bits of MXCSR

    fresh = xstate.initial()
    parts = {1: ((0, 24), (32, 160)), 2: ((24, 28), (160, 416)), 4: ((24, 28), (576, 832))}
    for bit, ranges in parts.items():
        for start, end in ranges:
            if features & bit:
                fresh[start:end] = image[start:end]
    vcpu.xsave[:] = fresh
    return 0


# ------------------------------------------------------- extended control registers


def get_xcrs(vcpu: Vcpu, caller: Any, arg: int) -> int:
    """KVM_GET_XCRS: there is one, XCR0."""
    shown(vcpu)
    copy_to_user(caller, arg, kvm_xcrs(1, 0, kvm_xcr(XCR0, 0, vcpu.xcr0).pack().ljust(256, b"\0")))  # EFAULT
    return 0


def set_xcrs(vcpu: Vcpu, caller: Any, arg: int) -> int:
    """KVM_SET_XCRS (__kvm_set_xcr)."""
    shown(vcpu)
    xcrs = copy_from_user(caller, arg, kvm_xcrs)  # EFAULT
    need(xcrs.nr_xcrs <= 16 and not xcrs.flags, EINVAL)  # guest_xcrs->nr_xcrs > KVM_MAX_XCRS || guest_xcrs->flags
    entries = [kvm_xcr.unpack(xcrs.xcrs, at * kvm_xcr.SIZE) for at in range(xcrs.nr_xcrs)]
    value = next((entry.value for entry in entries if entry.xcr == XCR0), vcpu.xcr0)
    need(value & 1 and not value & ~xstate.SUPPORTED and value & 6 != 4, EINVAL)  # no x87, unknown bits, or AVX without SSE

    vcpu.xcr0 = value
    return 0


# ------------------------------------------------------- debug registers


def get_debugregs(vcpu: Vcpu, caller: Any, arg: int) -> int:
    """KVM_GET_DEBUGREGS."""
    shown(vcpu)
    save = vcpu.vmcb.save
    copy_to_user(caller, arg, kvm_debugregs(db=(save.dr0, save.dr1, save.dr2, save.dr3), dr6=save.dr6, dr7=save.dr7))  # EFAULT
    return 0


def set_debugregs(vcpu: Vcpu, caller: Any, arg: int) -> int:
    """KVM_SET_DEBUGREGS."""
    shown(vcpu)
    given = copy_from_user(caller, arg, kvm_debugregs)  # EFAULT
    need(not given.flags, EINVAL)  # dbgregs->flags
    need(not given.dr6 >> 32, EINVAL)  # !kvm_dr6_valid(dbgregs->dr6)
    need(not given.dr7 >> 32, EINVAL)  # !kvm_dr7_valid(dbgregs->dr7)

    save = vcpu.vmcb.save
    save.dr0, save.dr1, save.dr2, save.dr3 = given.db
    save.dr6, save.dr7 = given.dr6 | 0xFFFF0FF0, given.dr7 | 0x400
    return 0


# ------------------------------------------------------- model-specific registers


def get_msrs(vcpu: Vcpu, caller: Any, arg: int) -> int:
    """KVM_GET_MSRS: how many were read, up to the first that is not there."""
    return _msrs(vcpu, caller, arg, write=False)


def set_msrs(vcpu: Vcpu, caller: Any, arg: int) -> int:
    """KVM_SET_MSRS: how many were set, up to the first that may not be."""
    return _msrs(vcpu, caller, arg, write=True)


def _msrs(vcpu: Vcpu, caller: Any, arg: int, *, write: bool) -> int:
    head = copy_from_user(caller, arg, kvm_msrs)  # EFAULT
    shown(vcpu)
    need(head.nmsrs < MAX_IO_MSRS, E2BIG)  # msrs.nmsrs >= MAX_IO_MSRS
    done = 0
    for at in range(arg + kvm_msrs.SIZE, arg + kvm_msrs.SIZE + head.nmsrs * kvm_msr_entry.SIZE, kvm_msr_entry.SIZE):
        entry = copy_from_user(caller, at, kvm_msr_entry)  # EFAULT
        try:
            if write:
                vcpu.write_msr(entry.index, entry.data)
            else:
                entry.data = vcpu.read_msr(entry.index)
        except KeyError:
            break
        if not write:
            copy_to_user(caller, at, entry)  # EFAULT
        done += 1
    return done


# ------------------------------------------------------- events


NMI_PENDING, SIPI_VECTOR, SHADOW, SMM, PAYLOAD = 1, 2, 4, 8, 16  # kvm_vcpu_events.flags


def get_vcpu_events(vcpu: Vcpu, caller: Any, arg: int) -> int:
    """KVM_GET_VCPU_EVENTS: nothing is ever half delivered here but an NMI that waits."""
    events = kvm_vcpu_events(flags=NMI_PENDING | SHADOW | SMM, nmi_pending=int(vcpu.nmi_pending))
    copy_to_user(caller, arg, events)  # EFAULT
    return 0


def set_vcpu_events(vcpu: Vcpu, caller: Any, arg: int) -> int:
    """KVM_SET_VCPU_EVENTS."""
    events = copy_from_user(caller, arg, kvm_vcpu_events)  # EFAULT
    need(not events.flags & ~(NMI_PENDING | SIPI_VECTOR | SHADOW | SMM | PAYLOAD), EINVAL)  # unknown flags

    if events.flags & NMI_PENDING:
        vcpu.nmi_pending = bool(events.nmi_pending)
    if events.flags & SIPI_VECTOR and vcpu.lapic is not None:
        vcpu.lapic.vector = events.sipi_vector & 0xFF
    return 0
