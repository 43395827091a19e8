"""LAUNCH_MEASURE, the attestation report and LAUNCH_SECRET: lengths, rules, what is bound to what."""

from __future__ import annotations

from errno import EBADF, EFAULT, EINVAL, EIO, ENOMEM, ENOTTY
from typing import Any

import pytest
from sev_rig import UNTOUCHED, Rig, refuses

from sevlab.abi.kvm import (
    KVM_SEV_GET_ATTESTATION_REPORT,
    KVM_SEV_LAUNCH_MEASURE,
    KVM_SEV_LAUNCH_SECRET,
    kvm_sev_attestation_report,
    kvm_sev_launch_measure,
    kvm_sev_launch_secret,
)
from sevlab.abi.session import AttestationReport, PacketHeader, packet_message
from sevlab.abi.sev import GuestState, Status
from sevlab.crypto import aes_ctr, hmac256

PAGE = 4096
NOWHERE = 0x6660_0000


def scattered(rig: Rig, count: int) -> int:
    """`count` pages of the process, no two of them neighbours in the machine: their hva."""
    one, two = rig.qemu.mmap(count * PAGE), rig.qemu.mmap(count * PAGE)
    for page in range(count):
        rig.qemu.write(one + page * PAGE, b"\1")
        rig.qemu.write(two + page * PAGE, b"\2")
    assert all(hpa(rig, one + PAGE * (i + 1)) - hpa(rig, one + PAGE * i) == 2 * PAGE for i in range(count - 1))
    return one


def hpa(rig: Rig, hva: int) -> int:
    return rig.qemu.task.mm.translate(hva)


# ------------------------------------------------------------------ LAUNCH_MEASURE, attestation

REPORTS = pytest.mark.parametrize(
    "id, kind, size",
    [(KVM_SEV_LAUNCH_MEASURE, kvm_sev_launch_measure, 48), (KVM_SEV_GET_ATTESTATION_REPORT, kvm_sev_attestation_report, 208)],
    ids=["measure", "report"],
)


def ready(rig: Rig, id: int) -> int:
    """A VM in a state in which the command may run."""
    vm = rig.started()
    if id == KVM_SEV_GET_ATTESTATION_REPORT:
        rig.measure(vm)
    return vm


@REPORTS
def test_length_zero_asks_for_the_length(rig: Rig, id: int, kind: Any, size: int) -> None:
    vm, query = ready(rig, id), kind(uaddr=NOWHERE)
    state = rig.psp.guests[1].state

    with refuses(EIO, Status.INVALID_LEN):
        rig.op(vm, id, query)
    assert (query.len, rig.last.error, rig.psp.guests[1].state) == (size, Status.INVALID_LEN, state)


@REPORTS
def test_a_null_address_with_a_length_is_a_query_whose_answer_is_lost(rig: Rig, id: int, kind: Any, size: int) -> None:
    vm, query = ready(rig, id), kind(len=77)

    with refuses(EIO, Status.INVALID_LEN):
        rig.op(vm, id, query)
    assert query.len == 77


@REPORTS
def test_a_length_that_is_too_small_is_refused_and_not_corrected(rig: Rig, id: int, kind: Any, size: int) -> None:
    vm, room = ready(rig, id), rig.memory(b"\xaa" * PAGE)
    query = kind(uaddr=room, len=size - 1)

    with refuses(EIO, Status.INVALID_LEN):
        rig.op(vm, id, query)
    assert (query.len, rig.qemu.read(room, PAGE)) == (size - 1, b"\xaa" * PAGE)


@REPORTS
def test_more_room_than_needed_is_filled_with_zeros_and_the_length_corrected(rig: Rig, id: int, kind: Any, size: int) -> None:
    vm, room = ready(rig, id), rig.memory(b"\xaa" * PAGE)
    query = kind(uaddr=room, len=256)
    rig.op(vm, id, query)

    assert (query.len, rig.last.error) == (size, 0)
    assert rig.qemu.read(room + size, 300 - size) == bytes(256 - size) + b"\xaa" * 44


@REPORTS
def test_rules_of_a_report_in_their_order(rig: Rig, id: int, kind: Any, size: int) -> None:
    with refuses(ENOTTY):
        rig.op(rig.vm(), id, NOWHERE)
    vm = rig.init()
    with refuses(EFAULT):
        rig.op(vm, id, NOWHERE)
    with refuses(EINVAL):  # too much room, and no START
        rig.op(vm, id, kind(uaddr=rig.memory(0x5000), len=0x4001))
    query = kind(uaddr=rig.memory(PAGE), len=PAGE)
    with refuses(EBADF):
        rig.op(vm, id, query)
    assert (query.len, rig.last.error) == (PAGE, UNTOUCHED)


@REPORTS
def test_a_query_before_start_is_ebadf_and_its_length_becomes_zero(rig: Rig, id: int, kind: Any, size: int) -> None:
    vm, query = rig.init(), kind()
    with refuses(EBADF):
        rig.op(vm, id, query)

    assert (query.len, rig.last.error) == (0, UNTOUCHED)


def test_a_measurement_to_nowhere_is_taken_all_the_same(rig: Rig) -> None:
    vm, query = rig.started(), kvm_sev_launch_measure(uaddr=NOWHERE, len=100)
    with refuses(EFAULT):
        rig.op(vm, KVM_SEV_LAUNCH_MEASURE, query)

    assert (query.len, rig.last.error) == (48, 0)
    assert rig.status(vm).state == GuestState.LSECRET


