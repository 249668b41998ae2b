from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import flopcount
from flopcount import Cost, FlopCounter
from flopcount.formulas import plan_of
from tests.formulas.counting import Tally, counting, dot, floats, numbers, opened
from tests.formulas.naive import affine


def cost_of(function: Any, *args: Any) -> Cost:
    """What one call costs, its bytes left out."""
    with FlopCounter() as counter:
        function(*args)
    report = counter.report()
    assert report.uncounted == {}
    total = report.total
    return Cost(total.macs, total.dots, total.void_macs, total.arith, total.compare, total.special)


def operations(cost: Cost) -> Tally:
    """Multiplications and additions, each dot product one addition short."""
    return Tally(mul=cost.macs, add=cost.macs - cost.dots + cost.arith)


def billed_parts(op: Any, *args: Any) -> dict[str, Cost]:
    """The gradients in the bill of a call that only an accelerator can make."""
    return plan_of(op).bill(args, {}, None).gradients


sizes = st.integers(1, 6)


@settings(max_examples=60, deadline=None)
@given(n=sizes, d=sizes, m=sizes, bias=st.booleans(), needs_input=st.booleans())
def test_an_affine_layer_costs_what_a_naive_loop_counts(
    n: int, d: int, m: int, bias: bool, needs_input: bool
) -> None:
    naive = affine(n, d, m)
    layer = nn.Linear(d, m, bias=bias)
    x = torch.ones(n, d, requires_grad=needs_input)
    with FlopCounter(layer) as counter:
        y = layer(x)
        y.backward(torch.ones_like(y))
    node = counter.report().model
    forward = node.phases["forward"]
    bias_adds = naive["forward bias"].add if bias else 0
    assert operations(forward) == Tally(naive["forward"].mul, naive["forward"].add + bias_adds)
    assert forward.flops == 2 * n * d * m + bias_adds
    assert operations(node.gradients["weight"]) == naive["weight"]
    assert node.gradients["weight"].flops == 2 * n * d * m
    assert operations(node.gradients["input"]) == (naive["input"] if needs_input else Tally())
    assert operations(node.gradients["bias"]) == (naive["bias"] if bias else Tally())


@settings(max_examples=20, deadline=None)
@given(b=sizes, m=sizes, k=st.integers(2, 6), n=sizes)  # einsum multiplies where k = 1
def test_all_ones_sum_to_the_macs(b: int, m: int, k: int, n: int) -> None:
    """Every product of ones adds one to the result, whichever way the op computes it."""
    x, y = torch.ones(b, m, k).double(), torch.ones(b, k, n).double()
    cases: list[tuple[Any, tuple[Tensor, ...]]] = [
        (torch.mm, (x[0], y[0])),
        (torch.bmm, (x, y)),
        (torch.matmul, (x, y)),
        (torch.mv, (x[0], y[0, :, 0])),
        (torch.dot, (x[0, 0], y[0, :, 0])),
        (torch.nn.functional.linear, (x, y[0].T)),
        (lambda p, q: torch.einsum("bmk,bkn->bmn", p, q), (x, y)),
    ]
    for function, operands in cases:
        assert cost_of(function, *operands).macs == function(*operands).sum().item()


