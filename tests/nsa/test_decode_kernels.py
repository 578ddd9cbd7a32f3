"""The four kernels of a decode step, interpreted on a CPU: the reference up to rounding, on any length, and a plan that fits."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.paths import ROOT
from tests.nsa.cases import geometries
from tests.nsa.interpreted_decode import CASES

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton isn't installed")
ROUNDING = {"float32": 1e-6, "float16": 2e-3}
EVERY_CASE = pytest.mark.parametrize("name", CASES)


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, float]]:
    """What each case came to, in a process of its own: Triton looks at TRITON_INTERPRET when it is imported."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.nsa.interpreted_decode"]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@EVERY_CASE
def test_a_step_is_the_reference_with_the_blocks_that_it_chose(found, name):
    assert found[name]["error"] <= ROUNDING[CASES[name].dtype]


@EVERY_CASE
def test_the_chosen_blocks_are_the_references(found, name):
    assert found[name]["differ"] == 0


@settings(max_examples=50, deadline=None)
@given(geometries(max_stride=16, max_ratio=6), st.integers(1, 64), st.sampled_from([1, 2, 8]), st.integers(1, 4000))
def test_a_plan_covers_every_block_and_leaves_no_program_without_work(g, batch, kv_heads, room):
    from workloads.nsa.kernels.decode_plan import plan

    cut = plan(batch, kv_heads, 512, room, g, 132)
    per_block, spill = g.select_len // g.stride, g.block_len // g.stride - 1
    assert cut.blocks >= 1
    assert cut.blocks * per_block + spill <= cut.columns
    assert cut.tiles * cut.blocks >= cut.room_blocks == g.num_blocks(room)
    assert 1 <= cut.compressed_splits <= cut.tiles
    pieces = -(-g.select_len // cut.keys)
    assert 1 <= cut.window_splits <= -(-g.window // g.select_len) * pieces
    assert 1 <= cut.chosen_splits <= g.num_select * pieces
