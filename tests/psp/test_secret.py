"""LAUNCH_SECRET and LAUNCH_FINISH: the owner's packet, and the end of his channel."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psp.machine import DATA, HEADER, PACKET, SECRET, Machine

from sevlab.abi import sev
from sevlab.abi.session import PacketHeader
from sevlab.abi.sev import Cmd, GuestState, Status

PAGE = bytes(range(256)) * 16
ZERO = bytes(16)


def test_a_secret_arrives_under_the_guests_key_and_more_than_once() -> None:
    machine = Machine().up()
    handle = machine.guest(state=GuestState.LSECRET, session=True)

    for secret in (SECRET, SECRET[::-1], b"x" * 0x5000):
        machine.must(Cmd.LAUNCH_SECRET, machine.with_secret(handle, secret))
        assert machine.soc.engine.read(100, DATA, len(secret)) == secret
        assert machine.dram.read(DATA, len(secret)) != secret


def spoil_secret(machine: Machine, where: str, bit: int) -> None:
    at, size = {"header": (HEADER, PacketHeader.SIZE), "packet": (PACKET, len(SECRET))}[where]
    bit %= 8 * size
    machine.dram.write(at + bit // 8, bytes((machine.dram.read(at + bit // 8, 1)[0] ^ 1 << bit % 8,)))


@given(st.sampled_from(["header", "packet"]), st.integers(0, 8 * 52 - 1))
def test_a_secret_with_one_bit_changed_is_refused_and_the_memory_untouched(where: str, bit: int) -> None:
    machine = Machine().up()
    handle = machine.guest(state=GuestState.LSECRET, session=True)
    packet = machine.with_secret(handle)
    spoil_secret(machine, where, bit)
    before = machine.remembered()

    assert machine(Cmd.LAUNCH_SECRET, packet) is Status.BAD_MEASUREMENT
    assert machine.remembered() == before


@pytest.mark.parametrize("size", [16, 48])
def test_a_secret_cut_or_stretched_on_the_way_is_refused(size: int) -> None:
    machine = Machine().up()
    packet = machine.with_secret(machine.guest(state=GuestState.LSECRET, session=True))

    assert machine(Cmd.LAUNCH_SECRET, packet.replace(guest_len=size, trans_len=size)) is Status.BAD_MEASUREMENT


def test_a_secret_for_another_launch_of_the_same_owner_is_refused() -> None:
    machine = Machine().up()
    first = machine.guest(state=GuestState.LSECRET, session=True)
    second = machine.guest(state=GuestState.LSECRET, session=True)
    assert machine.psp.guests[first].tik == machine.psp.guests[second].tik

    assert machine(Cmd.LAUNCH_SECRET, machine.with_secret(first).replace(handle=second)) is Status.BAD_MEASUREMENT


def test_a_secret_of_one_page_too_many_is_refused_and_of_20_kib_is_not() -> None:
    machine = Machine().up()
    handle = machine.guest(state=GuestState.LSECRET, session=True)

    assert machine(Cmd.LAUNCH_SECRET, machine.with_secret(handle, bytes(0x5000))) is Status.SUCCESS
    assert machine(Cmd.LAUNCH_SECRET, machine.with_secret(handle, bytes(0x5010))) is Status.INVALID_LEN


def test_finish_closes_the_channel_and_keeps_the_digest() -> None:
    machine = Machine().up()
    handle = machine.guest(session=True)
    machine.load(handle, PAGE)
    machine.measured(handle)
    packet = machine.with_secret(handle)

    machine.must(Cmd.LAUNCH_FINISH, sev.Handle(handle))

    guest = machine.psp.guests[handle]
    assert (guest.tek, guest.tik) == (ZERO, ZERO)
    assert guest.launch_digest == hashlib.sha256(PAGE).digest()
    assert guest.state is GuestState.RUNNING
    assert machine(Cmd.LAUNCH_SECRET, packet) is Status.INVALID_GUEST_STATE


def test_a_guest_may_finish_without_a_slot() -> None:
    machine = Machine().up()
    handle = machine.start()
    machine.measured(handle)

    machine.must(Cmd.LAUNCH_FINISH, sev.Handle(handle))
