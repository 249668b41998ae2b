from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import flopcount
from flopcount.pytest_plugin import baseline
from flopcount.pytest_plugin.baseline import (
    BaselineError,
    Updated,
    compare,
    document,
    report_of,
    text,
)


def linear(width: int, *, rows: int = 4) -> flopcount.Report:
    """rows·width·8 MACs, and rows·width additions of the bias."""
    return flopcount.count(nn.Linear(8, width), torch.ones(rows, 8), backward=False)


def test_a_document_gives_back_all_that_a_diff_compares() -> None:
    report = flopcount.count(nn.Sequential(nn.Linear(8, 2), nn.ReLU()), torch.ones(4, 8))
    again = report_of(document(report))
    assert not report.diff(again)
    assert again.by_module() == report.by_module()
    assert again.phases == report.phases


def test_a_document_has_one_order_whatever_ran_first() -> None:
    first, second = nn.Linear(8, 2), nn.Linear(8, 2)

    def rows(one: nn.Module, other: nn.Module) -> list[str]:
        with flopcount.FlopCounter(nn.ModuleList([first, second])) as counter:
            one(torch.ones(4, 8)), other(torch.ones(4, 8))
        return document(counter.report())["rows"]

    assert rows(first, second) == rows(second, first)


def test_each_module_and_each_op_is_a_line_of_the_file() -> None:
    report = linear(2)
    lines = text({"test": {"step": document(report)}}).splitlines()
    assert sum('"op": ' in line for line in lines) == len(report.entries)
    assert sum('"path": ' in line for line in lines) == len(report.modules)
    keys = [line.split('"')[1] for line in lines if line.startswith("    ") and line[4] == '"']
    assert keys == sorted(keys)


class TestCompare:
    """8 MACs and 1 addition an output: 2·4·2·8 + 4·2 = 136 FLOPs, 204 with three outputs."""

    def said(self, old: flopcount.Report, new: flopcount.Report, **changes: Any) -> list[str]:
        before = {**document(old), **changes}
        diff = report_of(before).diff(new)
        return [compare(before, diff, only_increase=only) for only in (False, True)]

    def test_no_change_is_right(self) -> None:
        assert self.said(linear(2), linear(2)) == ["", ""]

    def test_an_increase_is_wrong(self) -> None:
        change, increase = self.said(linear(2), linear(3))
        assert "204 FLOP is 68 more than the 136 FLOP that it was" in change
        assert "96 MAC is 32 more than the 64 MAC that it was" in change
        assert change == increase

    def test_a_decrease_is_a_change_and_no_increase(self) -> None:
        change, increase = self.said(linear(3), linear(2))
        assert "136 FLOP is 68 less than the 204 FLOP that it was" in change
        assert increase == ""

    def test_more_bytes_are_an_increase(self) -> None:
        one, other = (
            flopcount.count(torch.relu, x, backward=False)
            for x in (torch.ones(1).expand(6), torch.ones(6))
        )
        # four bytes are read of an expanded one, and 24 of six
        assert self.said(one, other) == ["48 B is 20 more than the 28 B that it was"] * 2

    def test_work_that_moved_to_another_place_is_a_change(self) -> None:
        net = nn.Sequential(nn.ReLU(), nn.ReLU())
        with flopcount.FlopCounter(net) as one:
            net[0](torch.ones(4))
        with flopcount.FlopCounter(net) as other:
            net[1](torch.ones(4))
        change, increase = self.said(one.report(), other.report())
        assert change == "it costs the same in all, but 2 of its ops do not"
        assert increase == ""

    def test_calls_and_parameters_that_cost_nothing_are_a_change(self) -> None:
        def embedded(words: int) -> flopcount.Report:
            return flopcount.count(
                nn.Embedding(words, 8), torch.zeros(1, dtype=int), backward=False
            )

        change, increase = self.said(embedded(10), embedded(11))
        assert change == "it costs the same, but parameters of the model: 88 instead of 80"
        assert increase == ""
        net, x = nn.Identity(), torch.ones(4)
        one = flopcount.count(net, x, backward=False)
        with flopcount.FlopCounter(net) as counter:
            net(net(x))
        change, increase = self.said(one, counter.report())
        assert change == "it costs the same, but calls of the model: 2 instead of 1"
        assert increase == ""

    def test_another_torch_is_named_as_what_may_have_changed_it(self) -> None:
        change, _ = self.said(linear(2), linear(3), torch="1.0")
        assert f"it is of torch 1.0, this is {baseline.torch_version()}" in change
        assert self.said(linear(2), linear(2), torch="1.0") == ["", ""]