def test_measuring_twice_is_the_wrong_state(rig: Rig) -> None:
    vm = rig.started()
    rig.measure(vm)

    with refuses(EIO, Status.INVALID_GUEST_STATE):
        rig.measure(vm)
    assert rig.last.error == Status.INVALID_GUEST_STATE


def test_the_report_carries_the_callers_nonce_and_changes_no_state(rig: Rig) -> None:
    vm, room = ready(rig, KVM_SEV_GET_ATTESTATION_REPORT), rig.memory(PAGE)
    rig.op(vm, KVM_SEV_GET_ATTESTATION_REPORT, kvm_sev_attestation_report(mnonce=b"n" * 16, uaddr=room, len=208))
    report = AttestationReport.unpack(rig.qemu.read(room, 208))

    assert report.mnonce == b"n" * 16
    assert rig.status(vm).state == GuestState.LSECRET


# ------------------------------------------------------------------ LAUNCH_SECRET


def packet(rig: Rig, payload: bytes) -> tuple[bytes, bytes]:
    """Header and ciphertext for guest 1, made with its keys as an owner would make them."""
    guest, iv = rig.psp.guests[1], b"\x11" * 16
    ciphertext = aes_ctr(guest.tek, iv, payload)
    message = packet_message(1, 0, iv, len(payload), len(payload), ciphertext, guest.measure)
    return PacketHeader(flags=0, iv=iv, mac=hmac256(guest.tik, message)).pack(), ciphertext


def inject(rig: Rig, vm: int, header: bytes, ciphertext: bytes, hva: int) -> None:
    secret = kvm_sev_launch_secret(
        rig.qemu.put(header), len(header), 0, hva, len(ciphertext), 0, rig.qemu.put(ciphertext), len(ciphertext)
    )
    rig.op(vm, KVM_SEV_LAUNCH_SECRET, secret)


def test_a_secret_lies_in_the_guests_memory_under_the_guests_key(rig: Rig) -> None:
    vm, hva = rig.started(), rig.memory(bytes(PAGE))
    rig.measure(vm)
    inject(rig, vm, *packet(rig, b"correct horse battery staple    "), hva + 64)

    assert rig.soc.engine.read(100, hpa(rig, hva + 64), 32) == b"correct horse battery staple    "
    assert rig.qemu.read(hva + 64, 32) != b"correct horse battery staple    "


def test_secret_has_its_rules_in_this_order(rig: Rig) -> None:
    with refuses(ENOTTY):
        rig.op(rig.vm(), KVM_SEV_LAUNCH_SECRET, NOWHERE)
    vm, place, loose, blob = rig.init(), rig.memory(bytes(PAGE)), scattered(rig, 2), rig.memory(0x5000)
    with refuses(EFAULT):
        rig.op(vm, KVM_SEV_LAUNCH_SECRET, NOWHERE)

    def secret(hdr: int, hdr_len: int, guest: int, guest_len: int, trans: int, trans_len: int) -> kvm_sev_launch_secret:
        return kvm_sev_launch_secret(hdr, hdr_len, 0, guest, guest_len, 0, trans, trans_len)

    for given_secret, code in [
        (secret(0, 0, place, 0, NOWHERE, 16), EINVAL),  # no guest memory, and a packet to nowhere
        (secret(0, 0, NOWHERE, 16, 0, 0), ENOMEM),  # guest memory that is not there, and no packet
        (secret(0, 0, loose, 2 * PAGE, NOWHERE, 16), EINVAL),  # not contiguous, and a packet to nowhere
        (secret(NOWHERE, 52, place, 16, 0, 16), EINVAL),  # no packet, and a header to nowhere
        (secret(0, 52, place, 16, NOWHERE, 16), EFAULT),  # a packet to nowhere, and no header
        (secret(0, 52, place, 16, blob, 0x4001), EINVAL),  # more than 16 KiB
        (secret(blob, 0x4001, place, 16, blob, 16), EINVAL),  # a header of more than 16 KiB, and no START
        (secret(NOWHERE, 52, place, 16, blob, 16), EFAULT),  # a header to nowhere, and no START
        (secret(blob, 52, place, 16, blob, 16), EBADF),  # no START
    ]:
        with refuses(code):
            rig.op(vm, KVM_SEV_LAUNCH_SECRET, given_secret)
        assert rig.last.error == UNTOUCHED
    rig.start(vm)
    with refuses(EIO, Status.INVALID_GUEST_STATE):
        rig.op(vm, KVM_SEV_LAUNCH_SECRET, secret(blob, 52, place, 16, blob, 16))
    rig.measure(vm)
    with refuses(EIO, Status.BAD_MEASUREMENT):
        rig.op(vm, KVM_SEV_LAUNCH_SECRET, secret(blob, 52, place, 16, blob, 16))
    assert rig.soc.pages.pinned() == 0


def test_a_secret_over_two_pages_depends_on_where_the_hosts_memory_lies(rig: Rig) -> None:
    vm, neighbours, loose = rig.started(), rig.memory(bytes(2 * PAGE)), scattered(rig, 2)
    rig.measure(vm)
    header, ciphertext = packet(rig, bytes(64))
    inject(rig, vm, header, ciphertext, neighbours + PAGE - 32)

    with refuses(EINVAL):
        inject(rig, vm, header, ciphertext, loose + PAGE - 32)
