"""The jump table's address and the reset hold, request by request: what a guest asks, and what it is told on each design."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from kvm.guests import Guest
from sev_rig import Rig

from sevlab.abi.ghcb import AP_JUMP_TABLE_GET, AP_JUMP_TABLE_SET, SVM_VMGEXIT_AP_HLT_LOOP, SVM_VMGEXIT_AP_JUMP_TABLE
from sevlab.abi.kvm import KVM_EXIT_AP_RESET_HOLD, KVM_EXIT_HLT
from sevlab.guest.ghcb import BITMAP, EXIT_CODE, INFO_1, open_ghcb
from sevlab.hw.isa import hlt, load, program, store, vmgexit
from sevlab.kvm import ap, designs
from sevlab.kvm.ap import Held, JumpTable
from sevlab.kvm.call import Blocked
from sevlab.kvm.lapic import INIT_MODE, STARTUP

GHCB, OUT = 0x3000, 0x2000
Make = Callable[..., Rig]
UD = 0x8000_0306


@program
async def asks(requests: tuple[tuple[int, int, int, int], ...]) -> None:
    """Requests as raw as they come, (code, info1, info2, bitmap); info1 and info2 of each answer to OUT."""
    await open_ghcb(GHCB)
    at = OUT
    for code, info_1, info_2, bitmap in requests:
        numbers = b"".join([number.to_bytes(8, "little") for number in (code, info_1, info_2)])
        await store(GHCB + EXIT_CODE, numbers, c=False)
        await store(GHCB + BITMAP, (bitmap << EXIT_CODE // 8).to_bytes(16, "little"), c=False)
        await vmgexit()
        await store(at, await load(GHCB + INFO_1, 16, c=False), c=False)
        at += 16
    while True:
        await hlt()


def table(kind: int, gpa: int = 0, bitmap: int = 7) -> tuple[int, int, int, int]:
    return SVM_VMGEXIT_AP_JUMP_TABLE, kind, gpa, bitmap


def answers(rig: Rig, *requests: tuple[int, int, int, int]) -> list[tuple[int, int]]:
    guest = Guest(rig, asks, requests, kind="es")
    assert guest.run() == KVM_EXIT_HLT
    raw = guest.read(OUT, 16 * len(requests))
    words = [int.from_bytes(raw[at : at + 8], "little") for at in range(0, len(raw), 8)]
    return list(zip(words[::2], words[1::2], strict=True))


# With the posted pinning there is no KVM_MEMORY_ENCRYPT_REG_REGION to launch with; that is another seam.
POSTED = replace(designs.POSTED, pinning=designs.LINUX_6_1.pinning)
PRESETS = [POSTED if design is designs.POSTED else design for design in designs.DESIGNS.values()]
BAD = {"posted": (1, UD), "linux-5.13": (1, UD)}  # elsewhere (2, 5)


# ------------------------------------------------------------------ the address


@pytest.mark.parametrize("design", PRESETS, ids=lambda design: design.name)
def test_what_was_set_is_what_one_gets(make_rig: Make, design: designs.Design) -> None:
    found = answers(make_rig(design), table(AP_JUMP_TABLE_GET), table(AP_JUMP_TABLE_SET, 0x8000), table(AP_JUMP_TABLE_GET))

    assert found == [(0, 0), (0, 0), (0, 0x8000)]


ANYTHING = [1, 0x8001, 0xFFF, 1 << 47, (1 << 64) - 1, 0xFEE0_0000, GHCB]


@pytest.mark.parametrize("gpa", ANYTHING)
def test_no_address_is_too_odd_to_be_kept(rig: Rig, gpa: int) -> None:
    assert answers(rig, table(AP_JUMP_TABLE_SET, gpa), table(AP_JUMP_TABLE_GET))[1] == (0, gpa)


def test_the_last_writer_wins_and_zero_is_a_value(rig: Rig) -> None:
    found = answers(
        rig, *(table(AP_JUMP_TABLE_SET, gpa) for gpa in (0x1000, 0x2000)), table(1), table(AP_JUMP_TABLE_SET, 0), table(1)
    )

    assert [found[2], found[4]] == [(0, 0x2000), (0, 0)]
    assert [(row["set"], row["gpa"]) for row in rig.rows(JumpTable)] == [(1, 0x1000), (1, 0x2000), (0, 0x2000), (1, 0), (0, 0)]


def test_it_is_one_number_for_all_vcpus(rig: Rig) -> None:
    guest = Guest(rig, asks, (table(AP_JUMP_TABLE_SET, 0x5000),), kind="es", vcpus=2)
    guest.run()

    assert rig.file(guest.vm).sev.ap_jump_table == 0x5000
    assert ap.jump_table(guest.vcpu(1), AP_JUMP_TABLE_GET, 0) == (0, 0x5000)


WRONG = [2, 3, 0xFF, 1 << 32, (1 << 64) - 1]


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("design", PRESETS, ids=lambda design: design.name)
def test_a_request_that_is_neither_is_refused_and_changes_nothing(make_rig: Make, design: designs.Design, kind: int) -> None:
    rig = make_rig(design)
    found = answers(rig, table(AP_JUMP_TABLE_SET, 0x8000), table(kind, 0x9000), table(AP_JUMP_TABLE_GET))

    assert found[1:] == [BAD.get(design.name, (2, 5)), (0, 0x8000)]
    assert rig.kernel.dmesg[-1] == f"vmgexit: unsupported AP jump table request - exit_info_1={kind:#x}"


@pytest.mark.parametrize("bitmap", [0, 1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("code", [SVM_VMGEXIT_AP_JUMP_TABLE, SVM_VMGEXIT_AP_HLT_LOOP])
def test_a_request_that_does_not_vouch_for_its_three_words_is_malformed(rig: Rig, code: int, bitmap: int) -> None:
    found = answers(rig, (code, 0, 0x8000, bitmap), table(AP_JUMP_TABLE_GET))

    assert found == [(2, 4), (0, 0)]


# ------------------------------------------------------------------ the hold

HOLDS = {"posted": (KVM_EXIT_HLT, 3), "linux-5.13": (KVM_EXIT_AP_RESET_HOLD, 9)}


@pytest.mark.parametrize("design", PRESETS, ids=lambda design: design.name)
def test_where_a_hold_waits_and_what_it_is_called(make_rig: Make, design: designs.Design) -> None:
    reason, state = HOLDS.get(design.name, (KVM_EXIT_AP_RESET_HOLD, 9))
    rig, request = make_rig(design), (SVM_VMGEXIT_AP_HLT_LOOP, 0, 0, 7)
    outside = Guest(rig, asks, (request,), kind="es")
    assert (outside.run(), outside.mp_state()) == (reason, 0)

    inside = Guest(rig, asks, (request,), kind="es", irqchip=True)
    with pytest.raises(Blocked):
        inside.run()
    assert inside.mp_state() == state and [row["how"] for row in rig.rows(Held)] == [ap.NAE_EVENT] * 2


def held(rig: Rig, vcpus: int = 2) -> Guest:
    """A guest whose second vCPU was started once, and holds."""
    guest = Guest(rig, asks, ((SVM_VMGEXIT_AP_HLT_LOOP, 0, 0, 7),), kind="es", irqchip=True, vcpus=vcpus)
    for message in (INIT_MODE, STARTUP):
        guest.vcpu(1).lapic.accept(message)
    for _ in range(2):
        with pytest.raises(OSError):
            guest.run(1)
    return guest


EVENTS: dict[str, tuple[tuple[int, ...], tuple[int, int] | None]] = {
    "INIT, SIPI": ((INIT_MODE, STARTUP), (0, 1)),
    "INIT, SIPI, SIPI": ((INIT_MODE, STARTUP | 9, STARTUP | 7), (0, 1)),
    "SIPI alone": ((STARTUP,), None),
    "INIT alone": ((INIT_MODE,), None),
    "NMI": ((0x400,), (0, 0)),
    "NMI, then INIT, SIPI": ((0x400, INIT_MODE, STARTUP), (0, 1)),
    "SIPI, then INIT": ((STARTUP, INIT_MODE), None),
}


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("design", PRESETS, ids=lambda design: design.name)
def test_what_a_held_guest_finds_when_it_goes_on(make_rig: Make, design: designs.Design, event: str) -> None:
    rig = make_rig(design)
    guest, (messages, found) = held(rig), EVENTS[event]
    for message in messages:
        guest.vcpu(1).lapic.accept(message)
    with pytest.raises(Blocked):
        guest.run(1)

    left = guest.read(OUT, 16)
    went_on = guest.mp_state(1) == 3 and not rig.file(guest.vm).vcpus[1].ghcb
    if event == "SIPI alone":  # it is dropped, but it ended the wait: as after an interrupt
        found = (0, 0)
    assert went_on == (found is not None)
    assert found is None or (int.from_bytes(left[:8], "little"), int.from_bytes(left[8:], "little")) == found


@pytest.mark.parametrize("design", PRESETS, ids=lambda design: design.name)
def test_the_first_sipi_completes_nothing(make_rig: Make, design: designs.Design) -> None:
    """The BSP has never had a SIPI: put into INIT_RECEIVED while it holds, it goes on with info2 = 0; posted, the flag decides."""
    rig = make_rig(design)
    guest = Guest(rig, asks, ((SVM_VMGEXIT_AP_HLT_LOOP, 0, 0, 7),), kind="es", irqchip=True)
    with pytest.raises(Blocked):
        guest.run()
    guest.set_mp_state(4)
    with pytest.raises(Blocked):
        guest.run()

    assert guest.read(OUT + 8, 1) == (b"\1" if design is POSTED else b"\0")


@pytest.mark.parametrize(("answer", "info2"), [(designs.RESET_HOLD, 1), (designs.RESET_HOLD_KIND, 0)], ids=repr)
def test_until_6_10_a_sipi_also_answers_a_request_that_is_no_hold(make_rig: Make, answer: Any, info2: int) -> None:
    """A port read is under way in user space when INIT and SIPI come: 6.1 writes into whatever GHCB is mapped."""
    rig = make_rig(replace(designs.LINUX_6_1, ap_boot=answer))
    port_in = (0x7B, 0x60 << 16 | 1 << 4 | 1, 0, 7)
    guest = Guest(rig, asks, (port_in,), kind="es", irqchip=True)
    assert guest.run() == 2  # KVM_EXIT_IO
    guest.vcpu().received_first_sipi = True
    guest.set_mp_state(4)
    with pytest.raises(Blocked):
        guest.run()

    assert guest.read(OUT + 8, 1)[0] == info2
