"""Sessions and packets between a guest owner (or another platform) and the firmware: layouts, and what each MAC covers.

Source: firmware.md 4.5 to 4.8. The messages are built here and MACed by whoever
has the key, so that both parties read one rule; the rules that depend on the
API version stand here and nowhere else.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Annotated

from sevlab.abi.cert import ALGO_ECDSA_SHA256, USAGE_PEK, from_le72
from sevlab.wire import Wire, u32

# The labels of the three key derivations.
LABEL_MASTER_SECRET = "sev-master-secret"
LABEL_KEK = "sev-kek"
LABEL_KIK = "sev-kik"

# The byte that a MACed message begins with says what it is.
CONTEXT_SECRET = 1
CONTEXT_DATA = 2
CONTEXT_VMSA = 3  # reserved for VMSA packets by the specification; firmware 1.55 uses 2 for them
CONTEXT_MEASURE = 4

FLAG_COMPRESSED = 1  # PacketHeader.flags; no firmware unpacks it


class Session(Wire):
    """What makes a channel: the transport keys, wrapped, and two MACs."""

    nonce: Annotated[bytes, 16] = b""        # 0x00
    wrap_tk: Annotated[bytes, 32] = b""      # 0x10  AES-128-CTR(KEK, wrap_iv) of TEK, TIK
    wrap_iv: Annotated[bytes, 16] = b""      # 0x30
    wrap_mac: Annotated[bytes, 32] = b""     # 0x40  HMAC(KIK, wrap_tk)
    policy_mac: Annotated[bytes, 32] = b""   # 0x60  HMAC(TIK, policy)


class PacketHeader(Wire):
    """What travels beside a packet's ciphertext."""

    flags: u32 = 0                           # 0x00
    iv: Annotated[bytes, 16] = b""           # 0x04
    mac: Annotated[bytes, 32] = b""          # 0x14


class Measurement(Wire):
    """What LAUNCH_MEASURE writes: the MAC, and the nonce it was made with."""

    measure: Annotated[bytes, 32] = b""      # 0x00
    mnonce: Annotated[bytes, 16] = b""       # 0x20


class AttestationReport(Wire):
    """What ATTESTATION writes: the bare launch digest, signed by the PEK."""

    mnonce: Annotated[bytes, 16] = b""       # 0x00
    launch_digest: Annotated[bytes, 32] = b""  # 0x10
    policy: u32 = 0                          # 0x30
    sig_usage: u32 = USAGE_PEK               # 0x34
    sig_algo: u32 = ALGO_ECDSA_SHA256        # 0x38
    reserved: u32 = 0                        # 0x3C
    sig_r: Annotated[bytes, 72] = b""        # 0x40
    sig_s: Annotated[bytes, 72] = b""        # 0x88

    @property
    def signed_bytes(self) -> bytes:
        """What the PEK signs: nonce, digest and policy, 52 bytes."""
        return self.pack()[:0x34]

    @property
    def signature(self) -> tuple[int, int]:
        """(r, s)."""
        return from_le72(self.sig_r), from_le72(self.sig_s)


def binds_version(api: Sequence[int]) -> bool:
    """Whether firmware of this API (major, minor, ...) puts its version into the measurement, and the measurement into secrets.

    From 0.17 on it does.
    """
    return tuple(api[:2]) >= (0, 17)


def policy_message(policy: int) -> bytes:
    """What POLICY_MAC covers."""
    return struct.pack("<I", policy)


def measure_message(api: Sequence[int], policy: int, digest: bytes, mnonce: bytes) -> bytes:
    """What a launch measurement's MAC covers; `api` is (major, minor, build).

    56 bytes from API 0.17 on, 52 before. Raises ValueError for a digest that
    has not 32 bytes or a nonce that has not 16.
    """
    if len(digest) != 32 or len(mnonce) != 16:
        raise ValueError(f"a digest has 32 bytes and a nonce 16, these have {len(digest)} and {len(mnonce)}")
    version = bytes((CONTEXT_MEASURE, api[0], api[1], api[2])) if binds_version(api) else b""
    return version + struct.pack("<I", policy) + digest + mnonce


def packet_message(
    context: int, flags: int, iv: bytes, guest_len: int, trans_len: int, ciphertext: bytes, measure: bytes | None = None
) -> bytes:
    """What a packet's MAC covers; `measure` only for a secret of API 0.17 and later (see `secret_message`).

    Raises ValueError for an IV that has not 16 bytes.
    """
    if len(iv) != 16:
        raise ValueError(f"an IV has 16 bytes, this one {len(iv)}")
    return struct.pack("<BI16sII", context, flags, iv, guest_len, trans_len) + ciphertext + (measure or b"")


def secret_message(
    api: Sequence[int], flags: int, iv: bytes, guest_len: int, trans_len: int, ciphertext: bytes, measure: bytes
) -> bytes:
    """What the MAC of a LAUNCH_SECRET packet covers under this API: with the measurement from 0.17 on, without it before."""
    bound = measure if binds_version(api) else None
    return packet_message(CONTEXT_SECRET, flags, iv, guest_len, trans_len, ciphertext, bound)
