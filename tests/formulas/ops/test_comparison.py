from __future__ import annotations

from typing import Any

import pytest
import torch

from flopcount import Cost
from tests.formulas.decomposed import measured

X, Y = torch.rand(3, 4), torch.rand(3, 4)
Z = torch.complex(X, Y)


@pytest.mark.parametrize(
    ("a", "b", "compare"),
    [
        pytest.param(X, X.clone(), 12, id="each pair of elements"),
        pytest.param(X, Y, 12, id="a kernel that stops early is taken for one that does not"),
        pytest.param(Z, Z.clone(), 2 * 12, id="both parts of complex ones"),
        pytest.param(X, Y[:2], 0, id="other shapes are told at once"),
        pytest.param(X.long(), X.long() + 1, 0, id="integers are free"),
    ],
)
def test_equal_tensors(a: torch.Tensor, b: torch.Tensor, compare: int) -> None:
    b = b.clone()
    assert measured(lambda: torch.ops.aten.equal(a, b)) == Cost(compare=compare)


@pytest.mark.parametrize(
    ("a", "b", "options", "expected"),
    [
        # a = b, |rtol·b|, |a - b|, x = x, |x|, |x| ≠ ∞, <=; a product, a sum, a difference
        pytest.param(X, Y, {}, Cost(compare=7 * 12, arith=3 * 12), id="real"),
        pytest.param(X, Y, {"rtol": 0.0}, Cost(compare=7 * 12, arith=3 * 12), id="rtol = 0"),
        pytest.param(
            X, Y, {"equal_nan": True}, Cost(compare=9 * 12, arith=3 * 12), id="numbers or not"
        ),
        pytest.param(X, Y, {"rtol": 0.0, "atol": 0.0}, Cost(compare=12), id="only equality"),
        # two parts equal; rtol·b 2, its modulus 4, + atol; a - b 2, its modulus 4
        pytest.param(Z, Z.clone(), {}, Cost(compare=6 * 12, arith=13 * 12), id="complex"),
        pytest.param(
            Z,
            Z.clone(),
            {"equal_nan": True},
            Cost(compare=10 * 12, arith=13 * 12),
            id="complex numbers or not",
        ),
        pytest.param(
            X,
            Y[0],
            {"equal_nan": True},
            Cost(compare=7 * 12 + 2 * 4, arith=12 + 2 * 4),
            id="broadcast: |rtol·b| + atol once for each element of b",
        ),
    ],
)
def test_tensors_close_to_each_other(
    a: torch.Tensor, b: torch.Tensor, options: dict[str, Any], expected: Cost
) -> None:
    cost = measured(lambda: torch.allclose(a, b, **options))
    assert cost == expected
    # isclose is made of other ops; that all are true is a matter of booleans
    assert cost == measured(lambda: torch.isclose(a, b, **options).all())
