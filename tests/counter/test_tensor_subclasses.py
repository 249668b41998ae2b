"""Programs with tensors of other classes than torch's own go undisturbed, and are counted.

The numbers are products of a 4 × 8 and an 8 × 8 matrix, that each program says why it takes.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tests.counter.observation import Notes, Programs
from tests.counter.units import batch, linear

PROGRAMS = Programs()
program, test_undisturbed = PROGRAMS.taking, PROGRAMS.as_test()


class Tagged(Tensor):
    """A subclass that notes the functions which are called on it."""

    notes: ClassVar[Notes]

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        cls.notes.append(getattr(func, "__name__", str(func)))
        return super().__torch_function__(func, types, args, kwargs or {})


@program(2)  # forward, and backward of the input
def a_subclass_with_functions_of_its_own(notes: Notes) -> Any:
    Tagged.notes = notes
    x = batch().as_subclass(Tagged).requires_grad_()
    y = x @ torch.ones(8, 8) + 1
    y.sum().backward()
    return y, x.grad


class Int8(Tensor):
    """A weight in 8 bits and a scale for each row, as torchao has it: dequantised to be used."""

    def __new__(cls, values: Tensor, scale: Tensor) -> Int8:
        return Tensor._make_wrapper_subclass(cls, values.shape, dtype=scale.dtype)

    def __init__(self, values: Tensor, scale: Tensor) -> None:
        self.values_, self.scale = values, scale

    def __tensor_flatten__(self) -> Any:
        return ["values_", "scale"], None

    @staticmethod
    def __tensor_unflatten__(inner: Any, *_: Any) -> Int8:
        return Int8(inner["values_"], inner["scale"])

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.detach.default:
            return cls(args[0].values_, args[0].scale)
        plain = [a.values_ * a.scale if isinstance(a, cls) else a for a in args]
        return func(*plain, **(kwargs or {}))


@program(1)
def weights_of_eight_bits(notes: Notes) -> Any:
    layer = linear()
    scale = layer.weight.detach().abs().amax(1, keepdim=True) / 127
    values = (layer.weight.detach() / scale).round().to(torch.int8)
    layer.weight = nn.Parameter(Int8(values, scale), requires_grad=False)
    return layer(batch())


@program(2 * 3)  # each of the two: forward, and both gradients
def a_pair_of_tensors(notes: Notes) -> Any:
    from torch.testing._internal.two_tensor import TwoTensor

    x, weight = (TwoTensor(value, 2 * value).requires_grad_() for value in (batch(), torch.eye(8)))
    y = x @ weight
    y.sum().backward()
    return y, x.grad, weight.grad


class LowRank(Tensor):
    """A matrix that is the product of two, and says nothing of what it holds."""

    def __new__(cls, left: Tensor, right: Tensor) -> LowRank:
        shape = (left.shape[0], right.shape[1])
        return Tensor._make_wrapper_subclass(cls, shape, dtype=left.dtype)

    def __init__(self, left: Tensor, right: Tensor) -> None:
        self.left, self.right = left, right

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func is torch.ops.aten.mm.default
        x, matrix = args
        return x @ matrix.left @ matrix.right


@program(1 / 2)  # of 8 × 8: by 8 × 2, and then by 2 × 8
def a_matrix_of_low_rank(notes: Notes) -> Any:
    return batch() @ LowRank(torch.ones(8, 2), torch.ones(2, 8))


class Labelled(Tensor):
    """A tensor itself, whose ops run as its class says."""

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C._DisableTorchDispatch():
            return func(*args, **(kwargs or {}))


@program(1)
def a_subclass_that_runs_its_ops_unseen(notes: Notes) -> Any:
    return batch() @ torch.ones(8, 8).as_subclass(Labelled)
