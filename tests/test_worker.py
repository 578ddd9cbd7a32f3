"""The worker as its users run it: planted faults are caught and named, kills lose nothing, the same job continues."""

import dataclasses
import json
import signal
import time

import pytest

from runner import journal
from runner.spec import Case, GpuSpec
from tests.jobs import QUICK, order, planted_job, run_worker, save, serving_worker, start_worker


def measured(folder):
    return {event["variant"]: event for event in journal.measurements(journal.read(folder))}


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """One run over every planted fault that does not end the process."""
    out = tmp_path_factory.mktemp("planted")
    faults = "late_garbage late_clobber wears_out out_of_memory raises refuses counts miscounts int4"
    faults += " figured thrice constant drifts drifts_back"
    variants = f"honest twin slow wrong slightly_wrong loose nan unwritten elsewhere sleeps leaks clobbers {faults}".split()
    code, stdout, stderr = run_worker(save(planted_job(variants), out), out)
    assert code == 0, stderr
    return measured(out), stdout, journal.read(out)


def test_an_honest_variant_is_measured(planted):
    event = planted[0]["honest"]
    assert event["status"] in ("ok", "noisy")
    assert event["statistics"]["n"] == len(event["samples_ms"]) >= QUICK.min_samples
    assert event["statistics"]["ci_low_ms"] <= event["statistics"]["median_ms"] <= event["statistics"]["ci_high_ms"]
    assert (event["timing"], event["timer"], event["launch_bound"]) == ("wall", "perf_counter", None)
    assert event["backend"] == ["aten.mul.Tensor"]
    assert event["rates"]["bandwidth_gbps"] == pytest.approx(8 * 4096 / event["statistics"]["median_ms"] / 1e6)


def test_a_slower_variant_is_called_slower_than_the_baseline(planted):
    speedup = planted[0]["slow"]["speedup"]
    assert speedup["baseline"] == "honest"
    assert speedup["ci_high"] < 1
    assert speedup["verdict"] == "slower"
    assert planted[0]["honest"]["speedup"] is None


@pytest.mark.parametrize(
    ("variant", "status", "reason"),
    [
        ("wrong", "incorrect", "worst element"),
        ("slightly_wrong", "incorrect", "relative L2 error"),
        ("nan", "incorrect", "NaN"),
        ("unwritten", "incorrect", ""),
        ("clobbers", "incorrect", "changed its inputs"),
        ("late_garbage", "error", "shape"),
        ("late_clobber", "incorrect", "changed its inputs"),
        ("wears_out", "incorrect", "after the timing"),
        ("miscounts", "incorrect", "counted elements is 8192, expected 4096"),
        ("constant", "incorrect", "planted: it is constant"),
        ("drifts", "incorrect", "relative L2 error"),
        ("elsewhere", "error", "ran on meta, not on cpu"),
        ("out_of_memory", "oom", ""),
        ("raises", "error", "planted"),
        ("refuses", "unsupported", "not on this device"),
        ("int4", "error", "no error bound for dtype int4"),
    ],
)
def test_a_faulty_variant_gets_its_status_with_the_reason_and_no_time(planted, variant, status, reason):
    event = planted[0][variant]
    assert event["status"] == status
    assert reason in event["reason"]
    assert "samples_ms" not in event
    assert "statistics" not in event


def test_a_variant_may_declare_its_own_bound(planted):
    assert planted[0]["loose"]["status"] in ("ok", "noisy")


def test_what_was_counted_is_recorded(planted):
    assert planted[0]["counts"]["counters"] == {"elements": 4096}


def test_a_workloads_own_figures_are_recorded_with_their_intervals(planted):
    found = planted[0]["figured"]["figures"]
    assert found["width"] == {"value": 4096, "low": None, "high": None}
    assert (found["mean"]["low"], found["mean"]["high"]) == (-9.0, 9.0)
    rate, time = planted[0]["figured"]["rates"]["per_second"], planted[0]["figured"]["statistics"]
    assert rate == {"throughput_elements_per_s": pytest.approx(4096 / time["median_ms"] * 1e3)}


def test_a_call_that_does_the_operation_three_times_is_timed_by_the_operation(planted):
    assert 3 <= planted[0]["thrice"]["statistics"]["median_ms"] < 8
    assert planted[0]["thrice"]["repeats"] == 3


def test_what_a_call_changes_is_brought_back_before_its_output_is_checked(planted):
    assert planted[0]["drifts_back"]["status"] in ("ok", "noisy")


