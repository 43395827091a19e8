"""tweak.replay and tweak.remap: every attack is run on three machines, and who goes astray is told where the bytes went."""

from __future__ import annotations

from typing import Any

import pytest

from sevlab.lab.exercises import find
from sevlab.lab.exercises.tweak_host import ACCOUNT, A, B, balance
from sevlab.lab.grading import NOT_ATTEMPTED, NOT_YET, PASSED, RAISED, judge
from sevlab.vmm import ram


def given(id: str, answer: Any, seed: int = 7) -> Any:
    exercise = find(id)
    return judge(exercise, exercise.setup(seed), answer, seed)


def hpa(host: Any, vm: Any, gpa: int = ACCOUNT) -> int:
    return int(host.npt(vm).translate(gpa))


# ------------------------------------------------------------- tweak.replay


def restored(host: Any, vm: Any, *, n: int = 32, at: int = 0) -> None:
    kept = host.probe(hpa(host, vm), n)
    vm.run()
    host.dram.write(hpa(host, vm) + at, kept)


def in_clear(host: Any, vm: Any) -> None:
    vm.run()
    host.dram.write(hpa(host, vm), balance(9_000))


def by_the_pointer(host: Any, vm: Any) -> None:
    kept = vm.read(ACCOUNT, 32)
    vm.run()
    vm.write(ACCOUNT, kept)


def test_both_blocks_put_back_set_the_balance_back() -> None:
    found = given("tweak.replay", restored)

    assert found.outcome == PASSED and [row.you for row in found.rows][:2] == ["yes", "runs"]


def test_the_vmms_own_pointer_will_do() -> None:
    assert given("tweak.replay", by_the_pointer).outcome == PASSED


def test_the_balance_alone_stops_the_guest() -> None:
    found = given("tweak.replay", lambda host, vm: restored(host, vm, n=16))

    assert found.diagnosis == "half" and found.rows[1].you == "stopped"


@pytest.mark.parametrize("at", [64, 0x800])
def test_the_same_blocks_at_another_address_are_no_replay(at: int) -> None:
    assert given("tweak.replay", lambda host, vm: restored(host, vm, at=at)).diagnosis == "elsewhere"


def test_a_number_in_clear_is_decrypted_into_something_else() -> None:
    found = given("tweak.replay", in_clear)

    assert found.diagnosis == "clear" and "9000" not in found.says and found.rows[1].you == "stopped"


def test_who_does_nothing_has_not_let_the_guest_spend() -> None:
    found = given("tweak.replay", lambda host, vm: None)

    assert (found.outcome, found.diagnosis) == (NOT_YET, "") and found.rows[0].you == "no"


def test_who_kills_the_guest_has_not_convinced_it() -> None:
    found = given("tweak.replay", lambda host, vm: vm.process.kill())

    assert found.outcome == NOT_YET and found.rows[1].you == "is gone"


# ------------------------------------------------------------- tweak.remap


def crossed(host: Any, vm: Any, *, first: bool = True, second: bool = True) -> None:
    table, one, other = host.npt(vm), hpa(host, vm, A), hpa(host, vm, B)
    if first:
        table.remap(A, other)
    if second:
        table.remap(B, one)


def swapped(host: Any, vm: Any) -> None:
    one, other = hpa(host, vm, A), hpa(host, vm, B)
    first, second = host.dram.read(one, 16), host.dram.read(other, 16)
    host.dram.write(one, second)
    host.dram.write(other, first)


def by_slots(host: Any, vm: Any) -> None:
    slot = next(slot for slot in vm.slots if slot.gpa == 0)
    block = ram.hide(vm, slot)
    for gpa, size, of in ((0, A, 0), (A, 4096, B), (B, 4096, A), (B + 4096, slot.size - B - 4096, B + 4096)):
        ram.show(vm, ram.RamBlock(block.hva + of, size), gpa)


def test_two_mappings_that_change_places_open_the_door() -> None:
    assert given("tweak.remap", crossed).outcome == PASSED


def test_memory_slots_remade_crosswise_open_it_too_and_it_is_remarked() -> None:
    found = given("tweak.remap", by_slots)

    assert found.outcome == PASSED and "without its kernel" in found.rows[-1].machine


def test_swapped_ciphertext_is_noise_in_both_pages() -> None:
    found = given("tweak.remap", swapped)

    assert found.diagnosis == "swapped" and found.rows[0].you == "reads noise" and found.says.count("0x") == 2


@pytest.mark.parametrize(("which", "who"), [({"second": False}, "two admins"), ({"first": False}, "two guests")])
def test_one_mapping_alone_gives_one_name_twice(which: dict[str, bool], who: str) -> None:
    found = given("tweak.remap", lambda host, vm: crossed(host, vm, **which))

    assert found.diagnosis == "one mapping" and who in found.says


def test_the_guests_own_page_table_is_ciphertext_to_whoever_writes_it() -> None:
    found = given("tweak.remap", lambda host, vm: vm.write(0x20_0000, (0x9003).to_bytes(8, "little") * 512))

    assert found.diagnosis == "table" and found.rows[0].you == "is gone"


def test_who_does_nothing_finds_it_shut() -> None:
    found = given("tweak.remap", lambda host, vm: None)

    assert (found.outcome, found.diagnosis) == (NOT_YET, "") and found.rows[0].you == "stays shut"


# ------------------------------------------------------------- both


@pytest.mark.parametrize("id", ["tweak.replay", "tweak.remap"])
@pytest.mark.parametrize("answer", [7, "attack", b"\0", ["attack"]])
def test_who_gives_no_function_is_asked_for_one(id: str, answer: Any) -> None:
    assert given(id, answer).diagnosis == "wants"


@pytest.mark.parametrize("id", ["tweak.replay", "tweak.remap"])
def test_a_function_without_a_body_or_with_an_error_of_its_own_is_named_as_what_it_is(id: str) -> None:
    def empty(host: Any, vm: Any) -> None:
        raise NotImplementedError

    assert given(id, empty).outcome == NOT_ATTEMPTED
    assert given(id, lambda host, vm: host.dram.write(-1, b"x")).outcome == RAISED
    assert given(id, lambda host: None).outcome == RAISED
