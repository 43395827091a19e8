"""The misc controller: charges all the way up, limits, files."""

from __future__ import annotations

from errno import EBUSY, EINVAL, ENOENT, ERANGE

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sevlab.kvm.cgroup import MAX, Cgroup
from sevlab.kvm.fd import KvmError

PATHS = ["/", "/a", "/a/b", "/a/c", "/d"]


def tree(**capacity: int) -> Cgroup:
    return Cgroup.root(capacity or {"sev": 4, "sev_es": 2}, {path: {} for path in PATHS[1:]})


def refused(function: object, *args: object) -> int:
    with pytest.raises(KvmError) as no:
        function(*args)  # type: ignore[operator]
    return no.value.errno or 0


# ------------------------------------------------------------------- the tree


def test_a_cgroup_is_found_by_its_path() -> None:
    root = tree()

    assert [root.find(path).path for path in PATHS] == PATHS
    assert root.find("a//b/") is root.find("/a/b")


@pytest.mark.parametrize("path", ["/x", "/a/x", "/a/b/c", "/A"])
def test_an_unknown_cgroup_is_enoent(path: str) -> None:
    assert refused(tree().find, path) == ENOENT


def test_limits_may_be_given_with_the_tree_and_only_for_what_exists() -> None:
    root = Cgroup.root({"sev": 4}, {"/a": {"sev": 1}})
    assert root.find("/a").max["sev"] == 1

    with pytest.raises(KvmError):
        Cgroup.root({"sev": 4}, {"/a": {"cpu": 1}})
    with pytest.raises(KvmError):
        Cgroup.root({"sev": 4}, {"/a": {"sev": -1}})


# -------------------------------------------------------------------- charges


def test_a_charge_is_made_here_and_at_all_above() -> None:
    root = tree()
    root.find("/a/b").try_charge("sev")

    assert [root.find(path).current["sev"] for path in PATHS] == [1, 1, 1, 0, 0]
    root.find("/a/b").uncharge("sev")
    assert [root.find(path).current["sev"] for path in PATHS] == [0] * 5


@pytest.mark.parametrize("level", ["/a", "/a/b"])
def test_a_full_level_refuses_everything_below_it_and_counts_the_event_there_and_above(level: str) -> None:
    root = tree()
    root.find(level).write("misc.max", "sev 1")
    root.find("/a/b").try_charge("sev")

    assert refused(root.find("/a/b").try_charge, "sev") == EBUSY
    assert [root.find(path).current["sev"] for path in PATHS] == [1, 1, 1, 0, 0]
    assert [root.find(path).events["sev"] for path in PATHS] == [1, 1, 1 if level == "/a/b" else 0, 0, 0]


def test_a_sibling_is_not_asked() -> None:
    root = tree()
    root.find("/a/b").write("misc.max", "sev 0")

    root.find("/a/c").try_charge("sev")
    assert refused(root.find("/a/b").try_charge, "sev") == EBUSY


def test_capacity_is_the_limit_of_all_together() -> None:
    root = tree(sev=2)
    root.find("/a").try_charge("sev")
    root.find("/d").try_charge("sev")

    assert refused(root.find("/a").try_charge, "sev") == EBUSY
    assert root.events["sev"] == 1


def test_the_two_resources_are_counted_apart() -> None:
    root = tree()
    root.find("/a").write("misc.max", "sev 0")

    root.find("/a").try_charge("sev_es")
    assert root.current == {"sev": 0, "sev_es": 1}


@pytest.mark.parametrize("resource", ["sev_es", "cpu", "", "SEV"])
def test_a_resource_that_the_machine_lacks_is_einval_and_no_event(resource: str) -> None:
    root = tree(sev=4)

    assert refused(root.find("/a").try_charge, resource) == EINVAL
    assert root.events == {"sev": 0, "sev_es": 0}


def test_a_limit_below_the_usage_is_taken_and_refuses_only_what_is_new() -> None:
    root = tree()
    group = root.find("/a")
    group.try_charge("sev")
    group.try_charge("sev")
    group.write("misc.max", "sev 1")
    assert group.current["sev"] == 2

    group.uncharge("sev")
    assert refused(group.try_charge, "sev") == EBUSY


def test_below_zero_there_is_a_line_in_the_log_and_the_count_goes_on() -> None:
    log: list[str] = []
    root = Cgroup.root({"sev": 2}, {"/a": {}}, log.append)
    root.find("/a").uncharge("sev")

    assert root.current["sev"] == -1
    assert log == ["misc cgroup resource sev became less than 0"] * 2


# ---------------------------------------------------------------------- files