m, k, n, b = 3, 5, 7, 2
bias, x, y = torch.ones(m, n), torch.ones(m, k), torch.ones(k, n)
bias3, x3, y3 = torch.ones(b, m, n), torch.ones(b, m, k), torch.ones(b, k, n)
complex_numbers = [each.to(torch.complex64) for each in (bias, x, y)]
product = Cost(macs=m * n * k, dots=m * n)


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        pytest.param(lambda: x @ y, product, id="mm: m·n dot products of length k"),
        pytest.param(
            lambda: torch.addmm(bias, x, y),
            product + Cost(arith=m * n),
            id="addmm: and an addition for each result",
        ),
        pytest.param(
            lambda: torch.addmm(bias, x, y, beta=2, alpha=3),
            product + Cost(arith=3 * m * n),
            id="addmm with beta and alpha: and a product for each",
        ),
        pytest.param(
            lambda: torch.addmm(bias, x, y, beta=0), product, id="beta = 0 does not read the bias"
        ),
        pytest.param(
            lambda: bias.clone().addmm_(x, y), product + Cost(arith=m * n), id="in place the same"
        ),
        pytest.param(lambda: torch.mm(x, y, out=torch.empty(m, n)), product, id="out= the same"),
        pytest.param(
            lambda: torch.baddbmm(bias3, x3, y3),
            b * product + Cost(arith=b * m * n),
            id="baddbmm: b times addmm",
        ),
        pytest.param(
            lambda: torch.addmv(bias[:, 0], x, y[:, 0]),
            Cost(macs=m * k, dots=m, arith=m),
            id="addmv: m dot products of length k, and m additions",
        ),
        pytest.param(
            lambda: torch.addbmm(bias, x3, y3),
            Cost(macs=b * m * n * k, dots=m * n, arith=m * n),
            id="addbmm: m·n dot products of length b·k, and an addition for each",
        ),
        pytest.param(
            lambda: bias.clone().addbmm_(x3, y3, beta=2, alpha=3),
            Cost(macs=b * m * n * k, dots=m * n, arith=3 * m * n),
            id="addbmm in place with beta and alpha: and a product for each",
        ),
        pytest.param(
            lambda: bias3.clone().baddbmm_(x3, y3, beta=0.5),
            b * product + Cost(arith=2 * b * m * n),
            id="baddbmm in place",
        ),
        pytest.param(
            lambda: torch.addr(bias, x[:, 0], y[0]),
            Cost(arith=2 * m * n),
            id="addr: m·n products and as many additions",
        ),
        pytest.param(
            lambda: bias.clone().addr_(x[:, 0], y[0], beta=2, alpha=3),
            Cost(arith=4 * m * n),
            id="addr in place with beta and alpha",
        ),
        pytest.param(
            lambda: torch.addr(bias, x[:, 0], y[0], beta=0),
            Cost(arith=m * n),
            id="addr with beta = 0 is an outer product",
        ),
        pytest.param(
            lambda: torch.outer(x[:, 0], y[0]), Cost(arith=m * n), id="outer: m·n products"
        ),
        pytest.param(
            lambda: torch._addmm_activation(bias[0], x, y),
            product + Cost(arith=m * n, compare=m * n),
            id="addmm and ReLU: a comparison for each result",
        ),
        pytest.param(
            lambda: torch._addmm_activation(bias[0], x, y, use_gelu=True),
            product + Cost(arith=(1 + 4) * m * n, special=m * n),
            id="addmm and GELU: x/2·(1 + erf(x·c)) of each result",
        ),
        pytest.param(
            lambda: x.to(torch.complex64) @ y.to(torch.complex64),
            Cost(macs=4 * m * n * k, dots=2 * m * n),
            id="a complex product is four real ones: two real dot products of twice the length",
        ),
        pytest.param(
            lambda: torch.addmm(*complex_numbers, beta=2, alpha=3),
            Cost(macs=4 * m * n * k, dots=2 * m * n, arith=(2 + 2 + 2) * m * n),
            id="complex addmm: a real factor scales two parts, a sum adds two",
        ),
        pytest.param(
            lambda: torch.addmm(*complex_numbers, beta=2j, alpha=3 + 1j),
            Cost(macs=4 * m * n * k, dots=2 * m * n, arith=(6 + 2 + 6) * m * n),
            id="complex addmm with complex factors: a product takes 6 operations",
        ),
        pytest.param(lambda: x.long() @ y.long(), product, id="an integer product keeps its MACs"),
        pytest.param(
            lambda: torch.ones(m, 0) @ torch.ones(0, n),
            Cost(),
            id="dot products of length 0 cost nothing",
        ),
    ],
)
def test_products(call: Any, expected: Cost) -> None:
    assert cost_of(call) == expected


