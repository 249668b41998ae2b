"""The marker: what a test's body may cost."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from tests.pytest_plugin.conftest import Run


def marked(*arguments: str, body: str = "work()") -> str:
    """A test for each budget that it is marked with."""
    return "\n".join(
        f"@pytest.mark.flop_budget({budget})\ndef test_{number}():\n    {body}\n"
        for number, budget in enumerate(arguments)
    )


def test_a_test_on_its_budget_passes_and_one_above_it_fails(run: Run) -> None:
    result = run(marked("'128 FLOP'", "'127 FLOP'"))
    result.assert_outcomes(passed=1, failed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        [
            "*_ test_1 _*",
            "total: 128 FLOP is 1 more than its budget of 127 FLOP",
            "*- FLOP budget -*",
            "budget of *count *bound *excess",
            "total *128 FLOP *127 FLOP *+1 FLOP",
            "(outside modules) *forward *aten.mm *64 *128 *",
            "FAILED test_it.py::test_1 - *total: 128 FLOP*",
        ]
    )


@pytest.mark.parametrize(
    "budget",
    [
        "'63 MAC'",
        # 4·(4·8 + 8·2 + 4·2) bytes
        "'223 B'",
        "forward='63 MAC'",
        "'127 FLOP', reading='matmul'",
        "equal='129 FLOP'",
        "'1 GFLOP', backward='0 FLOP', equal='65 MAC'",
    ],
)
def test_each_bound_can_be_broken(budget: str, run: Run) -> None:
    result = run(marked(budget))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*: * is 1 * than *"])


@pytest.mark.parametrize(
    "budget",
    [
        "'64 MAC'",
        "'224 B'",
        "forward='64 MAC'",
        "'128 FLOP', reading='matmul'",
        "equal='128 FLOP'",
        "'1 GFLOP', '1 GB', backward='0 FLOP', equal='64 MAC'",
    ],
)
def test_each_bound_can_be_kept(budget: str, run: Run) -> None:
    run(marked(budget)).assert_outcomes(passed=1)


def test_modules_are_named_by_the_only_model_that_ran(run: Run) -> None:
    body = "torch.nn.Sequential(torch.nn.Linear(8, 2))(torch.empty(4, 8))"
    result = run(marked("modules={'0': '63 MAC'}", "modules={'0': '64 MAC'}", body=body))
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["0: 64 MAC is 1 more than its budget of 63 MAC"])


def test_a_module_that_did_not_run_breaks_its_budget(run: Run) -> None:
    result = run(marked("modules={'0': '1 MAC'}"))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["no module that ran matches '0'; the model itself is '', and no other module ran"]
    )


def test_a_reading_is_named_where_its_unit_does_not_say_it(run: Run) -> None:
    result = run(marked("'127 FLOP', reading='matmul'"))
    result.stdout.fnmatch_lines(["total (matmul): 128 FLOP is 1 more than*", "total (matmul) *"])


def test_only_the_body_counts_not_its_fixtures(run: Run) -> None:
    tests = """
    @pytest.fixture
    def worked():
        work()
        yield
        work()

    @pytest.mark.flop_budget("128 FLOP")
    def test_it(worked):
        work()
    """
    run(tests.replace("\n    ", "\n")).assert_outcomes(passed=1)


def test_a_class_and_its_module_may_be_marked_and_every_budget_holds(run: Run) -> None:
    tests = """
pytestmark = pytest.mark.flop_budget("300 FLOP")

@pytest.mark.flop_budget("200 FLOP")
class TestWork:
    @pytest.mark.parametrize("times", [1, pytest.param(2, id="twice"), 3])
    def test_it(self, times):
        for _ in range(times):
            work()
"""
    result = run(tests)
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.fnmatch_lines(
        ["*TestWork.test_it[[]twice[]]*", "*256 FLOP is 56 more*", "*TestWork.test_it[[]3[]]*"]
    )
    result.stdout.fnmatch_lines(["*384 FLOP is 84 more than its budget of 300 FLOP"])


def test_a_parameter_may_be_marked(run: Run) -> None:
    tests = """
budget = pytest.mark.flop_budget("127 FLOP")

