"""Progress: which of many things a benchmark is at."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TypeVar

__all__ = ["each"]

T = TypeVar("T")


def each(things: Collection[T], what: str) -> Iterator[T]:
    """``things`` one after the other, the one at hand shown on standard error."""
    from tqdm import tqdm  # an extra, and tests import benchmarks without it

    with tqdm(things, desc=what, dynamic_ncols=True, mininterval=1) as bar:
        for thing in bar:
            bar.set_postfix_str(str(thing)[:40])
            yield thing
