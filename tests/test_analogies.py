"""Word analogies: files are read as they are, answers counted as they should be, and every format asked the same."""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from runner import journal
from runner.spec import Case, Gate
from runner.worker import failures, gate
from runner.worker.workload import Context, Incorrect
from tests.jobs import QUICK, ROOT, planted_job, run_worker
from workloads.analogies import WORKLOAD, quality, questions, search, synthetic, vocabulary
from workloads.analogies.formats import FORMATS, pack, rows, trits, unpack

CONFIG = yaml.safe_load((ROOT / "conf/workload/analogies.yaml").read_text())
SMALL = {"dim": 128, "sections": 3, "pairs": 6, "noise": 0.0}
PARAMS = CONFIG["params"] | {"synthetic": SMALL}
BOUNDS = Gate(rel_l2={"fp32": 1e-5, "fp16": 1e-2, "int8": 3e-2})
SHAPES = [(1, 16, 50), (2, 140, 300), (17, 130, 48), (70, 128, 20)]
"""Queries, words and dimensions for the Triton kernel: one block of each and several, full and not."""


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def case(batch=8, max_vocab=600, params=PARAMS):
    axes = {"batch": batch, "max_vocab": max_vocab}
    return WORKLOAD.inputs(axes, Context(torch.device("cpu"), params, torch.Generator().manual_seed(1)))


def measured(name, **fields):
    variant = WORKLOAD.variants[name]
    prepared = variant.prepare(case(**fields))
    output = variant.run(*prepared)
    return prepared, output, variant.figures(output, prepared)


def unit(*shape, seed=0):
    return torch.nn.functional.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def write(path, lines):
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def glove(count=20, dim=4):
    """Lines of a GloVe file."""
    numbers = np.random.default_rng(3).standard_normal((count, dim)).round(4).tolist()
    return [f"word{index} {' '.join(map(str, row))}" for index, row in enumerate(numbers)]


# Answers


@pytest.mark.parametrize("name", FORMATS)
def test_without_noise_every_planted_analogy_is_answered(name):
    _, _, found = measured(name)
    assert found["answered"].value == 3 * 6 * 5
    assert (found["top1"].value, found["top10"].value, found["mrr"].value) == (1.0, 1.0, 1.0)


def test_noise_costs_answers_and_ternary_more_of_them():
    noisy = PARAMS | {"synthetic": SMALL | {"noise": 2.5}}
    top1 = {name: measured(name, params=noisy)[2]["top1"].value for name in ("fp32", "int8", "ternary")}
    assert 0.1 < top1["ternary"] < top1["fp32"] < 1
    assert top1["int8"] == pytest.approx(top1["fp32"], abs=0.05)


@pytest.mark.parametrize("name", FORMATS)
def test_a_word_of_the_question_is_never_an_answer(name):
    """Three random words: b - a + c is nearest to b and c themselves."""
    stored, vectors = FORMATS[name], unit(200, 32)
    codes, scale = stored.quantise(vectors)
    batch = torch.stack([torch.randperm(200, generator=torch.Generator().manual_seed(seed))[:4] for seed in range(50)])
    own = search.exact(stored, codes, scale, batch, batch[:, 1:3])
    scores, words = search.best(stored, codes, scale, batch)
    assert (own.max(1).values > scores[:, 0]).float().mean() > 0.8
    assert not (words[:, :, None] == batch[:, None, :3]).any()


def test_the_rank_is_that_of_a_search_by_hand_and_a_tie_counts_against_it():
    table = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0.6, 0.8], [0.6, 0.8], [0.8, 0.6], [0, -1]])
    # b - a + c of (0, 1, 5) is (-0.2, 1.6): 3 and 4 tie for the first place
    asked = torch.tensor([[0, 1, 5, 3], [0, 1, 5, 2], [0, 1, 5, 6], [0, 1, 5, 1]])
    found = quality.ranks(FORMATS["fp32"], table, torch.empty(0), asked)
    assert found.tolist() == [2, 3, 4, 7]  # the last expects a word of its own question


def test_ranks_do_not_depend_on_how_many_are_asked_at_once(monkeypatch):
    stored, vectors = FORMATS["ternary"], unit(100, 20)
    asked = torch.randint(100, (30, 4), generator=torch.Generator().manual_seed(2))
    at_once = quality.ranks(stored, *stored.quantise(vectors), asked)
    monkeypatch.setattr(quality, "CHUNK_NUMBERS", 700)
    assert torch.equal(at_once, quality.ranks(stored, *stored.quantise(vectors), asked))


