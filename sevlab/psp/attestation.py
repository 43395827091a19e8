"""ATTESTATION: a report on what was launched, signed by the platform. Source: firmware.md 2.4, 4.8.

It carries the bare launch digest and no MAC: whoever verifies it needs the
certificate chain, and no key of the owner.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sevlab import crypto
from sevlab.abi.cert import le72
from sevlab.abi.session import AttestationReport
from sevlab.abi.sev import Attestation, Cmd, Status
from sevlab.psp.rules import need

if TYPE_CHECKING:
    from sevlab.psp.firmware import Psp


def report(pek_d: int, mnonce: bytes, digest: bytes, policy: int) -> AttestationReport:
    """The signed report of a guest with this launch digest (32 bytes) and policy, for the caller's nonce (16 bytes)."""
    unsigned = AttestationReport(mnonce, digest, policy)
    r, s = crypto.ecdsa_sign(pek_d, unsigned.signed_bytes)
    return unsigned.replace(sig_r=le72(r), sig_s=le72(s))


def attestation(psp: Psp, cmd: Attestation) -> Attestation:
    """ATTESTATION: report on a guest that has been measured."""
    guest = psp.guest(cmd.handle)  # INVALID_GUEST: no guest has this handle
    guest.allow(Cmd.ATTESTATION)  # INVALID_GUEST_STATE: nothing was measured yet
    need(cmd.len >= AttestationReport.SIZE, Status.INVALID_LEN, cmd, len=AttestationReport.SIZE)  # no room for a report
    hpa = psp.address(cmd.paddr, AttestationReport.SIZE)  # INVALID_ADDRESS: beyond the memory

    assert psp.keys.pek is not None
    signed = report(psp.keys.pek.d, cmd.mnonce, guest.launch_digest, guest.policy)

    psp.soc.dram.write(hpa, signed.pack())
    cmd.len = AttestationReport.SIZE
    return cmd
