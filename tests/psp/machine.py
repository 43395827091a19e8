"""A chip with its firmware for tests: memory to talk through, an owner to talk with, a good buffer for every command.

The owner here is the test's own, so that the firmware's end of the session is
not checked against itself.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

from sevlab import crypto
from sevlab.abi import sev
from sevlab.abi.cert import ALGO_ECDH_SHA256, USAGE_PDH, SevCert, ecdsa_slot, le72
from sevlab.abi.session import Measurement, PacketHeader, Session
from sevlab.abi.sev import POLICY_ES, Cmd, GuestState, PlatformState, Status
from sevlab.crypto import Stream
from sevlab.hw.soc import Soc
from sevlab.psp.firmware import Psp
from sevlab.psp.identity import certificate, signed
from sevlab.psp.store import Key
from sevlab.trace import Trace
from sevlab.wire import Wire

MIB = 1 << 20
MEMORY = 4 * MIB
BUFFER = 0x1000  # the command buffer
CERT, SESSION = 0x4000, 0x5000  # what a LAUNCH_START brings; also PEK and OCA of an import
HEADER, PACKET = 0x6000, 0x8000  # what a LAUNCH_SECRET brings
OUT, CHAIN = 0x10000, 0x12000  # where answers go
DATA, OTHER = 0x20000, 0x28000  # guest memory, and where it may be copied to
NV = 0x30000
TMR = 1 * MIB

OWNER_D = 0x5EC0ED  # the test owner's Diffie-Hellman key
OCA_D = 0x0CA0CA  # an owner's OCA
TEK, TIK = bytes(range(0x10, 0x20)), bytes(range(0x20, 0x30))
GUEST_FIELDS = ("state", "policy", "asid", "vek", "tek", "tik", "launch_digest", "measure")
SECRET = b"the disk's password, padded".ljust(32, b".")


class Copy(bytes):
    """Memory as it was: compared byte by byte, shown by its digest."""

    def __repr__(self) -> str:
        return f"<{len(self)} bytes, SHA-256 {hashlib.sha256(self).hexdigest()[:16]}>"


class Machine:
    """One machine in a given situation. Calling it runs a command; the buffer is read back in place."""

    def __init__(self, chip: str = "rome", seed: int = 7, memory: int = MEMORY, **psp: Any) -> None:
        self.trace = Trace()
        self.soc = Soc(chip, Stream(seed), self.trace, memory)
        self.dram = self.soc.dram
        self.psp = Psp(self.soc, **psp)

    def __call__(self, cmd: int, buffer: Wire | None = None) -> Status:
        if buffer is None:
            return Status(self.psp.mailbox(cmd))
        self.dram.write(BUFFER, buffer.pack())
        status = Status(self.psp.mailbox(cmd, BUFFER))
        buffer.load(self.dram.read(BUFFER, buffer.SIZE))
        return status

    def must(self, cmd: int, buffer: Wire | None = None) -> Any:
        """Run a command that has to succeed; returns its buffer."""
        status = self(cmd, buffer)
        assert status is Status.SUCCESS, self.psp.why
        return buffer

    # ------------------------------------------------- situations

    def up(self, es: bool = True) -> Machine:
        """INIT, and every key slot clean."""
        self.must(Cmd.INIT, sev.Init(flags=1, tmr_paddr=TMR, tmr_len=MIB) if es else sev.Init())
        self.flush()
        return self

    def flush(self) -> None:
        self.soc.wbinvd()
        self.must(Cmd.DF_FLUSH)

    def start(self, policy: int = 0, session: bool = False) -> int:
        """A new guest, inactive; returns its handle."""
        if not session:
            return int(self.must(Cmd.LAUNCH_START, sev.LaunchStart(policy=policy)).handle)
        return int(self.must(Cmd.LAUNCH_START, self.with_session(policy)).handle)

    def guest(self, policy: int = 0, state: GuestState = GuestState.LUPDATE, session: bool = False, active: bool = True) -> int:
        """A guest in any state, those that no modelled command leads to included; returns its handle."""
        handle = self.start(policy, session)
        if active:
            first = 1 if policy & POLICY_ES else self.soc.chip.min_asid
            asid = next(asid for asid in range(first, self.soc.chip.max_asid) if self.psp.asids.clean(asid))
            self.must(Cmd.ACTIVATE, sev.Activate(handle, asid))
        if state is not GuestState.LUPDATE:
            self.must(Cmd.LAUNCH_MEASURE, sev.LaunchMeasure(handle, paddr=OUT, len=48))
            self.psp.guests[handle].state = state
        return handle

    def load(self, handle: int, text: bytes, at: int = DATA) -> None:
        """LAUNCH_UPDATE_DATA of a text."""
        self.dram.write(at, text)
        self.must(Cmd.LAUNCH_UPDATE_DATA, sev.LaunchUpdate(handle, paddr=at, len=len(text)))

    def measured(self, handle: int) -> Measurement:
        """LAUNCH_MEASURE."""
        self.must(Cmd.LAUNCH_MEASURE, sev.LaunchMeasure(handle, paddr=OUT, len=48))
        return Measurement.unpack(self.dram.read(OUT, 48))

    # ------------------------------------------------- the owner

    def with_session(self, policy: int, **made: Any) -> sev.LaunchStart:
        """The buffer of a LAUNCH_START with an owner's session, which lies in memory."""
        assert self.psp.keys.pdh is not None
        self.dram.write(CERT, owner_cert().pack())
        self.dram.write(SESSION, owner_session(self.psp.keys.pdh.cert, policy, **made).pack())
        return sev.LaunchStart(policy=policy, dh_cert_paddr=CERT, dh_cert_len=2084, session_paddr=SESSION, session_len=128)

    def with_secret(self, handle: int, secret: bytes = SECRET, flags: int = 0) -> sev.Packet:
        """The buffer of a LAUNCH_SECRET, whose packet lies in memory."""
        guest = self.psp.guests[handle]
        header, packet = owner_packet(guest.tek, guest.tik, secret, guest.measure, flags)
        self.dram.write(HEADER, header.pack())
        self.dram.write(PACKET, packet)
        return sev.Packet(
            handle, hdr_paddr=HEADER, hdr_len=52, guest_paddr=DATA, guest_len=len(secret), trans_paddr=PACKET, trans_len=len(secret)
        )

    def with_import(self, **pek: Any) -> sev.PekCertImport:
        """The buffer of a PEK_CERT_IMPORT of this platform's PEK, signed by an owner's OCA; fields of the PEK may be changed."""
        request = self.must(Cmd.PEK_CSR, sev.PekCsr(OUT, 2084))
        csr = SevCert.unpack(self.dram.read(OUT, request.len)).replace(**pek)
        oca = owner_oca()
        self.dram.write(CERT, signed(csr, 1, oca).pack())
        self.dram.write(SESSION, oca.cert.pack())
        return sev.PekCertImport(pek_paddr=CERT, pek_len=2084, oca_paddr=SESSION, oca_len=2084)

    # ------------------------------------------------- what is remembered

    def remembered(self) -> dict[str, Any]:
        """All that a refused command must leave as it was: firmware, silicon, memory (but for the command buffer's page)."""
        psp, view = self.psp, self.dram.memory.view
        return {
            "state": psp.state,
            "es": psp.es,
            "tmr": psp.tmr,
            "serial": psp.serial,
            "keys": psp.keys,
            "nv": psp.nv.read(),
            "guests": {
                handle: (g.digest.hexdigest(), dict(g.crc_blocks), *(getattr(g, field) for field in GUEST_FIELDS))
                for handle, g in psp.guests.items()
            },
            "asids": bytes(psp.asids.states),
            "slots": [asid for asid in range(1, self.soc.chip.max_asid + 1) if self.soc.engine.has(asid)],
            "written_back": self.soc.written_back,
            "pages": self.soc.pages.counts(),
            "drawn": dict(self.soc.stream._counters),
            "memory": Copy(bytes(view[:BUFFER]) + bytes(view[BUFFER + 0x1000 : self.dram.size])),
        }


