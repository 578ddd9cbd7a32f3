"""The displays: what each mode prints, that it fits, and that nothing in a journal breaks it."""

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from runner import units
from runner.display import for_mode, words
from runner.display.rich import Rich
from runner.errors import RequestError
from runner.spec import Case
from tests.journals import Fabricated, grid, matmul


def trouble(case: Any, variant: str) -> tuple[str, str] | None:
    return {
        ("fp8", 128): ("unsupported", "this torch has no fp8 matmul"),
        ("tf32", 1024): ("noisy", "4.1% wide after 2 s"),
        ("bf16", 128): ("incorrect", "rel_l2 0.3 over 0.01"),
    }.get((variant, 128 if variant == "fp8" else case.get("n")))


def show(display: Any, run: Fabricated, status: str = "complete", reason: str = "") -> None:
    display.opening(run.job().as_dict(), Path("runs/1"))
    for event in run.events():
        display.event(event)
        if event["event"] == "case_started":
            variants = list(run.curves)
            common = {key: event[key] for key in ("index", "total", "case")}
            display.progress(common | {"stage": "start", "variants": [], "precision": {}})
            display.progress(common | {"stage": "cold", "variants": variants, "precision": dict.fromkeys(variants, 0.02)})
    display.finish(status, reason)
    display.closing(["mlflow ui --backend-store-uri sqlite:////runs/mlflow.db"])


def text(mode: str, run: Fabricated, **end: str) -> str:
    stream = io.StringIO()
    show(for_mode(mode, stream), run, **end)
    return stream.getvalue()


def rich(run: Fabricated, width: int = 100) -> str:
    stream = io.StringIO()
    show(Rich(stream, Console(file=stream, width=width, force_terminal=False, highlight=False)), run)
    return stream.getvalue()


def test_plain_prints_a_line_per_measurement_and_the_end() -> None:
    lines = text("plain", matmul(statuses=trouble)).splitlines()
    assert lines[0] == "matmul on NVIDIA H200: 7 cases x 4 variants, at most 2 min 34 s"
    assert sum(line.startswith("[") for line in lines) == 28
    assert re.fullmatch(
        r"\[3/7\] n=512 bf16: 5\.\d+ us \[.*\]  1\.\d+x \[.*\] faster  .* TFLOPS \d\.\d%  .* GB/s \d\.\d%", lines[12]
    )
    assert "warning: n=128 bf16: incorrect, rel_l2 0.3 over 0.01" in lines
    assert "warning: n=1024 tf32: noisy, 4.1% wide after 2 s" in lines
    assert "bf16 beats fp32 by 1.2x from n = 512 on" in lines
    assert lines[-2] == "complete: 19 ok, 1 incorrect, 7 unsupported, 1 noisy"
    assert lines[-1].startswith("mlflow ui")


SHAPED = {
    "cases": grid("n", [128, 256], heads=[64], head_dim=[128], layer=["up", "down"]),
    "derive": {"settings": {"heads": 64, "head_dim": 128}},
}


@pytest.mark.parametrize("mode", ["plain", "rich"])
def test_settings_are_said_once_and_in_no_name(mode: str) -> None:
    shown = text(mode, matmul(**SHAPED, statuses=trouble))
    assert shown.splitlines()[1] == "fixed      heads 64, head_dim 128"
    assert shown.count("head") == 2
    assert "layer=up n=128 bf16: incorrect" in shown


def test_a_job_whose_cases_differ_in_variants_says_how_many_measurements_it_has() -> None:
    cases = [Case({"n": 128}, "n", ["fp32", "bf16"]), Case({"n": 256}, "n")]
    lines = text("plain", matmul(cases=cases)).splitlines()
    assert lines[0].startswith("matmul on NVIDIA H200: 2 cases of 4 variants, 6 measurements, at most ")
    assert sum(line.startswith("[") for line in lines) == 6


