"""Records runs in MLflow: while they go on, or later from their folder, and in both cases once. docs/tracking.md.

Nothing here imports mlflow before it is needed: that takes some 3 s (`start_import` does it on the side).
"""

from runner.tracking.recorder import Recorder
from runner.tracking.store import Place, check, place, start_import, ui_hint

__all__ = ["Place", "Recorder", "check", "place", "start_import", "ui_hint"]
