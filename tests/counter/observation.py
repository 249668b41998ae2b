"""What can be seen of a program that runs: its results, its errors, and all that it leaves."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from flopcount import FlopCounter, Report
from tests.counter.units import PRODUCT

Notes = list[Any]

Program = Callable[[Notes], Any]
"""A program returns what is to be compared, and notes in a list what happens on its way."""

Surrounding = Callable[[Notes], AbstractContextManager[Any]]
"""Makes a context to run a program in, which may take notes, too."""


def nothing(notes: Notes) -> AbstractContextManager[Any]:
    """No surrounding at all."""
    return nullcontext()


@dataclass
class Observed:
    """One run of a program; ``report`` is None if nobody counted."""

    result: Any = None
    error: list[Any] = field(default_factory=list)
    notes: list[Any] = field(default_factory=list)
    warnings: list[Any] = field(default_factory=list)
    surroundings: dict[str, Any] = field(default_factory=dict)
    report: Report | None = None


def observe(program: Program, *, watch: bool, around: Surrounding = nothing) -> Observed:
    """Run ``program`` with a counter or without, ``around`` being outside of the counter."""
    seen = Observed()
    counter = FlopCounter() if watch else nullcontext()
    torch.manual_seed(0)
    always = torch.is_warn_always_enabled()
    torch.set_warn_always(True)  # some are given but once in a process
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                with around(seen.notes), counter:
                    seen.result = program(seen.notes)
            except Exception as error:  # whatever it raises is to be the same
                seen.error = describe(error)
    finally:
        torch.set_warn_always(always)
    seen.warnings = [(w.category, str(w.message), w.filename, w.lineno) for w in caught]
    seen.surroundings = {
        "random state": torch.get_rng_state(),
        "grad mode": torch.is_grad_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "anomaly mode": torch.is_anomaly_enabled(),
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
    }
    if isinstance(counter, FlopCounter):
        seen.report = counter.report()
    return seen


def describe(error: BaseException | None) -> list[Any]:
    """An exception's type, message and innermost line outside of libraries, and its causes'."""
    described: list[Any] = []
    while error is not None:
        frames = traceback.extract_tb(error.__traceback__)
        users = [frame for frame in frames if "/tests/" in frame.filename]
        line = (users[-1].filename, users[-1].lineno) if users else ()
        described.append((type(error), str(error), line))
        error = error.__cause__
    return described


def assert_same(a: Any, b: Any, where: str = "result") -> None:
    """Assert that two values are the same bit by bit, in layout and in autograd's eyes, too."""
    assert type(a) is type(b), where
    if isinstance(a, Tensor):
        facts = [
            (t.shape, t.dtype, t.device, t.layout, t.requires_grad, t.is_leaf, type(t.grad_fn))
            for t in (a, b)
        ]
        assert facts[0] == facts[1], where
        if is_traceable_wrapper_subclass(a):
            for name in a.__tensor_flatten__()[0]:
                assert_same(getattr(a, name), getattr(b, name), f"{where}.{name}")
            return
        assert a.stride() == b.stride(), where
        if not isinstance(a, FakeTensor) and not a.is_meta:
            assert torch.equal(a.nan_to_num(), b.nan_to_num()), where
    elif isinstance(a, dict):
        assert list(a) == list(b), where
        for key in a:
            assert_same(a[key], b[key], f"{where}[{key!r}]")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}[{index}]")
    else:
        assert a == b, where


def assert_undisturbed(program: Program, *, around: Surrounding = nothing) -> Report:
    """Assert that a counter changes nothing of ``program``, and return what it counted."""
    observe(program, watch=False, around=around)  # loads what a process loads once, and warns
    alone, watched = (observe(program, watch=watch, around=around) for watch in (False, True))
    for name in ("error", "notes", "result", "warnings", "surroundings"):
        assert_same(getattr(alone, name), getattr(watched, name), name)
    assert watched.report is not None
    return watched.report


class Programs(dict[str, tuple[Program, float]]):
    """Programs by their names, and how many products each takes."""

    def taking(self, products: float) -> Callable[[Program], Program]:
        """Put a program into the table, with the products that it takes."""

        def put(function: Program) -> Program:
            self[function.__name__.replace("_", " ")] = function, products
            return function

        return put

    def as_test(self) -> Callable[[str], None]:
        """A test that each program goes undisturbed, and that all its products are counted."""

        @pytest.mark.filterwarnings("ignore::DeprecationWarning")
        @pytest.mark.parametrize("name", self)
        def test(name: str) -> None:
            function, products = self[name]
            assert assert_undisturbed(function).total.macs == products * PRODUCT

        return test
