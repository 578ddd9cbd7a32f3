"""collectives: every rank holds what it must, element by element; a wrong one is found; the other ranks never outlive rank 0."""

import contextlib
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runner import journal, plan
from runner.compose import compose
from runner.paths import ROOT
from runner.spec import Gate
from runner.worker import gate
from runner.worker.workload import Context, Incorrect, Unsupported
from tests.jobs import run_worker
from workloads import collectives
from workloads.collectives import WORKLOAD, Session, group, inputs, problem, work
from workloads.collectives.member import Member
from workloads.collectives.problem import COLLECTIVES, Problem, truth, value, wrong

CPU = torch.device("cpu")
GLOO, NCCL = WORKLOAD.variants["gloo"], WORKLOAD.variants["nccl"]
linux = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's part is Linux's")


def case(collective="all_reduce", size=4096, ranks=2, dtype="fp32", device=CPU):
    context = Context(CPU, {}, torch.Generator().manual_seed(size))
    found, _ = inputs({"collective": collective, "ranks": ranks, "bytes": size, "dtype": dtype}, context)
    return found, device


@st.composite
def problems(draw):
    ranks = draw(st.integers(2, 8))
    return Problem(
        draw(st.sampled_from(COLLECTIVES)), ranks, 4 * ranks * draw(st.integers(1, 12)), "fp32", draw(st.integers(0, 2**31))
    )


def simulated(one):
    """What every rank holds, by NumPy from what every rank sends: the definitions, without an index."""
    sent = [value(torch.arange(one.sent), rank, one.seed).numpy() for rank in range(one.ranks)]
    match one.collective:
        case "all_reduce":
            return [np.sum(sent, 0)] * one.ranks
        case "reduce_scatter":
            return np.split(np.sum(sent, 0), one.ranks)
        case "all_gather":
            return [np.concatenate(sent)] * one.ranks
        case "broadcast":
            return [sent[-1]] * one.ranks
    pieces = [np.split(row, one.ranks) for row in sent]
    return [np.concatenate([pieces[source][rank] for source in range(one.ranks)]) for rank in range(one.ranks)]


@given(problems())
def test_the_closed_form_is_what_the_collectives_are_defined_to_leave_on_every_rank(one):
    found = [truth(one, rank, CPU).numpy() for rank in range(one.ranks)]
    assert all(map(np.array_equal, found, simulated(one)))


@given(st.integers(0, 2**31))
def test_values_are_small_whole_numbers_that_differ_by_rank(seed):
    sent = torch.stack([value(torch.arange(4096), rank, seed) for rank in range(8)])
    assert (int(sent.min()), int(sent.max())) == (1, 16)
    same = (sent[:, None] == sent[None]).double().mean(-1)
    assert float((same - torch.eye(8)).max()) < 0.1  # one in sixteen is by chance


@pytest.mark.parametrize("dtype", problem.DTYPES)
def test_sums_over_eight_ranks_are_exact_in_every_dtype_and_order(dtype):
    one = Problem("all_reduce", 8, 4096, "fp32", 7)
    order = random.Random(0).sample(range(8), 8)
    total = torch.zeros(one.count, dtype=problem.DTYPES[dtype])
    for rank in order:
        total += value(torch.arange(one.count), rank, one.seed).to(total.dtype)
    assert wrong(total, one, 0) == 0


@given(problems(), st.data())
@settings(max_examples=40)
def test_every_wrong_element_is_counted_and_nan_is_wrong(one, data):
    rank = data.draw(st.integers(0, one.ranks - 1))
    output = truth(one, rank, CPU).float()
    bad = data.draw(st.sets(st.integers(0, one.received - 1)))
    for index in bad:
        output[index] = data.draw(st.sampled_from([math.nan, 0.0, 1000.0]))
    assert wrong(output, one, rank) == len(bad)


def test_long_buffers_are_filled_and_checked_in_parts(monkeypatch):
    one = Problem("all_gather", 2, 4 * 26, "fp32", 3)
    whole = truth(one, 1, CPU)
    monkeypatch.setattr(problem, "CHUNK", 5)
    assert torch.equal(truth(one, 1, CPU), whole)
    assert wrong(whole, one, 1) == 0
    whole[25] += 1
    assert wrong(whole, one, 1) == 1


