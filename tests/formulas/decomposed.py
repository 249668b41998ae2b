"""An op's cost by torch's own decomposition, in which the op's formula has no part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch._decomp import decomposition_table
from torch.utils._pytree import tree_map_only

import flopcount
from flopcount import Cost, Report
from flopcount.formulas import plan_of
from flopcount.formulas.steps import elementwise, fold

Formula = Callable[..., Cost]


def _each(**steps: int) -> Formula:
    return lambda *args, out, **kwargs: elementwise(out, **steps)


def _reduction(x: Tensor, *args: Any, out: Tensor, **kwargs: Any) -> Cost:
    return Cost(arith=fold(x.numel(), out.numel()))


def _variance(x: Tensor, *args: Any, out: Tensor, **kwargs: Any) -> Cost:
    """Two passes: the mean's m - 1 additions and division, then m differences, m squares, again
    m - 1 additions and a division."""
    return Cost(arith=4 * x.numel())


def _free(*args: Any, out: Any, **kwargs: Any) -> Cost:
    return Cost()


PRIMS: dict[str, Formula] = {
    "prims::add": _each(add=1),
    "prims::sub": _each(add=1),
    "prims::mul": _each(mul=1),
    "prims::div": _each(div=1),
    "prims::sqrt": _each(sqrt=1),
    "prims::rsqrt": _each(sqrt=1, div=1),
    "prims::exp": _each(special=1),
    "prims::log": _each(special=1),
    "prims::neg": _each(compare=1),
    "prims::where": _each(compare=1),
    "prims::sum": _reduction,
    "prims::prod": _reduction,
    "prims::var": _variance,
    "prims::convert_element_type": _free,
}
"""What decompositions end in, counted by nothing but the definition of each."""


def decomposed_cost(op: Any, *args: Any, **kwargs: Any) -> Cost:
    """What the first level of ``op``'s decomposition costs on meta tensors, without bytes.

    The ops that the decomposition calls are counted by their own formulas.

    Args:
        op: an overload, such as ``torch.ops.aten.native_layer_norm.default``.
        args, kwargs: what it is called with; tensors are only looked at for shape and dtype.
    """
    return plain(_decomposed(op, *args, **kwargs).total)


def decomposed_calls(op: Any, name: str, *args: Any, **kwargs: Any) -> int:
    """How often ``op``'s decomposition calls the op ``name``: torch's versions write it anew."""
    report = _decomposed(op, *args, **kwargs)
    return sum(row.calls for row in report.entries if row.op == name)


def _decomposed(op: Any, *args: Any, **kwargs: Any) -> Report:
    args, kwargs = tree_map_only(Tensor, lambda tensor: tensor.to("meta"), (args, kwargs))
    decomposition = decomposition_table.get(op) or op.decompose
    with flopcount.FlopCounter(formulas=PRIMS) as counter:
        decomposition(*args, **kwargs)
    report = counter.report()
    assert not report.uncounted, f"the decomposition of {op} has uncounted ops: {report.uncounted}"
    return report


def plain(cost: Cost) -> Cost:
    """``cost`` without its bytes, to be compared with a decomposed one."""
    return replace(cost, read=0, written=0)


def measured(op: Any, *args: Any, **kwargs: Any) -> Cost:
    """What the counter says of one call of ``op``, without bytes."""
    with flopcount.FlopCounter() as counter, torch.no_grad():
        op(*args, **kwargs)
    report = counter.report()
    assert not report.uncounted, f"uncounted: {report.uncounted}"
    return plain(report.total)


def billed(op: Any, *args: Any, out: Any = None) -> Cost:
    """What the counter would say of a call that only an accelerator can make, without bytes."""
    answer = plan_of(op).bill(args, {}, out)
    assert answer.counted, f"{op} is uncounted"
    return plain(answer.cost)
