from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import flopcount
from flopcount import Cost, Report
from flopcount.formulas import plan_of
from tests.formulas.counting import opened
from tests.formulas.decomposed import plain

aten = torch.ops.aten
MODES = ["RNN_RELU", "RNN_TANH", "LSTM", "GRU"]
GIVEN = ["the result", "the last state", "both"]
Run = Callable[[nn.RNNBase, Any, Sequence[Tensor]], Report]


def no_mkldnn() -> Any:
    return torch.backends.mkldnn.flags(enabled=False)


def layer(mode: str, device: str = "meta", **settings: Any) -> nn.RNNBase:
    """Four numbers in and six units, its gradients there already: what adds to them is counted."""
    if mode.startswith("RNN"):
        settings["nonlinearity"] = mode.removeprefix("RNN_").lower()
    made: nn.RNNBase = getattr(nn, mode[:4].rstrip("_"))(4, 6, device=device, **settings)
    return made


def states(module: nn.RNNBase, sequences: int, device: str = "meta") -> list[Tensor]:
    """The first h, and of an LSTM c."""
    passes = module.num_layers * (1 + module.bidirectional)
    lengths = [module.proj_size or 6, 6][: 1 + (module.mode == "LSTM")]
    return [
        torch.zeros(passes, sequences, length, device=device, requires_grad=True)
        for length in lengths
    ]


def step(
    module: nn.RNNBase, x: Tensor | PackedSequence, first: Sequence[Tensor], given: str
) -> tuple[Report, list[Tensor]]:
    """A forward and a backward pass under the counter, and the results."""
    with flopcount.FlopCounter() as counter:
        result, last = module(x, tuple(first) if module.mode == "LSTM" else first[0])
        result = result.data if isinstance(result, PackedSequence) else result
        ends = list(last) if module.mode == "LSTM" else [last]
        wanted = {"the result": [result], "the last state": ends, "both": [result, *ends]}[given]
        torch.autograd.backward(wanted, [torch.ones_like(each) for each in wanted])
    return counter.report(), [result, *ends]


def fused(
    module: nn.RNNBase,
    x: Tensor,
    first: Sequence[Tensor],
    results: Sequence[Tensor],
    given: str,
    mask: Sequence[bool] = (True, True, True, True),
    batch_sizes: Sequence[int] = (),
    miopen: bool = False,
) -> tuple[Cost, Cost]:
    """What the counter says of cuDNN's or MIOpen's op, and of its gradient's, without bytes."""
    hx, cx = [*first, None][:2]
    weights = list(module._flat_weights)
    stride = len(module.all_weights[0])
    sizes = [6] if miopen else [6, module.proj_size]
    settings = [
        *(MODES.index(module.mode), *sizes, module.num_layers, module.batch_first),
        *(module.dropout, module.training, module.bidirectional, list(batch_sizes), None),
    ]
    grads = [torch.ones_like(each) for each in results]
    grads = [*grads, None][:3]  # a GRU has no c
    if given == "the result":
        grads[1:] = None, None
    elif given == "the last state":
        grads[0] = None
    buffer = [] if miopen else [None]
    forward = plan_of(aten.miopen_rnn.default if miopen else aten._cudnn_rnn.default).bill(
        [x, weights, stride, *buffer, hx, cx, *settings], {}, [*results, x, x]
    )
    backward = aten.miopen_rnn_backward if miopen else aten._cudnn_rnn_backward
    back = plan_of(backward.default).bill(
        [x, weights, stride, x, hx, cx, results[0], *grads, *settings, x, list(mask)],
        {},
        [x, hx, cx, weights],
    )
    assert forward.counted
    assert back.counted
    assert not back.recompute
    return plain(forward.cost), plain(back.cost)


@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, id="one layer"),
        pytest.param({"bias": False}, id="without biases"),
        pytest.param({"num_layers": 2}, id="two layers"),
        pytest.param({"bidirectional": True}, id="both directions"),
        pytest.param(
            {"num_layers": 3, "bidirectional": True, "batch_first": True, "dropout": 0.5},
            id="three layers in both directions with dropout",
        ),
    ],
)
def test_a_kernel_costs_what_the_layer_costs_unrolled(
    mode: str, settings: dict[str, Any], given: str
) -> None:
    compare_with_unrolled(layer(mode, **settings), given)


