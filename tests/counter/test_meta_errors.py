"""What ``count(…, meta=True)`` cannot run fails in one line: the op, the module, the remedy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import flopcount
from flopcount import FlopcountError
from tests.counter.units import batch, linear


class Reads(nn.Module):
    def __init__(self, read: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.inner = nn.Sequential(linear())
        self.inner.append(Reader(read))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


class Reader(nn.Module):
    def __init__(self, read: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.read = read

    def forward(self, x: Tensor) -> Tensor:
        self.read(x)
        return x


@pytest.mark.parametrize(
    ("read", "op"),
    [
        (lambda x: x[0, 0].item(), "aten._local_scalar_dense"),
        (lambda x: bool((x > 0).any()), "aten._local_scalar_dense"),
        (lambda x: x[x > 0], "aten.index"),
        (lambda x: x.unique(), "aten._unique2"),
        (lambda x: x.tolist(), "aten._local_scalar_dense"),
        (lambda x: x.nonzero(), "aten.nonzero"),
        (lambda x: x.detach().numpy(), "the model"),
    ],
)
def test_an_error_names_the_op_the_module_and_the_remedy(
    read: Callable[[Tensor], Any], op: str
) -> None:
    with pytest.raises(FlopcountError) as caught:
        flopcount.count(Reads(read), batch(), meta=True)
    message = str(caught.value)
    assert message.startswith(op)
    assert " in inner.1 " in message
    assert message.endswith("; count it on values, with meta=False")
    assert "\n" not in message


def test_a_mistake_of_the_program_is_its_own() -> None:
    with pytest.raises(RuntimeError, match=r"cannot be multiplied|reduction dim"):
        flopcount.count(linear(), torch.ones(4, 7), meta=True)
