"""The arithmetic of the BitNet workload, without a model: parameters, least work, ternary weights, perplexity, repetition."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from runner.worker.workload import Unsupported
from workloads.bitnet import source, ternary
from workloads.bitnet.architecture import Architecture
from workloads.bitnet.loading import perplexity_faults
from workloads.bitnet.quality import distinct, perplexity, repetition
from workloads.bitnet.text import TEXT

# config.json of microsoft/bitnet-b1.58-2B-4T and of 1bitLLM/bitnet_b1_58-large on Hugging Face
TWO_BILLION = Architecture(128256, 2560, 6912, 30, 20, 5, 128, 4096, tied=True)
LARGE = Architecture(32002, 1536, 4096, 24, 16, 16, 96, 2048, tied=True)


def test_the_closed_form_counts_the_parameters_of_the_published_model():
    assert TWO_BILLION.parameters == 2_412_820_480  # "2B": 2.4 billion with the embedding


def test_the_parameters_of_an_earlier_report_are_those_of_its_model_less_the_sub_norms():
    assert LARGE.parameters - LARGE.sub_norms == 728_707_584
    assert LARGE.sub_norms == 24 * (1536 + 4096)


def test_untied_logits_are_counted_once_more():
    assert replace(LARGE, tied=False).parameters - LARGE.parameters == 32002 * 1536


def test_decoding_reads_all_weights_for_one_token_and_packed_ones_take_an_eighth_of_bf16():
    held, packed = (replace(TWO_BILLION, packed=packed).decode(1, 128, "bf16") for packed in (False, True))
    assert held.bytes - packed.bytes == TWO_BILLION.linear_weights * (2 - 0.25)
    assert held.per_second == {"throughput_tokens_per_s": 1.0}


@given(st.integers(1, 64), st.integers(1, 512))
def test_reading_a_prompt_does_the_work_of_its_tokens_one_by_one_but_for_the_logits(batch, length):
    whole = TWO_BILLION.prefill(batch, length, "bf16")
    one_by_one = sum(TWO_BILLION.decode(batch, before, "bf16").ops for before in range(length))
    assert whole.ops == one_by_one - 2 * TWO_BILLION.head_weights * batch * (length - 1)
    assert whole.per_second == {"throughput_tokens_per_s": batch * length}


@given(st.integers(1, 5), st.integers(1, 7), st.integers(0, 2**31))
def test_unpacking_brings_back_what_was_packed(quarter, columns, seed):
    weights = torch.randint(-1, 2, (4 * quarter, columns), generator=torch.Generator().manual_seed(seed))
    levels = (weights + 1).to(torch.uint8).reshape(4, quarter, columns)
    packed = levels[0] | levels[1] << 2 | levels[2] << 4 | levels[3] << 6
    assert torch.equal(ternary.unpack(packed), weights.float())


def layer(name, weight, **fields):
    """A layer of a class of this name, as transformers has them."""
    return type(name, (SimpleNamespace,), {})(weight=weight, **fields)


SCALE = torch.tensor([0.5])


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (nn.Linear(8, 8), "is a Linear, which quantises neither weights nor activations"),
        (layer("AutoBitLinear", torch.randn(4, 8), online_quant=False, weight_scale=SCALE), "distinct weights from"),
        (layer("AutoBitLinear", torch.zeros(4, 8), online_quant=False, weight_scale=SCALE), "no weight but zeros"),
        (layer("AutoBitLinear", torch.ones(4, 8), online_quant=False, weight_scale=0 * SCALE), "scale that is zero"),
        (layer("BitLinear", torch.full((1, 8), 0b11, dtype=torch.uint8), weight_scale=SCALE), "distinct weights from"),
    ],
)
def test_a_layer_that_is_not_ternary_is_named_with_the_reason(made, reason):
    assert reason in ternary.fault(made)


def test_master_weights_are_ternary_once_they_are_quantised():
    master = torch.tensor([[0.1, -0.9], [2.0, 0.49]])
    made = layer("AutoBitLinear", master, online_quant=True)
    weights, scale = ternary.weights(made)
    assert ternary.fault(made) is None
    assert weights.tolist() == [[0, -1], [1, 1]]
    assert float(scale) == pytest.approx(float(master.abs().mean()))


def test_a_model_that_knows_nothing_has_as_much_perplexity_as_tokens():
    assert perplexity(lambda ids: torch.zeros(*ids.shape, 57), torch.arange(50)) == pytest.approx(57)


def test_perplexity_takes_windows_and_leaves_out_what_is_left_over():
    seen = []

    def logits(ids):
        seen.append(ids.shape[1])
        return torch.zeros(*ids.shape, 300)

    perplexity(logits, torch.arange(25) % 300, window=10)
    assert seen == [10, 10]


def test_a_token_that_was_certain_costs_nothing_and_an_impossible_one_everything():
    def sure(offset):
        def logits(ids):
            found = torch.full((*ids.shape, 40), -1e4)
            return found.scatter(2, ((ids + offset) % 40)[..., None], 0.0)

        return logits

    assert perplexity(sure(1), torch.arange(40)) == pytest.approx(1)
    assert perplexity(sure(2), torch.arange(40)) == math.inf


def test_a_text_without_a_second_token_is_refused():
    with pytest.raises(Unsupported, match="1 tokens"):
        perplexity(lambda ids: torch.zeros(*ids.shape, 2), torch.zeros(1, dtype=torch.long))


@given(st.lists(st.integers(0, 3), max_size=60))
def test_repetition_is_a_share_and_saying_it_all_again_raises_it(tokens):
    assert 0 <= repetition(tokens) <= repetition(tokens * 2) < 1
    assert distinct(tokens) == 1 - repetition(tokens, 2)


def test_a_babbling_model_is_seen_by_its_repetition():
    assert repetition([7] * 50) == pytest.approx(46 / 47)
    assert distinct([7] * 50) == pytest.approx(1 / 49)
    assert repetition(range(50)) == 0


@pytest.mark.parametrize(
    ("found", "true", "reasons"),
    [
        (12.0, 12.1, []),
        (48.0, 48.0, ["is over 40"]),
        (12.0, 13.0, ["the float64 reference has 13"]),
        (math.nan, 12.0, ["is over 40", "reference"]),
        (12.0, math.nan, ["reference"]),
        (math.inf, math.inf, ["is over 40", "reference"]),
    ],
)
def test_a_perplexity_must_be_low_and_near_the_references(found, true, reasons):
    faults = perplexity_faults(found, true, 40, 0.02)
    assert len(faults) == len(reasons)
    assert all(reason in fault for reason, fault in zip(reasons, faults, strict=True))


@pytest.mark.parametrize(
    ("model", "revision", "reason"),
    [
        ("/no/such/folder", None, "no such folder here"),
        ("./missing", None, "no such folder here"),
        ("microsoft/bitnet-b1.58-2B-4T", None, "40 digits of a commit"),
        ("microsoft/bitnet-b1.58-2B-4T", "main", "40 digits of a commit"),
    ],
)
def test_a_model_that_is_nowhere_or_not_pinned_is_unsupported(model, revision, reason):
    with pytest.raises(Unsupported, match=reason):
        source.folder({"model": model, "revision": revision})


def test_neither_code_nor_pickles_are_asked_of_the_hub():
    assert not [pattern for pattern in source.WANTED if pattern in ("*", "*.py", "*.bin", "*.pt")]


def test_without_its_packages_the_workload_says_what_to_install(monkeypatch):
    monkeypatch.setattr(source, "PACKAGES", ("no_such_package",))
    with pytest.raises(Unsupported, match=r"pip install 'crossover-runner\[bitnet\]'"):
        source.require({"model": None})


def test_the_bundled_text_is_a_few_kilobytes_of_plain_english():
    assert 3000 < len(TEXT.encode()) < 6000
    assert TEXT.isascii()
