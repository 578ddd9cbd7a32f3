"""The lab of the tests that rent does what a cloud does, and the machine it runs on stays as it was."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from runner.spec import GpuSpec
from tests.system.conftest import ROOT
from tests.system.lab.machine import Machine
from tests.system.lab.marks import end_processes, marks
from tests.system.lab.slurm import GPUS
from tests.system.processes import wait_for

pytestmark = pytest.mark.system

# Launches on the node of the second argument, waits for the end of the job and prints what it printed.
LAUNCH = """
import sys, sky
task = sky.Task(run=sys.argv[3], workdir=sys.argv[4])
task.set_resources(sky.Resources(infra=sys.argv[2]))
job, handle = sky.get(sky.launch(task, cluster_name=sys.argv[1]))
sys.exit(sky.tail_logs(sys.argv[1], job, follow=True))
"""
OFFERS = """
import json
import sky
from sky.client import sdk
found = sky.get(sdk.list_accelerators(clouds=["slurm"]))
print(json.dumps({name: [offers[0].price, offers[0].region] for name, offers in found.items()}))
"""


@pytest.fixture
def clean(lab):
    lab.reset()
    yield lab
    lab.reset()


def python(lab, code, *arguments):
    """Run Python in the lab's environment and return what it printed."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, env=lab.environment(), cwd="/", capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def submit(lab, node, script):
    """Hand a job to Slurm and return its id."""
    options = ["--parsable", "--no-requeue", "--output=/dev/null", f"--partition={node}"]
    return lab.slurm.call("sbatch", *options, f"--wrap={script}").strip()


def state_of(lab, job):
    return lab.slurm.call("squeue", "--noheader", "--states=all", "--format=%T", f"--jobs={job}").strip()


def until_state(lab, job, state):
    wait_for(lambda: state_of(lab, job) == state, f"the job is {state}")


def ssh(lab):
    command = ["ssh", "-F", str(lab.home / ".slurm" / "config"), "lab", "hostname"]
    return subprocess.run(command, env=lab.environment(), capture_output=True, text=True, timeout=60)


def test_it_offers_two_gpus_at_the_lab_s_prices(lab):
    assert json.loads(python(lab, OFFERS)) == {"RTX4090": [0.59, "n4090"], "A100": [1.19, "na100"]}


@pytest.mark.long
def test_a_task_runs_on_the_node_it_asks_for_and_is_gone_after_a_reset(clean, tmp_path):
    lab = clean
    (tmp_path / "mine.py").write_text("import torch\nfrom runner.worker.device import Cpu\nprint(Cpu(1).describe()['name'])\n")
    run = f"hostname; PYTHONPATH={ROOT} {lab.node_python} mine.py"
    said = python(lab, LAUNCH, "mine", "slurm/lab/na100", run, tmp_path)
    assert "na100\n" in said
    assert "Lab A100\n" in said
    assert lab.sky_clusters() == ["mine"]
    there = subprocess.run(["ssh", "mine", "ls sky_workdir"], env=lab.environment(), capture_output=True, text=True, timeout=60)
    assert there.stdout == "mine.py\n", there.stderr
    lab.reset()
    assert (lab.sky_clusters(), lab.slurm_jobs(), lab.stray_processes()) == ([], [], [])


def test_a_drained_node_lets_jobs_wait(clean):
    lab = clean
    lab.drain("n4090", "full")
    job = submit(lab, "n4090", "sleep 300")
    assert state_of(lab, job) == "PENDING"
    assert lab.slurm_jobs() == [job]
    lab.resume("n4090")
    until_state(lab, job, "RUNNING")


def test_a_preempted_job_is_gone_and_what_it_left_behind_is_seen_until_a_reset(clean):
    lab = clean
    job = submit(lab, "n4090", "(setsid sleep 4321 &); sleep 300")
    wait_for(lambda: "sleep 4321" in lab.slurm.work_on("n4090").values(), "the job runs")
    assert lab.stray_processes() == []
    lab.cancel_jobs()
    until_state(lab, job, "CANCELLED")
    wait_for(lambda: lab.stray_processes() == ["sleep 4321"], "what escaped from the job is a stray")
    lab.reset()
    assert lab.stray_processes() == []


@pytest.mark.long
def test_a_lost_node_takes_its_job_along_and_can_come_back(clean):
    lab = clean
    job = submit(lab, "na100", "sleep 300")
    until_state(lab, job, "RUNNING")
    lab.kill_node("na100")
    assert lab.slurm.work_on("na100") == {}
    until_state(lab, job, "NODE_FAIL")
    lab.start_node("na100")
    wait_for(lambda: lab.slurm.states()["na100"] == "idle", "the node is back")


def test_a_cut_connection_ends_sessions_and_lets_jobs_run(clean):
    lab = clean
    job = submit(lab, "n4090", "sleep 300")
    until_state(lab, job, "RUNNING")
    command = ["ssh", "-F", str(lab.home / ".slurm" / "config"), "lab", "echo here; sleep 300"]
    with subprocess.Popen(command, env=lab.environment(), stdout=subprocess.PIPE, text=True) as session:
        assert session.stdout.readline() == "here\n"
        with lab.cut_connection():
            assert session.wait(20) == 255
            assert ssh(lab).returncode == 255
            assert state_of(lab, job) == "RUNNING"
    assert ssh(lab).stdout == "login\n"


def test_the_machine_outside_stays_as_it_was(lab):
    assert str(lab.folder) not in Path("/proc/self/mounts").read_text()
    assert "Lab" not in Path("/proc/cpuinfo").read_text()
    assert "n4090" not in Path("/etc/hosts").read_text()
    assert os.uname().nodename not in lab.slurm.machines


@pytest.mark.usefixtures("lab")
def test_what_a_dead_test_left_behind_is_ended_and_what_a_living_one_has_is_not(tmp_path):
    with subprocess.Popen(["sleep", "300"]) as gone:
        left, kept = Machine("left", tmp_path / "left"), Machine("kept", tmp_path / "kept")
        path = {"PATH": os.environ["PATH"]}
        left.start([], ["sleep", "300"], {**path, **marks(tmp_path / "left", gone.pid)})
        kept.start([], ["sleep", "300"], {**path, **marks(tmp_path / "kept", os.getpid())})
        gone.kill()
        gone.wait()
        end_processes(tmp_path)
        try:
            assert (left.pid, kept.pid is None) == (None, False)
        finally:
            left.kill()
            kept.kill()


@pytest.mark.usefixtures("lab")
def test_where_the_kernel_does_not_let_it_the_lab_says_so_in_one_line(tmp_path):
    command = ["setpriv", "--bounding-set=-sys_admin", sys.executable, "-m", "tests.system.lab", "start", str(tmp_path / "lab")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: the Slurm lab may not")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["lab4090", "laba100"])
def test_the_configs_match_what_the_nodes_call_their_processor(lab, name):
    spec = GpuSpec(**yaml.safe_load((lab.conf / "gpu" / f"{name}.yaml").read_text()))
    assert spec.is_this(spec.name, memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    assert spec.name in {gpu.device_name for gpu in GPUS if gpu.accelerator == spec.sky_accelerator}
