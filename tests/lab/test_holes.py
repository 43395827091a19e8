"""The aftermath of lab `mirror`: what 5.13 answers, and what 6.1 does."""

from __future__ import annotations

import pytest

from sevlab import designs
from sevlab.lab import mirror as answers
from sevlab.lab.holes import HOLES, hole, holes, played, survive

SAID = {
    "destination with a vCPU": ("0", "EINVAL"),
    "descriptor that is closed": ("the kernel oopses", "EBADF"),
    "descriptor that is no VM": ("EBADF", "EBADF"),
    "mirror of an SEV-ES guest is": ("plain SEV", "SEV-ES"),
    "GUEST_STATUS of a mirror": ("EINVAL", "0"),
}


@pytest.mark.parametrize("name", HOLES)
def test_each_kernel_answers_as_it_did(name: str) -> None:
    assert (hole(name, designs.LINUX_5_13), hole(name, designs.LINUX_6_1)) == SAID[name]
    answer = answers.hole_answer(name)
    assert answer.says == SAID[name][0] and answer.because


def test_the_table_has_a_row_for_each_or_for_those_asked_for() -> None:
    assert len(holes().text.splitlines()) == 2 + len(HOLES)
    assert len(holes("GUEST_STATUS of a mirror").text.splitlines()) == 3
    with pytest.raises(KeyError):
        holes("a hole that is none")


@pytest.mark.parametrize("name", HOLES)
def test_one_of_them_kills_its_caller_and_leaves_a_line(name: str) -> None:
    found = survive(name)
    deadly = name == "descriptor that is closed"
    assert found["process lives"] is not deadly
    assert bool(found["log"]) is deadly and all("fput" in line for line in found["log"])


def test_a_hole_is_played_on_both_kernels_and_only_the_later_one_refuses() -> None:
    later, first = played("destination with a vCPU")
    refused = [[row["errno"] for row in host.trace.rows() if row["kind"] == "Ioctl" and row["errno"]] for host in (later, first)]

    assert (later.design, first.design) == (designs.LINUX_6_1, designs.LINUX_5_13)
    assert refused == [[22], []]


def test_a_hole_that_there_is_not_cannot_be_played() -> None:
    with pytest.raises(KeyError):
        played("no such hole")
