"""PyTorch's operator for FlashAttention-2, which has no stable interface, is still what `workloads.nsa.flash` takes it for."""

from typing import Any

import pytest
import torch

from runner.worker.workload import Unsupported
from tests.nsa.cases import randn
from workloads.nsa import flash

SCHEMA = torch.ops.aten._flash_attention_forward.default._schema
HALF = torch.zeros(1, 4, 2, 8, dtype=torch.float16)


def passed(monkeypatch: pytest.MonkeyPatch, **options: Any) -> dict[str, Any]:
    """The arguments of the operator by the names that its schema has for them."""
    bound: dict[str, Any] = {}

    def operator(*given: Any, **named: Any) -> tuple[Any, ...]:
        positional = [one.name for one in SCHEMA.arguments if not one.kwarg_only]
        bound.update(zip(positional, given, strict=True), **named)
        return HALF, HALF, None, None, None

    monkeypatch.setattr(torch.ops.aten, "_flash_attention_forward", operator)
    flash.attention(HALF, HALF, HALF, **options)
    return bound


def test_it_has_the_arguments_that_are_passed(monkeypatch: pytest.MonkeyPatch):
    bound = passed(monkeypatch, causal=True, window=4)
    assert set(bound) <= {one.name for one in SCHEMA.arguments}
    expected = {"max_q": 4, "max_k": 4, "dropout_p": 0.0, "is_causal": True, "return_debug_mask": False, "cum_seq_q": None,
                "cum_seq_k": None, "scale": 8**-0.5, "window_size_left": 3, "window_size_right": 0}  # fmt: skip
    assert {name: bound[name] for name in expected} == expected


def test_without_a_window_none_is_passed(monkeypatch: pytest.MonkeyPatch):
    assert not {"window_size_left", "window_size_right"} & set(passed(monkeypatch, causal=False))


def test_it_returns_output_and_log_sum_exp_first():
    assert [one.name for one in SCHEMA.returns][:2] == ["output", "softmax_logsumexp"]


def test_its_shapes_are_those_that_are_documented():
    """On tensors without data, which go through PyTorch's own rules for the call: [B, Sq, Hq, D] and [B, Hq, Sq]."""
    q = torch.empty(3, 5, 8, 16, dtype=torch.float16, device="meta")
    k = torch.empty(3, 7, 2, 16, dtype=torch.float16, device="meta")
    output, lse = flash.attention(q, k, k, causal=True, window=3)
    assert (output.shape, lse.shape) == ((3, 5, 8, 16), (3, 8, 5))


def test_it_is_refused_on_a_cpu():
    with pytest.raises(Unsupported, match="for CUDA only"):
        flash.check(HALF, HALF)


def test_values_are_padded_to_the_keys_and_never_cut():
    v = randn(0, 1, 3, 1, 5)
    assert flash.pad(v, 5) is v
    assert torch.equal(flash.pad(v, 8)[..., :5], v)
    assert not flash.pad(v, 8)[..., 5:].any()
    with pytest.raises(Unsupported, match="values no wider than keys, not 5 over 4"):
        flash.pad(v, 4)
