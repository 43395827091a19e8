"""Guest page tables: four levels, a C-bit in each entry, and walks that are private whatever the bits say."""

from __future__ import annotations

from typing import Any

import pytest
from hw.processor import ASID, OTHER, PAGE, Board

from sevlab.guest.pagetable import PRESENT, TABLE, c_bit_mask, identity, map_page, share, unmap_page, unshare
from sevlab.hw.isa import GP, PF, Fault, hlt, jump, load, load_cr3, program, store
from sevlab.hw.paging import PF_FETCH, PF_PRESENT, PF_RESERVED, PF_WRITE, walk
from sevlab.hw.vmcb import EXIT_CPUID, EXIT_HLT, EXIT_NPF, EXIT_SHUTDOWN, NPF_GUEST_PAGE, NPF_GUEST_TABLE, NPF_WRITE

ROOT = 0x40000
LINE = b"sixteen letters."
C = 1 << 47  # on Naples and Rome


def put(board: Board, gpa: int, entry: int, asid: int = ASID) -> None:
    """One entry of a table, as a guest with this key would write it."""
    board.soc.engine.write(asid, board.hpa(gpa), entry.to_bytes(8, "little"))


def table(board: Board, leaf: int, *, asid: int = ASID, flags: int = TABLE | C) -> Any:
    """A control block whose tables map virtual page 0x5000 by the entry `leaf`."""
    for level in range(3):
        put(board, ROOT + level * PAGE, ROOT + (level + 1) * PAGE | flags, asid)
    put(board, ROOT + 3 * PAGE + 5 * 8, leaf, asid)
    vmcb = board.vmcb(asid)
    vmcb.save.cr3 = ROOT
    return vmcb


@program
async def shares() -> None:
    """Its own tables; a line stored private, then shared, then private again, by the same instruction."""
    mask = 1 << 47
    await identity(ROOT, mask)
    await load_cr3(ROOT)
    await store(0x5000, LINE)
    await hlt()
    await share(ROOT, 0x5000, mask)
    await store(0x5000, LINE)
    await hlt()
    await unshare(ROOT, 0x5000, mask)
    await store(0x5000, LINE)
    await hlt()


@pytest.mark.parametrize("chip", ["naples", "rome"])
def test_one_bit_of_the_guests_own_table_decides_what_the_bus_carries(chip: str) -> None:
    board = Board(chip)
    vmcb = board.guest(shares)
    for legible in (False, True, False):
        assert board.run(vmcb) == EXIT_HLT
        assert (board.bus(0x5000, 16) == LINE) is legible
        vmcb.skip = True


@program
async def asks_for_the_bit() -> None:
    await store(0x5000, (await c_bit_mask()).to_bytes(8, "little"), c=False)
    await hlt()


@pytest.mark.parametrize(("eax", "ebx", "mask"), [(0x1000F, 47 | 5 << 6, 1 << 47), (0xF, 51, 1 << 51), (0, 47, 0), (1, 47, 0)])
def test_a_guest_takes_the_position_of_the_bit_from_cpuid_and_has_none_without_sev(eax: int, ebx: int, mask: int) -> None:
    board = Board()
    vmcb = board.guest(asks_for_the_bit)
    assert board.run(vmcb) == EXIT_CPUID
    vmcb.regs.rax, vmcb.regs.rbx, vmcb.skip = eax, ebx, True
    assert board.run(vmcb) == EXIT_HLT
    assert int.from_bytes(board.bus(0x5000, 8), "little") == mask


def test_a_virtual_address_is_what_its_entry_says() -> None:
    board = Board()
    vmcb = table(board, 0x9000 | PRESENT | C)
    assert walk(board.soc, vmcb, 0x5678) == (0x9678, True)
    put(board, ROOT + 3 * PAGE + 5 * 8, 0x9000 | PRESENT)
    assert walk(board.soc, vmcb, 0x5678) == (0x9678, False)


def test_the_tables_are_read_with_the_guests_key_though_no_entry_has_the_bit() -> None:
    board = Board()
    vmcb = table(board, 0x9000 | PRESENT, flags=TABLE)
    assert walk(board.soc, vmcb, 0x5000) == (0x9000, False)


def test_a_table_that_the_host_wrote_in_clear_is_noise() -> None:
    board = Board()
    vmcb = table(board, 0x9000 | PRESENT | C)
    board.soc.dram.write(board.hpa(ROOT), (ROOT + PAGE | TABLE | C).to_bytes(8, "little"))
    entry = int.from_bytes(board.soc.engine.read(ASID, board.hpa(ROOT), 8), "little")
    assert entry != ROOT + PAGE | TABLE | C
    with pytest.raises(Fault):
        walk(board.soc, vmcb, 0x5000)


def test_a_guest_without_sev_has_no_such_bit_and_reads_its_tables_as_they_are() -> None:
    board = Board("milan")
    vmcb = table(board, 0x9000 | PRESENT, asid=0, flags=TABLE)
    assert walk(board.soc, vmcb, 0x5004)[0] == 0x9004
    put(board, ROOT + 3 * PAGE + 5 * 8, 0x9000 | PRESENT | 1 << 51, 0)
    with pytest.raises(Fault) as fault:
        walk(board.soc, vmcb, 0x5000)
    assert fault.value == Fault(PF, PF_PRESENT | PF_RESERVED)


