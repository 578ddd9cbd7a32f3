"""The columns of measurements.csv that every workload has: names that nothing else may take."""

COLUMNS = (
    "status", "reason", "timing", "timer", "latency_ms", "latency_low_ms", "latency_high_ms", "precision_pct", "samples",
    "samples_effective", "latency_min_ms", "latency_p95_ms", "latency_max_ms", "latency_stdev_ms", "latency_warm_ms",
    "latency_warm_low_ms", "latency_warm_high_ms", "latency_wall_ms", "latency_wall_low_ms", "latency_wall_high_ms",
    "launch_bound", "speedup", "speedup_low", "speedup_high", "verdict", "throughput_tflops", "bandwidth_gbps",
    "pct_of_peak", "pct_of_bandwidth", "ops", "bytes", "peak_memory_mb", "leak_bytes_per_call", "energy_mj",
    "first_call_ms", "sm_clock_mhz", "temperature_c", "power_w", "throttled_samples", "warnings", "measured_at",
)  # fmt: skip
"""The columns after the axes, in order; an empty field means that there is no such figure."""
