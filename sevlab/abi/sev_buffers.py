"""The command buffers of the SEV firmware: what the mailbox address points at.

Source: firmware.md 1.4 and 2.3. Everything is packed and little-endian; `paddr`
is a system physical address, `len` a number of bytes. Where a length is marked
in/out, a refusal with INVALID_LEN writes the length that would have been enough.
"""

from __future__ import annotations

from typing import Annotated

from sevlab.wire import Wire, u8, u16, u32, u64

# ---------------------------------------------------------------- platform commands


class Init(Wire):
    """INIT: make the platform ready."""

    flags: u32 = 0                           # 0x00  bit 0: SEV-ES
    reserved: u32 = 0                        # 0x04
    tmr_paddr: u64 = 0                       # 0x08
    tmr_len: u32 = 0                         # 0x10


class InitEx(Wire):
    """INIT_EX: INIT with the persistent state in a 32 KiB buffer instead of flash."""

    length: u32 = 0                          # 0x00  0x24
    flags: u32 = 0                           # 0x04  bit 0: SEV-ES
    tmr_paddr: u64 = 0                       # 0x08
    tmr_len: u32 = 0                         # 0x10
    reserved: u32 = 0                        # 0x14
    nv_paddr: u64 = 0                        # 0x18  0: use the flash
    nv_len: u32 = 0                          # 0x20


class PlatformStatus(Wire):
    """PLATFORM_STATUS: all of it output."""

    api_major: u8 = 0                        # 0x00
    api_minor: u8 = 0                        # 0x01
    state: u8 = 0                            # 0x02
    owner: u8 = 0                            # 0x03  bit 0: owned by somebody outside
    config: u16 = 0                          # 0x04  bit 0: SEV-ES
    reserved: u8 = 0                         # 0x06
    build: u8 = 0                            # 0x07
    guest_count: u32 = 0                     # 0x08


class PekCsr(Wire):
    """PEK_CSR: where the signing request goes."""

    paddr: u64 = 0                           # 0x00
    len: u32 = 0                             # 0x08  in/out


class PekCertImport(Wire):
    """PEK_CERT_IMPORT: a PEK that an owner's OCA has signed."""

    pek_paddr: u64 = 0                       # 0x00
    pek_len: u32 = 0                         # 0x08
    reserved: u32 = 0                        # 0x0C
    oca_paddr: u64 = 0                       # 0x10
    oca_len: u32 = 0                         # 0x18


class PdhCertExport(Wire):
    """PDH_CERT_EXPORT: the PDH, and the chain PEK, OCA, CEK."""

    pdh_paddr: u64 = 0                       # 0x00
    pdh_len: u32 = 0                         # 0x08  in/out
    reserved: u32 = 0                        # 0x0C
    chain_paddr: u64 = 0                     # 0x10
    chain_len: u32 = 0                       # 0x18  in/out


class DownloadFirmware(Wire):
    """DOWNLOAD_FIRMWARE: an image, 32-byte aligned."""

    paddr: u64 = 0                           # 0x00
    len: u32 = 0                             # 0x08


class GetId(Wire):
    """GET_ID: where the chip's id goes, 64 bytes a socket."""

    paddr: u64 = 0                           # 0x00
    len: u32 = 0                             # 0x08  in/out


# ------------------------------------------------------------------- guest commands


class Handle(Wire):
    """A guest's handle and nothing else: every command that needs no more."""

    handle: u32 = 0                          # 0x00


class Decommission(Handle):
    """DECOMMISSION: forget a guest."""


class Deactivate(Handle):
    """DEACTIVATE: take a guest's key out of its slot."""


class LaunchFinish(Handle):
    """LAUNCH_FINISH."""


class SendFinish(Handle):
    """SEND_FINISH."""


class SendCancel(Handle):
    """SEND_CANCEL."""


class ReceiveFinish(Handle):
    """RECEIVE_FINISH."""


class Activate(Wire):
    """ACTIVATE: install a guest's key under an ASID."""

    handle: u32 = 0                          # 0x00
    asid: u32 = 0                            # 0x04


class ActivateEx(Wire):
    """ACTIVATE_EX: ACTIVATE on some core complexes only."""

    ex_len: u32 = 0                          # 0x00  0x18
    handle: u32 = 0                          # 0x04
    asid: u32 = 0                            # 0x08
    numids: u32 = 0                          # 0x0C
    ids_paddr: u64 = 0                       # 0x10


class GuestStatus(Wire):
    """GUEST_STATUS: the handle in, the rest out."""

    handle: u32 = 0                          # 0x00
    policy: u32 = 0                          # 0x04
    asid: u32 = 0                            # 0x08
    state: u8 = 0                            # 0x0C


class Copy(Wire):
    """COPY: move pages of one guest to another physical address."""

    handle: u32 = 0                          # 0x00
    len: u32 = 0                             # 0x04
    src_paddr: u64 = 0                       # 0x08
    dst_paddr: u64 = 0                       # 0x10


class LaunchStart(Wire):
    """LAUNCH_START: a new guest context, bound to its owner's session if there is one."""

    handle: u32 = 0                          # 0x00  in: 0, or a guest whose key is shared; out: the new handle
    policy: u32 = 0                          # 0x04
    dh_cert_paddr: u64 = 0                   # 0x08  0: no session, TIK and TEK are zero
    dh_cert_len: u32 = 0                     # 0x10
    reserved: u32 = 0                        # 0x14
    session_paddr: u64 = 0                   # 0x18
    session_len: u32 = 0                     # 0x20


