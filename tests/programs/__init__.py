"""Programs that are hard to attribute, each with the rows that are right, derived by hand."""

import torch.distributed

from tests.programs import (  # noqa: F401
    backward,
    checkpointed_functions,
    forward,
    functional,
    hooks,
    kernels,
    owners,
    pipelines,
    recompute,
    steps,
    structure,
    threads,
)
from tests.programs.catalogue import PROGRAMS, Program, Row, U

if torch.distributed.is_available() and torch.distributed.is_gloo_available():
    from tests.programs import distributed  # noqa: F401

__all__ = ["PROGRAMS", "Program", "Row", "U"]
