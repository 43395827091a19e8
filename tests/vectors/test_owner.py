"""Answers of other people's guest-owner tools, as constants: the owner's own code must give the same.

`vectors.json` was made by an independent model of the protocol and accepted by
the tools that each test names.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from sevlab import owner
from sevlab.abi import cert
from sevlab.abi.cert import SevCert
from sevlab.abi.hashes import kernel_hashes
from sevlab.abi.session import PacketHeader, Session
from sevlab.crypto import ecdh, ecdsa_verify, hmac256, kdf, p384_public
from sevlab.owner.session import wrap_session

VECTORS: dict[str, Any] = json.loads(Path(__file__).with_name("vectors.json").read_text())
SESSION, E2E, SECRET = VECTORS["session_sevtool"], VECTORS["e2e_es2"], VECTORS["launch_secret"]
unhex = bytes.fromhex


def spoilt(data: bytes, at: int) -> bytes:
    """A copy with one bit changed."""
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


# ------------------------------------------------------------- sessions


def test_the_key_derivations_of_virtee_sev() -> None:
    """virtee/sev, src/session/key.rs, test `derive`, with KEK and KIK of the same zeros (firmware.md 4.12 a)."""
    master = kdf(bytes(16), "sev-master-secret", bytes(16))

    assert master == unhex("ab4d269fcc62bedb4511d56c386ce706")
    assert kdf(master, "sev-kek") == unhex("b6abfbfb75ea1ea74ed8750b8afdb973")
    assert kdf(master, "sev-kik") == unhex("53b524bf5669a363f365c864acba8572")


def test_the_session_of_zeros_of_virtee_sev() -> None:
    """virtee/sev, src/session/mod.rs, test `session` (firmware.md 4.12 a)."""
    session = wrap_session(bytes(16), bytes(16), bytes(16), 0, nonce=bytes(16), wrap_iv=bytes(16))

    assert session.wrap_tk == unhex("2137bc7f9bb8bd7c3e55a576a15d3454b3856b8ba27afadf46dcfee9f02c02c4")
    assert session.wrap_mac == unhex("3176c0752738bd9d5e86689534020f528c088f16238826b000b327dee6aeed7d")
    assert session.policy_mac == unhex("aa7855e13839dd767cd5da7c1ff5036540c9264b7a803029315e55375287b4af")


def test_the_session_that_sev_tool_made() -> None:
    """AMDESE/sev-tool --generate_launch_blob, run for policy 5 (firmware.md 4.12 d): the same 128 bytes from the same numbers."""
    made = Session.unpack(b64decode(SESSION["session_b64"]))
    godh = SevCert.unpack(b64decode(SESSION["godh_cert_b64"]))
    z = ecdh(int(SESSION["pdh_priv_d"], 16), godh.public)

    assert z == unhex("1b0961cda11852313c976b18b4942ff895e8f5466b675f8779d716329d43fb5b6dfb2ef126040031f801038f036db74a")
    ours = wrap_session(z, unhex(SESSION["tek"]), unhex(SESSION["tik"]), SESSION["policy"], nonce=made.nonce, wrap_iv=made.wrap_iv)
    assert ours == made


def test_the_session_that_sev_tool_made_does_not_fit_another_policy() -> None:
    """The same session: its POLICY_MAC is policy 5's alone."""
    made = Session.unpack(b64decode(SESSION["session_b64"]))

    fitting = [word for word in range(64) if hmac256(unhex(SESSION["tik"]), word.to_bytes(4, "little")) == made.policy_mac]
    assert fitting == [5]


def test_our_sev_tool_shape_is_sev_tools() -> None:
    """The GODH that sev-tool wrote, field by field but for key and signature (firmware.md 4.5)."""
    theirs = SevCert.unpack(b64decode(SESSION["godh_cert_b64"]))
    x, y = p384_public(int(SESSION["pdh_priv_d"], 16))
    pdh = SevCert(usage=cert.USAGE_PDH, algo=cert.ALGO_ECDH_SHA256, qx=cert.le72(x), qy=cert.le72(y)).pack()
    ours = SevCert.unpack(owner.new_session(pdh, 5, seed=1, shape="sev-tool").godh)

    assert ecdsa_verify(theirs.public, theirs.signed_bytes, *cert.ecdsa_numbers(theirs.sig1))
    assert ours.replace(qx=theirs.qx, qy=theirs.qy, sig1=theirs.sig1) == theirs


