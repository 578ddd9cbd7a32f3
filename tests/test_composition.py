"""What a whole is made of: declared in a config, carried by the job, formed from paired rounds, shown in report and MLflow."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from runner import composition, plan, report
from runner.compose import compose
from runner.composition import Composition
from runner.display import words
from runner.errors import RequestError
from runner.report import bars
from runner.report.drawing import colour
from runner.results import from_events
from runner.spec import Case
from runner.stats import Interval
from runner.tracking.content import Steps, params, shares
from tests.journals import Fabricated, grid, staged, write

DECLARED = "+workload.compositions={bf16: [fp32, tf32]}"
WHOLE = Composition("whole", ["scoring", "reading"])

Change = Callable[[list[dict[str, Any]]], Any]


def composed(*overrides: str) -> Any:
    """Return what the job of the matmul workload has, in which bf16 is said to be made of fp32 and tf32."""
    made = compose(["workload=matmul", DECLARED, "workload.baseline=null", *overrides])
    return plan.make(made.config, made.folders, detected=()).job.derive.get("compositions")


def rows(run: Fabricated, timing: str | None = None, change: Change = lambda events: None) -> list[composition.Row]:
    events = run.events()
    change([event for event in events if event["event"] == "measurement"])
    return composition.rows(WHOLE, from_events(events), timing)


def page(run: Fabricated, folder: Path, change: Change = lambda events: None) -> str:
    events = run.events()
    change([event for event in events if event["event"] == "measurement"])
    write(run, folder, events)
    report.write(folder, plots=False)
    return (folder / "report.md").read_text()


def around(interval: Interval | None, value: float) -> bool:
    return interval is not None and interval.low <= value <= interval.high and interval.high - interval.low < 0.05


# --- declared --------------------------------------------------------------------------------------------------------------


def test_the_job_carries_what_is_declared() -> None:
    assert composed() == {"bf16": {"stages": ["fp32", "tf32"]}}


def test_a_job_without_any_has_no_such_key_and_so_the_hash_of_before() -> None:
    made = compose(["workload=matmul"])
    assert "compositions" not in plan.make(made.config, made.folders, detected=()).job.derive


def test_another_form_of_a_stage_is_compared_as_little_as_a_stage() -> None:
    made = compose(["workload=nsa_prefill", "gpu=h200"])
    job = plan.make(made.config, made.folders, detected=()).job
    left = set(job.variants) - composition.stages({"baseline": job.baseline, "derive": job.derive})
    assert left == {"dense_flash", "dense_cudnn", "whole", "whole_masked", "whole_fla"}


def test_forms_without_the_whole_are_compared() -> None:
    made = compose(["workload=nsa_prefill", "gpu=h200", "workload.variants=[dense_flash,sliding_flash]"])
    assert "forms" not in plan.make(made.config, made.folders, detected=()).job.derive


@pytest.mark.parametrize(("variants", "found"), [
    ("fp32,bf16", {"bf16": {"stages": ["fp32"], "without": ["tf32"]}}),
    ("bf16,fp8", None),
    ("fp32,tf32", None),
])  # fmt: skip
def test_what_a_run_leaves_out_is_left_out(variants: str, found: Any) -> None:
    assert composed(f"workload.variants=[{variants}]") == found


def test_a_search_times_no_stage_beside_its_whole() -> None:
    assert composed("workload.mode=search") is None


@pytest.mark.parametrize(("value", "message"), [
    ("{bf61: [fp32]}", "workload.compositions=bf61: no such name in the workload; did you mean bf16"),
    ("{bf16: [fp32, tf23]}", "workload.compositions.bf16=tf23: no such name in the workload; did you mean tf32"),
    ("{bf16: [bf16]}", "workload.compositions.bf16=bf16: no such name"),
    ("{bf16: []}", "workload.compositions.bf16: expected at least one variant, each once"),
    ("{bf16: [fp32, fp32]}", "workload.compositions.bf16: expected at least one variant, each once"),
    ("bf16", "workload.compositions=bf16: expected keys and values"),
    ("{bf16: fp32}", "workload.compositions.bf16=fp32: expected a list"),
])  # fmt: skip
def test_a_wrong_one_is_one_line(value: str, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        compose(["workload=matmul", f"+workload.compositions={value}"])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_form_that_is_no_variant_is_one_line() -> None:
    with pytest.raises(RequestError, match=r"workload.forms=fp23: no such name in the workload; did you mean fp32"):
        compose(["workload=matmul", "+workload.forms=[fp23]"])


@pytest.mark.parametrize("workload", ["nsa_decode", "nsa_prefill"])
def test_the_shipped_ones_have_every_stage(workload: str) -> None:
    made = compose([f"workload={workload}"])
    (whole,) = composition.declared(plan.make(made.config, made.folders, detected=()).job.as_dict())
    assert (whole.whole, len(whole.stages), whole.without) == ("whole", 5, [])


# --- formed ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timing", [None, "cold", "warm"])
def test_shares_and_their_sum_have_tight_intervals_whatever_drifts(timing: str | None) -> None:
    for row in rows(staged(drift=0.3), timing):
        assert around(row.stages["scoring"].interval, 0.3)
        assert around(row.stages["reading"].interval, 0.5)
        assert around(row.total.interval, 0.8)


def test_the_primary_timing_comes_first_and_warm_where_it_was_taken() -> None:
    events = staged().events()
    assert composition.timings(WHOLE, from_events(events)) == ["cold", "warm"]
    for event in events:
        if event["event"] == "measurement":
            event |= {"timing": "wall", "also": {}}
    assert composition.timings(WHOLE, from_events(events)) == ["wall"]


def test_throttled_rounds_of_the_primary_timing_do_not_count() -> None:
    def throttle(events: list[dict[str, Any]]) -> None:
        for event in events:
            if event["variant"] == "scoring":
                event["throttled"] = list(range(20))
                event["samples_ms"][:20] = [9e9] * 20

    assert all(around(row.stages["scoring"].interval, 0.3) for row in rows(staged(), change=throttle))


def test_a_stage_without_a_time_shows_its_status_and_there_is_no_sum() -> None:
    run = staged(statuses=lambda case, variant: ("oom", "too large") if (variant, case["n"]) == ("reading", 4096) else None)
    first, second = rows(run)
    assert first.total.interval
    assert (second.stages["reading"].interval, second.stages["reading"].why) == (None, "oom")
    assert around(second.stages["scoring"].interval, 0.3)
    assert second.total.interval is None


def test_a_whole_without_a_time_shows_its_status_once() -> None:
    row, _ = rows(staged(statuses=lambda case, variant: ("incorrect", "off") if variant == "whole" else None))
    assert (row.whole.interval, row.whole.why) == (None, "incorrect")
    assert [share.why for share in row.stages.values()] == ["", ""]


def test_what_was_not_measured_not_planned_or_not_timed_together_has_no_share() -> None:
    run = staged(cases=[Case({"n": 1024}, "n", ["whole", "scoring"]), Case({"n": 2048}, "n", ["dense"]), Case({"n": 4096}, "n")])

    def apart(events: list[dict[str, Any]]) -> None:
        for event in events:
            event["round"] = event["variant"] if event["case"]["n"] == 4096 else ""

    first, last = rows(run, change=apart)
    assert (first.stages["reading"].why, first.total.interval) == ("not planned", None)
    assert last.stages["reading"].why == "not timed side by side"
    events = [event for event in staged().events() if event.get("variant") != "reading"]
    assert composition.rows(WHOLE, from_events(events))[0].stages["reading"].why == "not measured"


def test_noise_of_the_primary_timing_is_marked_there_only() -> None:
    run = staged(statuses=lambda case, variant: ("noisy", "wide") if variant == "scoring" else None)
    row = rows(run)[0]
    assert (row.stages["scoring"].noisy, row.stages["reading"].noisy, row.total.noisy) == (True, False, True)
    assert not rows(run, "warm")[0].stages["scoring"].noisy


# --- shown -----------------------------------------------------------------------------------------------------------------


def test_the_page_has_a_row_per_case_for_the_primary_and_the_warm_timing(tmp_path: Path) -> None:
    run = staged(cases=grid("n", [1024, 4096], batch=[1, 16], dtype=["bf16"], heads=[64]))
    run.derive["settings"] = {"heads": 64}
    section = page(run, tmp_path).partition("## Stages of `whole`\n")[2].partition("\n## ")[0]
    cold, warm = section.partition("### `cold`")[2].split("### `warm`")
    for part in (cold, warm):
        assert "At dtype = bf16:" in part
        assert "| n (tokens) | batch | `whole` | `scoring` | `reading` | sum | sum - 100% |" in part
        assert len(re.findall(r"^\| (?:1024|4096) \| (?:1|16) \| ", part, re.MULTILINE)) == 4
        assert re.search(
            r"\| 1024 \| 1 \| [\d.]+ us \[.*?\] \| (?:29|30)\.\d% \[.*?\] \| .*?% \[.*?\] \| \d\d\.\d% \[.*?\] \| -\d+\.\d% \|",
            part,
        )
    assert section.count("so their sum may differ from it") == 1
    assert "heads" not in section


def test_a_missing_time_is_its_status_in_the_table(tmp_path: Path) -> None:
    run = staged(statuses=lambda case, variant: ("unsupported", "no GPU") if variant == "reading" else None)
    assert re.search(
        r"\| 1024 \| [\d.]+ us \[.*?\] \| (?:29|30)\.\d% \[.*?\] \| \*unsupported\* \| - \| - \|", page(run, tmp_path)
    )


def test_a_run_without_a_stage_says_that_the_sum_lacks_it(tmp_path: Path) -> None:
    run = staged()
    run.derive["compositions"]["whole"]["without"] = ["combine"]
    text = page(run, tmp_path)
    assert "This run leaves out `combine`: the sum lacks it." in text
    assert "sum - 100%" not in text


def test_what_was_not_replayed_as_a_graph_is_said(tmp_path: Path) -> None:
    def launched(events: list[dict[str, Any]]) -> None:
        for event in events:
            if (event["variant"], event["case"]["n"]) == ("whole", 4096):
                event["also"]["warm"]["timer"] = "cuda_event"

    assert "Launched call by call, not replayed as a graph: `whole` at n = 4096." in page(staged(), tmp_path, launched)


def test_stages_have_no_speedup_over_a_baseline_for_the_whole(tmp_path: Path) -> None:
    text = page(staged(), tmp_path)
    table = text.partition("## Results")[2].partition("## Stages")[0]
    assert re.search(r"`whole` \|.* 0\.80x \[.*\] slower", table)
    assert not re.search(r"`(scoring|reading)` \|.*x \[", table)
    assert "`scoring`, `reading` are stages of `whole`: they have no speedup over `dense`" in table
    event = next(event for event in staged().events() if event.get("variant") == "scoring")
    assert "faster" in words.measurement(event)
    assert "faster" not in words.measurement(event, composition.stages(staged().job().as_dict()))


def test_nor_have_other_forms_of_them_which_are_named_as_such(tmp_path: Path) -> None:
    run, events = staged(), staged().events()
    derive = events[0]["job"]["derive"]
    derive |= {"compositions": {"whole": {"stages": ["scoring"]}}, "forms": ["reading"]}
    write(run, tmp_path, events)
    report.write(tmp_path, plots=False)
    table = (tmp_path / "report.md").read_text().partition("## Results")[2].partition("## Stages")[0]
    assert not re.search(r"`reading` \|.*x \[", table)
    assert "`scoring`, `reading` are stages of `whole`, or other forms of them: they have no speedup" in table


def test_a_baseline_that_is_a_stage_is_a_baseline_for_stages() -> None:
    assert composition.stages(staged(baseline="scoring").job().as_dict()) == set()


def test_a_run_without_compositions_says_nothing_of_stages(tmp_path: Path) -> None:
    assert "tages of" not in page(staged(derive={}), tmp_path)
    assert bars.write(tmp_path, from_events(staged(derive={}).events())) == []


def test_a_picture_has_a_panel_per_series_and_is_linked(tmp_path: Path) -> None:
    run = staged(cases=grid("n", [1024, 4096], batch=[1, 16]), statuses=lambda case, variant: (
        ("oom", "too large") if (variant, case["n"], case["batch"]) == ("reading", 4096, 16) else None
    ))  # fmt: skip
    write(run, tmp_path)
    found = report.write(tmp_path)
    assert [panel.series for panel in bars.panels(WHOLE, found.results)] == [{"batch": 1}, {"batch": 16}]
    assert max(Image.open(tmp_path / "plots" / "shares_whole.png").size) < 1400
    assert "![plots/shares_whole.png](plots/shares_whole.png)" in (tmp_path / "report.md").read_text()


def test_no_two_stages_of_a_bar_have_one_colour() -> None:
    names = [*map(str, range(9)), "whole"]
    run = staged(curves={name: lambda case: 1.0 for name in names}, baseline=None)
    results = from_events(run.events())
    assert bars.shades(Composition("whole", ["1", "3"]), results) == {"1": colour(1), "3": colour(3)}
    assert len(set(bars.shades(Composition("whole", ["0", "1", "8"]), results).values())) == 3


def test_a_series_with_no_case_of_all_stages_has_no_panel(tmp_path: Path) -> None:
    run = staged(statuses=lambda case, variant: ("unsupported", "no GPU") if variant == "reading" else None)
    assert bars.write(tmp_path, from_events(run.events())) == []


# --- recorded --------------------------------------------------------------------------------------------------------------


def points(run: Fabricated, cuts: list[int]) -> list[Any]:
    """Return the points of a run that is sent in pieces, cut before these events."""
    events = run.events()
    steps, ends = Steps.of(run.job().as_dict()), [*cuts, len(events)]
    return [point for since, end in zip([0, *cuts], ends, strict=True) for point in shares(events[:end], since, steps)]


def test_mlflow_gets_a_share_per_stage_and_case_with_the_labels_of_its_series() -> None:
    run = staged(cases=grid("n", [1024, 4096], batch=[1, 16], heads=[64]))
    run.derive["settings"] = {"heads": 64}
    found = points(run, [])
    assert {(point.name, point.step) for point in found} == {
        (f"share/{stage}/batch:{batch}", n) for stage in ("scoring", "reading") for batch in (1, 16) for n in (1024, 4096)
    }
    assert all(abs(point.value - (0.3 if "scoring" in point.name else 0.5)) < 0.01 for point in found)


def test_a_run_sent_in_any_pieces_has_the_same_points_once() -> None:
    run = staged()
    whole = points(run, [])
    for cut in range(1, len(run.events())):
        assert points(run, [cut]) == whole
    assert len(whole) == len(set(whole)) == 4


def test_two_wholes_with_a_stage_in_common_are_told_apart() -> None:
    run = staged()
    run.derive["compositions"]["dense"] = {"stages": ["scoring"]}
    names = {point.name for point in points(run, [])}
    assert names == {"share/scoring/of:whole", "share/reading/of:whole", "share/scoring/of:dense"}


def test_what_has_no_time_has_no_point() -> None:
    run = staged(statuses=lambda case, variant: ("oom", "") if variant == "reading" else None)
    assert {point.name for point in points(run, [])} == {"share/scoring"}


def test_the_params_name_the_stages() -> None:
    assert json.loads(params(staged().job().as_dict())["derive.compositions.whole"]) == ["scoring", "reading"]
