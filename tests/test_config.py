"""The config: every shipped file is valid, and every wrong value is one line that names the key."""

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.compose import compose
from runner.config import LaunchConfig, check_tracking_uri
from runner.errors import RequestError
from runner.paths import conf_dir
from runner.schema import read
from runner.spec import MeasurePolicy, Warmup

FILES = sorted(path.relative_to(conf_dir()) for path in conf_dir().glob("*/*.yaml"))


THRESHOLD = "{key: a, axis: n, baseline: fp32, candidate: bf16"
DECISION = "{key: a, question: q, variant: bf16, at_least: 1"


def wrong(*overrides: str) -> str:
    with pytest.raises(RequestError) as caught:
        compose(overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("path", FILES, ids=str)
def test_every_config_file_composes_and_is_valid(path: Path) -> None:
    assert compose([f"{path.parent}={path.stem}"]).config.choices[str(path.parent)] == path.stem


def test_every_folder_of_configs_is_a_group_that_the_map_names() -> None:
    groups = {path.name for path in conf_dir().iterdir() if path.is_dir() and path.name != "hydra"}
    choices = compose(["reported=nsa_4090", "experiment=nsa_4090_report"]).config.choices
    assert set(choices) == groups == {"workload", "gpu", "cloud", "launch", "measure", "tracking", "reported", "experiment"}


def test_the_default_is_nsa_decode_on_this_machine() -> None:
    config = compose().config
    assert (config.workload.name, config.gpu, config.launch.mode, config.seed) == ("nsa_decode", None, "auto", 0)
    assert (config.workload.baseline, [one.key for one in config.workload.thresholds]) == (
        "dense_flash",
        ["nsa_decode_triton_min_context", "nsa_decode_triton_min_context_cudnn", "nsa_decode_min_context"],
    )


def test_a_gpu_is_its_datasheet() -> None:
    gpu = compose(["gpu=4090"]).config.gpu
    assert gpu is not None
    assert (gpu.name, gpu.sm, gpu.sm_count) == ("NVIDIA GeForce RTX 4090", "8.9", 128)


def test_a_key_named_like_an_axis_overrides_it() -> None:
    assert compose(["workload=matmul", "workload.n=[64,128]"]).config.workload.overrides["n"] == [64, 128]


@pytest.mark.parametrize("workload", ["nsa_prefill", "nsa_decode", "fa2_thresholds"])
def test_shared_axes_are_part_of_each_workload_that_includes_them(workload: str) -> None:
    config = compose([f"workload={workload}", "workload.heads=32"]).config
    assert config.workload.overrides["heads"] == 32
    assert (config.workload.axes["heads"].multiple_of, config.workload.axes["heads"].setting) == ("kv_heads", True)


def test_an_experiment_wins_over_the_defaults_and_the_command_line_over_both() -> None:
    assert compose(["experiment=h200_ceilings"]).config.workload.mode == "search"
    assert compose(["experiment=h200_ceilings", "workload.mode=grid"]).config.workload.mode == "grid"


def test_the_local_store_is_absolute_and_under_out(tmp_path: Path) -> None:
    tracking = compose([f"out={tmp_path}"]).config.tracking
    assert tracking.uri == f"sqlite:///{tmp_path}/mlflow.db"
    assert tracking.artifact_location == f"file://{tmp_path}/mlartifacts"
    assert tracking.experiment == "nsa_decode"
    assert compose([f"out={tmp_path}", "workload=matmul"]).config.tracking.experiment == "matmul"


def test_thresholds_on_variants_left_out_are_left_out() -> None:
    workload = compose(["workload=matmul", "workload.variants=[fp32,bf16]"]).config.workload
    assert [one.key for one in workload.thresholds] == ["bf16_min_n"]


def test_decisions_about_a_variant_or_a_part_left_out_are_left_out() -> None:
    asked = f"workload.decisions=[{DECISION}, metric: share, parts: [fp8, tf32]}}]"
    assert [one.parts for one in compose(["workload=matmul", asked]).config.workload.decisions] == [["fp8", "tf32"]]
    assert compose(["workload=matmul", asked, "workload.variants=[fp32,bf16,fp8]"]).config.workload.decisions == []


def test_sm_versions_may_be_written_as_numbers() -> None:
    asked = f"workload.thresholds=[{THRESHOLD}, off_on_sm: [8.9, 12.0]}}]"
    assert compose(["workload=matmul", asked]).config.workload.thresholds[0].off_on_sm == ["8.9", "12.0"]


@pytest.mark.parametrize(
    ("override", "key", "expected"),
    [
        ("workload=matmull", "workload=matmull", "did you mean matmul?"),
        ("gpu=409", "gpu=409", "did you mean 4090?"),
        ("cloud=runpd", "cloud=runpd", "did you mean runpod?"),
        ("experiment=h200_ceiling", "experiment=h200_ceiling", "did you mean h200_ceilings?"),
        ("measure.targt=1", "measure.targt", "did you mean measure.target"),
        ("context=4096", "context is no key", "did you mean workload.context?"),
        ("++measure.targt=0.1", "measure.targt", "did you mean target?"),
        ("tags.a=b", "tags.a", "+tags.a=VALUE"),
        ("gpu=null", "gpu=4090", "name of a choice"),
        ("~workload.name", "workload.name", "is missing"),
        ("seed=abc", "seed=abc", "a whole number"),
        ("seed=1.5", "seed=1.5", "a whole number"),
        ("seed=true", "seed=true", "a whole number"),
        ("seed=-1", "seed=-1", "at least 0"),
        ("seed=null", "seed=null", "a whole number"),
        ("out=[1]", "out=[1]", "text"),
        ("out=''", "out=''", "a path"),
        ("out=${nothing}", "out", "nothing"),
        ("display=fancy", "display=fancy", "one of auto, rich"),
        ("launch.mode=skyy", "launch.mode=skyy", "did you mean sky?"),
        ("launch.dry_run=maybe", "launch.dry_run=maybe", "true or false"),
        ("launch.optimize=bil", "launch.optimize=bil", "did you mean bill?"),
        ("launch.max_usd=-1", "launch.max_usd=-1", "at least 0"),
        ("launch.max_usd=cheap", "launch.max_usd=cheap", "a number"),
        ("launch.max_usd_per_hour=-0.5", "launch.max_usd_per_hour=-0.5", "at least 0"),
        ("launch.max_usd_per_hr=1", "launch.max_usd_per_hr", "did you mean launch.max_usd_per_hour"),
        ("launch.retries=-1", "launch.retries=-1", "at least 0"),
        ("launch.retries=1.5", "launch.retries=1.5", "a whole number"),
        ("launch.disk_gb=0", "launch.disk_gb=0", "at least 1"),
        ("launch.idle_minutes=0", "launch.idle_minutes=0", "at least 1"),
        ("launch.max_minutes=0", "launch.max_minutes=0", "more than 0"),
        ("launch.spot=maybe", "launch.spot=maybe", "true or false"),
        ("launch.fallback=4090", "launch.fallback=4090", "a list, as in [a,b]"),
        ("launch.fallback=[a100,a100]", "launch.fallback", "each name once, as in launch.fallback=[4090,a100]"),
        ("launch.include=[' ']", "launch.include", "each name once"),
        ("launch.region=''", "launch.region", "expected text, or null"),
        ("launch.image=' '", "launch.image", "expected text, or null"),
        ("launch.setup=[a]", "launch.setup=['a']", "expected text"),
        ("measure.target=0", "measure.target=0", "more than 0"),
        ("measure.target=nan", "measure.target=nan", "a finite number"),
        ("measure.max_time_s=inf", "measure.max_time_s=inf", "a finite number"),
        ("measure.max_time_s=-1", "measure.max_time_s=-1", "more than 0"),
        ("measure.min_time_s=5", "measure.min_time_s=5", "more than measure.max_time_s"),
        ("measure.confidence=1", "measure.confidence=1", "less than 1"),
        ("measure.min_samples=0", "measure.min_samples=0", "at least 1"),
        ("measure.timings=[]", "measure.timings", "cold, warm, wall"),
        ("measure.timings=[hot]", "measure.timings=hot", "one of cold"),
        ("measure.timings=cold", "measure.timings=cold", "a list"),
        ("measure.other_processes=kill", "measure.other_processes=kill", "refuse"),
        ("measure.gate.rel_l2.fp32=-1", "measure.gate.rel_l2.fp32=-1", "more than 0"),
        ("measure.warmup=5", "measure.warmup", "keys and values"),
        ("workload.mode=serch", "workload.mode=serch", "did you mean search?"),
        ("gpu.nme=x", "gpu.nme", "did you mean gpu.name"),
        ("+gpu.power_w=300", "gpu.", "missing"),
        ("tracking.uri=ftp://host/x", "tracking.uri=ftp://host/x", "a tracking URI of a wrong kind"),
    ],
)
def test_a_wrong_value_is_one_line_with_the_key_and_what_was_expected(override: str, key: str, expected: str) -> None:
    message = wrong(override)
    assert key in message
    assert expected in message


@pytest.mark.parametrize(
    ("override", "key", "expected"),
    [
        ("cloud.billing.increment_s=0", "cloud.billing.increment_s=0", "more than 0"),
        ("cloud.billing.minimum_s=-1", "cloud.billing.minimum_s=-1", "at least 0"),
        ("cloud.prices.h100.usd_per_hour=-1", "cloud.prices.h100.usd_per_hour=-1", "at least 0"),
        ("cloud.prices.h100.as_of=today", "cloud.prices.h100.as_of=today", "'2026-02-04'"),
        ("cloud.image=[a]", "cloud.image=['a']", "expected text"),
        ("cloud.ends_itself=perhaps", "cloud.ends_itself=perhaps", "true or false"),
    ],
)
def test_a_wrong_value_of_a_cloud_is_held_against_that_cloud(override: str, key: str, expected: str) -> None:
    message = wrong("cloud=runpod", override)
    assert key in message
    assert expected in message


@pytest.mark.parametrize("launch", ["auto", "local", "sky"])
def test_the_files_of_launch_differ_in_the_mode_only_and_say_what_is_the_default_anyway(launch: str) -> None:
    assert compose([f"launch={launch}"]).config.launch == LaunchConfig(mode=launch)


def test_every_key_of_launch_is_explained_where_it_is() -> None:
    lines = (conf_dir() / "launch_base.yaml").read_text().splitlines()
    explained = [line.partition(":")[0] for line in lines if " # " in line and ":" in line.partition(" # ")[0]]
    assert sorted(explained) == sorted(one.name for one in dataclasses.fields(LaunchConfig))


def test_numeric_names_of_fallbacks_need_no_quotes() -> None:
    assert compose(["gpu=h200", "launch.fallback=[4090,a100,'3090']"]).config.launch.fallback == ["4090", "a100", "3090"]


@pytest.mark.parametrize(
    ("override", "key", "expected"),
    [
        ("n=4096", "n is no key", "did you mean workload.n?"),
        ("+workload.nn=1", "workload.nn", "is no key"),
        ("workload.grid=huge", "workload.grid=huge", "full, small"),
        ("~workload.grids.small", "workload.grids.small", "is missing"),
        ("workload.variants=[]", "workload.variants", "at least one"),
        ("workload.variants=[fp32,fp32]", "workload.variants", "each once"),
        ("workload.baseline=fp99", "workload.baseline=fp99", "among"),
        ("workload.thresholds=[{key: a, axis: q, baseline: fp32, candidate: bf16}]", "thresholds[0].axis=q", "no such name"),
        ("workload.thresholds=[{key: a, axis: n, baseline: fp32, candidate: bf17}]", "thresholds[0].candidate", "did you mean"),
        ("workload.thresholds=[{key: a, axis: n, baseline: fp32}]", "workload.thresholds[0].candidate", "missing"),
    ],
)
def test_a_wrong_value_of_a_workload_is_held_against_that_workload(override: str, key: str, expected: str) -> None:
    message = wrong("workload=matmul", override)
    assert key in message
    assert expected in message


@pytest.mark.parametrize(
    ("override", "key", "expected"),
    [
        (f"workload.thresholds=[{THRESHOLD}, per: [layr]}}]", "thresholds[0].per=layr", "did you mean layer?"),
        (f"workload.thresholds=[{THRESHOLD}, per: [n]}}]", "thresholds[0].per=n", "choose from"),
        (f"workload.thresholds=[{THRESHOLD}, off_on_sm: [ada]}}]", "thresholds[0].off_on_sm=ada", "as in ['8.9']"),
        (f"workload.decisions=[{DECISION}, metric: sharp}}]", "decisions[0].metric=sharp", "did you mean share?"),
        (f"workload.decisions=[{DECISION}, metric: share}}]", "decisions[0]: parts", "parts: [scoring, selected]"),
        (f"workload.decisions=[{DECISION}, metric: tflops, parts: [fp32]}}]", "decisions[0]: parts", "share and headroom"),
        (f"workload.decisions=[{DECISION}, metric: share, parts: [bf16]}}]", "decisions[0].parts=bf16", "did you mean fp16?"),
        (f"workload.decisions=[{DECISION}, metric: share, parts: [fp8, fp8]}}]", "decisions[0].parts", "each variant once"),
        (f"workload.decisions=[{DECISION}, metric: tflops, also: {{tflops: 1}}}}]", "decisions[0].also=tflops", "one of"),
    ],
)
def test_a_threshold_or_decision_that_can_not_be_derived_is_refused(override: str, key: str, expected: str) -> None:
    message = wrong("workload=matmul", override)
    assert key in message
    assert expected in message


def test_a_regular_expression_that_is_none_is_said_so() -> None:
    assert "gpu.match=(: expected a regular expression" in wrong("gpu=4090", "gpu.match='('")


def test_a_file_outside_the_repo_adds_a_workload(tmp_path: Path) -> None:
    (tmp_path / "workload").mkdir()
    text = (conf_dir() / "workload" / "inspect.yaml").read_text().replace("name: inspect", "name: mine")
    (tmp_path / "workload" / "mine.yaml").write_text(text)
    composed = compose(["workload=mine"], tmp_path)
    assert composed.config.workload.name == "mine"
    assert composed.folders == [conf_dir(), tmp_path]


def test_an_experiment_without_a_package_line_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("seed: 3\n")
    with pytest.raises(RequestError, match="# @package _global_"):
        compose(["experiment=mine"], tmp_path)


@pytest.mark.parametrize(
    "uri",
    ["http://localhost:5000", "https://ml.example.org/x", "sqlite:////tmp/a.db", "postgresql://me@host/db",
     "mysql+pymysql://me@host/db"],
)  # fmt: skip
def test_tracking_uris_that_mlflow_takes_pass(uri: str) -> None:
    check_tracking_uri(uri)


@pytest.mark.parametrize(
    "uri",
    [
        "",
        " ",
        "ftp://x",
        "http://",
        "http:",
        "sqlite:",
        "databricks",
        "databricks://p",
        "s3://b/k",
        "http://h:x",
        "1:2",
        "file:///tmp/m",
        "mlruns",
    ],
)
def test_tracking_uris_of_a_wrong_kind_are_refused(uri: str) -> None:
    with pytest.raises(RequestError, match="a tracking URI of a wrong kind"):
        check_tracking_uri(uri)


def test_reading_builds_nested_dataclasses_and_fills_defaults() -> None:
    policy = read(MeasurePolicy, {"target": 1, "warmup": {"window": 4}}, "measure")
    assert policy == MeasurePolicy(target=1.0, warmup=Warmup(window=4))
    assert isinstance(policy.target, float)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["target", "warmup", "window", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(JSON)
def test_reading_anything_gives_a_value_or_a_request_error(data: object) -> None:
    try:
        assert isinstance(read(MeasurePolicy, data, "measure"), MeasurePolicy)
    except RequestError as error:
        message = str(error)
    else:
        message = "read"
    assert message
