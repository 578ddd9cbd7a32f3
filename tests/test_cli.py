"""The command line's promises: exit codes, one-line errors, help, and nothing left behind."""

import contextlib
import io
import os
import re
import subprocess
import sys
import types
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from runner import __version__, plan
from runner.cli import main
from runner.compose import compose
from runner.config import RunConfig
from runner.errors import JobError
from runner.paths import conf_dir

ROOT = Path(__file__).resolve().parent.parent
Ran = list[RunConfig]


@pytest.fixture(autouse=True)
def ran(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Ran]:
    """Put a stand-in where jobs are run: it plans, and notes the config. Works in an empty folder without GPUs."""
    configs: Ran = []

    def run(config: RunConfig, overrides: Sequence[str], folders: Sequence[Path]) -> int:
        made = plan.make(config, folders, overrides, [])
        configs.append(config)
        if config.tags.get("fails"):
            raise JobError("it broke")
        if config.tags.get("interrupted"):
            raise KeyboardInterrupt
        if config.launch.dry_run:
            print("\n".join(plan.describe(made)))
        return 0

    app = types.ModuleType("runner.app")
    app.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "runner.app", app)
    monkeypatch.chdir(tmp_path)
    yield configs
    assert list(tmp_path.iterdir()) == [], "planning and refusing leave nothing behind"


def test_a_run_gets_the_checked_config(ran: Ran) -> None:
    assert main(["workload=matmul", "workload.n=64", "seed=3"]) == 0
    assert main(["workload.context=64", "seed=4"]) == 0
    first, second = ran
    assert (first.workload.name, first.seed, first.workload.overrides["n"]) == ("matmul", 3, 64)
    assert (second.workload.name, second.seed, second.workload.overrides["context"]) == ("nsa_decode", 4, 64)


