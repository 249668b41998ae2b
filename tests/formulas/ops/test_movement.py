from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import flopcount
from flopcount.formulas import Decision, plan_of
from tests.formulas.reports import report_of

aten = torch.ops.aten


X = torch.ones(3, 4)  # 48 bytes
ROW = torch.ones(4)
WHOLE = torch.arange(3)
QUANTISED = torch.quantize_per_tensor(X, 0.1, 3, torch.quint8)
TARGET = torch.ones(3, 4)  # what ops in place may change


@pytest.mark.parametrize(
    ("call", "read", "written"),
    [
        pytest.param(lambda: X.clone(), 48, 48, id="a copy reads and writes all"),
        pytest.param(lambda: X.double(), 48, 96, id="a conversion writes its own size"),
        pytest.param(lambda: ROW.expand(3, 4).clone(), 16, 48, id="an expanded row is read once"),
        pytest.param(lambda: TARGET.copy_(X), 48, 48, id="a copy's target is not read"),
        pytest.param(lambda: TARGET.copy_(ROW), 16, 48, id="a broadcast copy"),
        pytest.param(lambda: TARGET.zero_(), 0, 48, id="zeroing reads nothing"),
        pytest.param(lambda: TARGET.fill_(2.0), 0, 48, id="filling reads nothing"),
        pytest.param(lambda: torch.cat([X, TARGET]), 96, 96, id="joining reads all parts"),
        pytest.param(lambda: torch.cat([X, X]), 48, 96, id="a part that comes twice is read once"),
        pytest.param(lambda: torch.stack([X, X]), 48, 96, id="stacking, likewise"),
        pytest.param(lambda: torch.zeros(3, 4), 0, 48, id="zeros are written"),
        pytest.param(lambda: torch.ones_like(X), 0, 48, id="a model lends its shape unread"),
        pytest.param(lambda: X.new_full((2,), 1.0), 0, 8, id="or its dtype"),
        pytest.param(lambda: torch.arange(5), 0, 40, id="a sequence is written"),
        pytest.param(lambda: torch.linspace(0, 1, 5), 0, 20, id="and one of floats"),
        pytest.param(lambda: torch.empty(1000), 0, 0, id="empty memory is not touched"),
        pytest.param(lambda: torch.empty_like(X), 0, 0, id="nor is that like another's"),
        pytest.param(lambda: X.new_empty(7), 0, 0, id="nor is new memory"),
        pytest.param(lambda: X.view(4, 3).t()[1:], 0, 0, id="views move nothing"),
        pytest.param(lambda: TARGET.t_().t_(), 0, 0, id="nor do views in place"),
        pytest.param(lambda: aten.unsafe_split(X, 1), 0, 0, id="nor those that hide being views"),
        pytest.param(lambda: X.t().reshape(-1), 48, 48, id="a reshape that must copy"),
        pytest.param(lambda: X.repeat(2, 1), 48, 96, id="repetition writes more than it reads"),
        pytest.param(lambda: X.flip(0), 48, 48, id="flipping"),
        pytest.param(lambda: X.roll(1, 0), 48, 48, id="rolling"),
        pytest.param(lambda: X.tril(), 48, 48, id="a triangle"),
        pytest.param(lambda: aten.hash_tensor(X), 48, 8, id="bits that are combined"),
        pytest.param(lambda: aten.slice_copy(X, 0, 1, 2), 16, 16, id="a part is all that is read"),
        pytest.param(
            lambda: aten.split_with_sizes_copy(X, [1, 2]), 48, 48, id="parts that are all of it"
        ),
        pytest.param(lambda: X[0, 0].item(), 4, 0, id="one value is looked at"),
        pytest.param(lambda: X.is_set_to(X), 0, 0, id="a question costs nothing"),
        pytest.param(lambda: QUANTISED.q_scale(), 0, 0, id="nor one for a scale"),
        pytest.param(lambda: QUANTISED.qscheme(), 0, 0, id="nor one for a scheme"),
        pytest.param(lambda: aten._lazy_clone(X), 0, 0, id="a copy that waits until it is written"),
        pytest.param(lambda: aten._assert_scalar(True, ""), 0, 0, id="a check of a number"),
        pytest.param(lambda: aten.sym_constrain_range(3, min=0), 0, 0, id="a bound of a size"),
        pytest.param(lambda: aten.fft_fftfreq(6), 0, 24, id="frequencies are a sequence"),
        pytest.param(lambda: aten.__lshift__(WHOLE, 1), 24, 24, id="integers are no arithmetic"),
        pytest.param(
            lambda: torch._foreach_copy_([TARGET], [X]), 48, 48, id="lists are copied, too"
        ),
        pytest.param(lambda: torch._foreach_zero_([TARGET]), 0, 48, id="and zeroed"),
        pytest.param(
            lambda: aten.slice_backward(ROW.view(1, 4), [3, 4], 0, 1, 2, 1),
            16,
            48,
            id="a slice's gradient is placed into zeros",
        ),
        pytest.param(
            lambda: aten.slice_scatter(X, ROW.view(1, 4), 0, 1, 2),
            48 + 16,
            48,
            id="a part is placed into a copy",
        ),
    ],
)
def test_what_moves_is_read_and_written_and_nothing_is_computed(
    call: Callable[[], Any], read: int, written: int
) -> None:
    TARGET.copy_(X)
    with flopcount.FlopCounter() as counter:
        call()
    report = counter.report()
    assert not report.uncounted
    assert (report.total.flops, report.total.macs) == (0, 0)
    assert (report.total.read, report.total.written) == (read, written)


def test_a_profiled_range_costs_nothing() -> None:
    with flopcount.FlopCounter() as counter, torch.profiler.record_function("range"):
        pass
    report = counter.report()
    assert not report.total
    assert not report.uncounted


def test_every_copying_twin_of_a_view_is_decided() -> None:
    """Names that torch forms itself: a view's, and ``_copy``."""
    names = {
        name.split(".")[0].removeprefix("aten::")
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("aten::") and name.split(".")[0].endswith("_copy")
    }
    others = {"_nested_get_values_copy", "_nested_view_from_buffer_copy"}
    others |= {"_nested_view_from_jagged_copy", "_test_autograd_multiple_dispatch_view_copy"}
    others |= {"_sparse_broadcast_to_copy"}
    undecided = {
        name
        for name in names
        for overload in getattr(aten, name).overloads()
        if plan_of(getattr(getattr(aten, name), overload)).decision is Decision.UNCOUNTED
    }
    assert len(names) > 30
    assert undecided <= others


def test_fsdp_fills_a_buffer_that_it_does_not_read() -> None:
    pytest.importorskip("torch.distributed.fsdp")
    target, source = torch.empty(6), torch.ones(6)
    (row,) = report_of(torch.ops.fsdp.copy_, target, source).rows()
    assert (row["read"], row["written"], row["flops"]) == (24, 24, 0)
