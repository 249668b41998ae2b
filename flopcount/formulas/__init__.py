"""Formulas: what one call of an op costs, from shapes and dtypes alone. One room per family."""

from flopcount.formulas import (  # noqa: F401  (each room registers its ops)
    attention,
    convolution,
    foreach,
    indexing,
    loss,
    matmul,
    movement,
    normalization,
    optimizer,
    pointwise,
    pooling,
    quantized,
    random,
    reduction,
    resampling,
    transformer,
)
from flopcount.formulas.registry import (
    Bill,
    Decision,
    Formula,
    Gradients,
    Plan,
    Uncountable,
    describe,
    formula,
    free,
    op_name,
    plan,
    rule_count,
)

__all__ = [
    "Bill",
    "Decision",
    "Formula",
    "Gradients",
    "Plan",
    "Uncountable",
    "describe",
    "formula",
    "free",
    "op_name",
    "plan",
    "rule_count",
]
