"""A trace as a story: what the VMM asked, what the kernel asked the firmware for that, and what it changed."""

from __future__ import annotations

from errno import errorcode
from itertools import groupby
from typing import Any

from sevlab.abi.kvm import SEV_CMD_NAMES
from sevlab.abi.sev import GuestState, cmd_name, status_name
from sevlab.hw.engine import KeyInstalled
from sevlab.kvm.asid import AsidTaken
from sevlab.kvm.sev_commands import SevCommand
from sevlab.lab.show import Text, table
from sevlab.psp.context import GuestStateChanged
from sevlab.psp.firmware import CommandDone
from sevlab.psp.launch import Loaded
from sevlab.trace import Trace

EVENTS = (SevCommand, CommandDone, GuestStateChanged, AsidTaken, KeyInstalled, Loaded)


def story(trace: Trace, since: int = 0) -> Text:
    """Every KVM_MEMORY_ENCRYPT_OP from row `since` on: the command, its answer, and beneath it what the firmware was asked.

    `trace.seq`, read before something happens, is a good `since`.
    """
    rows = []
    for _, entry in groupby(trace.rows(*EVENTS, since=since), key=lambda row: (row["host"], row["n"])):
        rows += _entry(list(entry))
    return table(rows)


def _entry(events: list[dict[str, Any]]) -> list[dict[str, str]]:
    """The lines of one entry: the VMM's command first, although its row comes last."""
    asked: list[dict[str, str]] = []
    effects: list[str] = []
    first: dict[str, str] | None = None
    for event in events:
        match event["kind"]:
            case "CommandDone":
                asked.append(_line("", cmd_name(event["cmd"]), status_name(event["status"]), effects))
                effects = []
            case "SevCommand":
                name = f"KVM_SEV_{SEV_CMD_NAMES.get(event['id'], event['id'])}"
                answer = errorcode.get(event["errno"], "0")
                first = _line(name, "", answer, [] if asked else effects)
                if asked and effects:  # what follows the firmware's last answer is still its effect
                    asked[-1]["so that"] = ", ".join(filter(None, [asked[-1]["so that"], *effects]))
                effects = []
            case _:
                effects.append(_effect(event))
    return [] if first is None else [first, *asked]


def _line(kvm: str, firmware: str, answer: str, effects: list[str]) -> dict[str, str]:
    return {"the VMM asks KVM": kvm, "KVM asks the firmware": firmware, "answer": answer, "so that": ", ".join(effects)}


def _effect(event: dict[str, Any]) -> str:
    """One event in a few words."""
    match event["kind"]:
        case "GuestStateChanged":
            return f"guest {event['handle']} is {GuestState(event['after']).name}"
        case "AsidTaken":
            return f"the VM has key slot {event['asid']}"
        case "KeyInstalled":
            return f"slot {event['asid']} holds its key"
        case "Loaded":
            size = event["size"]
            amount = f"{size >> 10} KiB" if not size % 1024 else f"{size} bytes"
            return f"{amount}: hashed, then encrypted"
    return ""