def test_what_was_not_measured_is_counted() -> None:
    run = matmul()
    stream = io.StringIO()
    display = for_mode("plain", stream)
    for event in run.events()[:7]:
        display.event(event)
    display.finish("partial", "killed")
    assert stream.getvalue().splitlines()[-1] == "partial (killed): 3 ok, 1 unsupported, 24 not measured"


def test_quiet_prints_only_the_folder_and_how_it_ended() -> None:
    assert text("quiet", matmul(statuses=trouble)) == "runs/1: complete\n"
    assert (
        text("quiet", matmul(), status="failed", reason="the GPU fell off the bus")
        == "runs/1: failed (the GPU fell off the bus)\n"
    )


def test_jsonl_prints_every_event_as_it_is_and_the_end() -> None:
    run = matmul()
    records = [json.loads(line) for line in text("jsonl", run).splitlines()]
    assert records[:-2] == json.loads(json.dumps(run.events()))
    assert records[-2] == {"event": "run_finished", "status": "complete", "reason": "", "folder": "runs/1"}
    assert records[-1]["event"] == "closing"


def test_auto_is_plain_where_there_is_no_terminal() -> None:
    assert type(for_mode("auto", io.StringIO())).__name__ == "Plain"


def test_an_unknown_mode_names_the_known() -> None:
    with pytest.raises(RequestError, match="did you mean plain"):
        for_mode("plane", io.StringIO())


def test_rich_shows_intervals_verdicts_and_what_was_found() -> None:
    shown = rich(matmul(statuses=trouble))
    assert re.search(r"512 +fp32 +\d\.\d+ us \[", shown)
    assert re.search(r"bf16 +5\.\d+ us \[\d\.\d+, \d\.\d+\] +1\.\d+x \[1\.\d+, 1\.\d+\] faster +\d+\.\d +\d\.\d", shown)
    assert "! n=128 bf16: incorrect, rel_l2 0.3 over 0.01" in shown
    assert "fp8: unsupported (this torch has no fp8 matmul)" in shown
    assert "bf16 beats fp32 by 1.2x from n = 512 on" in shown
    assert "complete in 0 s" in shown


def test_rich_fits_a_hundred_columns_with_the_longest_names_cut_nowhere() -> None:
    shown = rich(matmul(cases=grid("n", [128, 16384]), statuses=trouble))
    assert max(map(len, shown.splitlines())) <= 100
    assert "…" not in shown


def test_a_long_run_shows_the_largest_size_of_each_series_and_says_so() -> None:
    shown = rich(matmul(cases=grid("n", [16, 64, 256, 1024], layer=["qkv", "up", "down", "gate", "out"])))
    assert "60 measurements at smaller sizes are in report.md and measurements.csv" in shown
    assert len(re.findall(r"^ +1024 ", shown, re.MULTILINE)) == 5


# --- phases, the bill, alarms ---------------------------------------------------------------------------------------------

ASKED = {"phase": "provisioning", "detail": "runpod RTX4090 in CA, $0.34/h", "spent_usd": None}
SETTING_UP = {"phase": "set-up", "detail": "RTX4090", "spent_usd": 0.0031}
AWAY = {"phase": "reconnecting", "detail": "connection\nrefused", "spent_usd": 0.01}
DOWN = {"phase": "tearing down", "detail": "crossover-ada-1", "spent_usd": 0.02}
CASE = {"index": 0, "total": 7, "case": {"n": 128}, "stage": "cold", "variants": ["fp32"], "precision": {}, "spent_usd": 0.015}


def told(mode: str, *progress: dict[str, Any]) -> list[str]:
    stream = io.StringIO()
    display = for_mode(mode, stream)
    for one in progress:
        display.progress(dict(one))
    return stream.getvalue().splitlines()