def test_the_interval_is_wilsons():
    found = quality.share(23, 25)  # the report's top-1
    z, n, p = 1.959964, 25, 23 / 25
    half = z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    middle = p + z * z / (2 * n)
    expected = [(middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)]
    assert [found.low, found.high] == pytest.approx(expected, abs=1e-6)
    assert expected == pytest.approx([0.7503, 0.9778], abs=1e-4)
    assert quality.share(25, 25).low == pytest.approx(0.8668, abs=1e-4)  # what 25 of 25 says at most


# Formats


def test_all_formats_hold_the_same_vocabulary_and_are_asked_the_same():
    found = [measured(name)[2] for name in FORMATS]
    assert {(one["vocab_words"].value, one["answered"].value, one["oov"].value) for one in found} == {(600, 90, 0)}


def test_the_bytes_are_those_held():
    held = {name: measured(name)[2]["embedding_mb"].value * 1e6 for name in FORMATS}
    factors = 600 * 4
    assert held == {
        "fp32": 600 * 128 * 4,
        "fp16": 600 * 128 * 2,
        "int8": 600 * 128 + factors,
        "ternary": 600 * 128 / 4 + factors,
        "ternary_both": 600 * 128 + factors,
    }


@settings(max_examples=50, deadline=None)
@given(dim=st.integers(1, 90), words=st.integers(1, 5), seed=st.integers(0, 1000))
def test_packing_keeps_every_trit_and_pads_with_zeros(dim, words, seed):
    values = torch.randint(-1, 2, (words, dim), generator=torch.Generator().manual_seed(seed), dtype=torch.int8)
    packed = pack(values)
    assert (packed.dtype, packed.shape[1] % 16) == (torch.uint8, 0)
    assert torch.equal(unpack(packed)[:, :dim], values)
    assert not unpack(packed)[:, dim:].any()


def test_a_number_is_a_trit_when_it_is_over_half_of_its_rows_mean():
    assert trits(torch.tensor([[1.0, 0.2, -0.5, 0.3], [8.0, -4.1, 0.0, 3.9]])).tolist() == [[1, 0, -1, 1], [1, -1, 0, 1]]
    assert trits(torch.tensor([[0.25, -0.24, 0.5, 1.01]])).tolist() == [[0, 0, 1, 1]]


@pytest.mark.parametrize(("name", "least"), [("fp32", 0.999999), ("fp16", 0.99999), ("int8", 0.9998), ("ternary", 0.85)])
def test_what_is_stored_has_length_one_and_nearly_the_direction(name, least):
    vectors, stored = unit(50, 300), FORMATS[name]
    found = rows(stored, *stored.quantise(vectors), torch.arange(50), torch.float64)
    assert found.norm(dim=1) == pytest.approx(torch.ones(50).double(), abs=1e-3)
    assert torch.cosine_similarity(found[:, :300], vectors.double()).min() > least


def test_the_reports_query_is_the_sign_of_the_sum_of_trits():
    stored = FORMATS["ternary_both"]
    vectors = torch.tensor([[1.0, 1, 0, -1], [1, -1, 1, 0], [1, -1, -1, 1], [1, 0, 0, 0]])
    codes, scale = stored.quantise(vectors)
    trit = vectors.sign()
    expected = (trit[1] - trit[0] + trit[2]).sign()
    found = search.queries(stored, codes, scale, torch.tensor([[0, 1, 2, 3]]), torch.float64)[0, :4]
    assert torch.allclose(found, expected.double() / expected.abs().sum().sqrt())


# The gate


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("batch", [1, 70])
def test_every_variant_passes_the_gate(name, batch):
    noisy = {"batch": batch, "params": PARAMS | {"synthetic": SMALL | {"noise": 2.0}}}
    prepared, output, _ = measured(name, **noisy)
    truth = WORKLOAD.operations[name].reference(*case(**noisy))
    variant = WORKLOAD.variants[name]
    bound = variant.rel_l2 or BOUNDS.rel_l2[variant.dtype]
    assert gate.check(variant.finish(output, prepared), truth, bound, BOUNDS).failure is None


def test_the_reference_is_the_ten_best_of_a_search_by_hand(monkeypatch):
    vectors, batch, asked = case()
    table = vectors.double().numpy()
    scores = (table[batch[:, 1]] - table[batch[:, 0]] + table[batch[:, 2]]) @ table.T
    for row, question in enumerate(batch[:, :3].tolist()):
        scores[row, question] = -np.inf
    expected = -np.sort(-scores, axis=1)[:, :10]
    monkeypatch.setattr(search, "BLOCK", 64)
    truth = WORKLOAD.operations["fp32"].reference(vectors, batch, asked)
    assert np.allclose(truth.numpy(), np.tile(expected, 2))