def test_the_platforms_public_key_belongs_to_its_private_one() -> None:
    """`pdh_pub` of vectors.json, the platform that sev-tool made its session for."""
    x, y = p384_public(int(SESSION["pdh_priv_d"], 16))

    assert (hex(x), hex(y)) == (VECTORS["pdh_pub"]["qx"], VECTORS["pdh_pub"]["qy"])


def test_the_derivations_from_a_real_platforms_secret() -> None:
    """A real PDH key extracted by PSPReverse/Insecure-Until-Proven-Updated and the certificate of its peer (firmware.md 4.12 e)."""
    z = unhex("071e4d4688fb4410d5b161fd11c3f6c4ca5885354bae717de77f503f94a271b2f1c9a0799e8a65b278ccb2ce21721feb")
    master = kdf(z, "sev-master-secret", bytes(range(16)))

    assert master == unhex("ebe6d3bc93ae6744ab04dc6114154eca")
    assert kdf(master, "sev-kek") == unhex("f9136c6b41325a62a4c9add6e6d24afd")
    assert kdf(master, "sev-kik") == unhex("f63119b3b02e64d10b207d6708c12e35")


# ------------------------------------------------------------- measurements

SEVCTL_TIK = "3569cf61a32a602b87185ac6e0f55913"
FOREIGN_MEASUREMENTS = {
    "sev-tool src/tests.cpp test_calc_measurement, virtee/sev src/session/mod.rs verify (4.12 b)": (
        (0, 0x12, 0x0F), 0, sha256(b"").hexdigest(), "66320db73158a35a255d051758e95ed4",
        b64encode(unhex("6faab2daae389bcd3405a05d6cafe33c0414f7bedd0bae19ba5f38b7fd1664ea4fbe0bedbad6c86ae8f68971d103e554")).decode(),
    ),
    "sevctl tests/measurementbuild.rs, digest given (4.12 c)": (
        (1, 40, 40), 3, "c64bd101fc9a4a2ce0a27c408d9200911f139a895469b04a40a6fa2890830d23", SEVCTL_TIK,
        "lswbxWxI9gckya16JQvdFtpYmNO4b+3inAPpqsgoBI7DE/q1EcIWsVBbGy6pkDxA",
    ),
    "sevctl tests/measurementbuild.rs, of its 4 KiB firmware file, whose SHA-256 this is (4.12 c)": (
        (1, 40, 40), 3, "2f6fc6065f4abc131eb4fb2b5090a542636eae84a94c0db0fdd5f405cb372ff5", SEVCTL_TIK,
        "oMDewIouJSpbpNRHj7Mk3p08H2dPZQdsZMU14qIymBnDE/q1EcIWsVBbGy6pkDxA",
    ),
    "sevctl tests/measurementbuild.rs, that file and its table of kernel hashes (4.12 c)": (
        (1, 40, 40), 3, "4b47fec6f851487c33714c8a00a832a1b705ad0a7cac4a647388eccfa9f0c570", SEVCTL_TIK,
        "h3auYbWQnVW7EGLWN4Hf9SN0oEYMPU2sK4bLnefWPwvDE/q1EcIWsVBbGy6pkDxA",
    ),
    "sevctl tests/measurementbuild.rs, that file and 4 vCPUs of EPYC-Milan (4.12 c)": (
        (1, 49, 6), 5, "847b5ab6db136ea67dc5a95478ebe7e5ebbe93e9e74bdb1284165f9007a4e367", SEVCTL_TIK,
        "/o0nzDKE5XgtVnUZWPhUea/WZYrTKLExR7KCwuMdbActvpWfXTFk21KMZIAAhQny",
    ),
    "libvirt's tool said `OK: Looks good to me` to this one (4.12 d)": (
        tuple(E2E["api"]), E2E["policy"], E2E["ld"], SESSION["tik"], E2E["b64"],
    ),
    "sev-tool --calc_measurement, run (4.12 d)": (
        (0, 0x18, 0x0F), 5, sha256(b"sevlab").hexdigest(), SESSION["tik"],
        b64encode(unhex("025c88649f237e228671429e70b89abb2d1e58c2809dba5c7cf4fd9578f0c142") + bytes(16)).decode(),
    ),
    "virt-qemu-sev-validate, SEV, policy 1 (4.12 f)": (
        (0, 24, 15), 1, "7b456907dd0786d415999e801a1ac4637b8ed4d7cf5378cfc6edbe5e574dd773", bytes(range(0x20, 0x30)).hex(),
        "+UC0KGnpBYd2OLy7N+oet/WUH3Uu71S23hLWFMJ9H4+goaKjpKWmp6ipqqusra6v",
    ),
    "virt-qemu-sev-validate, SEV, policy 3, API 1.55 build 25 (4.12 f)": (
        (1, 55, 25), 3, "7b456907dd0786d415999e801a1ac4637b8ed4d7cf5378cfc6edbe5e574dd773", bytes(range(0x20, 0x30)).hex(),
        "Ahbst0L6GWaJYru2wbwMZAUKO2li7ldokSL1vezI3cegoaKjpKWmp6ipqqusra6v",
    ),
    "virt-qemu-sev-validate, SEV with kernel hashes (4.12 f)": (
        (0, 24, 15), 1, "da3f4a7f7dc99b4ab54dca5442042f8a6385154b2b2a0ddf384fe6d6254296e8", bytes(range(0x20, 0x30)).hex(),
        "SnSP4VMj1jNFz8F1LgSx09muGRdp9+673TryU6AwBjqgoaKjpKWmp6ipqqusra6v",
    ),
    "virt-qemu-sev-validate, SEV-ES, policy 5, 2 vCPUs (4.12 f)": (
        (0, 24, 15), 5, E2E["ld"], bytes(range(0x20, 0x30)).hex(),
        "gjn1k1nj1c1fn2GBtvCqpV2jSjjxSwJbiB0HQKQzBWmgoaKjpKWmp6ipqqusra6v",
    ),
    "virt-qemu-sev-validate, SEV-ES, policy 7, 1 vCPU of EPYC-Milan (4.12 f)": (
        (0, 24, 15), 7, "1098dfc8c777edbe39cd994cd7c26a9220d9e0791209ab1c26fc073cec1b4845", bytes(range(0x20, 0x30)).hex(),
        "KxM+jLupRo63lDlAwDVHYvUtsVR3xCoKn/wflILktLqgoaKjpKWmp6ipqqusra6v",
    ),
}  # fmt: skip


