"""Certificate chains that a guest owner should meet once before he meets them in earnest."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from sevlab import crypto
from sevlab.abi import cert
from sevlab.abi.cert import AmdCertHeader, SevCert
from sevlab.abi.sev_dev import SEV_ISSUE_CMD, SEV_PDH_CERT_EXPORT, sev_issue_cmd, sev_user_data_pdh_cert_export
from sevlab.host import Host
from sevlab.lab.show import Text, table
from sevlab.owner import ChainVerdict

E = 65537
CHAIN = ("pek", "oca", "cek")  # what the platform exports behind its PDH, in this order


def chain_steps(verdict: ChainVerdict) -> Text:
    """A verdict over a chain, step by step from the root: who vouches for whom, and whether it fits."""
    rows = []
    for edge in verdict.edges:
        who = "you know the" if edge.signer == "owner" else f"{edge.signer.upper()} signs"
        whom = "itself" if edge.signer == edge.subject else edge.subject.upper()
        rows.append({"step": f"{who} {whom}", "fits": "not checked" if edge.ok is None else "yes" if edge.ok else "no"})
    return table(rows)


def exported_chain(host: Host) -> dict[str, bytes]:
    """What any process of the host gets from /dev/sev: PDH, PEK, OCA and the CEK as the chip has it, unsigned.

    Source: kvm.md A11, SEV_PDH_CERT_EXPORT.
    """
    process = host.process("exporter")  # it is gone at the end, and its name free again
    fd = process.open("/dev/sev", "r+")
    size = SevCert.SIZE
    pdh, chain = process.put(bytes(size)), process.put(bytes(size * len(CHAIN)))
    where = process.put(sev_user_data_pdh_cert_export(pdh, size, chain, size * len(CHAIN)))
    process.ioctl(fd, SEV_ISSUE_CMD, sev_issue_cmd(cmd=SEV_PDH_CERT_EXPORT, data=where))
    found = {"pdh": process.read(pdh, size)}
    found |= {name: process.read(chain + i * size, size) for i, name in enumerate(CHAIN)}
    process.kill()
    return found


def home_made_chain(key_id: bytes = b"home-made ARK 01") -> dict[str, bytes]:
    """A platform that nobody at AMD ever saw: six certificates, every signature right, every private key its maker's.

    The two RSA keys are those that sevlab publishes, with their parts exchanged:
    nobody pins either of them as a root in this role.
    """
    roots = json.loads(files("sevlab.psp").joinpath("data/emulated_root.json").read_text("ascii"))
    ark, ask = ((int(roots[name]["p"], 16), int(roots[name]["q"], 16)) for name in ("ask", "ark"))
    ask_id = key_id[:-2] + b"02"
    scalars = {name: crypto.p384_scalar(crypto.kdf(key_id, name, size=56)) for name in ("oca", "cek", "pek", "pdh")}

    cek = _certificate(scalars["cek"], cert.USAGE_CEK)
    signature = crypto.rsa_pss_sign(*ask, E, cek.signed_bytes, bytes(48), "sha384")
    cek = cek.replace(sig1_usage=cert.USAGE_ASK, sig1_algo=cert.ALGO_RSA_SHA384, sig1=cert.rsa_slot(signature))
    oca = _signed(_certificate(scalars["oca"], cert.USAGE_OCA), 1, scalars["oca"], cert.USAGE_OCA)
    pek = _signed(_certificate(scalars["pek"], cert.USAGE_PEK), 1, scalars["oca"], cert.USAGE_OCA)
    pek = _signed(pek, 2, scalars["cek"], cert.USAGE_CEK)
    pdh = _certificate(scalars["pdh"], cert.USAGE_PDH, algo=cert.ALGO_ECDH_SHA256)
    return {
        "ark": _ca(ark, key_id, cert.USAGE_ARK, ark, key_id),
        "ask": _ca(ask, ask_id, cert.USAGE_ASK, ark, key_id),
        "cek": cek.pack(),
        "oca": oca.pack(),
        "pek": pek.pack(),
        "pdh": _signed(pdh, 1, scalars["pek"], cert.USAGE_PEK).pack(),
    }


def _ca(key: tuple[int, int], key_id: bytes, usage: int, signer: tuple[int, int], signer_id: bytes) -> bytes:
    """A CA certificate of 4096 bits (1600 bytes): `key` and `signer` are pairs of primes."""
    header = AmdCertHeader(key_id=key_id, certifying_id=signer_id, key_usage=usage, pubexp_bits=4096, modulus_bits=4096)
    body = header.pack() + E.to_bytes(512, "little") + (key[0] * key[1]).to_bytes(512, "little")
    return body + crypto.rsa_pss_sign(*signer, E, body, bytes(48), "sha384")[::-1]


def _certificate(d: int, usage: int, *, algo: int = cert.ALGO_ECDSA_SHA256) -> SevCert:
    """An unsigned certificate of the P-384 key with private scalar `d`."""
    x, y = crypto.p384_public(d)
    return SevCert(api_minor=24, usage=usage, algo=algo, qx=cert.le72(x), qy=cert.le72(y))


def _signed(subject: SevCert, slot: int, d: int, usage: int) -> SevCert:
    """A copy with the signature of key `d`, whose role is `usage`, in slot 1 or 2."""
    fields: dict[str, Any] = {"usage": usage, "algo": cert.ALGO_ECDSA_SHA256}
    signature = cert.ecdsa_slot(*crypto.ecdsa_sign(d, subject.signed_bytes))
    return subject.replace(**{f"sig{slot}_{key}": value for key, value in fields.items()}, **{f"sig{slot}": signature})
