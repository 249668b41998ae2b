"""Baselines: reports that are kept in files beside the tests, to be committed and compared with."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from flopcount import __version__
from flopcount.diff import Diff
from flopcount.errors import FlopcountError
from flopcount.report import Report

__all__ = [
    "DIRECTORY",
    "BaselineError",
    "Documents",
    "document",
    "file_beside",
    "increases",
    "is_gone",
    "read",
    "report_of",
    "text",
    "torch_version",
]

DIRECTORY = "__flops__"

SCHEMA = "flopcount.baselines/1"

Documents = dict[str, dict[str, dict[str, Any]]]
"""The content of a file: test -> name of the baseline -> its document."""


class BaselineError(FlopcountError):
    """A file of baselines cannot be read, or a baseline is used in a wrong way."""


def file_beside(test_file: Path) -> Path:
    """Where the baselines of the tests in ``test_file`` are."""
    return test_file.parent / DIRECTORY / f"{test_file.stem}.json"


def torch_version() -> str:
    """The installed torch, whatever device it was built for."""
    return version("torch").partition("+")[0]


def document(report: Report) -> dict[str, Any]:
    """``report`` as it is kept: what is compared, in an order that does not change by chance.

    Gradients and zeros are left out: the former are parts of rows, the latter say nothing.
    """
    whole = json.loads(report.to_json())
    for row in whole["rows"]:
        row["cost"] = {kind: count for kind, count in row["cost"].items() if count}
        row["gradients"] = {}
    whole["rows"].sort(key=lambda row: (row["module"], row["phase"], row["op"], row["dtype"]))
    return {**whole, "flopcount": __version__, "torch": torch_version()}


def report_of(document: Mapping[str, Any]) -> Report:
    """The report that ``document`` was made of, without gradients.

    Raises:
        BaselineError: it is damaged, or of another version of flopcount.
    """
    try:
        return Report.from_json(json.dumps(document))
    except ValueError as error:
        raise BaselineError(f"not a baseline: {error}") from error


def read(path: Path) -> Documents:
    """The baselines in the file ``path``; none if there is no such file.

    Raises:
        BaselineError: the file holds something else.
    """
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["schema"] != SCHEMA:
            raise ValueError(f"its schema is {content['schema']!r}, not {SCHEMA!r}")
        documents: Documents = content["tests"]
    except (KeyError, TypeError, ValueError) as error:
        raise BaselineError(
            f"{path} is no file of baselines ({type(error).__name__}: {error}); delete it, and "
            "pytest --flops-update writes it anew"
        ) from error
    return documents


def text(documents: Documents) -> str:
    """The content of a file: sorted keys, and one line for each module and each op.

    >>> print(text({"test_step": {"step": {"rows": [{"op": "aten.mm", "calls": 1}]}}}))
    {
     "schema": "flopcount.baselines/1",
     "tests": {
      "test_step": {
       "step": {
        "rows": [
         {"calls": 1, "op": "aten.mm"}
        ]
       }
      }
     }
    }
    <BLANKLINE>
    """
    return _text({"schema": SCHEMA, "tests": documents}, "") + "\n"


def _text(value: Any, indent: str) -> str:
    inner = f"{indent} "
    if value and isinstance(value, dict):
        items = (f"{inner}{json.dumps(key)}: {_text(value[key], inner)}" for key in sorted(value))
        return "{\n" + ",\n".join(items) + f"\n{indent}}}"
    if value and isinstance(value, list):
        items = (inner + json.dumps(item, sort_keys=True) for item in value)
        return "[\n" + ",\n".join(items) + f"\n{indent}]"
    return json.dumps(value)


def increases(diff: Diff) -> list[str]:
    """Which totals grew: FLOP, MAC, bytes."""
    before, after = diff.before.total, diff.after.total
    readings = {"FLOP": "flops", "MAC": "macs", "bytes": "bytes"}
    return [unit for unit, name in readings.items() if getattr(after, name) > getattr(before, name)]


def is_gone(test: str, found: Mapping[str, Iterable[str]]) -> bool:
    """Whether ``test`` is known not to exist any more.

    >>> is_gone("TestStep::test_a", {"": ["TestStep"], "TestStep": ["test_b"]})
    True
    >>> is_gone("TestStep::test_a", {"": ["TestStep"]})  # nobody looked into the class
    False

    Args:
        test: its name within its file.
        found: what was collected: names within a class of the file, ``""`` being the file itself.
    """
    names, bracket, parameters = test.partition("[")
    *classes, name = names.split("::")
    parent = ""
    for child in [*classes, name + bracket + parameters]:
        if parent not in found:
            return False
        if child not in found[parent]:
            return True
        parent = f"{parent}::{child}".lstrip(":")
    return False
