"""What the pictures of a host say where no front end runs, and what they leave in the trace."""

from __future__ import annotations

import subprocess
import sys

import pytest

from sevlab import Host, guest, lab, owner, vmm
from sevlab.lab import tour
from sevlab.lab.views import View


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


def test_a_lens_shows_a_picture_as_how_much_of_it_repeats(shared):
    host, vm = shared
    said = repr(lab.lens(host, vm, 0x4000, xray=True, view="picture"))

    assert "99% of 256 blocks are like another one" in said and "6d 79" not in said


def test_a_lens_with_held_bytes_counts_what_is_other_now():
    host = Host(chip="naples", seed=7)
    vm = vmm.launch(host, program=tour.notepad, args=(b"my pin is 4711!!",), policy=1, name="vm-a")
    before = host.n
    vm.run()
    said = repr(lab.lens(host, vm, 0x4000, held=before, xray=True))
    host.dram.write(host.npt(vm).translate(0x4000) + 64, b"one block of 16.")

    assert f"the bus        1 of 256 blocks are others than after entry {before}" in said
    assert "the bus        2 of 256 blocks" in repr(lab.lens(host, vm, 0x4000, held=before))
    assert "vm-a           closed: an x-ray" in repr(lab.lens(host, vm, 0x4000, held=before))


def test_a_lens_beside_the_buses_of_other_machines_names_each(shared):
    host, vm = shared
    other = Host(chip="rome", seed=8)
    theirs = vmm.launch(other, program=tour.notepad, args=(b"my pin is 4711!!",), policy=None)
    theirs.run()
    said = repr(lab.lens(host, vm, 0x4000, pointer=False, bus="bus, here", elsewhere={"bus, there": (other, theirs)}))

    assert [line.split("  ")[1] for line in said.splitlines()[1:]] == ["qemu", "bus, here", "bus, there"]
    assert said.splitlines()[-1].endswith("my pin is 4711!!") and not said.splitlines()[-2].endswith("4711!!")


def test_a_lens_that_was_taken_elsewhere_is_there(shared):
    host, vm = shared
    lens = lab.lens(host, vm, 0x4000, xray=True)
    lens.aim(0x20_0000)

    assert "gpa 0x200000" in repr(lens) and "my pin" not in repr(lens)


def test_a_guest_without_a_key_is_called_so_and_is_no_x_ray():
    host = Host(chip="naples", seed=7)
    vm = vmm.launch(host, program=tour.notepad, args=(b"my pin is 4711!!",), policy=None, name="vm-a")
    vm.run()
    said = repr(lab.lens(host, vm, 0x4000))

    assert "vm-a, no key" in said and said.count("my pin is 4711!!") == 3


@pytest.mark.parametrize(("policy", "note"), [(None, ""), (1, "= guest, C = 0")])
def test_the_c_bit_is_spoken_of_only_where_a_guest_has_a_key(policy, note):
    pytest.importorskip("sevlab_widgets")
    host = Host(chip="naples", seed=7)
    vm = vmm.launch(host, program=tour.notepad, args=(b"my pin is 4711!!",), policy=policy)

    [pointer] = [eye for eye in lab.lens(host, vm, 0x4000).widget.eyes if eye.name == "VMM's pointer"]
    assert pointer.note == note


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
        "  platform    firmware: WORKING",
        "  guest       qemu: LSECRET",
        "  activation  qemu: active",
        "  activation  14 slots: clean",
        "  activation  one slot: in use",
        "  mp_state    qemu: RUNNABLE",
    ]


def test_the_diagrams_are_the_firmware_s_own_tables():
    from types import SimpleNamespace

    from sevlab.lab.views_machine import diagrams
    from sevlab.psp import states

    made = SimpleNamespace(Edge=lambda *a: a[:3], State=lambda *a: a[0], Diagram=lambda name, at, edges, *_: (name, at, edges))
    platform, guest, *_ = diagrams(made)

    assert len(guest[2]) == sum(len(row) for row in states.GUEST.values())
    assert {("SENT", "UNINIT", "DECOMMISSION"), ("RUNNING", "UNINIT", "DECOMMISSION")} <= set(guest[2])
    assert ("WORKING", "INIT", "DECOMMISSION") in platform[2]


