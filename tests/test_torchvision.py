"""Every model of torchvision: published figures, whole training steps, and their module trees."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple
from functools import cache
from typing import Any

import pytest
import torch

import flopcount
from flopcount import Cost, FlopCounter, Report
from flopcount.cli import torchvision_models
from tests.detection import stand_in

try:
    torchvision = torchvision_models.load()
except flopcount.FlopcountError as error:
    pytest.skip(str(error), allow_module_level=True)

models = torchvision.models

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")

DETECTORS = models.list_models(models.detection)
QUANTIZED = models.list_models(models.quantization)

QUICK = {
    *("alexnet", "convnext_tiny", "efficientnet_b0", "fasterrcnn_mobilenet_v3_large_320_fpn"),
    *("googlenet", "inception_v3", "lraspp_mobilenet_v3_large", "mobilenet_v2"),
    *("quantized_mobilenet_v2", "quantized_resnet18", "r3d_18", "raft_small"),
    *("regnet_y_400mf", "resnet50", "shufflenet_v2_x0_5", "ssdlite320_mobilenet_v3_large"),
    *("swin_v2_t", "vit_b_16"),
}
"""One of each kind that takes no time; the others run with ``--slow``."""

THOUSAND_PROPOSALS = {"rpn_nms_thresh": 2.0, "rpn_pre_nms_top_n_test": 3000}
NO_DETECTION = {"box_score_thresh": 1.1}
ANY_DETECTION = {"box_score_thresh": -1.0, "box_nms_thresh": 2.0}
# Figures of two-stage detectors stand for what the published weights made of an image of noise:
# scores are at most 1 and boxes overlap by at most 1, so that thresholds above fix the numbers.
FOUND: dict[str, dict[str, Any]] = {
    "FasterRCNN_MobileNet_V3_Large_320_FPN_Weights.COCO_V1": {"rpn_score_thresh": 1.1},
    "FasterRCNN_MobileNet_V3_Large_FPN_Weights.COCO_V1": {"rpn_score_thresh": 1.1},
    "FasterRCNN_ResNet50_FPN_Weights.COCO_V1": THOUSAND_PROPOSALS | NO_DETECTION,
    "FasterRCNN_ResNet50_FPN_V2_Weights.COCO_V1": THOUSAND_PROPOSALS | NO_DETECTION,
    "MaskRCNN_ResNet50_FPN_Weights.COCO_V1": THOUSAND_PROPOSALS | NO_DETECTION,
    "MaskRCNN_ResNet50_FPN_V2_Weights.COCO_V1": THOUSAND_PROPOSALS | ANY_DETECTION,  # 100, the most
    "KeypointRCNN_ResNet50_FPN_Weights.COCO_LEGACY": THOUSAND_PROPOSALS | NO_DETECTION,
    "KeypointRCNN_ResNet50_FPN_Weights.COCO_V1": (
        THOUSAND_PROPOSALS | ANY_DETECTION | {"box_detections_per_img": 1}
    ),
}


def slow(name: str) -> Any:
    return () if name in QUICK else pytest.mark.slow


def cases(names: list[str]) -> list[Any]:
    return [pytest.param(name, marks=slow(name)) for name in names]


def published() -> list[Any]:
    return [
        pytest.param(name, weights, id=str(weights), marks=slow(name))
        for name in models.list_models()
        for weights in models.get_model_weights(name)
    ]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads, engine = torch.get_num_threads(), torch.backends.quantized.engine
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch.backends.quantized.engine = engine  # building a quantised model chooses one


@cache
def step(name: str, batch: int) -> Report:
    """Forward and backward of the sum of all outputs, on the meta device."""
    model = torchvision_models.build(name, meta=True).train()
    with torch.device("meta"):
        inputs = torchvision_models.example_inputs(name, batch)
    return flopcount.count(model, *inputs)


# -- published figures


measured: dict[tuple[str, ...], int] = {}
"""Weights of one architecture, input size and number of classes share the work."""


def forward_macs(name: str, weights: Any) -> int:
    """One image or clip, forward, eval, with gradients on as when the figures were made."""
    on_cpu = name in QUANTIZED + DETECTORS  # these look at values
    with torch.device("cpu" if on_cpu else "meta"):
        inputs = torchvision_models.example_inputs(name, weights=weights.name)
    found = FOUND.get(str(weights), {})
    classes = len(weights.meta.get("categories") or ())
    work = (name, str(inputs[0][0].shape), str(classes), str(found))
    if work not in measured:
        model = torchvision_models.build(name, weights.name, meta=not on_cpu, **found).eval()
        with FlopCounter(model) as counter, torch.set_grad_enabled(name not in DETECTORS):
            model(*inputs)
        measured[work] = counter.report().total.macs
    return measured[work]


@pytest.mark.parametrize(("name", "weights"), published())
def test_forward_macs_are_the_published_ones(
    name: str, weights: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name in DETECTORS:
        stand_in(torchvision, monkeypatch, pool=False)
    assert round(forward_macs(name, weights) / 1e9, 3) == weights.meta["_ops"]


def test_every_published_figure_is_compared() -> None:
    figures = [param.values[1].meta["_ops"] for param in published()]
    assert len(figures) >= 166
    assert all(figure > 0 for figure in figures)


# -- training steps


def assert_whole(report: Report) -> None:
    """Every op is counted, every count belongs to one module, and modules add up to the total."""
    assert report.uncounted == {}
    assert "unattributed" not in {node.name for node in report.root.walk()}
    assert sum((node.own for node in report.root.walk()), Cost()) == report.root.total
    assert sum(report.by_operator().values(), Cost()) == report.root.total
    for node in report.root.walk():
        below = sum((child.total for child in node.children), node.own)
        assert node.total == below == sum(node.phases.values(), Cost())
        assert min(astuple(node.own)) >= 0  # so that no child exceeds its parent


STEPS = [name for name in models.list_models() if name not in QUANTIZED + DETECTORS]


@pytest.mark.parametrize("name", cases(STEPS))
def test_a_training_step_is_counted_and_attributed_whole(name: str) -> None:
    report = step(name, 2)
    assert_whole(report)
    assert report.phases["backward"].macs > 1.4 * report.phases["forward"].macs


BOX = torch.tensor([[8.0, 8.0, 50.0, 40.0]])
TARGET = {
    "boxes": BOX,
    "labels": torch.tensor([1]),
    "masks": torch.ones(1, 64, 64, dtype=torch.uint8),
    "keypoints": torch.tensor([[[20.0, 20.0, 1.0]] * 17]),
}


@pytest.mark.parametrize("name", cases(DETECTORS))
def test_a_detectors_training_step_is_counted_whole(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(torchvision, monkeypatch)
    torch.manual_seed(0)
    small = {} if name.startswith("ssd") else {"min_size": 64, "max_size": 64}
    if "rcnn" in name:
        small["box_batch_size_per_image"] = 16
    images = torchvision_models.example_inputs(name, 2, (3, 64, 64))[0]
    report = flopcount.count(
        torchvision_models.build(name, **small).train(), images, [TARGET, TARGET]
    )
    assert_whole(report)
    assert report.phases["backward"].macs > 0


# -- exact figures


def test_resnet50s_macs_forward_and_backward() -> None:
    report = step("resnet50", 1)
    assert report.phases["forward"].macs == 4_089_184_256
    assert report.phases["backward"].macs == 8_060_354_560


def test_convnext_tinys_matmul_flops_of_a_step() -> None:
    assert step("convnext_tiny", 1).total.matmul_flops == 26_704_286_208


@pytest.mark.parametrize(
    ("name", "gmacs"),
    [
        ("efficientnet_b0", 1.522),
        ("mobilenet_v2", 1.181),
        ("convnext_tiny", 17.793),
        ("resnext50_32x4d", 16.686),
    ],
)
def test_backward_gmacs_of_grouped_convolutions(name: str, gmacs: float) -> None:
    assert round(step(name, 2).phases["backward"].macs / 1e9, 3) == gmacs


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        # the first convolution: dot products of length 3 channels · k², over the halved or
        # quartered image
        ("resnet50", 2 * (64 * 112 * 112) * (3 * 7 * 7)),
        ("resnext50_32x4d", 2 * (64 * 112 * 112) * (3 * 7 * 7)),
        ("efficientnet_b0", 2 * (32 * 112 * 112) * (3 * 3 * 3)),
        ("mobilenet_v2", 2 * (32 * 112 * 112) * (3 * 3 * 3)),
        ("convnext_tiny", 2 * (96 * 56 * 56) * (3 * 4 * 4)),
    ],
)
def test_backward_is_twice_forward_but_for_the_gradient_of_the_image(name: str, stem: int) -> None:
    phases = step(name, 2).phases
    assert phases["backward"].macs == 2 * phases["forward"].macs - stem


def test_gradients_of_input_and_weight_are_the_whole_backward() -> None:
    report = step("resnet50", 1)
    gradients = report.model.gradients
    stem = (64 * 112 * 112) * (3 * 7 * 7)
    assert gradients["weight"].macs == report.phases["forward"].macs
    assert gradients["input"].macs == report.phases["forward"].macs - stem
