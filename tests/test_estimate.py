"""How long a job will take: by its limits, or by what earlier runs in a real MLflow store took."""

import doctest
import shutil
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from runner import plan
from runner.compose import compose
from runner.config import LaunchConfig
from runner.gpus import GIB, DetectedGpu
from runner.job import at_most_s, measurements
from runner.launch import estimate as module
from runner.launch.estimate import History, Past, estimate, learn, per_offer
from runner.launch.offers import Offer
from runner.launch.prices import clouds
from runner.paths import conf_dir
from runner.tracking import Place, place
from runner.tracking.content import params
from runner.tracking.store import connect

H200, H100 = "NVIDIA H200", "NVIDIA H100 80GB HBM3"
CARD = DetectedGpu(0, H200, 141 * GIB, "GPU-0")


def job(*overrides: str) -> dict[str, Any]:
    made = compose(["workload=matmul", *overrides])
    return plan.make(made.config, made.folders, made.overrides, [CARD]).job.as_dict()


JOB = job("gpu=h200")


@pytest.fixture
def where(tmp_path: Path, empty_store: Path) -> Place:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return place(None, "matmul", None, tmp_path)


def history(where: Place | None) -> History:
    """Return what is known of JOB on its own GPU."""
    return module.history(where, JOB, {"h200": H200})["h200"]


def ran(
    where: Place, gpu: str = H200, workload: str = "matmul", cloud: str | None = None, own: Any = None, **metrics: float
) -> None:
    """Record a run as it is recorded while it goes on."""
    client, experiment = connect(where)
    tags = {"workload": workload, "gpu.name": gpu} | ({"cloud": cloud} if cloud else {})
    run = client.create_run(experiment, tags=tags).info.run_id
    for key, value in params(JOB if own is None else own).items():
        client.log_param(run, key, value)
    for key, value in metrics.items():
        client.log_metric(run, key, value)


def test_without_history_a_grid_takes_part_of_its_limit_and_never_more_than_a_bound() -> None:
    found = estimate(JOB, History())
    assert found.measure_s == module.TYPICAL * at_most_s(JOB)
    assert found.setup_s == module.READY_S
    assert found.total_s < at_most_s(JOB) < found.at_most_s
    assert found.source == "no earlier runs: 0.4 of the limit; set-up guessed"


def test_installing_torch_takes_longer_than_an_image_that_has_it() -> None:
    with_torch, without = estimate(JOB, History()), estimate(JOB, History(), has_torch=False)
    assert without.setup_s - with_torch.setup_s == module.INSTALL_S
    assert without.at_most_s > with_torch.at_most_s


def test_a_search_takes_its_budget() -> None:
    search = job("gpu=h200", "workload.mode=search", "workload.variants=[bf16]", "workload.baseline=null")
    found = estimate(search, History())
    assert found.measure_s == at_most_s(search)
    assert found.source.startswith("no earlier runs: the whole budget")


def test_earlier_runs_give_the_median_of_a_measurement() -> None:
    past = [Past(H200, "runpod", setup, total, 10) for setup, total in ((100, 10), (140, 20), (500, 90))]
    learned = learn(past, H200)
    assert (learned.runs, learned.each_s, dict(learned.setup_s), learned.other_gpus) == (3, 2.0, {"runpod": 140}, False)
    found = estimate(JOB, learned, "runpod")
    assert (found.setup_s, found.measure_s) == (140, 2.0 * measurements(JOB))
    assert found.source == "median of 3 earlier runs"


def test_runs_on_this_gpu_win_over_runs_on_others() -> None:
    past = [Past(H100, None, None, 100, 10), Past(H200, None, None, 10, 10), Past(H100, None, None, 100, 10)]
    assert learn(past, H200).each_s == 1.0
    other = learn(past, "NVIDIA L40S")
    assert (other.each_s, other.other_gpus) == (10.0, True)
    assert estimate(JOB, other).source == "median of 3 earlier runs on other GPUs; set-up guessed"


def test_set_up_is_learned_for_each_cloud_by_itself() -> None:
    learned = learn([Past(H200, "runpod", 60, 10, 10)], H200)
    assert estimate(JOB, learned, "runpod").setup_s == 60
    assert estimate(JOB, learned, "vast").setup_s == module.READY_S


def test_a_bound_is_never_below_what_was_seen() -> None:
    slow = learn([Past(H200, "runpod", 5000, 9 * at_most_s(JOB), measurements(JOB))], H200)
    found = estimate(JOB, slow, "runpod")
    assert found.at_most_s > found.total_s > 5000


