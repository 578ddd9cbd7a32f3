"""Everything a run's folder holds beside the job and its journal, derived from those two and nothing else.

`python -m runner.report DIR` makes it all again.
"""

from runner.report.files import Derived, write

__all__ = ["Derived", "write"]
