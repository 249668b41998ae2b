"""Forward work that is done again while backward runs."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from flopcount import FlopCounter, Report
from flopcount.attribution.backward import Pass
from flopcount.attribution.forward import Attribution
from flopcount.attribution.phase import RECOMPUTE
from flopcount.attribution.thread_state import ThreadState
from flopcount.attribution.tree import ModuleTree, Scope
from tests.attribution.units import U, batch, linear, units

REENTRANT = pytest.mark.parametrize(
    "reentrant", [pytest.param(True, id="reentrant"), pytest.param(False, id="not reentrant")]
)


def two() -> nn.Sequential:
    return nn.Sequential(linear(), linear())


def trained(run: Any, model: nn.Module | None = None) -> Report:
    with FlopCounter(model) as counter:
        run(batch(grad=True)).sum().backward()
    report = counter.report()
    assert "unattributed" not in report.by_module()
    return report


def gradients(report: Report) -> dict[str, int]:
    return {name: cost.matmul_flops // U for name, cost in report.model.gradients.items()}


@REENTRANT
def test_gradients_are_told_apart_in_what_is_recomputed(reentrant: bool) -> None:
    block = two()
    report = trained(lambda x: checkpoint(block, x, use_reentrant=reentrant), block)
    assert gradients(report) == {"input": 2, "weight": 2, "bias": 0}


@REENTRANT
def test_model_flops_leave_recomputation_out_and_hardware_flops_do_not(reentrant: bool) -> None:
    block = two()
    report = trained(lambda x: checkpoint(block, x, use_reentrant=reentrant), block)
    assert report.model_flops == 6 * U
    assert report.hardware_flops == (8 if reentrant else 7) * U


def test_checkpoints_of_methods_of_a_model_that_is_not_given() -> None:
    """The inner layer runs for both checkpoints again, in the row of its first call."""

    class Methods(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = linear(), linear()

        def outer(self, x: Tensor) -> Tensor:
            return self.b(checkpoint(lambda x: self.a(x), x, use_reentrant=True))

        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(self.outer, x, use_reentrant=True)

    model = nn.Sequential(linear(), Methods(), linear())
    with FlopCounter() as counter:
        model(batch(grad=True)).sum().backward()
    report = counter.report()
    assert list(report) == ["<block>", "", "0", "1", "1.a", "1.b", "2"]
    assert units(report["1.a"]) == {"forward": 1, "recompute": 2, "backward": 2}
    assert units(report["1.b"]) == {"forward": 1, "recompute": 1, "backward": 2}


@pytest.mark.parametrize("num_calls", [1, 0])
def test_a_thread_that_another_one_sent_does_not_take_its_nodes_for_recomputed_ones(
    num_calls: int,
) -> None:
    """As on an accelerator, whose backward runs in a thread that numbers what it recomputes."""
    attribution = Attribution(ModuleTree())
    here = attribution.here
    other = ThreadState(attribution.tree.unattributed, attribution)
    here.backward._pass, other.is_stranger = Pass(num_calls=num_calls), False
    attribution.threads.add(other)
    recomputed, made = Scope("recomputed", None), Scope("made", None)
    node = batch(grad=True).sin().grad_fn
    here.thread.node_log.start(recomputed.places[RECOMPUTE], node._sequence_nr())
    other.node_log.start(made.forward, node._sequence_nr())
    origin = here.backward._origin(node, node._sequence_nr())
    assert origin.scope is (recomputed if num_calls else made)


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
    assert before == {"forward": 1}
    assert units(report["layer"]) == {"forward": 2, "recompute": 1, "backward": 2}
    assert units(report) == units(report["layer"])
