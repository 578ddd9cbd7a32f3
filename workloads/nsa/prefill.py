"""NSA prefill: each branch in every way there is, scoring and choice, the gate, and the whole, beside dense attention."""

from typing import Any

import torch
from torch import Tensor

from runner.worker.compilers import check_triton
from runner.worker.workload import Axes, Context, Inputs, Unsupported, Workload
from workloads.nsa import combine, compressed, dense, selected, selection, sliding, whole
from workloads.nsa import flex as fx
from workloads.nsa.operations import BRANCHES, Reads, operations, scores_of_choice, settled
from workloads.nsa.problem import Problem, Shape, checked_rows, shape_of, tensors_of
from workloads.nsa.variants import variant

Arguments = tuple[Any, ...]


def inputs(axes: Axes, context: Context) -> Inputs:
    """Return the problem of a case; which rows are checked is drawn anew for each case, `params.check_rows` of a sequence."""
    shape = shape_of(axes, context.params)
    q, k, v, gates = tensors_of(shape, shape.seq_len, context)
    branches = torch.stack([context.randn(*q.shape[:3], shape.v_head_dim).to(q.dtype) for _ in range(3)])
    if shape.backward:  # every query adds to the gradients of keys; those beyond a sequence's end get no gradient
        rows = positions(shape, q.device).long()
        grad = branches[0] * (rows < torch.tensor(shape.lengths, device=q.device)[:, None])[..., None, None]
    else:
        rows, grad = checked_rows(shape.lengths, context.params["check_rows"], context.generator), None
    blocks = selection.torch_choice(q, compressed.pool(k, shape.geometry), positions(shape, q.device), shape.geometry)
    return (Problem(q, k, v, gates, blocks, rows, rows, shape, branches, grad),)


def positions(shape: Shape, device: torch.device) -> Tensor:
    """Return the positions of all queries, [B, S] int32."""
    return torch.arange(shape.seq_len, device=device, dtype=torch.int32).expand(shape.batch, -1).contiguous()


def reads(shape: Shape) -> Reads:
    """Every query reads what it may see; every key is moved once."""
    of_each = [shape.geometry.sums(length) for length in shape.lengths]
    pairs = {name: sum(one[name] for one in of_each) for name in of_each[0]}
    tokens = sum(shape.lengths)
    moved = dict.fromkeys((*pairs, "whole"), tokens) | {"scoring": sum(map(shape.geometry.num_compressed, shape.lengths))}
    return Reads(tokens, pairs | {"whole": sum(pairs[name] for name in BRANCHES)}, moved)


def _qkv(p: Problem) -> Arguments:
    return p.q, p.k, p.v


def _qkv_geometry(p: Problem) -> Arguments:
    return p.q, p.k, p.v, p.geometry


def _sliding_mask(p: Problem) -> Arguments:
    return p.q, p.k, p.v, sliding.mask(p.shape.seq_len, p.geometry, p.q.device)


def _sliding_block_mask(p: Problem) -> Arguments:
    fx.check(p.q)
    return p.q, p.k, p.v, sliding.block_mask(p.shape.seq_len, p.geometry, p.q.device)


def _compressed_mask(p: Problem) -> Arguments:
    return p.q, p.k, p.v, compressed.mask(p.shape.seq_len, p.geometry, p.q.device), p.geometry


def _compressed_block_mask(p: Problem) -> Arguments:
    fx.check(p.q)
    return p.q, p.k, p.v, compressed.block_mask(p.shape.seq_len, p.geometry, p.q.device), p.geometry


def _blocks_and_positions(p: Problem) -> Arguments:
    return p.q, p.k, p.v, p.blocks, positions(p.shape, p.q.device), p.geometry


def _blocks_for_fla(p: Problem) -> Arguments:
    selected.check_fla(p.q, p.k)
    return p.q, p.k, p.v, p.blocks.transpose(1, 2).contiguous(), p.geometry


