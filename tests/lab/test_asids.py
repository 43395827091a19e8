"""Lab `asids`: its tenants and forgetful machines do what the scenes say, and each answer follows the machine."""

from __future__ import annotations

from errno import EBUSY, ENOENT

import pytest

from sevlab import Host, lab
from sevlab.abi.sev import Status
from sevlab.guest.programs import SECRET
from sevlab.hw import chips
from sevlab.lab import asids as answers
from sevlab.lab.asids import (
    PLACES,
    SLOTS,
    Booking,
    books,
    day,
    flush_with_a_leaver,
    flushes_of,
    forgetful_host,
    naples,
    next_tenant,
    par,
    play,
    slot_of,
    slots,
    tenant,
)


def small(es: int = 0, slots: int = 3, **named: object) -> Host:
    return Host(naples(es=es, slots=slots), seed=7, memory=1 << 30, **named)  # type: ignore[arg-type]


# ------------------------------------------------------------- tenants


def test_a_naples_is_the_published_one_but_for_the_bios_knob() -> None:
    assert naples() == chips.NAPLES
    assert [naples(es=n).min_asid for n in (0, 5, 14)] == [1, 6, 15]
    assert "never existed" in naples(slots=4).banner and not naples(es=0).banner


@pytest.mark.parametrize(("es", "slot"), [(False, 6), (True, 1)])
def test_a_tenant_has_the_lowest_slot_of_its_kind(es: bool, slot: int) -> None:
    with Host("naples", seed=7, memory=1 << 30) as host:
        assert slot_of(host, tenant(host, es=es)) == slot


def test_a_tenant_that_is_refused_leaves_nobody_behind() -> None:
    with small(slots=1) as host:
        tenant(host)
        with pytest.raises(OSError) as no:
            tenant(host)
        assert no.value.errno == EBUSY and list(host.processes) == ["tenant"]
        with pytest.raises(OSError) as no:
            tenant(host, cgroup="/nowhere")
        assert no.value.errno == ENOENT


def test_the_tables_of_slots_and_of_books_are_the_machines() -> None:
    with small(es=2, slots=5, cgroups={"/a/b": {"sev": 4}, "/a": {"sev": 9}}) as host:
        tenant(host, cgroup="/a/b")
        tenant(host, es=True).process.kill()
        assert slots(host).text.splitlines()[2:] == [
            "SEV-ES  1 to 2     1       0        1",
            "SEV     3 to 5     2       1        0",
        ]
        assert [line.split() for line in books(host).text.splitlines()[2:]] == [["/a", "9", "1", "0"], ["/a/b", "4", "1", "0"]]


# ------------------------------------------------------------- machines that forgot


def test_a_line_outlives_its_owner_where_kernel_and_firmware_forget() -> None:
    row = next_tenant(forgetful_host())
    assert row["slot"] == row["next slot"] and row["frame"] == row["next frame"]
    assert row["found"] == SECRET
    assert answers.leaked(row).says == "the first guest's diary"


def test_where_only_the_kernel_forgets_the_firmware_refuses() -> None:
    row = next_tenant(forgetful_host(firmware=False))
    assert row["found"].fw == Status.DFFLUSH_REQUIRED
    assert answers.leaked(row).says == "a refusal"


@pytest.mark.parametrize("firmware", [True, False])
def test_where_the_kernel_is_careful_nothing_leaks(firmware: bool) -> None:
    row = next_tenant(forgetful_host(kernel=False, firmware=firmware))
    assert row["found"] not in (SECRET, bytes(16)) and row["frame"] == row["next frame"] and row["slot"] != row["next slot"]
    assert answers.leaked(row).says == "noise"


def test_a_deactivate_spoils_the_flush_between_its_two_halves_and_nowhere_else() -> None:
    rows = {place: flush_with_a_leaver(place) for place in PLACES}
    assert list(rows.values()) == ["SUCCESS", "WBINVD_REQUIRED", "SUCCESS"]
    assert answers.window(rows).says == "between the two"
    assert answers.window(dict.fromkeys(PLACES, "SUCCESS")).says == "nowhere"