@pytest.mark.parametrize("origin", FOREIGN_MEASUREMENTS)
def test_a_foreign_tools_measurement_is_the_one_we_expect(origin: str) -> None:
    """The origin is the test's parameter; numbers in brackets are sections of firmware.md."""
    api, policy, digest, tik, text = FOREIGN_MEASUREMENTS[origin]
    blob = b64decode(text)

    assert owner.expected_measurement(unhex(digest), tik=unhex(tik), policy=policy, mnonce=blob[32:], api=api) == blob[:32]
    assert owner.check_measurement(blob, digest=unhex(digest), tik=unhex(tik), policy=policy, api=api)


@pytest.mark.parametrize("origin", FOREIGN_MEASUREMENTS)
@pytest.mark.parametrize("wrong", ["digest", "tik", "policy", "build"])
def test_a_foreign_tools_measurement_fits_nothing_else(origin: str, wrong: str) -> None:
    """The same answers, one input changed: each is refused."""
    api, policy, digest, tik, text = FOREIGN_MEASUREMENTS[origin]
    arguments: dict[str, Any] = {"digest": unhex(digest), "tik": unhex(tik), "policy": policy, "api": api}
    arguments |= {
        "digest": {"digest": spoilt(unhex(digest), 0)},
        "tik": {"tik": spoilt(unhex(tik), 15)},
        "policy": {"policy": policy ^ 8},
        "build": {"api": (*api[:2], api[2] ^ 1)},
    }[wrong]

    assert not owner.check_measurement(b64decode(text), **arguments)


