"""The journal survives what writers do not: a kill at any byte loses at most the event in flight."""

import pytest

from runner import journal
from runner.errors import RequestError
from runner.journal import Follower, Writer


def write(folder, *names):
    with Writer(folder) as writer:
        for name in names:
            writer.append(name, value=1)


def names(folder):
    return [event["event"] for event in journal.read(folder)]


def test_events_come_back_in_order_with_their_time(tmp_path):
    write(tmp_path, "a", "b")
    assert names(tmp_path) == ["a", "b"]
    assert all(event["time"].endswith("+00:00") for event in journal.read(tmp_path))


def test_cut_at_any_byte_only_the_last_event_is_lost_and_writing_goes_on(tmp_path):
    write(tmp_path, "a", "b", "c")
    path = tmp_path / journal.NAME
    whole = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        kept = ["a", "b", "c"][: sum(end <= cut for end in ends)]
        assert names(tmp_path) == kept
        if cut % 7 == 0:
            write(tmp_path, "next")
            assert names(tmp_path) == [*kept, "next"]


def test_a_follower_hands_out_each_event_once_and_waits_for_the_end_of_a_line(tmp_path):
    follower = Follower(tmp_path)
    assert follower.new() == []
    write(tmp_path, "a")
    assert [event["event"] for event in follower.new()] == ["a"]
    with open(tmp_path / journal.NAME, "ab") as file:
        file.write(b'{"event":"b",')
        file.flush()
        assert follower.new() == []
        file.write(b'"x":1}\n')
    assert [event["event"] for event in follower.new()] == ["b"]


def test_two_writers_never_share_a_folder(tmp_path):
    with Writer(tmp_path), pytest.raises(RequestError, match="another worker"):
        Writer(tmp_path)
    write(tmp_path, "a")


def test_nan_is_refused_rather_than_written(tmp_path):
    with Writer(tmp_path) as writer, pytest.raises(ValueError, match="JSON"):
        writer.append("a", value=float("nan"))
    assert names(tmp_path) == []


@pytest.mark.parametrize("line", ["not json\n", "[1]\n", '{"no":"event"}\n'])
def test_a_file_that_is_no_journal_is_named(tmp_path, line):
    (tmp_path / journal.NAME).write_text(line)
    with pytest.raises(RequestError, match=r"journal\.jsonl"):
        journal.read(tmp_path)


def test_a_folder_that_cannot_be_written_is_named():
    with pytest.raises(RequestError, match="/proc/nowhere"):
        Writer(journal.Path("/proc/nowhere"))


def test_a_case_measured_again_counts_with_its_last_measurement():
    events = [{"event": "measurement", "case": {"n": 1}, "variant": "a", "status": status} for status in ("error", "ok")]
    assert [event["status"] for event in journal.measurements(events)] == ["ok"]


@pytest.mark.parametrize(
    ("events", "status"),
    [
        ([], "failed"),
        ([{"event": "job_started"}], "partial"),
        ([{"event": "job_started"}, {"event": "job_finished", "status": "complete"}], "complete"),
        ([{"event": "job_started"}, {"event": "job_finished", "status": "complete"}, {"event": "job_started"}], "partial"),
    ],
)
def test_a_run_is_what_its_last_worker_said(events, status):
    assert journal.final_status(events)[0] == status
