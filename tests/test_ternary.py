"""Ternary layers: weights survive packing, every form computes the same layer, and what each holds and moves is counted right."""

import importlib.util
import json
import os
import re
import subprocess
import sys

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from runner import journal, spec
from runner.compose import compose
from runner.grid import expand
from runner.paths import ROOT, conf_dir
from runner.worker import gate
from runner.worker.workload import Context, Incorrect, Unsupported
from tests.ternary_interpreted import CASES, VARIANTS
from workloads.ternary import WORKLOAD, packed
from workloads.ternary.forms import linear
from workloads.ternary.packing import pack2bit, pack5, trits, unpack2bit, unpack5
from workloads.ternary.quantize import absmax_rows, absmean

BOUNDS = spec.Gate(**yaml.safe_load((conf_dir() / "measure" / "default.yaml").read_text())["gate"])
CPU = torch.device("cpu")
ON_A_CPU = ["decomposed", "dense_fp32", "dense_fp16", "dense_bf16", "dense_int8", "packed5"]
ON_A_GPU = ["packed2bit", "packed2bit_int8"]
PEERS = ["gemlite", "gemlite_int8"]
few = settings(max_examples=25, deadline=None)
SEEDS = st.integers(0, 2**31)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tensors here are tiny: a second thread only waits for the first."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@st.composite
def ternary(draw, max_rows: int = 5, max_columns: int = 400) -> Tensor:
    shape = draw(st.integers(1, max_rows)), draw(st.integers(1, max_columns))
    return torch.randint(-1, 2, shape, generator=torch.Generator().manual_seed(draw(SEEDS)), dtype=torch.int8)


def case(m: int, n: int, k: int, seed: int = 0):
    context = Context(CPU, {"layers": {"one": [n, k]}}, torch.Generator().manual_seed(seed))
    return WORKLOAD.inputs({"m": m, "layer": "one"}, context)


def run(name, inputs):
    """What a variant was given and gave."""
    chosen = WORKLOAD.variants[name]
    prepared = chosen.prepare(inputs)
    return chosen, prepared, chosen.run(*prepared)


# ---- packing


@few
@given(ternary())
def test_four_a_byte_come_back(weights):
    assert torch.equal(unpack2bit(pack2bit(weights), weights.shape[1]), weights)


@few
@given(ternary())
def test_five_a_byte_come_back(weights):
    assert torch.equal(unpack5(pack5(weights), trits(torch.int8, CPU), weights.shape[1]), weights)


