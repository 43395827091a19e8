"""Who holds whom, read off the machine."""

from __future__ import annotations

from sevlab import Host, guest, vmm
from sevlab.lab.holders import holders, letter, rows, topology


def test_a_mirror_its_owner_and_what_keeps_them() -> None:
    with Host(seed=7, memory=1 << 30) as host:
        vm = vmm.launch(host, program=guest.hello, shared=True, memory=1 << 20, name="qemu")
        mirror = vmm.mirror(vm, host.process("helper"))
        owner, copy = rows(host)
        assert (owner["VM"], owner["held by"]) == ("vm-a", "qemu fd 5, qemu fd 8 (vCPU 0), vm-b")
        assert (copy["VM"], copy["owner"], copy["pays"], copy["regions"]) == ("vm-b", "vm-a", "-", 0)
        assert owner["slot"] == copy["slot"] and owner["pages pinned"] > copy["pages pinned"] == 0

        vm.process.kill()
        assert rows(host)[0]["held by"] == "vm-b"
        assert topology(host, "slot").text.splitlines()[2:] == ["vm-a   100", "vm-b   100"]

        process = mirror.process
        for fd in (mirror.fd, mirror.vcpus[0].fd):
            process.close(fd)
        assert rows(host)[1]["held by"] == "a vCPU's mapped page"


def test_a_dead_source_is_said_to_be_dead() -> None:
    with Host(seed=7, memory=1 << 30) as host:
        vm = vmm.launch(host, program=guest.hello, memory=1 << 20)
        vmm.move(vm, to=vm.process)
        assert [(row["VM"], row["slot"]) for row in rows(host)] == [("vm-a (dead)", "-"), ("vm-b", 100)]


def test_a_descriptor_in_another_process_is_a_holder_too() -> None:
    with Host(seed=7, memory=1 << 30) as host:
        vm = vmm.launch(host, program=guest.hello, memory=1 << 20, name="qemu")
        fd = vm.process.send_fd(vm.fd, host.process("friend"))
        one = host.kernel.vm_of(vm.process, vm.fd)
        assert f"friend fd {fd}" in holders(host, one) and letter(one) == "vm-a"


def test_with_nothing_there_is_nothing() -> None:
    with Host(seed=7, memory=1 << 30) as host:
        assert rows(host) == [] and topology(host).text == "(no rows)"
