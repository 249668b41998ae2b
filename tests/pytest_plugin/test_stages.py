"""What a test does before its body and after it, in its subtests, and when it runs again."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from flopcount.pytest_plugin.outcome import Outcome
from flopcount.pytest_plugin.update import Update
from tests.pytest_plugin.conftest import Run, counts, names

AROUND = """
@pytest.fixture
def before(flop_baseline):
    with flop_baseline("before"):
        work()

@pytest.fixture
def around(flop_baseline):
    with flop_baseline("around"):
        yield

def test_it(before, around):
    TIMES
"""


def around(body: str) -> str:
    return AROUND.replace("TIMES", body)


class TestFixtures:
    def test_their_baselines_are_written_and_compared(
        self, run: Run, pytester: pytest.Pytester
    ) -> None:
        run(around("work()"), "--flops-update").assert_outcomes(passed=1)
        assert names(pytester) == {"test_it": ["around", "before"]}
        run(around("work()")).assert_outcomes(passed=1)
        result = run(around("work(); work()"))
        result.assert_outcomes(passed=1, errors=1)
        result.stdout.fnmatch_lines(["baseline 'around': 256 FLOP is 128 more than the 128 *"])

    def test_a_test_that_fails_beside_them_writes_nothing(
        self, run: Run, pytester: pytest.Pytester
    ) -> None:
        run(around("assert False"), "--flops-update").assert_outcomes(failed=1)
        assert names(pytester) == {}

    def test_a_block_around_a_test_that_raised_has_not_seen_all_of_it(self, run: Run) -> None:
        run(around("work()"), "--flops-update")
        run(around("raise ValueError")).assert_outcomes(failed=1)

    def test_the_body_is_what_a_marked_test_counts(
        self, run: Run, pytester: pytest.Pytester
    ) -> None:
        tests = """
@pytest.fixture
def worked(flop_budget):
    with flop_budget("1 GFLOP"):
        work()

@pytest.mark.flop_budget("1 GFLOP")
def test_it(worked): work(); work()
"""
        result = run(tests, "--flops", "-q", "--junitxml=junit.xml")
        result.stdout.fnmatch_lines(["1 test, 256 FLOP"])
        assert counts(pytester) == ["256"]


SUBTESTS = """
@pytest.fixture
def model():
    return torch.nn.Linear(8, 2)

def test_budgets(subtests, flop_budget):
    for limit in (127, 128, 126):
        with subtests.test(limit=limit), flop_budget(f"{limit} FLOP"):
            work()

def test_baselines(subtests, flop_baseline):
    for name in "ab":
        with subtests.test(name=name), flop_baseline(name):
            work()

@pytest.mark.flop_budget("255 FLOP")
def test_marked(subtests):
    with subtests.test():
        work()
    with subtests.test():
        pytest.skip("later")
    work()
"""

UNITTEST_SUBTESTS = """
import unittest

class TestWork(unittest.TestCase):
    @pytest.fixture(autouse=True)
    def blocks(self, flop_baseline):
        self.flop_baseline = flop_baseline

    def test_it(self):
        for name in "ab":
            with self.subTest(name=name), self.flop_baseline(name):
                work()
"""


class TestSubtests:
    @pytest.fixture(autouse=True)
    def built_in(self) -> None:
        if pytest.version_tuple < (9,):
            pytest.skip("a plugin's")

    def test_each_breaks_its_own_budget_and_the_test_counts_once(
        self, run: Run, pytester: pytest.Pytester
    ) -> None:
        result = run(SUBTESTS, "-k", "budgets", "--junitxml=junit.xml", "--flops")
        result.stdout.fnmatch_lines(
            [
                "*1 more than its budget of 127 FLOP",
                "*2 more than its budget of 126 FLOP",
                "1 test, 384 FLOP",
                "SUBFAILED(limit=127) *",
                "SUBFAILED(limit=126) *",
            ]
        )
        result.stdout.no_fnmatch_line("SUBFAILED(limit=128) *")
        assert counts(pytester) == ["384"]

    @pytest.mark.parametrize(
        ("tests", "test"),
        [(SUBTESTS, "test_baselines"), (UNITTEST_SUBTESTS, "TestWork::test_it")],
        ids=["pytest's", "unittest's"],
    )
    def test_their_baselines_are_written_and_compared(
        self, tests: str, test: str, run: Run, pytester: pytest.Pytester
    ) -> None:
        run(tests, "--flops-update")
        assert names(pytester) == {test: ["a", "b"]}
        selection = ("-k", test.rpartition("::")[2])
        assert run(tests, *selection).ret == pytest.ExitCode.OK
        result = run(tests.replace("            work()", "            work(); work()"), *selection)
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        result.stdout.fnmatch_lines(["baseline 'a': 256 FLOP is 128 more*"])
        result.stdout.fnmatch_lines(["baseline 'b': 256 FLOP is 128 more*"])

    def test_a_marker_bounds_all_of_them(self, run: Run) -> None:
        result = run(SUBTESTS, "-k", "marked")
        result.stdout.fnmatch_lines(["total: 256 FLOP is 1 more than its budget of 255 FLOP"])
        assert result.ret == pytest.ExitCode.TESTS_FAILED

    def test_one_that_fails_keeps_its_test_from_writing(
        self, run: Run, pytester: pytest.Pytester
    ) -> None:
        tests = SUBTESTS.replace("flop_baseline(name):", "flop_baseline(name): assert name == 'b'")
        run(tests.replace("            work()\n\n@", "\n@"), "--flops-update", "-k", "baselines")
        assert names(pytester) == {}


RERUN = """
from _pytest.runner import runtestprotocol

