"""Opens dispatch modes, and closes them in any order.

Each thread has a stack of modes. torch closes the one on top, whichever is asked to close. It also
notes, for the whole process, whether a mode is open: each mode keeps what was noted before it, and
notes that again when it closes. If modes close in another order, that note stays for ever.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from typing import Any, NamedTuple

from torch.utils import _python_dispatch as dispatch

from flopcount.torch_private.modes import TorchDispatchMode, modes, pop_mode, push_mode


class Note(NamedTuple):
    """torch's note that a mode of some kind is open.

    Attributes:
        name: the variable of the module that has the note.
        before: the attribute of a mode that has what was noted before, once for each time that the
            mode is open, the outermost first. Modes of ours keep nothing there.
        covers: whether a mode is of this kind.
    """

    name: str
    before: str
    covers: Callable[[Any], bool]


NOTES = [
    note
    for note in (
        Note("_is_in_torch_dispatch_mode", "old_dispatch_mode_flags", lambda mode: True),
        Note(
            "_is_in_non_infra_torch_dispatch_mode",
            "old_non_infra_dispatch_mode_flags",
            lambda mode: not mode.is_infra_mode(),
        ),
        Note(
            "_is_in_any_mode_without_ignore_compile_internals",
            "old_without_ignore_compile_internals_dispatch_mode_flags",
            lambda mode: not mode.ignore_compile_internals(),
        ),
    )
    if hasattr(dispatch, note.name)
]


tell_compiler: Callable[[bool], None] = getattr(
    dispatch, "set_is_in_mode_without_ignore_compile_internals", lambda value: None
)
"""Tells the guards of compiled functions what the last note says, for this thread."""


_open: list[Any] = []
"""Our modes, once for each thread where they are open."""


def open_mode(mode: TorchDispatchMode) -> None:
    """Open ``mode`` on top of this thread's stack."""
    _open.append(mode)
    push_mode(mode)
    note_open_modes(modes())


def close_mode(mode: TorchDispatchMode) -> None:
    """Close ``mode`` wherever it is on this thread's stack; all others stay, in their order.

    Inside its own handlers it is not on the stack, and torch puts it back after them: see
    :func:`take_off`.
    """
    if not _remove(mode):
        # a mode that was opened before this one, and closed before it, took it for itself
        for other in filter(_has_closed, modes()):
            _remove(other)
    close_elsewhere(mode)


def close_elsewhere(mode: TorchDispatchMode) -> None:
    """Note that ``mode`` is closed in a thread other than this one."""
    _open.remove(mode)
    note_open_modes(modes())


def take_off(mode: TorchDispatchMode) -> None:
    """Take ``mode``, which is closed, off this thread's stack."""
    _remove(mode)
    note_open_modes(modes())


def _remove(mode: Any) -> bool:
    """Remove ``mode`` from this thread's stack, and say whether it was there."""
    stack = modes()
    if mode not in stack:
        return False
    lowest = stack.index(mode)  # torch keeps its own modes below all others
    others = [other for other in stack[lowest:] if other is not mode]
    for _ in stack[lowest:]:
        pop_mode()
    for other in others:
        push_mode(other)
    if len(stack) > 1:
        for note in NOTES:
            _forget(note, stack[:lowest], others)
    return True


def note_open_modes(stack: list[Any]) -> None:
    """Let the notes say what is open: any mode of ours, or of this thread's ``stack``."""
    for note in NOTES:
        setattr(dispatch, note.name, any(map(note.covers, (*stack, *_open))))
    tell_compiler(any(map(NOTES[-1].covers, stack)))


def _has_closed(mode: Any) -> bool:
    """Whether a mode of others is on the stack though it has closed as often as it was opened."""
    is_others = not mode.is_infra_mode() and mode not in _open
    return is_others and modes().count(mode) > len(_before(mode, NOTES[0]))


def _forget(note: Note, below: list[Any], above: list[Any]) -> None:
    """Let other modes forget what they noted only because of a mode that stood between them.

    The stack does not tell when torch's own modes were opened. Where that matters, they and those
    ``above`` all forget, so that the last one to close leaves nothing noted.
    """
    own = [mode for mode in below if mode.is_infra_mode()]
    users = [mode for mode in below if not mode.is_infra_mode()]
    ours = [mode for mode in above if mode in _open]
    was_first = any(note.covers(mode) and False in _before(mode, note) for mode in own)
    is_noted = was_first or any(map(note.covers, users))
    times_seen = Counter(map(id, users))
    for mode in above:
        before, time = _before(mode, note), times_seen[id(mode)]
        if time < len(before):
            before[time] = before[time] and is_noted
        times_seen[id(mode)] += 1
        is_noted = is_noted or note.covers(mode)
    if not any(map(note.covers, (*users, *ours))):
        for mode in own:
            before = _before(mode, note)
            for time in range(len(before)):
                before[time] = False


def _before(mode: Any, note: Note) -> deque[bool]:
    """What ``mode`` noted when it was opened, each time."""
    before: deque[bool] = getattr(mode, note.before, None) or deque()
    return before
