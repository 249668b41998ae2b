"""The phases of a step."""

PHASES = ("forward", "backward", "recompute", "optimizer", "other")
"""When an op runs. ``recompute`` is forward work done again while backward runs: by activation
checkpointing, or inside a fused kernel. ``other`` runs outside every module with gradients off:
clipping, unscaling, averages of weights, metrics."""

FORWARD, BACKWARD, RECOMPUTE, OPTIMIZER, OTHER = PHASES
