"""The platform's commands: up and down, keys and owners, identity, flushing."""

from __future__ import annotations

import pytest
from psp.machine import MIB, NV, TMR, Machine, exported

from sevlab.abi import sev
from sevlab.abi.sev import Cmd, GuestState, PlatformState, Status
from sevlab.hw import pages
from sevlab.psp.asids import AsidState
from sevlab.psp.store import EMPTY


def init_ex(**changes: int) -> sev.InitEx:
    return sev.InitEx(length=0x24, nv_paddr=NV, nv_len=sev.NV_LEN).replace(**changes)


# ------------------------------------------------- INIT, INIT_EX, SHUTDOWN


def test_init_makes_the_keys_once_and_finds_them_again() -> None:
    machine = Machine().up()
    first = exported(machine)

    machine.must(Cmd.SHUTDOWN)
    machine.must(Cmd.INIT, sev.Init())

    assert exported(machine) == first
    assert [row["which"] for row in machine.trace if row["kind"] == "KeyMade"] == ["OCA", "PEK", "PDH"]


def test_the_flash_carries_the_platform_to_another_day_and_to_a_seeded_twin() -> None:
    today = Machine().up()
    today.must(Cmd.PDH_GEN)

    tomorrow = Machine(nv=today.psp.nv.read()).up()

    assert exported(tomorrow) == exported(today)
    assert exported(tomorrow) != exported(Machine().up())


def test_a_platform_with_the_switch_makes_a_new_pdh_at_every_init() -> None:
    machine = Machine(pdh_per_init=True).up()
    pdh, chain = exported(machine)
    machine.must(Cmd.SHUTDOWN)
    machine.must(Cmd.INIT, sev.Init())

    again = exported(machine)

    assert again[0] != pdh and again[1] == chain


def test_a_pdh_made_tomorrow_is_none_that_was_made_before() -> None:
    made, nv = set(), EMPTY
    for _ in range(4):
        machine = Machine(nv=nv).up()
        made.add(exported(machine)[0])
        machine.must(Cmd.PDH_GEN)
        nv = machine.psp.nv.read()

    assert len(made) == 4


def test_init_ex_keeps_the_platform_in_the_drivers_area_and_not_in_the_flash() -> None:
    machine = Machine()
    machine.dram.write(NV, EMPTY)
    machine.must(Cmd.INIT_EX, init_ex())

    area = machine.dram.read(NV, sev.NV_LEN)
    assert area != EMPTY and machine.psp.nv.read() == EMPTY
    other = Machine()
    other.dram.write(NV, area)
    other.must(Cmd.INIT_EX, init_ex())
    assert exported(other) == exported(machine)


def test_init_ex_without_an_area_uses_the_flash() -> None:
    machine = Machine()

    machine.must(Cmd.INIT_EX, init_ex(nv_paddr=0, nv_len=0))

    assert machine.psp.nv.read() != EMPTY


def test_later_keys_follow_the_area_that_init_ex_named() -> None:
    machine = Machine()
    machine.dram.write(NV, EMPTY)
    machine.must(Cmd.INIT_EX, init_ex())
    before = machine.dram.read(NV, sev.NV_LEN)

    machine.must(Cmd.PDH_GEN)

    assert machine.dram.read(NV, sev.NV_LEN) != before
    assert machine.psp.nv.read() == EMPTY


@pytest.mark.parametrize("at", [0, 15, 16, 47, 48, 1000, sev.NV_LEN - 1])
def test_a_changed_area_is_refused_erased_and_afterwards_a_new_platform(at: int) -> None:
    machine = Machine()
    machine.up(es=False)
    area = bytearray(machine.psp.nv.read())
    area[at] ^= 0x80
    spoilt = Machine(nv=bytes(area))

    assert spoilt(Cmd.INIT, sev.Init()) is Status.SECURE_DATA_INVALID
    assert spoilt.psp.state is PlatformState.UNINIT
    assert spoilt.psp.nv.read() == EMPTY
    spoilt.must(Cmd.INIT, sev.Init())  # Linux tries exactly once more


