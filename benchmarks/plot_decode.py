"""Draws a decode step's time against its context: dense attention, fla-core, the custom kernels, and what the bytes allow.

    python benchmarks/plot_decode.py docs/results/h200/nsa_decode --out docs/images/nsa_decode.png

Takes the folder of a run of workload=nsa_decode on its full grid. The byte limit is that of the step with the paper's lengths:
the bytes of its measurements over the bandwidth in the datasheet of the GPU, which no kernel reaches.
"""

import argparse
import csv
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import yaml

from runner.paths import conf_dir

CURVES = {
    ("dense_flash", "16"): ("dense FlashAttention-2", "#7f7f7f", "o"),
    ("whole_fla", "64"): ("NSA, fla-core (blocks of 64)", "#d95f02", "s"),
    ("whole_triton", "16"): ("NSA, Crossover's kernels", "#1b6ca8", "D"),
}
"""By variant and stride: fla-core has a step for one stride only."""


def read(run: Path) -> list[dict[str, str]]:
    """Return the measurements that ended well."""
    with (run / "measurements.csv").open() as file:
        return [row for row in csv.DictReader(file) if row["status"] == "ok"]


def draw(rows: list[dict[str, str]], gpu: str, out: Path) -> None:
    """Draw a panel for each batch."""
    bandwidth_gbps = yaml.safe_load((conf_dir() / "gpu" / f"{gpu}.yaml").read_text())["bandwidth_gbps"]
    batches = sorted({int(row["batch"]) for row in rows})
    figure, panels = plt.subplots(1, len(batches), figsize=(5 * len(batches), 4), squeeze=False, layout="constrained")
    for panel, batch in zip(panels[0], batches, strict=True):
        here = [row for row in rows if int(row["batch"]) == batch]
        for (variant, stride), (label, color, marker) in CURVES.items():
            mine = sorted((row for row in here if (row["variant"], row["stride"]) == (variant, stride)), key=context)
            times = [[1000 * float(row[f"latency_{name}ms"]) for row in mine] for name in ("", "low_", "high_")]
            off = [[mid - low for mid, low in zip(times[0], times[1], strict=True)],
                   [high - mid for mid, high in zip(times[0], times[2], strict=True)]]  # fmt: skip
            panel.errorbar([*map(context, mine)], times[0], off, color=color, marker=marker, markersize=5, capsize=2, label=label)
            if variant == "whole_triton":
                limit = [float(row["bytes"]) / bandwidth_gbps / 1000 for row in mine]
                panel.plot(
                    [*map(context, mine)], limit, color=color, linestyle=":", label="its bytes at the memory's datasheet rate"
                )
        panel.set(xscale="log", yscale="log", title=f"batch {batch}", xlabel="context (tokens)", ylabel="one step (us)")
        ticks = sorted({*map(context, here)})
        panel.set_xticks(ticks, [f"{tick // 1024}k" for tick in ticks])
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    panels[0][0].legend(fontsize=8)
    figure.suptitle("One decoding step, 64 query / 4 KV heads of 128, bf16, CUDA-graph replay")
    figure.savefig(out, dpi=120)


def context(row: dict[str, str]) -> int:
    """The tokens in the cache."""
    return int(row["context"])


def main() -> None:
    """Read the command line, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder of a run of workload=nsa_decode")
    parser.add_argument("--gpu", default="h200", help="its file in conf/gpu")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    draw(read(given.run), given.gpu, given.out)


if __name__ == "__main__":
    main()
