"""One machine on one page: claims are judged by what was measured, and what was not is never called true or false."""

import dataclasses
from pathlib import Path

import pytest
import yaml

from runner import lineup, results
from runner.errors import RequestError
from runner.lineup.__main__ import main
from runner.lineup.claims import FAILS, HOLDS, NOT_HERE, OPEN, Claim, Question, judge, load
from runner.paths import conf_dir
from tests.jobs import ROOT, planted_job, run_worker, save

REAL = ROOT / "docs" / "results" / "h200"
CASE = {"n": 8192}


def verdict(device: str = "", **test: object) -> str:
    """Hold a claim on the committed matmul of an H200, where int8 is 1.19 [1.17, 1.20] times as fast as bf16 at 8192."""
    asked = Question(**{"workload": "matmul", "variant": "int8", "case": CASE, "metric": "speedup", "over": "bf16"} | test)
    return judge(Claim("", "", device, asked), [results.read(REAL / "matmul")]).verdict


@pytest.mark.parametrize(
    ("bounds", "said"),
    [
        ({"at_least": 1.1}, HOLDS),
        ({"at_least": 1.3}, FAILS),
        ({"at_least": 1.19}, OPEN),
        ({"at_most": 1.3}, HOLDS),
        ({"at_most": 1.1}, FAILS),
        ({"about": 1.2}, HOLDS),
        ({"about": 3.0}, FAILS),
    ],
)
def test_a_claim_holds_where_the_whole_interval_is_within_its_bounds(bounds, said):
    assert verdict(**bounds) == said


def test_a_claim_about_another_device_is_never_judged_but_what_is_here_is_shown():
    found = judge(
        Claim("", "", "RTX 4090", Question("matmul", "fp16", "throughput_tflops", case={"n": 4096}, about=165)),
        [results.read(REAL / "matmul")],
    )
    assert found.verdict == NOT_HERE
    assert "throughput_tflops of `fp16` is 7" in found.here
    assert "another device" in found.reason


@pytest.mark.parametrize(
    "test",
    [
        {"workload": "other"},
        {"case": {"n": 77}},
        {"variant": "fp64"},
        {"over": "", "metric": "keys_total", "at_least": 1},
        {"metric": "", "over": "", "usable": True, "variant": "none"},
    ],
)
def test_what_was_not_measured_is_neither_true_nor_false(test):
    assert verdict(**{"at_least": 1.0} | test) == NOT_HERE


def test_a_claim_about_real_data_is_not_judged_by_a_run_without():
    run = results.read(REAL / "matmul")
    claim = Claim("", "", "", Question("matmul", "int8", "speedup", over="bf16", case=CASE, at_least=1.0, needs=["embeddings"]))
    assert judge(claim, [run]).verdict == NOT_HERE
    run.job["params"]["embeddings"] = "glove.txt"
    assert judge(claim, [run]).verdict == HOLDS


def test_a_threshold_and_a_decision_can_be_claimed():
    plain = {"variant": "", "metric": "", "over": "", "case": {}}
    assert verdict(**plain, threshold="fp8_min_n", about=2048, within=0.0) == HOLDS
    assert verdict(**plain, threshold="fp8_min_n", about=256, within=0.0) == FAILS
    decode = [results.read(REAL / "nsa_decode")]
    asked = Question("nsa_decode", decision="custom_selection_kernel", answer="no")
    assert judge(Claim("", "", "", asked), decode).verdict == FAILS
    assert judge(Claim("", "", "", dataclasses.replace(asked, answer="yes")), decode).verdict == HOLDS


def test_an_incorrect_variant_refutes_what_was_claimed_of_it(tmp_path):
    out = tmp_path / "run"
    run_worker(save(planted_job(["honest", "constant", "refuses"]), out), out)
    runs = [results.read(out)]
    told = {
        name: judge(Claim("", "", "", Question("planted", name, usable=True)), runs) for name in ("honest", "constant", "refuses")
    }
    assert {name: one.verdict for name, one in told.items()} == {"honest": HOLDS, "constant": FAILS, "refuses": NOT_HERE}
    assert told["constant"].reason == "planted: it is constant"


@pytest.mark.parametrize(
    ("claim", "complaint"),
    [
        ({"test": {"workload": "matmul", "variant": "fp32", "metric": "speedup"}}, "needs at_least"),
        ({"test": {"workload": "matmul", "variant": "fp32", "at_least": 1}}, "one of metric"),
        ({"test": {"workload": "matmul", "metric": "speedup", "at_least": 1}}, "variant is missing"),
        ({}, "expected a test, or instead"),
        ({"tset": {}}, "tset"),
    ],
)
def test_a_claim_that_could_not_be_judged_is_refused(tmp_path, claim, complaint):
    report = {"title": "t", "date": "d", "device": "x", "claims": [{"claim": "c", "behind": "b"} | claim]}
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(report))
    with pytest.raises(RequestError, match=complaint):
        load(tmp_path)


