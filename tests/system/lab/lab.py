"""A cloud for the tests: SkyPilot and a Slurm cluster with two priced "GPUs" on this machine, in a folder of their own."""

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from tests.system.lab.machine import is_alive, may_unshare, numbers, stat
from tests.system.lab.missing import LabMissing
from tests.system.lab.skypilot import SkyPilot
from tests.system.lab.slurm import GPUS, Slurm

COMMANDS = ["slurmctld", "slurmd", "munged", "/usr/sbin/sshd", "ssh-keygen", "rsync", "curl", "unshare", "nsenter"]
# Every process of a lab carries these: where the lab is, and who started it. A lab whose owner is gone was left behind by a
# test that died, and the next one ends it.
LAB, OWNER = "CROSSOVER_LAB", "CROSSOVER_LAB_OWNER"


class Lab:
    """A lab in `folder`; the folder of one that runs already gives that one."""

    def __init__(self, folder: Path, owner: int | None = None) -> None:
        self.folder = folder.resolve()
        marks = {LAB: str(self.folder), OWNER: f"{owner} {stat(owner)[19]}" if owner else ""}
        self.slurm = Slurm(self.folder / "cluster", marks)
        self.skypilot = SkyPilot(self.folder, self.slurm, marks)

    @property
    def home(self) -> Path:
        """The HOME of whoever launches."""
        return self.skypilot.home

    @property
    def conf(self) -> Path:
        """The folder for `--config-dir`: the lab's GPUs as this project describes GPUs."""
        return Path(__file__).parent / "conf"

    @property
    def node_python(self) -> Path:
        """A Python with torch that the nodes have, as if it were part of their image."""
        return self.slurm.node_python

    def environment(self) -> dict[str, str]:
        """Return the whole environment of a command that launches in the lab."""
        return self.skypilot.environment()

    def start(self) -> None:
        """Start everything; returns when both nodes are idle and the API server answers. Raises LabMissing."""
        check()
        end_left_behind(self.folder)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.slurm.prepare()
        self.skypilot.prepare()
        self.skypilot.start()
        self.skypilot.install()
        self.slurm.start()
        self.skypilot.wait()

    def stop(self) -> None:
        """End everything that runs in the lab or was started in its environment; the folder stays, for its logs."""
        self.skypilot.kill()
        self.slurm.kill()
        end_left_behind(self.folder)
        self.skypilot.forget()

    def slurm_jobs(self) -> list[str]:
        """Return the ids of the jobs that wait or run."""
        return self.slurm.call("squeue", "--noheader", "--format=%i", "--states=PENDING,CONFIGURING,RUNNING,SUSPENDED").split()

    def sky_clusters(self) -> list[str]:
        """Return the names of the clusters that SkyPilot knows, in whatever state."""
        return self.skypilot.clusters()

    def drain(self, node: str, reason: str) -> None:
        """Let the node take no new jobs."""
        self.slurm.call("scontrol", "update", f"nodename={node}", "state=drain", f"reason={reason}")

    def resume(self, node: str) -> None:
        """Let a drained node take jobs again."""
        self.slurm.call("scontrol", "update", f"nodename={node}", "state=resume")

    def cancel_jobs(self) -> None:
        """Cancel every job, as a preemption would."""
        for job in self.slurm_jobs():
            self.slurm.call("scancel", job)

    def kill_node(self, node: str) -> None:
        """Switch a node off, with whatever runs on it; Slurm notices some ten seconds later."""
        self.slurm.machines[node].kill()

    def start_node(self, node: str) -> None:
        """Switch a node on again."""
        self.slurm.start_node(node)

    @contextlib.contextmanager
    def cut_connection(self) -> Iterator[None]:
        """Let nobody reach the login node, and end the connections to it; the nodes and their jobs go on."""
        self.slurm.machines["login"].kill()
        try:
            yield
        finally:
            self.slurm.start_login()

    def stray_processes(self) -> list[str]:
        """Return the command lines of what is left on nodes that no job is on: set-ups, workers, SkyPilot's own."""
        busy = self.slurm.call("squeue", "--noheader", "--format=%N").split()
        return [line for gpu in GPUS if gpu.node not in busy for line in self.slurm.work_on(gpu.node).values()]

    def reset(self) -> None:
        """Bring a lab back to how it starts: all machines on, no jobs, no clusters, nothing running, nothing left on disk."""
        for name, machine in self.slurm.machines.items():
            if machine.pid is None:
                self.slurm.start_login() if name == "login" else self.slurm.start_node(name)
        if self.skypilot.server.pid is None:
            self.skypilot.start()
            self.skypilot.wait()
        self.skypilot.cancel_requests()
        self.cancel_jobs()
        self.slurm.settle()
        self.skypilot.end_clusters()
        self.slurm.clear()


@contextlib.contextmanager
def running_lab(scratch: Path) -> Iterator[Lab]:
    """Start a lab in `scratch` and stop it whatever happens. Raises LabMissing where this machine can't have one."""
    lab = Lab(scratch, owner=os.getpid())
    try:
        lab.start()
        yield lab
    finally:
        lab.stop()


def check() -> None:
    """Raise LabMissing where a lab can't start."""
    if os.geteuid() != 0:
        raise LabMissing("the Slurm lab needs root")
    missing = [command for command in COMMANDS if shutil.which(command) is None]
    if missing:
        raise LabMissing(f"the Slurm lab needs {', '.join(missing)}")
    may_unshare()


def end_left_behind(folder: Path) -> None:
    """End the processes of the lab in `folder`, and of every lab whose owner is gone."""
    mine = {os.getpid()}
    while (parent := int((stat(min(mine)) or ["", "0"])[1])) > 0 and parent not in mine:
        mine.add(parent)
    while found := [pid for pid in numbers() if pid not in mine and is_left_behind(pid, folder)]:
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def is_left_behind(pid: int, folder: Path) -> bool:
    """Whether the process belongs to the lab in `folder`, or to one whose owner is gone."""
    try:
        lines = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
    marks = dict(line.decode(errors="replace").partition("=")[::2] for line in lines if line.startswith(LAB.encode()))
    if LAB not in marks or not is_alive(pid):
        return False
    owner = marks.get(OWNER, "").split()
    return marks[LAB] == str(folder) or (bool(owner) and stat(int(owner[0]))[19:20] != owner[1:])
