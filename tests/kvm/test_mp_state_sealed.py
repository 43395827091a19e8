"""Every state with every event once more, on sealed vCPUs: the same states, and no reset of what is sealed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from kvm.guests import Guest
from kvm.test_mp_state import AFTER, AFTER_BSP, EVENTS, HALTED, HOLD, INITED, RUN, SIPIED, UNINIT, guest_of, rest
from sev_rig import Rig

from sevlab.hw.isa import hlt, program
from sevlab.kvm import designs
from sevlab.kvm.call import Blocked

Make = Callable[..., Rig]
DESIGNS = [designs.LINUX_5_13, designs.LINUX_6_1, designs.LINUX_6_12]
STARTS = {"INIT, SIPI", "INIT, SIPI, SIPI"}  # events that begin with an INIT and deliver a SIPI to an AP
RESETS = {"INIT", "INIT, SIPI", "INIT, SIPI, SIPI", "SIPI, INIT"}
# SIPI_RECEIVED is INIT_RECEIVED with a SIPI that waits: any INIT after it wipes that out.
AFTER_SIPIED = {event: RUN for event in EVENTS} | {"INIT": INITED, "SIPI, INIT": INITED}


def sealed(rig: Rig) -> Guest:
    return Guest(rig, rest, kind="es", vcpus=2, irqchip=True)


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("state", [RUN, UNINIT, INITED, HALTED, HOLD])
@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("design", DESIGNS, ids=lambda design: design.name)
def test_a_sealed_vcpu_changes_its_state_as_any_other_and_keeps_its_save_area(
    make_rig: Make, design: designs.Design, number: int, state: int, event: str
) -> None:
    rig = make_rig(design)
    guest = sealed(rig)
    vcpu = guest.vcpu(number)
    guest.set_mp_state(state, number)
    area = rig.soc.dram.read(vcpu.vmsa_pfn << 12, 4096)

    EVENTS[event](guest, number)
    found = guest.mp_state(number)

    table = AFTER if number else {**AFTER_BSP, (INITED, "SIPI"): RUN}
    assert found == table.get((state, event), state) and vcpu.lapic is not None and not vcpu.lapic.pending
    assert rig.soc.dram.read(vcpu.vmsa_pfn << 12, 4096) == area
    delivered = (number == 1 and event in STARTS) or (state == INITED and event == "SIPI")
    assert vcpu.received_first_sipi == delivered


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("kind", ["plain", "es"])
def test_a_state_of_sipi_received_meets_every_event_as_a_sipi_that_waits(rig: Rig, kind: str, number: int, event: str) -> None:
    guest = guest_of(rig) if kind == "plain" else sealed(rig)
    guest.set_mp_state(SIPIED, number)

    EVENTS[event](guest, number)

    expected = AFTER_SIPIED[event]
    if number == 0 and event in RESETS:
        expected = RUN  # the first vCPU starts with the INIT itself
    assert guest.mp_state(number) == expected


@program
async def counts() -> None:
    while True:
        await hlt()


@pytest.mark.parametrize("event", sorted(RESETS))
def test_an_init_does_not_take_a_sealed_guest_back_to_its_start(rig: Rig, event: str) -> None:
    """A plain vCPU fetches at the reset vector again; the save area of a sealed one goes on behind its HLT."""
    plain, es = Guest(rig, counts, irqchip=True), Guest(rig, counts, kind="es", irqchip=True)
    fetches = []
    for guest in (plain, es):
        with pytest.raises(Blocked):
            guest.run()
        before = len([row for row in rig.rows() if row["kind"] == "Fetched"])
        EVENTS[event](guest, 0)
        with pytest.raises(Blocked):
            guest.run()
        fetches.append(len([row for row in rig.rows() if row["kind"] == "Fetched"]) - before)

    assert fetches == [1, 0]
