"""The Slurm side of the lab: its controller, its login node and one node per GPU, each a machine of its own."""

import contextlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.system.conftest import ROOT, free_port
from tests.system.lab.machine import Machine
from tests.system.lab.needs import NODE_PATH

TOOLS = Path(__file__).parent / "tools"
READY_S = 60.0


@dataclass(frozen=True)
class Gpu:
    """A GPU of the lab: how Slurm and SkyPilot call it, what it costs, and what the processor beside it calls itself."""

    node: str
    accelerator: str
    usd_per_hour: float
    device_name: str


GPUS = [Gpu("n4090", "RTX4090", 0.59, "Lab RTX4090"), Gpu("na100", "A100", 1.19, "Lab A100")]

# Tests wait for a lost node (SlurmdTimeout), and for KILL after TERM (KillWait), so these are short.
# 4 CPUs and 16 GB are what SkyPilot asks for with one GPU; by config_overrides Slurm believes that a node has them.
CONFIG = """\
ClusterName=lab
SlurmctldHost=head(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser=root
AuthType=auth/munge
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation=/run/slurmctld
SlurmdSpoolDir=/run/slurmd
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
ReturnToService=2
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
SlurmdTimeout=10
KillWait=5
"""
NODE = "NodeName={node} NodeAddr=127.0.0.1 Port={port} CPUs=4 RealMemory=20000 Gres=gpu:{accelerator}:1\n"
PARTITION = "PartitionName={node} Nodes={node} MaxTime=02:00:00\n"
GRES = "NodeName={node} Name=gpu Type={accelerator} File=/dev/null\n"

SSHD = """\
Port {port}
ListenAddress 127.0.0.1
HostKey /run/lab/keys/host
AuthorizedKeysFile .ssh/authorized_keys
PermitRootLogin prohibit-password
UsePAM no
StrictModes no
UseDNS no
PidFile none
PrintMotd no
PrintLastLog no
MaxStartups 100
MaxSessions 100
AcceptEnv SKY_CLUSTER_NAME
Subsystem sftp internal-sftp
"""


