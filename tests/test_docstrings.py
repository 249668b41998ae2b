"""The reference: each public name says what it is, takes and raises, and shows it."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import pytest

import flopcount

INTERNAL = {"ignore_compile_internals", "supports_higher_order_operators"}
"""What torch asks of a dispatch mode."""


def members(cls: type) -> Iterator[tuple[str, Any]]:
    """The public names that a class brings, or that another class of ours brings for it."""
    ours = [base for base in cls.__mro__ if base.__module__.startswith("flopcount")]
    for name, value in {name: value for base in ours for name, value in vars(base).items()}.items():
        if not name.startswith("_") and name not in INTERNAL:
            yield name, inspect.unwrap(getattr(value, "__func__", value))


PUBLIC = {name: getattr(flopcount, name) for name in flopcount.__all__}

CALLED = {
    **{name: thing for name, thing in PUBLIC.items() if inspect.isfunction(thing)},
    **{
        f"{owner}.{name}": value
        for owner, cls in PUBLIC.items()
        if inspect.isclass(cls)
        for name, value in members(cls)
        if inspect.isfunction(value)
    },
}

READ = [
    (owner, name)
    for owner, cls in PUBLIC.items()
    if inspect.isclass(cls)
    for name, value in members(cls)
    if isinstance(value, (property, cached_property))
]


@pytest.mark.parametrize("name", [*PUBLIC, *CALLED])
def test_it_says_what_it_is_in_a_sentence_and_shows_it(name: str) -> None:
    doc = inspect.getdoc({**PUBLIC, **CALLED}[name]) or ""
    sentence = doc.partition("\n\n")[0]
    assert sentence.endswith((".", ":"))
    assert ">>> " in doc


@pytest.mark.parametrize("name", CALLED)
def test_it_says_what_it_takes(name: str) -> None:
    doc = inspect.getdoc(CALLED[name]) or ""
    parameters = [p for p in inspect.signature(CALLED[name]).parameters if p not in ("self", "cls")]
    for parameter in parameters:
        assert f"{parameter}:" in doc or f"{parameter}, " in doc or f", {parameter}" in doc, (
            parameter
        )


@pytest.mark.parametrize("name", CALLED)
def test_it_says_what_it_raises_itself(name: str) -> None:
    tree = ast.parse(textwrap.dedent(inspect.getsource(CALLED[name])))
    doc = inspect.getdoc(CALLED[name]) or ""
    raised = {
        node.exc.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise)
        and isinstance(node.exc, ast.Call)
        and isinstance(node.exc.func, ast.Name)
    }
    for error in raised:
        assert f"{error}:" in doc.partition("Raises:")[2], error


@pytest.mark.parametrize(("owner", "name"), READ)
def test_an_attribute_is_explained_and_shown_with_its_class(owner: str, name: str) -> None:
    cls = PUBLIC[owner]
    lines = (inspect.getdoc(cls) or "").splitlines()
    assert inspect.getdoc(getattr(cls, name))
    assert any(f".{name}" in line for line in lines if line.lstrip().startswith(">>> "))