def test_complex_matmul_of_the_textbook() -> None:
    left, right = torch.ones(3, 5, dtype=torch.complex64), torch.ones(5, 7, dtype=torch.complex64)
    assert cost_of(torch.mm, left, right).flops == 3 * 5 * 7 * 8 == 840


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda x, w: torch.mm(x, w.T), id="mm"),
        pytest.param(lambda x, w: torch.matmul(x, w.T), id="matmul"),
        pytest.param(lambda x, w: torch.nn.functional.linear(x, w), id="linear"),
        pytest.param(lambda x, w: torch.einsum("mk,nk->mn", x, w), id="einsum"),
        pytest.param(lambda x, w: torch.tensordot(x, w, dims=([1], [1])), id="tensordot"),
        pytest.param(lambda x, w: torch.inner(x, w), id="inner"),
        pytest.param(lambda x, w: torch.linalg.multi_dot([x, w.T]), id="multi_dot"),
        pytest.param(lambda x, w: torch.stack([torch.mv(w, row) for row in x]), id="m times mv"),
        pytest.param(lambda x, w: (x @ w.T).clone(), id="a copy of it"),
    ],
)
def test_one_product_by_any_name_costs_the_same(call: Any) -> None:
    assert cost_of(call, x, torch.ones(n, k)) == product


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(torch.nn.functional.linear, id="linear"),
        pytest.param(lambda x, w, c: torch.addmm(c, x, w.T), id="addmm"),
        pytest.param(lambda x, w, c: torch.einsum("mk,nk->mn", x, w) + c, id="einsum, then add"),
        pytest.param(lambda x, w, c: x @ w.T + c, id="matmul, then add"),
        pytest.param(
            lambda x, w, c: torch.baddbmm(c, x[None], w.T[None]), id="baddbmm of a batch of one"
        ),
        pytest.param(
            lambda x, w, c: torch.addbmm(c, x[None], w.T[None]), id="addbmm of a batch of one"
        ),
    ],
)
def test_one_affine_layer_by_any_name_costs_the_same(call: Any) -> None:
    assert cost_of(call, x, torch.ones(n, k), torch.ones(n)) == product + Cost(arith=m * n)


def test_a_sum_over_the_batch_is_one_longer_product() -> None:
    """Σ aᵢ·bᵢ = (a₁ … a_b)·(b₁ … b_b)ᵀ."""
    wide, tall = torch.cat([*x3], 1), torch.cat([*y3])
    assert cost_of(torch.addbmm, bias, x3, y3) == cost_of(torch.addmm, bias, wide, tall)


def test_a_rank_one_update_costs_what_its_steps_do() -> None:
    steps = cost_of(lambda: 2 * bias + 3 * torch.outer(x[:, 0], y[0]))
    assert cost_of(lambda: torch.addr(bias, x[:, 0], y[0], beta=2, alpha=3)) == steps


@settings(max_examples=20, deadline=None)
@given(samples=sizes, i=sizes, j=sizes, o=sizes)
def test_a_bilinear_layer_is_two_products_forward(samples: int, i: int, j: int, o: int) -> None:
    """Σⱼ (Σᵢ xᵢ·wₒᵢⱼ)·yⱼ by a loop that counts."""
    x, w, y = torch.ones(samples, i), torch.ones(o, i, j), torch.ones(samples, j)
    with counting() as naive:
        result = [
            [dot([dot(row, column) for column in matrix.T], other) for matrix in numbers(w)]
            for row, other in zip(numbers(x), numbers(y), strict=True)
        ]
    assert (floats(result) == torch.nn.functional.bilinear(x, y, w)).all()
    cost = cost_of(torch.nn.functional.bilinear, x, y, w)
    assert opened(cost) == naive.cost
    assert cost.macs == samples * o * (i * j + j)


def test_a_bilinear_layer_is_two_products_for_each_gradient() -> None:
    samples, i, j, o = 2, 3, 4, 5
    layer = nn.Bilinear(i, j, o, bias=False)
    x, y = torch.ones(samples, i, requires_grad=True), torch.ones(samples, j, requires_grad=True)
    with FlopCounter(layer) as counter:
        z = layer(x, y)
        z.backward(torch.ones_like(z))
    backward = counter.report().phases["backward"]
    for_x = samples * i * j * o + samples * i * j  # the outputs first, with w; then with y
    for_y = samples * i * j * o + samples * j * o  # x first, with w; then the outputs
    for_w = samples * i * j * o  # sums over the samples of (x ⊗ dz) ⊗ y
    assert backward.macs == for_x + for_y + for_w
    assert backward.dots == (samples * i * j + samples * i) + (samples * j * o + samples * j) + (
        i * j * o
    )
    assert backward.arith == samples * i * o  # x ⊗ dz, which nothing sums


