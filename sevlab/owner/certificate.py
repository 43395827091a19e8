"""One certificate, and one signature: what can be wrong with either, in a sentence.

Source: firmware.md 4.2 to 4.4. The firmware has the same rules in
`sevlab.psp.validate`, in its own order and with status codes for sentences.
"""

from __future__ import annotations

from sevlab.abi import cert
from sevlab.abi.cert import AmdCert, SevCert, parse_amd_cert
from sevlab.crypto import ecdsa_verify, on_p384, rsa_pss_verify

USAGE = {
    "ark": cert.USAGE_ARK, "ask": cert.USAGE_ASK, "cek": cert.USAGE_CEK,
    "oca": cert.USAGE_OCA, "pek": cert.USAGE_PEK, "pdh": cert.USAGE_PDH,
}  # fmt: skip
SIGNING = (cert.ALGO_ECDSA_SHA256, cert.ALGO_ECDSA_SHA384)
AGREEING = (cert.ALGO_ECDH_SHA256, cert.ALGO_ECDH_SHA384)

UNSIGNED_CEK = "usage 0x1000 means this slot is empty: the exported CEK is unsigned, the signed one comes from AMD"

# What a signature that does not fit says, by edge.
MISFITS = {
    ("ark", "ark"): "the ARK does not sign itself: its file was changed",
    ("ark", "ask"): "the ASK was not signed by this ARK",
    ("ask", "cek"): "the CEK was not signed by this ASK: it was changed, or belongs to another product line",
    ("oca", "oca"): "the OCA does not sign itself: its file was changed",
    ("cek", "pek"): "the PEK was not signed by this CEK: the CEK is another chip's, or the PEK is not this platform's",
    ("oca", "pek"): "the PEK was not signed by this OCA: it is not this platform owner's",
    ("pek", "pdh"): "the PDH was not signed by this PEK: whoever has its private key, it need not be this platform",
}


def certificate_fault(role: str, data: bytes) -> str:
    """What is wrong with a certificate taken alone, as one sentence; "" when it may be what `role` (ark ... pdh) says."""
    title = role.upper()
    if not data:
        return f"the {title} certificate is missing"
    if role in ("ark", "ask"):
        return _amd_fault(title, USAGE[role], data)
    if len(data) != SevCert.SIZE:
        return f"the {title} file has {len(data)} bytes: a certificate of this kind has exactly {SevCert.SIZE}"
    body = SevCert.unpack(data)
    if body.version != 1:
        return f"the {title} certificate has version {body.version}: there is only version 1"
    if body.usage != USAGE[role]:
        return _wrong_usage(title, body.usage, USAGE[role])
    fitting = AGREEING if role == "pdh" else SIGNING
    if body.algo not in fitting:
        found = cert.ALGOS.get(body.algo, "unknown")
        return f"the {title}'s algorithm is {body.algo:#x} ({found}), it should be {cert.ALGOS[fitting[0]]}"
    if body.curve != cert.CURVE_P384:
        return f"the {title}'s curve is {body.curve}: SEV platforms use {cert.CURVE_P384} (P-384)"
    if not on_p384(*body.public):
        return f"the {title}'s public key is no point of P-384"
    return ""


def _amd_fault(title: str, usage: int, data: bytes) -> str:
    """What is wrong with an ARK or ASK file taken alone."""
    try:
        ca = parse_amd_cert(data)
    except ValueError as error:
        return f"the {title} file cannot be read: {error}"
    if not ca.signature:
        return f"the {title} file ends before its signature, as AMD's public Naples bundle does: {ca.size} bytes are needed"
    if len(data) != ca.size:
        return f"the {title} file has {len(data)} bytes: one of {ca.bits} bits has exactly {ca.size}"
    if ca.header.version != 1:
        return f"the {title} certificate has version {ca.header.version}: there is only version 1"
    if ca.header.key_usage != usage:
        return _wrong_usage(title, ca.header.key_usage, usage)
    return ""


def _wrong_usage(title: str, found: int, wanted: int) -> str:
    kind = cert.USAGES.get(found, "unknown")
    return f"the file given as {title} is no {title}: its usage is {found:#x} ({kind}), not {wanted:#x}"


def signature_fault(signer: str, parent: SevCert | AmdCert, subject: str, child: SevCert | AmdCert) -> str:
    """Why `parent` does not vouch for `child`; "" when it does."""
    title, misfit = subject.upper(), MISFITS[signer, subject]
    if isinstance(child, AmdCert):
        assert isinstance(parent, AmdCert)  # EDGES: only an ARK certifies a CA certificate
        if child.header.certifying_id != parent.header.key_id:
            return f"{misfit}: it names {child.header.certifying_id.hex()} as its signer"
        fits = rsa_pss_verify(parent.n, parent.e, child.signed_bytes, child.signature[::-1], parent.hash)
        return "" if fits else misfit

    if isinstance(parent, AmdCert):
        wanted = (cert.USAGE_ASK, cert.ALGO_RSA_SHA384 if parent.hash == "sha384" else cert.ALGO_RSA_SHA256)
    else:
        wanted = (USAGE[signer], parent.algo)
    if any((usage == cert.USAGE_INVALID) != (algo == cert.ALGO_INVALID) for usage, algo, _ in child.signatures):
        return f"a signature slot of the {title} is half filled: usage {cert.USAGE_INVALID:#x} and algorithm 0 go together"
    if all(usage == cert.USAGE_INVALID for usage, _, _ in child.signatures):
        return UNSIGNED_CEK if subject == "cek" else f"the {title} is unsigned: both signature slots are empty (usage 0x1000)"
    # Either slot may hold either signature: it is the usage that tells, not the position.
    slots = [slot for usage, algo, slot in child.signatures if (usage, algo) == wanted]
    if not slots:
        return f"neither slot of the {title} holds a signature of the {signer.upper()} by {cert.ALGOS[wanted[1]]}"
    return "" if all(_slot_fits(parent, child, slot, wanted[1]) for slot in slots) else misfit


def _slot_fits(parent: SevCert | AmdCert, child: SevCert, slot: bytes, algo: int) -> bool:
    if isinstance(parent, AmdCert):
        return rsa_pss_verify(parent.n, parent.e, child.signed_bytes, slot[: parent.bits // 8][::-1], parent.hash)
    return ecdsa_verify(parent.public, child.signed_bytes, *cert.ecdsa_numbers(slot), cert.algo_hash(algo))
