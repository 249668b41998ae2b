"""Every formula has a test that goes red when its result is doubled."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import flopcount.formulas

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="each trial is a fork")

ROOT = Path(__file__).parents[2]
OPS = Path(flopcount.formulas.__file__).parent / "ops"
FAMILIES = sorted(path.stem for path in OPS.glob("[a-z]*.py"))

TRIAL = """
import sys
from tests.tools.mutation import main
from flopcount import Cost, formula

def forgotten(x, *, out):
    return Cost(arith=1)

forgotten.__module__ = "flopcount.formulas.ops.pooling"
formula("tests::forgotten")(forgotten)
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    "families",
    [[str(OPS / "pooling.py")], pytest.param(FAMILIES, marks=pytest.mark.slow)],
    ids=["pooling", "all"],
)
def test_no_formula_but_one_without_tests_can_be_doubled_unnoticed(families: list[str]) -> None:
    command = [sys.executable, "-c", TRIAL, *families]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    unnoticed = [line for line in run.stdout.splitlines() if line.endswith("tests call it)")]
    assert unnoticed == ["pooling: tests::forgotten (0 tests call it)"], run.stdout + run.stderr
    assert run.returncode == 1


@pytest.mark.parametrize("name", ["poling", "flopcount/formulas/ops/poling.py"])
def test_a_name_that_is_no_family_is_refused(name: str) -> None:
    command = [sys.executable, "-m", "tests.tools.mutation", name]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.stderr.strip().endswith("poling.py in flopcount/formulas/ops has no formulas")
    assert run.returncode == 1
