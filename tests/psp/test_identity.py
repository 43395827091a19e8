"""The chip's keys: derived as the firmware derives them, from the seed and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from psp.machine import Machine

from sevlab import crypto
from sevlab.abi import sev
from sevlab.abi.cert import ALGO_ECDH_SHA256, ALGO_ECDSA_SHA256, USAGE_CEK, USAGE_OCA, USAGE_PDH, USAGE_PEK, ecdsa_numbers
from sevlab.abi.sev import Cmd
from sevlab.crypto import Stream
from sevlab.psp.identity import Identity, cek_scalar, chip_id, unsigned
from sevlab.psp.store import Keys


def test_chip_id_and_endorsement_key_of_a_fused_key(vectors: dict[str, Any]) -> None:
    """Origin: cek_derive, an independent model of firmware 1.55's derivation."""
    given = vectors["cek_derive"]
    cuk = bytes.fromhex(given["cuk"])

    assert chip_id(cuk).hex() == given["get_id"]
    d = cek_scalar(cuk)
    assert d == int(given["cek_d"], 16)
    assert crypto.p384_public(d)[0] == int(given["cek_qx"], 16)


def keys_of(seed: int, **psp: Any) -> Keys:
    return Machine(seed=seed, **psp).up().psp.keys


def test_the_same_seed_is_the_same_platform_tomorrow() -> None:
    assert repr(keys_of(7)) == repr(keys_of(7))


@pytest.mark.parametrize("kind", ["oca", "pek", "pdh"])
def test_another_seed_is_another_platform(kind: str) -> None:
    assert getattr(keys_of(7), kind).d != getattr(keys_of(8), kind).d


def test_what_else_was_drawn_does_not_change_the_platforms_keys() -> None:
    machine = Machine()
    for label in ("psp/pdh", "psp/cuk", "anything"):
        machine.soc.stream.draw(label, 99)
    busy = machine.up()
    busy.guest()

    assert repr(busy.psp.keys) == repr(keys_of(7))
    assert busy.psp.identity.chip_id == Machine(seed=7).psp.identity.chip_id


def test_two_platforms_of_one_seed_and_two_versions_have_the_same_keys_and_other_certificates() -> None:
    old, new = keys_of(7, api=(0, 22, 0)), keys_of(7)

    for kind in ("oca", "pek", "pdh"):
        assert getattr(old, kind).d == getattr(new, kind).d
        assert (getattr(old, kind).cert.api_major, getattr(old, kind).cert.api_minor) == (0, 22)
        assert (getattr(new, kind).cert.api_major, getattr(new, kind).cert.api_minor) == (0, 24)


def test_every_certificate_names_its_usage_its_algorithm_and_its_signers() -> None:
    machine = Machine().up()
    oca, pek, pdh = machine.psp.keys.oca, machine.psp.keys.pek, machine.psp.keys.pdh
    assert oca and pek and pdh
    shape = {
        USAGE_OCA: (oca.cert, ALGO_ECDSA_SHA256, [(oca, 1)]),
        USAGE_PEK: (pek.cert, ALGO_ECDSA_SHA256, [(oca, 1), (machine.psp.identity.cek, 2)]),
        USAGE_PDH: (pdh.cert, ALGO_ECDH_SHA256, [(pek, 1)]),
        USAGE_CEK: (machine.psp.identity.cek.cert, ALGO_ECDSA_SHA256, []),
    }

    for usage, (cert, algo, signers) in shape.items():
        assert (cert.usage, cert.algo, cert.version, cert.reserved, cert.pad) == (usage, algo, 1, 0, bytes(880))
        for signer, slot in signers:
            named, by, signature = cert.signatures[slot - 1]
            assert (named, by) == (signer.cert.usage, ALGO_ECDSA_SHA256)
            assert crypto.ecdsa_verify(signer.cert.public, cert.signed_bytes, *ecdsa_numbers(signature))
        for empty in cert.signatures[len(signers) :]:
            assert empty == (0x1000, 0, bytes(512))


def test_the_endorsement_certificate_says_api_0_14_as_amds_do() -> None:
    cert = Identity(Stream(1), (0, 24, 15)).cek.cert

    assert (cert.api_major, cert.api_minor) == (0, 14)


def test_an_unsigned_copy_differs_in_its_slots_only() -> None:
    pek = keys_of(7).pek
    assert pek is not None

    bare = unsigned(pek.cert)

    assert bare.signed_bytes == pek.cert.signed_bytes
    assert bare.signatures == ((0x1000, 0, bytes(512)),) * 2
    assert pek.cert.sig1_usage == USAGE_OCA  # the original kept its own


def test_nothing_is_computed_before_it_is_asked_for() -> None:
    assert not set(vars(Machine().psp.identity)) & {"cuk", "chip_id", "cek"}


def test_get_id_answers_in_every_state_and_is_the_same_after_a_reset() -> None:
    machine = Machine()
    found = []
    for cmd in (Cmd.NOP, Cmd.PLATFORM_RESET, Cmd.INIT, Cmd.SHUTDOWN):
        machine.must(cmd, sev.Init() if cmd == Cmd.INIT else None)
        machine.must(Cmd.GET_ID, sev.GetId(0x9000, 64))
        found.append(machine.dram.read(0x9000, 64))

    assert len(set(found)) == 1
