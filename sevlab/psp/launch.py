"""LAUNCH_*: from plaintext that anybody may read to a guest whose owner knows what runs.

The order of the checks in every handler is the firmware's, and it differs from
one to the next. Source: firmware.md 2.4, 4.6, 4.7.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sevlab import crypto
from sevlab.abi.cert import SevCert
from sevlab.abi.session import FLAG_COMPRESSED, Measurement, PacketHeader, Session
from sevlab.abi.sev import (
    PACKET_LIMIT,
    POLICY_ES,
    POLICY_NOKS,
    POLICY_RESERVED,
    TMR_LEN,
    Cmd,
    Handle,
    LaunchMeasure,
    LaunchStart,
    LaunchUpdate,
    Packet,
    Status,
    policy_api,
)
from sevlab.hw import pages
from sevlab.hw.savearea import CRC_BLOCK, seal
from sevlab.psp import channel
from sevlab.psp.context import Guest
from sevlab.psp.rules import need
from sevlab.psp.validate import accept_owner
from sevlab.trace import Event, u8, u32, u64

if TYPE_CHECKING:
    from sevlab.psp.firmware import Psp

PAGE = 4096
BLOCK = 16


class GuestMade(Event, lane="psp"):
    """A guest got its context and a new memory key, or with `shares` not 0 the memory key of that guest."""

    handle: u32
    shares: u32


class Loaded(Event, lane="psp"):
    """A range went into a guest's launch digest and was encrypted: data, or with `vmsa` 1 a vCPU's registers."""

    handle: u32
    hpa: u64
    size: u32
    vmsa: u8


def launch_start(psp: Psp, cmd: LaunchStart) -> LaunchStart:
    """LAUNCH_START: a new guest. Without an owner's certificate its transport keys are zero and its policy is not looked at."""
    transport = channel.NO_SESSION
    if cmd.dh_cert_paddr:
        transport = _session(psp, cmd)  # INVALID_LEN or INVALID_CERTIFICATE or BAD_MEASUREMENT or POLICY_FAILURE: its own rules
    sharer = psp.guest(cmd.handle) if cmd.handle else None  # INVALID_GUEST: no guest has this handle
    if sharer is not None:
        need(sharer.policy == cmd.policy, Status.POLICY_FAILURE)  # guests that share a key have one policy
        need(not sharer.policy & POLICY_NOKS, Status.POLICY_FAILURE)  # its owner forbids sharing the key
    handle = psp.free_handle()  # RESOURCE_LIMIT: every handle is taken
    need(psp.es or not cmd.policy & POLICY_ES, Status.UNSUPPORTED)  # the platform was brought up without SEV-ES

    serial = psp.serial + 1
    vek = sharer.vek if sharer is not None else psp.soc.stream.draw(f"guest/{serial}/vek", 32)
    guest = Guest(handle, serial, cmd.policy, vek, *transport, psp.soc.trace)

    psp.serial = serial
    psp.guests[handle] = guest
    psp.soc.trace.emit(GuestMade, handle, cmd.handle)
    guest.advance(Cmd.LAUNCH_START)
    cmd.handle = handle
    return cmd


def _session(psp: Psp, cmd: LaunchStart) -> channel.Transport:
    """The checks of a LAUNCH_START that brings a session, and the transport keys in it."""
    need(cmd.session_len == Session.SIZE, Status.INVALID_LEN)  # no session by its length
    need(cmd.dh_cert_len == SevCert.SIZE, Status.INVALID_LEN)  # no certificate by its length
    cert_hpa = psp.address(cmd.dh_cert_paddr, SevCert.SIZE)  # INVALID_ADDRESS: beyond the memory
    session_hpa = psp.address(cmd.session_paddr, Session.SIZE)  # INVALID_ADDRESS: beyond the memory
    cert = SevCert.unpack(psp.soc.dram.read(cert_hpa, SevCert.SIZE))
    session = Session.unpack(psp.soc.dram.read(session_hpa, Session.SIZE))
    accept_owner(cert)  # INVALID_CERTIFICATE: no Diffie-Hellman certificate
    assert psp.keys.pdh is not None
    transport = channel.unwrap(crypto.ecdh(psp.keys.pdh.d, cert.public), session)  # BAD_MEASUREMENT: WRAP_MAC
    channel.check_policy(transport.tik, session, cmd.policy)  # BAD_MEASUREMENT: POLICY_MAC
    need(policy_api(cmd.policy) <= psp.api[:2], Status.POLICY_FAILURE)  # the owner wants newer firmware
    need(not cmd.policy & POLICY_RESERVED, Status.POLICY_FAILURE)  # a reserved bit is set
    return transport


