"""From a grid to its cases."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import RequestError
from runner.grid import expand
from runner.spec import AxisSpec

SPECS = {"n": AxisSpec(unit="elements", min=1, max=4096), "m": AxisSpec(min=1, max=64), "kind": AxisSpec(choices=["a", "b"])}
BLOCKS = {"square": {"x": "n", "n": [16, 32]}, "named": {"x": "m", "kind": ["a", "b"], "m": [1, 2, 3]}}


def points(**overrides: object) -> list[dict[str, object]]:
    return [case.axes for case in expand(BLOCKS, SPECS, overrides, 500)]


def test_blocks_are_multiplied_out_and_put_one_after_the_other() -> None:
    assert points()[:3] == [{"n": 16}, {"n": 32}, {"kind": "a", "m": 1}]
    assert len(points()) == 2 + 2 * 3


def test_every_case_knows_its_x_axis() -> None:
    assert [case.x for case in expand(BLOCKS, SPECS, {}, 500)] == ["n"] * 2 + ["m"] * 6


def test_an_override_asks_for_exactly_that_case() -> None:
    assert points(n=4090) == [{"n": 4090}]


def test_overrides_of_one_block_combine_and_keep_its_other_axes() -> None:
    assert points(kind="b") == [{"kind": "b", "m": m} for m in (1, 2, 3)]
    assert points(kind=["a"], m=5) == [{"kind": "a", "m": 5}]


def test_null_leaves_an_axis_alone() -> None:
    assert points(n=None) == points()


def test_a_case_that_two_blocks_have_is_measured_once() -> None:
    blocks = {"one": {"x": "n", "n": [16, 16]}, "two": {"x": "n", "n": [16]}}
    assert len(expand(blocks, SPECS, {}, 10)) == 1


@pytest.mark.parametrize(("overrides", "message"), [
    ({"n": 0}, "expected 1 to 4096 elements"),
    ({"n": -5}, "expected 1 to 4096 elements"),
    ({"n": 10**30}, "expected 1 to 4096 elements"),
    ({"n": []}, "is empty"),
    ({"n": "abc"}, "expected a number"),
    ({"n": True}, "expected a number"),
    ({"n": 1.5}, "expected a whole number"),
    ({"n": float("nan")}, "expected a whole number"),
    ({"n": [16, "x"]}, "expected a number"),
    ({"kind": "c"}, "no such choice; choose from a, b"),
    ({"n": 16, "m": 1}, "no block of the grid has m and n together"),
    ({"q": 1}, "no block of the grid has q together"),
])  # fmt: skip
def test_a_wrong_size_is_one_line(overrides: dict[str, object], message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        points(**overrides)
    assert len(str(caught.value).splitlines()) == 1


def test_too_many_cases_are_refused_before_they_are_built() -> None:
    blocks = {"all": {"x": "n", "n": [1] * 10**4, "m": [1] * 10**4, "kind": ["a"] * 10**4}}
    with pytest.raises(RequestError, match=r"1000000000000 cases, more than measure\.max_cases=500"):
        expand(blocks, SPECS, {}, 500)


def test_an_undeclared_axis_is_named() -> None:
    with pytest.raises(RequestError, match="axis k is not declared"):
        expand({"square": {"x": "k", "k": [1]}}, SPECS, {}, 10)


@given(
    st.lists(st.integers(1, 4096), min_size=1, max_size=9, unique=True),
    st.lists(st.integers(1, 64), min_size=1, max_size=9, unique=True),
)
def test_the_cases_are_the_product(ns: list[int], ms: list[int]) -> None:
    cases = expand({"all": {"x": "n", "n": ns, "m": ms}}, SPECS, {}, 100)
    assert [(case.axes["n"], case.axes["m"]) for case in cases] == [(n, m) for n in ns for m in ms]


# --- axes that depend on each other ---------------------------------------------------------------------------------------

RELATED = {
    "heads": AxisSpec(min=1, max=128, multiple_of="kv_heads"),
    "kv_heads": AxisSpec(min=1),
    "width": AxisSpec(min=1, max=200, multiple_of="64"),
    "seq_len": AxisSpec(min=1, max=100, multiple_of="stride", at_least="block_len"),
    "block_len": AxisSpec(min=1),
    "stride": AxisSpec(min=1),
}


def related(**axes: int | list[int]) -> list[dict[str, object]]:
    return [case.axes for case in expand({"all": {"x": next(iter(axes)), **axes}}, RELATED, {}, 500)]


@pytest.mark.parametrize(("axes", "message"), [
    ({"heads": 6, "kv_heads": 4}, "workload.heads=6: expected a multiple of kv_heads=4; try workload.heads=8"),
    ({"heads": [4, 6], "kv_heads": 4}, "workload.heads=6: expected a multiple of kv_heads=4; try workload.heads=8"),
    ({"heads": 126, "kv_heads": 50}, "workload.heads=126: expected a multiple of kv_heads=50; try workload.heads=100"),
    ({"heads": 128, "kv_heads": 129}, "expected a multiple of kv_heads=129; none fits; change workload.kv_heads"),
    ({"width": 65}, "workload.width=65: expected a multiple of 64; try workload.width=128"),
    ({"seq_len": 16, "block_len": 32}, "workload.seq_len=16: expected at least block_len=32; try workload.seq_len=32"),
    ({"seq_len": 16, "block_len": 33, "stride": 16}, "seq_len=16: expected at least block_len=33; try workload.seq_len=48"),
    ({"seq_len": 7, "block_len": 99, "stride": 60}, "expected a multiple of stride=60; none fits; change workload.stride"),
    ({"seq_len": 7, "block_len": 101}, "expected at least block_len=101; none fits; change workload.block_len"),
])  # fmt: skip
def test_axes_that_do_not_go_together_are_one_line_with_what_to_type(axes: dict[str, int], message: str) -> None:
    with pytest.raises(RequestError) as caught:
        related(**axes)
    assert str(caught.value).endswith(message)
    assert "\n" not in str(caught.value)


def test_a_relation_holds_only_where_a_case_has_both_axes() -> None:
    assert related(heads=6) == [{"heads": 6}]
    assert related(seq_len=[1, 2]) == [{"seq_len": 1}, {"seq_len": 2}]


def refusal(axes: dict[str, int]) -> str | None:
    try:
        assert related(**axes) == [axes]
    except RequestError as error:
        return str(error)
    return None


@given(st.integers(1, 128), st.integers(1, 160), st.integers(1, 100), st.integers(1, 110), st.integers(1, 110))
def test_a_case_is_refused_exactly_when_a_relation_is_broken_and_what_is_proposed_is_accepted(
    heads: int, kv_heads: int, seq_len: int, block_len: int, stride: int
) -> None:
    axes = {"heads": heads, "kv_heads": kv_heads, "seq_len": seq_len, "block_len": block_len, "stride": stride}
    holds = heads % kv_heads == 0 and seq_len % stride == 0 and seq_len >= block_len
    message = refusal(axes)
    assert (message is None) == holds
    for _ in range(2):  # both heads and seq_len may be wrong; each error names one
        if message and (proposed := re.search(r"try workload\.(\w+)=(\d+)$", message)):
            axes[proposed[1]] = int(proposed[2])
            message = refusal(axes)
    assert message is None or "none fits; change workload." in message


# --- variants of a block --------------------------------------------------------------------------------------------------

TWO = {"here": {"x": "n", "n": [16, 32], "variants": ["b", "a"]}, "there": {"x": "m", "m": [1]}}


def variants_of(blocks: dict[str, dict[str, object]], chosen: list[str]) -> list[tuple[dict[str, object], list[str]]]:
    return [(case.axes, case.variants) for case in expand(blocks, SPECS, {}, 10, chosen)]


def test_a_block_has_its_own_variants_in_the_jobs_order_and_all_go_without_saying() -> None:
    assert variants_of(TWO, ["a", "b", "c"]) == [({"n": 16}, ["a", "b"]), ({"n": 32}, ["a", "b"]), ({"m": 1}, [])]
    assert variants_of(TWO, ["a", "b"]) == [({"n": 16}, []), ({"n": 32}, []), ({"m": 1}, [])]


def test_a_block_keeps_those_of_its_variants_that_are_asked_for_and_is_dropped_without_any() -> None:
    assert variants_of(TWO, ["b", "c"]) == [({"n": 16}, ["b"]), ({"n": 32}, ["b"]), ({"m": 1}, [])]
    assert variants_of(TWO, ["c"]) == [({"m": 1}, [])]


def test_a_case_of_two_blocks_has_the_variants_of_both() -> None:
    blocks = {name: {"x": "n", "n": [16], "variants": [name]} for name in ("c", "a")}
    assert variants_of(blocks, ["a", "b", "c"]) == [({"n": 16}, ["a", "c"])]


def test_no_block_left_is_one_line() -> None:
    with pytest.raises(RequestError, match=r"workload\.variants=\[c\]: no block of this grid has any .*; choose from b, a$"):
        expand(TWO, SPECS, {"n": 64}, 10, ["c"])
