"""The verdict of a checker that nobody here wrote: libvirt's virt-qemu-sev-validate, where it is installed.

Source: firmware.md 4.12 (d), (f). Exit status 0: as expected; 1: not; more: it could not say.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from sevlab import guest, owner, vmm
from sevlab.host import Host

TOOL = "virt-qemu-sev-validate"
OVMF = Path("/usr/share/ovmf/OVMF.fd")
SECONDS = 60
PYTHON = "/usr/bin/python3"  # the tool's libraries are the distribution's, not this environment's


class ForeignVerdict(NamedTuple):
    """What the tool said of a measurement. `status` is its exit status, None where it is not installed."""

    status: int | None
    says: str

    @property
    def content(self) -> bool:
        """Whether the tool was asked and had nothing to object to."""
        return self.status == 0

    def __repr__(self) -> str:
        if self.status is None:
            return self.says
        return f"{TOOL} says: {self.says} (exit status {self.status})"


def foreign_verdict(
    measurement: bytes,
    *,
    firmware: bytes,
    session: Any,
    policy: int,
    api: Sequence[int] = (0, 24, 15),
    kernel: bytes | None = None,
    initrd: bytes | None = None,
    append: str | None = None,
) -> ForeignVerdict:
    """Ask libvirt's tool whether this 48-byte measurement is that of such a launch of plain SEV.

    It gets what an owner has: image, kernel, transport keys, policy, version.
    """
    tool = shutil.which(TOOL)
    if tool is None:
        why = f"{TOOL} is not installed on this machine (Debian: libvirt-clients-qemu): nobody else was asked."
        return ForeignVerdict(None, why)
    with TemporaryDirectory() as folder:
        files = {"firmware": firmware, "tk": session.tek + session.tik, "kernel": kernel, "initrd": initrd}
        words = ["--measurement", b64encode(measurement).decode(), "--policy", str(policy)]
        for option, number in zip(("api-major", "api-minor", "build-id"), api, strict=True):
            words += [f"--{option}", str(number)]
        for option, data in files.items():
            if data is not None:
                path = Path(folder, option)
                path.write_bytes(data)
                words += [f"--{option}", str(path)]
        if append is not None:
            words += ["--cmdline", append]
        clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        answer = subprocess.run(
            [PYTHON, tool, *words], env=clean, capture_output=True, text=True, timeout=SECONDS, stdin=subprocess.DEVNULL
        )
    lines = (answer.stdout + answer.stderr).split("\n")
    return ForeignVerdict(answer.returncode, next((line.strip() for line in lines if line.strip()), "nothing"))


def real_image_verdict(host: Host, seed: int = 1) -> ForeignVerdict:
    """Launch a distribution's OVMF, where one is installed, and ask the tool about that measurement."""
    if not OVMF.is_file():
        return ForeignVerdict(None, f"{OVMF} is not installed on this machine (Debian: ovmf): there is no real image to try.")
    image = OVMF.read_bytes()
    session = owner.new_session(host.chain()["pdh"], 1, seed=seed)
    vm = vmm.launch(host, firmware=image, program=guest.ovmf, policy=1, session=session, name="ovmf")
    assert vm.measurement is not None
    verdict = foreign_verdict(vm.measurement, firmware=image, session=session, policy=1)
    vm.process.kill()
    return verdict
