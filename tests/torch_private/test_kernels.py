"""What this torch runs kernels of its own with."""

from __future__ import annotations

import types
from typing import Any

import pytest
import torch

from flopcount.torch_private.kernels import (
    CAPTURE_END,
    GRAPHS,
    RUNNERS,
    graph_methods,
    only_calls_ops,
)


def test_packages_of_aot_inductor() -> None:
    """They are run by one of these methods, which can be replaced in their class."""
    from torch._inductor.package.package import AOTICompiledModel

    owners = [methods.owner() for methods in RUNNERS["AOTInductor package"]]
    assert owners[:2] == [
        torch._C._aoti.AOTIModelPackageLoader,
        torch._C._aoti.AOTIModelContainerRunnerCpu,
    ]
    called = {"run", "boxed_run"}.intersection(AOTICompiledModel.__call__.__code__.co_names)
    assert called
    assert called <= set(torch._C._aoti.AOTIModelPackageLoader.__dict__)


def test_graphs_of_inductor() -> None:
    from torch._inductor.output_code import CompiledFxGraph

    (methods,) = RUNNERS["inductor graph"]
    assert methods.owner() is CompiledFxGraph
    assert "__call__" in CompiledFxGraph.__dict__
    assert "source_code" in CompiledFxGraph.__annotations__


@pytest.mark.parametrize(
    ("source", "calls_ops_alone"),
    [
        ("extern_kernels.mm(a, b, out=c)\nasync_compile.wait(globals())", True),
        ("async_compile.cpp_pybinding([])\nasync_compile.wait(globals())", False),
        ("async_compile.triton('k')\nasync_compile.wait(globals())", False),
        ("CppWrapperCodeCache.load_pybinding(argtypes)", False),
        ("", False),
        (None, False),
    ],
)
def test_kernels_of_a_graph_are_seen_in_its_source(source: Any, calls_ops_alone: bool) -> None:
    assert only_calls_ops(types.SimpleNamespace(source_code=source)) is calls_ops_alone
    assert not only_calls_ops(object())


def methods_of_graphs() -> list[str]:
    """What torch's own class of graphs asks its base for: one of the ends of a capture."""
    asked = torch.cuda.CUDAGraph.capture_end.__code__.co_names
    (end,) = (name for name in CAPTURE_END if name in asked)
    return ["capture_begin", end, "replay"]


def test_graphs_of_an_accelerator() -> None:
    """The class of users has the base that is hooked, and asks it for each of these methods."""
    base = graph_methods(GRAPHS["torch.cuda.CUDAGraph"], "replay").owner()
    assert base is torch._C._CUDAGraph
    assert issubclass(torch.cuda.CUDAGraph, base)
    for name in methods_of_graphs():
        assert {"super", name} <= set(getattr(torch.cuda.CUDAGraph, name).__code__.co_names)


@pytest.mark.skipif(not torch.backends.cuda.is_built(), reason="this torch has no CUDA")
def test_the_base_has_the_methods_itself() -> None:
    for name in methods_of_graphs():
        assert name in torch._C._CUDAGraph.__dict__
