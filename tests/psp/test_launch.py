"""LAUNCH_*: what is measured, what is encrypted, what the owner's secret needs."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psp.machine import DATA, HEADER, MIB, OUT, PACKET, SECRET, TEK, TIK, TMR, Machine, owner_packet

from sevlab.abi import sev
from sevlab.abi.sev import POLICY_ES, POLICY_NOKS, Cmd, Status
from sevlab.hw import pages
from sevlab.hw.crc import crc64
from sevlab.psp.launch import GuestMade, Loaded

PAGE = bytes(range(256)) * 16
ZERO = bytes(16)


def expected(machine: Machine, tik: bytes, policy: int, loaded: bytes, mnonce: bytes) -> bytes:
    """The owner's own computation, firmware.md 4.6."""
    message = b"\x04" + bytes(machine.psp.api) + policy.to_bytes(4, "little") + hashlib.sha256(loaded).digest() + mnonce
    return hmac.digest(tik, message, "sha256")


# ------------------------------------------------- LAUNCH_START


def test_without_a_session_the_transport_keys_are_zero_and_anybody_can_forge() -> None:
    machine = Machine().up()
    handle = machine.guest()
    machine.load(handle, PAGE)

    sealed = machine.measured(handle)

    assert sealed.measure == expected(machine, ZERO, 0, PAGE, sealed.mnonce)
    header, packet = owner_packet(ZERO, ZERO, SECRET, sealed.measure)
    machine.dram.write(HEADER, header.pack())
    machine.dram.write(PACKET, packet)
    machine.must(
        Cmd.LAUNCH_SECRET,
        sev.Packet(handle, hdr_paddr=HEADER, hdr_len=52, guest_paddr=DATA, guest_len=32, trans_paddr=PACKET, trans_len=32),
    )


@pytest.mark.parametrize("policy", [0xFFFFFFFB, 0xFFFF0000, 0x8000, 0xFFC0])
def test_without_a_session_no_policy_is_looked_at(policy: int) -> None:
    machine = Machine().up()

    handle = machine.start(policy)

    assert machine.psp.guests[handle].policy == policy


@pytest.mark.parametrize("bit", range(6, 16))
def test_with_a_session_every_reserved_policy_bit_is_refused(bit: int) -> None:
    machine = Machine().up()

    assert machine(Cmd.LAUNCH_START, machine.with_session(1 << bit)) is Status.POLICY_FAILURE


@pytest.mark.parametrize(
    ("major", "minor", "fits"), [(0, 0, True), (0, 24, True), (0, 25, False), (0, 255, False), (1, 0, False), (1, 24, False)]
)
def test_the_policys_version_is_the_only_barrier_to_old_firmware(major: int, minor: int, fits: bool) -> None:
    machine = Machine().up()

    status = machine(Cmd.LAUNCH_START, machine.with_session(major << 16 | minor << 24))

    assert status is (Status.SUCCESS if fits else Status.POLICY_FAILURE)


def test_new_firmware_of_a_higher_major_version_satisfies_any_older_minor() -> None:
    machine = Machine(api=(1, 0, 0)).up()

    machine.must(Cmd.LAUNCH_START, machine.with_session(0xFF000000))


def test_a_certificate_signed_by_nobody_or_anybody_is_accepted_alike() -> None:
    machine = Machine().up()
    start = machine.with_session(0)
    cert = bytearray(machine.dram.read(start.dh_cert_paddr, 2084))
    machine.must(Cmd.LAUNCH_START, start)
    cert[0x414:] = bytes(range(256)) * 4 + bytes(len(cert) - 0x414 - 1024)
    start = machine.with_session(0)
    machine.dram.write(start.dh_cert_paddr, cert)

    machine.must(Cmd.LAUNCH_START, start)


def test_a_guest_may_share_the_memory_key_of_another_but_not_its_session() -> None:
    machine = Machine().up()
    first = machine.guest(session=True)

    second = machine.must(Cmd.LAUNCH_START, sev.LaunchStart(handle=first)).handle

    assert second != first
    assert machine.psp.guests[second].vek == machine.psp.guests[first].vek
    assert (machine.psp.guests[second].tik, machine.psp.guests[first].tik) == (ZERO, TIK)
    machine.must(Cmd.ACTIVATE, sev.Activate(second, 200))
    machine.soc.engine.write(100, DATA, PAGE)
    assert machine.soc.engine.read(200, DATA, len(PAGE)) == PAGE


@pytest.mark.parametrize(("first", "second"), [(POLICY_NOKS, POLICY_NOKS), (0, 1), (1, 0)])
def test_a_key_is_not_shared_against_the_policy(first: int, second: int) -> None:
    machine = Machine().up()
    handle = machine.start(first)

    assert machine(Cmd.LAUNCH_START, sev.LaunchStart(handle=handle, policy=second)) is Status.POLICY_FAILURE
    assert len(machine.psp.guests) == 1