def exported(machine: Machine) -> tuple[bytes, bytes]:
    """PDH certificate and chain, as PDH_CERT_EXPORT gives them."""
    machine.must(Cmd.PDH_CERT_EXPORT, sev.PdhCertExport(OUT, 2084, chain_paddr=CHAIN, chain_len=6252))
    return machine.dram.read(OUT, 2084), machine.dram.read(CHAIN, 6252)


def owner_cert() -> SevCert:
    """The owner's certificate, unsigned as virtee's tools make it."""
    return certificate((0, 0), USAGE_PDH, ALGO_ECDH_SHA256, OWNER_D)


def owner_session(pdh: SevCert, policy: int, tek: bytes = TEK, tik: bytes = TIK, nonce: bytes = b"nonce" * 3 + b"!") -> Session:
    """The owner's session for a platform, in the specification's plain steps."""

    def kdf(key: bytes, label: bytes, context: bytes = b"") -> bytes:
        message = (1).to_bytes(4, "little") + label + b"\0" + context + (128).to_bytes(4, "little")
        return hmac.digest(key, message, "sha256")[:16]

    master = kdf(crypto.ecdh(OWNER_D, pdh.public), b"sev-master-secret", nonce)
    iv = bytes(range(16))
    wrapped = crypto.aes_ctr(kdf(master, b"sev-kek"), iv, tek + tik)
    wrap_mac = hmac.digest(kdf(master, b"sev-kik"), wrapped, "sha256")
    return Session(nonce, wrapped, iv, wrap_mac, hmac.digest(tik, policy.to_bytes(4, "little"), "sha256"))


