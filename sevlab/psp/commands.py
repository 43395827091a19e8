"""Every command the firmware knows, on one screen.

A row names the handler, the command buffer (None: the command has none) and
what the emulation leaves out, in words: "" says that nothing a caller could see
is missing. The coverage page is made from these two tables.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sevlab.abi import sev
from sevlab.abi.sev import Cmd
from sevlab.psp import attestation, debug, guests, launch, platform
from sevlab.wire import Wire

if TYPE_CHECKING:
    from sevlab.psp.firmware import Psp


class Row:
    """One command. The handlers of `flat` rows take the buffer's fields one by one and answer in bytes: they are run often.

    `size` counts the buffer's bytes (0: none); `handle` says whether it begins with a guest's handle.
    """

    __slots__ = ("buffer", "flat", "handle", "handler", "leaves_out", "size", "unpack")

    def __init__(
        self, handler: Callable[..., Any], buffer: type[Wire] | None = None, leaves_out: str = "", *, flat: bool = False
    ) -> None:
        self.handler = handler
        self.buffer = buffer
        self.leaves_out = leaves_out
        self.flat = flat
        self.size = buffer.SIZE if buffer else 0
        self.handle = buffer is not None and buffer.LAYOUT[0].name == "handle"
        self.unpack: Callable[[bytes], Any] | None = None if buffer is None else buffer.FORMAT.unpack if flat else buffer.unpack

    def run(self, psp: Psp, raw: bytes) -> bytes | None:
        """Have the handler see the buffer; returns the bytes to write back over it, or None."""
        if self.unpack is None:
            self.handler(psp)
            return None
        if self.flat:
            answer: bytes | None = self.handler(psp, *self.unpack(raw))
            return answer
        reply: Wire | None = self.handler(psp, self.unpack(raw))
        return None if reply is None else reply.pack()


COMMANDS: dict[int, Row] = {
    # command               handler                        buffer               what it leaves out
    Cmd.INIT:               Row(platform.init,             sev.Init,            "SYSCFG is not read; the TMR is not fenced off"),
    Cmd.INIT_EX:            Row(platform.init_ex,          sev.InitEx,          "as INIT; the format of the area is ours"),
    Cmd.SHUTDOWN:           Row(platform.shutdown,         None,                "scrubbing never fails (HWSEV_RET_UNSAFE)"),
    Cmd.PLATFORM_RESET:     Row(platform.platform_reset),
    Cmd.PLATFORM_STATUS:    Row(platform.platform_status,  sev.PlatformStatus),
    Cmd.PEK_GEN:            Row(platform.pek_gen),
    Cmd.PEK_CSR:            Row(platform.pek_csr,          sev.PekCsr),
    Cmd.PEK_CERT_IMPORT:    Row(platform.pek_cert_import,  sev.PekCertImport,   "keys on P-256 are refused"),
    Cmd.PDH_GEN:            Row(platform.pdh_gen),
    Cmd.PDH_CERT_EXPORT:    Row(platform.pdh_cert_export,  sev.PdhCertExport),
    Cmd.GET_ID:             Row(platform.get_id,           sev.GetId,           "one socket"),
    Cmd.DF_FLUSH:           Row(platform.df_flush,         None,                "cores are asked together; no cache lines"),
    Cmd.NOP:                Row(platform.nop),
    Cmd.LAUNCH_START:       Row(launch.launch_start,       sev.LaunchStart,     "one memory channel, so one key a guest"),
    Cmd.LAUNCH_UPDATE_DATA: Row(launch.launch_update_data, sev.LaunchUpdate,    "", flat=True),
    Cmd.LAUNCH_UPDATE_VMSA: Row(launch.launch_update_vmsa, sev.LaunchUpdate,    "the CRC's polynomial is not published: ECMA-182"),
    Cmd.LAUNCH_MEASURE:     Row(launch.launch_measure,     sev.LaunchMeasure),
    Cmd.LAUNCH_SECRET:      Row(launch.launch_secret,      sev.Packet),
    Cmd.LAUNCH_FINISH:      Row(launch.launch_finish,      sev.Handle,          "API 1.x: no pending activation to complete"),
    Cmd.ATTESTATION:        Row(attestation.attestation,   sev.Attestation,     "the ECDSA nonce is RFC 6979's, not random"),
    Cmd.ACTIVATE:           Row(guests.activate,           sev.Activate,        "API 1.x: active at once, never pending"),
    Cmd.DEACTIVATE:         Row(guests.deactivate,         sev.Handle),
    Cmd.DECOMMISSION:       Row(guests.decommission,       sev.Handle),
    Cmd.GUEST_STATUS:       Row(guests.guest_status,       sev.GuestStatus,     "", flat=True),
    Cmd.COPY:               Row(guests.copy,               sev.Copy),
    Cmd.DBG_DECRYPT:        Row(debug.dbg_decrypt,         sev.Dbg),
    Cmd.DBG_ENCRYPT:        Row(debug.dbg_encrypt,         sev.Dbg),
}  # fmt: skip

_SENDING = "no migration between platforms: a guest is never sent"
_RECEIVING = "no migration between platforms: a guest is never received"
_SWAPPING = "no swapping of guest pages under an offline key"

# What real firmware answers and this one does not: INVALID_COMMAND and a NotModelled row in the trace.
NOT_MODELLED: dict[int, str] = {
    Cmd.DOWNLOAD_FIRMWARE: "the firmware is this program; no image is loaded",
    Cmd.RING_BUFFER: "commands come one at a time",
    Cmd.ACTIVATE_EX: "no activation on single core complexes; Linux never asks for it",
    Cmd.SEND_START: _SENDING,
    Cmd.SEND_UPDATE_DATA: _SENDING,
    Cmd.SEND_UPDATE_VMSA: _SENDING,
    Cmd.SEND_FINISH: _SENDING,
    Cmd.SEND_CANCEL: _SENDING,
    Cmd.RECEIVE_START: _RECEIVING,
    Cmd.RECEIVE_UPDATE_DATA: _RECEIVING,
    Cmd.RECEIVE_UPDATE_VMSA: _RECEIVING,
    Cmd.RECEIVE_FINISH: _RECEIVING,
    Cmd.SWAP_OUT: _SWAPPING,
    Cmd.SWAP_IN: _SWAPPING,
}
