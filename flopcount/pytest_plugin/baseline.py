"""Baselines: reports that are kept in files beside the tests, to be committed and compared with."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from flopcount import __version__
from flopcount.cost import UNITS
from flopcount.errors import FlopcountError
from flopcount.report.diff import Diff
from flopcount.report.report import Report
from flopcount.report.tree import ModuleNode

__all__ = [
    "DIRECTORY",
    "BaselineError",
    "Documents",
    "Found",
    "Updated",
    "compare",
    "document",
    "file_beside",
    "is_there",
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

Found = Mapping[str, Collection[str] | None]
"""What was collected in a file: names in each of its classes, ``""`` being the file itself.

None where something was left out, so that there may be more.
"""


class BaselineError(FlopcountError):
    """A file of baselines cannot be read, or a baseline is used in a wrong way."""


def _damaged(what: str, error: Exception) -> BaselineError:
    remedy = "delete it, and pytest --flops-update writes it anew"
    return BaselineError(f"{what} ({type(error).__name__}: {error}); {remedy}")


def file_beside(path: Path) -> Path:
    """The file that has the baselines of the tests in the file ``path``.

    >>> file_beside(Path("tests/test_step.py")).as_posix()
    'tests/__flops__/test_step.json'
    >>> file_beside(Path("tests/test_step.txt")).as_posix()
    'tests/__flops__/test_step.txt.json'
    """
    return path.parent / DIRECTORY / f"{path.name.removesuffix('.py')}.json"


def torch_version() -> str:
    """The installed torch, whatever device it was built for."""
    return version("torch").partition("+")[0]


def document(report: Report) -> dict[str, Any]:
    """``report`` as it is kept: what is compared, in an order that does not change by chance.

    What says nothing is left out: zeros, the names of classes, and gradients, which are parts of
    the rows.
    """
    whole = json.loads(report.to_json())
    del whole["unwatched"]
    for module in whole["modules"]:
        del module["type"]
    for row in whole["rows"]:
        del row["gradients"], row["uncounted"]
        row["cost"] = {kind: count for kind, count in row["cost"].items() if count}
    whole["rows"].sort(key=lambda row: (row["module"], row["phase"], row["op"], row["dtype"]))
    return {**whole, "flopcount": __version__, "torch": torch_version()}


def report_of(document: Mapping[str, Any]) -> Report:
    """The report that ``document`` was made of, without gradients and names of classes.

    Raises:
        BaselineError: it is damaged, or of another version of flopcount.
    """
    try:
        if not isinstance(document["torch"], str):
            raise TypeError(f"torch is no version: {document['torch']!r}")
        modules = [{**module, "type": ""} for module in document["modules"]]
        rows = [{**row, "gradients": {}} for row in document["rows"]]
        changed = {"modules": modules, "rows": rows, "unwatched": {}}
        return Report.from_json(json.dumps({**document, **changed}))
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged("not a baseline", error) from error


def read(path: Path) -> Documents:
    """The baselines in the file ``path``; none if there is no such file.

    Raises:
        BaselineError: the file holds something else, or cannot be read.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["schema"] != SCHEMA:
            raise ValueError(f"its schema is {content['schema']!r}, not {SCHEMA!r}")
        documents: Documents = content["tests"]
        if not all(isinstance(each, dict) for each in _flat(documents).values()):
            raise TypeError("a baseline is an object")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise BaselineError(f"cannot be read: {error}") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _damaged("not a file of baselines", error) from error
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
    steps = {unit: (getattr(old, name), getattr(new, name)) for unit, name in UNITS.items()}
    changes = [
        f"{after:,} {unit} is {abs(after - before):,} {'more' if after > before else 'less'} "
        f"than the {before:,} {unit} that it was"
        for unit, (before, after) in steps.items()
        if after > before or (after < before and not only_increase)
    ]
    if not changes and not only_increase:
        if diff:
            changes = [f"it costs the same in all, but {len(diff.changes)} of its ops do not"]
        elif others := _uncosted(diff.before, diff.after):
            more = f" (and {len(others) - 1} more like it)" if others[1:] else ""
            changes = [f"it costs the same, but {others[0]}{more}"]
    if changes and before["torch"] != torch_version():
        changes.append(f"it is of torch {before['torch']}, this is {torch_version()}")
    return ", ".join(changes)


def _uncosted(before: ModuleNode, after: ModuleNode) -> list[str]:
    """What changed though it costs nothing: how often ops and modules ran, and parameters."""
    old, new = _counts(before), _counts(after)
    return [
        f"{what}: {new.get(what, 0):,} instead of {old.get(what, 0):,}"
        for what in dict.fromkeys([*new, *old])
        if new.get(what, 0) != old.get(what, 0)
    ]


