"""The comparison with other tools: its truths, its verdicts, and what it has recorded."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import Any

import pytest
from torch import nn

from benchmarks import peers
from benchmarks.figures import read
from benchmarks.peers import programs
from benchmarks.peers.adapters import Found
from benchmarks.peers.cases import LAYERS, NETWORKS, Case, weights
from benchmarks.peers.isolation import Died, Hung, apart, preload
from benchmarks.peers.jobs import Job, answer
from benchmarks.peers.survey import jobs
from benchmarks.peers.tables import WAYS
from benchmarks.peers.tools import OURS, TOOLS
from benchmarks.peers.verdicts import EXACT, KINDS, NOT_OFFERED, truths, verdict
from tests.programs import Program, Row

pytestmark = pytest.mark.filterwarnings("ignore")

# -- the truths, which were derived by hand, and flopcount


@pytest.mark.parametrize("direction", WAYS)
@pytest.mark.parametrize("name", LAYERS)
def test_flopcount_is_exact(name: str, direction: str) -> None:
    case = LAYERS[name]
    if truths(case, direction) is None:
        pytest.skip("nothing here has a gradient")
    said = answer(OURS, Job("layers", name, direction))
    assert verdict(case, direction, said) == ("exact", "")


def test_every_case_says_why() -> None:
    assert all(case.why for case in [*LAYERS.values(), *NETWORKS.values()])


# -- verdicts


CASE = Case(lambda: (nn.Identity(), ()), "", forward=1000, backward=2000, recomputed=300)
ZERO = replace(CASE, forward=0, backward=0, recomputed=0)
PUBLISHED = replace(CASE, slack=5, recomputed=0)


@pytest.mark.parametrize(
    ("case", "direction", "said", "expected"),
    [
        (CASE, "forward", {"macs": 1000.0, "mixed": False}, "exact"),
        (CASE, "forward", {"macs": 1001.0, "mixed": False}, "off × 1.001"),
        (CASE, "forward", {"macs": 1010.0, "mixed": False}, "off × 1.01"),
        (CASE, "forward", {"macs": 500.0, "mixed": False}, "off × 0.5"),
        (CASE, "forward", {"macs": 0.0, "mixed": False}, "zero"),
        (CASE, "forward", {"error": "KeyError", "message": ""}, "crash KeyError"),
        (CASE, "step", None, "not offered"),
        (CASE, "step", {"macs": 3000.0, "mixed": False}, "exact"),
        (CASE, "step", {"macs": 3300.0, "mixed": False}, "exact"),
        (CASE, "step", {"macs": 3150.0, "mixed": False}, "off × 1.05"),
        (CASE, "forward", {"macs": 1020.0, "mixed": True}, "exact*"),
        (CASE, "forward", {"macs": 1021.0, "mixed": True}, "off × 1.021"),
        (CASE, "forward", {"macs": 999.0, "mixed": True}, "off × 0.999"),
        (ZERO, "forward", {"macs": 0.0, "mixed": False}, "exact"),
        (ZERO, "forward", {"macs": 7.0, "mixed": True}, "off +7"),
        (PUBLISHED, "forward", {"macs": 1005.0, "mixed": False}, "exact"),
        (PUBLISHED, "forward", {"macs": 1006.0, "mixed": False}, "off × 1.006"),
        (PUBLISHED, "step", {"macs": 3015.0, "mixed": False}, "exact"),
    ],
)
def test_a_verdict(case: Case, direction: str, said: Any, expected: str) -> None:
    assert str(verdict(case, direction, said)) == expected


def test_there_is_nothing_to_compare_without_gradients() -> None:
    assert truths(replace(CASE, backward=None), "step") is None


U = programs.MAC
RIGHT, WRONG = programs.RIGHT, programs.WRONG


@pytest.mark.parametrize(
    ("found", "total", "rows"),
    [
        (Found(2 * U), RIGHT, NOT_OFFERED),
        (Found(3 * U), WRONG, NOT_OFFERED),
        (Found(2 * U, {"model": 2 * U, "model.block": 2 * U}), RIGHT, WRONG),
        (Found(2 * U, ROWS := {f"model{path}": U for path in (".0", ".1")}), RIGHT, WRONG),
        (Found(2 * U, ROWS | {"model": 2 * U}), RIGHT, RIGHT),
        (Found(0, ROWS | {"model": 2 * U}), WRONG, WRONG),
    ],
)
def test_a_program_is_judged(found: Found, total: str, rows: str) -> None:
    """Two layers, of which the first is recomputed: forward is 2 U."""
    first, second = Row(1, 1, 1, calls=2), Row(1, 2)
    program = Program(lambda: None, {"": Row(2, 3, 1), "0": first, "1": second}, Row(), False)
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    said = programs.forward_verdict(program, model, found)
    assert said == {"total": total, "rows": rows}


# -- a crash or a hang loses only its case


def test_an_answer_comes_from_another_process() -> None:
    preload(["benchmarks.peers.isolation"])
    assert apart(os.getppid, seconds=60) != os.getppid()
    with pytest.raises(Died):
        apart(os._exit, 3, seconds=60)
    with pytest.raises(Hung):
        apart(time.sleep, 60, seconds=0.5)
    assert apart(len, "abc", seconds=60) == 3


# -- what is recorded


@pytest.fixture(scope="module")
def figures() -> dict[str, Any]:
    return read("peers")


def test_the_record_covers_every_case_and_tool(figures: dict[str, Any]) -> None:
    assert set(figures["tools"]) | set(figures["missing"]) == set(TOOLS)
    for job in jobs(quick=False):
        row = figures[job.kind][job.name]
        verdicts = row[job.direction]["verdicts"] if job.direction in row else row
        assert set(figures["tools"]) <= set(verdicts)
        if "why" in row:
            assert {kind for kind, _ in verdicts.values()} <= set(KINDS)
    assert sum(row["of"] for row in figures["weights"].values()) == sum(
        of for _, of in weights().values()
    )


def test_flopcount_is_exact_wherever_it_was_compared(figures: dict[str, Any]) -> None:
    for kind in ("layers", "networks", "weights"):
        for name, row in figures[kind].items():
            for direction in set(WAYS) & set(row):
                assert row[direction]["verdicts"][OURS][0] in EXACT, (name, direction)
    assert all(row[OURS]["rows"] == programs.RIGHT for row in figures["programs"].values())
    assert all(target.holds for target in peers.targets(figures))


def test_the_readmes_table_has_five_rows(figures: dict[str, Any]) -> None:
    header, rule, *rows = peers.readme_table(figures).splitlines()
    assert len(rows) == 5
    assert len({line.count("|") for line in [header, rule, *rows]}) == 1
    assert header.startswith("| exact | flopcount | FlopCounterMode |")


def test_the_page_shows_a_summary_and_every_row(figures: dict[str, Any]) -> None:
    lines = [line for line in peers.section(figures).splitlines() if line.startswith("|")]
    assert len(lines) <= 40
    detail = peers.detail(figures)
    assert all(name in detail for kind in ("layers", "networks") for name in figures[kind])