def test_handles_are_the_lowest_free_of_1_to_1024() -> None:
    machine = Machine().up()
    handles = [machine.start() for _ in range(1024)]
    assert handles == list(range(1, 1025))
    assert machine(Cmd.LAUNCH_START, sev.LaunchStart()) is Status.RESOURCE_LIMIT

    for gone in (700, 3):
        machine.must(Cmd.DECOMMISSION, sev.Handle(gone))

    assert [machine.start(), machine.start()] == [3, 700]


def test_an_es_guest_needs_a_platform_brought_up_for_es() -> None:
    assert Machine().up(es=False)(Cmd.LAUNCH_START, sev.LaunchStart(policy=POLICY_ES)) is Status.UNSUPPORTED


# ------------------------------------------------- LAUNCH_UPDATE_*


def test_what_is_loaded_is_ciphertext_on_the_bus_and_plaintext_in_the_guest() -> None:
    machine = Machine().up()
    handle = machine.guest()

    machine.load(handle, PAGE)

    assert machine.dram.read(DATA, 4096) != PAGE
    assert machine.soc.engine.read(100, DATA, 4096) == PAGE
    assert (machine.soc.pages.state(DATA >> 12), machine.soc.pages.asid(DATA >> 12)) == (pages.PRIVATE, 100)


def test_what_was_loaded_and_for_whom_can_be_read_from_the_trace() -> None:
    machine = Machine().up()
    handle = machine.guest(POLICY_ES)
    sharer = machine.must(Cmd.LAUNCH_START, sev.LaunchStart(handle=handle, policy=POLICY_ES)).handle
    machine.load(handle, PAGE)
    machine.must(Cmd.LAUNCH_UPDATE_VMSA, sev.LaunchUpdate(handle, paddr=OUT, len=4096))

    made = [(row["handle"], row["shares"]) for row in machine.trace.rows(GuestMade)]
    loaded = [(row["handle"], row["hpa"], row["size"], row["vmsa"]) for row in machine.trace.rows(Loaded)]

    assert made == [(handle, 0), (sharer, handle)]
    assert loaded == [(handle, DATA, 4096, 0), (handle, OUT, 4096, 1)]


def test_the_c_bit_in_an_address_does_not_move_it() -> None:
    machine = Machine().up()
    handle = machine.guest()
    machine.dram.write(DATA, PAGE)

    machine.must(Cmd.LAUNCH_UPDATE_DATA, sev.LaunchUpdate(handle, paddr=DATA | 1 << 47, len=4096))

    assert machine.soc.engine.read(100, DATA, 4096) == PAGE


@given(st.lists(st.binary(min_size=1, max_size=64).map(lambda text: text * 16), max_size=6), st.booleans())
def test_the_digest_is_the_hash_of_the_text_in_order_wherever_it_lay_and_however_it_was_cut(
    chunks: list[bytes], whole: bool
) -> None:
    machine = Machine().up()
    handle = machine.guest()
    at = DATA
    for chunk in [b"".join(chunks)] if whole and any(chunks) else chunks:
        machine.load(handle, chunk, at)
        at += 16 * len(chunk)

    sealed = machine.measured(handle)

    assert sealed.measure == expected(machine, ZERO, 0, b"".join(chunks), sealed.mnonce)


def test_loading_a_page_twice_measures_its_ciphertext() -> None:
    machine = Machine().up()
    handle = machine.guest()
    machine.load(handle, PAGE)
    ciphertext = machine.dram.read(DATA, 4096)

    machine.must(Cmd.LAUNCH_UPDATE_DATA, sev.LaunchUpdate(handle, paddr=DATA, len=4096))

    assert machine.psp.guests[handle].digest.digest() == hashlib.sha256(PAGE + ciphertext).digest()


def test_registers_are_measured_before_the_firmware_writes_into_them() -> None:
    machine = Machine().up()
    handle = machine.guest(POLICY_ES)
    machine.dram.write(DATA, PAGE)

    machine.must(Cmd.LAUNCH_UPDATE_VMSA, sev.LaunchUpdate(handle, paddr=DATA, len=4096))

    assert machine.psp.guests[handle].digest.digest() == hashlib.sha256(PAGE).digest()
    page = machine.soc.engine.read(1, DATA, 4096)
    block = int.from_bytes(page[0x388:0x390], "little")
    assert page[:0x380] == PAGE[:0x380] and page[0x380:0x388] == bytes(8) and page[0x390:] == PAGE[0x390:]
    assert TMR <= block < TMR + MIB
    assert int.from_bytes(machine.dram.read(block, 8), "little") == crc64(page[:0xFC0])
    assert (machine.soc.pages.state(DATA >> 12), machine.soc.pages.asid(DATA >> 12)) == (pages.VMSA, 1)