def test_a_place_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="tuple"):
        flush_with_a_leaver("never")


# ------------------------------------------------------------- a day


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("how", ["first", "last"])
def test_law_counting_alone_says_what_the_machine_says(seed: int, how: str) -> None:
    bookings = day(seed)
    plan = {one.name: getattr(one, how) for one in bookings}
    played = play(bookings, plan)
    counted = flushes_of(bookings, plan)
    played.host.close()
    assert (counted is None) is bool(played.refused)
    assert counted in (None, played.flushes)


def test_a_plan_for_more_guests_than_slots_is_refused_on_the_machine_and_by_counting() -> None:
    bookings = [Booking(name, 0, 0, 9) for name in "ABCDE"[: SLOTS + 1]]
    plan = dict.fromkeys("ABCDE", 0)
    played = play(bookings, plan)
    played.host.close()
    assert played.refused == ("E",) and flushes_of(bookings, plan) is None
    assert repr(played) == "0 flushes, refused: E"
    with pytest.raises(ValueError, match="empty"):
        par(bookings)


@pytest.mark.parametrize("start", [{}, {"A": 4}, {"A": 0}])
def test_a_guest_outside_its_window_is_refused_by_name(start: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="A must start between 1 and 3"):
        play([Booking("A", 1, 3, 2)], start)


def test_par_is_below_what_the_earliest_starts_give_on_the_labs_day() -> None:
    bookings = day(seed=1, guests=10)
    assert (par(bookings), flushes_of(bookings, {one.name: one.first for one in bookings})) == (2, 3)
    assert answers.fewest(bookings).says == "2"


def test_the_day_comes_from_the_seed() -> None:
    assert day(1) == day(1) != day(2)


# ------------------------------------------------------------- answers


def test_the_next_slot_is_the_lowest_free_one_and_not_the_one_given_back() -> None:
    with small(slots=4) as host:
        guests = [tenant(host) for _ in range(3)]
        guests[1].process.kill()
        assert answers.next_slot(host, tenant(host), 2).says == "4"


def test_the_sawtooth_all_wait_and_then_all_but_one_are_free() -> None:
    with small() as host:
        guests = [tenant(host) for _ in range(3)]
        assert answers.sixteenth(lab.attempt(tenant, host)).says == "EBUSY"
        for vm in guests:
            vm.process.kill()
        assert answers.free_now(host).says == "0"
        before = host.asids.flushes
        tenant(host)
        after = answers.after_flush(host, before)
        assert after.says == "2" and "made 1 flush" in after.because


def test_a_guest_that_got_a_slot_is_said_to_have_one() -> None:
    with small() as host:
        assert answers.sixteenth(tenant(host)).says == "it gets a slot"
        assert answers.other_kind(host, tenant(host)).says == "it gets a slot of plain SEV"


@pytest.mark.parametrize("status", [Status.SUCCESS, Status.DFFLUSH_REQUIRED, Status.WBINVD_REQUIRED, Status.ASID_OWNED])
def test_a_status_is_named_and_explained(status: Status) -> None:
    answer = answers.status(status)
    assert answer.says == status.name and answer.because
    assert answers.status(status, "because I say so").because == "because I say so"


def test_a_flush_for_one_kind_cleans_the_other() -> None:
    with small(es=1, slots=3) as host:
        for es in (True, False):
            tenant(host, es=es).process.kill()
        assert answers.both_kinds(host).says != "both"
        tenant(host, es=True)
        assert answers.both_kinds(host).says == "both"


def test_tenants_are_refused_at_the_level_that_is_full_and_charged_until_they_go() -> None:
    with small(slots=9, cgroups={"/t": {"sev": 3}, "/t/a": {"sev": 2}, "/t/b": {"sev": 2}}) as host:
        tried = {str(n): lab.attempt(tenant, host, cgroup=f"/t/{who}") for n, who in enumerate("aaabb", 1)}
        assert answers.tenants_refused(host, tried).says == "3 and 5"
        assert answers.charged_until(host).says == "yes"
        for n in "12":
            tried[n].process.kill()
        assert answers.charged_until(host).says == "no"
