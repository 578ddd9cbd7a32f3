"""The report: what the files of a run's folder hold, and how `python -m runner.report` answers to bad folders."""

import csv
import json
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from PIL import Image

from runner import report, results
from runner.rental import Attempt, Rental
from runner.report import drawing, plots
from runner.report.__main__ import main
from runner.report.table import COLUMNS
from runner.report.troubles import where
from runner.spec import Case
from runner.thresholds import derive_all
from tests.journals import GPU, grid, matmul, write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(matmul(), tmp_path)
    report.write(tmp_path)
    return tmp_path


def test_everything_derived_is_there(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {
        "job.json", "journal.jsonl", "thresholds.yaml", "decisions.yaml", "measurements.csv", "environment.json", "report.md",
        "plots",
    }  # fmt: skip
    assert {path.name for path in (folder / "plots").iterdir()} == {"latency.png", "throughput.png", "roofline.png"}


def test_deriving_again_gives_the_same_bytes(folder: Path) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    report.write(folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_the_csv_has_a_row_per_measurement_with_units_in_the_names(folder: Path) -> None:
    rows = list(csv.DictReader((folder / "measurements.csv").open()))
    assert len(rows) == 28
    assert set(COLUMNS) <= set(rows[0])
    assert (rows[0]["n"], rows[0]["x"], rows[0]["variant"], rows[0]["status"]) == ("128", "n", "fp32", "ok")
    assert 0.003 < float(rows[0]["latency_low_ms"]) <= float(rows[0]["latency_ms"]) <= float(rows[0]["latency_high_ms"]) < 0.005
    unsupported = next(row for row in rows if row["variant"] == "fp8")
    assert (unsupported["latency_ms"], unsupported["reason"]) == ("", "this torch has no fp8 matmul")


def test_an_axis_named_like_a_column_keeps_both(tmp_path: Path) -> None:
    write(matmul(cases=grid("bytes", [1, 2]), curves={"fp32": lambda case: 1.0}, derive={}), tmp_path)
    report.write(tmp_path, plots=False)
    rows = list(csv.DictReader((tmp_path / "measurements.csv").open()))
    assert (rows[1]["axis_bytes"], rows[1]["bytes"]) == ("2", "6.0")


def test_the_yaml_files_can_be_loaded_and_keep_their_order(folder: Path) -> None:
    data = yaml.safe_load((folder / "thresholds.yaml").read_text())
    assert list(data)[:2] == ["schema", "device"]
    assert data["runtime"] == {"bf16_min_n": 512, "fp8_min_n": 999999}
    assert "    - {x: 128, ratio: " in (folder / "thresholds.yaml").read_text()
    assert yaml.safe_load((folder / "decisions.yaml").read_text())["decisions"]["bf16_reaches_60_pct"]["answer"] == "yes"


def test_the_mlflow_run_is_the_source_where_it_is_known(folder: Path) -> None:
    (folder / "mlflow.json").write_text(json.dumps({"run_id": "0123abcd"}))
    report.write(folder, plots=False)
    assert yaml.safe_load((folder / "thresholds.yaml").read_text())["source"]["run_id"] == "0123abcd"


def test_the_page_says_what_a_colleague_asks(folder: Path) -> None:
    page = (folder / "report.md").read_text()
    assert page.startswith("# matmul on NVIDIA H200\n")
    for part in (
        "bf16 beats fp32 by 1.2x from n = 512 on",
        "faster |",
        "this torch has no fp8 matmul",
        "python -m runner workload=matmul gpu=h200",
        "6c3d78e0a1b2c3d4e5f60718293a4b5c6d7e8f90",
        matmul().job().hash,
        "![plots/latency.png](plots/latency.png)",
    ):
        assert part in page
    assert page.index("## Thresholds") < page.index("## Results") < page.index("## How to reproduce")


def test_a_mismatch_and_an_early_end_are_said_first(tmp_path: Path) -> None:
    run = matmul(gpu=replace(GPU, name="NVIDIA GeForce RTX 4080", match="4080", match_memory_gb=[15, 17]))
    write(run, tmp_path, run.events()[:9])
    report.write(tmp_path, plots=False)
    lines = (tmp_path / "report.md").read_text().splitlines()
    assert lines[2].startswith(
        "> **Not the hardware that was asked for.** name: expected NVIDIA GeForce RTX 4080, found NVIDIA H200"
    )
    assert lines[4].startswith("> **The run is partial**")


def test_settings_are_said_once_and_head_no_table(tmp_path: Path) -> None:
    cases = grid("n", [128, 256], heads=[64], layer=["up", "down"])
    status = {"fp8": ("unsupported", "no fp8")}
    run = matmul(cases=cases, derive={"settings": {"heads": 64}}, statuses=lambda case, variant: status.get(variant))
    write(run, tmp_path)
    report.write(tmp_path, plots=False)
    page = (tmp_path / "report.md").read_text()
    assert "Fixed: heads 64." in page
    assert "### layer = up\n" in page
    assert "`fp8` is **unsupported** in all 4 cases: no fp8" in page
    assert page.count("heads") == 1
    assert next(csv.DictReader((tmp_path / "measurements.csv").open()))["heads"] == "64"
    assert [panel.series for panel in plots.panels(results.read(tmp_path))] == [{"layer": "up"}, {"layer": "down"}]


def test_a_case_has_rows_for_its_own_variants_only_and_the_page_counts_what_is_missing(tmp_path: Path) -> None:
    run = matmul(cases=[Case({"n": 128}, "n", ["fp32", "bf16"]), Case({"n": 256}, "n", ["fp32"])], derive={})
    write(run, tmp_path)
    report.write(tmp_path, plots=False)
    page = (tmp_path / "report.md").read_text()
    assert "Measurements: 3 ok." in page
    assert (page.count("| 128 | "), page.count("| 256 | ")) == (2, 1)
    write(run, tmp_path, [event for event in run.events() if event.get("variant") != "bf16"])
    report.write(tmp_path, plots=False)
    assert "Measurements: 2 ok, 1 not measured." in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize(("cases", "total", "words"), [
    ([{"n": 128}], 7, "at n = 128"),
    ([{}], 1, "at the only case"),
    ([{"n": 1}, {"n": 2}], 2, "in both cases"),
    ([{"n": 1}, {"n": 2}, {"n": 3}], 3, "in all 3 cases"),
    ([{"n": size, "layer": "up"} for size in range(1, 7)], 14, "at n = 1, 2, 3, 4 and 2 more (layer = up)"),
    ([{"layer": "up", "n": 1}, {"layer": "down", "n": 2}], 14, "at layer = up, n = 1; layer = down, n = 2"),
    ([{"n": 1}, {"n": 1, "layer": "up"}], 14, "at the only case; layer = up (n = 1)"),
])  # fmt: skip
def test_cases_are_named_by_what_tells_them_apart(cases: list[dict[str, object]], total: int, words: str) -> None:
    assert where(cases, total) == words


def test_the_wall_time_stands_beside_the_latency_and_launch_bound_is_said_per_row_and_per_variant(folder: Path) -> None:
    page = (folder / "report.md").read_text()
    assert "| n (elements) | variant | latency | wall | speedup over `fp32` |" in page
    assert re.search(r"\| 128 \| `fp32` \| \d\.\d+ us \[.*?\] \| \d\.\d+ us \*launch bound\* \|", page)
    assert re.search(r"\| 8192 \| `fp32` \| [\d.]+ ms \[.*?\] \| [\d.]+ ms \|", page)
    assert re.search(
        r"`bf16` is \*\*launch bound\*\* at n = 128, .*: at worst, the host needs \d\.\d+ us for \d\.\d+ us of device work", page
    )


def test_where_the_host_clock_is_the_only_one_there_is_no_wall_column(tmp_path: Path) -> None:
    run = matmul()
    events = run.events()
    for event in events:
        if event["event"] == "measurement":
            event |= {"timing": "wall", "also": {}, "launch_bound": None}
    write(run, tmp_path, events)
    report.write(tmp_path, plots=False)
    page = (tmp_path / "report.md").read_text()
    assert "wall" not in page
    assert "launch bound" not in page


def test_rates_too_small_for_tflops_are_in_gflops(tmp_path: Path) -> None:
    write(matmul(cases=grid("n", [8, 16])), tmp_path)
    report.write(tmp_path, plots=False)
    results = (tmp_path / "report.md").read_text().partition("## Results")[2].partition("\n## ")[0]
    assert "| GFLOPS |" in results
    assert "e-0" not in results


def test_variants_are_told_apart_by_colour_and_marker_together() -> None:
    assert len({(drawing.colour(index), drawing.marker(index)) for index in range(24)}) == 24


def test_a_legend_of_many_names_takes_rows_and_keeps_within_the_picture() -> None:
    names = [f"selected_variant_{index}" for index in range(18)]
    assert drawing.legend_columns(names, 8.05) * (0.5 + 0.08 * len(names[0])) < 8.05
    assert drawing.legend_columns(["fp32", "bf16"], 8.05) == 2
    assert drawing.figure(7, 3.6, names).get_figheight() > drawing.figure(7, 3.6, names[:2]).get_figheight()


def test_tables_are_whole(folder: Path) -> None:
    """Every row of a Markdown table has as many cells as its head."""
    for block in (folder / "report.md").read_text().split("\n\n"):
        rows = [line for line in block.splitlines() if line.startswith("|")]
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) <= 1


def test_a_run_on_a_cpu_without_datasheet_has_no_roofline(tmp_path: Path) -> None:
    cpu = {"type": "cpu", "name": "CPU", "cpu": "Xeon", "cores": 2, "threads": 2}
    write(matmul(gpu=None, device=cpu, energy=False), tmp_path)
    assert [path.name for path in report.write(tmp_path).plots] == ["latency.png", "throughput.png"]


def test_many_series_are_small_multiples_of_one_picture(tmp_path: Path) -> None:
    run = matmul(cases=grid("n", [64, 256, 1024], layer=[f"layer{index}" for index in range(14)]))
    found = results.from_events(run.events())
    written = plots.write(tmp_path, found, derive_all(found))
    assert [path.name for path in written] == ["latency.png", "throughput.png", "roofline.png"]
    assert max(Image.open(tmp_path / "latency.png").size) < 1400


def test_a_case_without_a_numeric_x_has_a_table_and_no_curve(tmp_path: Path) -> None:
    curves = {"fp32": lambda case: 1.0, "bf16": lambda case: 0.5}
    write(matmul(cases=grid("kernel", ["copy", "triad"]), curves=curves, derive={}), tmp_path)
    assert [path.name for path in report.write(tmp_path).plots] == ["roofline.png"]
    assert "| copy | `bf16` |" in (tmp_path / "report.md").read_text()


def test_drawing_a_normal_run_is_quick(tmp_path: Path) -> None:
    """0.3 s on an idle core; the best of three, since other tests may share it."""
    found = results.from_events(matmul().events())
    seconds = []
    for _ in range(3):
        start = time.process_time()
        plots.write(tmp_path, found, derive_all(found))
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.6


def test_the_command_prints_the_words_and_exits_with_the_runs_fate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = matmul()
    write(run, tmp_path)
    assert main([str(tmp_path)]) == 0
    assert "bf16 beats fp32 by 1.2x from n = 512 on" in capsys.readouterr().out
    write(run, tmp_path, run.events()[:9])
    assert main([str(tmp_path)]) == 1
    assert "partial" in capsys.readouterr().out


LOST = Attempt(
    "crossover-ada-1", "vast", "4090", "4090", "RTX4090", None, None, True, 0.3, requested_at=0.0, ended_at=5.0, down_at=8.0,
    confirmed_down=True, outcome="no capacity|\nnone",
)  # fmt: skip
DONE = Attempt(
    "crossover-ada-2", "runpod", "a100", "4090", "A100-80GB", "1x_A100", "CA", False, 1.2, requested_at=1e9, up_at=1e9 + 60,
    running_at=1e9 + 90, ended_at=1e9 + 290, down_at=1e9 + 300, confirmed_down=True, outcome="complete", billed_s=300.0,
    cost_usd=0.1, sky_cost_usd=0.0042,
)  # fmt: skip


def page_of(folder: Path, *attempts: Attempt) -> str:
    write(matmul(), folder)
    Rental("5e5510", "ada", list(attempts)).save(folder)
    report.write(folder, plots=False)
    return (folder / "report.md").read_text()


def test_what_was_rented_has_a_row_per_cluster_and_a_sum(tmp_path: Path) -> None:
    page = page_of(tmp_path, LOST, DONE)
    rows = [line for line in page.partition("## Rented")[2].partition("\n## ")[0].splitlines() if line.startswith("|")]
    assert rows[0] == "| cloud | instance | region | GPU | $/h | lifetime | billed | cost | says SkyPilot | ended | down |"
    assert rows[2:] == [
        "| vast | - (spot) | - | 4090 | $0.30 | - | - | - | - | no capacity\\| none | confirmed |",
        "| runpod | 1x_A100 | CA | a100 instead of 4090 | $1.20 | 5 min 00 s | 5 min 00 s | $0.10 | $0.0042 "
        "| complete | confirmed |",
    ]
    assert "$0.10 in all, $0.014 a case. SkyPilot says $0.0042." in page
    assert "Rented: a100 (runpod, CA) at $1.20/h in 2 attempts: $0.10 in all, $0.014 a case." in page.partition("\n## ")[0]


def test_another_gpu_than_asked_for_and_a_cluster_that_may_still_live_are_said_first(tmp_path: Path) -> None:
    lines = page_of(tmp_path, LOST, replace(DONE, confirmed_down=False)).splitlines()
    assert lines[2].startswith("> **Asked for 4090, measured on a100.**")
    assert lines[4].startswith("> **The end of `crossover-ada-2` is not confirmed**")
    assert "`sky down crossover-ada-2`" in lines[4]


def test_a_price_that_is_not_known_is_not_made_up(tmp_path: Path) -> None:
    page = page_of(tmp_path, DONE, replace(DONE, usd_per_hour=None, cost_usd=None, sky_cost_usd=None))
    assert "$0.10 in all and 1 cluster of unknown price" in page
    assert "no price is known" in page_of(tmp_path, replace(DONE, cost_usd=None))
    assert "nothing was billed" in page_of(tmp_path, LOST)


def test_a_run_on_this_machine_says_nothing_of_renting(folder: Path) -> None:
    assert "ented" not in (folder / "report.md").read_text()


def test_a_run_that_was_paid_for_and_never_started_is_one_line_and_exit_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    matmul().job().save(tmp_path / "job.json")
    Rental("5e5510", "ada", [LOST]).save(tmp_path)
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_damaged_bill_is_one_line_and_exit_2(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "launch.json").write_text('{"attempts": 3}')
    assert main([str(folder)]) == 2
    error = capsys.readouterr().err
    assert "launch.json is damaged" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("content", [None, "", "not json\n", '{"event":"case_started"}\n', '["event"]\n'])
def test_a_folder_without_a_usable_journal_is_one_line_and_exit_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None
) -> None:
    if content is not None:
        (tmp_path / "journal.jsonl").write_text(content)
    assert main([str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert str(tmp_path) in error or "journal" in error


def test_a_torn_last_line_is_left_out(folder: Path) -> None:
    journal = folder / "journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-40])
    assert main([str(folder)]) == 1