def _counts(root: ModuleNode) -> dict[str, int]:
    nodes = [(node, node.path or "the model") for node in root.walk()]
    counts: dict[str, int] = {}
    for node, path in nodes:
        counts[f"calls of {path}"] = node.calls
        counts[f"parameters of {path}"] = node.params
    for node, path in nodes:
        for row in node.rows:
            what = f"calls of {row.op} ({row.dtype}, {row.phase} of {path})"
            counts[what] = counts.get(what, 0) + row.calls
    return counts


@dataclass(frozen=True)
class Updated:
    """What an update did to a file.

    Attributes:
        num_written: baselines that are new or changed.
        num_removed: those of tests that are no more, or under a former name.
        kept: those that this run did not come to, though their test's function is there.
        damaged: those that cannot be compared with, and were left alone.
    """

    num_written: int
    num_removed: int
    kept: tuple[str, ...] = ()
    damaged: tuple[str, ...] = ()


def update(path: Path, passed: Documents, found: Found) -> Updated:
    """Write the baselines of tests that passed into the file ``path``, if they changed.

    A baseline goes with its test's function, and when its test has one of a new name instead. A
    test that did not come to its block, or whose parameters are not there, may do so elsewhere.

    Args:
        path: a file of baselines; it is deleted when none are left.
        passed: the baselines of each test that passed.
        found: the tests that there are.

    Raises:
        BaselineError: the file holds something else.
        OSError: it cannot be written.
    """
    before = read(path)
    after: Documents = {test: {} for test in passed}
    kept, damaged = [], []
    for (test, name), old in _flat(before).items():
        fresh = passed.get(test, {})
        if test not in passed:
            if is_there(_function(test), {at: _functions(names) for at, names in found.items()}):
                after.setdefault(test, {})[name] = old
                if not is_there(test, found):
                    kept.append(f"{test} {name!r}")
        elif name in fresh:
            try:
                is_changed = _is_changed(report_of(old), report_of(fresh[name]))
            except BaselineError as error:
                damaged.append(f"{test} {name!r}: {error}")
                is_changed = False
            after[test][name] = fresh[name] if is_changed else old
        elif fresh.keys() <= before[test].keys():
            after[test][name] = old
            kept.append(f"{test} {name!r}")
    for test, fresh in passed.items():
        after[test] = {**fresh, **after[test]}
    after = {test: named for test, named in after.items() if named}
    flat_before, flat_after = _flat(before), _flat(after)
    written = sum(flat_before.get(key) != document for key, document in flat_after.items())
    removed = len(flat_before.keys() - flat_after.keys())
    if after:
        if written or removed:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text(after), encoding="utf-8")
    elif before:
        _delete(path)
    return Updated(written, removed, tuple(kept), tuple(damaged))


def _is_changed(old: Report, new: Report) -> bool:
    """Whether one costs something else than the other; a newer torch alone is no change."""
    return bool(old.diff(new)) or bool(_uncosted(old.root, new.root))


def orphans(folder: Path) -> list[Path]:
    """Delete the files of baselines in ``folder`` whose test file is gone, and say which."""
    there = {file_beside(file) for file in folder.parent.iterdir()}
    gone = [file for file in sorted(folder.glob("*.json")) if file not in there and _is_ours(file)]
    for file in gone:
        _delete(file)
    return gone


def _is_ours(file: Path) -> bool:
    try:
        return bool(read(file))
    except BaselineError:
        return False


def _delete(file: Path) -> None:
    file.unlink()
    if not any(file.parent.iterdir()):
        file.parent.rmdir()


def _flat(documents: Documents) -> dict[tuple[str, str], dict[str, Any]]:
    return {(test, name): new for test, named in documents.items() for name, new in named.items()}


def is_there(test: str, found: Found) -> bool:
    """Whether ``test`` is among what was collected, or may be: nobody looked.

    >>> is_there("TestStep::test_a", {"": ["TestStep"], "TestStep": ["test_b"]})
    False
    >>> is_there("TestStep::test_a", {"": ["TestStep"]})  # nobody looked into the class
    True

    Args:
        test: its name within its file.
        found: what was collected.
    """
    names, bracket, parameters = test.partition("[")
    *classes, name = names.split("::")
    parent = ""
    for child in [*classes, name + bracket + parameters]:
        siblings = found.get(parent)
        if siblings is None:
            return True
        if child not in siblings:
            return False
        parent = f"{parent}::{child}".lstrip(":")
    return True


def _function(test: str) -> str:
    """The name of ``test`` without its parameters."""
    return test.partition("[")[0]


def _functions(names: Collection[str] | None) -> Collection[str] | None:
    return None if names is None else {_function(name) for name in names}
