"""Methods of C++ classes that a program calls, itself or in TorchScript."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch

from flopcount.torch_private.method_hook import Methods

SCRIPTS = [Methods("torch._C", cls, ("__call__",)) for cls in ("ScriptMethod", "ScriptFunction")]
"""What Python calls when it calls TorchScript, or a method of a C++ class."""

CLASSES = "__torch__.torch.classes."
"""How the names of C++ classes begin in TorchScript, where others begin with ``__torch__``."""

OF_TORCH = {
    *("_nnapi", "aten", "backendutils", "c10d", "cuda", "dist_rpc", "mkldnn"),
    *("profiler", "profiling", "quantized", "rnn", "sparse"),
}
"""Namespaces of torch's classes. They hold what ops work on, and do not work themselves; that of
``_nnapi`` does, on Android."""

Method = tuple[str, str]
"""The name of a class in TorchScript, and of a method."""


def methods_of_classes(script: Any) -> list[str]:
    """Methods of others' C++ classes with tensors, among what ``script`` calls.

    ``script`` is a function or a method in TorchScript, or itself a method of a C++ class. A name
    is ``torch.classes.NAMESPACE.CLASS.METHOD``.
    """
    known = _known(len(sys.modules), len(torch.ops.loaded_libraries))
    called = known.intersection(_called(script)) if known else ()  # a program rarely loads any
    return sorted(f"{cls.removeprefix('__torch__.')}.{method}" for cls, method in called)


@lru_cache(maxsize=1)
def _known(*loaded: int) -> frozenset[Method]:
    """All such methods, as long as no library is loaded that may bring more."""
    jit: Any = torch._C  # torch's stubs lack this
    methods = set()
    for schema in jit._jit_get_custom_class_schemas():
        name = _name(schema.arguments[0].type)
        types = " ".join(str(value.type) for value in (*schema.arguments[1:], *schema.returns))
        has_tensors = "Tensor" in types or "Any" in types
        if has_tensors and not schema.name.startswith("__") and name.split(".")[3] not in OF_TORCH:
            methods.add((name, schema.name))
    return frozenset(methods)


def _called(script: Any) -> Iterator[Method]:
    owner = getattr(script, "owner", None)  # a function has none
    if owner is not None and _name(owner._type()).startswith(CLASSES):
        yield _name(owner._type()), script.name  # and no graph
        return
    graph = script.inlined_graph  # nodes live no longer than this object
    for node in graph.findAllNodes("prim::CallMethod", True):
        yield _name(next(node.inputs()).type()), node.s("name")


def _name(of: Any) -> str:
    return of.qualified_name() if isinstance(of, torch._C.ClassType) else ""