@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize("settings", [{"bias": False}, {"num_layers": 2, "bidirectional": True}])
def test_a_projected_state_costs_what_it_costs_unrolled(
    settings: dict[str, Any], given: str
) -> None:
    compare_with_unrolled(layer("LSTM", proj_size=3, **settings), given)


def compare_with_unrolled(module: nn.RNNBase, given: str) -> None:
    """On meta tensors, five steps of three sequences."""
    sequences, steps = 3, 5
    shape = (sequences, steps, 4) if module.batch_first else (steps, sequences, 4)
    x, first = torch.zeros(shape, device="meta", requires_grad=True), states(module, sequences)
    report, results = step(module, x, first, given)
    forward, backward = fused(module, x, first, results, given)
    unrolled = report.phases
    assert opened(forward) == opened(unrolled["forward"])
    assert forward.macs == unrolled["forward"].macs
    # unrolled, the mask of dropout is scaled once, in the forward pass
    h = module.proj_size or 6
    dropped = (module.num_layers - 1) * steps * sequences * h * (1 + module.bidirectional)
    expected = opened(unrolled["backward"]) + Cost(arith=dropped if module.dropout else 0)
    assert opened(backward) == expected
    assert backward.macs == unrolled["backward"].macs
    assert not report.uncounted


@pytest.mark.parametrize("mode", MODES)
def test_packed_sequences_cost_their_real_lengths(mode: str) -> None:
    module = layer(mode, "cpu", num_layers=2, bidirectional=True)
    packed = pack_sequence([torch.zeros(length, 4) for length in (5, 3, 1)])
    x, first = packed.data.requires_grad_(), states(module, 3, "cpu")
    with no_mkldnn():
        report, results = step(module, PackedSequence(x, packed.batch_sizes), first, "both")
    sizes = packed.batch_sizes.tolist()
    assert sizes == [3, 2, 2, 1, 1]
    forward, backward = fused(module, x, first, results, "both", batch_sizes=sizes)
    tokens = 5 + 3 + 1
    assert forward.macs == tokens * GATES[mode] * 6 * 2 * ((4 + 6) + (12 + 6))
    assert opened(forward) == opened(report.phases["forward"])
    assert backward.macs == report.phases["backward"].macs


@pytest.mark.parametrize("mode", MODES)
def test_a_pack_costs_what_its_sequences_cost_alone(mode: str) -> None:
    module = layer(mode, num_layers=2, bidirectional=True)

    def costs(tokens: int, sizes: Sequence[int]) -> tuple[Cost, Cost]:
        x, first = torch.zeros(tokens, 4, device="meta"), states(module, sizes[0])
        results = [torch.zeros(tokens, 12, device="meta"), *first]
        mask = True, True, True, False  # weights have one gradient for all sequences
        return fused(module, x, first, results, "both", mask, sizes)

    alone = [costs(length, [1] * length) for length in (5, 3, 1)]
    for pack, parts in zip(costs(9, [3, 2, 2, 1, 1]), zip(*alone, strict=True), strict=True):
        assert pack == sum(parts, Cost())


GATES = {"RNN_RELU": 1, "RNN_TANH": 1, "LSTM": 4, "GRU": 3}


def by_hand(gates: int, tokens: int, sequences: int, x: int, h: int, steps: int) -> dict[str, int]:
    """The parts of a layer with biases in one direction; ``steps`` are what a unit takes."""
    return {
        "macs": tokens * gates * h * (x + h),
        "dots": tokens * gates * h * 2,
        "rest": tokens * h * (3 * gates + steps),
    }


@pytest.mark.parametrize(
    ("mode", "steps"),
    [
        pytest.param("RNN_RELU", 1, id="ReLU: max"),
        pytest.param("RNN_TANH", 1, id="tanh"),
        pytest.param(
            "LSTM", 3 * 4 + 2 + 4, id="LSTM: three sigmoids of 4, two tanh, f·c + i·g, o·t"
        ),
        pytest.param("GRU", 2 * 4 + 1 + 4, id="GRU: two sigmoids of 4, tanh, r·a, n + z·(h - n)"),
    ],
)
def test_the_forward_pass_by_hand(mode: str, steps: int) -> None:
    module = layer(mode)
    x, first = torch.zeros(5, 3, 4, device="meta"), states(module, 3)
    results = [x, *first]
    cost, _ = fused(module, x, first, results, "both")
    expected = by_hand(GATES[mode], 5 * 3, 3, 4, 6, steps)
    assert cost.macs == expected["macs"]
    assert cost.dots == expected["dots"]
    assert cost.flops - 2 * cost.macs == expected["rest"]


