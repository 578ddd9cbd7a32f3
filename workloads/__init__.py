"""The workloads: each module declares what is computed, by which variants, and what is true; none of them measures."""
