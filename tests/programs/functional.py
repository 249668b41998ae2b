"""Functional calls and transforms, parametrised weights, scripted modules."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch.func import grad as func_grad
from torch.nn.utils import parametrizations, parametrize

from tests.programs.catalogue import (
    Made,
    Row,
    batch,
    chain,
    descend,
    linear,
    program,
)
from tests.programs.hooks import Product, applied


def weights(model: nn.Module) -> dict[str, Tensor]:
    """The model's parameters, detached."""
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


# -- calls


@program({"": Row(2, 3), "0": Row(1, 1), "1": Row(1, 2)})
def a_functional_call_with_other_weights(device: str) -> Made:
    """The gradients flow to them as they would to the module's own."""
    model, x = chain(device, 2), batch(device)
    others = {name: w.clone().requires_grad_() for name, w in weights(model).items()}

    def step() -> Any:
        return [descend(functional_call(model, others, (x,))), *(w.grad for w in others.values())]

    return model, step


@program({"": Row(4, 6, calls=2), "0": Row(2, 2, calls=2), "1": Row(2, 4, calls=2)})
def a_step_down_the_gradient_without_changing_the_module(device: str) -> Made:
    """Two functional calls, each with the gradients of both weights: 1 + 2 U."""
    model, x = chain(device, 2), batch(device)

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        return functional_call(model, parameters, (x,)).sin().sum()

    def step() -> Any:
        before = weights(model)
        slopes = func_grad(loss)(before)
        after = {name: w - 0.1 * slopes[name] for name, w in before.items()}
        return func_grad(loss)(after)

    return model, step


# -- transforms


@program({"": Row(6, 9), "0": Row(3, 3), "1": Row(3, 6)})
def an_ensemble_of_three_under_vmap(device: str) -> Made:
    """One call multiplies with three weights; backward is three times 1 + 2 U."""
    model, x = chain(device, 2), batch(device)
    stacked = {name: torch.stack([w, 2 * w, 3 * w]) for name, w in weights(model).items()}
    for w in stacked.values():
        w.requires_grad_()

    def step() -> Any:
        outputs = vmap(lambda ws: functional_call(model, ws, (x,)))(stacked)
        return [descend(outputs), *(w.grad for w in stacked.values())]

    return model, step


@program({"": Row(2, 3), "0": Row(1, 1), "1": Row(1, 2)})
def a_gradient_for_each_sample(device: str) -> Made:
    """4 samples: forward as for the batch. A weight's gradient for each is 8 × 8 products of
    length 1, 4 times: 1 U, as for the batch, too; so is the second layer's input's.
    """
    model, x = chain(device, 2), batch(device)

    def loss(parameters: dict[str, Tensor], sample: Tensor) -> Tensor:
        return functional_call(model, parameters, (sample[None],)).sin().sum()

    return model, lambda: vmap(func_grad(loss), in_dims=(None, 0))(weights(model), x)


@program({"": Row(2, 2), "0": Row(1, 1), "1": Row(1, 1)})
def a_product_of_a_vector_and_the_jacobian(device: str) -> Made:
    """vjp by the input: 1 U in each layer."""
    model, x, vector = chain(device, 2), batch(device), batch(device)

    def step() -> Any:
        output, pull = vjp(model, x)
        return output, pull(vector)

    return model, step


# In forward mode a product has two tangents, of one factor each. torch fills in zeros for a factor
# without a tangent, and multiplies by them, with and without a counter: a product of values is 3 U.


@program({"": Row(6), "0": Row(3), "1": Row(3)})
def a_product_of_the_jacobian_and_a_vector(device: str) -> Made:
    """jvp by the input: in each layer x·W, dx·W, and x·0, since the weight has no tangent."""
    model, x, vector = chain(device, 2), batch(device), batch(device)
    return model, lambda: jvp(model, (x,), (vector,))


@program({"": Row(6), "0": Row(3), "1": Row(3)})
def a_product_of_the_jacobian_by_the_weights(device: str) -> Made:
    """In the second layer x·W, dx·W and x·dW; in the first 0·W instead of dx·W."""
    model, x = chain(device, 2), batch(device)
    vectors = {name: torch.ones_like(w) for name, w in weights(model).items()}

    def run(parameters: dict[str, Tensor]) -> Tensor:
        return functional_call(model, parameters, (x,))

    return model, lambda: jvp(run, (weights(model),), (vectors,))


@program({"": Row(6, 7), "0": Row(3, 3), "1": Row(3, 4)})
def dual_numbers_in_a_training_step(device: str) -> Made:
    """forward_ad: x·W, dx·W and x·0 in each layer. Backward has saved their inputs with tangents:
    a weight's gradient gᵀ·x comes with gᵀ·dx and 0·x, 3 U; the second's input's, g·W, is alone.
    """
    model, x, vector = chain(device, 2), batch(device), batch(device)

    def step() -> Any:
        with forward_ad.dual_level():
            output, tangent = forward_ad.unpack_dual(model(forward_ad.make_dual(x, vector)))
            return descend(output), tangent.detach()

    return model, step


@program({"": Row(1, 32)})
def a_jacobian_by_reverse_mode(device: str) -> Made:
    """The gradient by the input of each of 4 × 8 outputs: 32 products."""
    model, x = linear(device), batch(device)
    return model, lambda: jacrev(model)(x)


