"""/dev/sev, asked for lengths: too little room, too much, and none."""

from __future__ import annotations

from errno import EFAULT, EIO, EPERM

import pytest
from sev_rig import UNTOUCHED, Rig, refuses

from sevlab.abi.cert import SevCert
from sevlab.abi.kvm import (
    SEV_FW_BLOB_MAX_SIZE,
    SEV_PDH_CERT_EXPORT,
    SEV_PEK_CSR,
    sev_issue_cmd,
    sev_user_data_pdh_cert_export,
    sev_user_data_pek_csr,
)
from sevlab.abi.sev import PlatformState, Status

CERT, CHAIN = 2084, 3 * 2084
NOWHERE = 0x6660_0000  # an address where nothing is mapped


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


@pytest.mark.parametrize("address, length", [(0, 0), (0, CERT), (0x1000, 0)])
def test_pek_csr_without_a_buffer_tells_its_length(rig: Rig, address: int, length: int) -> None:
    query = sev_user_data_pek_csr(address, length)

    with refuses(EIO, Status.INVALID_LEN):
        rig.issue(SEV_PEK_CSR, query)
    assert (query.length, rig.last.error) == (CERT, Status.INVALID_LEN)


def test_pek_csr_into_too_little_room_writes_the_length_and_no_byte(rig: Rig) -> None:
    room = rig.memory(b"\xaa" * 4096)
    query = sev_user_data_pek_csr(room, CERT - 1)

    with refuses(EIO, Status.INVALID_LEN):
        rig.issue(SEV_PEK_CSR, query)
    assert query.length == CERT
    assert rig.qemu.read(room, 4096) == b"\xaa" * 4096


def test_pek_csr_is_the_pek_without_signatures(rig: Rig) -> None:
    request, (_, chain) = SevCert.unpack(csr(rig)), export(rig)

    assert request.signed_bytes == SevCert.unpack(chain).signed_bytes


def test_a_length_beyond_16_kib_is_efault_there_and_the_pointer_is_met_first(rig: Rig) -> None:
    with refuses(EFAULT):
        rig.issue(SEV_PEK_CSR, sev_user_data_pek_csr(rig.memory(1 << 16), SEV_FW_BLOB_MAX_SIZE + 1))
    with refuses(EFAULT):
        rig.issue(SEV_PEK_CSR, NOWHERE)
    assert rig.last.error == UNTOUCHED
    down(rig)
    with refuses(EFAULT):
        rig.issue(SEV_PEK_CSR, sev_user_data_pek_csr(1, SEV_FW_BLOB_MAX_SIZE + 1))
    assert rig.kernel.ccp.state == PlatformState.UNINIT  # refused before anybody brought the platform up


def test_a_csr_to_nowhere_is_efault_with_the_length_already_written(rig: Rig) -> None:
    query = sev_user_data_pek_csr(NOWHERE, 4000)

    with refuses(EFAULT):
        rig.issue(SEV_PEK_CSR, query)
    assert (query.length, rig.last.error) == (CERT, 0)


@pytest.mark.parametrize("pdh, pdh_len, chain, chain_len", [(0, 1, 1, 1), (1, 0, 1, 1), (1, 1, 0, 1), (1, 1, 1, 0), (0, 0, 0, 0)])
def test_pdh_cert_export_with_anything_missing_tells_both_lengths(
    rig: Rig, pdh: int, pdh_len: int, chain: int, chain_len: int
) -> None:
    query = sev_user_data_pdh_cert_export(pdh * 0x1000, pdh_len * CERT, chain * 0x1000, chain_len * CHAIN)

    with refuses(EIO, Status.INVALID_LEN):
        rig.issue(SEV_PDH_CERT_EXPORT, query)
    assert (query.pdh_cert_len, query.cert_chain_len) == (CERT, CHAIN)
    assert rig.last.error == Status.INVALID_LEN


@pytest.mark.parametrize("pdh_len, chain_len", [(CERT - 1, CHAIN), (CERT, CHAIN - 1), (1, 1)])
def test_pdh_cert_export_into_too_little_room_writes_both_lengths_and_no_byte(rig: Rig, pdh_len: int, chain_len: int) -> None:
    pdh, chain = rig.memory(b"\xaa" * CERT), rig.memory(b"\xaa" * CHAIN)
    query = sev_user_data_pdh_cert_export(pdh, pdh_len, chain, chain_len)

    with refuses(EIO, Status.INVALID_LEN):
        rig.issue(SEV_PDH_CERT_EXPORT, query)
    assert (query.pdh_cert_len, query.cert_chain_len) == (CERT, CHAIN)
    assert rig.qemu.read(pdh, CERT) + rig.qemu.read(chain, CHAIN) == b"\xaa" * (CERT + CHAIN)


@pytest.mark.parametrize("pdh_len, chain_len", [(0x4001, CHAIN), (CERT, 0x4001), (0x4001, 0)])
def test_pdh_cert_export_of_more_than_16_kib_is_efault(rig: Rig, pdh_len: int, chain_len: int) -> None:
    with refuses(EFAULT):
        rig.issue(SEV_PDH_CERT_EXPORT, sev_user_data_pdh_cert_export(0x1000, pdh_len, 0x1000, chain_len))
    assert rig.last.error == UNTOUCHED


def test_pdh_cert_export_says_how_much_it_wrote_when_there_is_more_room(rig: Rig) -> None:
    pdh, chain = rig.memory(b"\xaa" * 4096), rig.memory(b"\xaa" * 8192)
    query = sev_user_data_pdh_cert_export(pdh, 4096, chain, 8192)
    rig.issue(SEV_PDH_CERT_EXPORT, query)

    assert (query.pdh_cert_len, query.cert_chain_len) == (CERT, CHAIN)
    assert rig.qemu.read(pdh + CERT, 10) == rig.qemu.read(chain + CHAIN, 10) == b"\xaa" * 10


def test_pdh_cert_export_needs_the_right_to_write_only_where_the_platform_is_down(rig: Rig) -> None:
    readonly, query = rig.qemu.open("/dev/sev", "r"), sev_user_data_pdh_cert_export()
    with refuses(EIO, Status.INVALID_LEN):
        rig.issue(SEV_PDH_CERT_EXPORT, query, fd=readonly)
    down(rig)

    with refuses(EPERM):
        rig.issue(SEV_PDH_CERT_EXPORT, NOWHERE, fd=readonly)
    with refuses(EFAULT):
        rig.issue(SEV_PDH_CERT_EXPORT, NOWHERE)
    assert rig.kernel.ccp.state == PlatformState.INIT  # the platform came up before the pointer was looked at
