"""AMD's key server for the emulated root."""

from __future__ import annotations

import sys
from subprocess import run

import pytest
from psp.machine import Machine

from sevlab import crypto, owner
from sevlab.abi.cert import USAGE_ARK, USAGE_ASK, AmdCert, SevCert, parse_amd_cert
from sevlab.abi.sev import Cmd
from sevlab.psp import kds


def verifies(cert: AmdCert, parent: AmdCert) -> bool:
    return crypto.rsa_pss_verify(parent.n, parent.e, cert.signed_bytes, cert.signature[::-1], "sha384")


def test_the_chain_holds_from_the_root_to_the_platform() -> None:
    machine = Machine().up()

    chain = kds.chain(machine.psp)

    assert list(chain) == ["ark", "ask", "cek", "oca", "pek", "pdh"]
    ark, ask = parse_amd_cert(chain["ark"]), parse_amd_cert(chain["ask"])
    cek = SevCert.unpack(chain["cek"])
    assert verifies(ark, ark) and verifies(ask, ark) and not verifies(ask, ask)
    assert crypto.rsa_pss_verify(ask.n, ask.e, cek.signed_bytes, cek.sig1[::-1], "sha384")
    assert cek.signed_bytes == machine.psp.identity.cek.cert.signed_bytes
    assert (cek.sig1_usage, cek.sig1_algo) == (USAGE_ASK, 0x101)


def test_the_root_names_itself_as_emulated() -> None:
    ark, ask = kds.ca_certificate("ark"), kds.ca_certificate("ask")

    assert (ark.header.key_id, ark.header.certifying_id, ark.header.key_usage) == (kds.ARK_ID, kds.ARK_ID, USAGE_ARK)
    assert (ask.header.key_id, ask.header.certifying_id, ask.header.key_usage) == (kds.ASK_ID, kds.ARK_ID, USAGE_ASK)
    assert b"emu" in kds.ARK_ID and b"emu" in kds.ASK_ID
    assert len(ark.pack()) == len(ask.pack()) == 1600
    assert "NOT SECRET" in kds._root()["warning"]


def test_an_owner_trusts_the_signed_chain_and_not_the_one_that_the_platform_exports() -> None:
    machine = Machine().up()
    chain = kds.chain(machine.psp)

    assert owner.verify_chain(chain).ok and owner.verify_chain(chain).emulated
    assert not owner.verify_chain(chain | {"cek": machine.psp.identity.cek.cert.pack()}).ok
    assert not owner.verify_chain(chain | {"pdh": kds.chain(Machine(seed=8).up().psp)["pdh"]}).ok


def test_the_same_platform_has_the_same_six_files_on_any_day() -> None:
    assert kds.chain(Machine().up().psp) == kds.chain(Machine().up().psp)
    assert kds.chain(Machine(seed=8).up().psp)["cek"] != kds.chain(Machine().up().psp)["cek"]


def test_a_platform_that_was_never_up_has_no_chain() -> None:
    with pytest.raises(ValueError, match="INIT"):
        kds.chain(Machine().psp)


def test_a_platform_that_was_reset_has_no_chain_until_it_is_up_again() -> None:
    machine = Machine().up()
    machine.must(Cmd.SHUTDOWN)
    machine.must(Cmd.PLATFORM_RESET)

    with pytest.raises(ValueError, match="no oca, no pek, no pdh"):
        kds.chain(machine.psp)


def test_a_cek_signed_for_one_chip_does_not_verify_for_another() -> None:
    one, two = kds.chain(Machine(seed=1).up().psp), kds.chain(Machine(seed=2).up().psp)
    ask = parse_amd_cert(one["ask"])
    forged = SevCert.unpack(two["cek"]).replace(sig1=SevCert.unpack(one["cek"]).sig1)

    assert not crypto.rsa_pss_verify(ask.n, ask.e, forged.signed_bytes, forged.sig1[::-1], "sha384")


def test_bringing_a_platform_up_reads_no_rsa_key() -> None:
    script = (
        "from psp.machine import Machine\nfrom sevlab.psp import kds\nMachine().up()\nassert not kds._root.cache_info().currsize"
    )

    assert run([sys.executable, "-c", script], env={"PYTHONPATH": ":".join(sys.path)}, check=False).returncode == 0
