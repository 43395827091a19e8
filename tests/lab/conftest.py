"""A machine, and a measured guest on it, as the lessons use them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sevlab import Host, guest, owner, vmm
from sevlab.owner import OwnerSession


@pytest.fixture
def host() -> Iterator[Host]:
    with Host(seed=7) as machine:
        yield machine


@pytest.fixture
def session(host: Host) -> OwnerSession:
    return owner.new_session(host.chain()["pdh"], 1, seed=1)


@pytest.fixture
def vm(host: Host, session: OwnerSession) -> vmm.Vm:
    """The course's firmware with the kernel that reads the secret, up to its measurement."""
    return vmm.launch(host, firmware=guest.firmware_image(), kernel=guest.read_secret, policy=1, session=session)
