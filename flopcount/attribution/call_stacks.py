"""Call stacks of traced nodes: the calls of modules that were open when a node was made."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import fx

from flopcount.torch_private.compiler import NO_MODULE

CallStack = Mapping[str, tuple[str, Any]]
"""The open calls of modules, outermost first: a key of the call, the module's path and class."""

VARIABLE = re.compile(r"[LG]\['(\w+)'\](?:\[[^]]+\])*")
"""The variable of the traced function that holds a root module: ``L['self']``, ``G['models'][1]``.
Paths in exported programs begin with no variable: the root is the module that was exported."""

ITEM = re.compile(r"\['?(\w+)'?\]")
"""An item of a list or dict in a path, which whoever reads the path calls by its key alone."""

SELF = "L['self']"
"""The module whose own ``forward`` was traced. That call is on no stack."""


def call_stack(node: fx.Node) -> CallStack:
    """The calls that a node was traced in; for a node of backward, those of its forward."""
    meta = node.meta
    stack: CallStack = meta.get("nn_module_stack") or meta.get("fwd_nn_module_stack") or {}
    return {} if any(path == NO_MODULE for path, _ in stack.values()) else stack


def split(path: str) -> tuple[str, str]:
    """The variable that a path begins with, if any, and the attributes after it."""
    match = VARIABLE.match(path)
    variable, inside = (match[0], path[match.end() :]) if match else ("", path)
    return variable, ITEM.sub(r".\1", inside).lstrip(".")


def class_name(cls: Any) -> str:
    """The name of a class that a stack has, or has the path of."""
    return cls.rpartition(".")[2] if isinstance(cls, str) else str(cls.__name__)