def test_a_sleeping_variant_is_shown_as_such(planted):
    assert any("sleeps" in warning for warning in planted[0]["sleeps"]["warnings"])
    assert not any("sleeps" in warning for warning in planted[0]["honest"]["warnings"])


def test_a_leak_is_measured_per_call(planted):
    assert planted[0]["leaks"]["leak_bytes_per_call"] == pytest.approx(2**20, rel=0.1)
    assert any("leaks" in warning for warning in planted[0]["leaks"]["warnings"])
    assert planted[0]["honest"]["leak_bytes_per_call"] == 0


def test_by_hand_the_worker_says_what_it_measured(planted):
    assert "n=4096 honest: " in planted[1]
    assert planted[1].rstrip().endswith("complete")


def test_the_journal_ends_with_the_counts(planted):
    last = planted[2][-1]
    assert last["event"] == "job_finished"
    assert (last["status"], last["counts"]["incorrect"]) == ("complete", 10)


def gpu(**changes):
    spec = GpuSpec("Test CPU", ".", [0, 10**6], "0.0", 1, 1, 1.0, 1e6, 1.0, 1000.0, 1.0, {"fp32": 1e6}, "X")
    return dataclasses.replace(spec, **changes)


def test_more_than_the_peak_is_an_error_not_a_record(tmp_path):
    job = planted_job(["honest"], gpu=gpu(peak_tflops={"fp32": 1e-9}))
    run_worker(save(job, tmp_path), tmp_path)
    event = measured(tmp_path)["honest"]
    assert event["status"] == "error"
    assert "of the most this GPU can do" in event["reason"]
    assert "samples_ms" not in event


def test_a_share_of_the_peak_is_reported(tmp_path):
    run_worker(save(planted_job(["honest"], gpu=gpu()), tmp_path), tmp_path)
    rates = measured(tmp_path)["honest"]["rates"]
    assert rates["pct_of_peak"] == pytest.approx(100 * rates["tflops"] / 1e6)


def test_a_machine_that_is_not_the_gpu_that_was_asked_for_gives_no_number(tmp_path):
    job = planted_job(["honest"], gpu=gpu(name="NVIDIA GeForce RTX 4080", match="^NVIDIA GeForce RTX 4080$"))
    code, _, _ = run_worker(save(job, tmp_path), tmp_path)
    events = journal.read(tmp_path)
    assert code == 1
    assert events[-1]["status"] == "failed"
    assert "NVIDIA GeForce RTX 4080" in events[-1]["reason"]
    assert not list(journal.measurements(events))


def test_no_gpu_where_the_job_needs_one_is_a_failed_job(tmp_path):
    code, _, _ = run_worker(save(planted_job(["honest"], device="cuda"), tmp_path), tmp_path)
    assert code == 1
    assert "sees none here" in journal.read(tmp_path)[-1]["reason"]


def test_a_call_that_never_returns_is_a_timeout_and_the_rest_is_measured(tmp_path):
    policy = dataclasses.replace(QUICK, variant_timeout_s=4.0)
    job = planted_job(["honest", "hangs", "twin"], [64, 128], measure=policy)
    code, _, stderr = run_worker(save(job, tmp_path), tmp_path)
    assert code == 0, stderr
    events = journal.read(tmp_path)
    found = {(e["case"]["n"], e["variant"]): e["status"] for e in journal.measurements(events)}
    assert {found[n, "hangs"] for n in (64, 128)} == {"timeout"}
    assert {found[n, v] for n in (64, 128) for v in ("honest", "twin")} <= {"ok", "noisy"}
    assert max(e["restart"] for e in events if e["event"] == "job_started") == 2
    assert len({e["session"] for e in events if e["event"] == "job_started"}) == 1


def test_the_baseline_against_itself_is_the_same(tmp_path):
    policy = dataclasses.replace(QUICK, aa_control=True, same_within=0.5)
    run_worker(save(planted_job(["honest", "slow"], [2**18], measure=policy), tmp_path), tmp_path)
    assert measured(tmp_path)["honest"]["control"]["verdict"] == "same"
    assert measured(tmp_path)["slow"]["control"] is None


