"""Shows how far a benchmark is."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TypeVar

__all__ = ["progress"]

T = TypeVar("T")


def progress(items: Collection[T], label: str) -> Iterator[T]:
    """Go through ``items``, and show the current one on standard error."""
    from tqdm import tqdm  # an extra, and tests import benchmarks without it

    with tqdm(items, desc=label, dynamic_ncols=True, mininterval=1) as bar:
        for item in bar:
            bar.set_postfix_str(str(item)[:40])
            yield item
