"""What a machine and its processes are made with, as the caller gave it: refused here, before anything is made.

Each function gives the setting in the form that the journal keeps, and raises TypeError for what is no
such thing, ValueError for what no machine can have.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sevlab import given
from sevlab.abi.sev import NV_LEN
from sevlab.kvm.cgroup import RESOURCES
from sevlab.kvm.task import CAPS


def version(api: Any) -> tuple[int, ...]:
    """The firmware's version; what cannot be one is a ValueError, here or where the firmware is made."""
    if isinstance(api, str) or not isinstance(api, Sequence):
        raise TypeError(f"api is the firmware's version in three numbers, such as (0, 24, 15), not {given.shown(api)}")
    return tuple(given.number("a part of the firmware's version", part) for part in api)


def limits(cgroups: Any) -> dict[str, dict[str, int]]:
    """The limits of the cgroups, path by path. Raises TypeError, ValueError."""
    right = "a dictionary such as {'/tenant-a': {'sev': 3}}"
    found: dict[str, dict[str, int]] = {}
    for path, maxima in given.having("cgroups", cgroups or {}, ("items",), right).items():
        given.having("the path of a cgroup", path, ("split",), "a text")
        for resource, most in given.having("cgroups", maxima, ("items",), right).items():
            if resource not in RESOURCES:
                raise ValueError(f"cgroup {path} limits {given.shown(resource)}; a limit is of {' or '.join(RESOURCES)}")
            given.number(f"the limit of {resource} for {path}", most, 0)
        found[path] = dict(maxima)
    return found


def area(nv: Any) -> bytes | None:
    """What the flash holds when the machine is made. Raises TypeError for what is no flash."""
    if nv is None:
        return None
    if not isinstance(nv, bytes | bytearray | memoryview):
        nv = given.having("nv", nv, ("read", "write"), f"{NV_LEN} bytes, or has read() and write(bytes)").read()
    if len(nv) != NV_LEN:
        raise ValueError(f"the persistent area has {NV_LEN} bytes, this one {len(nv)}")
    return bytes(nv)


def capabilities(caps: Any) -> frozenset[str]:
    """The capabilities of a process, by name."""
    if isinstance(caps, str) or not isinstance(caps, Collection):
        raise TypeError(f"caps is a set of names, such as {{'{CAPS[0]}'}}, not {given.shown(caps)}")
    for cap in caps:
        if cap not in CAPS:
            raise ValueError(f"no capability {given.shown(cap)}; there are {', '.join(CAPS)}")
    return frozenset(caps)
