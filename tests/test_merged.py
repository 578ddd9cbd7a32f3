"""Merged thresholds, as a specification: they equal those of single runs, and those of one run over the whole grid."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from runner import journal, merged, results, thresholds
from runner.journal import case_key
from runner.merged import document, sources
from runner.merged.reading import Reader
from runner.merged.union import unite
from runner.spec import Case
from runner.sweep.folder import Sweep, SweepJob
from runner.thresholds.choose import load
from runner.thresholds.derivation import conclude
from tests.journals import DEVICE, Fabricated, grid, matmul, write

REAL = Path(__file__).parent.parent / "docs" / "results" / "h200"
XS = [128, 256, 512, 1024]
SPEC = {"key": "flash_min_n", "axis": "n", "baseline": "masked", "candidate": "flash", "margin": 1.2, "unit": "tokens"}


def attention(ratio: Any, cases: list[Case] | None = None, **changes: Any) -> Fabricated:
    """Return a run whose `flash` is `ratio(case)` times as fast as `masked`."""
    curves = {"masked": lambda case: 0.01 * case["n"], "flash": lambda case: 0.01 * case["n"] / ratio(case)}
    defaults = {"workload": "attention", "baseline": "masked", "derive": {"axes": {"n": "tokens"}, "thresholds": [SPEC]}}
    return Fabricated(**(defaults | {"curves": curves, "cases": cases or grid("n", XS)} | changes))


def lay(run: Fabricated, folder: Path, gpu: str = "NVIDIA H200", day: int = 1, keep: Any = lambda event: True) -> Path:
    """Write a run as measured on a GPU of this name on a day of March, with the measurements to keep."""
    run = replace(run, device=DEVICE | {"name": gpu, "uuid": f"GPU-{gpu}"})
    events = [event for event in run.events() if event["event"] != "measurement" or keep(event)]
    for event in events:
        event["time"] = event["time"].replace("2026-03-01", f"2026-03-{day:02}")
    write(run, folder, events)
    return folder


def sweep(folder: Path, jobs: Mapping[str, Fabricated | None], **same: int) -> Path:
    """Write a sweep of fabricated runs by name; None is one that never began, `same` are those that share a job's folder."""
    made = []
    for index, (name, job) in enumerate(jobs.items()):
        if job is not None:
            lay(job, folder / name)
        made.append(SweepJob(index, ["gpu=h200", f"job={name}"], f"{index}" * 64, name, "attention", "h200", "local"))
    for name, index in same.items():
        made.append(replace(made[index], index=len(made), overrides=["gpu=h200", f"job={name}"], same_as=index))
    Sweep(folder, "nightly", "2026-03-01T12:00:00+00:00", "python -m runner -m job=a,b", [], made, user="me").save()
    return folder


def as_gpu(source: Path, folder: Path, gpu: str, keep: Any = lambda axes: True) -> Path:
    """Copy a real run as if measured on a GPU of another name, with the cases to keep: test data, not a measurement."""
    folder.mkdir(parents=True)
    events = journal.read(source)
    for event in events:
        if event["event"] == "job_started":
            event["device"]["name"] = gpu
            event["job"]["cases"] = [case for case in event["job"]["cases"] if keep(case["axes"])]
    kept = [event for event in events if event["event"] != "measurement" or keep(event["case"])]
    (folder / "journal.jsonl").write_text("".join(json.dumps(event) + "\n" for event in kept))
    return folder


def read(*folders: Path) -> list[Any]:
    """Return the unions of some runs."""
    reader = Reader(lambda *row: None, {})
    for index, folder in enumerate(folders):
        reader.add(sources.Source(index, folder, folder.name))
    return unite(reader.read.runs)


def single(folder: Path) -> dict[str, Any]:
    """Return what a run's own thresholds.yaml has of values and evidence."""
    found = results.read(folder)
    return parts(thresholds.as_dict(thresholds.derive_all(found), found))


def parts(found: Mapping[str, Any]) -> dict[str, Any]:
    return {key: found[key] for key in ("policy", "runtime", "evidence")}


def content(*folders: Path) -> dict[str, Any]:
    origin = sources.Origin("test", [])
    return yaml.safe_load(document.to_text(document.content(read(*folders), origin)))


@pytest.mark.parametrize("name", ["fa2_thresholds", "nsa_decode", "nsa_prefill", "decode_4090_report"])
def test_a_real_run_alone_keeps_its_thresholds(name: str) -> None:
    (found,) = content(REAL / name)["devices"]["NVIDIA H200"].values()
    assert parts(found) == parts(yaml.safe_load((REAL / name / "thresholds.yaml").read_text())) == single(REAL / name)


