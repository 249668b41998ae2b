"""No formula calls the formula of another op: what they share has a function of its own."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from flopcount.formulas import ops

FILES = sorted(path for folder in ops.__path__ for path in Path(folder).glob("*.py"))


def formulas(tree: ast.Module) -> set[str]:
    """The functions that a decorator registers."""
    return {
        function.name
        for function in tree.body
        if isinstance(function, ast.FunctionDef)
        and any(
            ast.unparse(decorator).startswith("formula(") for decorator in function.decorator_list
        )
    }


def imported(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """A name in this file, and the formula that it is in the file where it was imported from."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith(ops.__name__ + "."):
            source = Path(ops.__path__[0], str(node.module).rpartition(".")[2] + ".py")
            registered = formulas(ast.parse(source.read_text()))
            yield from ((a.asname or a.name, a.name) for a in node.names if a.name in registered)


def calls(tree: ast.Module) -> list[str]:
    """Calls of formulas inside functions."""
    names = formulas(tree) | dict(imported(tree)).keys()
    return [
        f"line {node.lineno}: {ast.unparse(node)}"
        for function in tree.body
        if isinstance(function, ast.FunctionDef)
        for statement in function.body
        for node in ast.walk(statement)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in names
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_formula_calls_no_formula_of_another_op(path: Path) -> None:
    found = calls(ast.parse(path.read_text()))
    assert not found, "let both formulas call a function of the letters that they share"


def test_a_call_is_seen() -> None:
    source = """
from flopcount.formulas.ops.matmul import linear as dense

@formula("lib::whole")
def whole(x, *, out):
    return elementwise(out, add=1)

@formula("lib::half")
def half(x, *, out):
    return dense(x, None, out=out) + whole(x, out=out)
"""
    assert calls(ast.parse(source)) == [
        "line 10: dense(x, None, out=out)",
        "line 10: whole(x, out=out)",
    ]
