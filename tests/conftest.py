"""Options and fixtures of the whole suite."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.hooks import watchers


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the long sweeps, too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--slow"):
        return
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason="a long sweep: --slow runs it"))


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    """No test leaves a hook or a mode behind."""
    before = watchers()
    yield
    assert watchers() == before
