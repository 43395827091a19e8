"""The certificate chain, as a careful owner judges it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sevlab import owner
from sevlab.abi import cert
from sevlab.abi.cert import SevCert
from sevlab.owner import roots
from sevlab.owner.certificate import UNSIGNED_CEK
from sevlab.owner.chain import EDGES, NAMES, ChainVerified
from sevlab.psp import kds
from sevlab.trace import Trace

Make = Callable[..., dict[str, bytes]]
EMPTY = {"sig1_usage": cert.USAGE_INVALID, "sig1_algo": cert.ALGO_INVALID, "sig1": b""}


def spoilt(data: bytes, at: int, value: int | None = None) -> bytes:
    """A copy with one byte changed."""
    changed = bytearray(data)
    changed[at] = changed[at] ^ 1 if value is None else value
    return bytes(changed)


def changed(data: bytes, **fields: object) -> bytes:
    """A copy of a SEV certificate with some fields changed, unsigned again by that."""
    return SevCert.unpack(data).replace(**fields).pack()


def failing(verdict: owner.ChainVerdict) -> set[tuple[str, str]]:
    """The edges that were found wrong."""
    return {(edge.signer, edge.subject) for edge in verdict.edges if edge.ok is False}


# ------------------------------------------------------------- what is trusted


def test_an_honest_chain_is_trusted_up_to_the_root_it_names(make_platform: Make) -> None:
    verdict = owner.verify_chain(make_platform())

    assert verdict and verdict.reason == ""
    assert verdict.root == "sevlab's emulated root"
    assert [(edge.signer, edge.subject) for edge in verdict.edges] == list(EDGES)
    assert all(edge.ok is True and edge.reason == "" for edge in verdict.edges)


def test_the_emulators_root_is_never_taken_for_amds(make_platform: Make) -> None:
    verdict = owner.verify_chain(make_platform())

    assert verdict.emulated
    assert str(verdict) == "trusted, up to sevlab's emulated root: an emulated platform, no AMD hardware"


def test_either_slot_of_the_pek_may_hold_either_signature(make_platform: Make) -> None:
    plain, swapped = make_platform(), make_platform(pek_slots=(2, 1))

    assert SevCert.unpack(swapped["pek"]).sig1_usage == cert.USAGE_CEK
    assert plain["pek"] != swapped["pek"]
    assert owner.verify_chain(swapped)


def test_keys_may_sign_with_sha_384(make_platform: Make, make_key, sign_with) -> None:  # type: ignore[no-untyped-def]
    files = make_platform()
    algo = cert.ALGO_ECDSA_SHA384
    pek = sign_with(make_key(1003, cert.USAGE_PEK, algo), 1, 1001, cert.USAGE_OCA)
    files["pek"] = sign_with(pek, 2, 1002, cert.USAGE_CEK).pack()
    files["pdh"] = sign_with(make_key(1004, cert.USAGE_PDH, cert.ALGO_ECDH_SHA256), 1, 1003, cert.USAGE_PEK, algo).pack()

    assert owner.verify_chain(files)


def test_a_chain_is_read_from_names_a_directory_or_one_file(make_platform: Make, tmp_path: Path) -> None:
    files = make_platform()
    for name, data in files.items():
        (tmp_path / f"{name}.cert").write_bytes(data)
    one = tmp_path / "chain"
    one.write_bytes(b"".join(files[name] for name in ("pdh", "pek", "oca", "cek", "ask", "ark")))

    chain = owner.Chain.of(files)
    assert chain == owner.Chain.of({f"{name}.cert": data for name, data in files.items()})
    assert chain == owner.Chain.of(tmp_path) == owner.Chain.of(str(one)) == owner.Chain.of(chain)
    assert owner.verify_chain(tmp_path)


def test_the_owners_pin_is_the_root_that_the_key_server_gives_out(make_platform: Make) -> None:
    ark, ask = kds.ca_certificate("ark"), kds.ca_certificate("ask")

    assert ark.header.key_id == roots.EMULATED_ID
    assert roots.key_hash(ark) == roots.PINS[roots.EMULATED_ROOT]
    assert owner.verify_chain(make_platform() | {"ark": ark.pack(), "ask": ask.pack()})


def test_every_product_that_the_layouts_name_has_a_pin_of_its_own() -> None:
    assert set(roots.PINS) == {*cert.AMD_ROOTS, roots.EMULATED_ROOT}
    assert len(set(roots.PINS.values())) == len(roots.PINS)


def test_looking_leaves_a_row_in_the_owners_lane(make_platform: Make) -> None:
    trace = Trace()

    owner.verify_chain(make_platform(), trace=trace)
    owner.verify_chain(make_platform() | {"cek": b""}, trace=trace)

    rows = trace.rows(ChainVerified)
    assert [(row["lane"], row["ok"]) for row in rows] == [("owner", 1), ("owner", 0)]
    assert {row["root"] for row in rows} == {roots.EMULATED_ROOT}
    assert rows[1]["reason"] == "the CEK certificate is missing"


# ------------------------------------------------------------- real chips


@pytest.mark.parametrize("product", ["naples", "rome"])
def test_a_real_chips_chain_is_trusted(product: str, shared: Path) -> None:
    """The chains of two real chips, from virtee/sev's tests (tests/naples, tests/rome)."""
    verdict = owner.verify_chain(shared / "data" / "certs" / product)

    assert verdict, verdict.reason
    assert verdict.root == f"AMD's root for {product.capitalize()}" and not verdict.emulated