def launch_update_data(psp: Psp, handle: int, reserved: int, paddr: int, length: int) -> None:
    """LAUNCH_UPDATE_DATA: plaintext into the digest, then encrypted where it lies. (Fields one by one: a hot command.)"""
    guest = psp.guest(handle)  # INVALID_GUEST: no guest has this handle
    guest.allow(Cmd.LAUNCH_UPDATE_DATA)  # INVALID_GUEST_STATE: it is not being loaded
    need(guest.asid, Status.INACTIVE)  # it has no slot
    hpa = psp.address(paddr, length, BLOCK)  # INVALID_ADDRESS: askew, or beyond the memory
    need(length and not length % BLOCK, Status.INVALID_LEN)  # no whole blocks

    psp.soc.engine.seal(guest.asid, hpa, length, guest.digest)
    first = hpa // PAGE
    psp.soc.pages.mark(first, (hpa + length - 1) // PAGE - first + 1, pages.PRIVATE, guest.asid)
    psp.soc.trace.emit(Loaded, handle, hpa, length, 0)
    psp.moved = length


def launch_update_vmsa(psp: Psp, cmd: LaunchUpdate) -> None:
    """LAUNCH_UPDATE_VMSA: a vCPU's registers into the digest; then the firmware adds its check value and encrypts the page."""
    need(cmd.len == PAGE, Status.INVALID_LEN)  # a VMSA is one page: asked before anything else
    guest = psp.guest(cmd.handle)  # INVALID_GUEST: no guest has this handle
    guest.allow(Cmd.LAUNCH_UPDATE_VMSA)  # INVALID_GUEST_STATE: it is not being loaded
    need(guest.policy & POLICY_ES, Status.UNSUPPORTED)  # its registers are not encrypted
    need(guest.asid, Status.INACTIVE)  # it has no slot
    hpa = psp.address(cmd.paddr, PAGE, BLOCK)  # INVALID_ADDRESS: askew, or beyond the memory
    block = _crc_block(psp, guest, hpa)  # RESOURCE_LIMIT: the TMR is full

    measured = psp.soc.dram.read(hpa, PAGE)

    guest.digest.update(measured)  # as the host left it: the owner cannot know what the firmware adds
    guest.crc_blocks[hpa] = block
    seal(psp.soc, guest.asid, hpa, measured, block)
    psp.soc.pages.mark(hpa // PAGE, (hpa + PAGE - 1) // PAGE - hpa // PAGE + 1, pages.VMSA, guest.asid)
    psp.soc.trace.emit(Loaded, guest.handle, hpa, PAGE, 1)
    psp.moved = PAGE


def _crc_block(psp: Psp, guest: Guest, hpa: int) -> int:
    """Where in the TMR the check value of the VMSA at `hpa` goes: where it was, or the first free block."""
    start = psp.tmr or 0  # an ES guest is only made where there is a TMR
    used = {block for other in psp.guests.values() for block in other.crc_blocks.values()}
    free = (block for block in range(start, start + TMR_LEN, CRC_BLOCK) if block not in used)
    block = guest.crc_blocks[hpa] if hpa in guest.crc_blocks else next(free, None)
    need(block is not None, Status.RESOURCE_LIMIT)  # the TMR is full
    return block  # type: ignore[return-value]


def launch_measure(psp: Psp, cmd: LaunchMeasure) -> LaunchMeasure:
    """LAUNCH_MEASURE: seal the digest of everything loaded so far. The guest need not be active."""
    guest = psp.guest(cmd.handle)  # INVALID_GUEST: no guest has this handle
    guest.allow(Cmd.LAUNCH_MEASURE)  # INVALID_GUEST_STATE: it is not being loaded
    need(cmd.len >= Measurement.SIZE, Status.INVALID_LEN, cmd, len=Measurement.SIZE)  # no room for the measurement
    hpa = psp.address(cmd.paddr, Measurement.SIZE)  # INVALID_ADDRESS: beyond the memory

    mnonce = psp.soc.stream.draw(f"guest/{guest.serial}/mnonce", 16)
    digest = guest.digest.digest()
    sealed = channel.measure(guest.tik, psp.api, guest.policy, digest, mnonce)

    psp.soc.dram.write(hpa, sealed.pack())
    guest.launch_digest = digest
    guest.measure = sealed.measure  # LAUNCH_SECRET is bound to it
    guest.advance(Cmd.LAUNCH_MEASURE)
    cmd.len = Measurement.SIZE
    return cmd


def launch_secret(psp: Psp, cmd: Packet) -> None:
    """LAUNCH_SECRET: the owner's packet, decrypted and written into the guest's memory under the guest's key. Repeatable."""
    guest = psp.guest(cmd.handle)  # INVALID_GUEST: no guest has this handle
    psp.address(cmd.guest_paddr, 0, BLOCK)  # INVALID_ADDRESS: askew, or beyond the memory
    need(cmd.hdr_len == PacketHeader.SIZE, Status.INVALID_LEN)  # no packet header by its length
    need(not cmd.guest_len % BLOCK, Status.INVALID_LEN)  # no whole blocks
    need(cmd.guest_len, Status.INVALID_LEN)  # nothing
    need(cmd.guest_len <= PACKET_LIMIT, Status.INVALID_LEN)  # more than 20 KiB
    need(cmd.guest_len == cmd.trans_len, Status.INVALID_LEN)  # both sides of a packet are equally long
    hpa = psp.address(cmd.guest_paddr, cmd.guest_len, BLOCK)  # INVALID_ADDRESS: askew, or beyond the memory
    header_hpa = psp.address(cmd.hdr_paddr, PacketHeader.SIZE)  # INVALID_ADDRESS: beyond the memory
    packet_hpa = psp.address(cmd.trans_paddr, cmd.trans_len)  # INVALID_ADDRESS: beyond the memory
    guest.allow(Cmd.LAUNCH_SECRET)  # INVALID_GUEST_STATE: not measured, or already running
    need(guest.asid, Status.INACTIVE)  # it has no slot
    header = PacketHeader.unpack(psp.soc.dram.read(header_hpa, PacketHeader.SIZE))
    ciphertext = psp.soc.dram.read(packet_hpa, cmd.trans_len)
    mac = channel.secret_mac(guest.tik, psp.api, header, cmd.guest_len, cmd.trans_len, ciphertext, guest.measure)
    need(crypto.same(mac, header.mac), Status.BAD_MEASUREMENT)  # not what the owner of this measured guest sent
    need(not header.flags & FLAG_COMPRESSED, Status.UNSUPPORTED)  # no firmware unpacks it

    plaintext = crypto.aes_ctr(guest.tek, header.iv, ciphertext)

    psp.soc.engine.write(guest.asid, hpa, plaintext)
    psp.soc.pages.mark(hpa // PAGE, (hpa + cmd.guest_len - 1) // PAGE - hpa // PAGE + 1, pages.PRIVATE, guest.asid)
    psp.moved = cmd.guest_len


def launch_finish(psp: Psp, cmd: Handle) -> None:
    """LAUNCH_FINISH: the owner's channel is closed for good, and the guest runs."""
    guest = psp.guest(cmd.handle)  # INVALID_GUEST: no guest has this handle
    guest.allow(Cmd.LAUNCH_FINISH)  # INVALID_GUEST_STATE: not measured, or already running

    guest.wipe_channel()
    guest.advance(Cmd.LAUNCH_FINISH)
