"""Runs pytest inside pytest."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable

import pytest

# what a run imports is forgotten with it, but torch keeps what the first import has registered
import flopcount.counter.counter
import flopcount.pytest_plugin.guard
import flopcount.pytest_plugin.outcome  # noqa: F401
from tests.conftest import IS_INSTALLED

Run = Callable[..., pytest.RunResult]

WORK = """
import pytest
import torch

def work():
    "64 multiply-accumulates, which are 128 FLOPs, on 4·8 + 8·2 elements read and 4·2 written."
    torch.mm(torch.empty(4, 8), torch.empty(8, 2))
"""


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
    return [each.attrib["value"] for each in tree.iterfind(".//property[@name='flops']")]
