"""Noise on the weights of trained classifiers: what each kind does to each format, and what the figures say of it."""

import math
import sys

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from runner import journal
from runner.spec import Case, Gate
from runner.worker import gate
from runner.worker.workload import Context, Incorrect, Unsupported
from tests.jobs import ROOT, planted_job, run_worker
from workloads import ternary_noise
from workloads.ternary_noise import WORKLOAD, accuracy, digits
from workloads.ternary_noise.corruption import STORE, Stored, flipped, replaced
from workloads.ternary_noise.training import Recipe, straight_through, ternary, train

CONFIG = yaml.safe_load((ROOT / "conf/workload/ternary_noise.yaml").read_text())
PARAMS = CONFIG["params"] | {"seeds": 4, "epochs": 10}
BOUNDS = Gate(rel_l2={"fp32": 1e-5})
REPORTED = {5: 95.0, 10: 90.0, 15: 84.9, 20: 79.8, 25: 75.0, 30: 69.9}
"""The report's "accuracy retention", in percent."""


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def case(noise_pct, params=PARAMS, seed=1):
    return WORKLOAD.inputs({"noise_pct": noise_pct}, Context(torch.device("cpu"), params, generator(seed)))


def measured(name, noise_pct, seed=1):
    """Prepared, output and figures of a variant."""
    variant, prepared = WORKLOAD.variants[name], WORKLOAD.variants[name].prepare(case(noise_pct, seed=seed))
    output = variant.run(*prepared)
    return prepared, output, variant.figures(output, prepared)


def random_weights(*shape):
    return torch.randn(*shape, generator=generator(5))


@pytest.mark.parametrize(("percent", "reported"), REPORTED.items())
def test_the_reports_accuracy_is_the_cosine_of_random_trits_which_is_one_minus_p(percent, reported):
    trits = torch.randint(-1, 2, (1, 1000, 1000), generator=generator(percent), dtype=torch.int8)
    clean = Stored("ternary", trits, torch.ones(1, 1, 1))
    cosine = float(accuracy.cosine((clean,), (replaced(clean, percent / 100, generator(1)),)))
    assert cosine == pytest.approx(1 - percent / 100, abs=3e-3)
    assert cosine == pytest.approx(reported / 100, abs=5e-3)


def test_of_trained_models_the_cosine_is_the_same_and_the_accuracy_is_not():
    _, _, found = measured("ternary", 10)
    assert found["cosine"].value == pytest.approx(0.9, abs=0.01)
    assert found["accuracy_retained"].low > 0.93


def test_noise_costs_accuracy_and_all_of_it_leaves_chance():
    kept = [measured("ternary", percent)[2]["accuracy"].value for percent in (0, 30, 100)]
    assert kept[0] > 0.95 > kept[1] > 0.3 > kept[2]


@pytest.mark.parametrize("name", WORKLOAD.variants)
def test_without_noise_nothing_changes(name):
    _, _, found = measured(name, 0)
    assert (found["true_flip_rate"].value, found["accuracy_retained"].value) == (0.0, 1.0)
    assert found["cosine"].value == pytest.approx(1.0)


@settings(max_examples=20, deadline=None)
@given(share=st.floats(0, 1), seed=st.integers(0, 2**31))
def test_a_replaced_trit_keeps_its_value_in_a_third_of_the_cases(share, seed):
    clean = STORE["ternary"](random_weights(1, 200, 200))
    found = float(accuracy.changed((clean,), (replaced(clean, share, generator(seed)),)))
    assert found == pytest.approx(share * 2 / 3, abs=0.015)


@pytest.mark.parametrize(
    ("number_format", "bits", "unseen"),
    # 10 and 00 are both read as 0, and the sign of an fp16 zero is no other value: few weights are zero there
    [("int8", 8, 0.0), ("fp16", 16, 0.0)],
)
def test_each_bit_is_flipped_with_the_probability_asked_for(number_format, bits, unseen):
    clean = STORE[number_format](random_weights(1, 200, 200))
    found = float(accuracy.changed((clean,), (flipped(clean, 0.03, generator()),)))
    assert found == pytest.approx(1 - 0.97**bits - unseen, abs=0.01)


@pytest.mark.parametrize(("number_format", "share"), [("int8", 254 / 255), ("fp16", 1.0)])
def test_a_replaced_weight_of_the_controls_nearly_always_changes(number_format, share):
    clean = STORE[number_format](random_weights(1, 200, 200))
    found = float(accuracy.changed((clean,), (replaced(clean, 0.5, generator()),)))
    assert found == pytest.approx(0.5 * share, abs=0.01)


@pytest.mark.parametrize("number_format", ["int8", "fp16"])
def test_the_controls_are_replaced_within_the_range_of_their_column(number_format):
    clean = STORE[number_format](random_weights(2, 50, 7))
    noisy = replaced(clean, 1.0, generator())
    assert (noisy.values().abs().amax(1) <= clean.values().abs().amax(1) * 1.001).all()


def test_flipping_both_bits_of_a_trit():
    clean = Stored("ternary", torch.tensor([[[0, 1, -1]]], dtype=torch.int8), torch.ones(1, 1, 1))
    assert flipped(clean, 1.0, generator()).codes.tolist() == [[[-1, 0, 0]]]  # 11, 10 (none, so 0), 00


def test_flipping_all_bits_of_the_controls():
    codes = torch.tensor([[[0, 1, 127, -127]]], dtype=torch.int8)
    assert flipped(Stored("int8", codes, torch.ones(1, 1, 4)), 1.0, generator()).codes.tolist() == [[[-1, -2, -128, 126]]]
    halves = flipped(Stored("fp16", torch.zeros(1, 1, 1).half(), torch.ones(1, 1, 1)), 1.0, generator())
    assert halves.codes.isnan().all()  # all exponent bits set