@pytest.mark.parametrize(
    ("collective", "bus", "moved", "sums"),
    [
        ("all_reduce", 2 * 3 / 4, 2, 3 / 4),
        ("all_gather", 3 / 4, 1 / 4 + 1, 0),
        ("reduce_scatter", 3 / 4, 1 + 1 / 4, 3 / 4),
        ("broadcast", 1, 1, 0),
        ("all_to_all", 3 / 4, 2, 0),
    ],
)
def test_bandwidths_are_those_of_nccl_tests_and_bytes_those_that_a_rank_must_touch(collective, bus, moved, sums):
    found = work({"collective": collective, "ranks": 4, "bytes": 4000, "dtype": "fp32"}, {}, "fp32")
    assert found.per_second == {"algorithm_bandwidth_gbps": 4e-6, "bus_bandwidth_gbps": pytest.approx(4e-6 * bus)}
    assert found.bytes == 4000 * moved
    assert found.ops == 1000 * sums


def test_short_messages_are_repeated_more_often():
    repeats = [Problem("all_reduce", 2, size, "fp32", 0).repeats for size in (8, 65536, 2**20, 2**26, 2**30)]
    assert repeats == [20, 20, 16, 4, 4]


def test_bytes_that_can_not_be_split_over_the_ranks_are_unsupported():
    with pytest.raises(Unsupported, match="all_gather of fp32 over 4 ranks needs a multiple of 16 bytes, not 8"):
        case("all_gather", 8, ranks=4)
    assert case("all_reduce", 8, ranks=4)[0].count == 2


def test_nccl_needs_gpus_of_one_kind_and_says_how_many(monkeypatch):
    cuda = torch.device("cuda", 0)
    with pytest.raises(Unsupported, match="this is a CPU"):
        NCCL.prepare(case())
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(Unsupported, match="2 ranks need 2 GPUs, this machine has 1"):
        NCCL.prepare(case(device=cuda))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda rank: f"GPU {rank}")
    with pytest.raises(Unsupported, match="not alike: GPU 0, GPU 1"):
        NCCL.prepare(case(device=cuda))
    with pytest.raises(Unsupported, match="see nccl"):
        GLOO.prepare(case(device=cuda))


