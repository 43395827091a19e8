"""Key slots: lowest first, given back dirty, flushed for everybody at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from errno import EBUSY, EINVAL, EIO, ENOTTY

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sev_rig import Rig, refuses

from sevlab.abi.kvm import KVM_SEV_ES_INIT, KVM_SEV_INIT
from sevlab.abi.sev import Cmd, Status
from sevlab.hw.chips import NAPLES, ROME
from sevlab.hw.soc import Wbinvd
from sevlab.kvm import designs
from sevlab.kvm.asid import FREE, RECLAIMABLE, USED, AsidFreed, AsidPool, AsidsFlushed, AsidTaken
from sevlab.kvm.cgroup import Cgroup
from sevlab.kvm.fd import KvmError
from sevlab.kvm.ladder import ladder

SMALL = replace(ROME, name="small", max_asid=6, min_asid=5)  # SEV-ES: 1 to 4, SEV: 5 and 6


class Tenants:
    """A pool of its own, with a flush that can be made to fail."""

    def __init__(self, rig: Rig) -> None:
        self.refusal: KvmError | None = None
        self.log: list[str] = []
        self.pool = AsidPool(rig.soc, lambda: self.refusal, self.log.append)
        self.group = Cgroup.root({"sev": 2, "sev_es": 4})

    def take(self, es: bool = True) -> int:
        return self.pool.take(es, self.group, 1)

    def give(self, asid: int) -> None:
        self.pool.give_back(asid, asid < 5, self.group)


@pytest.fixture
def tenants(make_rig: Callable[..., Rig]) -> Tenants:
    return Tenants(make_rig(chip=SMALL))


def test_five_guests_one_after_the_other_get_one_two_three_four_and_after_a_flush_one(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(chip=SMALL)
    got, flushes = [], []
    for _ in range(5):
        vm = rig.started(policy=4)
        got.append(rig.file(vm).sev.asid)
        rig.qemu.close(vm)
        flushes.append(rig.kernel.asids.flushes)

    assert got == [1, 2, 3, 4, 1]
    assert flushes == [0, 0, 0, 0, 1]


def test_slots_of_each_kind_are_handed_out_lowest_first(tenants: Tenants) -> None:
    assert [tenants.take(es) for es in (True, False, True, False, True)] == [1, 5, 2, 6, 3]


def test_a_slot_given_back_waits_although_it_is_the_lowest(tenants: Tenants) -> None:
    assert [tenants.take(), tenants.take()] == [1, 2]
    tenants.give(1)

    assert tenants.take() == 3
    assert tenants.pool.state(1) == "reclaimable"


def test_when_every_slot_is_in_use_nobody_flushes(tenants: Tenants, make_rig: Callable[..., Rig]) -> None:
    for _ in range(4):
        tenants.take()
    before = len(tenants.pool.soc.trace)

    with pytest.raises(KvmError) as no:
        tenants.group.capacity["sev_es"] = 5  # or the cgroup would refuse first
        tenants.take()
    assert no.value.errno == EBUSY
    assert tenants.pool.flushes == 0
    assert len(tenants.pool.soc.trace) == before


def test_a_flush_is_asked_for_by_one_kind_and_serves_both(tenants: Tenants) -> None:
    for es in (True, True, True, True, False):
        tenants.take(es)
    tenants.give(2)
    tenants.give(5)

    assert tenants.take() == 2
    assert tenants.pool.counts() == {"free": 2, "used": 4, "reclaimable": 0}
    assert tenants.pool.flushes == 1


def test_slots_of_the_other_kind_alone_are_no_reason_to_flush(tenants: Tenants) -> None:
    for es in (True, True, True, True, False):
        tenants.take(es)
    tenants.give(5)
    tenants.group.capacity["sev_es"] = 5

    with pytest.raises(KvmError):
        tenants.take()
    assert tenants.pool.flushes == 0
    assert tenants.pool.state(5) == "reclaimable"


def test_a_flush_that_fails_frees_nothing_charges_nothing_and_is_logged(tenants: Tenants) -> None:
    for _ in range(4):
        tenants.take()
    tenants.give(1)
    tenants.refusal = KvmError(EIO, Status.WBINVD_REQUIRED)
    charged = dict(tenants.group.current)

    with pytest.raises(KvmError) as no:
        tenants.take()
    assert no.value.errno == EBUSY
    assert tenants.log == ["SEV: DF_FLUSH failed, ret=-5, error=0xe"]
    assert tenants.group.current == charged
    assert tenants.pool.counts(es=True) == {"free": 0, "used": 3, "reclaimable": 1}


def test_the_flush_writes_the_caches_back_before_it_asks_the_firmware(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(chip=SMALL)
    for _ in range(4):
        rig.qemu.close(rig.started(policy=4))
    rig.trace._buffers.clear()
    rig.started(policy=4)

    rows = [row for row in rig.rows() if row["kind"] in ("Wbinvd", "AsidsFlushed", "AsidTaken") or row.get("cmd") == Cmd.DF_FLUSH]
    assert [row["kind"] for row in rows] == ["Wbinvd", "CommandDone", "AsidsFlushed", "AsidTaken"]
    assert rows[2]["freed"] == 4


def test_a_slot_without_its_own_flush_would_be_refused_by_the_firmware(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(chip=SMALL)
    rig.qemu.close(rig.started(policy=4))
    rig.kernel.asids.states[1] = FREE  # a kernel that forgot

    with refuses(5, Status.DFFLUSH_REQUIRED):
        rig.started(policy=4)
    assert rig.psp.guests == {}


def test_a_machine_without_slots_of_a_kind_says_so_before_anything_is_charged(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(chip=replace(ROME, min_asid=1))

    with pytest.raises(KvmError) as no:
        rig.kernel.asids.take(True, rig.kernel.root_cgroup, 1)
    assert no.value.errno == ENOTTY


def test_the_cgroup_is_asked_before_the_slots(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(chip=SMALL, cgroups={"/poor": {"sev": 0}}, cgroup="/poor")
    for asid in (5, 6):
        rig.kernel.asids.states[asid] = USED

    with refuses(EBUSY) as no:
        rig.init()
    assert "usage above max" in no.why
    rig.kernel.asids.states[5:7] = bytes(2)


@pytest.mark.parametrize("id", [KVM_SEV_INIT, KVM_SEV_ES_INIT])
def test_what_a_guest_costs_is_charged_at_init_and_given_back_with_the_vm(make_rig: Callable[..., Rig], id: int) -> None:
    rig = make_rig(cgroups={"/a": {"sev": 1, "sev_es": 1}}, cgroup="/a")
    group = rig.kernel.root_cgroup.find("/a")
    kind = "sev_es" if id == KVM_SEV_ES_INIT else "sev"
    vm = rig.init(es=id == KVM_SEV_ES_INIT)

    assert group.current[kind] == 1
    with refuses(EBUSY):
        rig.init(es=id == KVM_SEV_ES_INIT)
    rig.qemu.close(vm)
    assert group.current[kind] == 0


def test_a_charge_stays_where_it_was_made_when_the_process_moves_on(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(cgroups={"/a": {"sev": 1}, "/b": {"sev": 1}}, cgroup="/a")
    vm = rig.init()
    rig.qemu.cgroup = "/b"
    a, b = (rig.kernel.root_cgroup.find(path) for path in ("/a", "/b"))

    assert (a.current["sev"], b.current["sev"]) == (1, 0)
    rig.qemu.close(vm)
    assert (a.current["sev"], b.current["sev"]) == (0, 0)


def test_the_trace_alone_tells_who_had_which_slot_when(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(chip=SMALL)
    vms = [rig.started(policy=4) for _ in range(3)]
    for vm in (vms[1], vms[0]):
        rig.qemu.close(vm)
    for _ in range(3):
        rig.started(policy=4)

    states, owners = bytearray(7), [0] * 7
    for row in rig.rows(AsidTaken, AsidFreed, AsidsFlushed):
        match row["kind"]:
            case "AsidTaken":
                states[row["asid"]], owners[row["asid"]] = USED, row["vm"]
            case "AsidFreed":
                states[row["asid"]], owners[row["asid"]] = RECLAIMABLE, 0
            case _ if not row["errno"]:
                states = states.replace(bytes((RECLAIMABLE,)), bytes((FREE,)))
    pool = rig.kernel.asids
    assert (states, owners) == (pool.states, pool.owners)


def test_naples_has_fifteen_slots_in_the_shares_that_its_bios_chose(make_rig: Callable[..., Rig]) -> None:
    pool = make_rig(chip=NAPLES).kernel.asids

    assert (pool.slots(True), pool.slots(False)) == (range(1, 6), range(6, 16))
    assert repr(pool) == "<AsidPool: SEV-ES 1-5: 5 free; SEV 6-15: 10 free>"


def test_the_ladder_of_take_is_the_kernels() -> None:
    assert [rung.code for rung in ladder(AsidPool.take)] == ["ENOTTY", "EBUSY, EINVAL", "EBUSY"]


def test_a_resource_that_the_machine_lacks_is_einval_for_a_cgroup(make_rig: Callable[..., Rig]) -> None:
    root = make_rig(chip=replace(ROME, min_asid=1)).kernel.root_cgroup

    with pytest.raises(KvmError) as no:
        root.try_charge("sev_es")
    assert no.value.errno == EINVAL


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), max_size=60))
def test_law_no_slot_is_handed_out_twice_or_dirty(script: list[tuple[bool, int]]) -> None:
    tenants = Tenants(Rig(chip=SMALL))
    held: list[int] = []
    dirty: set[int] = set()
    for take, which in script:
        if not take and held:
            asid = held.pop(which % len(held))
            tenants.give(asid)
            dirty.add(asid)
            continue
        flushes = tenants.pool.flushes
        try:
            asid = tenants.take(es=which % 3 != 0)
        except KvmError:
            continue
        if tenants.pool.flushes > flushes:
            dirty.clear()
        assert asid not in held and asid not in dirty
        held.append(asid)

    assert sorted(tenants.pool.used()) == sorted(held)
    assert sum(tenants.group.current.values()) == len(held)


def test_the_designs_do_not_differ_in_their_slots(make_rig: Callable[..., Rig]) -> None:
    counts = [make_rig(design).kernel.asids.counts() for design in designs.DESIGNS.values()]

    assert counts == [counts[0]] * len(counts)


def test_closing_an_encrypted_vm_writes_the_caches_back_first(rig: Rig) -> None:
    vm = rig.started()
    before = len(rig.rows(Wbinvd))
    rig.qemu.close(vm)

    kinds = [row["kind"] for row in rig.rows() if row["kind"] in ("Wbinvd", "AsidFreed", "KeyRemoved")]
    assert len(rig.rows(Wbinvd)) == before + 1
    assert kinds[-3:] == ["Wbinvd", "KeyRemoved", "AsidFreed"]


def test_a_flush_that_a_dead_processor_cannot_make_is_ebusy_too(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(chip=SMALL)
    for _ in range(4):
        rig.qemu.close(rig.init(es=True))
    rig.kernel.ccp.dead = True

    with refuses(EBUSY):
        rig.init(es=True)
    assert rig.kernel.dmesg[-1] == "SEV: DF_FLUSH failed, ret=-16, error=0x0"
    assert rig.rows(AsidsFlushed)[-1]["errno"] == EBUSY
