from __future__ import annotations

from typing import Any

import pytest
import torch

import flopcount
from flopcount import Cost, Report
from flopcount.formulas import plan

B, S, E, H, WIDE = 3, 5, 8, 2, 16


def counting(module: torch.nn.Module, *args: Any, grad: bool, **kwargs: Any) -> Report:
    with torch.set_grad_enabled(grad), flopcount.FlopCounter() as counter:
        module(*args, **kwargs)
    report = counter.report()
    assert not report.uncounted
    return report


LOGSUMEXP = Cost(arith=B * H * S, special=B * H * S)  # the kernel that keeps it for backward


def without_bytes(cost: Cost) -> tuple[int, ...]:
    return (cost.macs, cost.dots, cost.arith, cost.compare, cost.special)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="norm last, ReLU"),
        pytest.param({"norm_first": True}, id="norm first"),
        pytest.param({"activation": "gelu"}, id="GELU"),
    ],
)
def test_an_encoder_layer_in_one_op_costs_what_its_parts_do(options: dict[str, Any]) -> None:
    layer = torch.nn.TransformerEncoderLayer(E, H, WIDE, batch_first=True, **options).eval()
    x = torch.rand(B, S, E)
    whole, parts = counting(layer, x, grad=False), counting(layer, x, grad=True)
    assert set(whole.by_operator()) == {"aten._transformer_encoder_layer_fwd"}
    assert "aten._transformer_encoder_layer_fwd" not in parts.by_operator()
    assert without_bytes(whole.total + LOGSUMEXP) == without_bytes(parts.total)


def test_attention_in_one_op_costs_what_its_parts_do() -> None:
    module = torch.nn.MultiheadAttention(E, H, batch_first=True).eval()
    x = torch.rand(B, S, E)
    whole = counting(module, x, x, x, need_weights=False, grad=False)
    parts = counting(module, x, x, x, need_weights=False, grad=True)
    assert set(whole.by_operator()) == {"aten._native_multi_head_attention"}
    assert without_bytes(whole.total + LOGSUMEXP) == without_bytes(parts.total)


def test_the_mean_of_the_weights_over_heads_is_counted() -> None:
    module = torch.nn.MultiheadAttention(E, H, batch_first=True).eval()
    x = torch.rand(B, S, E)
    plain = counting(module, x, x, x, need_weights=False, grad=False)
    averaged = counting(module, x, x, x, grad=False)
    each = counting(module, x, x, x, average_attn_weights=False, grad=False)
    assert averaged.total.arith - plain.total.arith == B * S * S * (H - 1 + 1)
    assert each.total.flops == plain.total.flops


def test_a_mask_is_two_selects_for_each_score() -> None:
    layer = torch.nn.TransformerEncoderLayer(E, H, WIDE, batch_first=True).eval()
    x = torch.rand(B, S, E)
    name = "aten._transformer_encoder_layer_fwd"
    plain = counting(layer, x, grad=False).by_operator()[name]
    masked = counting(layer, x, src_mask=torch.zeros(S, S), grad=False).by_operator()[name]
    assert (
        masked.compare - plain.compare == 2 * B * H * S * S
    )  # hides scores; clears rows that it hides whole


def test_biases_of_queries_keys_and_values_and_the_scale_of_queries() -> None:
    qkv, bias = torch.zeros(B, S, 3 * E), torch.zeros(3 * E)
    with flopcount.FlopCounter() as counter:
        torch.ops.aten._transform_bias_rescale_qkv(qkv, bias, H)
    cost = counter.report().total
    assert cost.flops == cost.arith == B * S * (3 * E + E)


def test_tritons_attention_layer_costs_what_the_native_one_does() -> None:
    x = torch.zeros(B, S, E)
    weights = [torch.zeros(3 * E, E), torch.zeros(3 * E), torch.zeros(E, E), torch.zeros(E)]
    native = torch.ops.aten._native_multi_head_attention
    with flopcount.FlopCounter() as counter:
        native(x, x, x, E, H, *weights, need_weights=False)
    op = torch.ops.aten._triton_multi_head_attention.default
    bill = plan(op).bill([x, x, x, E, H, *weights], {}, x)
    assert without_bytes(bill.cost) == without_bytes(counter.report().total)
    assert bill.cost.macs == B * S * E * E * 4 + 2 * B * S * S * E
