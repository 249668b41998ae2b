"""Nothing that torch dispatches is uncounted, and a new torch that brings more is noticed.

By default one sample of each operator, module and optimizer; ``--slow`` runs all of them.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from flopcount import Cost, formula
from flopcount.formulas import registry
from flopcount.formulas.op_table import op_rows
from tests import sweep

pytest.importorskip("expecttest", reason="torch's databases of samples need it")

ROOT = Path(__file__).parents[2]
PROGRAMS = [sweep.operators, sweep.modules, sweep.optimizers]


@pytest.mark.parametrize(
    "samples",
    [1, pytest.param(None, marks=pytest.mark.slow)],
    ids=["one sample each", "all samples"],
)
@pytest.mark.parametrize("programs", PROGRAMS, ids=lambda programs: programs.__name__)
def test_no_op_of_torchs_own_samples_is_uncounted(programs: Any, samples: int | None) -> None:
    found = sweep.swept(programs(samples))
    assert found.programs > 0
    assert found.costs
    assert found.uncounted == {}


def test_the_sweep_finds_an_op_that_nobody_knows() -> None:
    with registry.replaced(lambda name, rule: None if name == "aten::histc" else rule):
        found = sweep.swept(sweep.operators(1, "histc"))
    assert found.uncounted == {"aten.histc": "histc torch.float32"}


def test_every_op_has_one_row_for_each_way_it_is_decided() -> None:
    rows = op_rows()
    assert len({(row.op, row.decision, row.why, row.place) for row in rows}) == len(rows)
    assert {"aten.mm", "aten.relu", "aten.convolution_backward"} <= {row.op for row in rows}
    assert [row.op for row in rows if row.op.startswith("aten.") and not row.why] == []


def test_an_op_that_no_count_describes_says_why() -> None:
    reasons = {row.op: row.why for row in op_rows() if row.decision == "free"}
    assert reasons["aten.poisson"].startswith("drawn by trial and error")
    assert reasons["aten.clone"] == "moves bytes, and does no arithmetic"


def test_every_formula_is_where_the_table_says() -> None:
    """There stands a decorator, or a statement that registers what a function made."""
    rows = [row for row in op_rows() if row.decision in ("formula", "free")]
    ours = [row for row in rows if row.op.startswith(("aten.", "prims.", "quantized."))]
    assert len(ours) > 700
    for row in ours:
        file, line = row.place.split(":")
        assert file.startswith("flopcount/formulas/ops/")
        assert re.match(r"[@ \w]", (ROOT / file).read_text().splitlines()[int(line) - 1])


@pytest.mark.parametrize(
    ("op", "file", "statement"),
    [
        ("aten.mm", "matmul", ('@formula("aten::mm"', "def mm(")),  # a decorated function
        ("aten.clone", "movement", "moves("),  # free, by a helper
        ("aten._flash_attention_forward", "attention", "register("),  # made by a helper
        ("aten.cudnn_convolution", "convolution", "formula("),  # made by a function
    ],
)
def test_a_place_is_the_line_of_a_decorator_or_a_statement(
    op: str, file: str, statement: str | tuple[str, ...]
) -> None:
    (place,) = {row.place for row in op_rows() if row.op == op}
    path, line = place.split(":")
    assert path == f"flopcount/formulas/ops/{file}.py"
    assert (ROOT / path).read_text().splitlines()[int(line) - 1].startswith(statement)


@registry.replaced()
def test_the_places_of_a_users_formulas() -> None:
    torch.library.define("op_table_tests::decorated", "(Tensor x) -> Tensor")
    torch.library.define("op_table_tests::partial", "(Tensor x) -> Tensor")
    ops = torch.ops.op_table_tests

    def cost(x: Tensor, times: int = 1, *, out: Tensor) -> Cost:
        return Cost(arith=times)

    formula(ops.decorated)(cost)
    formula(ops.partial)(partial(cost, times=2))
    lines = Path(__file__).read_text().splitlines()
    for op in ("decorated", "partial"):
        (place,) = {row.place for row in op_rows() if row.op == f"op_table_tests.{op}"}
        file, _, line = place.rpartition(":")
        assert file == Path(__file__).as_posix()
        assert lines[int(line) - 1].strip().startswith(f"formula(ops.{op})")
