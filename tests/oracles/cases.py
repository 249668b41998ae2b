"""The torch calls that XLA's figures and the executed instructions are compared with.

A case is named after the rows of ``data/xla_costs.json`` and ``data/cpu_instructions.json``. Its
shapes are those of XLA's row; where there is none, they follow from the row's ``n``, together
with how many roots or divisions it executed for ``cdist``, ``embedding_bag`` and ``group_norm``,
and the usual settings for the rest. That ``fft`` is given real numbers follows from its figures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flopcount import Cost, FlopCounter

Call = Callable[..., Any]
Shape = Sequence[int]


@dataclass(frozen=True)
class Case:
    """A torch call, the op family it belongs to, and the shapes of its tensors."""

    family: str
    call: Any
    shapes: tuple[Shape, ...]


CASES: dict[str, Case] = {}
WIDE, IMAGE, SQUARE = (64, 1000), (4, 16, 20, 20), (40, 40)
ROWS, HEADS = (500, 64), (2, 4, 64, 32)


def family(title: str, *shapes: Shape, **calls: Any) -> None:
    """Cases of one family: calls on tensors of ``shapes``, or with shapes of their own."""
    for name, call in calls.items():
        function, *own = call if isinstance(call, tuple) else (call, *shapes)
        CASES[name] = Case(title, function, tuple(own))


def named(title: str, calls: dict[str, Any], *shapes: Shape) -> None:
    """Cases whose names are no identifiers."""
    family(title, *shapes, **calls)


def indices(count: int, below: int) -> Tensor:
    return torch.arange(count) % below


FUNCTIONS = (
    "neg sqrt rsqrt exp log log1p expm1 sin cos tan tanh floor round sign asin atan sinh square",
    "reciprocal erf sigmoid",
)
ACTIVATIONS = "relu leaky_relu elu gelu silu softplus hardswish hardsigmoid hardtanh mish selu"

family("pointwise", WIDE, **{name: getattr(torch, name) for name in " ".join(FUNCTIONS).split()})
family(
    "pointwise",
    WIDE,
    abs=torch.abs,
    add_scalar=lambda x: x + 2.0,
    mul_scalar=lambda x: x * 2.0,
    div_scalar=lambda x: x / 2.0,
    pow2=lambda x: x**2,
    pow3=lambda x: x**3,
    pow_half=lambda x: x**0.5,
    clamp=lambda x: x.clamp(-1, 1),
    dropout=lambda x: F.dropout(x, 0.5),
    copy=torch.clone,
    to_bf16=lambda x: x.to(torch.bfloat16),
)
named("pointwise", {"pow2.5": lambda x: x**2.5}, WIDE)
BINARY = "add sub mul div maximum gt atan2 fmod remainder"
family("pointwise", WIDE, WIDE, **{name: getattr(torch, name) for name in BINARY.split()})
family(
    "pointwise",
    WIDE,
    WIDE,
    add_alpha2=lambda x, y: torch.add(x, y, alpha=2),
    pow_tt=torch.pow,
    where=lambda x, y: torch.where(x > 0, x, y),
    lerp=lambda x, y: torch.lerp(x, y, 0.3),
    int_add=lambda x, y: x.int() + y.int(),
)
family("pointwise", WIDE, WIDE, WIDE, addcmul=torch.addcmul, addcdiv=torch.addcdiv)
family("pointwise", expand_bcast_add=(torch.add, WIDE, (1000,)))

family("activations", WIDE, **{name: getattr(F, name) for name in ACTIVATIONS.split()})
family(
    "activations",
    WIDE,
    gelu_tanh=lambda x: F.gelu(x, approximate="tanh"),
    logsigmoid=F.logsigmoid,
    glu=F.glu,
    prelu=(F.prelu, WIDE, (1,)),
)

family(
    "reductions",
    WIDE,
    sum_dim1=lambda x: x.sum(1),
    sum_dim0=lambda x: x.sum(0),
    mean_dim1=lambda x: x.mean(1),
    var_dim1=lambda x: x.var(1),
    std_dim1=lambda x: x.std(1),
    prod_dim1=lambda x: x.prod(1),
    amax_dim1=lambda x: x.amax(1),
    max_dim1=lambda x: x.max(1),
    argmax_dim1=lambda x: x.argmax(1),
    logsumexp_dim1=lambda x: x.logsumexp(1),
    norm_dim1=lambda x: torch.linalg.vector_norm(x, dim=1),
    sum_all=torch.sum,
    mean_all=torch.mean,
    cumsum=lambda x: x.cumsum(1),
    cumprod=lambda x: x.cumprod(1),
    sort=lambda x: x.sort(1),
    topk=lambda x: x.topk(10, 1),
)
family(
    "softmax", WIDE, softmax=partial(F.softmax, dim=1), log_softmax=partial(F.log_softmax, dim=1)
)

family(
    "normalization",
    IMAGE,
    layer_norm=(lambda x, w, b: F.layer_norm(x, (1000,), w, b), WIDE, (1000,), (1000,)),
    layer_norm_noaff=(lambda x: F.layer_norm(x, (1000,)), WIDE),
    rms_norm=(lambda x, w: F.rms_norm(x, (1000,), w, 1e-6), WIDE, (1000,)),
    group_norm=(lambda x, w, b: F.group_norm(x, 4, w, b), IMAGE, (16,), (16,)),
    instance_norm=F.instance_norm,
    bn_train=(
        lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True),
        *(IMAGE, (16,), (16,)),
    ),
    bn_train_noaff=lambda x: F.batch_norm(x, None, None, training=True),
    bn_eval=(
        lambda x, w, b, mean, var: F.batch_norm(x, mean, var, w, b),
        *(IMAGE, (16,), (16,), (16,), (16,)),
    ),
    local_response_norm=lambda x: F.local_response_norm(x, 5),
)
family(
    "pooling",
    IMAGE,
    maxpool2x2=lambda x: F.max_pool2d(x, 2),
    maxpool3x3s2p1=lambda x: F.max_pool2d(x, 3, 2, 1),
    avgpool2x2=lambda x: F.avg_pool2d(x, 2),
    avgpool3x3s2p1=lambda x: F.avg_pool2d(x, 3, 2, 1),
    adaptive_avg_1=lambda x: F.adaptive_avg_pool2d(x, 1),
    adaptive_avg_7=lambda x: F.adaptive_avg_pool2d(x, 7),
    adaptive_max_5=lambda x: F.adaptive_max_pool2d(x, 5),
)
family(
    "resampling",
    IMAGE,
    up_nearest2=lambda x: F.interpolate(x, scale_factor=2),
    up_bilinear2=lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    up_bicubic2=lambda x: F.interpolate(x, scale_factor=2, mode="bicubic"),
    grid_sample=(lambda x, g: F.grid_sample(x, g, align_corners=False), IMAGE, (4, 20, 20, 2)),
    pad_refl=(lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"), IMAGE),
    pixel_shuffle=lambda x: F.pixel_shuffle(x, 2),
)

family(
    "matmul",
    mm=(torch.mm, (64, 96), (96, 80)),
    linear_bias=(F.linear, (64, 96), (80, 96), (80,)),
    linear_nobias=(F.linear, (64, 96), (80, 96)),
    linear3d_bias=(F.linear, (4, 16, 96), (80, 96), (80,)),
    addmm_b2=(lambda c, a, b: torch.addmm(c, a, b, beta=2), (64, 80), (64, 96), (96, 80)),
    bmm=(torch.bmm, (3, 32, 48), (3, 48, 40)),
    baddbmm=(torch.baddbmm, (3, 32, 40), (3, 32, 48), (3, 48, 40)),
    mv=(torch.mv, (64, 96), (96,)),
    dot=(torch.dot, (1000,), (1000,)),
    outer=(torch.outer, (100,), (80,)),
    einsum_bhid=(
        partial(torch.einsum, "bhid,bhjd->bhij"),
        *((2, 3, 16, 32), (2, 3, 24, 32)),
    ),
)
PICTURE, KERNEL, SMALL = (2, 16, 20, 20), (24, 16, 3, 3), (2, 16, 10, 10)
family(
    "convolution",
    PICTURE,
    KERNEL,
    conv2d_k3=F.conv2d,
    conv2d_k3p1=partial(F.conv2d, padding=1),
    conv2d_k3p1_bias=(partial(F.conv2d, padding=1), PICTURE, KERNEL, (24,)),
    conv2d_k3s2p1=partial(F.conv2d, stride=2, padding=1),
    conv2d_k3s2p0=(partial(F.conv2d, stride=2), (2, 16, 21, 21), KERNEL),
    conv2d_k3s2p0_crop=partial(F.conv2d, stride=2),
    conv2d_k3d2=partial(F.conv2d, dilation=2),
    conv2d_k1=(F.conv2d, PICTURE, (24, 16, 1, 1)),
    conv2d_g4=(partial(F.conv2d, groups=4), PICTURE, (24, 4, 3, 3)),
    conv2d_dw=(partial(F.conv2d, groups=16), PICTURE, (16, 1, 3, 3)),
    conv1d_k5=(F.conv1d, (2, 16, 40), (24, 16, 5)),
    conv3d_k3=(F.conv3d, (2, 8, 8, 8, 8), (8, 8, 3, 3, 3)),
    convT2d_k3s2=(partial(F.conv_transpose2d, stride=2), SMALL, (16, 24, 3, 3)),
    convT2d_k2s2=(partial(F.conv_transpose2d, stride=2), SMALL, (16, 24, 2, 2)),
)
family(
    "indexing and movement",
    ROWS,
    embedding=lambda w: F.embedding(indices(200, 500), w),
    embedding_bag=lambda w: F.embedding_bag(indices(200, 500).view(20, 10), w, mode="mean"),
    index_select=lambda x: x.index_select(0, indices(200, 500)),
    gather=lambda x: x.gather(0, indices(200, 500)[:, None].expand(200, 64)),
    index=lambda x: x[indices(200, 500)],
    scatter_add=(
        lambda x, y: x.scatter_add(0, indices(200, 500)[:, None].expand(200, 64), y),
        *(ROWS, (200, 64)),
    ),
    index_add=(lambda x, y: x.index_add(0, indices(200, 500), y), ROWS, (200, 64)),
    index_put_acc=(
        lambda x, y: x.index_put((indices(200, 500),), y, accumulate=True),
        *(ROWS, (200, 64)),
    ),
    slice=lambda x: x[10:200].clone(),
    masked_fill=lambda x: x.masked_fill(x > 0, 0.0),
    tril=torch.tril,
    flip=lambda x: x.flip(0),
    roll=lambda x: x.roll(3, 0),
    transpose_contig=(lambda x: x.t().contiguous(), WIDE),
    cat=(lambda x, y: torch.cat([x, y]), WIDE, WIDE),
    pad=(lambda x: F.pad(x, (1, 1, 1, 1)), WIDE),
)

LOGITS = (64, 100)


def labels(kind: Call, **options: Any) -> Call:
    return lambda x: kind(x, indices(64, 100), **options)


family(
    "losses",
    WIDE,
    WIDE,
    mse=F.mse_loss,
    l1=F.l1_loss,
    smooth_l1=F.smooth_l1_loss,
    huber=F.huber_loss,
    bce=F.binary_cross_entropy,
    bce_logits=F.binary_cross_entropy_with_logits,
    kl_div=partial(F.kl_div, reduction="batchmean"),
    hinge=F.hinge_embedding_loss,
    cos_sim=F.cosine_similarity,
    pairwise=F.pairwise_distance,
    cdist=(torch.cdist, (50, 16), (60, 16)),
    cross_entropy=(labels(F.cross_entropy), LOGITS),
    nll=(labels(F.nll_loss), LOGITS),
    ce_smooth=(labels(F.cross_entropy, label_smoothing=0.1), LOGITS),
)


def attention(*tensors: Tensor, math: bool = False, causal: bool = False) -> Tensor:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.MATH if math else SDPBackend.FLASH_ATTENTION):
        return F.scaled_dot_product_attention(*tensors, is_causal=causal)


family(
    "attention",
    HEADS,
    HEADS,
    HEADS,
    sdpa_math=partial(attention, math=True),
    sdpa_flash_cpu=attention,
    sdpa_flash_causal=partial(attention, causal=True),
)


# the sizes of these are not recorded, or more than the named op was executed
family("recurrent", lstm=(None,), gru=(None,), rnn=(None,))
family("losses", ctc=(None,))
family("FFT", rfft=(None,))


@dataclass(frozen=True)
class Step:
    """The fused op of an optimizer's second step, when all its state is there."""

    kind: type[torch.optim.Optimizer]
    options: dict[str, Any]

    def prepared(self, values: Tensor) -> Call:
        parameter = nn.Parameter(values.clone())
        parameter.grad = torch.ones_like(parameter)
        optimizer = self.kind([parameter], lr=0.1, fused=True, **self.options)
        optimizer.step()
        return optimizer.step


