"""Machines for the kernel's own tests: emulated ones of every design, and with --real this computer's, where it has /dev/kvm."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
from selftests.machine import Emulated, Real
from sev_rig import Rig

from sevlab.kvm import designs


@pytest.fixture
def make_machine() -> Iterator[Callable[..., Emulated]]:
    """make_machine(design, chip, ...) -> Emulated; afterwards the process is killed and the books must balance."""
    rigs: list[Rig] = []

    def make(design: designs.Design = designs.LINUX_6_1, *args: object, **named: object) -> Emulated:
        rigs.append(Rig(design, *args, **named))  # type: ignore[arg-type]
        return Emulated(rigs[-1])

    yield make
    for rig in rigs:
        rig.close()
        rig.check_balance()


@pytest.fixture(params=["linux-5.13", "linux-6.1", "linux-6.12", "real"])
def machine(request: pytest.FixtureRequest) -> Iterator[Emulated | Real]:
    """A machine with KVM: what any kernel answers, whatever its processor and its age."""
    if request.param != "real":
        yield request.getfixturevalue("make_machine")(designs.by_name(request.param))
        return
    if not request.config.getoption("--real"):
        pytest.skip("against this computer's own /dev/kvm only with --real")
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        pytest.skip("this computer has no /dev/kvm that may be opened")
    real = Real()
    yield real
    real.finish()
