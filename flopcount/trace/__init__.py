"""Recorded runs: what the file of torch.profiler says that a run cost."""
