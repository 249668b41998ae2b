"""Nothing that torch dispatches is uncounted, and a new torch that brings more is noticed.

By default one sample of each operator, module and optimizer; ``--slow`` runs all of them.
"""

from __future__ import annotations

from typing import Any

import pytest

from flopcount.formulas import registry
from flopcount.formulas.op_table import op_rows
from tests import sweep

pytest.importorskip("expecttest", reason="torch's databases of samples need it")

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
        found = sweep.swept(program for program in sweep.operators(1) if "histc" in program[0])
    assert found.uncounted == {"aten.histc": "histc torch.float32"}


def test_every_op_has_one_row_for_each_way_it_is_decided() -> None:
    rows = op_rows()
    assert len({(row.op, row.decision, row.why) for row in rows}) == len(rows)
    assert {"aten.mm", "aten.relu", "aten.convolution_backward"} <= {row.op for row in rows}
    assert [row.op for row in rows if row.op.startswith("aten.") and not row.why] == []


def test_an_op_that_no_count_describes_says_why() -> None:
    reasons = {row.op: row.why for row in op_rows() if row.decision == "free"}
    assert reasons["aten.poisson"].startswith("drawn by trial and error")
    assert reasons["aten.clone"] == "moves bytes, and does no arithmetic"