def test_a_multirun_plans_every_combination(ran: Ran, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-m", "gpu=4090,3090", "workload=matmul,inspect", "launch.dry_run=true"]) == 0
    assert ran == []  # a sweep is one thing, not many runs; tests/test_sweep.py has the rest
    printed = capsys.readouterr().out
    for gpu in ("4090", "3090"):
        assert [f"gpu={gpu} workload={workload}:" in printed for workload in ("matmul", "inspect")] == [True, True]
        assert f"rented     2 jobs on gpu={gpu}" in printed


def test_a_multirun_with_one_wrong_job_is_refused_whole(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-m", "gpu=4090,local", "launch=local"]) == 2
    assert "job 0 (gpu=4090): gpu=4090 launch=local: no NVIDIA GeForce RTX 4090 here" in capsys.readouterr().err


def test_an_interrupt_ends_with_130() -> None:
    assert main(["+tags.interrupted=true"]) == 130


def test_options_may_stand_anywhere(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gpu=4090", "--cfg", "job", "workload=inspect"]) == 0
    printed = capsys.readouterr().out
    assert "name: NVIDIA GeForce RTX 4090" in printed
    assert "name: inspect" in printed


def test_cfg_prints_the_resolved_config(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--cfg", "job"]) == 0
    assert "${" not in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"crossover {__version__}\n"


def test_help_is_what_hydra_gives_to_any_program_on_these_configs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    ours = capsys.readouterr().out
    program = f"import hydra; hydra.main(config_path={str(ROOT / 'conf')!r}, config_name='config', version_base='1.3')(print)()"
    command = [sys.executable, "-c", program, "--help"]
    hydras = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert hydras.stdout.rstrip() == ours.rstrip()
    assert "gpu: 3090, 4080, 4090" in ours


def test_help_lists_the_groups_that_one_can_choose_from_and_says_what_the_default_measures(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--help"]) == 0
    ours = capsys.readouterr().out
    listed = [line.split(":")[0] for line in ours.partition("Choices\n")[2].partition("\n\n")[0].splitlines()]
    assert listed == ["cloud", "experiment", "gpu", "launch", "measure", "reported", "tracking", "workload"]
    assert re.search(rf"python -m runner +{compose().config.workload.name} on this machine", ours)


def test_help_lists_the_choices_of_the_users_folder(
    tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path_factory.mktemp("mine")
    (folder / "workload").mkdir()
    (folder / "workload" / "gemv.yaml").touch()
    assert main(["--config-dir", str(folder), "--help"]) == 0
    ours = sorted(path.stem for path in (conf_dir() / "workload").glob("*.yaml"))
    assert f"workload: {', '.join(sorted([*ours, 'gemv']))}\n" in capsys.readouterr().out


@pytest.mark.parametrize(("arguments", "message"), [
    (["workload=matmull"], "workload=matmull: no such workload; did you mean matmul?"),
    (["gpu=409"], "gpu=409: no such gpu; did you mean 4090?"),
    (["cloud=runpd"], "did you mean runpod?"),
    (["-m", "gpu=4090,409"], "gpu=409: no such gpu"),
    (["measure.targt=1"], "did you mean measure.target"),
    (["gpu=4090", "launch=local"], "no NVIDIA GeForce RTX 4090 here"),
    (["launch=sky"], "name a GPU with gpu=NAME, or use launch=local"),
    (["workload=matmul", "workload.n=-1"], "workload.n=-1: expected 1 to 131072 elements"),
    (["workload=matmul", "workload.n=0"], "workload.n=0: expected 1 to 131072 elements"),
    (["workload=matmul", "workload.n=[]"], "workload.n is empty"),
    (["workload=matmul", "workload.n=1e99"], "expected a whole number"),
    (["workload=matmul", "workload.n=99999999999"], "expected 1 to 131072 elements"),
    (["workload=matmul", "workload.n=many"], "expected a number"),
    (["workload.context=-1"], "workload.context=-1: expected 1 to 4194304 tokens"),
    (["workload.context=16"], "workload.context=16: expected at least block_len=32"),
    (["workload.n=64"], "workload.n is no key of the config; did you mean"),
    (["measure.max_cases=2"], "more than measure.max_cases=2"),
    (["tracking.uri=ftp://x"], "a tracking URI of a wrong kind"),
    (["workload.n=[1"], "can't read the override 'workload.n=[1'"),
    (["workload.n"], "can't read the override 'workload.n'"),
    (["workload=matmul,inspect"], "--multirun"),
    (["out=${nowhere}"], "nowhere"),
    (["--config-dir", "/no/such/folder"], "--config-dir /no/such/folder: no such folder"),
    (["--bogus"], "unrecognized arguments: --bogus"),
    (["--cfg"], "expected one argument"),
    (["--cfg", "job", "-p", "nothing"], "package 'nothing' not found"),
    (["--run", "--multirun"], "Only one of"),
    (["hydra.run.dir=/dev/null/x"], "Not a directory"),
])  # fmt: skip
def test_a_wrong_request_is_one_line_and_code_2(
    arguments: list[str], message: str, ran: Ran, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert ran == []


OFFLINE = """
import socket, sys

def connect(*_):
    raise SystemExit("this must not need a network")

socket.socket.connect = socket.getaddrinfo = connect
from runner import gpus
gpus.detect = lambda: []
from runner.cli import main
code = main(sys.argv[1:])
assert "sky" not in sys.modules, "asking SkyPilot takes seconds, and nobody ever set it up here"
sys.exit(code)
"""
"""A machine without GPUs, accounts and network; `sys.argv` is the request."""


def offline(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HOME": str(home), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", OFFLINE, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=home, env=environment)


@pytest.fixture
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.mark.parametrize("launch", ["auto", "sky"])
def test_renting_where_skypilot_was_never_set_up_is_one_line_with_the_ways_on(home: Path, launch: str) -> None:
    done = offline(home, "gpu=4090", f"launch={launch}")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    for part in ("error: gpu=4090", "never set up", "sky check", "launch.dry_run=true", "gpu=local"):
        assert part in done.stderr
    assert list(home.iterdir()) == []


def test_a_dry_run_needs_no_account_and_no_network_and_shows_dated_prices(home: Path) -> None:
    done = offline(home, "workload=matmul", "gpu=4090", "launch.dry_run=true")
    assert done.returncode == 0, done.stderr
    table = [line.split() for line in done.stdout.splitlines()]
    assert ["runpod", "RTX4090", "0.59", "per", "second"] in [line[:5] for line in table]
    assert ["primeintellect", "RTX4090", "0.37", "per", "hour", "$0.37"] in [line[:6] for line in table]
    assert "snapshot of 2026-02-04" in done.stdout
    assert "price      of 2026-02-04: this project's early report" in done.stdout
    (why_not,) = [line for line in done.stdout.splitlines() if line.startswith("not now ")]
    assert "sky check" in why_not
    assert list(home.iterdir()) == []


def test_a_traceback_is_there_for_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(Exception, match="Could not find 'gpu/409'"):
        main(["gpu=409"])


def test_nothing_of_the_process_is_changed() -> None:
    before = (list(sys.argv), dict(os.environ))
    main(["gpu=409"])
    assert (sys.argv, dict(os.environ)) == before


def test_the_module_runs_and_stays_light() -> None:
    program = (
        "import sys; from runner.cli import main; main(['--cfg', 'job'])\n"
        "print(sorted({'torch', 'numpy', 'scipy', 'mlflow', 'rich', 'matplotlib', 'sky'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stderr.strip() == "[]"
    version = subprocess.run([sys.executable, "-m", "runner", "--version"], capture_output=True, text=True, check=True, cwd=ROOT)
    assert version.stdout.strip() == f"crossover {__version__}"


KEYS = st.sampled_from(
    ["workload", "gpu", "cloud", "measure", "experiment", "reported", "workload.n", "workload.layer", "workload.variants",
     "workload.axes.n.max", "workload.context", "workload.heads", "workload.block_len", "workload.lengths",
     "workload.axes.heads.multiple_of", "workload.axes.context",
     "workload.thresholds", "workload.grids", "workload.module", "measure.target", "measure.warmup", "seed", "display", "tags",
     "tracking.uri", "gpu@x", "gpu.name", "nothing", "a.b.c"]
)  # fmt: skip
VALUES = st.one_of(
    st.text(max_size=12), st.integers().map(str), st.floats().map(str),
    st.sampled_from(["", "null", "true", "4090", "[1,2]", "{a:1}", "a,b", "choice(1,2)", "range(1,3)",
                     "${seed}", "${x}", "'", "[[[", "\\", "fp32",
                     "[fp32]", "???", "matmul", "glob(*)", "[{key: a}]", "sort(3,1)", "int(x)", "-0", "${oc.env:NO}"]),
)  # fmt: skip
OVERRIDES = st.one_of(
    st.builds("{}{}={}".format, st.sampled_from(["", "", "", "+", "++", "~"]), KEYS, VALUES),
    st.text(max_size=20).filter(lambda text: not text.startswith("-")),
)


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from([[], ["workload=matmul"]]), st.lists(OVERRIDES, min_size=1, max_size=3))
@example(["workload=matmul"], ["=", "workload.n=\x00"])
@example(["workload=matmul"], ["workload.variants=[fp32]", "workload.n=[[1]]"])
@example(["workload=matmul"], ["workload.grids.small.square.x=3"])
@example(["workload=matmul"], ["workload.params=null"])
@example(["workload=matmul"], ["workload.axes.n=null"])
@example([], ["workload.grids.small.decode.x=3"])
@example([], ["workload.context=[[1]]", "workload.heads=0"])
@example([], ["workload.axes.heads=null"])
@example([], ["workload.lengths=many", "workload.block_len=1.5"])
def test_no_override_ever_gives_a_traceback(workload: list[str], overrides: list[str]) -> None:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["launch.dry_run=true", *workload, *overrides])
    assert code in (0, 2)
    assert err.getvalue().count("\n") == (1 if code else 0), err.getvalue()
