"""What datasheets promise: memory and tokens/s of language models by arithmetic. Nothing is measured, nothing becomes a metric.

A job of `mode: projection` holds models and datasheets; the report works `projection.yaml` out from these.
"""

MODE, MODULE = "projection", "runner.projection"
"""The mode of such a workload, and its module: there is nothing to run."""
