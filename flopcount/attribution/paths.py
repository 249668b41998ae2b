"""Paths: by which attributes does a module own another?"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Any

from torch import nn

from flopcount.attribution.wrappers import innermost

Way = list[tuple[str, Any]]
"""The modules, and the lists and dicts of modules, from an owner down to a module, with the name
of each in the one before."""

TORCHS_OWN = frozenset(vars(nn.Module()))
"""Attributes that every module has, and in which nobody keeps modules of their own."""

CONTAINERS = (dict, list, tuple)
ITEM_LIMIT = 1000
CONTAINER_LIMIT = 10_000
"""How many items of a container to look at, and how many containers: data may be in them, too."""


def paths_below(owner: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """``owner`` and each module that it registered, at any depth, once, with its shortest path.

    A class may redefine ``modules()`` and ``parameters()``; no such method is asked here.
    """
    seen = {id(owner)}
    waiting = deque([("", owner)])
    while waiting:
        path, module = waiting.popleft()
        yield path, module
        for name, child in module._modules.items():
            if child is not None and id(child) not in seen:
                seen.add(id(child))
                waiting.append((f"{path}.{name}" if path else name, child))


def every_name_below(owner: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Each name under which a module below ``owner`` is registered, wrappers left out.

    What is below a module that has several names is listed below the first of them.
    """
    seen = {id(owner)}
    waiting = deque([("", owner)])
    while waiting:
        prefix, module = waiting.popleft()
        for name, child in module._modules.items():
            if child is not None:
                inner = innermost(child)
                yield prefix + name, inner
                if id(inner) not in seen:
                    seen.add(id(inner))
                    waiting.append((f"{prefix}{name}.", inner))


def way_along(path: str, owner: nn.Module, module: nn.Module) -> Way:
    """The way from ``owner`` to ``module``, if ``path`` leads there; else it is empty."""
    way: Way = []
    step = owner
    for name in path.split(".") if path else ():
        child = getattr(step, name, None)
        if not isinstance(child, nn.Module):
            return []
        way.append((name, child))
        step = child
    return way if step is module else []


def way_through_containers(owner: nn.Module, module: nn.Module) -> Way:
    """The shortest way from ``owner`` to ``module`` that may lead through lists and dicts.

    Such a module is not registered; whoever keeps it there calls it ``layers[0]``, and we say
    ``layers.0``.
    """
    ways: dict[int, Way] = {id(owner): []}
    for holder, name, item in held_below(owner):
        ways[id(item)] = way = [*ways[id(holder)], (name, item)]
        if item is module:
            return way
    return []


def held_below(owner: nn.Module) -> Iterator[tuple[Any, str, Any]]:
    """Each module and container that ``owner`` leads to, once, with its holder and its name there.

    They may be registered or not.
    """
    seen, num_containers = {id(owner)}, 0
    waiting: deque[Any] = deque([owner])
    while waiting:
        holder = waiting.popleft()
        for name, item in _contents(holder):
            if id(item) not in seen:
                num_containers += not isinstance(item, nn.Module)
                if num_containers > CONTAINER_LIMIT and not isinstance(item, nn.Module):
                    continue
                seen.add(id(item))
                waiting.append(item)
                yield holder, name, item


def _contents(holder: Any) -> Iterator[tuple[str, Any]]:
    """The modules and containers in a module or container, with the names that they have there."""
    if isinstance(holder, nn.Module):
        yield from ((n, child) for n, child in holder._modules.items() if child is not None)
        for name, value in list(vars(holder).items()):
            if isinstance(value, CONTAINERS) and name not in TORCHS_OWN:
                yield name, value
        return
    # a class may redefine its iteration; no such method is asked here
    items = dict.items(holder) if isinstance(holder, dict) else enumerate(_listed(holder))
    for key, item in list(islice(items, ITEM_LIMIT)):
        if isinstance(item, (nn.Module, *CONTAINERS)):
            yield str(key) or repr(key), item


def _listed(holder: Any) -> Iterator[Any]:
    return (list if isinstance(holder, list) else tuple).__iter__(holder)
