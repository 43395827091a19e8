"""Who owns the platform: its certificates, an owner's request and import, the export."""

from __future__ import annotations

import pytest
from psp.machine import CHAIN, OUT, SESSION, Machine, exported, owner_oca

from sevlab.abi import sev
from sevlab.abi.cert import USAGE_INVALID, SevCert
from sevlab.abi.sev import Cmd, Status


def test_the_csr_is_the_pek_with_empty_slots() -> None:
    machine = Machine().up()
    pek = machine.psp.keys.pek
    assert pek is not None

    answer = machine.must(Cmd.PEK_CSR, sev.PekCsr(OUT, 5000))

    assert answer.len == 2084
    csr = SevCert.unpack(machine.dram.read(OUT, 2084))
    assert csr.signed_bytes == pek.cert.signed_bytes
    assert csr.signatures == ((USAGE_INVALID, 0, bytes(512)),) * 2


@pytest.mark.parametrize("length", [0, 1, 2083])
def test_a_csr_without_room_tells_the_length_and_writes_nothing(length: int) -> None:
    machine = Machine().up()
    query = sev.PekCsr(OUT, length)

    assert machine(Cmd.PEK_CSR, query) is Status.INVALID_LEN
    assert query.len == 2084
    assert machine.dram.read(OUT, 2084) == bytes(2084)


def test_an_owner_takes_over_and_the_chip_still_vouches() -> None:
    machine = Machine().up()
    before = machine.psp.keys
    assert before.pdh and before.pek

    machine.must(Cmd.PEK_CERT_IMPORT, machine.with_import())

    after = machine.psp.keys
    assert after.oca and after.pek and after.pdh
    assert (after.owner, after.oca) == (1, owner_oca()._replace(d=0))
    assert after.pek.cert.signed_bytes == before.pek.cert.signed_bytes
    assert [usage for usage, _, _ in after.pek.cert.signatures] == [0x1001, 0x1004]
    assert after.pek.cert.sig2 == before.pek.cert.sig2
    assert after.pdh.d != before.pdh.d


def test_the_chips_signature_goes_into_the_slot_that_the_owner_left_free() -> None:
    machine = Machine().up()
    request = machine.with_import()
    pek = SevCert.unpack(machine.dram.read(request.pek_paddr, 2084))
    swapped = pek.replace(
        sig1_usage=pek.sig2_usage,
        sig1_algo=pek.sig2_algo,
        sig1=pek.sig2,
        sig2_usage=pek.sig1_usage,
        sig2_algo=pek.sig1_algo,
        sig2=pek.sig1,
    )
    machine.dram.write(request.pek_paddr, swapped.pack())

    machine.must(Cmd.PEK_CERT_IMPORT, request)

    taken = machine.psp.keys.pek
    assert taken is not None
    assert [usage for usage, _, _ in taken.cert.signatures] == [0x1004, 0x1001]


def test_an_owned_platform_is_not_taken_again_until_it_makes_a_new_pek() -> None:
    machine = Machine().up()
    machine.must(Cmd.PEK_CERT_IMPORT, machine.with_import())
    assert machine(Cmd.PEK_CERT_IMPORT, machine.with_import()) is Status.ALREADY_OWNED

    machine.must(Cmd.PEK_GEN)

    assert machine.psp.keys.owner == 0
    machine.must(Cmd.PEK_CERT_IMPORT, machine.with_import())


def test_a_session_made_before_the_owner_came_is_worthless() -> None:
    machine = Machine().up()
    start = machine.with_session(0)
    session = machine.dram.read(SESSION, 128)
    machine.must(Cmd.PEK_CERT_IMPORT, machine.with_import())

    start = machine.with_session(0)
    machine.dram.write(start.session_paddr, session)

    assert machine(Cmd.LAUNCH_START, start) is Status.BAD_MEASUREMENT


def test_ownership_survives_in_the_flash() -> None:
    machine = Machine().up()
    machine.must(Cmd.PEK_CERT_IMPORT, machine.with_import())

    tomorrow = Machine(nv=machine.psp.nv.read()).up()

    assert tomorrow.must(Cmd.PLATFORM_STATUS, sev.PlatformStatus()).owner == 1
    assert exported(tomorrow) == exported(machine)


@pytest.mark.parametrize(("cmd", "kinds"), [(Cmd.PEK_GEN, {"oca", "pek", "pdh"}), (Cmd.PDH_GEN, {"pdh"})])
def test_which_keys_a_command_makes_anew(cmd: Cmd, kinds: set[str]) -> None:
    machine = Machine().up()
    before = machine.psp.keys

    machine.must(cmd)

    after = machine.psp.keys
    assert {kind for kind in ("oca", "pek", "pdh") if getattr(before, kind).d != getattr(after, kind).d} == kinds
    assert repr(Machine(nv=machine.psp.nv.read()).up().psp.keys) == repr(after)


def test_pdh_gen_works_while_guests_live_and_pek_gen_does_not() -> None:
    machine = Machine().up()
    machine.guest()

    assert machine(Cmd.PDH_GEN) is Status.SUCCESS
    assert machine(Cmd.PEK_GEN) is Status.INVALID_PLATFORM_STATE


def test_the_export_is_pdh_then_pek_oca_and_an_unsigned_cek() -> None:
    pdh, chain = exported(Machine().up())

    assert SevCert.unpack(pdh).usage == 0x1003
    certs = [SevCert.unpack(chain, at) for at in (0, 2084, 4168)]
    assert [cert.usage for cert in certs] == [0x1002, 0x1001, 0x1004]
    assert [usage for usage, _, _ in certs[2].signatures] == [USAGE_INVALID] * 2


@pytest.mark.parametrize(("pdh_len", "chain_len"), [(0, 0), (2083, 6252), (2084, 6251), (0, 6252), (2084, 0)])
def test_an_export_without_room_tells_both_lengths(pdh_len: int, chain_len: int) -> None:
    machine = Machine().up()
    query = sev.PdhCertExport(OUT, pdh_len, chain_paddr=CHAIN, chain_len=chain_len)

    assert machine(Cmd.PDH_CERT_EXPORT, query) is Status.INVALID_LEN
    assert (query.pdh_len, query.chain_len) == (2084, 6252)
    assert machine.dram.read(OUT, 2084) == bytes(2084)


@pytest.mark.parametrize("length", [64, 65, 128, 4096])
def test_the_id_has_64_bytes_whatever_room_there_is(length: int) -> None:
    machine = Machine()

    answer = machine.must(Cmd.GET_ID, sev.GetId(OUT, length))

    assert answer.len == 64
    assert machine.dram.read(OUT, 128) == machine.psp.identity.chip_id + bytes(64)
