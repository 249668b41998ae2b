"""Forward work that is done again while backward runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import grad
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from flopcount import FlopCounter, Report
from flopcount.attribution import Attribution, Thread
from flopcount.ledger import RECOMPUTE
from flopcount.scope import Scope
from tests.attribution.units import U, batch, linear, own_units, units
from tests.invariants import check

REENTRANT = pytest.mark.parametrize(
    "reentrant", [pytest.param(True, id="reentrant"), pytest.param(False, id="not reentrant")]
)


def two() -> nn.Sequential:
    return nn.Sequential(linear(), linear())


def trained(run: Any, model: nn.Module | None = None) -> Report:
    with FlopCounter(model) as counter:
        run(batch(grad=True)).sum().backward()
    report = counter.report()
    check(report)
    assert "unattributed" not in report.by_module()
    return report


def gradients(report: Report) -> dict[str, int]:
    return {name: cost.matmul_flops // U for name, cost in report.model.gradients.items()}


def test_a_reentrant_checkpoint_runs_its_block_again() -> None:
    block = two()
    report = trained(lambda x: checkpoint(block, x, use_reentrant=True), block)
    assert units(report) == {"forward": 2, "recompute": 2, "backward": 4}
    assert units(report["0"]) == {"forward": 1, "recompute": 1, "backward": 2}
    assert units(report["1"]) == {"forward": 1, "recompute": 1, "backward": 2}
    assert gradients(report) == {"input": 2, "weight": 2, "bias": 0}
    assert report.model.calls == 1  # recomputation is not a call


def test_a_checkpoint_that_is_not_reentrant_stops_at_the_last_saved_tensor() -> None:
    block = two()
    report = trained(lambda x: checkpoint(block, x, use_reentrant=False), block)
    # "1" saves the output of "0", and nobody saves the output of "1"
    assert units(report) == {"forward": 2, "recompute": 1, "backward": 4}
    assert units(report["0"]) == {"forward": 1, "recompute": 1, "backward": 2}
    assert units(report["1"]) == {"forward": 1, "backward": 2}
    assert gradients(report) == {"input": 2, "weight": 2, "bias": 0}


@REENTRANT
def test_model_flops_leave_recomputation_out_and_hardware_flops_do_not(reentrant: bool) -> None:
    block = two()
    report = trained(lambda x: checkpoint(block, x, use_reentrant=reentrant), block)
    assert report.model_flops == 6 * U
    assert report.hardware_flops == (8 if reentrant else 7) * U


@REENTRANT
def test_work_of_the_block_itself_is_recomputed_under_its_name(reentrant: bool) -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(8, 8))
            self.layer = linear()

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x @ self.weight)

    block = Block()
    report = trained(lambda x: checkpoint(block, x, use_reentrant=reentrant))
    layer = {"forward": 1, "backward": 2} | ({"recompute": 1} if reentrant else {})
    assert units(report["layer"]) == layer
    assert own_units(report.model) == 1 + 1 + 2


@REENTRANT
def test_a_method_of_a_submodule_is_recomputed_under_its_names(reentrant: bool) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = two()
            self.head = linear()

        def features(self, x: Tensor) -> Tensor:
            return self.body[1](self.body[0](x))

        def forward(self, x: Tensor) -> Tensor:
            return self.head(checkpoint(self.features, x, use_reentrant=reentrant))

    model = Model()
    report = trained(model)
    assert [node.path for node in report.root.walk()][1:] == [
        "",
        *("body", "body.0", "body.1"),
        "head",
    ]
    assert units(report["head"]) == {"forward": 1, "backward": 2}
    assert units(report["body.0"]) == {"forward": 1, "backward": 2, "recompute": 1}


class Product(torch.autograd.Function):
    """x·w, computed again for its backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return x @ weight

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, weight = (t.detach().requires_grad_() for t in ctx.saved_tensors)
        with torch.enable_grad():
            y = x @ weight
        return grad(y, (x, weight), gradients)


