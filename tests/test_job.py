"""A job's hash names the question: everything that can change a number, nothing else."""

import dataclasses
import json

import pytest

from runner import job as jobs
from runner.errors import RequestError
from runner.spec import Case, GpuSpec
from tests.jobs import planted_job

GPU = GpuSpec("X", "^X$", [1, 2], "9.0", 1, 1, 1.0, 1.0, 1.0, 1.0, 1.0, {"fp32": 1.0, "fp8": None}, "X")


def test_a_job_file_reads_back_as_the_same_job(tmp_path):
    job = planted_job(["honest", "slow"], gpu=GPU, provenance={"git_sha": "abc"})
    job.save(tmp_path / "job.json")
    loaded = jobs.load(tmp_path / "job.json")
    assert loaded == job
    assert loaded.hash == job.hash


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 2},
        {"code": "other"},
        {"cases": [Case({"n": 8}, "n")]},
        {"variants": ["honest"]},
        {"params": {"a": 1}},
        {"gpu": GPU},
    ],
)
def test_what_changes_a_number_changes_the_hash(change):
    job = planted_job(["honest", "slow"])
    assert dataclasses.replace(job, **change).hash != job.hash


def test_who_asked_and_when_does_not():
    job = planted_job(["honest"])
    assert dataclasses.replace(job, provenance={"created_at": "2026-01-01", "command": ["x"]}).hash == job.hash


def test_the_variants_of_a_case_are_in_the_file_in_the_hash_and_in_the_time(tmp_path):
    cases = [Case({"n": 8}, "n", ["slow"]), Case({"n": 16}, "n")]
    job = planted_job(["honest", "slow"], cases=cases)
    job.save(tmp_path / "job.json")
    assert jobs.load(tmp_path / "job.json").cases == cases
    every = planted_job(["honest", "slow"], cases=[Case(case.axes, "n") for case in cases])
    assert job.hash != every.hash
    assert jobs.measurements(job.as_dict()) == 3
    assert jobs.at_most_s(job.as_dict()) == pytest.approx(3 / 4 * jobs.at_most_s(every.as_dict()))


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"schema": 1}', '{"schema": 99}', "\x00\x01"])
def test_a_corrupt_job_file_is_one_line(tmp_path, text):
    path = tmp_path / "job.json"
    path.write_text(text)
    with pytest.raises(RequestError) as error:
        jobs.load(path)
    assert "\n" not in str(error.value)
    assert "job.json" in str(error.value)


def test_a_job_changed_by_hand_is_refused(tmp_path):
    path = tmp_path / "job.json"
    planted_job(["honest"]).save(path)
    data = json.loads(path.read_text())
    data["measure"]["target"] = 0.5
    path.write_text(json.dumps(data))
    with pytest.raises(RequestError, match="hash"):
        jobs.load(path)


def test_a_missing_job_file_is_named(tmp_path):
    with pytest.raises(RequestError, match=r"nothing\.json"):
        jobs.load(tmp_path / "nothing.json")
