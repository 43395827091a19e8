"""/dev/sev: who may do what, how one asks for a length, and what comes back after a refusal."""

from __future__ import annotations

from collections.abc import Callable
from errno import EBUSY, EFAULT, EINVAL, EIO, ENODEV, ENOMEM, EPERM
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sev_rig import UNTOUCHED, Rig, refuses

from sevlab import crypto
from sevlab.abi.cert import ALGO_ECDSA_SHA256, USAGE_OCA, SevCert
from sevlab.abi.kvm import (
    ENOTSUPP,
    SEV_FACTORY_RESET,
    SEV_GET_ID,
    SEV_GET_ID2,
    SEV_ISSUE_CMD,
    SEV_MAX,
    SEV_PDH_CERT_EXPORT,
    SEV_PDH_GEN,
    SEV_PEK_CERT_IMPORT,
    SEV_PEK_CSR,
    SEV_PEK_GEN,
    SEV_PLATFORM_STATUS,
    SEV_STATUS_FLAGS_CONFIG_ES,
    sev_issue_cmd,
    sev_user_data_get_id,
    sev_user_data_get_id2,
    sev_user_data_pdh_cert_export,
    sev_user_data_pek_cert_import,
    sev_user_data_pek_csr,
    sev_user_data_status,
)
from sevlab.abi.sev import PlatformState, Status
from sevlab.kvm.fd import KvmError
from sevlab.kvm.ladder import ladder
from sevlab.kvm.sev_dev import COMMANDS, get_id2, pdh_cert_export, pek_csr
from sevlab.psp.firmware import CommandDone
from sevlab.psp.identity import certificate, signed
from sevlab.psp.store import Key

CERT, CHAIN = 2084, 3 * 2084
NOWHERE = 0x6660_0000  # an address where nothing is mapped
WRITERS = [SEV_FACTORY_RESET, SEV_PEK_GEN, SEV_PEK_CSR, SEV_PDH_GEN, SEV_PEK_CERT_IMPORT]


def status(rig: Rig) -> sev_user_data_status:
    answer = sev_user_data_status()
    rig.issue(SEV_PLATFORM_STATUS, answer)
    return answer


def down(rig: Rig) -> None:
    """The platform as after a boot without INIT."""
    rig.kernel.ccp.platform_shutdown(sev_issue_cmd())


def export(rig: Rig) -> tuple[bytes, bytes]:
    """The PDH and its chain."""
    pdh, chain = rig.memory(CERT), rig.memory(CHAIN)
    rig.issue(SEV_PDH_CERT_EXPORT, sev_user_data_pdh_cert_export(pdh, CERT, chain, CHAIN))
    return rig.qemu.read(pdh, CERT), rig.qemu.read(chain, CHAIN)


def csr(rig: Rig) -> bytes:
    room = rig.memory(CERT)
    rig.issue(SEV_PEK_CSR, sev_user_data_pek_csr(room, CERT))
    return rig.qemu.read(room, CERT)


# ---------------------------------------------------------------- the dispatcher


@given(st.integers(0, 0xFFFFFFFF).filter(lambda nr: nr != SEV_ISSUE_CMD))
def test_every_other_ioctl_number_is_einval(nr: int) -> None:
    rig = SHARED()

    with refuses(EINVAL):
        rig.qemu.ioctl(rig.sev, nr, 0)


_shared: list[Rig] = []


def SHARED() -> Rig:
    """One machine for a whole law, which changes nothing in it."""
    if not _shared:
        _shared.append(Rig())
    return _shared[0]


@pytest.mark.parametrize("cmd", [SEV_MAX, SEV_MAX + 1, 12, 100, 0xFFFFFFFF])
def test_an_unknown_command_is_einval_and_its_structure_stays_as_it_was(rig: Rig, cmd: int) -> None:
    with refuses(EINVAL):
        rig.issue(cmd)
    assert rig.last.error == UNTOUCHED


def test_a_bad_number_is_met_before_a_bad_pointer_and_a_bad_pointer_before_a_bad_command(rig: Rig) -> None:
    with refuses(EINVAL):
        rig.qemu.ioctl(rig.sev, 0xC0105301, NOWHERE)
    with refuses(EFAULT):
        rig.qemu.ioctl(rig.sev, SEV_ISSUE_CMD, NOWHERE)


def test_a_machine_without_the_processor_says_so_before_anything_else(rig: Rig) -> None:
    rig.kernel.ccp.psp, psp = None, rig.kernel.ccp.psp
    with refuses(ENODEV):
        rig.qemu.ioctl(rig.sev, 0x1234, NOWHERE)
    rig.kernel.ccp.psp = psp


