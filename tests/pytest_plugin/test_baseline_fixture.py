"""The fixture that compares with a file beside the test."""

from __future__ import annotations

import re

import pytest

from tests.pytest_plugin.conftest import FILE, Run, names

TESTS = """
WIDTH = 2

@pytest.fixture
def model():
    return torch.nn.Sequential(torch.nn.Linear(8, WIDTH), torch.nn.ReLU())

@pytest.mark.parametrize("rows", [4, 5])
def test_step(model, rows, flop_baseline):
    with flop_baseline("forward", model=model) as counter:
        model(torch.empty(rows, 8))
    assert counter.report().total.macs == rows * 8 * WIDTH

class TestModel:
    def test_it(self, model, flop_baseline):
        with flop_baseline("forward", model=model):
            model(torch.empty(4, 8))
        with flop_baseline("twice", model=model):
            model(model[0](torch.empty(4, 8)) @ torch.empty(WIDTH, 8))
"""
WIDER = TESTS.replace("WIDTH = 2", "WIDTH = 3")
NARROWER = TESTS.replace("WIDTH = 2", "WIDTH = 1")


def test_a_missing_baseline_fails_and_says_the_command(run: Run, pytester: pytest.Pytester) -> None:
    result = run(TESTS)
    result.assert_outcomes(failed=3)
    command = "pytest --flops-update 'test_it.py::test_step[[]4[]]'"
    result.stdout.fnmatch_lines([f"there is no baseline 'forward'; `{command}` writes it"])
    assert not (pytester.path / "__flops__").exists()


def test_an_update_writes_what_the_next_run_compares_with(
    run: Run, pytester: pytest.Pytester
) -> None:
    result = run(TESTS, "--flops-update")
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["*= FLOP baselines =*", f"{FILE}: 4 written, 0 removed"])
    assert names(pytester) == {
        "TestModel::test_it": ["forward", "twice"],
        "test_step[4]": ["forward"],
        "test_step[5]": ["forward"],
    }
    run(TESTS).assert_outcomes(passed=3)
    run(TESTS, "--flops-update").stdout.fnmatch_lines(["nothing to write"])


def test_a_change_fails_with_the_ops_that_grew_most(run: Run) -> None:
    run(TESTS, "--flops-update")
    result = run(WIDER, "-k", "step and 4")
    result.assert_outcomes(failed=1, deselected=2)
    # 4·W·8 MACs, 4·W of the bias and 4·W of ReLU: 18·4·W
    result.stdout.fnmatch_lines(
        [
            "baseline 'forward': 216 FLOP is 72 more than the 144 FLOP that it was, *"
            "if that is intended: `pytest --flops-update 'test_it.py::test_step[[]4[]]'`",
            "*- FLOP baseline 'forward' -*",
            "module *phase *op *before *after *FLOP",
            "0 *forward *aten.addmm *136 *204 *+68",
            "1 *forward *aten.relu *8 *12 *+4",
            "total *144 *216 *+72",
        ]
    )


def test_a_decrease_is_a_change_but_no_increase(run: Run) -> None:
    run(TESTS, "--flops-update")
    run(NARROWER).assert_outcomes(failed=3)
    run(NARROWER, "--flops-fail-on=change").assert_outcomes(failed=3)
    run(NARROWER, "--flops-fail-on=increase").assert_outcomes(passed=3)
    run(WIDER, "--flops-fail-on=increase").assert_outcomes(failed=3)


def test_an_update_writes_only_what_changed(run: Run, pytester: pytest.Pytester) -> None:
    run(TESTS, "--flops-update")
    path = pytester.path / FILE
    older = re.sub(r'"torch": "[^"]*"', '"torch": "1.0"', path.read_text(encoding="utf-8"))
    path.write_text(older, encoding="utf-8")
    result = run(WIDER, "--flops-update", "-k", "step")
    result.stdout.fnmatch_lines([f"{FILE}: 2 written, 0 removed"])
    assert path.read_text(encoding="utf-8").count('"torch": "1.0"') == 2  # TestModel's
    run(TESTS, "-k", "TestModel").assert_outcomes(passed=1, deselected=2)
    run(WIDER, "-k", "step").assert_outcomes(passed=2, deselected=1)


def test_a_test_that_fails_writes_nothing(run: Run, pytester: pytest.Pytester) -> None:
    run(TESTS.replace("rows * 8 * WIDTH", "4 * 8 * WIDTH"), "--flops-update")
    assert [*names(pytester)] == ["TestModel::test_it", "test_step[4]"]


@pytest.mark.parametrize("name", ["1", "None"])
def test_a_name_is_a_string(name: str, run: Run) -> None:
    result = run(f"def test_it(flop_baseline):\n    with flop_baseline({name}): pass")
    result.stdout.fnmatch_lines([f"*TypeError: a baseline's name is a string*, got {name}"])


@pytest.mark.parametrize(
    "blocks",
    [
        "    with flop_baseline('step'): work()\n" * 2,
        "    with flop_baseline('step'), flop_baseline('step'): work()\n",
    ],
    ids=["one after another", "one in another"],
)
def test_two_blocks_of_a_test_have_names_of_their_own(blocks: str, run: Run) -> None:
    result = run(f"def test_it(flop_baseline):\n{blocks}", "--flops-update")
    result.stdout.fnmatch_lines(["*BaselineError: test_it.py::test_it has two baselines 'step'*"])


def test_an_unknown_cost_is_no_baseline(run: Run, pytester: pytest.Pytester) -> None:
    tests = """
library = torch.library.Library("flopcount_baseline", "DEF")
library.define("mystery(Tensor x) -> Tensor")
library.impl("mystery", lambda x: x.clone(), "CPU")

@pytest.mark.parametrize("strict", [False, True])
def test_it(flop_baseline, strict):
    with flop_baseline("step", strict=strict):
        torch.ops.flopcount_baseline.mystery(torch.empty(4))
"""
    result = run(tests, "--flops-update")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["flopcount_baseline.mystery is uncounted (1 call)*"])
    assert [*names(pytester)] == ["test_it[False]"]


def test_a_block_that_raised_may_be_tried_again(run: Run, pytester: pytest.Pytester) -> None:
    tests = """
def test_it(flop_baseline):
    for is_good in (False, True):
        try:
            with flop_baseline("step"):
                assert is_good
        except AssertionError:
            pass
"""
    run(tests, "--flops-update").assert_outcomes(passed=1)
    assert names(pytester) == {"test_it": ["step"]}


@pytest.mark.parametrize("only", ["change", "increase"])
def test_a_module_that_runs_twice_for_nothing_is_a_change(only: str, run: Run) -> None:
    tests = """
def test_it(flop_baseline):
    model = torch.nn.Identity()
    with flop_baseline("step"):
        model(torch.empty(4))
"""
    run(tests, "--flops-update")
    result = run(tests.replace("model(t", "model(model)(t"), f"--flops-fail-on={only}")
    if only == "increase":
        result.assert_outcomes(passed=1)
    else:
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(
            ["baseline 'step': it costs the same, but calls of the model: 2 instead of 1*"]
        )
