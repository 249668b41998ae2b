"""All weights that torchvision publishes a figure for, and that run in little time.

Left out are detectors, whose work depends on what they see, and weights of more than ``LIMIT``.
Weights of one architecture, input size and number of classes are run once.
"""

from __future__ import annotations

from functools import cache

from benchmarks.peers.cases.catalogue import Case
from benchmarks.peers.cases.networks import published
from flopcount.cli import torchvision_models

__all__ = ["LIMIT", "weights"]

LIMIT = 5
"""Giga multiply-accumulates; a CPU core does about 30 in a second."""


@cache
def weights() -> dict[str, tuple[Case, int]]:
    """By the first of alike weights: the case, and how many weights it stands for."""
    models = torchvision_models.load().models
    alike: dict[tuple[object, ...], list[str]] = {}
    cases = {}
    for name in models.list_models():
        if torchvision_models.task(name) == "detection":
            continue
        for entry in models.get_model_weights(name):
            if entry.meta["_ops"] > LIMIT:
                continue
            transforms = entry.transforms()
            size = getattr(transforms, "crop_size", None) or getattr(transforms, "resize_size", "")
            classes = len(entry.meta.get("categories") or ())
            first = alike.setdefault((name, str(size), classes, entry.meta["_ops"]), [])
            first.append(str(entry))
            if len(first) == 1:
                cases[str(entry)] = published(name, entry.name)
    return {entries[0]: (cases[entries[0]], len(entries)) for entries in alike.values()}
