"""The second processor of an SEV-ES guest: the reset hold, the SIPI that ends it, and the jump table's address.

A sealed vCPU cannot be given a new CS:IP, so INIT and SIPI mean less than ever: the
first SIPI of a vCPU's life runs what was measured, whatever its vector says; a later
one only completes the hold in which the guest has parked itself. Where to go then
the guest reads from a table in its own private memory; KVM keeps the table's address
for it, one number a VM. Source: kvm.md G3, G6, G7 (sev_handle_vmgexit,
sev_vcpu_deliver_sipi_vector). What of this has changed over time is the seam
`ap_boot`; see `designs/ap_boot.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sevlab.abi.ghcb import AP_JUMP_TABLE_GET, AP_JUMP_TABLE_SET, GHCB_MSR_AP_RESET_HOLD_RESP, GHCB_RESP_OK
from sevlab.trace import Event, u8, u32, u64

if TYPE_CHECKING:
    from sevlab.kvm.vcpu import Vcpu

NONE, NAE_EVENT, MSR_PROTOCOL = range(3)  # vcpu.hold: how the vCPU asked to be held (AP_RESET_HOLD_*)


class Held(Event, lane="kvm"):
    """A sealed vCPU parked itself: `how` 1 by an NAE event, 2 by the MSR protocol."""

    vm: u32
    vcpu: u32
    how: u8


class SipiDelivered(Event, lane="kvm"):
    """A SIPI reached a vCPU that waited for it; `first`: it runs what was measured. A sealed one ignores the vector."""

    vm: u32
    vcpu: u32
    vector: u8
    first: u8


class JumpTable(Event, lane="kvm"):
    """A guest told its host where the APs' jump table lies (`set` 1), or asked for it."""

    vm: u32
    vcpu: u32
    set: u8
    gpa: u64


def hold(vcpu: Vcpu, kind: int) -> int:
    """AP reset hold, asked for by NAE event AP_HLT_LOOP or by the MSR protocol's request 6: the outcome of the exit.

    Call it once the GHCB has info1 = info2 = 0 (the MSR: response 7 with result 0): that is what
    the guest finds when anything but a SIPI wakes it.
    """
    vcpu.vm.kernel.trace.emit(Held, vcpu.vm.number, vcpu.id, kind)
    return vcpu.vm.kernel.design.ap_boot.hold(vcpu, kind)


def deliver_sipi(vcpu: Vcpu, vector: int) -> None:
    """A SIPI that found an INIT before it (svm_vcpu_deliver_sipi_vector)."""
    vm, first = vcpu.vm, False
    if vm.sev.es:
        first = vm.kernel.design.ap_boot.sipi(vcpu)
    else:
        save = vcpu.vmcb.save
        save.cs.selector, save.cs.base, vcpu.vmcb.regs.rip = vector << 8, vector << 12, 0
        vcpu.vmcb.thread = None
    vm.kernel.trace.emit(SipiDelivered, vm.number, vcpu.id, vector, first)


def complete(vcpu: Vcpu, kind: int = NAE_EVENT) -> bool:
    """Tell a held guest that its SIPI has come: what it finds when it goes on. False where its GHCB is not mapped."""
    vmcb = vcpu.vmcb
    if kind == MSR_PROTOCOL:
        vmcb.ghcb_gpa = 1 << 12 | GHCB_MSR_AP_RESET_HOLD_RESP
        return True
    if vcpu.ghcb is None:
        return False
    vcpu.ghcb.set("sw_exit_info_2", 1)
    return True


def jump_table(vcpu: Vcpu, info1: int, info2: int) -> tuple[int, int]:
    """AP_JUMP_TABLE: the guest's answer, (info1, info2).

    Nothing is checked: alignment, memory behind it, who asks. The last writer wins.
    """
    vm = vcpu.vm
    if info1 == AP_JUMP_TABLE_SET:
        vm.sev.ap_jump_table = info2
        vm.kernel.trace.emit(JumpTable, vm.number, vcpu.id, 1, info2)
        return GHCB_RESP_OK, 0
    if info1 == AP_JUMP_TABLE_GET:
        vm.kernel.trace.emit(JumpTable, vm.number, vcpu.id, 0, vm.sev.ap_jump_table)
        return GHCB_RESP_OK, vm.sev.ap_jump_table
    vm.kernel.log(f"vmgexit: unsupported AP jump table request - exit_info_1={info1:#x}")
    return vm.kernel.design.ap_boot.bad_request()