def test_each_offer_has_its_own_estimate() -> None:
    known = clouds([conf_dir()])
    past = {"h200": History(2, 1.0, 20.0, {"vast": 33})}
    of = per_offer(JOB, known, LaunchConfig(), past)
    vast, runpod, aws = (of(Offer(cloud, "h200", "H200", 1)) for cloud in ("vast", "runpod", "aws"))
    assert (vast.setup_s, runpod.setup_s, aws.setup_s) == (33, module.READY_S, module.READY_S + module.INSTALL_S)
    assert vast.measure_s == measurements(JOB)
    assert of(Offer("vast", "h100", "H100", 1)).measure_s == module.TYPICAL * at_most_s(JOB)
    ready = per_offer(JOB, known, LaunchConfig(python="/opt/python"), {})
    assert ready(Offer("aws", "h200", "H200", 1)).setup_s == module.READY_S


def test_a_real_store_is_read(where: Place) -> None:
    for measured in (30, 40, 80):
        ran(where, cloud="runpod", rental_setup_s=90, measure_s=measured, measurements=20)
    ran(where, measure_s=9000, measurements=10, workload="inspect")  # another workload in the same experiment
    ran(where, gpu=H100, measure_s=9000, measurements=10)
    ran(where)  # a run that measured nothing
    ran(where, measure_s=9000, measurements=10, own=job("gpu=h200", "measure=quick"))  # taken in another way
    found = history(where)
    assert (found.runs, found.each_s, dict(found.setup_s), found.other_gpus) == (3, 2.0, {"runpod": 90}, False)


def test_a_run_without_params_counts(where: Place) -> None:
    ran(where, measure_s=10, measurements=10, own={})
    assert history(where).each_s == 1.0


def test_runs_on_other_gpus_count_when_there_are_no_others(where: Place) -> None:
    ran(where, gpu=H100, measure_s=10, measurements=10)
    found = history(where)
    assert (found.each_s, found.other_gpus) == (1.0, True)


def test_the_store_is_read_once_for_all_gpus(where: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Place] = []
    past = [Past(H200, None, None, 10, 10), Past(H100, None, None, 20, 10)]
    monkeypatch.setattr(module, "_read", lambda where, job: asked.append(where) or past)
    found = module.history(where, JOB, {"h200": H200, "h100": H100})
    assert {choice: one.each_s for choice, one in found.items()} == {"h200": 1.0, "h100": 2.0}
    assert asked == [where]


def test_reading_creates_nothing(tmp_path: Path, where: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert history(place(None, "matmul", None, folder / "out")).why_none == "no earlier runs"
    assert history(place(None, "no such experiment", None, tmp_path)).why_none == "no earlier runs"
    assert connect(where)[0].get_experiment_by_name("no such experiment") is None
    assert list(folder.iterdir()) == []


def test_nothing_recorded_is_no_history() -> None:
    assert history(None) == History(why_none="nothing is recorded")


@pytest.mark.parametrize("content", [b"", b"not a database, " * 100])
def test_a_file_that_is_no_store_is_no_history_and_stays_as_it_is(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "mlflow.db").write_bytes(content)
    assert history(place(None, "matmul", None, tmp_path)).runs == 0
    assert (tmp_path / "mlflow.db").read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]


def test_a_server_that_is_not_there_is_no_history_and_soon_said() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = time.monotonic()
    found = history(Place(f"http://me:secret@127.0.0.1:{port}", "matmul"))
    assert time.monotonic() - started < 10
    assert found.why_none == f"http://***@127.0.0.1:{port} could not be read"
    assert estimate(JOB, found).source.startswith(found.why_none)


def test_a_store_of_another_kind_is_no_history() -> None:
    assert history(Place("ftp://host/x", "matmul")).runs == 0


def test_a_store_that_never_answers_is_given_up(where: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "READ_S", 0.2)
    monkeypatch.setattr(module, "_read", lambda *_: time.sleep(5))
    started = time.monotonic()
    assert "did not answer within" in history(where).why_none
    assert time.monotonic() - started < 3


def test_a_store_that_breaks_while_it_is_read_is_no_history(where: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> list[Past]:
        raise RuntimeError("the schema\nis too new")

    monkeypatch.setattr(module, "_read", broken)
    assert history(where).why_none.endswith("could not be read: the schema")


def test_the_examples_in_the_module_are_true() -> None:
    assert doctest.testmod(module).failed == 0