@pytest.mark.parametrize("product", ["naples", "rome"])
@pytest.mark.parametrize("name", NAMES)
def test_a_real_chain_with_one_signed_bit_changed_is_refused(product: str, name: str, shared: Path) -> None:
    """The same chains, spoilt in the upper half of a key (its y, or its modulus)."""
    chain = owner.Chain.of(shared / "data" / "certs" / product)
    files = {key: getattr(chain, key) for key in NAMES}
    files[name] = spoilt(files[name], 0x5C if name not in ("ark", "ask") else 0x40 + (len(files[name]) - 64) // 2)

    assert not owner.verify_chain(files)


def test_the_public_naples_bundles_ark_without_a_signature_says_so(shared: Path) -> None:
    """AMD's own download ends 256 bytes early (firmware.md 4.3)."""
    chain = owner.Chain.of(shared / "data" / "certs" / "naples")
    verdict = owner.verify_chain({key: getattr(chain, key) for key in NAMES} | {"ark": chain.ark[:576]})

    assert verdict.reason == "the ARK file ends before its signature, as AMD's public Naples bundle does: 832 bytes are needed"


def test_the_cek_of_another_product_line_is_not_this_asks(shared: Path) -> None:
    """Rome's CEK under Naples's CA: two algorithms, so no slot names this ASK."""
    naples, rome = (owner.Chain.of(shared / "data" / "certs" / product) for product in ("naples", "rome"))
    verdict = owner.verify_chain({key: getattr(naples, key) for key in NAMES} | {"cek": rome.cek})

    assert verdict.reason == "neither slot of the CEK holds a signature of the ASK by RSA-SHA256"
    assert failing(verdict) == {("ask", "cek"), ("cek", "pek")}


def test_amds_key_id_on_another_key_is_refused(make_platform: Make) -> None:
    """What sev-tool accepts: it compares eight bytes of the id and then trusts the key in the file (firmware.md 4.3)."""
    root = cert.AMD_ROOTS["Naples"]
    verdict = owner.verify_chain(make_platform(home_made=True, ids=(root.ark_id, root.ask_id)))

    assert verdict.reason.startswith("the ARK has the key id of AMD's root for Naples, but it is another key")
    assert failing(verdict) == {("owner", "ark")}


# ------------------------------------------------------------- what is refused


def test_a_home_made_root_is_refused_although_every_signature_fits(make_platform: Make) -> None:
    verdict = owner.verify_chain(make_platform(home_made=True, ids=(b"home-made-ARK-01", b"home-made-ASK-01")))

    assert not verdict and verdict.root == ""
    assert "is none of AMD's: a home-made root" in verdict.reason
    assert failing(verdict) == {("owner", "ark")}
    assert all(edge.ok for edge in verdict.edges[1:])


def test_the_emulated_roots_id_on_another_key_is_refused(make_platform: Make) -> None:
    verdict = owner.verify_chain(make_platform(home_made=True))

    assert verdict.reason.startswith("the ARK has the key id of sevlab's emulated root, but it is another key")


def test_a_product_without_a_pin_is_known_and_still_refused(make_platform: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roots, "PINS", {name: pin for name, pin in roots.PINS.items() if name != "Milan"})
    root = cert.AMD_ROOTS["Milan"]

    verdict = owner.verify_chain(make_platform(home_made=True, ids=(root.ark_id, root.ask_id)))

    assert verdict.reason.startswith("the ARK has the key id of AMD's root for Milan, but the owner has no pinned hash")


def test_the_exported_unsigned_cek_is_refused_with_where_the_signed_one_is(make_platform: Make) -> None:
    files = make_platform()
    files["cek"] = changed(files["cek"], **EMPTY)
    verdict = owner.verify_chain(files)

    assert verdict.reason == "usage 0x1000 means this slot is empty: the exported CEK is unsigned, the signed one comes from AMD"
    assert failing(verdict) == {("ask", "cek")}


def test_another_chips_cek_is_refused_at_the_pek(make_platform: Make) -> None:
    verdict = owner.verify_chain(make_platform(1) | {"cek": make_platform(2)["cek"]})

    assert verdict.reason == "the PEK was not signed by this CEK: the CEK is another chip's, or the PEK is not this platform's"
    assert failing(verdict) == {("cek", "pek")}


@pytest.mark.parametrize(
    ("name", "edges", "words"),
    [
        ("cek", {("cek", "pek")}, "another chip's"),
        ("oca", {("oca", "pek")}, "not this platform owner's"),
        ("pek", {("cek", "pek"), ("oca", "pek"), ("pek", "pdh")}, "not this platform's"),
        ("pdh", {("pek", "pdh")}, "it need not be this platform"),
    ],
)
def test_one_file_of_another_platform_breaks_exactly_the_edges_it_stands_on(
    name: str, edges: set[tuple[str, str]], words: str, make_platform: Make
) -> None:
    verdict = owner.verify_chain(make_platform(1) | {name: make_platform(2)[name]})

    assert failing(verdict) == edges
    assert words in verdict.reason


@pytest.mark.parametrize(
    ("one", "other", "reason"),
    [
        ("ark", "ask", "the file given as ARK is no ARK: its usage is 0x13 (ASK), not 0x0"),
        ("oca", "pek", "the file given as OCA is no OCA: its usage is 0x1002 (PEK), not 0x1001"),
        ("cek", "pdh", "the file given as CEK is no CEK: its usage is 0x1003 (PDH), not 0x1004"),
        ("pek", "pdh", "the file given as PEK is no PEK: its usage is 0x1003 (PDH), not 0x1002"),
        ("ark", "pdh", "the ARK file cannot be read: an AMD certificate has 2048 or 4096 bits, this one"),
        ("ask", "cek", "the ASK file cannot be read: an AMD certificate has 2048 or 4096 bits, this one"),
    ],
)
def test_two_files_exchanged_are_named(one: str, other: str, reason: str, make_platform: Make) -> None:
    files = make_platform()
    files[one], files[other] = files[other], files[one]
    verdict = owner.verify_chain(files)

    assert not verdict
    assert verdict.reason.startswith(reason)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_is_missing_is_named(name: str, make_platform: Make, tmp_path: Path) -> None:
    for other, data in make_platform().items():
        if other != name:
            (tmp_path / f"{other}.cert").write_bytes(data)

    assert owner.verify_chain(tmp_path).reason == f"the {name.upper()} certificate is missing"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("cut", [1, 100, 1000, -1])
def test_a_file_cut_short_or_too_long_is_refused(name: str, cut: int, make_platform: Make) -> None:
    files = make_platform()
    files[name] = files[name][:-cut] if cut > 0 else files[name] + b"\0"
    verdict = owner.verify_chain(files)

    assert not verdict
    assert verdict.reason.startswith(f"the {name.upper()} file")


def test_what_hangs_on_an_unusable_certificate_is_not_checked_and_says_so(make_platform: Make) -> None:
    verdict = owner.verify_chain(make_platform() | {"pek": b"\0" * 2084})
    edge = verdict.edges[-1]

    assert (edge.signer, edge.subject, edge.ok) == ("pek", "pdh", None)
    assert edge.reason == "not checked: there is no usable PEK"
    assert failing(verdict) == {("cek", "pek"), ("oca", "pek")}


# ------------------------------------------------------------- two things wrong at once


def test_what_is_wrong_nearest_the_root_is_the_reason(make_platform: Make) -> None:
    files = make_platform(home_made=True, ids=(b"home-made-ARK-01", b"home-made-ASK-01"))
    verdict = owner.verify_chain(files | {"pdh": files["pdh"][:-1]})

    assert "a home-made root" in verdict.reason
    assert verdict.edges[-1].reason == "the PDH file has 2083 bytes: a certificate of this kind has exactly 2084"


def test_an_unsigned_cek_is_told_before_a_pek_of_another_chip(make_platform: Make) -> None:
    files = make_platform(1) | {"pek": make_platform(2)["pek"]}
    files["cek"] = changed(files["cek"], **EMPTY)
    verdict = owner.verify_chain(files)

    assert verdict.reason == UNSIGNED_CEK
    assert failing(verdict) == {("ask", "cek"), ("cek", "pek"), ("oca", "pek"), ("pek", "pdh")}


# ------------------------------------------------------------- what is no chain at all


def test_a_path_that_is_not_there_is_an_oserror(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        owner.verify_chain(tmp_path / "nowhere")


@pytest.mark.parametrize("length", [0, 2084, 4 * 2084 - 1, 4 * 2084 + 1600, 4 * 2084 + 832 + 1600])
def test_a_chain_file_of_another_length_is_no_chain_file(length: int) -> None:
    with pytest.raises(ValueError, match="a chain file holds PDH, PEK, OCA, CEK, then ASK and ARK or neither"):
        owner.Chain.from_bytes(bytes(length))


def test_a_chain_file_without_amds_part_is_read_and_refused(make_platform: Make, tmp_path: Path) -> None:
    files = make_platform()
    (tmp_path / "sev.chain").write_bytes(b"".join(files[name] for name in ("pdh", "pek", "oca", "cek")))
    verdict = owner.verify_chain(tmp_path / "sev.chain")

    assert verdict.reason == "the ARK certificate is missing"
    assert failing(verdict) == {("owner", "ark"), ("ark", "ark"), ("ark", "ask")}


@given(name=st.sampled_from(NAMES), data=st.binary(max_size=64), at=st.integers(0, 2083), whole=st.booleans())
def test_no_bytes_make_the_verifier_stumble(make_platform: Make, name: str, data: bytes, at: int, whole: bool) -> None:
    """Whatever a host sends is answered by a verdict, never by an exception (law)."""
    files = make_platform()
    patched = bytearray(files[name])
    patched[at : at + len(data)] = data
    verdict = owner.verify_chain(files | {name: bytes(patched) if whole else data})

    assert bool(verdict) == (verdict.reason == "") == all(edge.ok for edge in verdict.edges)
