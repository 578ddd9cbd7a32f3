"""`python -m runner.compare A B` as its users meet it: what counts as a regression, what is said first, what is written."""

import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runner.compare import text
from runner.compare.__main__ import main
from runner.compare.comparison import Asked, compare
from tests.jobs import ROOT
from tests.journals import DEVICE, SOFTWARE, Fabricated, grid, write

SIZES = [256, 512, 1024]
OTHER_GPU = DEVICE | {"uuid": "GPU-0a0a0a0a-0000-4000-8000-000000000000"}
OTHER_MODEL = OTHER_GPU | {"name": "NVIDIA H100 80GB HBM3"}
CPU = {"type": "cpu", "name": "AMD EPYC", "uuid": None, "cores": 2, "threads": 1}


def run(
    folder: Path,
    factors: dict[tuple[int, str], float] | None = None,
    statuses: dict[tuple[int, str], tuple[str, str]] | None = None,
    *,
    sizes: list[int] = SIZES,
    software: dict[str, str] | None = None,
    change: Any = None,
    seed: int = 0,
    **fields: Any,
) -> str:
    """Write a run of fp32 and bf16 with 1% noise, of which some (n, variant) take `factors` as long; return its folder."""
    factors, statuses = factors or {}, statuses or {}
    curves = {
        variant: lambda case, variant=variant, ms=ms: ms * case["n"] / 256 * factors.get((case["n"], variant), 1.0)
        for variant, ms in (("fp32", 1.0), ("bf16", 0.4))
    }
    defaults: dict[str, Any] = {
        "drift": 0.0,
        "seed": seed,
        "session": f"{folder.name}-{seed}",
        "statuses": lambda case, variant: statuses.get((case["n"], variant)),
    }
    made = Fabricated(curves, grid("n", sizes), **defaults | fields)
    events = made.events()
    events[0]["software"] = SOFTWARE | (software or {})
    if change:
        events = change(events) or events
    folder.mkdir(parents=True, exist_ok=True)
    write(made, folder, events)
    return str(folder)


