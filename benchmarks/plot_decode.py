"""Draws a decode step's time against its context: dense attention, fla-core, the custom kernels, and what the bytes allow.

    python benchmarks/plot_decode.py RUN [--fla RUN] --out docs/images/nsa_decode.png

RUN is the folder of a run of workload=nsa_decode; --fla, where it has no `whole_fla`, another one. Times are those by graph
replay, with their intervals. The byte limit is that of the step with the paper's lengths: the bytes of its measurements over the
bandwidth in the datasheet of the GPU, which no kernel reaches.
"""

import argparse
import csv
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import yaml
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator

from runner.paths import conf_dir

Row = dict[str, str]
CURVES = {
    ("dense_flash", "16"): ("dense FlashAttention-2", "#7f7f7f", "o"),
    ("whole_fla", "64"): ("NSA, fla-core 0.6 (blocks of 64)", "#d95f02", "s"),
    ("whole_triton", "16"): ("NSA, Crossover's kernels", "#1b6ca8", "D"),
}
"""By variant and stride: fla-core has a step for one stride only."""


def read(run: Path) -> list[Row]:
    """Return the measurements that ended well and have a time by graph replay, under `replay_us` and its bounds."""
    with (run / "measurements.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["status"] in ("ok", "noisy")]
    for row in rows:
        kind = "" if row["timing"] == "warm" else "warm_"
        for bound in ("", "low_", "high_"):
            row[f"replay_{bound}us"] = str(1000 * float(row[f"latency_{kind}{bound}ms"] or "nan"))
    return [row for row in rows if row["replay_us"] != "nan"]


def context(row: Row) -> int:
    """The tokens in the cache."""
    return int(row["context"])


def panel(axes: Axes, rows: list[Row], bandwidth_gbps: float) -> None:
    """Draw the curves of one batch, each named at its end."""
    for (variant, stride), (label, color, marker) in CURVES.items():
        mine = sorted((row for row in rows if (row["variant"], row["stride"]) == (variant, stride)), key=context)
        if not mine:
            continue
        at = [context(row) for row in mine]
        middle, low, high = ([float(row[f"replay_{bound}us"]) for row in mine] for bound in ("", "low_", "high_"))
        off = [[a - b for a, b in zip(middle, low, strict=True)], [b - a for a, b in zip(middle, high, strict=True)]]
        axes.errorbar(at, middle, off, color=color, marker=marker, markersize=5, capsize=2, label=label)
        axes.annotate(f"{middle[-1]:.0f} us", (at[-1], middle[-1]), (6, -3), textcoords="offset points", color=color, fontsize=9)
        if variant == "whole_triton":
            limit = [float(row["bytes"]) / bandwidth_gbps / 1000 for row in mine]
            axes.plot(at, limit, color=color, linestyle=":", label="its bytes at the datasheet's bandwidth")
    ticks = sorted({context(row) for row in rows})
    axes.set(xscale="log", yscale="log", xlabel="context (tokens)", ylabel="one step (us)")
    axes.set_xlim(ticks[0] / 1.2, ticks[-1] * 1.6)
    axes.set_xticks(ticks, [f"{tick // 1024}k" for tick in ticks])
    axes.minorticks_off()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.grid(alpha=0.3)


def main() -> None:
    """Read the command line, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder of a run of workload=nsa_decode")
    parser.add_argument("--fla", type=Path, help="a run to take whole_fla from")
    parser.add_argument("--gpu", default="h200", help="its file in conf/gpu")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    for run in filter(None, (given.run, given.fla)):
        if not (run / "measurements.csv").is_file():
            parser.error(f"{run}: expected the folder of a run, with a measurements.csv (python -m runner.report makes it)")
    rows = read(given.run)
    if given.fla:
        rows += [row for row in read(given.fla) if row["variant"] == "whole_fla"]
    bandwidth_gbps = yaml.safe_load((conf_dir() / "gpu" / f"{given.gpu}.yaml").read_text())["bandwidth_gbps"]
    batches = sorted({int(row["batch"]) for row in rows})
    figure, panels = plt.subplots(1, len(batches), figsize=(5.2 * len(batches), 4), squeeze=False, layout="constrained")
    for axes, batch in zip(panels[0], batches, strict=True):
        panel(axes, [row for row in rows if int(row["batch"]) == batch], bandwidth_gbps)
        axes.set_title(f"batch {batch}")
    figure.legend(*panels[0][0].get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=4)
    figure.suptitle("One decoding step on an NVIDIA H200: 64 query and 4 KV heads of 128, bf16, CUDA-graph replay", fontsize=10)
    figure.savefig(given.out, dpi=110)


if __name__ == "__main__":
    main()