@pytest.mark.parametrize(
    ("leaf", "access", "error"),
    [
        (0, 0, 0),
        (0x9000 | C, PF_WRITE, PF_WRITE),
        (0, PF_FETCH, PF_FETCH),
        (0x9000 | PRESENT | C, PF_WRITE, PF_PRESENT | PF_WRITE),
        (0x9000 | PRESENT | C | 1 << 48, 0, PF_PRESENT | PF_RESERVED),
        (0x9000 | PRESENT | C | 1 << 51, PF_WRITE, PF_PRESENT | PF_RESERVED | PF_WRITE),
    ],
)
def test_what_the_tables_forbid_is_a_page_fault_with_its_reason(leaf: int, access: int, error: int) -> None:
    board = Board()
    with pytest.raises(Fault) as fault:
        walk(board.soc, table(board, leaf), 0x5000, access)
    assert fault.value == Fault(PF, error)


@pytest.mark.parametrize("gva", [1 << 47, 1 << 63, -1 & (1 << 64) - 1 ^ 1 << 47])
def test_an_address_that_is_not_canonical_is_a_general_protection_fault(gva: int) -> None:
    board = Board()
    with pytest.raises(Fault) as fault:
        walk(board.soc, table(board, 0), gva)
    assert fault.value == Fault(GP)


def test_a_large_page_is_an_entry_that_ends_the_walk_early_and_its_low_bits_are_reserved() -> None:
    board = Board()
    vmcb = table(board, 0)
    put(board, ROOT + 2 * PAGE, 1 << 21 | PRESENT | C | 1 << 7)
    assert walk(board.soc, vmcb, 0x12345) == (1 << 21 | 0x12345, True)
    put(board, ROOT + 2 * PAGE, 1 << 21 | 1 << 14 | PRESENT | C | 1 << 7)
    with pytest.raises(Fault):
        walk(board.soc, vmcb, 0x12345)


@program
async def maps() -> None:
    """Two virtual pages for one, a hole, a page that may not be written; what each gives goes into registers and out."""
    mask = 1 << 47
    await identity(ROOT, mask)
    await load_cr3(ROOT)
    await map_page(ROOT, 0x7000, 0x5000, mask)
    await store(0x5008, b"crossing", c=None)
    seen = await load(0x7008, 8)
    await map_page(ROOT, 0x8000, 0x5000, mask, True, False)
    await unmap_page(ROOT, 0x6000, mask)
    errors = []
    for step in (0, 1, 2):
        try:
            if step == 0:
                await load(0x5FFC, 8)
            elif step == 1:
                await store(0x8000, b"no")
            else:
                await store(0x6000, b"no")
        except Fault as fault:
            errors.append(fault.error)
    await store(0xA000, seen + bytes(errors), c=False)
    await hlt()


def test_a_guest_maps_a_page_twice_takes_one_away_and_is_told_of_both_faults() -> None:
    board = Board()
    assert board.run(board.guest(maps)) == EXIT_HLT
    assert board.bus(0xA000, 11) == b"crossing" + bytes([0, PF_PRESENT | PF_WRITE, PF_WRITE])


@program
async def second() -> None:
    await store(0xB000, b"here", c=False)
    await hlt()


@program
async def jumps() -> None:
    mask = 1 << 47
    await identity(ROOT, mask)
    await load_cr3(ROOT)
    await map_page(ROOT, 0x3000, 0x9000, mask, False)
    await jump(0x3000)


def test_a_jump_goes_to_a_virtual_address_and_is_fetched_privately_though_its_page_is_shared() -> None:
    board = Board()
    board.load(0x9000, board.soc.programs.add(second))
    assert board.run(board.guest(jumps)) == EXIT_HLT
    assert board.bus(0xB000, 4) == b"here"


@program
async def unmapped() -> None:
    await store(ROOT, bytes(4096), c=True)
    await load_cr3(ROOT)
    await hlt()


def test_tables_that_do_not_map_the_program_are_a_triple_fault() -> None:
    board = Board()
    vmcb = board.guest(unmapped)
    assert board.run(vmcb) == EXIT_SHUTDOWN
    assert "do not map the program" in vmcb.why


@program
async def lost() -> None:
    await identity(ROOT, 1 << 47)
    await load_cr3(ROOT)
    await store(0x20_0000_0000, b"device")
    await hlt()


def test_a_mapped_page_without_memory_is_a_device_by_its_physical_address() -> None:
    board = Board()
    vmcb = board.guest(lost)
    assert board.run(vmcb) == EXIT_NPF
    assert (vmcb.exit_info_1, vmcb.exit_info_2) == (NPF_GUEST_PAGE | NPF_WRITE, 0x20_0000_0000)


def test_a_table_without_memory_is_another_exit_and_its_address_is_what_the_entry_said() -> None:
    board = Board()
    vmcb = table(board, 0)
    put(board, ROOT, 0x77_0000_0000 | TABLE | C)
    vmcb.regs.rip, vmcb.save.cs.base = 0x5000, 0
    assert board.run(vmcb) == EXIT_NPF
    assert vmcb.exit_info_1 & (NPF_GUEST_TABLE | NPF_GUEST_PAGE) == NPF_GUEST_TABLE
    assert vmcb.exit_info_2 == 0x77_0000_0000


def test_another_guests_key_makes_other_tables_of_the_same_bytes() -> None:
    board = Board()
    vmcb = table(board, 0x9000 | PRESENT | C)
    vmcb.asid = OTHER
    first = int.from_bytes(board.soc.engine.read(OTHER, board.hpa(ROOT), 8), "little")
    assert first != ROOT + PAGE | TABLE | C
    with pytest.raises((Fault, Exception)):
        walk(board.soc, vmcb, 0x5000)


def test_paging_survives_an_exit_and_a_rebuilt_thread() -> None:
    board = Board()
    vmcb = board.guest(shares)
    assert board.run(vmcb) == EXIT_HLT
    assert vmcb.thread is not None
    vmcb.thread.send, vmcb.skip = None, True
    assert board.run(vmcb) == EXIT_HLT
    assert board.bus(0x5000, 16) == LINE
