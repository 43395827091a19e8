"""ATTESTATION: a report that anybody with the chain can verify."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest
from psp.machine import OUT, Machine

from sevlab import crypto
from sevlab.abi import sev
from sevlab.abi.session import AttestationReport
from sevlab.abi.sev import Cmd, GuestState, Status
from sevlab.psp.attestation import report


def test_the_report_of_the_model_bit_for_bit(vectors: dict[str, Any]) -> None:
    """Origin: attestation_rfc6979; sev-tool's --validate_attestation accepts such a report (firmware.md 4.8)."""
    given, launch = vectors["attestation_rfc6979"], vectors["e2e_es2"]

    made = report(int(given["pek_priv_d"], 16), bytes.fromhex(launch["mnonce"]), bytes.fromhex(launch["ld"]), launch["policy"])

    assert base64.b64encode(made.pack()).decode() == given["report_b64"]


def test_a_report_names_nonce_digest_and_policy_and_verifies_under_the_pek() -> None:
    machine = Machine().up()
    handle = machine.guest(policy=2, state=GuestState.RUNNING)
    answer = machine.must(Cmd.ATTESTATION, sev.Attestation(handle, paddr=OUT, mnonce=b"0123456789abcdef", len=500))

    found = AttestationReport.unpack(machine.dram.read(OUT, 208))

    assert answer.len == 208
    assert (found.mnonce, found.policy) == (b"0123456789abcdef", 2)
    assert found.launch_digest == hashlib.sha256().digest()
    pek = machine.psp.keys.pek
    assert pek is not None
    assert crypto.ecdsa_verify(pek.cert.public, found.signed_bytes, *found.signature)
    assert not crypto.ecdsa_verify(pek.cert.public, found.replace(policy=3).signed_bytes, *found.signature)


@pytest.mark.parametrize("length", [0, 52, 207])
def test_asking_for_the_length_of_a_report_tells_it_and_writes_nothing(length: int) -> None:
    machine = Machine().up()
    query = sev.Attestation(machine.guest(state=GuestState.RUNNING), paddr=OUT + 0x100, len=length)

    assert machine(Cmd.ATTESTATION, query) is Status.INVALID_LEN
    assert query.len == 208
    assert machine.dram.read(OUT + 0x100, 208) == bytes(208)


def test_the_digest_of_a_guest_that_was_received_is_all_zero() -> None:
    machine = Machine().up()
    handle = machine.guest()
    machine.psp.guests[handle].state = GuestState.RUNNING  # as RECEIVE_FINISH would leave it: nothing was measured here

    machine.must(Cmd.ATTESTATION, sev.Attestation(handle, paddr=OUT, len=208))

    assert AttestationReport.unpack(machine.dram.read(OUT, 208)).launch_digest == bytes(32)


def test_a_guest_that_is_still_loading_has_nothing_to_report() -> None:
    machine = Machine().up()

    assert machine(Cmd.ATTESTATION, sev.Attestation(machine.guest(), paddr=OUT, len=208)) is Status.INVALID_GUEST_STATE
