"""The owner's end of the secure channel: two Diffie-Hellman halves, three key derivations, 128 bytes.

The firmware's end is `sevlab.psp.channel`; the two share the layouts of
`sevlab.abi.session` and nothing else, and each checks the other. Source:
firmware.md 4.5.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sevlab.abi import cert
from sevlab.abi import session as wire
from sevlab.abi.cert import SevCert
from sevlab.abi.sev import POLICY_RESERVED
from sevlab.crypto import Stream, aes_ctr, ecdh, ecdsa_sign, hmac256, kdf, p384_public, p384_scalar
from sevlab.owner.certificate import certificate_fault
from sevlab.owner.given import need_bytes, need_policy, need_trace
from sevlab.trace import Event, Trace, name, u32

SHAPES = ("sevctl", "sev-tool")


class SessionMade(Event, lane="owner"):
    """The guest owner made a session for one launch: the policy it insists on, and whose form its key has."""

    policy: u32
    shape: name


@dataclass(frozen=True)
class OwnerSession:
    """What the owner sends (`godh`, 2084 bytes, and `session`, 128) and what the owner keeps (`tek`, `tik`, 16 bytes each).

    `seed` repeats the session. One session is for one launch: two machines
    under one TIK can pass each other's measurements off as their own.
    """

    godh: bytes = field(repr=False)
    session: bytes = field(repr=False)
    tek: bytes = field(repr=False)
    tik: bytes = field(repr=False)
    policy: int
    seed: int | bytes


def new_session(
    pdh: bytes, policy: int, *, seed: int | bytes | None = None, shape: str = "sevctl", trace: Trace | None = None
) -> OwnerSession:
    """Make a session for the platform whose PDH certificate this is, and for this policy.

    Nothing is said about trust: verify the chain first. The owner's random
    numbers are his own; without a `seed` one is taken from the system. `shape`
    is the form of the owner's key: "sevctl" leaves it unsigned, "sev-tool"
    signs it with itself, as a PEK would; the firmware looks at neither.

    Raises ValueError for bytes that are no PDH certificate, a policy with
    reserved bits or an unknown shape, TypeError for what is neither bytes nor number.
    """
    need_trace(trace)
    if shape not in SHAPES:
        raise ValueError(f"a session has the shape of {' or '.join(SHAPES)}, not {shape!r}")
    if need_policy(policy) & POLICY_RESERVED:
        raise ValueError(f"policy {policy:#x} sets reserved bits ({policy & POLICY_RESERVED:#x}): bits 6 to 15 must be zero")
    fault = certificate_fault("pdh", need_bytes("a PDH certificate", pdh))
    if fault:
        raise ValueError(fault)

    stream = Stream(seed)
    own = stream.fork("guest owner")  # a host with the same seed draws other bytes
    d = p384_scalar(own.draw("godh", 56))
    tek, tik = own.draw("tek", 16), own.draw("tik", 16)
    nonce, wrap_iv = own.draw("nonce", 16), own.draw("wrap-iv", 16)

    session = wrap_session(ecdh(d, SevCert.unpack(pdh).public), tek, tik, policy, nonce=nonce, wrap_iv=wrap_iv)
    if trace is not None:
        trace.emit(SessionMade, policy, shape)
    return OwnerSession(_godh(d, shape).pack(), session.pack(), tek, tik, policy, stream.seed)


def wrap_session(z: bytes, tek: bytes, tik: bytes, policy: int, *, nonce: bytes, wrap_iv: bytes) -> wire.Session:
    """The 128 bytes that carry TEK and TIK (16 bytes each) to whoever agreed on `z` (48 bytes, big-endian)."""
    master = kdf(z, wire.LABEL_MASTER_SECRET, nonce)
    kek, kik = kdf(master, wire.LABEL_KEK), kdf(master, wire.LABEL_KIK)
    wrap_tk = aes_ctr(kek, wrap_iv, tek + tik)
    return wire.Session(
        nonce=nonce,
        wrap_tk=wrap_tk,
        wrap_iv=wrap_iv,
        wrap_mac=hmac256(kik, wrap_tk),
        policy_mac=hmac256(tik, wire.policy_message(policy)),
    )


def _godh(d: int, shape: str) -> SevCert:
    """The owner's Diffie-Hellman key as a certificate, in the form that the named tool gives it."""
    x, y = p384_public(d)
    godh = SevCert(usage=cert.USAGE_PDH, algo=cert.ALGO_ECDH_SHA256, qx=cert.le72(x), qy=cert.le72(y))
    if shape == "sev-tool":
        godh.sig1_usage, godh.sig1_algo = cert.USAGE_PEK, cert.ALGO_ECDSA_SHA256
        godh.sig1 = cert.ecdsa_slot(*ecdsa_sign(d, godh.signed_bytes))
    return godh
