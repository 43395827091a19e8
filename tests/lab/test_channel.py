"""The firmware's way through a session, shown step by step."""

from __future__ import annotations

import pytest

from sevlab import Host, owner
from sevlab.host import XrayTaken
from sevlab.lab import unwrap
from sevlab.owner import OwnerSession


def test_the_last_two_keys_are_those_that_the_owner_drew(host: Host, session: OwnerSession) -> None:
    lines = unwrap(host, session).text.splitlines()

    assert [line.split("  ")[0] for line in lines[2:]] == ["Z", "master secret", "KEK", "KIK", "TEK", "TIK"]
    assert lines[-2].endswith(session.tek.hex()) and lines[-1].endswith(session.tik.hex())


def test_looking_at_a_private_key_is_an_x_ray(host: Host, session: OwnerSession) -> None:
    unwrap(host, session)

    assert host.trace.rows(XrayTaken)[-1]["what"] == "the platform's private keys"
    assert host.journal.looks[-1].what == "the platform's private keys"  # a grader sees it in what is saved, too


def test_a_platform_that_was_not_brought_up_has_no_key_to_look_at(session: OwnerSession) -> None:
    with Host(seed=9) as idle:
        idle.psp.keys = idle.psp.keys._replace(pdh=None)
        with pytest.raises(ValueError, match="not brought up"):
            unwrap(idle, session)
        assert not idle.journal.looks


def test_a_session_for_another_platform_does_not_open(host: Host) -> None:
    with Host(seed=8) as other:
        stranger = owner.new_session(other.chain()["pdh"], 1, seed=1)

    with pytest.raises(ValueError, match="made for another platform"):
        unwrap(host, stranger)
