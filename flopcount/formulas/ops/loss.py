"""Losses that reach the dispatcher whole, forward and backward.

Letters: x the prediction, t the target, w a weight, g the loss's gradient, n the elements of x.
A loss of so many steps for each element is then reduced: not at all, to a mean or to a sum.
"""

from torch import Tensor, broadcast_shapes

from flopcount.cost import ZERO, Cost
from flopcount.formulas import bytes as traffic
from flopcount.formulas.call import Call
from flopcount.formulas.registry import Gradients, formula
from flopcount.formulas.steps import elementwise, fold

NONE, MEAN, SUM = 0, 1, 2
"""The reductions, as aten numbers them."""


def reduced(x: Tensor, values: int, reduction: int) -> Cost:
    """``values`` losses as they are, their sum, or the sum divided once."""
    if reduction == NONE:
        return ZERO
    return elementwise(x, fold(values, 1), add=1) + elementwise(x, int(reduction == MEAN), div=1)


def losses(x: Tensor, t: Tensor, reduction: int, **steps: int) -> Cost:
    """So many steps for each prediction and its target, which broadcast, and their reduction."""
    n = broadcast_shapes(x.shape, t.shape).numel()
    return elementwise(x, n, **steps) + reduced(x, n, reduction)


# -- distances


@formula("aten::mse_loss")
def mse_loss(x: Tensor, t: Tensor, reduction: int = MEAN, *, out: Tensor) -> Cost:
    """(x - t)²."""
    return losses(x, t, reduction, add=1, mul=1)


@formula("aten::mse_loss_backward")
def mse_loss_backward(
    grad: Tensor, x: Tensor, t: Tensor, reduction: int, *, out: Tensor
) -> Gradients:
    """c·(x - t)·g; the factor c, 2 or 2 / n, is a number."""
    return Gradients(input=elementwise(out, add=1, mul=2))


@formula("aten::smooth_l1_loss")
def smooth_l1_loss(
    x: Tensor, t: Tensor, reduction: int = MEAN, beta: float = 1.0, *, out: Tensor
) -> Cost:
    """With z = |x - t|: z < β ? ½·z² / β : z - ½·β."""
    return losses(x, t, reduction, add=2, compare=2, mul=2, div=1)


@formula("aten::smooth_l1_loss_backward")
def smooth_l1_loss_backward(
    grad: Tensor, x: Tensor, t: Tensor, reduction: int, beta: float, *, out: Tensor
) -> Gradients:
    """(x - t) / β between -1 and 1, times g; times 1 / n for a mean."""
    return Gradients(
        input=elementwise(out, add=1, div=1, compare=2, mul=2 if reduction == MEAN else 1)
    )


@formula("aten::huber_loss")
def huber_loss(
    x: Tensor, t: Tensor, reduction: int = MEAN, delta: float = 1.0, *, out: Tensor
) -> Cost:
    """With z = |x - t|: z < δ ? ½·z·z : δ·(z - ½·δ)."""
    return losses(x, t, reduction, add=2, compare=2, mul=3)


@formula("aten::huber_loss_backward")
def huber_loss_backward(
    grad: Tensor, x: Tensor, t: Tensor, reduction: int, delta: float, *, out: Tensor
) -> Gradients:
    """x - t between -δ and δ, times g; times 1 / n for a mean."""
    return Gradients(input=elementwise(out, add=1, compare=2, mul=2 if reduction == MEAN else 1))


# -- two classes


@formula("aten::binary_cross_entropy")
def binary_cross_entropy(
    x: Tensor, t: Tensor, weight: Tensor | None = None, reduction: int = MEAN, *, out: Tensor
) -> Cost:
    """(t - 1)·max(log1p(-x), -100) - t·max(log x, -100), times w."""
    weighted = int(weight is not None)
    return losses(x, t, reduction, add=2, mul=2 + weighted, compare=3, special=2)


@formula("aten::binary_cross_entropy_backward")
def binary_cross_entropy_backward(
    grad: Tensor,
    x: Tensor,
    t: Tensor,
    weight: Tensor | None = None,
    reduction: int = MEAN,
    *,
    out: Tensor,
) -> Gradients:
    """g·(x - t) / max(x·(1 - x), ε), times w; / n for a mean."""
    weighted, mean = int(weight is not None), int(reduction == MEAN)
    return Gradients(input=elementwise(out, add=2, mul=2 + weighted, compare=1, div=1 + mean))


@formula("aten::binary_cross_entropy_with_logits")
def binary_cross_entropy_with_logits(
    x: Tensor,
    t: Tensor,
    weight: Tensor | None = None,
    pos_weight: Tensor | None = None,
    reduction: int = MEAN,
    *,
    out: Tensor,
) -> Cost:
    """(1 - t)·x - logsigmoid(x), times w, with logsigmoid = min(x, 0) - log1p(exp(-|x|)).

    A weight of the positive class comes before logsigmoid as a factor (p - 1)·t + 1.
    Its gradient arrives as element-wise ops.
    """
    weighted, skewed = int(weight is not None), int(pos_weight is not None)
    products, sums = 1 + weighted + 2 * skewed, 3 + skewed
    cost = losses(x, t, reduction, add=sums, mul=products, compare=3, special=2)
    return cost if pos_weight is None else cost + elementwise(pos_weight, add=1)


@formula("aten::soft_margin_loss")
def soft_margin_loss(x: Tensor, t: Tensor, reduction: int = MEAN, *, out: Tensor) -> Cost:
    """log1p(exp(-x·t))."""
    return losses(x, t, reduction, compare=1, mul=1, special=2)