@pytest.mark.parametrize("times", [0, pytest.param(1, marks=budget), 1])
def test_it(times):
    for _ in range(times):
        work()
"""
    run(tests).assert_outcomes(passed=2, failed=1)


def test_a_marker_may_be_added_when_tests_are_collected(
    run: Run, pytester: pytest.Pytester
) -> None:
    pytester.makeconftest("""
import pytest

def pytest_collection_modifyitems(items):
    for item in items:
        item.add_marker(pytest.mark.flop_budget("127 FLOP"))
""")
    run("def test_it(): work()").assert_outcomes(failed=1)


class TestMarkedLate:
    """A marker that pytest did not have when it had collected all tests."""

    LATE = """
@pytest.fixture(autouse=True)
def mark(request):
    request.node.add_marker(pytest.mark.flop_budget("127 FLOP"))

def test_it(): work()
"""

    @pytest.mark.parametrize("others", ["", marked("'128 FLOP'")], ids=["alone", "beside another"])
    def test_in_a_fixture_it_is_none(self, others: str, run: Run) -> None:
        run(self.LATE + others).assert_outcomes(passed=2 if others else 1)

    def test_one_that_is_no_budget_fails_its_test(
        self, run: Run, pytester: pytest.Pytester
    ) -> None:
        pytester.makeconftest("""
import pytest

def pytest_collection_modifyitems(items):
    items[0].add_marker(pytest.mark.flop_budget(8))
""")
        result = run("def test_it(): work()\ndef test_other(): work()")
        result.assert_outcomes(passed=1, failed=1)
        result.stdout.fnmatch_lines(["*, got 8; right is @pytest.mark.flop_budget(*"])
        result.stdout.no_fnmatch_line("*Traceback*")
        result.stdout.no_fnmatch_line("*guard.py*")


class TestOtherOutcomes:
    def test_a_test_that_raises_shows_its_own_error(self, run: Run) -> None:
        result = run(marked("'0 FLOP'", body="work(); raise ValueError('of its own')"))
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(["*ValueError: of its own"])
        result.stdout.no_fnmatch_line("*FLOP budget*")
        result.stdout.no_fnmatch_line("*more than its budget*")

    def test_a_skipped_test_stays_skipped(self, run: Run) -> None:
        run(marked("'0 FLOP'", body="work(); pytest.skip('later')")).assert_outcomes(skipped=1)
        run("@pytest.mark.skip\n" + marked("'0 FLOP'")).assert_outcomes(skipped=1)

    @pytest.mark.parametrize("strict", [False, True])
    def test_an_xfailed_test_may_break_its_budget(self, strict: bool, run: Run) -> None:
        xfail = f"@pytest.mark.xfail(strict={strict})\n"
        run(xfail + marked("'127 FLOP'")).assert_outcomes(xfailed=1)
        kept = run(xfail + marked("'128 FLOP'"))
        kept.assert_outcomes(**{"failed" if strict else "xpassed": 1})

    def test_one_that_is_expected_to_raise_something_else_may_not(self, run: Run) -> None:
        xfail = "@pytest.mark.xfail(raises=ValueError)\n"
        run(xfail + marked("'127 FLOP'")).assert_outcomes(failed=1)

    def test_a_fixture_that_fails_is_an_error(self, run: Run) -> None:
        tests = """
@pytest.fixture
def broken():
    raise ValueError("of the fixture")

@pytest.mark.flop_budget("0 FLOP")
def test_it(broken): work()
"""
        result = run(tests)
        result.assert_outcomes(errors=1)
        result.stdout.no_fnmatch_line("*FLOP budget*")

    def test_a_fixture_that_fails_afterwards_is_an_error_beside_it(self, run: Run) -> None:
        tests = """
@pytest.fixture
def broken():
    yield
    raise ValueError("of the fixture")

