"""INIT, SIPI and the states between them: every state with every event, the getter that changes what it gets, KVM_RUN on each."""

from __future__ import annotations

from errno import EAGAIN, EINTR, EINVAL
from typing import Any

import pytest
from kvm.guests import Guest
from sev_rig import Rig, refuses

from sevlab.abi.kvm import (
    KVM_EXIT_HLT,
    KVM_EXIT_INTR,
    KVM_GET_MP_STATE,
    KVM_INTERRUPT,
    KVM_MP_STATE_AP_RESET_HOLD,
    KVM_MP_STATE_HALTED,
    KVM_MP_STATE_INIT_RECEIVED,
    KVM_MP_STATE_RUNNABLE,
    KVM_MP_STATE_SIPI_RECEIVED,
    KVM_MP_STATE_UNINITIALIZED,
    KVM_NMI,
    KVM_RUN,
    KVM_SET_MP_STATE,
    kvm_interrupt,
    kvm_mp_state,
)
from sevlab.hw.isa import hlt, program, store
from sevlab.kvm.call import Blocked
from sevlab.kvm.lapic import INIT, INIT_MODE, LEVEL_TRIGGERED, NMI, REMOTE_READ, SIPI, SPIV, STARTUP
from sevlab.kvm.mp_state import MpState, runnable

RUN, UNINIT, INITED, HALTED, SIPIED, HOLD = (
    KVM_MP_STATE_RUNNABLE,
    KVM_MP_STATE_UNINITIALIZED,
    KVM_MP_STATE_INIT_RECEIVED,
    KVM_MP_STATE_HALTED,
    KVM_MP_STATE_SIPI_RECEIVED,
    KVM_MP_STATE_AP_RESET_HOLD,
)
VECTOR = 9


@program
async def rest() -> None:
    while True:
        await hlt()


@program
async def started() -> None:
    await store(0x1000, b"started", c=False)
    while True:
        await hlt()


def guest_of(rig: Rig, **how: Any) -> Guest:
    """Two vCPUs with local APICs; the second one's SIPI page holds a program."""
    guest = Guest(rig, rest, vcpus=2, irqchip=True, **how)
    guest.qemu.write(guest.memory + (VECTOR << 12), rig.soc.programs.add(started))
    return guest


def send(guest: Guest, *messages: int, number: int = 1) -> None:
    """Messages as another vCPU's local APIC delivers them."""
    for message in messages:
        guest.vcpu(number).lapic.accept(message)


def wait_in_kernel(guest: Guest, number: int = 1) -> Any:
    """KVM_RUN, up to where it waits."""
    call = guest.qemu.begin(guest.fds[number], KVM_RUN)
    while call.state == "runnable":
        call.step()
    assert call.state == "interruptible"
    return call


# ------------------------------------------------------------------ the table: state x event


def interrupt(guest: Guest, number: int) -> None:
    lapic = guest.vcpu(number).lapic
    lapic.registers[SPIV] = 0x1FF
    lapic.accept(0x40)


EVENTS: dict[str, Any] = {
    "INIT": lambda guest, number: send(guest, INIT_MODE, number=number),
    "SIPI": lambda guest, number: send(guest, STARTUP | VECTOR, number=number),
    "INIT, SIPI": lambda guest, number: send(guest, INIT_MODE, STARTUP | VECTOR, number=number),
    "INIT, SIPI, SIPI": lambda guest, number: send(guest, INIT_MODE, STARTUP | VECTOR, STARTUP | VECTOR, number=number),
    "SIPI, INIT": lambda guest, number: send(guest, STARTUP | VECTOR, INIT_MODE, number=number),
    "de-asserted INIT": lambda guest, number: send(guest, INIT_MODE | LEVEL_TRIGGERED, number=number),
    "interrupt": interrupt,
    "NMI": lambda guest, number: send(guest, NMI, number=number),
    "kick": lambda guest, number: send(guest, REMOTE_READ, number=number),
    "nothing": lambda guest, number: None,
}
# What KVM_GET_MP_STATE says of the second vCPU after the event; where there is no row, the state that it had.
AFTER = {
    (state, event): after
    for state in (RUN, UNINIT, INITED, HALTED, HOLD)
    for event, after in {"INIT": INITED, "INIT, SIPI": RUN, "INIT, SIPI, SIPI": RUN, "SIPI, INIT": INITED}.items()
} | {(INITED, "SIPI"): RUN, (HALTED, "kick"): RUN, (HOLD, "kick"): RUN}
# ... and of the first, for whom INIT is a start: SIPI finds it running.
AFTER_BSP = {key: RUN for key in AFTER}


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("state", [RUN, UNINIT, INITED, HALTED, HOLD])
@pytest.mark.parametrize("number", [0, 1])
def test_asking_for_the_state_takes_the_events_that_wait(rig: Rig, number: int, state: int, event: str) -> None:
    guest = guest_of(rig)
    guest.set_mp_state(state, number)

    EVENTS[event](guest, number)

    table = AFTER if number else {**AFTER_BSP, (INITED, "SIPI"): RUN}
    assert guest.mp_state(number) == table.get((state, event), state)
    assert not guest.vcpu(number).lapic.pending


