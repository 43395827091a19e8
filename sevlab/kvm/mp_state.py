"""Whether a vCPU may run: its state, the messages that change it, and what user space sees of both.

| state | event | next |
|---|---|---|
| UNINITIALIZED | INIT | INIT_RECEIVED |
| UNINITIALIZED | SIPI alone | stays: the message is dropped |
| INIT_RECEIVED | SIPI | RUNNABLE |
| RUNNABLE | HLT | HALTED |
| RUNNABLE, sealed | AP reset hold | AP_RESET_HOLD |
| HALTED, AP_RESET_HOLD | interrupt, NMI, the kick of a lock | RUNNABLE |
| any | INIT | INIT_RECEIVED; the first vCPU: RUNNABLE |

Only where the kernel has the local APICs (KVM_CREATE_IRQCHIP) is any of this true; without
them every vCPU is RUNNABLE and user space decides whom it runs. Source: kvm.md G7
(kvm_apic_accept_events, vcpu_block, kvm_arch_vcpu_ioctl_set_mpstate).
"""

from __future__ import annotations

from errno import EAGAIN, EINTR, EINVAL
from typing import TYPE_CHECKING

from sevlab.abi.kvm import (
    KVM_MP_STATE_AP_RESET_HOLD,
    KVM_MP_STATE_HALTED,
    KVM_MP_STATE_INIT_RECEIVED,
    KVM_MP_STATE_RUNNABLE,
    KVM_MP_STATE_SIPI_RECEIVED,
    KVM_MP_STATE_UNINITIALIZED,
    kvm_mp_state,
)
from sevlab.kvm import copy_from_user, copy_to_user, vcpu_regs
from sevlab.kvm.ap import deliver_sipi
from sevlab.kvm.fd import KvmError, need
from sevlab.kvm.lapic import INIT, SIPI
from sevlab.kvm.lock import Tick, Wait
from sevlab.trace import Event, u8, u32

if TYPE_CHECKING:
    from sevlab.kvm.task import Task
    from sevlab.kvm.vcpu import Vcpu

# What user space may set at all; all but the first mean something only with an APIC in the kernel.
SETTABLE = frozenset(
    {
        KVM_MP_STATE_RUNNABLE,
        KVM_MP_STATE_UNINITIALIZED,
        KVM_MP_STATE_INIT_RECEIVED,
        KVM_MP_STATE_HALTED,
        KVM_MP_STATE_SIPI_RECEIVED,
    }
)
BLOCK = 2  # the outcome of an exit, as in exits.py
PARKED = (KVM_MP_STATE_HALTED, KVM_MP_STATE_AP_RESET_HOLD)  # an interrupt makes these go on
WHY = {
    KVM_MP_STATE_UNINITIALIZED: "no INIT and no SIPI has reached this vCPU",
    KVM_MP_STATE_INIT_RECEIVED: "the vCPU has had INIT, and no SIPI has reached it",
    KVM_MP_STATE_HALTED: "the vCPU has halted, and no interrupt is pending",
    KVM_MP_STATE_AP_RESET_HOLD: "the vCPU holds for a reset, and no SIPI has reached it",
}


class MpState(Event, lane="kvm"):
    """A vCPU's state changed: 0 runnable, 1 uninitialized, 2 INIT received, 3 halted, 9 AP reset hold."""

    vm: u32
    vcpu: u32
    state: u8
    was: u8


def set_state(vcpu: Vcpu, state: int) -> None:
    """Change the state, with a row in the trace."""
    if state != vcpu.mp_state:
        vcpu.vm.kernel.trace.emit(MpState, vcpu.vm.number, vcpu.id, state, vcpu.mp_state)
        vcpu.mp_state = state


def runnable(vcpu: Vcpu) -> bool:
    """Whether there is anything to do for it: it runs, or something has come (kvm_arch_vcpu_runnable)."""
    lapic = vcpu.lapic
    return (
        vcpu.mp_state == KVM_MP_STATE_RUNNABLE
        or vcpu.nmi_pending
        or vcpu.pv_unhalted
        or (lapic is not None and bool(lapic.pending or (lapic.irr and lapic.enabled)))
    )


