"""Machines that forgot a rule: what leaks where kernel and firmware forget, and what the lock of a flush is for."""

from __future__ import annotations

import pytest

from sevlab import lab
from sevlab.abi.sev import Status
from sevlab.guest.programs import SECRET
from sevlab.lab import asids as answers
from sevlab.lab.forgetful import LOCK, PLACES, Window, flush_with_a_leaver, forgetful_host, next_tenant, windows
from sevlab.lab.views import imaginary


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
    assert [run.status for run in rows.values()] == ["SUCCESS", "WBINVD_REQUIRED", "SUCCESS"]
    assert answers.window(rows).says == "between the two"
    assert answers.window(dict.fromkeys(PLACES, Window("SUCCESS", []))).says == "nowhere"


def test_a_place_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="tuple"):
        flush_with_a_leaver("never")


@pytest.mark.parametrize(
    ("kernel", "firmware", "said"),
    [(True, False, "a kernel that never flushes."), (False, False, "")],
)
def test_a_machine_that_never_existed_says_so(kernel: bool, firmware: bool, said: str) -> None:
    assert imaginary(forgetful_host(kernel=kernel, firmware=firmware)) == said


def test_who_was_refused_has_no_machine_to_look_at() -> None:
    assert next_tenant(forgetful_host(firmware=False))["vm"] is None


def test_through_the_lens_the_next_tenant_reads_the_line_and_nobody_else_does() -> None:
    host = forgetful_host()
    said = repr(lab.lens(host, next_tenant(host)["vm"], 0x1000, 64, xray=True))
    seen = [line for line in said.splitlines()[1:] if SECRET.hex(" ") in line]
    assert [line.split("  ")[1] for line in seen] == ["next tenant", "guest line"]


# ------------------------------------------------------------- the lock


@pytest.mark.parametrize("place", PLACES)
def test_with_the_lock_no_place_spoils_the_flush(place: str) -> None:
    assert flush_with_a_leaver(place, lock=True).status == "SUCCESS"


def test_who_comes_in_between_waits_until_the_flush_gives_the_lock_back() -> None:
    lines = [(line["source"], line["label"]) for line in flush_with_a_leaver(PLACES[1], lock=True).lines]
    assert lines == [
        ("the flush", f"takes {LOCK}"),
        ("the flush", "WBINVD on all processors"),
        ("the leaver", f"waits for {LOCK}"),
        ("the flush", "DF_FLUSH"),
        ("the flush", f"gives back {LOCK}"),
        ("the leaver", f"takes {LOCK}"),
        ("the leaver", "DEACTIVATE"),
        ("PSP", "key out of slot 6"),
        ("the leaver", f"gives back {LOCK}"),
    ]


def test_without_the_lock_nobody_is_said_to_hold_or_await_one() -> None:
    assert not any(line["lock"] for place in PLACES for line in flush_with_a_leaver(place).lines)


def test_the_four_ways_are_tiles_and_the_refused_one_is_shown_first() -> None:
    made = pytest.importorskip("sevlab_widgets.lanes")
    story = windows()
    assert repr(story).splitlines()[:2] == [
        "A  DEACTIVATE before the WBINVD: DF_FLUSH: SUCCESS",
        "B  DEACTIVATE between the two: DF_FLUSH: WBINVD_REQUIRED",
    ]
    picture = story.widget
    assert [line.answer for line in picture.lines if line.bad] == ["WBINVD_REQUIRED"]
    picture.got_pick("", picture.schedules[3].schedule)
    assert [line.lock for line in picture.lines].count(made.AWAITED) == 1 and not any(line.bad for line in picture.lines)
    picture.close()
