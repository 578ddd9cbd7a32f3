"""The clouds' files: names of GPUs, and prices of which each has a day and a source."""

import json
import re
from datetime import date
from pathlib import Path

import pytest

from runner.compose import compose
from runner.config import CloudConfig
from runner.errors import RequestError
from runner.gpus import load_specs
from runner.launch.offers import Offer
from runner.launch.prices import clouds, sky_name, snapshot, with_snapshot
from runner.paths import conf_dir

SPECS = load_specs([conf_dir()])
CLOUDS = clouds([conf_dir()])
PRICES = [(cloud.name, gpu, price) for cloud in CLOUDS.values() for gpu, price in cloud.prices.items()]


def own(folder: Path, name: str, text: str) -> Path:
    (folder / "cloud").mkdir(parents=True, exist_ok=True)
    (folder / "cloud" / f"{name}.yaml").write_text(text)
    return folder


MINE = "name: mine\nsky_cloud: runpod\nlaunchable: true\nbilling: null\n"


def test_the_clouds_are_all_files_but_any() -> None:
    assert set(CLOUDS) == {path.stem for path in (conf_dir() / "cloud").glob("*.yaml")} - {"any"}
    assert all(isinstance(cloud, CloudConfig) for cloud in CLOUDS.values())


@pytest.mark.parametrize(("cloud", "gpu", "price"), PRICES, ids=lambda one: one if isinstance(one, str) else "")
def test_every_price_has_a_known_gpu_a_day_and_a_source(cloud: str, gpu: str, price: object) -> None:
    found = CLOUDS[cloud].prices[gpu]
    assert found is price
    assert gpu in SPECS
    assert date.fromisoformat(found.as_of) >= date(2025, 1, 1)
    assert re.search(r"https://|early report", found.source)


def test_the_early_reports_prices_are_there() -> None:
    runpod, prime = CLOUDS["runpod"].prices["4090"], CLOUDS["primeintellect"].prices["4090"]
    assert (runpod.usd_per_hour, runpod.as_of) == (0.59, "2026-02-04")
    assert (prime.usd_per_hour, prime.as_of) == (0.37, "2025-08-19")


def test_modal_is_there_for_its_price_only() -> None:
    assert not CLOUDS["modal"].launchable
    assert CLOUDS["modal"].prices


@pytest.mark.parametrize(
    ("cloud", "gpu", "name"),
    [
        ("runpod", "4090", "RTX4090"),
        ("runpod", "h100", "H100-SXM"),
        ("runpod", "h100-pcie", "H100"),
        ("runpod", "a100-80gb", "A100-80GB-SXM"),
        ("runpod", "a100-80gb-pcie", "A100-80GB"),
        ("runpod", "h200", "H200-SXM"),
        ("vast", "a100-80gb", "A100"),
        ("lambda", "h100", "H100"),
        ("aws", "h100", "H100"),
        ("aws", "h100-pcie", None),
        ("gcp", "a100-80gb-pcie", None),
        ("slurm", "a100", "A100"),
    ],
)
def test_a_gpu_has_the_name_that_the_cloud_gives_it(cloud: str, gpu: str, name: str | None) -> None:
    assert sky_name(CLOUDS[cloud], gpu, SPECS[gpu]) == name


def test_names_are_of_gpus_that_there_are() -> None:
    assert {gpu for cloud in CLOUDS.values() for gpu in cloud.accelerators} <= set(SPECS)


def test_skypilot_says_which_clouds_end_their_instances_themselves() -> None:
    assert {name for name, cloud in CLOUDS.items() if cloud.launchable and cloud.ends_itself} == {
        "kubernetes", "slurm", "gcp", "aws",
    }  # fmt: skip


def test_images_are_containers_by_a_fixed_tag() -> None:
    images = {cloud.image for cloud in CLOUDS.values() if cloud.image}
    assert images
    assert all(re.fullmatch(r"docker:[\w./-]+:[\w.-]+", image) and not image.endswith("latest") for image in images)


def test_a_snapshot_is_every_price_of_a_gpu_with_day_and_source() -> None:
    found = {offer.cloud: offer for offer in snapshot("h100", SPECS["h100"], CLOUDS)}
    assert set(found) == {"runpod", "lambda", "modal", "vast"}
    assert (found["runpod"].accelerator, found["runpod"].usd_per_hour, found["runpod"].spot) == ("H100-SXM", 3.99, False)
    assert found["runpod"].snapshot is not None
    assert found["runpod"].snapshot.startswith("2026-11-09, Runpod, Pricing, https://www.runpod.io/pricing")
    assert snapshot("4080", SPECS["4080"], CLOUDS) == []


def test_a_spot_price_is_an_offer_of_its_own(tmp_path: Path) -> None:
    price = "prices: {h100: {usd_per_hour: 2, spot_usd_per_hour: 0.5, as_of: '2026-01-01', source: a test}}\n"
    known = clouds([own(tmp_path, "mine", MINE + price)])
    assert [(one.usd_per_hour, one.spot, one.snapshot) for one in snapshot("h100", SPECS["h100"], known)] == [
        (2, False, "2026-01-01, a test"),
        (0.5, True, "2026-01-01, a test"),
    ]


def test_a_catalogs_answer_replaces_the_snapshot_of_its_cloud() -> None:
    live = [Offer("runpod", "4090", "RTX4090", 0.34)]
    both = with_snapshot(live, "4090", SPECS["4090"], CLOUDS)
    assert both[0] == live[0]
    assert [(one.cloud, one.snapshot is None) for one in both[1:]] == [("primeintellect", False)]


def test_a_users_cloud_is_among_them_and_does_not_replace_one_of_the_programs(tmp_path: Path) -> None:
    own(tmp_path, "mine", MINE)
    own(tmp_path, "runpod", MINE.replace("mine", "runpod"))
    found = clouds([conf_dir(), tmp_path])
    assert found["mine"].sky_cloud == "runpod"
    assert found["runpod"] == CLOUDS["runpod"]


def test_what_a_run_overrides_wins_over_the_file() -> None:
    composed = compose(["cloud=runpod", "cloud.billing.minimum_s=600"])
    found = clouds(composed.folders, composed.config.cloud)
    assert found["runpod"].billing is not None
    assert found["runpod"].billing.minimum_s == 600
    assert clouds(composed.folders, compose().config.cloud) == CLOUDS


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [", "can't read"),
        ("name: mine\n", "cloud.sky_cloud is missing"),
        (MINE + "speed: 9\n", "cloud.speed is no key of the config"),
        (MINE.replace("name: mine", "name: yours"), "cloud.name=yours: expected mine, the name of the file"),
        (MINE + "prices: {h100: {usd_per_hour: -1, as_of: '2026-01-01', source: s}}\n", "usd_per_hour=-1: expected at least 0"),
        (MINE + "prices: {h100: {usd_per_hour: 1, as_of: yesterday, source: s}}\n", "as_of=yesterday: expected the day"),
        (MINE + "prices: {h100: {usd_per_hour: 1, as_of: '2026-01-01', source: ''}}\n", "source is empty"),
        (MINE + "prices: {h100: {usd_per_hour: 1, as_of: '2026-01-01'}}\n", "cloud.prices.h100.source is missing"),
    ],
)
def test_a_file_that_is_no_cloud_is_named_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        clouds([own(tmp_path, "mine", text)])
    assert str(tmp_path / "cloud" / "mine.yaml") in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_snapshot_is_plain_data() -> None:
    assert json.dumps([vars(one) for one in snapshot("h100", SPECS["h100"], CLOUDS)])
