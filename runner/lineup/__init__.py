"""One machine on one page: its hardware held against the datasheet, every table with intervals, money, energy, and old claims.

| module | what |
|---|---|
| `claims`, `claims/*.yaml` | what the source reports claim, what is behind it, and how each claim is held against measured runs |
| `prices` | dated prices of the machine's GPU, with their source |
| `page` | lineup.md |

`python -m runner.lineup SWEEP` writes it; `experiment=gpu_lineup` ends with it. docs/lineup.md says what is on it.
"""

from runner.lineup.files import NAME, of_sweep, verdicts, write

__all__ = ["NAME", "of_sweep", "verdicts", "write"]
