"""Which GPU this is, and whether it is what it should be."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from runner.errors import RequestError
from runner.gpus import GIB, DetectedGpu, compare, detect, identify, load_specs, parse_smi, visible
from runner.paths import conf_dir

SPECS = load_specs([conf_dir()])
TWO = [DetectedGpu(0, "NVIDIA GeForce RTX 4090", 24 * GIB, "GPU-aaaa"), DetectedGpu(1, "NVIDIA H200", 140 * GIB, "GPU-bbbb")]


def device(**changes: Any) -> dict[str, Any]:
    """What a good RTX 4090 reports in a journal."""
    good = {
        "type": "cuda", "name": "NVIDIA GeForce RTX 4090", "sm": "8.9", "sm_count": 128, "memory_bytes": 24 * GIB,
        "l2_bytes": 72 * 2**20, "max_sm_clock_mhz": 3105, "power_limit_w": 450.0,
    }  # fmt: skip
    return good | changes


@pytest.mark.parametrize("setting", ["GPU-", "x", "MIG-1234"])
def test_a_visible_device_that_is_not_here_is_named(setting: str) -> None:
    with pytest.raises(RequestError, match=f"CUDA_VISIBLE_DEVICES={setting}"):
        visible(TWO, setting)


@pytest.mark.parametrize(("setting", "left"), [
    (None, [0, 1]), ("1", [1]), ("1,0", [1, 0]), ("", []), ("-1", []), ("GPU-b", [1]), ("0,7,1", [0]),
])  # fmt: skip
def test_cuda_visible_devices_is_honoured(setting: str | None, left: list[int]) -> None:
    assert [gpu.index for gpu in visible(TWO, setting)] == left


def test_nvidia_smi_is_read_and_noise_skipped() -> None:
    answer = "0, NVIDIA GeForce RTX 4090, 24564, GPU-1\nFailed to initialise\n1, x, [N/A], GPU-2\n"
    assert parse_smi(answer) == [DetectedGpu(0, "NVIDIA GeForce RTX 4090", 24564 * 2**20, "GPU-1")]


def test_detecting_never_raises() -> None:
    assert all(isinstance(gpu, DetectedGpu) for gpu in detect())


def test_every_card_of_the_issue_is_there() -> None:
    assert set(SPECS) >= {"3090", "4080", "4090", "l40s", "a100", "a100-80gb", "h100", "h200"}
    assert "local" not in SPECS


def test_a_card_is_recognised_by_name_and_memory() -> None:
    found = identify(TWO[0], SPECS)
    assert found is not None
    assert found[0] == "4090"
    assert not SPECS["4090"].is_this("NVIDIA GeForce RTX 4090", 16 * GIB)
    assert not SPECS["4090"].is_this("NVIDIA GeForce RTX 4090 Laptop GPU", 24 * GIB)
    assert identify(DetectedGpu(0, "Matrox G200", GIB, "GPU-0"), SPECS) is None


@pytest.mark.parametrize("choice", sorted(SPECS))
def test_no_two_configs_describe_the_same_card(choice: str) -> None:
    spec = SPECS[choice]
    memory = int(sum(spec.match_memory_gb) / 2 * GIB)
    assert [name for name, other in SPECS.items() if other.is_this(spec.name, memory)] in ([choice], [])


def test_a_user_folder_adds_a_card_and_does_not_replace_one(tmp_path: Path) -> None:
    (tmp_path / "gpu").mkdir()
    text = (conf_dir() / "gpu" / "4090.yaml").read_text()
    (tmp_path / "gpu" / "5000.yaml").write_text(text)
    (tmp_path / "gpu" / "4090.yaml").write_text(text.replace("NVIDIA GeForce RTX 4090", "Other"))
    specs = load_specs([conf_dir(), tmp_path])
    assert specs["4090"] == SPECS["4090"]
    assert "5000" in specs


@pytest.mark.parametrize("text", ["name: only", "{", "name: [", "\0"])
def test_a_file_that_is_no_gpu_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "gpu").mkdir()
    (tmp_path / "gpu" / "bad.yaml").write_text(text)
    with pytest.raises(RequestError, match=r"bad\.yaml"):
        load_specs([tmp_path])


def test_a_good_card_has_no_failing_row() -> None:
    assert [row.what for row in compare(SPECS["4090"], device()) if row.ok is False] == []


@pytest.mark.parametrize(("changes", "row"), [
    ({"name": "NVIDIA GeForce RTX 4080"}, "name"),
    ({"sm": "9.0"}, "SM version"),
    ({"sm_count": 114}, "SMs"),
    ({"memory_bytes": 16 * GIB}, "memory"),
    ({"power_limit_w": 300.0}, "power limit"),
    ({"max_sm_clock_mhz": 2000}, "highest SM clock"),
])  # fmt: skip
def test_a_difference_is_named(changes: dict[str, Any], row: str) -> None:
    assert [one.what for one in compare(SPECS["4090"], device(**changes)) if one.ok is False] == [row]


def test_what_can_not_be_read_is_not_judged() -> None:
    rows = compare(SPECS["4090"], {})
    assert {row.found for row in rows} == {"unknown"}
    assert {row.ok for row in rows} == {None}


def test_a_higher_power_limit_is_no_mismatch() -> None:
    spec = dataclasses.replace(SPECS["4090"], power_w=400)
    assert all(row.ok is not False for row in compare(spec, device()))