def pytest_runtest_protocol(item, nextitem):
    "The test's first failure is logged as one that is run again."
    for _ in range(3):
        item._initrequest()
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
        wrong = next((n for n, report in enumerate(reports) if report.failed), None)
        if wrong is not None:
            reports[wrong].outcome = "rerun"
        for report in reports[: None if wrong is None else wrong + 1]:
            item.ihook.pytest_runtest_logreport(report=report)
        if wrong is None:
            break
    return True
"""


def test_of_a_test_that_runs_again_the_last_time_counts(
    run: Run, pytester: pytest.Pytester
) -> None:
    pytester.makeconftest(RERUN)
    tests = """
TIMES = [3, 2, 1]

@pytest.fixture
def worked(flop_budget):
    with flop_budget("1 GFLOP"):
        work()

def test_it(worked, flop_budget, flop_baseline):
    with flop_baseline("step"), flop_budget("128 FLOP"):
        for _ in range(TIMES.pop(0)): work()
"""
    result = run(tests, "--flops-update", "--flops", "--junitxml=junit.xml")
    result.stdout.fnmatch_lines(["1 test, 128 FLOP", "__flops__/test_it.json: 1 written, *"])
    assert counts(pytester) == ["128"]
    assert run(tests.replace("[3, 2, 1]", "[1]")).ret == pytest.ExitCode.OK


@pytest.mark.parametrize(
    ("stages", "is_written"),
    [
        ("setup passed, call passed, teardown passed", True),
        ("setup passed, call failed, call passed, teardown passed", False),
        ("setup passed, call skipped, call passed, teardown passed", True),
        ("setup passed, call passed, teardown failed", False),
        ("setup passed, call skipped, teardown passed", False),
        ("setup skipped, teardown passed", False),
        (
            "setup passed, call failed, call rerun, setup passed, call passed, teardown passed",
            True,
        ),
    ],
)
def test_a_baseline_is_written_if_the_last_of_all_stages_passed(
    stages: str, is_written: bool, request: pytest.FixtureRequest
) -> None:
    """A subtest's report stands before its test's; pytest 8 lets the test pass."""
    update = Update(request.config)
    outcome = Outcome("test_it.py::test_it", "test_it.py", "test_it", 128, [], {"step": {}})
    for stage in stages.split(", "):
        when, _, result = stage.partition(" ")
        report = pytest.TestReport("test_it", ("", 0, ""), {}, result, None, when)  # type: ignore[arg-type]
        if when == "teardown":
            outcome.attach_to(report)
        update.pytest_runtest_logreport(report)
    assert update.passed == ({"test_it.py": {"test_it": {"step": {}}}} if is_written else {})


def test_nested_blocks_count_once(run: Run, pytester: pytest.Pytester) -> None:
    tests = """
def test_it(flop_budget):
    with flop_budget("1 GFLOP"):
        work()
        with flop_budget("1 GFLOP"):
            work()
"""
    run(tests, "--junitxml=junit.xml")
    assert counts(pytester) == ["256"]


def test_a_property_of_the_same_name_that_a_test_records_stays(
    run: Run, pytester: pytest.Pytester
) -> None:
    tests = """
@pytest.mark.flop_budget("1 GFLOP")
def test_it(record_property):
    record_property("flops", 1)
    work()
"""
    run(tests, "--junitxml=junit.xml", "-W", "ignore")
    assert counts(pytester) == ["1", "128"]


@pytest.mark.parametrize("style", ["auto", "line", "short"])
def test_the_place_of_a_failure_is_the_test(
    style: str, run: Run, pytester: pytest.Pytester
) -> None:
    tests = "@pytest.mark.flop_budget('127 FLOP')\ndef test_it(): work()"
    result = run(tests, f"--tb={style}", "--junitxml=junit.xml")
    assert "guard.py" not in result.stdout.str()
    if style == "line":
        lines = (pytester.path / "test_it.py").read_text(encoding="utf-8").splitlines()
        place = f"test_it.py:{lines.index(tests.splitlines()[0]) + 1}"
        result.stdout.fnmatch_lines([f"*{place}: Failed: total: 128 FLOP is 1 more*"])


def test_junit_has_the_failure_of_a_subtest_or_stage_once(
    run: Run, pytester: pytest.Pytester
) -> None:
    run(around("work()"), "--flops-update")
    run(around("work(); work()"), "--junitxml=junit.xml")
    suite = ElementTree.parse(pytester.path / "junit.xml").getroot().find("testsuite")
    assert suite is not None
    assert (suite.attrib["failures"], suite.attrib["errors"]) == ("0", "1")
