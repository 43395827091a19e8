"""Ladder in a real JupyterLab."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.ui

REFUSED = """
from sevlab import Host, guest, lab, owner, vmm
host = Host("naples", seed=7)
session = owner.new_session(host.chain()["pdh"], 1, seed=1)
answer = lab.attempt(vmm.launch, host, firmware=guest.firmware_image(), policy=0, session=session)
card = lab.ladder(answer)
card
"""
TWO = """
from sevlab import designs, lab
lab.ladder("MOVE_ENC_CONTEXT_FROM", beside=designs.POSTED)
"""
BREAK = """
from sevlab_widgets.ladder import Column, Ladder, Rung
rules = [("the VM is no SEV guest", "ENOTTY"), ("the structure cannot be read", "EFAULT"),
         ("a vCPU exists already", "EINVAL"), ("no key slot is free", "EBUSY")]
def call(wrong):
    first = min(wrong, default=9)
    state = lambda i: "passed" if i < first else "refused" if i == first else "also" if i in wrong else "unasked"
    return [Column("", [Rung(words, code, state(i), "kernel", "K", "sev_guest_init") for i, (words, code) in enumerate(rules)])]
first = [Column("", [Rung(words, code, by="kernel", letter="K") for words, code in rules])]
card = Ladder(first, call="KVM_SEV_INIT", on_call=call)
card
"""


def test_a_refusal_shows_which_rung_said_no(notebook, shot):
    book = notebook(REFUSED, width=1000)
    card = book.widget()

    assert "Rung 24 of 34 refused: POLICY_MAC does not match; EIO, firmware BAD_MEASUREMENT." in book.status()
    card.locator("[data-key='0/23']").click()
    assert book.status().startswith(
        "Rung 24: EIO if POLICY_MAC does not match, asked by the firmware; refused with EIO, firmware BAD_MEASUREMENT."
    )
    book.page.keyboard.press("Enter")
    book.settle(300)
    assert "Source:" in book.status()
    shot(book, "ladder-refused")


@pytest.mark.parametrize("width", [520, 1000, 1700])
def test_the_rung_that_refused_is_in_sight_and_none_is_cut_at_the_top(notebook, width, shot):
    book = notebook(REFUSED, width=width)
    book.widget()
    book.settle(400)

    stage, rung = book.page.locator(".sl-stage").bounding_box(), book.page.locator("[data-key='0/23']").bounding_box()
    assert stage["y"] <= rung["y"] and rung["y"] + rung["height"] <= stage["y"] + stage["height"]
    tops = [item.bounding_box()["y"] for item in book.page.locator("[data-key]").all()]
    assert abs(min((top for top in tops if top >= stage["y"] - 1), default=0) - stage["y"]) <= 4
    shot(book, f"ladder-{width}", dark=False)


def test_two_designs_stand_beside_each_other(notebook, shot):
    book = notebook(TWO, width=1700)
    card = book.widget()
    assert card.get_attribute("data-size") == "L"
    card.locator("[data-key]").first.click()
    book.page.keyboard.press("ArrowDown")
    assert book.status().startswith("Rung")
    shot(book, "ladder-two")


def test_break_it_yourself_takes_a_guess_and_then_makes_the_call(notebook, shot):
    book = notebook(BREAK, width=1000)
    card = book.widget()
    assert book.status() == "No call yet. These are the rungs of KVM_SEV_INIT, top first."
    card.get_by_text("Break it yourself").click()
    card.get_by_label("3 a vCPU exists already").check()
    card.get_by_label("4 no key slot is free").check()
    card.get_by_role("button", name="Make the call").click()
    assert "Commit a guess first" in book.status()
    card.get_by_label("it will answer").select_option("EBUSY")
    card.get_by_role("button", name="Make the call").click()
    book.settle(500)

    assert book.status().startswith("You guessed EBUSY, the answer is EINVAL. Rung 3 of 4 refused")
    assert "1 more is also wrong, never asked." in book.status()
    shot(book, "ladder-break")


def test_small_and_axe(notebook, shot, violations):
    book = notebook(REFUSED, BREAK, width=520)
    assert book.widget().get_attribute("data-size") == "S"
    shot(book, "ladder-S")
    book.widget(1)
    assert violations(book) == []
    book.theme("dark")
    assert violations(book) == []
