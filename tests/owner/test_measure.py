"""What the owner expects of a launch, and what he says of one that is not it."""

from __future__ import annotations

from hashlib import sha256

import pytest

from sevlab import owner
from sevlab.abi import ovmf
from sevlab.abi.hashes import kernel_hashes
from sevlab.abi.session import measure_message
from sevlab.abi.vmsa import BSP_EIP, vmsa_page
from sevlab.crypto import hmac256
from sevlab.owner.measure import MeasurementChecked
from sevlab.trace import Trace

EIP = 0x0080B004
IMAGE = ovmf.with_table(bytes(range(256)) * 16, [ovmf.reset_block(EIP)])
BARE = bytes(4096)  # an image without a table
TIK, MNONCE = bytes(range(16)), bytes(range(0xA0, 0xB0))
DIGEST = owner.expected_digest(IMAGE)


def blob(digest: bytes = DIGEST, *, tik: bytes = TIK, policy: int = 1, api: tuple[int, int, int] = (0, 24, 15)) -> bytes:
    """The 48 bytes of a platform that measured this."""
    return owner.expected_measurement(digest, tik=tik, policy=policy, mnonce=MNONCE, api=api) + MNONCE


def check(measured: bytes, **changes: object) -> owner.MeasurementVerdict:
    """The verdict of an owner who expects DIGEST under policy 1 from firmware 0.24 build 15."""
    return owner.check_measurement(measured, **({"digest": DIGEST, "tik": TIK, "policy": 1} | changes))  # type: ignore[arg-type]


# ------------------------------------------------------------- digests


def test_plain_sev_is_the_hash_of_the_image_and_of_nothing_else() -> None:
    assert owner.expected_digest(IMAGE) == sha256(IMAGE).digest()
    assert owner.expected_digest(IMAGE, vcpus=4, cpu="rome", vmsa_variant="init2") == sha256(IMAGE).digest()


def test_a_kernel_adds_the_176_bytes_of_its_hashes() -> None:
    table = kernel_hashes(b"kernel", b"initrd", "quiet")

    assert owner.expected_digest(IMAGE, kernel=b"kernel", initrd=b"initrd", append="quiet") == sha256(IMAGE + table).digest()


def test_no_initrd_and_no_command_line_are_as_empty_ones() -> None:
    plain = owner.expected_digest(IMAGE, kernel=b"kernel")

    assert plain == owner.expected_digest(IMAGE, kernel=b"kernel", initrd=b"", append="")
    assert plain == owner.expected_digest(IMAGE, kernel=b"kernel", append=b"")


def test_an_es_guest_adds_a_page_a_vcpu_the_boot_processors_first() -> None:
    boot, other = (vmsa_page(eip, signature=0x830F10) for eip in (BSP_EIP, EIP))

    assert owner.expected_digest(IMAGE, es=True, vcpus=3, cpu="rome") == sha256(IMAGE + boot + 2 * other).digest()


def test_everything_is_hashed_in_the_order_of_the_commands() -> None:
    pages = [b"a" * 4096, b"b" * 4096]
    table, boot = kernel_hashes(b"kernel"), vmsa_page(BSP_EIP, signature=0x800F12, variant="init2")
    digest = owner.expected_digest(IMAGE, kernel=b"kernel", pages=pages, es=True, vmsa_variant="init2")

    assert digest == sha256(IMAGE + table + b"".join(pages) + boot).digest()
    assert digest != owner.expected_digest(IMAGE, kernel=b"kernel", pages=pages[::-1], es=True, vmsa_variant="init2")


def test_one_processor_has_many_names() -> None:
    assert {owner.cpu_signature(cpu) for cpu in ("rome", "Rome", "EPYC-Rome", "EPYC-Rome-v2", (23, 49, 0), 0x830F10)} == {0x830F10}
    assert [owner.cpu_signature(cpu) for cpu in ("naples", "milan")] == [0x800F12, 0xA00F11]


