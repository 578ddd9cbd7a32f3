"""What a person sees in MLflow after a sweep over two GPUs: its runs nested, its saved view, and Compare, GPU by GPU.

The GPUs are made up: `TEST GPU A` is what was measured on an H200, cut to three sizes, `TEST GPU B` the same with all times
doubled.
"""

import json
import os
import re
import subprocess
import sys

import pytest

from runner.sweep.folder import Sweep, SweepJob
from runner.tracking import view
from tests.system.conftest import ROOT, environment, mlflow_ui
from tests.system.test_browser import find, put_the_assistant_away, text, wait_for

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]

H200 = ROOT / "docs" / "results" / "h200" / "matmul" / "journal.jsonl"
GPUS = {"TEST GPU A": 1.0, "TEST GPU B": 2.0}
SIZES, VARIANTS = (256, 512, 1024), ("fp32", "bf16")
METRIC = "latency_ms/bf16"
UNFOLD = '[data-testid="expander-icon"], .ag-row [aria-label*="xpand"], .ag-pinned-left-cols-container .ag-row button'
PLOTTED = """
return [...document.querySelectorAll('.js-plotly-plot')].flatMap(
    plot => plot.data.filter(line => line.x).map(line => [line.metricKey, line.name, [...line.x], [...line.y]]))
"""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A sweep recorded from its folder; returns the store, the scratch folder and what the sweep's `mlflow.json` says."""
    scratch = tmp_path_factory.mktemp("recorded-sweep")
    folder, jobs = scratch / "out" / "sweeps" / "two-gpus", []
    for index, (name, factor) in enumerate(GPUS.items()):
        job = SweepJob(
            index, ["workload=matmul", f"gpu={index}"], f"{index:064x}", f"00{index}-matmul", "matmul", str(index), "local"
        )
        measured(folder / job.folder, name, factor)
        jobs.append(job)
    Sweep(folder, folder.name, "2026-11-20T10:00:00+00:00", "python -m runner -m", ["workload=matmul"], jobs, "tester").save()
    store = scratch / "mlflow.db"
    command = [sys.executable, "-m", "runner.tracking", str(folder), "--uri", f"sqlite:///{store}"]
    done = subprocess.run(command, env=environment(scratch / "home"), cwd=scratch, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return store, scratch, json.loads((folder / "mlflow.json").read_text())


def measured(folder, name, factor):
    """Write a run's folder: the H200's at SIZES and of VARIANTS, on a GPU of another name, its times multiplied."""
    folder.mkdir(parents=True)
    kept = []
    for event in map(json.loads, H200.read_text().splitlines()):
        if event["event"] == "job_started":
            event["session"] = f"session of {name}"
            event["device"]["name"] = name
        elif event["event"] != "job_finished" and (event["case"].get("n") not in SIZES or "layer" in event["case"]):
            continue
        if event["event"] == "measurement":
            if event["variant"] not in VARIANTS:
                continue
            event["samples_ms"] = [factor * one for one in event["samples_ms"]]
            times = {key: factor * one for key, one in event["statistics"].items() if key.endswith("_ms")}
            event["statistics"] |= times
        kept.append(json.dumps(event) + "\n")
    (folder / "journal.jsonl").write_text("".join(kept))
    (folder / "job.json").write_text((H200.parent / "job.json").read_text())


@pytest.fixture(scope="module")
def page(recorded, browser):
    """Return what opens a page of the experiment's runs once they are listed."""
    store, scratch, state = recorded
    with mlflow_ui(store, scratch) as address:

        def opened(query=""):
            browser.get("about:blank")
            browser.get(f"{address}/#/experiments/{state['experiment_id']}/runs{query}")
            wait_for(lambda: re.search(r"\b[1-9]\d* matching run", text(browser)), "runs")
            put_the_assistant_away(browser)
            return browser

        yield opened


@pytest.fixture(scope="module")
def screen(tmp_path_factory):
    """Return what keeps the screen, to look at after a failure; with CROSSOVER_SCREENSHOTS=1 in the documentation."""
    made = os.environ.get("CROSSOVER_SCREENSHOTS") == "1"
    folder = ROOT / "docs" / "images" if made else tmp_path_factory.mktemp("screens")
    return lambda driver, name: driver.save_screenshot(str(folder / f"mlflow-{name}.png"))


def rows(driver):
    """Return the names of the runs that are listed."""
    return [one.text for one in find(driver, '.ag-row a[href*="/runs/"]')]


def curves(driver):
    """Return the lines of METRIC on the screen: the run's name, its y values by x."""
    found = driver.execute_script(PLOTTED)
    return {name: dict(zip(x, y, strict=True)) for metric, name, x, y in found if metric == METRIC}


def gpus_of(names):
    return {gpu for gpu in GPUS if any(gpu in name for name in names)}


def test_the_children_are_nested_under_the_sweep(page, screen):
    driver = page()
    assert wait_for(lambda: rows(driver), "the parent") == ["two-gpus"]
    find(driver, UNFOLD)[0].click()
    wait_for(lambda: gpus_of(rows(driver)) == set(GPUS), "the GPUs")
    assert len(rows(driver)) == 1 + len(GPUS)
    screen(driver, "sweep")


def test_the_saved_view_lists_gpus_with_their_columns_and_draws_each_over_x(page, screen):
    driver = page(f"?{view.PATH}")
    assert gpus_of(wait_for(lambda: rows(driver), "the runs")) == set(GPUS)
    shown = [one.text for one in find(driver, ".ag-header-cell")]
    assert {"gpu.name", "workload", "status"} <= set(shown)
    driver = page(f"?{view.PATH}&compareRunsMode=CHART")
    wait_for(lambda: gpus_of(curves(driver)) == set(GPUS), "the curves")
    screen(driver, "view")
    found = {gpu: line for name, line in curves(driver).items() for gpu in GPUS if gpu in name}
    assert sorted(found["TEST GPU A"]) == list(SIZES)
    for n in SIZES:
        assert found["TEST GPU B"][n] == pytest.approx(2 * found["TEST GPU A"][n])


def test_selected_runs_are_compared_by_a_press(page):
    driver = page(f"?{view.PATH}")
    wait_for(lambda: gpus_of(rows(driver)) == set(GPUS), "the GPUs")
    for box in find(driver, ".ag-pinned-left-cols-container .ag-row .ag-checkbox-input"):
        box.click()
    wait_for(lambda: driver.find_element("xpath", "//button[normalize-space()='Compare']").click() or True, "Compare")
    wait_for(lambda: "Comparing 2 Runs" in text(driver), "the comparison")
    wait_for(lambda: gpus_of(text(driver).splitlines()) == set(GPUS), "the names of both GPUs")
    wait_for(lambda: METRIC in text(driver), METRIC)
