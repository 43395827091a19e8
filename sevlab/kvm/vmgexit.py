"""VMGEXIT: what an SEV-ES guest asks of its hypervisor, by its own will and through a page that it fills in.

Map the GHCB, read it once, check it, answer. A request that is no request is told
so, in a fixed order of rules, and the guest goes on; nothing a guest writes there
may end anything but itself. The page is written back and unmapped when the guest is
entered again. Source: kvm.md G4, G5 (sev_handle_vmgexit, sev_es_validate_vmgexit).
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EINVAL, ESRCH
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from sevlab.abi import ghcb as abi
from sevlab.abi.ghcb import GHCB_ERR_INVALID_EVENT, GHCB_ERR_INVALID_USAGE, GHCB_ERR_MISSING_INPUT, IOIO_IN, IOIO_STR
from sevlab.abi.kvm import KVM_EXIT_INTERNAL_ERROR, kvm_run_internal
from sevlab.hw.isa import GP, UD
from sevlab.hw.vmcb import EXIT_VMGEXIT
from sevlab.kvm import ap, intercepts
from sevlab.kvm.fd import KvmError, Oops
from sevlab.kvm.ghcb import Mapped, Snapshot, VmgexitEnter, map_ghcb
from sevlab.kvm.intercepts import LATER, RESUME, UNEXPECTED_EXIT_REASON
from sevlab.kvm.vmgexit_io import ioio, mmio_read, mmio_write
from sevlab.kvm.vmgexit_msr import FEATURES, give_up, msr_protocol

if TYPE_CHECKING:
    from sevlab.kvm.vcpu import Vcpu

U32 = 0xFFFF_FFFF
MSR_MASK = abi.GHCB_MSR_INFO_MASK
DR7_FIXED = 0x400
RECURSION = 32  # calls of the handler within itself that the kernel's stack bears
CODE_FIELDS = ("sw_exit_code", "sw_exit_info_1", "sw_exit_info_2")

Handler = Callable[["Vcpu", Mapped], int]


# ------------------------------------------------------------------ answers


def cpuid(vcpu: Vcpu, ghcb: Mapped) -> int:
    return intercepts.cpuid(vcpu)


def msr(vcpu: Vcpu, ghcb: Mapped) -> int:
    """RDMSR, WRMSR (info1 1): one that is not there is #GP, which the guest is asked to raise in itself."""
    outcome = intercepts.msr(vcpu)
    if vcpu.vmcb.event is not None:
        vcpu.vmcb.event = None
        ghcb.exception(GP)
    return outcome


def vmmcall(vcpu: Vcpu, ghcb: Mapped) -> int:
    return intercepts.vmmcall(vcpu)


def read_dr7(vcpu: Vcpu, ghcb: Mapped) -> int:
    vcpu.vmcb.regs.rax = vcpu.guest_dr7
    return RESUME


def write_dr7(vcpu: Vcpu, ghcb: Mapped) -> int:
    """MOV to DR7: bits that do not exist are #GP; the register that the guest runs with is its own all the same."""
    value = vcpu.vmcb.regs.rax
    if value >> 32:
        ghcb.exception(GP)
    else:
        vcpu.guest_dr7 = value | DR7_FIXED
    return RESUME


def rdtsc(vcpu: Vcpu, ghcb: Mapped) -> int:
    now = vcpu.read_msr(0x10)
    vcpu.vmcb.regs.rax, vcpu.vmcb.regs.rdx = now & U32, now >> 32
    return RESUME


def rdtscp(vcpu: Vcpu, ghcb: Mapped) -> int:
    """RDTSCP: KVM intercepts it for guests that shall not have it (kvm_handle_invalid_op)."""
    ghcb.exception(UD)
    return RESUME


def rdpmc(vcpu: Vcpu, ghcb: Mapped) -> int:
    """RDPMC: a guest without counters gets #GP (kvm_emulate_rdpmc)."""
    ghcb.exception(GP)
    return RESUME


