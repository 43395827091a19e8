"""The certificate chain: is this platform one that AMD vouches for?

Two branches meet in the PEK: AMD's, ARK to ASK to CEK (the chip), and the
platform owner's, OCA. The PEK signs the PDH, with which the guest owner agrees
on keys. The rules are firmware.md 4.2 to 4.4 and 4.11.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from sevlab.abi.cert import AmdCert, SevCert, parse_amd_cert
from sevlab.given import shown
from sevlab.owner.certificate import certificate_fault, signature_fault
from sevlab.owner.given import need_bytes, need_trace
from sevlab.owner.roots import EMULATED_ROOT, anchor
from sevlab.trace import Event, Trace, name, u8

NAMES = ("ark", "ask", "cek", "oca", "pek", "pdh")

# Who vouches for whom, from the root down: the first of these that fails is the reason of a refusal.
EDGES = (
    ("owner", "ark"), ("ark", "ark"), ("ark", "ask"), ("ask", "cek"),
    ("oca", "oca"), ("cek", "pek"), ("oca", "pek"), ("pek", "pdh"),
)  # fmt: skip


class ChainVerified(Event, lane="owner"):
    """The guest owner looked at a platform's certificates: trusted or not, up to which root, and why not."""

    ok: u8
    root: name
    reason: name


@dataclass(frozen=True)
class Chain:
    """The six certificates of a platform, as the bytes of their files; b"" for one that is missing."""

    ark: bytes = b""
    ask: bytes = b""
    cek: bytes = b""
    oca: bytes = b""
    pek: bytes = b""
    pdh: bytes = b""

    @classmethod
    def of(cls, source: Chain | Mapping[str, bytes] | str | PathLike[str]) -> Chain:
        """The chain in a mapping (`pdh` or `pdh.cert` to bytes), a directory of NAME.cert files, or one chain file.

        Raises OSError for a path that cannot be read, ValueError for a chain file that is none, TypeError for anything else.
        """
        if isinstance(source, Chain):
            return source
        if isinstance(source, Mapping):
            given = {
                key.removesuffix(".cert"): need_bytes(f"the certificate {key}", data)
                for key, data in source.items()
                if isinstance(key, str)
            }
            return cls(**{key: given.get(key, b"") for key in NAMES})
        if not isinstance(source, str | PathLike):
            raise TypeError(f"a chain is a mapping of names to bytes, a folder or a chain file, not {shown(source)}")
        path = Path(source)
        if not path.is_dir():
            return cls.from_bytes(path.read_bytes())
        files = {key: path / f"{key}.cert" for key in NAMES}
        return cls(**{key: file.read_bytes() if file.is_file() else b"" for key, file in files.items()})

    @classmethod
    def from_bytes(cls, data: bytes) -> Chain:
        """The chain of one file in sevctl's order: PDH, PEK, OCA, CEK, then ASK and ARK where they follow.

        Raises ValueError when the file cannot be cut so.
        """
        size = SevCert.SIZE
        pdh, pek, oca, cek = (data[at : at + size] for at in range(0, 4 * size, size))
        ca = data[4 * size :]
        widths = {0: (0, 0), 832 + 832: (832, 832), 1600 + 1600: (1600, 1600)}.get(len(ca))
        if len(cek) != size or widths is None:
            raise ValueError(f"a chain file holds PDH, PEK, OCA, CEK, then ASK and ARK or neither: not {len(data)} bytes")
        return cls(pdh=pdh, pek=pek, oca=oca, cek=cek, ask=ca[: widths[0]], ark=ca[widths[0] :])


@dataclass(frozen=True)
class Edge:
    """One step of trust. `ok` is None where it could not be checked, because the signer is no certificate."""

    signer: str
    subject: str
    ok: bool | None
    reason: str = ""


@dataclass(frozen=True)
class ChainVerdict:
    """Whether the owner trusts a chain. `reason` is the first thing wrong, seen from the root; true where there is none.

    `root` names the root as soon as its key is the pinned one, whatever fails
    below it; `edges` are all steps, in order, for whoever draws them.
    """

    ok: bool
    reason: str
    root: str
    edges: tuple[Edge, ...]

    @property
    def emulated(self) -> bool:
        """Whether the root is the emulator's: its platforms are no AMD hardware."""
        return self.root == EMULATED_ROOT

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        if not self.ok:
            return f"refused: {self.reason}"
        return f"trusted, up to {self.root}" + (": an emulated platform, no AMD hardware" if self.emulated else "")


def verify_chain(chain: Chain | Mapping[str, bytes] | str | PathLike[str], *, trace: Trace | None = None) -> ChainVerdict:
    """Judge a platform's certificates: every rule, from the root down.

    `chain` is a Chain, a mapping of names to bytes, a directory or a chain file.
    Raises OSError or ValueError when there is no chain to read; a chain that is
    wrong gets a verdict that says what.
    """
    need_trace(trace)
    files = Chain.of(chain)
    certs: dict[str, SevCert | AmdCert] = {}
    faults: dict[str, str] = {}
    for role in NAMES:
        data = need_bytes(f"the {role.upper()} certificate", getattr(files, role))
        faults[role] = certificate_fault(role, data)
        if not faults[role]:
            certs[role] = parse_amd_cert(data) if role in ("ark", "ask") else SevCert.unpack(data)

    root = ""
    edges = []
    for signer, subject in EDGES:
        if faults[subject]:
            edges.append(Edge(signer, subject, False, faults[subject]))
        elif signer == "owner":
            root, reason = anchor(certs["ark"])  # type: ignore[arg-type]
            edges.append(Edge(signer, subject, not reason, reason))
        elif signer not in certs:
            edges.append(Edge(signer, subject, None, f"not checked: there is no usable {signer.upper()}"))
        else:
            reason = signature_fault(signer, certs[signer], subject, certs[subject])
            edges.append(Edge(signer, subject, not reason, reason))

    reason = next((edge.reason for edge in edges if not edge.ok), "")
    verdict = ChainVerdict(not reason, reason, root, tuple(edges))
    if trace is not None:
        trace.emit(ChainVerified, verdict.ok, root or "none", reason)
    return verdict
