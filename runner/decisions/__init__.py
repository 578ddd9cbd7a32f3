"""Decisions: yes, no or undecided to a declared question, with the interval of every case as evidence.

A case says yes when its whole interval is at or above the bound, no when all of it is below. `hardware` is built in: is
this the GPU that was asked for? docs/thresholds.md says it with examples.
"""

from runner.decisions.answers import Answer, Found, Row, as_dict, derive, derive_all, hardware, in_words

__all__ = ["Answer", "Found", "Row", "as_dict", "derive", "derive_all", "hardware", "in_words"]