def test_an_area_of_another_chip_is_refused() -> None:
    nv = Machine(seed=1).up().psp.nv.read()

    assert Machine(seed=2, nv=nv)(Cmd.INIT, sev.Init()) is Status.SECURE_DATA_INVALID


def test_an_erased_area_does_not_bring_the_old_keys_back_while_the_machine_is_on() -> None:
    machine = Machine().up()
    first = exported(machine)
    machine.must(Cmd.SHUTDOWN)
    machine.psp.nv.write(b"\0" * sev.NV_LEN)
    assert machine(Cmd.INIT, sev.Init()) is Status.SECURE_DATA_INVALID

    machine.must(Cmd.INIT, sev.Init())

    assert exported(machine)[0] != first[0]


@pytest.mark.parametrize("bit", range(1, 32))
def test_every_unknown_flag_of_init_is_refused(bit: int) -> None:
    machine = Machine()

    assert machine(Cmd.INIT, sev.Init(flags=1 << bit)) is Status.INVALID_CONFIG
    assert machine(Cmd.INIT_EX, init_ex(flags=1 << bit)) is Status.INVALID_CONFIG


@pytest.mark.parametrize("length", [0, 1, MIB - 1, MIB + 1, 2 * MIB])
def test_a_tmr_of_another_size_is_refused_and_without_es_nobody_looks(length: int) -> None:
    machine = Machine()

    assert machine(Cmd.INIT, sev.Init(flags=1, tmr_paddr=TMR, tmr_len=length)) is Status.INVALID_LEN
    assert machine(Cmd.INIT, sev.Init(flags=0, tmr_paddr=TMR + 5, tmr_len=length)) is Status.SUCCESS


