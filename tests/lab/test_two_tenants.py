"""Two tenants and one guest: who pays on V11 and on Linux 6.1, and what the source still says."""

from __future__ import annotations

from sevlab import designs, lab, vmm
from sevlab.lab import move as answers
from sevlab.lab.move import V11, counts
from sevlab.lab.two_tenants import asked_afterwards, balance, carried, into_a_full_tenant, tenants

BOTH = (V11, designs.LINUX_6_1)


def test_a_full_tenant_refuses_and_the_guest_stays_where_it_was() -> None:
    two = tenants(full=True)
    moved = lab.attempt(vmm.move, two.old, to=two.process)
    assert answers.sum_unchanged(two, moved).says == "EBUSY"
    assert two.current == (1, 1) and counts(two.old, 2) == [1, 2]
    two.host.close()


def test_a_tenant_with_room_is_charged() -> None:
    two = tenants()
    moved = lab.attempt(vmm.move, two.old, to=two.process)
    assert answers.sum_unchanged(two, moved).says == "it succeeds" and two.current == (0, 1)
    two.host.close()


# ------------------------------------------------------------- the review


def test_on_v11_a_pays_to_the_end_and_on_6_1_b_does() -> None:
    rows = [balance(design) for design in BOTH]
    assert [list(row.values())[1:] for row in rows] == [
        ["a 1, b 0", "a 1, b 0", "a 1, b 0", "a 0, b 0"],
        ["a 1, b 0", "a 0, b 1", "a 0, b 1", "a 0, b 0"],
    ]
    assert answers.purse(rows).says == "a" and answers.purse(rows[::-1]).says == "b"


def test_on_v11_the_limit_is_not_asked() -> None:
    rows = [into_a_full_tenant(design) for design in BOTH]
    assert [row["MOVE says"] for row in rows] == ["0", "EBUSY"]
    assert answers.limit(rows).says == "it succeeds" and answers.limit(rows[::-1]).says == "EBUSY"


def test_on_v11_the_source_answers_with_the_registers_of_nobody() -> None:
    rows = [asked_afterwards(design) for design in BOTH]
    assert (rows[0]["GET_REGS after"], rows[0]["RUN after"]) == ("RSP 0x0", "FAIL_ENTRY")
    assert (rows[1]["GET_REGS after"], rows[1]["RUN after"]) == ("EIO", "EIO")
    assert answers.zombie(rows).says == "it answers" and answers.zombie(rows[::-1]).says == "EIO"


def test_the_traces_of_both_kernels_part_where_the_source_is_asked() -> None:
    v11, merged = (carried(design) for design in BOTH)
    mine, theirs = (lab.lanes(two.host, since=two.n).lines for two in (v11, merged))
    parts = [(a["label"], a["answer"], b["answer"]) for a, b in zip(mine, theirs, strict=False) if a["answer"] != b["answer"]]
    assert parts == [("KVM_GET_REGS", "0", "EIO")] and mine[len(theirs) :][0]["label"] == "KVM_GET_SREGS"
    assert (v11.current, merged.current) == ((1, 0), (0, 1))
