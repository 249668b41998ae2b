"""Tensors are found in whatever ops, modules and programs take and give."""

from __future__ import annotations

from collections import OrderedDict, UserDict, namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from flopcount.torch_private.tensors import is_foreign, tensors_in

a, b = torch.ones(1), torch.ones(2)
Pair = namedtuple("Pair", "first second")


@dataclass
class Output:
    first: Tensor
    second: Any


@dataclass(slots=True)
class Slotted:
    first: Tensor
    second: Any


class Cache:
    """A container that torch is told of."""

    def __init__(self, *items: Any) -> None:
        self.items = list(items)


pytree.register_pytree_node(Cache, lambda c: (c.items, None), lambda items, _: Cache(*items))


@pytest.mark.parametrize(
    "value",
    [
        [a, b],
        (a, [b]),
        [[[a]], None, (b, 1, "text", torch.float32)],
        {"first": a, "second": {"third": [b, None]}},
        OrderedDict(first=a, second=b),
        UserDict(first=a, second=b),
        Pair(a, b),
        Output(a, [b]),
        Slotted(a, {"second": b}),
        [Output(a, Slotted(b, None))],
        Cache(a, {"second": Output(b, 1)}),
        (a, Output, torch.nn.Linear(2, 2), iter([a]), b),  # a class, a module, a stream
    ],
    ids=lambda value: type(value).__name__,
)
def test_tensors_are_found_in_order(value: Any) -> None:
    assert [id(tensor) for tensor in tensors_in(value)] == [id(a), id(b)]


def test_a_tensor_that_is_passed_twice_is_found_twice() -> None:
    assert [id(tensor) for tensor in tensors_in(a, [b, a])] == [id(a), id(b), id(a)]


def test_modules_are_containers_on_request() -> None:
    layer = nn.BatchNorm1d(2)
    held = [*layer.parameters(), *layer.buffers()]
    assert [id(t) for t in tensors_in({"layer": [layer]}, modules=True)] == list(map(id, held))
    assert list(tensors_in({"layer": [layer]})) == []


def test_memory_is_foreign_that_another_library_allocated() -> None:
    array = np.ones(3)
    foreign = [
        torch.from_numpy(array),
        torch.from_dlpack(array),
        torch.frombuffer(array, dtype=torch.float64),
    ]
    assert all(map(is_foreign, [*foreign, foreign[0][1:]]))
    own = [torch.tensor(array), torch.empty(3), foreign[0] + 1, torch.empty(3, device="meta")]
    assert not any(map(is_foreign, own))
