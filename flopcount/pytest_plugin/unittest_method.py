"""Methods of ``unittest.TestCase``, which pytest runs together with setUp and tearDown."""

from __future__ import annotations

import functools
import unittest
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from inspect import iscoroutinefunction
from typing import Any, TypeGuard

import pytest


def is_unittest_method(item: pytest.Item) -> TypeGuard[pytest.Function]:
    """Whether ``item`` is a method of a ``unittest.TestCase``, and not a coroutine."""
    if isinstance(item, pytest.Function) and item.cls and issubclass(item.cls, unittest.TestCase):
        return not iscoroutinefunction(item.obj)
    return False


def expects_failure(item: pytest.Item) -> bool:
    """Whether the method, or its class, is decorated with ``unittest.expectedFailure``."""
    flag = "__unittest_expecting_failure__"
    return is_unittest_method(item) and (
        getattr(item.obj, flag, False) or getattr(item.cls, flag, False)
    )


@contextmanager
def run_inside(
    item: pytest.Function, block: Callable[[], AbstractContextManager[object]]
) -> Iterator[None]:
    """Let the method run inside ``block``, and setUp and tearDown outside."""
    method: Callable[..., Any] = item.obj

    @functools.wraps(method)
    def method_in_block(*args: Any, **kwargs: Any) -> Any:
        with block():
            return method(*args, **kwargs)

    item.obj = method_in_block
    try:
        yield
    finally:
        item.obj = method
