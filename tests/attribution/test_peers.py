"""The comparison with other tools of attribution."""

from __future__ import annotations

import json

import pytest

from benchmarks.attribution import TOOLS, verdict, verdict_apart
from benchmarks.figures import FOLDER
from tests.programs import PROGRAMS


@pytest.mark.parametrize("tool", TOOLS)
def test_every_tool_is_right_about_an_ordinary_step(tool: str) -> None:
    assert verdict("two_layers_and_a_loss", tool) == "right"


@pytest.mark.parametrize(
    ("program", "tool", "expected"),
    [
        # its tower has 2 U, and 1 U of the other one that never ended
        (
            "two_towers_on_inputs_that_need_no_gradient",
            "FlopCounterMode",
            "wrong rows: Composed.right 1.50×",
        ),
        ("the_gradient_by_a_leaf_input", "FlopCounterMode", "raises RuntimeError"),
        (
            "a_step_in_a_thread_that_nobody_watches",
            "ModTracker",
            "silent about what it did not see",
        ),
    ],
)
def test_what_is_not_right_is_told(program: str, tool: str, expected: str) -> None:
    assert verdict_apart(program, tool) == expected


def test_the_recorded_comparison_is_of_these_programs() -> None:
    recorded = json.loads((FOLDER / "attribution.json").read_text(encoding="utf-8"))
    assert set(recorded["programs"]) == set(PROGRAMS)
    right = recorded["right"]
    assert right["flopcount"] == recorded["of"] == len(PROGRAMS)
    readme = " ".join((FOLDER.parents[1] / "README.md").read_text(encoding="utf-8").split())
    assert (
        f"a catalogue of {len(PROGRAMS)} programs that are hard to attribute, with rows derived by "
        "hand, every row is right; torch's own counter has all rows of "
        f"{right['FlopCounterMode']} programs right, its `ModTracker` those of "
        f"{right['ModTracker']}"
    ) in readme
