"""A training step: the same gradients whatever the attention, the truth behind them, the optimizer, and from config to report."""

import dataclasses
import math
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from runner import journal
from runner.compose import compose
from runner.spec import Gate
from runner.worker import gate
from runner.worker.workload import Context, Incorrect, Unsupported, Variant, tensors
from tests.jobs import ROOT
from workloads.train_step import WORKLOAD, attention, reference, step
from workloads.train_step.block import Attend
from workloads.train_step.shape import shape_of

BOUNDS = Gate(rel_l2={"fp32": 1e-5})
PARAMS = {"nsa": {"block_len": 8, "stride": 4, "select_len": 8, "num_select": 6, "window": 16}}
HERE = ["flash", "masked", "nsa"]
AXES = {"batch": 2, "seq_len": 60, "hidden": 32, "intermediate": 40, "heads": 4, "kv_heads": 2, "dtype": "fp32"}
few = settings(max_examples=8, deadline=None)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tensors here are tiny: a second thread only waits for the first."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def problem(axes: Mapping[str, Any] = AXES, seed: int = 0) -> Any:
    return WORKLOAD.inputs(axes, Context(torch.device("cpu"), PARAMS, torch.Generator().manual_seed(seed)))


def truth(variant: Variant, given: Any) -> Tensor:
    return WORKLOAD.operations[variant.operation].reference(*given)


def check(variant: Variant, axes: Mapping[str, Any] = AXES, seed: int = 0) -> str | None:
    """Why the gate doesn't let a variant pass, None when it does, as `runner.worker.engine` asks."""
    given = problem(axes, seed)
    prepared = variant.prepare(given)
    before = [one.clone() for one in tensors(given)]
    output = variant.run(*prepared)
    own = variant.rel_l2(axes)
    bound = BOUNDS.rel_l2["fp32"] if own is None else own
    found = gate.check(variant.finish(output, prepared), truth(variant, given), bound, BOUNDS)
    assert all(torch.equal(one, kept) for one, kept in zip(tensors(given), before, strict=True))
    assert variant.counters(output, prepared) == WORKLOAD.operations[variant.operation].counters(axes, PARAMS)
    return found.failure


@st.composite
def cases(draw) -> dict[str, Any]:
    """A block of any proportions, with 8 tokens or more and heads at least 4 wide."""
    kv_heads, group = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    heads = kv_heads * group
    return {
        "batch": draw(st.integers(1, 2)), "seq_len": draw(st.integers(8, 70)), "heads": heads, "kv_heads": kv_heads,
        "hidden": heads * draw(st.sampled_from([4, 8, 14])), "intermediate": draw(st.integers(8, 50)), "dtype": "fp32",
    }  # fmt: skip


# ---- output and gradients


@pytest.mark.parametrize("name", HERE)
@few
@given(cases(), st.integers(0, 99))
def test_output_and_all_gradients_are_the_references_on_any_shape(name, case, seed):
    assert check(WORKLOAD.variants[name], case, seed) is None


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
@pytest.mark.parametrize("name", HERE)
def test_output_and_all_gradients_are_the_references_in_16_bits(name, dtype):
    assert check(WORKLOAD.variants[name], AXES | {"seq_len": 200, "dtype": dtype}) is None


def test_flash_and_the_written_out_mask_give_the_same_gradients():
    found = []
    for name in ("flash", "masked"):
        prepared = WORKLOAD.variants[name].prepare(problem())
        found.append([*WORKLOAD.variants[name].run(*prepared)[1]])
    assert len(found[0]) == len(shape_of(AXES, PARAMS).parameters(sparse=False)) + 1
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sparse", [False, True])
def test_the_references_gradients_are_the_slopes_of_its_loss(sparse):
    """Central differences along a random direction of every parameter; no other block is chosen on the way there."""
    p = problem()[0]
    p = p._replace(weights={name: one.double() for name, one in p.weights.items()}, x=p.x.double())
    tokens, names = p.shape.tokens, list(p.shape.parameters(sparse))
    of = reference.sparse if sparse else reference.dense
    rows = of(p)

    def loss(p: Any) -> float:
        return float((of(p)[:tokens] - p.target.double().flatten(0, 1)).square().sum()) / 2

    at = 2 * tokens
    for name in names:
        weight = p.weights[name]
        width = weight.numel() // p.shape.hidden
        gradient = rows[at : at + width] * math.sqrt(tokens)
        gradient = (gradient.t() if name in ("o", "down") else gradient).reshape(weight.shape)
        at += width
        way = torch.randn(weight.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(at)) * 1e-6
        there, back = (loss(p._replace(weights={**p.weights, name: weight + sign * way})) for sign in (1, -1))
        assert (there - back) / 2 == pytest.approx(float((gradient * way).sum()), rel=1e-4, abs=1e-9)
    assert at == len(rows)


