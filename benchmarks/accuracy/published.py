"""Forward MACs of every torchvision weight beside the figure that torchvision publishes with it.

What a two-stage detector finds depends on weights and image. Thresholds fix it: they are chosen for
the numbers of proposals and detections that fit the figure. Such rows are explained, not exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.accuracy.verdicts import AGREES, EXPLAINED, UNEXPLAINED, Row
from benchmarks.progress import progress
from flopcount import FlopCounter
from flopcount.cli import torchvision_models

__all__ = ["rows"]


def rows(quick: bool) -> Iterator[Row]:
    """Rows of all weights; if ``quick``, of one model of each kind."""
    import pytest

    from tests.detection import stand_in
    from tests.test_torchvision import DETECTORS, QUICK, published

    torchvision = torchvision_models.load()
    pairs = [parameters.values for parameters in published()]
    chosen = {str(weights): (name, weights) for name, weights in pairs}
    if quick:
        chosen = {key: pair for key, pair in chosen.items() if pair[0] in QUICK}
    measured: dict[Any, Row] = {}
    for key in progress(chosen, "published figures"):
        name, weights = chosen[key]
        with pytest.MonkeyPatch.context() as monkeypatch:
            if name in DETECTORS:
                stand_in(torchvision, monkeypatch, pool=False)
            yield row(name, weights, measured)


def row(name: str, weights: Any, measured: dict[Any, Row]) -> Row:
    """One image or clip, forward, in eval mode, with gradients on, as the figures were made.

    Weights of one architecture, input size and number of classes share the work.
    """
    from tests.test_torchvision import DETECTORS, FOUND, QUANTIZED

    on_cpu = name in QUANTIZED + DETECTORS  # these look at values
    with torch.device("cpu" if on_cpu else "meta"):
        inputs = torchvision_models.example_inputs(name, weights=weights.name)
    thresholds = FOUND.get(str(weights), {})
    classes = len(weights.meta.get("categories") or ())
    work = (name, inputs[0][0].shape, classes, str(thresholds))
    if work not in measured:
        model = torchvision_models.build(name, weights.name, meta=not on_cpu, **thresholds).eval()
        with FlopCounter(model) as counter, torch.set_grad_enabled(name not in DETECTORS):
            model(*inputs)
        report = counter.report()
        measured[work] = {"macs": report.total.macs, "uncounted": report.uncounted}
    found = {"name": str(weights), **measured[work], "published": weights.meta["_ops"]}
    return found | {"thresholds": thresholds, "verdict": verdict(found, thresholds)}


def verdict(found: Row, thresholds: Row) -> str:
    """Whether the count equals the printed digits, and whether thresholds were needed."""
    if round(found["macs"] / 1e9, 3) != found["published"]:
        return UNEXPLAINED
    return EXPLAINED if thresholds else AGREES