def test_a_job_per_gpu_keeps_the_thresholds_of_each(tmp_path: Path) -> None:
    other = as_gpu(REAL / "nsa_prefill", tmp_path / "other", "NVIDIA TEST")
    found = content(REAL / "nsa_prefill", other, REAL / "nsa_decode")
    assert list(found["devices"]) == ["NVIDIA H200", "NVIDIA TEST"]
    assert list(found["devices"]["NVIDIA H200"]) == ["nsa_prefill", "nsa_decode"]
    assert parts(found["devices"]["NVIDIA H200"]["nsa_prefill"]) == single(REAL / "nsa_prefill")
    assert parts(found["devices"]["NVIDIA TEST"]["nsa_prefill"]) == single(other)
    assert found["devices"]["NVIDIA TEST"]["nsa_prefill"]["device"]["name"] == "NVIDIA TEST"


def test_a_grid_that_was_split_over_jobs_gives_what_one_run_of_it_gives(tmp_path: Path) -> None:
    contexts = (8192, 16384, 32768, 65536)
    jobs = [
        as_gpu(REAL / "nsa_decode", tmp_path / f"{one}", "NVIDIA H200", lambda axes, one=one: axes["context"] == one)
        for one in contexts
    ]
    # Alone, a job with one x shows no crossover.
    assert {entry["decision"] for job in jobs for entry in single(job)["evidence"].values()} == {"undecided"}
    (found,) = content(*jobs)["devices"]["NVIDIA H200"].values()
    assert parts(found) == single(REAL / "nsa_decode")


def test_the_same_run_twice_is_that_run(tmp_path: Path) -> None:
    run = attention(lambda case: 2.0 if case["n"] > 200 else 0.5)
    first, second = lay(run, tmp_path / "first"), lay(run, tmp_path / "second", day=2)
    (found,) = content(first, second)["devices"]["NVIDIA H200"].values()
    assert parts(found) == single(first)
    assert [one["run"] for one in found["source"]["runs"]] == ["first", "second"]


def test_scopes_keep_their_order_and_values(tmp_path: Path) -> None:
    spec = SPEC | {"per": ["head_dim", "dtype"]}
    run = attention(
        lambda case: 2.0 if case["n"] >= case["head_dim"] * 4 else 0.5,
        grid("n", XS, dtype=["fp16", "bf16"], head_dim=[128, 64]),
        derive={"axes": {}, "thresholds": [spec]},
    )
    (found,) = content(lay(run, tmp_path / "run"))["devices"]["NVIDIA H200"].values()
    assert parts(found) == single(tmp_path / "run")
    order = [[*one["scope"].values()] for one in found["evidence"]["flash_min_n"]["scopes"]]
    assert order == [[128, "fp16"], [64, "fp16"], [128, "bf16"], [64, "bf16"]]


def test_values_by_head_dim_are_those_of_the_jobs_that_were_split_by_it(tmp_path: Path) -> None:
    jobs = {}
    for head_dim, at in ((64, 256), (128, 512)):
        run = attention(lambda case, at=at: 2.0 if case["n"] >= at else 0.5, grid("n", XS, head_dim=[head_dim]))
        jobs[head_dim] = lay(run, tmp_path / f"{head_dim}")
    found = content(*jobs.values())["runtime"]["NVIDIA H200"]["attention"]["flash_min_n"]
    assert found["all"] == 512
    by = {one["head_dim"]: one["value"] for one in found["by"]}
    assert by == {head_dim: single(job)["runtime"]["flash_min_n"] for head_dim, job in jobs.items()} == {64: 256, 128: 512}


def test_dtype_and_head_dim_are_keys_though_no_threshold_declares_them(tmp_path: Path) -> None:
    run = attention(
        lambda case: 2.0 if case["n"] >= {"fp16": 256, "bf16": 1024}[case["dtype"]] else 0.5,
        grid("n", XS, dtype=["fp16", "bf16"], head_dim=[64]),
    )
    found = content(lay(run, tmp_path / "run"))["runtime"]["NVIDIA H200"]["attention"]["flash_min_n"]
    assert found["by"] == [
        {"dtype": "bf16", "head_dim": 64, "value": 1024, "decision": "enabled"},
        {"dtype": "fp16", "head_dim": 64, "value": 256, "decision": "enabled"},
    ]


