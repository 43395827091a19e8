"""Lab `mirror`, scene 8: what a courier carries out is the owner's to read, and what a careless one gives away."""

from __future__ import annotations

from typing import Any

import pytest

from sevlab import Host, lab, vmm
from sevlab import owner as owners
from sevlab.guest.programs import SECRET
from sevlab.lab.courier import careless_courier, guest_with_courier, packets, secret_sent, unpacked
from sevlab.lab.mirror import HELPER, equal_packets

OWNERS_KEY = bytes(range(32))


def packets_of(host: Host, **named: Any) -> list[bytes]:
    vm = guest_with_courier(host, OWNERS_KEY, **named)
    vmm.mirror(vm, start=HELPER).run()
    return packets(vm)


def test_the_far_end_reads_every_page_and_the_host_none(host: Host) -> None:
    sent = packets_of(host)
    assert unpacked(OWNERS_KEY, sent) == [SECRET, b"my diary, page 2", SECRET]
    assert lab.search(host, b"my diary") == [] and len(set(sent)) == 3
    assert equal_packets(sent).says == "nothing"


def test_with_another_key_the_far_end_reads_nothing(host: Host) -> None:
    assert SECRET not in unpacked(bytes(32), packets_of(host))


def test_a_courier_that_does_not_number_its_packets_tells_which_pages_are_equal(host: Host) -> None:
    sent = packets_of(host, program=careless_courier)
    assert sent[0] == sent[2] != sent[1]
    assert equal_packets(sent).says == "that two pages are equal"


def test_an_owner_who_does_not_trust_the_launch_sends_no_key(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owners, "expected_digest", lambda image: bytes(32))
    with pytest.raises(ValueError, match="does not trust"):
        guest_with_courier(host, OWNERS_KEY)


def test_the_trace_from_the_secret_on_begins_with_it_and_ends_with_the_courier_s_exit(host: Host) -> None:
    packets_of(host)
    lines = lab.lanes(host, since=secret_sent(host)).lines

    assert lines[0]["label"] == "KVM_SEV_LAUNCH_SECRET" and lines[-1]["label"] == "exit HLT"
    assert not any(OWNERS_KEY in line.get("data", b"") for line in lines)


def test_where_no_owner_has_sent_anything_there_is_no_such_entry(host: Host) -> None:
    with pytest.raises(LookupError, match="no guest"):
        secret_sent(host)