def test_each_of_a_few_vcpus_has_a_token_and_many_are_a_crowd():
    from sevlab.lab import es

    few, many = Host(seed=7), Host(seed=7)
    es.parked(few, 3)
    es.parked(many, 12)

    assert repr(lab.machine(few, only="mp_state")).splitlines()[1:] == [
        "  mp_state  qemu 0: HALTED", "  mp_state  qemu 1: AP_RESET_HOLD", "  mp_state  qemu 2: AP_RESET_HOLD",
    ]  # fmt: skip
    assert repr(lab.machine(many, only="mp_state")).splitlines()[1:] == [
        "  mp_state  qemu 0: HALTED",
        "  mp_state  11 of qemu: AP_RESET_HOLD",
    ]


def test_a_machine_that_is_none_of_the_four_is_refused(shared):
    with pytest.raises(ValueError, match="the machines are platform, guest, activation, mp_state"):
        lab.machine(shared[0], only="weather")


def test_a_guest_that_was_deactivated_is_inactive_and_its_slot_dirty():
    from sevlab.abi.sev import Cmd, Deactivate

    host = Host(chip="naples", seed=7)
    vm = vmm.launch(host, program=tour.notepad, args=(b"x",), policy=1)
    host.mailbox(Cmd.DEACTIVATE, Deactivate(handle=vm.status().handle))

    said = repr(lab.machine(host, only="activation"))
    assert "vmm: inactive" in said and "one slot: dirty" in said


@pytest.mark.parametrize(
    ("command", "words"), [("LAUNCH_FINISH", "KVM_SEV_LAUNCH_FINISH"), ("DECOMMISSION", "the firmware refuses if")]
)
def test_the_ladder_of_a_command_that_may_not_be_given(shared, command, words):
    from sevlab.lab.views_machine import rungs

    assert words in rungs(shared[0], "guest", command).describe()


@pytest.mark.parametrize(
    ("machine", "command", "says"), [("mp_state", "SIPI", "a message"), ("guest", "SWIM", "does not model SWIM")]
)
def test_what_is_no_call_has_no_ladder(shared, machine, command, says):
    from sevlab.lab.views_machine import rungs

    with pytest.raises(LookupError, match=says):
        rungs(shared[0], machine, command)


def test_an_illegal_command_opens_its_ladder_below_and_the_next_replaces_it(shared):
    pytest.importorskip("sevlab_widgets")
    view = lab.machine(shared[0])
    view.below = type("Box", (), {"children": ()})()
    for command, source in (("LAUNCH_START", "UNINIT"), ("LAUNCH_MEASURE", "LUPDATE")):
        view.widget.act(f"guest/{source}/{command}")
        assert view.below.children[0] is view.widget and view.below.children[1].call_name == f"KVM_SEV_{command}"


@pytest.mark.parametrize(
    ("error", "say"),
    [(LookupError("nobody can do this"), "nobody can do this."), (KeyError("colour"), "LAUNCH_FINISH raised KeyError: 'colour'.")],
)
def test_a_callback_s_no_is_a_sentence_and_its_mistake_is_told_as_one(shared, monkeypatch, error, say):
    pytest.importorskip("sevlab_widgets")

    def issue(*what):
        raise error

    machine, said = lab.machine(shared[0], issue).widget, []
    monkeypatch.setattr(machine, "post", lambda fields, *_: said.append(fields))
    machine.act("guest/LSECRET/LAUNCH_FINISH")

    assert [fields["say"] for fields in said if fields["kind"] == "error"] == [say]


def test_a_legal_command_is_given_to_the_notebook_s_callback(shared):
    pytest.importorskip("sevlab_widgets")
    given = []
    lab.machine(shared[0], lambda *what: given.append(what)).widget.act("guest/LSECRET/LAUNCH_FINISH")

    assert given == [("guest", "LAUNCH_FINISH", "qemu")]


