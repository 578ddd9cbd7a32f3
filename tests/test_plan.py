"""Where a job would run, and the job that is made for it."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from runner import job as jobs
from runner import plan
from runner.compose import compose
from runner.errors import RequestError
from runner.gpus import GIB, DetectedGpu
from runner.job import Job, at_most_s
from runner.paths import run_folder

CARD = DetectedGpu(1, "NVIDIA GeForce RTX 4090", 24 * GIB, "GPU-1")
UNKNOWN = DetectedGpu(0, "Matrox G200", GIB, "GPU-0")


def planned(*overrides: str, detected: tuple[DetectedGpu, ...] = (), config_dir: Path | None = None) -> plan.Plan:
    made = compose(overrides, config_dir)
    return plan.make(made.config, made.folders, made.overrides, detected)


def refused(*overrides: str, detected: tuple[DetectedGpu, ...] = ()) -> str:
    with pytest.raises(RequestError) as caught:
        planned(*overrides, detected=detected)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_local_is_the_cpu_where_there_is_no_gpu() -> None:
    job = planned("workload=matmul").job
    assert (job.device, job.gpu) == ("cpu", None)
    assert max(case.axes["n"] for case in job.cases) <= 512


def test_the_default_measures_every_stage_of_a_decoding_step_in_the_small_grid_on_a_cpu() -> None:
    job = planned().job
    assert (job.workload, job.device, job.baseline) == ("nsa_decode", "cpu", "dense_flash")
    assert [case.axes["context"] for case in job.cases] == [1024, 4096, 16384]
    assert job.derive["settings"]["heads"] == 8
    assert at_most_s(job.as_dict()) <= 90


def test_the_default_has_the_papers_heads_and_blocks_on_a_gpu() -> None:
    job = planned(detected=(CARD,)).job
    assert (job.workload, job.device) == ("nsa_decode", "cuda")
    assert {(case.axes["context"], case.axes["batch"]) for case in job.cases} == {
        (context, batch) for context in (8192, 16384, 32768, 65536) for batch in (1, 16)
    }
    settings = {"heads": 64, "kv_heads": 4, "block_len": 32, "stride": 16, "select_len": 64, "num_select": 16, "window": 512}
    assert settings.items() <= job.derive["settings"].items()


def test_local_is_the_first_gpu_with_its_datasheet() -> None:
    made = planned("workload=matmul", detected=(CARD,))
    assert made.job.device == "cuda"
    assert made.job.gpu is not None
    assert made.job.gpu.name == CARD.name
    assert max(case.axes.get("n", 0) for case in made.job.cases) == 8192


def test_a_gpu_that_no_config_describes_still_works() -> None:
    job = planned(detected=(UNKNOWN,)).job
    assert (job.device, job.gpu) == ("cuda", None)


def test_auto_runs_here_when_the_card_is_here() -> None:
    assert planned("gpu=4090", detected=(UNKNOWN, CARD)).target.here == CARD


def test_auto_rents_a_card_that_is_not_here() -> None:
    made = planned("gpu=4090", detected=(UNKNOWN,))
    assert made.target.rent
    assert made.target.here is None
    assert (made.job.device, made.job.gpu and made.job.gpu.name) == ("cuda", CARD.name)


def test_launch_sky_rents_a_card_that_is_here_too() -> None:
    target = planned("gpu=4090", "launch=sky", detected=(CARD,)).target
    assert (target.rent, target.here) == (True, None)


def test_this_machine_can_not_be_rented() -> None:
    assert "name a GPU with gpu=NAME, or use launch=local" in refused("launch=sky", detected=(CARD,))


def test_a_rented_job_is_the_same_question_as_one_on_a_card_that_is_here() -> None:
    assert planned("gpu=4090").job.hash == planned("gpu=4090", detected=(CARD,)).job.hash


def test_launch_local_refuses_a_card_that_is_not_here() -> None:
    assert "no NVIDIA H200 here (this machine has NVIDIA GeForce RTX 4090)" in refused(
        "gpu=h200", "launch=local", detected=(CARD,)
    )


@pytest.mark.parametrize(
    ("launch", "verdict"),
    [("auto", "rented, through SkyPilot"), ("local", "no NVIDIA GeForce RTX 4090 here"), ("sky", "rented, through SkyPilot")],
)
def test_a_dry_run_describes_what_does_not_run_here(launch: str, verdict: str) -> None:
    text = "\n".join(plan.describe(planned("workload=matmul", "gpu=4090", f"launch={launch}", "launch.dry_run=true")))
    for part in (
        "workload   matmul",
        "cases      26",
        "variants   fp32, tf32",
        "NVIDIA GeForce RTX 4090",
        "at most",
        "bf16_min_n",
        verdict,
    ):
        assert part in text


def test_the_time_is_what_the_limits_allow() -> None:
    job = planned("workload=inspect", "measure.max_time_s=2", "measure.warmup.max_s=1").job
    assert at_most_s(job.as_dict()) == len(job.cases) * len(job.variants) * 3


def test_a_written_job_is_for_the_card_that_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "new" / "job.json"
    made = planned("gpu=h200", f"launch.write_job={path}")
    plan.save(made.job, path)
    loaded = jobs.load(path)
    assert loaded.hash == made.job.hash
    assert (loaded.device, loaded.gpu and loaded.gpu.name) == ("cuda", "NVIDIA H200")


def test_the_hash_is_of_the_question_and_not_of_paths_or_times(tmp_path: Path) -> None:
    first = planned().job
    assert planned(f"out={tmp_path}", "display=quiet", "run_dir=elsewhere", "+tags.a=b").job.hash == first.hash
    assert planned("seed=1").job.hash != first.hash
    assert planned("measure.target=0.5").job.hash != first.hash


def test_a_run_folder_is_new_each_time_unless_given(tmp_path: Path) -> None:
    folders = {run_folder(str(tmp_path), None, "matmul", "0123456789ab") for _ in range(50)}
    assert len(folders) > 45
    assert all(folder.parent == tmp_path / "matmul" and "-01234567-" in folder.name for folder in folders)
    assert run_folder("out", str(tmp_path), "matmul", "0123") == tmp_path
    assert list(tmp_path.iterdir()) == []


def test_the_job_says_where_it_comes_from() -> None:
    provenance = planned("seed=3").job.provenance
    assert provenance["overrides"] == ["seed=3"]
    assert set(provenance) >= {"created_at", "version", "git", "lock_sha256", "choices"}
    assert json.dumps(provenance)


SHAPED = """
name: shaped
module: workloads.matmul
variants: [loop, masked, flash]
baseline: masked
grid: auto
grids:
  full:
    sliding: {x: seq_len, seq_len: [64, 128], window: 32, heads: 8, kv_heads: 2, variants: [masked, flash]}
    heads: {x: heads, seq_len: 64, heads: [2, 4], kv_heads: 2, variants: [loop]}
  small: {all: {x: seq_len, seq_len: [64, 128], heads: 8, kv_heads: 2}}
