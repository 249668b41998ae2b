"""The split of a layer's backward into the gradients of its input, weight and bias."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm
from torch.utils._python_dispatch import TorchDispatchMode

import flopcount
from flopcount.report.tree import ModuleNode
from tests.invariants import check

N, D, M = 4, 3, 5


def split(model: nn.Module, *inputs: Tensor) -> dict[str, tuple[int, int]]:
    """MACs and other arithmetic of each gradient of ``model``."""
    report = flopcount.count(model, *inputs)
    check(report, plain=True)
    return split_of(report.model)


def split_of(node: ModuleNode) -> dict[str, tuple[int, int]]:
    return {name: (cost.macs, cost.arith) for name, cost in node.gradients.items()}


def ones(*shape: int, grad: bool = True) -> Tensor:
    return torch.ones(shape, requires_grad=grad)


class TestLinear:
    """(N × D) · (D × M): N·D·M MACs for dx and for dw, M·(N - 1) additions for db."""

    def test_all_three(self) -> None:
        assert split(nn.Linear(D, M), ones(N, D)) == {
            "input": (N * D * M, 0),
            "weight": (N * D * M, 0),
            "bias": (0, M * (N - 1)),
        }

    def test_dots_of_each(self) -> None:
        node = flopcount.count(nn.Linear(D, M), ones(N, D)).model
        # dx: N·D dot products of length M; dw: D·M of length N
        assert node.gradients["input"].dots == N * D
        assert node.gradients["weight"].dots == D * M
        # the exact convention: 2K - 1 operations for a dot product of length K
        assert node.gradients["input"].exact_flops == N * D * (2 * M - 1)
        assert node.gradients["weight"].exact_flops == D * M * (2 * N - 1)

    def test_square_so_that_no_shape_tells_them_apart(self) -> None:
        assert split(nn.Linear(8, 8), ones(8, 8)) == {
            "input": (8**3, 0),
            "weight": (8**3, 0),
            "bias": (0, 8 * 7),
        }

    @pytest.mark.parametrize("bias", [True, False])
    def test_a_sequence_of_batches(self, bias: bool) -> None:
        assert split(nn.Linear(D, M, bias=bias), ones(2, N, D)) == {
            "input": (2 * N * D * M, 0),
            "weight": (2 * N * D * M, 0),
            "bias": (0, M * (2 * N - 1) if bias else 0),
        }

    def test_an_input_that_is_laid_out_otherwise(self) -> None:
        x = ones(N, 2, D).transpose(0, 1).detach().requires_grad_()
        assert split(nn.Linear(D, M), x) == {
            "input": (2 * N * D * M, 0),
            "weight": (2 * N * D * M, 0),
            "bias": (0, M * (2 * N - 1)),
        }

    def test_an_input_without_gradient(self) -> None:
        assert split(nn.Linear(D, M), ones(N, D, grad=False)) == {
            "input": (0, 0),
            "weight": (N * D * M, 0),
            "bias": (0, M * (N - 1)),
        }

    def test_a_frozen_weight(self) -> None:
        layer = nn.Linear(D, M)
        layer.weight.requires_grad_(False)
        assert split(layer, ones(N, D)) == {
            "input": (N * D * M, 0),
            "weight": (0, 0),
            "bias": (0, M * (N - 1)),
        }

    def test_a_frozen_bias(self) -> None:
        layer = nn.Linear(D, M)
        layer.bias.requires_grad_(False)
        assert split(layer, ones(N, D))["bias"] == (0, 0)

    @pytest.mark.parametrize("norm", [weight_norm, spectral_norm])
    def test_a_weight_that_is_computed(self, norm: Any) -> None:
        """Of an input that needs no gradient: a single product, and it is the weight's."""
        gradients = split(norm(nn.Linear(D, M)), ones(N, D, grad=False))
        assert {name: macs for name, (macs, _) in gradients.items()} == {
            "input": 0,
            "weight": N * D * M,
            "bias": 0,
        }
        assert gradients["bias"] == (0, M * (N - 1))

    @pytest.mark.parametrize("each", [True, False], ids=["of each sample", "of a batch"])
    def test_a_weight_that_is_given_to_a_function(self, each: bool) -> None:
        layer = nn.Linear(D, M)
        given = {name: value.detach() for name, value in layer.named_parameters()}

        def loss(values: dict[str, Tensor], x: Tensor) -> Tensor:
            return torch.func.functional_call(layer, values, (x,)).sum()

        with flopcount.FlopCounter(layer) as counter:
            if each:
                torch.func.vmap(torch.func.grad(loss), (None, 0))(given, ones(N, 1, D, grad=False))
            else:
                torch.func.grad(loss)(given, ones(N, D, grad=False))
        gradients = split_of(counter.report().model)
        assert (gradients["input"][0], gradients["weight"][0]) == (0, N * D * M)

    def test_a_jagged_input(self) -> None:
        """Rows of two and three vectors: N = 5."""
        rows = [torch.ones(2, D), torch.ones(3, D)]
        x = torch.nested.nested_tensor(rows, layout=torch.jagged, requires_grad=True)
        layer = nn.Linear(D, M)
        with flopcount.FlopCounter(layer) as counter:
            torch.cat(layer(x).unbind()).sum().backward()
        assert split_of(counter.report().model) == {
            "input": (5 * D * M, 0),
            "weight": (5 * D * M, 0),
            "bias": (0, M * (5 - 1)),
        }

    def test_under_autocast(self) -> None:
        class Cast(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.layer = nn.Linear(D, M)

            def forward(self, x: Tensor) -> Tensor:
                with torch.autocast("cpu", torch.bfloat16):
                    return self.layer(x)

        report = flopcount.count(Cast(), ones(N, D))
        check(report, plain=True)
        assert split_of(report.model) == {
            "input": (N * D * M, 0),
            "weight": (N * D * M, 0),
            "bias": (0, M * (N - 1)),
        }
        assert report.by_dtype()["bfloat16"].macs == 3 * N * D * M

    def test_two_in_a_chain(self) -> None:
        assert split(nn.Sequential(nn.Linear(D, M), nn.Linear(M, D)), ones(N, D)) == {
            "input": (2 * N * D * M, 0),
            "weight": (2 * N * D * M, 0),
            "bias": (0, (M + D) * (N - 1)),
        }


class Product(nn.Module):
    """Multiplies its weight and its input in some way."""

    def __init__(self, run: Any, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape))
        self.run = run

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self.weight, x)


