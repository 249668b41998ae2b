"""Methods of ``unittest.TestCase``."""

from __future__ import annotations

import pytest

from tests.pytest_plugin.conftest import Run, counts


class TestUnittest:
    def test_the_method_counts_without_its_set_up(self, run: Run) -> None:
        tests = """
import unittest

class TestWork(unittest.TestCase):
    def setUp(self): work()
    def tearDown(self): work()

    @pytest.mark.flop_budget("128 FLOP")
    def test_on_its_budget(self): work()

    @pytest.mark.flop_budget("127 FLOP")
    def test_above_it(self): work()

    @pytest.mark.flop_budget("0 FLOP")
    def test_raises(self): work(); self.fail("of its own")

    @pytest.mark.flop_budget("0 FLOP")
    def test_skips(self): work(); self.skipTest("later")

    @pytest.mark.flop_budget("0 FLOP")
    @unittest.expectedFailure
    def test_is_expected_to(self): work(); self.fail()
"""
        result = run(tests)
        result.assert_outcomes(passed=1, failed=2, skipped=1, xfailed=1)
        result.stdout.fnmatch_lines(["total: 128 FLOP is 1 more*", "*AssertionError: of its own*"])

    def test_a_coroutine_counts_with_its_set_up(self, run: Run) -> None:
        tests = """
import unittest

class TestWork(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self): work()

    @pytest.mark.flop_budget(equal="256 FLOP")
    async def test_it(self): work()
"""
        run(tests).assert_outcomes(passed=1)


class TestExpectedFailure:
    """``unittest.expectedFailure`` is a strict xfail."""

    TESTS = """
import unittest

class TestWork(unittest.TestCase):
    @pytest.fixture(autouse=True)
    def blocks(self, flop_budget):
        self.flop_budget = flop_budget

    @unittest.expectedFailure
    @pytest.mark.flop_budget("LIMIT FLOP")
    def test_marked(self): work()

    @unittest.expectedFailure
    def test_block(self):
        with self.flop_budget("LIMIT FLOP"): work()

    @unittest.expectedFailure
    def test_free(self): work(); self.fail()

@unittest.expectedFailure
class TestClass(unittest.TestCase):
    @pytest.mark.flop_budget("LIMIT FLOP")
    def test_marked(self): work()
"""

    def test_it_may_break_its_budget(self, run: Run, pytester: pytest.Pytester) -> None:
        result = run(self.TESTS.replace("LIMIT", "127"), "--junitxml=junit.xml")
        result.assert_outcomes(xfailed=4)
        assert counts(pytester) == ["128"] * 3  # of the free one nobody asked

    def test_it_has_to(self, run: Run) -> None:
        result = run(self.TESTS.replace("LIMIT", "128"))
        result.assert_outcomes(failed=3, xfailed=1)
        result.stdout.fnmatch_lines(["Unexpected success*"])
