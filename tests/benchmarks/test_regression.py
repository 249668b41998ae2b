"""The comparison with another commit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import flopcount
from benchmarks.processes import in_a_new_process
from benchmarks.regression import NAME, ROOT, flopcount_of, middle, show, targets


def names_and_counts(folder: str) -> tuple[str, int, int]:
    """What the last commit's package is called, and what both count of a product of 4·8 by 8·2."""
    before = flopcount_of("HEAD", folder)
    old, new = before.FlopCounter(), flopcount.FlopCounter()
    for counter in (old, new):
        with counter:
            torch.ones(4, 8) @ torch.ones(8, 2)
    return type(old).__module__, old.report().total.macs, new.report().total.macs


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a clone: there is no other commit")
def test_both_packages_count_in_one_process(tmp_path: Path) -> None:
    name, old, new = in_a_new_process(names_and_counts, str(tmp_path))
    assert name.startswith(NAME)
    assert old == new == 64


def test_the_interval_of_a_median() -> None:
    # of 101 values about 50.5 ± 1.96 · √101 / 2 = ± 9.8 lie below it: the 41st to the 61st
    assert middle([n / 100 for n in range(101)]) == {
        "low": 0.4, "median": 0.5, "high": 0.6, "rounds": 101,
    }  # fmt: skip
    assert middle([3.0, 1.0, 2.0]) == {"low": 1, "median": 2, "high": 3, "rounds": 3}


def figures(now: float) -> dict[str, object]:
    ratios = {"low": 0.9, "median": now, "high": 1.1, "rounds": 5}
    return {"base": "abc", "steps": {"a": {"now ÷ before": ratios, "before ÷ empty": ratios}}}


def test_a_step_that_became_slower_misses_the_target() -> None:
    assert [target.holds for target in targets(figures(1.02))] == [True]
    assert [target.holds for target in targets(figures(1.021))] == [False]
    assert " 1.021 | 0.900 to 1.100 |" in " ".join(show(figures(1.021)).split())
