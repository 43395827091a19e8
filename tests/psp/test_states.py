"""The two state machines: every command in every state."""

from __future__ import annotations

import pytest
from psp.machine import Machine, good

from sevlab.abi import sev
from sevlab.abi.sev import Cmd, GuestState, PlatformState, Status
from sevlab.psp.commands import COMMANDS, NOT_MODELLED
from sevlab.psp.states import GUEST, PLATFORM, SINCE, knows

P, G = PlatformState, GuestState
GUEST_COMMANDS = [cmd for cmd in COMMANDS if cmd in GUEST and cmd != Cmd.LAUNCH_START]


@pytest.mark.parametrize("state", P)
@pytest.mark.parametrize("cmd", COMMANDS)
def test_a_command_runs_in_the_platform_states_of_its_row_and_in_no_other(cmd: Cmd, state: P) -> None:
    machine, buffer = good(cmd)
    if cmd not in GUEST and state is P.WORKING and cmd not in (Cmd.INIT, Cmd.INIT_EX, Cmd.PLATFORM_RESET):
        machine.guest()
    machine.psp.state = state

    status = machine(cmd, buffer)

    if state in PLATFORM[cmd]:
        assert status is Status.SUCCESS, machine.psp.why
        # Guest 1 was the only one, so forgetting it takes the platform back to INIT: the one transition no row can say.
        assert machine.psp.state is (P.INIT if cmd == Cmd.DECOMMISSION else PLATFORM[cmd][state])
    else:
        assert status is Status.INVALID_PLATFORM_STATE
        assert machine.psp.state is state


@pytest.mark.parametrize("state", G)
@pytest.mark.parametrize("cmd", GUEST_COMMANDS)
def test_a_guest_command_runs_in_the_guest_states_of_its_row_and_in_no_other(cmd: Cmd, state: G) -> None:
    machine, buffer = good(cmd, state=None if state is G.UNINIT else state)
    if state is G.UNINIT:
        machine.guest()  # another one, so that the platform stays WORKING
        del machine.psp.guests[1]
    else:
        machine.psp.guests[1].state = state

    status = machine(cmd, buffer)

    if state in GUEST[cmd]:
        assert status is Status.SUCCESS, machine.psp.why
        guest = machine.psp.guests.get(1)
        assert (guest.state if guest else G.UNINIT) is GUEST[cmd][state]
    else:
        assert status is (Status.INVALID_GUEST if state is G.UNINIT else Status.INVALID_GUEST_STATE)
        assert state is G.UNINIT or machine.psp.guests[1].state is state


@pytest.mark.parametrize("state", P)
def test_an_id_that_is_no_command_is_refused_before_the_state_is_looked_at(state: P) -> None:
    machine = Machine().up()
    machine.psp.state = state

    for cmd in [0, *range(0x100), 0xFFFF, 0xFFFFFFFF]:
        if cmd not in COMMANDS:
            assert machine(cmd) is Status.INVALID_COMMAND
    assert machine.psp.state is state


def test_every_command_id_is_either_modelled_or_listed_as_not_modelled_with_words() -> None:
    assert set(Cmd) == set(COMMANDS) | set(NOT_MODELLED)
    assert not set(COMMANDS) & set(NOT_MODELLED)
    assert all(NOT_MODELLED.values())
    assert set(COMMANDS) <= set(PLATFORM)


@pytest.mark.parametrize("cmd", NOT_MODELLED)
def test_a_command_that_is_not_modelled_says_so_in_the_trace(cmd: Cmd) -> None:
    machine = Machine().up()

    assert machine(cmd, sev.Handle(1)) is Status.INVALID_COMMAND
    (row,) = [row for row in machine.trace if row["kind"] == "NotModelled"]
    assert NOT_MODELLED[cmd] in row["what"]
    assert NOT_MODELLED[cmd] in machine.psp.why


@pytest.mark.parametrize("cmd", SINCE)
def test_firmware_older_than_a_command_does_not_know_it(cmd: Cmd) -> None:
    major, minor = SINCE[cmd]
    older, first = Machine(api=(major, minor - 1, 0)), Machine(api=(major, minor, 0))

    assert older(cmd, sev.SendStart()) is Status.INVALID_COMMAND
    assert [row for row in older.trace if row["kind"] == "NotModelled"] == []  # real firmware of that age says no too
    assert cmd in NOT_MODELLED or first(cmd, sev.SendStart()) is not Status.INVALID_COMMAND


def test_the_first_version_of_all_knows_what_has_no_row() -> None:
    assert knows((0, 0), Cmd.LAUNCH_START)
    assert not knows((0, 21, 99), Cmd.ATTESTATION)
    assert knows((1, 0, 0), Cmd.ATTESTATION)


def test_working_ends_with_the_last_guest_and_not_before() -> None:
    machine = Machine().up()
    first, second = machine.start(), machine.start()

    machine.must(Cmd.DECOMMISSION, sev.Decommission(first))
    assert machine.psp.state is P.WORKING
    machine.must(Cmd.DECOMMISSION, sev.Decommission(second))
    assert machine.psp.state is P.INIT


def test_every_arrow_of_the_guest_machine_leads_to_a_state_that_some_command_has() -> None:
    reachable, found = {G.UNINIT}, True
    while found:
        steps = {to for row in GUEST.values() for state, to in row.items() if state in reachable}
        found = not steps <= reachable
        reachable |= steps

    assert reachable == set(G)
