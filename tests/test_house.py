"""The house: which room may know which, and how large a file and a function may grow."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "flopcount"

STONES = {"cost", "errors", "torch_private"}
SOURCES = {"report", "formulas", "attribution", "hardware"} | STONES

ALLOWED = {
    "cost": set(),
    "errors": set(),
    "torch_private": set(),
    "formulas": STONES,
    "attribution": {"errors", "torch_private"},  # which module runs an op, and never what it costs
    "hardware": {"cost", "errors"},  # and never a report
    "report": {"formulas", "attribution", "hardware"} | STONES,
    "counter": SOURCES,
    "graph": SOURCES,
    "trace": SOURCES,
    "pytest_plugin": {"counter", "graph"} | SOURCES,
    "cli": {"counter", "graph", "trace"} | SOURCES,
    "__main__": {"cli"},
}
"""What each room may import, beside itself: only rooms below it."""

FORBIDDEN = [
    ("flopcount.graph", "flopcount.attribution.forward"),  # a graph names modules, and runs none
    ("flopcount.graph", "flopcount.attribution.backward"),
    ("flopcount.graph", "flopcount.attribution.thread_state"),
    ("flopcount.report", "flopcount.attribution.forward"),
    ("flopcount.report", "flopcount.attribution.backward"),
    ("flopcount.report", "flopcount.attribution.thread_state"),
    ("flopcount.report.report", "flopcount.report.render"),  # but by a look-up of its name
    ("flopcount.report.roofline", "flopcount.report.render"),
    ("flopcount.report.tree", "flopcount.report.report"),
    ("flopcount.formulas.registry", "flopcount.formulas.ops"),
    ("flopcount.formulas.plan", "flopcount.formulas.ops"),
]
"""Imports within the allowed rooms that are wrong all the same."""


def modules(package: Path = PACKAGE) -> dict[str, ast.Module]:
    """The syntax tree of every file, by the name under which it is imported."""
    trees = {}
    for file in sorted(package.rglob("*.py")):
        parts = [package.name, *file.relative_to(package).with_suffix("").parts]
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        trees[name] = ast.parse(file.read_text(encoding="utf-8"))
    return trees


def imports(tree: ast.Module, known: dict[str, ast.Module]) -> Iterator[str]:
    """The files of the package that a file imports: in functions and for annotations, too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module in known:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in known else node.module


TREES = modules()
ARROWS = {
    (name, target)
    for name, tree in TREES.items()
    for target in imports(tree, TREES)
    if name != target
}


def room(name: str) -> str:
    return name.split(".")[1] if "." in name else ""


def is_in(name: str, place: str) -> bool:
    return f"{name}.".startswith(f"{place}.")


def broken(arrows: set[tuple[str, str]]) -> list[str]:
    """The arrows that a room may not send out."""
    return [
        f"{source} imports {target}"
        for source, target in sorted(arrows)
        if room(source)  # the package itself only names what is public
        and (
            room(target) not in ALLOWED[room(source)] | {room(source), ""}
            or any(is_in(source, a) and is_in(target, b) for a, b in FORBIDDEN)
        )
    ]


def circle(arrows: set[tuple[str, str]]) -> list[str]:
    """Files that import one another in a circle, if there are any."""
    below: dict[str, set[str]] = {}
    for source, target in arrows:
        below.setdefault(source, set()).add(target)
    finished: set[str] = set()

    def search(name: str, way: list[str]) -> list[str]:
        if name in way:
            return [*way[way.index(name) :], name]
        if name in finished:
            return []
        for target in sorted(below.get(name, ())):
            if found := search(target, [*way, name]):
                return found
        finished.add(name)
        return []

    return next((found for name in sorted(below) if (found := search(name, []))), [])


def test_every_room_is_known() -> None:
    assert {room(name) for name in TREES} - {""} == set(ALLOWED)


def test_imports_lead_down() -> None:
    assert broken(ARROWS) == []


def test_no_files_import_one_another_in_a_circle() -> None:
    assert circle({(a, b) for a, b in ARROWS if room(a)}) == []


@pytest.mark.parametrize(
    "arrow",
    [
        ("flopcount.formulas.plan", "flopcount.attribution.tree"),
        ("flopcount.attribution.tree", "flopcount.cost"),
        ("flopcount.report.report", "flopcount.counter.counter"),
        ("flopcount.counter.counter", "flopcount.graph.walk"),
        ("flopcount.graph.walk", "flopcount.attribution.forward"),
        ("flopcount.report.report", "flopcount.report.render.table"),
        ("flopcount.counter.counter", "flopcount.pytest_plugin.budget"),
        ("flopcount.torch_private.ops", "flopcount.errors"),
    ],
)
def test_a_broken_rule_is_seen(arrow: tuple[str, str]) -> None:
    assert broken({arrow}) == [f"{arrow[0]} imports {arrow[1]}"]


def test_a_circle_is_seen() -> None:
    assert circle({("a", "b"), ("b", "c"), ("c", "b")}) == ["b", "c", "b"]


def test_imports_in_functions_and_for_annotations_are_seen() -> None:
    code = (
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from flopcount.cost import Cost\n"
        "def f():\n    from flopcount import errors\n    import flopcount.graph.walk\n"
    )
    assert set(imports(ast.parse(code), TREES)) == {
        "flopcount.cost",
        "flopcount.errors",
        "flopcount.graph.walk",
    }


FILES = [
    *sorted(PACKAGE.rglob("*.py")),
    *sorted(ROOT.glob("tests/**/*.py")),
    *sorted(ROOT.glob("benchmarks/**/*.py")),
]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_no_file_has_more_than_450_lines(file: Path) -> None:
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 450


def lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function, without its docstring."""
    first = function.body[0]
    docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    start = (first.end_lineno or 0) if docstring else function.lineno - 1
    head = first.lineno - function.lineno if docstring else 0
    return head + (function.end_lineno or 0) - start


@pytest.mark.parametrize("name", TREES)
def test_no_function_has_more_than_40_lines(name: str) -> None:
    functions = (
        node
        for node in ast.walk(TREES[name])
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    )
    assert [f"{node.name}: {lines(node)}" for node in functions if lines(node) > 40] == []
