"""Output where the encoding lacks √, ÷ or ·: it is spelled out, and nothing raises."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flopcount.cli.console import spelled, spelling
from flopcount.formulas.op_table import op_rows

ROOT = Path(__file__).parents[2]
ENCODINGS = ["ascii", "cp1252", "cp932", "utf-8"]


def output(encoding: str, *arguments: str, code: int = 0) -> str:
    """What ``python ARGUMENTS`` writes to a pipe of this encoding, errors included."""
    done = subprocess.run(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": encoding},
    )
    text = done.stdout.decode(encoding)
    assert done.returncode == code, text
    return text


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_command_writes_to_any_pipe(encoding: str) -> None:
    root = "√" if encoding in ("cp932", "utf-8") else "sqrt "
    dot = "·" if encoding in ("cp1252", "utf-8") else "*"
    assert f"{root}(re" in output(encoding, "-m", "flopcount", "ops", "abs")
    assert f"m{dot}n dot products" in output(encoding, "-m", "flopcount", "ops", "mm")
    assert f"--train {dot} flopcount" in output(encoding, "-m", "flopcount", "--help")
    model = ["tests.cli.test_count:build", "--input", "8", "--train"]
    assert "bwd / fwd" in output(encoding, "-m", "flopcount", *model)
    assert "resnet√" in output("utf-8", "-m", "flopcount", "resnet√", code=2)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_program_prints_its_report_to_any_pipe(encoding: str) -> None:
    program = (
        "import torch, flopcount; layer = torch.nn.Linear(8, 2); x = torch.ones(4, 8); "
        "report = flopcount.count(layer, x); print(report); print(report.table(columns=['ratio']));"
        "print(report.diff(flopcount.count(layer, x, backward=False)))"
    )
    assert output(encoding, "-c", program) == output("utf-8", "-c", program)


def test_every_formula_has_a_spelling() -> None:
    """None is left to escapes, which say nothing to a reader."""
    assert [row.why for row in op_rows() if "\\" in spelled(row.why)] == []


def test_only_what_the_encoding_lacks_is_spelled_and_only_in_the_block() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="latin-1", errors="strict")
    with spelling(stream):
        stream.write("½·√x")
    assert raw.getvalue().decode("latin-1") == "½·sqrt x"
    assert stream.errors == "strict"
    with pytest.raises(UnicodeEncodeError):
        stream.write("√")


def test_a_stream_that_has_no_encoding_is_left_alone() -> None:
    stream = io.StringIO()
    with spelling(stream):
        stream.write("√")
    assert stream.getvalue() == "√"
