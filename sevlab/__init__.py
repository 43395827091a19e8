"""sevlab: a whole AMD SEV host in a notebook.

    from sevlab import Host, designs, chips, vmm, owner, guest

Each name is imported when it is first used, so that a machine is there in the
time of its two libraries and nothing else.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "Host": "sevlab.host:Host",
    "designs": "sevlab.kvm.designs",
    "chips": "sevlab.hw.chips",
    "vmm": "sevlab.vmm",
    "owner": "sevlab.owner",
    "guest": "sevlab.guest",
    "abi": "sevlab.abi",
    "lab": "sevlab.lab",
    "plots": "sevlab.plots",
    "Trace": "sevlab.trace:Trace",
    "explore": "sevlab.schedules:explore",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"sevlab has no {name!r}; it has {', '.join(_HOME)}")
    module, _, attribute = _HOME[name].partition(":")
    found = importlib.import_module(module)
    value = getattr(found, attribute) if attribute else found
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
