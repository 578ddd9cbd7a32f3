"""docs/compare.md and docs/ci-guard.md tell the truth: commands print what they show, the workflow does what it is for."""

import itertools
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from scipy import stats

from runner.cli import main as run
from runner.compare.__main__ import main
from runner.compare.comparison import Asked, compare
from tests.jobs import ROOT

GUARD = ROOT / "docs" / "examples" / "guard"
WORKFLOW = yaml.safe_load((ROOT / "docs" / "examples" / "crossover-guard.yml").read_text())
PAGES = {name: (ROOT / "docs" / name).read_text() for name in ("compare.md", "ci-guard.md")}
SHOWN = [
    (name, command, lines)
    for name, page in PAGES.items()
    for command, lines in re.findall(r"```console\n\$ ([^\n]*)\n(.*?)```", page, re.DOTALL)
]


@pytest.mark.parametrize(("page", "command", "lines"), SHOWN, ids=[f"{page} {place}" for place, (page, _, _) in enumerate(SHOWN)])
def test_a_command_prints_what_its_page_shows(page, command, lines, monkeypatch, capsys):
    """A line that ends in ` ...` was cut."""
    monkeypatch.chdir(ROOT)
    code = int(found[1]) if (found := re.search(r"# exit (\d)", command)) else 0
    assert main(shlex.split(command, comments=True)[3:]) == code
    printed = capsys.readouterr().out.rstrip().splitlines()
    expected = lines.rstrip().splitlines()
    assert len(printed) == len(expected)
    for said, shown in zip(printed, expected, strict=True):
        assert said.startswith(shown.removesuffix(" ...")) if shown.endswith(" ...") else said == shown


def test_single_runs_of_the_example_differ_as_often_as_the_pages_say():
    single = sum(compare(Asked(*map(base, [(a,), (b,)]))).exit_code for a, b in itertools.permutations(range(1, 7), 2))
    several = sum(
        compare(Asked(base(chosen), base(tuple({*range(1, 7)} - {*chosen})))).exit_code
        for chosen in itertools.combinations(range(1, 7), 3)
    )
    assert (single, several) == (12, 1)


def base(numbers: tuple[int, ...]) -> str:
    return ",".join(f"{GUARD}/base-{number}.jsonl" for number in numbers)


def test_the_table_of_what_is_seen_is_its_formula():
    (table,) = re.findall(r"\| runs a side \| 1 case.*?\n\n", PAGES["compare.md"], re.DOTALL)
    for line in table.strip().splitlines()[2:]:
        runs, *shown = [float(cell.strip(" %")) for cell in line.strip("|").split("|")]
        quantiles = [stats.t.ppf(1 - 0.05 / cases / 2, 2 * runs - 2) for cases in (1, 10, 100)]
        assert shown == pytest.approx([100 * (1.05 * math.exp(t * 0.01 * math.sqrt(2 / runs)) - 1) for t in quantiles], abs=0.06)


# --- the workflow


def step(name: str) -> str:
    (script,) = [one["run"] for one in WORKFLOW["jobs"]["guard"]["steps"] if one["name"] == name]
    return str(script)


def test_the_workflow_measures_both_sides_in_turn_each_in_its_own_checkout(tmp_path):
    """Its shell is run as it is, with a python that only writes down where it was called with what."""
    for side in ("base", "head"):
        (tmp_path / side / ".venv" / "bin").mkdir(parents=True)
        python = tmp_path / side / ".venv" / "bin" / "python"
        python.write_text('#!/bin/sh\necho "$(basename "$PWD") $*" >> ../calls\n')
        python.chmod(0o755)
    (tmp_path / "workload.n=1").touch()  # what an unquoted pattern would find
    shell(step("Measure both in turn"), tmp_path, {"REPEATS": "3"})
    calls = (tmp_path / "calls").read_text().splitlines()
    measured = f"-m runner {WORKFLOW['env']['MEASURE']}"
    order = [("base", 1), ("head", 1), ("head", 2), ("base", 2), ("base", 3), ("head", 3)]
    assert calls == [f"{side} {measured} run_dir=../runs/{side}/{i}" for side, i in order]


def test_what_the_workflow_measures_can_be_planned(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run([*WORKFLOW["env"]["MEASURE"].split(), "launch.dry_run=true"]) == 0, capsys.readouterr().err


@pytest.mark.parametrize(
    ("head", "code", "says"), [("head", 1, "### REGRESSION: 2 cases slower"), ("base", 0, "### no regression")]
)
def test_the_workflow_compares_what_it_measured_and_fails_for_a_regression(tmp_path, head, code, says):
    for side, source, numbers in (("base", "base", (1, 3, 5)), ("head", head, (2, 4, 6))):
        for number in numbers:
            folder = tmp_path / "runs" / side / str(number)
            folder.mkdir(parents=True)
            shutil.copy(GUARD / f"{source}-{number}.jsonl", folder / "journal.jsonl")
    (tmp_path / "head" / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / "head" / ".venv" / "bin" / "python").symlink_to(sys.executable)
    done = shell(step("Compare"), tmp_path, {"PYTHONPATH": str(ROOT)}, check=False)
    assert done.returncode == code, done.stderr
    assert (tmp_path / "guard.md").read_text().startswith(says)


def shell(script: str, folder: Path, more: dict[str, str], check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a step as GitHub's runner does."""
    settings = {name: str(value) for name, value in WORKFLOW["env"].items()}
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]
    environment = {**os.environ, **settings, **more}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=check)
