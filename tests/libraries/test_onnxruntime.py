"""Sessions of ONNX Runtime: its kernels are no ops of torch, so a session is named."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from flopcount import FlopCounter, UncountedOpError
from tests.counter.observation import Notes, assert_undisturbed

runtime: Any = pytest.importorskip("onnxruntime")

NAME = "onnxruntime.InferenceSession"
X, W = np.ones((4, 8), np.float32), np.ones((8, 8), np.float32)


def field(number: int, value: int | str | bytes) -> bytes:
    """A field of a protocol buffer; its values and lengths are below 128."""
    if isinstance(value, int):
        return bytes([number << 3, value])
    data = value.encode() if isinstance(value, str) else value
    return bytes([number << 3 | 2, len(data)]) + data


def tensor(name: str, *shape: int) -> bytes:
    """The name and type (float32) of a tensor: ``ValueInfoProto`` of ONNX."""
    dims = b"".join(field(1, field(1, size)) for size in shape)
    return field(1, name) + field(2, field(1, field(1, 1) + field(2, dims)))


@pytest.fixture
def session() -> Any:
    """``y = x @ w``: ``ModelProto`` with the numbers of its fields, from ONNX's onnx.proto."""
    node = field(1, "x") + field(1, "w") + field(2, "y") + field(4, "MatMul")
    inputs = field(11, tensor("x", 4, 8)) + field(11, tensor("w", 8, 8))
    graph = field(1, node) + field(2, "product") + inputs + field(12, tensor("y", 4, 8))
    model = field(1, 8) + field(7, graph) + field(8, field(2, 13))
    return runtime.InferenceSession(model, providers=["CPUExecutionProvider"])


def run(session: Any) -> Any:
    return session.run(None, {"x": X, "w": W})[0]


def run_bound(session: Any) -> Any:
    binding = session.io_binding()
    binding.bind_cpu_input("x", X)
    binding.bind_cpu_input("w", W)
    binding.bind_output("y")
    session.run_with_iobinding(binding)
    return binding.copy_outputs_to_cpu()[0]


def run_values(session: Any) -> Any:
    values = {name: runtime.OrtValue.ortvalue_from_numpy(v) for name, v in (("x", X), ("w", W))}
    return session.run_with_ort_values(None, values)[0].numpy()


def run_async(session: Any) -> Any:
    done, results = threading.Event(), []

    def take(outputs: Any, data: Any, error: str) -> None:
        results.extend(outputs)
        done.set()

    session.run_async(None, {"x": X, "w": W}, take, None)
    assert done.wait(30)
    return results[0]


@pytest.mark.parametrize("way", [run, run_bound, run_values, run_async])
def test_each_way_to_run_it_is_named(way: Callable[[Any], Any], session: Any) -> None:
    with FlopCounter() as counter:
        assert (way(session) == 8).all()
    way(session)
    assert counter.report().uncounted == {NAME: 1}


def test_a_method_that_was_kept_since_before_the_block(session: Any) -> None:
    method = session.run
    with FlopCounter() as counter:
        method(None, {"x": X, "w": W})
    assert counter.report().uncounted == {NAME: 1}


def test_strict_raises(session: Any) -> None:
    with pytest.raises(UncountedOpError, match=NAME), FlopCounter(strict=True):
        run(session)


def test_it_goes_undisturbed(session: Any) -> None:
    def program(notes: Notes) -> Any:
        notes.append(torch.from_numpy(run(session)))
        return session.run(None, {"x": X, "no such input": W})

    assert_undisturbed(program)
