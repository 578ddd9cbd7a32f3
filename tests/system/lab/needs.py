"""What a lab needs of the machine, and saying in one line what is not there."""

import os
import shutil
import socket
import subprocess

NODE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
COMMANDS = ("slurmctld", "slurmd", "sbatch", "munged", "sshd", "ssh", "ssh-keygen", "rsync", "curl", "unshare", "nsenter")


class LabMissing(Exception):
    """Say in one line what the lab needs and this machine doesn't have."""


def check() -> None:
    """Raise LabMissing where a lab can't start."""
    if os.geteuid() != 0:
        raise LabMissing("the Slurm lab needs root")
    missing = [command for command in COMMANDS if shutil.which(command, path=NODE_PATH) is None]
    if missing:
        raise LabMissing(f"the Slurm lab needs {', '.join(missing)}")
    try:
        socket.getaddrinfo("127.0.0.1", None, family=socket.AF_INET, flags=socket.AI_ADDRCONFIG)
    except OSError:  # what Slurm asks, and gives up on
        raise LabMissing("the Slurm lab needs a network, if only one address beside those of the loopback device") from None
    # A container has root and may yet not do this.
    probe = "mount -t proc proc /proc && mount -t tmpfs tmpfs /run && hostname lab"
    command = ["unshare", "--mount", "--uts", "--pid", "--fork", "sh", "-c", probe]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise LabMissing(f"the Slurm lab may not have mounts and process ids of its own here: {last_line(done.stderr)}")


def last_line(text: str) -> str:
    """Return the last line of what a command said."""
    return (text.strip().splitlines() or ["it does not say why"])[-1].strip()
