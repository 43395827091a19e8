"""The page of a vCPU that has not started: other people's hashes of it."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sevlab.abi.ovmf import parse
from sevlab.abi.vmsa import BSP_EIP, CPU_SIGNATURES, Segment, Vmsa, initial_vmsa, signature, vmsa_page

AP_EIP = 0x0080B004  # the reset block of Debian's OVMF.fd

# firmware.md 5.2: SHA-256 of the page for EPYC-v4, first and last bytes as the tools gave them.
PAGES = [
    ("legacy", BSP_EIP, "30a76bd1", "66af"),
    ("legacy", AP_EIP, "3d1cd8f9", "3df19"),
    ("init2", BSP_EIP, "8295cef5", "788c"),
    ("init2", AP_EIP, "7ff723da", "2c95"),
]


@pytest.mark.parametrize(("variant", "eip", "head", "tail"), PAGES)
def test_the_page_of_an_epyc_v4_is_the_one_that_sev_snp_measure_makes(variant: str, eip: int, head: str, tail: str) -> None:
    digest = sha256(vmsa_page(eip, signature=CPU_SIGNATURES["EPYC-v4"], variant=variant)).hexdigest()

    assert digest.startswith(head) and digest.endswith(tail)


# firmware.md 5.5: `sev-snp-measure --mode seves` on Debian's OVMF.fd, 0.0.13 (init2) and 0.0.9 (legacy).
MEASURED = [
    (1, "EPYC", "init2", "5bcbb5a45e7a9fa4699b6cc8f775382a810ff5a0186d3b90069ba28b1840b38f"),
    (1, "EPYC", "legacy", "4f3747ba180ed949656ed604d894d59ce850b7c0bbbbc812e695e6225306a59a"),
    (1, "EPYC-Rome", "init2", "67f9add3077f756e7b56a31d4ac8656b7f1e82340c0890e684d8db51e300d4f0"),
    (1, "EPYC-Rome", "legacy", "26bce64ef5c718e0989d503cbca28536b6b191473a0f2ecd9760fbb07998b357"),
    (1, "EPYC-Milan", "init2", "8590d0b6d4beced4ec5d855960dd684f2887af7ae80bb6783610620c6aa34362"),
    (1, "EPYC-Milan", "legacy", "1098dfc8c777edbe39cd994cd7c26a9220d9e0791209ab1c26fc073cec1b4845"),
    (1, "EPYC-Genoa", "init2", "e48a0906995464c95eca3627e377ef9abc17045c1c988fc8ed36be32b5c292fe"),
    (1, "EPYC-Genoa", "legacy", "a26a52c09eee6d5223d8b99fa419a6cf158ef7936ddb42bf2ea1589b350170b6"),
    (2, "EPYC-v4", "init2", "5b1d28d8e8b3c2c9939d39bf18a7f05b16935279425c1c1e1ab19109acca9ffd"),
    (2, "EPYC-v4", "legacy", "38e06fff369183b985aa39a7f66ea84e97f9bcf0b54509e9f0dec69ba9cab4fc"),
    (2, "EPYC-Milan", "init2", "e0adde7468e70028fce4c0150878129230f27fdba89f9db65682f82819b70763"),
    (2, "EPYC-Milan", "legacy", "baab03bac1e7647bf7ef1e797a93791cfb4b158477bd4b57deffbeb3f1fdd13e"),
    (4, "EPYC-v4", "init2", "5f69b0f48cbd00c7bed859a9d597034d426b3a64a443674755132d833bf0e480"),
    (4, "EPYC-v4", "legacy", "1d2c81b198eb75bcb4b61181a00a2e7bfe6d066d00f2c74dcb6bf17e9dc3e19b"),
]


@pytest.mark.parametrize(("vcpus", "cpu", "variant", "digest"), MEASURED)
def test_firmware_and_pages_hash_to_the_digest_that_sev_snp_measure_predicts(
    ovmf: bytes, vcpus: int, cpu: str, variant: str, digest: str
) -> None:
    ap = parse(ovmf).reset_block
    assert ap == AP_EIP
    running = sha256(ovmf)
    for vcpu in range(vcpus):
        running.update(vmsa_page(ap if vcpu else BSP_EIP, signature=CPU_SIGNATURES[cpu], variant=variant))

    assert running.hexdigest() == digest


@pytest.mark.parametrize(
    ("cpu", "eax"),
    [("EPYC", 0x800F12), ("EPYC-Rome", 0x830F10), ("EPYC-Milan", 0xA00F11), ("EPYC-Genoa", 0xA10F10), ("EPYC-Turin", 0xB00F00)],
)
def test_family_model_and_stepping_encode_as_cpuid_does(cpu: str, eax: int) -> None:
    assert CPU_SIGNATURES[cpu] == eax


def test_an_old_processor_needs_no_extended_family() -> None:
    assert signature(6, 0x3A, 9) == 0x306 << 8 | 0xA9


def test_two_registers_divide_the_variants_and_nothing_else_does() -> None:
    legacy, init2 = (initial_vmsa(BSP_EIP, signature=0x800F12, variant=variant) for variant in ("legacy", "init2"))

    assert [name for name in Vmsa.NAMES if getattr(legacy, name) != getattr(init2, name)] == ["mxcsr", "fcw"]


def test_the_start_address_is_split_into_a_base_and_an_offset() -> None:
    vmsa = initial_vmsa(AP_EIP, signature=0)

    assert vmsa.cs == Segment(0xF000, 0x9B, 0xFFFF, 0x00800000) and vmsa.rip == 0xB004


def test_the_features_of_an_init2_guest_are_measured() -> None:
    assert initial_vmsa(BSP_EIP, signature=0, sev_features=1 << 5).sev_features == 32
    assert vmsa_page(BSP_EIP, signature=0, sev_features=32) != vmsa_page(BSP_EIP, signature=0)


def test_the_clouds_begin_with_other_registers() -> None:
    ec2, gce = (initial_vmsa(BSP_EIP, signature=0x800F12, vmm=vmm, variant="init2") for vmm in ("ec2", "gce"))

    assert (ec2.ss.attrib, ec2.cs.attrib, ec2.tr.attrib, ec2.rdx, ec2.mxcsr) == (0x92, 0x9A, 0x83, 0x600, 0)
    assert (gce.g_pat, gce.rdx, gce.fcw) == (0x70106, 0x600, 0)
    assert initial_vmsa(AP_EIP, signature=0, vmm="ec2").cs.attrib == 0x9B


@pytest.mark.parametrize("wrong", [{"variant": "INIT2"}, {"variant": ""}, {"vmm": "xen"}])
def test_an_unknown_variant_or_vmm_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="variant is one of legacy, init2"):
        vmsa_page(BSP_EIP, signature=0, **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("field", ["rip", "rdx"])
def test_a_value_above_64_bits_is_refused_by_its_registers_name(field: str) -> None:
    with pytest.raises(ValueError, match=rf"Vmsa\.{field}"):
        Vmsa(**{field: 1 << 64}).pack()


@given(st.binary(min_size=1, max_size=64), st.integers(0, 4032))
def test_any_page_unpacks_and_packs_to_itself(noise: bytes, at: int) -> None:
    page = bytes(at) + noise + bytes(4096 - at - len(noise))

    assert Vmsa.unpack(page).pack() == page


@pytest.mark.parametrize("length", [0, 1648, 4095])
def test_less_than_a_page_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="Vmsa takes 4096 bytes"):
        Vmsa.unpack(bytes(length))