def nothing(vcpu: Vcpu, ghcb: Mapped) -> int:
    """What KVM emulates as a no-operation."""
    return RESUME


def ap_reset_hold(vcpu: Vcpu, ghcb: Mapped) -> int:
    return ap.hold(vcpu, ap.NAE_EVENT)


def ap_jump_table(vcpu: Vcpu, ghcb: Mapped) -> int:
    ghcb.answer(*ap.jump_table(vcpu, ghcb.now.info_1, ghcb.now.info_2))
    return RESUME


def hv_features(vcpu: Vcpu, ghcb: Mapped) -> int:
    ghcb.set("sw_exit_info_2", FEATURES)
    return RESUME


def term_request(vcpu: Vcpu, ghcb: Mapped) -> int:
    vcpu.vm.kernel.log(f"SEV-ES guest requested termination: reason {ghcb.now.info_1:#x} info {ghcb.now.info_2:#x}")
    return give_up(vcpu, ghcb.gpa)  # EINVAL


def unsupported(vcpu: Vcpu, ghcb: Mapped) -> int:
    """UNSUPPORTED_EVENT: the guest's #VC handler met what it does not know; for user space the VM is at its end."""
    vcpu.vm.kernel.log(
        f"vmgexit: unsupported event - exit_info_1={ghcb.now.info_1:#x}, exit_info_2={ghcb.now.info_2:#x}"
    )
    raise KvmError(EINVAL, why="the guest reports an event that it cannot handle (SVM_VMGEXIT_UNSUPPORTED_EVENT)")


def _needs(*fields: str) -> Callable[[Snapshot], tuple[str, ...]]:
    return lambda now: fields


def _cpuid_needs(now: Snapshot) -> tuple[str, ...]:
    return ("rax", "rcx", "xcr0") if now.register("rax") & U32 == 0xD else ("rax", "rcx")


def _ioio_needs(now: Snapshot) -> tuple[str, ...]:
    if now.info_1 & IOIO_STR:
        return ("sw_scratch",)
    return () if now.info_1 & IOIO_IN else ("rax",)


def _msr_needs(now: Snapshot) -> tuple[str, ...]:
    return ("rcx", "rax", "rdx") if now.info_1 else ("rcx",)


class VmgexitRow(NamedTuple):
    """One request: its name, who answers it, which fields the guest must vouch for, what the emulation leaves out.

    `handler` None: only SEV-SNP guests may ask. `v2`: since 6.10.
    """

    name: str
    handler: Handler | None
    needs: Callable[[Snapshot], tuple[str, ...]] = _needs()
    leaves_out: str = ""
    v2: bool = False


