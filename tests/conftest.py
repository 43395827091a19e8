"""What every test may ask for: a real firmware image, a balanced machine, and the Hypothesis profiles.

The foreign tools stand in tests/judges.py.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import judges
import pytest
from front_end import helper
from hypothesis import HealthCheck, settings
from sev_rig import Rig

# The suite gives the same answer twice; `make laws` looks further, and elsewhere each time.
settings.register_profile("suite", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("laws", deadline=None, max_examples=2_000, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))


def pytest_addoption(parser: pytest.Parser) -> None:
    """--real: the generic KVM tests also run against this computer's own /dev/kvm."""
    parser.addoption("--real", action="store_true", help="run the generic KVM tests against this computer's /dev/kvm too")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "ui: drives a real JupyterLab in a headless Chromium")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The browser comes last: what fails without one is seen first, and its event loop is in nobody's way."""
    items.sort(key=lambda item: "ui" in item.keywords or "browser" in item.keywords)


@pytest.fixture(scope="session", autouse=True)
def ctrl_c() -> None:
    """A job that runs in the background is begun with Ctrl-C ignored; the tests that press it want it heard."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return judges.ROOT


@pytest.fixture(scope="session")
def ovmf_path() -> Path:
    """Debian's OVMF.fd, 2 MiB of real firmware: skipped where it is not installed, failed where every tool was promised."""
    return judges.ovmf()


@pytest.fixture(scope="session")
def ovmf(ovmf_path: Path) -> bytes:
    """The bytes of Debian's OVMF.fd."""
    return ovmf_path.read_bytes()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder that is handed on beside the checkout: where SEVLAB_SHARED says, else ../shared.

    It is no part of sevlab: where it is not there, the test is skipped.
    """
    folder = Path(os.environ.get("SEVLAB_SHARED") or judges.ROOT.parent / "shared")
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there (set SEVLAB_SHARED)")
    return folder


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


@pytest.fixture
def rig(make_rig: Callable[..., Rig]) -> Rig:
    """Linux 6.1 on Rome, balanced afterwards."""
    return make_rig()


# ------------------------------------------------------------- the browser


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One JupyterLab and one Chromium for the whole session, comms on the main thread."""
    server = helper("lab_server")
    server.require()
    with server.Lab(tmp_path_factory.mktemp("lab")) as running:
        yield running


@pytest.fixture(scope="session")
def subshells(lab: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A second JupyterLab, whose comms run on subshells: callbacks come on other threads, while cells run."""
    with helper("lab_server").Lab(tmp_path_factory.mktemp("subshells"), subshells=True, browser=lab.browser) as running:
        yield running
