"""The whole of the silicon: its parts belong together, its flushes take time and are seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from sevlab.crypto import Stream
from sevlab.hw import chips
from sevlab.hw.clock import COSTS
from sevlab.hw.soc import Soc
from sevlab.trace import Trace

MIB = 1 << 20


def soc_of(chip: str = "rome", seed: int = 7, memory: int = MIB) -> Soc:
    return Soc(chip, Stream(seed), Trace(), memory)


@pytest.mark.parametrize("chip", ["naples", "rome", "milan"])
def test_the_parts_of_a_machine_fit_together(chip: str) -> None:
    soc = soc_of(chip)
    assert soc.chip is chips.by_name(chip)
    assert soc.dram.size == MIB
    assert soc.pages.count == MIB // 4096
    assert soc.engine.dram is soc.dram
    assert soc.clock.now == soc.trace.now == 0
    assert soc.programs.find(bytes(4096)) is None


def test_wbinvd_takes_its_time_is_seen_and_leaves_no_line_behind() -> None:
    soc = soc_of()
    assert soc.written_back
    soc.written_back = False
    soc.wbinvd()
    assert soc.written_back
    assert soc.clock.now == COSTS["WBINVD"].ns
    assert [row["kind"] for row in soc.trace.rows()] == ["Wbinvd"]


def test_flushes_of_a_range_and_of_a_guest_s_page_are_rows_of_their_own_and_no_wbinvd() -> None:
    soc = soc_of()
    soc.written_back = False
    soc.clflush(0x3000, 0x2000)
    soc.page_flush(0x5000, 9)
    rows = soc.trace.rows()
    assert [row["kind"] for row in rows] == ["Clflush", "PageFlushed"]
    assert (rows[0]["hpa"], rows[0]["size"], rows[1]["hpa"], rows[1]["asid"]) == (0x3000, 0x2000, 0x5000, 9)
    assert not soc.written_back
    assert soc.clock.now > COSTS["CLFLUSH"].ns


def test_the_same_seed_is_the_same_machine_and_another_seed_another() -> None:
    tweaks = [soc_of(seed=seed).engine.tweak(0xABC0) for seed in (1, 1, 2)]
    assert tweaks[0] == tweaks[1] != tweaks[2]


def test_a_machine_of_a_terabyte_is_a_reservation() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    before = resident()
    soc = soc_of(memory=1 << 40)
    soc.engine.install(1, bytes(16))
    soc.engine.write(1, (1 << 40) - 4096, b"the last page")
    assert soc.engine.read(1, (1 << 40) - 4096, 13) == b"the last page"
    assert soc.pages.state((1 << 28) - 1) == 0
    assert resident() - before < 16 * MIB


@pytest.mark.parametrize("memory", [0, -4096, 1000])
def test_a_size_of_memory_that_cannot_be_is_refused(memory: int) -> None:
    with pytest.raises(ValueError, match="whole pages"):
        soc_of(memory=memory)


def test_a_chip_that_nobody_made_is_refused() -> None:
    with pytest.raises(ValueError, match="no chip 'genoa'"):
        soc_of("genoa")
