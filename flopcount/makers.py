"""Which thread made an autograd node? Each numbers its nodes from 0, and a node does not say.

Once a second thread takes part, the nodes of a call are signed when it ends: they are those that
its results lead back to, by the numbers that the thread gave meanwhile. What cannot be signed may
have been made wherever a thread has a record of that number; if these are several places, nobody
knows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import Any, NamedTuple

import torch

from flopcount.record import Record
from flopcount.scope import Place
from flopcount.torch_private.autograd import NO_SEQUENCE_NR, next_sequence_nr, notes_of
from flopcount.torch_private.modes import tree_leaves

__all__ = ["Made", "Makers"]


class Made(NamedTuple):
    """Where a node was made, and the record of the thread that made it; each node has its own."""

    place: Place | None
    record: Record


class Makers:
    """Signs nodes, and reads the signatures."""

    def __init__(self) -> None:
        self._key = object()

    def made(self, node: Any) -> Made | None:
        """The signature of ``node``, if it has one."""
        found: Made | None = notes_of(node).get(self._key)
        return found

    def sign(self, record: Record, start: int, inputs: Any, results: Any) -> None:
        """Sign what a call made of ``inputs`` since its thread's number ``start``.

        If that is all that it made, the record need not tell of it any more, so that no node of
        another thread is taken for one of these.
        """
        end = next_sequence_nr()
        found: dict[int, list[Any]] = {}
        seen = {tensor.grad_fn for tensor in tensors(inputs)}
        waiting = [tensor.grad_fn for tensor in tensors(results)]
        while waiting:
            node = waiting.pop()
            if node is None or node in seen or (number := node._sequence_nr()) == NO_SEQUENCE_NR:
                continue
            seen.add(node)
            made = self.made(node)
            if made is None and start <= number < end:
                found.setdefault(number, []).append(node)
            if made is None or made.record is not record:  # else it is of an earlier call
                waiting += [source for source, _ in node.next_functions]
        for number, nodes in found.items():
            if len(nodes) == 1:  # of several all but one are another thread's
                notes_of(nodes[0])[self._key] = Made(record.place(number), record)
        if sum(len(nodes) == 1 for nodes in found.values()) == end - start:
            record.forget(start)


def tensors(value: Any) -> Iterator[torch.Tensor]:
    """The tensors in what a module takes or returns."""
    for leaf in tree_leaves(value):
        if isinstance(leaf, torch.Tensor):
            yield leaf
        elif is_dataclass(leaf) and not isinstance(leaf, type):
            yield from tensors(list(vars(leaf).values()))
