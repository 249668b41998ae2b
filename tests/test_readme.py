"""Every block of the README runs, and shows what it says that it shows."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

import flopcount.guard  # noqa: F401  (what a run inside this one imports is forgotten with it)
from flopcount import cli
from tests.conftest import IS_INSTALLED

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```(?:\n+```text\n(.*?)```)?", README, flags=re.DOTALL)


def shown(text: str) -> list[str]:
    """The lines of an output, without what no eye sees."""
    return [line.rstrip() for line in text.strip().splitlines()]


def test_python_blocks_print_what_is_shown() -> None:
    namespace: dict[str, Any] = {}
    blocks = [(code, output) for kind, code, output in BLOCKS if kind == "python"]
    assert len(blocks) >= 4
    for code, output in blocks:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, "README.md", "exec"), namespace)
        assert shown(printed.getvalue()) == shown(output), code


def command_of(block: str) -> tuple[str, list[str], str]:
    """Program, arguments and output of a block."""
    command, _, output = block.partition("\n")
    program, *arguments = shlex.split(command.removeprefix("$ "))
    return program, arguments, output


COMMANDS = [code for kind, code, _ in BLOCKS if kind == "console"]


@pytest.mark.parametrize(
    "block",
    [block for block in COMMANDS if not block.startswith("$ pytest")],
    ids=lambda block: block.split("\n")[0],
)
def test_commands_print_what_is_shown(
    block: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    program, arguments, output = command_of(block)
    assert program == "flopcount"
    with contextlib.suppress(SystemExit):  # --help
        cli.main(arguments)
    assert shown(capsys.readouterr().out) == shown(output)


def test_a_broken_budget_looks_as_is_shown(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What pytest says of the block of tests above, but for its header and the time it takes."""
    monkeypatch.setenv("COLUMNS", "100")
    for name in ("CI", "BUILD_NUMBER"):  # where pytest cuts no line
        monkeypatch.delenv(name, raising=False)
    (block,) = (block for block in COMMANDS if block.startswith("$ pytest"))
    before = README.partition(block)[0]
    tests = re.findall(r"```python\n(.*?)```", before, flags=re.DOTALL)[-1]
    _, (file,), output = command_of(block)
    (pytester.path / file).write_text(tests, encoding="utf-8")
    plugin = () if IS_INSTALLED else ("-p", "flopcount.pytest_plugin")
    result = pytester.runpytest_inprocess("--no-header", *plugin, file)
    said = [re.sub(r"in \d+\.\d+s", "in 0.02s", line).strip("= ") for line in result.outlines]
    assert said[1:] == [line.strip("= ") for line in shown(output)]


def test_set_up_commands_are_those_that_ci_runs() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    commands = [code.strip() for kind, code, _ in BLOCKS if kind == "sh"]
    assert len(commands) == 2
    for command in commands:
        assert f"\n{command}\n" in script


def test_every_block_is_of_a_kind_that_a_test_runs() -> None:
    assert {kind for kind, _, _ in BLOCKS} <= {"python", "console", "sh", "text"}