def accept_events(vcpu: Vcpu) -> None:
    """Take INIT and SIPI (kvm_apic_accept_events). A SIPI that finds no INIT before it is dropped; the second of two finds none."""
    lapic = vcpu.lapic
    if lapic is None or not lapic.pending:
        return
    pending, lapic.pending = lapic.pending, 0
    if pending & INIT:
        vcpu_regs.reset(vcpu)  # kvm_vcpu_reset(vcpu, init_event=true): the GHCB MSR and a sealed save area stay
        lapic.reset()
        vcpu.nmi_pending = False
        set_state(vcpu, KVM_MP_STATE_INIT_RECEIVED if vcpu.id else KVM_MP_STATE_RUNNABLE)
    if pending & SIPI and vcpu.mp_state == KVM_MP_STATE_INIT_RECEIVED:
        deliver_sipi(vcpu, lapic.vector)
        set_state(vcpu, KVM_MP_STATE_RUNNABLE)


def halt(vcpu: Vcpu, state: int, reason: int) -> int:
    """The outcome of an exit after which the vCPU waits (__kvm_emulate_halt): in the kernel in `state`, or user space is told."""
    if vcpu.lapic is None:
        return vcpu.exit(reason)
    set_state(vcpu, state)
    return BLOCK


async def start(vcpu: Vcpu, immediate_exit: bool) -> None:
    """KVM_RUN of a vCPU that nobody has started: wait, take what came, and have user space call again.

    Always ends in a refusal: EINTR, or EAGAIN, even where what came has changed nothing.
    """
    need(not immediate_exit, EINTR)  # kvm_run->immediate_exit
    await Wait(lambda: runnable(vcpu), WHY[KVM_MP_STATE_UNINITIALIZED])
    accept_events(vcpu)
    raise KvmError(EAGAIN, why="a message has reached the vCPU; call KVM_RUN again")


async def block(vcpu: Vcpu) -> None:
    """A vCPU that may not run waits in the kernel (vcpu_block). Whoever calls looks at the state again."""
    if not runnable(vcpu):
        await Wait(lambda: runnable(vcpu) or vcpu.vm.dead, WHY[vcpu.mp_state])
    accept_events(vcpu)
    if vcpu.mp_state in PARKED:
        set_state(vcpu, KVM_MP_STATE_RUNNABLE)
        vcpu.nmi_pending = vcpu.pv_unhalted = False
        if vcpu.lapic is not None:
            vcpu.lapic.irr = 0  # taken, by a handler that a guest here does not have
    elif vcpu.mp_state != KVM_MP_STATE_RUNNABLE and runnable(vcpu):
        await Tick("the vCPU has had INIT, and an NMI that it cannot take keeps it awake")


# ------------------------------------------------------------------ ioctls


def get_mp_state(vcpu: Vcpu, caller: Task, arg: int) -> int:
    """KVM_GET_MP_STATE. A getter with side effects: it takes what waits for the vCPU, a reset included."""
    accept_events(vcpu)
    state = vcpu.mp_state
    if state in PARKED and vcpu.pv_unhalted:
        state = KVM_MP_STATE_RUNNABLE  # vcpu->arch.pv.pv_unhalted
    copy_to_user(caller, arg, kvm_mp_state(state))  # EFAULT
    return 0


def set_mp_state(vcpu: Vcpu, caller: Task, arg: int) -> int:
    """KVM_SET_MP_STATE. SIPI_RECEIVED is kept as INIT_RECEIVED and a SIPI that waits, so it never reads back."""
    state = copy_from_user(caller, arg, kvm_mp_state).mp_state  # EFAULT
    need(state == KVM_MP_STATE_RUNNABLE or vcpu.lapic is not None, EINVAL)  # !lapic_in_kernel(vcpu)
    need(state in SETTABLE or state in vcpu.vm.kernel.design.ap_boot.states, EINVAL)  # no state of an x86 vCPU

    if state == KVM_MP_STATE_SIPI_RECEIVED:
        assert vcpu.lapic is not None
        vcpu.lapic.pending |= SIPI
        state = KVM_MP_STATE_INIT_RECEIVED
    set_state(vcpu, state)
    return 0