ONE_DEVICE = "of the kernel's own devices only the local APIC"
NO_SNP = "no SEV-SNP guest: as for any other"
VMGEXITS: dict[int, VmgexitRow] = {
    abi.SVM_EXIT_READ_DR7: VmgexitRow("READ_DR7", read_dr7),
    abi.SVM_EXIT_WRITE_DR7: VmgexitRow("WRITE_DR7", write_dr7, _needs("rax")),
    abi.SVM_EXIT_RDTSC: VmgexitRow("RDTSC", rdtsc, leaves_out="KVM has no handler for it, which is an INTERNAL_ERROR exit there"),
    abi.SVM_EXIT_RDPMC: VmgexitRow("RDPMC", rdpmc, _needs("rcx"), "no counters"),
    abi.SVM_EXIT_CPUID: VmgexitRow("CPUID", cpuid, _cpuid_needs),
    abi.SVM_EXIT_INVD: VmgexitRow("INVD", nothing),
    abi.SVM_EXIT_IOIO: VmgexitRow("IOIO", ioio, _ioio_needs),
    abi.SVM_EXIT_MSR: VmgexitRow("MSR", msr, _msr_needs, "a dozen registers; no MSR filters"),
    abi.SVM_EXIT_VMMCALL: VmgexitRow("VMMCALL", vmmcall, _needs("rax", "cpl"), "all but VAPIC_POLL_IRQ and KICK_CPU are unknown"),
    abi.SVM_EXIT_RDTSCP: VmgexitRow("RDTSCP", rdtscp, leaves_out="KVM injects #UD into the #VC handler itself"),
    abi.SVM_EXIT_WBINVD: VmgexitRow("WBINVD", nothing, leaves_out="no device bypasses the caches"),
    abi.SVM_EXIT_MONITOR: VmgexitRow("MONITOR", nothing, _needs("rax", "rcx", "rdx")),
    abi.SVM_EXIT_MWAIT: VmgexitRow("MWAIT", nothing, _needs("rax", "rcx")),
    abi.SVM_VMGEXIT_MMIO_READ: VmgexitRow("MMIO_READ", mmio_read, _needs("sw_scratch"), ONE_DEVICE),
    abi.SVM_VMGEXIT_MMIO_WRITE: VmgexitRow("MMIO_WRITE", mmio_write, _needs("sw_scratch"), ONE_DEVICE),
    abi.SVM_VMGEXIT_NMI_COMPLETE: VmgexitRow("NMI_COMPLETE", nothing, leaves_out="no NMI is ever masked"),
    abi.SVM_VMGEXIT_AP_HLT_LOOP: VmgexitRow("AP_HLT_LOOP", ap_reset_hold),
    abi.SVM_VMGEXIT_AP_JUMP_TABLE: VmgexitRow("AP_JUMP_TABLE", ap_jump_table),
    abi.SVM_VMGEXIT_UNSUPPORTED_EVENT: VmgexitRow("UNSUPPORTED_EVENT", unsupported),
    abi.SVM_VMGEXIT_PSC: VmgexitRow("PSC", None, leaves_out=NO_SNP, v2=True),
    abi.SVM_VMGEXIT_GUEST_REQUEST: VmgexitRow("GUEST_REQUEST", None, leaves_out=NO_SNP, v2=True),
    abi.SVM_VMGEXIT_EXT_GUEST_REQUEST: VmgexitRow("EXT_GUEST_REQUEST", None, leaves_out=NO_SNP, v2=True),
    abi.SVM_VMGEXIT_AP_CREATION: VmgexitRow("AP_CREATION", None, leaves_out=NO_SNP, v2=True),
    abi.SVM_VMGEXIT_HV_FEATURES: VmgexitRow("HV_FEATURES", hv_features, v2=True),
    abi.SVM_VMGEXIT_TERM_REQUEST: VmgexitRow("TERM_REQUEST", term_request, v2=True),
}


# ------------------------------------------------------------------ the exit


def _row(vcpu: Vcpu, code: int) -> VmgexitRow | None:
    row = VMGEXITS.get(code)
    return None if row is None or (row.v2 and not vcpu.vm.kernel.design.ghcb.v2) else row


def validate(vcpu: Vcpu, now: Snapshot) -> int:
    """What is wrong with a request: a reason for the guest, or 0. Of two things wrong the upper one answers."""
    if now.usage:
        return GHCB_ERR_INVALID_USAGE
    if not all(map(now.valid, CODE_FIELDS)):
        return GHCB_ERR_MISSING_INPUT
    row = _row(vcpu, now.code)
    if row is None:
        return GHCB_ERR_INVALID_EVENT
    if row.handler is None or not all(map(now.valid, row.needs(now))):
        return GHCB_ERR_MISSING_INPUT
    return 0