# What ends the wait in KVM_RUN: everything that sets something pending, whether it changes the state or not.
WAKES = {event for event in EVENTS if event not in ("nothing", "de-asserted INIT")}


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("state", [UNINIT, INITED, HALTED, HOLD])
def test_what_makes_a_waiting_vcpu_look_up(rig: Rig, state: int, event: str) -> None:
    guest = guest_of(rig)
    guest.set_mp_state(state, 1)
    call = wait_in_kernel(guest)

    EVENTS[event](guest, 1)

    assert (call.state == "runnable") == runnable(guest.vcpu(1)) == (event in WAKES)
    call.interrupt()
    with refuses(EINTR) if call.state != "runnable" else pytest.raises(OSError):
        call.finish()


@pytest.mark.parametrize("state", [HALTED, HOLD])
@pytest.mark.parametrize("event", ["interrupt", "NMI", "kick"])
def test_a_parked_vcpu_runs_again_after_an_interrupt(rig: Rig, state: int, event: str) -> None:
    guest = guest_of(rig)
    guest.set_mp_state(state)
    EVENTS[event](guest, 0)

    with pytest.raises(Blocked):  # it runs, halts, and there is nothing more
        guest.run()

    vcpu = guest.vcpu()
    assert guest.mp_state() == HALTED and not (vcpu.nmi_pending or vcpu.pv_unhalted or vcpu.lapic.irr)


def test_an_interrupt_at_an_apic_that_is_switched_off_is_lost(rig: Rig) -> None:
    guest = guest_of(rig)
    send(guest, 0x40, number=0)

    assert not guest.vcpu().lapic.irr


def test_an_init_wipes_out_the_sipi_before_it_and_everything_that_waited(rig: Rig) -> None:
    guest = guest_of(rig)
    interrupt(guest, 1)
    send(guest, NMI, STARTUP | VECTOR, INIT_MODE)

    assert guest.vcpu(1).lapic.pending == INIT
    assert guest.mp_state(1) == INITED
    assert not guest.vcpu(1).lapic.irr and not guest.vcpu(1).nmi_pending


# ------------------------------------------------------------------ starting


def test_init_sipi_sipi_starts_a_processor_at_the_first_sipis_page(rig: Rig) -> None:
    guest = guest_of(rig)
    send(guest, INIT_MODE, STARTUP | VECTOR)
    with refuses(EAGAIN):
        guest.run(1)

    send(guest, STARTUP | 0x20)  # the second finds it running
    with pytest.raises(Blocked):
        guest.run(1)

    assert guest.read(0x1000, 7) == b"started"
    assert (guest.sregs(1).cs.selector, guest.sregs(1).cs.base) == (VECTOR << 8, VECTOR << 12)


def test_a_second_sipi_that_comes_before_the_first_was_taken_replaces_its_vector(rig: Rig) -> None:
    guest = guest_of(rig)
    send(guest, INIT_MODE, STARTUP | 0x20, STARTUP | VECTOR)
    with refuses(EAGAIN):
        guest.run(1)

    assert guest.sregs(1).cs.base == VECTOR << 12


def test_a_lone_sipi_is_dropped_and_user_space_is_told_to_call_again_for_nothing(rig: Rig) -> None:
    guest = guest_of(rig)
    send(guest, STARTUP | VECTOR)

    with refuses(EAGAIN):
        guest.run(1)

    assert guest.mp_state(1) == UNINIT
    with pytest.raises(Blocked, match="no INIT and no SIPI"):
        guest.run(1)


def test_between_init_and_sipi_a_vcpu_waits_for_the_sipi(rig: Rig) -> None:
    guest = guest_of(rig)
    send(guest, INIT_MODE)
    with refuses(EAGAIN):
        guest.run(1)

    with pytest.raises(Blocked, match="has had INIT, and no SIPI"):
        guest.run(1)
    assert guest.mp_state(1) == INITED


