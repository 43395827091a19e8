"""`sevlab launch`: the whole road in one command, from a firmware image to a guest that has read its secret."""

from __future__ import annotations

import argparse
import base64
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sevlab.abi import boot, ovmf
from sevlab.abi.cert import SevCert
from sevlab.abi.kvm import KVM_EXIT_HLT, errno_name
from sevlab.abi.session import PacketHeader, Session
from sevlab.abi.sev import POLICY_ES, GuestState, policy_text
from sevlab.cli.files import Failed, Misused, blob, firmware, number, policy, read
from sevlab.cli.machine import machine, note, platform_status
from sevlab.hw.program import ImageHeader

if TYPE_CHECKING:
    from sevlab.host import Host
    from sevlab.vmm import Vm

HASHES_GPA = 0x810000  # where the table of kernel hashes goes on a firmware that has no place for it
SECRET_LIMIT = 0x4000  # Linux copies no larger blob
PAGE = boot.PAGE
VCPUS = 1024  # KVM_MAX_VCPUS
ANSWERS = {
    0: "it gave no answer",
    boot.NO_SECRET: "it found no secret table",
    boot.NO_HASHES: "its firmware found no table of kernel hashes",
    boot.BAD_HEADER: "its firmware found no boot header",
    boot.BAD_KERNEL: "the kernel is not the one that was measured",
    boot.BAD_INITRD: "the initrd is not the one that was measured",
    boot.BAD_APPEND: "the command line is not the one that was measured",
}
gpa = number("a guest address", (1 << 48) - 1)


def add(verbs: Any) -> None:
    """Put `launch` on the command line."""
    verb = verbs.add_parser("launch", help="launch a guest: measure it, give it a secret, run it")
    verb.add_argument("--firmware", required=True, metavar="F", help="image, whole pages, at most 16 MiB")
    verb.add_argument("--kernel", metavar="K", help="booted directly, measured as a hash")
    verb.add_argument("--initrd", metavar="I")
    verb.add_argument("--append", metavar="S", help="the kernel's command line")
    verb.add_argument(
        "--es", action="store_true", help="SEV-ES: registers are measured and encrypted too (follows the policy's bit 2)"
    )
    verb.add_argument("--vcpus", type=number("vcpus", VCPUS), default=1, metavar="N")
    verb.add_argument("--policy", type=policy, required=True, metavar="P", help="32 bits, decimal or 0x")
    verb.add_argument("--session", metavar="S", help="the owner's session, 128 bytes, raw or base64")
    verb.add_argument("--dh-cert", metavar="D", help="the owner's certificate, 2084 bytes, raw or base64")
    verb.add_argument("--inject-secret", nargs=2, metavar=("HEADER", "PAYLOAD"), help="a secret packet, raw or base64")
    verb.add_argument("--secret-gpa", type=gpa, metavar="A", help="where the secret goes (default: the firmware's secret area)")
    verb.add_argument(
        "--hashes-gpa",
        type=gpa,
        metavar="A",
        help=f"where the kernel hashes go, if the firmware does not say (default {HASHES_GPA:#x})",
    )
    verb.add_argument("--json", action="store_true", help="one JSON object on stdout")
    verb.set_defaults(run=run)


@dataclass
class Plan:
    """A launch as the command line asks for it: every file read, every contradiction found."""

    image: bytes
    kernel: bytes | None
    initrd: bytes | None
    append: bytes
    es: bool
    vcpus: int
    policy: int
    session: tuple[bytes, bytes] | None
    secret: tuple[bytes, bytes] | None
    secret_gpa: int
    hashes_gpa: int | None


def _misuse(args: argparse.Namespace) -> None:
    """What the command line contradicts, before any file is opened.

    Raises Misused.
    """
    if args.kernel is None and (args.initrd is not None or args.append is not None):
        raise Misused("launch: --initrd and --append are measured beside a --kernel, and there is none")
    if args.kernel is None and args.hashes_gpa is not None:
        raise Misused("launch: --hashes-gpa places the hashes of a --kernel, and there is none")
    if (args.session is None) != (args.dh_cert is None):
        raise Misused("launch: --session and --dh-cert go together: the one is opened with the other")
    if args.secret_gpa is not None and args.inject_secret is None:
        raise Misused("launch: --secret-gpa places the secret of --inject-secret, and there is none")
    if args.es and not args.policy & POLICY_ES:
        raise Misused(
            f"launch: --es needs a policy with bit 2 (ES), as {args.policy | POLICY_ES:#x}; {args.policy:#x} is a plain SEV guest's"
        )
    if args.vcpus < 1:
        raise Misused("launch: a guest has at least one vCPU")


def plan(args: argparse.Namespace) -> Plan:
    """Read what the command line names.

    Raises Failed or Misused; nothing has been done then.
    """
    _misuse(args)
    image = firmware(args.firmware)
    kernel = read(args.kernel, "kernel") if args.kernel is not None else None
    initrd = read(args.initrd, "initrd") if args.initrd is not None else None
    session = secret = None
    if args.session is not None:
        session = blob(args.dh_cert, "dh-cert", SevCert.SIZE), blob(args.session, "session", Session.SIZE)
    if args.inject_secret:
        secret = blob(args.inject_secret[0], "secret header", PacketHeader.SIZE), blob(args.inject_secret[1], "secret payload")
    append = os.fsencode(args.append or "")  # as they were typed, UTF-8 or not
    try:
        table = ovmf.parse(image)
        es = bool(args.policy & POLICY_ES)
        if es and table.reset_block is None:
            raise Failed(f"firmware {args.firmware}: SEV-ES needs a reset block in its table, and there is none")
        where = _secret_gpa(args, table, secret)
        hashes = _hashes_gpa(args, table) if kernel is not None else None
        if kernel is not None:
            boot.placement(kernel, initrd, append)
    except ValueError as error:
        raise Failed(f"firmware {args.firmware}: {error}" if "table" in str(error) else str(error)) from None
    return Plan(image, kernel, initrd, append, es, args.vcpus, args.policy, session, secret, where, hashes)