axes:
  seq_len: {min: 1, at_least: window}
  window: {min: 1, setting: true}
  heads: {min: 1, multiple_of: kv_heads, setting: true}
  kv_heads: {min: 1, setting: true}
seq_len: null
window: null
heads: null
kv_heads: null
thresholds:
  - {key: flash_min_seq_len, axis: seq_len, baseline: masked, candidate: flash}
  - {key: flash_min_heads, axis: heads, baseline: masked, candidate: flash}
decisions:
  - {key: loop_is_slow, question: is it slow, metric: speedup, variant: loop, at_least: 1}
"""


@pytest.fixture
def shaped(tmp_path: Path) -> Callable[..., Job]:
    (tmp_path / "workload").mkdir()
    (tmp_path / "workload" / "shaped.yaml").write_text(SHAPED)
    return lambda *overrides: planned("workload=shaped", *overrides, config_dir=tmp_path).job


def test_settings_are_the_declared_axes_on_which_the_job_agrees(shaped: Callable[..., Job]) -> None:
    assert shaped().derive["settings"] == {"heads": 8, "kv_heads": 2}
    assert shaped("workload.heads=16").derive["settings"] == {"heads": 16, "kv_heads": 2}
    assert shaped("workload.heads=[8,16]").derive["settings"] == {"kv_heads": 2}
    assert shaped().cases[0].axes == {"seq_len": 64, "heads": 8, "kv_heads": 2}


def test_a_setting_that_is_an_x_axis_is_never_hidden(shaped: Callable[..., Job]) -> None:
    settings = shaped("workload.grid=full").derive["settings"]
    assert settings == {"window": 32, "kv_heads": 2}
    only = shaped("workload.grid=full", "workload.variants=[loop]", "workload.baseline=null")
    assert only.derive["settings"] == {"kv_heads": 2}


def test_a_setting_without_which_two_curves_would_have_one_name_is_not_hidden(shaped: Callable[..., Job]) -> None:
    again = "+workload.grids.small.windowed={x: seq_len, seq_len: 256, window: 32, heads: 8, kv_heads: 2}"
    assert shaped(again).derive["settings"] == {"heads": 8, "kv_heads": 2}


def test_blocks_have_their_variants_and_the_job_those_of_its_blocks(shaped: Callable[..., Job]) -> None:
    job = shaped("workload.grid=full")
    assert [case.variants for case in job.cases] == [["masked", "flash"]] * 2 + [["loop"]] * 2
    assert (job.variants, job.baseline) == (["loop", "masked", "flash"], "masked")
    assert jobs.measurements(job.as_dict()) == 6
    one = shaped("workload.grid=full", "workload.window=16")
    assert (one.variants, one.baseline) == (["masked", "flash"], "masked")
    other = shaped("workload.grid=full", "workload.variants=[loop]", "workload.baseline=null")
    assert [case.axes["heads"] for case in other.cases] == [2, 4]


def test_what_no_block_can_answer_is_not_asked(shaped: Callable[..., Job]) -> None:
    def asked(*overrides: str) -> list[str]:
        derive = shaped(*overrides).derive
        return [one["key"] for kind in ("thresholds", "decisions") for one in derive[kind]]

    assert asked() == ["flash_min_seq_len", "flash_min_heads", "loop_is_slow"]
    assert asked("workload.grid=full") == ["flash_min_seq_len", "flash_min_heads", "loop_is_slow"]
    assert asked("workload.grid=full", "workload.window=16") == ["flash_min_seq_len", "flash_min_heads"]


@pytest.mark.parametrize(("overrides", "message"), [
    (["workload.heads=7"], "workload.heads=7: expected a multiple of kv_heads=2; try workload.heads=8"),
    (["workload.grid=full", "workload.window=65"], "workload.seq_len=64: expected at least window=65; try workload.seq_len=65"),
    (["workload.grid=full", "workload.window=8", "workload.variants=[loop]", "workload.baseline=null"],
     "workload.variants=[loop]: no block of this grid has any of them; choose from masked, flash"),
    (["workload.grids.full.sliding.variants=[flsh]"],
     "workload.grids.full.sliding.variants=flsh: no such name in the workload; did you mean flash?"),
    (["workload.grids.full.sliding.variants=[]"], "workload.grids.full.sliding.variants: expected at least one name"),
    (["workload.grids.full.sliding.variants=flash"], "workload.grids.full.sliding.variants: expected at least one name"),
    (["workload.grids.full.sliding.variants=[1]"], "workload.grids.full.sliding.variants: expected at least one name"),
    (["workload.grids.full.sliding.x=variants"], "workload.grids.full.sliding: expected axes and which is the x-axis"),
    (["workload.axes.heads.multiple_of=kv_head"],
     "workload.axes.heads.multiple_of=kv_head: no such name in the workload; did you mean kv_heads?"),
    (["workload.axes.heads.multiple_of=heads"], "workload.axes.heads.multiple_of=heads: no such name in the workload"),
    (["workload.axes.heads.multiple_of=0"], "workload.axes.heads.multiple_of=0: no such name in the workload"),
    (["workload.axes.kv_heads.min=0"],
     "workload.axes.heads.multiple_of=kv_heads: expected axes of whole numbers, and kv_heads from 1 on"),
    (["workload.axes.heads.min=0.5"], "workload.axes.heads.multiple_of=kv_heads: expected axes of whole numbers"),
    (["+workload.axes.window.choices=[a]"], "workload.axes.seq_len.at_least=window: names can't be held against each other"),
])  # fmt: skip
def test_a_shape_that_can_not_be_is_one_line(shaped: Callable[..., Job], overrides: list[str], message: str) -> None:
    with pytest.raises(RequestError) as caught:
        shaped(*overrides)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_dry_run_says_settings_once(tmp_path: Path, shaped: Callable[..., Job]) -> None:
    shaped()
    lines = plan.describe(planned("workload=shaped", "workload.grid=full", config_dir=tmp_path))
    assert "cases      4 (seq_len 64..128, heads 8..4), 6 measurements" in lines
    assert "fixed      window 32, kv_heads 2" in lines


def own_workload(folder: Path, module: str) -> Path:
    (folder / "workload").mkdir(parents=True)
    (folder / "workload" / "mine.yaml").write_text(
        f"name: mine\nmodule: {module}\nvariants: [a]\naxes: {{n: {{min: 1, max: 9}}}}\nn: null\n"
        "grids: {full: {all: {x: n, n: [1, 2]}}, small: {all: {x: n, n: [1]}}}\n"
    )
    return folder


def test_a_module_outside_the_repo_travels_with_the_job(tmp_path: Path) -> None:
    folder = own_workload(tmp_path / "conf", "mine.py")
    (folder / "mine.py").write_text("raise RuntimeError('the control plane imports no workload')\n")
    first = planned("workload=mine", config_dir=folder).job
    plan.save(first, tmp_path / "run" / "job.json")
    assert (tmp_path / "run" / "mine.py").read_bytes() == (folder / "mine.py").read_bytes()
    (folder / "mine.py").write_text("# changed\n")
    assert planned("workload=mine", config_dir=folder).job.hash != first.hash


@pytest.mark.parametrize("module", ["mine.py", "no.such.module", "workloads.matmull", "a" * 300 + ".py", "not a module"])
def test_a_module_that_is_not_there_is_one_line(tmp_path: Path, module: str) -> None:
    folder = own_workload(tmp_path, module)
    with pytest.raises(RequestError, match=r"workload\.module="):
        planned("workload=mine", config_dir=folder)


def test_an_unwritable_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RequestError, match="can't write"):
        plan.save(planned().job, tmp_path / "file" / "run" / "job.json")


def test_planning_imports_no_torch_and_nothing_slow() -> None:
    program = (
        "import sys; from runner.compose import compose; from runner import plan\n"
        "made = compose(['gpu=4090', 'launch.dry_run=true'])\n"
        "plan.describe(plan.make(made.config, made.folders))\n"
        "print(sorted({'torch', 'numpy', 'scipy', 'mlflow', 'rich', 'matplotlib', 'sky'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent
    )
    assert done.stdout.strip() == "[]"
