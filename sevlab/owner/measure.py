"""What the owner expects to be measured, and whether a measurement is that.

The digest is SHA-256 over the bytes of the launch commands in their order:
firmware image, table of kernel hashes, further pages, one save area a vCPU. The
measurement is a MAC over digest, policy, version and nonce. Source: firmware.md
4.6, 5.2 and 5.4.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from sevlab.abi import ovmf
from sevlab.abi.hashes import kernel_hashes
from sevlab.abi.session import Measurement, binds_version, measure_message
from sevlab.abi.sev import POLICY_BITS, policy_text
from sevlab.abi.vmsa import BSP_EIP, CPU_SIGNATURES, VARIANTS, signature, vmsa_page
from sevlab.crypto import hmac256, same
from sevlab.given import having, number, shown
from sevlab.owner.given import need_bytes, need_policy, need_trace
from sevlab.trace import Event, Trace, name, u8

OLD_RULE = (0, 16, 0)  # the last API whose measurements leave the version out
PRODUCTS = {"naples": "EPYC", "rome": "EPYC-Rome", "milan": "EPYC-Milan", "genoa": "EPYC-Genoa", "turin": "EPYC-Turin"}
Cpu = int | str | tuple[int, int, int]


class MeasurementChecked(Event, lane="owner"):
    """The guest owner compared a measurement with the one he expected."""

    ok: u8
    reason: name


@dataclass(frozen=True)
class MeasurementVerdict:
    """Whether a measurement is the expected one; `reason` says what else it fits, where the owner can find that out."""

    ok: bool
    reason: str

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        return "trusted: the measurement is the expected one" if self.ok else f"refused: {self.reason}"


def cpu_signature(cpu: Cpu) -> int:
    """CPUID 1.EAX of a processor, given so, as (family, model, stepping), as a QEMU model ("EPYC-Rome") or a product ("rome").

    Raises ValueError for a name or numbers that are none, TypeError for anything else.
    """
    if isinstance(cpu, int):
        return cpu
    if isinstance(cpu, tuple | list):
        if len(cpu) != 3 or not all(isinstance(part, int) for part in cpu):
            raise TypeError(f"a processor has three numbers, family, model and stepping, not {cpu!r}")
        return signature(*cpu)
    if not isinstance(cpu, str):
        raise TypeError(f"a processor is a name, (family, model, stepping) or CPUID 1.EAX, not {shown(cpu)}")
    model = PRODUCTS.get(cpu.lower(), cpu)
    if model not in CPU_SIGNATURES:
        raise ValueError(f"no processor {cpu!r}; there are {', '.join([*PRODUCTS, *CPU_SIGNATURES])}")
    return CPU_SIGNATURES[model]


def expected_digest(
    firmware: bytes,
    *,
    kernel: bytes | None = None,
    initrd: bytes | None = None,
    append: str | bytes | None = None,
    es: bool = False,
    vcpus: int = 1,
    cpu: Cpu = "naples",
    vmsa_variant: str = "legacy",
    vmm: str = "qemu",
    sev_features: int = 0,
    pages: Iterable[bytes] = (),
) -> bytes:
    """The launch digest (32 bytes) of a guest started as QEMU starts it.

    `kernel`, `initrd` and `append` are those of a measured direct boot; `pages`
    is whatever else is loaded after them, in order. Plain SEV measures no
    registers, so `vcpus`, `cpu` and what follows count with `es` only; their
    APs start at the firmware's reset block.

    Raises ValueError for an initrd or a command line without a kernel, a guest
    of no vCPU, an unknown processor or variant, and for APs without a reset block;
    TypeError for what should be bytes or a number and is none.
    """
    firmware = need_bytes("firmware", firmware)
    digest = hashlib.sha256(firmware)
    if kernel is not None:
        initrd = None if initrd is None else need_bytes("initrd", initrd)
        line = "" if append is None else append if isinstance(append, str) else need_bytes("append, if no text,", append)
        digest.update(kernel_hashes(need_bytes("kernel", kernel), initrd, line))
    elif initrd is not None or append is not None:
        raise ValueError("an initrd and a command line are measured beside a kernel, and there is none")
    if isinstance(pages, bytes | bytearray | memoryview) or not hasattr(pages, "__iter__"):
        raise TypeError(f"pages are a list of bytes, one after the other, not {type(pages).__name__}")
    for page in pages:
        digest.update(need_bytes("a page", page))
    if es:
        digest.update(_save_areas(firmware, vcpus, cpu_signature(cpu), vmsa_variant, vmm, sev_features))
    return digest.digest()


def _save_areas(firmware: bytes, vcpus: int, cpuid: int, variant: str, vmm: str, sev_features: int) -> bytes:
    """One page a vCPU, the boot processor's first, as LAUNCH_UPDATE_VMSA takes them."""
    if number("vcpus", vcpus) < 1:
        raise ValueError(f"an SEV-ES guest has at least one vCPU, and {vcpus} were given")
    boot = vmsa_page(BSP_EIP, signature=cpuid, variant=variant, vmm=vmm, sev_features=sev_features)
    if vcpus == 1:
        return boot
    eip = ovmf.parse(firmware).reset_block
    if eip is None:
        raise ValueError("the firmware image names no SEV-ES reset block, so nobody can say where the other vCPUs start")
    return boot + (vcpus - 1) * vmsa_page(eip, signature=cpuid, variant=variant, vmm=vmm, sev_features=sev_features)


