"""The Triton kernels, interpreted on a CPU, are the reference up to rounding."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from runner.paths import ROOT
from tests.nsa.interpreted import CASES, PROMPTS

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton isn't installed")
ROUNDING = {"float32": 2e-5, "float16": 5e-3}
"""The interpreter has no matrix products in bfloat16."""

EVERY_PROMPT = pytest.mark.parametrize("name", PROMPTS)
EVERY_CASE = pytest.mark.parametrize("name", CASES)
Found = dict[str, dict[str, float]]


@pytest.fixture(scope="module")
def found() -> Found:
    """The errors on all cases; the kernels run in processes of their own, see there."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.nsa.interpreted"]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    halves = [subprocess.Popen([*command, half, "2"], cwd=ROOT, env=environment, **pipes) for half in "01"]
    printed = [half.communicate() for half in halves]
    assert [half.returncode for half in halves] == [0, 0], printed
    return {name: errors for output, _ in printed for name, errors in json.loads(output).items()}


@EVERY_CASE
def test_block_scores_are_the_references(found: Found, name):
    assert found[name]["scores"] <= ROUNDING[CASES[name].dtype]


@EVERY_CASE
def test_the_best_blocks_are_the_references_whatever_stands_in_what_is_not_written(found: Found, name):
    assert found[name]["choice"] == 0


@EVERY_CASE
def test_ties_go_to_the_lowest_index_as_in_the_reference(found: Found, name):
    assert found[name]["tied choice"] == 0


@EVERY_CASE
def test_attention_over_the_chosen_blocks_is_the_references_in_any_order_of_them(found: Found, name):
    assert found[name]["selected"] <= ROUNDING[CASES[name].dtype]


@EVERY_CASE
def test_attention_over_no_block_is_zero(found: Found, name):
    assert found[name]["nothing selected"] == 0


@EVERY_PROMPT
@pytest.mark.parametrize("what", ["pool", "compressed", "lse", "sliding", "by block", "gated", "gate"])
def test_the_kernels_of_a_whole_prompt_are_the_reference(found: Found, name, what):
    assert found[name][what] <= ROUNDING[PROMPTS[name].dtype]


@EVERY_PROMPT
def test_the_log_sum_exp_of_a_query_that_sees_nothing_is_infinite(found: Found, name):
    assert found[name]["lse of none"] == 0
