"""Several threads, tasks and pipeline stages."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tests.programs.catalogue import (
    Composed,
    Made,
    Row,
    Watch,
    batch,
    chain,
    descend,
    linear,
    program,
)


def aside(work: Callable[[], Any]) -> Any:
    """What ``work`` returns, done in a thread of its own."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(work()), name="aside")
    thread.start()
    thread.join()
    return results[0]


@program({"": Row(2, 3), "0": Row(1, 1), "1": Row(1, 2)})
def backward_in_another_thread(device: str, watch: Watch) -> Made:
    """The thread enters the counter; the nodes were made in the first one."""
    model, x = chain(device, 2), batch(device)

    def back(loss: Tensor) -> None:
        with watch():
            loss.backward()

    def step() -> Any:
        loss = model(x).sum()
        aside(lambda: back(loss))
        return loss

    return model, step


@program({"": Row(2, 3), "0": Row(1, 1), "1": Row(1, 2)})
def a_step_in_another_thread(device: str, watch: Watch) -> Made:
    """The thread enters the counter, and is counted like the first."""
    model, x = chain(device, 2), batch(device)

    def step() -> Any:
        with watch():
            return descend(model(x))

    return model, lambda: aside(step)


@program({"": Row(calls=0)}, warns=True)
def a_step_in_a_thread_that_nobody_watches(device: str) -> Made:
    """Nothing is counted, and the report warns of it."""
    model, x = chain(device, 2), batch(device)
    return model, lambda: aside(lambda: descend(model(x)))


@program({"": Row(2, 3), "0": Row(1, 1), "1": Row(1, 2)})
def forward_in_another_thread_and_backward_here(device: str, watch: Watch) -> Made:
    """This thread makes no node."""
    model, x = chain(device, 2), batch(device)

    def forward() -> Tensor:
        with watch():
            return model(x).sum()

    def step() -> Any:
        loss = aside(forward)
        loss.backward()
        return loss

    return model, step


@program(
    {
        "": Row(20, 30, calls=0),
        "left": Row(10, 15, calls=5),
        "left.0": Row(5, 5, calls=5),
        "left.1": Row(5, 10, calls=5),
        "right": Row(10, 15, calls=5),
        "right.0": Row(5, 5, calls=5),
        "right.1": Row(5, 10, calls=5),
    }
)
def two_models_trained_by_two_threads_at_once(device: str, watch: Watch) -> Made:
    """Five steps of each, 2 U and 1 + 2 U back."""
    model = nn.ModuleDict({"left": chain(device, 2), "right": chain(device, 2)})
    x = batch(device)

    def step() -> Any:
        ready = threading.Barrier(2)

        def train(name: str) -> Any:
            ready.wait()
            with watch():
                return [descend(model[name](x)) for _ in range(5)]

        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(train, model))

    return model, step


@program({"": Row(4, 6, calls=2), "0": Row(2, 2, calls=2), "1": Row(2, 4, calls=2)})
def one_model_called_by_two_threads_on_halves_of_a_batch(device: str, watch: Watch) -> Made:
    """As DataParallel does, and one backward pass for both, here: twice 1 + 2 U. The threads number
    their nodes alike, and both numbers lead to one layer.
    """
    model, halves = chain(device, 2), [batch(device), batch(device)]

    def call(x: Tensor) -> Tensor:
        with watch():
            return model(x).sum()

    def step() -> Any:
        losses = [aside(lambda half=half: call(half)) for half in halves]
        torch.autograd.backward(losses)
        return losses

    return model, step


@program({"": Row(2, 3), "0": Row(1, 1), "1": Row(1, 2)})
def forward_in_another_thread_and_a_long_loss_and_backward_here(device: str, watch: Watch) -> Made:
    """Each thread numbers its nodes from 0: the loss has numbers that the layers have, too."""
    model, x = chain(device, 2), batch(device)

    def forward() -> Tensor:
        with watch():
            return model(x)

    def step() -> Any:
        return descend(aside(forward).sin().cos().tanh().exp() * 3)

    return model, step


@program(
    {
        "": Row(12, 21, calls=0),
        "stem": Row(3, 3, calls=3),
        "left": Row(3, 6, calls=3),
        "left.0": Row(3, 6, calls=3),
        "right": Row(6, 12, calls=3),
        "right.0": Row(3, 6, calls=3),
        "right.1": Row(3, 6, calls=3),
    }
)
def two_towers_each_in_a_thread_of_its_own_on_a_stem_here(device: str, watch: Watch) -> Made:
    """Three steps: the stem's input needs no gradient, 1 U back, each layer of a tower has 2 U.

    All three threads make the first nodes of a layer of theirs, and this one runs them all back.
    """
    model = nn.ModuleDict(
        {"stem": linear(device), "left": chain(device, 1), "right": chain(device, 2)}
    )
    x = batch(device)

    def step() -> Any:
        def call(name: str, x: Tensor) -> Tensor:
            with watch():
                return model[name](x)

        losses = []
        with ThreadPoolExecutor(2) as pool:
            for _ in range(3):
                stem = model["stem"](x)
                towers = [pool.submit(call, name, stem) for name in ("left", "right")]
                left, right = (tower.result() for tower in towers)
                losses.append(descend(left * right))
        return losses

    return model, step


