"""Models cut into stages, and their batches into micro-batches."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.autograd import grad

from tests.programs.catalogue import Made, Row, batch, chain, program

STAGES = {
    "": Row(12, 21, calls=0),
    "first": Row(6, 9, calls=3),
    "first.0": Row(3, 3, calls=3),
    "first.1": Row(3, 6, calls=3),
    "second": Row(6, 12, calls=3),
    "second.0": Row(3, 6, calls=3),
    "second.1": Row(3, 6, calls=3),
}
"""Two stages of two layers, and three micro-batches: the second stage's input needs a gradient."""


class Pipeline:
    """Two stages that hand over detached activations, and their gradients, as over a wire."""

    def __init__(self, device: str) -> None:
        self.stages = nn.ModuleDict({"first": chain(device, 2), "second": chain(device, 2)})
        self.inputs = [batch(device) for _ in range(3)]
        self.open: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    def forward(self, index: int) -> None:
        """Both stages on a micro-batch."""
        sent = self.stages["first"](self.inputs[index])
        received = sent.detach().requires_grad_()
        self.open[index] = sent, received, self.stages["second"](received).sum()

    def backward(self, index: int) -> Tensor:
        """Both stages back."""
        sent, received, loss = self.open.pop(index)
        loss.backward()
        sent.backward(received.grad)
        return loss


@program(STAGES)
def a_pipeline_that_runs_all_forwards_first(device: str) -> Made:
    """GPipe: three forwards, then three backward passes."""
    pipeline = Pipeline(device)

    def step() -> Any:
        for index in range(3):
            pipeline.forward(index)
        return [pipeline.backward(index) for index in range(3)]

    return pipeline.stages, step


@program(STAGES)
def a_pipeline_of_one_forward_and_one_backward_in_turn(device: str) -> Made:
    """1F1B: after the first forward, each is followed by the backward pass of the one before."""
    pipeline = Pipeline(device)

    def step() -> Any:
        pipeline.forward(0)
        losses = []
        for index in (1, 2):
            pipeline.forward(index)
            losses.append(pipeline.backward(index - 1))
        return [*losses, pipeline.backward(2)]

    return pipeline.stages, step


@program({"": Row(2, 5), "0": Row(1, 2), "1": Row(1, 3)})
def a_backward_pass_split_into_inputs_and_weights(device: str) -> Made:
    """Zero bubble: first the input's gradient, 1 U in each layer; later those of the weights, 1 U
    each, and for the first of them the gradient flows through the second layer again, 1 U.
    """
    model, x = chain(device, 2), batch(device, grad=True)

    def step() -> Any:
        loss = model(x).sum()
        by_input = grad(loss, x, retain_graph=True)
        return by_input, grad(loss, list(model.parameters()))

    return model, step