def test_a_search_reports_the_yardstick_and_the_best(tmp_path):
    policy = dataclasses.replace(QUICK, target=0.5)
    job = planted_job(["honest"], cases=[], mode="search", baseline=None, measure=policy)
    code, _, stderr = run_worker(save(job, tmp_path), tmp_path)
    assert code == 0, stderr
    events = journal.read(tmp_path)
    search = next(e for e in events if e["event"] == "search_finished")
    assert search["tried"] == 5
    sizes = [e["case"]["n"] for e in journal.measurements(events)]
    assert 64 in sizes
    assert search["best"]["case"]["n"] == 16384
    assert search["best"]["ci_low_tflops"] <= search["best"]["tflops"] <= search["best"]["ci_high_tflops"]


def test_a_finished_job_in_the_same_folder_is_not_measured_again(tmp_path):
    path = save(planted_job(["honest"], [64, 128]), tmp_path)
    run_worker(path, tmp_path)
    before = [e for e in journal.read(tmp_path) if e["event"] == "measurement"]
    code, _, _ = run_worker(path, tmp_path)
    assert code == 0
    assert [e for e in journal.read(tmp_path) if e["event"] == "measurement"] == before


def test_another_job_in_the_same_folder_is_refused(tmp_path):
    run_worker(save(planted_job(["honest"]), tmp_path), tmp_path)
    code, _, stderr = run_worker(save(planted_job(["honest"], seed=2), tmp_path), tmp_path)
    assert code == 2
    assert "another job" in stderr
    assert stderr.count("\n") == 1


def test_a_job_made_with_other_code_is_refused(tmp_path):
    code, _, stderr = run_worker(save(planted_job(["honest"], code="0" * 64), tmp_path), tmp_path)
    assert code == 2
    assert "the code here is not that of the job" in stderr


def test_a_reference_that_fails_is_no_variants_fault(tmp_path):
    job = planted_job(["honest"], params={"reference": "fails"})
    run_worker(save(job, tmp_path), tmp_path)
    assert measured(tmp_path)["honest"]["status"] == "error"
    assert "no inputs (oom)" in measured(tmp_path)["honest"]["reason"]


def test_a_search_ends_a_hanging_look(tmp_path):
    job = planted_job(
        ["hangs"], cases=[], mode="search", baseline=None, measure=dataclasses.replace(QUICK, variant_timeout_s=2.0)
    )
    code, _, _ = run_worker(save(job, tmp_path), tmp_path)
    assert code == 0
    assert measured(tmp_path)["hangs"]["status"] == "timeout"


def test_what_a_workload_prints_and_starts_disturbs_nobody(tmp_path):
    path = save(planted_job(["noisy_neighbour"]), tmp_path)
    process = start_worker(path, tmp_path, "--progress")
    messages = [json.loads(line) for line in process.stdout]
    assert process.wait(60) == 0
    assert {key for message in messages for key in message} == {"ready", "import_s", "progress", "journal"}
    assert all(isinstance(message.get("progress", {}), dict) for message in messages)


@pytest.mark.parametrize("module", ["no.such.module", "missing.py", "json"])
def test_a_workload_that_is_not_there_is_one_line(tmp_path, module):
    code, _, stderr = run_worker(save(planted_job(["honest"], module=module), tmp_path), tmp_path)
    assert code == 2
    assert stderr.startswith("error: ")
    assert stderr.count("\n") == 1


def wait_for(condition, limit_s=60.0):
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "nothing happened in time"
        time.sleep(0.02)


def count(folder):
    return sum(event["event"] == "measurement" for event in journal.read(folder))


def test_killed_twice_it_loses_only_the_case_in_flight_and_completes(tmp_path):
    sizes = list(range(64, 64 + 24))
    path = save(planted_job(["honest", "twin"], sizes), tmp_path)
    for at_least in (4, 20):
        process = start_worker(path, tmp_path)
        wait_for(lambda at_least=at_least: count(tmp_path) >= at_least)
        process.kill()
        process.communicate()
        assert journal.final_status(journal.read(tmp_path))[0] == "partial"
    kept = [json.dumps(e) for e in journal.read(tmp_path) if e["event"] == "measurement"]
    code, _, _ = run_worker(path, tmp_path)
    assert code == 0
    after = [json.dumps(e) for e in journal.read(tmp_path) if e["event"] == "measurement"]
    assert after[: len(kept)] == kept
    assert len({(e["case"]["n"], e["variant"]) for e in journal.measurements(journal.read(tmp_path))}) == 48


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_says_so_and_keeps_what_it_has(tmp_path, number):
    path = save(planted_job(["honest"], list(range(64, 264))), tmp_path)
    process = start_worker(path, tmp_path)
    wait_for(lambda: count(tmp_path) >= 2)
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == 130
    last = journal.read(tmp_path)[-1]
    assert (last["event"], last["status"], last["reason"]) == ("job_finished", "partial", "interrupted")