def expected_measurement(digest: bytes, *, tik: bytes, policy: int, mnonce: bytes, api: Sequence[int] = (0, 24, 15)) -> bytes:
    """MEASURE, 32 bytes: what the platform must answer for this digest. `api` is its (major, minor, build).

    From API 0.17 on the version is in the MAC, before it is not. The blob that
    travels is MEASURE followed by `mnonce`. Raises ValueError for a digest,
    key or nonce of a wrong length, for a policy that has not 32 bits and for an
    `api` that is no three numbers; TypeError for what should be bytes and is none.
    """
    if len(need_bytes("a TIK", tik)) != 16:
        raise ValueError(f"a TIK has 16 bytes, this one has {len(tik)}")
    if not isinstance(api, Sequence) or len(api) != 3 or not all(isinstance(n, int) and 0 <= n <= 0xFF for n in api):
        raise ValueError(f"an API version is major, minor and build, of a byte each, not {api!r}")
    digest, mnonce = need_bytes("a digest", digest), need_bytes("a nonce", mnonce)
    return hmac256(tik, measure_message(api, need_policy(policy), digest, mnonce))


def check_measurement(
    blob: bytes,
    *,
    digest: bytes,
    tik: bytes,
    policy: int,
    api: Sequence[int] = (0, 24, 15),
    others: Mapping[str, bytes] | None = None,
    trace: Trace | None = None,
) -> MeasurementVerdict:
    """Is this 48-byte blob the measurement of the launch that the owner meant?

    If not, the owner tries what else it could be: other policies, the rule of
    old firmware, other versions, the key of zeros, and the digests in `others`
    (a few words to digest, as `digest_variants` makes them).

    Raises ValueError or TypeError for what the owner himself got wrong: digest,
    key, api. A blob of another length is a refusal, for it came from the host.
    """
    expected_measurement(digest, tik=tik, policy=policy, mnonce=bytes(16), api=api)  # refuses what the owner got wrong

    need_trace(trace)
    blob = need_bytes("a measurement", blob)
    for words, other in having("others", others or {}, ("items",), "a dictionary of words to digests").items():
        if len(need_bytes(f"the digest {words}", other)) != len(digest):
            raise ValueError(f"a digest has {len(digest)} bytes, the one {words} has {len(other)}")

    if len(blob) != Measurement.SIZE:
        verdict = MeasurementVerdict(False, f"a measurement has {Measurement.SIZE} bytes, MAC and nonce, this one has {len(blob)}")
    else:
        measure, mnonce = blob[:32], blob[32:]
        if same(measure, expected_measurement(digest, tik=tik, policy=policy, mnonce=mnonce, api=api)):
            verdict = MeasurementVerdict(True, "")
        else:
            verdict = MeasurementVerdict(False, _explain(measure, mnonce, digest, tik, policy, tuple(api), others or {}))
    if trace is not None:
        trace.emit(MeasurementChecked, verdict.ok, verdict.reason)
    return verdict


