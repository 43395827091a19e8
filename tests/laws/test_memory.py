"""Laws of memory over random scripts: nothing private on the bus, and the trace tells what every page is."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sevlab import Host, guest, vmm
from sevlab.hw.pages import PagesMarked, PagesPinned, PagesUnpinned
from sevlab.lab.bus import legible, search
from sevlab.lab.tweak import Box

MEMORY = 1 << 30
CHIPS = ["naples", "rome", "milan"]
TEXT = st.binary(min_size=32, max_size=600).filter(lambda data: len(set(data)) > 24)


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("caches", [False, True])
@settings(max_examples=8)
@given(st.lists(st.tuples(st.integers(0, 200_000), TEXT), min_size=1, max_size=5))
def test_no_plaintext_of_a_private_page_is_ever_on_the_bus(chip: str, caches: bool, script: list[tuple[int, bytes]]) -> None:
    with Host(chip, seed=3, memory=MEMORY, caches=caches) as host:
        box = Box(host)
        for at, text in script:
            box.write(text, at)
            box.vm.write(0x40_0000, bytes(4096))  # the desk forgets what it was told
            host.soc.wbinvd()
            arena = [hpa for hpa in search(host, text[:32]) if host.pages.asid(hpa >> 12)]
            assert not arena
            assert box.read(len(text), at) == text


def test_a_law_that_looks_for_plaintext_finds_it_where_it_is_shared() -> None:
    with Host("rome", seed=3, memory=MEMORY) as host:
        box = Box(host)
        box.vm.write(0x40_0000, bytes(range(64)))
        assert legible(host, bytes(range(64))) == 4


def folded(rows: list[dict[str, Any]], count: int) -> list[tuple[int, int, int]]:
    """State, owner and pins of each frame, from the trace alone."""
    found = [[0, 0, 0] for _ in range(count)]
    for row in rows:
        for pfn in range(row["first"], min(row["first"] + row["count"], count)):
            if row["kind"] == "PagesMarked":
                found[pfn][:2] = row["state"], row["asid"]
            else:
                found[pfn][2] += 1 if row["kind"] == "PagesPinned" else -1
    return [(state, asid, pins) for state, asid, pins in found]


@settings(max_examples=6)
@given(st.lists(st.sampled_from(["launch", "run", "write", "kill", "overwrite"]), max_size=8))
def test_the_trace_alone_tells_state_owner_and_pins_of_every_page(script: list[str]) -> None:
    with Host("naples", seed=3, memory=MEMORY) as host:
        vms: list[Any] = []
        for step in script:
            if step == "launch":
                vms.append(vmm.launch(host, program=guest.hello, memory=1 << 20))
                vms[-1].finish()
            elif not vms:
                continue
            elif step == "run":
                vms[-1].run()
            elif step == "write":
                vms[-1].write(0x3000, b"from outside")
            elif step == "overwrite":
                host.dram.write(host.hpa(vms[-1].process, vms[-1].hva(0xFFFF_F000)), b"raw bytes on it")
            else:
                vms.pop().process.kill()
        count = 4096
        told = folded(host.trace.rows(PagesMarked, PagesPinned, PagesUnpinned), count)
        for pfn in range(count):
            assert told[pfn] == (host.pages.state(pfn), host.pages.asid(pfn), host.pages.pins(pfn))


@pytest.mark.parametrize("chip", CHIPS)
@settings(max_examples=6)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4000), TEXT), min_size=1, max_size=4))
def test_a_guest_reads_what_it_wrote_last_wherever_its_pages_are_mapped(chip: str, script: list[tuple[int, int, bytes]]) -> None:
    with Host(chip, seed=3, memory=MEMORY) as host:
        box, plain = Box(host), bytearray(5 * 4096)
        for page, inside, text in script:
            at = page * 4096 + inside
            box.write(text, at)
            plain[at : at + len(text)] = text
            assert box.read(len(text), at) == text == plain[at : at + len(text)]
            box.aim(box.hpa(page * 4096), page * 4096)
