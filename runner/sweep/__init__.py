"""Many jobs at once: expanded and checked together, grouped by machine, run, resumed, merged."""