@pytest.mark.parametrize(
    ("run", "weight", "x", "macs"),
    [
        pytest.param(lambda w, x: w @ x, (M, D), (D, N), N * D * M, id="weight on the left"),
        pytest.param(lambda w, x: x @ w, (D, M), (N, D), N * D * M, id="weight on the right"),
        pytest.param(lambda w, x: x @ w.T, (M, D), (N, D), N * D * M, id="weight transposed"),
        pytest.param(
            lambda w, x: torch.bmm(x, w), (2, D, M), (2, N, D), 2 * N * D * M, id="batched"
        ),
        pytest.param(
            lambda w, x: torch.einsum("nd,md->nm", x, w), (M, D), (N, D), N * D * M, id="einsum"
        ),
        pytest.param(
            lambda w, x: w @ x, (M, D), (2, D, N), 2 * N * D * M, id="weight expanded over a batch"
        ),
    ],
)
def test_products_of_a_parameter(
    run: Any, weight: tuple[int, ...], x: tuple[int, ...], macs: int
) -> None:
    gradients = split(Product(run, *weight), ones(*x))
    assert gradients["input"][0] == gradients["weight"][0] == macs


def test_a_product_of_activations_has_no_weight() -> None:
    class Scores(nn.Module):
        def forward(self, q: Tensor, k: Tensor) -> Tensor:
            return q @ k.T

    assert split(Scores(), ones(N, D), ones(M, D)) == {
        "input": (2 * N * D * M, 0),
        "weight": (0, 0),
        "bias": (0, 0),
    }


