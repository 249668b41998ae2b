"""Every block of the README runs, and shows what it says that it shows."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from contextlib import nullcontext
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

import flopcount.pytest_plugin.guard  # noqa: F401  (what a run inside this one imports is forgotten with it)
from flopcount import cli
from tests.conftest import IS_INSTALLED

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"```(\w+)\n(.*?)```(?:\n+```text\n(.*?)```)?", flags=re.DOTALL)
BLOCKS = BLOCK.findall(README)

SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", README, flags=re.DOTALL | re.MULTILINE))
"""Guides by title: each can be followed without the others."""

CUT = "…"
"""A line that stands for any number of lines."""


def shown(text: str) -> list[str]:
    """The lines of an output, without what no eye sees."""
    return [line.rstrip() for line in text.strip().splitlines()]


def assert_shows(output: str, printed: str) -> None:
    """What a block shows is what was printed, but for lines that are cut out."""
    lines, said = shown(output), shown(printed)
    if CUT not in lines:
        assert said == lines
        return
    parts = [list(part) for cut, part in groupby(lines, key=lambda line: line == CUT) if not cut]
    place = 0
    for part in parts:
        starts = range(place, len(said) - len(part) + 1)
        place = next((at for at in starts if said[at : at + len(part)] == part), -1) + len(part)
        assert place >= len(part), f"{part} not in {said}"
    assert lines[0] == CUT or said[: len(parts[0])] == parts[0]
    assert lines[-1] == CUT or said[-len(parts[-1]) :] == parts[-1]


def has_code(text: str) -> bool:
    return "```python" in text


@pytest.mark.parametrize("title", [title for title, text in SECTIONS.items() if has_code(text)])
def test_python_blocks_print_what_is_shown(title: str) -> None:
    namespace: dict[str, Any] = {}
    for kind, code, output in BLOCK.findall(SECTIONS[title]):
        if kind == "python":
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(code, "README.md", "exec"), namespace)
            assert_shows(output, printed.getvalue())


def test_all_python_blocks_are_in_a_section() -> None:
    found = [block for text in SECTIONS.values() for block in BLOCK.findall(text)]
    kinds = [kind for kind, _, _ in BLOCKS]
    assert [kind for kind, _, _ in found].count("python") == kinds.count("python") >= 4


@pytest.mark.parametrize(
    ("output", "is_shown"),
    [
        ("a\nb\nc", True),
        ("a\nc", False),
        ("a\n…\nc", True),
        ("…\nb\n…", True),
        ("b\n…", False),
        ("…\nb", False),
        ("a\n…\nd", False),
        ("b\n…\na\n…", False),
    ],
)
def test_only_lines_that_are_cut_out_may_be_missing(output: str, is_shown: bool) -> None:
    with nullcontext() if is_shown else pytest.raises(AssertionError):
        assert_shows(output, "a\nb\nc\n")


def test_what_it_is_stands_on_the_first_screen() -> None:
    """Below 60 lines: what it is, the two commands, a table, and how it compares."""
    first = README.partition("\n## ")[0]
    assert len(first.splitlines()) < 60
    assert first.count("```sh") == 2


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
    assert_shows(output, capsys.readouterr().out)


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
