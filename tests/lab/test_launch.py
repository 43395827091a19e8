"""Lab `launch`: each answer is the machine's own, and follows the machine when it says something else."""

from __future__ import annotations

from typing import Any

import pytest

from sevlab import Host, guest, lab, owner, vmm
from sevlab.abi.kvm import kvm_sev_launch_start
from sevlab.lab import launch as answers
from sevlab.owner import OwnerSession

A, B = b"A" * 4096, b"B" * 4096


@pytest.mark.parametrize(
    ("loaded", "says"),
    [((B, A), "B, then A"), ((A, B), "A, then B"), ((A, A), "their addresses too")],
)
def test_the_order_is_read_off_the_running_digest(host: Host, loaded: tuple[bytes, bytes], says: str) -> None:
    vm = lab.empty_guest(host)
    for i, page in enumerate(loaded):
        vm.write(0x1000 * i, page)
        vmm.steps.update_data(vm, 0x1000 * i, 4096)

    assert answers.order(host, vm, A, B).says == says


def test_memory_is_looked_at_where_it_lies(host: Host) -> None:
    vm = lab.empty_guest(host)
    vm.write(0x1000, A)
    assert answers.memory(host, vm, 0x1000, A).says == "the letter A"
    assert answers.memory(host, vm, 0x2000, A).says == "zeros"

    vmm.steps.update_data(vm, 0x1000, 4096)
    assert answers.memory(host, vm, 0x1000, A).says == "noise"


def test_two_measurements_are_compared() -> None:
    assert answers.nonce(b"a" * 48, b"b" * 48).says == "no"
    assert answers.nonce(b"a" * 48, b"a" * 48).says == "yes"


def test_a_strangers_session_and_another_policy_are_refused_by_the_firmware(host: Host, session: OwnerSession) -> None:
    with Host(seed=8) as other:
        wrong = owner.new_session(other.chain()["pdh"], 1, seed=1)
    image = guest.firmware_image()

    def attempt(**how: Any) -> Any:
        return lab.attempt(vmm.launch, host, firmware=image, **how)

    assert answers.stranger(attempt(policy=1, session=wrong)).says == "it refuses"
    assert answers.stranger(attempt(policy=1, session=session)).says == "it goes on, with useless keys"
    assert answers.policy(attempt(policy=0, session=session)).says == "the PSP, at once"
    assert answers.policy(attempt(policy=1, session=session)).says == "you, by the measurement"


def test_a_chain_is_judged_by_its_root(host: Host) -> None:
    assert answers.home_made(owner.verify_chain(lab.home_made_chain())).says == "no"
    assert answers.home_made(owner.verify_chain(host.chain())).says == "yes"


def test_what_nobody_notices_is_named(vm: vmm.Vm) -> None:
    rows = [{"changed": "a", "who notices": "the owner"}, {"changed": "b", "who notices": "nobody"}]

    assert answers.tampered(rows).says == "b"


def test_a_packet_with_a_changed_bit_leaves_memory_as_it_was(host: Host, vm: vmm.Vm, session: OwnerSession) -> None:
    area = vm.firmware.secret_area.base
    header, packet = owner.wrap_secret(session.tek, session.tik, vm.measurement, owner.secret_table({"luks-key": b"x"}))
    before = lab.bus(host, vm, area, 64)

    refused = lab.attempt(vm.inject_secret, header, lab.flip(packet, 300))
    assert answers.flipped(before, lab.bus(host, vm, area, 64), refused).says == "what was there before"
    assert refused.fw_name == "BAD_MEASUREMENT"

    vm.inject_secret(header, packet)
    assert answers.flipped(before, lab.bus(host, vm, area, 64), None).says == "noise"


def test_a_packet_opens_for_one_launch_only(host: Host, vm: vmm.Vm, session: OwnerSession) -> None:
    twin = vmm.launch(host, firmware=guest.firmware_image(), kernel=guest.read_secret, policy=1, session=session)
    header, packet = owner.wrap_secret(session.tek, session.tik, vm.measurement, owner.secret_table({"luks-key": b"x"}))

    assert answers.replayed(lab.attempt(twin.inject_secret, header, packet)).says == "no"
    assert answers.replayed(lab.attempt(vm.inject_secret, header, packet)).says == "yes"


def test_the_secret_is_legible_in_the_shared_page_and_nowhere_else(host: Host, vm: vmm.Vm, session: OwnerSession) -> None:
    lab.deliver(vm, session, {"luks-key": b"correct horse battery staple"})
    image = guest.firmware_image()
    assert answers.elsewhere(host, vm, 0xF000, b"correct horse", image).says == "no"

    vm.write(0x3000, b"correct horse battery staple")
    assert answers.elsewhere(host, vm, 0xF000, b"correct horse", image).says == "yes"


def test_a_forgery_under_the_key_of_zeros_convinces_the_lazy_owner_only(session: OwnerSession) -> None:
    digest = owner.expected_digest(guest.firmware_image())
    forged = owner.expected_measurement(digest, tik=bytes(16), policy=1, mnonce=bytes(16)) + bytes(16)
    lazy, careful = (owner.check_measurement(forged, digest=digest, tik=tik, policy=1) for tik in (bytes(16), session.tik))

    assert answers.believed(lazy, careful).says == "the lazy one"
    assert answers.believed(careful, lazy).says == "the careful one"
    assert answers.believed(careful, careful).says == "neither"
    assert answers.believed(lazy, lazy).says == "both"
    assert answers.rearranged(lazy).says == "trusted" and answers.rearranged(careful).says == "refused"


def test_no_answer_comes_without_its_reason() -> None:
    given = [answers.nonce(b"", b""), answers.replayed(None), answers.flipped(b"", b"", None), answers.tampered([])]

    assert [answer.because[-1] in ".)" for answer in given] == [True] * len(given)


def test_the_firmware_is_told_where_the_bytes_lie_and_no_address_of_the_guest(host: Host) -> None:
    vm = lab.empty_guest(host)
    told = answers.command(host, vm, 0x2000, 4096)

    assert (told.handle, told.paddr, told.len) == (vm.handle, host.hpa(vm.process, vm.hva(0x2000)), 4096)
    with pytest.raises(ValueError, match="0x900000"):
        answers.command(host, vm, 0x900000, 4096)


def test_what_a_vmm_gave_its_kernel_is_read_from_the_journal(host: Host, session: OwnerSession) -> None:
    with pytest.raises(LookupError, match="nobody gave the kernel a kvm_sev_launch_start"):
        answers.given(host, kvm_sev_launch_start)
    vm = vmm.launch(host, firmware=guest.firmware_image(), policy=1, session=session)
    said = answers.given(host, kvm_sev_launch_start)

    assert (said.policy, said.session_len) == (1, 128)
    assert vm.process.read(said.session_uaddr, 128) == session.session
