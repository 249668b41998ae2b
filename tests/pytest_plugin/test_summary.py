"""What ``--flops`` and ``--flops-trim`` show."""

from __future__ import annotations

import re

import pytest

from tests.pytest_plugin.conftest import COSTS, Run, ini, section
from tests.pytest_plugin.test_baseline_fixture import NARROWER, TESTS


class TestSummary:
    def test_the_most_expensive_tests_come_first(self, run: Run) -> None:
        lines = section(run(COSTS, "--flops"), "FLOPs")
        rows = [re.split(r"  +", line) for line in lines]
        assert rows[0] == ["test", "count", "budget", "slack"]
        assert rows[2:5] == [
            ["test_it.py::test_dear", "1.280 kFLOP"],
            ["test_it.py::test_cheap[7]", "896 FLOP"],
            ["test_it.py::test_cheap[6]", "768 FLOP"],
        ]
        assert ["test_it.py::test_broken", "128 FLOP", "total 100 FLOP", "-21.9 %"] in rows
        assert len(rows) == 2 + 10 + 1
        # 10 and 1 + 2 + … + 7 and three times 128 FLOPs; test_cheap[0] costs nothing
        assert lines[-1] == "11 tests, 5.248 kFLOP; -v shows 1 more"

    def test_verbose_shows_all_tests_and_all_bounds(self, run: Run) -> None:
        lines = section(run(COSTS, "--flops", "-v"), "FLOPs")
        rows = [re.split(r" {2,}", line.strip()) for line in lines]
        assert ["test_it.py::test_marked", "128 FLOP", "total 64 MAC", "0.0 %"] in rows
        assert ["total 160 FLOP", "25.0 %"] in rows
        assert len(rows) == 2 + 12 + 1
        assert lines[-1] == "11 tests, 5.248 kFLOP"

    def test_quiet_shows_the_sum(self, run: Run) -> None:
        result = run(COSTS, "--flops", "-q")
        result.stdout.fnmatch_lines(["11 tests, 5.248 kFLOP"])
        result.stdout.no_fnmatch_line("*test_it.py::test_dear*")

    def test_without_it_nothing_is_shown_and_only_budgets_count(
        self, run: Run, pytester: pytest.Pytester
    ) -> None:
        result = run(COSTS, "--junitxml=junit.xml")
        result.stdout.no_fnmatch_line("*FLOPs*")
        text = (pytester.path / "junit.xml").read_text(encoding="utf-8")
        assert text.count('<property name="flops"') == 3

    def test_in_the_ini_file(self, run: Run, pytester: pytest.Pytester) -> None:
        ini(pytester, "flops = true")
        assert section(run(COSTS), "FLOPs")

    def test_a_run_without_any_work(self, run: Run) -> None:
        assert section(run("def test_it(): pass", "--flops"), "FLOPs")[-1] == "0 tests, 0 FLOP"


class TestTrim:
    LOOSE = ("test_it.py::test_marked", "total", "160 FLOP", "128 FLOP", "25.0 %")

    def test_it_lists_budgets_above_what_was_needed(self, run: Run) -> None:
        lines = section(run(COSTS, "--flops-trim"), "loose FLOP budgets")
        rows = [tuple(re.split(r"  +", line)) for line in lines]
        assert rows[0] == ("test", "budget of", "bound", "needed", "slack")
        assert rows[2:] == [self.LOOSE]

    @pytest.mark.parametrize(("limit", "is_loose"), [(2100, False), (2101, True)])
    def test_five_percent_are_no_slack(self, limit: int, is_loose: bool, run: Run) -> None:
        """A product of 4×5 and 5×50 is 1,000 MACs, which are 2,000 FLOPs."""
        test = f"""
@pytest.mark.flop_budget("{limit} FLOP")
def test_it(): torch.mm(torch.empty(4, 5), torch.empty(5, 50))
"""
        lines = section(run(test, "--flops-trim"), "loose FLOP budgets")
        none = "no budget is more than 5 % above what was needed"
        assert (lines != [none]) is is_loose

    def test_a_budget_for_what_costs_nothing_is_loose(self, run: Run) -> None:
        test = "@pytest.mark.flop_budget('1 FLOP')\ndef test_it(): pass"
        lines = section(run(test, "--flops-trim"), "loose FLOP budgets")
        rows = [re.split(r"  +", line) for line in lines]
        assert rows[2:] == [["test_it.py::test_it", "total", "1 FLOP", "0 FLOP", "unused"]]

    def test_so_is_a_baseline_that_only_an_increase_would_fail(self, run: Run) -> None:
        """Forward costs 18·4·W FLOPs: a half of what it did when W was 2."""
        run(TESTS, "--flops-update")
        result = run(NARROWER, "--flops-trim", "--flops-fail-on=increase", "-k", "step and 4")
        rows = [re.split(r"  +", line) for line in section(result, "loose FLOP budgets")]
        assert rows[2:] == [
            ["test_it.py::test_step[4]", "baseline 'forward'", "144 FLOP", "72 FLOP", "100.0 %"]
        ]

    def test_in_the_ini_file(self, run: Run, pytester: pytest.Pytester) -> None:
        ini(pytester, "flops_trim = true")
        assert len(section(run(COSTS), "loose FLOP budgets")) == 3
