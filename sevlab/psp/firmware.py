"""AMD's security processor: a mailbox with a state machine behind it.

The host writes a command buffer into its memory, gives command id and address
to the mailbox and gets a status. The order is the firmware's: unknown command,
platform state, and then the rules of the command itself, in its own order.
Source: firmware.md 1.1 to 1.3.
"""

from __future__ import annotations

from sevlab.abi.sev import MAX_HANDLE, Cmd, PlatformState, Status, cmd_name
from sevlab.hw.soc import Soc
from sevlab.psp.asids import Asids
from sevlab.psp.commands import COMMANDS, NOT_MODELLED
from sevlab.psp.context import Guest
from sevlab.psp.identity import Identity
from sevlab.psp.rules import Refused, need, words
from sevlab.psp.states import PLATFORM, knows, platform_after
from sevlab.psp.store import Flash, Keys, Nv
from sevlab.trace import Event, name, u8, u32

NAMES = {int(cmd): cmd.name for cmd in Cmd}

__all__ = ["CommandDone", "NotModelled", "Psp", "Refused", "need"]


class CommandDone(Event, lane="psp"):
    """The PSP finished one mailbox command: its status, the platform's state after it, the guest's handle or 0."""

    cmd: u32
    status: u32
    state: u8
    handle: u32


class NotModelled(Event, lane="psp"):
    """Somebody asked for what the emulator does not model. Real hardware would have answered."""

    what: name


class Psp:
    """The security processor of one machine.

    `api` is (major, minor, build), each 0 to 255; a command younger than that is
    unknown. `nv` is the flash: 32 KiB of bytes, or an object with `read()` and
    `write(bytes)`; None is an empty one. `pdh_per_init` makes a new PDH at every
    INIT, as the specification has it; the default keeps it, as firmware 1.55
    does, so that a session prepared yesterday still works.

    What it remembers: `state`, `es`, `keys`, `guests` (handle to Guest),
    `asids`, `tmr` (hpa or None), `serial` (guests ever made). Raises ValueError for
    a version or an area of flash that cannot be.
    """

    def __init__(
        self, soc: Soc, *, api: tuple[int, int, int] = (0, 24, 15), nv: Nv | bytes | None = None, pdh_per_init: bool = False
    ) -> None:
        if len(api) != 3 or not all(0 <= part <= 255 for part in api):
            raise ValueError(f"a firmware version is three numbers from 0 to 255, not {api}")
        self.soc = soc
        self.api = api
        self.nv: Nv = Flash() if nv is None else Flash(nv) if isinstance(nv, bytes | bytearray) else nv
        self.pdh_per_init = pdh_per_init
        self.identity = Identity(soc.stream, api)
        self.commands = {cmd: row for cmd, row in COMMANDS.items() if knows(api, cmd)}
        self._no: tuple[int, Status, tuple[str, int]] | None = None
        self.moved = 0  # bytes that the command under way has moved: its time depends on them
        self.state = PlatformState.UNINIT
        self.es = False
        self.keys = Keys()
        self.area = self.nv  # where the keys are kept: the flash, or INIT_EX's buffer
        self.guests: dict[int, Guest] = {}
        self.asids = Asids(soc.chip.max_asid, soc.trace)
        self.tmr: int | None = None
        self.serial = 0
        self._strip = ~(1 << soc.chip.c_bit)

    # -------------------------------------------------------------- mailbox

    def mailbox(self, cmd: int, hpa: int = 0) -> int:
        """Run command `cmd` with the command buffer at `hpa` (unused by commands that have none); returns the status.

        Output fields are written into the buffer in place: on success, and by the
        commands that tell a length also with INVALID_LEN. A refusal in words is in `why`.
        """
        row = self.commands.get(cmd)
        if row is None:
            return self._unknown(cmd)
        dram, raw = self.soc.dram, b""
        self.moved = 0
        try:
            need(self.state in PLATFORM[cmd], Status.INVALID_PLATFORM_STATE)  # not in this state of the platform
            if row.size:
                hpa &= self._strip
                need(hpa + row.size <= dram.size, Status.INVALID_ADDRESS)  # the command buffer ends beyond the machine's memory
                raw = dram.read(hpa, row.size)
            reply = row.run(self, raw)
            if reply is not None:
                dram.write(hpa, reply)
                raw = reply
            self.state = platform_after(cmd, self.state, self.guests)
            status = Status.SUCCESS
        except Refused as no:
            status = no.status
            self._no = cmd, status, no.rung()
            if no.reply is not None:
                dram.write(hpa, no.reply.pack())
        self.soc.clock.spend(NAMES[cmd], self.moved)
        self.soc.trace.emit(CommandDone, cmd, status, self.state, int.from_bytes(raw[:4], "little") if row.handle else 0)
        return int(status)

    def _unknown(self, cmd: int) -> int:
        """An id without a row: no such command, or one that only real firmware has."""
        self._no = cmd, Status.INVALID_COMMAND, ("", 0)
        if cmd in NOT_MODELLED and knows(self.api, cmd):
            self.soc.trace.emit(NotModelled, f"{cmd_name(cmd)}: {NOT_MODELLED[cmd]}")
        self.soc.clock.spend("NOP")
        self.soc.trace.emit(CommandDone, cmd, Status.INVALID_COMMAND, self.state, 0)
        return int(Status.INVALID_COMMAND)

    @property
    def why(self) -> str:
        """The last refusal in words: command, status and the rule that said no; "" if there was none."""
        if self._no is None:
            return ""
        cmd, status, rung = self._no
        missing = f"firmware {self.api[0]}.{self.api[1]} has no such command"
        if cmd in NOT_MODELLED and knows(self.api, cmd):
            missing = f"not modelled: {NOT_MODELLED[cmd]}"
        return f"{cmd_name(cmd)}: {status.name}: {missing if status is Status.INVALID_COMMAND else words(rung)}"

    # ------------------------------------------------- what handlers share

    def address(self, paddr: int, n: int, align: int = 1) -> int:
        """The machine address of an `n`-byte range that a command names, its C-bit removed; INVALID_ADDRESS if it cannot be."""
        hpa = paddr & self._strip
        need(not hpa % align, Status.INVALID_ADDRESS)  # the address is not aligned
        need(hpa + n <= self.soc.dram.size, Status.INVALID_ADDRESS)  # the range ends beyond the machine's memory
        if self.soc.caches is not None:
            self.soc.caches.snoop(paddr, n)
        return hpa

    def guest(self, handle: int) -> Guest:
        """The guest with this handle, or INVALID_GUEST."""
        guest = self.guests.get(handle)
        need(guest, Status.INVALID_GUEST)  # no guest has this handle
        return guest  # type: ignore[return-value]

    def free_handle(self) -> int:
        """The lowest handle that no guest has, or RESOURCE_LIMIT."""
        need(len(self.guests) < MAX_HANDLE, Status.RESOURCE_LIMIT)  # every handle is taken
        return next(handle for handle in range(1, MAX_HANDLE + 1) if handle not in self.guests)

    def __repr__(self) -> str:
        version = ".".join(map(str, self.api))
        return f"<Psp: API {version}, {self.state.name}, {len(self.guests)} guests>"
