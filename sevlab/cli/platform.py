"""The platform's verbs: export, show, ok, and those that change it: generate, provision, reset, rotate.

They speak to /dev/sev, as sevctl does. AMD's part, the signed certificate of
the chip's own key, comes from the emulated key server.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sevlab.abi import sev_dev
from sevlab.abi.cert import SevCert
from sevlab.abi.kvm import KVM_CAP_VM_TYPES, KVM_CHECK_EXTENSION, KVM_CREATE_VM, KVM_MEMORY_ENCRYPT_OP, KVM_X86_SEV_ES_VM
from sevlab.abi.sev import CHIP_ID_LEN
from sevlab.cli.files import Failed, Misused, place, read, save
from sevlab.cli.machine import issue, machine, note, platform_of, platform_status
from sevlab.cli.oca import new_oca, read_key, sign_pek

if TYPE_CHECKING:
    from sevlab.host import Host
    from sevlab.kvm.process import Process

ORDER = ("pdh", "pek", "oca", "cek", "ask", "ark")  # of a chain file


def add(verbs: Any) -> None:
    """Put the platform's verbs on the command line."""
    verb = verbs.add_parser("export", help="write the platform's certificates")
    verb.add_argument("destination", type=place("export"), metavar="DIR", help="a folder, made if need be; with --full a file")
    verb.add_argument("-f", "--full", action="store_true", help="one chain file: PDH PEK OCA CEK ASK ARK")
    verb.set_defaults(run=export)

    verb = verbs.add_parser("show", help="the platform's state")
    verb.add_argument("what", choices=("version", "flags", "guests", "identifier"))
    verb.set_defaults(run=show)

    verb = verbs.add_parser("ok", help="what this emulated machine offers")
    verb.add_argument("generation", nargs="?", choices=("sev", "es", "snp"), help="(default: all that is modelled)")
    verb.set_defaults(run=ok)

    verb = verbs.add_parser("generate", help="make an owner's certificate and key, for `provision`")
    verb.add_argument("cert", type=place("generate"), metavar="CERT")
    verb.add_argument("key", type=place("generate"), metavar="KEY")
    verb.set_defaults(run=generate)

    verb = verbs.add_parser("provision", help="take ownership of the platform kept in --nv")
    verb.add_argument("cert", metavar="CERT", help="the owner's OCA certificate")
    verb.add_argument("key", metavar="KEY", help="and its private key")
    verb.set_defaults(run=provision)
    verb = verbs.add_parser("reset", help="reset the platform kept in --nv: new keys, no owner")
    verb.set_defaults(run=reset)
    verb = verbs.add_parser("rotate", help="make a new PDH on the platform kept in --nv")
    verb.set_defaults(run=rotate)


@contextmanager
def _sev(args: argparse.Namespace) -> Iterator[tuple[Host, Process, int]]:
    """The machine, a process of an administrator on it, and its open /dev/sev."""
    with machine(args) as host:
        process = host.process("sevctl", caps={"CAP_SYS_ADMIN"})
        yield host, process, process.open("/dev/sev", "r+")


# ------------------------------------------------------------- looking


def export(args: argparse.Namespace) -> int:
    """Six certificate files in a folder, or one chain file."""
    with machine(args) as host:
        certs = {key.removesuffix(".cert"): data for key, data in host.chain().items()}
    where = Path(args.destination)
    if args.full:
        save({where: b"".join(certs[name] for name in ORDER)})
        return 0
    made = not where.exists()
    if where.is_file():
        raise Failed(f"{where}: this is a file; six certificates take a folder, or --full one file")
    try:
        where.mkdir(exist_ok=True)
    except OSError as error:
        raise Failed(f"{where}: {error.strerror}") from None
    try:
        save({where / f"{name}.cert": data for name, data in certs.items()})
    except Failed:
        if made:
            where.rmdir()
        raise
    print(f"wrote {', '.join(f'{name}.cert' for name in certs)} to {where}")
    return 0


def show(args: argparse.Namespace) -> int:
    """One fact of the platform, as sevctl prints it."""
    with _sev(args) as (_, process, fd):
        status = platform_status(process, fd)
        if args.what == "version":
            print(f"{status.api_major}.{status.api_minor}.{status.build}")
        elif args.what == "guests":
            print(status.guest_count)
        elif args.what == "flags":
            flags = {"owned": sev_dev.SEV_STATUS_FLAGS_OWNED, "es": sev_dev.SEV_STATUS_FLAGS_CONFIG_ES}
            print("\n".join(name for name, bit in flags.items() if status.flags & bit))
        else:
            print(_identifier(process, fd).hex())
    return 0


def _identifier(process: Process, fd: int) -> bytes:
    """The chip's id (GET_ID2): 64 bytes a socket."""
    buffer = process.put(bytes(CHIP_ID_LEN))
    request = process.put(sev_dev.sev_user_data_get_id2(address=buffer, length=CHIP_ID_LEN))
    issue(process, fd, sev_dev.SEV_GET_ID2, request)
    return process.read(buffer, CHIP_ID_LEN)


