"""What tests of reductions, norms and sorts compare in the same way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from flopcount import Cost
from tests.formulas.counting import counting, floats, numbers
from tests.formulas.decomposed import measured
from tests.formulas.reports import report_of


def assert_counted_by_loop(
    loop: Callable[..., Any], x: Tensor, call: Callable[[], Any], also: Cost
) -> None:
    """Assert that ``call`` gives what ``loop`` gives of x, and costs as much but for ``also``."""
    values = numbers(x)
    with counting() as tally:
        result = loop(values)
    np.testing.assert_allclose(floats(result), call(), atol=1e-4)
    assert measured(call) + also == tally.cost


def assert_placed(
    call: Callable[..., Any], comparisons: int, out: tuple[Tensor, Tensor], *, read: int
) -> None:
    """Assert that ``call`` makes comparisons alone, and only writes the values and places."""
    total = report_of(lambda: call(out)).total
    assert total.flops == total.compare == comparisons
    assert (total.read, total.written) == (read, (4 + 8) * out[0].numel())
