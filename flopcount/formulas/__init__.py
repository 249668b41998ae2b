"""Formulas: what one call of an op costs, from shapes and dtypes alone."""

from importlib import import_module
from pkgutil import iter_modules

from flopcount.formulas import ops
from flopcount.formulas.bill import Bill
from flopcount.formulas.call import with_functions
from flopcount.formulas.plan import CONTROL_FLOW, Plan, describe, plan_of
from flopcount.formulas.registry import (
    Decision,
    Formula,
    Gradients,
    Uncountable,
    formula,
    formulas_by_name,
    free,
)

for family in iter_modules(ops.__path__):
    import_module(f"{ops.__name__}.{family.name}")  # its formulas register themselves

__all__ = [
    "CONTROL_FLOW",
    "Bill",
    "Decision",
    "Formula",
    "Gradients",
    "Plan",
    "Uncountable",
    "describe",
    "formula",
    "formulas_by_name",
    "free",
    "plan_of",
    "with_functions",
]