def test_a_machine_that_never_existed_says_so_and_one_that_did_does_not(shared):
    from sevlab.hw import chips
    from sevlab.lab.sealed import POSTED_HOLD
    from sevlab.lab.views import imaginary

    assert imaginary(shared[0]) == ""
    assert imaginary(Host(design=POSTED_HOLD, seed=7)).startswith("the hold as posted")
    assert imaginary(Host(chips.imaginary("ECB"), seed=7)).startswith("an engine without a tweak")


def test_the_key_tree_says_which_signature_does_not_fit(shared):
    host, vm = shared
    chain = host.chain()
    said = repr(lab.keytree(owner.verify_chain(chain | {"cek": lab.flip(chain["cek"], 99)}), host, vm))

    assert "slot 6" in said and "does not fit" in said and "ASK: fits" in said


def test_every_key_has_a_place_and_who_has_what_of_it_fits_the_session():
    from sevlab.lab import views_keytree as keys

    held = {name: {party for party, what in who.items() if what == keys.HOLDS} for name, _, who, _ in keys.KEYS}

    assert held["ARK"] == held["ASK"] == set()  # AMD's alone
    assert held["CEK"] == held["PEK"] == held["PDH"] == {"PSP"}
    assert held["TEK"] == held["TIK"] == held["Z"] == {"guest owner", "PSP"}  # both ends derive or draw them
    assert held["VEK"] == {"PSP", "engine"} and "guest owner" not in dict(keys.KEYS[-1][2])
    assert {end for bond in keys.BONDS for end in bond[:2]} <= set(held)


def test_without_a_session_everybody_has_the_transport_keys():
    said = repr(lab.keytree(session=False))

    assert said.count("sixteen zeros: nobody sent a session; held by everybody") == 2 and "GODH" not in said
    with pytest.raises(ValueError, match="'XYZ' is no key"):
        lab.keytree(only=("PDH", "XYZ"))


def test_no_view_imports_a_widget_before_it_is_shown():
    code = "import sys; from sevlab import lab, Host; repr(lab.topology(Host(seed=1))); print('sevlab_widgets' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


@pytest.mark.parametrize(("design", "tag"), [("linux-6.1", "as shipped, see J26"), ("linux-6.1-fixed", "")])
def test_a_charge_that_nobody_owes_is_marked_as_shipped_and_a_right_one_is_not(design, tag):
    topology = pytest.importorskip("sevlab_widgets.topology")
    host = Host(chip="naples", seed=7, design=design, cgroups={"/a": {"sev": 5}, "/b": {"sev": 5}})
    process = host.process("qemu", cgroup="/a")
    primary = vmm.launch(host, program=tour.notepad, args=(b"one",), policy=1, process=process, shared=True)
    helper = vmm.mirror(primary, host.process("helper", cgroup="/a"))
    view = lab.topology(host)
    assert not any(row.tag for row in view.widget.ledger) and isinstance(view.widget, topology.Topology)

    vmm.move(helper, to=host.process("new", cgroup="/b"))
    assert {row.name: row.tag for row in view.widget.ledger}.get("/b sev", "") == tag
    assert ("Not your mistake: " in view.widget.says()) == bool(tag)


def test_what_is_gone_is_a_sentence_where_a_picture_was_to_be_too(monkeypatch):
    pytest.importorskip("sevlab_widgets")
    monkeypatch.setenv("SEVLAB_STATIC", "1")
    with Host(seed=7) as host:
        vm = vmm.launch(host, program=guest.read_secret, name="vm-a")
        host.processes["vm-a"].kill()
        assert lab.lens(host, vm, 0)._repr_mimebundle_() == {"text/plain": "lens: nothing to look at; vm-a is not there"}


def test_what_is_gone_is_a_sentence():
    with Host(seed=7) as host:
        vm = vmm.launch(host, program=guest.read_secret, name="vm-a")
        views = lab.lens(host, vm, 0), lab.pagemap(host, vm)
        host.processes["vm-a"].kill()
        for view in views:
            assert view.describe() and "Traceback" not in repr(view)


def test_a_key_that_is_missing_is_a_mistake_and_no_sentence():
    view = View("lens", lambda module: None, lambda: {}["eye"])
    with pytest.raises(KeyError):
        view.describe()
