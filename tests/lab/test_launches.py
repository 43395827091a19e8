"""The launches that a lesson finds ready-made."""

from __future__ import annotations

import hashlib

import pytest

from sevlab import Host, guest, owner, vmm
from sevlab.abi.sev import GuestState
from sevlab.hw.isa import hlt, program, store
from sevlab.lab import before_launch, deliver, empty_guest, tampering, two_pages
from sevlab.lab.launches import by_hand
from sevlab.owner import OwnerSession


@program
async def above() -> None:
    await store(0xF000, b"above", c=False)
    await hlt()


@program
async def below() -> None:
    await store(0xF000, b"below", c=False)
    await hlt()


def test_an_empty_guest_has_loaded_nothing_and_can_be_loaded(host: Host) -> None:
    vm = empty_guest(host)
    assert host.xray.digest(vm.handle) == hashlib.sha256().digest()

    vm.write(0x1000, b"A" * 4096)
    vmm.steps.update_data(vm, 0x1000, 4096)

    assert host.xray.digest(vm.handle) == hashlib.sha256(b"A" * 4096).digest()
    assert GuestState(vm.status().state) is GuestState.LUPDATE


def test_one_may_have_several_empty_guests(host: Host) -> None:
    assert len({empty_guest(host).process.name for _ in range(3)}) == 3


def test_of_two_pages_the_upper_one_runs(host: Host) -> None:
    image = two_pages(host, below=below, top=above)
    vm = vmm.launch(host, firmware=image)
    vm.finish()
    vm.run()

    assert len(image) == 8192 and vm.read(0xF000, 5) == b"above"


@pytest.mark.parametrize(("exchanged", "runs"), [(False, b"above"), (True, b"below")])
def test_pages_that_change_places_keep_the_digest_and_change_the_guest(host: Host, exchanged: bool, runs: bytes) -> None:
    image = two_pages(host, below=below, top=above)
    vm = before_launch(host, image)
    places = [vm.firmware.gpa, vm.firmware.gpa + 4096]
    if exchanged:
        places.reverse()
        for place, page in zip(places, (image[:4096], image[4096:]), strict=True):
            vm.write(place, page)
    vmm.steps.launch_start(vm, 1)
    for place in places:
        vmm.steps.update_data(vm, place, 4096)
    assert host.xray.digest(vm.handle) == owner.expected_digest(image)

    vmm.steps.launch_measure(vm)
    vm.finish()
    vm.run()

    assert vm.read(0xF000, 5) == runs


def test_a_secret_that_is_delivered_arrives(vm: vmm.Vm, session: OwnerSession) -> None:
    assert deliver(vm, session, {"luks-key": b"open sesame"}).name == "HLT"

    _, table = vm.answer()
    assert owner.secret_entries(table)[0][1] == b"open sesame"


def test_a_secret_under_another_session_is_refused(host: Host, vm: vmm.Vm) -> None:
    other = owner.new_session(host.chain()["pdh"], 1, seed=99)

    with pytest.raises(OSError, match="BAD_MEASUREMENT"):
        deliver(vm, other, {"luks-key": b"open sesame"})


def test_of_four_changes_only_the_vcpu_goes_unnoticed() -> None:
    assert {row["changed"]: (row["LAUNCH_START"], row["digest"], row["who notices"]) for row in tampering()} == {
        "one bit of the image": ("ok", "another", "the owner"),
        "the policy": ("BAD_MEASUREMENT", "-", "the firmware"),
        "older firmware": ("ok", "same", "the owner"),
        "one more vCPU": ("ok", "same", "nobody"),
    }


def test_the_tampered_launches_depend_on_nobodys_machine() -> None:
    assert tampering(1) == tampering(2)
    assert guest.firmware_image() == guest.firmware_image()


def test_a_launch_by_hand_goes_from_state_to_state(host: Host) -> None:
    vm = empty_guest(host)
    give = by_hand(vm)
    for command in ("LAUNCH_UPDATE_DATA", "LAUNCH_UPDATE_DATA", "LAUNCH_MEASURE"):
        give("guest", command, "scratch")

    assert host.xray.digest(vm.handle) == hashlib.sha256(bytes(8192)).digest()
    assert vm.measurement and host.psp.guests[vm.handle].state is GuestState.LSECRET
    give("guest", "LAUNCH_FINISH", "scratch")
    assert host.psp.guests[vm.handle].state is GuestState.RUNNING
    give("guest", "DECOMMISSION", "scratch")
    assert vm.handle not in host.psp.guests


def test_by_hand_a_command_in_the_wrong_state_is_refused_by_the_firmware(host: Host) -> None:
    vm = empty_guest(host)
    give = by_hand(vm)
    give("guest", "LAUNCH_MEASURE", "scratch")

    with pytest.raises(OSError, match="INVALID_GUEST_STATE"):
        give("guest", "LAUNCH_UPDATE_DATA", "scratch")
    with pytest.raises(OSError, match="ENOTTY"):  # plain SEV has no save areas
        give("guest", "LAUNCH_UPDATE_VMSA", "scratch")


def test_by_hand_there_are_as_many_pages_as_the_guest_has(host: Host) -> None:
    give = by_hand(empty_guest(host, size=2 << 12))
    for _ in range(2):
        give("guest", "LAUNCH_UPDATE_DATA", "scratch")

    with pytest.raises(ValueError, match="every page of this guest is loaded"):
        give("guest", "LAUNCH_UPDATE_DATA", "scratch")


def test_a_command_that_takes_two_is_not_given_by_hand(host: Host) -> None:
    with pytest.raises(ValueError, match="SEND_START wants more than a press"):
        by_hand(empty_guest(host))("guest", "SEND_START", "scratch")