def test_ternary_weights_are_three_values_and_pass_their_gradient_on():
    weights = random_weights(2, 30, 20).requires_grad_()
    rounded = straight_through(weights)
    assert [len(matrix.unique()) for matrix in ternary(weights)[0]] == [3, 3]
    assert torch.allclose(rounded[1].abs().max(), weights[1].abs().mean())
    (rounded * 2).sum().backward()
    assert (weights.grad == 2).all()


def test_a_seeds_model_is_the_same_whichever_are_trained_beside_it():
    recipe = {**{name: PARAMS[name] for name in Recipe.__dataclass_fields__}, "epochs": 1}
    several, one = (train(Recipe(**recipe | fields), True) for fields in ({"seeds": 3}, {"seeds": 1, "first_seed": 1}))
    assert torch.allclose(several[0][1], one[0][0], atol=1e-4)
    assert not torch.allclose(several[0][0], several[0][1], atol=0.1)


def test_training_is_repeatable():
    recipe = Recipe(2, 0, 32, 2, 128, 0.2)
    first, again = train.__wrapped__(recipe, True), train.__wrapped__(recipe, True)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_noise_is_the_cases_and_no_two_variants_share_it():
    models, same, other = case(10)[1], case(10)[1], case(10, seed=2)[1]
    trits = [one["ternary"].noisy[0].codes for one in (models, same, other)]
    assert torch.equal(trits[0], trits[1])
    assert not torch.equal(trits[0], trits[2])
    hits = [models[name].clean[0].codes != models[name].noisy[0].codes for name in ("int8_values", "fp16_values")]
    assert not torch.equal(*hits)


def test_training_and_test_images_are_apart_and_all_there():
    data = digits.load()
    assert (len(data.train), len(data.test)) == (1347, digits.TEST_IMAGES)
    assert (torch.cdist(data.train, data.test).min(0).values > 0).all()


def test_an_image_without_finite_logits_is_wrong_and_does_not_reach_the_gate():
    logits = torch.tensor([[[9.0, 0.0], [9.0, math.inf], [math.nan, 0.0], [3.0, 4.0]]])
    assert float(accuracy.accuracies(logits, torch.tensor([0, 1, 1, 0]))) == 0.25
    assert accuracy.directions(logits)[0].tolist() == [[1.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.6, 0.8]]


def test_flipped_fp16_bits_leave_images_without_an_answer_and_no_cosine():
    _, output, found = measured("fp16_bits", 10)
    assert not output.isfinite().all()
    assert found["no_answer"].value > 0.5
    assert found["accuracy"].value <= 1 - found["no_answer"].value
    assert "cosine" not in found


def test_the_interval_is_students():
    found = accuracy.mean(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    assert (found.value, found.low, found.high) == pytest.approx((2.0, 2 - 2.4841, 2 + 2.4841), abs=1e-3)  # 4.3027 / sqrt(3)
    assert accuracy.mean(torch.tensor([1.0])).low is None


@pytest.mark.parametrize("name", WORKLOAD.variants)
@pytest.mark.parametrize("noise_pct", [1, 30])
def test_every_variant_passes_the_gate(name, noise_pct):
    prepared, output, _ = measured(name, noise_pct)
    reference = WORKLOAD.operations[name].reference(*case(noise_pct))
    assert reference.isfinite().all()
    assert gate.check(WORKLOAD.variants[name].finish(output, prepared), reference, 1e-5, BOUNDS).failure is None


@pytest.mark.parametrize("name", WORKLOAD.variants)
def test_models_without_the_noise_do_not_pass_for_those_with_it(name):
    variant = WORKLOAD.variants[name]
    prepared = variant.prepare(case(0))
    reference = WORKLOAD.operations[name].reference(*case(10))
    assert gate.check(variant.finish(variant.run(*prepared), prepared), reference, 1e-5, BOUNDS).failure is not None


def test_models_that_learned_nothing_are_incorrect():
    untrained = case(0, PARAMS | {"learning_rate": 0.0, "epochs": 1})
    with pytest.raises(Incorrect, match=r"without noise a model is right on .*not on more than 90%"):
        WORKLOAD.variants["ternary"].prepare(untrained)


def test_without_scikit_learn_it_is_unsupported(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(Unsupported, match="pip install scikit-learn"):
        digits.load.__wrapped__()


def test_the_work_is_both_layers_of_every_model_on_every_test_image():
    found = ternary_noise.work({}, {"seeds": 3, "hidden": 8}, "fp32")
    assert found.ops == 2 * 3 * 450 * (64 * 8 + 8 * 10)
    assert found.per_second == {"throughput_images_per_s": 3 * 450}


def test_the_worker_measures_it(tmp_path):
    names = ["ternary", "int8_values", "fp16_bits"]
    fields = {"workload": "ternary_noise", "module": "workloads.ternary_noise", "params": PARAMS}
    job = planted_job(names, cases=[Case({"noise_pct": 10}, "noise_pct")], **fields)
    job.save(tmp_path / "job.json")
    code, _, stderr = run_worker(tmp_path / "job.json", tmp_path)
    assert code == 0, stderr
    events = {event["variant"]: event for event in journal.measurements(journal.read(tmp_path))}
    assert {event["status"] for event in events.values()} <= {"ok", "noisy"}
    assert 0.9 < events["ternary"]["figures"]["accuracy"]["value"] < 1
    declared = CONFIG["figures"].keys()
    for event in events.values():
        assert event["figures"].keys() | event["rates"]["per_second"].keys() <= declared
