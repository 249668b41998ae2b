"""A process of its own for each question, so that what one breaks is not the next one's trouble."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

__all__ = ["Died", "Hung", "apart", "preload"]


class Died(Exception):
    """The process ended without an answer."""


class Hung(Exception):
    """There was no answer in time."""


CONTEXT = multiprocessing.get_context("forkserver")


def preload(modules: Sequence[str]) -> None:
    """What processes need not import any more, since they are forked from one that did."""
    CONTEXT.set_forkserver_preload(list(modules))


def apart(function: Callable[..., Any], *args: Any, seconds: float) -> Any:
    """``function(*args)`` in a new process, which is silent.

    Raises:
        Died: the process ended without an answer.
        Hung: it gave none within ``seconds``.
    """
    receiver, sender = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_answer, args=(sender, function, args))
    process.start()
    sender.close()
    try:
        if not receiver.poll(seconds):
            raise Hung
        return receiver.recv()
    except EOFError:
        raise Died from None
    finally:
        process.kill()
        process.join()
        receiver.close()


def _answer(sender: Connection, function: Callable[..., Any], args: Sequence[Any]) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    sender.send(function(*args))
