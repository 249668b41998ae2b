"""How a test is named: within its file, and from the directory where pytest was started."""

from __future__ import annotations

import os
from itertools import takewhile
from pathlib import Path

import pytest


def name_in_file(node: pytest.Item | pytest.Collector) -> str:
    """The classes and the name of a test, or of a class: ``TestStep::test_a``."""
    chain = reversed(node.listchain())
    parents = takewhile(lambda parent: not isinstance(parent, pytest.File), chain)
    return "::".join(reversed([parent.name for parent in parents]))


def relative_path(path: Path, config: pytest.Config) -> str:
    """``path`` relative to the directory where pytest was started."""
    return Path(os.path.relpath(path, config.invocation_params.dir)).as_posix()


def node_id(item: pytest.Item) -> str:
    """The node id that selects ``item`` from the directory where pytest was started."""
    return f"{relative_path(item.path, item.config)}::{name_in_file(item)}"
