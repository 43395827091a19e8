"""A guest and its key slot."""

from __future__ import annotations

import pytest
from psp.machine import DATA, OTHER, Machine

from sevlab import crypto
from sevlab.abi import sev
from sevlab.abi.sev import POLICY_ES, Cmd, GuestState, Status
from sevlab.hw import pages
from sevlab.psp.asids import AsidState
from sevlab.psp.guests import memory_key

TEXT = bytes(range(256)) * 32  # 8 KiB


def test_the_memory_key_is_derived_with_a_zero_in_the_label() -> None:
    label = b"sev-vm-encryption-key-0\0"
    plain = crypto.hmac256(b"s" * 32, b"\1\0\0\0" + label + b"\0" + bytes(4) + b"\x80\0\0\0")[:16]

    assert memory_key(b"s" * 32) == plain
    assert memory_key(b"s" * 32, channel=1) != plain


def test_activate_gives_the_guest_its_slot_at_once_and_deactivate_takes_it() -> None:
    machine = Machine().up()
    handle = machine.start()

    machine.must(Cmd.ACTIVATE, sev.Activate(handle, 100))
    assert machine.soc.engine.has(100)
    assert machine.psp.asids.states[100] == AsidState.USED
    machine.must(Cmd.DEACTIVATE, sev.Handle(handle))

    assert not machine.soc.engine.has(100)
    assert machine.psp.asids.states[100] == AsidState.DIRTY
    assert machine.psp.guests[handle].asid == 0


def test_a_slot_that_a_guest_left_is_handed_out_only_after_wbinvd_and_df_flush() -> None:
    machine = Machine().up()
    first = machine.guest()
    machine.must(Cmd.DEACTIVATE, sev.Handle(first))
    second = machine.start()

    assert machine(Cmd.ACTIVATE, sev.Activate(second, 100)) is Status.DFFLUSH_REQUIRED
    assert machine(Cmd.ACTIVATE, sev.Activate(second, 101)) is Status.SUCCESS  # this one was never used
    machine.flush()
    machine.must(Cmd.ACTIVATE, sev.Activate(first, 100))


@pytest.mark.parametrize("chip", ["naples", "rome", "milan"])
@pytest.mark.parametrize("es", [False, True])
def test_low_slots_are_for_es_guests_and_the_others_for_plain_ones(chip: str, es: bool) -> None:
    machine = Machine(chip).up()
    low, high = machine.soc.chip.min_asid, machine.soc.chip.max_asid

    for asid in (0, 1, low - 1, low, high, high + 1):
        handle = machine.start(POLICY_ES if es else 0)
        status = machine(Cmd.ACTIVATE, sev.Activate(handle, asid))
        fits = 0 < asid < low if es else low <= asid <= high
        assert (status is Status.SUCCESS) == fits
        assert fits or status is Status.INVALID_ASID


def test_a_slot_in_use_is_refused_to_a_guest_that_shares_the_key_too() -> None:
    machine = Machine().up()
    handle = machine.guest()
    sharer = machine.must(Cmd.LAUNCH_START, sev.LaunchStart(handle=handle)).handle

    assert machine(Cmd.ACTIVATE, sev.Activate(sharer, machine.psp.guests[handle].asid)) is Status.ASID_OWNED


def test_a_guest_has_one_slot() -> None:
    machine = Machine().up()
    handle = machine.guest()

    assert machine(Cmd.ACTIVATE, sev.Activate(handle, 200)) is Status.ACTIVE
    assert machine(Cmd.DECOMMISSION, sev.Handle(handle)) is Status.ACTIVE
    assert not machine.soc.engine.has(200)


def test_a_guest_that_lost_its_slot_reads_its_memory_again_in_another() -> None:
    machine = Machine().up()
    handle = machine.guest()
    machine.soc.engine.write(100, DATA, TEXT)
    machine.must(Cmd.DEACTIVATE, sev.Handle(handle))

    machine.must(Cmd.ACTIVATE, sev.Activate(handle, 300))

    assert machine.soc.engine.read(300, DATA, len(TEXT)) == TEXT