def test_the_files_say_what_the_kernel_s_say() -> None:
    root = tree()
    group = root.find("/a")
    group.write("misc.max", "sev_es 3\n")
    group.try_charge("sev")

    assert root.read("misc.capacity") == "sev 4\nsev_es 2\n"
    assert group.read("misc.current") == "sev 1\nsev_es 0\n"
    assert group.read("misc.max") == "sev max\nsev_es 3\n"
    assert group.read("misc.events") == "sev.max 0\nsev_es.max 0\n"


def test_what_the_machine_lacks_is_not_in_the_files() -> None:
    group = tree(sev=4).find("/a")

    assert (group.read("misc.current"), group.read("misc.max")) == ("sev 0\n", "sev max\n")


@pytest.mark.parametrize(
    ("path", "file"),
    [("/", "misc.current"), ("/", "misc.max"), ("/", "misc.events"), ("/a", "misc.capacity"), ("/a", "misc"), ("/a", "")],
)
def test_files_that_are_not_there(path: str, file: str) -> None:
    group = tree().find(path)

    assert refused(group.read, file) == ENOENT
    assert refused(group.write, file, "sev 1") == ENOENT


WRITES = [
    ("sev 3", 3),
    ("sev max", MAX),
    ("  sev 3  \n", 3),
    ("sev 0", 0),
    ("sev +7", 7),
    ("sev 0x10", 16),
    ("sev 0X1f", 31),
    ("sev 010", 8),
    (f"sev {MAX}", MAX),
    (f"sev {MAX + 1}", -ERANGE),
    ("sev", -EINVAL),
    ("", -EINVAL),
    ("sev3", -EINVAL),
    ("sev  3", -EINVAL),
    ("sev\t3", -EINVAL),
    ("cpu 3", -EINVAL),
    ("SEV 3", -EINVAL),
    ("sev -1", -EINVAL),
    ("sev 3 4", -EINVAL),
    ("sev three", -EINVAL),
    ("sev MAX", -EINVAL),
    ("sev 08", -EINVAL),
    ("sev 0x", -EINVAL),
    ("sev 1_0", -EINVAL),
    ("sev ++1", -EINVAL),
    ("sev ３", -EINVAL),  # a digit, but none of the kernel's
    ("max sev", -EINVAL),
]


@pytest.mark.parametrize(("text", "answer"), WRITES)
def test_what_may_be_written_to_misc_max(text: str, answer: int) -> None:
    group = tree().find("/a")
    if answer < 0:
        assert refused(group.write, "misc.max", text) == -answer
        assert group.max["sev"] == MAX
    else:
        group.write("misc.max", text)
        assert group.max["sev"] == answer


def test_a_limit_for_what_the_machine_lacks_is_einval() -> None:
    assert refused(tree(sev=4).find("/a").write, "misc.max", "sev_es 3") == EINVAL


@pytest.mark.parametrize("file", ["misc.current", "misc.events"])
def test_files_that_one_may_only_read(file: str) -> None:
    assert refused(tree().find("/a").write, file, "sev 1") == EINVAL


# ----------------------------------------------------------------------- laws


ACTIONS = st.tuples(
    st.sampled_from(PATHS), st.sampled_from(["sev", "sev_es"]), st.sampled_from(["charge", "give", "limit"]), st.integers(0, 4)
)


@given(st.lists(ACTIONS, max_size=60))
def test_law_a_level_holds_what_is_charged_below_it_and_a_refused_charge_nothing(script: list[tuple[str, str, str, int]]) -> None:
    root = tree()
    held: list[tuple[str, str]] = []
    for path, resource, what, number in script:
        group = root.find(path)
        before = {p: dict(root.find(p).current) for p in PATHS}
        if what == "limit" and path != "/":
            group.write("misc.max", f"{resource} {number}")
        elif what == "give" and (path, resource) in held:
            group.uncharge(resource)
            held.remove((path, resource))
        elif what == "charge":
            try:
                group.try_charge(resource)
                held.append((path, resource))
                assert all(level.current[resource] <= min(level.max[resource], root.capacity[resource]) for level in group.up())
            except KvmError as no:
                assert no.errno == EBUSY
                assert {p: dict(root.find(p).current) for p in PATHS} == before

    for path in PATHS:
        for resource in ("sev", "sev_es"):
            below = [1 for p, r in held if r == resource and (p + "/").startswith(path.rstrip("/") + "/")]
            assert root.find(path).current[resource] == len(below)


@given(st.text())
def test_law_whatever_is_written_is_a_limit_or_a_refusal(text: str) -> None:
    group = tree().find("/a")
    try:
        group.write("misc.max", text)
    except KvmError as no:
        assert no.errno in (EINVAL, ERANGE)