@program({"": Row(34)})
def a_jacobian_by_forward_mode(device: str) -> Made:
    """The value, a tangent for each of 4 × 8 inputs, and x·0 once for all."""
    model, x = linear(device), batch(device)
    return model, lambda: jacfwd(model)(x)


@program({"": Row(34, 34)})
def a_hessian(device: str) -> Made:
    """Forward over reverse: the value and the gradient, each with 32 tangents and one by 0."""
    model, x = linear(device), batch(device)
    return model, lambda: hessian(lambda x: model(x).sin().sum())(x)


@program({"": Row(3, 3)})
def a_hessian_times_a_vector_by_forward_over_reverse(device: str) -> Made:
    """The value and the gradient, both with one tangent and a product by 0."""
    model, x, vector = linear(device), batch(device), batch(device)
    return model, lambda: jvp(func_grad(lambda x: model(x).sin().sum()), (x,), (vector,))


@program({"": Row(1, 2)})
def a_custom_function_under_a_transform(device: str) -> Made:
    """Its backward makes both products, though only the input's gradient is asked for."""
    model, x = applied(Product, device), batch(device)
    return model, lambda: func_grad(lambda x: model(x).sin().sum())(x)


@program({"": Row(1, 32)})
def a_jacobian_of_the_older_interface(device: str) -> Made:
    """autograd.functional: backward runs 32 times, for the input alone."""
    model, x = linear(device), batch(device)
    return model, lambda: torch.autograd.functional.jacobian(model, x)


# -- weights that are computed


class Squared(nn.Module):
    """w·w, in place of w."""

    def forward(self, w: Tensor) -> Tensor:
        """8·8 dot products of length 8: 2 U."""
        return w @ w


@program(
    {
        "": Row(3, 5),
        "parametrizations": Row(2, 4, calls=0),
        "parametrizations.weight": Row(2, 4),
        "parametrizations.weight.0": Row(2, 4),
    }
)
def a_parametrised_weight(device: str) -> Made:
    """w·w is 2 U, and 2 U back for each factor; the layer's own product 1 U and 1 U back."""
    model, x = linear(device), batch(device)
    parametrize.register_parametrization(model, "weight", Squared())
    return model, lambda: descend(model(x))


@program(
    {
        "": Row(4, 6, calls=2),
        "parametrizations": Row(2, 4, calls=0),
        "parametrizations.weight": Row(2, 4),
        "parametrizations.weight.0": Row(2, 4),
    }
)
def a_parametrised_weight_that_is_cached(device: str) -> Made:
    """Two calls, and w·w once."""
    model, x, y = linear(device), batch(device), batch(device)
    parametrize.register_parametrization(model, "weight", Squared())

    def step() -> Tensor:
        with parametrize.cached():
            return descend(model(x) + model(y))

    return model, step


@program(
    {
        "": Row(1, 1),
        "parametrizations": Row(calls=0),
        "parametrizations.weight": Row(),
        "parametrizations.weight.0": Row(),
    }
)
def a_normed_weight(device: str) -> Made:
    """weight_norm scales rows, and multiplies no matrices."""
    model, x = parametrizations.weight_norm(linear(device)), batch(device)
    return model, lambda: descend(model(x))


@program(
    {
        "": Row(7 + 1 / 16, 4),
        "parametrizations": Row(3 + 1 / 16, calls=0),
        "parametrizations.weight": Row(3 + 1 / 16),
        "parametrizations.weight.0": Row(3 + 1 / 16),
    }
)
def a_weight_divided_by_its_spectral_norm(device: str) -> Made:
    """16 × 16: the layer is 2·4·16·16 = 4 U, and 4 U back. Three products with a vector, of
    2·16·16 = 1 U: two of power iteration, one for the norm, with a dot product of 2·16 FLOPs.
    Their gradients are outer products, without sums.
    """
    model = nn.Linear(16, 16, bias=False, device=device)
    parametrizations.spectral_norm(model)
    x = torch.randn(4, 16).to(device)
    return model, lambda: descend(model(x))


# -- scripted modules


@program({"": Row(6, 9, calls=3)})
def a_scripted_model_in_training(device: str) -> Made:
    """It is one row; its executor records, then optimises, then runs: three steps of 1 + 2 U."""
    model, x = torch.jit.script(chain(device, 2)), batch(device)
    return model, lambda: [descend(model(x)) for _ in range(3)]


@program(
    {
        "": Row(12, 21, calls=3),
        "0": Row(3, 3, calls=3),
        "1": Row(6, 12, calls=3),
        "2": Row(3, 6, calls=3),
    }
)
def a_scripted_module_inside_a_model(device: str) -> Made:
    """Two layers in one row, between two others: 4 U back, three times."""
    model, x = nn.Sequential(linear(device), torch.jit.script(chain(device, 2))), batch(device)
    model.append(linear(device))
    return model, lambda: [descend(model(x).sin()) for _ in range(3)]


@program(
    {
        "": Row(9, 15, calls=3),
        "0": Row(3, 3, calls=3),
        "1": Row(3, 6, calls=3),
        "2": Row(3, 6, calls=3),
    }
)
def a_traced_module_inside_a_model(device: str) -> Made:
    """As if it had not been traced."""
    traced = torch.jit.trace(linear(device), batch(device))
    model, x = nn.Sequential(linear(device), traced, linear(device)), batch(device)
    return model, lambda: [descend(model(x)) for _ in range(3)]
