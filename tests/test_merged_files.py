"""The files of a merge: what the table, the page and the exit codes say, and that one bad run loses no other."""

import csv
import json
import re
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest

from runner import merged
from runner.errors import RequestError
from runner.merged import Price, names
from runner.merged.__main__ import main
from runner.merged.comparison import DERIVED, FIRST
from runner.rental import Attempt, Rental
from runner.report.__main__ import main as report
from runner.report.table import COLUMNS
from runner.sweep import folder as sweeps
from tests.journals import DEVICE, grid, matmul, write
from tests.test_merged import SPEC, XS, attention, lay, sweep

RUN = attention(lambda case: 2.0)
PLAIN = replace(RUN, gpu=None, energy=False)
"""The same with fewer pictures: no datasheet, no energy."""


def rented(folder: Path, cluster: str = "crossover-me-1", **changes: object) -> None:
    """Say that the run in a folder was on a rented machine."""
    times = {"requested_at": 0.0, "up_at": 60.0, "running_at": 90.0, "down_at": 360.0, "confirmed_down": True}
    known = {"cloud": "vast", "gpu": "h200", "asked_gpu": "h200", "usd_per_hour": 3.6, "cost_usd": 0.36}
    Rental("session", attempts=[Attempt(cluster=cluster, **(known | times | changes))]).save(folder)


def table(folder: Path) -> list[dict[str, str]]:
    with open(folder / "comparison.csv", newline="") as file:
        return list(csv.DictReader(file))


def page(folder: Path) -> str:
    return (folder / "report.md").read_text()


def test_the_table_has_a_row_per_measurement_of_every_run(tmp_path: Path) -> None:
    sweep(tmp_path, {"a": RUN, "b": matmul(cases=grid("n", [256, 512], layer=["qkv"]))})
    merged.write(tmp_path, plots=False)
    rows = table(tmp_path)
    assert list(rows[0]) == [*FIRST, "layer", "n", "x", "variant", "dtype", *COLUMNS, *DERIVED]
    assert len(rows) == 2 * len(XS) + 2 * 4
    first, last = rows[0], rows[-1]
    assert (first["gpu"], first["gpu_uuid"], first["job"], first["job_name"]) == ("NVIDIA H200", "GPU-NVIDIA H200", "0", "job=a")
    assert (first["workload"], first["layer"], first["n"], first["variant"], first["run"]) == (
        "attention",
        "",
        "128",
        "masked",
        "a",
    )
    assert (last["workload"], last["layer"], last["status"], last["latency_ms"]) == ("matmul", "qkv", "unsupported", "")


def test_the_figures_are_those_of_the_runs_own_table(tmp_path: Path) -> None:
    lay(RUN, tmp_path / "run")
    assert report([str(tmp_path / "run")]) == 0
    merged.merge([tmp_path / "run"], tmp_path / "out", plots=False)
    with open(tmp_path / "run" / "measurements.csv", newline="") as file:
        own = list(csv.DictReader(file))
    assert [{key: row[key] for key in own[0]} for row in table(tmp_path / "out")] == own


def test_money_and_energy_per_call(tmp_path: Path) -> None:
    sweep(tmp_path, {"a": RUN, "b": replace(RUN, energy=False, cases=grid("n", [64]))})
    rented(tmp_path / "a")
    merged.write(tmp_path, plots=False)
    first, other = table(tmp_path)[0], table(tmp_path)[-1]
    assert (first["cloud"], first["usd_per_hour"], first["price_source"]) == ("vast", "3.6", "rented")
    # A million calls of 1.28 ms take 1280 s, which cost $1.28 at $3.6 an hour.
    assert float(first["usd_per_million_calls"]) == pytest.approx(float(first["latency_ms"]))
    assert float(first["tflops_per_usd_hour"]) == pytest.approx(float(first["throughput_tflops"]) / 3.6)
    joules = float(first["energy_mj"]) / 1e3
    assert float(first["gflops_per_watt"]) == pytest.approx(float(first["ops"]) / joules / 1e9)
    assert (other["cloud"], other["usd_per_hour"], *(other[key] for key in DERIVED)) == ("", "", "", "", "")