def test_plain_prints_a_phase_when_it_changes_and_no_bill() -> None:
    assert told("plain", ASKED, ASKED, SETTING_UP, SETTING_UP | {"spent_usd": 0.2}, CASE, AWAY, CASE, AWAY, DOWN) == [
        "provisioning: runpod RTX4090 in CA, $0.34/h",
        "set-up: RTX4090",
        "reconnecting: connection refused",
        "tearing down: crossover-ada-1",
    ]


def test_plain_does_not_repeat_phases_that_take_turns_but_says_them_of_the_next_machine() -> None:
    assert len(told("plain", ASKED, AWAY, ASKED, AWAY, ASKED)) == 2
    assert len(told("plain", ASKED, DOWN, DOWN, ASKED, SETTING_UP)) == 4


def test_a_phase_may_have_no_detail() -> None:
    assert told("plain", {"phase": "starting"}, {"phase": "starting", "detail": ""}) == ["starting"]


def test_jsonl_has_an_event_per_change_of_phase() -> None:
    found = [json.loads(line) for line in told("jsonl", ASKED, ASKED, SETTING_UP, CASE, SETTING_UP | {"spent_usd": 1.0}, ASKED)]
    assert found == [{"event": "phase", **one} for one in (ASKED, SETTING_UP, ASKED)]


def test_quiet_says_no_phase() -> None:
    assert told("quiet", ASKED, CASE, DOWN) == []


def moving_line(display: Rich, width: int) -> str:
    """Return what the live line shows now."""
    console = Console(file=io.StringIO(), width=width, highlight=False)
    assert display._progress is not None
    console.print(display._progress.get_renderable())
    return str(console.file.getvalue()).rstrip("\n")  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", [70, 80, 120])
def test_rich_shows_the_phase_and_keeps_the_bill_at_the_right(width: int) -> None:
    display = Rich(io.StringIO(), Console(file=io.StringIO(), width=width, force_terminal=True))
    display.opening(matmul().job().as_dict(), Path("runs/1"))
    display.progress(ASKED)
    assert re.search(r"0/7 provisioning: runpod RTX4090 in", moving_line(display, width))
    display.progress(SETTING_UP)
    assert re.search(r"0/7 set-up: RTX4090 +\$0\.0031$", moving_line(display, width))
    display.progress(CASE)
    assert re.search(r"0/7 n=128  fp32 +\$0\.015$", moving_line(display, width))
    display.progress({key: value for key, value in CASE.items() if key != "spent_usd"} | {"precision": {"fp32": 0.02}})
    assert re.search(r"n=128  fp32 +±2\.0% +\$0\.015$", moving_line(display, width))
    display.progress(
        {"phase": "reconnecting", "detail": "[/red] " + "so long a reason that it does not fit " * 4, "spent_usd": 1.5}
    )
    assert re.search(r"0/7 reconnecting: \[/red\] so lo.*… +\$1\.50$", moving_line(display, width))
    display.close()


@pytest.mark.parametrize(("mode", "shown"), [
    ("plain", "ALARM: it lives on\n"),
    ("quiet", "ALARM: it lives on\n"),
    ("jsonl", '{"event":"alarm","text":"it lives on"}\n'),
    ("rich", "ALARM: it lives on\n"),
])  # fmt: skip
def test_an_alarm_is_in_every_display_before_the_start_and_after_the_end(mode: str, shown: str) -> None:
    stream = io.StringIO()
    display = for_mode(mode, stream)
    display.alarm("it lives on")
    assert stream.getvalue() == shown
    display.opening(matmul().job().as_dict(), Path("runs/1"))
    display.finish("complete", "")
    display.alarm("it lives on")
    assert stream.getvalue().endswith(shown)


def test_an_alarm_on_a_terminal_is_bold_red_and_one_line_however_long() -> None:
    stream = io.StringIO()
    display = Rich(stream, Console(file=stream, width=40, force_terminal=True, color_system="standard"))
    display.alarm("crossover-ada-1 may still cost money: " + "sky down crossover-ada-1 " * 3)
    assert stream.getvalue().startswith("\x1b[1;31mALARM: crossover-ada-1 may")
    assert stream.getvalue().count("\n") == 1


