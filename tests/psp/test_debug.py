"""DBG_*: the host looks into a guest, where the owner lets it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psp.machine import DATA, OUT, Machine

from sevlab.abi import sev
from sevlab.abi.sev import POLICY_NODBG, Cmd, GuestState, Status

TEXT = bytes(range(256)) * 16


def test_decrypt_shows_what_the_guest_sees() -> None:
    machine = Machine().up()
    handle = machine.guest(state=GuestState.RUNNING)
    machine.soc.engine.write(100, DATA, TEXT)

    machine.must(Cmd.DBG_DECRYPT, sev.Dbg(handle, src_paddr=DATA, dst_paddr=OUT, len=len(TEXT)))

    assert machine.dram.read(OUT, len(TEXT)) == TEXT


def test_encrypt_changes_what_the_guest_sees_and_only_that() -> None:
    machine = Machine().up()
    handle = machine.guest(state=GuestState.RUNNING)
    machine.soc.engine.write(100, DATA, TEXT)
    machine.dram.write(OUT, b"p" * 32)

    machine.must(Cmd.DBG_ENCRYPT, sev.Dbg(handle, src_paddr=OUT, dst_paddr=DATA + 64, len=32))

    assert machine.soc.engine.read(100, DATA, len(TEXT)) == TEXT[:64] + b"p" * 32 + TEXT[96:]


@given(st.integers(0, 255), st.integers(1, 300))
def test_what_was_encrypted_is_what_is_decrypted(block: int, blocks: int) -> None:
    machine = Machine().up()
    handle, at, text = machine.guest(), DATA + 16 * block, (TEXT * 2)[: 16 * blocks]
    machine.dram.write(OUT, text)

    machine.must(Cmd.DBG_ENCRYPT, sev.Dbg(handle, src_paddr=OUT, dst_paddr=at, len=len(text)))
    machine.dram.write(OUT, bytes(len(text)))
    machine.must(Cmd.DBG_DECRYPT, sev.Dbg(handle, src_paddr=at, dst_paddr=OUT, len=len(text)))

    assert machine.dram.read(OUT, len(text)) == text


@pytest.mark.parametrize("cmd", [Cmd.DBG_DECRYPT, Cmd.DBG_ENCRYPT])
@pytest.mark.parametrize("policy", [POLICY_NODBG, POLICY_NODBG | 2])
def test_an_owner_who_forbids_debugging_is_heard_in_every_state(cmd: Cmd, policy: int) -> None:
    machine = Machine().up()
    handle = machine.guest(policy)
    for state in (GuestState.LUPDATE, GuestState.LSECRET, GuestState.RUNNING):
        machine.psp.guests[handle].state = state
        before = machine.remembered()

        assert machine(cmd, sev.Dbg(handle, src_paddr=DATA, dst_paddr=OUT, len=16)) is Status.POLICY_FAILURE
        assert machine.remembered() == before


@pytest.mark.parametrize("cmd", [Cmd.DBG_DECRYPT, Cmd.DBG_ENCRYPT])
def test_no_bytes_is_a_success_that_does_nothing(cmd: Cmd) -> None:
    machine = Machine().up()
    handle = machine.guest()
    before = machine.remembered()

    assert machine(cmd, sev.Dbg(handle, src_paddr=DATA, dst_paddr=OUT, len=0)) is Status.SUCCESS
    assert machine.remembered() == before


@pytest.mark.parametrize("cmd", [Cmd.DBG_DECRYPT, Cmd.DBG_ENCRYPT])
def test_alignment_is_looked_at_before_the_handle(cmd: Cmd) -> None:
    machine = Machine().up()
    machine.guest()

    assert machine(cmd, sev.Dbg(77, src_paddr=1, dst_paddr=OUT, len=16)) is Status.INVALID_ADDRESS
    assert machine(cmd, sev.Dbg(77, src_paddr=0, dst_paddr=OUT, len=1)) is Status.INVALID_LEN
    assert machine(cmd, sev.Dbg(77, src_paddr=0, dst_paddr=OUT, len=16)) is Status.INVALID_GUEST
