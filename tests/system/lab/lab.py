"""A cloud for the tests: SkyPilot and a Slurm cluster with two priced "GPUs" on this machine, in a folder of their own."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from tests.system.lab.marks import end_processes, marks
from tests.system.lab.needs import check
from tests.system.lab.skypilot import SkyPilot
from tests.system.lab.slurm import GPUS, Slurm


class Lab:
    """A lab in `folder`; the folder of one that runs already gives that one."""

    def __init__(self, folder: Path, owner: int | None = None) -> None:
        self.folder = folder.resolve()
        marked = marks(self.folder, owner)
        self.slurm = Slurm(self.folder / "cluster", marked)
        self.skypilot = SkyPilot(self.folder, self.slurm, marked)

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
        end_processes(self.folder)
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
        end_processes(self.folder)
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
        self.slurm.call("scancel", "--user=root")

    def kill_node(self, node: str) -> None:
        """Switch a node off, with whatever runs on it; it takes Slurm half a minute to believe it."""
        self.slurm.machines[node].kill()

    def start_node(self, node: str) -> None:
        """Switch a node on again."""
        self.slurm.start_node(node)

    @contextlib.contextmanager
    def cut_connection(self) -> Iterator[None]:
        """Let nobody reach the login node, and end the connections to it; the nodes and their jobs go on."""
        login = self.slurm.machines["login"]
        login.kill()
        try:
            yield
        finally:
            if login.pid is None:  # no reset meanwhile
                self.slurm.start_login()

    @property
    def is_running(self) -> bool:
        """Whether any of its machines is on."""
        return any(machine.pid is not None for machine in [self.skypilot.server, *self.slurm.machines.values()])

    def stray_processes(self) -> list[str]:
        """Return the command lines of what is left on nodes that no job is on: set-ups, workers, SkyPilot's own."""
        busy = self.slurm.call("squeue", "--noheader", "--format=%N").split()
        return [line for gpu in GPUS if gpu.node not in busy for line in self.slurm.work_on(gpu.node).values()]

    def reset(self) -> None:
        """Bring a lab back to how it starts: all machines on, no jobs, no clusters, nothing running, nothing left on disk."""
        for node in [gpu.node for gpu in GPUS if self.slurm.machines[gpu.node].pid is None]:
            self.slurm.start_node(node)
        if self.slurm.machines["login"].pid is None:
            self.slurm.start_login()
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
