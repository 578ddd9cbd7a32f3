"""Figures of others: shown beside what a run measured, with their source and what is wrong with them, and never mixed with it."""

import csv
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from runner import plan, report
from runner.compose import compose
from runner.errors import RequestError
from runner.paths import conf_dir
from runner.reported import Figure, Reported, Source
from runner.results import from_events
from runner.tracking.content import Steps, params, points
from tests.journals import Fabricated, grid, matmul, write

FILES = sorted(path.stem for path in (conf_dir() / "reported").glob("*.yaml"))
SOURCE = Source("A Benchmark Report", "2025-01-20", "NVIDIA GeForce RTX 4090", "PyTorch 2.5.1")


def figure(**changes: Any) -> Figure:
    fields: dict[str, Any] = {"case": {"n": 128}, "variant": "bf16", "what": "one call", "metric": "latency_ms", "value": 5.862}
    return Figure(**fields | changes)


def beside(*figures: Figure, **changes: Any) -> Fabricated:
    return matmul(**{"derive": {"reported": asdict(Reported(SOURCE, "It is a CPU's.", list(figures)))}} | changes)


@pytest.fixture
def row(tmp_path: Path) -> Callable[..., list[str]]:
    """Return the last row of the section, as cells: what, case, variant, metric, reported, here."""

    def of(run: Fabricated, change: Callable[[list[dict[str, Any]]], Any] = lambda events: None) -> list[str]:
        events = run.events()
        change(events)
        write(run, tmp_path, events)
        report.write(tmp_path, plots=False)
        section = (tmp_path / "report.md").read_text().partition("## Reported by others")[2].partition("\n## ")[0]
        return [cell.strip() for cell in section.strip().splitlines()[-1].strip("|").split("|")]

    return of


def test_the_page_names_source_caveat_and_devices_and_the_folder_has_the_file(tmp_path: Path) -> None:
    run = beside(figure())
    write(run, tmp_path)
    report.write(tmp_path, plots=False)
    page = (tmp_path / "report.md").read_text()
    assert "## Reported by others, not measured here" in page
    assert "*A Benchmark Report*, 2025-01-20; PyTorch 2.5.1." in page
    assert "> **What is wrong with it:** It is a CPU's." in page
    assert "| reported: NVIDIA GeForce RTX 4090 | here: NVIDIA H200 |" in page
    assert page.index("## Results") < page.index("## Reported by others")
    assert yaml.safe_load((tmp_path / "reported.yaml").read_text()) == run.derive["reported"]


def test_a_run_without_them_says_nothing_of_them(tmp_path: Path) -> None:
    write(matmul(), tmp_path)
    report.write(tmp_path, plots=False)
    assert "Reported by others" not in (tmp_path / "report.md").read_text()
    assert not (tmp_path / "reported.yaml").exists()


def test_a_figure_stands_beside_what_was_measured_with_its_interval(row: Callable[..., list[str]]) -> None:
    cells = row(beside(figure()))
    assert cells[:5] == ["one call", "n 128", "`bf16`", "latency_ms", "5.862"]
    value, low, high = (float(part.strip("[],")) for part in cells[5].split())
    assert 0.004 < low <= value <= high < 0.007


@pytest.mark.parametrize(("metric", "begins", "ends"), [
    ("latency_wall_ms", "0.0", "]"),
    ("speedup", "0.8", "] over `fp32`"),
    ("throughput_tflops", "0.8", ""),
    ("keys_total", "1193", ""),
    ("no_such_metric", "-", ""),
    ("reason", "-", ""),
])  # fmt: skip
def test_every_column_and_counter_can_be_a_figure(row: Callable[..., list[str]], metric: str, begins: str, ends: str) -> None:
    def count(events: list[dict[str, Any]]) -> None:
        for event in events:
            if event["event"] == "measurement":
                event["counters"] = {"keys_total": 1193}

    here = row(beside(figure(metric=metric)), count)[5]
    assert here.startswith(begins)
    assert here.endswith(ends)


@pytest.mark.parametrize(("changes", "here"), [
    ({"case": {"n": 129}}, "-"),
    ({"case": {"n": 128, "m": 1}}, "-"),
    ({"variant": "flash"}, "-"),
    ({"variant": "fp8"}, "*unsupported*"),
    ({"case": {}}, "7 cases fit"),
])  # fmt: skip
def test_what_was_not_measured_is_said_so(row: Callable[..., list[str]], changes: dict[str, Any], here: str) -> None:
    assert row(beside(figure(**changes)))[5] == here


def test_a_case_fits_whatever_else_it_has_and_settings_are_not_repeated(row: Callable[..., list[str]]) -> None:
    run = beside(figure(case={"n": 128, "heads": 64}), cases=grid("n", [128], heads=[64], layer=["up"]))
    run.derive["settings"] = {"heads": 64}
    cells = row(run)
    assert cells[1] == "n 128"
    assert cells[5].endswith("]")


def test_where_the_host_clock_is_the_only_one_the_latency_is_its(row: Callable[..., list[str]]) -> None:
    def only_wall(events: list[dict[str, Any]]) -> None:
        for event in events:
            if event["event"] == "measurement":
                event |= {"timing": "wall", "also": {}}

    assert row(beside(figure(metric="latency_wall_ms")), only_wall)[5].endswith("]")


