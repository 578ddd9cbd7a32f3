"""The journal's way home: whatever is cut, lost or killed, what arrives is the file, each line once. The real process."""

import ast
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.worker import follow
from tests.jobs import ROOT

PATH = ROOT / "runner/worker/follow.py"
BY_NAME, BY_PATH = ["-m", "runner.worker.follow"], [str(PATH)]
WAIT_S = 20


class Reader:
    """Reads what a follower says, as a launcher would: `journal` are the bytes that are home."""

    def __init__(self, out: Path, *arguments: Any, command: list[str] = BY_PATH, journal: bytes = b"") -> None:
        self.journal, self.messages = journal, []
        self.process = subprocess.Popen(
            [sys.executable, *command, str(out), "--from", str(len(journal)), *map(str, arguments)],
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if not line.endswith(b"\n"):
                return  # killed within a line: it is not home, and will be sent again
            message = json.loads(line)
            if "event" in message:
                self.journal += line
            else:
                self.messages.append(message)

    def until(self, true: Callable[[], object]) -> None:
        end = time.monotonic() + WAIT_S
        while not true():
            assert time.monotonic() < end, (self.journal, self.messages)
            time.sleep(0.005)

    def said(self, kind: str) -> list[Any]:
        return [message[kind] for message in self.messages if kind in message]

    def ended(self) -> int:
        code = self.process.wait(WAIT_S)
        self._thread.join(WAIT_S)
        return code

    def kill(self) -> None:
        self.process.kill()
        self.ended()


@contextmanager
def reading(out: Path, *arguments: Any, **options: Any) -> Iterator[Reader]:
    reader = Reader(out, *arguments, **options)
    try:
        yield reader
    finally:
        reader.kill()


def lines(*numbers: int, width: int = 0) -> bytes:
    return b"".join(json.dumps({"event": "measurement", "number": one, "ü": "x" * width}).encode() + b"\n" for one in numbers)


def add(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def end(out: Path, code: int = 0) -> None:
    (out / "exit-code").write_text(f"{code}\n")


@pytest.mark.parametrize("command", [BY_NAME, BY_PATH], ids=["by name", "by path"])
def test_what_is_in_the_journal_comes_home_as_it_is_and_the_exit_code_last(tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "journal.jsonl").write_bytes(lines(1, 2))
    end(tmp_path, 130)
    with reading(tmp_path, command=command) as reader:
        assert reader.ended() == 0
    assert reader.journal == lines(1, 2)
    assert reader.messages[-1] == {"exit": 130}


def test_a_journal_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    with reading(tmp_path / "run", "--beat", 0.1) as reader:
        reader.until(lambda: len(reader.said("beat")) > 2)
        assert reader.said("size")[-1] == 0
        (tmp_path / "run").mkdir()
        add(tmp_path / "run/journal.jsonl", lines(1))
        reader.until(lambda: reader.journal == lines(1))
        reader.until(lambda: reader.said("size")[-1] == len(lines(1)))


def test_a_line_comes_when_it_is_complete(tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    with reading(tmp_path, "--beat", 0.1) as reader:
        add(journal, lines(1) + b'{"event":')
        reader.until(lambda: reader.journal)
        reader.until(lambda: reader.said("size")[-1] == len(lines(1)) + 9)
        assert reader.journal == lines(1)
        add(journal, b"1}\n")
        reader.until(lambda: reader.journal == lines(1) + b'{"event":1}\n')


def test_a_torn_line_that_is_cut_off_was_never_sent(tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    journal.write_bytes(lines(1) + b'{"event": "torn ' + b"x" * 500)
    with reading(tmp_path, "--beat", 0.05) as reader:
        reader.until(lambda: len(reader.said("beat")) > 5)
        os.truncate(journal, len(lines(1)))  # as the next worker does
        add(journal, lines(2))
        end(tmp_path)
        assert reader.ended() == 0
    assert reader.journal == lines(1, 2)


def test_a_torn_last_line_stays_behind_when_the_worker_is_over(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").write_bytes(lines(1) + b'{"event": "torn')
    end(tmp_path, 137)
    with reading(tmp_path) as reader:
        assert reader.ended() == 0
    assert (reader.journal, reader.messages[-1]) == (lines(1), {"exit": 137})


@pytest.mark.parametrize("left", [lines(1), b""])
def test_a_journal_that_is_shorter_than_what_was_sent_is_said(tmp_path: Path, left: bytes) -> None:
    (tmp_path / "journal.jsonl").write_bytes(left)
    with reading(tmp_path, journal=lines(1, 2)) as reader:
        assert reader.ended() == 3
    assert reader.messages[-1] == {"truncated": len(left)}


def test_a_journal_that_is_taken_away_is_said(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").write_bytes(lines(1))
    with reading(tmp_path) as reader:
        reader.until(lambda: reader.journal)
        (tmp_path / "journal.jsonl").unlink()
        assert reader.ended() == 3
    assert reader.messages[-1] == {"truncated": 0}


def test_an_exit_code_that_can_not_be_read_is_an_end_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "UNREADABLE_S", 0.0)
    (tmp_path / "exit-code").write_text("")  # a full disk
    read, write = os.pipe()
    follower = follow.Follower(str(tmp_path), 0, None, None, 0, follow.Out(write))
    assert follower.look() is None
    time.sleep(0.01)
    assert follower.look() == 0
    assert os.read(read, 100) == b'{"exit":null}\n'
    os.close(read)
    os.close(write)


def test_of_the_progress_only_the_latest_comes(tmp_path: Path) -> None:
    progress = tmp_path / "progress.jsonl"
    add(
        progress,
        b'{"ready": true}\n' + b"".join(b'{"progress": %d}\n{"journal": "measurement"}\n' % one for one in range(20_000)),
    )
    with reading(tmp_path, "--progress", progress) as reader:
        reader.until(lambda: reader.said("progress") == [19_999])
        add(progress, b'{"progress": 20000}\n{"progress": 20001}\n{"unwritten": "full"}\n{"progr')
        reader.until(lambda: reader.said("unwritten"))
        assert reader.said("progress") == [19_999, 20_001]
        progress.write_bytes(b'{"progress": 7}\n')  # another worker
        reader.until(lambda: reader.said("progress")[-1] == 7)
        assert reader.said("journal") == []


def test_the_log_comes_along_and_goes_on_where_it_was(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    log.write_bytes(b"one\ntw\xff\n")
    with reading(tmp_path, "--log", log) as reader:
        reader.until(lambda: len(reader.said("log")) == 2)
    assert reader.said("log") == ["one", "tw\ufffd"]
    add(log, b"".join(b"%05d %s\n" % (number, b"." * 90) for number in range(3000)))
    end(tmp_path)
    with reading(tmp_path, "--log", log, "--log-from", reader.said("to")[-1]) as second:
        assert second.ended() == 0
    assert [int(line[:5]) for line in second.said("log")] == list(range(3000))
    assert second.said("to")[-1] == log.stat().st_size


def test_it_ends_at_once_when_nobody_reads(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, PATH, tmp_path, "--beat", "1000"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(5) == 1


@pytest.mark.parametrize("stdout", ["a file", "a full pipe"])
def test_it_ends_when_its_parent_dies(tmp_path: Path, stdout: str) -> None:
    (tmp_path / "journal.jsonl").write_bytes(lines(*range(4000), width=100))  # more than a pipe holds
    read, write = os.pipe()
    with (tmp_path / "said").open("wb") as file:
        shell = subprocess.Popen(
            ["sh", "-c", f"{sys.executable} {PATH} {tmp_path} & echo $! >&2; wait"],
            stdout=file if stdout == "a file" else write,
            stderr=subprocess.PIPE,
        )
    assert shell.stderr is not None
    child = int(shell.stderr.readline())
    time.sleep(0.3)
    assert alive(child)
    shell.kill()
    shell.wait()
    until = time.monotonic() + 5
    while alive(child):
        assert time.monotonic() < until
        time.sleep(0.02)
    os.close(read)
    os.close(write)


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and that nobody has waited for is not alive."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("arguments", [["--from", "-1"], ["--from", "x"], ["--log-from", "-5"]])
def test_wrong_arguments_are_exit_2(tmp_path: Path, arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, PATH, tmp_path, *arguments], capture_output=True, timeout=WAIT_S)
    assert (done.returncode, done.stdout) == (2, b"")


# --- cut anywhere, lost anywhere ------------------------------------------------------------------------------------------

CONTENT = st.lists(st.integers(0, 300), max_size=12).map(
    lambda widths: b"".join(lines(number, width=width) for number, width in enumerate(widths))
)


@settings(max_examples=200, deadline=None)
@given(CONTENT, st.data())
def test_read_from_any_byte_a_file_that_grows_by_any_bytes_is_itself(content: bytes, data: st.DataObject) -> None:
    with TemporaryDirectory() as folder:
        path, home = Path(folder) / "journal.jsonl", b""
        most = data.draw(st.integers(1, 400))
        for chunk in chunks(content, data.draw(st.lists(st.integers(0, len(content)), max_size=8))):
            add(path, chunk)
            while found := follow.complete(str(path), len(home), most):
                assert found.endswith(b"\n")
                home += found
        assert home == content
        start = data.draw(st.integers(0, len(content)))
        assert (b"" if start == len(content) else follow.complete(str(path), start)) == content[start:]


@settings(max_examples=8, deadline=None)
@given(CONTENT, st.data())
def test_a_journal_written_in_any_pieces_comes_home_whole(content: bytes, data: st.DataObject) -> None:
    with TemporaryDirectory() as folder, reading(Path(folder)) as reader:
        for chunk in chunks(content, data.draw(st.lists(st.integers(0, len(content)), max_size=8))):
            add(Path(folder) / "journal.jsonl", chunk)
            time.sleep(data.draw(st.sampled_from([0, 0.02, 0.2])))
        end(Path(folder))
        assert reader.ended() == 0
        assert reader.journal == content


@pytest.mark.parametrize("seed", range(3))
def test_connections_lost_at_any_moment_neither_lose_nor_repeat_a_line(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    content = lines(*range(600), width=200)
    cuts = sorted(chance.randrange(len(content)) for _ in range(150))

    def write() -> None:
        for chunk in chunks(content, cuts):
            add(tmp_path / "journal.jsonl", chunk)
            time.sleep(0.01)
        end(tmp_path)

    writer = threading.Thread(target=write)
    writer.start()
    home, lost = b"", 0
    while True:
        reader = Reader(tmp_path, journal=home)
        try:
            reader.process.wait(chance.uniform(0.05, 0.4))
        except subprocess.TimeoutExpired:
            lost += 1
            reader.process.send_signal(chance.choice([signal.SIGKILL, signal.SIGTERM]))
        code = reader.ended()
        home = reader.journal
        assert content.startswith(home)
        if code == 0:
            break
    writer.join()
    assert home == content
    assert lost > 2


def chunks(content: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(cuts), len(content)]
    return [content[start:stop] for start, stop in pairwise(places)]


# --- what it needs --------------------------------------------------------------------------------------------------------


def test_it_needs_nothing_but_the_standard_library_of_an_old_python() -> None:
    tree = ast.parse(PATH.read_text(), feature_version=(3, 9))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in names} <= sys.stdlib_module_names
    for package in ("runner/__init__.py", "runner/worker/__init__.py"):  # imported on the way, by `-m`
        ast.parse((ROOT / package).read_text(), feature_version=(3, 9))
        assert "import" not in (ROOT / package).read_text()