def test_the_same_launch_under_old_firmware() -> None:
    """`measure_api_lt_0_17` of vectors.json: policy, digest, nonce, and no version (firmware.md 4.6; the rule is sev-tool's)."""
    old = unhex(E2E["measure_api_lt_0_17"])
    arguments: dict[str, Any] = {"digest": unhex(E2E["ld"]), "tik": unhex(SESSION["tik"]), "policy": E2E["policy"]}
    blob = old + unhex(E2E["mnonce"])

    assert owner.check_measurement(blob, **arguments, api=(0, 16, 0))
    assert "by the rule of API 0.16 and older" in owner.check_measurement(blob, **arguments, api=(0, 24, 15)).reason


def test_build_16_is_not_build_15() -> None:
    """libvirt's tool refuses this one with exit status 1 (firmware.md 4.12 d)."""
    verdict = owner.check_measurement(
        b64decode(E2E["b64"]), digest=unhex(E2E["ld"]), tik=unhex(SESSION["tik"]), policy=E2E["policy"], api=(0, 24, 16)
    )

    assert verdict.reason == "the launch is the one expected, but the firmware is 0.24 build 15, not 0.24 build 16"


# ------------------------------------------------------------- digests

# sev-snp-measure on Debian's OVMF.fd (firmware.md 5.5): (vCPUs, model) -> version 0.0.13 (init2), version 0.0.9 (legacy).
ES_DIGESTS = {
    (1, "EPYC"): ("5bcbb5a45e7a9fa4699b6cc8f775382a810ff5a0186d3b90069ba28b1840b38f",
                  "4f3747ba180ed949656ed604d894d59ce850b7c0bbbbc812e695e6225306a59a"),
    (1, "EPYC-Rome"): ("67f9add3077f756e7b56a31d4ac8656b7f1e82340c0890e684d8db51e300d4f0",
                       "26bce64ef5c718e0989d503cbca28536b6b191473a0f2ecd9760fbb07998b357"),
    (1, "EPYC-Milan"): ("8590d0b6d4beced4ec5d855960dd684f2887af7ae80bb6783610620c6aa34362",
                        "1098dfc8c777edbe39cd994cd7c26a9220d9e0791209ab1c26fc073cec1b4845"),
    (1, "EPYC-Genoa"): ("e48a0906995464c95eca3627e377ef9abc17045c1c988fc8ed36be32b5c292fe",
                        "a26a52c09eee6d5223d8b99fa419a6cf158ef7936ddb42bf2ea1589b350170b6"),
    (2, "EPYC-v4"): ("5b1d28d8e8b3c2c9939d39bf18a7f05b16935279425c1c1e1ab19109acca9ffd",
                     "38e06fff369183b985aa39a7f66ea84e97f9bcf0b54509e9f0dec69ba9cab4fc"),
    (2, "EPYC-Milan"): ("e0adde7468e70028fce4c0150878129230f27fdba89f9db65682f82819b70763",
                        "baab03bac1e7647bf7ef1e797a93791cfb4b158477bd4b57deffbeb3f1fdd13e"),
    (4, "EPYC-v4"): ("5f69b0f48cbd00c7bed859a9d597034d426b3a64a443674755132d833bf0e480",
                     "1d2c81b198eb75bcb4b61181a00a2e7bfe6d066d00f2c74dcb6bf17e9dc3e19b"),
}  # fmt: skip
DIRECT_BOOT: dict[str, Any] = {"kernel": b"kernel-image-bytes", "initrd": b"initrd-bytes", "append": "console=ttyS0"}


