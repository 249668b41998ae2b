"""A linear layer and the cross entropy of its results in one op, which keeps no logits.

torch/nn/modules/linear_cross_entropy.py takes the samples in chunks, and where their losses are
reduced it computes the gradients with them. Here they are counted undivided: the sums over the
chunks are those over the samples. Letters: n samples of f features and v classes, w the weights of
the samples' targets, S = Σ exp(logit - max) of a sample.
"""

from collections.abc import Sequence

from torch import Tensor

from flopcount.cost import ZERO, Cost
from flopcount.formulas.registry import Gradients, formula
from flopcount.formulas.steps import contraction, elementwise, fold


def log_sums(x: Tensor, weight: Tensor, bias: Tensor | None, class_weight: Tensor | None) -> Cost:
    """log S: logits of length f, less the largest, exp, their sum; a select for each weight.

    What the target is, and whether it is ignored, are integers.
    """
    (n, f), v = x.shape, weight.shape[0]
    logits = contraction(dots=n * v, length=f) + elementwise(x, n * v, add=int(bias is not None))
    shifted = elementwise(x, fold(n * v, n), compare=1) + elementwise(x, n * v, add=1)
    summed = elementwise(x, n * v, special=1) + elementwise(x, fold(n * v, n), add=1)
    weights = elementwise(x, n, compare=int(class_weight is not None))
    return logits + shifted + summed + elementwise(x, n, special=1) + weights


@formula("torch_nn::_linear_cross_entropy_batch_chunked")
def linear_cross_entropy(
    x: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None,
    class_weight: Tensor | None,
    reduction: str,
    ignore_index: int,
    label_smoothing: float,
    batch_chunk_size: int,
    acc_policy: str,
    acc_dtype: object,
    allow_retain_graph: bool,
    compute_input_grad: bool,
    compute_linear_weight_grad: bool,
    compute_linear_bias_grad: bool,
    *,
    out: object,
) -> Gradients:
    """w·log S - w·logit of the target, and the gradients of that.

    The loss is the difference of two dot products of length n. Where it is a mean, w is divided by
    its sum, a select being for a sum of 0, and negated; else w is negated.
    """
    n = x.shape[0]
    mean = elementwise(x, fold(n, 1), add=1) + elementwise(x, n, div=1) + Cost(compare=2)
    scaled = mean if reduction == "mean" else elementwise(x, n, compare=1)
    loss = contraction(dots=2, length=n) + elementwise(x, 1, add=1)
    forward = Gradients(unsplit=log_sums(x, weight, bias, class_weight) + scaled + loss)
    wanted = compute_input_grad, compute_linear_weight_grad, compute_linear_bias_grad
    return forward + gradients(x, weight.shape[0], wanted)


def gradients(x: Tensor, v: int, wanted: Sequence[bool]) -> Gradients:
    """Of the input, the weight and the bias, with P = w·exp / S.

    - dx = w·W[target] - P·W: a product, n·f dot products of length v, a difference.
    - dW = w·x, scattered by additions, - Pᵀ·x: v·f dot products of length n, a difference.
    - db = w, scattered by additions, - P, summed over the samples.
    """
    (n, f), (for_input, for_weight, for_bias) = x.shape, wanted
    p = elementwise(x, n, div=1) + elementwise(x, n * v, mul=1)
    into_input = contraction(dots=n * f, length=v) + elementwise(x, n * f, add=1, mul=1)
    into_weight = contraction(dots=v * f, length=n) + elementwise(x, n * f, add=1, mul=1)
    into_weight += elementwise(x, v * f, add=1)
    into_bias = elementwise(x, fold(n * v, v) + n + v, add=1)
    return Gradients(
        unsplit=p if any(wanted) else ZERO,
        input=into_input if for_input else ZERO,
        weight=into_weight if for_weight else ZERO,
        bias=into_bias if for_bias else ZERO,
    )


@formula("torch_nn::_linear_cross_entropy_batch_chunked_no_reduction")
def linear_cross_entropy_of_each(
    x: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None,
    class_weight: Tensor | None,
    *args: object,
    out: Tensor,
) -> Cost:
    """w·(log S - logit of the target) for each sample; the backward pass arrives in pieces."""
    losses = elementwise(x, x.shape[0], add=1, mul=1)
    return log_sums(x, weight, bias, class_weight) + losses
