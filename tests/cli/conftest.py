from __future__ import annotations

import pytest

from flopcount import cli


def refused(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 2) -> str:
    """The one line with which a bad command line is refused."""
    assert cli.main(arguments) == code
    output = capsys.readouterr()
    assert output.out == ""
    (line,) = output.err.splitlines()
    return line