def test_the_tmr_is_the_firmwares_until_shutdown() -> None:
    machine = Machine().up()
    assert machine.soc.pages.state(TMR // 4096) == pages.FIRMWARE
    assert machine.soc.pages.counts()["firmware"] == 256

    machine.must(Cmd.SHUTDOWN)

    assert machine.soc.pages.counts()["firmware"] == 0


@pytest.mark.parametrize("overlap", [TMR, TMR + MIB - 0x8000, TMR + 0x40000])
def test_the_area_may_not_lie_in_the_tmr(overlap: int) -> None:
    machine = Machine()
    machine.dram.write(overlap, EMPTY)

    assert machine(Cmd.INIT_EX, init_ex(flags=1, tmr_paddr=TMR, tmr_len=MIB, nv_paddr=overlap)) is Status.INVALID_ADDRESS
    assert machine.psp.state is PlatformState.UNINIT


@pytest.mark.parametrize("beside", [TMR - 0x8000, TMR + MIB])
def test_the_area_may_lie_beside_the_tmr(beside: int) -> None:
    machine = Machine()
    machine.dram.write(beside, EMPTY)

    machine.must(Cmd.INIT_EX, init_ex(flags=1, tmr_paddr=TMR, tmr_len=MIB, nv_paddr=beside))


def test_shutdown_drops_guests_keys_and_slots() -> None:
    machine = Machine().up()
    handle = machine.guest()
    guest = machine.psp.guests[handle]
    asid = guest.asid

    machine.must(Cmd.SHUTDOWN)

    assert not machine.psp.guests
    assert not machine.soc.engine.has(asid)
    assert set(machine.psp.asids.states[1:]) == {AsidState.INVALID}
    assert (guest.vek, guest.asid, guest.state) == (bytes(32), 0, GuestState.UNINIT)
    machine.must(Cmd.INIT, sev.Init())
    assert machine(Cmd.DEACTIVATE, sev.Handle(handle)) is Status.INVALID_PLATFORM_STATE


def test_shutdown_of_a_platform_that_is_down_succeeds() -> None:
    assert Machine()(Cmd.SHUTDOWN) is Status.SUCCESS


# ------------------------------------------------- PLATFORM_RESET, PLATFORM_STATUS


def test_a_reset_platform_has_new_keys_and_its_old_chip() -> None:
    machine = Machine().up()
    first, chip = exported(machine), machine.psp.identity.chip_id
    machine.must(Cmd.PEK_CERT_IMPORT, machine.with_import())
    machine.must(Cmd.SHUTDOWN)

    machine.must(Cmd.PLATFORM_RESET)
    machine.must(Cmd.INIT, sev.Init())

    pdh, chain = exported(machine)
    assert pdh != first[0] and chain[:4168] != first[1][:4168]
    assert chain[4168:] == first[1][4168:]  # the CEK is fused
    assert machine.psp.identity.chip_id == chip
    assert machine.psp.keys.owner == 0


def test_a_reset_is_remembered_by_the_flash() -> None:
    machine = Machine().up()
    first = exported(machine)
    machine.must(Cmd.SHUTDOWN)
    machine.must(Cmd.PLATFORM_RESET)

    tomorrow = Machine(nv=machine.psp.nv.read()).up()

    assert exported(tomorrow)[0] != first[0]


def test_a_reset_leaves_the_drivers_area_alone() -> None:
    machine = Machine()
    machine.dram.write(NV, EMPTY)
    machine.must(Cmd.INIT_EX, init_ex())
    first = exported(machine)
    machine.must(Cmd.SHUTDOWN)

    machine.must(Cmd.PLATFORM_RESET)
    machine.must(Cmd.INIT_EX, init_ex())

    assert exported(machine) == first


def test_a_reset_forgets_even_what_it_cannot_read() -> None:
    machine = Machine(nv=b"\0" * sev.NV_LEN)

    machine.must(Cmd.PLATFORM_RESET)

    machine.must(Cmd.INIT, sev.Init())


def test_status_tells_version_state_configuration_and_guests() -> None:
    machine = Machine().up()
    machine.guest()
    machine.start()

    status = machine.must(Cmd.PLATFORM_STATUS, sev.PlatformStatus(reserved=0xFF))

    assert status == sev.PlatformStatus(api_major=0, api_minor=24, build=15, state=2, owner=0, config=1, guest_count=2)


def test_status_of_a_platform_that_is_down_is_version_and_zeros() -> None:
    machine = Machine().up()
    machine.must(Cmd.PEK_CERT_IMPORT, machine.with_import())
    assert machine.must(Cmd.PLATFORM_STATUS, sev.PlatformStatus()).owner == 1
    machine.must(Cmd.SHUTDOWN)

    status = machine.must(Cmd.PLATFORM_STATUS, sev.PlatformStatus())

    assert status == sev.PlatformStatus(api_major=0, api_minor=24, build=15)


def test_without_the_flag_status_shows_no_es() -> None:
    assert Machine().up(es=False).must(Cmd.PLATFORM_STATUS, sev.PlatformStatus()).config == 0


# ------------------------------------------------- DF_FLUSH


def test_init_leaves_every_slot_dirty_until_wbinvd_and_df_flush() -> None:
    machine = Machine()
    machine.must(Cmd.INIT, sev.Init())
    handle = machine.start()
    asid = machine.soc.chip.min_asid

    assert machine(Cmd.ACTIVATE, sev.Activate(handle, asid)) is Status.DFFLUSH_REQUIRED
    assert machine(Cmd.DF_FLUSH) is Status.WBINVD_REQUIRED
    assert machine(Cmd.ACTIVATE, sev.Activate(handle, asid)) is Status.DFFLUSH_REQUIRED
    machine.soc.wbinvd()
    assert machine(Cmd.ACTIVATE, sev.Activate(handle, asid)) is Status.DFFLUSH_REQUIRED
    machine.must(Cmd.DF_FLUSH)
    machine.must(Cmd.ACTIVATE, sev.Activate(handle, asid))


def test_a_wbinvd_from_before_the_last_deactivate_does_not_count() -> None:
    machine = Machine().up()
    handle = machine.guest()
    machine.soc.wbinvd()
    machine.must(Cmd.DEACTIVATE, sev.Handle(handle))

    assert machine(Cmd.DF_FLUSH) is Status.WBINVD_REQUIRED


def test_one_wbinvd_is_good_for_one_flush() -> None:
    machine = Machine().up()

    assert machine(Cmd.DF_FLUSH) is Status.WBINVD_REQUIRED
