"""``python -m benchmarks``, and what a run leaves."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import __main__ as entry
from benchmarks import results
from benchmarks.results import Target, table, verdicts


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> object:
    monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
    with pytest.raises(SystemExit) as ended:
        entry.main()
    return ended.value.code


def test_help_names_each_benchmark_and_what_it_finds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--help") == 0
    printed = capsys.readouterr().out
    for name, about in entry.BENCHMARKS.items():
        assert name in printed
        assert about in printed


def test_an_unknown_benchmark_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "speed") == 2
    error = capsys.readouterr().err
    assert "speed" in error
    assert all(name in error for name in entry.BENCHMARKS)


def test_what_is_not_installed_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(name: str) -> object:
        raise ModuleNotFoundError(name="timm")

    monkeypatch.setattr(entry, "import_module", missing)
    assert run(monkeypatch, "accuracy", "--quick") == 2
    error = capsys.readouterr().err
    assert 'timm is missing: pip install -c constraints.txt -e ".[bench]"' in error


MISSED = SimpleNamespace(
    run=lambda quick: {"quick": quick},
    targets=lambda figures: [Target("speed", "≤ 1", "2", holds=False)],
    show=lambda figures: f"quick: {figures['quick']}",
)
"""A benchmark that misses its target."""


def test_a_quick_run_writes_nothing_and_fails_if_a_target_is_missed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(entry, "import_module", lambda name: MISSED)
    monkeypatch.setattr(entry, "save", lambda *figures: pytest.fail("written"))
    assert run(monkeypatch, "overhead", "--quick") == 1
    printed = capsys.readouterr().out
    assert "quick: True" in printed
    assert verdicts(MISSED.targets({})) in printed


def test_a_whole_run_writes_its_figures_which_are_printed_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(entry, "import_module", lambda name: MISSED)
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    assert run(monkeypatch, "overhead") == 1
    written = json.loads((tmp_path / "overhead.json").read_text(encoding="utf-8"))
    assert {"date", "machine", "versions", "seconds"} < set(written)
    assert written["quick"] is False
    printed = capsys.readouterr().out
    assert run(monkeypatch, "overhead", "--last") == 1
    assert capsys.readouterr().out == printed


def test_a_target_that_is_missed_is_shown_so() -> None:
    assert "| **no**" in verdicts([Target("speed", "≤ 1", "2", holds=False)])


def test_numbers_are_shown_as_they_are_given() -> None:
    assert table(["a", "b"], [["x", "1,000"], ["007", 1]]).splitlines()[2:] == [
        "| x   | 1,000 |",
        "| 007 |     1 |",
    ]


def test_an_entry_of_json_stands_on_one_line_where_it_fits() -> None:
    value = {"short": {"a": 1}, "long": {"a": "x" * 60, "b": "y" * 60}}
    lines = results.pretty(value).splitlines()
    assert json.loads("".join(lines)) == value
    assert lines[1] == ' "short": {"a": 1},'
    assert lines[2:] == [' "long": {', f'  "a": "{"x" * 60}",', f'  "b": "{"y" * 60}"', " }", "}"]


@pytest.mark.parametrize("name", entry.BENCHMARKS)
def test_what_was_recorded_keeps_its_targets(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, name, "--last") == 0, capsys.readouterr().out
