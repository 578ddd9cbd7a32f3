"""docs/adding-a-workload.md tells the truth: its example is written out and run as the page says."""

import re
import subprocess
import sys

import pytest
import yaml

from runner import journal
from tests.jobs import ROOT

PAGE = (ROOT / "docs" / "adding-a-workload.md").read_text()


def block(language):
    return re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL).group(1)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("example")
    (folder / "mine" / "workload").mkdir(parents=True)
    (folder / "mine" / "workload" / "axpy.yaml").write_text(block("yaml"))
    (folder / "mine" / "axpy.py").write_text(block("python"))
    command = next(line for line in block("bash").splitlines() if "measure=quick" in line).split()[1:]
    arguments = [*command, "tracking.enabled=false", "run_dir=run", "gpu=local"]
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder / "run"


def test_every_variant_of_the_example_passes_its_gate_and_is_timed(run_folder):
    found = list(journal.measurements(journal.read(run_folder)))
    assert {(event["case"]["n"], event["variant"]) for event in found} == {
        (n, v) for n in (4096, 8192) for v in ("two_steps", "fused")
    }
    assert {event["status"] for event in found} <= {"ok", "noisy"}


def test_the_declared_threshold_is_derived(run_folder):
    assert "fused_min_n" in yaml.safe_load((run_folder / "thresholds.yaml").read_text())["runtime"]


def test_the_module_is_as_short_as_the_page_says():
    code = [line for line in block("python").splitlines() if line.strip()]
    assert len(code) <= 30