@pytest.mark.parametrize("cmd", WRITERS)
def test_who_may_not_write_may_not_change_the_platform_and_is_told_so_first(rig: Rig, cmd: int) -> None:
    readonly, before = rig.qemu.open("/dev/sev", "r"), len(rig.rows(CommandDone))

    with refuses(EPERM):
        rig.issue(cmd, NOWHERE, fd=readonly)
    assert rig.last.error == UNTOUCHED
    assert len(rig.rows(CommandDone)) == before


def test_a_structure_that_cannot_be_written_back_is_efault_after_the_work_is_done(rig: Rig) -> None:
    hva, before, task = rig.qemu.put(sev_issue_cmd(cmd=SEV_PEK_GEN)), csr(rig), rig.qemu.task

    def fault(at: int, data: bytes) -> None:
        raise KvmError(EFAULT)

    write, task.write = task.write, fault
    with refuses(EFAULT):
        rig.qemu.ioctl(rig.sev, SEV_ISSUE_CMD, hva)
    task.write = write
    assert csr(rig) != before


# ---------------------------------------------------------------- status and keys


def test_platform_status_needs_no_right_to_write(rig: Rig) -> None:
    answer = sev_user_data_status()
    rig.issue(SEV_PLATFORM_STATUS, answer, fd=rig.qemu.open("/dev/sev", "r"))

    assert (answer.api_major, answer.api_minor, answer.build) == (0, 24, 15)
    assert (answer.state, answer.guest_count, answer.flags) == (PlatformState.INIT, 0, SEV_STATUS_FLAGS_CONFIG_ES)


def test_platform_status_counts_the_guests(rig: Rig) -> None:
    rig.started()
    second = rig.started()

    assert (status(rig).state, status(rig).guest_count) == (PlatformState.WORKING, 2)
    rig.qemu.close(second)
    assert status(rig).guest_count == 1


def test_platform_status_to_nowhere_is_efault_with_error_from_the_firmware(rig: Rig) -> None:
    with refuses(EFAULT):
        rig.issue(SEV_PLATFORM_STATUS, NOWHERE)
    assert rig.last.error == 0


def test_pek_gen_makes_new_keys_and_pdh_gen_only_a_new_pdh(rig: Rig) -> None:
    pdh, chain = export(rig)
    rig.issue(SEV_PDH_GEN)
    other, same = export(rig)
    rig.issue(SEV_PEK_GEN)
    _, new = export(rig)

    assert other != pdh
    assert same == chain
    assert new[:CERT] != chain[:CERT]
    assert new[2 * CERT :][16:1044] == chain[2 * CERT :][16:1044]  # the chip's own key stays


def test_pek_gen_while_a_guest_lives_is_the_firmwares_refusal(rig: Rig) -> None:
    rig.started()

    with refuses(EIO, Status.INVALID_PLATFORM_STATE):
        rig.issue(SEV_PEK_GEN)
    assert rig.last.error == Status.INVALID_PLATFORM_STATE


@pytest.mark.parametrize("cmd", [SEV_PEK_GEN, SEV_PDH_GEN])
def test_a_command_that_needs_the_platform_brings_it_up(rig: Rig, cmd: int) -> None:
    down(rig)
    rig.issue(cmd)

    assert rig.last.error == 0
    assert rig.kernel.ccp.state == PlatformState.INIT


# ---------------------------------------------------------------- factory reset


def test_factory_reset_takes_the_platform_down_and_makes_it_somebody_new(rig: Rig) -> None:
    _, before = export(rig)
    rig.issue(SEV_FACTORY_RESET)

    assert status(rig).state == PlatformState.UNINIT
    _, after = export(rig)  # which brings it up
    assert after[CERT : 2 * CERT] != before[CERT : 2 * CERT]


def test_factory_reset_while_a_guest_lives_is_ebusy_and_the_guest_goes_on(rig: Rig) -> None:
    vm = rig.started()

    with refuses(EBUSY):
        rig.issue(SEV_FACTORY_RESET)
    assert rig.last.error == 0  # the firmware was asked for its state
    assert rig.status(vm).state == 1


def test_factory_reset_of_a_platform_that_is_down_shuts_nothing_down(rig: Rig) -> None:
    down(rig)
    before = len(rig.rows(CommandDone))
    rig.issue(SEV_FACTORY_RESET)

    assert len(rig.rows(CommandDone)) == before + 2  # PLATFORM_STATUS, PLATFORM_RESET


# ---------------------------------------------------------------- an owner


