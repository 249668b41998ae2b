from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

import flopcount
from flopcount import Cost, Report
from flopcount.formulas.ops.attention import visible
from tests.formulas.counting import Tally, counting, opened
from tests.formulas.decomposed import billed
from tests.formulas.ops.attention_loops import NaiveAttention

aten = torch.ops.aten
CPU = "aten._scaled_dot_product_flash_attention_for_cpu"


def report_of(function: Callable[[], Any]) -> Report:
    with flopcount.FlopCounter() as counter:
        function()
    return counter.report()


def tensors(*shapes: tuple[int, ...], device: str = "cpu") -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    made = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    return [tensor.to(device).requires_grad_() for tensor in made]


@pytest.mark.parametrize(
    ("heads", "kv_heads", "queries", "keys", "options"),
    [
        pytest.param(2, 2, 3, 3, {}, id="as many keys as queries"),
        pytest.param(2, 2, 2, 5, {}, id="more keys than queries"),
        pytest.param(1, 1, 4, 2, {}, id="fewer keys than queries"),
        pytest.param(4, 2, 3, 2, {}, id="two query heads share a key head"),
        pytest.param(3, 3, 1, 1, {}, id="one query and one key"),
        pytest.param(2, 2, 3, 4, {"mask": True}, id="an additive mask"),
        pytest.param(2, 2, 3, 4, {"scale": 0.3}, id="a scale of its own"),
        pytest.param(2, 2, 3, 4, {"scale": 1.0}, id="no scale, in no direction"),
    ],
)
def test_a_loop_that_counts_its_operations_gives_the_same_numbers_and_gradients(
    heads: int, kv_heads: int, queries: int, keys: int, options: dict[str, Any]
) -> None:
    d = 4
    q, k, v = tensors((1, heads, queries, d), (1, kv_heads, keys, d), (1, kv_heads, keys, d))
    mask = torch.randn(queries, keys, dtype=torch.float64) if options.get("mask") else None
    scale = options.get("scale", d**-0.5)
    naive = NaiveAttention(q.detach()[0], k.detach()[0], v.detach()[0], scale, mask)
    grad = torch.randn(1, heads, queries, d, dtype=torch.float64)

    def step() -> Tensor:
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, scale=scale, enable_gqa=heads != kv_heads
        )
        out.backward(grad)
        return out

    with flopcount.FlopCounter() as counter:
        out = step()
    rows = {(row["op"], row["phase"]): row for row in counter.report().rows()}
    again = Tally()
    with counting() as forward:
        naive_out = naive.forward()
    with counting() as backward:
        naive_grads = naive.backward(grad[0], again)
    torch.testing.assert_close(naive_out, out.detach()[0])
    for mine, theirs in zip(naive_grads, (q, k, v), strict=True):
        torch.testing.assert_close(mine, theirs.grad[0])

    def cost(op: str, phase: str) -> Cost:
        return Cost(**{name: rows[op, phase][name] for name in Cost.__dataclass_fields__})

    assert opened(cost(CPU, "forward")) == forward.cost
    assert opened(cost(f"{CPU}_backward", "backward")) == backward.cost
    assert opened(cost(f"{CPU}_backward", "recompute")) == again.cost


def test_twelve_heads_of_64_tokens_and_64_features() -> None:
    q, k, v = tensors(*[(1, 12, 64, 64)] * 3)
    report = report_of(lambda: F.scaled_dot_product_attention(q, k, v).sum().backward())
    product_macs = 12 * 64 * 64 * 64  # heads · queries · keys · features
    assert report.phases["forward"].matmul_flops == 2 * 2 * product_macs == 12_582_912
    assert report.phases["backward"].matmul_flops == 4 * 2 * product_macs
    assert report.phases["recompute"].matmul_flops == 2 * product_macs == 6_291_456
    assert report.hardware_flops == 44_040_192
    assert report.model_flops == 44_040_192 - 6_291_456
    assert not report.uncounted


def test_visible_pairs_are_those_that_a_loop_finds() -> None:
    for q, k, offset in product(range(6), range(6), range(-7, 8)):
        pairs = sum(key <= query + offset for query in range(q) for key in range(k))
        assert visible(q, k, offset) == pairs, (q, k, offset)


