"""What a person sees in MLflow after two runs: curves over n with both runs in each chart, params, tags, artifacts.

CROSSOVER_SCREENSHOTS=1 makes the documentation's picture anew.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.system.conftest import ROOT, environment, mlflow_ui

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]

SIZES = [32, 64, 128]
RUN = ["workload=matmul", "workload.n=[32,64,128]", "workload.variants=[fp32,bf16]", "measure=quick", "display=plain"]
FILES = (
    "report.md", "thresholds.yaml", "decisions.yaml", "measurements.csv", "environment.json", "job.json", "journal.jsonl",
)  # fmt: skip
CARD = '[data-testid="experiment-view-compare-runs-card"]'
HEADER = '[data-testid="experiment-view-compare-runs-section-header"]'
PLOTTED = """
return [...document.querySelectorAll('.js-plotly-plot')].flatMap(
    plot => plot.data.filter(line => line.x).map(line => [line.metricKey, [...line.x], [...line.y]]))
"""
"""What the charts on the screen draw: metric, x values, y values of each line. Charts that are scrolled away draw nothing."""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Two real runs that differ in their seed; returns the store, the scratch folder and the runs' folders."""
    scratch = tmp_path_factory.mktemp("recorded")
    for seed in (0, 1):
        command = [sys.executable, "-m", "runner", *RUN, f"seed={seed}", "out=out", f"run_dir={seed}"]
        env = environment(scratch / "home")
        done = subprocess.run(command, env=env, cwd=scratch, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
    return scratch / "out" / "mlflow.db", scratch, [scratch / str(seed) for seed in (0, 1)]


@pytest.fixture(scope="module")
def address(recorded):
    store, scratch, _ = recorded
    with mlflow_ui(store, scratch) as url:
        yield url


@pytest.fixture(scope="module")
def runs(recorded):
    """Return what `mlflow.json` of each run says."""
    return [json.loads((folder / "mlflow.json").read_text()) for folder in recorded[2]]


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    """Return what saves the screen, to look at after a failure."""
    folder = tmp_path_factory.mktemp("screens")
    return lambda driver, name: driver.save_screenshot(str(folder / f"{name}.png"))


def wait_for(condition, what, limit_s=90.0):
    """Return the first true value of `condition()`; the page builds itself while it is looked at, so a raise is a not yet."""
    from selenium.common.exceptions import WebDriverException

    end, last = time.monotonic() + limit_s, None
    while time.monotonic() < end:
        try:
            if found := condition():
                return found
        except WebDriverException as error:
            last = error
        time.sleep(0.3)
    raise AssertionError(f"{what}: not on the page within {limit_s:g} s ({last})")


def find(driver, css):
    return driver.find_elements("css selector", css)


def text(driver):
    return driver.find_element("css selector", "body").text


def put_the_assistant_away(driver):
    """Close the chat panel that MLflow opens over a quarter of the page of a browser it has not seen."""
    for button in find(driver, '[data-component-id="mlflow.assistant.chat_panel.close"]'):
        button.click()


@pytest.fixture(scope="module")
def charts(browser, address, runs):
    """Open the page that a run prints at its end."""
    browser.get(f"{address}/#/experiments/{runs[0]['experiment_id']}/runs?compareRunsMode=CHART")
    wait_for(lambda: find(browser, HEADER), "the sections of charts")
    put_the_assistant_away(browser)
    return browser


def test_both_runs_are_listed(charts, runs, picture):
    wait_for(lambda: "2 matching runs" in text(charts), "2 matching runs")
    picture(charts, "first-sight")
    for run in runs:
        wait_for(lambda run=run: find(charts, f'a[href*="/runs/{run["run_id"]}"]'), f"the row of {run['run_id']}")


def test_latency_is_drawn_over_n_for_each_variant_and_both_runs(charts, recorded, picture):
    header = wait_for(
        lambda: [one for one in find(charts, HEADER) if one.text.splitlines()[0] == "latency_ms"], "the section latency_ms"
    )[0]
    assert "(2)" in header.text
    # The head of the list stays in sight when it is scrolled, and would cover what is scrolled right to the top.
    charts.execute_script("arguments[0].style.scrollMarginTop = '60px'; arguments[0].scrollIntoView()", header)
    wanted = {f"latency_ms/{variant}" for variant in ("fp32", "bf16")}
    # The second run's line comes after the first's.
    wait_for(lambda: all(len(drawn(charts).get(key, ())) == len(recorded[2]) for key in wanted), "the curves")
    lines = drawn(charts)
    shown = {card.text.splitlines()[0] for card in find(charts, CARD)}
    picture(charts, "latency")
    if os.environ.get("CROSSOVER_SCREENSHOTS") == "1":
        (ROOT / "docs" / "images").mkdir(parents=True, exist_ok=True)
        charts.save_screenshot(str(ROOT / "docs" / "images" / "mlflow-curves.png"))
    assert wanted <= shown
    for variant in ("fp32", "bf16"):
        assert lines[f"latency_ms/{variant}"] == {curve(folder, variant) for folder in recorded[2]}


def drawn(driver):
    """Return the lines of the charts on the screen by metric, each as its x values and its y values."""
    lines = {}
    for key, x, y in driver.execute_script(PLOTTED):
        lines.setdefault(key, set()).add((tuple(x), tuple(y)))
    return lines


def curve(folder: Path, variant: str) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Return n and median latency of a variant as the journal has them."""
    events = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    measured = [event for event in events if event["event"] == "measurement" and event["variant"] == variant]
    found = {event["case"]["n"]: event["statistics"]["median_ms"] for event in measured}
    assert sorted(found) == SIZES
    return tuple(SIZES), tuple(found[n] for n in SIZES)


def test_the_page_of_a_run_says_what_was_asked_for_and_what_became_of_it(browser, address, runs, picture):
    run = runs[1]
    browser.get(f"{address}/#/experiments/{run['experiment_id']}/runs/{run['run_id']}")
    wait_for(lambda: "job.hash" in text(browser), "the tags")
    put_the_assistant_away(browser)
    picture(browser, "run")
    for tag in ("status: complete", "target: local", "workload: matmul", "steps: step = n", "measurements.ok: 6"):
        wait_for(lambda tag=tag: tag.replace(" ", "") in "".join(text(browser).split()), tag)
    for said in ("Finished", "measure.target", "measure.warmup.window", "params.layers.llama3_8b_qkv"):
        wait_for(lambda said=said: said in text(browser), said)


def test_the_artifacts_hold_the_report_the_thresholds_and_the_plots(browser, address, runs, picture):
    run = runs[1]
    browser.get(f"{address}/#/experiments/{run['experiment_id']}/runs/{run['run_id']}/artifacts")
    for name in FILES:
        wait_for(lambda name=name: name in text(browser).splitlines(), name)
    put_the_assistant_away(browser)
    open_artifact(browser, "report.md")
    wait_for(lambda: "3 cases of" in text(browser), "the report's text")
    picture(browser, "report")
    open_artifact(browser, "plots")
    wait_for(lambda: "latency.png" in text(browser), "the plots")
    open_artifact(browser, "latency.png")
    wait_for(lambda: any(int(one.get_attribute("naturalWidth")) > 400 for one in find(browser, "img")), "the plot")
    picture(browser, "plot")


def open_artifact(driver, name):
    wait_for(lambda: driver.find_element("xpath", f"//*[normalize-space(text())='{name}']").click() or True, name)
