"""Cache lines, one view at a time: what is stale, who overwrites whom, and which flush helps."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sevlab.crypto import Stream
from sevlab.hw.cache import LINE, Caches, LinesLost, LinesWritten
from sevlab.hw.engine import NoKey
from sevlab.hw.soc import Soc
from sevlab.trace import Trace

MIB = 1 << 20
AT = 0x3000
OLD, NEW = b"what memory has." * 4, b"what a core has." * 4
GUEST, NEXT = 9, 10


def soc_of(chip: str = "rome", caches: bool = True) -> Soc:
    soc = Soc(chip, Stream(7), Trace(), MIB, caches=caches)
    soc.engine.install(GUEST, bytes(range(16)))
    soc.engine.install(NEXT, bytes(range(16, 32)))
    return soc


def caches_of(soc: Soc) -> Caches:
    assert soc.caches is not None
    return soc.caches


# --------------------------------------------------------------------------- story


def test_what_the_host_writes_stays_in_its_line_until_somebody_flushes() -> None:
    soc = soc_of()
    soc.host.write(AT, NEW)
    assert soc.host.read(AT, 64) == NEW
    assert soc.dram.read(AT, 64) == bytes(64)

    soc.clflush(AT, 64)
    assert soc.dram.read(AT, 64) == NEW
    assert len(caches_of(soc)) == 0


def test_two_views_of_one_line_know_nothing_of_each_other() -> None:
    soc = soc_of()
    soc.core.write(GUEST, AT, OLD)
    soc.host.write(AT, NEW)
    assert (soc.core.read(GUEST, AT, 64), soc.host.read(AT, 64)) == (OLD, NEW)
    assert [(line.asid, line.dirty) for line in caches_of(soc).held(AT)] == [(0, True), (GUEST, True)]


@pytest.mark.parametrize(("last", "plain"), [("host", True), ("guest", False)])
def test_the_view_that_is_written_back_last_is_what_memory_holds(last: str, plain: bool) -> None:
    soc = soc_of()
    soc.core.write(GUEST, AT, OLD)
    soc.host.write(AT, NEW)
    flushes: list[Callable[[], None]] = [lambda: soc.page_flush(AT, GUEST), lambda: soc.clflush(AT, 64)]
    for flush in flushes if last == "host" else reversed(flushes):
        flush()
    assert (soc.dram.read(AT, 64) == NEW) is plain
    assert (soc.core.read(GUEST, AT, 64) == OLD) is not plain


def test_a_guest_with_c_0_and_the_host_share_one_view() -> None:
    soc = soc_of()
    soc.core.write(0, AT, NEW)
    assert soc.host.read(AT, 64) == NEW


def test_with_sme_coherent_one_view_is_written_back_before_the_other_is_served() -> None:
    soc = soc_of("milan")
    soc.core.write(GUEST, AT, OLD)
    secret = soc.host.read(AT, 64)
    assert secret != OLD and soc.engine.read(GUEST, AT, 64) == OLD
    soc.host.write(AT, NEW)
    assert soc.core.read(GUEST, AT, 64) == soc.engine.read(GUEST, AT, 64) != OLD


def test_a_forgotten_clflush_hashes_what_memory_had_and_shows_plaintext_later() -> None:
    soc, digest = soc_of(), hashlib.sha256()
    soc.host.write(AT, NEW)
    soc.engine.seal(GUEST, AT, 64, digest)
    assert digest.digest() == hashlib.sha256(bytes(64)).digest()
    assert soc.engine.read(GUEST, AT, 64) == bytes(64)

    soc.wbinvd()
    assert soc.dram.read(AT, 64) == NEW, "the plaintext went over the ciphertext"


def test_with_the_clflush_the_digest_is_right_and_no_plaintext_is_left() -> None:
    soc, digest = soc_of(), hashlib.sha256()
    soc.host.write(AT, NEW)
    soc.clflush(AT, 64)
    soc.engine.seal(GUEST, AT, 64, digest)
    soc.wbinvd()
    assert digest.digest() == hashlib.sha256(NEW).digest()
    assert soc.engine.read(GUEST, AT, 64) == NEW != soc.dram.read(AT, 64)


def test_a_forgotten_wbinvd_writes_a_dead_guests_line_under_the_key_of_the_next() -> None:
    soc = soc_of()
    soc.core.write(GUEST, AT, OLD)
    soc.engine.remove(GUEST)
    soc.engine.install(GUEST, bytes(range(40, 56)))
    assert soc.core.read(GUEST, AT, 64) == OLD, "the next guest in the slot reads the last one's line"

    soc.wbinvd()
    assert soc.engine.read(GUEST, AT, 64) == OLD


def test_a_line_of_a_slot_without_a_key_is_lost_and_a_row_says_so() -> None:
    soc = soc_of()
    soc.core.write(GUEST, AT, OLD)
    soc.engine.remove(GUEST)
    soc.wbinvd()
    assert soc.dram.read(AT, 64) == bytes(64)
    assert [(row["hpa"], row["lines"], row["asid"]) for row in soc.trace.rows(LinesLost)] == [(AT, 1, GUEST)]


def test_eviction_takes_the_line_used_longest_ago_and_writes_it_back() -> None:
    soc = soc_of()
    caches = caches_of(soc)
    caches.lines = 4
    for number in range(4):
        soc.host.write(AT + number * LINE, bytes([number + 1]) * LINE)
    soc.host.read(AT, 1)
    soc.host.read(0x8000, 1)
    assert [line.hpa for line in caches.held(AT, 4 * LINE)] == [AT, AT + 2 * LINE, AT + 3 * LINE]
    assert soc.dram.read(AT + LINE, 1) == b"\2" and soc.dram.read(AT, 1) == b"\0"


def test_a_clean_line_is_dropped_without_a_word() -> None:
    soc = soc_of()
    soc.core.read(GUEST, AT, 64)
    soc.wbinvd()
    assert not soc.trace.rows(LinesWritten) and len(caches_of(soc)) == 0


def test_neighbours_of_one_view_go_back_in_one_row() -> None:
    soc = soc_of()
    soc.core.write(GUEST, AT, NEW * 8)
    soc.page_flush(AT, GUEST)
    assert [(row["hpa"], row["lines"], row["asid"]) for row in soc.trace.rows(LinesWritten)] == [(AT, 8, GUEST)]


# ------------------------------------------------------------------ what does not help


@pytest.mark.parametrize(
    "flush",
    [
        lambda soc: soc.clflush(AT, 64),
        lambda soc: soc.page_flush(AT, NEXT),
        lambda soc: soc.page_flush(AT + 0x1000, GUEST),
    ],
    ids=["the host's lines", "another guest's", "another page"],
)
def test_a_flush_of_another_view_or_place_leaves_the_guests_line_where_it_is(flush: Callable[[Soc], None]) -> None:
    soc = soc_of()
    soc.core.write(GUEST, AT, OLD)
    flush(soc)
    assert caches_of(soc).dirty() == 1
    assert soc.engine.read(GUEST, AT, 64) != OLD


def test_the_secure_processor_sees_the_hosts_line_without_the_c_bit_and_memory_with_it() -> None:
    soc = soc_of()
    soc.host.write(AT, NEW)
    caches_of(soc).snoop(AT | 1 << 47, 64)
    assert soc.dram.read(AT, 64) == bytes(64)
    caches_of(soc).snoop(AT, 64)
    assert soc.dram.read(AT, 64) == NEW


def test_what_the_host_shares_with_a_device_goes_past_its_caches() -> None:
    soc = soc_of()
    soc.host.write(AT, NEW)
    view = soc.host.view(AT, 64)
    assert bytes(view) == NEW
    view[:4] = b"DEVI"
    assert soc.host.read(AT, 4) == b"DEVI"
    soc.host.write(AT, b"HOST")
    assert bytes(view[:4]) == b"HOST"


def test_a_cleared_range_forgets_the_hosts_lines_and_not_the_guests() -> None:
    soc = soc_of()
    soc.host.write(AT, NEW)
    soc.core.write(GUEST, AT, OLD)
    soc.host.zero(AT, 64)
    assert soc.host.read(AT, 64) == bytes(64)
    soc.wbinvd()
    assert soc.engine.read(GUEST, AT, 64) == OLD, "a guest's line that nobody flushed comes back"


@pytest.mark.parametrize("call", ["read", "write"])
def test_a_slot_without_a_key_and_a_range_outside_are_refused_and_nothing_is_held(call: str) -> None:
    soc = soc_of()
    arguments = (16,) if call == "read" else (bytes(16),)
    with pytest.raises(NoKey):
        getattr(soc.core, call)(11, AT, *arguments)
    for hpa in (MIB - 8, MIB, -16):
        with pytest.raises(ValueError, match="not inside"):
            getattr(soc.core, call)(GUEST, hpa, *arguments)
    assert len(caches_of(soc)) == 0


def test_without_caches_core_is_the_engine_and_host_the_memory_itself() -> None:
    soc = soc_of(caches=False)
    assert soc.caches is None and soc.core is soc.engine and soc.host is soc.dram
    soc.host.write(AT, NEW)
    assert soc.dram.read(AT, 64) == NEW


# ----------------------------------------------------------------------------- laws

Step = tuple[int, int, bytes]


@given(st.lists(st.tuples(st.integers(0, 300), st.binary(min_size=1, max_size=150)), max_size=12), st.sampled_from([0, GUEST]))
def test_one_view_alone_reads_what_it_wrote_and_memory_has_it_after_a_wbinvd(script: list[tuple[int, bytes]], asid: int) -> None:
    soc, plain = soc_of(), soc_of(caches=False)
    caches_of(soc).lines = 3
    for at, data in script:
        for one in (soc, plain):
            one.core.write(asid, AT + at, data)
        assert soc.core.read(asid, AT, 512) == plain.core.read(asid, AT, 512)
    soc.wbinvd()
    assert soc.dram.read(AT, 512) == plain.dram.read(AT, 512)
    assert len(caches_of(soc)) == 0


@given(st.lists(st.tuples(st.sampled_from([0, GUEST, NEXT]), st.integers(0, 300), st.binary(min_size=1, max_size=90)), max_size=12))
def test_on_a_coherent_chip_caches_are_never_seen(script: list[Step]) -> None:
    soc, plain = soc_of("milan"), soc_of("milan", caches=False)
    caches_of(soc).lines = 5
    for asid, at, data in script:
        for one in (soc, plain):
            one.core.write(asid, AT + at, data)
        for reader in (0, GUEST, NEXT):
            assert soc.core.read(reader, AT, 448) == plain.core.read(reader, AT, 448)