@formula("aten::soft_margin_loss_backward")
def soft_margin_loss_backward(
    grad: Tensor, x: Tensor, t: Tensor, reduction: int = MEAN, *, out: Tensor
) -> Gradients:
    """t·g·(sigmoid(t·x) - 1), sigmoid in four steps; / n for a mean."""
    mean = int(reduction == MEAN)
    return Gradients(input=elementwise(out, mul=3, add=2, compare=1, special=1, div=1 + mean))


# -- many classes: only the target's element of each sample takes part


def one_of_each_sample(call: Call) -> tuple[int, int]:
    """Of the first operand, an element for each of the second."""
    x, t, *_ = call.args
    read, written = traffic.refilled(call)
    return read + t.numel() * x.dtype.itemsize, written


@formula("aten::nll_loss_forward", "aten::nll_loss2d_forward", traffic=one_of_each_sample)
def nll_loss_forward(
    x: Tensor,
    t: Tensor,
    weight: Tensor | None,
    reduction: int,
    ignore_index: int,
    *,
    out: tuple[Tensor, Tensor],
) -> Cost:
    """-w[t]·x[t], or 0 where t is ignored: a negation and a select for each sample.

    The weights are summed as well, and a mean divides by their sum. Without weights the samples
    are counted, in integers.
    """
    samples = t.numel()
    loss = elementwise(x, samples, compare=2) + reduced(x, samples, reduction)
    if weight is None:
        return loss
    return loss + elementwise(x, samples, mul=1) + reduced(x, samples, SUM if reduction else NONE)


@formula("aten::nll_loss_backward", "aten::nll_loss2d_backward", traffic=traffic.shape_only)
def nll_loss_backward(
    grad: Tensor,
    x: Tensor,
    t: Tensor,
    weight: Tensor | None,
    reduction: int,
    ignore_index: int,
    total_weight: Tensor,
    *,
    out: Tensor,
) -> Gradients:
    """-g·w[t] placed at t, or 0 where t is ignored; for a mean g is divided by Σw, once.

    The rest is zeros: a select for each sample, a negation for each element of g.
    """
    negated = elementwise(grad, compare=1) + elementwise(grad, int(reduction == MEAN), div=1)
    placed = elementwise(x, t.numel(), compare=1, mul=int(weight is not None))
    return Gradients(input=negated + placed)


# -- margins: every class but the target's is compared with it


@formula("aten::multi_margin_loss")
def multi_margin_loss(
    x: Tensor,
    t: Tensor,
    p: float = 1,
    margin: float = 1,
    weight: Tensor | None = None,
    reduction: int = MEAN,
    *,
    out: Tensor,
) -> Cost:
    """Σ w[t]·max(0, margin - x[t] + x[j])ᵖ / C over the classes j ≠ t of each sample, p 1 or 2.

    The margin less x[t] is there once for a sample; a mean divides by C and the samples at once.
    """
    samples, pairs, sums = t.numel(), x.numel() - t.numel(), out.numel()
    steps = elementwise(x, pairs, add=1, compare=1, mul=int(p == 2) + int(weight is not None))
    return steps + elementwise(x, samples + fold(pairs, sums), add=1) + elementwise(out, div=1)


@formula("aten::multi_margin_loss_backward")
def multi_margin_loss_backward(
    grad: Tensor,
    x: Tensor,
    t: Tensor,
    p: float,
    margin: float,
    weight: Tensor | None = None,
    reduction: int = MEAN,
    *,
    out: Tensor,
) -> Gradients:
    """dx[j] = g·c·w[t] where z = margin - x[t] + x[j] > 0, times z for p = 2; dx[t] = -Σ dx[j].

    The factor c, 1 or 2 over C, for a mean over the samples too, is a number.
    """
    samples, pairs = t.numel(), x.numel() - t.numel()
    products = (2 if p == 2 else 0) + int(weight is not None)
    steps = elementwise(x, pairs, add=2, compare=1, mul=products)  # z; the target's sum
    return Gradients(input=steps + elementwise(x, samples, add=1) + elementwise(x, mul=1))


# Only values tell how many labels a sample has. The target has a slot for each class, and all
# slots count, as padding counts in dense products.


@formula("aten::multilabel_margin_loss_forward")
def multilabel_margin_loss_forward(
    x: Tensor, t: Tensor, reduction: int = MEAN, *, out: tuple[Tensor, Tensor]
) -> Cost:
    """Σ max(0, 1 - x[t] + x[j]) / C over the slots t and the classes j of each sample.

    1 - x[t] is there once for a slot; a select leaves out the classes that are labels.
    """
    loss, _ = out
    pairs = x.numel() * x.shape[-1] if x.dim() else 1
    steps = elementwise(x, add=1) + elementwise(x, pairs, add=1, compare=2)
    return steps + elementwise(x, fold(pairs, loss.numel()), add=1) + elementwise(loss, div=1)


@formula("aten::multilabel_margin_loss_backward")
def multilabel_margin_loss_backward(
    grad: Tensor, x: Tensor, t: Tensor, reduction: int, is_target: Tensor, *, out: Tensor
) -> Gradients:
    """1 / C where z = 1 - x[t] + x[j] > 0 is added to dx[j], taken from dx[t]; dx times g.

    A select of z, and one that leaves out the classes that are labels.
    """
    pairs = x.numel() * x.shape[-1] if x.dim() else 1
    steps = elementwise(x, pairs, add=3, compare=2)
    return Gradients(input=steps + elementwise(x, add=1, mul=1))