def owner_packet(tek: bytes, tik: bytes, secret: bytes, measure: bytes, flags: int = 0) -> tuple[PacketHeader, bytes]:
    """The owner's packet: header and ciphertext."""
    iv = bytes(range(0x60, 0x70))
    packet = crypto.aes_ctr(tek, iv, secret)
    length = len(secret).to_bytes(4, "little")
    message = b"\1" + flags.to_bytes(4, "little") + iv + length + length + packet + measure
    return PacketHeader(flags, iv, hmac.digest(tik, message, "sha256")), packet


def owner_oca(**fields: Any) -> Key:
    """An OCA of somebody outside; fields of its certificate may be changed before it signs itself."""
    cert = certificate((0, 24), 0x1001, 2, OCA_D).replace(**fields)
    r, s = crypto.ecdsa_sign(OCA_D, cert.signed_bytes)
    return Key(OCA_D, cert.replace(sig1_usage=0x1001, sig1_algo=2, sig1=ecdsa_slot(r, s)))


def off_curve() -> dict[str, bytes]:
    """Coordinates that are on no curve."""
    return {"qx": le72(1), "qy": le72(1)}


# ------------------------------------------------- a good buffer for every command

G, P = GuestState, PlatformState
STATE_FOR = {Cmd.LAUNCH_SECRET: G.LSECRET, Cmd.LAUNCH_FINISH: G.LSECRET, Cmd.ATTESTATION: G.RUNNING}
INACTIVE = (Cmd.ACTIVATE, Cmd.DECOMMISSION)


def good(cmd: int, machine: Machine | None = None, state: GuestState | None = None) -> tuple[Machine, Any]:
    """A machine and a buffer with which `cmd` succeeds; a guest command finds guest 1, in `state` if one is given."""
    m = machine or Machine()
    if cmd in (Cmd.INIT, Cmd.INIT_EX, Cmd.PLATFORM_RESET):
        m.dram.write(NV, b"\xff" * sev.NV_LEN)
        ex = sev.InitEx(length=0x24, flags=1, tmr_paddr=TMR, tmr_len=MIB, nv_paddr=NV, nv_len=sev.NV_LEN)
        return m, {Cmd.INIT: sev.Init(flags=1, tmr_paddr=TMR, tmr_len=MIB), Cmd.INIT_EX: ex}.get(cmd)
    if m.psp.state is P.UNINIT:
        m.up()
    if cmd == Cmd.DF_FLUSH:
        m.soc.wbinvd()
    if cmd < Cmd.DECOMMISSION:
        return m, {
            Cmd.PLATFORM_STATUS: sev.PlatformStatus,
            Cmd.PEK_CSR: lambda: sev.PekCsr(OUT, 2084),
            Cmd.PEK_CERT_IMPORT: m.with_import,
            Cmd.PDH_CERT_EXPORT: lambda: sev.PdhCertExport(OUT, 2084, chain_paddr=CHAIN, chain_len=6252),
            Cmd.GET_ID: lambda: sev.GetId(OUT, 64),
        }.get(cmd, lambda: None)()
    if cmd == Cmd.LAUNCH_START:
        return m, m.with_session(POLICY_ES)
    policy = POLICY_ES if cmd == Cmd.LAUNCH_UPDATE_VMSA else 0
    handle = m.guest(policy, state or STATE_FOR.get(Cmd(cmd), G.LUPDATE), session=True, active=cmd not in INACTIVE)
    return m, {
        Cmd.ACTIVATE: lambda: sev.Activate(handle, m.soc.chip.min_asid),
        Cmd.GUEST_STATUS: lambda: sev.GuestStatus(handle),
        Cmd.COPY: lambda: sev.Copy(handle, 0x2000, DATA, OTHER),
        Cmd.LAUNCH_UPDATE_DATA: lambda: sev.LaunchUpdate(handle, paddr=DATA, len=0x2000),
        Cmd.LAUNCH_UPDATE_VMSA: lambda: sev.LaunchUpdate(handle, paddr=DATA, len=0x1000),
        Cmd.LAUNCH_MEASURE: lambda: sev.LaunchMeasure(handle, paddr=OUT, len=48),
        Cmd.LAUNCH_SECRET: lambda: m.with_secret(handle),
        Cmd.ATTESTATION: lambda: sev.Attestation(handle, paddr=OUT, mnonce=b"n" * 16, len=208),
        Cmd.DBG_DECRYPT: lambda: sev.Dbg(handle, src_paddr=DATA, dst_paddr=OUT, len=64),
        Cmd.DBG_ENCRYPT: lambda: sev.Dbg(handle, src_paddr=OUT, dst_paddr=DATA, len=64),
    }.get(Cmd(cmd), lambda: sev.Handle(handle))()
