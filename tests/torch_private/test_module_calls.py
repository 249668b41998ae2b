"""What module_calls.py promises of hooks on the calls of all modules."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from flopcount.torch_private.module_calls import ModuleCalls


class Failing(nn.Module):
    def forward(self) -> None:
        raise ValueError("failing")


@pytest.fixture
def called() -> list[str]:
    return []


@pytest.fixture
def calls(called: list[str]) -> Any:
    calls = ModuleCalls(lambda *args: called.append("enter"), lambda *args: called.append("leave"))
    yield calls
    calls.unhook()


def test_it_calls_hooks_once_and_the_second_also_if_the_call_raises(
    calls: ModuleCalls, called: list[str]
) -> None:
    for _ in range(2):
        calls.hook()
    assert nn.Identity()(1) == 1
    with pytest.raises(ValueError, match="failing"):
        Failing()()
    assert called == ["enter", "leave"] * 2


def test_what_it_finds_is_there_again(calls: ModuleCalls, called: list[str]) -> None:
    original, call = nn.Module._call_impl, nn.Module.__call__
    calls.hook()
    assert nn.Module._call_impl is not original
    assert nn.Module._call_impl.__code__ is original.__code__
    for _ in range(2):
        calls.unhook()
    assert nn.Module._call_impl is original
    assert nn.Module.__call__ is call
    nn.Identity()(1)
    assert not called


def test_what_the_program_puts_in_its_place_meanwhile_stays(
    calls: ModuleCalls, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = nn.Module._call_impl
    calls.hook()
    hooked = nn.Module._call_impl
    monkeypatch.setattr(nn.Module, "_call_impl", replaced := lambda self, *args: "replaced")
    for change in (calls.unhook, calls.hook):
        change()
        assert nn.Module._call_impl is replaced
        assert nn.Identity()(1) == "replaced"
    monkeypatch.undo()
    assert nn.Module._call_impl is hooked
    calls.unhook()
    assert nn.Module._call_impl is original


def test_a_function_that_is_kept_calls_no_hook_afterwards(
    calls: ModuleCalls, called: list[str]
) -> None:
    calls.hook()
    module = nn.Identity()
    kept = module._call_impl
    calls.unhook()
    assert kept(1) == 1
    assert not called


def test_hooks_of_others_that_come_before_and_meanwhile(
    calls: ModuleCalls, called: list[str]
) -> None:
    handles = [register_module_forward_pre_hook(lambda *args: called.append("before"))]
    calls.hook()
    handles.append(register_module_forward_hook(lambda *args: called.append("meanwhile")))
    try:
        nn.Identity()(1)
        assert sorted(called) == ["before", "enter", "leave", "meanwhile"]
    finally:
        for handle in handles:
            handle.remove()
    called.clear()
    nn.Identity()(1)
    assert called == ["enter", "leave"]


def test_a_module_that_is_compiled(called: list[str]) -> None:
    module = nn.Identity()
    module.compile(backend="eager")
    compiled = module._compiled_call_impl
    calls = ModuleCalls(
        lambda *args: called.append("enter"), lambda *args: called.append("leave"), [module]
    )
    calls.hook()
    module(torch.ones(1))
    assert called[:1] == ["enter"]
    assert called[-1:] == ["leave"]
    calls.unhook()
    assert module._compiled_call_impl is compiled
    calls.hook()
    module.compile(backend="aot_eager")
    compiled = module._compiled_call_impl
    calls.unhook()
    assert module._compiled_call_impl is compiled


def test_calls_come_by_the_function_whose_place_it_takes() -> None:
    source = inspect.getsource(nn.Module.__call__)
    assert "self._compiled_call_impl(*args" in source
    assert "self._call_impl(*args" in source
    assert nn.Module._call_impl.__closure__ is None