@few
@given(ternary())
def test_packed_rows_have_as_many_bytes_as_they_say(weights):
    rows, columns = weights.shape
    assert pack2bit(weights).shape == (rows, 64 * -(-columns // 256))
    assert pack5(weights).shape == (rows, 8 * -(-columns // 40))
    assert pack2bit(weights).dtype == pack5(weights).dtype == torch.uint8


@few
@given(ternary())
def test_rows_are_filled_up_with_zero_weights(weights):
    fours, fives = pack2bit(weights), pack5(weights)
    assert not unpack2bit(fours, 4 * fours.shape[1])[:, weights.shape[1] :].any()
    assert not unpack5(fives, trits(torch.int8, CPU), 5 * fives.shape[1])[:, weights.shape[1] :].any()


@few
@given(ternary())
def test_no_byte_means_anything_but_ternary_weights(weights):
    codes = torch.stack([pack2bit(weights) >> shift & 3 for shift in (0, 2, 4, 6)])
    assert not (codes == 2).any()
    assert pack5(weights).max() < 3**5


def test_where_a_weight_is_in_its_word():
    weights = torch.zeros(1, 512, dtype=torch.int8)
    weights[0, 256 + 6 * 32 + 5], weights[0, 3], weights[0, 32 + 3] = -1, 1, 1
    words = pack2bit(weights).view(torch.int16)[0].tolist()
    assert {index: word for index, word in enumerate(words) if word} == {3: 0b0101, 32 + 5: 0b11 << 12}
    assert pack5(torch.tensor([[1, -1, 0, 0, 0]], dtype=torch.int8))[0, 0] == 2 + 0 * 3 + 9 + 27 + 81


@pytest.mark.parametrize("pack", [pack2bit, pack5])
@pytest.mark.parametrize("wrong", [2, -2, 127, -128, 0.5])
def test_other_weights_are_refused(pack, wrong):
    weights = torch.tensor([[0, 1, wrong]])
    with pytest.raises(ValueError, match="expected weights of -1, 0 and 1, not"):
        pack(weights if isinstance(wrong, float) else weights.to(torch.int8))


# ---- quantizing


@few
@given(SEEDS, st.integers(1, 20), st.integers(1, 50), st.sampled_from([1e-6, 1.0, 1e4]))
def test_absmean_rounds_to_the_nearest_ternary_weight_of_the_mean_absolute_one(seed, rows, columns, size):
    latent = size * torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    weights, scale = absmean(latent)
    assert float(scale) == pytest.approx(float(latent.double().abs().mean()), rel=1e-5)
    distance = torch.stack([(latent / scale - value).abs() for value in (-1, 0, 1)])
    chosen = distance.gather(0, (weights + 1).long()[None])[0]
    assert (chosen <= distance.amin(0) + 1e-6).all()


def test_a_third_of_normal_weights_become_zeros():
    weights, _ = absmean(torch.randn(400, 400, generator=torch.Generator().manual_seed(0)))
    assert float((weights == 0).double().mean()) == pytest.approx(0.310, abs=0.01)  # P(|W| < mean |W| / 2)


def test_zeros_stay_zeros_with_a_scale_that_can_be_divided_by():
    assert [
        (float(q.abs().max()), bool(scale.min() > 0)) for q, scale in (absmean(torch.zeros(2, 3)), absmax_rows(torch.zeros(2, 3)))
    ] == [(0, True)] * 2


@few
@given(SEEDS, st.integers(1, 20), st.integers(1, 50))
def test_int8_rows_are_within_half_a_step(seed, rows, columns):
    x = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    rounded, scales = absmax_rows(x)
    assert rounded.abs().amax(1).tolist() == [127] * rows
    assert ((rounded * scales - x).abs() <= 0.5001 * scales).all()


# ---- every form computes the layer


@pytest.mark.parametrize("name", ON_A_CPU)
@settings(max_examples=6, deadline=None)
@given(m=st.integers(1, 40), n=st.integers(64, 150), k=st.integers(64, 400), seed=SEEDS)
def test_every_form_passes_the_gate(name, m, n, k, seed):
    inputs = case(m, n, k, seed)
    chosen, prepared, output = run(name, inputs)
    result = gate.check(chosen.finish(output, prepared), WORKLOAD.reference(*inputs), BOUNDS.rel_l2[chosen.dtype], BOUNDS)
    assert result.failure is None


@pytest.mark.parametrize("name", ON_A_CPU)
def test_the_error_in_the_tables_is_the_gates(name):
    inputs = case(5, 100, 300)
    chosen, prepared, output = run(name, inputs)
    result = gate.check(chosen.finish(output, prepared), WORKLOAD.reference(*inputs), BOUNDS.rel_l2[chosen.dtype], BOUNDS)
    assert chosen.figures(output, prepared)["rel_error"].value == pytest.approx(result.rel_l2, rel=1e-6)


def test_the_scale_is_in_every_output():
    """A form that left the scale out would pass if it were near 1."""
    x, weights, scale = case(4, 100, 200)
    for name in ON_A_CPU:
        for factor in (1.0, 100.0):
            given_ = (x, weights, scale * factor)
            chosen, prepared, output = run(name, given_)
            off = chosen.finish(output, prepared).double() - WORKLOAD.reference(*given_)
            assert float(off.norm() / WORKLOAD.reference(*given_).norm()) < 0.03, name


def test_what_addmm_would_add_is_not_read(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda self, size: torch.full((size,), torch.nan))
    assert linear(torch.ones(2, 3), torch.ones(4, 3), 0.5).tolist() == [[1.5] * 4] * 2


@pytest.mark.parametrize("name", ON_A_GPU)
def test_kernels_are_unsupported_without_a_gpu(name):
    with pytest.raises(Unsupported, match=r"Triton (kernels need a GPU|isn't installed)"):
        WORKLOAD.variants[name].prepare(case(2, 64, 128))


def test_weights_that_were_lost_in_packing_are_incorrect(monkeypatch):
    monkeypatch.setattr(packed, "pack5", lambda weights: pack5(torch.zeros_like(weights)))
    with pytest.raises(Incorrect, match="don't unpack"):
        WORKLOAD.variants["packed5"].prepare(case(2, 64, 128))


# ---- what is held and moved


@pytest.mark.parametrize(
    ("name", "bytes_per_weight"),
    [("decomposed", 1), ("dense_fp32", 4), ("dense_fp16", 2), ("dense_bf16", 2), ("dense_int8", 1), ("packed5", 1 / 5)],
)
def test_the_bytes_of_the_weights_are_counted_from_what_is_held(name, bytes_per_weight):
    chosen, prepared, output = run(name, case(2, 64, 400))
    assert chosen.figures(output, prepared)["weight_mb"].value == pytest.approx(64 * 400 * bytes_per_weight / 1e6)


@pytest.mark.parametrize(
    ("name", "moved"),
    [
        ("dense_fp32", 4 * 4096 * 4096 + 4 * 4096 + 4 * 4096),
        ("dense_bf16", 2 * 4096 * 4096 + 2 * 4096 + 2 * 4096),
        ("dense_int8", 4096 * 4096 + 4096 + 4 * 4096),
        ("decomposed", 4096 * 4096 + 4 * 4096 + 4 * 4096),
        ("packed2bit", 4096 * 4096 / 4 + 2 * 4096 + 2 * 4096),
        ("packed2bit_int8", 4096 * 4096 / 4 + 2 * 4096 + 2 * 4096),
        ("packed5", 4096 * 4096 / 5 + 2 * 4096 + 2 * 4096),
    ],
)
def test_each_form_has_its_own_least_bytes_and_all_the_same_operations(name, moved):
    work = WORKLOAD.computed_by(name).work(
        {"m": 1, "layer": "one"}, {"layers": {"one": [4096, 4096]}}, WORKLOAD.variants[name].dtype
    )
    assert (work.bytes, work.ops) == (pytest.approx(moved), 2 * 4096 * 4096)
    assert work.per_second == {"throughput_rows_per_s": 1}


# ---- the kernels

triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton isn't installed")


@triton
@settings(max_examples=200, deadline=None)
@given(st.integers(1, 2000), st.integers(1, 40000), st.integers(1, 500), st.integers(1, 200))
def test_a_plan_deals_every_byte_to_one_program_and_none_gets_nothing(m, n, groups, processors):
    from workloads.ternary.kernels import plan

    row_bytes = 64 * groups
    one = plan(m, n, row_bytes, processors)
    assert one.depth % one.width == 0
    assert one.width >= 32  # the least depth of an int8 matrix product
    assert (one.splits - 1) * one.depth < row_bytes <= one.splits * one.depth
    programs = -(-n // one.features) * -(-m // one.tokens)
    assert one.splits == 1 or programs * one.splits <= processors


CHIPS = {"8.0": (108, 166912, 167936, False), "8.9": (128, 101376, 102400, False), "9.0": (132, 232448, 233472, True)}
"""Multiprocessors, shared memory of a block and of a multiprocessor, early launch: an A100, an RTX 4090, an H200."""


@triton
@pytest.mark.parametrize("sm", CHIPS)
@settings(max_examples=300, deadline=None)
@given(st.integers(1, 20), st.integers(1, 40000), st.integers(1, 4000), st.booleans())
def test_a_plan_for_few_rows_fits_and_has_every_column_once(sm, m, n, eighths, eight):
    from workloads.ternary.kernels import few as of

    chip, k = of.Chip(*CHIPS[sm]), 8 * eighths
    one = of.few(m, n, k, eight, chip)
    assert of.few(m, n, k + 1, eight, chip) is None  # rows of x don't begin at 16 bytes
    groups, tiles = -(-k // 256), -(-n // of.ROWS)
    if one is None:
        assert m > of.MOST_ROWS or of.shared(m, groups, eight, 1, 16, 2, 1) > chip.block_bytes / 16
        return
    assert groups % one.split == 0
    assert one.split == 1 or sm == "9.0"  # clusters
    part, teams = groups // one.split, one.grid // one.split
    assert one.shared_bytes == of.shared(m, part, eight, one.split, one.warps, one.depth, one.held) <= chip.block_bytes
    assert one.blocks * (one.shared_bytes + 1024) <= chip.processor_bytes
    assert (one.warps - 1) * one.steps < part <= one.warps * one.steps
    assert one.warps <= 16
    assert one.first <= one.depth
    assert one.grid == teams * one.split <= chip.processors * one.blocks
    assert teams <= tiles
    assert 1 <= one.held <= -(-tiles // teams)


@triton
@pytest.mark.parametrize("sm", ["8.9", "9.0"])
def test_one_row_of_the_layers_in_the_config_has_a_plan_for_few_rows(sm):
    from workloads.ternary.kernels import few as of

    for n, k in compose(["workload=ternary"]).config.workload.params["layers"].values():
        assert of.few(1, n, k, False, of.Chip(*CHIPS[sm])) is not None


def bf16(bits: Tensor) -> Tensor:
    return bits.to(torch.int16).view(torch.bfloat16).double()


@few
@given(ternary(max_columns=256), SEEDS)
def test_what_few_cu_unpacks_is_the_weights_of_the_columns_that_its_threads_have(weights, seed):
    """Its arithmetic: thread t's register j has, in two halves, planes p and p + 4 of columns 8 t + 2 j and the next."""
    words = pack2bit(weights).view(torch.int32).to(torch.int64)[:, :, None] & 0xFFFFFFFF  # [n, 4 threads x 4 registers, 1]
    full = torch.nn.functional.pad(weights, (0, 256 - weights.shape[1])).double()
    x = torch.randn(256, generator=torch.Generator().manual_seed(seed)).bfloat16().double()
    x_kept = x * torch.where(torch.arange(256) < 128, -8.0, 1.0)
    total, sixes = torch.zeros(len(weights), dtype=torch.float64), 0.0
    signed = (words >> torch.arange(0, 32, 8)) & 0xFF
    for p in range(4):
        shifted = (words << (6 - 2 * p)) & 0xFFFFFFFF
        lower, upper = (shifted & 0x00C000C0) ^ 0x3F403F40, shifted & 0xC000C000
        for plane, pairs in ((p, lower), (p + 4, upper)):
            halves = torch.cat([pairs & 0xFFFF, pairs >> 16], 2)
            found = bf16(halves - (halves > 0x7FFF) * 65536)
            mine = x_kept[32 * plane : 32 * plane + 32]
            total += found.flatten(1) @ mine
            sixes += float(-0.75 * mine.sum()) if plane < 4 else 0.0
        bytes_ = ((signed << (6 - 2 * p)) & 0xC0).flatten(1).to(torch.uint8).view(torch.int8).double() / 64
        k = torch.arange(32).repeat_interleave(2) + torch.tensor([32 * p, 32 * p + 128]).repeat(32)
        assert torch.equal(bytes_, full[:, k])
    torch.testing.assert_close((total + sixes) / 2, full @ x, rtol=1e-12, atol=1e-9)


def test_peers_are_unsupported_without_a_gpu_or_their_package():
    for name in PEERS:
        with pytest.raises(Unsupported, match="gemlite"):
            WORKLOAD.variants[name].prepare(case(2, 64, 128))


@pytest.fixture(scope="module")
def interpreted():
    """The errors on all cases; the kernels run in a process of their own, see there."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.ternary_interpreted"]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@triton
@pytest.mark.parametrize("name", CASES)
def test_the_kernels_are_the_reference_up_to_rounding_in_float32(interpreted, name):
    assert interpreted["kernels"][name]["layer"] < 1e-6


@triton
def test_some_of_these_cases_are_summed_from_several_programs(interpreted):
    splits = {name: found["splits"] for name, found in interpreted["kernels"].items()}
    assert {name for name, count in splits.items() if count > 1} >= {name for name in CASES if "dealt" in name}


@triton
@pytest.mark.parametrize("name", [name for name, layer in CASES.items() if layer.dtype == "int8"])
def test_activations_are_rounded_to_the_nearest_of_255_steps(interpreted, name):
    assert interpreted["kernels"][name]["rounding"] < 0.5001
    assert interpreted["kernels"][name]["largest"] == 0


@triton
def test_weights_come_back_from_unpacking_on_a_gpu(interpreted):
    assert interpreted["unpacked"] == [True] * 6


@triton
@pytest.mark.parametrize("index", range(len(VARIANTS)), ids=[f"{name} of {m}" for name, m in VARIANTS])
def test_variants_on_the_kernels_are_within_their_bounds(interpreted, index):
    assert interpreted["variants"][index] < BOUNDS.rel_l2[WORKLOAD.variants[VARIANTS[index][0]].dtype]


# ---- the config, and a run


@pytest.mark.parametrize(("grid", "most"), [("full", 84), ("lineup", 20), ("small", 12)])
def test_grids_are_as_short_as_they_should_be(grid, most):
    workload = compose(["workload=ternary"]).config.workload
    cases = expand(workload.grids[grid], workload.axes, {}, 100, workload.variants)
    assert sum(len(one.variants or workload.variants) for one in cases) <= most


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The small grid, measured on this CPU."""
    out = tmp_path_factory.mktemp("run")
    settings_ = ["measure=quick", "measure.cpu_threads=1", "measure.warmup.max_s=0.1", "measure.max_time_s=0.1"]
    command = [sys.executable, "-m", "runner", "workload=ternary", "gpu=local", *settings_, "tracking.enabled=false"]
    done = subprocess.run([*command, f"run_dir={out}", "display=plain"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout
    return out


def test_the_small_grid_runs_through(folder):
    found = {(one["case"]["m"], one["variant"]): one for one in journal.measurements(journal.read(folder))}
    assert {m for m, _ in found} == {1, 16, 64}
    for (m, name), one in found.items():
        if name == "packed2bit":
            assert one["status"] == "unsupported"
        else:
            assert one["status"] in ("ok", "noisy"), (m, name, one["reason"])
            assert set(one["figures"]) >= {"weight_mb", "rel_error"}


def test_what_needs_a_gpu_is_undecided_without_one(folder):
    thresholds = yaml.safe_load((folder / "thresholds.yaml").read_text())
    assert thresholds["runtime"]["packed_max_m"] == 0
    assert thresholds["evidence"]["packed_max_m"]["decision"] == "undecided"
    assert yaml.safe_load((folder / "decisions.yaml").read_text())["decisions"]["ternary_3x"]["answer"] == "undecided"


def test_rows_per_second_and_the_bytes_of_the_weights_are_in_the_report(folder):
    report = (folder / "report.md").read_text()
    assert "throughput_rows_per_s (rows/s) | weight_mb (MB) | rel_error" in report
    assert re.search(r"`decomposed`.*\| 0\.131 \|", report)  # 256 x 512 weights in int8
