"""What the repository says about itself is true: links, paths and commands of its pages, and which plane imports what."""

import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote

import pytest

from runner.cli import main
from runner.compose import compose
from tests.jobs import ROOT

PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
RUNNER = re.compile(r"(?:\S*/)?python3?$")
ANSWERS_AT_ONCE = {"--help", "-h", "--cfg", "--version", "--info", "-sc", "--shell-completion", "launch.dry_run=true"}

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def files() -> list[Path]:
    """Return the files that are, or could be, committed."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [path for name in done.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def prose(page: Path) -> str:
    """Return a page without its fenced blocks."""
    return FENCE.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    """Return the names of a page's headings as GitHub links them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pages
def test_every_link_to_a_file_leads_somewhere(page):
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


@pages
def test_every_path_that_is_named_exists(page):
    """Paths are what stands in backticks and begins with a folder of this repository; capitals stand for something."""
    folders = {path.relative_to(ROOT).parts[0] for path in files() if path.parent != ROOT} | {"sky"}
    named = re.findall(r"`([\w.-]+/[\w./*-]*)`", prose(page))
    missing = [
        path
        for path in named
        if path.split("/")[0] in folders and not re.search(r"\b[A-Z]{2,}\b", path) and not list(ROOT.glob(path.rstrip("/")))
    ]
    assert missing == []


def commands(page: Path) -> list[tuple[list[str], int]]:
    """Return the shell commands of a page's fenced blocks with the exit code that a comment behind them documents."""
    found = []
    for language, block in FENCE.findall(page.read_text()):
        if language not in ("", "bash", "sh", "console"):
            continue
        for line in block.replace("\\\n", " ").splitlines():
            code = re.search(r"#.*\bexit (?:code )?(\d+)", line)
            try:
                words = shlex.split(line.removeprefix("$ "), comments=True)
            except ValueError:  # output, not a command
                continue
            while words and re.match(r"[A-Z_]+=", words[0]):
                words = words[1:]
            end = next((index for index, word in enumerate(words) if word in ("|", "&&", ";", ">", "&")), len(words))
            if words:
                found.append((words[:end], int(code[1]) if code else 0))
    return found


EVERY = list({(*words, code): (page, words, code) for page in reversed(PAGES) for words, code in commands(page)}.values())
"""Every command once, with the first page that shows it."""


def label(value):
    return " ".join(value) if isinstance(value, list) else value.name if isinstance(value, Path) else ""


def module(words: list[str]) -> str | None:
    """Return what `python -m` runs."""
    return words[2] if len(words) > 2 and RUNNER.match(words[0]) and words[1] == "-m" else None


ELSEWHERE = ("--config-dir", "sweep.resume=NAME")
"""Of what tests/test_docs_example.py runs, and of a sweep that there has to be: tests/test_sweep.py has one."""
RUNS = [one for one in EVERY if module(one[1]) == "runner" and not {*ELSEWHERE} & {*one[1]}]
TOOLS = [one for one in EVERY if re.match(r"runner\.|benchmarks\.", module(one[1]) or "")]
MAKES = [one for one in EVERY if one[1][0] == "make"]


@pytest.mark.parametrize(("page", "words", "code"), RUNS, ids=label)
def test_every_run_that_a_page_shows_can_be_planned(page, words, code, tmp_path, monkeypatch, capsys):
    if "hydra/sweeper=optuna" in words and find_spec("hydra_plugins.hydra_optuna_sweeper") is None:
        pytest.skip("needs the extra optuna")
    monkeypatch.chdir(tmp_path)
    arguments = words[3:] if ANSWERS_AT_ONCE & set(words) else [*words[3:], "launch.dry_run=true"]
    assert main(arguments) == code, capsys.readouterr().err


@pytest.mark.parametrize(("page", "words", "code"), TOOLS, ids=label)
def test_every_other_program_that_a_page_shows_has_the_options_it_is_given(page, words, code):
    done = subprocess.run([sys.executable, "-m", words[2], "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for word in words[3:]:
        assert not word.startswith("--") or word.partition("=")[0] in done.stdout


@pytest.mark.parametrize(("page", "words", "code"), MAKES, ids=label)
def test_every_make_target_that_a_page_shows_exists(page, words, code):
    done = subprocess.run(["make", "--dry-run", *words[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "conf" / "workload").glob("*.yaml")))
def test_a_workloads_section_names_its_variants_thresholds_and_decisions(name):
    page = (ROOT / "docs" / "workloads.md").read_text()
    (section,) = re.findall(rf"^## {name}\n(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE)
    workload = compose([f"workload={name}"]).config.workload
    declared = {*workload.variants, *(one.key for one in (*workload.thresholds, *workload.decisions))}
    assert declared - set(re.findall(r"`(\w+)`", section)) == set()


def test_no_file_names_the_machine_it_was_written_on_or_puts_work_off():
    # in pieces, so that this file does not hold what it looks for
    wrong = re.compile(r"(?<![\w.])/wo" r"rk/|\bTO" r"DO\b|\bFIX" r"ME\b")
    found = []
    for path in files():
        data = path.read_bytes()
        if b"\0" not in data:
            text = data.decode(errors="replace")
            found += [f"{path.relative_to(ROOT)}: {match[0]}" for match in wrong.finditer(text)]
    assert found == []


def test_our_sky_folder_never_shadows_the_installed_sky():
    assert list((ROOT / "sky").rglob("*.py")) == []
    assert not (ROOT / "sky.py").exists()


def imported(*arguments: str) -> set[str]:
    """Return the packages that `python ARGUMENTS` imports, as python itself tells while it does."""
    done = subprocess.run([sys.executable, "-X", "importtime", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return {line.split("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines() if line.count("|") == 2}


CONTROL = {"hydra", "omegaconf", "mlflow", "sky", "rich", "matplotlib", "yaml"}
MATHS = {"torch", "numpy", "scipy"}


def test_the_help_of_the_runner_is_there_before_anything_heavy():
    assert imported("-m", "runner", "--help") & (CONTROL | MATHS) == set()


def test_the_help_of_the_worker_needs_nothing_that_is_not_in_python():
    assert imported("-m", "runner.worker", "--help") & (CONTROL | MATHS) == set()


def test_the_data_plane_runs_without_the_control_planes_packages():
    found = imported("-c", "import runner.worker.run, workloads.matmul, workloads.inspect")
    assert "torch" in found
    assert found & CONTROL == set()
