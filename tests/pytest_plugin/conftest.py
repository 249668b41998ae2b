"""Runs pytest inside pytest, and a report to hold budgets to."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable

import pytest
import torch
from torch import nn

# what a run imports is forgotten with it, but torch keeps what the first import has registered
import flopcount.counter.counter
import flopcount.pytest_plugin.guard
import flopcount.pytest_plugin.summary
import flopcount.pytest_plugin.update
from flopcount.report.report import Report
from tests.conftest import IS_INSTALLED

Run = Callable[..., pytest.RunResult]

WORK = """
import pytest
import torch

def work():
    "64 multiply-accumulates, which are 128 FLOPs, on 4·8 + 8·2 elements read and 4·2 written."
    torch.mm(torch.empty(4, 8), torch.empty(8, 2))
"""


@pytest.fixture(autouse=True)
def only_what_is_needed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave hypothesis out of the inner runs, each of which would import all of it again."""
    if "pytester" in request.fixturenames:
        request.getfixturevalue("pytester")  # it clears the variable
        monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:hypothesispytest")


@pytest.fixture
def run(pytester: pytest.Pytester) -> Run:
    """``run(tests, *arguments)``: a run of pytest, with all warnings errors, on a file of tests."""

    def run(tests: str, *arguments: str) -> pytest.RunResult:
        pytester.makepyfile(test_it=WORK + tests)
        plugin = () if IS_INSTALLED else ("-p", "flopcount.pytest_plugin")
        return pytester.runpytest_inprocess(*plugin, "-W", "error", *arguments)

    return run


FILE = "__flops__/test_it.json"
"""The baselines of the tests that ``run`` runs."""


def names(pytester: pytest.Pytester, file: str = FILE) -> dict[str, list[str]]:
    """The baselines of each test."""
    path = pytester.path / file
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"tests": {}}
    return {test: [*named] for test, named in content["tests"].items()}


def counts(pytester: pytest.Pytester) -> list[str]:
    """Every count in ``junit.xml``."""
    tree = ElementTree.parse(pytester.path / "junit.xml")
    return [entry.attrib["value"] for entry in tree.iterfind(".//property[@name='flops']")]


def ini(pytester: pytest.Pytester, setting: str) -> None:
    pytester.makeini(f"[pytest]\n{setting}\n")


COSTS = """
@pytest.mark.flop_budget("160 FLOP", "64 MAC")
def test_marked(): work()

@pytest.mark.flop_budget("100 FLOP")
def test_broken(): work()

@pytest.mark.flop_budget(equal="128 FLOP")
def test_exact(): work()

def test_dear():
    for _ in range(10): work()

@pytest.mark.parametrize("times", range(8))
def test_cheap(times):
    for _ in range(times): work()
"""


def section(result: pytest.RunResult, title: str) -> list[str]:
    """The lines below the separator with ``title``, up to the next."""
    lines = result.outlines
    start = next(n for n, line in enumerate(lines) if re.fullmatch(f"=+ {title} =+", line)) + 1
    end = next(n for n in range(start, len(lines)) if lines[n].startswith("="))
    return [line for line in lines[start:end] if line]


X = torch.ones(4, 8)


def model() -> nn.Sequential:
    """On X: Linear(8, 2) is 4·2·8 = 64 MACs and 4·2 additions of its bias, ReLU 4·2 = 8."""
    return nn.Sequential(nn.Linear(8, 2), nn.ReLU())


@pytest.fixture(scope="module")
def report() -> Report:
    """Forward 2·64 + 8 + 8 = 144 FLOPs.

    Backward: the weight's gradient 64 MACs, the bias's 2·(4 - 1) = 6 additions, ReLU's 8 selects;
    the sum of 8 values, 7 additions, is forward. The input needs no gradient.
    """
    return flopcount.count(model(), X)
