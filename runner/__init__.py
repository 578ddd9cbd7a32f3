"""Crossover: where one kernel starts to beat another, on which GPU, for how much."""

__version__ = "0.1.0"
