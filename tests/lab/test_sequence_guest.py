"""What a guest and KVM say to each other, as lines."""

from __future__ import annotations

import pytest

from sevlab import Host, lab
from sevlab.abi.ghcb import Ghcb
from sevlab.lab import es, sequence_guest
from sevlab.lab.sequence import lifelines


def request(leaf: int) -> Ghcb:
    return Ghcb(sw_exit_code=0x72, rax=leaf).mark("sw_exit_code", "sw_exit_info_1", "sw_exit_info_2", "rax", "rcx")


@pytest.mark.parametrize(("leaf", "answer", "bad"), [(1, "0", False), (0xD, "info1 = 2, info2 = 0x4", True)])
def test_a_request_is_an_arrow_there_and_its_answer_one_back(leaf: int, answer: str, bad: bool) -> None:
    host = Host(seed=7)
    es.ask(host, request(leaf))
    lines = [line for line in lab.lanes(host, kinds=es.SPOKEN).lines if "CPUID" in line["label"]]

    assert [(line["source"], line["target"], line["label"]) for line in lines] == [
        ("guest", "KVM", "VMGEXIT CPUID"), ("KVM", "guest", "answer to CPUID"),
    ]  # fmt: skip
    assert (lines[1]["answer"], lines[1]["bad"]) == (answer, bad)


def test_the_exit_under_a_request_is_no_line_of_its_own() -> None:
    host = Host(seed=7)
    es.ask(host, request(1))

    assert not any(line["label"] == "exit VMGEXIT" for line in lab.lanes(host).lines)
    assert any(line["label"] == "exit HLT" for line in lab.lanes(host).lines)


def test_all_processors_but_the_first_stand_on_one_lifeline_and_say_which_they_are() -> None:
    host = Host(seed=7)
    es.parked(host, 3)
    held = [line for line in lab.lanes(host, kinds={"Held"}).lines]

    assert [(line["source"], line["label"]) for line in held] == [
        ("APs", "hold me until a SIPI comes, AP 1"), ("APs", "hold me until a SIPI comes, AP 2"),
    ]  # fmt: skip
    assert ("APs", "G") in lifelines(host) and ("APs", "G") not in lifelines(Host(seed=7))


def test_states_are_told_by_name_and_messages_by_what_they_are() -> None:
    host = Host(seed=7)
    es.parked(host, 2, vector=0x42)
    labels = [line["label"] for line in lab.lanes(host, kinds=es.STARTED).lines]

    assert "vCPU 1: UNINITIALIZED → INIT_RECEIVED" in labels and "SIPI 0x42 to vCPU 1" in labels
    assert "SIPI 0x42, its first: what was measured runs, AP 1" in labels


def test_an_exit_or_a_state_that_nobody_has_named_is_a_number() -> None:
    assert sequence_guest.ARROWS["VmExit"]({"code": 0x1234})[2] == "exit 0x1234"
    assert sequence_guest.ARROWS["VmgexitEnter"]({"exit_reason": 0x99})[2] == "VMGEXIT 0x99"
    assert "77" in sequence_guest.NOTES["MpState"]({"vcpu": 0, "was": 77, "state": 0})


def test_kinds_that_are_not_asked_for_are_no_lines() -> None:
    host = Host(seed=7)
    es.parked(host, 2)

    assert {line["kind"] for line in lab.lanes(host, kinds={"Held"}).lines} == {"Held"}
    assert lab.lanes(host, kinds={"ContextMoved"}).lines == []
