"""Every option, on the command line and in the ini file, and what runs of several processes say."""

from __future__ import annotations

import re

import pytest

from tests.pytest_plugin.conftest import COSTS, FILE, Run, ini, section
from tests.pytest_plugin.test_baseline_fixture import NARROWER, TESTS, WIDER

PURPOSES = {
    "flops": "count every test, and show the most expensive",
    "flops_update": "write new and changed baselines, remove those of deleted tests",
    "flops_trim": "list budgets more than 5 % above what was needed",
    "flops_fail_on": "a baseline fails on any change (the default), or only on an increase",
}


@pytest.mark.parametrize(("name", "purpose"), PURPOSES.items())
def test_the_help_of_an_option_and_of_its_twin_in_the_ini_file(
    name: str, purpose: str, run: Run
) -> None:
    lines = run("", "--help").outlines
    ini_starts = next(n for n, line in enumerate(lines) if line.startswith("[pytest]"))
    flag = "--" + name.replace("_", "-")
    for start, part in ((f"  {flag}", lines[:ini_starts]), (f"  {name} (", lines[ini_starts:])):
        first = next(n for n, line in enumerate(part) if re.match(re.escape(start) + r"\b|,", line))
        # up to the next option, in one line without the option itself
        rest = [*part[first + 1 :], "  end"]
        last = next(n for n, line in enumerate(rest) if not line.startswith("     "))
        text = " ".join(" ".join([part[first], *rest[:last]]).split())
        assert text.endswith(purpose), text


class TestIni:
    @pytest.mark.parametrize(
        ("setting", "option", "title"),
        [
            ("flops", "--no-flops", "FLOPs"),
            ("flops_trim", "--no-flops-trim", "loose FLOP budgets"),
            ("flops_update", "--no-flops-update", "FLOP baselines"),
        ],
    )
    def test_the_command_line_has_the_last_word(
        self, setting: str, option: str, title: str, run: Run, pytester: pytest.Pytester
    ) -> None:
        ini(pytester, f"{setting} = true")
        run(COSTS).stdout.fnmatch_lines([f"*= {title} =*"])
        run(COSTS, option).stdout.no_fnmatch_line(f"*= {title} =*")
        ini(pytester, f"{setting} = false")
        run(COSTS, option.replace("--no", "-")).stdout.fnmatch_lines([f"*= {title} =*"])

    def test_in_pyproject(self, run: Run, pytester: pytest.Pytester) -> None:
        pytester.makepyprojecttoml("[tool.pytest.ini_options]\nflops = true\n")
        assert section(run(COSTS), "FLOPs")

    def test_update(self, run: Run, pytester: pytest.Pytester) -> None:
        ini(pytester, "flops_update = true")
        run(TESTS).assert_outcomes(passed=3)
        assert (pytester.path / FILE).exists()

    def test_fail_on(self, run: Run, pytester: pytest.Pytester) -> None:
        run(TESTS, "--flops-update")
        ini(pytester, "flops_fail_on = increase")
        run(NARROWER).assert_outcomes(passed=3)
        run(WIDER).assert_outcomes(failed=3)
        run(NARROWER, "--flops-fail-on=change").assert_outcomes(failed=3)

    def test_a_value_that_there_is_not(self, run: Run, pytester: pytest.Pytester) -> None:
        ini(pytester, "flops_fail_on = decrease")
        result = run(TESTS)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines(["*flops_fail_on must be change or increase, got 'decrease'"])

    def test_the_command_line_refuses_it_too(self, run: Run) -> None:
        assert run(TESTS, "--flops-fail-on=decrease").ret == pytest.ExitCode.USAGE_ERROR


class TestXdist:
    """With two worker processes all is as without."""

    @pytest.fixture(autouse=True)
    def xdist(self) -> None:
        pytest.importorskip("xdist")

    def test_the_same_output(self, run: Run) -> None:
        options = ("--flops", "--flops-trim", "-v")
        alone, spread = run(COSTS, *options), run(COSTS, *options, "-n", "2")
        for title in ("FLOPs", "loose FLOP budgets"):
            assert section(alone, title) == section(spread, title)
        spread.assert_outcomes(passed=11, failed=1)
        spread.stdout.fnmatch_lines(["total: 128 FLOP is 28 more than*", "*- FLOP budget -*"])

    def test_counts_are_in_junit(self, run: Run, pytester: pytest.Pytester) -> None:
        run(COSTS, "--junitxml=junit.xml", "-n", "2")
        text = (pytester.path / "junit.xml").read_text(encoding="utf-8")
        assert text.count('<property name="flops" value="128" />') == 3
        assert text.count("<failure ") == 1

    def test_the_same_files(self, run: Run, pytester: pytest.Pytester) -> None:
        run(TESTS, "--flops-update")
        path = pytester.path / FILE
        alone = path.read_text(encoding="utf-8")
        run(TESTS, "-n", "2").assert_outcomes(passed=3)
        path.unlink()
        run(TESTS, "--flops-update", "-n", "2").assert_outcomes(passed=3)
        assert path.read_text(encoding="utf-8") == alone

    def test_what_is_deleted_is_removed(self, run: Run, pytester: pytest.Pytester) -> None:
        run(TESTS, "--flops-update")
        result = run(TESTS.partition("class")[0], "--flops-update", "-n", "2")
        result.stdout.fnmatch_lines([f"{FILE}: 0 written, 2 removed"])

    def test_a_marker_that_is_no_budget_is_refused(self, run: Run) -> None:
        result = run("@pytest.mark.flop_budget('1 MBxyz')\ndef test_it(): pass", "-n", "2")
        result.assert_outcomes(errors=1)
        result.stdout.fnmatch_lines(["test_it.py::test_it: *got '1 MBxyz'; right is*"])