@pytest.fixture
def old(tmp_path: Path) -> str:
    return run(tmp_path / "old", seed=1)


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Return the exit code and what was printed, an error in one line with a mark."""
    code = main(list(arguments))
    out, err = capsys.readouterr()
    assert err.count("\n") <= 1
    return code, out or f"stderr: {err}"


def verdicts(out: str) -> dict[tuple[str, str], str]:
    """Return of every row of the table what stands behind the interval, or behind the figures where there is none."""
    rows = re.findall(r"^(n=\d+) +(fp32|bf16) (?:.*\]|.*? (?:us|ms)(?= ))? +(.*)$", out, re.MULTILINE)
    return {(case, variant): rest.strip() for case, variant, rest in rows}


# --- what is a regression


def test_two_runs_of_the_same_are_the_same(old, tmp_path, capsys):
    code, out = said(capsys, old, run(tmp_path / "new", seed=2))
    assert code == 0
    assert set(verdicts(out).values()) == {"same"}
    assert out.splitlines()[-1] == "no regression: nothing slower by over 5% with confidence"


def test_a_case_that_became_slower_is_a_regression_and_the_biggest_comes_first(old, tmp_path, capsys):
    factors = {(512, "bf16"): 1.2, (1024, "fp32"): 1.5, (256, "fp32"): 0.5}
    code, out = said(capsys, old, run(tmp_path / "new", factors, seed=2))
    assert code == 1
    found = verdicts(out)
    assert list(found)[:2] == [("n=1024", "fp32"), ("n=512", "bf16")]
    assert found[("n=1024", "fp32")] == found[("n=512", "bf16")] == "slower"
    assert found[("n=256", "fp32")] == "faster"
    assert out.splitlines()[-1] == "REGRESSION: 2 cases slower by over 5%"
    assert "geometric mean of B / A: fp32 0.9" in out
    assert "all 6 intervals hold together with 95% confidence, each with 99.2%" in out


def test_what_is_slower_by_less_than_the_tolerance_is_none(old, tmp_path, capsys):
    new = run(tmp_path / "new", {(512, "bf16"): 1.10}, seed=2)
    assert said(capsys, old, new, "--tolerance", "0.05")[0] == 1
    assert said(capsys, old, new, "--tolerance", "0.2")[0] == 0
    assert verdicts(said(capsys, old, new, "--tolerance", "0.10")[1])[("n=512", "bf16")] == "unclear"


def test_what_is_noisy_is_shown_and_fails_nothing(old, tmp_path, capsys):
    noisy = {(512, "bf16"): ("noisy", "known to 9%, asked for 1%")}
    code, out = said(capsys, old, run(tmp_path / "new", {(512, "bf16"): 3.0}, noisy, seed=2))
    assert code == 0
    assert verdicts(out)[("n=512", "bf16")] == "noisy    known to 9%, asked for 1%"


def test_of_several_runs_those_that_are_noisy_are_left_out(old, tmp_path, capsys):
    new = [run(tmp_path / f"new-{seed}", seed=seed) for seed in (2, 3)]
    new.append(run(tmp_path / "new-4", {(512, "bf16"): 9.0}, {(512, "bf16"): ("noisy", "busy")}, seed=4))
    found = {(one.pair.here.case["n"], one.pair.here.variant): one for one in compare(Asked(old, ",".join(new))).judged}
    assert found[512, "bf16"].ratio.value == pytest.approx(1, abs=0.01)
    assert found[512, "bf16"].judged


def test_samples_of_a_throttled_gpu_are_left_out_where_enough_others_are_left(old, tmp_path):
    def throttled(events):
        for event in events:
            if event["event"] == "measurement" and event["case"]["n"] == 512:
                event["throttled"] = list(range(40))
                event["samples_ms"][:40] = [3 * sample for sample in event["samples_ms"][:40]]

    found = compare(Asked(old, run(tmp_path / "new", change=throttled, seed=2)))
    assert {one.verdict for one in found.judged} == {"same"}


def test_nothing_but_noise_is_not_called_fine(tmp_path, capsys):
    noisy = {(256, variant): ("noisy", "busy") for variant in ("fp32", "bf16")}
    sides = [run(tmp_path / name, statuses=noisy, sizes=[256], seed=seed) for seed, name in enumerate("ab")]
    code, out = said(capsys, *sides)
    assert code == 0
    assert "nothing could be judged" in out.splitlines()[-1]


@pytest.mark.parametrize("status", ["error", "incorrect", "oom", "timeout", "unsupported"])
def test_a_case_that_fails_now_is_a_regression_before_all_slower_ones(old, tmp_path, capsys, status):
    new = run(tmp_path / "new", {(1024, "fp32"): 9.0}, {(512, "bf16"): (status, "it broke\nhere")}, seed=2)
    code, out = said(capsys, old, new)
    assert code == 1
    assert next(iter(verdicts(out))) == ("n=512", "bf16")
    assert re.search(rf"{status} +it broke here$", out, re.MULTILINE)
    assert out.splitlines()[-1].endswith("1 case of A with no figure in B any more")


def test_a_case_that_is_planned_and_not_there_is_one_too(old, tmp_path, capsys):
    def killed(events):
        return [event for event in events if event.get("case") != {"n": 1024} and event["event"] != "job_finished"]

    new = run(tmp_path / "new", change=killed, seed=2)
    code, out = said(capsys, old, new)
    assert code == 1
    assert f"!  B: {new} is partial" in out
    assert "2 not measured" in out


def test_what_failed_before_is_no_regression_and_what_works_now_is_told(tmp_path, capsys):
    failing = {(256, "bf16"): ("error", "x"), (512, "bf16"): ("error", "x")}
    old = run(tmp_path / "old", statuses=failing, seed=1)
    new = run(tmp_path / "new", statuses={(256, "bf16"): ("oom", "y")}, seed=2)
    code, out = said(capsys, old, new)
    assert code == 0
    assert "1 failed in B as in A" in out
    assert "1 fixed" in out


def test_another_timing_is_not_compared(old, tmp_path, capsys):
    def warm(events):
        for event in events:
            if event["event"] == "measurement" and event["case"]["n"] == 512:
                event["timing"] = "warm"

    code, out = said(capsys, old, run(tmp_path / "new", {(512, "fp32"): 3.0}, change=warm, seed=2))
    assert code == 0
    assert "other timing  cold in A, warm in B" in out


def test_cases_of_one_side_are_counted_and_listed_on_request(old, tmp_path, capsys):
    new = run(tmp_path / "new", sizes=[512, 1024, 2048, 4096], seed=2)
    code, out = said(capsys, old, new)
    assert code == 0
    assert "2 only in A and 4 only in B (--all lists them)" in out
    assert "only in A: n=256 fp32 on NVIDIA H200" in said(capsys, old, new, "--all")[1].splitlines()


def test_of_a_long_table_the_worst_rows_are_shown(tmp_path, capsys):
    sizes = list(range(1, 31))
    a, b = (run(tmp_path / name, sizes=sizes, seed=seed, samples=12) for seed, name in enumerate("ab"))
    assert f"and {60 - text.MAX_ROWS} pairs more; --all lists them" in said(capsys, a, b)[1]
    assert len(verdicts(said(capsys, a, b, "--all")[1])) == 60


# --- machines


def test_what_differs_is_said_first_and_a_new_driver_or_torch_excuses_nothing(old, tmp_path, capsys):
    new = run(tmp_path / "new", {(512, "bf16"): 2.0}, software={"driver": "590.1", "torch": "2.14.0"}, seed=2)
    code, out = said(capsys, old, new)
    assert code == 1
    assert out.splitlines()[2:4] == [
        "!  other driver: 580.65.06 in A, 590.1 in B",
        "!  other torch: 2.13.0 in A, 2.14.0 in B",
    ]


@pytest.mark.parametrize(
    ("device", "first"),
    [
        (OTHER_GPU, "!  other GPU: GPU-5f2b6a4e in A, GPU-0a0a0a0a in B"),
        (OTHER_MODEL, "!  other device: NVIDIA H200 in A, NVIDIA H100 80GB HBM3 in B"),
    ],
)
def test_another_gpu_is_said_first_and_nothing_on_it_is_a_regression_unless_asked(old, tmp_path, capsys, device, first):
    statuses = {(256, "bf16"): ("oom", "too small")}
    new = run(tmp_path / "new", {(512, "bf16"): 2.0, (512, "fp32"): 0.5}, statuses, device=device, seed=2)
    code, out = said(capsys, old, new)
    assert code == 0
    assert out.splitlines()[2] == first
    assert verdicts(out)[("n=512", "bf16")] == "slower*"
    assert verdicts(out)[("n=512", "fp32")] == "faster*"
    assert "none is called a regression" in out
    assert out.splitlines()[-1].endswith("2 cases would be one on the same device")
    code, out = said(capsys, old, new, "--across-devices")
    assert code == 1
    assert "REGRESSION: 1 case slower by over 5%, 1 case of A with no figure in B any more" in out


def test_a_gpu_whose_uuid_is_not_known_is_not_taken_for_the_same_one(tmp_path, capsys):
    unknown = DEVICE | {"uuid": None}
    old = run(tmp_path / "old", device=unknown, seed=1)
    assert said(capsys, old, run(tmp_path / "new", {(512, "bf16"): 2.0}, device=unknown, seed=2))[0] == 0


def test_processors_are_told_by_name_and_cores(tmp_path, capsys):
    old = run(tmp_path / "old", device=CPU, gpu=None, seed=1)
    factors = {(512, "bf16"): 2.0}
    assert said(capsys, old, run(tmp_path / "same", factors, device=CPU, gpu=None, seed=2))[0] == 1
    code, out = said(capsys, old, run(tmp_path / "more", factors, device=CPU | {"cores": 8, "threads": 7}, gpu=None, seed=2))
    assert code == 0
    assert "!  other CPU: 2 cores, 1 thread in A, 8 cores, 7 threads in B" in out


# --- several runs a side


def test_several_runs_tell_drift_from_change(tmp_path, capsys):
    drifts = {"a1": 1.00, "a2": 1.12, "a3": 0.93, "b1": 1.14, "b2": 0.95, "b3": 1.04}
    for seed, (name, factor) in enumerate(drifts.items()):
        every = {(n, variant): factor for n in SIZES for variant in ("fp32", "bf16")}
        run(tmp_path / name, every, seed=seed, session=name)
    code, out = said(capsys, str(tmp_path / "a1"), str(tmp_path / "b1"))
    assert code == 1  # two single runs know nothing of the drift
    assert "!  one run of each" in out
    code, out = said(capsys, ",".join(str(tmp_path / f"a{i}") for i in (1, 2, 3)), f"{tmp_path}/b*")
    assert code == 0
    assert set(verdicts(out).values()) == {"unclear"}
    assert "3 runs of matmul" in out
    assert "one run of each" not in out


def test_a_run_that_is_named_twice_counts_once(old, tmp_path, capsys):
    code, out = said(capsys, f"{old},{old}/journal.jsonl", run(tmp_path / "new", seed=2))
    assert code == 0
    assert "A: " in out
    assert "it counts once" in out
    assert "!  one run of each" in out


def test_different_gpus_and_setups_are_never_pooled(old, tmp_path, capsys):
    run(tmp_path / "new-1", device=OTHER_GPU, seed=2, session="elsewhere")
    run(tmp_path / "new-2", software={"torch": "2.12.0"}, seed=3, session="before", change=lambda events: shift(events, -1))
    run(tmp_path / "new-3", seed=4, session="now")
    found = compare(Asked(old, f"{tmp_path}/new-*"))
    assert {one.run.session for judged in found.judged for one in judged.pair.new} == {"now"}
    _, out = said(capsys, old, f"{tmp_path}/new-*")
    assert "12 measurements of other GPUs or set-ups of the same case passed over" in out


def shift(events: list[dict[str, Any]], days: int) -> None:
    for event in events:
        event["time"] = event["time"].replace("2026-03-01", f"2026-03-{1 + days:02d}" if days >= 0 else "2026-02-28")


def test_a_sweep_over_gpus_is_compared_gpu_by_gpu(tmp_path, capsys):
    for side, factor in (("old", 1.0), ("new", 1.3)):
        run(tmp_path / side / "h200", seed=1, session=f"{side}-1")
        run(tmp_path / side / "h100", {(512, "bf16"): factor}, device=OTHER_MODEL, seed=2, session=f"{side}-2")
    code, out = said(capsys, f"{tmp_path}/old/*", f"{tmp_path}/new/*")
    assert code == 1
    (row,) = [line for line in out.splitlines() if line.endswith("slower")]
    assert "NVIDIA H100 80GB HBM3" in row
    assert out.count("NVIDIA H200 ") >= 6


# --- other metrics


def test_memory_is_read_once_a_run_so_that_only_several_runs_can_show_a_regression(tmp_path, capsys):
    def hungry(events):
        for event in events:
            if event.get("peak_memory_bytes"):
                event["peak_memory_bytes"] *= 2

    for name in ("a1", "a2"):
        run(tmp_path / name, seed=1, session=name)
    for name in ("b1", "b2"):
        run(tmp_path / name, seed=2, session=name, change=hungry)
    code, out = said(capsys, f"{tmp_path}/a1", f"{tmp_path}/b1", "--metric", "peak_memory_mb")
    assert code == 0
    assert "6 no interval" in out
    code, out = said(capsys, f"{tmp_path}/a*", f"{tmp_path}/b*", "--metric", "peak_memory_mb")
    assert code == 1
    assert "REGRESSION: 6 cases more by over 5%" in out


def test_of_a_rate_less_is_slower_and_the_worst_comes_first(old, tmp_path, capsys):
    new = run(tmp_path / "new", {(512, "bf16"): 2.0, (256, "bf16"): 1.5, (256, "fp32"): 0.5}, seed=2)
    code, out = said(capsys, old, new, "--metric", "throughput_tflops")
    assert code == 1
    assert list(verdicts(out).items())[:2] == [(("n=512", "bf16"), "slower"), (("n=256", "bf16"), "slower")]
    assert verdicts(out)[("n=256", "fp32")] == "faster"
    assert "B / A of 0.90 is 10% slower" in out
    found = compare(Asked(old, new, metric="bandwidth_gbps")).judged[0]
    assert found.ratio.value == pytest.approx(0.5, rel=0.02)
    assert found.pair.old[-1].estimate.value == pytest.approx(6 * 512**2 / 0.8e6, rel=0.02)  # bytes over time


def test_the_wall_clock_may_become_slower_alone(old, tmp_path, capsys):
    def slow_host(events):
        for event in events:
            if event.get("also"):
                event["also"]["wall"]["samples_ms"] = [2 * value for value in event["also"]["wall"]["samples_ms"]]

    new = run(tmp_path / "new", change=slow_host, seed=2)
    assert said(capsys, old, new)[0] == 0
    assert said(capsys, old, new, "--metric", "latency_wall_ms")[0] == 1


# --- what is written


def test_json_has_everything(old, tmp_path, capsys):
    statuses = {(256, "bf16"): ("oom", "too big")}
    new = run(tmp_path / "new", {(512, "bf16"): 2.0}, statuses, sizes=[*SIZES, 2048], seed=2)
    code, out = said(capsys, old, new, "--json", str(tmp_path / "found.json"))
    found = json.loads((tmp_path / "found.json").read_text())
    assert (code, found["exit_code"], found["conclusion"]) == (1, 1, out.splitlines()[-1])
    broken, slower = found["pairs"][:2]
    assert (broken["case"], broken["variant"], broken["verdict"], broken["ratio"]) == ({"n": 256}, "bf16", "oom", None)
    assert (slower["case"], slower["verdict"], slower["regression"]) == ({"n": 512}, "slower", True)
    assert slower["ratio_low"] < slower["ratio"] < slower["ratio_high"]
    assert slower["ratio"] == pytest.approx(2, rel=0.02)
    assert slower["b"]["value"] / slower["a"]["value"] == pytest.approx(slower["ratio"])
    assert [one["case"]["n"] for one in found["only_in_b"]] == [2048, 2048]
    assert found["a"]["runs"][0]["device"]["uuid"] == DEVICE["uuid"]


def test_csv_has_a_row_for_every_pair(old, tmp_path, capsys):
    new = run(tmp_path / "new", {(512, "bf16"): 2.0}, seed=2)
    said(capsys, old, new, "--csv", str(tmp_path / "found.csv"))
    rows = list(csv.DictReader((tmp_path / "found.csv").open()))
    assert len(rows) == 6
    first = rows[0]
    assert (first["workload"], first["n"], first["variant"], first["verdict"], first["regression"]) == (
        "matmul", "512", "bf16", "slower", "True",
    )  # fmt: skip
    assert float(first["b"]) / float(first["a"]) == pytest.approx(float(first["ratio"]))


def test_markdown_is_a_comment_with_the_regressions_in_sight(old, tmp_path, capsys):
    new = run(tmp_path / "new", {(512, "bf16"): 2.0}, device=OTHER_GPU, seed=2)
    said(capsys, old, new, "--markdown", str(tmp_path / "found.md"))
    page = (tmp_path / "found.md").read_text()
    seen, _, folded = page.partition("<details>")
    assert page.startswith("### no regression: nothing slower by over 5% with confidence; 1 case would be one")
    assert "| n=512 | bf16 |" in seen
    assert "slower\\* |" in seen
    assert folded.count("| same |") == 5


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_the_same_table_with_colours(old, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    found = compare(Asked(old, run(tmp_path / "new", {(512, "bf16"): 2.0}, seed=2)))
    lines = text.lines(found, Terminal(), everything=False)
    (row,) = [line for line in lines if "slower" in line and "n=512" in line]
    assert "\x1b[1;31m" in row  # bold red


def test_the_help_is_there_before_anything_heavy():
    command = [sys.executable, "-X", "importtime", "-m", "runner.compare", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    imported = {line.split("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines() if line.count("|") == 2}
    assert "--across-devices" in done.stdout
    assert imported & {"numpy", "scipy", "rich", "yaml", "mlflow", "torch"} == set()
