"""Each binding calls the very overload that it stands for, whatever the arguments are."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch

from flopcount.torch_private.ops import BINDINGS
from tests.torch_private.ops import Ops

M, N, V = torch.rand(3, 3), torch.rand(3, 3), torch.rand(2, 3, 3)
IMAGE, KERNEL, ONES = torch.rand(1, 2, 5, 5), torch.rand(3, 2, 3, 3), [1, 1]
NUMBERS = [((M, N), {}), ((M, 2), {}), ((M, 0.5), {}), ((M, N[0]), {})]

SAMPLES: dict[str, list[tuple[tuple[Any, ...], dict[str, Any]]]] = {
    "aten::add.Tensor": [*NUMBERS, ((2, M), {}), ((M, N), {"alpha": 2}), ((M, 3), {"alpha": 0.5})],
    "aten::add_.Tensor": [*NUMBERS, ((M, N), {"alpha": -0.1})],
    "aten::addmm": [((N[0], M, N), {}), ((M, M, N), {"beta": 2, "alpha": 0.5})],
    "aten::bmm": [((V, V), {})],
    "aten::cat": [(([M, N],), {}), (([M, N], 1), {}), (([M, torch.empty(0)], -1), {})],
    "aten::convolution": [
        ((IMAGE, KERNEL, bias, ONES, [0, 1], ONES, False, [0, 0], 1), {})
        for bias in (None, torch.rand(3))
    ],
    "aten::div.Tensor": [*NUMBERS, ((2, M), {})],
    "aten::div_.Tensor": NUMBERS,
    "aten::clone": [((M.T,), {}), ((M.T,), {"memory_format": torch.contiguous_format})],
    "aten::embedding": [((M, M.argsort()), {}), ((M, M.argsort(), 1, True, False), {})],
    "aten::expand": [((M[0], [2, 3]), {}), ((M, [-1, 3]), {"implicit": True})],
    "aten::mean.dim": [((M, dims, *keeps), {}) for dims in ([0], None) for keeps in ((), (True,))],
    "aten::mm": [((M, N), {})],
    "aten::mul.Tensor": [*NUMBERS, ((2, M), {}), ((M, 2j), {}), ((M > 0.5, True), {})],
    "aten::mul_.Tensor": NUMBERS,
    "aten::native_batch_norm": [
        ((V, None, None, None, None, True, 0.1, 1e-5), {}),
        ((V, N[0], N[1], N[0].clone(), N[1].clone(), True, 0.1, 1e-5), {}),
        ((V, N[0], N[1], M[0], M[1], False, 0.1, 1e-5), {}),
    ],
    "aten::native_layer_norm": [
        ((V, [3], None, None, 1e-5), {}),
        ((V, [3, 3], M, N, 1e-5), {}),
    ],
    "aten::permute": [((V, [2, 0, 1]), {})],
    "aten::select.int": [((V, -1, 2), {})],
    "aten::stack": [(([M, N],), {}), (([M, N], -1), {})],
    "aten::sub.Tensor": [*NUMBERS, ((2, M), {}), ((M, N), {"alpha": 2})],
    "aten::sum.dim_IntList": [
        ((M, dims, *keeps), options)
        for dims in ([0], [0, -1], [], None)
        for keeps in ((), (True,))
        for options in ({}, {"dtype": torch.float64})
    ],
    "aten::t": [((M,), {}), ((M[0],), {})],
    "aten::transpose.int": [((V, 0, -1), {})],
    "aten::unsqueeze": [((M, -1), {})],
    "aten::view": [((M, [9]), {}), ((M, [-1, 1]), {})],
}
"""Calls of ops that have other arguments than one tensor."""


def assert_equal(ours: Any, theirs: Any) -> None:
    assert type(ours) is type(theirs)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("op", BINDINGS, ids=str)
def test_a_binding_calls_this_very_overload_with_these_arguments(op: Any) -> None:
    seen = []
    for args, options in SAMPLES.get(op.name(), [((M,), {})]):
        theirs, ours = deepcopy(args), deepcopy(args)
        with Ops(lambda func, args: (func, str(args))) as expected:
            result = op(*theirs, **options)
        with Ops(lambda func, args: (func, str(args))) as found:
            same = BINDINGS[op](*ours, **options)
        assert_equal(same, result)
        assert (same is ours[0]) == (result is theirs[0]) == op.name().split(".")[0].endswith("_")
        assert found.seen == expected.seen
        seen += [func for func, _ in found.seen]
    assert set(seen) == {op}
