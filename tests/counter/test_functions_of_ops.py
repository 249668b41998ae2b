"""Custom autograd functions that are made of ops, or only pass tensors on: none is named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from tests.counter.observation import assert_undisturbed

PROGRAMS: dict[str, Callable[[Tensor], Any]] = {}
"""Programs that take a tensor with a gradient; their result is run backward, if it has one."""

MASK = torch.tensor([0.0, 1.0, 2.0])


def program(function: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
    PROGRAMS[function.__name__.replace("_", " ")] = function
    return function


def made_of(forward: Any, backward: Any, **attributes: Any) -> Any:
    """``apply`` of a new function."""
    body = {"forward": staticmethod(forward), "backward": staticmethod(backward), **attributes}
    return type("Made", (Function,), body).apply  # type: ignore[attr-defined]


def keep(ctx: Any, x: Tensor) -> Tensor:
    """Forward: save ``x``, and double it."""
    ctx.save_for_backward(x)
    return x * 2


@program
def identity(x: Tensor) -> Tensor:
    return made_of(lambda ctx, x: x, lambda ctx, g: g)(x)


@program
def view(x: Tensor) -> Tensor:
    return made_of(lambda ctx, x: x.view_as(x), lambda ctx, g: g.view(-1).view_as(g))(x)


@program
def part(x: Tensor) -> Tensor:
    return made_of(lambda ctx, x: x[0], lambda ctx, g: g.expand(3, 3))(x)


@program
def detached(x: Tensor) -> Tensor:
    return made_of(lambda ctx, x: x.detach(), lambda ctx, g: g)(x)


@program
def reversed_gradient(x: Tensor) -> Tensor:
    return made_of(lambda ctx, x: x.view_as(x), lambda ctx, g: -g)(x)


@program
def straight_through(x: Tensor) -> Tensor:
    return made_of(lambda ctx, x: x.round(), lambda ctx, g: g.clone())(x)


@program
def no_gradient(x: Tensor) -> Tensor:
    return made_of(lambda ctx, x: x * 2, lambda ctx, g: None)(x)


@program
def zero_gradient(x: Tensor) -> Tensor:
    return made_of(lambda ctx, x: x * 2, lambda ctx, g: torch.zeros_like(g))(x)


@program
def constant_result(x: Tensor) -> Tensor:
    return made_of(lambda ctx, x: torch.ones(3), lambda ctx, g: g.new_full((3, 3), 0.5))(x)


@program
def result_in_two_parts(x: Tensor) -> Tensor:
    def forward(ctx: Any, x: Tensor) -> Tensor:
        mask = torch.zeros(3)
        mask[0] = 1
        return mask

    return made_of(forward, lambda ctx, g: torch.empty(3, 3).fill_(1))(x)


@program
def written_result(x: Tensor) -> Tensor:
    def forward(ctx: Any, x: Tensor) -> Tensor:
        out = torch.empty_like(x)
        out[:1] = x[:1]
        torch.mul(x[1:], 2, out=out[1:])
        return out

    return made_of(forward, lambda ctx, g: torch.cat([g[:1], g[1:] * 2]))(x)


@program
def drawn_result(x: Tensor) -> Tensor:
    def forward(ctx: Any, x: Tensor) -> Any:
        ctx.mask = torch.zeros_like(x).bernoulli_(0.5)
        return x * ctx.mask, ctx.mask, torch.randn(3)

    return made_of(forward, lambda ctx, g, *_: g * ctx.mask)(x)[0]


@program
def counted_result(x: Tensor) -> Tensor:
    return made_of(lambda ctx, x: torch.ones(3).cumsum(0), lambda ctx, g: torch.eye(3))(x)


@program
def changed_argument(x: Tensor) -> Tensor:
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        return x.mul_(2)

    return made_of(forward, lambda ctx, g: g * 2)(x * 1)


@program
def filled_argument(x: Tensor) -> Tensor:
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        return x.zero_()

    return made_of(forward, lambda ctx, g: torch.zeros_like(g))(x * 1)


@program
def saved_gradient(x: Tensor) -> Tensor:
    return made_of(keep, lambda ctx, g: ctx.saved_tensors[0])(x)


@program
def gradient_of_what_was_saved(x: Tensor) -> Tensor:
    return made_of(keep, lambda ctx, g: ctx.saved_tensors[0] * 3)(x)


@program
def gradient_in_an_attribute(x: Tensor) -> Tensor:
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.gradients = [torch.ones_like(x) * x.sum()]
        return x.sum()

    return made_of(forward, lambda ctx, g: ctx.gradients[0])(x)


@program
def saved_under_hooks(x: Tensor) -> Tensor:
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.tolist(), torch.tensor):
        return made_of(keep, lambda ctx, g: ctx.saved_tensors[0])(x)


@program
def saved_on_the_cpu(x: Tensor) -> Tensor:
    with torch.autograd.graph.save_on_cpu():
        return made_of(keep, lambda ctx, g: ctx.saved_tensors[0] * g)(x)


@program
def parameter_of_an_attribute(x: Tensor) -> Tensor:
    layer = nn.Linear(3, 3)

    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.layer = layer
        return layer(x)

    return made_of(forward, lambda ctx, g: g @ ctx.layer.weight)(x)


@program
def boxed_gradients(x: Tensor) -> Tensor:
    def backward(ctx: Any, gradients: Any) -> Tensor:
        return gradients.pop() if isinstance(gradients, list) else gradients

    return made_of(lambda ctx, x: x * 2, backward, boxed_grads_call=True)(x)


@program
def unmaterialised_gradients(x: Tensor) -> Tensor:
    def forward(ctx: Any, x: Tensor) -> Any:
        ctx.set_materialize_grads(False)
        return x * 2, x * 3

    return made_of(forward, lambda ctx, g, h: g)(x)[0]


@program
def gradient_of_another_dtype(x: Tensor) -> Tensor:
    return made_of(lambda ctx, x: x.double(), lambda ctx, g: g)(x)


@program
def indices(x: Tensor) -> Tensor:
    def forward(ctx: Any, x: Tensor) -> Any:
        value, index = x.max(1)
        ctx.mark_non_differentiable(index)
        ctx.save_for_backward(index)
        return value, index

    def backward(ctx: Any, g: Tensor, _: Any) -> Tensor:
        return torch.zeros(3, 3).scatter_(1, ctx.saved_tensors[0][:, None], g[:, None])

    return made_of(forward, backward)(x)[0]


@program
def no_tensor(x: Tensor) -> Tensor:
    made_of(lambda ctx, x: 3, lambda ctx, g: None)(x)
    return x


@program
def once_differentiated(x: Tensor) -> Tensor:
    return made_of(keep, once_differentiable(lambda ctx, g: g * ctx.saved_tensors[0]))(x)


class Squared(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x * x

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0] * g


@program
def set_up_context(x: Tensor) -> Tensor:
    return Squared.apply(x)


@program
def double_backward(x: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(Squared.apply(x).sum(), x, create_graph=True)
    return gradient


@program
def vmap(x: Tensor) -> Tensor:
    return torch.func.vmap(Squared.apply)(x)


@program
def functional_gradient(x: Tensor) -> Any:
    return torch.func.vmap(torch.func.grad(lambda row: Squared.apply(row).sum()))(x.detach())


@program
def hessian(x: Tensor) -> Any:
    return torch.func.hessian(lambda row: Squared.apply(row).sum())(x[0].detach())


@program
def nested_functions(x: Tensor) -> Tensor:
    def forward(ctx: Any, x: Tensor) -> Tensor:
        with torch.enable_grad():
            ctx.x = x.detach().requires_grad_()
            ctx.y = Squared.apply(ctx.x)
        return ctx.y.detach()

    def backward(ctx: Any, g: Tensor) -> Tensor:
        (gradient,) = torch.autograd.grad(ctx.y, ctx.x, g)
        return gradient

    return made_of(forward, backward)(x)


@program
def reentrant_checkpoint(x: Tensor) -> Tensor:
    def block(x: Tensor) -> Any:
        return x * MASK, MASK.detach()

    return checkpoint(block, x, use_reentrant=True)[0]


@program
def checkpoint_of_another_library(x: Tensor) -> Tensor:
    """Runs the program's code, which returns what it was not given."""

    def forward(ctx: Any, x: Tensor) -> Any:
        ctx.save_for_backward(x)
        return x * MASK, MASK.detach()

    return made_of(forward, lambda ctx, g, _: g * MASK)(x)[0]