def test_a_given_price_is_marked_and_yields_to_what_was_paid(tmp_path: Path) -> None:
    sweep(tmp_path, {"a": RUN, "b": replace(RUN, cases=grid("n", [64]))})
    rented(tmp_path / "a")
    merged.write(tmp_path, plots=False, prices={"NVIDIA H200": Price(2.0, "snapshot of 2026-02-04")})
    assert {(row["job"], row["usd_per_hour"], row["price_source"]) for row in table(tmp_path)} == {
        ("0", "3.6", "rented"), ("1", "2.0", "snapshot of 2026-02-04"),
    }  # fmt: skip


def test_only_the_latest_of_equal_measurements_counts_and_the_page_says_so(tmp_path: Path) -> None:
    for day, name in enumerate(("early", "late"), start=1):
        lay(RUN, tmp_path / name, day=day)
    lay(RUN, tmp_path / "other", "NVIDIA L4")
    made = merged.merge([tmp_path / "late", tmp_path / "early", tmp_path / "other"], tmp_path / "out", plots=False)
    assert made.superseded == 2 * len(XS)
    assert {(row["job"], row["latest"]) for row in table(tmp_path / "out")} == {("0", "True"), ("1", "False"), ("2", "True")}
    assert f"{2 * len(XS)} measurements of a GPU, case and variant that a later run measured again" in page(tmp_path / "out")


def test_the_device_is_the_one_that_a_measurement_was_taken_on(tmp_path: Path) -> None:
    events = RUN.events()
    middle = len(events) // 2
    again = events[0] | {"device": DEVICE | {"name": "NVIDIA H200", "uuid": "GPU-second"}, "time": events[middle]["time"]}
    write(RUN, tmp_path / "run", [*events[:middle], again, *events[middle:]])
    merged.merge([tmp_path / "run"], tmp_path / "out", plots=False)
    uuids = [row["gpu_uuid"] for row in table(tmp_path / "out")]
    assert uuids == sorted(uuids, key=lambda uuid: uuid == "GPU-second")
    assert set(uuids) == {DEVICE["uuid"], "GPU-second"}