SGD = torch.optim.SGD
family(
    "optimizers",
    WIDE,
    adam=Step(torch.optim.Adam, {}),
    sgd=Step(SGD, {}),
    sgd_mom=Step(SGD, {"momentum": 0.9, "weight_decay": 0.1}),
)
family(
    "linear algebra",
    SQUARE,
    cholesky=torch.linalg.cholesky_ex,
    inv=torch.linalg.inv,
    solve=(torch.linalg.solve, SQUARE, (40, 5)),
    qr=torch.linalg.qr,
    svd=torch.linalg.svd,
    eigh=torch.linalg.eigh,
    det=torch.linalg.det,
    lu=torch.linalg.lu,
    matrix_exp=torch.linalg.matrix_exp,
    tri_solve=(partial(torch.linalg.solve_triangular, upper=False), SQUARE, (40, 5)),
)
family(
    "FFT",
    fft=(torch.fft.fft, (16, 1024)),
)

OTHER_NAMES = {
    "negative": "neg",
    "arcsin": "asin",
    "arctan": "atan",
    "logistic": "sigmoid",
    "nn.relu": "relu",
    "gelu_erf": "gelu",
    "convert_bf16": "to_bf16",
    "bcast_add": "expand_bcast_add",
    "max_dim1": "amax_dim1",
    "concat": "cat",
    "transpose": "transpose_contig",
    "sdpa": "sdpa_flash_cpu",
}
"""What the rows of XLA call the same thing."""


def inputs(shapes: Sequence[Shape]) -> list[Tensor]:
    """Numbers between a quarter and three quarters: every function is defined there."""
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(*shape, generator=generator) / 2 + 0.25 for shape in shapes]


def cost_of(case: Case, phase: str = "fwd") -> Cost:
    """What flopcount says: of the call, or of the gradient of its input or weight alone."""
    tensors = inputs(case.shapes)
    if phase == "fwd":
        optimizing = isinstance(case.call, Step)
        call = case.call.prepared(*tensors) if optimizing else partial(case.call, *tensors)
        with torch.no_grad(), FlopCounter() as counter:
            call()
        return checked(counter).total
    tensors[["dgrad", "wgrad"].index(phase)].requires_grad_()
    out = case.call(*tensors)
    with FlopCounter() as counter:
        out.backward(torch.ones_like(out))
    return checked(counter).total


def checked(counter: FlopCounter) -> Any:
    report = counter.report()
    assert not report.uncounted, f"uncounted: {report.uncounted}"
    return report
