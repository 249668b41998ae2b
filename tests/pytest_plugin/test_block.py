"""The fixture: what a part of a test may cost."""

from __future__ import annotations

import pytest

from tests.pytest_plugin.conftest import Run


def test_a_block_on_its_budget_passes_and_one_above_it_fails(run: Run) -> None:
    tests = """
@pytest.mark.parametrize("limit", [127, 128])
def test_it(flop_budget, limit):
    work()
    with flop_budget(f"{limit} FLOP"):
        work()
"""
    result = run(tests)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        ["*test_it[[]127[]]*", "total: 128 FLOP is 1 more*", "*- FLOP budget -*", "total *+1 FLOP"]
    )


def test_it_names_modules_from_its_model_and_gives_the_counter(run: Run) -> None:
    tests = """
def test_it(flop_budget):
    model = torch.nn.ModuleDict({"encoder": torch.nn.Linear(8, 2)})
    with flop_budget(forward="1 MMAC", modules={"encoder": "64 MAC"}, model=model) as counter:
        model["encoder"](torch.empty(4, 8))
    assert counter.report()["encoder"].total.macs == 64
"""
    run(tests).assert_outcomes(passed=1)


def test_every_block_that_breaks_its_budget_is_named_and_the_test_runs_to_its_end(run: Run) -> None:
    tests = """
def test_it(flop_budget):
    for limit in (126, 127, 128):
        with flop_budget(f"{limit} FLOP"):
            work()
    print("to its end")
"""
    result = run(tests)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*is 2 more than its budget of 126 FLOP",
            "*is 1 more than its budget of 127 FLOP",
            "to its end",
            "*- FLOP budget -*",
            "*- FLOP budget -*",
        ]
    )


def test_an_error_later_in_the_test_is_shown_with_what_was_broken(run: Run) -> None:
    tests = """
def test_it(flop_budget):
    with flop_budget("127 FLOP"):
        work()
    raise ValueError("of its own")
"""
    result = run(tests)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*ValueError: of its own", "*- FLOP budget -*", "total: 128 FLOP is 1 more*"]
    )


def test_an_error_in_the_block_is_the_only_one(run: Run) -> None:
    tests = """
def test_it(flop_budget):
    with pytest.raises(ValueError):
        with flop_budget("0 FLOP"):
            work()
            raise ValueError
"""
    run(tests).assert_outcomes(passed=1)


def test_a_block_in_a_fixture_fails_what_the_fixture_is_part_of(run: Run) -> None:
    tests = """
@pytest.fixture
def worked(flop_budget):
    with flop_budget("127 FLOP"):
        work()

def test_it(worked): pass
"""
    result = run(tests)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["total: 128 FLOP is 1 more*", "*- FLOP budget -*"])


def test_an_uncounted_op_breaks_a_budget_unless_told_otherwise(run: Run) -> None:
    tests = """
library = torch.library.Library("flopcount_block", "DEF")
library.define("mystery(Tensor x) -> Tensor")
library.impl("mystery", lambda x: x.clone(), "CPU")

@pytest.mark.parametrize("strict", [False, True])
def test_it(flop_budget, strict):
    with flop_budget("1 GFLOP", strict=strict):
        torch.ops.flopcount_block.mystery(torch.empty(4))
"""
    result = run(tests)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["flopcount_block.mystery is uncounted (1 call): give it a*"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("", "ValueError: a budget needs a bound, such as '8.2 GFLOP'"),
        ("8", "TypeError: expected a number, *, got 8"),
        ("forwards='1 FLOP'", "TypeError: *unexpected keyword argument 'forwards'*"),
        ("'1 FLOP', model=1", "TypeError: *model*int*"),
        ("modules={1: '1 FLOP'}", "TypeError: modules must be like *"),
        ("'1 FLOP', reading=['exact']", "ValueError: reading must be one of *"),
    ],
)
def test_what_is_no_budget_fails_where_it_is_asked_for(arguments: str, says: str, run: Run) -> None:
    result = run(f"def test_it(flop_budget):\n    with flop_budget({arguments}): pass")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"E * {says}"])


def test_blocks_of_a_test_add_up_to_its_count(run: Run) -> None:
    tests = """
def test_it(flop_budget):
    for _ in range(3):
        with flop_budget("1 kFLOP"):
            work()

"""
    run(tests, "--junitxml=junit.xml").assert_outcomes(passed=1)
    with open("junit.xml", encoding="utf-8") as file:
        assert '<property name="flops" value="384" />' in file.read()


def test_a_marked_test_counts_once_whatever_its_blocks(run: Run) -> None:
    tests = """
@pytest.mark.flop_budget(equal="256 FLOP")
def test_it(flop_budget):
    work()
    with flop_budget(equal="128 FLOP"):
        work()
"""
    run(tests, "--junitxml=junit.xml").assert_outcomes(passed=1)
    with open("junit.xml", encoding="utf-8") as file:
        assert '<property name="flops" value="256" />' in file.read()
