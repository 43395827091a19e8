"""System calls beside the command of another emulated security processor: swtpm's TPM2_GetCapability over its socket.

swtpm answers from a process of its own, ours in this one, so the clock is the one on the wall.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from struct import pack

from harness import Figure, absent, pair

from sevlab import Host
from sevlab.abi.kvm import (
    KVM_CHECK_EXTENSION,
    KVM_CREATE_VM,
    KVM_MEMORY_ENCRYPT_OP,
    KVM_SEV_GUEST_STATUS,
    KVM_SEV_INIT,
    KVM_SEV_LAUNCH_START,
    kvm_sev_cmd,
    kvm_sev_guest_status,
    kvm_sev_launch_start,
)
from sevlab.trace import Trace

# TPM2_GetCapability(TPM_CAP_TPM_PROPERTIES, TPM_PT_MANUFACTURER, 1): tag, size, code, and its three arguments.
GET_CAPABILITY = pack(">HIIIII", 0x8001, 22, 0x17A, 6, 0x105, 1)
STARTED = 5.0  # seconds that swtpm has to open its socket
NAMES = (("KVM_CHECK_EXTENSION, traced / swtpm's GetCapability", 0.2), ("GUEST_STATUS, traced / swtpm's GetCapability", 2.0))


def figures() -> Iterator[Figure]:
    program = shutil.which("swtpm")
    if program is None:
        for name, goal in NAMES:
            yield absent(name, goal, "swtpm is not installed here")
        return
    plain, status, close = calls()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tpm"
        sockets = ["--server", f"type=unixio,path={path}", "--ctrl", f"type=unixio,path={path}.ctrl"]
        words = [program, "socket", "--tpm2", "--tpmstate", f"dir={folder}", "--flags", "startup-clear", *sockets]
        with subprocess.Popen(words, stderr=subprocess.DEVNULL) as swtpm:
            try:
                with socket.socket(socket.AF_UNIX) as line:
                    connect(line, path)
                    for (name, goal), ours in zip(NAMES, (plain, status), strict=True):
                        yield pair(name, goal, ours, partial(ask, line), clock=time.perf_counter)
            finally:
                swtpm.kill()
    close()


def calls() -> tuple[Callable[[], object], Callable[[], object], Callable[[], None]]:
    """An ioctl without work, one that asks the firmware, and what ends their host."""
    host = Host("rome", seed=1, memory=256 << 20, trace=Trace(ring=10_000))
    qemu = host.process("qemu")
    kvm, sev = qemu.open("/dev/kvm"), qemu.open("/dev/sev", "r+")
    vm = qemu.ioctl(kvm, KVM_CREATE_VM, 0)
    qemu.ioctl(vm, KVM_MEMORY_ENCRYPT_OP, kvm_sev_cmd(id=KVM_SEV_INIT, sev_fd=sev))
    start = qemu.put(kvm_sev_launch_start(policy=1))
    qemu.ioctl(vm, KVM_MEMORY_ENCRYPT_OP, kvm_sev_cmd(id=KVM_SEV_LAUNCH_START, data=start, sev_fd=sev))
    status = kvm_sev_cmd(id=KVM_SEV_GUEST_STATUS, data=qemu.put(kvm_sev_guest_status()), sev_fd=sev)
    return partial(qemu.ioctl, kvm, KVM_CHECK_EXTENSION, 0), partial(qemu.ioctl, vm, KVM_MEMORY_ENCRYPT_OP, status), host.close


def connect(line: socket.socket, path: Path) -> None:
    """Wait for swtpm's socket. Raises OSError when it does not come."""
    until = time.perf_counter() + STARTED
    while True:
        try:
            return line.connect(str(path))
        except OSError:
            if time.perf_counter() > until:
                raise
            time.sleep(0.01)


def ask(line: socket.socket) -> None:
    """One command and its answer. Raises ValueError for an answer that is none."""
    line.sendall(GET_CAPABILITY)
    if line.recv(4096)[6:10] != bytes(4):
        raise ValueError("swtpm refused GetCapability")