CONVOLUTIONS = {
    # layer, input; F·K·P: f outputs, K = c·k taps of a group, P positions of all images
    "one dimension": (nn.Conv1d(2, 3, 3), (4, 2, 10), 3 * (2 * 3) * (4 * 8), (3, 4 * 8)),
    "two dimensions": (nn.Conv2d(2, 3, 3), (4, 2, 6, 7), 3 * (2 * 9) * (4 * 20), (3, 4 * 20)),
    "three dimensions": (nn.Conv3d(2, 3, 2), (1, 2, 3, 4, 5), 3 * (2 * 8) * 24, (3, 24)),
    "groups": (
        nn.Conv2d(6, 8, 3, groups=2),
        (2, 6, 10, 10),
        8 * (3 * 9) * (2 * 64),
        (8, 2 * 64),
    ),
    # transposed: each of the 4·6·7 input positions meets 2·(3·9) weights; db sums over the output
    "transposed": (
        nn.ConvTranspose2d(2, 3, 3),
        (4, 2, 6, 7),
        4 * 6 * 7 * 2 * (3 * 9),
        (3, 4 * 8 * 9),
    ),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name: str) -> None:
    layer, shape, macs, (filters, positions) = CONVOLUTIONS[name]
    report = flopcount.count(layer, ones(*shape))
    check(report, plain=True)
    assert split_of(report.model) == {
        "input": (macs, 0),
        "weight": (macs, 0),
        "bias": (0, filters * (positions - 1)),
    }
    assert report.phases["forward"].macs == macs


def test_grouped_convolution_forward_and_backward() -> None:
    layer, shape, *_ = CONVOLUTIONS["groups"]
    assert flopcount.count(layer, ones(*shape)).total.matmul_flops == 3 * 55_296


def test_gradients_of_a_module_include_its_childrens() -> None:
    report = flopcount.count(nn.Sequential(nn.Linear(D, M), nn.Linear(M, D)), ones(N, D))
    for name, cost in report.model.gradients.items():
        assert cost == report["0"].gradients[name] + report["1"].gradients[name]


class TestOtherProducts:
    """Products that a node runs beside its own, and passes that break off."""

    @staticmethod
    def product() -> tuple[Tensor, nn.Parameter, Tensor]:
        x, weight = ones(8, 8), nn.Parameter(torch.ones(8, 8))
        return x, weight, x @ weight

    def test_what_a_hook_multiplies_after_them_is_no_gradient_of_the_node(self) -> None:
        _, _, y = self.product()
        y.grad_fn.register_hook(lambda grads, _: tuple(grad @ torch.ones(8, 8) for grad in grads))
        with flopcount.FlopCounter() as counter:
            y.sum().backward()
        gradients = counter.report().root.gradients
        assert (gradients["input"].macs, gradients["weight"].macs) == (8**3, 8**3)
        assert counter.report().phases["backward"].macs == 4 * 8**3

    def test_a_second_pass_through_the_same_node_is_looked_at_anew(self) -> None:
        x, weight, y = self.product()
        with flopcount.FlopCounter() as counter:
            torch.autograd.grad(y, [x, weight], torch.ones(8, 8), retain_graph=True)
            torch.autograd.grad(y, weight, torch.ones(8, 8))
        gradients = counter.report().root.gradients
        assert (gradients["input"].macs, gradients["weight"].macs) == (8**3, 2 * 8**3)

    def test_a_pass_that_breaks_off_leaves_nothing_to_the_next(self) -> None:
        class Broken(TorchDispatchMode):
            def __torch_dispatch__(
                self, func: Any, types: Any, args: Any = (), kwargs: Any = None
            ) -> Any:
                if func is torch.ops.aten.mm.default:
                    raise MemoryError
                return func(*args, **(kwargs or {}))

        x, weight, y = self.product()
        counter = flopcount.FlopCounter()
        with pytest.raises(MemoryError), Broken(), counter:
            torch.autograd.grad(y, [x, weight], torch.ones(8, 8), retain_graph=True)
        with counter:
            torch.autograd.grad(y, weight, torch.ones(8, 8))
        gradients = counter.report().root.gradients
        assert (gradients["input"].macs, gradients["weight"].macs) == (0, 8**3)
