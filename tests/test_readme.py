"""Every block of the README and of the guide runs, and shows what it says that it shows."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
from contextlib import nullcontext
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

import flopcount.pytest_plugin.guard  # noqa: F401  (what a run inside this one imports is forgotten with it)
from flopcount import FlopcountError, cli
from flopcount.cli import torchvision_models
from flopcount.formulas import registry
from tests.conftest import IS_INSTALLED

ROOT = Path(__file__).parents[1]
FILES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = {file.relative_to(ROOT).as_posix(): file.read_text(encoding="utf-8") for file in FILES}
BLOCK = re.compile(r"```(\w+)\n(.*?)```(?:\n+```text\n(.*?)```)?", flags=re.DOTALL)
BLOCKS = [(page, *block) for page, text in PAGES.items() for block in BLOCK.findall(text)]
"""Page, kind, code, and the output that is shown below it."""

SECTIONS = {
    (page, section.partition("\n")[0]): section
    for page, text in PAGES.items()
    for section in re.split(r"^## ", text, flags=re.MULTILINE)
}
"""Sections by page and title: each can be followed without the others."""

CUT = "…"
"""A line that stands for any number of lines."""


def shown(text: str) -> list[str]:
    """The lines of an output, without what no eye sees, or what any edit moves: a line's number."""
    text = re.sub(r"\.py:\d+ *", ".py ", text)
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


@pytest.mark.parametrize(
    ("page", "title"), [place for place, text in SECTIONS.items() if "```python" in text]
)
def test_python_blocks_print_what_is_shown(
    page: str, title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a block may save a file
    section = SECTIONS[page, title]
    if "import transformers" in section:
        with contextlib.suppress(FlopcountError):
            torchvision_models.load()  # transformers imports torchvision where it is installed
        pytest.importorskip("transformers")
    namespace: dict[str, Any] = {}
    with registry.replaced():  # no other block counts by this one's formulas
        for kind, code, output in BLOCK.findall(section):
            if kind == "python":
                printed = io.StringIO()
                with contextlib.redirect_stdout(printed):
                    exec(compile(code, page, "exec"), namespace)
                assert_shows(output, printed.getvalue())


@pytest.mark.parametrize("page", PAGES)
def test_all_python_blocks_are_in_a_section(page: str) -> None:
    in_sections = [
        kind
        for (home, _), text in SECTIONS.items()
        if home == page
        for kind, _, _ in BLOCK.findall(text)
    ]
    kinds = [kind for home, kind, _, _ in BLOCKS if home == page]
    assert in_sections.count("python") == kinds.count("python") == PAGES[page].count("```python")


def test_the_readme_and_the_guide_have_code() -> None:
    assert [kind for page, kind, _, _ in BLOCKS if page == "README.md"].count("python") >= 4
    assert [kind for page, kind, _, _ in BLOCKS if page != "README.md"].count("python") >= 14


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
    """In the first 60 lines: what it is, the two commands, and a table."""
    first = "\n".join(PAGES["README.md"].splitlines()[:60])
    assert first.count("```sh") == 2
    assert "\nResNet  " in first


def command_of(block: str) -> tuple[str, list[str], str]:
    """Program, arguments and output of a block."""
    command, _, output = block.partition("\n")
    program, *arguments = shlex.split(command.removeprefix("$ "))
    return program, arguments, output


COMMANDS = [(page, code) for page, kind, code, _ in BLOCKS if kind == "console"]


def command_id(value: str) -> str:
    """A page, or the first line of a block."""
    return value.split("\n", maxsplit=1)[0]


@pytest.mark.parametrize(
    ("page", "block"),
    [(page, block) for page, block in COMMANDS if not block.startswith("$ pytest")],
    ids=command_id,
)
def test_commands_print_what_is_shown(
    page: str, block: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    program, arguments, output = command_of(block)
    assert program == "flopcount"
    if any(argument.endswith(".json.gz") for argument in arguments):
        if not os.environ.get("FLOPCOUNT_TRACES"):
            # Recordings of accelerators are too large for the repository.
            pytest.skip("FLOPCOUNT_TRACES names no folder")
        monkeypatch.chdir(os.environ["FLOPCOUNT_TRACES"])
    with contextlib.suppress(SystemExit):  # --help
        cli.main(arguments)
    assert_shows(output, capsys.readouterr().out)


@pytest.mark.parametrize(
    ("page", "block"),
    [(page, block) for page, block in COMMANDS if block.startswith("$ pytest")],
    ids=command_id,
)
def test_a_broken_budget_looks_as_is_shown(
    page: str, block: str, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What pytest says of the block of tests above, except for its header and the time it takes."""
    monkeypatch.setenv("COLUMNS", "100")
    for name in ("CI", "BUILD_NUMBER"):  # where pytest cuts no line
        monkeypatch.delenv(name, raising=False)
    before = PAGES[page].partition(block)[0]
    tests = re.findall(r"```python\n(.*?)```", before, flags=re.DOTALL)[-1]
    _, (file,), output = command_of(block)
    (pytester.path / file).write_text(tests, encoding="utf-8")
    plugin = () if IS_INSTALLED else ("-p", "flopcount.pytest_plugin")
    result = pytester.runpytest_inprocess("--no-header", *plugin, file)
    printed = [re.sub(r"in \d+\.\d+s", "in 0.02s", line).strip("= ") for line in result.outlines]
    expected = [line.strip("= ") for line in shown(output)]
    assert_shows("\n".join(expected), "\n".join(printed[1:]))


def test_set_up_commands_are_those_that_ci_runs() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    commands = [code.strip() for _, kind, code, _ in BLOCKS if kind == "sh"]
    assert len(commands) == 2
    for command in commands:
        assert f"\n{command}\n" in script


def test_every_block_is_of_a_kind_that_a_test_runs() -> None:
    assert {kind for _, kind, _, _ in BLOCKS} <= {"python", "console", "sh", "text"}


def test_every_output_belongs_to_the_block_above_it() -> None:
    """One stands alone: ``tests/pytest_plugin/test_guide.py`` has what it shows."""
    alone = [(page, code) for page, kind, code, _ in BLOCKS if kind == "text"]
    ((page, output),) = alone
    assert page == "docs/budgets.md"
    assert output.startswith("baseline 'step'")
