"""Who this platform is: the chip's own key, and the keys that its firmware makes.

    CUK (fused) -> CEK ---------+
    OCA (self-signed, or owner) +-> PEK -> PDH

Everything here is a pure function of its arguments: the chip's facts depend on
the seed alone, a made key on the seed and on how many of its kind there were.
Source: firmware.md 1.5, 4.1, 4.2, 4.10.
"""

from __future__ import annotations

from functools import cached_property

from sevlab import crypto
from sevlab.abi.cert import (
    ALGO_ECDH_SHA256,
    ALGO_ECDSA_SHA256,
    ALGO_INVALID,
    SLOT,
    USAGE_CEK,
    USAGE_INVALID,
    USAGE_OCA,
    USAGE_PDH,
    USAGE_PEK,
    SevCert,
    ecdsa_slot,
    le72,
)
from sevlab.psp.store import Key, Keys

CEK_LABEL = "sev-chip-endorsement-key"
CEK_API = (0, 14)  # what every CEK certificate that AMD gives out says
SCALAR_BYTES = 56  # 64 bits more than the order of the curve


def chip_id(cuk: bytes) -> bytes:
    """GET_ID: x and y (32 bytes each, big-endian) of the fused key times G on secp256k1."""
    x, y = crypto.secp256k1_public(int.from_bytes(cuk, "big"))
    return x.to_bytes(32, "big") + y.to_bytes(32, "big")


def cek_scalar(cuk: bytes) -> int:
    """The chip endorsement key's private scalar on P-384."""
    return crypto.p384_scalar(crypto.kdf(crypto.sha256(cuk), CEK_LABEL, size=SCALAR_BYTES))


def certificate(api: tuple[int, ...], usage: int, algo: int, d: int) -> SevCert:
    """An unsigned certificate of the key with private scalar `d`."""
    x, y = crypto.p384_public(d)
    return SevCert(api_major=api[0], api_minor=api[1], usage=usage, algo=algo, qx=le72(x), qy=le72(y))


def signed(cert: SevCert, slot: int, signer: Key) -> SevCert:
    """A copy of `cert` with the signer's signature in slot 1 or 2."""
    r, s = crypto.ecdsa_sign(signer.d, cert.signed_bytes)
    return cert.replace(
        **{f"sig{slot}_usage": signer.cert.usage, f"sig{slot}_algo": ALGO_ECDSA_SHA256, f"sig{slot}": ecdsa_slot(r, s)}
    )


def unsigned(cert: SevCert) -> SevCert:
    """A copy of `cert` with both signature slots empty."""
    empty = {"usage": USAGE_INVALID, "algo": ALGO_INVALID}
    slots = {f"sig{slot}_{field}": value for slot in (1, 2) for field, value in empty.items()}
    return cert.replace(**slots, sig1=bytes(SLOT), sig2=bytes(SLOT))


class Identity:
    """What one chip makes of its seed: fused key, id, endorsement key, and every later key.

    `api` is the firmware's version, which its certificates carry. Nothing is computed before it is asked for.
    """

    def __init__(self, stream: crypto.Stream, api: tuple[int, int, int]) -> None:
        self.stream = stream
        self.api = api

    @cached_property
    def cuk(self) -> bytes:
        """The chip unique key: 32 fused bytes, never outside the chip."""
        return self.stream.fork("psp/cuk").draw("cuk", 32)

    @cached_property
    def chip_id(self) -> bytes:
        """What GET_ID answers: 64 bytes."""
        return chip_id(self.cuk)

    @cached_property
    def cek(self) -> Key:
        """The chip endorsement key with its certificate, which is unsigned: AMD's key server has the signed one."""
        d = cek_scalar(self.cuk)
        return Key(d, certificate(CEK_API, USAGE_CEK, ALGO_ECDSA_SHA256, d))

    def _scalar(self, kind: str, made: int) -> int:
        """The private scalar of the key number `made` of its kind. The order in which keys are made changes none."""
        return crypto.p384_scalar(self.stream.fork(f"psp/{kind}").fork(str(made)).draw("scalar", SCALAR_BYTES))

    def with_oca(self, keys: Keys) -> Keys:
        """A new OCA, self-signed; the platform is its own owner, and the PEK of the old one is gone."""
        d = self._scalar("oca", keys.ocas_made)
        unsigned = Key(d, certificate(self.api, USAGE_OCA, ALGO_ECDSA_SHA256, d))
        oca = Key(d, signed(unsigned.cert, 1, unsigned))
        return keys._replace(owner=0, oca=oca, pek=None, ocas_made=keys.ocas_made + 1)

    def with_pek(self, keys: Keys) -> Keys:
        """A new PEK, signed by OCA and CEK; the PDH of the old one is gone."""
        assert keys.oca is not None
        d = self._scalar("pek", keys.peks_made)
        cert = signed(signed(certificate(self.api, USAGE_PEK, ALGO_ECDSA_SHA256, d), 1, keys.oca), 2, self.cek)
        return keys._replace(pek=Key(d, cert), pdh=None, peks_made=keys.peks_made + 1)

    def with_pdh(self, keys: Keys) -> Keys:
        """A new PDH, signed by the PEK."""
        assert keys.pek is not None
        d = self._scalar("pdh", keys.pdhs_made)
        cert = signed(certificate(self.api, USAGE_PDH, ALGO_ECDH_SHA256, d), 1, keys.pek)
        return keys._replace(pdh=Key(d, cert), pdhs_made=keys.pdhs_made + 1)

    def complete(self, keys: Keys) -> Keys:
        """The keys with whatever is missing made, from the top down."""
        if keys.oca is None:
            keys = self.with_oca(keys)
        if keys.pek is None:
            keys = self.with_pek(keys)
        return keys if keys.pdh is not None else self.with_pdh(keys)
