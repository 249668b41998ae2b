"""Models of libraries, recorded and counted: modules and ops have the same products and FLOPs."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import flopcount
from flopcount import FlopCounter, FlopcountError
from flopcount.cli import torchvision_models
from tests.trace.recordings import flops

pytestmark = pytest.mark.filterwarnings("ignore")

REASONS = {
    "aten.index_put": "which elements are written is not recorded",
    "aten._grouped_mm": "its kernel for float32 runs a product for each group, which are recorded",
    "aten.mm": "the same",
    "aten._ctc_loss_backward": "the lengths of its sequences are values",
    "aten._ctc_loss": "the same",
    "aten.div": "its rounding mode is a word, which is not recorded",
    "aten.sum": "of a list of losses, which has another shape in the recording",
}
"""Ops that may count otherwise, and why; all else is equal."""

GELU = {"aten.gelu", "aten.gelu_backward"}
"""Which approximation they use is a word, which is not recorded."""


def seed() -> None:
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)


def assert_recorded_as_counted(
    make: Callable[[], nn.Module], step: Callable[[Any], Any], but: Collection[str] = ()
) -> None:
    seed()
    model = make()
    seed()
    with flopcount.record(model) as recording:
        step(model)
    report = recording.report()
    seed()
    model = make()
    seed()
    with FlopCounter(model) as counter:
        step(model)
    expected = counter.report()
    assert list(report) == list(expected)
    for path in expected:
        ours, theirs = report[path].phases, expected[path].phases
        assert {p: c.macs for p, c in ours.items()} == {p: c.macs for p, c in theirs.items()}
        assert report[path].params == expected[path].params
        assert report[path].calls == expected[path].calls
    ours, theirs = flops(report), flops(expected)
    left_out = {*REASONS, *but}
    assert {key: ours[key] for key in ours if key[1] not in left_out} == {
        key: theirs[key] for key in theirs if key[1] not in left_out
    }


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def with_step(model: nn.Module, *inputs: Any) -> None:
    """A training step, of which the optimizer is a part."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    output = model(*inputs)
    getattr(output, "last_hidden_state", output).sum().backward()
    optimizer.step()


def test_the_readmes_block() -> None:
    def made() -> nn.Module:
        return nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 10))

    assert_recorded_as_counted(made, lambda model: with_step(model, torch.randn(32, 64)))


def test_the_readmes_resnet() -> None:
    models = torchvision_or_skip()
    inputs = torch.randn(1, 3, 224, 224)
    assert_recorded_as_counted(models.resnet50, lambda model: with_step(model, inputs))


def test_the_readmes_bert() -> None:
    """The README counts eight sequences on the meta device; here one runs."""
    transformers = pytest.importorskip("transformers")  # of the bench extra; CI installs it
    configuration = transformers.BertConfig(attn_implementation="sdpa")
    inputs = torch.zeros(1, 128, dtype=torch.int64)
    made = partial(transformers.AutoModel.from_config, configuration)
    assert_recorded_as_counted(made, lambda model: with_step(model, inputs))


def torchvision_or_skip() -> Any:
    """The models of torchvision; a skip without it, as the core works without. CI installs it."""
    try:
        torchvision_models.load()
    except FlopcountError:
        pytest.skip("needs torchvision")  # not there, or built for another torch
    import torchvision

    return torchvision.models


def architectures() -> Any:
    try:
        from tests.libraries import test_transformers as steps
    except pytest.skip.Exception:  # the library is not here
        return None
    return steps


STEPS = architectures()


@pytest.mark.skipif(STEPS is None, reason="needs transformers")
@pytest.mark.parametrize("name", STEPS.ARCHITECTURES if STEPS else ())
def test_architectures_of_hugging_face(name: str) -> None:
    _, inputs = STEPS.ARCHITECTURES[name]

    def made() -> nn.Module:
        try:
            model: nn.Module = STEPS.built(name, "sdpa")
        except pytest.skip.Exception:
            model = STEPS.built(name, "eager")
        return model

    but = GELU if name.startswith("Gemma") else ()
    assert_recorded_as_counted(made, lambda model: STEPS.step(model, inputs), but)


FAMILIES: dict[str, tuple[int, dict[str, Any]]] = {
    "alexnet": (64, {}),
    "vgg11_bn": (32, {}),
    "squeezenet1_1": (64, {}),
    "resnet18": (64, {}),
    "resnext50_32x4d": (32, {}),
    "densenet121": (32, {}),
    "inception_v3": (96, {"init_weights": False, "aux_logits": False}),
    "googlenet": (64, {"init_weights": False, "aux_logits": False}),
    "shufflenet_v2_x0_5": (64, {}),
    "mobilenet_v2": (64, {}),
    "mobilenet_v3_small": (64, {}),
    "mnasnet0_5": (64, {}),
    "efficientnet_b0": (64, {}),
    "efficientnet_v2_s": (32, {}),
    "regnet_y_400mf": (64, {}),
    "convnext_tiny": (64, {}),
    "vit_b_16": (32, {"image_size": 32}),
    "swin_t": (64, {}),
    "swin_v2_t": (64, {}),
    "maxvit_t": (64, {"input_size": (64, 64), "partition_size": 2}),
}
"""One of each family of classifiers in torchvision: the size of its images, and its options."""


@pytest.mark.parametrize("name", FAMILIES)
def test_families_of_torchvision(name: str) -> None:
    """A training step on two images."""
    size, options = FAMILIES[name]
    models = torchvision_or_skip()
    made: Callable[[], nn.Module]
    if name == "maxvit_t":
        from torchvision.models.maxvit import MaxVit

        parts = {"stem_channels": 16, "block_channels": [16], "block_layers": [1], "head_dim": 8}
        whole = {**options, **parts, "stochastic_depth_prob": 0.0, "num_classes": 10}
        made = partial(MaxVit, **whole)
    else:
        made = partial(models.get_model, name, weights=None, **options)
    assert_recorded_as_counted(
        lambda: made().train(), lambda model: model(torch.ones(2, 3, size, size)).sum().backward()
    )