def test_every_claim_asks_for_something_that_its_workload_has():
    for report in load():
        for claim in report.claims:
            if claim.test is None:
                continue
            config = yaml.safe_load((conf_dir() / "workload" / f"{claim.test.workload}.yaml").read_text())
            blocks = [block for grid in config["grids"].values() for block in grid.values()]
            variants = {*config["variants"], *(name for block in blocks for name in block.get("variants") or [])}
            loops = {"sliding_loop", "compressed_loop"}  # of experiment=nsa_4090_report
            assert {claim.test.variant, claim.test.over} - {""} <= variants | loops, claim.claim
            keys = {one["key"] for kind in ("thresholds", "decisions") for one in config.get(kind) or []}
            assert {claim.test.threshold, claim.test.decision} - {""} <= keys, claim.claim
            assert claim.test.case.keys() <= config.get("axes", {}).keys() | {"context", "seq_len"}, claim.claim


def test_the_page_has_hardware_tables_money_and_claims_and_is_the_same_twice(tmp_path, capsys):
    folders = [str(REAL / name) for name in ("inspect", "matmul", "nsa_decode")]
    assert main([*folders, "--out", str(tmp_path)]) == 0
    text = (tmp_path / lineup.NAME).read_text()
    order = [
        "# NVIDIA H200, measured", "## Hardware against the datasheet", "| fp16, TFLOPS: highest measured | 989 | 784, 79% |",
        "## inspect", "## matmul", "#### Thresholds", "## Cost and energy", "## What it cost", "an hour, modal",
        "## What was claimed", "another device (RTX 4090)", "## How to reproduce",
    ]  # fmt: skip
    places = [text.find(part) for part in order]
    assert -1 not in places
    assert places == sorted(places)
    assert main([*folders, "--out", str(tmp_path), "--price", "NVIDIA H200=2.5"]) == 0
    priced = (tmp_path / lineup.NAME).read_text()
    assert "$2.50, as given" in priced
    assert main([*folders, "--out", str(tmp_path)]) == 0
    assert (tmp_path / lineup.NAME).read_text() == text


def test_runs_of_two_machines_are_refused_in_one_line(tmp_path, capsys):
    out = tmp_path / "run"
    run_worker(save(planted_job(["honest"]), out), out)
    assert main([str(out), str(REAL / "matmul"), "--out", str(tmp_path / "page")]) == 2
    assert "several machines" in capsys.readouterr().err
    assert main([str(tmp_path)]) == 2
    assert not (tmp_path / "page").exists()


def test_no_run_no_page(tmp_path: Path, capsys):
    (tmp_path / "job.json").write_text("{}")
    assert main([str(tmp_path), "--out", str(tmp_path / "page")]) == 2
    assert "none of these runs" in capsys.readouterr().err


def test_a_variant_is_usable_where_no_case_of_it_was_wrong():
    run = results.read(REAL / "matmul")
    claim = Claim("", "", "", Question("matmul", "bf16", usable=True))
    assert judge(claim, [run]).verdict == HOLDS
    run.measurements[1 if run.measurements[1]["variant"] == "bf16" else 3] |= {
        "variant": "bf16",
        "status": "incorrect",
        "reason": "r",
    }
    assert judge(claim, [run]).verdict == FAILS


def test_the_page_of_claims_is_what_the_committed_runs_say():
    """docs/claims.md holds the output of `--claims` over these runs, later ones winning."""
    first = [REAL / name for name in ("decode_4090_report", "nsa_4090_report", "fa2_thresholds")]
    last = [REAL / name for name in ("collectives", "hash_rate", "ternary_sustained", "analogies_glove_50d")]
    folders = [*first, *sorted(path for path in (REAL / "lineup").iterdir() if path.is_dir()), *last]
    assert lineup.verdicts(folders) in (ROOT / "docs" / "claims.md").read_text()


def test_a_run_that_could_not_tell_takes_no_verdict_back():
    asked = Claim("", "", "", Question("matmul", "bf16", usable=True))
    good, wrong, unable = (results.read(REAL / "matmul") for _ in range(3))
    for run, status in ((wrong, "incorrect"), (unable, "unsupported")):
        for event in run.measurements:
            if event["variant"] == "bf16":
                event |= {"status": status, "reason": "r"}
    assert judge(asked, [good, unable]).verdict == judge(asked, [unable, good]).verdict == HOLDS
    assert judge(asked, [wrong, unable]).verdict == judge(asked, [wrong, good]).verdict == FAILS


def test_a_rate_has_the_interval_of_its_time():
    found = judge(
        Claim("", "", "", Question("matmul", "fp16", "throughput_tflops", case=CASE, at_least=1)), [results.read(REAL / "matmul")]
    )
    assert " [" in found.here


def test_a_claim_about_these_very_questions_is_judged_by_its_value():
    sure, exact = ({"at_least": 1.19}, {"at_least": 1.18, "exact": True, "over": "", "metric": "throughput_tflops"})
    assert verdict(**sure) == OPEN
    assert verdict(**exact) == HOLDS
