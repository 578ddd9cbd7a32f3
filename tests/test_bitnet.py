"""The BitNet workload on a small model of the real class: measured when it is one and makes sense, else refused."""

import importlib
import json
import os
import shutil

import pytest
import torch

from runner import journal
from runner.spec import Case
from runner.worker.workload import Context, Incorrect, Unsupported
from tests.jobs import planted_job, run_worker
from workloads.bitnet import WORKLOAD, parts, ternary
from workloads.bitnet.architecture import LINEARS
from workloads.bitnet.loading import parameters, ternary_layers
from workloads.bitnet.text import TEXT

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when the package is imported: no test asks the hub for anything
transformers = pytest.importorskip("transformers", reason="pip install 'crossover-runner[bitnet]'")
pytest.importorskip("accelerate", reason="pip install 'crossover-runner[bitnet]'")

PARAMS = {
    "model": None,
    "revision": None,
    "text": None,
    "max_perplexity": 15.0,  # of 43 tokens, one a letter: 43 is knowing nothing, 18 how frequent each is
    "perplexity_tolerance": 0.02,
    "new_tokens": 12,
    "prompts": [{"prompt": "The ferry left", "answer": "[a-z]"}, {"prompt": "Marta", "answer": "no such words"}],
}
ONLINE = {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online"}


def edit_config(folder, **fields):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def edit_weights(folder, change):
    """Let `change` alter the checkpoint's tensors by name."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def save_tokenizer(folder):
    """Write a tokenizer with a token for each character; return how many it has."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    vocab = {token: index for index, token in enumerate(["<s>", *sorted(set(TEXT))])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<s>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<s>", unk_token="<s>").save_pretrained(folder)
    return len(vocab)


@pytest.fixture(scope="module", autouse=True)
def _uncompiled_on_one_core():
    """Compiling transformers' quantisers for a CPU takes longer than all tests; the same code runs uncompiled."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHDYNAMO_DISABLE", "1")  # read where a function is decorated, so when its module is imported
        importlib.import_module("transformers.integrations.bitnet")
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def random_model(tmp_path_factory):
    """A checkpoint with master weights as they come from the initialisation."""
    folder = tmp_path_factory.mktemp("random")
    config = transformers.BitNetConfig(
        vocab_size=save_tokenizer(folder),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
    )
    torch.manual_seed(0)
    transformers.BitNetForCausalLM(config).save_pretrained(folder)
    edit_config(folder, quantization_config=ONLINE)
    (folder / "short.txt").write_text(TEXT[:800])
    return folder


@pytest.fixture(scope="module")
def trained(random_model, tmp_path_factory):
    """The same, trained through its quantisers on the bundled text for a few seconds."""
    folder = shutil.copytree(random_model, tmp_path_factory.mktemp("trained") / "model")
    network = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.tensor(transformers.AutoTokenizer.from_pretrained(folder)(TEXT).input_ids)
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=150)
    generator = torch.Generator().manual_seed(0)
    for _ in range(150):
        batch = ids[torch.randint(len(ids) - 48, (8, 1), generator=generator) + torch.arange(48)]
        network(batch, labels=batch, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    network.save_pretrained(folder)
    return folder


def offline(tensors):
    """Store -1, 0 and 1, four to a byte, and the scale, as published checkpoints do."""
    for name in [name for name in tensors if name.endswith("proj.weight")]:
        scale = tensors[name].abs().mean()
        levels = ((tensors[name] / scale).round().clamp(-1, 1) + 1).to(torch.uint8)
        quarters = levels.reshape(4, -1, levels.shape[1])
        tensors[name] = quarters[0] | quarters[1] << 2 | quarters[2] << 4 | quarters[3] << 6
        tensors[name.replace("weight", "weight_scale")] = scale.reshape(1)


def packed(tensors):
    """The same for the layers that keep them packed, which divide by the scale."""
    offline(tensors)
    for name in [name for name in tensors if name.endswith("weight_scale")]:
        tensors[name] = 1 / tensors[name]


@pytest.fixture(scope="module")
def models(trained, random_model, tmp_path_factory):
    """Every kind of checkpoint by name: three that are right, and wrong ones."""
    root = tmp_path_factory.mktemp("models")

    def derived(name, **config):
        folder = shutil.copytree(trained, root / name)
        edit_config(folder, **config)
        return folder

    found = {"online": trained, "random": random_model}
    found["offline"] = derived("offline", quantization_config=ONLINE | {"quantization_mode": "offline"})
    edit_weights(found["offline"], offline)
    found["packed"] = derived("packed", quantization_config={"quant_method": "bitnet", "linear_class": "bitlinear"})
    edit_weights(found["packed"], packed)
    found["llama"] = derived("llama", model_type="llama", architectures=["LlamaForCausalLM"], hidden_act="silu")
    found["truncated"] = derived("truncated")
    edit_weights(found["truncated"], lambda tensors: tensors.pop("model.layers.1.mlp.ffn_sub_norm.weight"))
    found["never_quantised"] = derived("never_quantised", quantization_config=None)
    edit_config(found["never_quantised"], quantization_config=None)
    found["not_ternary"] = derived("not_ternary", quantization_config=ONLINE | {"quantization_mode": "offline"})
    edit_weights(found["not_ternary"], lambda tensors: tensors | add_scales(tensors))
    return found


def add_scales(tensors):
    """Give every master weight a scale, as if it were ternary."""
    scales = {name.replace("weight", "weight_scale"): torch.ones(1) for name in tensors if name.endswith("proj.weight")}
    tensors.update(scales)
    return tensors


def problem_of(folder, batch=2, prompt_len=16, dtype="fp32", **params):
    params = PARAMS | {"model": str(folder), "text": str(folder / "short.txt")} | params
    context = Context(torch.device("cpu"), params, torch.Generator().manual_seed(5))
    return WORKLOAD.inputs({"batch": batch, "prompt_len": prompt_len, "dtype": dtype}, context)


def error(variant, inputs, prepared=None):
    """Return the relative L2 error of a variant's logits."""
    one = WORKLOAD.variants[variant]
    prepared = prepared or one.prepare(inputs)
    truth = WORKLOAD.computed_by(variant).reference(*inputs)
    return float(torch.linalg.vector_norm(one.finish(one.run(*prepared), prepared) - truth) / torch.linalg.vector_norm(truth))


