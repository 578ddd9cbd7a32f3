"""Numeric choices of config groups, in every way that Hydra can be asked."""

import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

ROOT = Path(__file__).resolve().parent.parent
RTX_4090 = "NVIDIA GeForce RTX 4090"
BASIC = ["hydra/launcher=basic", "hydra/sweeper=basic"]
"""Ours run this program's jobs only."""


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("config", list(overrides))


@pytest.mark.parametrize("override", ["gpu=4090", "gpu='4090'", 'gpu="4090"', "gpu=str(4090)", "gpu=[4090]"])
def test_a_number_names_a_choice(override: str) -> None:
    assert composed(override).gpu.name == RTX_4090


@pytest.mark.parametrize("override", ["+gpu@other=4090", "+gpu@other='4090'"])
def test_a_package_is_left_as_it_is(override: str) -> None:
    cfg = composed(override)
    assert cfg.other.name == RTX_4090
    assert cfg.gpu.name == "local"


def test_numbers_of_ordinary_keys_stay_numbers() -> None:
    cfg = composed("workload=matmul", "workload.n=4090", "++measure.target=0.5", "seed=7", "+tags.run=4090")
    assert (cfg.workload.n, cfg.measure.target, cfg.seed, cfg.tags.run) == (4090, 0.5, 7, 4090)
    assert isinstance(cfg.workload.n, int)


def test_a_group_is_deleted_by_its_numeric_choice() -> None:
    config = ROOT / "tests" / "configs" / "groups"
    with initialize_config_dir(str(config), version_base="1.3"):
        assert "card" not in compose("config", ["~card=7"])
        assert compose("config").card.name == "seven"


def test_defaults_lists_may_name_a_numeric_choice() -> None:
    with initialize_config_dir(str(ROOT / "tests" / "configs" / "groups"), version_base="1.3"):
        assert compose("config", ["+experiment=eight"]).card.name == "eight"


def run(folder: Path, *arguments: str) -> str:
    """Run a small hydra.main program on our configs, which knows nothing of `runner`."""
    program = folder / "program.py"
    program.write_text(
        "import hydra\n"
        f"@hydra.main(config_path={str(ROOT / 'conf')!r}, config_name='config', version_base='1.3')\n"
        "def main(cfg): print('chosen:', cfg.gpu.name, cfg.workload.n)\n"
        "main()\n"
    )
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, str(program), *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("sweep", ["gpu=4090,3090", "gpu=choice(4090,3090)", "gpu='4090','3090'", "gpu=glob(*90)"])
def test_a_multirun_takes_numeric_choices(tmp_path: Path, sweep: str) -> None:
    lines = run(tmp_path, "-m", *BASIC, sweep, "workload=matmul", "workload.n=64").splitlines()
    assert sorted(lines) == ["chosen: NVIDIA GeForce RTX 3090 64", f"chosen: {RTX_4090} 64"]


def test_cfg_and_info_take_numeric_choices(tmp_path: Path) -> None:
    assert RTX_4090 in run(tmp_path, "--cfg", "job", "gpu=4090")
    assert "gpu/4090" in run(tmp_path, "gpu=4090", "--info", "defaults")
    assert "gpu: '4090'" in run(tmp_path, "--cfg", "hydra", "gpu=4090")
