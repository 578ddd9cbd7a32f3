"""What several runs say together: thresholds by GPU, one table, pictures and a page, derived from their journals.

| module | what |
|---|---|
| `sources` | which runs: a sweep's jobs, or any folders |
| `reading`, `facts` | each journal read once; what is kept of a run |
| `union`, `document` | thresholds over the cases of several runs; the merged thresholds.yaml |
| `comparison` | comparison.csv, and which of equal measurements is the latest |
| `prices` | what a GPU, a call and all of it cost |
| `studies`, `panels` | what may share a picture, and what each shows |
| `canvas`, `curves`, `roofline`, `pictures` | the pictures |
| `findings`, `caveats`, `page` | report.md |
| `names` | what tells one of many from the others |

docs/merged.md says what is in the files. `python -m runner.merged DIR... --out DIR` writes them.
"""

from runner.merged.facts import Price, Run
from runner.merged.files import Merged, merge, write

__all__ = ["Merged", "Price", "Run", "merge", "write"]
