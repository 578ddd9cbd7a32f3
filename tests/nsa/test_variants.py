"""Every variant of prefill and decode passes the gate on a CPU, or says in one line why it can't."""

import shutil
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.worker.workload import Unsupported
from tests.nsa.cases import PARAMS, SEEDS, axes, axes_of, check, failure, problem
from workloads.nsa import decode, prefill
from workloads.nsa.geometry import Geometry

PREFILL, DECODE = prefill.WORKLOAD, decode.WORKLOAD
ON_A_CPU = [
    "dense_flash", "sliding_loop", "sliding_masked", "compressed_loop", "compressed_masked", "selected_gather", "scoring_torch",
    "combine", "whole_masked", "whole",
]  # fmt: skip
COMPILED = ["sliding_flex", "compressed_flex"]
ELSEWHERE = {
    "dense_cudnn": "CUDNN_ATTENTION has no kernel for these shapes, this dtype or this device",
    "sliding_flash": "FlashAttention-2 with a window or log-sum-exp is in PyTorch for CUDA only",
    "sliding_flash_attn": "the package flash-attn isn't installed here|for CUDA only",
    "compressed_flash": "FlashAttention-2 with a window or log-sum-exp is in PyTorch for CUDA only",
    "sliding_triton": "Triton kernels need a GPU|Triton isn't installed",
    "compressed_triton": "Triton kernels need a GPU|Triton isn't installed",
    "selected_flex": "FlexAttention on a CPU takes no tile as small as one query",
    "selected_fla": "fla-core's kernels need a GPU",
    "selected_triton": "Triton kernels need a GPU|Triton isn't installed",
    "scoring_triton": "Triton kernels need a GPU|Triton isn't installed",
    "whole_fla": "fla-core's kernels need a GPU",
}
STEPS = ["dense_flash", "compressed", "scoring", "selected", "sliding", "combine", "whole"]
STEPS_ELSEWHERE = {name: ELSEWHERE[name] for name in ("dense_cudnn", "whole_fla")}
STEPS_ELSEWHERE["whole_triton"] = "Triton kernels need a GPU|Triton isn't installed"
NO_BACKWARD = {
    "selected_flex": "its block mask is made for queries only",
    "sliding_triton": "this kernel has no backward",
    "compressed_triton": "this kernel has no backward",
    "selected_triton": "this kernel has no backward",
    "scoring_torch": "the choice of blocks has no gradient",
    "scoring_triton": "the choice of blocks has no gradient",
    "combine": "the gate's gradient is part of the whole's",
}
PAPER = axes_of(Geometry(32, 16, 64, 4, 32), seq_len=200, context=200, heads=16, head_dim=16)
needs_a_compiler = pytest.mark.skipif(not shutil.which("g++"), reason="FlexAttention on a CPU is compiled: install g++")


def test_every_variant_is_tested_here():
    assert set(PREFILL.variants) == {*ON_A_CPU, *COMPILED, *ELSEWHERE}
    assert set(DECODE.variants) == {*STEPS, *STEPS_ELSEWHERE}


@pytest.mark.parametrize("name", ON_A_CPU)
@settings(max_examples=20, deadline=None)
@given(axes("seq_len"), SEEDS)
def test_a_prefill_variant_passes_the_gate_on_any_shape(name, case, seed):
    assert failure(PREFILL, name, case, seed) is None


@pytest.mark.parametrize("name", STEPS)
@settings(max_examples=20, deadline=None)
@given(axes("context", max_len=150), SEEDS)
def test_a_stage_of_a_decode_step_passes_the_gate_and_counts_what_the_closed_form_says(name, case, seed):
    assert failure(DECODE, name, case, seed) is None


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("name", ON_A_CPU)
def test_the_papers_lengths_pass_in_every_dtype(name, dtype):
    assert failure(PREFILL, name, PAPER | {"dtype": dtype}) is None


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("name", STEPS)
def test_the_papers_lengths_pass_in_every_dtype_in_decode(name, dtype):
    assert failure(DECODE, name, PAPER | {"dtype": dtype}) is None