def ok(args: argparse.Namespace) -> int:
    """What the emulated machine offers, a line a feature; 0 when all that was asked for is there."""
    with _sev(args) as (host, process, fd):
        rows = list(_features(host, process, fd, args.generation or "es"))
    for good, text in rows:
        print(f"[ {'PASS' if good else 'FAIL'} ] {text}")
    if not all(good for good, _ in rows):
        raise Failed("this emulated machine does not offer all of that")
    return 0


def _features(host: Host, process: Process, fd: int, generation: str) -> Iterator[tuple[bool, str]]:
    """(there or not, in words) of each feature up to `generation`."""
    from sevlab.hw import chips

    chip, status = host.chip, platform_status(process, fd)
    _, ebx, ecx, edx = chip.cpuid_8000001f()
    yield True, f"AMD CPU: {chip.product}, family {chip.family:#x} model {chip.model:#x} stepping {chip.stepping} (emulated)"
    yield bool(chip.features & chips.SME), "Secure Memory Encryption (SME)"
    yield bool(chip.features & chips.SEV), "Secure Encrypted Virtualization (SEV)"
    if generation in ("es", "snp"):
        yield bool(chip.features & chips.SEV_ES), "Encrypted State (SEV-ES)"
    if generation == "snp":
        yield False, "Secure Nested Paging (SEV-SNP): not modelled"
    yield True, f"Physical address bit reduction: {ebx >> 6 & 0x3F}"
    yield True, f"C-bit location: {ebx & 0x3F}"
    yield True, f"Number of encrypted guests supported simultaneously: {ecx}"
    yield True, f"Minimum ASID value for SEV-enabled, SEV-ES disabled guest: {edx}"
    kvm = process.open("/dev/kvm")
    yield _offered(process, kvm), "SEV enabled in KVM"
    if generation in ("es", "snp"):
        types = process.ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_VM_TYPES)
        yield True, f"SEV-ES enabled in KVM, by {'KVM_SEV_INIT2' if types >> KVM_X86_SEV_ES_VM & 1 else 'KVM_SEV_ES_INIT'}"
    yield True, "/dev/sev readable and writable"
    yield True, f"Firmware API {status.api_major}.{status.api_minor} build {status.build}"
    yield True, f"Memory that a process may pin (RLIMIT_MEMLOCK): {process.task.memlock >> 20} MiB"


def _offered(process: Process, kvm: int) -> bool:
    """Whether KVM offers SEV: the documented probe, KVM_MEMORY_ENCRYPT_OP without an argument."""
    vm = process.ioctl(kvm, KVM_CREATE_VM, 0)
    try:
        process.ioctl(vm, KVM_MEMORY_ENCRYPT_OP, 0)
    except OSError:
        return False
    finally:
        process.close(vm)
    return True


# ------------------------------------------------------------- changing


def generate(args: argparse.Namespace) -> int:
    """An owner's key pair: a self-signed OCA certificate, and its private key."""
    if os.path.realpath(args.cert) == os.path.realpath(args.key):
        raise Misused("generate: certificate and key are two files")
    cert, key = new_oca(args.seed)
    save({Path(args.cert): cert, Path(args.key): key}, secret=(Path(args.key),))
    return 0


def provision(args: argparse.Namespace) -> int:
    """Have the platform's PEK signed by the owner, and import both: PEK_CSR, then PEK_CERT_IMPORT."""
    platform_of(args, "provision")
    oca = read(args.cert, "OCA", most=1 << 16)
    if len(oca) != SevCert.SIZE:
        raise Failed(f"OCA {args.cert}: a certificate has {SevCert.SIZE} bytes, this file has {len(oca)}")
    d = read_key(args.key, oca)
    with _sev(args) as (_, process, fd):
        buffer = process.put(bytes(SevCert.SIZE))
        issue(process, fd, sev_dev.SEV_PEK_CSR, process.put(sev_dev.sev_user_data_pek_csr(address=buffer, length=SevCert.SIZE)))
        pek = sign_pek(process.read(buffer, SevCert.SIZE), d)
        request = sev_dev.sev_user_data_pek_cert_import(
            pek_cert_address=process.put(pek), pek_cert_len=len(pek), oca_cert_address=process.put(oca), oca_cert_len=len(oca)
        )
        issue(process, fd, sev_dev.SEV_PEK_CERT_IMPORT, process.put(request))
    note(args, "the platform has an owner; its PDH is new, so older sessions no longer open")
    return 0


def reset(args: argparse.Namespace) -> int:
    """FACTORY_RESET: the next INIT makes new keys."""
    platform_of(args, "reset")
    with _sev(args) as (_, process, fd):
        issue(process, fd, sev_dev.SEV_FACTORY_RESET)
    return 0


def rotate(args: argparse.Namespace) -> int:
    """PDH_GEN: a new PDH; older sessions no longer open."""
    platform_of(args, "rotate")
    with _sev(args) as (_, process, fd):
        issue(process, fd, sev_dev.SEV_PDH_GEN)
    return 0