def owned(rig: Rig) -> tuple[int, int]:
    """The platform's PEK signed by an OCA of somebody's own, both in the process's memory: (pek, oca)."""
    d, pek = crypto.p384_scalar(bytes(range(56))), SevCert.unpack(csr(rig))
    oca = Key(d, certificate((0, 24), USAGE_OCA, ALGO_ECDSA_SHA256, d))
    oca = Key(d, signed(oca.cert, 1, oca))
    return rig.memory(signed(pek, 1, oca).pack()), rig.memory(oca.cert.pack())


def test_two_blobs_are_asked_for_and_the_first_is_met_first(rig: Rig) -> None:
    good = rig.memory(CERT)
    for pek, pek_len, oca, oca_len, code in [
        (0, CERT, NOWHERE, CERT, EINVAL),
        (NOWHERE, CERT, 0, CERT, EFAULT),
        (good, 0, NOWHERE, CERT, EINVAL),
        (good, 0x4001, good, CERT, EINVAL),
        (good, CERT, good, 0x4001, EINVAL),
        (good, CERT, NOWHERE, CERT, EFAULT),
    ]:
        with refuses(code):
            rig.issue(SEV_PEK_CERT_IMPORT, sev_user_data_pek_cert_import(pek, pek_len, oca, oca_len))
        assert rig.last.error == UNTOUCHED


def test_a_certificate_of_another_length_is_for_the_firmware_to_refuse(rig: Rig) -> None:
    good = rig.memory(4096)

    with refuses(EIO, Status.INVALID_LEN):
        rig.issue(SEV_PEK_CERT_IMPORT, sev_user_data_pek_cert_import(good, CERT + 1, good, CERT))
    assert rig.last.error == Status.INVALID_LEN


# ---------------------------------------------------------------- the chip's id


def test_get_id2_tells_its_length_and_then_the_id(rig: Rig) -> None:
    query = sev_user_data_get_id2()
    with refuses(EIO, Status.INVALID_LEN):
        rig.issue(SEV_GET_ID2, query)
    assert query.length == 64
    query = sev_user_data_get_id2(rig.memory(64), 64)
    rig.issue(SEV_GET_ID2, query)

    assert rig.qemu.read(query.address, 64) == rig.psp.identity.chip_id


def test_get_id2_has_no_upper_bound_but_what_the_allocator_gives(rig: Rig) -> None:
    query = sev_user_data_get_id2(rig.memory(1 << 20), 1 << 20)
    rig.issue(SEV_GET_ID2, query)
    assert query.length == 64

    with refuses(ENOMEM):
        rig.issue(SEV_GET_ID2, sev_user_data_get_id2(query.address, 1 << 30))
    assert rig.last.error == UNTOUCHED


def test_get_id_always_has_room_for_two_sockets_and_warns_once(rig: Rig) -> None:
    answer = sev_user_data_get_id()
    rig.issue(SEV_GET_ID, answer)
    rig.issue(SEV_GET_ID, answer)

    assert answer.socket1 == rig.psp.identity.chip_id
    assert rig.kernel.dmesg.count("SEV_GET_ID command is deprecated, use SEV_GET_ID2") == 1


@pytest.mark.parametrize("cmd", [SEV_GET_ID, SEV_GET_ID2])
def test_firmware_before_0_16_has_no_id_and_the_kernel_leaks_its_own_errno(make_rig: Callable[..., Rig], cmd: int) -> None:
    with refuses(ENOTSUPP):
        make_rig(api=(0, 15, 1)).issue(cmd, NOWHERE)


# ---------------------------------------------------------------- the table


def test_every_command_of_the_header_has_a_row() -> None:
    assert sorted(COMMANDS) == list(range(SEV_MAX))


@pytest.mark.parametrize(
    "handler, codes",
    [
        (pek_csr, ["EPERM", "EFAULT", "EFAULT", "EFAULT", "EFAULT"]),
        (pdh_cert_export, ["EPERM", "EFAULT", "EFAULT", "EFAULT", "EFAULT", "EFAULT", "EFAULT"]),
        (get_id2, ["ENOTSUPP", "EFAULT", "ENOMEM", "EFAULT", "EFAULT"]),
    ],
)
def test_the_order_of_the_rules_is_the_kernels(handler: Any, codes: list[str]) -> None:
    assert [rung.code for rung in ladder(handler)] == codes


def test_an_owner_takes_the_platform_over_and_a_second_one_cannot(rig: Rig) -> None:
    pek, oca = owned(rig)
    imported = sev_user_data_pek_cert_import(pek, CERT, oca, CERT)
    rig.issue(SEV_PEK_CERT_IMPORT, imported)
    assert status(rig).flags & 1

    with refuses(EIO, Status.ALREADY_OWNED):
        rig.issue(SEV_PEK_CERT_IMPORT, imported)
    rig.issue(SEV_PEK_GEN)
    assert not status(rig).flags & 1
