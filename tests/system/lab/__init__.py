"""A cloud on one machine for the end-to-end tests: SkyPilot 0.14 on a real Slurm cluster of two nodes with a priced "GPU" each.

`machine.py` is what everything runs in, `slurm.py` the cluster, `skypilot.py` whoever launches, `lab.py` the whole.
By hand: `python -m tests.system.lab start DIR`, then `eval "$(python -m tests.system.lab env DIR)"`, and in the end `stop DIR`.
"""

from tests.system.lab.lab import Lab, running_lab
from tests.system.lab.needs import LabMissing

__all__ = ["Lab", "LabMissing", "running_lab"]
