"""Thresholds: from which x on a candidate beats a baseline, derived from a journal's raw samples and nothing else.

| module | what |
|---|---|
| `evidence` | what a derived threshold is: a decision, a value, the rows and scopes behind it |
| `rule` | from rows to a decision: where the walk from the decisive end stops |
| `derivation` | from a journal to rows, and per scope |
| `document`, `words` | thresholds.yaml, and the same in sentences |
| `choose` | the consumer: which variant to dispatch to |
| `apply`, `edit` | into the consumer's own YAML, with nothing else in it touched |

docs/thresholds.md says it with examples. The names below are imported when they are first used: `choose` is for runtimes that
have nothing but PyYAML, and `python -m runner.thresholds --help` waits for nobody.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runner.thresholds.derivation import UNFIT, derive, derive_all
    from runner.thresholds.document import SCHEMA, as_dict, head, thresholds
    from runner.thresholds.evidence import LOSS, OPEN, WIN, Evidence, Row, Scoped
    from runner.thresholds.words import in_words

__all__ = [
    "LOSS", "OPEN", "SCHEMA", "UNFIT", "WIN", "Evidence", "Row", "Scoped", "as_dict", "derive", "derive_all", "head", "in_words",
    "thresholds",
]  # fmt: skip

_HOMES = {
    "derivation": ("UNFIT", "derive", "derive_all"),
    "document": ("SCHEMA", "as_dict", "head", "thresholds"),
    "evidence": ("LOSS", "OPEN", "WIN", "Evidence", "Row", "Scoped"),
    "words": ("in_words",),
}

if not TYPE_CHECKING:  # a type checker would take every name for known

    def __getattr__(name: str) -> object:
        """Import a public name from its module."""
        for module, names in _HOMES.items():
            if name in names:
                return getattr(import_module(f"{__name__}.{module}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
