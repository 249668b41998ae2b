"""torchvision's models by name, built as their published weights would build them.

The only place that knows about torchvision; no weights are ever downloaded.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib import import_module
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from flopcount.errors import FlopcountError, did_you_mean

CPU_BUILD = "operator torchvision::nms does not exist"
"""The error of importing a torchvision that was built for another torch."""

SCHEMAS = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
"""The ops that torchvision's Python code needs when it is imported."""

FRAMES = 16
"""Frames in a clip, as in the published figures of video models."""

SIDES = {"fasterrcnn_mobilenet_v3_large_320_fpn": 320, "keypointrcnn_resnet50_fpn": 1333}
SIDES |= {"ssd300_vgg16": 300, "ssdlite320_mobilenet_v3_large": 320}
TASK_SIDES = {"detection": 800, "optical_flow": 512}
"""Side of the square image, for weights whose transforms keep the size of their input."""

_libraries: list[torch.library.Library] = []  # a schema lives as long as its library
_lock = threading.RLock()


def load() -> ModuleType:
    """torchvision, even if its compiled ops do not fit the installed torch."""
    with _lock:
        try:
            return import_module("torchvision")
        except ModuleNotFoundError as error:
            if error.name != "torchvision":
                raise
            raise FlopcountError(
                'this needs torchvision: pip install "flopcount[vision]"'
            ) from error
        except RuntimeError as error:
            if str(error) != CPU_BUILD:
                raise
        library = torch.library.Library("torchvision", "FRAGMENT")
        _libraries.append(library)
        for name, schema in SCHEMAS.items():
            if not hasattr(torch.ops.torchvision, name):
                library.define(name + schema)
        return import_module("torchvision")


def known(name: str) -> str:
    """``name``, if torchvision has a model of that name, or an error that names the nearest."""
    names = load().models.list_models()
    if name not in names:
        raise FlopcountError(f"torchvision has no model {name!r}{did_you_mean(name, names)}")
    return name


def weights_of(name: str, weights: str | None = None) -> Any:
    """The entry of model ``name``'s weights enum, by default its ``DEFAULT``."""
    members = load().models.get_model_weights(known(name)).__members__
    if weights is not None and weights not in members:
        raise FlopcountError(f"{name} has no weights {weights!r}{did_you_mean(weights, members)}")
    return members[weights or "DEFAULT"]


def build(name: str, weights: str | None = None, *, meta: bool = False, **config: Any) -> nn.Module:
    """Model ``name`` with random parameters, built as its published weights would build it.

    Weights decide more than values: the number of classes, auxiliary heads, and whether the
    input is transformed.

    Args:
        name: a name of ``torchvision.models.list_models()``.
        weights: a name of the model's weights enum; by default ``"DEFAULT"``.
        meta: put it on the meta device, where it takes no memory.
        config: passed on to torchvision's builder.

    Raises:
        FlopcountError: no such model or weights, named with the nearest that exist; a quantized
            model on meta: it runs to calibrate itself.
    """
    chosen = weights_of(name, weights)
    if task(name) == "quantization":
        if meta:
            raise FlopcountError(f"{name} runs to calibrate itself: build it on the CPU")
        config = {"quantize": True, **config}
    with _not_loaded(type(chosen)), _EmptyOnMeta() if meta else nullcontext():
        model: nn.Module = load().models.get_model(name, weights=chosen, **config)
    return model.to("meta") if meta else model


def example_inputs(
    name: str, batch: int = 1, shape: Sequence[int] | None = None, weights: str | None = None
) -> tuple[Any, ...]:
    """Arguments for a call of model ``name``, of the size that its published figure is for.

    Args:
        name: a name of ``torchvision.models.list_models()``.
        batch: how many images, clips or pairs of images.
        shape: of one image ``(3, height, width)`` or clip ``(3, frames, height, width)``; by
            default what the weights' own transforms produce.
        weights: a name of the model's weights enum; by default ``"DEFAULT"``.

    Raises:
        FlopcountError: no such model or weights; names the nearest that exist.
    """
    chosen, kind = weights_of(name, weights), task(name)
    if shape is None:
        shape = _example_shape(name, kind, chosen.transforms())
    if kind == "detection":  # takes a list, whose images may differ in size
        return ([torch.rand(*shape) for _ in range(batch)],)
    images = 2 if kind == "optical_flow" else 1
    return tuple(torch.rand(batch, *shape) for _ in range(images))


def _example_shape(name: str, kind: str, transforms: Any) -> tuple[int, ...]:
    side = SIDES.get(name, TASK_SIDES.get(kind))
    size = getattr(transforms, "crop_size", None) or getattr(transforms, "resize_size", [side])
    height, width = size[0], size[-1]
    return (3, FRAMES, height, width) if kind == "video" else (3, height, width)


def task(name: str) -> str:
    """The part of torchvision that ``name`` is from: ``"detection"``; classifiers have none."""
    module: str = load().models.get_model_builder(known(name)).__module__
    return module.removeprefix("torchvision.models.").split(".")[0]


class _EmptyOnMeta(TorchFunctionMode):
    """Puts parameters, which begin as ``torch.empty``, on the meta device, and nothing else.

    RegNet's builder reads numbers that would have no values under ``torch.device("meta")``.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        device = {"device": "meta"} if func is torch.empty else {}
        return func(*args, **{**(kwargs or {}), **device})


@contextmanager
def _not_loaded(enum: Any) -> Iterator[None]:
    """Load none of ``enum``'s weights in this block; other threads still load theirs."""
    nothing: dict[str, Any] = {}
    builder = threading.get_ident()
    fetch, fill = enum.get_state_dict, nn.Module.load_state_dict

    def get_state_dict(self: Any, *args: Any, **kwargs: Any) -> Any:
        here = threading.get_ident() == builder
        return nothing if here else fetch(self, *args, **kwargs)

    def load_state_dict(self: nn.Module, state: Any, *args: Any, **kwargs: Any) -> Any:
        return None if state is nothing else fill(self, state, *args, **kwargs)

    with (
        _lock,
        patch.object(enum, "get_state_dict", get_state_dict),
        patch.object(nn.Module, "load_state_dict", load_state_dict),
    ):
        yield
