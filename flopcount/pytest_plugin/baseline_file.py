"""Files of baselines, one beside each file of tests that has any."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flopcount.pytest_plugin.baseline import BaselineError, damaged
from flopcount.report.file import write_whole

DIRECTORY = "__flops__"

SCHEMA = "flopcount.baselines/1"

Documents = dict[str, dict[str, dict[str, Any]]]
"""The content of a file: test -> name of the baseline -> its document."""


def file_beside(path: Path) -> Path:
    """The file of baselines for the file of tests at ``path``.

    >>> file_beside(Path("tests/test_step.py")).as_posix()
    'tests/__flops__/test_step.json'
    >>> file_beside(Path("tests/test_step.txt")).as_posix()
    'tests/__flops__/test_step.txt.json'
    """
    return path.parent / DIRECTORY / f"{path.name.removesuffix('.py')}.json"


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
        for document in by_test_and_name(documents).values():
            if not isinstance(document, dict):
                raise TypeError("a baseline is an object")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise BaselineError(f"cannot be read: {error}") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise damaged("not a file of baselines", error) from error
    return documents


def by_test_and_name(documents: Documents) -> dict[tuple[str, str], dict[str, Any]]:
    """The documents by test and name."""
    return {
        (test, name): document
        for test, baselines in documents.items()
        for name, document in baselines.items()
    }


def write(path: Path, documents: Documents) -> None:
    """Write a file of baselines, whole or not at all, in a folder that need not exist."""
    path.parent.mkdir(exist_ok=True)
    try:
        write_whole(path, format_file(documents))
    except BaseException:
        _delete_if_empty(path.parent)
        raise


def format_file(documents: Documents) -> str:
    """The text of a file: keys are sorted, and each module and each op is a line.

    >>> print(format_file({"test_step": {"step": {"rows": [{"op": "aten.mm", "calls": 1}]}}}))
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
    return _format({"schema": SCHEMA, "tests": documents}, "") + "\n"


def _format(value: Any, indent: str) -> str:
    inner = f"{indent} "
    if value and isinstance(value, dict):
        items = (f"{inner}{json.dumps(key)}: {_format(value[key], inner)}" for key in sorted(value))
        return "{\n" + ",\n".join(items) + f"\n{indent}}}"
    if value and isinstance(value, list):
        items = (inner + json.dumps(item, sort_keys=True) for item in value)
        return "[\n" + ",\n".join(items) + f"\n{indent}]"
    return json.dumps(value)


def delete(path: Path) -> None:
    """Delete a file of baselines, and its folder if that is empty then."""
    path.unlink()
    _delete_if_empty(path.parent)


def _delete_if_empty(folder: Path) -> None:
    if not any(folder.iterdir()):
        folder.rmdir()


def delete_orphans(folder: Path) -> list[Path]:
    """Delete the files of baselines in ``folder`` whose file of tests is gone; return them."""
    needed = {file_beside(file) for file in folder.parent.iterdir()}
    orphans = [
        file
        for file in sorted(folder.glob("*.json"))
        if file not in needed and _has_baselines(file)
    ]
    for file in orphans:
        delete(file)
    return orphans


def _has_baselines(file: Path) -> bool:
    try:
        return bool(read(file))
    except BaselineError:
        return False
