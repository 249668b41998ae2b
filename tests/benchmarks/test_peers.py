"""The comparison with other tools: its truths, its verdicts, and what it has recorded."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import Any

import pytest
from torch import nn

from benchmarks import peers
from benchmarks.peers import programs
from benchmarks.peers.cases import LAYERS, NETWORKS, Case, weights
from benchmarks.peers.programs import RIGHT, SILENT, WATCHERS, WRONG, parts
from benchmarks.peers.questions import Question, judge, judge_apart, questions
from benchmarks.peers.tools import OURS, TOOLS, Answer
from benchmarks.peers.verdicts import EXACT, KINDS, NOT_OFFERED, kind_of, truths, verdict
from benchmarks.processes import Died, Hung, in_a_fork, in_a_new_process
from benchmarks.results import Figures, load
from tests.programs import Program, Row

pytestmark = pytest.mark.filterwarnings("ignore")

# -- the truths, which were derived by hand, and flopcount


@pytest.mark.parametrize("direction", ["forward", "step"])
@pytest.mark.parametrize("name", LAYERS)
def test_flopcount_is_exact(name: str, direction: str) -> None:
    case = LAYERS[name]
    if truths(case, direction) is None:
        pytest.skip("nothing here has a gradient")
    assert judge(OURS, Question("layers", name, direction)) == "exact"


def test_every_case_says_why() -> None:
    assert all(case.why for case in [*LAYERS.values(), *NETWORKS.values()])


# -- verdicts


CASE = Case(lambda: (nn.Identity(), ()), "", forward=1000, backward=2000, recomputed=300)
ZERO = replace(CASE, forward=0, backward=0, recomputed=0)
PUBLISHED = replace(CASE, slack=5, recomputed=0)


@pytest.mark.parametrize(
    ("case", "direction", "found", "expected"),
    [
        (CASE, "forward", Answer(1000.0), "exact"),
        (CASE, "forward", Answer(1001.0), "off × 1.001"),
        (CASE, "forward", Answer(1010.0), "off × 1.01"),
        (CASE, "forward", Answer(500.0), "off × 0.5"),
        (CASE, "forward", Answer(0.0), "zero"),
        (CASE, "step", Answer(3000.0), "exact"),
        (CASE, "step", Answer(3300.0), "exact"),
        (CASE, "step", Answer(3150.0), "off × 1.05"),
        (CASE, "forward", Answer(1020.0, mixed=True), "exact*"),
        (CASE, "forward", Answer(1021.0, mixed=True), "off × 1.021"),
        (CASE, "forward", Answer(999.0, mixed=True), "off × 0.999"),
        (ZERO, "forward", Answer(0.0), "exact"),
        (ZERO, "forward", Answer(7.0, mixed=True), "off +7"),
        (PUBLISHED, "forward", Answer(1005.0), "exact"),
        (PUBLISHED, "forward", Answer(1006.0), "off × 1.006"),
        (PUBLISHED, "step", Answer(3015.0), "exact"),
    ],
)
def test_a_verdict(case: Case, direction: str, found: Answer, expected: str) -> None:
    assert verdict(case, direction, found) == expected
    assert kind_of(expected) in KINDS


def test_there_is_nothing_to_compare_without_gradients() -> None:
    assert truths(replace(CASE, backward=None), "step") is None


def test_a_tool_that_raises_crashes_and_one_that_does_not_count_steps_does_not_offer_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(model: nn.Module, args: tuple[Any, ...]) -> Answer:
        raise KeyError

    monkeypatch.setitem(TOOLS, "failing", replace(TOOLS[OURS], forward=fail, step=None))
    assert judge("failing", Question("layers", "linear")) == "crash KeyError"
    assert judge("failing", Question("layers", "linear", "step")) == NOT_OFFERED


# -- programs


@pytest.mark.parametrize("tool", WATCHERS)
def test_every_tool_is_right_about_an_ordinary_step(tool: str) -> None:
    assert programs.verdict("two_layers_and_a_loss", tool) == RIGHT


@pytest.mark.parametrize(
    ("program", "tool", "expected"),
    [
        # its tower has 2 U, and 1 U of the other one that never ended
        (
            "two_towers_on_inputs_that_need_no_gradient",
            "FlopCounterMode",
            "right / wrong rows: Composed.right 1.50×",
        ),
        ("the_gradient_by_a_leaf_input", "FlopCounterMode", "raises RuntimeError"),
        ("a_step_in_a_thread_that_nobody_watches", "ModTracker", SILENT),
        ("a_step_in_a_thread_that_nobody_watches", "torch.profiler", f"{SILENT} / not offered"),
        ("a_step_in_a_thread_that_nobody_watches", OURS, RIGHT),
        ("a_step_in_a_thread_that_nobody_watches", "fvcore", NOT_OFFERED),
    ],
)
def test_what_is_not_right_is_told(program: str, tool: str, expected: str) -> None:
    assert in_a_new_process(programs.verdict, program, tool) == expected


@pytest.mark.parametrize(
    ("verdict", "total", "rows"),
    [
        ("right", "right", "right"),
        ("right / not offered", "right", "not offered"),
        ("wrong / wrong rows: a 2.00×, b 3.00×", "wrong", "wrong rows: a 2.00×, b 3.00×"),
        ("raises KeyError", "raises KeyError", "raises KeyError"),
    ],
)
def test_a_verdict_on_a_program_has_two_parts(verdict: str, total: str, rows: str) -> None:
    assert parts(verdict) == (total, rows)


U = programs.MAC


@pytest.mark.parametrize(
    ("found", "total", "rows"),
    [
        (Answer(2 * U), RIGHT, NOT_OFFERED),
        (Answer(3 * U), WRONG, NOT_OFFERED),
        (Answer(2 * U, {"model": 2 * U, "model.block": 2 * U}), RIGHT, WRONG),
        (Answer(2 * U, ROWS := {f"model{path}": U for path in (".0", ".1")}), RIGHT, WRONG),
        (Answer(2 * U, ROWS | {"model": 2 * U}), RIGHT, RIGHT),
        (Answer(0, ROWS | {"model": 2 * U}), WRONG, WRONG),
    ],
)
def test_a_program_is_judged(found: Answer, total: str, rows: str) -> None:
    """Two layers, of which the first is recomputed: forward is 2 U."""
    first, second = Row(1, 1, 1, calls=2), Row(1, 2)
    program = Program(lambda: None, {"": Row(2, 3, 1), "0": first, "1": second}, Row(), False, {})
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    assert programs.forward_verdict(program, model, found) == (total, rows)


# -- a crash or a hang loses only its case


def test_an_answer_comes_from_another_process() -> None:
    assert in_a_fork(os.getppid, seconds=60) == os.getpid()
    assert in_a_new_process(os.getpid) != os.getpid()
    with pytest.raises(Died):
        in_a_fork(os._exit, 3, seconds=60)
    with pytest.raises(Hung):
        in_a_fork(time.sleep, 60, seconds=0.5)
    assert in_a_fork(len, "abc", seconds=60) == 3


def test_a_tool_that_dies_has_crashed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TOOLS, "dying", replace(TOOLS[OURS], forward=lambda *_: os._exit(3)))
    assert judge_apart("dying", Question("layers", "linear")) == "crash Died"


# -- how many are right


def test_counts_are_of_the_cases_that_a_tool_offers() -> None:
    figures = {
        "tools": {OURS: "1", "other": "2", "raising": "3"},
        "missing": ["absent"],
        "alike": {"b": 2},
        "verdicts": {
            "layers, forward": {"a": ["exact", "exact*", "crash KeyError"]},
            "layers, forward + backward": {"a": ["exact", NOT_OFFERED, "zero"]},
            "weights, forward": {"b": ["exact", "off × 2", "exact"], "c": ["exact"] * 3},
            "programs": {"p": ["right", "right / not offered", "raises KeyError"]},
        },
        "times": {},
    }
    assert peers.columns(figures) == {
        "layers, forward": {OURS: (1, 1), "other": (1, 1), "raising": (0, 1)},
        "layers, forward + backward": {OURS: (1, 1), "raising": (0, 1)},
        "weights, forward": {OURS: (3, 3), "other": (1, 3), "raising": (3, 3)},
        "programs, total": {OURS: (1, 1), "other": (1, 1)},
        "programs, every module": {OURS: (1, 1)},
    }
    assert all(target.holds for target in peers.targets(figures))
    assert "not compared: absent" in peers.show(figures)


# -- what is recorded


@pytest.fixture(scope="module")
def figures() -> Figures:
    return load("peers")


def test_the_record_covers_every_case_and_tool(figures: Figures) -> None:
    assert {*figures["tools"], *figures["missing"]} == set(TOOLS)
    asked = [question for question in questions(quick=False) if question.kind != "programs"]
    for question in asked:
        verdicts = figures["verdicts"][peers.heading(question)][question.name]
        assert len(verdicts) == len(figures["tools"])
        assert {kind_of(verdict) for verdict in verdicts} <= set(KINDS)
    assert figures["alike"] == {name: of for name, (_, of) in weights().items() if of > 1}


def test_flopcount_is_exact_wherever_it_was_compared(figures: Figures) -> None:
    ours = list(figures["tools"]).index(OURS)
    for title, cases in figures["verdicts"].items():
        for name, verdicts in cases.items():
            assert verdicts[ours] in (*EXACT, RIGHT), (title, name)
    assert all(target.holds for target in peers.targets(figures))
