"""Machines for the laws: the same rig, and the same balance, as the kernel's own tests have."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from sev_rig import Rig


@pytest.fixture
def make_rig() -> Iterator[Callable[..., Rig]]:
    """make_rig(design, chip, ...) -> Rig; afterwards every process is killed and the balance must be even."""
    rigs: list[Rig] = []

    def make(*args: object, **named: object) -> Rig:
        rigs.append(Rig(*args, **named))  # type: ignore[arg-type]
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.close()
        rig.check_balance()