@pytest.mark.parametrize("name", FORMATS)
def test_right_scores_of_wrong_words_do_not_pass(name):
    prepared, (scores, words), _ = measured(name)
    variant, truth = WORKLOAD.variants[name], WORKLOAD.operations[name].reference(*case())
    others = torch.where(words > 300, words - 1, words + 1)
    others = torch.where((others[:, :, None] == prepared[2][:, None, :3]).any(-1), 500, others)
    assert gate.check(variant.finish((scores, others), prepared), truth, 3e-2, BOUNDS).failure is not None


@pytest.mark.parametrize("name", ["fp16", "int8", "ternary", "ternary_both"])
def test_the_best_word_left_out_for_one_question_in_32_does_not_pass(name):
    variant, inputs = WORKLOAD.variants[name], case(batch=32)
    prepared = variant.prepare(inputs)
    scores, words = variant.run(*prepared)
    eleven = search.scores_of(FORMATS[name], *prepared[:3]).topk(11)
    scores[0], words[0] = eleven.values[0, 1:], eleven.indices[0, 1:]
    reference = WORKLOAD.operations[name].reference(*inputs)
    assert gate.check(variant.finish((scores, words), prepared), reference, variant.rel_l2, Gate()).failure


def test_answering_with_a_word_of_the_question_is_incorrect():
    prepared, (scores, words), _ = measured("fp32")
    words[0, 9] = prepared[2][0, 2]
    with pytest.raises(Incorrect, match="a word of the question"):
        WORKLOAD.variants["fp32"].finish((scores, words), prepared)


# Questions


def test_googles_format():
    lines = [
        ": family",
        "boy girl brother sister",
        "",
        "// a comment",
        ": gram5-present-participle",
        "  code coding  dance dancing ",
    ]
    assert list(questions.parse(lines, "here")) == [("boy", "girl", "brother", "sister"), ("code", "coding", "dance", "dancing")]


def test_a_line_of_three_words_is_named():
    with pytest.raises(ValueError, match=r"here, line 2: 3 words, expected four, or a section"):
        list(questions.parse([": family", "boy girl brother"], "here"))


def test_questions_with_unknown_words_are_left_out_and_counted():
    words = vocabulary.Vocabulary({"man": 0, "king": 1, "woman": 2, "queen": 3}, torch.empty(0))
    asked = [("Man", "King", "Woman", "Queen"), ("man", "king", "woman", "duchess"), ("uncle", "king", "woman", "queen")]
    found = questions.look_up(asked, words, lowercase=True)
    assert (found.rows.tolist(), found.oov) == ([[0, 1, 2, 3]], 2)
    with pytest.raises(ValueError, match="none of the 3 questions has all four words among the 4"):
        questions.look_up(asked, words, lowercase=False)


def test_the_reports_questions():
    asked = questions.read("igla_25")
    assert len(set(asked)) == 25
    assert {("man", "king", "woman", "queen"), ("quick", "quicker", "slow", "slower")} <= set(asked)


@pytest.mark.parametrize("name", ["no_such_set", "no/such/file.txt"])
def test_questions_that_are_not_there(name):
    with pytest.raises(FileNotFoundError, match=rf"params.questions={name}: .*igla_25"):
        questions.read(name)


def test_questions_about_words_need_embeddings():
    with pytest.raises(ValueError, match=r"params.questions=igla_25 is about words.*set both"):
        case(params=PARAMS | {"questions": "igla_25"})


# Embeddings


@pytest.mark.parametrize("header", [[], ["20 4"]])
def test_glove_and_word2vec_are_read_alike(tmp_path, header):
    lines = glove()
    found = vocabulary.read(write(tmp_path / "text", [*header, *(f"{line} " for line in lines)]), 1000, lowercase=False)
    expected = torch.tensor([[float(number) for number in line.split()[1:]] for line in lines])
    assert list(found.rows) == [f"word{index}" for index in range(20)]
    assert torch.allclose(found.vectors, torch.nn.functional.normalize(expected, dim=1))


def test_the_first_words_are_a_smaller_vocabulary_of_the_same_vectors(tmp_path):
    path = write(tmp_path / "text", glove())
    few, all_of_them = (vocabulary.read(path, count, lowercase=False) for count in (17, 1000))
    assert len(few.rows) == 17
    assert torch.equal(few.vectors, all_of_them.vectors[:17])


def test_of_words_that_are_one_in_small_letters_the_first_stays(tmp_path):
    path = write(tmp_path / "text", ["The 1 0 0 0", "the 0 1 0 0", *glove()])
    found = vocabulary.read(path, 1000, lowercase=True)
    assert (len(found.rows), found.vectors[found.rows["the"]].tolist()) == (21, [1, 0, 0, 0])
    assert len(vocabulary.read(path, 1000, lowercase=False).rows) == 22