def test_what_jobs_were_split_by_is_a_scope_of_its_own_beside_the_finer_ones(tmp_path: Path) -> None:
    spec = SPEC | {"per": ["batch"]}
    jobs = [
        lay(
            attention(
                lambda case: 2.0 if case["n"] >= 128 * case["batch"] * case["block"] else 0.5,
                grid("n", XS, batch=[1, 2], block=[block]),
                derive={"axes": {}, "thresholds": [spec]},
            ),
            tmp_path / f"{block}",
        )
        for block in (1, 4)
    ]
    found = content(*jobs)["runtime"]["NVIDIA H200"]["attention"]["flash_min_n"]
    coarse = {one["block"]: one["value"] for one in found["by"] if "batch" not in one}
    assert coarse == {1: single(jobs[0])["runtime"]["flash_min_n"], 4: single(jobs[1])["runtime"]["flash_min_n"]}
    assert {(one["block"], one["batch"]): one["value"] for one in found["by"] if "batch" in one} == {
        (1, 1): 128, (1, 2): 256, (4, 1): 512, (4, 2): 1024,
    }  # fmt: skip


def test_a_job_that_measured_nothing_leaves_its_cases_open(tmp_path: Path) -> None:
    wins = lambda case: 2.0  # noqa: E731 - a curve
    measured = lay(attention(wins, grid("n", XS[:-1])), tmp_path / "measured")
    assert read(measured)[0].evidence[0].decision == "enabled"
    waiting = attention(wins, grid("n", XS[-1:]))
    waiting.job().save(tmp_path / "waiting" / "job.json")
    (evidence,) = read(measured, tmp_path / "waiting")[0].evidence
    assert (evidence.decision, evidence.runtime) == ("undecided", 999999)
    assert "at the largest n, 1024" in evidence.reason


def test_a_job_that_waits_for_another_gpu_opens_nothing_here(tmp_path: Path) -> None:
    measured = lay(attention(lambda case: 2.0, grid("n", XS[:-1])), tmp_path / "measured")
    other = attention(lambda case: 2.0, grid("n", XS[-1:]), gpu=None)
    other.job().save(tmp_path / "waiting" / "job.json")
    assert read(measured, tmp_path / "waiting")[0].evidence[0].decision == "enabled"


def test_of_two_runs_of_a_case_the_later_one_counts(tmp_path: Path) -> None:
    wins, loses = attention(lambda case: 2.0), attention(lambda case: 0.5)
    early, late = lay(wins, tmp_path / "early", day=1), lay(loses, tmp_path / "late", day=2)
    for order in ([early, late], [late, early]):
        assert read(*order)[0].evidence[0].decision == "disabled"
    late_win = lay(wins, tmp_path / "latest", day=3)
    assert read(early, late, late_win)[0].evidence[0].decision == "enabled"


def test_a_later_run_without_the_candidate_takes_nothing_away(tmp_path: Path) -> None:
    both = lay(attention(lambda case: 2.0), tmp_path / "both", day=1)
    masked_only = lay(attention(lambda case: 2.0), tmp_path / "only", day=2, keep=lambda event: event["variant"] == "masked")
    assert read(both, masked_only)[0].evidence[0].decision == "enabled"


def test_times_of_different_runs_are_never_set_against_each_other(tmp_path: Path) -> None:
    run = attention(lambda case: 2.0)
    halves = [
        lay(run, tmp_path / variant, keep=lambda event, variant=variant: event["variant"] == variant)
        for variant in ("masked", "flash")
    ]
    (evidence,) = read(*halves)[0].evidence
    assert evidence.decision == "undecided"
    assert {row.verdict for row in evidence.rows} == {"missing"}


def test_another_policy_is_another_set_of_thresholds_named_by_the_difference(tmp_path: Path) -> None:
    run = attention(lambda case: 2.0)
    usual, strict = lay(run, tmp_path / "usual"), lay(replace(run, confidence=0.99), tmp_path / "strict", day=2)
    found = content(usual, strict)["devices"]["NVIDIA H200"]
    assert list(found) == ["attention (measure.confidence=0.95)", "attention (measure.confidence=0.99)"]
    assert [one["policy"]["confidence"] for one in found.values()] == [0.95, 0.99]


def test_other_declarations_under_one_key_are_kept_apart(tmp_path: Path) -> None:
    ratio = lambda case: 1.5  # noqa: E731 - a curve
    low = lay(attention(ratio), tmp_path / "low")
    high = lay(attention(ratio, derive={"axes": {}, "thresholds": [SPEC | {"margin": 2.0}]}), tmp_path / "high")
    found = content(low, high)["runtime"]["NVIDIA H200"]
    assert {label: one["flash_min_n"]["all"] for label, one in found.items()} == {"attention (#1)": 128, "attention (#2)": 999999}


