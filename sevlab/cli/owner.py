"""The guest owner's verbs: session, measurement, secret. They need no machine, only what it said.

Their forms are sevctl's (https://github.com/virtee/sevctl), so that its users feel at home.
"""

from __future__ import annotations

import argparse
import base64
import os
import re
from pathlib import Path
from typing import Any

from sevlab.abi.cert import SevCert
from sevlab.abi.hashes import kernel_hashes
from sevlab.abi.sev import POLICY_ES
from sevlab.abi.vmsa import Vmsa
from sevlab.cli.files import Failed, Misused, blob, blob_or_text, firmware, number, place, policy, read, save
from sevlab.cli.vmsa import group, register_page

BYTE = 0xFF
VMSA = Vmsa.SIZE


def add(verbs: Any) -> None:
    """Put the owner's verbs on the command line."""
    verb = verbs.add_parser("session", help="make a launch session for a platform")
    verb.add_argument("pdh", metavar="PDH", help="the platform's PDH certificate, or a chain file that begins with it")
    verb.add_argument("word", nargs="?", metavar="POLICY", help="the policy, as sevctl takes it")
    verb.add_argument("-n", "--name", default="vm", metavar="N", help="prefix of the four files (default: vm)")
    verb.add_argument("--policy", type=policy, metavar="P", help="the guest's policy, decimal or 0x")
    verb.add_argument("--shape", choices=("sevctl", "sev-tool"), default="sevctl", help="whose form the owner's certificate has")
    verb.add_argument("--owner-seed", type=number("owner-seed"), metavar="N", help="for lessons: the same keys each time")
    verb.set_defaults(run=session)

    build = group(verbs, "measurement", "what a launch must measure").add_parser("build", help="measurement and nonce, in base64")
    for option in ("api-major", "api-minor", "build-id"):
        build.add_argument(f"--{option}", type=number(option, BYTE), required=True, metavar="N")
    build.add_argument("--policy", type=policy, required=True, metavar="P")
    build.add_argument("--tik", required=True, help="path or base64")
    build.add_argument("--nonce", help="path or base64, 16 bytes")
    build.add_argument("--launch-measure-blob", metavar="BLOB", help="path or base64, 48 bytes: its nonce is taken")
    build.add_argument("--launch-digest", metavar="DIGEST", help="base64 or hex, instead of what follows")
    build.add_argument("--firmware", metavar="F")
    build.add_argument("--kernel", metavar="K")
    build.add_argument("--initrd", metavar="I")
    build.add_argument("--cmdline", "--append", metavar="S")
    build.add_argument("--num-cpus", "--vcpus", type=number("num-cpus", 1024), metavar="N")
    build.add_argument("--vmsa-cpu0", metavar="FILE", help="(default: what QEMU and KVM start a processor of --chip with)")
    build.add_argument("--vmsa-cpu1", metavar="FILE")
    build.add_argument("--outfile", metavar="FILE", help="write the 48 bytes there, too")
    build.set_defaults(run=measurement)

    build = group(verbs, "secret", "secrets for one launch").add_parser("build", help="write a secret's header and payload")
    build.add_argument("--tik", required=True, help="path or base64")
    build.add_argument("--tek", required=True, help="path or base64")
    build.add_argument("--launch-measure-blob", required=True, metavar="BLOB", help="path or base64, 48 bytes")
    build.add_argument("--secret", action="append", default=[], metavar="GUID:FILE", required=True)
    build.add_argument("--iv", help="base64 of 16 bytes (default: derived from key, measurement and payload)")
    build.add_argument("header", type=place("secret build"), metavar="HEADER")
    build.add_argument("payload", type=place("secret build"), metavar="PAYLOAD")
    build.set_defaults(run=secret)


# ------------------------------------------------------------- session


def session(args: argparse.Namespace) -> int:
    """Four files in the current directory: what goes to the host (godh, session) and what stays (tik, tek)."""
    from sevlab.owner import new_session

    if (args.word is None) == (args.policy is None):
        raise Misused("session: takes one policy, as --policy P or after the certificate")
    if not args.name or args.name.endswith("/"):
        raise Misused(f"session: --name {args.name!r} begins no file name")
    word = args.policy if args.policy is not None else policy(args.word)
    pdh = blob(args.pdh, "PDH")[: SevCert.SIZE]
    try:
        made = new_session(pdh, word, seed=args.owner_seed, shape=args.shape)
    except ValueError as error:
        raise Failed(f"PDH {args.pdh}: {error}") from None
    tik, tek = Path(f"{args.name}_tik.bin"), Path(f"{args.name}_tek.bin")
    godh, blob64 = Path(f"{args.name}_godh.b64"), Path(f"{args.name}_session.b64")
    save(
        {godh: base64.b64encode(made.godh), blob64: base64.b64encode(made.session), tik: made.tik, tek: made.tek},
        secret=(tik, tek),
    )
    print(f"to the host: {godh} {blob64}; yours alone: {tik} {tek}")
    return 0


