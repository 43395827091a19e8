"""The platform's commands: up and down, keys and certificates, identity, flushing.

The order of the checks in every handler is the firmware's: a caller with two
things wrong learns of the upper one. Source: firmware.md 1.5.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sevlab.abi.cert import USAGE_OCA, SevCert
from sevlab.abi.sev import (
    CHIP_ID_LEN,
    CONFIG_ES,
    INIT_FLAG_ES,
    NV_LEN,
    TMR_LEN,
    Cmd,
    GetId,
    Init,
    InitEx,
    PdhCertExport,
    PekCertImport,
    PekCsr,
    PlatformState,
    PlatformStatus,
    Status,
)
from sevlab.hw import pages
from sevlab.psp.asids import AsidState
from sevlab.psp.identity import signed, unsigned
from sevlab.psp.rules import Refused, need
from sevlab.psp.store import EMPTY, DriverArea, Key, Keys, Nv, seal, unseal
from sevlab.psp.validate import validate
from sevlab.trace import Event, name, u32

if TYPE_CHECKING:
    from sevlab.psp.firmware import Psp

PAGE = 4096
CHAIN_LEN = 3 * SevCert.SIZE


class KeyMade(Event, lane="psp"):
    """The firmware made a key of the platform: which, and how many of its kind there were before."""

    which: name
    before: u32


def init(psp: Psp, cmd: Init) -> None:
    """INIT: bring the platform up with the keys in its flash, or make them."""
    need(not cmd.flags & ~INIT_FLAG_ES, Status.INVALID_CONFIG)  # a flag that nobody knows

    _come_up(psp, psp.nv, cmd.flags, cmd.tmr_paddr, cmd.tmr_len, None)


def init_ex(psp: Psp, cmd: InitEx) -> None:
    """INIT_EX: INIT with the keys in a buffer that the driver brings; without one, in flash."""
    need(not cmd.flags & ~INIT_FLAG_ES, Status.INVALID_CONFIG)  # a flag that nobody knows
    need(cmd.length == InitEx.SIZE, Status.INVALID_LEN)  # not the length of this buffer
    if not cmd.nv_paddr:
        return _come_up(psp, psp.nv, cmd.flags, cmd.tmr_paddr, cmd.tmr_len, None)
    hpa = psp.address(cmd.nv_paddr, NV_LEN, PAGE)  # INVALID_ADDRESS: askew, or beyond the memory
    need(cmd.nv_len == NV_LEN, Status.INVALID_LEN)  # the area has 32 KiB

    _come_up(psp, DriverArea(psp.soc.dram, hpa), cmd.flags, cmd.tmr_paddr, cmd.tmr_len, hpa)


def _come_up(psp: Psp, area: Nv, flags: int, tmr_paddr: int, tmr_len: int, nv_hpa: int | None) -> None:
    """What both INITs do: keys, then the memory of SEV-ES. (The original has saved new keys when the latter fails.)"""
    try:
        keys = unseal(area.read(), psp.identity.cuk)
    except Refused:  # SECURE_DATA_INVALID: the next INIT starts afresh
        area.write(EMPTY)
        raise
    es, tmr = bool(flags & INIT_FLAG_ES), None
    if es:
        tmr = psp.address(tmr_paddr, TMR_LEN, TMR_LEN)  # INVALID_ADDRESS: askew, or beyond the memory
        need(tmr_len == TMR_LEN, Status.INVALID_LEN)  # the TMR has 1 MiB
        apart = nv_hpa is None or nv_hpa + NV_LEN <= tmr or tmr + TMR_LEN <= nv_hpa
        need(apart, Status.INVALID_ADDRESS)  # TMR and persistent area overlap

    keys = keys.counting(psp.keys)
    fresh = psp.identity.complete(keys._replace(pdh=None) if psp.pdh_per_init else keys)

    psp.area = area
    psp.es, psp.tmr = es, tmr
    psp.asids.reset(AsidState.DIRTY)
    psp.soc.written_back = False
    if tmr is not None:
        psp.soc.pages.mark(tmr // PAGE, TMR_LEN // PAGE, pages.FIRMWARE)
    _remember(psp, keys, fresh)


def _remember(psp: Psp, before: Keys, keys: Keys) -> None:
    """Take over new keys, for good, and say which were made."""
    psp.keys = keys
    if keys != before:
        psp.area.write(seal(keys, psp.identity.cuk))
    for which, field in (("OCA", "ocas_made"), ("PEK", "peks_made"), ("PDH", "pdhs_made")):
        if getattr(keys, field) > getattr(before, field):
            psp.soc.trace.emit(KeyMade, which, getattr(before, field))


def shutdown(psp: Psp) -> None:
    """SHUTDOWN: every guest is gone, every key slot empty, the TMR the host's again."""
    for guest in psp.guests.values():
        if guest.asid:
            psp.soc.engine.remove(guest.asid)
        guest.wipe(Cmd.SHUTDOWN)
    psp.guests.clear()
    psp.asids.reset(AsidState.INVALID)
    if psp.tmr is not None:
        psp.soc.pages.mark(psp.tmr // PAGE, TMR_LEN // PAGE, pages.HOST)
    psp.es, psp.tmr = False, None


def platform_reset(psp: Psp) -> None:
    """PLATFORM_RESET: forget OCA, PEK, PDH and the owner, in flash only; INIT_EX's file is the driver's affair."""
    try:
        held = unseal(psp.nv.read(), psp.identity.cuk)
    except Refused:
        held = Keys()  # what cannot be read is forgotten all the same

    psp.keys = Keys().counting(held).counting(psp.keys)
    psp.nv.write(seal(psp.keys, psp.identity.cuk))


def platform_status(psp: Psp, cmd: PlatformStatus) -> PlatformStatus:
    """PLATFORM_STATUS: version and state; before INIT the rest reads 0."""
    up = psp.state is not PlatformState.UNINIT

    cmd.api_major, cmd.api_minor, cmd.build = psp.api
    cmd.state = psp.state
    cmd.owner = psp.keys.owner if up else 0
    cmd.config = CONFIG_ES if psp.es else 0
    cmd.reserved = 0
    cmd.guest_count = len(psp.guests)
    return cmd


def pek_gen(psp: Psp) -> None:
    """PEK_GEN: a new OCA, PEK and PDH; the platform is its own owner again."""
    fresh = psp.identity.complete(psp.identity.with_oca(psp.keys))

    _remember(psp, psp.keys, fresh)


def pek_csr(psp: Psp, cmd: PekCsr) -> PekCsr:
    """PEK_CSR: the PEK's certificate with both signature slots empty, for an owner to sign."""
    need(cmd.len >= SevCert.SIZE, Status.INVALID_LEN, cmd, len=SevCert.SIZE)  # no room for a certificate
    hpa = psp.address(cmd.paddr, SevCert.SIZE)  # INVALID_ADDRESS: beyond the memory

    request = unsigned(_held(psp.keys.pek).cert)

    psp.soc.dram.write(hpa, request.pack())
    cmd.len = SevCert.SIZE
    return cmd


def pek_cert_import(psp: Psp, cmd: PekCertImport) -> None:
    """PEK_CERT_IMPORT: an owner takes the platform over with an OCA of its own."""
    need(not psp.keys.owner, Status.ALREADY_OWNED)  # somebody outside owns it already
    need(cmd.pek_len == SevCert.SIZE, Status.INVALID_LEN)  # the PEK is no certificate by its length
    need(cmd.oca_len == SevCert.SIZE, Status.INVALID_LEN)  # nor is the OCA
    pek_hpa = psp.address(cmd.pek_paddr, SevCert.SIZE)  # INVALID_ADDRESS: beyond the memory
    oca_hpa = psp.address(cmd.oca_paddr, SevCert.SIZE)  # INVALID_ADDRESS: beyond the memory
    pek = SevCert.unpack(psp.soc.dram.read(pek_hpa, SevCert.SIZE))
    oca = SevCert.unpack(psp.soc.dram.read(oca_hpa, SevCert.SIZE))
    current = _held(psp.keys.pek)
    validate(oca, oca)  # INVALID_CERTIFICATE or BAD_SIGNATURE: the OCA is not its own parent
    validate(pek, oca)  # INVALID_CERTIFICATE or BAD_SIGNATURE: the OCA has not signed this PEK
    need(pek.signed_bytes == current.cert.signed_bytes, Status.INVALID_CERTIFICATE)  # another key than this platform's

    free = 2 if pek.sig1_usage == USAGE_OCA else 1
    endorsed = Key(current.d, signed(pek, free, psp.identity.cek))
    fresh = psp.identity.with_pdh(psp.keys._replace(owner=1, oca=Key(0, oca), pek=endorsed))

    _remember(psp, psp.keys, fresh)


def pdh_gen(psp: Psp) -> None:
    """PDH_GEN: a new PDH; sessions made for the old one are worthless."""
    fresh = psp.identity.with_pdh(psp.keys)

    _remember(psp, psp.keys, fresh)


def pdh_cert_export(psp: Psp, cmd: PdhCertExport) -> PdhCertExport:
    """PDH_CERT_EXPORT: the PDH's certificate, and PEK, OCA and the unsigned CEK above it."""
    roomy = cmd.pdh_len >= SevCert.SIZE and cmd.chain_len >= CHAIN_LEN
    need(roomy, Status.INVALID_LEN, cmd, pdh_len=SevCert.SIZE, chain_len=CHAIN_LEN)  # no room for the certificates
    pdh_hpa = psp.address(cmd.pdh_paddr, SevCert.SIZE)  # INVALID_ADDRESS: beyond the memory
    chain_hpa = psp.address(cmd.chain_paddr, CHAIN_LEN)  # INVALID_ADDRESS: beyond the memory

    chain = b"".join(key.cert.pack() for key in (_held(psp.keys.pek), _held(psp.keys.oca), psp.identity.cek))

    psp.soc.dram.write(pdh_hpa, _held(psp.keys.pdh).cert.pack())
    psp.soc.dram.write(chain_hpa, chain)
    cmd.pdh_len, cmd.chain_len = SevCert.SIZE, CHAIN_LEN
    return cmd


def get_id(psp: Psp, cmd: GetId) -> GetId:
    """GET_ID: the chip's id, 64 bytes."""
    need(cmd.len >= CHIP_ID_LEN, Status.INVALID_LEN, cmd, len=CHIP_ID_LEN)  # no room for the id
    hpa = psp.address(cmd.paddr, CHIP_ID_LEN)  # INVALID_ADDRESS: beyond the memory

    psp.soc.dram.write(hpa, psp.identity.chip_id)
    cmd.len = CHIP_ID_LEN
    return cmd


def df_flush(psp: Psp) -> None:
    """DF_FLUSH: write on what waits in the data fabric, so that dirty key slots may be used again."""
    need(psp.soc.written_back, Status.WBINVD_REQUIRED)  # a core has not done WBINVD since the last DEACTIVATE

    psp.asids.flush()
    psp.soc.written_back = False


def nop(psp: Psp) -> None:
    """NOP: the firmware is there."""


def _held(key: Key | None) -> Key:
    """A key that every platform past INIT has."""
    assert key is not None
    return key