def test_it_ends_itself_when_its_launcher_dies(tmp_path):
    path = save(planted_job(["honest"], list(range(64, 264))), tmp_path)
    process = serving_worker()
    order(process, path, tmp_path)
    wait_for(lambda: count(tmp_path) >= 1)
    process.stdin.close()
    assert process.wait(30) == 130


def test_a_continued_run_measures_the_same_inputs(tmp_path):
    job = planted_job(["honest"], cases=[Case({"n": 8}, "n")])
    first, second = tmp_path / "a", tmp_path / "b"
    for folder in (first, second):
        run_worker(save(job, folder), folder)
    assert measured(first)["honest"]["gate"] == measured(second)["honest"]["gate"]


def answer(process):
    """What a serving worker says a job came to."""
    return next(said["done"] for said in map(json.loads, process.stdout) if "done" in said)


def jobs_before(folder):
    return [event["jobs_before"] for event in journal.read(folder) if event["event"] == "job_started"]


def test_one_process_serves_several_jobs_and_each_has_its_own_log(tmp_path):
    process = serving_worker()
    folders = [tmp_path / name for name in "abc"]
    for index, folder in enumerate(folders):
        variant = "noisy_neighbour" if index == 1 else "honest"
        order(process, save(planted_job([variant], cases=[Case({"n": 8 + index}, "n")]), folder), folder)
        assert answer(process) == 0
    assert [jobs_before(folder) for folder in folders] == [[0], [1], [2]]
    assert [bool((folder / "worker.log").read_text()) for folder in folders] == [False, True, False]
    process.stdin.close()
    assert process.wait(30) == 0


def test_a_serving_worker_outlives_a_job_that_it_refuses(tmp_path):
    process = serving_worker()
    good, bad = tmp_path / "good", tmp_path / "bad"
    path = save(planted_job(["honest"]), bad)
    path.write_text(path.read_text().replace('"seed": ', '"seed": 1'))
    order(process, path, bad)
    assert answer(process) == 2
    assert "does not match its hash" in (bad / "worker.log").read_text()
    order(process, save(planted_job(["honest"]), good), good)
    assert answer(process) == 0
    process.stdin.close()
    assert process.wait(30) == 0


def test_a_serving_worker_that_starts_itself_anew_goes_on_with_the_job_and_takes_the_next(tmp_path):
    process = serving_worker()
    stuck, next_one = tmp_path / "stuck", tmp_path / "next"
    measure = dataclasses.replace(QUICK, variant_timeout_s=2.0)
    order(process, save(planted_job(["hangs", "honest"], measure=measure), stuck), stuck)
    assert answer(process) == 0
    assert measured(stuck)["hangs"]["status"] == "timeout"
    assert measured(stuck)["honest"]["status"] in ("ok", "noisy")
    order(process, save(planted_job(["honest"]), next_one), next_one)
    assert answer(process) == 0
    assert jobs_before(next_one) == [1]
    process.stdin.close()
    assert process.wait(30) == 0


def test_an_idle_worker_ends_when_it_is_interrupted(tmp_path):
    process = serving_worker()
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130


def test_several_jobs_of_one_command_have_folders_and_exit_codes_of_their_own(tmp_path):
    out = tmp_path / "out"
    measure = dataclasses.replace(QUICK, variant_timeout_s=2.0)
    for seed, (name, variant) in enumerate([("one", "honest"), ("two", "hangs"), ("three", "honest")]):
        save(planted_job([variant], cases=[Case({"n": 16}, "n")], measure=measure, seed=seed), tmp_path)
        (tmp_path / "job.json").rename(tmp_path / f"{name}.json")
    code, _, stderr = run_worker(tmp_path / "one.json", out, str(tmp_path / "two.json"), str(tmp_path / "three.json"))
    assert code == 0, stderr
    assert {path.parent.name: path.read_text() for path in out.glob("*/exit-code")} == {
        "one": "0\n",
        "two": "0\n",
        "three": "0\n",
    }
    assert measured(out / "two")["hangs"]["status"] == "timeout"
    assert [jobs_before(out / name)[-1] for name in ("one", "two", "three")] == [0, 0, 1]