@needs_a_compiler
@pytest.mark.long
@pytest.mark.parametrize("name", COMPILED)
def test_flex_attention_passes_the_gate(name):
    assert failure(PREFILL, name, PAPER) is None


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_prefill_variant_says_why_it_can_not_run_on_a_cpu(name):
    with pytest.raises(Unsupported, match=ELSEWHERE[name]) as caught:
        failure(PREFILL, name, PAPER)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", STEPS_ELSEWHERE)
def test_a_decode_variant_says_why_it_can_not_run_on_a_cpu(name):
    with pytest.raises(Unsupported, match=STEPS_ELSEWHERE[name]):
        failure(DECODE, name, PAPER)


@pytest.mark.parametrize("workload", [PREFILL, DECODE])
def test_dense_attention_in_every_head_dim(workload):
    for head_dim in (8, 9, 20, 64):
        assert failure(workload, "dense_flash", PAPER | {"head_dim": head_dim}) is None


def test_dense_flash_says_that_values_are_wider_than_keys():
    with pytest.raises(Unsupported, match="values no wider than keys, not 24 over 16"):
        failure(PREFILL, "dense_flash", PAPER | {"v_head_dim": 24})


@pytest.mark.parametrize("name", sorted(set(ON_A_CPU) - {"dense_flash"}))
def test_values_may_be_wider_than_keys(name):
    assert failure(PREFILL, name, PAPER | {"v_head_dim": 24}) is None


@pytest.mark.parametrize("name", STEPS)
def test_values_may_be_wider_than_keys_in_decode(name):
    assert failure(DECODE, name, PAPER | {"v_head_dim": 24}) is None


@pytest.mark.parametrize("name", ON_A_CPU)
def test_the_shortest_prompt_passes(name):
    """One compressed token, seen by the last query alone."""
    assert failure(PREFILL, name, PAPER | {"seq_len": 32}) is None


# ---- forward and backward


@pytest.mark.parametrize("name", sorted(set(ON_A_CPU) - set(NO_BACKWARD)))
@settings(max_examples=8, deadline=None)
@given(axes("seq_len", max_len=40, lengths="equal", **{"pass": "forward_backward"}), SEEDS)
def test_gradients_pass_the_gate_on_any_shape(name, case, seed):
    """Several keys a query: over a single one the gradient of a softmax is zero, and rounding all that is left to compare."""
    several = {"seq_len": case["seq_len"] + 4 * case["stride"], "window": case["window"] + 4}
    assert failure(PREFILL, name, case | several, seed) is None


@pytest.mark.parametrize("seed", [17, 28])
def test_gradients_of_a_last_token_alone_in_its_row_pass_the_gate(seed):
    """65 tokens, of which the gate takes 64 together: what fills up the second row must not make its bound narrower."""
    case = axes_of(Geometry(4, 1, 1, 5, 21), seq_len=65, batch=1, heads=10, head_dim=16, dtype="bf16")
    assert failure(PREFILL, "selected_gather", case | {"pass": "forward_backward"}, seed) is None


@pytest.mark.parametrize("name", ["sliding_masked", "whole_masked"])
def test_gradients_of_a_ragged_batch_pass_the_gate(name):
    assert failure(PREFILL, name, PAPER | {"lengths": "ragged", "pass": "forward_backward"}) is None


@pytest.mark.parametrize("name", NO_BACKWARD)
def test_a_variant_without_a_backward_says_why(name):
    with pytest.raises(Unsupported) as caught:
        failure(PREFILL, name, PAPER | {"pass": "forward_backward"})
    assert str(caught.value) == f"forward only: {NO_BACKWARD[name]}"


@pytest.mark.parametrize("name", COMPILED)
def test_flex_attention_says_that_it_has_no_backward_on_a_cpu(name):
    with pytest.raises(Unsupported, match=r"FlexAttention on a CPU (has no backward|is compiled)"):
        failure(PREFILL, name, PAPER | {"pass": "forward_backward"})