def test_every_register_page_has_a_check_value_of_its_own_and_a_second_update_keeps_its_place() -> None:
    machine = Machine().up()
    first, second = machine.guest(POLICY_ES), machine.guest(POLICY_ES)
    for handle, hpa in ((first, DATA), (first, DATA + 0x1000), (second, DATA + 0x2000), (first, DATA)):
        machine.must(Cmd.LAUNCH_UPDATE_VMSA, sev.LaunchUpdate(handle, paddr=hpa, len=4096))

    blocks = [block for guest in machine.psp.guests.values() for block in guest.crc_blocks.values()]

    assert len(set(blocks)) == len(blocks) == 3


def test_a_full_tmr_refuses_another_register_page() -> None:
    machine = Machine().up()
    handle = machine.guest(POLICY_ES)
    machine.psp.guests[handle].crc_blocks = {1 << 40 | block: block for block in range(TMR, TMR + MIB, 64)}
    before = machine.remembered()

    assert machine(Cmd.LAUNCH_UPDATE_VMSA, sev.LaunchUpdate(handle, paddr=DATA, len=4096)) is Status.RESOURCE_LIMIT
    assert machine.remembered() == before


@pytest.mark.parametrize("length", [1, 8, 15, 17, 4095, 4097])
def test_a_length_of_no_whole_blocks_is_refused_and_nothing_is_hashed(length: int) -> None:
    machine = Machine().up()
    handle = machine.guest()
    before = machine.remembered()

    assert machine(Cmd.LAUNCH_UPDATE_DATA, sev.LaunchUpdate(handle, paddr=DATA, len=length)) is Status.INVALID_LEN
    assert machine.remembered() == before


# ------------------------------------------------- LAUNCH_MEASURE


def test_a_measurement_is_a_mac_over_version_policy_digest_and_a_fresh_nonce() -> None:
    machine = Machine().up()
    handle = machine.guest(policy=1, session=True)
    machine.load(handle, PAGE)

    sealed = machine.measured(handle)

    assert sealed.measure == expected(machine, TIK, 1, PAGE, sealed.mnonce)
    assert sealed.mnonce != ZERO


def test_a_measurement_needs_no_slot() -> None:
    machine = Machine().up()

    machine.measured(machine.start())


@pytest.mark.parametrize("length", [0, 1, 32, 47])
def test_asking_for_the_length_of_a_measurement_takes_none(length: int) -> None:
    machine = Machine().up()
    handle = machine.guest()
    before = machine.remembered()
    query = sev.LaunchMeasure(handle, paddr=OUT, len=length)

    assert machine(Cmd.LAUNCH_MEASURE, query) is Status.INVALID_LEN
    assert query.len == 48
    assert machine.remembered() == before


def launched(seed: int = 7, ask: bool = False, secret: bool = False) -> bytes:
    """The measurement of a launch that may ask for the length first, and inject a secret after."""
    machine = Machine(seed=seed).up()
    handle = machine.guest(session=True)
    machine.load(handle, PAGE)
    if ask:
        machine(Cmd.LAUNCH_MEASURE, sev.LaunchMeasure(handle))
    sealed = machine.measured(handle)
    if secret:
        machine.must(Cmd.LAUNCH_SECRET, machine.with_secret(handle))
    return sealed.pack()


def test_the_same_launch_has_the_same_nonce_whatever_was_asked_before_or_comes_after() -> None:
    assert launched() == launched(ask=True) == launched(secret=True)
    assert launched() != launched(seed=8)


def test_two_guests_of_one_platform_have_two_nonces_and_two_keys() -> None:
    machine = Machine().up()
    first = machine.guest()
    one = machine.measured(first).mnonce
    vek = machine.psp.guests[first].vek
    machine.must(Cmd.DEACTIVATE, sev.Handle(first))
    machine.must(Cmd.DECOMMISSION, sev.Handle(first))
    second = machine.guest()

    assert second == first  # the same handle, and nothing else of the first
    assert machine.measured(second).mnonce != one
    assert machine.psp.guests[second].vek != vek


def test_no_key_of_a_guest_or_of_the_platform_is_in_the_trace() -> None:
    machine = Machine().up()
    handle = machine.guest(session=True)
    machine.load(handle, PAGE)
    machine.measured(handle)
    machine.must(Cmd.LAUNCH_SECRET, machine.with_secret(handle))
    guest, keys = machine.psp.guests[handle], machine.psp.keys
    secrets: list[Any] = [TEK, TIK, guest.vek, guest.measure, machine.psp.identity.cuk, SECRET]
    secrets += [key.d.to_bytes(48, "big") for key in (keys.oca, keys.pek, keys.pdh) if key]

    rows = repr(list(machine.trace)) + "".join(machine.trace.packed(kind)[0].hex() for kind in machine.trace._buffers)

    assert not [secret for secret in secrets if secret.hex() in rows or repr(secret) in rows]
