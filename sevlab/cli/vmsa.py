"""`sevlab vmsa`: register pages of SEV-ES vCPUs, as they are measured."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from sevlab.abi import ovmf
from sevlab.abi.vmsa import BSP_EIP, Segment, Vmsa, signature, vmsa_page
from sevlab.cli.files import Failed, Misused, firmware, number, read, save
from sevlab.wire import Wire

SIZE = Vmsa.SIZE


def group(verbs: Any, name: str, text: str) -> Any:
    """A verb that is followed by another."""
    return verbs.add_parser(name, help=text).add_subparsers(dest="what", metavar="WHAT", required=True)


def add(verbs: Any) -> None:
    """Put `vmsa` on the command line."""
    pages = group(verbs, "vmsa", "register pages of SEV-ES vCPUs")
    for name, run in (("build", build), ("update", update)):
        verb = pages.add_parser(name, help=f"{name} a register page")
        verb.add_argument("filename", metavar="FILE")
        verb.add_argument(
            "--cpu", type=number("cpu", 1023), required=True, metavar="N", help="0 boots, the others start at the reset block"
        )
        for option, most in (("family", 0x10E), ("model", 0xFF), ("stepping", 0xF)):
            verb.add_argument(f"--{option}", type=number(option, most), metavar="N", help="(default: that of --chip)")
        verb.add_argument("--firmware", metavar="F")
        verb.add_argument("--userspace", choices=("qemu", "ec2", "gce"), default="qemu", help="the VMM whose registers they are")
        verb.set_defaults(run=run)
    shown = pages.add_parser("show", help="print a register page as JSON")
    shown.add_argument("filename", metavar="FILE")
    shown.set_defaults(run=show)


def build(args: argparse.Namespace) -> int:
    """Write one register page."""
    image = firmware(args.firmware) if args.firmware is not None else None
    save({Path(args.filename): register_page(args, args.firmware, image, args.cpu)})
    return 0


def register_page(args: argparse.Namespace, path: str | None, image: bytes | None, cpu: int) -> bytes:
    """The register page of vCPU `cpu`."""
    variant = "init2" if args.design == "linux-6.12" else "legacy"
    return vmsa_page(_eip(path, image, cpu), signature=_signature(args), variant=variant, vmm=getattr(args, "userspace", "qemu"))


def _eip(path: str | None, image: bytes | None, cpu: int) -> int:
    """Where vCPU `cpu` starts.

    Raises Failed, Misused.
    """
    if cpu == 0:
        return BSP_EIP
    if image is None:
        raise Misused(f"vmsa: vCPU {cpu} starts at the reset block of a --firmware")
    try:
        eip = ovmf.parse(image).reset_block
    except ValueError as error:
        raise Failed(f"firmware {path}: {error}") from None
    if eip is None:
        raise Failed(f"firmware {path}: it has no SEV-ES reset block, so nobody can say where vCPU {cpu} starts")
    return eip


def _signature(args: argparse.Namespace) -> int:
    """CPUID 1.EAX, as the options say, else of --chip."""
    from sevlab.hw import chips

    chip = chips.by_name(args.chip)
    given = [getattr(args, key, None) for key in ("family", "model", "stepping")]
    own = (chip.family, chip.model, chip.stepping)
    if all(part is None for part in given):
        return chip.signature
    return signature(*(mine if part is None else part for part, mine in zip(given, own, strict=True)))


def update(args: argparse.Namespace) -> int:
    """Change processor and start address of a register page, and nothing else."""
    page = _vmsa(args.filename)
    processor = any(part is not None for part in (args.family, args.model, args.stepping))
    if not processor and (args.firmware is None or not args.cpu):
        raise Misused(
            "vmsa update: there is nothing to change: it takes --family, --model or --stepping, or for a vCPU but 0 a --firmware"
        )
    if processor:
        page.rdx = _signature(args)
    if args.firmware is not None and args.cpu:
        eip = _eip(args.firmware, firmware(args.firmware), args.cpu)
        page.rip, page.cs.base = eip & 0xFFFF, eip & 0xFFFF0000
    save({Path(args.filename): page.pack()})
    return 0


def show(args: argparse.Namespace) -> int:
    """A register page as JSON, a key a field."""
    print(json.dumps(_plain(_vmsa(args.filename)), indent=2))
    return 0


def _vmsa(path: str) -> Vmsa:
    data = read(path, "vmsa", most=SIZE)
    if len(data) != SIZE:
        raise Failed(f"vmsa {path}: a register page has {SIZE} bytes, this file has {len(data)}")
    return Vmsa.unpack(data)


def _plain(wire: Wire) -> dict[str, Any]:
    """A Wire as numbers, hex and nested dictionaries; reserved fields are left out."""
    found: dict[str, Any] = {}
    for field in wire.LAYOUT:
        value = getattr(wire, field.name)
        if not field.name.startswith(("reserved", "pad")):
            found[field.name] = _plain(value) if isinstance(value, Segment) else value.hex() if isinstance(value, bytes) else value
    return found