class LaunchUpdate(Wire):
    """LAUNCH_UPDATE_DATA and LAUNCH_UPDATE_VMSA: measure, then encrypt in place."""

    handle: u32 = 0                          # 0x00
    reserved: u32 = 0                        # 0x04
    paddr: u64 = 0                           # 0x08
    len: u32 = 0                             # 0x10


class LaunchUpdateData(LaunchUpdate):
    """LAUNCH_UPDATE_DATA."""


class LaunchUpdateVmsa(LaunchUpdate):
    """LAUNCH_UPDATE_VMSA: one page, 4096 bytes."""


class LaunchMeasure(Wire):
    """LAUNCH_MEASURE: where the 48 bytes of the measurement go."""

    handle: u32 = 0                          # 0x00
    reserved: u32 = 0                        # 0x04
    paddr: u64 = 0                           # 0x08
    len: u32 = 0                             # 0x10  in/out


class Packet(Wire):
    """One packet between a guest's memory and the wire: LAUNCH_SECRET, SEND_UPDATE_*, RECEIVE_UPDATE_*."""

    handle: u32 = 0                          # 0x00
    reserved: u32 = 0                        # 0x04
    hdr_paddr: u64 = 0                       # 0x08
    hdr_len: u32 = 0                         # 0x10  in/out
    reserved2: u32 = 0                       # 0x14
    guest_paddr: u64 = 0                     # 0x18
    guest_len: u32 = 0                       # 0x20
    reserved3: u32 = 0                       # 0x24
    trans_paddr: u64 = 0                     # 0x28
    trans_len: u32 = 0                       # 0x30  in/out


class LaunchSecret(Packet):
    """LAUNCH_SECRET (Linux: LAUNCH_UPDATE_SECRET)."""


class SendUpdateData(Packet):
    """SEND_UPDATE_DATA."""


class SendUpdateVmsa(Packet):
    """SEND_UPDATE_VMSA. Linux's header leaves out the word after the handle; it never sends it."""


class ReceiveUpdateData(Packet):
    """RECEIVE_UPDATE_DATA."""


class ReceiveUpdateVmsa(Packet):
    """RECEIVE_UPDATE_VMSA."""


class Attestation(Wire):
    """ATTESTATION: the nonce stands between address and length."""

    handle: u32 = 0                          # 0x00
    reserved: u32 = 0                        # 0x04
    paddr: u64 = 0                           # 0x08
    mnonce: Annotated[bytes, 16] = b""       # 0x10
    len: u32 = 0                             # 0x20  in/out


class SendStart(Wire):
    """SEND_START: who shall receive, and where the session goes."""

    handle: u32 = 0                          # 0x00
    policy: u32 = 0                          # 0x04  out
    pdh_cert_paddr: u64 = 0                  # 0x08
    pdh_cert_len: u32 = 0                    # 0x10
    reserved: u32 = 0                        # 0x14
    plat_certs_paddr: u64 = 0                # 0x18
    plat_certs_len: u32 = 0                  # 0x20
    reserved2: u32 = 0                       # 0x24
    amd_certs_paddr: u64 = 0                 # 0x28
    amd_certs_len: u32 = 0                   # 0x30
    reserved3: u32 = 0                       # 0x34
    session_paddr: u64 = 0                   # 0x38
    session_len: u32 = 0                     # 0x40  in/out


class ReceiveStart(Wire):
    """RECEIVE_START: a new guest context, bound to the sending platform's session."""

    handle: u32 = 0                          # 0x00  in: 0, or a guest whose key is shared; out: the new handle
    policy: u32 = 0                          # 0x04
    pdh_cert_paddr: u64 = 0                  # 0x08
    pdh_cert_len: u32 = 0                    # 0x10
    reserved: u32 = 0                        # 0x14
    session_paddr: u64 = 0                   # 0x18
    session_len: u32 = 0                     # 0x20


class Dbg(Wire):
    """DBG_DECRYPT and DBG_ENCRYPT: one side private, the other plain."""

    handle: u32 = 0                          # 0x00
    reserved: u32 = 0                        # 0x04
    src_paddr: u64 = 0                       # 0x08
    dst_paddr: u64 = 0                       # 0x10
    len: u32 = 0                             # 0x18


class SwapOut(Wire):
    """SWAP_OUT: a page leaves guest memory, authenticated under the offline key."""

    handle: u32 = 0                          # 0x00
    page: u32 = 0                            # 0x04  bit 0: 2 MiB; bits 1-2: 0 data, 2 VMSA
    src_paddr: u64 = 0                       # 0x08
    dst_paddr: u64 = 0                       # 0x10
    mdata_paddr: u64 = 0                     # 0x18
    software_data: u64 = 0                   # 0x20


class SwapIn(Wire):
    """SWAP_IN: it comes back."""

    handle: u32 = 0                          # 0x00
    page: u32 = 0                            # 0x04  as SWAP_OUT; bit 3: swap in place
    src_paddr: u64 = 0                       # 0x08
    dst_paddr: u64 = 0                       # 0x10
    mdata_paddr: u64 = 0                     # 0x18


class SwapMdata(Wire):
    """What SWAP_OUT leaves beside the page: counter, tag, kind."""

    software_data: u64 = 0                   # 0x00
    iv: u64 = 0                              # 0x08
    tag: Annotated[bytes, 16] = b""          # 0x10
    reserved: Annotated[bytes, 28] = b""     # 0x20
    page: u32 = 0                            # 0x3C  bit 0: 2 MiB; bits 1-2: 0 data, 2 VMSA
