"""From time to throughput: TFLOPS, GB/s and their share of what the datasheet says the GPU can do."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from runner.spec import GpuSpec
from runner.worker.workload import Work


@dataclass(frozen=True)
class Rates:
    """Throughput of one measurement (TOPS instead of TFLOPS for int8); None where no datasheet figure exists.

    `per_second` has the workload's own rates by their names.
    """

    tflops: float
    bandwidth_gbps: float
    pct_of_peak: float | None
    pct_of_bandwidth: float | None
    peak_tflops: float | None
    peak_bandwidth_gbps: float | None
    per_second: Mapping[str, float]

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for the journal."""
        return asdict(self)


def rates(work: Work, time_ms: float, dtype: str, gpu: GpuSpec | None, own_ms: float | None = None) -> Rates:
    """Return the throughput of `work` done in `time_ms`; the workload's own rates are formed from `own_ms`, where it is given."""
    tflops = work.ops / time_ms / 1e9
    bandwidth = work.bytes / time_ms / 1e6
    peak = gpu.peak_tflops.get(dtype) if gpu else None
    limit = gpu.bandwidth_gbps if gpu else None
    return Rates(
        tflops=tflops,
        bandwidth_gbps=bandwidth,
        pct_of_peak=100 * tflops / peak if peak else None,
        pct_of_bandwidth=100 * bandwidth / limit if limit else None,
        peak_tflops=peak,
        peak_bandwidth_gbps=limit,
        per_second={name: amount / (own_ms or time_ms) * 1e3 for name, amount in work.per_second.items()},
    )


def impossible(
    found: Rates, work: Work, dtype: str, gpu: GpuSpec | None, max_clock_mhz: float | None, l2_bytes: int
) -> str | None:
    """Say why a throughput can't be true, None when it can.

    Datasheet peaks hold at the datasheet's boost clock; boards may clock higher, so the limit scales with the highest clock
    the driver reports. Bandwidth is only held against device memory when the data is several times the L2.
    """
    if gpu is None:
        return None
    clock = max(1.0, (max_clock_mhz or 0) / gpu.peak_clock_mhz.get(dtype, gpu.boost_clock_mhz))
    if found.peak_tflops and found.tflops > found.peak_tflops * clock:
        return (
            f"{found.tflops:.3g} TFLOPS is {found.tflops / found.peak_tflops / clock:.0%} of the most this GPU can do:"
            " work was skipped, miscounted, or the datasheet is another GPU's"
        )
    if work.bytes > 4 * l2_bytes and found.pct_of_bandwidth and found.pct_of_bandwidth > 100:
        return (
            f"{found.bandwidth_gbps:.4g} GB/s is {found.pct_of_bandwidth:.0f}% of the memory bandwidth:"
            " bytes were skipped, miscounted, or the datasheet is another GPU's"
        )
    return None
