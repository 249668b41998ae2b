from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import flopcount
from flopcount import Cost, Report
from flopcount.formulas import Uncountable, plan_of
from flopcount.formulas.ops.transformer import padding
from tests.formulas.decomposed import plain

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
    bill = plan_of(op).bill([x, x, x, E, H, *weights], {}, x)
    assert without_bytes(bill.cost) == without_bytes(counter.report().total)
    assert bill.cost.macs == B * S * E * E * 4 + 2 * B * S * S * E


# -- nested tensors

LENGTHS = 3, 5, 2
ignored = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")


def nested() -> Tensor:
    return torch.nested.nested_tensor([torch.rand(length, E) for length in LENGTHS])


def attended(x: Tensor) -> Any:
    torch.manual_seed(0)
    module = torch.nn.MultiheadAttention(E, H, batch_first=True).eval()
    return module(x, x, x, need_weights=False)[0]


def encoded(x: Tensor, **options: Any) -> Any:
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(E, H, WIDE, batch_first=True, **options).eval()
    return layer(x)


LAYERS = [
    pytest.param(attended, {}, id="attention"),
    pytest.param(encoded, {}, id="an encoder layer"),
    pytest.param(encoded, {"norm_first": True, "activation": "gelu"}, id="norm first, GELU"),
]


def counted(function: Callable[[], Any]) -> Cost:
    with flopcount.FlopCounter(strict=True) as counter:
        function()
    return counter.report().total


def products(function: Callable[[], Any]) -> int:
    """The MACs of all matrix products that torch's own profiler sees, inside of kernels, too."""
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        function()
    places = {"aten::mm": 0, "aten::bmm": 0, "aten::addmm": 1, "aten::_addmm_activation": 1}
    macs = 0
    for event in profiler.events():
        if event.name in places:
            a, b = event.input_shapes[places[event.name] :][:2]
            macs += prod(a) * b[-1]
    return macs


@ignored
@pytest.mark.parametrize(("layer", "options"), LAYERS)
@torch.no_grad()
def test_a_layer_on_nested_tensors_is_padded_in_its_attention_alone(
    layer: Any, options: dict[str, Any]
) -> None:
    x = nested()
    expected = layer(x, **options).unbind()
    found: list[Tensor] = []

    def one_by_one() -> None:
        for part in x.unbind():
            layer(part[None], **options)

    whole = counted(lambda: found.extend(layer(x, **options).unbind()))
    alone = counted(one_by_one)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)
    # each pads to five: of 25 pairs of a head there are 9, 25 and 4, of five rows 3, 5 and 2
    pairs, rows = H * (3 * 25 - (9 + 25 + 4)), H * (2 + 0 + 3)
    void = 2 * pairs * (E // H)
    padding = Cost(macs=void, void_macs=void, dots=pairs + rows * (E // H))
    assert plain(whole) == plain(alone) + padding
    assert whole.macs == products(lambda: layer(x, **options))


@ignored
@torch.no_grad()
def test_a_padding_mask_makes_an_encoder_count_tokens_that_are_there() -> None:
    layer = torch.nn.TransformerEncoderLayer(E, H, WIDE, batch_first=True)
    encoder = torch.nn.TransformerEncoder(layer, 2).eval()
    x = torch.rand(3, 5, E)
    mask = torch.arange(5) >= torch.tensor(LENGTHS)[:, None]
    expected = encoder(x, src_key_padding_mask=mask)
    found: list[Tensor] = []
    cost = counted(lambda: found.append(encoder(x, src_key_padding_mask=mask)))
    assert torch.equal(found[0], expected)
    tokens = 3 + 5 + 2
    of_a_token = 4 * E * E + 2 * E * WIDE
    assert cost.valid_macs == 2 * (tokens * of_a_token + 2 * (9 + 25 + 4) * E)
    assert cost.void_macs == 2 * 2 * (3 * 25 - (9 + 25 + 4)) * E


@ignored
@torch.no_grad()
def test_biases_of_nested_queries_keys_and_values_are_added_to_padding_too() -> None:
    qkv = torch.nested.nested_tensor([torch.rand(length, 3 * E) for length in LENGTHS])
    bias = torch.zeros(3 * E)
    cost = counted(lambda: torch.ops.aten._transform_bias_rescale_qkv(qkv, bias, H))
    assert cost.flops == cost.arith == 3 * 5 * (3 * E + E)
    assert cost.written == 4 * 3 * 5 * 3 * E


def test_how_far_an_accelerator_pads_is_not_known() -> None:
    with pytest.raises(Uncountable, match="how far this kernel pads"):
        padding(torch.empty(3, 5, E, device="meta"), H, E // H)