def test_a_linear_layers_gradients_in_one_op_are_those_in_two() -> None:
    """As a backend without autograd's own formula computes them."""
    weight, grad = torch.ones(n, k), torch.ones(m, n)
    whole = billed_parts(
        torch.ops.aten.linear_backward.default, x, grad, weight, (True, True, True)
    )
    assert whole == {
        "input": cost_of(torch.mm, grad, weight),
        "weight": cost_of(torch.mm, grad.T, x),
        "bias": cost_of(torch.sum, grad, 0),
    }
    assert whole["input"].macs == m * n * k
    only = billed_parts(
        torch.ops.aten.linear_backward.default, x, grad, weight, (False, True, False)
    )
    assert only == {"weight": whole["weight"]}


def test_cosine_similarity_arrives_whole_under_inference_mode_and_costs_the_same() -> None:
    with torch.inference_mode():
        whole = cost_of(torch.nn.functional.cosine_similarity, x, x)
    pieces = cost_of(torch.nn.functional.cosine_similarity, x, x)
    assert whole == pieces
    norms = 2 * (m * k + m * (k - 1) + m)  # two: squares, sums, roots
    assert pieces.arith == norms + 2 * m * k + m * k + m * (k - 1)  # divisions; products, sums
    assert pieces.compare == 2 * m  # the norms are at least eps


def test_under_inference_mode_linear_arrives_whole_and_costs_the_same() -> None:
    layer = nn.Linear(k, n)
    with torch.inference_mode():
        inference = cost_of(layer, x)
    assert inference == cost_of(layer, x) == product + Cost(arith=m * n)


def test_a_matmul_reads_its_operands_once_and_writes_its_result() -> None:
    report = flopcount.count(torch.mm, x, y, backward=False)
    assert report.total.read == 4 * (m * k + k * n)
    assert report.total.written == 4 * m * n


@pytest.mark.parametrize(("beta", "biases"), [(0, 0), (0.0, 0), (1, 1), (2, 1)])
@pytest.mark.parametrize(
    ("call", "factors", "results"),
    [
        pytest.param(
            lambda beta: torch.addmm(bias, x, y, beta=beta), m * k + k * n, m * n, id="addmm"
        ),
        pytest.param(
            lambda beta: bias.clone().addmm_(x, y, beta=beta), m * k + k * n, m * n, id="in place"
        ),
        pytest.param(
            lambda beta: torch.baddbmm(bias3, x3, y3, beta=beta),
            b * (m * k + k * n),
            b * m * n,
            id="baddbmm",
        ),
        pytest.param(
            lambda beta: torch.addmv(bias[:, 0], x, y[:, 0], beta=beta), m * k + k, m, id="addmv"
        ),
    ],
)
def test_a_bias_is_read_unless_beta_is_zero(
    call: Any, factors: int, results: int, beta: float, biases: int
) -> None:
    with FlopCounter() as counter:
        call(beta)
    costs = counter.report().by_operator()
    costs.pop("aten.clone", None)
    (cost,) = costs.values()
    # the bias has as many elements as the result, of 4 bytes each
    assert cost.read == 4 * (factors + biases * results)
    assert cost.written == 4 * results


def test_an_expanded_operand_is_read_once() -> None:
    report = flopcount.count(torch.mm, torch.ones(1).expand(m, k), y, backward=False)
    assert report.total.read == 4 * (1 + k * n)


def test_combinations_of_tensors() -> None:
    x, coefficients = torch.rand(3, 2, 2), torch.rand(5, 3)
    cost = cost_of(torch._compute_linear_combination, x, coefficients)
    assert (cost.macs, cost.dots, cost.arith) == (5 * 4 * 3, 5 * 4, 0)
    assert torch.allclose(
        torch._compute_linear_combination(x, coefficients),
        (coefficients @ x.reshape(3, 4)).view(5, 2, 2),
    )