@pytest.mark.parametrize(("vcpus", "cpu"), ES_DIGESTS)
def test_the_digests_that_two_versions_of_sev_snp_measure_gave(vcpus: int, cpu: str, ovmf: bytes) -> None:
    """sev-snp-measure 0.0.13 and 0.0.9 --mode seves, on Debian's OVMF.fd: they disagree, by design (firmware.md 5.2, 5.5)."""
    for how, digest in zip(("init2", "legacy"), ES_DIGESTS[vcpus, cpu], strict=True):
        assert owner.expected_digest(ovmf, es=True, vcpus=vcpus, cpu=cpu, vmsa_variant=how).hex() == digest


def test_the_digest_of_a_direct_boot_that_libvirts_tool_accepted(ovmf: bytes) -> None:
    """virt-qemu-sev-validate --kernel --initrd --cmdline (firmware.md 4.12 f, last row)."""
    assert owner.expected_digest(ovmf, **DIRECT_BOOT).hex() == "da3f4a7f7dc99b4ab54dca5442042f8a6385154b2b2a0ddf384fe6d6254296e8"
    assert owner.expected_digest(ovmf, **DIRECT_BOOT | {"append": ""}) != owner.expected_digest(ovmf, **DIRECT_BOOT)


def test_the_table_of_kernel_hashes_that_the_tools_write() -> None:
    """sev-snp-measure and virt-qemu-sev-validate (firmware.md 5.4)."""
    table = unhex(
        "06d63894224fc94cb479a793d411fd21a800d82dd09720bd944caa78e7714d36ab2a3200f18aae9b3c09e55bc3047ad361e2442d7c53372470b2958f"
        "b83293209a784f7131f7ba442f3ad74b9af141e29169781d3200ca17bed8bc4079637fa3d2a691a5174d7a4f6b9787b196222b7b18062755c99a3794"
        "e74dd2ab7f42b835d5b172d2045b32005ac2acb04754f42100509c99e489d9cf32c1fd07e0989a567ea0abad3e1f5cfb0000000000000000"
    )

    assert kernel_hashes(DIRECT_BOOT["kernel"], DIRECT_BOOT["initrd"], DIRECT_BOOT["append"]) == table
    assert owner.expected_digest(b"", **DIRECT_BOOT) == sha256(table).digest()


# ------------------------------------------------------------- secrets

SEVCTL_SECRET: dict[str, bytes] = {
    "tik": unhex("c6d5a9956133050912b24bbe5c372686"),
    "tek": unhex("52a869b79ab9c13bb6a92b0561619cb3"),
    "iv": unhex("ac5474ed4dd32c7d989ec523d92559ec"),
    "measure": b64decode("TLeA7607lZQntLjRY1/i+sbtdSZ+75zxpz4Px9hzpBLwItF5Q2o4prA++3ZZv9ZS"),
}
ONE_SECRET = {"736869e5-84f0-4973-92ec-06879ce3da0b": b"MY-LUKS-PASSPHRASE"}
TWO_SECRETS = ONE_SECRET | {"736869e5-aaaa-4973-92ec-06879ce3da0b": b"SOME OTHER SECRET"}


@pytest.mark.parametrize(
    ("entries", "header", "payload"),
    [
        (ONE_SECRET, "AAAAAKxUdO1N0yx9mJ7FI9klWey8FSzeYQ4X8K71VzNKLU/KQsIsQxLjtbhaPUewqshX5Q==",
         "0U3e5PcXv0UW+H4tSBFKOdCYfKE1+j38Bc2fuO16mYiyI+sWx7INfn+lgYj56GL12yyinDa+lVfCCwD/2w5cPA=="),
        (TWO_SECRETS, "AAAAAKxUdO1N0yx9mJ7FI9klWeyZ3r0dOEKHUOhIRqzGYYvTJgdMtBPL1nK6GD9aGET7Ng==",
         "0U3e5PcXv0UW+H4tSBFKObWYfKE1+j38Bc2fuO16mYiyI+sWx7INfn+lgYj56GL12yyinDa+lVfCC+WWs332lpLNUX1ZI3YK7vYgtys4X+uGxEIlkIQ90v8/w8ZFmQMe"),
    ],
)  # fmt: skip
def test_the_packets_that_sevctl_builds(entries: dict[str, bytes], header: str, payload: str) -> None:
    """virtee/sevctl tests/secretbuild.rs, secrets one and two (firmware.md 4.12 c)."""
    tek, tik, measure, iv = (SEVCTL_SECRET[key] for key in ("tek", "tik", "measure", "iv"))

    assert owner.wrap_secret(tek, tik, measure, owner.secret_table(entries), iv=iv) == (b64decode(header), b64decode(payload))