@pytest.mark.parametrize(("queries", "keys"), [(5, 5), (3, 7), (7, 3)])
def test_pairs_that_a_causal_mask_hides_are_void(queries: int, keys: int) -> None:
    q, k, v = tensors((2, 3, queries, 4), (2, 3, keys, 4), (2, 3, keys, 4))
    hidden = torch.ones(queries, keys).tril().eq(0).sum().item()  # as in torch's definition
    report = report_of(
        lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True).sum().backward()
    )
    forward, backward, again = (report.phases[p] for p in ("forward", "backward", "recompute"))
    assert forward.void_macs == 2 * 3 * hidden * (4 + 4)  # S and O
    assert backward.void_macs == 2 * 3 * hidden * 4 * 4  # dV, dP, dQ, dK
    assert again.void_macs == 2 * 3 * hidden * 4  # S
    assert forward.macs == 2 * 3 * queries * keys * (4 + 4)


def meta(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta")


Q, K, V = meta(2, 4, 6, 8), meta(2, 4, 5, 8), meta(2, 4, 5, 8)


@pytest.mark.parametrize(
    "kernel",
    [
        pytest.param(lambda: aten._scaled_dot_product_flash_attention(Q, K, V), id="flash"),
        pytest.param(
            lambda: aten._scaled_dot_product_efficient_attention(Q, K, V, None, True),
            id="memory-efficient",
        ),
        pytest.param(
            lambda: aten._scaled_dot_product_cudnn_attention(Q, K, V, None, True), id="cuDNN"
        ),
        pytest.param(
            lambda: aten._scaled_dot_product_fused_attention_overrideable(Q, K, V),
            id="a backend's own",
        ),
        pytest.param(
            lambda: aten._flash_attention_forward(
                *(each.transpose(1, 2) for each in (Q, K, V)),
                *(None, None, 6, 5, 0.0, False, False),
            ),
            id="flash with heads last",
        ),
        pytest.param(
            lambda: aten._efficient_attention_forward(
                *(each.transpose(1, 2) for each in (Q, K, V)),
                *(None, None, None, None, None, 0.0, 0, True),
            ),
            id="memory-efficient with heads last",
        ),
    ],
)
def test_every_forward_kernel_costs_the_same(kernel: Callable[[], Any]) -> None:
    reference = report_of(
        lambda: F.scaled_dot_product_attention(
            *(torch.empty_like(x, device="cpu") for x in (Q, K, V))
        )
    )
    expected, found = reference.by_operator()[CPU], report_of(kernel).total
    assert opened(found) == opened(expected)
    assert (found.macs, found.dots) == (expected.macs, expected.dots)


OWN_BACKWARD = "_scaled_dot_product_fused_attention_overrideable_backward"
LSE = meta(2, 4, 6)
SEED = torch.empty((), device="meta", dtype=torch.long)


@pytest.mark.parametrize(
    "kernel",
    [
        pytest.param(
            lambda: aten._scaled_dot_product_flash_attention_backward(
                Q, Q, K, V, Q, LSE, None, None, 6, 5, 0.0, False, SEED, SEED
            ),
            id="flash",
        ),
        pytest.param(
            lambda: aten._scaled_dot_product_efficient_attention_backward(
                Q, Q, K, V, None, Q, LSE, SEED, SEED, 0.0, [True, True, True, False]
            ),
            id="memory-efficient",
        ),
        pytest.param(
            lambda: aten._scaled_dot_product_cudnn_attention_backward(
                Q, Q, K, V, Q, LSE, SEED, SEED, None, None, None, 6, 5, 0.0, False
            ),
            id="cuDNN",
        ),
        pytest.param(
            lambda: getattr(aten, OWN_BACKWARD)(
                *(Q, Q, K, V, None, [True, True, True, False], Q, LSE),
                *(None, None, 6, 5, 0.0, False, SEED, SEED),
            ),
            id="a backend's own",
            marks=pytest.mark.skipif(
                not torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{OWN_BACKWARD}", "Meta"),
                reason="this torch calls it on no tensors of its own",
            ),
        ),
    ],
)
def test_every_backward_kernel_costs_the_same(kernel: Callable[[], Any]) -> None:
    real = [torch.empty_like(each, device="cpu").requires_grad_() for each in (Q, K, V)]
    reference = report_of(lambda: F.scaled_dot_product_attention(*real).sum().backward())
    expected = [
        Cost(**{name: row[name] for name in Cost.__dataclass_fields__})
        for row in reference.rows()
        if row["op"] == f"{CPU}_backward"
    ]
    report = report_of(kernel)
    assert not report.uncounted
    again = report.phases["recompute"]
    found = [
        cost for cost in (report.phases["forward"], again) if cost.macs
    ]  # called by hand, a backward kernel is part of no backward pass
    assert [opened(cost) for cost in found] == [opened(cost) for cost in expected]


@pytest.mark.parametrize(
    ("call", "hidden"),
    [
        pytest.param(
            lambda q, k: aten._scaled_dot_product_flash_attention(q, k, k, 0.0, True),
            lambda query, key: key > query + 2,  # the last query sees the last of two more keys
            id="flash: the mask ends in the last query and key",
        ),
        pytest.param(
            lambda q, k: aten._scaled_dot_product_efficient_attention(
                q, k, k, None, False, 0.0, True
            ),
            lambda query, key: key > query,
            id="memory-efficient: the mask begins in the first query and key",
        ),
        pytest.param(
            lambda q, k: aten._efficient_attention_forward(
                *(x.transpose(1, 2) for x in (q, k, k)),
                *(None, None, None, None, None, 0.0, 2),
            ),
            lambda query, key: key > query + 2,
            id="memory-efficient: the other kind of causal mask",
        ),
        pytest.param(
            lambda q, k: aten._flash_attention_forward(
                *(x.transpose(1, 2) for x in (q, k, k)),
                *(None, None, 5, 7, 0.0, False, False),
                window_size_left=1,
                window_size_right=0,
            ),
            lambda query, key: not query + 2 - 1 <= key <= query + 2,
            id="flash: a window of the query's own key and the one before",
        ),
        pytest.param(
            lambda q, k: aten._flash_attention_forward(
                *(x.transpose(1, 2) for x in (q, k, k)),
                *(None, None, 5, 7, 0.0, False, False),
                window_size_left=-1,
                window_size_right=-1,
            ),
            lambda query, key: False,
            id="flash: a window without bounds",
        ),
    ],
)
def test_each_kernels_own_mask(
    call: Callable[[Tensor, Tensor], Any], hidden: Callable[[int, int], bool]
) -> None:
    q, k = meta(1, 3, 5, 8), meta(1, 3, 7, 8)
    pairs = sum(hidden(query, key) for query in range(5) for key in range(7))
    cost = report_of(lambda: call(q, k)).total
    assert cost.void_macs == 3 * pairs * (8 + 8)
    assert cost.macs == 3 * 5 * 7 * (8 + 8)


@settings(max_examples=30, deadline=None)
@given(
    b=st.integers(1, 2),
    heads=st.sampled_from([(1, 1), (4, 2), (3, 3)]),
    q=st.integers(1, 9),
    k=st.integers(1, 9),
    d=st.integers(1, 5),
    v=st.integers(1, 5),
)
def test_masks_of_any_rectangle_by_brute_force(
    b: int, heads: tuple[int, int], q: int, k: int, d: int, v: int
) -> None:
    """Which products of ones a mask leaves: from the first query and key on, or up to the last."""
    h, g = heads
    query, key = meta(b, h, q, d), meta(b, g, k, d)
    value, grad, rows = meta(b, g, k, v), meta(b, h, q, v), meta(b, h, q)
    efficient = aten._scaled_dot_product_efficient_attention
    efficient_backward = aten._scaled_dot_product_efficient_attention_backward
    every = [True, True, True, False]
    flash = aten._flash_attention_forward
    first = billed(efficient.default, query, key, value, None, True, 0.0, True)
    first_backward = billed(
        efficient_backward.default,
        *(grad, query, key, value, None, grad, rows, SEED, SEED, 0.0, every, True),
    )
    sequences = [x.transpose(1, 2) for x in (query, key, value)]
    last = billed(flash.default, *sequences, None, None, q, k, 0.0, True, False)
    for cost, offset in ((first, 0), (last, k - q)):
        sees = torch.ones(q, k).tril(offset)
        scores = torch.einsum("qd,kd,qk->", torch.ones(q, d), torch.ones(k, d), sees).item()
        results = torch.einsum("qk,kv->", sees, torch.ones(k, v)).item()
        assert cost.valid_macs == b * h * (scores + results)
        assert cost.macs == b * h * q * k * (d + v)
    sees = int(torch.ones(q, k).tril().sum())
    assert first_backward.valid_macs == b * h * sees * (2 * v + 2 * d)  # dV, dP; dQ, dK


@pytest.mark.parametrize(
    ("b", "h", "q", "k", "d"),
    [
        pytest.param(0, 2, 3, 4, 5, id="no batch"),
        pytest.param(1, 0, 3, 4, 5, id="no heads"),
        pytest.param(1, 2, 0, 4, 5, id="no queries"),
        pytest.param(1, 2, 3, 0, 5, id="no keys"),
    ],
)
def test_without_a_pair_of_query_and_key_there_is_no_dot_product(
    b: int, h: int, q: int, k: int, d: int
) -> None:
    query, key, rows = meta(b, h, q, d), meta(b, h, k, d), meta(b, h, q)
    forward = billed(
        aten._scaled_dot_product_efficient_attention.default, query, key, key, None, False
    )
    backward = billed(
        aten._scaled_dot_product_efficient_attention_backward.default,
        *(query, query, key, key, None, query, rows, SEED, SEED, 0.0, [True, True, True, False]),
    )
    assert forward == Cost()
    assert (backward.macs, backward.dots) == (0, 0)


def test_values_of_another_length_than_keys() -> None:
    v = meta(2, 4, 5, 3)
    cost = report_of(
        lambda: aten._scaled_dot_product_efficient_attention(Q, K, v, None, False)
    ).total
    assert cost.macs == 2 * 4 * 6 * 5 * (8 + 3)
    assert cost.dots == 2 * 4 * 6 * (5 + 3)  # scores, and results of a row
    grad = meta(2, 4, 6, 3)
    backward = report_of(
        lambda: aten._scaled_dot_product_efficient_attention_backward(
            grad, Q, K, v, None, grad, LSE, SEED, SEED, 0.0, [True, True, True, False]
        )
    )
    assert backward.total.macs == 2 * 4 * 6 * 5 * (3 + 3 + 8 + 8 + 8)  # dV, dP, dQ, dK; S again


def test_dropout_multiplies_every_weight_twice() -> None:
    plain = report_of(lambda: aten._scaled_dot_product_flash_attention(Q, K, V)).total
    dropped = report_of(lambda: aten._scaled_dot_product_flash_attention(Q, K, V, 0.5)).total
    assert dropped.arith - plain.arith == 2 * (2 * 4 * 6 * 5)  # mask, 1 / (1 - p)
    assert dropped.macs == plain.macs


def test_dropout_multiplies_twice_in_backward_and_twice_again() -> None:
    def backward(dropout: float) -> Report:
        kernel = aten._scaled_dot_product_flash_attention_backward
        return report_of(
            lambda: kernel(Q, Q, K, V, Q, LSE, None, None, 6, 5, dropout, False, SEED, SEED)
        )

    plain, dropped = backward(0.0), backward(0.5)
    scores = 2 * 4 * 6 * 5
    for phase in ("forward", "recompute"):  # dP, the gradient of the dropped P; P itself
        assert dropped.phases[phase].arith - plain.phases[phase].arith == 2 * scores
        assert dropped.phases[phase].macs == plain.phases[phase].macs


def test_the_math_path_has_the_same_products() -> None:
    b, h, q, k, d = 2, 3, 6, 5, 8
    inputs = tensors((b, h, q, d), (b, h, k, d), (b, h, k, d))

    def step() -> None:
        F.scaled_dot_product_attention(*inputs).sum().backward()

    with torch.no_grad():  # gradients are there, so that both add theirs to them
        for each in inputs:
            each.grad = torch.zeros_like(each)
    flash = report_of(step)
    with sdpa_kernel(SDPBackend.MATH):
        math = report_of(step)
    n, m = b * h * q * k, b * h * q
    for phase in ("forward", "backward"):
        assert math.phases[phase].macs == flash.phases[phase].macs
        assert math.phases[phase].dots == flash.phases[phase].dots
    forward = math.phases["forward"].flops - flash.phases["forward"].flops
    scaling = b * h * (q + k) * d - n  # math scales queries and keys, flash the scores
    assert forward == scaling + 2 * n - 2 * m  # its safe softmax; no logsumexp
    backward = math.phases["backward"].flops - flash.phases["backward"].flops
    # math's softmax sums P·dP, n products and n - m additions; flash dO·O, m·d long
    assert backward == scaling + (2 * n - m) - (2 * m * d - m)


def test_inference_mode_reaches_the_kernel_too() -> None:
    q, k, v = tensors((1, 2, 4, 4), (1, 2, 4, 4), (1, 2, 4, 4))
    with torch.inference_mode():
        whole = report_of(lambda: F.scaled_dot_product_attention(q, k, v))
    with torch.no_grad():
        kernel = report_of(lambda: F.scaled_dot_product_attention(q, k, v))
    assert whole.by_operator() == kernel.by_operator()
    assert set(whole.by_operator()) == {CPU}