class Slurm:
    """A Slurm cluster with everything it writes in `folder`; the folder of a cluster that runs already gives that one."""

    def __init__(self, folder: Path, marks: dict[str, str]) -> None:
        self.folder = folder
        self.environment = {"PATH": NODE_PATH, "LANG": "C.UTF-8", **marks}
        names = ["head", "login", *(gpu.node for gpu in GPUS)]
        self.machines = {name: Machine(name, folder / "machines" / name) for name in names}

    @property
    def root_home(self) -> Path:
        """The home of root on every machine, a file system they share."""
        return self.folder / "root"

    @property
    def node_python(self) -> Path:
        """A Python for the nodes, with the packages of this checkout's environment."""
        return self.folder / "bin" / "node_python"

    @property
    def site(self) -> Path:
        """A folder of Python packages beside those of this checkout's environment."""
        return self.folder / "site"

    @property
    def ssh_port(self) -> int:
        """The port of the login node."""
        return int((self.folder / "ssh_port").read_text())

    @property
    def key(self) -> Path:
        """The private key that opens the login node."""
        return self.folder / "keys" / "client"

    def prepare(self) -> None:
        """Write every file that the machines need."""
        for name in ("bin", "etc", "keys", "log", "munge", "root/.ssh", "site", "slurm"):
            (self.folder / name).mkdir(parents=True)
        self._write_tools()
        self._write_etc()
        for name in ("host", "client"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / "keys" / name)], check=True)
        shutil.copy(self.key.with_suffix(".pub"), self.root_home / ".ssh" / "authorized_keys")
        _write_private(self.folder / "munge.key", os.urandom(128))
        controller_port, ssh_port, *ports = _free_ports(2 + len(GPUS))
        (self.folder / "ssh_port").write_text(str(ssh_port))
        (self.folder / "sshd_config").write_text(SSHD.format(port=ssh_port))
        nodes = [
            NODE.format(port=port, **vars(gpu)) + PARTITION.format(**vars(gpu)) for gpu, port in zip(GPUS, ports, strict=True)
        ]
        (self.folder / "slurm" / "slurm.conf").write_text(CONFIG.format(controller_port=controller_port) + "".join(nodes))
        (self.folder / "slurm" / "gres.conf").write_text("".join(GRES.format(**vars(gpu)) for gpu in GPUS))

    def start(self) -> None:
        """Start every machine and return when the nodes are idle and the login node answers."""
        munged = "munged --force --key-file=/run/lab/munge.key --pid-file=/run/munged.pid --seed-file=/run/munge.seed"
        controller = "mkdir /run/slurmctld && exec slurmctld -D -L /run/lab/log/slurmctld.log"
        self._boot("head", ["bash", "-c", f"{munged} --log-file=/run/lab/log/munged.log && {controller}"])
        self.start_login()
        for gpu in GPUS:
            self.start_node(gpu.node)
        self.wait_until_idle()

    def start_login(self) -> None:
        """Start the login node; returns when it answers."""
        self._boot("login", ["/usr/sbin/sshd", "-D", "-f", "/run/lab/sshd_config", "-E", "/run/lab/log/sshd.log"])
        self._wait(self._login_answers, "the login node does not answer")

    def start_node(self, node: str) -> None:
        """Start a node; it is idle some moments later."""
        gpu = next(gpu for gpu in GPUS if gpu.node == node)
        machine = self.machines[node]
        machine.folder.mkdir(parents=True, exist_ok=True)
        info = machine.folder / "cpuinfo"
        lines = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if not line.startswith("model name")]
        # Behind each `processor`, since some processors, as those of ARM, have no model name of their own.
        named = [f"{line}\nmodel name\t: {gpu.device_name}" if line.startswith("processor") else line for line in lines]
        info.write_text("\n".join(named) + "\n")
        self._boot(node, ["slurmd", "-D", "-L", f"/run/lab/log/{node}.log"], [f"mount --bind {_quoted(info)} /proc/cpuinfo"])

    def kill(self) -> None:
        """Switch every machine off."""
        for machine in self.machines.values():
            machine.kill()

    def call(self, *command: str) -> str:
        """Run a command of Slurm's on its controller and return what it prints."""
        done = subprocess.run(self.machines["head"].inside(list(command)), env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}"
        return done.stdout

    def states(self) -> dict[str, str]:
        """Return the state of each node in Slurm's words, as in `idle`, `mixed`, `drained`, `down*`."""
        return dict(line.split() for line in self.call("sinfo", "--noheader", "--Node", "--format=%N %T").splitlines())

    def wait_until_idle(self) -> None:
        """Return when every node is idle."""
        self._wait(self._is_idle, "the nodes are not idle")

    def work_on(self, node: str) -> dict[int, str]:
        """Return the command lines of what runs on a node beside Slurm's own, by process id."""
        processes = self.machines[node].processes()
        return {pid: line for pid, line in processes.items() if not line.startswith(("slurmd ", "slurmstepd:"))}

    def settle(self) -> None:
        """Let every node take jobs and return when none has one."""
        for node, state in self.states().items():
            if state.startswith("drain"):
                self.call("scontrol", "update", f"nodename={node}", "state=resume")
        self.wait_until_idle()

    def clear(self) -> None:
        """Remove what jobs left running and on disk."""
        for gpu in GPUS:
            for pid in self.work_on(gpu.node):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            kept = {path.relative_to("/tmp").parts[0] for path in self._kept_in_tmp()}
            for path in (self.machines[gpu.node].folder / "tmp").iterdir():
                if path.name not in kept:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        for name in (".sky_clusters", ".sky_provision"):
            shutil.rmtree(self.root_home / name, ignore_errors=True)

    def _boot(self, name: str, command: list[str], setup: list[str] | None = None) -> None:
        """Start one machine with the mounts that all have."""
        machine = self.machines[name]
        machine.start([f"hostname {name}", *self._mounts(machine), *(setup or [])], command, self.environment)

    def _mounts(self, machine: Machine) -> list[str]:
        """Return the shell lines that give a machine its own /run and /tmp, and the lab's files in /etc."""
        curl = _quoted(_curl())
        tmp = machine.folder / "tmp"
        tmp.mkdir(parents=True, exist_ok=True)
        tmp.chmod(0o1777)
        return [
            # /etc/resolv.conf may be a link into the /run of outside.
            'resolv=$(readlink -f /etc/resolv.conf) && names=$(cat "$resolv") || names=',
            "mount -t tmpfs tmpfs /run",
            '[[ $resolv != /run/* ]] || { mkdir -p "${resolv%/*}" && echo "$names" > "$resolv"; }',
            "mkdir /run/lab /run/munge /run/slurmd /run/sshd",
            f"mount --bind {_quoted(self.folder)} /run/lab",
            "mount --bind /run/lab/munge /run/munge",
            "mount --bind /run/lab/slurm /etc/slurm",
            *(f"mount --bind /run/lab/etc/{name} /etc/{name}" for name in ("passwd", "shadow", "hosts")),
            f"mount --bind /run/lab/bin/curl {curl}",
            # A /tmp of its own, as every node has, in which only that of ours is still there which nodes need.
            *(
                f"mkdir -p {_quoted(tmp / path.relative_to('/tmp'))} && "
                f"mount --bind {_quoted(path)} {_quoted(tmp / path.relative_to('/tmp'))}"
                for path in self._kept_in_tmp()
            ),
            f"mount --rbind {_quoted(tmp)} /tmp",
        ]

    def _kept_in_tmp(self) -> list[Path]:
        """Return what the machines need of ours that is in /tmp."""
        return [path for path in (self.folder, ROOT, Path(sys.prefix), Path(sys.base_prefix)) if path.is_relative_to("/tmp")]

    def _write_tools(self) -> None:
        for name in ("curl", "uv"):
            shutil.copy(TOOLS / name, self.folder / "bin" / name)
        shutil.copy(_curl(), self.folder / "bin" / "curl.real")
        self.node_python.write_text(f'#!/bin/sh\nexec {_quoted(sys.executable)} "$@"\n')
        self.node_python.chmod(0o755)
        (self.folder / "lab.pth").write_text(f"{self.site}\n{sysconfig.get_path('purelib')}\n")

    def _write_etc(self) -> None:
        """Write root's account, with a home in the lab and open to keys, and the names of the machines."""
        (self.folder / "etc" / "passwd").write_text(_with_root_home(self.root_home))
        _write_private(self.folder / "etc" / "shadow", b"root:*:19000:0:99999:7:::\n")
        names = ["localhost", *self.machines, socket.gethostname()]
        (self.folder / "etc" / "hosts").write_text("".join(f"127.0.0.1 {name}\n" for name in dict.fromkeys(names)))

    def _login_answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.ssh_port), timeout=2) as connection:
                return connection.recv(4) == b"SSH-"
        except OSError:
            return False

    def _is_idle(self) -> bool:
        return set(self.states().values()) == {"idle"}

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        until = time.monotonic() + READY_S
        last = ""
        while True:
            try:
                if condition():
                    return
            except AssertionError as error:  # the controller does not answer yet
                last = f": {error}"
            assert time.monotonic() < until, f"{what} after {READY_S:g} s{last}; the logs are in {self.folder}"
            time.sleep(0.1)


def _with_root_home(home: Path) -> str:
    """Return an /etc/passwd like this machine's in which `home` is the home of root."""
    others = [line for line in Path("/etc/passwd").read_text().splitlines() if not line.startswith("root:")]
    return "\n".join([f"root:x:0:0:root:{home}:/bin/bash", *others, ""])


def _free_ports(count: int) -> list[int]:
    """Return different ports that nobody listens on."""
    ports: dict[int, None] = {}
    while len(ports) < count:
        ports[free_port()] = None
    return list(ports)


def _write_private(path: Path, content: bytes) -> None:
    path.touch(0o600)
    path.write_bytes(content)


def _curl() -> Path:
    """Return the curl that a machine finds."""
    return Path(shutil.which("curl", path=NODE_PATH) or "/usr/bin/curl").resolve()


def _quoted(path: Path | str) -> str:
    return shlex.quote(str(path))
