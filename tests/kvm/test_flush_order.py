"""Why KVM holds an rwsem from WBINVD to DF_FLUSH: a DEACTIVATE that slips in between spoils the flush (kvm.md C4, J18)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from errno import EBUSY

import pytest
from sev_rig import Rig, refuses

from sevlab import Host, guest, vmm
from sevlab.abi.sev import Cmd, Handle, Status
from sevlab.hw import chips

SMALL = replace(chips.ROME, name="two slots of each kind", min_asid=3, max_asid=4)


def guests(host: Host, count: int) -> list[vmm.Vm]:
    made = [vmm.launch(host, program=guest.hello, name=f"vmm-{number}") for number in range(count)]
    for vm in made:
        vm.finish()
    return made


@pytest.mark.parametrize("chip", ["naples", "rome", "milan"])
def test_by_the_mailbox_a_deactivate_between_the_two_halves_costs_another_wbinvd(chip: str) -> None:
    with Host(chip, seed=6, memory=1 << 30) as host:
        early, late = guests(host, 2)
        assert host.mailbox(Cmd.DEACTIVATE, Handle(early.handle)) == Status.SUCCESS
        assert host.mailbox(Cmd.DF_FLUSH) == Status.WBINVD_REQUIRED, "no core has written anything back yet"

        host.soc.wbinvd()
        assert host.mailbox(Cmd.DEACTIVATE, Handle(late.handle)) == Status.SUCCESS
        assert host.mailbox(Cmd.DF_FLUSH) == Status.WBINVD_REQUIRED, "the second came after the write-back"
        assert host.mailbox(Cmd.DF_FLUSH) == Status.WBINVD_REQUIRED, "and asking again does not help"

        host.soc.wbinvd()
        assert host.mailbox(Cmd.DF_FLUSH) == Status.SUCCESS


@pytest.mark.parametrize("order", ["before both", "after both"])
def test_by_the_mailbox_a_deactivate_outside_of_the_two_halves_harms_nobody(order: str) -> None:
    with Host("rome", seed=6, memory=1 << 30) as host:
        (vm,) = guests(host, 1)
        if order == "before both":
            assert host.mailbox(Cmd.DEACTIVATE, Handle(vm.handle)) == Status.SUCCESS
        host.soc.wbinvd()
        assert host.mailbox(Cmd.DF_FLUSH) == Status.SUCCESS
        if order == "after both":
            assert host.mailbox(Cmd.DEACTIVATE, Handle(vm.handle)) == Status.SUCCESS


def test_a_kernel_without_the_rwsem_finds_no_slot_although_one_waits(
    make_rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The write-back lets another task run, which closes its VM: DEACTIVATE, then DF_FLUSH is refused and INIT is EBUSY."""
    rig = make_rig(chip=SMALL)
    rig.qemu.close(rig.started())
    leaver = rig.started()
    wbinvd = rig.soc.wbinvd

    def writes_back_and_schedules() -> None:
        monkeypatch.undo()
        wbinvd()
        rig.kernel.ccp.attempt(Cmd.DEACTIVATE, Handle(rig.file(leaver).sev.handle))

    newcomer = rig.vm()
    monkeypatch.setattr(rig.soc, "wbinvd", writes_back_and_schedules)
    with refuses(EBUSY):
        rig.op(newcomer, 0)  # KVM_SEV_INIT
    assert rig.kernel.dmesg[-1] == f"SEV: DF_FLUSH failed, ret=-5, error={Status.WBINVD_REQUIRED:#x}"
    assert rig.kernel.asids.counts(es=False) == {"free": 0, "used": 1, "reclaimable": 1} and rig.kernel.asids.flushes == 0

    rig.op(newcomer, 0)  # the next one who asks flushes whole
    assert rig.kernel.asids.counts(es=False) == {"free": 0, "used": 2, "reclaimable": 0}


def test_with_it_nothing_comes_between(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(chip=SMALL)
    rig.qemu.close(rig.started())
    leaver = rig.started()
    newcomer = rig.qemu.begin(rig.vm(), 0xC008AEBA, rig.qemu.put(b"\0" * 24))
    while not newcomer.done:  # at every step of INIT another task closes its VM, if it has not yet
        newcomer.step()
        if leaver:
            rig.qemu.close(leaver)
            leaver = 0
    assert newcomer.error is None and not any("DF_FLUSH failed" in line for line in rig.kernel.dmesg)
    rows = [row for row in rig.rows() if row["kind"] == "Wbinvd" or row.get("cmd") in (Cmd.DF_FLUSH, Cmd.DEACTIVATE)]
    flush = max(at for at, row in enumerate(rows) if row.get("cmd") == Cmd.DF_FLUSH and row["kind"] == "CommandDone")
    assert rows[flush - 1]["kind"] == "Wbinvd" or rows[flush - 1].get("cmd") == Cmd.DF_FLUSH