def test_decommission_forgets_the_keys_and_frees_the_handle() -> None:
    machine = Machine().up()
    keep, gone = machine.start(session=True), machine.start(session=True)
    guest = machine.psp.guests[gone]

    machine.must(Cmd.DECOMMISSION, sev.Handle(gone))

    assert (guest.vek, guest.tek, guest.tik, guest.state) == (bytes(32), bytes(16), bytes(16), GuestState.UNINIT)
    assert machine.start() == gone  # the lowest free handle
    assert machine.psp.guests[gone].serial > machine.psp.guests[keep].serial + 1


def test_guest_status_of_nobody_is_a_success_with_state_0() -> None:
    machine = Machine().up()

    status = machine.must(Cmd.GUEST_STATUS, sev.GuestStatus(77, policy=1, asid=2, state=3))

    assert status == sev.GuestStatus(77)


def test_guest_status_tells_policy_slot_and_state() -> None:
    machine = Machine().up()
    handle = machine.guest(policy=2, state=GuestState.LSECRET)

    assert machine.must(Cmd.GUEST_STATUS, sev.GuestStatus(handle)) == sev.GuestStatus(handle, policy=2, asid=100, state=2)


@pytest.mark.parametrize("size", [0x1000, 0x3000, 0x45000])
def test_copied_pages_read_the_same_at_their_new_address_and_have_other_bytes(size: int) -> None:
    machine = Machine(memory=8 << 20).up()
    handle, text = machine.guest(), (TEXT * 64)[:size]
    src, dst = 0x300000, 0x400000
    machine.soc.engine.write(100, src, text)

    machine.must(Cmd.COPY, sev.Copy(handle, size, src, dst))

    assert machine.soc.engine.read(100, dst, size) == text
    assert machine.dram.read(dst, size) != machine.dram.read(src, size)
    assert (machine.soc.pages.state(dst >> 12), machine.soc.pages.asid(dst >> 12)) == (pages.PRIVATE, 100)


@pytest.mark.parametrize("shift", [0, 0x1000, -0x1000])
def test_a_copy_onto_itself_succeeds_and_does_nothing(shift: int) -> None:
    machine = Machine().up()
    handle = machine.guest()
    machine.soc.engine.write(100, DATA, TEXT)
    before = machine.remembered()

    assert machine(Cmd.COPY, sev.Copy(handle, 0x2000, DATA, DATA + shift)) is Status.SUCCESS
    assert machine.remembered() == before


@pytest.mark.parametrize("length", [0, 1, 0xFFF, 0x1010])
def test_a_copy_of_no_whole_pages_is_refused(length: int) -> None:
    machine = Machine().up()

    assert machine(Cmd.COPY, sev.Copy(machine.guest(), length, DATA, OTHER)) is Status.INVALID_LEN


def test_a_copy_beyond_the_memory_is_refused_before_a_byte_moves() -> None:
    machine = Machine().up()
    handle = machine.guest()
    before = machine.remembered()

    assert machine(Cmd.COPY, sev.Copy(handle, 0x2000, DATA, machine.dram.size - 0x1000)) is Status.INVALID_ADDRESS
    assert machine.remembered() == before


def test_every_change_of_a_slot_is_a_row_so_that_the_slots_can_be_drawn_from_the_trace() -> None:
    machine = Machine().up()
    for _ in range(2):
        handle = machine.guest()
        machine.must(Cmd.DEACTIVATE, sev.Handle(handle))
    machine.guest(POLICY_ES)
    machine.flush()
    machine.guest()

    drawn = bytearray(machine.soc.chip.max_asid + 1)
    for row in machine.trace:
        if row["kind"] == "AsidsChanged":
            drawn[row["first"] : row["first"] + row["count"]] = bytes((row["state"],)) * row["count"]
    assert drawn == machine.psp.asids.states