@pytest.mark.parametrize("mode", ["plain", "quiet", "jsonl", "rich"])
def test_closing_the_screen_prints_nothing_and_may_be_done_twice(mode: str) -> None:
    stream = io.StringIO()
    display = for_mode(mode, stream)
    display.close()
    display.opening(matmul().job().as_dict(), Path("runs/1"))
    before = stream.getvalue()
    display.close()
    display.close()
    assert stream.getvalue() == before
    display.progress(CASE)
    display.warn("still there")
    assert "still there" in stream.getvalue()


def test_after_closing_a_terminal_has_its_cursor_and_no_bar_left() -> None:
    stream = io.StringIO()
    display = Rich(stream, Console(file=stream, width=80, force_terminal=True))
    display.opening(matmul().job().as_dict(), Path("runs/1"))
    display.close()
    assert stream.getvalue().rstrip().endswith("\x1b[2K")
    assert "\x1b[?25h" in stream.getvalue()
    display.finish("failed", "refused")
    assert stream.getvalue().count("\x1b[?25h") == 1


# --- warnings, names, early ends ------------------------------------------------------------------------------------------


def test_a_warning_is_shown_once() -> None:
    run = matmul()
    events = run.events()
    for event in events[2:4]:
        event["warnings"] = ["leaks 1.0 MiB a call"]
    stream = io.StringIO()
    display = Rich(stream, Console(file=stream, width=100))
    for event in [*events, *events]:
        display.event(event)
    display.finish("complete", "")
    assert stream.getvalue().count("leaks 1.0 MiB a call") == 2  # of two variants


def test_other_processes_throttling_and_a_failed_control_are_warnings() -> None:
    start, _, first = matmul().events()[:3]
    start["other_processes"] = [{"pid": 7, "name": "python", "memory_bytes": 2**31}]
    assert list(words.warnings(start)) == ["another process is on the GPU: python (pid 7) using 2.0 GiB"]
    first |= {"throttled": [3, 4], "control": {"ratio": 1.1, "ci_low": 1.08, "ci_high": 1.12, "verdict": "faster"}}
    first["telemetry"]["throttle_reasons"] = ["hw_thermal_slowdown"]
    assert list(words.warnings(first)) == [
        "n=128 fp32: 2 samples throttled (hw_thermal_slowdown)",
        "n=128 fp32: A/A control failed, the baseline against itself is 1.10x [1.08, 1.12] faster",
    ]


def test_markup_in_names_and_reasons_is_text() -> None:
    run = matmul(cases=grid("n", [128], layer=["[bold]q[/]"]), statuses=lambda case, variant: ("error", "[/red] it [x]"))
    assert "[/red] it [x]" in rich(run)


@pytest.mark.parametrize("mode", ["plain", "quiet", "jsonl", "rich"])
@pytest.mark.parametrize("events", [0, 1, 2, 4])
def test_a_run_that_ends_early_is_still_shown(mode: str, events: int) -> None:
    stream = io.StringIO()
    display = for_mode(mode, stream)
    for event in matmul().events()[:events]:
        display.event(event)
    display.finish("partial", "the worker was killed")
    display.closing([])
    assert "partial" in stream.getvalue()


@pytest.mark.parametrize(
    ("milliseconds", "shown"),
    [(0.000123, "123 ns"), (0.00512, "5.12 us"), (0.9996, "1000 us"), (12.34, "12.3 ms"), (4321.0, "4.32 s")],
)
def test_times_are_in_the_unit_that_suits_them(milliseconds: float, shown: str) -> None:
    assert units.latency(milliseconds) == shown


def test_durations() -> None:
    assert [units.duration(seconds) for seconds in (8.4, 200, 3900)] == ["8 s", "3 min 20 s", "1 h 05 min"]
