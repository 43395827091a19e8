"""What an attack must give, worked out on the blackboard: one block at a time, with the guest's key taken by X-ray."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sevlab import Host
from sevlab.lab.tweak import Box
from sevlab.psp.guests import memory_key

CHIPS = ("naples", "rome", "milan")
MEMORY = 8 << 30  # so that machine addresses have 33 bits
LINE = b"pay 10 to mallory"[:16]
OTHER = b"balance: 1000000"[:16]


def _reference() -> ModuleType:
    """The block-by-block engine of tests/hw, which shares nothing with the fast one."""
    path = Path(__file__).resolve().parent / "hw" / "engine_reference.py"
    spec = importlib.util.spec_from_file_location("engine_reference", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def blackboard(host: Host, vm: Any) -> Any:
    """A reference engine with this chip's constants and this guest's key: `encrypt_block` and `decrypt_block`."""
    tweaks = {bit: host.xray.tweak(1 << bit) for bit in range(4, host.chip.address_bits)}
    engine = _reference().ReferenceEngine(tweaks, host.chip.mode, 0)
    key = memory_key(host.xray.guest(vm.handle).vek)
    engine.opened = lambda hpa, secret: _blocks(engine.decrypt_block, key, hpa, secret)
    engine.sealed = lambda hpa, text: _blocks(engine.encrypt_block, key, hpa, text)
    return engine


def _blocks(function: Any, key: bytes, hpa: int, data: bytes) -> bytes:
    return b"".join(function(key, hpa + at, data[at : at + 16]) for at in range(0, len(data), 16))


@pytest.fixture(params=CHIPS)
def box(request: pytest.FixtureRequest) -> Any:
    """A guest that writes and reads its private memory as it is told, on each chip."""
    with Host(request.param, seed=11, memory=MEMORY) as host:
        yield Box(host)
