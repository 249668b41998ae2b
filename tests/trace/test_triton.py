"""Kernels of Triton in recordings: named, with the bytes that they move at most, or counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import flopcount
from flopcount import Cost, Report
from flopcount.formulas.registry import replaced
from tests.trace.recordings import event, kernel, launch, written

NAME = "triton_poi_fused_add_mul_0"


def fused(name: str = NAME, start: float = 0) -> dict[str, Any]:
    """What inductor writes: two inputs, an output, and the number of elements."""
    return event(
        "cpu_op",
        name,
        start,
        start + 10,
        **{
            "Input Dims": [[4, 8], [8], [4, 8], []],
            "Input Strides": [[8, 1], [1], [8, 1], []],
            "Input type": ["c10::BFloat16", "float", "c10::BFloat16", "Scalar"],
            "Concrete Inputs": ["", "", "", "32"],
            "kernel_backend": "triton",
            "kernel_kwargs": "XBLOCK=32",
        },
    )


def report(folder: Path, *events: Any) -> Report:
    return flopcount.read_trace(written(folder / "trace.json", events))


def test_it_is_uncounted_by_name_with_the_bytes_of_its_tensors(tmp_path: Path) -> None:
    """64 + 32 + 64 bytes, and the kernel's time."""
    with pytest.warns(flopcount.UncountedOpWarning, match=rf"formula\('triton:{NAME}'\) counts it"):
        found = report(tmp_path, fused(), launch(1, 5), kernel(1, 20, 23))
    (row,) = found.entries
    assert (row.op, row.dtype, row.uncounted) == (f"triton.{NAME}", "bfloat16", 1)
    assert (row.cost, row.nanoseconds) == (Cost(read=160), 3_000)
    assert found.run is not None
    assert (found.run.counted, found.run.work) == (0, 3_000)


@pytest.mark.parametrize("pattern", [NAME, "triton_poi_fused_*", "*add_mul*"])
def test_a_formula_counts_it(tmp_path: Path, pattern: str) -> None:
    seen: list[Any] = []
    with replaced():

        @flopcount.formula(f"triton:{pattern}")
        def cost(x: Any, scale: Any, y: Any, number: int, *, out: None) -> Cost:
            seen.append((tuple(x.shape), tuple(scale.shape), y.dtype, number, out))
            return Cost(arith=2 * x.numel())

        found = report(tmp_path, fused(), launch(1, 5), kernel(1, 20, 23))
    assert seen == [((4, 8), (8,), torch.bfloat16, 32, None)]
    (row,) = found.entries
    assert row.cost == Cost(arith=64, read=160)
    assert found.uncounted == {}
    assert found.run is not None
    assert found.run.counted == 3_000


def test_a_name_goes_before_a_pattern(tmp_path: Path) -> None:
    with replaced():
        flopcount.formula("triton:triton_*")(lambda *args, out: Cost(arith=1))
        flopcount.formula(f"triton:{NAME}")(lambda *args, out: Cost(arith=2))
        found = report(tmp_path, fused(), fused("triton_red_fused_mean_1", 20))
    assert {row.op: row.cost.arith for row in found.entries} == {
        f"triton.{NAME}": 2,
        "triton.triton_red_fused_mean_1": 1,
    }


def test_one_that_fails_says_so(tmp_path: Path) -> None:
    with replaced():
        flopcount.formula("triton:*")(lambda x, *, out: Cost())
        with pytest.warns(flopcount.UncountedOpWarning, match="its formula failed"):
            assert report(tmp_path, fused()).uncounted == {f"triton.{NAME}": 1}


@pytest.mark.parametrize("name", ["triton_poi_fused_add_0", "triton.add", "triton::add"])
def test_a_name_that_lacks_its_prefix_is_refused(name: str) -> None:
    with pytest.raises(TypeError, match=r"a kernel of Triton is triton:NAME"):
        flopcount.formula(name)
