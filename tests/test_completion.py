"""Completion in a real bash."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from runner.completion import rewrite

ROOT = Path(__file__).resolve().parent.parent


def bash(script: str) -> str:
    """Run a script in a bash that has `python`, `python3` and `crossover`, from the checkout."""
    setup = f'python() {{ "{sys.executable}" "$@"; }}; python3() {{ python "$@"; }}; crossover() {{ python -m runner "$@"; }}\n'
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = ["bash", "--norc", "-c", setup + script]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=environment)
    return done.stdout


def complete(line: str, breaks: str = " \t\n\"'@><=;|&(:") -> list[str]:
    """Return what bash would offer for `line` with the cursor at its end."""
    script = f"""
        COMP_WORDBREAKS={shlex.quote(breaks)}
        eval "$(python -m runner -sc install=bash)"
        COMP_LINE={shlex.quote(line)}; COMP_POINT=${{#COMP_LINE}}; COMPREPLY=()
        _crossover_complete "${{COMP_LINE%% *}}"
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    return bash(script).split()


@pytest.mark.parametrize("program", ["python -m runner", "python3 -m runner", "crossover"])
def test_choices_complete_for_every_way_of_calling(program: str) -> None:
    assert complete(f"{program} workload=m") == ["matmul"]


def test_what_is_no_group_is_not_offered() -> None:
    offered = {name.rstrip("=.") for name in complete("crossover ")}
    assert {"workload", "gpu", "reported", "experiment"} <= offered
    assert complete("crossover ax") == complete("crossover nsa") == []


def test_numeric_choices_complete_after_other_overrides() -> None:
    assert complete("python -m runner workload=matmul gpu=4090 gpu=40") == ["4080", "4090"]


def test_without_the_break_at_equals_the_whole_word_is_offered() -> None:
    assert complete("crossover gpu=409", breaks=" \t\n") == ["gpu=4090"]


def test_keys_and_options_complete() -> None:
    assert complete("crossover workload=matmul workload.ba") == ["workload.baseline="]
    assert complete("crossover workload.ba") == ["workload.baseline=", "workload.batch="]
    assert complete("crossover --con") == ["--config-dir"]


def test_choices_of_the_users_folder_complete(tmp_path: Path) -> None:
    (tmp_path / "gpu").mkdir()
    (tmp_path / "gpu" / "mine.yaml").touch()
    assert complete(f"python -m runner --config-dir {tmp_path} gpu=mi") == ["mine"]


def test_other_python_lines_complete_as_before_and_uninstalling_leaves_nothing() -> None:
    script = """
        before() { COMPREPLY=(old); }; complete -F before python
        eval "$(python -m runner -sc install=bash)"
        COMP_LINE="python x"; COMP_POINT=8; _crossover_complete python; echo "${COMPREPLY[@]}"
        eval "$(python -m runner -sc uninstall=bash)"
        complete -p python; complete -p crossover 2>/dev/null || echo none
    """
    assert bash(script).splitlines() == ["old", "complete -o default -F before python", "none"]


@pytest.mark.parametrize(("line", "expected"), [
    ("python -m runner gpu=", ("crossover gpu=", [])),
    (".venv/bin/python3.11 -m runner a=1 b", ("crossover a=1 b", [])),
    ("crossover -cd x y", ("crossover -cd x y", ["--config-dir", "x"])),
    ("crossover --config-dir x", ("crossover --config-dir x", [])),
    ("", ("crossover", [])),
])  # fmt: skip
def test_the_line_is_rewritten_for_hydra(line: str, expected: tuple[str, list[str]]) -> None:
    assert rewrite(line) == expected
