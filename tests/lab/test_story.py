"""A launch told from its trace."""

from __future__ import annotations

from sevlab import Host, guest, vmm
from sevlab.lab import attempt, story
from sevlab.owner import OwnerSession


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()[2:]]


def test_the_vmms_command_comes_before_what_the_firmware_was_asked_for_it(host: Host, vm: vmm.Vm) -> None:
    told = rows(story(host.trace).text)
    commands = [row[0] for row in told]

    start = commands.index("KVM_SEV_LAUNCH_START")
    assert commands[start : start + 3] == ["KVM_SEV_LAUNCH_START", "LAUNCH_START", "ACTIVATE"]
    assert commands[-2:] == ["KVM_SEV_LAUNCH_MEASURE", "LAUNCH_MEASURE"]


def test_what_a_command_changed_stands_beside_it(host: Host, vm: vmm.Vm) -> None:
    told = {row[0]: " ".join(row[2:]) for row in rows(story(host.trace).text)}

    assert told["KVM_SEV_INIT"] == "the VM has key slot 100"
    assert told["ACTIVATE"] == "slot 100 holds its key"
    assert told["LAUNCH_MEASURE"] == "guest 1 is LSECRET"
    assert told["LAUNCH_UPDATE_DATA"].endswith("hashed, then encrypted")


def test_a_story_may_begin_later(host: Host, vm: vmm.Vm) -> None:
    since = host.trace.seq
    assert story(host.trace, since=since).text == "(no rows)"

    vm.finish()
    assert [row[0] for row in rows(story(host.trace, since=since).text)] == ["KVM_SEV_LAUNCH_FINISH", "LAUNCH_FINISH"]


def test_a_refusal_is_told_with_both_its_codes(host: Host, session: OwnerSession) -> None:
    attempt(vmm.launch, host, firmware=guest.firmware_image(), policy=0, session=session)

    assert rows(story(host.trace).text)[-2:] == [["KVM_SEV_LAUNCH_START", "EIO"], ["LAUNCH_START", "BAD_MEASUREMENT"]]


def test_two_hosts_of_one_world_are_told_in_their_order(host: Host) -> None:
    with Host(seed=8, trace=host.trace) as other:
        for one in (host, other, host):
            vmm.launch(one, firmware=guest.firmware_image())

    slots = [row[-1] for row in rows(story(host.trace).text) if row[0] == "KVM_SEV_INIT"]
    assert slots == ["100", "100", "101"]