class Again(nn.Module):
    """A checkpoint of its own making."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        return Product.apply(x, self.weight)


class TestWithoutModules:
    @REENTRANT
    def test_a_function_is_recomputed_in_the_scope_that_called_it(self, reentrant: bool) -> None:
        class Model(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.w = nn.Parameter(torch.ones(8, 8))
                self.v = nn.Parameter(torch.ones(8, 8))

            def forward(self, x: Tensor) -> Tensor:
                return checkpoint(lambda x: x @ self.w @ self.v, x, use_reentrant=reentrant)

        report = trained(Model())
        again = 2 if reentrant else 1
        assert units(report.model) == {"forward": 2, "backward": 4, "recompute": again}
        assert units(report) == units(report.model)

    @REENTRANT
    def test_even_as_the_first_that_backward_does(self, reentrant: bool) -> None:
        weight = torch.ones(8, 8, requires_grad=True)
        with FlopCounter() as counter:
            loss = checkpoint(
                lambda x: (x @ weight).sin().sum(), batch(grad=True), use_reentrant=reentrant
            )
            loss.backward()
        assert units(counter.report()) == {"forward": 1, "backward": 2, "recompute": 1}

    def test_with_create_graph(self) -> None:
        weight = torch.ones(8, 8, requires_grad=True)
        with FlopCounter() as counter:
            x = batch(grad=True)
            y = checkpoint(lambda x: (x @ weight).sin(), x, use_reentrant=False)
            grad(y.sum(), x, create_graph=True)
        # cos needs x·w again; the gradient by x is one product
        assert units(counter.report()) == {"forward": 1, "backward": 1, "recompute": 1}

    def test_a_checkpoint_that_is_not_torchs(self) -> None:
        model = Again()
        report = trained(lambda x: 2 * model(x))
        assert units(report.model) == {"forward": 1, "backward": 2, "recompute": 1}

    def test_a_checkpoint_that_is_not_torchs_after_one_that_is(self) -> None:
        model, weight = Again(), torch.ones(8, 8)

        def loss(y: Tensor) -> Tensor:
            return (y @ weight).sin().sum()

        with FlopCounter(model) as counter:
            checkpoint(loss, model(batch(grad=True)), use_reentrant=False).backward()
        report = counter.report()
        assert units(report.model) == {"forward": 1, "backward": 2, "recompute": 1}
        assert units(report) == {"forward": 2, "backward": 3, "recompute": 2}


class TestNested:
    @pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
    def test_reentrant(self) -> None:
        outer, inner = linear(), two()
        model = nn.ModuleDict({"outer": outer, "inner": inner})

        def run(x: Tensor) -> Tensor:
            return checkpoint(inner, outer(x), use_reentrant=True)

        report = trained(lambda x: checkpoint(run, x, use_reentrant=True), model)
        # the outer checkpoint runs all three again, then the inner one its two
        assert units(report["outer"]) == {"forward": 1, "recompute": 1, "backward": 2}
        assert units(report["inner"]) == {"forward": 2, "recompute": 4, "backward": 4}
        assert gradients(report) == {"input": 3, "weight": 3, "bias": 0}

    def test_not_reentrant(self) -> None:
        outer, inner = linear(), two()
        model = nn.ModuleDict({"outer": outer, "inner": inner})

        def run(x: Tensor) -> Tensor:
            return checkpoint(inner, outer(x), use_reentrant=False)

        report = trained(lambda x: checkpoint(run, x, use_reentrant=False), model)
        # the last saved tensor of all is the output of inner.0
        assert units(report["outer"]) == {"forward": 1, "recompute": 1, "backward": 2}
        assert units(report["inner.0"]) == {"forward": 1, "recompute": 1, "backward": 2}
        assert units(report["inner.1"]) == {"forward": 1, "backward": 2}
        assert gradients(report) == {"input": 3, "weight": 3, "bias": 0}


def test_a_backward_pass_inside_what_is_recomputed() -> None:
    class Forces(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.energy, self.head = linear(), linear()

        def forward(self, x: Tensor) -> Tensor:
            with torch.enable_grad():
                probe = x.detach().requires_grad_()
                (force,) = grad(self.energy(probe).sum(), probe)
            return self.head(x + force)

    model = Forces()
    report = trained(lambda x: checkpoint(model, x, use_reentrant=True), model)
    # the forces are one backward product, forward and when recomputed
    assert units(report["energy"]) == {"forward": 1, "recompute": 1, "backward": 2}
    assert units(report["head"]) == {"forward": 1, "recompute": 1, "backward": 2}
    assert own_units(report.model) == 0


@pytest.mark.parametrize("started_here", [True, False])
def test_a_thread_that_another_one_sent_does_not_take_its_nodes_for_recomputed_ones(
    started_here: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on an accelerator, whose backward runs in a thread that numbers what it recomputes."""
    monkeypatch.setattr("flopcount.attribution.backward_started_here", lambda: started_here)
    attribution = Attribution()
    here, other = attribution.local.thread, Thread(attribution, attribution)
    attribution.add(other)
    recomputed, made = Scope("recomputed", None), Scope("made", None)
    node = batch(grad=True).sin().grad_fn
    here.record.note(recomputed.places[RECOMPUTE], node._sequence_nr())
    other.record.note(made.forward, node._sequence_nr())
    owner = attribution._owner(here, node, node._sequence_nr())
    assert owner is (recomputed if started_here else made)


def test_checkpoint_sequential() -> None:
    model = nn.Sequential(linear(), linear(), linear(), linear())
    report = trained(lambda x: checkpoint_sequential(model, 2, x, use_reentrant=True), model)
    # two segments of two; the last segment is not checkpointed
    assert units(report) == {"forward": 4, "backward": 8, "recompute": 2}
    assert units(report["1"]) == {"forward": 1, "backward": 2, "recompute": 1}
    assert units(report["3"]) == {"forward": 1, "backward": 2}


@REENTRANT
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_while_recomputing_leaves_later_steps_right(
    reentrant: bool, error: type[BaseException]
) -> None:
    class Moody(nn.Module):
        calls = 0

        def __init__(self) -> None:
            super().__init__()
            self.layer = linear()

        def forward(self, x: Tensor) -> Tensor:
            Moody.calls += 1
            if Moody.calls == 2:
                raise error
            return self.layer(x).sin()

    model = Moody()
    with FlopCounter(model) as counter:
        with pytest.raises(error):
            checkpoint(model, batch(grad=True), use_reentrant=reentrant).sum().backward()
        before = units(counter.report())
        checkpoint(model, batch(grad=True), use_reentrant=reentrant).sum().backward()
    report = counter.report()
    check(report)
    assert before == {"forward": 1}
    assert units(report["layer"]) == {"forward": 2, "recompute": 1, "backward": 2}
    assert units(report) == units(report["layer"])
