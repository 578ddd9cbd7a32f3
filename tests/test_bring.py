"""Bringing the journal home: whatever breaks in between, each line arrives once and whole."""

import contextlib
import json
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from runner import journal
from runner.errors import RequestError
from runner.launch import bring
from runner.paths import ROOT


class Here(bring.Node):
    """A node whose shell is this machine's; `broken` makes every connection fail."""

    broken = False

    def command(self, line):
        if self.broken:
            return ["sh", "-c", "echo connection refused >&2; exit 255"]
        return ["sh", "-c", f"cd {self.options[0]} && {line}"]


@pytest.fixture
def node(tmp_path):
    folder = tmp_path / "sky_workdir"
    (folder / "out").mkdir(parents=True)
    (folder / "runner").symlink_to(ROOT / "runner")
    (folder / ".python").write_text(sys.executable)
    return Here([folder], "node")


def lines(count):
    return [json.dumps({"event": "measurement", "n": n, "pad": "x" * (37 * n % 5000)}) for n in range(count)]


def receive(node, home, until):
    """Take lines until `until` says so or the connection breaks; return the other messages."""
    stream = bring.Stream(node, home.size, 0)
    others = []
    try:
        while not until(home):
            line = stream.next(0.1)
            if line is None:
                continue
            found = bring.message(line)
            if "event" in found:
                home.append(line)
            else:
                others.append(found)
                if "exit" in found:
                    break
    except ConnectionError:
        pass
    finally:
        stream.close()
    return others


def test_a_growing_journal_arrives_whole_over_connections_that_break(tmp_path, node):
    chance = random.Random(4)
    wanted = lines(200)
    remote = node.options[0] / "out" / "journal.jsonl"

    def write():
        with open(remote, "wb", buffering=0) as file:
            data = "".join(line + "\n" for line in wanted).encode()
            while data:  # torn anywhere, as a kill or a slow disk tears it
                size = chance.randint(1, 20000)
                file.write(data[:size])
                data = data[size:]
                time.sleep(0.01)
        (node.options[0] / "out" / "exit-code").write_text("0\n")

    writer = threading.Thread(target=write)
    writer.start()
    home_folder = tmp_path / "home"
    home_folder.mkdir()
    said = []
    for _ in range(40):
        home = bring.Journal(home_folder)
        stop_at = home.size + chance.randint(1, 60000)
        said = receive(node, home, lambda home, stop_at=stop_at: home.size > stop_at)
        home.close()
        if any("exit" in one for one in said):
            break
    writer.join()
    assert said[-1] == {"exit": 0}
    assert (home_folder / "journal.jsonl").read_text().splitlines() == wanted


def test_a_torn_line_at_home_is_cut_and_fetched_again(tmp_path, node):
    (node.options[0] / "out" / "journal.jsonl").write_text('{"event":"a"}\n{"event":"b"}\n')
    (node.options[0] / "out" / "exit-code").write_text("1\n")
    (tmp_path / "journal.jsonl").write_text('{"event":"a"}\n{"eve')
    home = bring.Journal(tmp_path)
    assert home.size == 14
    assert receive(node, home, lambda home: False)[-1] == {"exit": 1}
    home.close()
    assert [event["event"] for event in journal.read(tmp_path)] == ["a", "b"]


def test_two_processes_never_write_one_journal(tmp_path):
    home = bring.Journal(tmp_path)
    with pytest.raises(RequestError, match="is being written by another process"):
        bring.Journal(tmp_path)
    home.close()
    bring.Journal(tmp_path).close()


def test_a_connection_that_fails_says_why(node):
    node = Here(node.options, "node")
    object.__setattr__(node, "broken", True)
    stream = bring.Stream(node, 0, 0)
    with pytest.raises(ConnectionError, match="connection refused"):
        stream.next(10)
    stream.close()
    assert node.run("true") is None


def test_a_node_that_falls_silent_is_cut_off(node, monkeypatch):
    monkeypatch.setattr(bring, "SILENCE_S", 0.5)
    monkeypatch.setattr(Here, "command", lambda self, line: ["sleep", "60"])
    stream = bring.Stream(node, 0, 0)
    began = time.monotonic()
    with pytest.raises(ConnectionError, match="said nothing for"):
        next(line for line in iter(lambda: stream.next(0.1), b"") if line)
    assert time.monotonic() - began < 5
    stream.close()


def test_ending_a_connection_leaves_no_process_on_the_node(node):
    stream = bring.Stream(node, 0, 0)
    while stream.next(0.2) is None:
        pass  # until its first heartbeat
    stream.close()
    until = time.monotonic() + 5
    while at_work(node.options[0]) and time.monotonic() < until:
        time.sleep(0.1)
    assert at_work(node.options[0]) == []


def at_work(folder):
    """Return the processes whose working folder this is."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):  # others' processes, and those that ended meanwhile
            if entry.name.isdigit() and (entry / "cwd").readlink() == folder:
                found.append(int(entry.name))
    return found


def test_a_word_interrupts_the_worker_and_a_broken_connection_does_not(node):
    worker = subprocess.Popen(["sleep", "60"])
    (node.options[0] / "out" / "pid").write_text(f"{worker.pid}\n")
    stream = bring.Stream(node, 0, 0)
    while stream.next(0.2) is None:
        pass
    stream.close()
    time.sleep(0.3)
    assert worker.poll() is None
    stream = bring.Stream(node, 0, 0)
    while stream.next(0.2) is None:
        pass
    stream.stop()
    assert worker.wait(30) == -2
    stream.close()


def test_the_log_comes_along_from_where_it_was_left(node):
    (node.options[0] / "out" / "node.log").write_text("installing\nready\n")
    stream = bring.Stream(node, 0, 11)
    while not (line := stream.next(0.2)) or "log" not in bring.message(line):
        pass
    assert bring.message(line) == {"log": "ready", "to": 17}
    stream.close()