@program(
    {
        "": Row(4, 6, calls=0),
        "here": Row(2, 3),
        "here.0": Row(1, 1),
        "here.1": Row(1, 2),
        "there": Row(2, 3),
        "there.0": Row(1, 1),
        "there.1": Row(1, 2),
    }
)
def backward_in_a_thread_that_ran_a_model_of_its_own(device: str, watch: Watch) -> Made:
    """It enters only after the other model has run here, and has nodes of the same numbers."""
    model = nn.ModuleDict({name: chain(device, 2) for name in ("here", "there")})
    x = batch(device)

    def step() -> Any:
        loss = model["here"](x).sum()

        def work() -> Tensor:
            with watch():
                own: Tensor = model["there"](x).sum()
                loss.backward()
                own.backward()
                return own

        return loss, aside(work)

    return model, step


@dataclass
class Output:
    """What a module returns; torch does not know the class."""

    value: Tensor


@program(
    {
        "": Row(2, 2, calls=0),
        "stem": Row(1, 1),
        "head": Row(1, 1),
        "head.layer": Row(1, 1),
    }
)
def a_dataclass_from_another_thread(device: str, watch: Watch) -> Made:
    """Backward here, where a stem has nodes of the same numbers."""
    head = Composed(lambda self, x: Output(self.layer(x)), layer=linear(device))
    model, x = nn.ModuleDict({"stem": linear(device), "head": head}), batch(device)

    def forward() -> Tensor:
        with watch():
            output: Output = model["head"](x)
        return output.value

    def step() -> Any:
        stem = model["stem"](x).tanh().tanh()
        return [descend(aside(forward)), descend(stem)]

    return model, step


# -- tasks that take turns in one thread


@program(
    {
        "": Row(4, 6, calls=0),
        "left": Row(2, 3, calls=0),
        "left.0": Row(1, 1),
        "left.1": Row(1, 2),
        "right": Row(2, 3, calls=0),
        "right.0": Row(1, 1),
        "right.1": Row(1, 2),
    }
)
def two_tasks_that_wait_for_each_other_between_layers(device: str) -> Made:
    """asyncio lets the other model run after each layer; a call is never interrupted."""
    model = nn.ModuleDict({"left": chain(device, 2), "right": chain(device, 2)})
    x = batch(device)

    async def task(name: str) -> Tensor:
        y = x
        for layer in model[name]:
            y = layer(y)
            await asyncio.sleep(0)
        return descend(y)

    async def both() -> Any:
        return await asyncio.gather(task("left"), task("right"))

    return model, lambda: asyncio.run(both())


@program(
    {
        "": Row(4, 6, calls=0),
        "left": Row(2, 3),
        "left.a": Row(1, 1),
        "left.b": Row(1, 2),
        "right": Row(2, 3),
        "right.a": Row(1, 1),
        "right.b": Row(1, 2),
    }
)
def forwards_that_are_coroutines(device: str) -> Made:
    """A call returns at once; the layers run when it is awaited, and keep their names."""

    async def run(self: Any, x: Tensor) -> Tensor:
        y = self.a(x)
        await asyncio.sleep(0)
        return self.b(y)

    def part() -> nn.Module:
        return Composed(run, a=linear(device), b=linear(device))

    model, x = nn.ModuleDict({"left": part(), "right": part()}), batch(device)

    async def both() -> Any:
        return await asyncio.gather(model["left"](x), model["right"](x))

    return model, lambda: [descend(y) for y in asyncio.run(both())]


@program(
    {
        "": Row(8, 12, calls=0),
        "left": Row(4, 6, calls=2),
        "left.0": Row(2, 2, calls=2),
        "left.1": Row(2, 4, calls=2),
        "right": Row(4, 6, calls=2),
        "right.0": Row(2, 2, calls=2),
        "right.1": Row(2, 4, calls=2),
    }
)
def two_generators_that_train_in_turns(device: str) -> Made:
    """Each yields between its forward and its backward, so that those of the two alternate."""
    model = nn.ModuleDict({"left": chain(device, 2), "right": chain(device, 2)})
    x = batch(device)

    def training(name: str) -> Iterator[Tensor]:
        for _ in range(2):
            loss = model[name](x).sum()
            yield loss
            loss.backward()

    return model, lambda: [
        loss for pair in zip(training("left"), training("right"), strict=True) for loss in pair
    ]
