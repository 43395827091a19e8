"""What is no program of a guest, and what to do instead."""

from __future__ import annotations

import functools
import os
from typing import Any

import pytest
from hw.cells import digest_of

from sevlab.hw.isa import hlt, store
from sevlab.hw.program import Program, Programs, program

WHERE = 0x1000

GLOBAL = 0


class Thing:
    pass


def kind(value: Any) -> str:
    """A test's name for a value, without its address in memory."""
    return getattr(value, "__name__", type(value).__name__)


def helper(n: int) -> bytes:
    return deeper(n) + b"!"


def deeper(n: int) -> bytes:
    return bytes(n)


@program
async def hello() -> None:
    """A page to begin with."""
    await store(WHERE, helper(3))
    await hlt()


def names(where: int = 1, body: str = "return bytes(n)") -> dict[str, Any]:
    return {"WHERE": where, "helper": _function(f"def helper(n):\n    {body}\n")}


def _function(source: str) -> Any:
    import linecache

    name = f"<helper {source}>"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    space: dict[str, Any] = {}
    exec(compile(source, name, "exec"), space)
    return space["helper"]


def refused(function: Any) -> str:
    with pytest.raises(TypeError) as refusal:
        assert Program(function).digest
    return str(refusal.value)


def test_a_module_is_refused_with_what_to_do_instead() -> None:
    async def guest() -> None:
        await store(0, os.sep.encode())

    assert refused(guest).endswith("names the module os: import the constant or function it needs, so that it can be measured")


def test_an_import_inside_is_refused() -> None:
    async def guest() -> None:
        import os

        await store(0, os.sep.encode())

    assert "imports os: a guest has no modules" in refused(guest)


@pytest.mark.parametrize("value", [[1], {1: 2}, {1}, bytearray(1), Thing(), Thing, object, (1, [2])], ids=kind)
def test_what_may_change_after_the_measurement_is_refused(value: Any) -> None:
    async def guest() -> None:
        await store(0, bytes(value))

    assert "a program names instructions, functions and constants only" in refused(guest)


@pytest.mark.parametrize("name", ["print", "open", "eval", "input", "globals", "id", "hash"])
def test_builtins_that_reach_out_of_the_guest_are_refused(name: str) -> None:
    with pytest.raises(TypeError, match=f"guest names {name}: a guest has no {name}"):
        digest_of(f"async def guest():\n    {name}(1)\n")


def test_a_name_that_is_not_there_is_refused() -> None:
    async def guest() -> None:
        await store(0, nowhere)  # type: ignore[name-defined]  # noqa: F821

    assert refused(guest).endswith("names nowhere, which is not defined")


def test_a_name_that_is_bound_later_is_refused_until_then() -> None:
    async def guest() -> None:
        await store(0, later)

    assert "which is not defined yet" in refused(guest)
    later = b"now"
    assert Program(guest).digest


def test_changing_a_global_is_refused() -> None:
    async def guest() -> None:
        global GLOBAL
        GLOBAL = 5

    assert "changes the global GLOBAL" in refused(guest)


def test_an_instruction_without_await_is_refused_since_it_does_nothing() -> None:
    async def guest() -> None:
        store(0x1000, b"never")

    assert refused(guest).endswith("calls store() without await, which does nothing")


def test_a_wrapped_function_is_refused_since_the_wrapper_would_not_be_measured() -> None:
    def loud(function: Any) -> Any:
        @functools.wraps(function)
        async def inner() -> None:
            await function()

        return inner

    @loud
    async def guest() -> None:
        await hlt()

    assert "is wrapped by a decorator" in refused(guest)


def test_a_function_without_source_is_refused() -> None:
    space: dict[str, Any] = {}
    exec("async def guest():\n    pass\n", space)

    assert "has no source to measure" in refused(space["guest"])


@pytest.mark.parametrize("thing", [helper, len, 3, None, Thing, lambda: None], ids=kind)
def test_what_is_no_coroutine_function_is_no_program(thing: Any) -> None:
    with pytest.raises(TypeError, match="no coroutine function: write it with async def"):
        Program(thing)


def test_a_handler_that_is_no_coroutine_function_is_refused() -> None:
    with pytest.raises(TypeError, match="no coroutine function"):
        Program(hello.source, vc=helper)


@pytest.mark.parametrize("value", [[1], {}, object(), bytearray(b"x"), (1, (2, [3]))], ids=kind)
def test_an_argument_that_may_change_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="may change after it was measured"):
        hello.image(value)
    with pytest.raises(TypeError, match="may change after it was measured"):
        Programs().add(hello, args=(value,))