@pytest.mark.flop_budget("127 FLOP")
def test_it(broken): work()
"""
        run(tests).assert_outcomes(failed=1, errors=1)

    def test_an_async_test_is_counted_by_a_plugin_that_is_there(self, run: Run) -> None:
        pytest.importorskip("anyio")
        tests = marked("'128 FLOP'", "'127 FLOP'", body="await anyio.sleep(0); work()")
        tests = tests.replace("def test", "async def test").replace("@", "@pytest.mark.anyio\n@")
        backend = "@pytest.fixture\ndef anyio_backend(): return 'asyncio'\n"
        result = run(f"import anyio\n{backend}{tests}", "-p", "anyio")
        result.assert_outcomes(passed=1, failed=1)

    def test_an_async_test_is_counted_whatever_runs_it(
        self, run: Run, pytester: pytest.Pytester
    ) -> None:
        pytester.makeconftest("""
import asyncio

def pytest_pyfunc_call(pyfuncitem):
    asyncio.run(pyfuncitem.obj())
    return True
""")
        tests = marked("'128 FLOP'", "'127 FLOP'", body="await asyncio.sleep(0); work()")
        result = run("import asyncio\n" + tests.replace("def test", "async def test"))
        result.assert_outcomes(passed=1, failed=1)

    @pytest.mark.parametrize(
        "hook",
        [
            "def pytest_runtest_call(item):\n    yield\n    raise ValueError('of another')",
            "def pytest_runtest_makereport(item, call):\n    report = yield\n    if call.when == "
            "'call':\n        report.outcome, report.longrepr = 'failed', 'of another'\n"
            "    return report",
        ],
        ids=["by raising", "by changing the report"],
    )
    def test_another_plugin_may_fail_the_same_test(
        self, hook: str, run: Run, pytester: pytest.Pytester
    ) -> None:
        pytester.makeconftest(f"import pytest\n\n@pytest.hookimpl(wrapper=True)\n{hook}\n")
        result = run(marked("'127 FLOP'"))
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(["*of another*", "*- FLOP budget -*", "total *+1 FLOP"])


@pytest.mark.parametrize(
    ("budget", "says"),
    [
        ("", "a budget needs a bound"),
        ("'1 MBxyz'", "got '1 MBxyz'"),
        ("8", "got 8"),
        ("forwards='1 FLOP'", "unexpected keyword argument 'forwards'"),
        ("'1 FLOP', modules='encoder'", "modules must be like"),
        ("modules={1: '1 FLOP'}", "modules must be like"),
        ("'1 FLOP', reading=['matmul']", "reading must be one of 'matmul', 'exact', 'valid'"),
    ],
)
def test_a_marker_that_is_no_budget_is_refused_at_collection(
    budget: str, says: str, run: Run
) -> None:
    result = run(marked(budget) + "\ndef test_good(): pass\n")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        [
            "*ERROR collecting test_it.py*",
            f'test_it.py::test_0: *{says}*; right is @pytest.mark.flop_budget("8.2 GFLOP"*',
        ]
    )


def test_the_marker_is_listed_and_strict(run: Run) -> None:
    run("", "--markers").stdout.fnmatch_lines(["@pytest.mark.flop_budget([*]total, forward=None*"])
    run(marked("'128 FLOP'"), "--strict-markers").assert_outcomes(passed=1)


def test_a_broken_budget_is_a_failure_in_junit_and_every_count_a_property(
    run: Run, pytester: pytest.Pytester
) -> None:
    run(marked("'127 FLOP'", "'128 FLOP'") + "\ndef test_free(): pass", "--junitxml=junit.xml")
    suite = ElementTree.parse(Path(pytester.path) / "junit.xml").getroot().find("testsuite")
    assert suite is not None
    counts = {name: suite.attrib[name] for name in ("tests", "failures", "errors")}
    assert counts == {"tests": "3", "failures": "1", "errors": "0"}
    broken, kept, free = suite.findall("testcase")
    failure = broken.find("failure")
    assert failure is not None
    assert "128 FLOP is 1 more than its budget of 127 FLOP" in failure.attrib["message"]
    assert kept.find("failure") is None
    for case in (broken, kept):
        flops = case.find("properties/property")
        assert flops is not None
        assert flops.attrib == {"name": "flops", "value": "128"}
    assert free.find("properties") is None


def test_the_last_failed_test_runs_again(run: Run) -> None:
    tests = marked("'127 FLOP'", "'128 FLOP'")
    run(tests).assert_outcomes(passed=1, failed=1)
    run(tests, "--lf").assert_outcomes(failed=1)
