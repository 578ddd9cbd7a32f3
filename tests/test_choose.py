"""What a program gets that loads thresholds.yaml: the variant that was measured to be faster there, else the baseline."""

import copy
import doctest
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from runner import thresholds
from runner.report.files import to_yaml
from runner.thresholds import choose
from runner.thresholds.choose import load
from tests.jobs import ROOT
from tests.journals import DEVICE, Fabricated, grid

WINDOWS = [128, 256, 512, 1024]
FASTER_FROM = {("bf16", 64): 256, ("bf16", 128): 512, ("fp16", 64): 1024}
KEY: dict[str, Any] = {
    "key": "fa2_min_len_win", "operation": "sliding", "axis": "window", "baseline": "masked", "candidate": "flash",
    "per": ["dtype", "head_dim"],
}  # fmt: skip


def speedup(case: Any) -> float:
    return 2.0 if case["window"] >= FASTER_FROM[case["dtype"], case["head_dim"]] else 0.7


def measured(*declared: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return the content of the file of a run with flash faster than masked from another window on in each scope."""
    cases = [
        case
        for dtype, head_dim in FASTER_FROM
        for case in grid("window", WINDOWS, batch=[1, 8], dtype=[dtype], head_dim=[head_dim])
    ]
    curves = {"masked": lambda case: 0.1, "flash": lambda case: 0.1 / speedup(case), "third": lambda case: 0.02}
    derive = {"thresholds": list(declared) or [KEY]}
    fabricated = Fabricated(**({"curves": curves, "cases": cases, "baseline": "masked", "derive": derive} | changes))
    return thresholds.thresholds(fabricated.events())


DOCUMENT = measured()


def test_the_round_trip_from_a_journal_over_yaml_and_omegaconf_picks_what_was_faster(tmp_path: Path) -> None:
    path = tmp_path / "thresholds.yaml"
    path.write_text(to_yaml(DOCUMENT))
    for source in (path, str(path), yaml.safe_load(path.read_text()), OmegaConf.load(path)):
        dispatch = load(source)
        for (dtype, head_dim), crossover in FASTER_FROM.items():
            for window in (*WINDOWS, 200, 4096):
                chosen = dispatch.choose("sliding", window=window, dtype=dtype, head_dim=head_dim)
                assert chosen == ("flash" if window >= crossover else "masked")


def test_a_program_that_wants_plain_keys_reads_the_runtime_block(tmp_path: Path) -> None:
    (tmp_path / "thresholds.yaml").write_text(to_yaml(DOCUMENT))
    assert OmegaConf.load(tmp_path / "thresholds.yaml").runtime.fa2_min_len_win == 1024


@pytest.mark.parametrize(
    ("axes", "variant"),
    [
        ({"window": 1024}, "flash"),
        ({"window": 512}, "masked"),  # not everywhere
        ({"window": 512, "dtype": "bf16"}, "flash"),  # for both heads that were measured with bf16
        ({"window": 256, "dtype": "bf16"}, "masked"),
        ({"window": 512, "batch": 4, "dtype": "bf16", "head_dim": 64}, "flash"),  # between two that were measured
        ({"window": 1024, "batch": 16}, "masked"),  # beyond them
        ({"window": 1024, "dtype": "fp8"}, "masked"),
        ({"window": 1024, "dtype": "fp16", "head_dim": 128}, "masked"),  # each was measured, not the two together
        ({"window": 1024, "dtype": "bf16", "head_dim": 96}, "masked"),  # a scope is exact
    ],
)
def test_what_was_not_measured_is_never_dispatched_to(axes: dict[str, Any], variant: str) -> None:
    assert load(DOCUMENT).choose("sliding", **axes) == variant


def test_values_that_were_measured_each_but_never_together_are_not_dispatched_to() -> None:
    cases = grid("window", WINDOWS, batch=[1, 8], dtype=["bf16"]) + grid("window", WINDOWS, batch=[1], dtype=["fp16"])
    curves = {"masked": lambda case: 0.1, "flash": lambda case: 0.05}
    dispatch = load(measured(KEY | {"per": ["dtype"]}, cases=cases, curves=curves))
    assert dispatch.choose("sliding", window=512, dtype="fp16", batch=1) == "flash"
    assert dispatch.choose("sliding", window=512, dtype="fp16", batch=8) == "masked"
    assert dispatch.choose("sliding", window=512, batch=4, dtype="fp16") == "masked"
    assert dispatch.choose("sliding", window=512, batch=4, dtype="bf16") == "flash"


def test_a_key_can_be_asked_for_like_an_operation() -> None:
    assert load(DOCUMENT).choose("fa2_min_len_win", window=1024) == "flash"


def test_a_value_outside_of_what_all_cases_share_is_not_dispatched_to() -> None:
    document = measured(KEY | {"where": {"dtype": "bf16"}, "per": []})
    assert load(document).choose("sliding", window=1024, dtype="bf16") == "flash"
    assert load(document).choose("sliding", window=1024, dtype="fp16") == "masked"


def test_of_several_thresholds_the_first_that_is_reached_wins() -> None:
    third = KEY | {"key": "third_min", "candidate": "third", "baseline": "flash", "per": []}
    assert load(measured(third, KEY)).choose("sliding", window=1024) == "third"
    assert load(measured(KEY, third)).choose("sliding", window=1024) == "flash"
    never = KEY | {"key": "never_min", "baseline": "third", "candidate": "flash"}
    assert load(measured(KEY, never)).choose("never_min", window=1024) == "third"


def test_where_the_baselines_differ_there_is_nothing_to_fall_back_to() -> None:
    document = measured(KEY, KEY | {"key": "other", "baseline": "third"})
    with pytest.raises(ValueError, match="the thresholds of sliding fall back to masked, third; ask for one by its key"):
        load(document).choose("sliding", window=128)


def test_upto_is_reached_below() -> None:
    upto = KEY | {"direction": "upto", "baseline": "flash", "candidate": "masked", "never": 0, "per": [], "margin": 1.1}
    dispatch = load(measured(upto))
    assert [dispatch.choose("sliding", window=window) for window in (64, 128, 129, 1024)] == [
        "masked",
        "masked",
        "flash",
        "flash",
    ]


@pytest.mark.parametrize("window", [64, 999_998, 999_999, 10**9])
def test_never_is_never_reached(window: int) -> None:
    disabled = measured(KEY, curves={"masked": lambda case: 0.1, "flash": lambda case: 0.2})
    assert load(disabled).choose("sliding", window=window) == "masked"


def test_what_policy_turns_off_is_not_dispatched_to() -> None:
    guarded = measured(KEY | {"off_on_sm": ["8.9"]}, device={**DEVICE, "sm": "8.9"})
    assert load(guarded).choose("sliding", window=1024) == "masked"
    assert load(guarded).choose("sliding", window=1024, dtype="bf16", head_dim=64) == "masked"


def test_a_file_without_scopes_as_the_first_version_wrote_it_is_read() -> None:
    old = measured(KEY, KEY | {"key": "never_min", "margin": 9.0})
    for entry in old["evidence"].values():
        for added in ("value", "never", "operation", "scopes", "settings"):
            del entry[added]
    dispatch = load(old)
    assert [dispatch.choose("fa2_min_len_win", window=window) for window in (512, 1024)] == ["masked", "flash"]
    assert dispatch.choose("never_min", window=10**9) == "masked"


@pytest.mark.parametrize(
    ("operation", "axes", "message"),
    [
        ("slidng", {"window": 1}, "no threshold is about slidng; the file knows sliding"),
        ("sliding", {}, "sliding depends on window; give a value, as in window=512"),
        ("sliding", {"dtype": "bf16"}, "sliding depends on window; give a value, as in window=512"),
        ("sliding", {"window": 512, "dtyp": "bf16"}, "dtyp is no axis of sliding; it has window, batch, dtype, head_dim"),
        ("sliding", {"window": "512"}, "window=512: expected a number"),
        ("sliding", {"window": 512, "dtype": bytes}, "dtype=<class 'bytes'>: expected a number or a name, as in 'bf16'"),
    ],
)
def test_a_wrong_question_is_one_line_that_names_what_is_known(operation: str, axes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
        load(DOCUMENT).choose(operation, **axes)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 2}, "schema 2, expected 1"),
        ({"runtime": None}, "expected the parts runtime and evidence"),
        ({"evidence": {"k": {"axis": "n"}}}, "evidence.k lacks some of axis, baseline, candidate, decision"),
    ],
)
def test_a_file_of_another_kind_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(DOCUMENT | changes)


@pytest.mark.parametrize("text", ["- a\n", "", "a: [\n", "schema: two\n"])
def test_a_file_that_is_none_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"x\.yaml") as caught:
        load(tmp_path / "x.yaml")
    assert "\n" not in str(caught.value)


def test_a_file_from_another_gpu_is_refused_where_the_device_is_named() -> None:
    assert load(DOCUMENT, device="NVIDIA H200").document["device"]["name"] == "NVIDIA H200"
    with pytest.raises(ValueError, match="measured on NVIDIA H200, this is NVIDIA GeForce RTX 4090; measure here"):
        load(DOCUMENT, device="NVIDIA GeForce RTX 4090")


@given(st.integers(1, 10**7), st.sampled_from([None, "bf16", "fp16", "fp8"]), st.sampled_from([None, 64, 96, 128]))
def test_knowing_more_of_a_case_never_dispatches_where_its_own_scope_does_not(window: int, dtype: Any, head_dim: Any) -> None:
    """Whatever is left open must hold for all that it could be."""
    dispatch = load(DOCUMENT)
    axes = {axis: value for axis, value in (("dtype", dtype), ("head_dim", head_dim)) if value is not None}
    if dispatch.choose("sliding", window=window, **axes) == "flash":
        fitting = [
            crossover
            for (one, size), crossover in FASTER_FROM.items()
            if axes.get("dtype", one) == one and axes.get("head_dim", size) == size
        ]
        assert fitting
        assert window >= max(fitting)


def test_the_document_is_not_changed_by_loading_it() -> None:
    before = copy.deepcopy(DOCUMENT)
    load(DOCUMENT).choose("sliding", window=512)
    assert before == DOCUMENT


def test_the_example_in_its_first_lines_is_true() -> None:
    assert doctest.testmod(choose).failed == 0


def test_it_needs_nothing_but_pyyaml(tmp_path: Path) -> None:
    (tmp_path / "thresholds.yaml").write_text(to_yaml(DOCUMENT))
    code = "import sys, runner.thresholds.choose as c; c.load(sys.argv[1]); print(*sys.modules)"
    command = [sys.executable, "-c", code, str(tmp_path / "thresholds.yaml")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    packages = {name.partition(".")[0] for name in done.stdout.split()}
    assert packages & {"torch", "numpy", "scipy", "hydra", "omegaconf", "mlflow", "rich", "matplotlib"} == set()
    assert {name for name in done.stdout.split() if name.startswith("runner.")} == {
        "runner.thresholds",
        "runner.thresholds.choose",
    }
