"""The entry point, and the page that is made from recorded figures."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks import __main__ as entry
from benchmarks import page
from benchmarks.figures import FOLDER, Target, names, read
from benchmarks.markdown import table
from benchmarks.peers import readme_table

FIGURES = {name: read(name) for name in page.BENCHMARKS}


def test_every_benchmark_has_figures() -> None:
    assert names() == set(page.BENCHMARKS)


def test_the_page_is_that_of_the_recorded_figures() -> None:
    """Made again by ``python -m benchmarks --page``."""
    assert Path(page.HOME, "README.md").read_text(encoding="utf-8") == page.page(FIGURES)


@pytest.mark.parametrize("name", page.BENCHMARKS)
def test_its_other_pages_and_pictures_are_there(name: str) -> None:
    module = page.benchmark(name)
    assert Path(FOLDER, f"{name}.svg").exists() == hasattr(module, "plot")
    if hasattr(module, "detail"):
        text = Path(FOLDER, f"{name}.md").read_text(encoding="utf-8")
        assert module.detail(FIGURES[name]).strip() in text


@pytest.mark.parametrize("name", page.BENCHMARKS)
def test_what_it_is_held_to_holds(name: str) -> None:
    targets = page.benchmark(name).targets(FIGURES[name])
    assert targets
    assert [target for target in targets if not target.holds] == []


def test_the_readme_compares_tools_as_recorded() -> None:
    readme = Path(page.HOME).with_name("README.md").read_text(encoding="utf-8")
    assert readme_table(FIGURES["peers"]) in readme
    steps = FIGURES["overhead"]["steps"]
    ratios = {name: times["flopcount"] / times["plain"] for name, times in steps.items()}
    longer = f"{ratios['ResNet-50'] - 1:.0%}".replace("%", " %")
    assert f"{longer} longer for ResNet-50" in readme
    assert f"{ratios['tiny layers, SGD']:.1f} × as long for layers of eight neurons" in readme


def test_a_target_that_is_missed_is_shown_so() -> None:
    missed = page.held_to([Target("speed", "≤ 1", "2", holds=False)])
    assert missed.endswith("| speed | ≤ 1 | 2 | **no** |")


def test_cells_do_not_break_a_table() -> None:
    assert table(["a", "b"], [["x|y", 1]], "lr") == ("| a | b |\n| --- | ---: |\n| x\\|y | 1 |")


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> object:
    monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
    with pytest.raises(SystemExit) as ended:
        entry.main()
    return ended.value.code


def test_help_names_each_benchmark_and_what_it_finds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--help") == 0
    said = capsys.readouterr().out
    for name, line in page.about().items():
        assert name in said
        assert line in said


def test_an_unknown_benchmark_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "speed") == 2
    assert "no benchmark speed: accuracy, attribution" in capsys.readouterr().err


def test_what_is_not_installed_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(name: str) -> object:
        raise ModuleNotFoundError(name="timm")

    monkeypatch.setattr(page, "benchmark", missing)
    assert run(monkeypatch, "accuracy", "--quick") == 2
    said = capsys.readouterr().err
    assert 'timm is missing: pip install -c constraints.txt -e ".[bench]"' in said


class Missed:
    """A benchmark that misses its target."""

    @staticmethod
    def run(quick: bool) -> dict[str, object]:
        return {"quick": quick}

    @staticmethod
    def targets(figures: dict[str, object]) -> list[Target]:
        return [Target("speed", "≤ 1", "2", holds=False)]

    @staticmethod
    def section(figures: dict[str, object]) -> str:
        return f"quick: {figures['quick']}"


def test_a_quick_run_writes_nothing_and_fails_if_a_target_is_missed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(page, "benchmark", lambda name: Missed)
    monkeypatch.setattr(entry, "write", lambda *figures: pytest.fail("written"))
    monkeypatch.setattr(page, "write", lambda: pytest.fail("written"))
    assert run(monkeypatch, "overhead", "--quick") == 1
    said = capsys.readouterr().out
    assert "quick: True" in said
    assert "| speed | ≤ 1 | 2 | **no** |" in said
