"""A recorded op costs what a counter counts for the call itself, tensors at hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional
from torch.testing._internal.two_tensor import TwoTensor

from flopcount import FlopCounter
from tests.trace.recordings import flops, recorded


def ones(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.ones(shape, dtype=dtype)


X, Y, W, IMAGE = ones(4, 8), ones(4, 8), ones(8, 2), ones(2, 3, 8, 8)
HEADS = [ones(1, 2, 8, 16) for _ in range(3)]
F16, BF16 = torch.float16, torch.bfloat16
INTS, COMPLEX = torch.arange(8).view(2, 4), ones(4, 8, dtype=torch.complex64)
COUNTERS = [torch.zeros(()), torch.zeros(())]
LIST, OTHERS, THIRDS = ([ones(4, 8), ones(3), ones(2, 2)] for _ in range(3))

CALLS: dict[str, Callable[[], Any]] = {
    "a product": lambda: X @ W,
    "a product into a tensor": lambda: torch.mm(X, W, out=ones(4, 2)),
    "a product with an expanded operand": lambda: ones(1, 8).expand(4, 8) @ W,
    "a product with itself": lambda: X @ X.t(),
    "a batch of products": lambda: torch.bmm(ones(3, 4, 8), ones(3, 8, 2)),
    "a product of half floats": lambda: X.to(BF16) @ W.to(BF16),
    "a product of doubles": lambda: X.double() @ W.double(),
    "a complex product": lambda: COMPLEX @ COMPLEX.t(),
    "a product of integers": lambda: INTS @ INTS.t(),
    "a layer with scaled products": lambda: torch.addmm(ones(2), X, W, beta=0.5, alpha=2),
    "a vector": lambda: torch.mv(X, ones(8)),
    "an einsum": lambda: torch.einsum("ij,kj->ik", X, X),
    "a convolution": lambda: functional.conv2d(IMAGE, ones(4, 3, 3, 3), ones(4), 2, 1),
    "a transposed convolution": lambda: functional.conv_transpose2d(IMAGE, ones(3, 4, 3, 3)),
    "a grouped convolution": lambda: functional.conv2d(IMAGE, ones(6, 1, 3, 3), groups=3),
    "a sum": X.sum,
    "a sum along a dimension": lambda: X.sum(1, keepdim=True),
    "a mean in another dtype": lambda: INTS.mean(dtype=torch.float64),
    "a variance": lambda: X.var(0, correction=0),
    "a norm": lambda: torch.linalg.vector_norm(X, 2, 1),
    "a maximum": lambda: X.max(1),
    "a softmax": lambda: X.softmax(-1),
    "a softmax from half to float": lambda: functional.softmax(X.to(F16), -1, dtype=torch.float32),
    "a number": lambda: X * 3,
    "a number times integers": lambda: INTS * 0.5,
    "a scaled sum": lambda: torch.add(X, Y, alpha=3),
    "a sum in place": lambda: ones(4, 8).add_(X),
    "a broadcast sum": lambda: X + ones(8),
    "a power": lambda: X**3,
    "a root": lambda: X**0.5,
    "a comparison": lambda: X > 0,
    "a comparison of integers with a tensor of one": lambda: INTS.eq(torch.tensor(3)),
    "a choice": lambda: torch.where(X > 0, X, 0.0),
    "a clamp": lambda: X.clamp(min=0),
    "an erf": lambda: functional.gelu(X),
    "a silu in place": lambda: functional.silu(ones(4, 8), inplace=True),
    "a layer norm": lambda: functional.layer_norm(X, [8], ones(8), ones(8)),
    "a group norm": lambda: functional.group_norm(ones(2, 4, 8), 2),
    "a batch norm": lambda: functional.batch_norm(IMAGE, ones(3), ones(3), training=True),
    "pooling": lambda: functional.max_pool2d(IMAGE, 2),
    "average pooling": lambda: functional.avg_pool2d(IMAGE, 3, 2, 1),
    "adaptive pooling": lambda: functional.adaptive_avg_pool2d(IMAGE, 3),
    "an embedding": lambda: functional.embedding(INTS, ones(10, 4)),
    "a loss": lambda: functional.cross_entropy(X, torch.tensor([0, 1, 2, 3])),
    "attention": lambda: functional.scaled_dot_product_attention(*HEADS),
    "causal attention": lambda: functional.scaled_dot_product_attention(*HEADS, is_causal=True),
    "an interpolation": lambda: functional.interpolate(IMAGE, scale_factor=2, mode="bilinear"),
    "a concatenation": lambda: torch.cat([X + 1, Y * 2, ones(1, 8)]),
    "copies": lambda: (X.to(F16), X.clone(), X.t().contiguous()),
    "factories": lambda: (torch.zeros(3, 4), torch.full((2, 2), 1.5), torch.zeros_like(X)),
    "a sum of lists": lambda: torch._foreach_add(LIST, 1.5),
    "a sum of lists in place": lambda: torch._foreach_add_(LIST, OTHERS, alpha=2),
    "products of lists": lambda: torch._foreach_addcmul_(LIST, OTHERS, THIRDS, 0.1),
    "counters of steps in a list": lambda: torch._foreach_add_(COUNTERS, 1),
    "norms of lists": lambda: torch._foreach_norm(LIST),
    "a cumulative sum": lambda: X.cumsum(0),
    "a sort": lambda: X.sort(-1),
    "the largest": lambda: X.topk(2),
    "a solution": lambda: torch.linalg.solve(torch.eye(4), X),
    "a Fourier transform": lambda: torch.fft.rfft(X),
    "an LSTM": lambda: torch.nn.LSTM(8, 4)(ones(5, 2, 8)),
    "a GRU": lambda: torch.nn.GRU(8, 4, bidirectional=True)(ones(5, 2, 8)),
    "a product under vmap": lambda: torch.vmap(torch.mv, (None, 0))(X, ones(3, 8)),
}


@pytest.mark.parametrize("name", CALLS)
def test_it_costs_what_a_counter_counts(name: str) -> None:
    step = CALLS[name]
    with torch.no_grad():
        report = recorded(step, stacks=False)
        with FlopCounter() as counter:
            step()
    expected = counter.report()
    assert report.total.flops == expected.total.flops
    assert report.total.macs == expected.total.macs
    assert report.uncounted == expected.uncounted == {}
    ours, theirs = report.by_operator(), expected.by_operator()
    assert {op: ours[op].flops for op in theirs if theirs[op].flops} == {
        op: cost.flops for op, cost in theirs.items() if cost.flops
    }
    assert report.total.bytes == expected.total.bytes


def test_a_subclass_of_tensors_costs_what_it_calls() -> None:
    """A tensor of two tensors runs each op twice; one of rows of different lengths, on all rows."""
    two = TwoTensor(ones(4, 8), ones(4, 8))
    layer = torch.nn.Linear(8, 8)
    report = recorded(lambda: functional.gelu(layer(two)).sum())
    with FlopCounter() as counter:
        functional.gelu(layer(two)).sum()
    assert flops(report) == flops(counter.report())
    assert report.total.macs == 2 * 4 * 8 * 8

    rows = torch.nested.nested_tensor([ones(2, 8), ones(3, 8)], layout=torch.jagged)
    model = torch.nn.Sequential(layer, torch.nn.LayerNorm(8), torch.nn.ReLU())
    report = recorded(lambda: model(rows).values().sum())
    assert report.uncounted == {}
    assert flops(report) == flops(recorded(lambda: model(ones(5, 8)).sum()))


def test_a_transform_of_ops_that_it_divides_into_others() -> None:
    """Under vmap, and where gradients come in batches: per sample the op, inside all samples."""
    samples, layer = ones(16, 4, 8), torch.nn.Linear(8, 4)
    leaf = torch.ones(4, 8, requires_grad=True)

    def batched(function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        output = function(leaf)
        ones_like = torch.ones(16, *output.shape)
        torch.autograd.grad(output, leaf, ones_like, is_grads_batched=True)

    def loss(x: torch.Tensor) -> torch.Tensor:
        return functional.binary_cross_entropy_with_logits(x, ones(4, 8))

    def attention(x: torch.Tensor) -> torch.Tensor:
        return functional.scaled_dot_product_attention(x, x, x).sum()

    def mlp(x: torch.Tensor) -> torch.Tensor:
        return functional.gelu(layer(x)).sin()

    for step in (
        lambda: torch.vmap(loss)(samples),
        lambda: torch.vmap(torch.func.grad(attention))(ones(16, 2, 4, 8)),
        lambda: batched(functional.gelu),
        lambda: batched(lambda x: functional.layer_norm(x, [8])),
        lambda: torch.func.jacfwd(mlp)(ones(8)),
        lambda: torch.func.jacrev(mlp)(ones(8)),
        lambda: torch.func.hessian(lambda x: mlp(x).sum())(ones(8)),
    ):
        report = recorded(step, stacks=False)
        with FlopCounter() as counter:
            step()
        assert report.total.flops == counter.report().total.flops > 0
        assert report.total.macs == counter.report().total.macs


AUTOCAST: dict[str, Callable[[], Any]] = {
    "a product": lambda: torch.mm(X, W),
    "a batch": lambda: torch.bmm(ones(3, 4, 8), ones(3, 8, 2)),
    "a layer": lambda: torch.addmm(ones(2), X, W),
    "an einsum": lambda: torch.einsum("ij,kj->ik", X, X),
    "a product of halves": lambda: torch.mm(X.to(BF16), W),
    "a linear layer": lambda: functional.linear(X, ones(2, 8)),
    "a convolution": lambda: functional.conv2d(IMAGE, ones(4, 3, 3, 3)),
    "attention": lambda: functional.scaled_dot_product_attention(*HEADS),
    "a loss": lambda: functional.mse_loss(X.to(BF16), Y.to(BF16)),
    "a product of all": lambda: X.to(BF16).prod(),
    "a list": lambda: torch.cat([X, Y.to(BF16)]),
    "a softmax": lambda: X.to(BF16).softmax(-1),
    "a sum": lambda: X.to(BF16) + Y,
}


@pytest.mark.parametrize("name", AUTOCAST)
def test_under_autocast_it_counts_in_the_dtype_of_its_kernel(name: str) -> None:
    def step() -> None:
        with torch.no_grad(), torch.autocast("cpu", BF16):
            AUTOCAST[name]()

    report = recorded(step, stacks=False)
    with FlopCounter() as counter:
        step()
    expected = counter.report()
    assert {dtype: cost.flops for dtype, cost in report.by_dtype().items() if cost.flops} == {
        dtype: cost.flops for dtype, cost in expected.by_dtype().items() if cost.flops
    }
    assert report.total.bytes == expected.total.bytes


def test_a_weight_that_autocast_has_cast_before() -> None:
    """Of two products the second finds it in a cache: 2 x 4 x 8 x 2 products of bfloat16."""
    weight = torch.nn.Parameter(ones(8, 2))

    def step() -> None:
        with torch.autocast("cpu", BF16):
            torch.mm(X.to(BF16), weight)
            torch.mm(X.to(BF16), weight)

    by_dtype = recorded(step, stacks=False).by_dtype()
    assert {dtype: cost.macs for dtype, cost in by_dtype.items() if cost.macs} == {"bfloat16": 128}


def test_a_product_and_its_tangents() -> None:
    """Primal, and a product for the tangent of each operand: torch makes one of zeros."""
    report = recorded(lambda: torch.func.jvp(lambda x: x @ W, (X,), (Y,)), stacks=False)
    assert report.total.macs == 3 * 4 * 8 * 2


def test_a_tensor_that_is_given_twice_is_read_twice() -> None:
    """A recording does not say that two operands are the same: 2 x 4 x 8 x 4 bytes, not half."""
    assert recorded(lambda: X + X, stacks=False).total.read == 256


def test_a_list_of_tensors_that_nobody_has_seen_is_uncounted() -> None:
    report = recorded(lambda: torch.cat([ones(5, 7)]), stacks=False)
    assert report.uncounted == {}  # ones() has told its dtype
    seven = ones(5, 7)
    report = recorded(lambda: torch.cat([seven, seven]), stacks=False)
    assert report.uncounted == {"aten.cat": 1}
    assert report.total.bytes == 0
