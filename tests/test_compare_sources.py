"""What A and B may name: runs, journals, sweeps, MLflow runs, published tables; and what is said of anything else."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from runner.compare.__main__ import main
from runner.compare.comparison import Asked, Comparison, compare
from runner.journal import NAME
from runner.sweep.folder import Sweep, SweepJob
from runner.tracking.store import connect, place
from tests.journals import DEVICE, Fabricated, grid, matmul, write
from tests.test_compare import run

H100 = DEVICE | {"name": "NVIDIA H100 80GB HBM3", "uuid": "GPU-1"}


def told(asked: Asked) -> dict[tuple[int, str], str]:
    return {(one.pair.here.case["n"], one.pair.here.variant): one.verdict for one in compare(asked).judged}


@pytest.fixture
def old(tmp_path: Path) -> str:
    return run(tmp_path / "old", seed=1)


@pytest.fixture
def new(tmp_path: Path) -> str:
    return run(tmp_path / "new", {(512, "bf16"): 2.0}, seed=2)


EXPECTED = {
    (n, variant): "slower" if (n, variant) == (512, "bf16") else "same" for n in (256, 512, 1024) for variant in ("fp32", "bf16")
}


# --- runs and sweeps


def test_a_run_is_named_by_its_folder_its_journal_or_a_copy_of_that(old, new, tmp_path):
    shutil.copy(Path(old) / NAME, tmp_path / "baseline.jsonl")
    for name in (old, f"{old}/{NAME}", f"{tmp_path}/baseline.jsonl", f"{tmp_path}/base*.jsonl"):
        assert told(Asked(name, new)) == EXPECTED


def sweep(out: Path, name: str, factor: float) -> Path:
    """Write a sweep of two jobs, one that shares the folder of the first, and one that never began."""
    folder = out / "sweeps" / name
    run(folder / "000-a", sizes=[256], session=f"{name}-0", seed=1)
    run(folder / "001-b", {(512, "bf16"): factor}, sizes=[512, 1024], session=f"{name}-1", seed=2)
    names = ("000-a", "001-b", "000-a", "003-d")
    jobs = [
        SweepJob(i, [f"x={i}"], "h", at, "matmul", "h200", "local", same_as=0 if i == 2 else None) for i, at in enumerate(names)
    ]
    Sweep(folder, name, "2026-03-01T12:00:00+00:00", "python -m runner -m", [], jobs).save()
    return folder


def test_a_sweep_is_all_its_jobs_and_may_be_named_by_its_folder_or_name(tmp_path):
    folder, _ = sweep(tmp_path, "before", 1.0), sweep(tmp_path, "after", 2.0)
    for name in (str(folder), "before"):
        found = compare(Asked(name, "after", out=tmp_path))
        assert {(one.pair.here.case["n"], one.pair.here.variant): one.verdict for one in found.judged} == EXPECTED
        assert any("A: 1 of 3 jobs of" in warning and "have no journal" in warning for warning in found.warnings)


def test_a_job_whose_worker_never_started_is_told_and_passed_over(tmp_path):
    sweep(tmp_path, "before", 1.0)
    folder = sweep(tmp_path, "after", 2.0)
    (folder / "003-d").mkdir()
    (folder / "003-d" / NAME).write_text(json.dumps({"event": "note", "time": "2026-03-01T12:00:00+00:00"}) + "\n")
    found = compare(Asked("before", "after", out=tmp_path))
    assert any("003-d: its worker never started" in warning for warning in found.warnings)


def test_two_jobs_whose_cases_differ_in_a_setting_have_rows_that_can_be_told_apart(tmp_path, capsys):
    for side in ("old", "new"):
        for head_dim in (64, 128):
            made = Fabricated(
                {"flash": lambda case: 0.1},
                grid("n", [256], head_dim=[head_dim], heads=[4]),
                baseline="flash",
                drift=0.0,
                session=f"{side}-{head_dim}",
                derive={"axes": {}, "settings": {"head_dim": head_dim, "heads": 4}},
            )
            (tmp_path / side / str(head_dim)).mkdir(parents=True)
            write(made, tmp_path / side / str(head_dim))
    assert main([f"{tmp_path}/old/*", f"{tmp_path}/new/*"]) == 0
    out = capsys.readouterr().out
    assert "all at heads 4\n" in out
    assert {"head_dim=64 n=256", "head_dim=128 n=256"} <= {line.split("  ")[0] for line in out.splitlines()}


# --- MLflow


def test_an_mlflow_run_is_its_journal_and_a_parent_is_its_childrens(old, new, tmp_path, empty_store, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    client, experiment = connect(place(None, "matmul", None, tmp_path))
    _, elsewhere = connect(place(None, "others", None, tmp_path))

    def recorded(folder: str | None, parent: str | None = None, where: str = experiment) -> str:
        tags = {"mlflow.parentRunId": parent} if parent else {}
        made: str = client.create_run(where, tags=tags).info.run_id
        if folder:
            client.log_artifact(made, f"{folder}/{NAME}")
        return made

    first, parent = recorded(old), recorded(None)
    half = run(tmp_path / "half", {(512, "bf16"): 2.0}, sizes=[256, 512], seed=2)
    recorded(half, parent)
    recorded(run(tmp_path / "rest", sizes=[1024], seed=3), parent, elsewhere)
    assert told(Asked(first, new, out=tmp_path)) == EXPECTED
    assert told(Asked(first, parent, out=tmp_path)) == EXPECTED
    before = sorted(path.name for path in tmp_path.iterdir())
    assert refused(first, recorded(None), "--out", str(tmp_path)).startswith(f"error: the MLflow store sqlite:///{tmp_path}")
    assert "not found" in refused(first, "0" * 32, "--out", str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == before  # a store is only read


# --- what others published


def published(folder: Path, value: float, metric: str = "latency_ms", **source: str) -> str:
    about = {"title": "A report", "date": "2025-01-20", "device": "NVIDIA GeForce RTX 4090", "software": "PyTorch 2.5"} | source
    rows = [
        {"case": {"n": 512}, "variant": "bf16", "what": "a time", "metric": metric, "value": value},
        {"case": {"n": 512}, "variant": "bf16", "what": "a count", "metric": "keys", "value": 7},
        {"case": {"n": 99}, "variant": "bf16", "what": "of no case here", "metric": metric, "value": 1.0},
    ]
    path = folder / "table.yaml"
    path.write_text(yaml.safe_dump({"source": about, "caveat": "It was a guess.", "rows": rows}))
    return str(path)


def only(found: Comparison):
    (one,) = found.judged
    return one


def test_a_published_figure_is_shown_with_its_caveat_and_is_no_regression_unless_asked(new, tmp_path, capsys):
    table = published(tmp_path, 1.0)  # 1.6 ms were measured
    one = only(compare(Asked(table, new)))
    assert (one.verdict, one.regression, one.excused) == ("slower", False, True)
    assert one.ratio.value == pytest.approx(1.6, rel=0.02)
    assert one.ratio.low < 1.6 < one.ratio.high
    assert main([table, new]) == 0
    out = capsys.readouterr().out
    assert "published, A report, 2025-01-20, on NVIDIA GeForce RTX 4090, PyTorch 2.5" in out
    assert "!  A was published: no spread, no known machine. What is wrong with it: It was a guess." in out
    assert "1 figures of" not in out.splitlines()[-1]
    assert "1 only in A and 5 only in B" in out
    assert main([table, new, "--across-devices"]) == 1


def test_a_published_figure_within_the_measured_interval_is_never_a_regression(new, tmp_path):
    one = only(compare(Asked(published(tmp_path, 1.6 / 1.05), new, across_devices=True)))
    assert (one.verdict, one.regression) == ("unclear", False)


def test_a_run_may_be_held_against_what_was_published_later(new, tmp_path):
    one = only(compare(Asked(new, published(tmp_path, 0.8), across_devices=True)))
    assert (one.verdict, one.regression) == ("faster", False)


def test_a_published_wall_time_is_held_against_the_wall_clock(new, tmp_path):
    one = only(compare(Asked(published(tmp_path, 1.0, "latency_wall_ms"), new)))
    assert (one.pair.here.metric, one.pair.old[-1].metric) == ("latency_wall_ms", "latency_wall_ms")
    assert one.ratio.value == pytest.approx(1.604, rel=0.02)


def test_figures_that_can_not_be_told_apart_are_not_compared(new, tmp_path):
    path = Path(published(tmp_path, 1.0))
    table = yaml.safe_load(path.read_text())
    table["rows"].append(table["rows"][0] | {"value": 5.0, "what": "the same on another machine"})
    table["rows"].append({"case": {"n": 256}, "variant": "bf16", "what": "a rate", "metric": "throughput_tflops", "value": 0.1})
    path.write_text(yaml.safe_dump(table))
    found = compare(Asked(str(path), new))
    assert [one.pair.here.metric for one in found.judged] == ["throughput_tflops"]
    assert any("2 figures of" in warning and "fit several cases" in warning for warning in found.warnings)


def test_two_published_versions_have_ratios_and_no_verdicts(tmp_path):
    for name, value in (("v1", 2.0), ("v2", 3.0)):
        (tmp_path / name).mkdir()
        published(tmp_path / name, value, title=name)
    found = compare(Asked(f"{tmp_path}/v1/table.yaml", f"{tmp_path}/v2/table.yaml", across_devices=True))
    assert [(one.verdict, one.ratio.value) for one in found.judged] == [
        ("no interval", pytest.approx(1.5)),
        ("no interval", pytest.approx(1.0)),
    ]
    assert found.exit_code == 0


def test_the_programs_own_tables_are_named_by_their_name(tmp_path):
    made = Fabricated(
        {"whole": lambda case: 0.8},
        grid("context", [1024], batch=[1], heads=[4], kv_heads=[2], head_dim=[64], extra=["x"]),
        workload="nsa_decode",
        baseline="whole",
        drift=0.0,
    )
    (tmp_path / "run").mkdir()
    write(made, tmp_path / "run")
    one = only(compare(Asked("reported:decode_4090", str(tmp_path / "run"))))
    assert one.ratio.value == pytest.approx(0.804 / 5.987, rel=0.02)


# --- wrong requests


def refused(*arguments: str) -> str:
    """Return the one line that a wrong request ends with."""
    import contextlib
    import io

    with contextlib.redirect_stderr(io.StringIO()) as stream:
        assert main(list(arguments)) == 2
    (line,) = stream.getvalue().splitlines()
    return line


@pytest.mark.parametrize(
    ("side", "line"),
    [
        ("nothing/there", "error: nothing/there: there is no such thing to compare; expected the folder of a run"),
        ("befor", "error: befor: there is no such thing to compare; did you mean before?"),
        ("none-*", "error: none-* matches no run"),
        ("", "error: an empty name can't be compared"),
        ("reported:decode4090", "error: reported:decode4090: no such table; did you mean decode_4090?"),
        ("{old}/job.json", "is damaged at b'{'"),
        ("{tmp}", "holds neither journal.jsonl nor sweep.json; name the runs in it, as in '{tmp}/*'"),
        ("{tmp}/odd.yaml", "expected a table like those in conf/reported"),
        ("{old},reported:decode_4090", "published figures and runs can't be one side"),
        ("0123456789abcdef0123456789abcdef", "looks like an MLflow run, and there is no store"),
    ],
)
def test_a_side_that_is_none_ends_with_a_line_that_helps(old, tmp_path, monkeypatch, side, line):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    sweep(tmp_path, "before", 1.0)
    (tmp_path / "odd.yaml").write_text("rows: 3\n")
    given, expected = (text.replace("{old}", old).replace("{tmp}", str(tmp_path)) for text in (side, line))
    assert expected in refused(given, old, "--out", str(tmp_path))


def test_a_store_that_does_not_answer_is_named_without_its_password(old):
    line = refused("0" * 32, old, "--uri", "http://me:secret@127.0.0.1:1")
    assert line.startswith("error: the MLflow store http://***@127.0.0.1:1 can't be used")
    assert line.endswith("start it, or name another with --uri")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--metric", "latency"], "error: --metric latency: no run is compared by that; did you mean latency_ms"),
        (["--metric", "energy_mj"], "error: no case has energy_mj in both A and B; name another --metric"),
        (["--tolerance", "5"], "error: --tolerance 5: expected a fraction from 0 to less than 1, as in 0.05 for 5%"),
        (["--confidence", "95"], "error: --confidence 95: expected at least 0.5 and less than 1, as in 0.95"),
        (["--json", "nowhere/found.json"], "error: can't write nowhere/found.json"),
    ],
)
def test_a_wrong_option_ends_with_a_line_that_helps(tmp_path, arguments, line):
    sides = [run(tmp_path / name, seed=seed, energy=False) for seed, name in enumerate("ab")]
    assert refused(*sides, *arguments).startswith(line)


def test_runs_that_share_no_case_are_told_in_what_they_differ(old, tmp_path):
    (tmp_path / "other").mkdir()
    write(matmul(cases=grid("n", [7, 9])), tmp_path / "other")
    assert "with n 256, 512 and 1024 in A and 7 and 9 in B" in refused(old, str(tmp_path / "other"))


def test_a_journal_with_a_measurement_that_can_not_be_read_is_named(old, tmp_path):
    def spoilt(events):
        next(event for event in events if event["event"] == "measurement")["samples_ms"] = [0.0] * 9

    assert refused(old, run(tmp_path / "spoilt", change=spoilt)).startswith(f"error: {tmp_path}/spoilt: a measurement in it")


def test_a_torn_last_line_is_passed_over(old, new):
    with open(Path(new) / NAME, "a") as file:
        file.write('{"event":"measurement","case":{"n"')
    assert told(Asked(old, new)) == EXPECTED


def test_the_same_case_on_another_model_is_held_against_the_only_other_one(old, tmp_path):
    found = compare(Asked(old, run(tmp_path / "new", device=H100, seed=2)))
    assert len(found.judged) == 6
    assert not any(one.pair.same_device for one in found.judged)
