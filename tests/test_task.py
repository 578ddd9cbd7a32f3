"""What travels to the node and what SkyPilot is asked for."""

import subprocess

import pytest
import yaml

from runner import journal
from runner.errors import RequestError
from runner.launch import task
from runner.launch.offers import Offer
from runner.paths import ROOT
from tests.jobs import planted_job

RUNPOD = Offer("runpod", "4090", "RTX4090", 0.34, region="CA", instance_type="1x_RTX4090_SECURE")
SPOT = Offer("vast", "4090", "RTX4090", 0.2, spot=True)


def rendered(*offers, **more):
    settings = {"disk_gb": 40, "idle_minutes": 3, "limit_s": 900.0, "setup_limit_s": 600.0, "python": None, "setup": None} | more
    return task.render(offers, {"runpod": "docker:some/image"}, ROOT, **settings)


def test_one_offer_is_the_resources():
    found = rendered(RUNPOD)["resources"]
    assert found["infra"] == "runpod/CA"
    assert found["accelerators"] == {"RTX4090": 1}
    assert (found["instance_type"], found["image_id"], found["disk_size"]) == ("1x_RTX4090_SECURE", "docker:some/image", 40)
    assert found["autostop"] == {"idle_minutes": 3, "down": True, "wait_for": "jobs"}
    assert "use_spot" not in found


def test_several_offers_are_tried_in_our_order():
    found = rendered(RUNPOD, SPOT)["resources"]
    assert [one["infra"] for one in found["ordered"]] == ["runpod/CA", "vast"]
    assert found["ordered"][1]["use_spot"] is True
    assert found["autostop"]["down"] is True


def test_skypilot_takes_what_is_rendered():
    sky = pytest.importorskip("sky.task")
    made = sky.Task.from_yaml_config(rendered(RUNPOD, SPOT, python="/opt/python", setup="echo 'a'"))
    assert made.envs["CROSSOVER_SETUP"] == "echo 'a'"
    assert all(one.autostop_config.down for one in made.resources)


def test_a_person_can_launch_the_template_as_it_is():
    sky = pytest.importorskip("sky.task")
    made = sky.Task.from_yaml(str(ROOT / "sky" / "worker.yaml"))
    assert made.envs["CROSSOVER_LIMIT_S"] == "3600"


def test_the_code_the_job_and_what_is_measured_travel_and_nothing_else(tmp_path):
    run, stage, mine = tmp_path / "run", tmp_path / "stage", tmp_path / "mine"
    run.mkdir()
    mine.mkdir()
    (mine / "helper.py").write_text("x = 1\n")
    (run / journal.NAME).write_text('{"event":"job_started"}\n')
    job = planted_job(["fp32"], module="workloads.matmul")
    task.stage([(job, run)], [str(mine)], stage)
    assert sorted(path.name for path in stage.iterdir()) == [
        ".skyignore", "job.json", "mine", "out", "runner", "sky", "workloads",
    ]  # fmt: skip
    assert (stage / "out" / journal.NAME).read_text() == '{"event":"job_started"}\n'
    assert (stage / "mine" / "helper.py").is_file()
    assert not list(stage.rglob("__pycache__"))
    done = subprocess.run(
        ["python3", "-c", "import runner.job, pathlib; print(runner.job.load(pathlib.Path('job.json')).hash)"],
        cwd=stage, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.strip() == job.hash, done.stderr


def test_a_file_to_include_that_is_not_there_is_one_line():
    with pytest.raises(RequestError, match=r"launch.include: .*nowhere is not there"):
        task.check_include(["/nowhere"])


def test_a_cloud_that_refuses_autostop_is_not_asked_for_it():
    assert "autostop" not in rendered(RUNPOD, idle_minutes=None)["resources"]


def test_the_scripts_of_the_node_are_shell():
    for script in ("setup.sh", "run.sh"):
        subprocess.run(["bash", "-n", str(ROOT / "sky" / script)], check=True)


def test_the_task_is_kept_where_a_person_can_launch_it(tmp_path):
    task.save(rendered(RUNPOD), tmp_path)
    assert yaml.safe_load((tmp_path / "task.yaml").read_text())["run"] == "bash sky/run.sh"
