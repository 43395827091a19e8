"""Lab `tour`: the four names of a byte, three readers of it, and what the questions' answers rest on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from sevlab import Host, guest, vmm
from sevlab.lab import tour

TEXT = b"nobody reads it."


@pytest.fixture
def host() -> Iterator[Host]:
    with Host("rome", seed=3, memory=1 << 30) as host:
        yield host


def launch(host: Host, policy: int | None, text: bytes = TEXT) -> Any:
    vm = vmm.launch(host, program=tour.notepad, args=(text,), policy=policy)
    if policy is not None:
        vm.finish()
    vm.run()
    return vm


def test_four_names_lead_to_one_frame(host: Host) -> None:
    vm = launch(host, None)
    where = tour.addresses(host, vm)

    assert (where["gva"], where["gpa"]) == (tour.GVA, tour.GPA)
    assert host.hpa(vm.process, where["hva"]) == where["hpa"]
    assert tour.mapped(host, vm).says == "two" and tour.same_frame(host, vm).says == "the same frame"


def test_the_vmm_walks_an_ordinary_guests_table_by_hand_and_finds_what_the_processor_finds(host: Host) -> None:
    last = tour.steps(launch(host, None))[-1]

    assert int(last["entry"], 16) & -4096 == tour.GPA


def test_the_vmm_cannot_walk_a_sealed_guests_table(host: Host) -> None:
    plain, sealed = launch(host, None), launch(host, 1)

    assert tour.walked(host, plain, sealed).says == "no"
    with pytest.raises(ValueError, match="no memory"):
        tour.steps(sealed)


def test_the_same_sentence_is_read_by_three_readers_or_by_one(host: Host) -> None:
    plain, sealed = launch(host, None), launch(host, 1)

    assert tour.ordinary(host, plain, TEXT).says == "all three"
    assert tour.ordinary(host, sealed, TEXT).says == "the guest alone"
    assert (tour.private(host, plain), tour.private(host, sealed)) == (False, True)
    assert tour.guest_sees(host, sealed) == TEXT and tour.pointer(host, sealed, TEXT).says == "noise"


def test_a_cleared_c_bit_brings_nothing_back_until_the_guest_stores_again(host: Host) -> None:
    vm = launch(host, 1)
    vm.run()
    then = tour.seen(host, vm)
    assert tour.cleared(then, TEXT).says == "noise" and not tour.private(host, vm)
    vm.run()
    assert tour.stored_again(tour.seen(host, vm), TEXT).says == "yes"
    vm.run()
    assert tour.private(host, vm) and tour.stored_again(tour.seen(host, vm), TEXT).says == "no"
    assert tour.cleared(then, TEXT).says == "noise"  # whoever answers late is answered as of then


def test_an_ordinary_guest_is_not_offered_memory_encryption(host: Host) -> None:
    """Its processor could do it; QEMU shows the leaf to SEV guests only, or the guest would set a bit that nobody takes out."""
    vm = vmm.launch(host, program=guest.diary, policy=None)

    assert [vm.run().name for _ in range(2)] == ["HLT"] * 2
    assert vm.read(0x4000, 16) == b"my diary, page 1"


def test_a_sentence_shorter_than_a_block_counts_as_itself(host: Host) -> None:
    assert tour.ordinary(host, launch(host, None, b"short"), b"short").says == "all three"


@pytest.mark.parametrize(("data", "found"), [(TEXT, "the sentence"), (bytes(16), "zeros"), (b"x" * 16, "noise")])
def test_what_a_reader_finds_has_one_of_three_names(data: bytes, found: str) -> None:
    assert tour.kind(data, TEXT) == found


def test_the_key_is_made_by_the_psp_and_lies_in_no_memory(host: Host) -> None:
    vm = launch(host, 1)
    made = tour.who_made_the_key(host, vm)

    assert "PSP     has done LAUNCH_START" in str(made.evidence) and "engine  has a key in slot" in str(made.evidence)
    assert tour.key_in_memory(host, vm).says == "no"


def test_a_flipped_bit_costs_the_guest_its_sentence_and_nobody_tells_it(host: Host) -> None:
    vm = launch(host, 1)
    before = tour.guest_sees(host, vm)
    tour.disturb(host, vm)
    after = tour.guest_sees(host, vm)

    assert before == TEXT != after
    assert tour.disturbed(before, after, vm.run()).says == "nothing"


def test_five_calls_that_are_refused_are_a_table_and_one_that_is_not_is_an_error(host: Host) -> None:
    vm = launch(host, None)
    found = tour.refusals({"a bad descriptor": lambda: vm.process.close(77)})

    assert tour.refused(found[0]).says == "EBADF" and "a bad descriptor" in str(tour.five(["a bad descriptor"], found))
    with pytest.raises(ValueError, match="nobody refused"):
        tour.refusals({"a look": lambda: vm.read(0, 4)})


def test_the_journal_says_when_the_sentence_came_and_went(host: Host) -> None:
    vm = launch(host, 1)
    for _ in range(3):
        vm.run()
    rows = tour.moments(host, vm, TEXT)

    assert [row["on the bus"] for row in rows] == ["zeros", "noise", "the sentence", "noise"]
    assert tour.vanished(host, rows).says == "the guest ran"


def test_what_the_vmm_sees_is_what_it_reads_and_leaves_no_entry(host: Host) -> None:
    for policy in (None, 1):
        vm, before = launch(host, policy), host.n
        found = tour.vmm_sees(host, vm, tour.GPA)
        assert tour.seen(host, vm).vmm == found
        assert host.n == before
        assert found == vm.read(tour.GPA, len(found))


def test_a_pointer_that_leads_nowhere_is_refused_to_a_look_too(host: Host) -> None:
    vm = launch(host, None)
    vm.process.munmap(vm.hva(tour.GPA), 4096)

    with pytest.raises(OSError, match="EFAULT"):
        tour.vmm_sees(host, vm, tour.GPA)
