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
    "baselines_of",
    "compare",
    "document",
    "is_gone",
    "orphans",
    "read",
    "report_of",
    "text",
    "torch_version",
    "update",
]

DIRECTORY = "__flops__"

SCHEMA = "flopcount.baselines/1"

Documents = dict[str, dict[str, dict[str, Any]]]
"""The content of a file: test -> name of the baseline -> its document."""


class BaselineError(FlopcountError):
    """A file of baselines cannot be read, or a baseline is used in a wrong way."""


def baselines_of(root: Path, nodeid: str) -> tuple[Path, str]:
    """The file that has a test's baselines, and the test's name in it.

    >>> file, test = baselines_of(Path("root"), "tests/test_step.py::TestStep::test_a")
    >>> file.as_posix(), test
    ('root/tests/__flops__/test_step.json', 'TestStep::test_a')

    Args:
        root: pytest's root directory.
        nodeid: pytest's name of the test.
    """
    name, _, test = nodeid.partition("::")
    file = root / name
    return file.parent / DIRECTORY / f"{file.stem}.json", test


def torch_version() -> str:
    """The installed torch, whatever device it was built for."""
    return version("torch").partition("+")[0]


def document(report: Report) -> dict[str, Any]:
    """``report`` as it is kept: what is compared, in an order that does not change by chance.

    What says nothing is left out: zeros, and gradients, which are parts of the rows.
    """
    whole = json.loads(report.to_json())
    del whole["unwatched"]
    for row in whole["rows"]:
        del row["gradients"], row["uncounted"]
        row["cost"] = {kind: count for kind, count in row["cost"].items() if count}
    whole["rows"].sort(key=lambda row: (row["module"], row["phase"], row["op"], row["dtype"]))
    return {**whole, "flopcount": __version__, "torch": torch_version()}


def report_of(document: Mapping[str, Any]) -> Report:
    """The report that ``document`` was made of, without gradients.

    Raises:
        BaselineError: it is damaged, or of another version of flopcount.
    """
    try:
        rows = [{**row, "gradients": {}} for row in document["rows"]]
        return Report.from_json(json.dumps({**document, "rows": rows, "unwatched": {}}))
    except (KeyError, TypeError, ValueError) as error:
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


def compare(before: Mapping[str, Any], diff: Diff, *, only_increase: bool) -> str:
    """What is wrong with the step from the baseline ``before``; empty if nothing is.

    Args:
        before: the document that ``diff`` starts from.
        diff: from the baseline to what was counted.
        only_increase: whether only more FLOPs, MACs or bytes in all are wrong.
    """
    old, new = diff.before.total, diff.after.total
    readings = {"FLOP": "flops", "MAC": "macs", "B": "bytes"}
    steps = {unit: (getattr(old, name), getattr(new, name)) for unit, name in readings.items()}
    changes = [
        f"{after:,} {unit} is {abs(after - before):,} {'more' if after > before else 'less'} "
        f"than the {before:,} {unit} that it was"
        for unit, (before, after) in steps.items()
        if after > before or (after < before and not only_increase)
    ]
    if not changes and diff and not only_increase:
        changes = [f"it costs the same in all, but {len(diff.changes)} of its ops do not"]
    if changes and before["torch"] != torch_version():
        changes.append(f"it is of torch {before['torch']}, this is {torch_version()}")
    return ", ".join(changes)


def update(
    path: Path, passed: Mapping[str, dict[str, Any]], found: Mapping[str, Iterable[str]]
) -> tuple[int, int]:
    """Write the baselines of tests that passed into the file ``path``, if they changed.

    Args:
        path: a file of baselines; it is deleted when none are left.
        passed: the baselines of each test that passed.
        found: the tests that there are, as :func:`is_gone` takes them.

    Returns:
        How many baselines were written, and how many removed.

    Raises:
        BaselineError: the file holds something else.
    """
    before = read(path)
    after: Documents = {
        test: named
        for test, named in before.items()
        if test not in passed and not is_gone(test, found)
    }
    for test, named in passed.items():
        kept = before.get(test, {})
        after[test] = {name: _newer(kept.get(name), new) for name, new in named.items()}
    after = {test: named for test, named in after.items() if named}
    old, new = _flat(before), _flat(after)
    written = sum(old.get(key) != document for key, document in new.items())
    removed = len(old.keys() - new.keys())
    if after:
        if written or removed:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text(after), encoding="utf-8")
    elif before:
        _delete(path)
    return written, removed


def orphans(folders: Iterable[Path]) -> list[Path]:
    """Delete the files in ``folders`` whose test file is gone, and say which."""
    gone = []
    for folder in sorted(folders):
        beside = {file.stem for file in folder.parent.iterdir()}
        gone += [file for file in sorted(folder.glob("*.json")) if file.stem not in beside]
    for file in gone:
        _delete(file)
    return gone


def _delete(file: Path) -> None:
    file.unlink()
    if not any(file.parent.iterdir()):
        file.parent.rmdir()


def _newer(old: dict[str, Any] | None, new: dict[str, Any]) -> dict[str, Any]:
    """``old``, unless ``new`` costs something else: a newer torch alone is no change."""
    return old if old is not None and not report_of(old).diff(report_of(new)) else new


def _flat(documents: Documents) -> dict[tuple[str, str], dict[str, Any]]:
    return {(test, name): new for test, named in documents.items() for name, new in named.items()}


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