# ------------------------------------------------------------- measurement


def measurement(args: argparse.Namespace) -> int:
    """The 48 bytes that a launch must show, in base64."""
    from sevlab.owner import expected_measurement

    if (args.nonce is None) == (args.launch_measure_blob is None):
        raise Misused("measurement build: takes one of --nonce and --launch-measure-blob")
    tik = blob_or_text(args.tik, "tik", 16)
    if args.nonce is not None:
        nonce = blob_or_text(args.nonce, "nonce", 16)
    else:
        nonce = blob_or_text(args.launch_measure_blob, "launch-measure-blob", 48)[32:]
    api = (args.api_major, args.api_minor, args.build_id)
    value = expected_measurement(_digest(args), tik=tik, policy=args.policy, mnonce=nonce, api=api) + nonce
    if args.outfile:
        save({Path(args.outfile): value})
    print(base64.b64encode(value).decode())
    return 0


def _digest(args: argparse.Namespace) -> bytes:
    """The launch digest: given, or of the files that are loaded.

    Raises Failed or Misused.
    """
    from sevlab.crypto import sha256

    if (args.launch_digest is None) == (args.firmware is None):
        raise Misused("measurement build: takes one of --launch-digest and --firmware")
    if args.launch_digest is not None:
        if re.fullmatch("[0-9a-fA-F]{64}", args.launch_digest):
            return bytes.fromhex(args.launch_digest)
        return blob_or_text(args.launch_digest, "launch-digest", 32)
    if args.kernel is None and (args.initrd is not None or args.cmdline is not None):
        raise Misused("measurement build: --initrd and --cmdline are measured beside a --kernel, and there is none")

    image = firmware(args.firmware)
    parts = [image]
    if args.kernel is not None:
        initrd = read(args.initrd, "initrd") if args.initrd is not None else None
        parts.append(kernel_hashes(read(args.kernel, "kernel"), initrd, os.fsencode(args.cmdline or "")))
    if args.policy & POLICY_ES:
        parts.append(_save_areas(args, image))
    return sha256(b"".join(parts))


def _save_areas(args: argparse.Namespace, image: bytes) -> bytes:
    """The register pages of all vCPUs: of the files given, or as QEMU and KVM make them for --chip and --design."""
    count: int = args.num_cpus or 0
    if not count:
        raise Misused("measurement build: the policy is SEV-ES's, so the registers of --num-cpus vCPUs are measured")
    if args.vmsa_cpu0 is None:
        return b"".join(register_page(args, args.firmware, image, cpu) for cpu in range(count))
    if count > 1 and args.vmsa_cpu1 is None:
        raise Misused("measurement build: more than one vCPU takes --vmsa-cpu1 beside --vmsa-cpu0")
    first = read(args.vmsa_cpu0, "vmsa-cpu0", most=VMSA)
    others = read(args.vmsa_cpu1, "vmsa-cpu1", most=VMSA) if count > 1 else b""
    for name, page in (("vmsa-cpu0", first), ("vmsa-cpu1", others)):
        if page and len(page) != VMSA:
            raise Failed(f"{name}: a register page has {VMSA} bytes, this one {len(page)}")
    return first + others * (count - 1)


# ------------------------------------------------------------- secret


def secret(args: argparse.Namespace) -> int:
    """A secret table, sealed for one launch: header and payload, raw."""
    from sevlab.owner import secret_table, wrap_secret

    tik, tek = blob_or_text(args.tik, "tik", 16), blob_or_text(args.tek, "tek", 16)
    measure = blob_or_text(args.launch_measure_blob, "launch-measure-blob", 48)
    iv = blob_or_text(args.iv, "iv", 16) if args.iv is not None else None
    if os.path.realpath(args.header) == os.path.realpath(args.payload):
        raise Misused("secret build: header and payload are two files")
    entries = []
    for pair in args.secret:
        guid, colon, path = pair.partition(":")
        if not colon or not guid or not path:
            raise Misused(f"secret build: --secret {pair!r} is no GUID:FILE")
        entries.append((guid, read(path, "secret", most=1 << 20)))
    try:
        header, payload = wrap_secret(tek, tik, measure, secret_table(entries), iv=iv, api=args.firmware_api)
    except ValueError as error:
        raise Failed(f"secret: {error}") from None
    save({Path(args.header): header, Path(args.payload): payload})
    print(f"wrote {args.header} ({len(header)} bytes) and {args.payload} ({len(payload)} bytes)")
    return 0