def _secret_gpa(args: argparse.Namespace, table: ovmf.Ovmf, secret: tuple[bytes, bytes] | None) -> int:
    """Where the secret goes: as the command line says, else as the firmware does."""
    if secret is None:
        return 0
    length = len(secret[1])
    if length > SECRET_LIMIT:
        raise Failed(f"secret payload {args.inject_secret[1]}: {length} bytes, at most {SECRET_LIMIT} pass through the kernel")
    if args.secret_gpa is not None:
        return int(args.secret_gpa)
    area = table.secret_area
    if area is None or not area.size:
        raise Failed(
            f"firmware {args.firmware}: it has no secret area{' (its size is 0)' if area else ''}; say where with --secret-gpa"
        )
    if length > area.size:
        raise Failed(f"secret payload {args.inject_secret[1]}: {length} bytes, the firmware's secret area has {area.size}")
    return area.base


def _hashes_gpa(args: argparse.Namespace, table: ovmf.Ovmf) -> int | None:
    """Where the kernel hashes go; None: where the firmware says."""
    if args.hashes_gpa is not None:
        return int(args.hashes_gpa)
    area = table.hash_area
    if area is not None and area.size:
        return None
    note(args, f"this firmware has no area for kernel hashes, QEMU would refuse it; the hashes go to {HASHES_GPA:#x}")
    return HASHES_GPA


def run(args: argparse.Namespace) -> int:
    """Launch, and say what came of it."""
    from sevlab import guest, vmm

    todo = plan(args)
    if todo.session is None:
        note(args, "no session: the transport keys are all zero, so anybody can forge this measurement (--session and --dh-cert)")
    with machine(args) as host:
        reader = None if _knows_itself(todo.image) else guest.ovmf
        where = (todo.secret_gpa, len(todo.secret[1])) if todo.secret and reader else ()
        try:
            vm = vmm.launch(
                host,
                firmware=todo.image,
                program=reader,
                args=where,
                kernel=todo.kernel,
                initrd=todo.initrd,
                append=todo.append,
                policy=todo.policy,
                vcpus=todo.vcpus,
                session=todo.session,
                es=todo.es,
                hashes_gpa=todo.hashes_gpa,
            )
            before = report(host, vm)
            if todo.secret:
                vm.inject_secret(*todo.secret, gpa=todo.secret_gpa)
            vm.finish()
            _run(args, vm)
        except ValueError as error:
            raise Failed(str(error)) from None
        found = {**before, **_state(vm)}
        if todo.secret:
            found["secret"] = _answer(vm).hex()
    show(args, found)
    return 0


def _run(args: argparse.Namespace, vm: Vm) -> None:
    """Let the guest run; that it stopped otherwise than by HLT is worth a line."""
    try:
        last = vm.run()
    except OSError as error:  # until 6.10 this is how KVM says that an SEV-ES guest shut down
        note(args, f"the guest is gone: KVM_RUN answered {errno_name(error.errno or 0)}")
    else:
        if last.reason != KVM_EXIT_HLT:
            note(args, f"the guest stopped: {last.name}")


def _knows_itself(image: bytes) -> bool:
    """Whether the image's last page is a program of the course, so that nothing has to stand in for it."""
    return image[-PAGE:].startswith(ImageHeader().magic)


def report(host: Host, vm: Vm) -> dict[str, Any]:
    """What is known of a measured guest: the platform's version, the guest's numbers, digest and measurement."""
    platform = platform_status(vm.process, vm.sev)
    assert vm.measurement is not None
    return {
        "api_major": platform.api_major,
        "api_minor": platform.api_minor,
        "build_id": platform.build,
        "policy": vm.policy,
        "handle": vm.handle,
        "asid": host.psp.guests[vm.handle].asid,
        "vcpus": len(vm.vcpus),
        "cpu": {"family": host.chip.family, "model": host.chip.model, "stepping": host.chip.stepping},
        "launch_digest": host.psp.guests[vm.handle].launch_digest.hex(),
        "measurement": base64.b64encode(vm.measurement).decode(),
    }


def _state(vm: Vm) -> dict[str, Any]:
    state = vm.status().state
    return {"state": state, "state_name": GuestState(state).name}


def _answer(vm: Vm) -> bytes:
    """The secret as the guest read it and wrote it to the page it shares."""
    status, data = vm.answer()
    if status != boot.ANSWER:
        raise Failed(f"the guest did not read the secret: {ANSWERS.get(status, f'its answer is {status:#x}')}")
    return data


def show(args: argparse.Namespace, found: dict[str, Any]) -> None:
    """The result on stdout: JSON, or a line a fact."""
    if args.json:
        print(json.dumps(found, indent=2))
        return
    cpu = found["cpu"]
    print(f"firmware API   {found['api_major']}.{found['api_minor']} build {found['build_id']}")
    print(f"processor      {args.chip}: family {cpu['family']} model {cpu['model']} stepping {cpu['stepping']}")
    print(f"policy         {policy_text(found['policy'])}")
    print(
        f"guest          handle {found['handle']}, ASID {found['asid']}, {found['vcpus']} vCPU{'s' if found['vcpus'] > 1 else ''}"
    )
    print(f"state          {found['state_name']}")
    print(f"launch digest  {found['launch_digest']}")
    print(f"measurement    {found['measurement']}")
    if "secret" in found:
        print(f"secret         {found['secret']}")
