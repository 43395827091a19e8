"""Attacks whose outcome no chip may change: the smallest piece of a launch, and the host's own key slot."""

from __future__ import annotations

import pytest
from attack_rig import CHIPS, blackboard

from sevlab import Host, guest, vmm
from sevlab.vmm import steps

PAGE = 4096
TEXT = b"first block 16 b" + b"second block, 16" + b"a third of them." + b"and the fourth.."


@pytest.mark.parametrize("chip", CHIPS)
def test_blocks_of_a_launch_in_any_places_have_one_digest_and_are_another_guest(chip: str) -> None:
    """Each 16 bytes measured in the same order, and lying the other way round: to the byte what the engine's formula says."""
    with Host(chip, seed=3, memory=1 << 30) as host:
        seen, digests = [], []
        for places in ((0, 16, 32, 48), (48, 32, 16, 0)):
            process = host.process(f"vmm-{places[0]}", memlock=16 << 20)
            vm = steps.create_vm(process)
            steps.add_memory(vm, 0, 1 << 20)
            steps.launch_start(vm, 1)
            for at, place in zip(range(0, 64, 16), places, strict=True):
                vm.write(0x1000 + place, TEXT[at : at + 16])
                steps.update_data(vm, 0x1000 + place, 16)
            hpa = host.npt(vm).translate(0x1000)
            seen.append(blackboard(host, vm).opened(hpa, host.probe(hpa, 64)))
            digests.append(host.xray.digest(vm.handle))

    assert digests[0] == digests[1]
    assert seen == [TEXT, b"".join(TEXT[at : at + 16] for at in (48, 32, 16, 0))]


@pytest.mark.parametrize("chip", CHIPS)
def test_a_guest_entered_under_the_hosts_own_number_does_not_run(chip: str) -> None:
    with Host(chip, seed=3, memory=1 << 30) as host:
        vm = vmm.launch(host, program=guest.hello)
        vm.finish()
        block = host.kernel.vm_of(vm.process, vm.fd).vcpus[0].vmcb
        block.asid = 0
        vm.run()

        assert block.why == "ASID 0 is the host's" and vm.read(0x2000, 12) != b"hello, cloud"