def test_while_a_graph_is_captured_no_rank_is_told_anything(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    told = []
    session = Session(SimpleNamespace(backend="nccl", order=told.append), None)
    with pytest.raises(RuntimeError, match="captured"):
        session.run()
    assert told == []


@pytest.fixture(scope="module")
def two_ranks():
    """Close what the tests before have started, and what those that use this start."""
    collectives.KEPT.close()
    yield
    collectives.KEPT.close()


def checked(one, prepared):
    """Run as the engine does; return the failure of the gate and what was counted."""
    GLOO.reset(prepared)
    output = GLOO.run(*prepared)
    found = gate.check(GLOO.finish(output, prepared), truth(one[0], 0, CPU), GLOO.rel_l2, Gate())
    return found.failure, GLOO.counters(output, prepared)


@pytest.mark.parametrize("collective", COLLECTIVES)
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_over_gloo_every_rank_holds_what_it_must_again_and_again(two_ranks, collective, dtype):
    one = case(collective, dtype=dtype)
    prepared = GLOO.prepare(one)
    for _ in range(2):
        assert checked(one, prepared) == (None, {"wrong_elements": 0, "ranks_checked": 2})
        GLOO.run(*prepared)  # timed calls come between


def test_what_a_rank_does_not_receive_is_found(two_ranks, monkeypatch):
    one = case("broadcast")
    prepared = GLOO.prepare(one)
    monkeypatch.setattr(Member, "once", lambda self, output: None)
    GLOO.reset(prepared)
    output = prepared[0].member.run()
    assert wrong(output, one[0], 0) == one[0].count


def test_ranks_that_are_there_serve_the_next_case_too(two_ranks):
    GLOO.prepare(case())
    pids = [peer.pid for peer in collectives.KEPT.group("gloo", 2)._peers]
    GLOO.prepare(case("all_to_all"))
    assert [peer.pid for peer in collectives.KEPT.group("gloo", 2)._peers] == pids


def test_nothing_listens_beyond_this_machine(two_ranks):
    GLOO.prepare(case())
    pids = {os.getpid(), *(peer.pid for peer in collectives.KEPT.group("gloo", 2)._peers)}
    assert {address for pid in pids for address in listening(pid)} <= {"0100007F"}


def listening(pid):
    """The IPv4 and IPv6 addresses, as the kernel writes them, that a process listens on."""
    sockets = set()
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            sockets.add(os.readlink(f"/proc/{pid}/fd/{name}"))
        except OSError:
            continue
    for table in ("tcp", "tcp6"):
        with open(f"/proc/{pid}/net/{table}") as lines:
            for line in list(lines)[1:]:
                fields = line.split()
                if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                    yield fields[1].split(":")[0]


def test_a_collective_that_the_backend_lacks_is_unsupported(monkeypatch):
    def lacks(self):
        raise RuntimeError("ProcessGroupGloo does not support reduce_scatter")

    others = SimpleNamespace(order=lambda do, **more: None, answers=list, whole=contextlib.nullcontext)
    monkeypatch.setattr(collectives, "KEPT", SimpleNamespace(group=lambda backend, ranks: others))
    monkeypatch.setattr(Member, "run", lacks)
    with pytest.raises(Unsupported, match=r"gloo in torch .* has no reduce_scatter"):
        GLOO.prepare(case("reduce_scatter"))


def test_a_rank_that_dies_is_an_error_that_names_it_and_the_next_case_has_new_ones(two_ranks):
    prepared = GLOO.prepare(case())
    os.kill(prepared[0].group._peers[0].pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="rank 1 was ended by SIGKILL"):
        GLOO.run(*prepared)
    one = case()
    assert checked(one, GLOO.prepare(one))[0] is None


def test_a_rank_that_hangs_is_an_error_and_is_ended(two_ranks, monkeypatch):
    prepared = GLOO.prepare(case())
    peer = prepared[0].group._peers[0]
    os.kill(peer.pid, signal.SIGSTOP)
    monkeypatch.setattr(group, "TIMEOUT_S", 0.5)
    with pytest.raises(RuntimeError, match=r"rank 1 did not answer within 0\.5 s"):
        prepared[0].check()
    assert peer.returncode == -signal.SIGKILL


def test_a_rank_that_can_not_start_says_why(two_ranks, monkeypatch):
    monkeypatch.setattr(group, "PEER", "tests.no_such_module")
    with pytest.raises(RuntimeError, match="rank 1 ended with exit code 1"):
        GLOO.prepare(case())


def test_a_planted_rank_that_is_wrong_in_one_element_is_found_and_idle_ranks_end_by_themselves(two_ranks, monkeypatch):
    monkeypatch.setattr(group, "PEER", "tests.collectives_saboteur")
    monkeypatch.setattr(group, "IDLE_S", 3.0)
    collectives.KEPT.close()
    with pytest.raises(Incorrect, match=r"wrong: 1 of 20480 elements on rank 1"):
        checked(case(), GLOO.prepare(case()))  # 20 buffers of 1024 elements
    one = case("all_gather")
    prepared = GLOO.prepare(one)
    GLOO.reset(prepared)
    output = GLOO.run(*prepared)
    prepared[0].check()
    assert GLOO.counters(output, prepared) == {"wrong_elements": 2, "ranks_checked": 2}
    assert "over 0e+00" in gate.check(output, truth(one[0], 0, CPU), GLOO.rel_l2, Gate()).failure
    until = time.monotonic() + 20
    while prepared[0].group.alive and time.monotonic() < until:
        time.sleep(0.05)
    with pytest.raises(RuntimeError, match="rank 1 ended with exit code 0"):
        GLOO.run(*prepared)


def gone(pid):
    """Whether a process has ended, reaped or not."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


@pytest.mark.long
@linux
def test_a_rank_that_waits_in_a_collective_dies_with_a_rank_0_that_is_replaced_or_killed():
    victim = subprocess.Popen([sys.executable, "-m", "tests.collectives_victim"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    said = (json.loads(line) for line in victim.stdout)
    (before,) = next(said)["pids"]
    assert next(said) == {"left": [], "sockets": []}
    (rank,) = next(said)["pids"]
    assert rank != before
    assert not gone(rank)
    victim.kill()
    victim.wait()
    until = time.monotonic() + 10
    while not gone(rank):
        assert time.monotonic() < until, "it is left"
        time.sleep(0.02)


def test_the_small_grid_measures_gloo_and_says_why_not_nccl(tmp_path):
    typed = ["workload=collectives", "measure=quick", "workload.collective=all_reduce", "workload.bytes=65536"]
    composed = compose(typed)
    job = plan.make(composed.config, composed.folders, composed.overrides, detected=()).job
    job.save(tmp_path / "job.json")
    code, _, stderr = run_worker(tmp_path / "job.json", tmp_path)
    assert code == 0, stderr
    found = {event["variant"]: event for event in journal.measurements(journal.read(tmp_path))}
    event = found["gloo"]
    assert event["status"] in ("ok", "noisy")
    assert event["counters"] == {"wrong_elements": 0, "ranks_checked": 2}
    assert event["repeats"] == 20
    assert event["backend"] == ["c10d.allreduce_.default"]
    rates = event["rates"]["per_second"]
    assert rates["bus_bandwidth_gbps"] == rates["algorithm_bandwidth_gbps"]  # 2 (n - 1) / n is 1 for two ranks
    assert rates["algorithm_bandwidth_gbps"] == pytest.approx(65536 / 1e6 / event["statistics"]["median_ms"])
    assert (found["nccl"]["status"], "this is a CPU" in found["nccl"]["reason"]) == ("unsupported", True)
