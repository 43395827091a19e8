"""A host that knows the course's programs, for the tests of guests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sevlab import Host, guest


@pytest.fixture
def host() -> Iterator[Host]:
    """Linux 6.1 on Rome, seed 7."""
    with Host(seed=7, memory=1 << 30) as machine:
        machine.soc.programs.catalogue = guest.catalogue
        yield machine
