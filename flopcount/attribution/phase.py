"""The phases of a step."""

PHASES = ("forward", "backward", "recompute", "optimizer")
"""When an op runs. ``recompute`` is forward work done again while backward runs: by activation
checkpointing, or inside a fused kernel."""

FORWARD, BACKWARD, RECOMPUTE, OPTIMIZER = PHASES