def test_a_noisy_measurement_is_marked_and_a_count_is_not(row: Callable[..., list[str]]) -> None:
    noisy = {"statuses": lambda case, variant: ("noisy", "wide")}
    assert row(beside(figure(), **noisy))[5].endswith("] *noisy*")

    def count(events: list[dict[str, Any]]) -> None:
        for event in events:
            event |= {"counters": {"keys_total": 1193}} if event["event"] == "measurement" else {}

    assert row(beside(figure(metric="keys_total"), **noisy), count)[5] == "1193"


def test_figures_of_one_kind_stand_together_and_what_all_cases_share_is_said_once(tmp_path: Path) -> None:
    kinds = [figure(case={"n": n, "batch": 1}, what=what) for n in (128, 256) for what in ("one call", "two calls")]
    write(beside(*kinds), tmp_path)
    report.write(tmp_path, plots=False)
    section = (tmp_path / "report.md").read_text().partition("## Reported by others")[2].partition("\n## ")[0]
    assert "PyTorch 2.5.1. All at batch 1.\n" in section
    rows = [line.split(" | ")[:2] for line in section.strip().splitlines()[-4:]]
    assert rows == [["| one call", "n 128"], ["| one call", "n 256"], ["| two calls", "n 128"], ["| two calls", "n 256"]]


def test_they_are_in_no_metric_no_param_and_no_csv(tmp_path: Path) -> None:
    run = beside(figure(value=-5862.125))
    write(run, tmp_path)
    report.write(tmp_path, plots=False)
    job = run.job().as_dict()
    logged = [point.value for event in run.events() for point in points(event, Steps.of(job))]
    assert -5862.125 not in logged
    assert not any("-5862" in value or key.startswith("derive.reported") for key, value in params(job).items())
    assert len(list(csv.DictReader((tmp_path / "measurements.csv").open()))) == 28
    assert "-5862" not in (tmp_path / "measurements.csv").read_text()


def test_an_experiment_chooses_them_and_the_job_carries_them(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    text = "# @package _global_\ndefaults:\n  - override /reported: decode_4090\n"
    (tmp_path / "experiment" / "paper.yaml").write_text(text)
    made = compose(["experiment=paper"], tmp_path)
    job = plan.make(made.config, made.folders, detected=()).job
    assert job.derive["reported"]["source"]["title"] == "RTX 4090 Decode Benchmark Report V2"
    assert "reported" not in plan.make(compose().config, made.folders, detected=()).job.derive


@pytest.mark.parametrize("name", FILES)
def test_the_shipped_figures_have_a_source_and_a_caveat_of_one_sentence(name: str) -> None:
    reported = compose([f"reported={name}"]).config.reported
    assert reported is not None
    assert all(asdict(reported.source).values())
    assert reported.caveat.endswith(".")
    assert ". " not in reported.caveat
    figures = [(one.variant, one.what, one.metric, repr(one.case)) for one in reported.rows]
    assert len(set(figures)) == len(figures)


def test_the_decode_figures_are_the_published_table() -> None:
    reported = compose(["reported=decode_4090"]).config.reported
    assert reported is not None
    table: dict[int, list[float]] = {}
    for one in reported.rows:
        table.setdefault(one.case["context"], []).append(one.value)
    assert table == {
        128: [5.862, 5.944, 6.003, 6.001, 1159, 1193],
        256: [5.932, 5.952, 5.965, 6.024, 1159, 1329],
        512: [5.893, 5.981, 5.998, 5.988, 1159, 1569],
        1024: [5.987, 6.070, 6.122, 6.132, 1159, 1601],
    }


@pytest.mark.parametrize(("overrides", "message"), [
    (["reported=decode"], "reported=decode: no such reported; did you mean decode_4090?"),
    (["reported=nsa_4090", "reported.caveat=''"], "reported.caveat is empty"),
    (["reported=nsa_4090", "reported.rows=[]"], "reported.rows is empty"),
    (["reported=nsa_4090", "reported.rows=[{case: {n: [1]}, variant: a, what: b, metric: c, value: 1}]"],
     "reported.rows[0].case.n: expected a single value"),
    (["reported=nsa_4090", "reported.rows=[{case: {n: 1}, variant: a, what: b, metric: c}]"],
     "reported.rows[0].value is missing"),
    (["reported=nsa_4090", "~reported.source.title"], "reported.source.title is missing"),
    (["reported=nsa_4090", "reported.caveats=x"], "reported.caveats is no key of the config; did you mean reported.caveat"),
])  # fmt: skip
def test_wrong_ones_are_one_line(overrides: list[str], message: str) -> None:
    with pytest.raises(RequestError) as caught:
        compose(overrides)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_job_of_another_version_is_one_line() -> None:
    events = beside(figure()).events()
    del events[0]["job"]["derive"]["reported"]["caveat"]
    with pytest.raises(RequestError, match=r"derive\.reported\.caveat is missing"):
        _ = from_events(events).reported
