"""The ledger: a cluster is on file before it is asked for, and whoever comes after a kill -9 finds it."""

import json
import os
import signal
import subprocess
import sys

import pytest

from runner.errors import RequestError
from runner.launch import ledger, names
from runner.launch.ledger import Entry

HOLD = """
import sys, time
from runner.launch import ledger
held = ledger.enter(ledger.Entry("crossover-ada-00000000-0001", "/run", 1.0))
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def holder():
    process = subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_cluster_of_a_living_process_is_held_by_it(holder):
    ((entry, is_held),) = ledger.entries()
    assert (entry.cluster, entry.folder, is_held) == ("crossover-ada-00000000-0001", "/run", True)
    assert ledger.take(entry.cluster) is None
    assert ledger.left_behind() == []


def test_a_cluster_of_a_killed_process_is_left_behind_and_can_be_taken_once(holder):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    (entry,) = ledger.left_behind()
    held = ledger.take(entry.cluster)
    assert held is not None
    assert ledger.take(entry.cluster) is None
    held.close()
    assert list(ledger.entries()) == []


def test_what_is_noted_later_is_on_file_at_once(state):
    held = ledger.enter(Entry("crossover-ada-00000000-0002", "/run", 1.0))
    held.entry.offer = "r" * 200
    held.save()
    held.entry.offer = "r2"  # shorter than before: nothing of the longer text may stay
    held.entry.job_id = 7
    held.save()
    data = json.loads((state / "crossover" / "clusters" / "crossover-ada-00000000-0002.json").read_text())
    assert (data["offer"], data["job_id"]) == ("r2", 7)


def test_an_entry_that_was_cut_short_still_names_its_cluster(state):
    folder = ledger.folder() / "clusters"
    (folder / "crossover-ada-00000000-0003.json").write_text('{"cluster": "cross')
    assert [entry.cluster for entry in ledger.left_behind()] == ["crossover-ada-00000000-0003"]


def test_without_a_place_for_the_ledger_nothing_is_rented(state, monkeypatch):
    (state / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(state / "file"))
    with pytest.raises(RequestError, match="set XDG_STATE_HOME to a folder"):
        ledger.folder()


def test_a_cluster_is_named_by_its_user_and_job_and_no_two_are_named_alike(monkeypatch):
    monkeypatch.setenv("LOGNAME", "Ada.Lovelace")
    first, second = names.cluster("ab12" * 16), names.cluster("ab12" * 16)
    assert first != second
    assert first.startswith("crossover-adalovelace-ab12ab12-")
    assert names.is_ours(first)


@pytest.mark.parametrize(
    "name", ["crossover-bob-ab12ab12-0001", "my-crossover-ada-ab12ab12-0001", "crossover-ada", "sky-1234-ada"]
)
def test_clusters_of_others_are_not_ours(monkeypatch, name):
    monkeypatch.setenv("LOGNAME", "ada")
    assert not names.is_ours(name)