def test_every_job_is_told_whatever_became_of_it(tmp_path: Path) -> None:
    sweep(tmp_path, {"good": RUN, "half": RUN, "never": None, "torn": RUN, "waits": None}, again=0)
    lines = (tmp_path / "half" / "journal.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "half" / "journal.jsonl").write_text("".join(lines[:-2]))
    (tmp_path / "torn" / "journal.jsonl").write_text("no journal\n")
    RUN.job().save(tmp_path / "waits" / "job.json")
    rented(tmp_path / "waits", running_at=None, up_at=None, cost_usd=None, outcome="no capacity", reason="none in any region")
    made = merged.write(tmp_path, plots=False)
    assert {run.source.index: run.status for run in made.runs} == {
        0: "complete", 1: "partial", 2: "missing", 3: "unreadable", 4: "missing",
    }  # fmt: skip
    said = page(tmp_path)
    assert "**4 of 5 jobs did not complete.**" in said
    assert "job 1 **partial**: the worker ended without a last word" in said
    assert "job 2 **missing**: nothing was started" in said
    assert re.search(r"job 3 \*\*unreadable\*\*: .*damaged", said)
    assert "job 4 **missing**: no worker ever started: no capacity: none in any region" in said
    assert "| 5 | `job=again` |  | as job 0 |  |  |" in said


def test_a_run_that_breaks_off_in_the_middle_is_left_out_whole(tmp_path: Path) -> None:
    plain = replace(RUN, derive={"axes": {}})
    sweep(tmp_path, {"good": plain, "odd": plain})
    events = plain.events()
    del events[-2]["time"]  # of the last measurement: those before it can be read
    write(plain, tmp_path / "odd", events)
    made = merged.write(tmp_path)
    assert [(run.status, run.reason) for run in made.runs] == [("complete", ""), ("unreadable", "KeyError: 'time'")]
    assert {row["job"] for row in table(tmp_path)} == {"0"}


def test_the_page_begins_with_what_was_asked_and_found(tmp_path: Path) -> None:
    sweep(tmp_path, {"a": RUN, "b": RUN})
    lay(RUN, tmp_path / "b", "NVIDIA L4", day=2)
    rented(tmp_path / "b")
    assert report([str(tmp_path / "b")]) == 0
    merged.write(tmp_path, plots=False)
    said = page(tmp_path)
    assert said.startswith("# Sweep nightly\n\n`python -m runner -m job=a,b`, by me, 2026-03-01 12:00 UTC.")
    assert "2 jobs on 2 GPUs (NVIDIA H200, NVIDIA L4): 2 complete. Measurements: 16 ok." in said
    assert "Bill: $0.36 for 1 cluster on vast." in said
    assert "| `flash_min_n` | NVIDIA H200, NVIDIA L4 | 128 | enabled | flash beats masked by 1.2x from n = 128 on |" in said
    assert "| attention | n = 1024 | `flash` on NVIDIA " in said
    assert re.search(
        r"\| 1 \| \[`job=b`\]\(b/report.md\) \| NVIDIA L4 \| complete \| 4 \| `flash` 2.00x \[.*\] over `masked`", said
    )
    order = [
        said.index(f"## {name}") for name in ("Thresholds", "What is fastest", "Cost and energy", "Jobs", "How to reproduce")
    ]
    assert order == sorted(order)


def test_every_link_of_the_page_leads_somewhere(tmp_path: Path) -> None:
    sweep(tmp_path / "sweep", {"a": PLAIN, "b": replace(PLAIN, seed=1)})
    (tmp_path / "sweep" / "a" / "report.md").touch()
    made = merged.merge([tmp_path / "sweep"], tmp_path / "out")
    links = re.findall(r"\]\(([^)]+)\)", page(tmp_path / "out"))
    assert "../sweep/a/report.md" in links
    assert any(link.startswith("plots/latency_attention") for link in links)
    assert [link for link in links if not (tmp_path / "out" / link).exists()] == []
    assert [path for path in made.paths if not path.exists()] == []


def test_each_gpu_answers_and_disagreeing_runs_are_counted(tmp_path: Path) -> None:
    asked = {"key": "twice", "question": "Is it twice as fast?", "metric": "speedup", "variant": "flash", "at_least": 1.5}
    derive = {"axes": {}, "thresholds": [SPEC], "decisions": [asked]}
    fast = attention(lambda case: 2.0, grid("n", XS[2:]), derive=derive)
    slow = attention(lambda case: 1.0, grid("n", XS[:2]), derive=derive)
    sweep(tmp_path, {"fast": fast, "slow": slow})
    merged.write(tmp_path, plots=False)
    assert re.search(
        r"\| NVIDIA H200 \| \*\*yes\*\* in 1 of 2, \*\*no\*\* in 1 of 2 \| 2.0.*\(job 0\); .*\(job 1\) \|", page(tmp_path)
    )


def test_what_differs_between_machines_is_said(tmp_path: Path) -> None:
    sweep(tmp_path, {"a": RUN, "b": RUN})
    lay(RUN, tmp_path / "b", "NVIDIA L4")
    lines = (tmp_path / "b" / "journal.jsonl").read_text().replace('"torch": "2.13.0"', '"torch": "2.11.0"')
    (tmp_path / "b" / "journal.jsonl").write_text(lines)
    merged.write(tmp_path, plots=False)
    assert "torch differ: 2.13.0 on NVIDIA H200; 2.11.0 on NVIDIA L4" in page(tmp_path)


def test_a_cluster_that_jobs_shared_is_paid_once(tmp_path: Path) -> None:
    sweep(tmp_path, {"a": RUN, "b": RUN})
    for name in ("a", "b"):
        rented(tmp_path / name, share=0.5, cost_usd=0.18)
    merged.write(tmp_path, plots=False)
    assert "Bill: $0.36 for 1 cluster on vast." in page(tmp_path)
    (tmp_path / "clusters" / "h200-0").mkdir(parents=True)
    rented(tmp_path / "clusters" / "h200-0", cost_usd=0.40)  # its own record has also what none of its jobs took
    merged.write(tmp_path, plots=False)
    assert "Bill: $0.40 for 1 cluster on vast." in page(tmp_path)


def test_a_machine_that_may_still_cost_money_stands_above_everything(tmp_path: Path) -> None:
    sweep(tmp_path, {"a": RUN})
    rented(tmp_path / "a", confirmed_down=False)
    merged.write(tmp_path, plots=False)
    assert "The end of `crossover-me-1` is not confirmed" in page(tmp_path).split("\n\n")[1]


def test_merging_again_gives_the_same_bytes(tmp_path: Path) -> None:
    sweep(tmp_path, {"a": PLAIN, "b": PLAIN, "c": None})
    lay(PLAIN, tmp_path / "b", "NVIDIA L4")
    merged.write(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert {path.name for path in before} >= {"thresholds.yaml", "comparison.csv", "report.md", "latency_attention.png"}
    (tmp_path / "plots" / "latency_of_before.png").touch()
    (tmp_path / "plots" / "mine.png").touch()
    merged.write(tmp_path)
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert after == before | {tmp_path / "plots" / "mine.png": b""}


def test_the_commands_answer_to_sweeps_runs_and_neither(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep(tmp_path / "sweep", {"a": PLAIN})
    assert report([str(tmp_path / "sweep")]) == 0
    out = capsys.readouterr().out
    assert "NVIDIA H200: flash beats masked by 1.2x from n = 128 on" in out
    assert out.endswith(f"{tmp_path / 'sweep' / 'report.md'}: 1 of 1 complete\n")
    sweep(tmp_path / "sweep", {"a": RUN, "b": None})
    assert main([str(tmp_path / "sweep"), "--no-plots"]) == 1
    run, empty = tmp_path / "sweep" / "a", tmp_path / "empty"
    empty.mkdir()
    for wrong in ([str(run)], [str(run), "--out", str(run)], [str(empty), "--out", str(tmp_path)], [str(run), "--price", "H200"]):
        capsys.readouterr()
        assert main(wrong) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert not (run / "report.md").exists()


def test_a_folder_named_twice_counts_once(tmp_path: Path) -> None:
    sweep(tmp_path / "sweep", {"a": RUN, "b": RUN})
    made = merged.merge([tmp_path / "sweep", tmp_path / "sweep" / ".." / "sweep"], tmp_path / "out", plots=False)
    assert [run.source.index for run in made.runs] == [0, 1]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    sweep(tmp_path / "sweep", {"a": RUN})
    (tmp_path / "sweep" / "report.md").mkdir()
    with pytest.raises(RequestError, match="can't write to"):
        merged.write(tmp_path / "sweep", plots=False)


def test_reading_needs_memory_for_one_journal_at_a_time(tmp_path: Path) -> None:
    lay(replace(RUN, samples=4_000, cases=grid("n", [64])), tmp_path / "0")
    journal = (tmp_path / "0" / "journal.jsonl").read_text()
    for index in range(1, 8):
        (tmp_path / f"{index}").mkdir()
        (tmp_path / f"{index}" / "journal.jsonl").write_text(journal.replace('"n": 64', f'"n": {64 + index}'))
    peaks = []
    for count in (1, 8):
        tracemalloc.start()
        merged.merge([tmp_path / f"{index}" for index in range(count)], tmp_path / "out", plots=False)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


def test_reading_imports_neither_pictures_nor_launchers() -> None:
    heavy = ("matplotlib", "torch", "runner.launch", "mlflow")
    code = f"import sys, runner.merged; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_names_say_only_what_differs() -> None:
    assert names.distinguish([{"a": {"b": 1, "c": [2]}}, {"a": {"b": 1, "c": [3]}}]) == ["a.c=[2]", "a.c=[3]"]
    assert names.distinguish([{"a": 1}]) == [""]
    assert names.distinguish([{"code": "0" * 64}, {"code": "1" * 64}]) == ["code=00000000", "code=11111111"]
    long = [{"a": "x" * 40 + end} for end in "12"]
    assert len(set(names.distinguish(long))) == 2
    assert names.varied([["gpu=h100", "n=1", "out=x"], ["gpu=h100", "n=2", "out=y"]]) == ["n=1", "n=2"]


def test_a_sweep_without_what_varied_in_its_file_is_named_by_what_differs(tmp_path: Path) -> None:
    sweep(tmp_path, {"a": RUN, "b": RUN})
    data = json.loads((tmp_path / sweeps.NAME).read_text())
    assert all(job["varied"] == [] for job in data["jobs"])
    made = merged.write(tmp_path, plots=False)
    assert [run.label for run in made.runs] == ["job=a", "job=b"]