def test_one_vcpu_needs_no_reset_block() -> None:
    assert owner.expected_digest(BARE, es=True, vcpus=1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"initrd": b"initrd"}, "an initrd and a command line are measured beside a kernel"),
        ({"append": ""}, "an initrd and a command line are measured beside a kernel"),
        ({"es": True, "vcpus": 0}, "an SEV-ES guest has at least one vCPU, and 0 were given"),
        ({"es": True, "vcpus": -1}, "at least one vCPU"),
        ({"es": True, "cpu": "EPYC-Florence"}, "no processor 'EPYC-Florence'; there are naples, rome"),
        ({"es": True, "vmsa_variant": "new"}, "variant is one of legacy, init2"),
        ({"es": True, "vmm": "xen"}, "vmm one of qemu, ec2, gce"),
        ({"firmware": BARE, "es": True, "vcpus": 2}, "names no SEV-ES reset block"),
        ({"firmware": BARE, "es": True, "vcpus": 0}, "at least one vCPU"),
    ],
)
def test_a_launch_that_cannot_be_is_refused(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        owner.expected_digest(arguments.pop("firmware", IMAGE), **arguments)  # type: ignore[arg-type]


# ------------------------------------------------------------- measurements


@pytest.mark.parametrize(("api", "length"), [((0, 16, 9), 52), ((0, 17, 0), 56), ((0, 24, 15), 56), ((1, 0, 0), 56)])
def test_from_0_17_on_the_version_is_measured_too(api: tuple[int, int, int], length: int) -> None:
    message = measure_message(api, 5, DIGEST, MNONCE)

    assert len(message) == length
    assert owner.expected_measurement(DIGEST, tik=TIK, policy=5, mnonce=MNONCE, api=api) == hmac256(TIK, message)


def test_up_to_0_16_the_build_makes_no_difference() -> None:
    assert blob(api=(0, 16, 1)) == blob(api=(0, 15, 200))
    assert blob(api=(0, 17, 1)) != blob(api=(0, 17, 2))


def test_the_expected_measurement_is_trusted() -> None:
    verdict = check(blob())

    assert verdict and verdict.reason == ""
    assert str(verdict) == "trusted: the measurement is the expected one"


@pytest.mark.parametrize(
    ("measured", "words"),
    [
        (blob(policy=0), "with policy 0x0 = nothing forbidden, firmware 0.0 or newer"),
        (blob(policy=5), "with policy 0x5 = NODBG ES, firmware 0.0 or newer"),
        (blob(api=(0, 16, 0)), "by the rule of API 0.16 and older, which leaves the version out"),
        (blob(tik=bytes(16)), "with the key of zeros, which a launch without a session has"),
        (blob(tik=bytes(16), policy=0), "with the key of zeros, which a launch without a session has and with policy 0x0"),
        (blob(sha256(b"evil").digest()), "with the evil image"),
        (blob(sha256(b"evil").digest(), policy=8), "with policy 0x8 = NOSEND, firmware 0.0 or newer and with the evil image"),
    ],
)
def test_the_owner_says_what_a_wrong_measurement_is_the_measurement_of(measured: bytes, words: str) -> None:
    verdict = check(measured, others={"with the evil image": sha256(b"evil").digest()})

    assert not verdict
    assert verdict.reason.startswith(f"it is no measurement of the launch expected, but of one {words}")


@pytest.mark.parametrize(
    ("api", "words"), [((0, 24, 14), "0.24 build 14"), ((0, 22, 9), "0.22 build 9"), ((1, 55, 1), "1.55 build 1")]
)
def test_another_firmware_is_named(api: tuple[int, int, int], words: str) -> None:
    verdict = check(blob(api=api))

    assert verdict.reason == f"the launch is the one expected, but the firmware is {words}, not 0.24 build 15"


def test_a_policy_with_a_minimum_version_is_found_without_it() -> None:
    verdict = check(blob(policy=0x9), policy=0x18000009)

    assert "with policy 0x9 = NODBG NOSEND, firmware 0.0 or newer" in verdict.reason


@pytest.mark.parametrize("measured", [bytes(48), blob(tik=b"k" * 16), blob(sha256(b"unknown").digest()), blob()[:32] + bytes(16)])
def test_what_fits_nothing_is_refused_without_a_guess(measured: bytes) -> None:
    assert check(measured).reason.startswith("it fits no launch that the owner can think of")


@pytest.mark.parametrize("length", [0, 32, 47, 49, 64])
def test_a_blob_of_another_length_is_a_refusal(length: int) -> None:
    assert check((blob() * 2)[:length]).reason == f"a measurement has 48 bytes, MAC and nonce, this one has {length}"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"tik": bytes(32)}, "a TIK has 16 bytes, this one has 32"),
        ({"digest": bytes(48)}, "a digest has 32 bytes and a nonce 16"),
        ({"api": (0, 24)}, "an API version is major, minor and build"),
        ({"api": (0, 24, 256)}, "of a byte each"),
        ({"tik": b"", "digest": b""}, "a TIK has 16 bytes"),
    ],
)
def test_the_owners_own_mistake_is_an_error_and_no_verdict(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check(b"short", **arguments)


def test_checking_leaves_a_row_in_the_owners_lane() -> None:
    trace = Trace()
    check(blob(), trace=trace)
    check(blob()[:47], trace=trace)

    rows = trace.rows(MeasurementChecked)
    assert [(row["lane"], row["ok"]) for row in rows] == [("owner", 1), ("owner", 0)]
    assert rows[1]["reason"].endswith("this one has 47")


def test_any_bit_changed_on_the_way_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """MAC and nonce both, every bit. Why it is refused is not asked: each answer tries 32,000 versions."""
    monkeypatch.setattr("sevlab.owner.measure._explain", lambda *given: "changed")
    good = blob()
    for bit in range(8 * len(good)):
        spoilt = bytearray(good)
        spoilt[bit // 8] ^= 1 << bit % 8

        assert check(bytes(spoilt)).reason == "changed"


# ------------------------------------------------------------- what else it could have been


def test_one_more_vcpu_is_found_on_es_and_cannot_be_on_plain_sev() -> None:
    meant, got = (owner.expected_digest(IMAGE, es=True, vcpus=count) for count in (2, 3))
    others = owner.digest_variants(IMAGE, es=True, vcpus=2)

    verdict = check(blob(got, policy=5), digest=meant, policy=5, others=others)
    assert verdict.reason == "it is no measurement of the launch expected, but of one with 3 vCPUs"
    assert owner.digest_variants(IMAGE, vcpus=2) == {}


@pytest.mark.parametrize(
    ("got", "words"),
    [
        ({"vmsa_variant": "init2"}, "made by KVM_SEV_INIT2, whose FPU registers are measured"),
        ({"cpu": "milan"}, "on processors of model EPYC-Milan"),
        ({"vcpus": 1}, "with 1 vCPU"),
        ({"es": False}, "without the registers of its vCPUs, as plain SEV measures"),
        ({"kernel": None, "initrd": None, "append": None}, "without the table of kernel hashes"),
        ({"append": ""}, "with an empty command line"),
        ({"initrd": None}, "without the initrd"),
    ],
)
def test_each_single_difference_is_put_into_words(got: dict[str, object], words: str) -> None:
    meant: dict[str, object] = {"kernel": b"kernel", "initrd": b"initrd", "append": "quiet", "es": True, "vcpus": 2, "cpu": "rome"}
    digest, other = (owner.expected_digest(IMAGE, **arguments) for arguments in (meant, meant | got))  # type: ignore[arg-type]

    verdict = check(blob(other), digest=digest, others=owner.digest_variants(IMAGE, **meant))  # type: ignore[arg-type]
    assert verdict.reason == f"it is no measurement of the launch expected, but of one {words}"


def test_variants_that_the_image_cannot_be_started_as_are_left_out() -> None:
    variants = owner.digest_variants(BARE, es=True)

    assert "with 2 vCPUs" not in variants and "on processors of model EPYC-Rome" in variants
    assert owner.expected_digest(BARE, es=True) not in variants.values()
