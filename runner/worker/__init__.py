"""The data plane: takes a job, measures it on this machine's device, writes the journal. Needs torch, numpy and scipy only."""
