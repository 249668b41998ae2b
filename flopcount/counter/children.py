"""Processes that the program starts: a counter does not see into them, so the report names them."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from itertools import takewhile
from types import FrameType
from typing import Any

from flopcount.report.report import LOADER
from flopcount.torch_private.method_hook import Hook, Methods

WORKERS = {
    "torch.utils.data._utils.worker": LOADER,
    "concurrent.futures.process": "ProcessPoolExecutor worker",
    "multiprocessing.pool": "Pool worker",
}
"""What processes run that are started by libraries, by the module of their function."""

BESIDES = frozenset({"multiprocessing.managers", "multiprocessing.resource_sharer"})
"""Modules whose processes keep other processes in touch, and run nothing of the program's."""

NAMED = frozenset({("multiprocessing.process", "start"), ("subprocess", "_execute_child")})
"""Functions that may fork, and whose children have a name already."""

PYTHON = re.compile(r"(python[\d.]*|torchrun|accelerate|deepspeed)(\.exe)?")
"""Commands that run Python programs."""


class Children:
    """Notes the processes that are started while counters are open.

    Args:
        counters: every FlopCounter that is open in any thread.
    """

    def __init__(self, counters: Sequence[Any]) -> None:
        self._counters = counters

    def hooks(self) -> Iterator[tuple[Methods, Hook]]:
        """The methods to be watched, each with what is called before it."""
        yield Methods("multiprocessing.process", "BaseProcess", ("start",)), self._start
        yield Methods("subprocess", "Popen", ("_execute_child",)), self._execute

    def _start(self, process: Any) -> None:
        target = getattr(process, "_target", None)
        module = getattr(target, "__module__", "")
        if module == "torch.multiprocessing.spawn":  # it wraps the user's function
            target = process._args[0]
        if module not in BESIDES:
            own = getattr(target, "__qualname__", type(target or process).__name__)
            self._note(WORKERS.get(module, own))

    def _execute(self, popen: Any) -> None:
        frame: FrameType | None = sys._getframe()
        while frame and frame.f_code.co_name != "__init__":
            frame = frame.f_back
        args = frame.f_locals.get("args") if frame else None
        if name := python_program(args):
            self._note(name)

    def note_fork(self) -> None:
        """Note a child that ``os.fork`` has started, unless it has a name already."""
        if self._counters:
            frame: FrameType | None = sys._getframe()
            while frame:
                if (frame.f_globals.get("__name__"), frame.f_code.co_name) in NAMED:
                    return
                frame = frame.f_back
            self._note("os.fork")

    def _note(self, name: str) -> None:
        for counter in dict.fromkeys(tuple(self._counters)):
            counter._children[name] = counter._children.get(name, 0) + 1


def python_program(command: Any) -> str:
    """The Python program that a command runs, or nothing.

    >>> python_program(["/usr/bin/python3", "-u", "tools/train.py", "--lr", "1"])
    'python3 train.py'
    >>> python_program("torchrun train.py"), python_program(["git", "log"])
    ('torchrun train.py', '')
    """
    words = command.split() if isinstance(command, str) else command
    if not isinstance(words, (list, tuple)):
        return ""
    first, *rest = (str(word) for word in words or [""])
    name = os.path.basename(first)
    if not PYTHON.fullmatch(name) and first != sys.executable:
        return ""
    options = list(takewhile(lambda word: word.startswith("-") and word not in ("-c", "-m"), rest))
    program = rest[len(options) :][:2]
    if any("compile_worker" in word for word in program):  # torch's compiler, in the background
        return ""
    what = program if program[:1] == ["-m"] else program[:1]
    return " ".join([name, *map(os.path.basename, what)])