@pytest.mark.parametrize("name", ["dense_flash", "sliding_masked", "compressed_masked", "selected_gather"])
def test_gradients_are_those_of_queries_keys_and_values_alone_for_a_branch(name):
    output = ran(PREFILL, name, PAPER | {"pass": "forward_backward"})
    assert [found is not None for found in output[0]] == [True, True, True, False]


def test_gradients_of_the_whole_are_those_of_its_gates_too():
    output = ran(PREFILL, "whole_masked", PAPER | {"pass": "forward_backward"})
    assert [tuple(found.shape) for found in output[0]] == [(2, 200, 16, 16), (2, 200, 2, 16), (2, 200, 2, 16), (2, 200, 16, 3)]


def ran(workload: Any, name: str, case: dict[str, Any]) -> Any:
    variant = workload.variants[name]
    return variant.run(*variant.prepare(problem(workload, case)))


# ---- the inputs and what is declared of them


@settings(max_examples=10, deadline=None)
@given(axes("seq_len"), SEEDS)
def test_the_same_seed_gives_the_same_problem(case, seed):
    once, again = (problem(PREFILL, case, seed)[0] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True) if isinstance(a, torch.Tensor))


@settings(max_examples=10, deadline=None)
@given(axes("seq_len"), st.integers(1, 40))
def test_checked_rows_are_distinct_ascending_and_within_their_sequence(case, most):
    p = problem(PREFILL, case, check_rows=most)[0]
    for rows, length in zip(p.rows.tolist(), p.shape.lengths, strict=True):
        assert rows == sorted(set(rows))
        assert set(rows) <= set(range(length))
        assert len(rows) == min(most, *p.shape.lengths)


def test_the_first_and_the_last_rows_are_always_checked():
    p = problem(PREFILL, PAPER, check_rows=16)[0]
    for rows in p.rows.tolist():
        assert rows[:2] == [0, 1]
        assert rows[-2:] == [198, 199]


@pytest.mark.parametrize("name", ["sliding_masked", "whole_masked"])
def test_a_few_checked_rows_are_held_against_the_reference_of_the_same_rows(name):
    inputs = problem(PREFILL, PAPER, check_rows=16)
    assert check(PREFILL, PREFILL.variants[name], PAPER, inputs).failure is None


def test_the_query_of_a_decode_step_is_the_last_token_of_its_sequence():
    p = problem(DECODE, PAPER | {"lengths": "ragged"})[0]
    assert p.at[:, 0].tolist() == [99, 199]


@pytest.mark.parametrize("stage", ["dense", "sliding", "compressed", "selected"])
def test_the_work_is_two_products_over_the_keys_that_are_read(stage):
    work = PREFILL.operations[stage].work(PAPER, PARAMS, "fp32")
    read = 2 * Geometry(32, 16, 64, 4, 32).sums(200)[stage]  # two sequences
    assert work.ops == 2 * 16 * (16 + 16) * read
    assert work.bytes == 4 * 2 * 200 * (16 + 2) * (16 + 16)


def test_a_decode_step_moves_only_what_its_query_reads():
    work = DECODE.operations["sliding"].work(PAPER | {"v_head_dim": 8}, PARAMS, "bf16")
    assert work.ops == 2 * 16 * (16 + 8) * 2 * 32
    assert work.bytes == 2 * 2 * (16 + 32 * 2) * (16 + 8)


@pytest.mark.parametrize("workload", [PREFILL, DECODE])
def test_the_whole_reads_what_its_branches_read(workload):
    counted = {name: workload.operations[name].counters(PAPER, PARAMS) for name in ("compressed", "selected", "sliding", "whole")}
    whole = counted.pop("whole")
    parts = {key: value for one in counted.values() for key, value in one.items()}
    assert whole == parts | {"keys_total": sum(parts.values())}