def test_runs_that_declare_different_keys_share_one_document(tmp_path: Path) -> None:
    first = lay(matmul(cases=grid("n", XS)), tmp_path / "first")
    other = {"key": "tf32_min_n", "axis": "n", "baseline": "fp32", "candidate": "tf32", "unit": "elements", "margin": 1.2}
    second = lay(matmul(cases=grid("n", XS), derive={"axes": {}, "thresholds": [other]}), tmp_path / "second")
    (found,) = content(first, second)["devices"]["NVIDIA H200"].values()
    assert found["runtime"] == single(first)["runtime"] | single(second)["runtime"]


def test_a_guard_holds_for_every_scope(tmp_path: Path) -> None:
    run = attention(
        lambda case: 2.0,
        grid("n", XS, head_dim=[64, 128]),
        derive={"axes": {}, "thresholds": [SPEC | {"off_on_sm": ["9.0"]}]},
    )
    found = content(lay(run, tmp_path / "run"))
    assert parts(found["devices"]["NVIDIA H200"]["attention"]) == single(tmp_path / "run")
    assert {one["value"] for one in found["runtime"]["NVIDIA H200"]["attention"]["flash_min_n"]["by"]} == {999999}


def test_a_program_loads_the_document_of_its_gpu(tmp_path: Path) -> None:
    found = content(REAL / "fa2_thresholds", as_gpu(REAL / "fa2_thresholds", tmp_path / "other", "NVIDIA TEST"))
    dispatch = load(found["devices"]["NVIDIA TEST"]["fa2_thresholds"], device="NVIDIA TEST")
    assert dispatch.choose("sliding", window=512, dtype="bf16", head_dim=64) == "sliding_flash"
    with pytest.raises(ValueError, match="measured on NVIDIA TEST"):
        load(found["devices"]["NVIDIA TEST"]["fa2_thresholds"], device="NVIDIA H200")


def test_what_runs_disagree_on_is_null_and_said_of_each(tmp_path: Path) -> None:
    run = attention(lambda case: 2.0, grid("n", XS[:2]))
    first = lay(run, tmp_path / "first")
    second = lay(replace(run, cases=grid("n", XS[2:])), tmp_path / "second")
    lines = (second / "journal.jsonl").read_text().replace("GPU-NVIDIA H200", "GPU-another")
    (second / "journal.jsonl").write_text(lines)
    (found,) = content(first, second)["devices"]["NVIDIA H200"].values()
    assert (found["device"]["uuid"], found["device"]["sm"], found["source"]["job_hash"]) == (None, "9.0", None)
    assert [one["uuid"] for one in found["source"]["runs"]] == ["GPU-NVIDIA H200", "GPU-another"]


@pytest.mark.parametrize("name", ["matmul", "fa2_thresholds", "nsa_decode"])
def test_a_conclusion_over_a_runs_rows_is_the_evidence_that_the_run_derives(name: str) -> None:
    found = results.read(REAL / name)
    order = {case_key(axes): place for place, (axes, _) in enumerate(found.cases)}
    reader = Reader(lambda *row: None, {})
    run = reader.add(sources.Source(0, REAL / name, name))
    assert [case_key(point.case) for one in run.declared for point in one.points] == [
        key for one in run.declared for key in sorted((case_key(point.case) for point in one.points), key=order.__getitem__)
    ]
    derived = [thresholds.derive(one.spec, found) for one in run.declared]
    rows = [(one.spec, [(point.case, point.row) for point in one.points]) for one in run.declared]
    assert [conclude(spec, points, found.settings) for spec, points in rows] == derived


def test_a_sweep_of_several_gpus_is_merged_in_its_folder(tmp_path: Path) -> None:
    run = attention(lambda case: 2.0)
    sweep(tmp_path / "sweep", {"a": run, "b": run})
    lay(run, tmp_path / "sweep" / "b", "NVIDIA L4", day=2)
    made = merged.write(tmp_path / "sweep", plots=False)
    found = yaml.safe_load((tmp_path / "sweep" / "thresholds.yaml").read_text())
    assert found["runtime"] == {
        gpu: {"attention": {"flash_min_n": {"all": 128, "decision": "enabled", "by": []}}} for gpu in ("NVIDIA H200", "NVIDIA L4")
    }
    assert [union.device for union in made.thresholds] == ["NVIDIA H200", "NVIDIA L4"]
