"""The command as a program: how it starts and ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import flopcount
from flopcount import cli


def test_python_m_flopcount_is_the_same_command() -> None:
    command = [sys.executable, "-m", "flopcount", "resnet5"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == 2
    assert done.stderr.startswith("flopcount: error: ")
    assert len(done.stderr.splitlines()) == 1


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(["--version"])
    assert exit_.value.code == 0
    assert capsys.readouterr().out == f"flopcount {flopcount.__version__}\n"


def test_a_reader_that_has_had_enough_is_no_error() -> None:
    """Below, the pipe is closed before anything is written."""
    run = subprocess.Popen(
        [sys.executable, "-m", "flopcount", "ops"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert run.stdout is not None
    assert run.stderr is not None
    run.stdout.close()
    assert run.stderr.read() == b""
    assert run.wait() == 0
