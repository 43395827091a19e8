"""Laws over random scripts of commands: a refusal leaves no mark, books balance, no slot is handed out dirty."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from psp.machine import BUFFER, CERT, CHAIN, DATA, HEADER, MIB, NV, OTHER, OUT, PACKET, SESSION, TMR, Machine

from sevlab.abi import sev
from sevlab.abi.sev import POLICY_ES, Cmd, PlatformState, Status
from sevlab.psp.asids import AsidState
from sevlab.psp.commands import COMMANDS

# What a host may write into a field: what works, what nearly works, and what does not.
VALUES: dict[str, list[Any]] = {
    "handle": [0, 1, 1, 1, 2, 2, 3, 2000],
    "asid": [0, 1, 2, 5, 6, 7, 8, 15, 16],
    "policy": [0, 0, 1, 2, POLICY_ES, POLICY_ES | 1, 0xFFC0],
    "flags": [0, 1, 2],
    "length": [0x24, 0x20],
    "tmr_paddr": [TMR, TMR, TMR + 16],
    "tmr_len": [MIB, MIB, 0],
    "nv_paddr": [0, NV, NV, NV + 4, TMR],
    "nv_len": [sev.NV_LEN, sev.NV_LEN, 0],
    "dh_cert_paddr": [0, 0, CERT],
    "dh_cert_len": [2084, 0],
    "session_paddr": [SESSION],
    "session_len": [128, 127],
    "pek_paddr": [CERT],
    "pek_len": [2084],
    "oca_paddr": [SESSION],
    "oca_len": [2084, 2083],
    "pdh_paddr": [OUT],
    "pdh_len": [2084, 0],
    "chain_paddr": [CHAIN],
    "chain_len": [6252, 6251],
    "paddr": [DATA, DATA, DATA + 0x1000, DATA + 8, 1 << 40],
    "src_paddr": [DATA, DATA + 0x1000, OUT, 8],
    "dst_paddr": [OTHER, DATA, OUT, 1 << 40],
    "len": [4096, 4096, 48, 208, 2084, 0, 16, 40],
    "hdr_paddr": [HEADER],
    "hdr_len": [52, 51],
    "guest_paddr": [DATA, DATA + 64, DATA + 1],
    "guest_len": [32, 32, 16, 0x5010],
    "trans_paddr": [PACKET],
    "trans_len": [32, 32, 16],
}
COMMON = [
    Cmd.LAUNCH_START,
    Cmd.ACTIVATE,
    Cmd.DEACTIVATE,
    Cmd.DECOMMISSION,
    Cmd.LAUNCH_UPDATE_DATA,
    Cmd.LAUNCH_MEASURE,
    Cmd.DF_FLUSH,
]
PREPARED = ["session", "secret", "import", "WBINVD", "flash", "area"]


def buffers(cmd: Cmd) -> st.SearchStrategy[Any]:
    kind = COMMANDS[cmd].buffer
    if kind is None:
        return st.none()
    return st.builds(kind, **{field: st.sampled_from(VALUES[field]) for field in kind.NAMES if field in VALUES})


COMMAND = st.sampled_from([*COMMANDS, *COMMON, *COMMON]).flatmap(lambda cmd: st.tuples(st.just(cmd), buffers(cmd)))
STEP = st.one_of(COMMAND, COMMAND, COMMAND, st.tuples(st.sampled_from(PREPARED), st.integers(0, 255)))


def prepare(machine: Machine, what: str, number: int) -> tuple[Cmd, Any] | None:
    """What a host does between commands: flush, spoil the flash, or bring an owner's message (at times spoilt)."""
    if what == "WBINVD":
        machine.soc.wbinvd()
    elif what == "flash" and number > 200:
        machine.psp.nv.write(bytes(sev.NV_LEN))
    elif what == "area":
        machine.dram.write(NV, b"\xff" * sev.NV_LEN if number % 2 else bytes(sev.NV_LEN))
    elif machine.psp.state is not PlatformState.UNINIT:
        if what == "session":
            return Cmd.LAUNCH_START, machine.with_session(number % 4).replace(policy=number % 5)
        if what == "secret" and machine.psp.guests:
            return Cmd.LAUNCH_SECRET, machine.with_secret(min(machine.psp.guests), flags=number == 255)
        if what == "import":
            return Cmd.PEK_CERT_IMPORT, machine.with_import(version=1 + (number > 200))
    return None


