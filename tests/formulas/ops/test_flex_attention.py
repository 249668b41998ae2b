from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

import flopcount
from flopcount import Cost, Report
from tests.formulas.decomposed import plain

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # that it is not compiled

HEADS, TOKENS, WIDTH = 2, 64, 16
DOCUMENT = torch.arange(TOKENS) // 16


def unmoved(score: Tensor, *places: Tensor) -> Tensor:
    return score


def squashed(score: Tensor, *places: Tensor) -> Tensor:
    return torch.tanh(score)


def same_document(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
    return DOCUMENT[q] == DOCUMENT[k]


def causal(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
    return q >= k


def near(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
    return (q >= k) & (q - k < 20)


def nearer_in_later_heads(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
    return (q >= k) & (q - k < 40 - 30 * h)


def shorter_in_later_samples(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
    return k < 60 - 40 * b


def nothing_for_the_first(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
    return (q >= 32) & (k >= q)


def masked(
    function: Callable[..., Tensor],
    b: int | None = None,
    h: int | None = None,
    q: int = TOKENS,
    k: int = TOKENS,
    block: int | tuple[int, int] = 16,
) -> BlockMask:
    return create_block_mask(function, b, h, q, k, device="cpu", BLOCK_SIZE=block)


def attend(
    q: Tensor, k: Tensor, v: Tensor, mask: BlockMask, score_mod: Any = unmoved, scale: float = 0.25
) -> Tensor:
    """The op itself: in public torch refuses gradients on a CPU."""
    op = torch.ops.higher_order.flex_attention
    out: Tensor = op(q, k, v, score_mod, mask.as_tuple(), scale, {})[0]
    return out


def inputs(
    b: int = 1, q: int = TOKENS, k: int = TOKENS, heads: int = HEADS, *, grad: bool = False
) -> list[Tensor]:
    lengths = (HEADS, q), (heads, k), (heads, k)
    return [torch.rand(b, h, length, WIDTH, requires_grad=grad) for h, length in lengths]


def counted(call: Callable[[], Any]) -> Report:
    with flopcount.FlopCounter() as counter:
        call()
    report = counter.report()
    assert not report.uncounted
    return report


def computed(mask: BlockMask, q: int, k: int) -> int:
    """Pairs in the blocks of a mask, from torch's own dense form of it: one square a block."""
    rows, columns = mask.BLOCK_SIZE
    blocks = mask.to_dense().repeat_interleave(rows, -2).repeat_interleave(columns, -1)
    return int(blocks[..., :q, :k].sum())


def test_four_documents_of_sixteen_tokens() -> None:
    q, k, v = inputs()
    mask = masked(same_document)
    total = counted(lambda: flex_attention(q, k, v, block_mask=mask)).total
    assert (total.macs, total.valid_macs) == (262_144, 65_536)


@pytest.mark.parametrize(
    ("function", "b", "h", "q", "k", "block"),
    [
        pytest.param(causal, None, None, 64, 64, 16, id="causal"),
        pytest.param(near, None, None, 64, 64, 16, id="a window"),
        pytest.param(causal, None, None, 64, 64, (32, 8), id="blocks that are not square"),
        pytest.param(causal, None, None, 70, 50, 16, id="blocks that reach beyond both ends"),
        pytest.param(near, None, None, 50, 70, (16, 32), id="and beyond the last key"),
        pytest.param(causal, None, None, 64, 64, 128, id="one block, larger than all"),
        pytest.param(nothing_for_the_first, None, None, 64, 64, 16, id="rows without any block"),
        pytest.param(nearer_in_later_heads, None, 2, 64, 64, 16, id="a mask for each head"),
        pytest.param(shorter_in_later_samples, 3, None, 64, 64, 16, id="for each sample"),
        pytest.param(shorter_in_later_samples, 3, 2, 64, 64, 16, id="for each of both"),
    ],
)
def test_pairs_outside_the_blocks_are_void(
    function: Callable[..., Tensor], b: int | None, h: int | None, q: int, k: int, block: Any
) -> None:
    mask, samples = masked(function, b, h, q, k, block), b or 2
    queries, keys, values = inputs(samples, q, k)
    total = counted(lambda: attend(queries, keys, values, mask)).total
    pairs = computed(mask, q, k) * (1 if b else samples) * (1 if h else HEADS)
    assert total.macs == 2 * samples * HEADS * q * k * WIDTH
    assert total.valid_macs == 2 * pairs * WIDTH


def test_two_masks_of_one_shape_are_two_counts() -> None:
    q, k, v = inputs()
    masks = masked(causal), masked(same_document), masked(causal)
    pairs = [counted(lambda m=mask: attend(q, k, v, m)).total.valid_macs for mask in masks]
    # of 4 rows of 4 blocks: 1 + 2 + 3 + 4 and 4, each 16·16 pairs of 2 heads, in 2 products
    each = 16 * 16 * HEADS * 2 * WIDTH
    assert pairs == [10 * each, 4 * each, 10 * each]


def test_without_a_mask_nothing_is_void() -> None:
    q, k, v = inputs()
    total = counted(lambda: flex_attention(q, k, v)).total
    assert (total.macs, total.void_macs) == (262_144, 0)


def test_steps_are_those_of_attention() -> None:
    """n scores in m rows; the mask is a select for each score."""
    q, k, v = inputs()
    n, m = HEADS * TOKENS**2, HEADS * TOKENS
    cost = counted(lambda: attend(q, k, v, masked(causal))).by_operator()["flex_attention"]
    softmax = Cost(arith=n + (n - m) + n, compare=n - m, special=n)
    saved = Cost(arith=m, special=m)  # max + log Σ
    steps = Cost(arith=n, compare=n) + softmax + saved  # scaled, selected
    products = Cost(macs=2 * n * WIDTH, dots=n + m * WIDTH, void_macs=cost.void_macs)
    assert plain(cost) == products + steps
    unscaled = counted(lambda: attend(q, k, v, masked(causal), scale=1.0)).by_operator()
    assert unscaled["flex_attention"].arith == cost.arith - n


def test_backward_recomputes_the_scores() -> None:
    q, k, v = inputs(grad=True)
    mask, n, m = masked(same_document), HEADS * TOKENS**2, HEADS * TOKENS
    report = counted(lambda: attend(q, k, v, mask).backward(torch.ones(1, HEADS, TOKENS, WIDTH)))
    product = n * WIDTH
    forward, backward, again = (report.phases[p] for p in ("forward", "backward", "recompute"))
    assert (forward.macs, backward.macs, again.macs) == (2 * product, 4 * product, product)
    for cost in (forward, backward, again):  # 4 of 16 blocks
        assert 4 * cost.valid_macs == cost.macs
    assert again.special == n
    assert again.arith == n + n  # scaled, less logsumexp
    assert backward.arith == 3 * n + 2 * m * WIDTH - m  # P·(dP - D), scaled; D of each row
    assert report.root.gradients["input"].macs == 4 * product


def test_a_gradient_of_logsumexp_is_added_to_each_row() -> None:
    q, k, v = inputs(grad=True)
    op = torch.ops.higher_order.flex_attention

    def step(*, both: bool) -> None:
        out, logsumexp, _ = op(q, k, v, unmoved, masked(causal).as_tuple(), 0.25, {})
        outputs = [out, logsumexp] if both else [out]
        torch.autograd.backward(outputs, [torch.ones_like(y) for y in outputs])

    one, two = (
        counted(lambda both=both: step(both=both)).by_operator()["flex_attention_backward"]
        for both in (False, True)
    )
    assert two.arith - one.arith == HEADS * TOKENS


def test_heads_that_share_keys() -> None:
    q, k, v = inputs(heads=1)
    total = counted(lambda: flex_attention(q, k, v, block_mask=masked(causal), enable_gqa=True))
    assert total.total.macs == 262_144
    assert total.total.valid_macs == 262_144 * 10 // 16


def test_functions_are_counted_beside_it_once() -> None:
    q, k, v = inputs(grad=True)
    scores = HEADS * TOKENS**2
    plain_run = attend(q, k, v, masked(causal), squashed)
    expected = torch.autograd.grad(plain_run.sum(), (q, k, v))
    with flopcount.FlopCounter() as outer, flopcount.FlopCounter() as inner:
        out = attend(q, k, v, masked(causal), squashed)
        with torch.no_grad():
            attend(q, k, v, masked(causal), squashed)
        found = torch.autograd.grad(out.sum(), (q, k, v))
    assert torch.equal(out, plain_run)
    assert all(map(torch.equal, found, expected))
    reports = outer.report(), inner.report()
    for report in reports:
        costs = report.by_operator()
        # twice forward, and in backward again, alone and in the graph of its gradient; torch
        # traces that graph on single numbers
        assert costs["aten.tanh"].special // scores == 4
        assert costs["flex_attention"].valid_macs == 2 * 262_144 * 10 // 16
        assert not report.uncounted
    assert reports[0].by_operator() == reports[1].by_operator()


def test_an_uncounted_op_in_a_function_is_listed() -> None:
    @torch.library.custom_op("flopcount_flex::moved", mutates_args=())
    def moved(score: Tensor) -> Tensor:
        return score.clone()

    torch.library.register_vmap(moved, lambda info, dims, x: (moved(x), dims[0]))
    q, k, v = inputs()
    with flopcount.FlopCounter() as counter:
        attend(q, k, v, masked(causal), lambda score, *places: moved(score))
    with pytest.warns(flopcount.UncountedOpWarning, match="moved"):
        report = counter.report()
    assert set(report.uncounted) == {"flopcount_flex.moved"}
    assert report.total.macs == 262_144


def test_a_function_that_raises_leaves_no_mode() -> None:
    def broken(score: Tensor, *places: Tensor) -> Tensor:
        raise ValueError("no score")

    q, k, v = inputs()
    with flopcount.FlopCounter() as counter:
        with pytest.raises(ValueError, match="no score"):
            attend(q, k, v, masked(causal), broken)
        q @ k.mT
    assert torch._C._len_torch_dispatch_stack() == 0
    assert counter.report().total.macs == HEADS * TOKENS**2 * WIDTH


def test_on_tensors_without_values_the_count_is_dense() -> None:
    q, k, v = (tensor.to("meta") for tensor in inputs())
    mask = masked(causal).to("meta")
    total = counted(lambda: attend(q, k, v, mask, squashed)).total
    assert (total.macs, total.void_macs) == (262_144, 0)
    assert total.special == HEADS * TOKENS * (2 * TOKENS + 1)  # tanh, exp; log
    fakes = FakeTensorMode(allow_non_fake_inputs=True)
    with fakes:
        q, k, v = (torch.empty(1, HEADS, TOKENS, WIDTH) for _ in range(3))
        fake_mask = BlockMask.from_kv_blocks(
            torch.ones(1, 1, 4, dtype=torch.int32),
            torch.zeros(1, 1, 4, 4, dtype=torch.int32),
            BLOCK_SIZE=16,
            mask_mod=causal,
        )
        fake = counted(lambda: attend(q, k, v, fake_mask, squashed)).total
    assert (fake.macs, fake.void_macs, fake.special) == (262_144, 0, total.special)
