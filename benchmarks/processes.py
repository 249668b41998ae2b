"""Runs jobs in processes of their own, so that no job meets what another left behind."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.connection import Connection
from typing import Any

__all__ = ["Died", "Hung", "in_a_fork", "in_a_new_process"]


class Died(Exception):
    """The process ended without an answer."""


class Hung(Exception):
    """There was no answer in time."""


def in_a_new_process(job: Callable[..., Any], *args: Any) -> Any:
    """The result of ``job(*args)`` in a new process, which has imported nothing else."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(job, *args).result()


def in_a_fork(job: Callable[..., Any], *args: Any, seconds: float) -> Any:
    """The result of ``job(*args)`` in a silent copy of this process.

    Raises:
        Died: the process ended without an answer.
        Hung: there was no answer within ``seconds``.
    """
    fork = multiprocessing.get_context("fork")
    receiver, sender = fork.Pipe(duplex=False)
    process = fork.Process(target=_answer, args=(sender, job, args))
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


def _answer(sender: Connection, job: Callable[..., Any], args: tuple[Any, ...]) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    sender.send(job(*args))