class TestUpdate:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        return tmp_path / "__flops__" / "test_it.json"

    def test_what_is_new_is_written(self, file: Path) -> None:
        passed = {"test_a": {"step": document(linear(2))}}
        assert baseline.update(file, passed, {}) == Updated(1, 0)
        assert baseline.read(file) == {"test_a": {"step": document(linear(2))}}

    def test_what_is_changed_is_written_and_the_rest_stays(self, file: Path) -> None:
        old = {**document(linear(2)), "torch": "1.0"}
        file.parent.mkdir()
        file.write_text(text({"test_a": {"one": old, "two": old}}), encoding="utf-8")
        new = {"one": document(linear(2)), "two": document(linear(3))}
        assert baseline.update(file, {"test_a": new}, {}) == Updated(1, 0)
        assert baseline.read(file) == {"test_a": {"one": old, "two": document(linear(3))}}

    def test_nothing_to_write_leaves_the_file_alone(self, file: Path) -> None:
        passed = {"test_a": {"step": document(linear(2))}}
        baseline.update(file, passed, {})
        before = file.stat().st_mtime_ns
        assert baseline.update(file, passed, {}) == Updated(0, 0)
        assert file.stat().st_mtime_ns == before

    def test_what_no_test_has_any_more_is_removed(self, file: Path) -> None:
        step = {"step": document(linear(2))}
        baseline.update(file, {"test_a": step, "test_b": step, "test_c": step}, {})
        # test_b was deleted, test_c was not selected, test_a has another name for its baseline
        passed, found = {"test_a": {"leap": step["step"]}}, {"": ["test_a", "test_c"]}
        assert baseline.update(file, passed, found) == Updated(1, 2)
        assert {test: [*named] for test, named in baseline.read(file).items()} == {
            "test_a": ["leap"],
            "test_c": ["step"],
        }

    def test_a_file_without_baselines_is_deleted(self, file: Path) -> None:
        baseline.update(file, {"test_a": {"step": document(linear(2))}}, {})
        assert baseline.update(file, {}, {"": []}) == Updated(0, 1)
        assert not file.parent.exists()

    def test_what_a_test_did_not_come_to_is_kept(self, file: Path) -> None:
        step = {"step": document(linear(2))}
        baseline.update(file, {"test_a": step, "test_b[1]": step}, {})
        before = file.read_text(encoding="utf-8")
        updated = baseline.update(file, {"test_a": {}}, {"": ["test_a", "test_b[2]"]})
        assert updated == Updated(0, 0, kept=("test_a 'step'", "test_b[1] 'step'"))
        assert file.read_text(encoding="utf-8") == before

    def test_tests_without_baselines_make_no_file(self, file: Path) -> None:
        assert baseline.update(file, {"test_a": {}}, {"": ["test_a"]}) == Updated(0, 0)
        assert not file.parent.exists()

    def test_a_file_whose_tests_are_gone_is_deleted(self, file: Path) -> None:
        baseline.update(file, {"test_a": {"step": document(linear(2))}}, {})
        (file.parent.parent / "test_it.py").touch()
        assert baseline.orphans(file.parent) == []
        (file.parent.parent / "test_it.py").unlink()
        assert baseline.orphans(file.parent) == [file]
        assert not file.exists()


@pytest.mark.parametrize(
    ("test", "found", "is_there"),
    [
        ("test_a", {}, True),
        ("test_a", {"": None}, True),
        ("test_a", {"": ["test_a"]}, True),
        ("test_a", {"": ["test_b"]}, False),
        ("test_a[1]", {"": ["test_a[2]"]}, False),
        ("test_a[x::y]", {"": ["test_a[x::y]"]}, True),
        ("TestA::test_a", {"": []}, False),
        ("TestA::test_a", {"": ["TestA"]}, True),
        ("TestA::test_a", {"": ["TestA"], "TestA": ["test_a"]}, True),
        ("TestA::test_a", {"": ["TestA"], "TestA": []}, False),
        ("TestA::TestB::test_a", {"": ["TestA"], "TestA": ["test_a"]}, False),
        ("TestA::TestB::test_a", {"TestA::TestB": []}, True),
    ],
    ids=str,
)
def test_a_test_is_there_unless_its_place_was_searched_in_vain(
    test: str, found: dict[str, list[str] | None], is_there: bool
) -> None:
    assert baseline.is_there(test, found) is is_there


@pytest.mark.parametrize(
    "content",
    ["", "<<<<<<< ours", "[]", "{}", '{"schema": "flopcount.baselines/1x", "tests": {}}'],
    ids=repr,
)
def test_a_file_of_something_else_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "test_it.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(BaselineError, match=r"not a file of baselines .* delete it"):
        baseline.read(path)


@pytest.mark.parametrize(
    "damage",
    [{"rows": 1}, {"rows": [{}]}, {"modules": [1]}, {"torch": None}, {"schema": "x"}],
    ids=str,
)
def test_a_damaged_baseline_is_refused(damage: dict[str, Any]) -> None:
    with pytest.raises(BaselineError, match="not a baseline"):
        report_of({**document(linear(2)), **damage})


def test_no_file_has_no_baselines(tmp_path: Path) -> None:
    assert baseline.read(tmp_path / "test_it.json") == {}
