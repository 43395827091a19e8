"""What the pictures of a host say where no front end runs, and what they leave in the trace."""

from __future__ import annotations

import subprocess
import sys

import pytest

from sevlab import Host, lab, owner, vmm
from sevlab.lab import tour


@pytest.fixture(scope="module")
def shared():
    host = Host(chip="naples", seed=7, cgroups={"/tenant-a": {"sev": 3}})
    process = host.process("qemu", cgroup="/tenant-a")
    vm = vmm.launch(host, program=tour.notepad, args=(b"my pin is 4711!!",), policy=1, process=process)
    vm.run()
    return host, vm


def looks(host):
    return sum(row["kind"] == "XrayTaken" for row in host.trace.rows())


def test_a_lens_keeps_the_guest_s_eye_closed_and_is_no_entry(shared):
    host, vm = shared
    n, before = host.n, looks(host)
    said = repr(lab.lens(host, vm, 0x4000))

    assert "qemu           closed: an x-ray" in said and "the bus" in said
    assert (host.n, looks(host)) == (n, before)


def test_an_opened_lens_reads_what_the_guest_reads_and_leaves_a_row(shared):
    host, vm = shared
    before = looks(host)

    assert b"my pin is 4711!!".hex(" ") in repr(lab.lens(host, vm, 0x4000, xray=True))
    assert looks(host) > before


def test_a_lens_where_nothing_was_touched_sees_nothing(shared):
    host, vm = shared

    with pytest.raises(LookupError):
        vm.process.kernel.processes["nobody"]
    assert repr(lab.lens(host, vm, 0x7F_F000_0000, xray=True)).count("sees nothing here") == 3


def test_a_lens_looks_at_cached_lines_without_filling_any():
    host = Host(chip="naples", seed=7, caches=True)
    vm = vmm.launch(host, program=tour.notepad, args=(b"my pin is 4711!!",), policy=1, name="vm-a")
    vm.run()
    held = len(host.soc.caches)

    assert b"my pin is 4711!!".hex(" ") in repr(lab.lens(host, vm, 0x4000, xray=True))
    assert len(host.soc.caches) == held


def test_the_topology_lists_who_holds_whom_and_counts(shared):
    host, vm = shared
    said = repr(lab.topology(host))

    assert f"{vm.fd} vm" in said and "/tenant-a sev              1 of 3" in said
    assert "0 → 1" in repr(lab.topology(host, 2))


def test_a_mirror_keeps_its_owner():
    host = Host(chip="naples", seed=7)
    vm = vmm.launch(host, program=tour.notepad, args=(b"x",), policy=1, name="vm-a")
    vmm.mirror(vm)

    assert "a mirror, holds vm-a, VM 1" in repr(lab.topology(host))


def test_the_machine_says_where_firmware_guest_slots_and_vcpus_are(shared):
    host, _ = shared

    assert repr(lab.machine(host)).splitlines()[1:] == [
        "  platform   firmware: WORKING",
        "  guest      qemu: LSECRET",
        "  key slots  14 slots: clean",
        "  key slots  one slot: used",
        "  mp_state   qemu: RUNNABLE",
    ]


def test_the_diagrams_are_the_firmware_s_own_tables():
    from types import SimpleNamespace

    from sevlab.lab.views_machine import diagrams
    from sevlab.psp import states

    made = SimpleNamespace(Edge=lambda *a: a[:3], State=lambda *a: a[0], Diagram=lambda name, at, edges, *_: (name, at, edges))
    platform, guest, *_ = diagrams(made)

    assert len(guest[2]) == sum(len(row) for cmd, row in states.GUEST.items() if cmd != states.Cmd.DECOMMISSION)
    assert ("WORKING", "INIT", "DECOMMISSION") in platform[2]


def test_the_key_tree_says_which_signature_does_not_fit(shared):
    host, vm = shared
    chain = host.chain()
    said = repr(lab.keytree(owner.verify_chain(chain | {"cek": lab.flip(chain["cek"], 99)}), host, vm))

    assert "slot 6" in said and "does not fit" in said and "ASK: fits" in said


def test_no_view_imports_a_widget_before_it_is_shown():
    code = "import sys; from sevlab import lab, Host; repr(lab.topology(Host(seed=1))); print('sevlab_widgets' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
