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

# What a field may hold instead of what is right: what nearly works, and what does not.
WRONG: dict[str, list[Any]] = {
    "handle": [0, 1, 2, 3, 2000],
    "asid": [0, 1, 2, 5, 6, 7, 15, 16],
    "policy": [0, 1, 2, POLICY_ES, POLICY_ES | 1, 0xFFC0],
    "flags": [0, 2],
    "length": [0x20],
    "tmr_paddr": [TMR + 16],
    "tmr_len": [0],
    "nv_paddr": [0, NV + 4, TMR],
    "nv_len": [0],
    "dh_cert_paddr": [0, HEADER],
    "dh_cert_len": [0],
    "session_paddr": [HEADER],
    "session_len": [127],
    "pek_paddr": [SESSION],
    "pek_len": [0],
    "oca_paddr": [CERT],
    "oca_len": [2083],
    "pdh_len": [0],
    "chain_len": [6251],
    "paddr": [DATA + 0x1000, DATA + 8, 1 << 40],
    "src_paddr": [OUT, 8],
    "dst_paddr": [DATA, 1 << 40],
    "len": [4096, 48, 208, 0, 16, 40],
    "hdr_paddr": [PACKET],
    "hdr_len": [51],
    "guest_paddr": [DATA + 64, DATA + 1],
    "guest_len": [16, 0x5010],
    "trans_paddr": [HEADER],
    "trans_len": [16],
}
LENGTHS = {Cmd.LAUNCH_MEASURE: 48, Cmd.ATTESTATION: 208, Cmd.PEK_CSR: 2084, Cmd.GET_ID: 64}
UP = {"flags": 1, "length": 0x24, "tmr_paddr": TMR, "tmr_len": MIB, "nv_paddr": NV, "nv_len": sev.NV_LEN}
RIGHT = UP | {"pdh_paddr": OUT, "pdh_len": 2084, "chain_paddr": CHAIN, "chain_len": 6252, "src_paddr": DATA, "dst_paddr": OTHER}
GUEST = [cmd for cmd in COMMANDS if cmd >= Cmd.DECOMMISSION]
OFTEN = [Cmd.LAUNCH_START, Cmd.ACTIVATE, Cmd.LAUNCH_MEASURE]

# A command, which guest and which choice it is about, and which fields are then made wrong, and how.
SPOILT = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=2)
COMMAND = st.tuples(st.sampled_from([*GUEST, *GUEST, *OFTEN, *OFTEN, *COMMANDS]), st.integers(0, 7), SPOILT)
BETWEEN = st.tuples(st.sampled_from(["WBINVD", "WBINVD", "flash", "area"]), st.integers(0, 7), st.just([]))
STEP = st.one_of(COMMAND, COMMAND, COMMAND, COMMAND, BETWEEN)


def fitting(machine: Machine, cmd: Cmd, choice: int) -> Any:
    """A buffer for `cmd` with which it may well succeed as things stand."""
    kind, psp = COMMANDS[cmd].buffer, machine.psp
    if kind is None:
        return None
    up = psp.state is not PlatformState.UNINIT
    handle = sorted(psp.guests)[choice % len(psp.guests)] if psp.guests else 1
    if up and cmd == Cmd.LAUNCH_START and choice % 2:
        return machine.with_session([0, POLICY_ES, 1, 2][choice // 2])
    if up and cmd == Cmd.PEK_CERT_IMPORT:
        return machine.with_import(version=1 + (choice == 7))
    if cmd == Cmd.LAUNCH_SECRET and psp.guests:
        return machine.with_secret(handle, flags=choice // 7)
    es = psp.guests[handle].policy & POLICY_ES if psp.guests else 0
    slots = range(1, 6) if es else range(6, 16)
    values = RIGHT | {"handle": handle, "paddr": DATA, "len": LENGTHS.get(cmd, 4096)}
    values["asid"] = next((asid for asid in slots if psp.asids.clean(asid)), slots[0])
    if cmd == Cmd.LAUNCH_START:
        values["handle"] = 0 if choice < 6 else handle
    return kind(**{field: value for field, value in values.items() if field in kind.NAMES})


def between(machine: Machine, what: str, choice: int) -> None:
    """What a host does between commands: empty the caches, or spoil what is kept for good."""
    if what == "WBINVD":
        machine.soc.wbinvd()
    elif what == "area":
        machine.dram.write(NV, b"\xff" * sev.NV_LEN if choice % 2 else bytes(sev.NV_LEN))
    elif choice == 7:
        machine.psp.nv.write(bytes(sev.NV_LEN))


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


@given(st.lists(STEP, min_size=20, max_size=40), st.integers(0, 3))  # Hypothesis's lists are short unless they may not be
@settings(max_examples=100)
def test_a_refused_command_leaves_no_mark_and_the_books_balance(script: list[Any], begun: int) -> None:
    machine = Machine("naples", memory=2 * MIB)
    if begun:
        machine.up()
        for guest in range(begun):
            machine.guest(POLICY_ES * (guest == 1), session=guest < 2)
    for cmd, choice, spoilt in script:
        if isinstance(cmd, str):
            between(machine, cmd, choice)
            continue
        if machine.psp.state is PlatformState.UNINIT and choice > 2:
            cmd = Cmd.INIT  # else most scripts would end in silence
        buffer = fitting(machine, cmd, choice)
        fields = [field for field in buffer.NAMES if field in WRONG] if buffer is not None else []
        for which, how in spoilt if fields else []:
            field = fields[which % len(fields)]
            setattr(buffer, field, WRONG[field][how % len(WRONG[field])])
        asked = buffer.pack() if buffer is not None else b""

        before = machine.remembered()
        status = machine(cmd, buffer)
        after = machine.remembered()

        if status is Status.SECURE_DATA_INVALID:
            before["nv"], before["memory"] = after["nv"], after["memory"]  # the original erases what it cannot read
        assert status is Status.SUCCESS or after == before
        if status not in (Status.SUCCESS, Status.INVALID_LEN):
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
