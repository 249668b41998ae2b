"""``flopcount ops``: how each op is decided."""

from __future__ import annotations

import pytest

from flopcount import cli
from tests.cli.conftest import refused


def test_one_op_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("mm", "aten.mm", "aten::mm"):
        assert cli.main(["ops", name]) == 0
        output = capsys.readouterr().out
        assert [line.split()[0] for line in output.splitlines()[2:3]] == ["aten.mm"]
        assert "m·n dot products of length k" in output
        assert "aten.addmm" not in output


def test_its_relatives_come_after_it(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("gelu", "GELU", "gelu.default"):
        assert cli.main(["ops", name]) == 0
        names = [line.split()[0] for line in capsys.readouterr().out.splitlines()[2:-2]]
        assert names[0] == "aten.gelu"
        assert "aten.gelu_backward" in names


def test_a_part_of_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["ops", "max_pool"]) == 0
    output = capsys.readouterr().out
    assert "aten.max_pool2d_with_indices_backward" in output
    assert "aten.mm" not in output


@pytest.mark.parametrize(
    ("op", "decision"),
    [
        ("aten.t", "view"),
        ("aten.clone", "free"),
        ("aten.matmul", "composite"),
        ("aten.relu", "formula"),
        ("aten._foobar", "uncounted"),
    ],
)
def test_decisions(op: str, decision: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["ops", op]) == 0
    assert capsys.readouterr().out.splitlines()[2].split()[:2] == [op, decision]


def test_only_what_is_uncounted(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["ops", "--uncounted"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[1] for line in lines[2:-2]} == {"uncounted"}
    assert cli.main(["ops", "aten.mm", "--uncounted"]) == 0
    assert capsys.readouterr().out == "every op with aten.mm in its name is decided\n"


def test_an_unknown_name_is_refused_with_near_ones(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert "no op is named 'aten.mmm'; did you mean 'aten.mm'" in refused(capsys, "ops", "aten.mmm")