@pytest.mark.parametrize("kind", ["online", "offline", "packed"])
def test_each_way_to_store_the_weights_computes_what_the_reference_does(models, kind):
    inputs = problem_of(models[kind])
    model = inputs[0].model
    assert parameters(model.network) == model.architecture.parameters
    assert ternary_layers(model.network) == len(LINEARS) * 2
    assert inputs[0].model.worst_part_error < 1e-2
    assert [error(variant, inputs) < 1e-2 for variant in WORKLOAD.variants] == [True, True]


def test_packed_weights_take_a_quarter_of_a_byte_each(models):
    held, packed = (problem_of(models[kind])[0].model for kind in ("online", "packed"))
    scales = 4 * len(LINEARS) * 2
    assert (held.memory_mb - packed.memory_mb) * 1e6 == pytest.approx(held.architecture.linear_weights * 3.75 - scales)
    assert packed.architecture.packed


def test_bf16_stays_within_its_bound(models):
    assert error("decode", problem_of(models["offline"], dtype="bf16")) < 0.05


def bypass(_, given, __):
    return given[0]


def silence(_, __, output):
    return 0 * output


@pytest.mark.parametrize(
    ("part", "fault"),
    [("self_attn.attn_sub_norm", bypass), ("mlp.ffn_sub_norm", bypass), ("self_attn.v_proj", silence), ("mlp.act_fn", bypass)],
)
def test_one_layer_that_leaves_a_part_out_is_found(models, part, fault):
    (problem,) = problem_of(models["online"])
    network, ids = problem.model.network, problem.ids
    network.model.layers[1].get_submodule(part).register_forward_hook(fault)
    (found,) = parts.faults(parts.errors(network, ids))
    assert f"layers.1.{part.split('.')[0]} by" in found


def test_positions_that_are_not_rotated_are_found(models):
    (problem,) = problem_of(models["online"])
    network = problem.model.network
    network.model.rotary_emb.register_forward_hook(lambda _, __, output: (0 * output[0] + 1, 0 * output[1]))
    (found,) = parts.faults(parts.errors(network, problem.model.ids[None, :200]))
    assert "self_attn" in found


def test_a_step_is_the_same_again_and_its_cache_does_not_grow(models):
    variant = WORKLOAD.variants["decode"]
    prepared = variant.prepare(problem_of(models["online"], batch=3))
    cache = prepared[3]
    first, keys = variant.run(*prepared), [layer.keys.clone() for layer in cache.layers]
    for _ in range(3):
        assert torch.equal(variant.run(*prepared), first)
    assert int(cache.get_seq_length()) == 17
    assert all(torch.equal(layer.keys, before) for layer, before in zip(cache.layers, keys, strict=True))


def test_sequences_of_a_batch_differ_and_are_the_same_again_for_the_same_seed(models):
    (one,), (again,) = problem_of(models["online"], batch=3), problem_of(models["online"], batch=3)
    assert torch.equal(one.ids, again.ids)
    assert len({tuple(row) for row in one.ids.tolist()}) == 3


def test_a_prompt_longer_than_the_model_has_positions_is_unsupported(models):
    with pytest.raises(Unsupported, match="256 positions"):
        problem_of(models["online"], prompt_len=256)


