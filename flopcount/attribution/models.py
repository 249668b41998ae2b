"""The models that a counter or a recorder is given: checked, each with the name of its root."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import Any

from torch import nn

from flopcount.attribution.paths import paths_below
from flopcount.attribution.tree import UNATTRIBUTED
from flopcount.attribution.wrappers import innermost, type_name

Given = nn.Module | Mapping[str, nn.Module] | None
"""What these take first: a model, or models by their names."""


def models_by_name(model: Given, others: Iterable[nn.Module]) -> dict[str, nn.Module]:
    """The given models by their names, or by their classes without their wrappers.

    Raises:
        TypeError: something is no module, or a name no string.
        ValueError: there is no model in the dict, a name is no word, or one of the models is in
            another.
    """
    models: dict[str, nn.Module] = {}
    if isinstance(model, Mapping):
        if others or not model:
            raise ValueError("expected a dict of at least one model, and nothing beside it")
        for name, named in model.items():
            models[_checked_name(name)] = _checked(named, f"model {name!r}")
    else:
        for given in map(_checked, (model, *others) if model is not None or others else ()):
            models[_unused(type_name(innermost(given)), (*models, UNATTRIBUTED))] = given
    inner = ((name, innermost(given)) for name, given in models.items())
    for (name, module), (other_name, other) in combinations(inner, 2):
        if module is other:
            raise ValueError(f"{name!r} and {other_name!r} are one model; give it once")
        _require_not_in(name, module, other_name, other)
        _require_not_in(other_name, other, name, module)
    return models


def _unused(base: str, names: Iterable[str]) -> str:
    """``Linear``, or ``Linear#2`` if there is one of this name already."""
    name, number = base, 1
    while name in names:
        number += 1
        name = f"{base}#{number}"
    return name


def _checked(model: Any, what: str = "model") -> nn.Module:
    if not isinstance(model, nn.Module):
        hint = "; several are FlopCounter(a, b)" if isinstance(model, (list, tuple)) else ""
        raise TypeError(f"{what} must be a torch.nn.Module, got {type(model).__name__}{hint}")
    return model


def _checked_name(name: Any) -> str:
    if not isinstance(name, str):
        raise TypeError(f"the name of a model must be a string, got {name!r}")
    if not name or "." in name or name == UNATTRIBUTED:
        raise ValueError(f"{name!r} cannot name a model: take a word without dots")
    return name


def _require_not_in(name: str, model: nn.Module, whole_name: str, whole: nn.Module) -> None:
    path = next((path for path, inner in paths_below(whole) if inner is model), None)
    if path is not None:
        raise ValueError(
            f"{name!r} is {path!r} of {whole_name!r}: give the whole alone, and its report has "
            f"the part at {path!r}"
        )
