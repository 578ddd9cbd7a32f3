"""The pictures of a merge: what stands in which panel, that many stay readable, and that odd grids are drawn too."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from runner import merged
from runner.merged import curves, panels, roofline
from runner.merged.curves import Style
from runner.merged.panels import MAX_PANELS, Panel, Reading
from runner.merged.roofline import Roof
from tests.journals import grid, matmul
from tests.test_merged import attention, lay, sweep

LONG = [f"NVIDIA GeForce RTX {4000 + number} SUPER 80GB" for number in range(12)]


def reading(device: str = "A", variant: str = "flash", x: str = "n", value: float = 1.0, ok: bool = True, **case: Any) -> Reading:
    return Reading(device, variant, CASES.setdefault(repr(case), case), x, value, 0.9 * value, 1.1 * value, ok)


CASES: dict[str, dict[str, Any]] = {}
"""Equal cases are one object."""


def texts(figure: Figure) -> list[Text]:
    """Draw a figure and return all that is written on it but within its axes."""
    FigureCanvasAgg(figure).draw()
    found = [*figure.texts, *(text for legend in figure.legends for text in legend.get_texts())]
    for axes in figure.axes:
        found += [axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label]
        found += [*axes.get_xticklabels(), *axes.get_yticklabels()]
    return [text for text in found if text.get_text() and text.get_visible()]


def overlapping(figure: Figure) -> list[tuple[str, str]]:
    boxes = [(text.get_text(), text.get_window_extent().shrunk(0.98, 0.9)) for text in texts(figure)]
    return [(one, other) for (one, first), (other, second) in combinations(boxes, 2) if first.overlaps(second)]


def outside(figure: Figure) -> list[str]:
    width, height = figure.canvas.get_width_height()
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts(figure)]
    return [text for text, box in boxes if box.x0 < 0 or box.y0 < 0 or box.x1 > width or box.y1 > height]


def places(shown: Sequence[Panel]) -> dict[str, int]:
    return {name: place for place, name in enumerate(dict.fromkeys(name for panel in shown for name in panel.curves))}


def test_with_several_gpus_colours_are_gpus_and_each_variant_has_its_panel() -> None:
    found = [reading(device, variant, n=n) for device in "AB" for variant in ("flash", "dense") for n in (1, 2)]
    shown = panels.build(found)["n"]
    assert [(panel.title, list(panel.curves)) for panel in shown] == [("flash", ["A", "B"]), ("dense", ["A", "B"])]


def test_with_one_gpu_colours_are_variants_and_each_series_has_its_panel() -> None:
    found = [reading("A", variant, n=n, batch=batch) for batch in (1, 16) for variant in ("flash", "dense") for n in (1, 2)]
    shown = panels.build(found)["n"]
    assert [(panel.title, list(panel.curves)) for panel in shown] == [
        ("batch = 1", ["flash", "dense"]), ("batch = 16", ["flash", "dense"]),
    ]  # fmt: skip


def test_a_curve_rises_along_x_whatever_the_order_of_the_jobs() -> None:
    (panel,) = panels.build([reading(n=n) for n in (512, 64, 1024, 128)])["n"]
    assert [one.case["n"] for one in panel.curves["flash"]] == [64, 128, 512, 1024]


def test_where_the_declared_x_has_one_value_the_axis_with_most_is_drawn_against() -> None:
    found = [reading(x="context", context=8192, batch=batch, heads=heads) for batch in (1, 2, 4) for heads in (8, 16)]
    by_x = panels.build(found)
    assert list(by_x) == ["batch"]
    assert [panel.title for panel in by_x["batch"]] == ["heads = 8", "heads = 16"]


def test_settings_that_others_say_as_well_are_left_out_of_titles() -> None:
    found = [reading(n=n, heads=heads, head_dim=heads * 2, batch=1) for heads in (32, 64) for n in (1, 2)]
    assert [panel.title for panel in panels.build(found, {"heads", "head_dim"})["n"]] == ["head_dim = 64", "head_dim = 128"]
    assert [panel.title for panel in panels.build(found)["n"]] == ["heads = 32, head_dim = 64", "heads = 64, head_dim = 128"]


def test_of_many_panels_whole_series_are_shown_those_with_most_points() -> None:
    rich = [reading(device, variant, n=n, batch=7) for device in "AB" for variant in "abcd" for n in range(1, 6)]
    poor = [
        reading(device, variant, n=n, batch=batch) for batch in range(5) for device in "AB" for variant in "abcd" for n in (1, 2)
    ]
    shown = panels.select(panels.build([*poor, *rich])["n"], "abcd")
    assert len(shown) == 8
    assert {panel.series["batch"] for panel in shown} == {0, 7}


def test_variants_that_do_the_whole_task_come_before_stages() -> None:
    found = [
        reading(device, variant, n=n, batch=batch)
        for batch in (1, 2, 3)
        for variant in "wabcd"
        for device in "AB"
        for n in (1, 2)
    ]
    shown = panels.select(panels.build(found)["n"], {"w"})
    assert len(shown) <= MAX_PANELS
    assert [panel.series["batch"] for panel in shown if panel.variant == "w"] == [1, 2, 3]


@pytest.mark.parametrize("count", [1, 4, 9])
def test_nothing_that_is_written_on_a_picture_overlaps(count: int) -> None:
    found = [
        reading(device, f"variant_{number}", n=n, value=n * 1e-6 * (1 + number + LONG.index(device)))
        for number in range(count) for device in LONG for n in (1, 65536, 131072, 1048576)
    ]  # fmt: skip
    shown = panels.build(found)["n"]
    about = "12 GPUs, 1000 runs; " + ", ".join(f"axis_{number} 128" for number in range(40))
    figure = curves.draw(
        shown, "a workload with a name: latency against n " * 3, about, Style("latency", "time", places=places(shown))
    )
    assert len(figure.axes) == count
    assert overlapping(figure) == []
    assert outside(figure) == []


def test_names_as_x_are_points_beside_each_other_with_readable_labels() -> None:
    layers = [f"llama3_{size}b_{part}" for size in (8, 70) for part in ("qkv_proj", "gate_up_proj", "down_proj")]
    found = [
        reading(device, variant, "layer", 1.0 + LONG.index(device), layer=layer)
        for variant in "abcd" for layer in layers for device in LONG[:4]
    ]  # fmt: skip
    shown = panels.build(found)["layer"]
    figure = curves.draw(shown, "matmul: latency against layer", "4 GPUs", Style("latency", "time", places=places(shown)))
    assert overlapping(figure) == []
    xs = {round(float(line.get_xdata()[0]), 3) for line in figure.axes[0].lines if len(line.get_xdata()) == 1}
    assert len(xs) == len(layers) * 4


def test_one_x_is_a_point_per_gpu() -> None:
    shown = panels.build([reading(device, n=64, value=place + 1.0) for place, device in enumerate("ABC")])["n"]
    figure = curves.draw(shown, "one", "", Style("speed-up", "ratio", 1.0, "as fast", places=places(shown)))
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["64"]
    assert overlapping(figure) == []


def test_noisy_points_are_hollow() -> None:
    shown = panels.build([reading(n=1), reading(n=2, ok=False)])["n"]
    figure = curves.draw(shown, "one", "", Style("latency", "time", places=places(shown)))
    faces = {str(line.get_markerfacecolor()) for line in figure.axes[0].lines if line.get_linestyle() == "None"}
    assert faces == {"#0072B2", "white"}


def test_a_roofline_has_the_roofs_of_every_gpu_in_its_colour() -> None:
    roofs = {name: Roof(1.0 + place, 100.0 * (1 + place)) for place, name in enumerate(LONG[:3])}
    panel = roofline.Panel("bf16", {name: [(1.0, 0.5, True), (1000.0, 90.0, False)] for name in roofs}, roofs)
    figure = roofline.draw([panel, panel], "matmul: roofline", "3 GPUs", {name: place for place, name in enumerate(roofs)})
    flat = {
        (line.get_color(), line.get_ydata()[0]) for line in figure.axes[0].lines if line.get_ydata()[0] == line.get_ydata()[1]
    }
    assert flat == {("#0072B2", 100.0), ("#D55E00", 200.0), ("#009E73", 300.0)}
    assert overlapping(figure) == []


def test_many_points_of_a_roofline_are_thinned() -> None:
    panel = roofline.Panel("bf16", {"A": [(float(1 + place), 1.0, True) for place in range(20_000)]}, {"A": Roof(1.0, 100.0)})
    figure = roofline.draw([panel], "roofline", "", {"A": 0})
    assert sum(len(points.get_offsets()) for points in figure.axes[0].collections) <= roofline.MAX_POINTS


def draw(folder: Path, *runs: Any) -> set[str]:
    """Merge runs into `folder`, return the names of the pictures, each of which has something on it."""
    made = merged.merge(runs, folder)
    pictures = [path for path in made.paths if path.suffix == ".png"]
    for path in pictures:
        assert len(set(Image.open(path).convert("L").resize((200, 120)).get_flattened_data())) > 8
    return {path.stem for path in pictures}


def test_gpus_with_prices_have_every_picture(tmp_path: Path) -> None:
    run = matmul(cases=grid("n", [256, 1024]))
    folders = [lay(run, tmp_path / gpu, gpu) for gpu in ("NVIDIA H200", "NVIDIA L4")]
    made = merged.merge(folders, tmp_path / "out", prices={"NVIDIA L4": merged.Price(0.7, "as given")})
    names = {path.stem for path in made.paths if path.suffix == ".png"}
    assert names == {f"{kind}_matmul" for kind in ("latency", "speedup", "per_dollar", "per_joule", "roofline")}
    assert "NVIDIA L4 at $0.70/h (as given)" in (tmp_path / "out" / "report.md").read_text()


def test_a_sweep_on_one_machine_is_drawn_without_prices(tmp_path: Path) -> None:
    jobs = {f"n{n}": replace(matmul(cases=grid("n", [n]), gpu=None), energy=False) for n in (128, 256, 512)}
    sweep(tmp_path, jobs)
    names = {path.stem for path in merged.write(tmp_path).paths if path.suffix == ".png"}
    assert names == {"latency_matmul", "speedup_matmul"}


def test_a_workload_without_a_baseline_is_drawn_by_its_thresholds(tmp_path: Path) -> None:
    lay(attention(lambda case: 2.0, baseline=None, gpu=None, energy=False), tmp_path / "run")
    assert "speedup_attention" in draw(tmp_path / "out", tmp_path / "run")


@pytest.mark.parametrize(
    "cases",
    [grid("n", [64]), grid("n", [64], layer=["a", "b"]), grid("n", [-1, 0, 1])],
    ids=["one x", "one x and names", "x that no logarithm takes"],
)
def test_odd_grids_are_drawn_too(tmp_path: Path, cases: Callable[..., Any]) -> None:
    flat = {"masked": lambda case: 1.0, "flash": lambda case: 0.5}
    lay(attention(lambda case: 2.0, cases, curves=flat, gpu=None, energy=False, work=lambda case: (1e9, 1e6)), tmp_path / "run")
    assert draw(tmp_path / "out", tmp_path / "run") >= {"latency_attention", "speedup_attention"}


def test_nothing_measured_is_no_picture(tmp_path: Path) -> None:
    lay(attention(lambda case: 2.0), tmp_path / "run", keep=lambda event: False)
    assert draw(tmp_path / "out", tmp_path / "run") == set()
    assert "## Pictures" not in (tmp_path / "out" / "report.md").read_text()