def test_the_reference_is_the_same_however_many_queries_it_does_at_a_time(monkeypatch):
    whole = [reference.dense(*problem()), reference.sparse(*problem())]
    monkeypatch.setattr(reference, "CHUNK_ELEMENTS", 7 * AXES["batch"] * AXES["heads"] * AXES["seq_len"])
    for one, other in zip(whole, (reference.dense(*problem()), reference.sparse(*problem())), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(("name", "why"), [("cudnn", "has no kernel"), ("flex", "has no backward|no C\\+\\+ compiler")])
def test_a_variant_says_why_it_can_not_train_on_a_cpu(name, why):
    with pytest.raises(Unsupported, match=why):
        check(WORKLOAD.variants[name])


def test_sparse_attention_says_how_many_tokens_it_needs():
    with pytest.raises(Unsupported, match="at least block_len=8 tokens, not 4"):
        check(WORKLOAD.variants["nsa"], AXES | {"seq_len": 4})


# ---- what the gate stops


def wrapped(change: Any, sparse: bool = False) -> Variant:
    """The variant whose attention is `change(attend)(q, k, v, gates)`."""
    made = attention.nsa if sparse else attention.flash
    return step.variant(lambda shape, device: change(made(shape, device)), sparse)


def without_mask(attend: Attend) -> Attend:
    return lambda q, k, v, gates: (attention.sdpa.attention(q, k, v), None)


def without_gradient_of_keys(attend: Attend) -> Attend:
    return lambda q, k, v, gates: attend(q, k.detach() + 0 * k, v, gates)


def with_a_scaled_gradient_of_queries(attend: Attend) -> Attend:
    return lambda q, k, v, gates: attend(1.2 * q - (0.2 * q).detach(), k, v, gates)


@pytest.mark.parametrize("change", [without_mask, without_gradient_of_keys, with_a_scaled_gradient_of_queries])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_wrong_attention_or_a_wrong_gradient_does_not_pass(change, dtype):
    assert check(wrapped(change), AXES | {"dtype": dtype}) is not None


def test_without_a_fault_the_same_passes():
    assert check(wrapped(lambda attend: attend)) is None


NEAR_TIES = AXES | {"seq_len": 400, "dtype": "bf16"}


def test_near_ties_between_blocks_are_settled():
    """Rounding chooses other blocks here, and without being settled that is an error like any other."""
    variant = WORKLOAD.variants["nsa"]
    given = problem(NEAR_TIES)
    prepared = variant.prepare(given)
    output = variant.run(*prepared)
    found = reference.rows(output[0], output[1], list(prepared[0].weights), given[0].shape)
    settled = variant.finish(output, prepared)
    assert not torch.equal(found, settled)
    expected = truth(variant, given)
    assert (settled - expected).norm() < (found - expected).norm()
    assert gate.check(settled, expected, step.GRADIENT_REL_L2, BOUNDS).failure is None


def test_a_choice_of_worse_blocks_does_not_pass():
    def worse(attend: Attend) -> Attend:
        def other(q: Tensor, k: Tensor, v: Tensor, gates: Tensor | None) -> Any:
            return attend(q, k, v, gates)[0], attend(q.flip(1), k, v, gates)[1]

        return other

    assert check(wrapped(worse, sparse=True), AXES | {"seq_len": 200}) is not None


# ---- the optimizer


def first_run(variant: Variant, given: Any) -> tuple[Any, Any]:
    prepared = variant.prepare(given)
    return variant.run(*prepared), prepared


@pytest.mark.parametrize("name", HERE)
def test_a_step_changes_every_parameter_and_the_output_after_it(name):
    variant = WORKLOAD.variants[name]
    output, prepared = first_run(variant, problem())
    for weight, before in zip(prepared[0].weights.values(), prepared[0].problem.weights.values(), strict=False):
        assert not torch.equal(weight, before)
    assert not torch.equal(variant.run(*prepared)[0], output[0])


@pytest.mark.parametrize("name", HERE)
def test_reset_brings_back_the_first_step_bit_by_bit(name):
    variant = WORKLOAD.variants[name]
    first, prepared = first_run(variant, problem())
    after = {key: one.detach().clone() for key, one in prepared[0].weights.items()}
    for _ in range(3):
        variant.run(*prepared)
    variant.reset(prepared)
    assert all(torch.equal(one, prepared[0].problem.weights[key]) for key, one in prepared[0].weights.items())
    again = variant.run(*prepared)
    assert all(torch.equal(one, other) for one, other in zip(tensors(first), tensors(again), strict=True))
    assert all(torch.equal(one, prepared[0].weights[key]) for key, one in after.items())
    assert step.moved(*prepared)["optimizer_steps"] == 1


def test_steps_bring_the_loss_down():
    variant = WORKLOAD.variants["flash"]
    prepared = variant.prepare(problem())
    losses = [float((variant.run(*prepared)[0] - prepared[0].problem.target).square().mean()) for _ in range(30)]
    assert losses[-1] < 0.9 * losses[0]


def test_no_gradient_is_left_for_the_next_step():
    _, prepared = first_run(WORKLOAD.variants["flash"], problem())
    assert all(one.grad is None for one in (*prepared[0].weights.values(), prepared[0].x))


@pytest.mark.parametrize("fault", ["idle", "half as far", "no decay", "twice", "one parameter left out"])
def test_an_optimizer_that_does_something_else_is_incorrect(fault):
    variant = WORKLOAD.variants["flash"]
    prepared = variant.prepare(problem())
    optimizer = prepared[0].optimizer
    group = optimizer.param_groups[0]
    once = optimizer.step
    if fault == "idle":
        optimizer.step = lambda: None
    elif fault == "half as far":
        group["lr"] /= 2
    elif fault == "no decay":
        group["weight_decay"] = 0.0
    elif fault == "twice":
        optimizer.step = lambda: (once(), once())
    else:
        group["params"].pop()
    with pytest.raises(Incorrect, match="AdamW moved"):
        variant.finish(variant.run(*prepared), prepared)


# ---- operations, bytes, tokens


@few
@given(cases())
def test_operations_are_those_that_pytorch_counts_but_for_what_a_mask_hides(case):
    """PyTorch counts every product of a linear layer, and those of attention for all pairs of tokens."""
    variant = WORKLOAD.variants["masked"]
    prepared = variant.prepare(problem(case))
    with FlopCounterMode(display=False) as counter:
        variant.run(*prepared)
    shape = shape_of(case, PARAMS)
    all_pairs = shape.batch * shape.seq_len**2
    of_attention = 12 * shape.heads * shape.head_dim
    expected = shape.model_ops(sparse=False) + of_attention * (all_pairs - shape.pairs(sparse=False))
    assert counter.get_total_flops() == expected
    work = WORKLOAD.operations["dense"].work(case, PARAMS, "fp32")
    assert (work.ops, work.per_second) == (shape.model_ops(sparse=False), {"throughput_tokens_per_s": shape.tokens})


def test_operations_are_those_of_palms_appendix_b():
    """6 N + 12 L H Q T per token for all pairs; of the second term (T + 1) / 2 T for those that a causal mask leaves."""
    axes = {"batch": 1, "seq_len": 2048, "hidden": 2048, "intermediate": 8192, "heads": 16, "kv_heads": 4, "dtype": "bf16"}
    shape = shape_of(axes, {"nsa": {}})
    weights = 2 * 2048 * 2048 + 2 * 512 * 2048 + 3 * 8192 * 2048
    assert shape.num_parameters(sparse=False) == weights + 2 * 2048
    assert shape.model_ops(sparse=False) == 2048 * (6 * weights + 12 * 1 * 16 * 128 * (2048 + 1) / 2)


@few
@given(cases())
def test_sparse_attention_never_counts_more_pairs_than_its_branches_can_have(case):
    shape = shape_of(case, PARAMS)
    wide = dataclasses.replace(shape.geometry, num_select=99, window=99)
    everything = dataclasses.replace(shape, geometry=wide)
    compressed = shape.batch * shape.geometry.sums(shape.seq_len)["compressed"]
    assert shape.pairs(sparse=True) <= everything.pairs(sparse=True) == 2 * shape.pairs(sparse=False) + compressed


# ---- config to report


def test_the_config_compares_every_variant():
    config = compose(["workload=train_step"]).config.workload
    assert config.variants == list(WORKLOAD.variants)
    for blocks in config.grids.values():
        for block in blocks.values():
            assert block["hidden"] % block["heads"] == 0
            assert (block["hidden"] // block["heads"]) % 2 == 0


def test_the_small_grid_from_config_to_report(tmp_path):
    times = ["measure=quick", "measure.cpu_threads=1", "measure.max_time_s=0.05", "measure.warmup.max_s=0.05"]
    shorter = [f"workload.params.nsa.{name}={value}" for name, value in PARAMS["nsa"].items()]
    command = [sys.executable, "-m", "runner", "workload=train_step", *times, *shorter, "tracking.enabled=false"]
    done = subprocess.run([*command, "display=plain", f"run_dir={tmp_path}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = list(journal.measurements(journal.read(tmp_path)))
    statuses = {variant: {one["status"] for one in found if one["variant"] == variant} for variant in WORKLOAD.variants}
    assert all(statuses[variant] <= {"ok", "noisy"} for variant in HERE)
    assert statuses["cudnn"] == statuses["flex"] == {"unsupported"}
    measured = [one for one in found if one["variant"] in HERE]
    assert all(one["counters"]["optimizer_steps"] == 1 for one in measured)
    for one in measured:
        tokens = one["case"]["batch"] * one["case"]["seq_len"]
        rate = one["rates"]["per_second"]["throughput_tokens_per_s"]
        assert rate == pytest.approx(tokens / one["statistics"]["median_ms"] * 1e3)
    assert "throughput_tokens_per_s" in (tmp_path / "report.md").read_text()