def balanced(machine: Machine) -> None:
    """The firmware's books agree with each other and with the silicon."""
    psp = machine.psp
    active = {guest.asid: handle for handle, guest in psp.guests.items() if guest.asid}
    assert len(active) == sum(1 for guest in psp.guests.values() if guest.asid)
    slots = range(1, machine.soc.chip.max_asid + 1)
    assert (
        set(active) == {asid for asid in slots if psp.asids.used(asid)} == {asid for asid in slots if machine.soc.engine.has(asid)}
    )
    assert (psp.state is PlatformState.WORKING) == bool(psp.guests)
    assert all(guest.handle == handle and guest.state for handle, guest in psp.guests.items())
    if psp.state is PlatformState.UNINIT:
        assert psp.tmr is None and not psp.es
        assert AsidState.USED not in psp.asids.states[1:]
    else:
        assert psp.keys.oca and psp.keys.pek and psp.keys.pdh


@given(st.lists(STEP, max_size=25), st.booleans())
@settings(max_examples=120)
def test_a_refused_command_leaves_no_mark_and_the_books_balance(script: list[Any], up: bool) -> None:
    machine = Machine("naples")
    if up:
        machine.up()
    for cmd, buffer in script:
        if isinstance(cmd, str):
            made = prepare(machine, cmd, buffer)
            if made is None:
                continue
            cmd, buffer = made
        asked = buffer.pack() if buffer is not None else b""
        before = machine.remembered()
        status = machine(cmd, buffer)
        after = machine.remembered()
        if status is Status.SECURE_DATA_INVALID:
            before["nv"], before["memory"] = after["nv"], after["memory"]  # the original erases what it cannot read
        assert status is Status.SUCCESS or after == before
        if status not in (Status.SUCCESS, Status.INVALID_LEN) and buffer is not None:
            assert machine.dram.read(BUFFER, len(asked)) == asked
        balanced(machine)


@given(st.lists(st.tuples(st.sampled_from(["activate", "deactivate", "wbinvd", "flush"]), st.integers(6, 8)), max_size=30))
@settings(max_examples=150)
def test_no_slot_is_handed_out_between_its_guest_and_a_flush_with_all_caches_empty(script: list[tuple[str, int]]) -> None:
    machine = Machine("naples").up()
    handles = {asid: machine.start() for asid in (6, 7, 8)}
    owed: set[int] = set()  # slots that were left and not flushed since
    written_back = False
    for step, asid in script:
        if step == "wbinvd":
            machine.soc.wbinvd()
            written_back = True
        elif step == "flush":
            status = machine(Cmd.DF_FLUSH)
            assert status is (Status.SUCCESS if written_back else Status.WBINVD_REQUIRED)
            owed = set() if written_back else owed
            written_back = False
        elif step == "deactivate" and machine(Cmd.DEACTIVATE, sev.Handle(handles[asid])) is Status.SUCCESS:
            owed.add(asid)
            written_back = False
        elif step == "activate" and not machine.psp.guests[handles[asid]].asid:
            status = machine(Cmd.ACTIVATE, sev.Activate(handles[asid], asid))
            assert status is (Status.DFFLUSH_REQUIRED if asid in owed else Status.SUCCESS)


@given(st.binary(min_size=0, max_size=64), st.sampled_from(sorted(COMMANDS)))
@settings(max_examples=200)
def test_no_bytes_in_a_command_buffer_break_the_firmware(noise: bytes, cmd: int) -> None:
    machine = Machine("naples").up()
    machine.guest()
    machine.dram.write(BUFFER, noise)

    status = machine.psp.mailbox(cmd, BUFFER)

    assert Status(status) in Status
    balanced(machine)