def test_words_may_have_spaces_and_any_letter(tmp_path):
    path = write(tmp_path / "text", [*glove(), ". . . 1 0 0 0", "d\u2028\u00e9j\u00e0 0 1 0 0"])
    assert list(vocabulary.read(path, 1000, lowercase=False).rows)[20:] == [". . .", "d\u2028\u00e9j\u00e0"]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("word 1 2 3", "line 21: 3 numbers after a word, expected 4"),
        ("word 1 2 3 4 5", "line 21: 5 numbers after a word, expected 4"),
        ("word 1 2 x 4", "line 21: expected a word and 4 numbers"),
        ("word 1 2 nan 4", "line 21: a number is not finite"),
        ("", "line 21: 0 numbers after a word, expected 4"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, bad, reason):
    with pytest.raises(ValueError, match=reason):
        vocabulary.read(write(tmp_path / "text", [*glove(), bad]), 1000, lowercase=False)


def test_a_file_of_a_few_words_is_no_vocabulary(tmp_path):
    with pytest.raises(ValueError, match="has 5 words; analogies need 16"):
        vocabulary.read(write(tmp_path / "text", glove(5)), 1000, lowercase=False)


def test_a_larger_synthetic_vocabulary_has_the_same_questions():
    (few, asked), (many, same) = (synthetic.make(words, 16, 2, 4, 1.0) for words in (50, 100))
    assert asked == same
    assert torch.equal(few.vectors, many.vectors[:50])
    with pytest.raises(ValueError, match="max_vocab=20 is less than the 40 planted words"):
        synthetic.make(20, 16, 2, 10, 1.0)


# The Triton kernel


def interpreted():
    """Print how far the kernel is from the same sums by torch, for each shape and packing; with TRITON_INTERPRET=1."""
    from workloads.analogies import kernels

    errors = {}
    for queries, words, dim in SHAPES:
        for name in ("int8", "ternary"):
            stored = FORMATS[name]
            codes, scale = stored.quantise(unit(words, dim))
            width = stored.unpack(codes[:1]).shape[1]
            query = torch.randint(-127, 128, (queries, width), dtype=torch.int8)
            per_query = torch.rand(queries)
            expected = (query.double() @ stored.unpack(codes).double().mT) * scale.double() * per_query.double()[:, None]
            found = kernels.scores(query, per_query, codes, scale).double()
            errors[f"{name} {queries} {words} {dim}"] = float(((found - expected).abs() / expected.abs().clamp(min=1e-3)).max())
    json.dump(errors, sys.stdout)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton isn't installed")
def test_the_kernels_sums_are_exact():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", "from tests.test_analogies import interpreted; interpreted()"],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    errors = json.loads(done.stdout)
    assert len(errors) == 2 * len(SHAPES)
    assert max(errors.values()) < 1e-6, errors


# Through the worker


def test_the_worker_measures_a_file(tmp_path):
    planted, asked = synthetic.make(100, 32, 2, 5, 0.0)
    text = [f"{word} {' '.join(map(str, planted.vectors[row].tolist()))}" for word, row in planted.rows.items()]
    files = {
        "embeddings": str(write(tmp_path / "vectors.txt", text)),
        "questions": str(write(tmp_path / "asked.txt", [": planted", *(" ".join(one) for one in asked), "who is not there"])),
    }
    fields = {"workload": "analogies", "module": "workloads.analogies", "params": PARAMS | files}
    measure = dataclasses.replace(QUICK, gate=BOUNDS)
    cases = [Case({"batch": 2, "max_vocab": 600}, "batch")]
    planted_job(["fp32", "ternary"], cases=cases, measure=measure, **fields).save(tmp_path / "job.json")
    code, _, stderr = run_worker(tmp_path / "job.json", tmp_path)
    assert code == 0, stderr
    events = {event["variant"]: event for event in journal.measurements(journal.read(tmp_path))}
    assert {event["status"] for event in events.values()} <= {"ok", "noisy"}
    figures = {name: one["value"] for name, one in events["fp32"]["figures"].items()}
    assert (figures["top1"], figures["answered"], figures["oov"], figures["vocab_words"]) == (1.0, 40, 1, 100)
    declared = CONFIG["figures"].keys()
    assert all(event["figures"].keys() | event["rates"]["per_second"].keys() == declared for event in events.values())


def test_a_file_that_is_not_there_is_an_error_that_says_what_to_do():
    with pytest.raises(FileNotFoundError) as raised:
        case(params=PARAMS | {"embeddings": "glove.6B.300d.txt"})
    status, reason = failures.classify(raised.value)
    assert status == "error"
    assert "params.embeddings=glove.6B.300d.txt: no such file" in reason
    assert "launch.include=[glove.6B.300d.txt]" in reason
