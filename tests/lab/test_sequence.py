"""A trace as lines: who calls whom, outer calls first, memory and pages left out."""

from __future__ import annotations

import pytest

from sevlab import Host, designs, guest, lab, vmm
from sevlab.lab.sequence import ARROWS, LEFT_OUT, NOTES, Reader, lifelines
from sevlab.trace import Event


@pytest.fixture
def host() -> Host:
    host = Host("naples", seed=7)
    vmm.launch(host, firmware=guest.firmware_image(), policy=1)
    return host


def lines(host: Host, **more: bool) -> list[dict[str, object]]:
    return Reader(host, **more).lines(host.trace.rows())


def test_a_call_stands_above_what_it_caused(host: Host) -> None:
    labels = [(line["source"], line["target"], line["label"]) for line in lines(host)]

    at = labels.index(("vmm", "KVM", "KVM_SEV_LAUNCH_START"))
    assert labels[at + 1] == ("KVM", "PSP", "LAUNCH_START") and labels[at + 2][2] == "guest 1 made"


def test_a_refusal_is_told_in_both_currencies(host: Host) -> None:
    vm = vmm.steps.create_vm(host.process("late", memlock=1 << 20))
    lab.attempt(vmm.steps.launch_measure, vm)

    last = [line for line in lines(host) if line["label"] == "KVM_SEV_LAUNCH_MEASURE"][-1]
    assert last["answer"] == "EBADF" and last["bad"] and last["source"] == "late"


def test_a_line_carries_the_structure_that_went_along(host: Host) -> None:
    [line] = [line for line in lines(host) if line["label"] == "KVM_SEV_LAUNCH_START"]

    assert line["fields"]["structure"] == "kvm_sev_cmd" and len(line["data"]) == 24  # type: ignore[index,arg-type]


def test_memory_and_ranges_of_pages_are_no_lines(host: Host) -> None:
    assert not {line["kind"] for line in lines(host)} & LEFT_OUT
    assert not {"put", "get", "read", "write"} & {line["label"] for line in lines(host)}


def test_locks_are_lines_only_where_they_are_asked_for(host: Host) -> None:
    assert not any("lock" in line for line in lines(host))


def test_every_kind_that_is_told_of_exists() -> None:
    assert set(NOTES) | set(ARROWS) | LEFT_OUT <= set(Event.KINDS)


def test_the_lifelines_are_the_parties_and_the_processes(host: Host) -> None:
    assert [name for name, _ in lifelines(host)] == ["owner", "vmm", "KVM", "PSP", "engine", "guest", "bus"]


def test_without_a_front_end_it_is_a_table(host: Host) -> None:
    assert repr(lab.lanes(host)).splitlines()[0].split() == ["entry", "from", "to", "what", "answer"]
    assert set(lab.lanes(host)._repr_mimebundle_()) == {"text/plain"}
    assert lab.lanes(host, beside=Host("naples", designs.LINUX_6_12, seed=7)).lines


def test_what_came_before_an_entry_is_left_out_and_its_processes_keep_their_names(host: Host) -> None:
    n = host.n
    vmm.steps.create_vm(host.processes["vmm"])

    lines = lab.lanes(host, since=n).lines
    assert lines and all(line["n"] > n for line in lines) and lines[0]["source"] == "vmm"
    assert lab.lanes(host, since=host.n).describe().startswith("Nothing has happened.")


def test_a_live_one_grows_with_the_machine_from_that_entry_on(host: Host) -> None:
    pytest.importorskip("sevlab_widgets")
    picture = lab.lanes(host, since=host.n).widget
    assert picture.lines == []
    vmm.steps.create_vm(host.process("late", memlock=1 << 20))

    assert "KVM_CREATE_VM" in [line.label for line in picture.lines]
    picture.close()


def test_of_two_traces_the_words_are_those_in_which_they_differ() -> None:
    left, right = Host("naples", seed=7), Host("naples", seed=7)
    for one in (left, right):
        vmm.steps.create_vm(one.process("qemu", memlock=1 << 20))
    same = lab.lanes(left, beside=right, names=("a", "b"))
    lab.attempt(right.processes["qemu"].open, "/dev/kvm", "r+")
    other = lab.lanes(left, beside=right, names=("a", "b"))

    assert repr(same) == f"a and b have all {len(same.lines)} lines in common." and same.lines
    assert repr(other).splitlines()[-1].split() == ["b", str(right.n), "qemu", "KVM", "open", "0"]