@pytest.mark.parametrize("mode", ["RNN_TANH", "LSTM", "GRU"])
def test_gradients_that_nobody_wants_cost_nothing(mode: str) -> None:
    module, gates = layer(mode), GATES[mode]
    x, first = torch.zeros(5, 3, 4, device="meta"), states(module, 3)
    results = [torch.zeros(5, 3, 6, device="meta"), *first]

    def backward(*mask: bool) -> Cost:
        return fused(module, x, first, results, "both", mask)[1]

    everything = backward(True, True, True, True)
    tokens, h = 5 * 3, 6
    for_x = everything - backward(False, True, True, True)
    assert for_x == Cost(macs=tokens * 4 * gates * h, dots=tokens * 4)
    for_weight = everything - backward(True, True, True, False)
    weights = gates * h * (4 + h)
    assert for_weight == Cost(
        macs=weights * tokens, dots=weights, arith=2 * gates * h * (tokens - 1)
    )
    carried = {"RNN_TANH": 0, "LSTM": 1, "GRU": 1}[mode]  # dc·f, dh·z + Uᵀ·da
    for_first = everything - backward(True, False, False, True)
    assert for_first == Cost(macs=3 * h * gates * h, dots=3 * h, arith=3 * h * carried)


def test_the_first_c_costs_its_product_with_the_forget_gate() -> None:
    module, x = layer("LSTM"), torch.zeros(5, 3, 4, device="meta")
    first = states(module, 3)
    results = [torch.zeros(5, 3, 6, device="meta"), *first]
    without, with_c = (
        fused(module, x, first, results, "both", (True, True, c, True))[1] for c in (False, True)
    )
    assert with_c - without == Cost(arith=3 * 6)


def test_an_input_that_wants_no_gradient_is_that_of_the_first_layer() -> None:
    module = layer("GRU", num_layers=2, bidirectional=True)
    x, first = torch.zeros(5, 3, 4, device="meta"), states(module, 3)
    results = [torch.zeros(5, 3, 12, device="meta"), *first]
    without, with_x = (
        fused(module, x, first, results, "both", (wanted, True, True, True))[1]
        for wanted in (False, True)
    )
    dots = 2 * (5 * 3) * 4  # in either direction, whose results are added
    assert with_x - without == Cost(macs=dots * 3 * 6, dots=dots, arith=5 * 3 * 4)


@pytest.mark.parametrize("mode", MODES)
def test_miopen_costs_as_much_as_cudnn(mode: str) -> None:
    module = layer(mode, num_layers=2, bidirectional=True, dropout=0.5)
    x, first = torch.zeros(5, 3, 4, device="meta"), states(module, 3)
    results = [torch.zeros(5, 3, 12, device="meta"), *first]
    assert fused(module, x, first, results, "both", miopen=True) == fused(
        module, x, first, results, "both"
    )


@pytest.mark.parametrize("mode", ["LSTM", "GRU"])
def test_dropout_is_for_training(mode: str) -> None:
    module = layer(mode, num_layers=2, dropout=0.5)
    x, first = torch.zeros(5, 3, 4, device="meta"), states(module, 3)
    results = [torch.zeros(5, 3, 6, device="meta"), *first]
    train = fused(module, x, first, results, "both")
    evaluation = fused(module.eval(), x, first, results, "both")
    for one, other in zip(train, evaluation, strict=True):
        assert one - other == Cost(arith=2 * 5 * 3 * 6)  # mask, 1 / (1 - p)


def test_cudnns_weights_are_read_once() -> None:
    module = layer("GRU")
    x, first = torch.zeros(5, 3, 4, device="meta"), states(module, 3)
    weights = list(module._flat_weights)
    count = 3 * 6 * (4 + 6 + 1 + 1)
    buffer = torch.zeros(count, device="meta")
    results = [torch.zeros(5, 3, 6, device="meta"), first[0], x[:0], x[:0], buffer]
    bill = plan_of(aten._cudnn_rnn.default).bill(
        [x, weights, 4, buffer, first[0], None, 3, 6, 0, 1, False, 0.0, True, False, [], None],
        {},
        results,
    )
    assert bill.cost.read == 4 * (count + 5 * 3 * 4 + 3 * 6)
    assert bill.cost.written == 4 * (5 * 3 * 6 + 3 * 6)


