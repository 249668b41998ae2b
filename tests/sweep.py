"""Every op that torch's own databases of samples dispatch, forward and backward."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby, islice
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from flopcount import Cost, FlopCounter
from flopcount.cost import ZERO

DTYPES = (torch.float32, torch.complex64)
OTHERS = (torch.int64, torch.bool, torch.float64, torch.int8)
"""For ops that know neither of the above."""


def leaves(values: Any) -> list[Tensor]:
    """The tensors in ``values`` that want a gradient."""
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor) and leaf.requires_grad]


def step(call: Any, inputs: Any) -> None:
    """Forward, and backward from ones to every leaf of ``inputs``."""
    outputs = leaves(call())
    wanted = [leaf for leaf in leaves(inputs) if leaf.is_leaf]
    if outputs and wanted:
        ones = [torch.ones_like(output) for output in outputs]
        torch.autograd.grad(outputs, wanted, ones, allow_unused=True)


def operators(samples: int | None, named: str = "") -> Iterator[tuple[str, Any, Any]]:
    """``(name, call, inputs)`` of ``samples`` samples of each operator and dtype.

    Args:
        samples: how many; None takes all.
        named: a part of the names of the operators.
    """
    from torch.testing._internal import common_utils
    from torch.testing._internal.common_methods_invocations import op_db

    # it looks through all modules for a test of torch's, at each operator
    vars(common_utils)["extract_test_fn"] = lambda: None
    for op in (op for op in op_db if named in op.full_name):
        known = [dtype for dtype in DTYPES if op.supports_dtype(dtype, "cpu")]
        known = known or [dtype for dtype in OTHERS if op.supports_dtype(dtype, "cpu")][:1]
        for dtype in known:
            floating = dtype.is_floating_point or dtype.is_complex
            inputs = op.sample_inputs("cpu", dtype, requires_grad=op.supports_autograd and floating)
            for sample in islice(inputs, samples):
                values = sample.input, sample.args, sample.kwargs
                yield (
                    f"{op.full_name} {dtype}",
                    lambda op=op, s=sample: op(s.input, *s.args, **s.kwargs),
                    values,
                )


def modules(samples: int | None) -> Iterator[tuple[str, Any, Any]]:
    """The same for the modules of torch.nn, in training and evaluation."""
    from torch.testing._internal.common_modules import module_db

    for info in module_db:
        for training in (True, False):
            inputs = info.module_inputs_func(
                info, device="cpu", dtype=torch.float32, requires_grad=True, training=training
            )
            for sample in islice(inputs, samples):
                if sample.forward_input is None:
                    continue
                made, given = sample.constructor_input, sample.forward_input
                module = info.module_cls(*made.args, **made.kwargs).train(training)
                yield (
                    info.name,
                    lambda m=module, g=given: m(*g.args, **g.kwargs),
                    (list(module.parameters()), given.args, given.kwargs),
                )


def optimizers(samples: int | None) -> Iterator[tuple[str, Any, Any]]:
    """A step of each optimizer, in every form that it has."""
    from torch.testing._internal.common_optimizers import optim_db

    for info in optim_db:
        for form in ("for-loop", *info.supported_impls):
            flags = {} if form == "for-loop" else {form: True}
            for sample in islice(info.optim_inputs_func(device="cpu"), samples):
                layer = torch.nn.Linear(4, 3)
                try:
                    optimizer = info.optim_cls(layer.parameters(), **{**sample.kwargs, **flags})
                except (RuntimeError, ValueError):  # two flags that exclude each other
                    continue

                def train(layer: Any = layer, optimizer: Any = optimizer) -> None:
                    def loss() -> Tensor:
                        optimizer.zero_grad()
                        result = layer(torch.ones(2, 4)).sum()
                        result.backward()
                        return result

                    loss()
                    optimizer.step(loss)

                yield f"{info.optim_cls.__name__} {form}", train, ()


@dataclass
class Swept:
    """What programs did.

    Attributes:
        programs: how many calls came to their end.
        costs: what each op cost in all of them.
        uncounted: ops whose cost is not known, each with a program that it came by in.
    """

    programs: int = 0
    costs: dict[str, Cost] = field(default_factory=dict)
    uncounted: dict[str, str] = field(default_factory=dict)


def swept(programs: Iterable[tuple[str, Any, Any]]) -> Swept:
    """Run ``programs`` under a counter, those of one name together."""
    found = Swept()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, group in groupby(programs, key=itemgetter(0)):
            with FlopCounter() as counter:
                for _, call, inputs in group:
                    # what a sample needs that is not here, torch's own tests know
                    with suppress(Exception):
                        step(call, inputs)
                        found.programs += 1
            report = counter.report()
            for op, cost in report.by_operator().items():
                found.costs[op] = found.costs.get(op, ZERO) + cost
            for op in report.uncounted:
                found.uncounted.setdefault(op, name)
    return found
