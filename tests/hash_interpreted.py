"""Runs the kernel of hash_rate on a CPU, for tests/test_hash_rate.py: `TRITON_INTERPRET=1 python -m tests.hash_interpreted`.

Triton looks at that variable when it is imported, so this is a process of its own. Prints, as JSON, what it found.
"""

import json
import sys

import torch

from workloads.hash_rate import kernels, sha256, torch_ops

NONCES = 257
"""Two full blocks of lanes, and one that has a single nonce."""

if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.modules["workloads.hash_rate.kernels.sha256d"].MOST_PROGRAMS = 2  # so that the first program comes round to the third
    middle = torch.randint(-(2**31), 2**31, (12,), generator=torch.Generator().manual_seed(0)).to(torch.int32)
    middle[11] = 2**31 - 100  # the nonces run over the largest int32
    found = kernels.sha256d(middle, NONCES)
    differ = int((found != torch_ops.sha256d(middle, NONCES)).any(0).sum())
    abc = sha256.digest(b"abc", lambda state, block: kernels.fold(state, block, torch.device("cpu")))
    json.dump({"differ": differ, "abc": abc}, sys.stdout)