@pytest.mark.parametrize(
    ("kind", "reasons"),
    [
        (
            "llama",
            [
                "loaded as LlamaForCausalLM, not BitNetForCausalLM",
                "4 unexpected keys, as in model.layers.0.mlp.ffn_sub_norm.weight",
                "a BitNet of this config has",
            ],
        ),
        ("truncated", ["1 missing keys, as in model.layers.1.mlp.ffn_sub_norm.weight"]),
        ("never_quantised", ["14 linear layers not ternary: layers.0.self_attn.q_proj is a Linear"]),
        ("not_ternary", ["14 linear layers not ternary", "distinct weights"]),
        ("random", ["is over 15.0: it does not model this language"]),
    ],
)
def test_a_model_that_is_not_what_it_should_be_is_refused(models, kind, reasons):
    inputs = problem_of(models[kind])
    for name, variant in WORKLOAD.variants.items():
        WORKLOAD.computed_by(name).reference(*inputs)  # must not fail: the reason comes from `prepare`
        with pytest.raises(Incorrect) as caught:
            variant.prepare(inputs)
        assert all(reason in str(caught.value) for reason in reasons)


def test_a_model_with_code_of_its_own_is_not_run(models, tmp_path):
    folder = shutil.copytree(models["online"], tmp_path / "own")
    (folder / "modeling_own.py").write_text("raise SystemExit('this must not run')")
    edit_config(
        folder, model_type="own", auto_map={"AutoConfig": "modeling_own.Config", "AutoModelForCausalLM": "modeling_own.Model"}
    )
    with pytest.raises(Incorrect, match="code of its own, which is never run"):
        WORKLOAD.variants["prefill"].prepare(problem_of(folder))


def test_a_folder_without_a_model_is_unsupported(tmp_path):
    with pytest.raises(Unsupported, match=r"no config\.json"):
        problem_of(tmp_path)


def test_a_perplexity_apart_from_the_references_is_refused(models, monkeypatch):
    from workloads.bitnet import reference

    true = reference.logits
    monkeypatch.setattr(reference, "logits", lambda network, ids: 1.5 * true(network, ids))
    with pytest.raises(Incorrect, match="where the float64 reference has"):
        WORKLOAD.variants["prefill"].prepare(problem_of(models["online"]))


def test_ternary_weights_agree_with_transformers_own_quantiser(models):
    from transformers.integrations.bitnet import WeightQuant, unpack_weights

    master = problem_of(models["online"])[0].model.network.model.layers[0].mlp.up_proj
    weights, scale = ternary.weights(master)
    torch.testing.assert_close(weights.double() * scale, WeightQuant.apply(master.weight).double())
    stored = problem_of(models["packed"])[0].model.network.model.layers[0].mlp.up_proj
    assert torch.equal(ternary.unpack(stored.weight), unpack_weights(stored.weight, torch.float32))


@pytest.fixture(scope="module")
def measured(models, tmp_path_factory):
    """What the worker writes for each kind of checkpoint, and without one: one process, two variants each."""
    root = tmp_path_factory.mktemp("jobs")
    kinds = {"online": models["online"], "llama": models["llama"], "random": models["random"], "none": None}
    for kind, folder in kinds.items():
        params = PARAMS | {"model": str(folder) if folder else None}
        cases = [Case({"batch": 3, "prompt_len": 16, "dtype": "fp32"}, "batch")]
        fields = {"workload": "bitnet", "module": "workloads.bitnet", "baseline": None, "params": params, "cases": cases}
        planted_job(["prefill", "decode"], **fields).save(root / f"{kind}.json")
    code, _, stderr = run_worker(root / "online.json", root, *(str(root / f"{kind}.json") for kind in kinds if kind != "online"))
    assert code == 0, stderr
    return {kind: list(journal.measurements(journal.read(root / kind))) for kind in kinds}


def test_a_model_that_writes_sense_is_measured(measured):
    assert [event["status"] in ("ok", "noisy") for event in measured["online"]] == [True] * 2, measured["online"]
    for event in measured["online"]:
        figures = {name: one["value"] for name, one in event["figures"].items()}
        assert figures["perplexity"] == pytest.approx(figures["perplexity_reference"], rel=0.02)
        assert figures["perplexity"] < 15
        assert (figures["layers_on_device"], figures["ternary_layers"]) == (2, 14)
        tokens = event["case"]["batch"] * (16 if event["variant"] == "prefill" else 1)
        rate = event["rates"]["per_second"]["throughput_tokens_per_s"]
        assert rate == pytest.approx(tokens / event["statistics"]["median_ms"] * 1e3)
    written = next(event["figures"] for event in measured["online"] if event["variant"] == "decode")
    assert written["exact_match"]["value"] == 0.5
    assert 0 <= written["repetition"]["value"] < 1


@pytest.mark.parametrize(
    ("kind", "status", "reason"),
    [
        ("llama", "incorrect", "loaded as LlamaForCausalLM"),
        ("random", "incorrect", "does not model this language"),
        ("none", "unsupported", "name a model with workload.params.model=DIR"),
    ],
)
def test_what_is_refused_has_the_reason_and_no_speed(measured, kind, status, reason):
    for event in measured[kind]:
        assert event["status"] == status
        assert reason in event["reason"]
        assert "samples_ms" not in event