def test_an_nmi_between_init_and_sipi_keeps_the_vcpu_awake_without_starting_it(rig: Rig) -> None:
    guest = guest_of(rig)
    guest.set_mp_state(INITED, 1)
    guest.ioctl(KVM_NMI, 0, 1)

    with pytest.raises(Blocked, match="an NMI that it cannot take"):
        guest.run(1)
    assert guest.mp_state(1) == INITED and guest.vcpu(1).nmi_pending


def test_a_running_guest_that_gets_an_init_is_reset_at_its_next_entry(rig: Rig) -> None:
    guest = guest_of(rig)
    with pytest.raises(Blocked):
        guest.run()
    send(guest, INIT_MODE, number=0)

    with pytest.raises(Blocked):  # the first processor starts again at the reset vector, and halts again
        guest.run()

    assert [row["state"] for row in rig.rows(MpState)] == [HALTED, RUN, HALTED]


def test_a_signal_ends_the_wait_of_a_vcpu_that_nobody_started(rig: Rig) -> None:
    guest = guest_of(rig)
    call = wait_in_kernel(guest)
    call.interrupt()

    with refuses(EINTR):
        call.finish()
    assert guest.reason(1) == KVM_EXIT_INTR and guest.mp_state(1) == UNINIT


@pytest.mark.parametrize("pending", [0, INIT | SIPI])
def test_immediate_exit_comes_before_any_message_is_looked_at(rig: Rig, pending: int) -> None:
    guest = guest_of(rig)
    guest.vcpu(1).lapic.pending = pending
    guest.qemu.write(guest.pages[1] + 1, b"\1")

    with refuses(EINTR):
        guest.run(1)
    assert guest.vcpu(1).lapic.pending == pending and guest.reason(1) == 0


# ------------------------------------------------------------------ user space's two ioctls


def test_merely_reading_the_state_resets_a_vcpu(rig: Rig) -> None:
    guest = guest_of(rig)
    guest.ioctl(KVM_SET_MP_STATE, kvm_mp_state(RUN), 1)
    with pytest.raises(OSError):
        guest.run(1)
    thread = guest.vcpu(1).vmcb.thread
    send(guest, INIT_MODE, STARTUP | VECTOR)

    state = kvm_mp_state()
    guest.ioctl(KVM_GET_MP_STATE, state, 1)

    assert state.mp_state == RUN and thread is not guest.vcpu(1).vmcb.thread
    assert guest.sregs(1).cs.base == VECTOR << 12


def test_sipi_received_is_a_state_that_never_reads_back(rig: Rig) -> None:
    guest = guest_of(rig)
    guest.set_mp_state(SIPIED, 1)
    lapic = guest.vcpu(1).lapic

    assert (guest.vcpu(1).mp_state, lapic.pending) == (INITED, SIPI)
    assert guest.mp_state(1) == RUN and not lapic.pending


def test_a_held_state_can_be_set_on_an_ordinary_guest_too(rig: Rig) -> None:
    guest = guest_of(rig)
    guest.set_mp_state(HOLD)

    with pytest.raises(Blocked, match="holds for a reset"):
        guest.run()
    assert guest.mp_state() == HOLD


@pytest.mark.parametrize("state", [*range(5, 9), 10, 11, 0xFFFFFFFF])
def test_states_that_are_no_x86_vcpus_are_refused(rig: Rig, state: int) -> None:
    guest = guest_of(rig)

    with refuses(EINVAL) as box:
        guest.set_mp_state(state)
    assert "no state of an x86 vCPU" in box.why and guest.mp_state() == RUN


@pytest.mark.parametrize("state", [1, 2, 3, 4, 9])
def test_without_an_apic_in_the_kernel_only_runnable_can_be_set(rig: Rig, state: int) -> None:
    guest = Guest(rig, rest)
    guest.set_mp_state(RUN)

    with refuses(EINVAL) as box:
        guest.set_mp_state(state)
    assert "lapic_in_kernel" in box.why


# ------------------------------------------------------------------ without an irqchip


def test_without_an_irqchip_user_space_has_both_the_halt_and_the_interrupt(rig: Rig) -> None:
    guest = Guest(rig, rest)
    assert guest.run() == KVM_EXIT_HLT

    guest.ioctl(KVM_INTERRUPT, kvm_interrupt(0x40))
    guest.ioctl(KVM_NMI)
    assert guest.run() == KVM_EXIT_HLT and guest.mp_state() == RUN
