"""Calls of one cost share a key; calls of different costs never do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from flopcount import FlopCounter
from flopcount.counter.signature import signer
from flopcount.formulas import plan_of
from tests.models import SMALL

aten = torch.ops.aten
x, y, z = torch.ones(2, 3), torch.ones(2, 3), torch.ones(2, 3)
image, whole = torch.ones(1, 1, 10, 10), torch.ones(2, 3, dtype=torch.int64)


def key(op: Any, *args: Any, **kwargs: Any) -> Any:
    return signer(plan_of(op))("here", plan_of(op), args, kwargs, op(*args, **kwargs))


ALIKE: dict[str, tuple[Any, Any]] = {
    "the same shapes": (key(aten.add.Tensor, x, y), key(aten.add.Tensor, y, z)),
    "factors": (
        key(aten.mul.Tensor, x, 0.123),
        key(aten.mul.Tensor, x, 0.124),
    ),
    "a learning rate": (
        key(aten.add.Tensor, x, y, alpha=-0.101),
        key(aten.add.Tensor, x, y, alpha=-0.102),
    ),
    "a number in a list": (
        key(aten._foreach_mul.ScalarList, [x, y], [0.12, 0.34]),
        key(aten._foreach_mul.ScalarList, [x, y], [0.56, 0.78]),
    ),
}

DIFFERENT: dict[str, tuple[Any, Any]] = {
    "another shape": (key(aten.relu.default, x), key(aten.relu.default, x.T.contiguous())),
    "another dtype": (key(aten.relu.default, x), key(aten.relu.default, x.double())),
    "an expanded operand": (
        key(aten.relu.default, x),
        key(aten.relu.default, torch.ones(1).expand(2, 3)),
    ),
    "one operand twice": (key(aten.add.Tensor, x, y), key(aten.add.Tensor, x, x)),
    "the third operand again": (
        key(aten.addcmul.default, x, y, z),
        key(aten.addcmul.default, x, y, x),
    ),
    "a list again": (
        key(aten._foreach_add.List, [x, y], [y, z]),
        key(aten._foreach_add.List, [x, y], [x, y]),
    ),
    "alpha that is 1": (
        key(aten.add.Tensor, x, y, alpha=1.0),
        key(aten.add.Tensor, x, y, alpha=0.3),
    ),
    "an exponent": (key(aten.pow.Tensor_Scalar, x, 2.0), key(aten.pow.Tensor_Scalar, x, 3.0)),
    "a whole number and a float": (
        key(aten.mul.Tensor, whole, 2),
        key(aten.mul.Tensor, whole, 2.0),
    ),
    "a float and a complex number": (
        key(aten.mul.Tensor, x, 2.0),
        key(aten.mul.Tensor, x, 2 + 0j),
    ),
    "exponents of two kinds": (
        key(aten.pow.Tensor_Scalar, whole, 2),
        key(aten.pow.Tensor_Scalar, whole, 2.0),
    ),
    "a truth and a number": (
        key(aten.mul.Tensor, whole > 0, True),
        key(aten.mul.Tensor, whole > 0, 1),
    ),
    "a number and a tensor": (key(aten.mul.Tensor, x, 2.0), key(aten.mul.Tensor, x, y)),
    "floats that are no coefficients": (
        key(aten.leaky_relu.default, x, 0.123),
        key(aten.leaky_relu.default, x, 0.124),
    ),
    "dimensions": (key(aten.sum.dim_IntList, x, [0]), key(aten.sum.dim_IntList, x, [1])),
    "scalings of an image": (
        key(aten.upsample_bilinear2d.vec, image, None, False, [1.3, 1.3]),
        key(aten.upsample_bilinear2d.vec, image, None, False, [7.7, 7.7]),
    ),
    "lengths of a range": (key(aten.arange.default, 1.7), key(aten.arange.default, 9.7)),
    "tensors that repeat in a list": (
        key(aten.cat.default, [x, x]),
        key(aten.cat.default, [x, y]),
    ),
    "tensors that repeat across lists": (
        key(aten._foreach_add.List, [x, y], [z, y]),
        key(aten._foreach_add.List, [x, y], [y, z]),
    ),
    "a complex factor of 1": (
        key(aten.add.Tensor, x, y, alpha=1.0),
        key(aten.add.Tensor, x.cfloat(), y, alpha=1j),
    ),
    "a result that depends on values": (
        key(aten.nonzero.default, torch.tensor([0, 1])),
        key(aten.nonzero.default, torch.tensor([1, 1])),
    ),
}


@pytest.mark.parametrize("name", ALIKE)
def test_alike(name: str) -> None:
    one, other = ALIKE[name]
    assert one == other
    assert hash(one) == hash(other)


@pytest.mark.parametrize("name", DIFFERENT)
def test_different(name: str) -> None:
    one, other = DIFFERENT[name]
    assert one != other


OPTIMIZERS = {
    "SGD": {"momentum": 0.9, "weight_decay": 0.1},
    "Adam": {"amsgrad": True},
    "AdamW": {},
    "Adagrad": {"lr_decay": 0.1},
}

WAYS = {
    "one by one": {"foreach": False},
    "in lists": {"foreach": True},
    "fused": {"fused": True},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("model", SMALL)
def test_a_later_step_brings_nothing_new(model: str, optimizer: str, way: str) -> None:
    """Whatever changes from step to step is no part of a key: each op is one look-up."""
    net, inputs = SMALL[model]()
    options = {"lr": 0.0123, **OPTIMIZERS[optimizer], **WAYS[way]}
    stepper = getattr(torch.optim, optimizer)(net.parameters(), **options)
    with FlopCounter() as counter:
        sizes = []
        for _ in range(40):  # past the step numbers that stand for themselves
            stepper.zero_grad()
            net(inputs).sum().backward()
            stepper.step()
            stepper.param_groups[0]["lr"] *= 0.99
            sizes.append(len(counter._local.tally.calls))
    assert len(set(sizes[-5:])) == 1
    assert isinstance(net, nn.Module)
