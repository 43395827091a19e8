"""Lab `asids`: each answer follows the machine, and a card's "look at" leads to what it names."""

from __future__ import annotations

from typing import Any

import pytest

from sevlab import Host, lab
from sevlab.abi.sev import Status
from sevlab.lab import asids as answers
from sevlab.lab.tenants import everybody_leaves, naples, tenant


def small(es: int = 0, slots: int = 3, **named: Any) -> Host:
    return Host(naples(es=es, slots=slots), seed=7, memory=1 << 30, **named)


def test_the_next_slot_is_the_lowest_free_one_and_not_the_one_given_back() -> None:
    with small(slots=4) as host:
        guests = [tenant(host) for _ in range(3)]
        guests[1].process.kill()
        assert answers.next_slot(host, 2).says == "4"


def test_the_sawtooth_all_wait_and_then_all_but_one_are_free() -> None:
    with small() as host:
        for _ in range(3):
            tenant(host)
        assert answers.sixteenth(host).says == "EBUSY"
        assert answers.free_then(host).says == "0"
        after = answers.after_flush(everybody_leaves(host))
        assert after.says == "2" and "made 1 flush" in after.because


def test_a_question_leaves_the_machine_and_its_trace_as_they_were() -> None:
    with small(es=1, slots=4, cgroups={"/t": {"sev": 1}}) as host:
        tenant(host, cgroup="/t")
        before = host.n, host.trace.rows(), host.asids.counts(), list(host.processes)
        for ask in (answers.sixteenth, answers.free_then, answers.after_flush, answers.other_kind, answers.both_kinds):
            assert ask(host).says
        answers.tenants_refused(host, {"second": "/t"})
        answers.charged_until(host, "/t")
        assert (host.n, host.trace.rows(), host.asids.counts(), list(host.processes)) == before


def test_a_guest_for_whom_there_is_a_slot_is_said_to_get_one() -> None:
    with small(es=1, slots=3) as host:
        assert answers.sixteenth(host).says == "it gets a slot"
        assert answers.other_kind(host).says == "it gets a slot of plain SEV"


@pytest.mark.parametrize("status", [Status.SUCCESS, Status.DFFLUSH_REQUIRED, Status.WBINVD_REQUIRED, Status.ASID_OWNED])
def test_a_status_is_named_and_explained(status: Status) -> None:
    answer = answers.status(status)
    assert answer.says == status.name and answer.because
    assert answers.status(status, "because I say so").because == "because I say so"


def test_a_flush_for_one_kind_cleans_the_other() -> None:
    with small(es=1, slots=3) as host:
        for es in (True, False):
            tenant(host, es=es)
        assert answers.both_kinds(host).says == "both"


def test_with_a_slot_of_its_kind_free_nothing_is_flushed_and_both_still_wait() -> None:
    with small(es=2, slots=4) as host:
        for es in (True, False):
            tenant(host, es=es)
        assert answers.both_kinds(host).says != "both"


def test_tenants_are_refused_at_the_level_that_is_full_and_charged_until_they_go() -> None:
    with small(slots=9, cgroups={"/t": {"sev": 3}, "/t/a": {"sev": 2}, "/t/b": {"sev": 2}}) as host:
        launches = {str(n): f"/t/{who}" for n, who in enumerate("aaabb", 1)}
        assert answers.tenants_refused(host, launches).says == "3 and 5"
        for group in launches.values():
            lab.attempt(tenant, host, cgroup=group)
        assert answers.charged_until(host, "/t/a").says == "no" and answers.charged_until(host, "/t").says == "yes"


# ------------------------------------------------------------- commands by hand


def test_an_arrow_of_the_diagram_is_given_to_the_firmware_which_may_refuse() -> None:
    with small() as host:
        handle = tenant(host).handle
        press = answers.mailbox(host, handle, 1)
        press("activation", "DEACTIVATE", "")
        for command, words in (("ACTIVATE", "DFFLUSH_REQUIRED"), ("DF_FLUSH", "WBINVD_REQUIRED"), ("INIT", "INIT gives nobody")):
            with pytest.raises(LookupError, match=words):
                press("activation", command, "")
        host.wbinvd()
        press("activation", "DF_FLUSH", "")
        press("activation", "ACTIVATE", "")
        assert host.psp.guests[handle].asid == 1
