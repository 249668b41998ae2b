from __future__ import annotations

from pathlib import Path

import pytest

from flopcount.pytest_plugin.baseline import BaselineError, document_of
from flopcount.pytest_plugin.baseline_file import (
    delete_orphans,
    file_beside,
    format_file,
    read,
    write,
)
from tests.pytest_plugin.test_baseline import linear


def test_each_module_and_each_op_is_a_line_of_the_file() -> None:
    report = linear(2)
    lines = format_file({"test": {"step": document_of(report)}}).splitlines()
    assert sum('"op": ' in line for line in lines) == len(report.entries)
    assert sum('"path": ' in line for line in lines) == len(report.modules)
    keys = [line.split('"')[1] for line in lines if line.startswith("    ") and line[4] == '"']
    assert keys == sorted(keys)


@pytest.mark.parametrize(
    "content",
    ["", "<<<<<<< ours", "[]", "{}", '{"schema": "flopcount.baselines/1x", "tests": {}}'],
    ids=repr,
)
def test_a_file_of_something_else_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "test_it.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(BaselineError, match=r"not a file of baselines .* delete it"):
        read(path)


def test_a_file_whose_tests_are_gone_is_deleted(tmp_path: Path) -> None:
    tests = tmp_path / "test_it.py"
    file = file_beside(tests)
    write(file, {"test_a": {"step": document_of(linear(2))}})
    tests.touch()
    assert delete_orphans(file.parent) == []
    tests.unlink()
    assert delete_orphans(file.parent) == [file]
    assert not file.exists()


def test_no_file_has_no_baselines(tmp_path: Path) -> None:
    assert read(tmp_path / "test_it.json") == {}
