"""The firmware's end of the channel to a guest's owner.

The owner's end is `sevlab.owner`, written by other hands: two parties, two
implementations, one specification. Source: firmware.md 4.5 to 4.7.
"""

from __future__ import annotations

from typing import NamedTuple

from sevlab import crypto
from sevlab.abi.session import (
    LABEL_KEK,
    LABEL_KIK,
    LABEL_MASTER_SECRET,
    Measurement,
    PacketHeader,
    Session,
    measure_message,
    policy_message,
    secret_message,
)
from sevlab.abi.sev import Status
from sevlab.psp.rules import need


class Wrap(NamedTuple):
    """The two keys that wrap the transport keys (16 bytes each)."""

    kek: bytes
    kik: bytes


class Transport(NamedTuple):
    """The transport keys of one guest (16 bytes each): encryption, integrity."""

    tek: bytes
    tik: bytes


NO_SESSION = Transport(bytes(16), bytes(16))  # known to everybody: a launch without a session protects nothing


def wrap_keys(z: bytes, nonce: bytes) -> Wrap:
    """KEK and KIK from the agreed secret (48 bytes, big-endian) and the session's nonce."""
    master = crypto.kdf(z, LABEL_MASTER_SECRET, nonce)
    return Wrap(crypto.kdf(master, LABEL_KEK), crypto.kdf(master, LABEL_KIK))


def unwrap(z: bytes, session: Session) -> Transport:
    """The transport keys that a session carries.

    Refuses with BAD_MEASUREMENT a session made for another PDH, or changed.
    """
    kek, kik = wrap_keys(z, session.nonce)
    need(crypto.same(crypto.hmac256(kik, session.wrap_tk), session.wrap_mac), Status.BAD_MEASUREMENT)  # WRAP_MAC does not match

    keys = crypto.aes_ctr(kek, session.wrap_iv, session.wrap_tk)
    return Transport(keys[:16], keys[16:])


def check_policy(tik: bytes, session: Session, policy: int) -> None:
    """Refuse with BAD_MEASUREMENT a policy that is not the one the owner's session names."""
    mac = crypto.hmac256(tik, policy_message(policy))
    need(crypto.same(mac, session.policy_mac), Status.BAD_MEASUREMENT)  # POLICY_MAC does not match


def measure(tik: bytes, api: tuple[int, int, int], policy: int, digest: bytes, mnonce: bytes) -> Measurement:
    """The launch measurement: the digest (32 bytes), bound to firmware, policy and a fresh nonce (16 bytes)."""
    return Measurement(crypto.hmac256(tik, measure_message(api, policy, digest, mnonce)), mnonce)


def secret_mac(
    tik: bytes, api: tuple[int, int, int], header: PacketHeader, guest_len: int, trans_len: int, ciphertext: bytes, measured: bytes
) -> bytes:
    """The MAC (32 bytes) that a LAUNCH_SECRET packet has to carry."""
    return crypto.hmac256(tik, secret_message(api, header.flags, header.iv, guest_len, trans_len, ciphertext, measured))