def _explain(
    measure: bytes, mnonce: bytes, digest: bytes, tik: bytes, policy: int, api: tuple[int, ...], others: Mapping[str, bytes]
) -> str:
    """What a measurement that is not the expected one is, with as few differences as possible."""
    keys = {"": tik, "with the key of zeros, which a launch without a session has": bytes(16)}
    rules = {"": api}
    if binds_version(api):
        rules["by the rule of API 0.16 and older, which leaves the version out"] = OLD_RULE
    words = (high | low for high in (policy & 0xFFFF0000, 0) for low in range(2 * max(POLICY_BITS.values())))
    policies = {"": policy} | {f"with policy {policy_text(word)}": word for word in words if word != policy}
    digests = {"": digest} | dict(others)

    tries = sorted(product(keys, rules, policies, digests), key=lambda labels: sum(map(bool, labels)))
    for labels in tries:
        key, rule, word, content = labels
        if same(measure, hmac256(keys[key], measure_message(rules[rule], policies[word], digests[content], mnonce))):
            return "it is no measurement of the launch expected, but of one " + " and ".join(filter(None, labels))
    for major, minor, build in product(range(2), range(0x40), range(0x100)):
        version = (major, minor, build)
        if binds_version(version) and same(measure, hmac256(tik, measure_message(version, policy, digest, mnonce))):
            stated = f"{api[0]}.{api[1]} build {api[2]}"
            return f"the launch is the one expected, but the firmware is {major}.{minor} build {build}, not {stated}"
    return "it fits no launch that the owner can think of: another image, another key, or it was changed on its way"


def digest_variants(
    firmware: bytes,
    *,
    kernel: bytes | None = None,
    initrd: bytes | None = None,
    append: str | bytes | None = None,
    es: bool = False,
    vcpus: int = 1,
    cpu: Cpu = "naples",
    vmsa_variant: str = "legacy",
) -> dict[str, bytes]:
    """The digests of launches that differ from this one in one respect: for `check_measurement` to try.

    The keys are a few words each, as "with 3 vCPUs".
    """
    meant: dict[str, Any] = {"kernel": kernel, "initrd": initrd, "append": append, "es": es, "vcpus": vcpus, "cpu": cpu}
    meant["vmsa_variant"] = vmsa_variant
    own = expected_digest(firmware, **meant)
    found = {}
    for words, change in _changes(kernel is not None, es):
        try:
            digest = expected_digest(firmware, **meant | change)
        except ValueError:
            continue  # no such launch with this image: it names no reset block
        if digest != own:
            found[words] = digest
    return found


def _changes(kernel: bool, es: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """What could be different about a launch: in words, and as arguments of `expected_digest`."""
    if kernel:
        yield "without the table of kernel hashes", {"kernel": None, "initrd": None, "append": None}
        yield "without the initrd", {"initrd": None}
        yield "with an empty command line", {"append": ""}
    if not es:
        return
    yield "without the registers of its vCPUs, as plain SEV measures", {"es": False}
    for count in range(1, 9):
        yield f"with {count} vCPU{'s' if count > 1 else ''}", {"vcpus": count}
    for model in PRODUCTS.values():
        yield f"on processors of model {model}", {"cpu": model}
    for variant in VARIANTS:
        how = "KVM_SEV_INIT2" if variant == "init2" else "KVM_SEV_ES_INIT"
        yield f"made by {how}, whose FPU registers are {'measured' if variant == 'init2' else 'not'}", {"vmsa_variant": variant}
