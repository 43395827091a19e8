"""The foreign judges: programs nobody here wrote.

A judge that is not installed skips the test with its reason; with
SEVLAB_REQUIRE_TOOLS=1 in the environment it fails it. `make judges` fetches
what can be fetched.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import pytest

ROOT = Path(__file__).resolve().parents[1]
JUDGES = ROOT / ".judges"
VALIDATE = Path("/usr/bin/virt-qemu-sev-validate")
SYSTEM_PYTHON = Path("/usr/bin/python3")
OVMF = Path("/usr/share/ovmf/OVMF.fd")
# What the values in the tests were made with: Debian 12, ovmf 2022.11-6+deb12u2.
OVMF_SHA256 = "7b456907dd0786d415999e801a1ac4637b8ed4d7cf5378cfc6edbe5e574dd773"
SECONDS = 120


def absent(what: str) -> NoReturn:
    """Skip the test with its reason, or fail it where every tool was promised."""
    if os.environ.get("SEVLAB_REQUIRE_TOOLS") == "1":
        pytest.fail(f"SEVLAB_REQUIRE_TOOLS=1, but {what}")
    pytest.skip(what)


Answer = subprocess.CompletedProcess[str]


def run(command: Sequence[str | Path], *, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Answer:
    """Run a judge and take down what it says. Its Python sees none of our paths, except what `env` gives."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    return subprocess.run(
        [str(word) for word in command],
        env={**clean, **(env or {})},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        stdin=subprocess.DEVNULL,
    )


def virt_qemu_sev_validate(args: Sequence[str | Path], *, env: Mapping[str, str] | None = None) -> Answer:
    """libvirt's verdict over a launch: exit status 0 trustworthy, 1 not, 2 and more: could not say.

    `env` may bring a PYTHONPATH with a stand-in for the libvirt module.
    """
    if not VALIDATE.is_file() or not SYSTEM_PYTHON.is_file():
        absent(f"{VALIDATE} is not installed (Debian: libvirt-clients-qemu)")
    return run([SYSTEM_PYTHON, VALIDATE, *args], env=env)


def sev_snp_measure(version: str, args: Sequence[str | Path]) -> Answer:
    """The digest that sev-snp-measure of that version computes (`version`: "0.0.9" or "0.0.13")."""
    tool = JUDGES / f"sev-snp-measure-{version}" / "bin" / "sev-snp-measure"
    if not tool.is_file():
        absent(f"sev-snp-measure {version} is not installed (make judges)")
    return run([tool, *args])


def ovmf() -> Path:
    """Debian's OVMF.fd: real firmware, 2 MiB. The very build that the tests' constants speak of."""
    if not OVMF.is_file():
        absent(f"{OVMF} is not installed (Debian: ovmf)")
    if hashlib.sha256(OVMF.read_bytes()).hexdigest() != OVMF_SHA256:
        absent(f"{OVMF} is another build than the one the constants were made with")
    return OVMF
