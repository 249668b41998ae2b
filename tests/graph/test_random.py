"""Checkpointed steps draw their random numbers twice, from one state: the compiler keeps it."""

from __future__ import annotations

from collections.abc import Callable
from operator import getitem
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn, ops
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

import flopcount
from flopcount import Cost, Report, count_graph
from tests.graph.graphs import U, compiled, macs
from tests.invariants import check


class Noise(nn.Module):
    """Multiplies by random numbers that an op of one result gives."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rand_like(x)


class Attention(nn.Module):
    """Attends to 8 numbers each of 4 rows."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        q = x.view(1, 1, *x.shape)
        return scaled_dot_product_attention(q, q, q, dropout_p=self.dropout).view_as(x)


RANDOM: dict[str, Callable[[], nn.Module]] = {
    "dropout": lambda: nn.Dropout(0.1),
    "attention that may drop": lambda: Attention(0.0),
    "attention that drops": lambda: Attention(0.1),
    "noise": Noise,
}


def model(name: str) -> nn.Module:
    """Something random between two products."""
    return nn.Sequential(nn.Linear(8, 8), RANDOM[name](), nn.Linear(8, 8))


def step(layers: nn.Module, x: Tensor, dynamic: bool = False, **how: Any) -> list[fx.GraphModule]:
    """The compiled forward and backward of a checkpoint."""
    graphs = compiled(
        lambda x: checkpoint(layers, x, use_reentrant=False, **how), x, dynamic=dynamic
    )
    return [graphs["forward"], graphs["backward"]]


def eagerly(layers: nn.Module, x: Tensor) -> Report:
    return flopcount.count(lambda x: checkpoint(layers, x, use_reentrant=False), x)


class TestCheckpoints:
    @pytest.mark.parametrize("keeps", [True, False])
    @pytest.mark.parametrize("name", RANDOM)
    def test_each_module_has_the_products_of_the_eager_step(self, name: str, keeps: bool) -> None:
        layers, x = model(name), torch.randn(4, 8)
        graphs = step(layers, x, preserve_rng_state=keeps)
        states = [n for g in graphs for n in g.graph.nodes if "rng_state" in str(n.target)]
        # the compiler keeps it even if the program does not want that; of attention without dropout
        # some versions of torch see that it draws nothing
        assert states or name == "attention that may drop"
        before = torch.get_rng_state()
        report = count_graph(*graphs)
        assert torch.equal(torch.get_rng_state(), before)  # nothing is drawn
        check(report, plain=True)
        assert not report.uncounted
        assert macs(report) == macs(eagerly(layers, x))

    def test_the_second_drawing_is_part_of_what_is_recomputed(self) -> None:
        """The second product runs once: no gradient needs its result."""
        report = count_graph(*step(model("dropout"), torch.randn(4, 8)))
        assert macs(report) == {
            "": {"forward": 2 * U, "backward": 3 * U, "recompute": U},
            "0": {"forward": U, "backward": U, "recompute": U},
            "1": {},
            "2": {"forward": U, "backward": 2 * U},
        }
        dropouts = [row for row in report.entries if row.op == "aten.native_dropout"]
        assert [(row.module, row.phase, row.calls) for row in dropouts] == [
            ("Sequential.1", "forward", 1),
            ("Sequential.1", "recompute", 1),
        ]
        assert dropouts[0].cost == dropouts[1].cost
        assert [node.calls for node in report.model.walk()] == [1, 1, 1, 1]

    @pytest.mark.parametrize("name", RANDOM)
    def test_no_size_is_asked_of_the_state_but_that_of_the_batch(self, name: str) -> None:
        layers = model(name)
        graphs = step(layers, torch.randn(4, 8), dynamic=True)
        with pytest.raises(ValueError, match="dimension 0 of input") as error:
            count_graph(*graphs)
        batch, *others = str(error.value).split("'")[1::2]
        assert not others
        report = count_graph(*graphs, sizes={batch: 32})
        assert macs(report) == macs(eagerly(layers, torch.randn(32, 8)))


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize(
    ("name", "before", "keeps"),
    [
        ("run_and_save_rng_state", (), {}),
        ("run_with_rng_state", ("a state",), {}),
        ("graphsafe_run_with_rng_state", (), {"rng_state": "a state"}),
        ("run_dtensor_rng_op", (0, 4), {}),
    ],
)
def test_an_op_with_a_state_costs_what_it_costs_alone(
    name: str, before: tuple[Any, ...], keeps: dict[str, Any], dynamic: bool
) -> None:
    """And is in the module that uses what it gives, since it remembers none itself."""
    keeper = getattr(torch._prims.rng_prims, name, None)
    if keeper is None:
        pytest.skip(f"this torch has no {name}")
    traced = make_fx(torch.exp, tracing_mode="symbolic" if dynamic else "real")(torch.ones(32))
    (traced_input,) = traced.graph.find_nodes(op="placeholder")
    value = traced_input.meta["val"]
    meta = {"nn_module_stack": {"noise": ("L['m'].noise", Noise)}, "val": value}
    graph = fx.Graph()
    x = graph.placeholder("x")
    x.meta["val"] = value
    drawn = graph.call_function(keeper, (*before, ops.aten.rand_like.default, x), keeps)
    if name == "run_and_save_rng_state":
        drawn = graph.call_function(getitem, (drawn, 1))
        drawn.meta = meta
    result = graph.call_function(ops.aten.mul.Tensor, (drawn, x))
    result.meta = meta
    graph.output(result)
    module, sizes = fx.GraphModule(nn.Module(), graph), {}
    if dynamic:
        with pytest.raises(ValueError, match=f"{value.shape[0]} is dimension 0 of input x$"):
            count_graph(module)
        sizes = {str(value.shape[0]): 32}
    # 32 floats, 128 bytes: drawn, then read again beside x for 32 products
    assert [(row.module, row.op, row.cost) for row in count_graph(module, sizes=sizes).entries] == [
        ("m.noise", "aten.rand_like", Cost(written=128)),
        ("m.noise", "aten.mul", Cost(arith=32, read=2 * 128, written=128)),
    ]