# -- oneDNN, which is there on the CPU


@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize("settings", [{}, {"bias": False}, {"batch_first": True}])
def test_onednns_lstm_costs_what_it_costs_unrolled(settings: dict[str, Any], given: str) -> None:
    module = layer("LSTM", "cpu", **settings)
    x = torch.zeros(3, 3, 4, requires_grad=True)
    first = states(module, 3, "cpu")
    for leaf in (x, *first, *module.parameters()):
        leaf.grad = torch.zeros_like(leaf)  # both add theirs to it
    whole, _ = step(module, x, first, given)
    with no_mkldnn():
        unrolled, _ = step(module, x, first, given)
    assert {"aten.mkldnn_rnn_layer", "aten.mkldnn_rnn_layer_backward"} <= set(whole.by_operator())
    for phase in ("forward", "backward"):
        assert opened(whole.phases[phase]) == opened(unrolled.phases[phase])
        assert whole.phases[phase].macs == unrolled.phases[phase].macs
    assert whole.phases["recompute"] == Cost(special=3 * 3 * 6)  # tanh(c')
    assert not whole.uncounted


def test_onednn_runs_layers_and_directions_one_by_one() -> None:
    module = layer("LSTM", "cpu", num_layers=2, bidirectional=True)
    x = torch.zeros(5, 3, 4, requires_grad=True)
    report, _ = step(module, x, states(module, 3, "cpu"), "the result")
    forward, backward = (report.phases[phase].macs for phase in ("forward", "backward"))
    assert forward == 5 * 3 * (4 * 6) * 2 * ((4 + 6) + (12 + 6))
    assert backward == 2 * forward  # dx and dh, dW and dU


def test_biases_that_are_not_there_are_not_read() -> None:
    module, x = layer("LSTM", "cpu", bias=False), torch.zeros(5, 3, 4)
    with flopcount.FlopCounter() as counter:
        module(x)
    cost = counter.report().by_operator()["aten.mkldnn_rnn_layer"]
    assert cost.read == 4 * (5 * 3 * 4 + 4 * 6 * (4 + 6) + 2 * 3 * 6)


def test_onednns_gradients_are_split() -> None:
    module = layer("LSTM", "cpu")
    x = torch.zeros(5, 3, 4, requires_grad=True)
    report, _ = step(module, x, states(module, 3, "cpu"), "the result")
    gradients = report.root.gradients
    weights = 4 * 6 * (4 + 6)
    assert gradients["weight"].macs == weights * 5 * 3
    assert gradients["weight"].dots == weights
    assert gradients["bias"].arith == 2 * 4 * 6 * (5 * 3 - 1)
    assert gradients["input"].macs == 5 * 3 * (4 + 6) * (4 * 6)
    assert gradients["input"].dots == 5 * 3 * (4 + 6)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("packed", [False, True])
def test_inference_mode_opens_the_whole_layer(mode: str, packed: bool) -> None:
    module = layer(mode, "cpu", num_layers=2, bidirectional=True).eval()
    x: Any = torch.zeros(5, 3, 4)
    if packed:
        x = pack_sequence([torch.zeros(length, 4) for length in (5, 3, 1)])
    reports = []
    for context in (torch.inference_mode(), torch.no_grad()):
        with context, flopcount.FlopCounter() as counter:
            module(x)
        reports.append(counter.report())
    inference, no_grad = reports
    tokens = 5 + 3 + 1 if packed else 5 * 3
    expected = tokens * GATES[mode] * 6 * 2 * ((4 + 6) + (12 + 6))
    assert inference.total.macs == no_grad.total.macs == expected
    assert opened(inference.total) == opened(no_grad.total)
    assert not inference.uncounted


def test_packing_only_moves() -> None:
    padded, lengths = torch.zeros(5, 3, 4), torch.tensor([5, 3, 1])
    with flopcount.FlopCounter() as counter:
        nn.utils.rnn.pack_padded_sequence(padded, lengths)
    cost = counter.report().by_operator()["aten._pack_padded_sequence"]
    assert cost.flops == 0
    tokens, steps = 5 + 3 + 1, 8 * 5  # how many go on, in each step
    assert cost.written == 4 * tokens * 4 + steps
    assert cost.read == cost.written + 8 * 3
