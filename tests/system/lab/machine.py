"""A machine of the lab: a tree of processes with a host name, process ids and mounts of its own.

What is mounted in there is mounted nowhere else, and whoever ends its first process ends all of it.
"""

import contextlib
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

START_S = 20.0


class Machine:
    """A machine by its name; `folder` holds the script that boots it, its log and its process id.

    A process that did not start it can work with it as well: all that is known of it is in the folder.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, setup: list[str], command: list[str], environment: dict[str, str]) -> None:
        """Boot it: after the lines of shell in `setup`, `command` runs with exactly this environment until the machine ends."""
        assert self.pid is None, f"{self.name} is on already"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._note.unlink(missing_ok=True)
        note = shlex.quote(str(self._note))
        lines = [
            "set -eu",
            # Still the /proc of outside, where this process has the number by which the lab ends it.
            "read -r stat < /proc/self/stat",
            "mount -t proc proc /proc",
            *setup,
            f'echo "$stat" > {note}.new',
            f"mv {note}.new {note}",
            # Bash stays process 1 and reaps what others leave behind, which most daemons would not.
            f"{shlex.join(command)} &",
            "wait $!",
        ]
        script = self.folder / "boot.sh"
        script.write_text("\n".join(lines) + "\n")
        unshare = ["unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "bash", str(script)]
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(
                unshare, env=environment, cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        until = time.monotonic() + START_S
        while not self._note.exists():
            assert self.process.poll() is None, f"{self.name} did not start:\n{self.log()}"
            assert time.monotonic() < until, f"{self.name} did not start in {START_S:g} s:\n{self.log()}"
            time.sleep(0.01)

    @property
    def pid(self) -> int | None:
        """The number of its first process outside of it, None while it is off."""
        with contextlib.suppress(FileNotFoundError):
            number, _, fields = self._note.read_text().partition(" ")
            pid = int(number)
            # The number alone could be another process's by now; the time of its start is not.
            if is_alive(pid) and stat(pid)[19] == fields.rpartition(")")[2].split()[19]:
                return pid
        return None

    def kill(self) -> None:
        """Switch it off: every process in it is gone afterwards."""
        if (pid := self.pid) is not None:
            os.kill(pid, signal.SIGKILL)
            while self.pid == pid:
                time.sleep(0.01)
        if self.process is not None:
            self.process.kill()  # where it did not get as far as to have a number
            self.process.wait()
            self.process = None
        self._note.unlink(missing_ok=True)

    def inside(self, command: list[str]) -> list[str]:
        """Return the command line that runs `command` in it."""
        pid = self.pid
        assert pid is not None, f"{self.name} is off:\n{self.log()}"
        return ["nsenter", "--target", str(pid), "--mount", "--uts", "--pid", "--wd=/", "--", *command]

    def processes(self) -> dict[int, str]:
        """Return the command lines of its processes but the first, by their numbers outside of it."""
        if (pid := self.pid) is None:
            return {}
        space, found = os.readlink(f"/proc/{pid}/ns/pid"), {}
        for other in numbers():
            with contextlib.suppress(OSError):  # it ended meanwhile
                if other != pid and os.readlink(f"/proc/{other}/ns/pid") == space and (line := _command_line(other)):
                    found[other] = line
        return found

    def log(self) -> str:
        """Return the end of what its command printed."""
        path = self.folder / "log"
        return path.read_text(errors="replace")[-2000:] if path.exists() else ""

    @property
    def _note(self) -> Path:
        return self.folder / "pid"


def numbers() -> Iterator[int]:
    """Iterate over the process ids here."""
    return (int(entry) for entry in os.listdir("/proc") if entry.isdigit())


def stat(pid: int) -> list[str]:
    """Return the fields of a process's stat behind its name; empty when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def is_alive(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    return (stat(pid) or ["Z"])[0] not in "ZX"


def _command_line(pid: int) -> str:
    """Return a process's command line; empty for a zombie. Raises OSError when there is no such process."""
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
