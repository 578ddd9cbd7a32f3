"""hash_rate: what is hashed is SHA-256d, by every way; a single wrong bit fails, and so does the report's constant "hash"."""

import hashlib
import importlib.util
import json
import os
import struct
import subprocess
import sys

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
from workloads.hash_rate import OPS_PER_BLOCK, WORKLOAD, counters, inputs, reference, sha256, torch_ops, trits

CPU = torch.device("cpu")
TORCH, TRITON, REPORT = (WORKLOAD.variants[name] for name in ("torch_ops", "triton", "trihash_report"))


def params():
    return dict(compose(["workload=hash_rate"]).config.workload.params)


PARAMS = params()


def made(n, seed=0, **changes):
    generator = torch.Generator().manual_seed(seed)
    return inputs({"nonces": n}, Context(CPU, PARAMS | changes, generator))


def by_torch(state, block):
    return torch_ops.fold(state, block, CPU)


@pytest.mark.parametrize("fold", [sha256.compress, by_torch])
def test_the_standards_examples_come_out(fold):
    assert sha256.wrong_answer(fold) is None


@pytest.mark.parametrize("fold", [sha256.compress, by_torch])
def test_a_wrong_constant_is_told_by_the_known_answers(monkeypatch, fold):
    changed = (*sha256.K[:63], sha256.K[63] ^ 1)
    monkeypatch.setattr(sha256, "K", changed)
    monkeypatch.setattr(torch_ops, "K", changed)
    assert "the known answer is e3b0c44298fc1c14..." in sha256.wrong_answer(fold)


def test_the_constants_are_those_that_the_standard_prints():
    assert [f"{word:08x}" for word in (*sha256.K[:3], sha256.K[63])] == ["428a2f98", "71374491", "b5c0fbcf", "c67178f2"]
    assert [f"{word:08x}" for word in sha256.INITIAL[::7]] == ["6a09e667", "5be0cd19"]


@given(st.binary(max_size=200))
def test_on_the_host_every_message_hashes_as_hashlib_does(message):
    assert sha256.digest(message) == hashlib.sha256(message).hexdigest()


@settings(max_examples=10, deadline=None)
@given(st.binary(min_size=80, max_size=80), st.integers(1, 40), st.integers(0, 9))
def test_every_header_hashes_as_hashlib_does_whatever_its_nonces(header, n, seed):
    case = made(n, seed, header=header.hex())
    prepared = TORCH.prepare(case)
    assert torch.equal(TORCH.finish(TORCH.run(*prepared), prepared), reference(*case))


def test_nonces_run_over_the_largest_one():
    case = made(64, header=(bytes(76) + struct.pack("<I", 3)).hex())
    first = struct.unpack("<I", struct.pack(">i", case[0][19]))[0]
    assert first > 2**31  # so that first + n is beyond 2^32
    prepared = TORCH.prepare(case)
    assert torch.equal(TORCH.finish(TORCH.run(*prepared), prepared), reference(*case))


def test_the_nonce_of_bitcoins_first_block_is_among_those_that_are_checked():
    case = made(100_000, check_nonces=16)
    hashes = {struct.pack(">8I", *map(int, row))[::-1].hex() for row in reference(*case).tolist()}
    assert "000000000019d6689c085ae165831e934ff763ae46a2a6c172b3f1b60a8ce26f" in hashes


def test_few_nonces_are_all_checked_of_many_the_first_and_the_last_too():
    assert made(4096)[2].tolist() == list(range(4096))
    rows = made(5000)[2].tolist()
    assert {0, 4999} <= set(rows)
    assert len(rows) == 4099
    assert len(set(rows)) > 2000


def test_another_header_than_80_bytes_is_refused():
    with pytest.raises(ValueError, match="79 bytes"):
        made(4, header="00" * 79)


def test_a_single_wrong_bit_fails_the_gate():
    case = made(16)
    prepared = TORCH.prepare(case)
    output = TORCH.run(*prepared)
    output[7, 11] ^= 1
    found = gate.check(TORCH.finish(output, prepared), reference(*case), TORCH.rel_l2, Gate())
    assert "over 0e+00" in found.failure