@program
def checkpoint_around_functions(x: Tensor) -> Tensor:
    return checkpoint(lambda x: Squared.apply(Squared.apply(x)), x, use_reentrant=False)


@program
def empty_tensors(x: Tensor) -> Tensor:
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g.new_empty(3, 3).copy_(g.sum())

    return made_of(lambda ctx, x: torch.empty(0, 3), backward)(x)


@program
def fake_tensors(x: Tensor) -> Any:
    with FakeTensorMode():
        made_of(lambda ctx, x: torch.empty_like(x), lambda ctx, g: g)(torch.ones(3))
    made_of(lambda ctx, x: torch.empty_like(x), lambda ctx, g: g)(torch.ones(3, device="meta"))


@program
def sparse_gradient(x: Tensor) -> Tensor:
    y = made_of(lambda ctx, x: x.sum(0), lambda ctx, g: torch.eye(3).to_sparse())(x)
    return torch.autograd.grad(y.sum(), x)[0].to_dense()


@program
def forward_mode(x: Tensor) -> Any:
    apply = made_of(keep, lambda ctx, g: g, jvp=staticmethod(lambda ctx, t: t * 2))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x.detach(), MASK.expand(3, 3))
        return torch.autograd.forward_ad.unpack_dual(apply(dual)).tangent


@program
def an_error(x: Tensor) -> Any:
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.x = torch.empty_like(x)
        raise ValueError(str(x.sum()))

    with pytest.raises(ValueError, match="tensor"):
        made_of(forward, lambda ctx, g: g)(x)
    with pytest.raises(ValueError, match="tensor"):
        made_of(keep, forward)(x).sum().backward()
    return x * 2


class FunctionsSeen(TorchFunctionMode):
    """Notes the functions that the program calls, and nobody else's."""

    def __init__(self, notes: list[Any]) -> None:
        super().__init__()
        self.notes = notes

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.notes.append(str(func))
        return func(*args, **(kwargs or {}))


def test_a_function_mode_sees_the_program_alone() -> None:
    def run(notes: list[Any]) -> Tensor:
        x = torch.ones(3, requires_grad=True)
        torch.empty(3).relu()
        Squared.apply(x).sum().backward()
        return x.grad

    assert_undisturbed(run, around=FunctionsSeen)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("name", PROGRAMS)
def test_it_is_not_named(name: str) -> None:
    def run(notes: list[Any]) -> Any:
        x = torch.arange(1.0, 10.0).view(3, 3).requires_grad_()
        y = PROGRAMS[name](x)
        if isinstance(y, Tensor) and y.requires_grad:
            y.sum().backward()
        return y.detach() if isinstance(y, Tensor) else y, x.grad  # each run has a class of its own

    report = assert_undisturbed(run)
    assert not report.uncounted