def _blocks_as_mask(p: Problem) -> Arguments:
    fx.check(p.q)
    if p.q.device.type == "cpu":
        raise Unsupported("FlexAttention on a CPU takes no tile as small as one query")
    at = positions(p.shape, p.q.device)
    return p.q, p.k, p.v, *selected.block_mask(p.blocks, p.shape.group, p.shape.seq_len, p.geometry, at)


def _pooled(p: Problem) -> Arguments:
    return p.q, compressed.pool(p.k, p.geometry), positions(p.shape, p.q.device), p.geometry


def _pooled_and_lse(p: Problem) -> Arguments:
    check_triton(p.q.device)
    pooled = compressed.pool(p.k, p.geometry)
    return p.q, pooled, compressed.triton_pooled(p.q, pooled, pooled, p.geometry)[1], positions(p.shape, p.q.device), p.geometry


def _everything(p: Problem) -> Arguments:
    return p.q, p.k, p.v, p.gates, positions(p.shape, p.q.device), p.geometry


def _masks_too(p: Problem) -> Arguments:
    device = p.q.device
    masks = sliding.mask(p.shape.seq_len, p.geometry, device), compressed.mask(p.shape.seq_len, p.geometry, device)
    return *_everything(p), *masks


def _masks_if_needed(p: Problem) -> Arguments:
    return _everything(p) if whole.can_be_fast(p.q, p.k) else _masks_too(p)


NO_CHOICE_GRADIENT = "the choice of blocks has no gradient"
STAGE_FORWARD = "the gate's gradient is part of the whole's"
NO_KERNEL = "this kernel has no backward"

WORKLOAD = Workload(
    inputs=inputs,
    operations=operations(reads),
    variants={
        "dense_flash": variant("dense", dense.flash, _qkv),
        "dense_cudnn": variant("dense", dense.cudnn, _qkv),
        "sliding_loop": variant("sliding", sliding.loop, _qkv_geometry),
        "sliding_masked": variant("sliding", sliding.masked, _sliding_mask),
        "sliding_flash": variant("sliding", sliding.flash, _qkv_geometry),
        "sliding_flash_attn": variant("sliding", sliding.flash_attn, _qkv_geometry),
        "sliding_triton": variant("sliding", sliding.triton, _qkv_geometry, backward=NO_KERNEL),
        "sliding_flex": variant("sliding", fx.attention, _sliding_block_mask),
        "compressed_loop": variant("compressed", compressed.loop, _qkv_geometry),
        "compressed_masked": variant("compressed", compressed.masked, _compressed_mask),
        "compressed_flash": variant("compressed", compressed.flash, _qkv_geometry),
        "compressed_triton": variant("compressed", compressed.triton, _qkv_geometry, backward=NO_KERNEL),
        "compressed_flex": variant("compressed", compressed.flex, _compressed_block_mask),
        "selected_gather": variant("selected", selected.gather, _blocks_and_positions),
        "selected_flex": variant("selected", selected.flex, _blocks_as_mask, backward="its block mask is made for queries only"),
        "selected_fla": variant("selected", selected.fla, _blocks_for_fla),
        "selected_triton": variant("selected", selected.triton, _blocks_and_positions, backward=NO_KERNEL),
        "scoring_torch": variant(
            "scoring", selection.torch_choice, _pooled, backward=NO_CHOICE_GRADIENT, finish=scores_of_choice
        ),
        "scoring_triton": variant(
            "scoring", selection.triton_choice, _pooled_and_lse, backward=NO_CHOICE_GRADIENT, finish=scores_of_choice
        ),
        "combine": variant("combine", combine.gated_sum, lambda p: (p.gates, *p.branches), backward=STAGE_FORWARD),
        "whole_masked": variant("whole", whole.masked, _masks_too, finish=settled),
        "whole": variant("whole", whole.fastest, _masks_if_needed, finish=settled),
        "whole_fla": variant("whole", whole.fla, _everything, finish=settled),
    },
)