def test_a_digest_that_differs_from_the_other_operators_is_not_counted():
    prepared = TORCH.prepare(made(16))
    output = TORCH.run(*prepared)
    assert TRITON.counters(output, prepared) == counters({"nonces": 16}, {})
    output[0, 3] ^= 1 << 31 - 1
    assert TRITON.counters(output, prepared) == {"digests_agreed": 15}


def test_the_count_goes_over_all_nonces_also_in_chunks(monkeypatch):
    monkeypatch.setattr("workloads.hash_rate.CHUNK", 5)
    prepared = TORCH.prepare(made(16))
    assert TRITON.counters(TORCH.run(*prepared), prepared) == {"digests_agreed": 16}


def test_a_way_that_gets_a_known_answer_wrong_is_incorrect_before_it_is_timed(monkeypatch):
    monkeypatch.setattr(torch_ops, "signed", lambda word: 1)
    with pytest.raises(Incorrect, match="SHA-256 of '' came out as"):
        TORCH.prepare(made(4))


def test_without_a_gpu_the_kernel_is_unsupported():
    with pytest.raises(Unsupported, match=r"Triton kernels need a GPU|Triton isn't installed"):
        TRITON.prepare(made(4))


@given(st.integers(0, 2**32))
def test_the_reports_hash_of_any_trits_is_zero(seed):
    drawn = trits.draw(8, CPU, torch.Generator().manual_seed(seed))
    assert set(drawn.unique().tolist()) == {-1, 0, 1}
    assert trits.trihash(drawn).tolist() == [0] * 8


def test_the_reports_hash_is_called_constant_and_what_is_not_so_is_not():
    prepared = REPORT.prepare(made(64))
    output = REPORT.run(*prepared)
    with pytest.raises(Incorrect, match="constant: 0 for each of 64 random inputs"):
        REPORT.finish(output, prepared)
    output[5] = 1
    assert REPORT.finish(output, prepared).sum() == 1


class Counted(int):
    """A word that counts the operations done with it; keeping 32 bits is none."""

    done = 0

    def _count(self, result):
        Counted.done += 1
        return Counted(result & sha256.MASK)

    def __add__(self, other):
        return self._count(int(self) + int(other))

    def __xor__(self, other):
        return self._count(int(self) ^ int(other))

    def __and__(self, other):
        return self if other is sha256.MASK else self._count(int(self) & int(other))

    def __rshift__(self, by):
        return self._count(int(self) >> by)

    def __invert__(self):
        return self._count(~int(self))


def test_the_declared_operations_are_those_of_the_standards_formulas(monkeypatch):
    expected, rotate = sha256.compress(sha256.INITIAL, range(16)), sha256.rotate
    monkeypatch.setattr(sha256, "rotate", lambda word, by: word._count(rotate(int(word), by)))
    monkeypatch.setattr(Counted, "done", 0)
    found = sha256.compress([Counted(word) for word in sha256.INITIAL], [Counted(word) for word in range(16)])
    assert (found, Counted.done) == (expected, OPS_PER_BLOCK)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton isn't installed")
def test_the_kernel_interpreted_agrees_with_pytorchs_operators_and_a_known_answer():
    command = [sys.executable, "-W", "ignore", "-m", "tests.hash_interpreted"]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"differ": 0, "abc": sha256.KNOWN_ANSWERS[b"abc"]}


def test_the_small_grid_runs_and_says_of_each_variant_what_it_is(tmp_path):
    composed = compose(["workload=hash_rate", "measure=quick", "workload.nonces=64"])
    job = plan.make(composed.config, composed.folders, composed.overrides, detected=()).job
    job.save(tmp_path / "job.json")
    code, _, stderr = run_worker(tmp_path / "job.json", tmp_path)
    assert code == 0, stderr
    found = {event["variant"]: event for event in journal.measurements(journal.read(tmp_path))}
    assert found["torch_ops"]["status"] in ("ok", "noisy")
    latency_s = found["torch_ops"]["statistics"]["median_ms"] / 1e3
    assert found["torch_ops"]["rates"]["per_second"]["throughput_mh_per_s"] == pytest.approx(64 / 1e6 / latency_s)
    assert (found["triton"]["status"], found["trihash_report"]["status"]) == ("unsupported", "incorrect")
    assert "constant" in found["trihash_report"]["reason"]
    assert "samples_ms" not in found["trihash_report"]
