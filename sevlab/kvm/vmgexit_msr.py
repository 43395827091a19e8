"""The GHCB MSR protocol: requests that fit into one number, for a guest that has no GHCB yet.

The low 12 bits of MSR C001_0130 say what is asked, the rest is operand and answer.
A request that KVM does not know is left as it is: the guest then reads its own
request in place of a response. Source: kvm.md G3 (sev_handle_vmgexit_msr_protocol).
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EINVAL
from typing import TYPE_CHECKING, NamedTuple

from sevlab.abi.ghcb import (
    GHCB_HV_FT_SNP,
    GHCB_HV_FT_SNP_AP_CREATION,
    GHCB_MSR_AP_RESET_HOLD_REQ,
    GHCB_MSR_AP_RESET_HOLD_RESP,
    GHCB_MSR_CPUID_REQ,
    GHCB_MSR_CPUID_RESP,
    GHCB_MSR_HV_FT_REQ,
    GHCB_MSR_HV_FT_RESP,
    GHCB_MSR_INFO_MASK,
    GHCB_MSR_PREF_GPA_REQ,
    GHCB_MSR_PSC_REQ,
    GHCB_MSR_REG_GPA_REQ,
    GHCB_MSR_SEV_INFO_REQ,
    GHCB_MSR_TERM_REQ,
    sev_info,
)
from sevlab.abi.kvm import KVM_EXIT_SYSTEM_EVENT, kvm_run_system_event
from sevlab.kvm import ap, intercepts
from sevlab.kvm.fd import need
from sevlab.kvm.intercepts import RESUME
from sevlab.trace import Event, u32, u64

if TYPE_CHECKING:
    from sevlab.kvm.vcpu import Vcpu

MINIMUM = 1  # the oldest protocol version
SEV_TERM = 6  # KVM_SYSTEM_EVENT_SEV_TERM
FEATURES = GHCB_HV_FT_SNP | GHCB_HV_FT_SNP_AP_CREATION
CPUID_REGISTERS = ("rax", "rbx", "rcx", "rdx")


class VmgexitMsrEnter(Event, lane="kvm"):
    """A guest asks by the MSR protocol (the tracepoint kvm_vmgexit_msr_protocol_enter)."""

    vcpu: u32
    ghcb_gpa: u64


class VmgexitMsrExit(Event, lane="kvm"):
    """What the MSR says when KVM is done (kvm_vmgexit_msr_protocol_exit); `result` 1: the guest goes on."""

    vcpu: u32
    ghcb_gpa: u64
    result: u32


def version_response(vcpu: Vcpu) -> int:
    """SEV_INFO: what the MSR holds after a reset, before anything was asked."""
    kernel = vcpu.vm.kernel
    return sev_info(kernel.design.ghcb.maximum(vcpu.vm.sev), MINIMUM, kernel.soc.chip.c_bit)


def give_up(vcpu: Vcpu, value: int) -> int:
    """User space learns that the guest wants to end; nothing marks the VM, and KVM_RUN would enter it again."""
    need(vcpu.vm.kernel.design.release.system_event_data, EINVAL)  # before 5.19 KVM_RUN had no better word for it
    return vcpu.exit(KVM_EXIT_SYSTEM_EVENT, kvm_run_system_event(SEV_TERM, 1, (value, *(0,) * 15)))


def _version(vcpu: Vcpu) -> int:
    vcpu.vmcb.ghcb_gpa = version_response(vcpu)
    return RESUME


def _cpuid(vcpu: Vcpu) -> int:
    """One register of a leaf; always of subleaf 0. The request's register bits stay in the answer."""
    vmcb = vcpu.vmcb
    request = vmcb.ghcb_gpa
    vmcb.regs.rax, vmcb.regs.rcx = request >> 32, 0
    intercepts.cpuid(vcpu)
    value = getattr(vmcb.regs, CPUID_REGISTERS[request >> 30 & 3])
    vmcb.ghcb_gpa = value << 32 | request & 0xFFFF_F000 | GHCB_MSR_CPUID_RESP
    return RESUME


def _hold(vcpu: Vcpu) -> int:
    vcpu.vmcb.ghcb_gpa = GHCB_MSR_AP_RESET_HOLD_RESP
    return ap.hold(vcpu, ap.MSR_PROTOCOL)


def _features(vcpu: Vcpu) -> int:
    vcpu.vmcb.ghcb_gpa = FEATURES << 12 | GHCB_MSR_HV_FT_RESP
    return RESUME


def _terminate(vcpu: Vcpu) -> int:
    value = vcpu.vmcb.ghcb_gpa
    vcpu.vm.kernel.log(f"SEV-ES guest requested termination: {value >> 12 & 0xF:#x}:{value >> 16 & 0xFF:#x}")
    return give_up(vcpu, value)  # EINVAL


def _snp_only(vcpu: Vcpu) -> int:
    """A request of SEV-SNP guests ends any other."""
    return give_up(vcpu, vcpu.vmcb.ghcb_gpa)  # EINVAL


class MsrRow(NamedTuple):
    """One request: who answers it, whether only version 2 of the protocol has it, what the emulation leaves out."""

    name: str
    handler: Callable[[Vcpu], int]
    v2: bool = False
    leaves_out: str = ""


REQUESTS: dict[int, MsrRow] = {
    GHCB_MSR_SEV_INFO_REQ: MsrRow("SEV_INFO", _version),
    GHCB_MSR_CPUID_REQ: MsrRow("CPUID", _cpuid),
    GHCB_MSR_AP_RESET_HOLD_REQ: MsrRow("AP_RESET_HOLD", _hold, v2=True),
    GHCB_MSR_PREF_GPA_REQ: MsrRow("PREFERRED_GPA", _snp_only, v2=True, leaves_out="no SEV-SNP guest: as for any other"),
    GHCB_MSR_REG_GPA_REQ: MsrRow("REGISTER_GPA", _snp_only, v2=True, leaves_out="no SEV-SNP guest: as for any other"),
    GHCB_MSR_PSC_REQ: MsrRow("PAGE_STATE_CHANGE", _snp_only, v2=True, leaves_out="no SEV-SNP guest: as for any other"),
    GHCB_MSR_HV_FT_REQ: MsrRow("HV_FEATURES", _features, v2=True),
    GHCB_MSR_TERM_REQ: MsrRow("TERMINATE", _terminate),
}


def msr_protocol(vcpu: Vcpu) -> int:
    """Answer the request in the GHCB MSR; one that is unknown to this kernel stays where it is."""
    kernel, vmcb = vcpu.vm.kernel, vcpu.vmcb
    if kernel.trace.on:
        kernel.trace.emit(VmgexitMsrEnter, vcpu.id, vmcb.ghcb_gpa)
    row = REQUESTS.get(vmcb.ghcb_gpa & GHCB_MSR_INFO_MASK)
    outcome = RESUME if row is None or (row.v2 and not kernel.design.ghcb.v2) else row.handler(vcpu)
    if kernel.trace.on:
        kernel.trace.emit(VmgexitMsrExit, vcpu.id, vmcb.ghcb_gpa, int(outcome == RESUME))
    return outcome