def vmgexit(vcpu: Vcpu) -> int:
    """A guest left by VMGEXIT: the MSR protocol, or what its GHCB says."""
    gpa, kernel = vcpu.vmcb.ghcb_gpa, vcpu.vm.kernel
    if gpa & MSR_MASK:
        return msr_protocol(vcpu)
    if not gpa:
        kernel.log("vmgexit: GHCB gpa is not set")
        return RESUME  # there is nowhere to say what is wrong: the guest goes on, for ever if it likes
    ghcb = vcpu.ghcb = map_ghcb(vcpu, gpa)
    if ghcb is None:
        kernel.log(f"vmgexit: error mapping GHCB [{gpa:#x}] from guest")
        return RESUME
    if kernel.trace.on:
        kernel.trace.emit(VmgexitEnter, vcpu.id, ghcb.now.code, ghcb.now.info_1, ghcb.now.info_2)
    return _decide(vcpu, ghcb, 0)


def _decide(vcpu: Vcpu, ghcb: Mapped, depth: int) -> int:
    now, design = ghcb.now, vcpu.vm.kernel.design.ghcb
    reason = validate(vcpu, now)
    if not design.snapshot and not reason:
        vcpu.later = partial(_use, ghcb, depth)
        return LATER  # checked; what will be used is read once more, and the guest's other vCPUs run meanwhile
    ghcb.import_registers()
    if reason:
        return _malformed(vcpu, ghcb, reason)
    ghcb.answer(0, 0)
    return _done(vcpu, VMGEXITS[now.code].handler(vcpu, ghcb))  # type: ignore[misc]


def _use(ghcb: Mapped, depth: int) -> int:
    """CVE-2023-4155: the request, read again. Nobody checks it any more."""
    vcpu, ghcb.now = ghcb.vcpu, ghcb.read()
    ghcb.import_registers()
    ghcb.answer(0, 0)
    code = ghcb.now.code & U32
    row = VMGEXITS.get(code)
    if row is not None and row.handler is not None:
        return _done(vcpu, row.handler(vcpu, ghcb))
    if code != EXIT_VMGEXIT:  # svm_invoke_exit_handler() of whatever stands there now
        return intercepts.internal_error(vcpu, UNEXPECTED_EXIT_REASON, code, 0)
    if depth >= RECURSION:
        raise Oops(ESRCH, why="sev_handle_vmgexit() called itself until the kernel's stack was used up (CVE-2023-4155)")
    vcpu.later = partial(_again, ghcb, depth + 1)
    return LATER


def _again(ghcb: Mapped, depth: int) -> int:
    """The handler within itself: it checks what the page says by now, and waits once more before it uses it."""
    vcpu, ghcb.now = ghcb.vcpu, ghcb.read()
    reason = validate(vcpu, ghcb.now)
    if reason:
        return _malformed(vcpu, ghcb, reason)
    vcpu.later = partial(_use, ghcb, depth)
    return LATER


def _malformed(vcpu: Vcpu, ghcb: Mapped, reason: int) -> int:
    """Tell the guest, which may be more careful the next time; until 5.15 KVM_RUN ended instead (ad5b353240c8)."""
    now, log = ghcb.now, vcpu.vm.kernel.log
    if reason == GHCB_ERR_INVALID_USAGE:
        log(f"vmgexit: ghcb usage {now.usage:#x} is not valid")
    elif reason == GHCB_ERR_INVALID_EVENT:
        log(f"vmgexit: exit code {now.code:#x} is not valid")
    else:
        log(f"vmgexit: exit code {now.code:#x} input is not valid")
    if not vcpu.vm.kernel.design.ghcb.polite:
        data = (now.code, 0, *(0,) * 14)
        vcpu.exit(KVM_EXIT_INTERNAL_ERROR, kvm_run_internal(UNEXPECTED_EXIT_REASON, 2, data))
        raise KvmError(EINVAL, why="a malformed VMGEXIT, which until 5.15 cost the guest its life")
    ghcb.error(reason)
    return _done(vcpu, RESUME)


def _done(vcpu: Vcpu, outcome: int) -> int:
    """The guest is entered next: unmap now. Otherwise the GHCB stays mapped until it is."""
    if outcome == RESUME and vcpu.ghcb is not None:
        vcpu.ghcb.unmap()
    return outcome
