"""What torch notes of open modes, and the order in which it keeps them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils import _python_dispatch as dispatch

from flopcount.torch_private import mode_stack
from flopcount.torch_private.mode_stack import (
    NOTES,
    close_elsewhere,
    close_mode,
    open_mode,
    take_off,
)
from flopcount.torch_private.modes import FakeTensorMode, modes, num_modes, push_mode
from tests.torch_private.ops import Ops


class Silent(Ops):
    """A mode that compiled functions need not heed."""

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        return True


def make(cls: Any = Ops) -> Any:
    return FakeTensorMode() if cls is FakeTensorMode else cls(lambda op, args: None)


def noted() -> list[bool]:
    return [getattr(dispatch, note.name) for note in NOTES]


def test_torch_notes_all_kinds_that_are_known_here() -> None:
    assert {note.name for note in NOTES} == {
        name for name in vars(dispatch) if name.startswith("_is_in_")
    }
    assert "_is_in_torch_dispatch_mode" in vars(dispatch)


@pytest.mark.parametrize("cls", [Ops, Silent])
def test_a_mode_is_noted_as_torch_notes_it(cls: Any) -> None:
    with make(cls):
        theirs = noted()
    ours = make(cls)
    open_mode(ours)
    assert noted() == theirs
    close_mode(ours)
    assert noted() == [False for _ in NOTES]


@pytest.mark.parametrize("cls", [Ops, Silent, FakeTensorMode])
def test_a_mode_keeps_what_was_noted_before_it(cls: Any) -> None:
    mode, inner = make(cls), make()
    with mode:
        after = noted()
        assert [list(getattr(mode, note.before)) for note in NOTES] == [[False] for _ in NOTES]
        assert after == [note.covers(mode) for note in NOTES]
        with inner:
            assert [list(getattr(inner, note.before)) for note in NOTES] == [
                [value] for value in after
            ]


def test_the_compiler_is_told_the_last_note(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[bool] = []
    name = "set_is_in_mode_without_ignore_compile_internals"
    if hasattr(dispatch, name):
        assert mode_stack.tell_compiler is getattr(dispatch, name)
    monkeypatch.setattr(mode_stack, "tell_compiler", told.append)
    mode = make()
    open_mode(mode)
    close_mode(mode)
    assert told == [True, False]


def test_modes_of_torchs_own_are_below_all_others_and_stay_there() -> None:
    ours, user, fake = make(), make(), FakeTensorMode()
    with user:
        open_mode(ours)
        with fake:
            assert modes() == [fake, user, ours]
            close_mode(ours)
            assert modes() == [fake, user]
            assert isinstance(torch.ones(3), torch.Tensor)
    assert num_modes() == 0


@pytest.mark.parametrize("kinds", [(Ops, Silent), (Silent, Ops), (Silent, Silent)])
def test_notes_of_the_modes_above_are_what_they_would_be_without_it(kinds: Any) -> None:
    ours, theirs = make(), [make(cls) for cls in kinds]
    open_mode(ours)
    for mode in theirs:
        mode.__enter__()
    close_mode(ours)
    while theirs:
        assert noted() == [any(map(note.covers, theirs)) for note in NOTES]
        theirs.pop().__exit__(None, None, None)
    assert not any(noted())


def test_a_mode_that_is_not_there_closes_nothing_else() -> None:
    ours = make()
    with make() as user:
        open_mode(ours)
        take_off(ours)
        assert modes() == [user]
        close_mode(ours)
        assert modes() == [user]
        push_mode(ours)  # as after its own handler
        take_off(ours)
        assert modes() == [user]
        assert noted() == [note.covers(user) for note in NOTES]


def test_a_mode_of_another_thread_is_noted_until_it_closes_there() -> None:
    here, there = make(), make()
    open_mode(here)
    mode_stack._open.append(there)
    close_mode(here)
    assert all(noted())
    close_elsewhere(there)
    assert not any(noted())


def test_a_mode_that_torch_took_off_in_place_of_another_makes_that_one_go() -> None:
    outer, ours = make(), make()
    outer.__enter__()
    open_mode(ours)
    outer.__exit__(None, None, None)
    assert modes() == [outer]
    close_mode(ours)
    assert modes() == []
