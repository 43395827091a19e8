"""Lab `mirror`: readers, views, rights, and deaths are the machine's, and each answer follows it."""

from __future__ import annotations

import pytest

from sevlab import Host, designs, vmm
from sevlab.guest.programs import SECRET
from sevlab.lab import mirror as answers
from sevlab.lab.holders import rows
from sevlab.lab.mirror import (
    DONE,
    HELPER,
    TwoViews,
    guest_with_helper,
    helper,
    may_ask,
    one_more_vcpu,
    readers,
    stranger,
    two_tenants,
    with_a_mirror,
)

OWNERS_KEY = bytes(range(32))


@pytest.fixture
def guest(host: Host) -> vmm.Vm:
    return guest_with_helper(host)


def test_a_mirror_shares_slot_and_handle_and_no_pins_and_no_charge(host: Host, guest: vmm.Vm) -> None:
    vmm.mirror(guest, start=HELPER)
    assert answers.shared(host).says == "slot and handle"


def test_two_guests_share_nothing_but_who_pays(host: Host, guest: vmm.Vm) -> None:
    stranger(host, guest)
    assert answers.shared(host).says == "pays"


def test_the_mirror_reads_text_a_stranger_noise_and_the_vmm_ciphertext(host: Host, guest: vmm.Vm) -> None:
    found = readers(host, guest, vmm.mirror(guest, start=HELPER), stranger(host, guest))
    assert found["the guest"] == found["its mirror"] == SECRET
    assert found["the VMM"] == found["the bus"] not in (SECRET, found["a stranger"])
    said = [answers.read_by(found, who).says for who in ("its mirror", "a stranger", "the VMM")]
    assert said == ["the sentence", "noise", "ciphertext"]


def test_one_more_vcpu_reads_it_too(host: Host) -> None:
    assert answers.nothing_new(one_more_vcpu(host)).says == "the sentence"
    assert answers.nothing_new(bytes(16)).says == "noise"


def test_a_mirror_and_one_more_vcpu_are_alike_until_the_guest_has_run() -> None:
    with Host(seed=7) as one, Host(seed=7) as other:
        parted = with_a_mirror(one)
        one_more_vcpu(other)
        done = [[(row["kind"], row.get("nr")) for row in host.trace.rows() if row["n"] <= parted] for host in (one, other)]

        assert done[0] == done[1]
        assert one.kernel.vms.keys() == {1, 2} and other.kernel.vms.keys() == {1}


def test_two_tenants_and_one_who_pays() -> None:
    host = two_tenants(seed=9)

    assert [row["owner"] for row in rows(host)] == ["-", "vm-a"] and rows(host)[0]["pays"] == "/a"
    host.processes["helper"].kill()
    assert [row["VM"] for row in rows(host)] == ["vm-a"]


def test_a_page_that_the_host_wrote_is_no_program(host: Host, guest: vmm.Vm) -> None:
    guest.write(0x8000, helper.image())
    assert answers.own_code(vmm.mirror(guest, start=0x8000).run()).says == "it shuts down"
    assert answers.own_code(vmm.mirror(guest, start=HELPER).run()).says == "it reads the sentence"


def test_the_guest_waits_for_a_page_that_the_mirror_brings(host: Host) -> None:
    views = TwoViews(host)
    assert answers.touched(views.run()).says == "KVM_RUN says EFAULT"
    assert views.vm.read(DONE, 16) == bytes(16)
    assert views.fill().name == "HLT"
    assert answers.touched(views.run()).says == "exit HLT"
    assert views.vm.read(DONE, 16) == b"it has come late"


def test_a_page_that_is_mapped_again_but_was_not_filled_holds_no_sentence(host: Host) -> None:
    views = TwoViews(host)
    views.run()
    views.vm.process.mmap(4096, fd=views.fd, at=views.guests)
    views.run()
    assert views.vm.read(DONE, 16) not in (b"it has come late", bytes(16))


@pytest.mark.parametrize(("design", "let"), [(designs.LINUX_6_1, 4), (designs.LINUX_5_13, 0)], ids=lambda it: str(it))
def test_a_mirror_may_ask_for_four_things_and_on_5_13_for_none(design: designs.Design, let: int) -> None:
    with Host(design=design, seed=7) as host:
        rows = may_ask(vmm.mirror(guest_with_helper(host)))
        refused = [row for row in rows if row["KVM"] == "says no"]
        assert len(rows) - len(refused) == let and str(let) == answers.asked_of_a_mirror(rows).says
        assert {(row["errno"], row["firmware asked"]) for row in refused} == {("EINVAL", "no")}


def test_the_owner_outlives_its_process_until_nobody_holds_the_mirror() -> None:
    with Host(seed=7, cgroups={"/a": {"sev": 1}, "/b": {"sev": 0}}) as host:
        qemu = host.process("qemu", cgroup="/a")
        vm = guest_with_helper(host, process=qemu, shared=True)
        mirror = vmm.mirror(vm, host.process("helper", cgroup="/b"), start=HELPER)
        qemu.kill()
        assert answers.outlives(host).says == "in use" and mirror.run().name == "HLT"
        assert [host.kernel.root_cgroup.find(path).current["sev"] for path in ("/a", "/b")] == [1, 0]
        mirror.process.close(mirror.fd)
        assert answers.freed(host).says == "no"
        mirror.process.kill()
        assert answers.freed(host).says == "yes" and answers.outlives(host).says == "waiting"
