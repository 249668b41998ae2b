"""The phase of an op that runs outside every module.

torch's hooks tell the steps of most optimizers. Some lack them, since they do not call
``Optimizer.__init__`` or are no Optimizer, as wrappers around one. There the frame of their
``step()`` tells. It also tells a step from the closure that it calls, whose work is no step's.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from enum import Enum, auto
from types import CodeType, FrameType
from typing import Any

from flopcount.attribution.phase import FORWARD, OPTIMIZER, OTHER
from flopcount.attribution.steps import codes_of, is_step_of
from flopcount.attribution.thread_state import ThreadState
from flopcount.torch_private.frames import STEP_CALL, UPKEEP_FILES, frames
from flopcount.torch_private.tensors import tensors_in


class Role(Enum):
    """What a function in the program is to the ops that it calls."""

    ANY = auto()
    STEP = auto()
    CLOSURE = auto()
    UPKEEP = auto()
    """It looks after gradients between backward and the step: clipping, unscaling."""


ROLE_LIMIT = 1 << 12
"""How many functions to remember."""

_roles: dict[int, tuple[CodeType, Role]] = {}  # the code itself, to keep its id() taken
_callees: set[tuple[int, int]] = set()  # what steps were seen to call: their closures are known


def phase_outside(thread: ThreadState, args: Any, *, hides_mode: bool = False) -> str:
    """The phase of an op with ``args`` that runs in ``thread`` outside every module.

    An op that hides whether gradients are on is taken for one of a program that has them on.
    """
    passed: list[CodeType] = []
    for frame in frames():
        code = frame.f_code
        known = _roles.get(id(code))
        role = known[1] if known else _learn(frame)
        if role is Role.UPKEEP:
            return OTHER
        if role is Role.STEP:
            if _called_closure(frame, passed):
                break
            thread.ask_frames_of_steps()
            return OPTIMIZER
        passed.append(code)
    if not (hides_mode or thread.records()):
        return OTHER
    if any(tensor.requires_grad for tensor in tensors_in(args)):
        thread.expect_no_step()  # the next forward pass has begun
    return FORWARD


def expect_steps_of(optimizer: Any) -> None:
    """Take the ops in ``optimizer.step()`` for a step, whatever class it has."""
    for code in codes_of([optimizer.step]):
        _note(code, Role.STEP)


def expect_closure(args: Iterable[Any], kwargs: Mapping[str, Any]) -> bool:
    """Take what the arguments of a step call for no part of it; whether there is any such."""
    codes = codes_of([*args, *kwargs.values()])
    for code in codes:
        _note(code, Role.CLOSURE)
    return bool(codes)


def _note(code: CodeType, role: Role) -> Role:
    if len(_roles) >= ROLE_LIMIT:
        _roles.clear()
        _callees.clear()
    _roles[id(code)] = code, role
    return role


def _learn(frame: FrameType) -> Role:
    code = frame.f_code
    role = Role.ANY
    if code is STEP_CALL:
        role = Role.STEP
    elif code.co_filename in UPKEEP_FILES:
        role = Role.UPKEEP
    elif code.co_name == "step" and code.co_argcount and is_step_of(code, _first_of(frame)):
        role = Role.STEP
    return _note(code, role)


def _first_of(frame: FrameType) -> Any:
    """The first argument of a function: the object, if it is a method."""
    return frame.f_locals.get(frame.f_code.co_varnames[0])


def _called_closure(step: FrameType, passed: list[CodeType]) -> bool:
    """Whether one of the functions that ``step`` has called is its closure."""
    pairs = {(id(step.f_code), id(code)) for code in passed}
    if step.f_code.co_argcount + step.f_code.co_kwonlyargcount > 1 and not pairs <= _callees:
        values = inspect.getargvalues(step)
        names = values.args[1:]
        expect_closure([values.locals.get(name) for name in names], {})
        _callees.update(pairs)
    return any(_roles.get(id(code)) == (code, Role.CLOSURE) for code in passed)