def test_the_table_that_sevctl_builds() -> None:
    """virtee/sevctl tests/secretbuild.rs, decrypted (firmware.md 4.12 c)."""
    table = unhex(
        "42f5741edd71664d963eef4287ff173b3a000000e5696873f084734992ec06879ce3da0b"
        "260000004d592d4c554b532d50415353504852415345000000000000"
    )

    assert owner.secret_table({"luks-key": b"MY-LUKS-PASSPHRASE"}) == table


@pytest.mark.parametrize(("length", "fits"), [(16343, True), (16344, True), (16345, False)])
def test_the_largest_secret_is_sevctls(length: int, fits: bool) -> None:
    """virtee/sevctl tests/secretbuild.rs: 16343 and 16344 bytes of data both make 16 KiB, which is as much as travels."""
    table = owner.secret_table({"23058844-597b-42fb-8259-a0f5d9d495af": bytes(length)})

    assert len(table) == (16384 if fits else 16400)
    if fits:
        owner.wrap_secret(bytes(16), bytes(16), bytes(32), table)
    else:
        with pytest.raises(ValueError, match="at most 16384 bytes"):
            owner.wrap_secret(bytes(16), bytes(16), bytes(32), table)


@pytest.mark.parametrize(("api", "mac"), [((0, 24), SECRET["hdr"][40:]), ((0, 16), SECRET["mac_api_lt_0_17"])])
def test_the_packet_with_a_fixed_iv(api: tuple[int, int], mac: str) -> None:
    """`launch_secret` of vectors.json, under both rules (firmware.md 4.7, 4.12 d)."""
    tek, tik, measure, iv = unhex(SESSION["tek"]), unhex(SESSION["tik"]), unhex(SECRET["measure"]), unhex(SECRET["iv"])
    header, ciphertext = owner.wrap_secret(tek, tik, measure, unhex(SECRET["plaintext"]), iv=iv, api=api)

    assert header == bytes(4) + iv + unhex(mac)
    assert ciphertext == unhex(SECRET["ciphertext"])


def test_the_packet_that_sev_tool_sealed() -> None:
    """sev-tool --package_secret of "HELLOooo12345678" for the measurement of its --calc_measurement (firmware.md 4.12 d)."""
    iv, mac = unhex("f0135170a0f475f30825b15df931b876"), unhex("5ba2d811b5cc8e86b62899980666789dfbb279d091037beb073a64e336a30203")
    measure = unhex("025c88649f237e228671429e70b89abb2d1e58c2809dba5c7cf4fd9578f0c142")
    tek, tik = unhex(SESSION["tek"]), unhex(SESSION["tik"])

    packet = owner.wrap_secret(tek, tik, measure, b"HELLOooo12345678", iv=iv)
    assert packet == (PacketHeader(0, iv, mac).pack(), unhex("91462fef378e19ae7fc09c0dba1aa8b4"))


@pytest.mark.parametrize("wrong", ["measure", "tik", "tek", "iv"])
def test_a_packet_for_anything_else_is_another_packet(wrong: str) -> None:
    """sevctl's packet once more, one input changed: its MAC does not come out."""
    headers = set()
    for given in (SEVCTL_SECRET, SEVCTL_SECRET | {wrong: spoilt(SEVCTL_SECRET[wrong], 3)}):
        keys = (given[key] for key in ("tek", "tik", "measure"))
        headers.add(owner.wrap_secret(*keys, b"sixteen bytes...", iv=given["iv"])[0])

    assert len(headers) == 2
