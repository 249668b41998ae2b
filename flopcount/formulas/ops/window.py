"""Windows of signal processing: N values of a function of n, each computed on its own.

N - 1 stands for the period; one that is periodic is computed for a step more, and counted for
what is kept of it. A window of a single value is 1, without arithmetic. Harris, Proceedings of the
IEEE 66, 1978.
"""

from typing import Any

from torch import Tensor

from flopcount.cost import ZERO, Cost
from flopcount.formulas.registry import formula
from flopcount.formulas.steps import elementwise


def steps(out: Tensor, **counts: int) -> Cost:
    """So many steps for each value, if there is more than one."""
    return elementwise(out, **counts) if out.numel() > 1 else ZERO


@formula("aten::bartlett_window")
def bartlett_window(*args: Any, out: Tensor, **options: Any) -> Cost:
    """1 - |2·n / (N - 1) - 1|: a product, two differences and a modulus."""
    return steps(out, mul=1, add=2, compare=1)


@formula("aten::hann_window", "aten::hamming_window")
def hamming_window(*args: Any, out: Tensor, **options: Any) -> Cost:
    """α - β·cos(2·π·n / (N - 1))."""
    return steps(out, mul=2, add=1, special=1)


@formula("aten::blackman_window")
def blackman_window(*args: Any, out: Tensor, **options: Any) -> Cost:
    """0.42 - 0.5·cos(2·π·n / (N - 1)) + 0.08·cos(4·π·n / (N - 1))."""
    return steps(out, mul=4, add=2, special=2)


@formula("aten::kaiser_window")
def kaiser_window(*args: Any, out: Tensor, **options: Any) -> Cost:
    """I₀(β·√(1 - (2·n / (N - 1) - 1)²)) / I₀(β), the divisor evaluated once."""
    divisor = Cost(special=int(out.numel() > 1))
    return divisor + steps(out, mul=3, add=2, sqrt=1, div=1, special=1)
