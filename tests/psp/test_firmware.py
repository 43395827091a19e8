"""The mailbox: dispatch, write-back, refusals in words, and the law that a refusal leaves no mark."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from psp.machine import BUFFER, MEMORY, OUT, Machine, good

from sevlab.abi import sev
from sevlab.abi.sev import Cmd, PlatformState, Status
from sevlab.psp import attestation, debug, guests, launch, platform
from sevlab.psp.commands import COMMANDS
from sevlab.psp.firmware import CommandDone, Psp

TELLS_A_LENGTH = {Cmd.PEK_CSR, Cmd.PDH_CERT_EXPORT, Cmd.GET_ID, Cmd.LAUNCH_MEASURE, Cmd.ATTESTATION}


@pytest.mark.parametrize("cmd", COMMANDS)
def test_every_command_has_a_situation_in_which_it_succeeds(cmd: Cmd) -> None:
    machine, buffer = good(cmd)

    assert machine(cmd, buffer) is Status.SUCCESS, machine.psp.why


@pytest.mark.parametrize("cmd", [cmd for cmd, row in COMMANDS.items() if row.size])
def test_a_command_buffer_beyond_the_memory_is_refused(cmd: Cmd) -> None:
    machine, _ = good(cmd)
    before = machine.remembered()

    for hpa in (MEMORY, MEMORY - COMMANDS[cmd].size + 1, 1 << 46):
        assert machine.psp.mailbox(cmd, hpa) == Status.INVALID_ADDRESS
    assert machine.remembered() == before


def test_the_buffer_may_end_with_the_memory_and_carry_the_c_bit() -> None:
    machine = Machine()
    hpa = MEMORY - sev.PlatformStatus.SIZE

    assert machine.psp.mailbox(Cmd.PLATFORM_STATUS, hpa | 1 << 47) == Status.SUCCESS
    assert sev.PlatformStatus.unpack(machine.dram.read(hpa, 12)).api_minor == 24


@pytest.mark.parametrize("cmd", [cmd for cmd, row in COMMANDS.items() if row.size])
def test_a_refused_command_writes_nothing_back_unless_it_tells_a_length(cmd: Cmd) -> None:
    machine, buffer = good(cmd)
    machine.psp.state = PlatformState(2 - machine.psp.state) if cmd in (Cmd.INIT, Cmd.INIT_EX) else machine.psp.state
    blank = type(buffer)()  # zeros are wrong somewhere in nearly every command
    machine.dram.write(BUFFER, blank.pack() + b"\xaa" * 16)
    status = Status(machine.psp.mailbox(cmd, BUFFER))

    after = machine.dram.read(BUFFER, blank.SIZE + 16)
    assert after[blank.SIZE :] == b"\xaa" * 16
    if status is not Status.SUCCESS and cmd not in TELLS_A_LENGTH:
        assert after[: blank.SIZE] == blank.pack()


@pytest.mark.parametrize("cmd", TELLS_A_LENGTH)
def test_a_command_that_tells_a_length_does_so_with_invalid_len_only(cmd: Cmd) -> None:
    machine, buffer = good(cmd)
    if hasattr(buffer, "handle"):
        query = type(buffer)(handle=77)
        assert machine(cmd, query) is Status.INVALID_GUEST
        assert query == type(buffer)(handle=77)
    query = type(buffer)(handle=1) if hasattr(buffer, "handle") else type(buffer)()
    zeros = query.pack()

    assert machine(cmd, query) is Status.INVALID_LEN
    assert query.pack() != zeros
    lengths = {field: 0 for field in query.NAMES if field in ("len", "pdh_len", "chain_len")}
    assert query.replace(**lengths).pack() == zeros


def test_a_refusal_says_in_words_which_rule_said_no() -> None:
    machine = Machine().up()
    assert machine.psp.why == ""
    machine.start()

    machine(Cmd.DEACTIVATE, sev.Handle(9))
    assert machine.psp.why == "DEACTIVATE: INVALID_GUEST: no guest has this handle"
    machine(Cmd.PLATFORM_RESET)
    assert machine.psp.why == "PLATFORM_RESET: INVALID_PLATFORM_STATE: not in this state of the platform"
    machine(0x99)
    assert machine.psp.why == "0x99: INVALID_COMMAND: firmware 0.24 has no such command"
    machine(Cmd.SWAP_OUT)
    assert machine.psp.why.startswith("SWAP_OUT: INVALID_COMMAND: not modelled: ")


@pytest.mark.parametrize("module", [attestation, debug, guests, launch, platform])
def test_every_rule_of_every_handler_has_its_reason_on_its_line(module: Any) -> None:
    rules = [line.strip() for line in inspect.getsource(module).splitlines() if line.strip().startswith("need(")]

    assert rules
    assert [rule for rule in rules if "  # " not in rule] == []


def test_every_command_leaves_a_row_with_its_status_the_state_and_the_guest() -> None:
    machine = Machine()
    machine(Cmd.DF_FLUSH)
    machine.up()
    handle = machine.start()
    machine(Cmd.DEACTIVATE, sev.Handle(handle))
    machine.must(Cmd.DECOMMISSION, sev.Handle(handle))

    rows = [(row["cmd"], row["status"], row["state"], row["handle"]) for row in machine.trace.rows(CommandDone)]

    assert rows == [
        (Cmd.DF_FLUSH, Status.INVALID_PLATFORM_STATE, 0, 0),
        (Cmd.INIT, Status.SUCCESS, 1, 0),
        (Cmd.DF_FLUSH, Status.SUCCESS, 1, 0),
        (Cmd.LAUNCH_START, Status.SUCCESS, 2, handle),
        (Cmd.DEACTIVATE, Status.INACTIVE, 2, handle),
        (Cmd.DECOMMISSION, Status.SUCCESS, 1, handle),
    ]


def test_a_guests_life_can_be_read_from_the_trace() -> None:
    machine = Machine().up()
    handle = machine.start()
    machine.must(Cmd.LAUNCH_MEASURE, sev.LaunchMeasure(handle, paddr=OUT, len=48))
    machine.must(Cmd.LAUNCH_FINISH, sev.Handle(handle))
    machine.must(Cmd.DECOMMISSION, sev.Handle(handle))

    steps = [(row["cmd"], row["before"], row["after"]) for row in machine.trace if row["kind"] == "GuestStateChanged"]

    assert steps == [(Cmd.LAUNCH_START, 0, 1), (Cmd.LAUNCH_MEASURE, 1, 2), (Cmd.LAUNCH_FINISH, 2, 3), (Cmd.DECOMMISSION, 3, 0)]


@pytest.mark.parametrize(
    "cmd", [Cmd.LAUNCH_UPDATE_DATA, Cmd.LAUNCH_UPDATE_VMSA, Cmd.LAUNCH_SECRET, Cmd.COPY, Cmd.DBG_DECRYPT, Cmd.DBG_ENCRYPT]
)
def test_a_command_takes_its_time_and_more_when_it_moves_bytes(cmd: Cmd) -> None:
    machine, buffer = good(cmd)
    refused = type(buffer)(handle=77)

    def cost(buffer: Any) -> int:
        before = machine.soc.clock.now
        machine(cmd, buffer)
        return machine.soc.clock.now - before

    assert 0 < cost(refused) < cost(buffer)


@pytest.mark.parametrize("api", [(0, 24), (0, 24, 256), (-1, 0, 0), (0, 24, 15, 0)])
def test_a_version_that_is_none_is_refused_when_the_processor_is_made(api: Any) -> None:
    with pytest.raises(ValueError, match="version"):
        Machine(api=api)


@pytest.mark.parametrize("nv", [b"", b"\xff" * 100, bytes(0x8001)])
def test_a_flash_of_another_size_is_refused_when_the_processor_is_made(nv: bytes) -> None:
    with pytest.raises(ValueError, match="32768"):
        Machine(nv=nv)


def test_an_object_of_ones_own_may_be_the_flash() -> None:
    class File:
        data = b"\xff" * sev.NV_LEN

        def read(self) -> bytes:
            return self.data

        def write(self, data: bytes) -> None:
            self.data = data

    file = File()
    first = Machine(nv=file).up()

    assert repr(Machine(nv=file).up().psp.keys) == repr(first.psp.keys)
    assert Machine(nv=file.data).up().psp.keys.pdhs_made == 1


def test_a_processor_shows_no_key_when_it_is_printed() -> None:
    machine = Machine().up()
    handle = machine.guest(session=True)

    assert repr(machine.psp) == "<Psp: API 0.24.15, WORKING, 1 guests>"
    assert repr(machine.psp.guests[handle]) == "<Guest 1: LUPDATE, policy 0x0, ASID 100>"
    assert isinstance(machine.psp, Psp)
