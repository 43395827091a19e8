"""Virtual time: one table, and every operation of the lab in it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sevlab.hw.clock import COSTS, Clock
from sevlab.trace import Event, Trace, u8


class Tick(Event, lane="host"):
    """A row for these tests."""

    what: u8


def test_time_begins_at_nothing_and_an_operation_takes_what_its_row_says() -> None:
    clock = Clock(Trace())
    assert clock.now == 0
    assert clock.spend("WBINVD") == COSTS["WBINVD"].ns == clock.now


def test_a_trace_row_carries_the_time_at_which_it_was_written() -> None:
    trace = Trace()
    clock = Clock(trace)
    trace.emit(Tick, 0)
    clock.spend("ioctl")
    trace.emit(Tick, 1)
    assert [row["t"] for row in trace.rows()] == [0, COSTS["ioctl"].ns]


def test_hosts_that_share_a_trace_share_its_time() -> None:
    trace = Trace()
    one, two = Clock(trace), Clock(trace)
    one.spend("VMRUN")
    two.spend("VMEXIT")
    assert one.now == two.now == COSTS["VMRUN"].ns + COSTS["VMEXIT"].ns


def test_bytes_cost_by_the_kibibyte() -> None:
    clock = Clock(Trace())
    cost = COSTS["LAUNCH_UPDATE_DATA"]
    assert clock.spend("LAUNCH_UPDATE_DATA", 10 << 10) == cost.ns + 10 * cost.ns_per_kib
    assert clock.spend("LAUNCH_UPDATE_DATA", 512) == cost.ns + cost.ns_per_kib // 2


@pytest.mark.parametrize("name", COSTS)
def test_a_row_is_a_whole_number_of_nanoseconds_with_a_source(name: str) -> None:
    cost = COSTS[name]
    assert isinstance(cost.ns, int) and isinstance(cost.ns_per_kib, int)
    assert cost.ns > 0 and cost.ns_per_kib >= 0 and cost.source


@given(st.lists(st.tuples(st.sampled_from(sorted(COSTS)), st.integers(0, 1 << 30)), max_size=20))
def test_time_never_goes_back_and_is_the_sum_of_what_was_spent(steps: list[tuple[str, int]]) -> None:
    clock = Clock(Trace())
    total = 0
    for name, n in steps:
        took = clock.spend(name, n)
        assert took > 0
        total += took
        assert clock.now == total


def test_moving_a_guest_by_packets_takes_a_thousand_times_as_long_as_copying_its_memory() -> None:
    clock = Clock(Trace())
    packets = sum(clock.spend(name, 4096) for name in ("SEND_UPDATE_DATA", "RECEIVE_UPDATE_DATA"))
    assert packets > 1000 * clock.spend("memcpy", 4096)


@pytest.mark.parametrize("name", ["", "wbinvd", "SNP_INIT"])
def test_an_operation_without_a_row_is_refused_and_takes_no_time(name: str) -> None:
    clock = Clock(Trace())
    with pytest.raises(KeyError):
        clock.spend(name)
    assert clock.now == 0
