"""torchvision's models: names, architectures, sizes of inputs, and what importing it takes."""

from __future__ import annotations

import sys
from threading import Thread
from typing import Any

import pytest
import torch
from torch import nn

from flopcount import FlopcountError
from flopcount.cli import torchvision_models

try:
    torchvision = torchvision_models.load()
except FlopcountError as error:
    pytest.skip(str(error), allow_module_level=True)


# -- importing


def test_loading_again_gives_the_same_module() -> None:
    assert torchvision_models.load() is torchvision is sys.modules["torchvision"]
    assert hasattr(torch.ops.torchvision, "nms")


def test_a_missing_torchvision_is_an_error_that_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(FlopcountError, match=r'pip install "flopcount\[vision\]"'):
        torchvision_models.load()


@pytest.mark.parametrize(
    "failure",
    [RuntimeError("operator torchvision::other does not exist"), ModuleNotFoundError("no numpy")],
    ids=["another missing op", "another missing module"],
)
def test_any_other_failure_of_the_import_is_passed_on(
    monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    def fail(name: str) -> Any:
        raise failure

    monkeypatch.setattr(torchvision_models, "import_module", fail)
    with pytest.raises(type(failure), match=str(failure)):
        torchvision_models.load()


def test_missing_schemas_are_defined_and_the_import_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = [RuntimeError(torchvision_models.CPU_BUILD), torchvision]

    def answer(name: str) -> Any:
        result = answers.pop(0)
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(torchvision_models, "_libraries", [])
    monkeypatch.setattr(torchvision_models, "import_module", answer)
    monkeypatch.setattr(
        torchvision_models, "SCHEMAS", {"nms": "() -> ()", "flopcount_test": "(Tensor x) -> Tensor"}
    )
    assert torchvision_models.load() is torchvision
    assert len(torch.ops.torchvision.nms.default._schema.arguments) == 3  # it was there: kept
    assert len(torch.ops.torchvision.flopcount_test.default._schema.arguments) == 1


# -- building


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: torchvision_models.build("resnet5"), "'resnet5'; did you mean 'resnet50'"),
        (
            lambda: torchvision_models.example_inputs("mobilenetv2"),
            "'mobilenetv2'; did you mean 'mobilenet_v2'",
        ),
        (lambda: torchvision_models.build("zzz"), "torchvision has no model 'zzz'$"),
        (
            lambda: torchvision_models.build("resnet50", "IMAGENET1K_V3"),
            "resnet50 has no weights 'IMAGENET1K_V3'; did you mean 'IMAGENET1K_V",
        ),
    ],
    ids=["a model to build", "a model to make inputs for", "nothing like it", "weights"],
)
def test_a_misspelt_name_is_answered_with_near_ones(call: Any, message: str) -> None:
    with pytest.raises(FlopcountError, match=message):
        call()


def test_the_architecture_is_that_of_the_weights() -> None:
    googlenet: Any = torchvision_models.build("googlenet", meta=True)
    assert googlenet.transform_input  # the builder's own default is False
    assert googlenet.aux1 is None
    segmenter: Any = torchvision_models.build("fcn_resnet50", meta=True)
    assert segmenter.aux_classifier is not None
    assert segmenter.classifier[-1].out_channels == 21
    swag: Any = torchvision_models.build("vit_b_16", "IMAGENET1K_SWAG_E2E_V1", meta=True)
    assert swag.image_size == 384


def test_settings_are_passed_on_to_the_builder() -> None:
    model: Any = torchvision_models.build("alexnet", meta=True, dropout=0.25)
    assert model.classifier[0].p == 0.25


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_quantised_models_are_quantised() -> None:
    engine = torch.backends.quantized.engine
    try:
        model = torchvision_models.build("quantized_shufflenet_v2_x0_5")
    finally:
        torch.backends.quantized.engine = engine
    assert any("quantized" in type(module).__module__ for module in model.modules())


@pytest.mark.parametrize("name", ["resnet18", "regnet_y_400mf", "swin_t"])
def test_on_meta_no_parameter_takes_memory(name: str) -> None:
    model = torchvision_models.build(name, meta=True)
    real = torchvision_models.build(name)
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"meta"}
    assert {tensor.device.type for tensor in real.state_dict().values()} == {"cpu"}
    shapes = {path: tensor.shape for path, tensor in model.state_dict().items()}
    assert shapes == {path: tensor.shape for path, tensor in real.state_dict().items()}


# -- nothing is left behind


def patched() -> list[Any]:
    enum = type(torchvision_models.weights_of("alexnet"))
    return [nn.Module.load_state_dict, enum.get_state_dict, "get_state_dict" in vars(enum)]


def test_nothing_stays_patched_after_a_model_was_built() -> None:
    before = patched()
    torchvision_models.build("alexnet", meta=True)
    assert patched() == before


def test_nothing_stays_patched_after_a_builder_failed() -> None:
    before = patched()
    with pytest.raises(TypeError, match="no_such_setting"):
        torchvision_models.build("alexnet", meta=True, no_such_setting=1)
    assert patched() == before


def test_another_thread_loads_its_weights_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = torchvision_models.weights_of("alexnet")
    monkeypatch.setattr(type(weights).__mro__[1], "get_state_dict", lambda self: {"fetched": 1})
    source, target = nn.Linear(2, 2), nn.Linear(2, 2)
    fetched = []

    def load() -> None:
        fetched.append(weights.get_state_dict())
        target.load_state_dict(source.state_dict())

    with torchvision_models._not_loaded(type(weights)):
        assert weights.get_state_dict() == {}
        other = Thread(target=load)
        other.start()
        other.join()
    assert fetched == [{"fetched": 1}]
    assert torch.equal(target.weight, source.weight)


# -- inputs


@pytest.mark.parametrize(
    ("name", "weights", "shape"),
    [
        ("resnet50", None, (2, 3, 224, 224)),
        ("efficientnet_b1", None, (2, 3, 240, 240)),
        ("regnet_y_16gf", "IMAGENET1K_SWAG_E2E_V1", (2, 3, 384, 384)),
        ("quantized_inception_v3", None, (2, 3, 299, 299)),
        ("lraspp_mobilenet_v3_large", None, (2, 3, 520, 520)),
        ("r3d_18", None, (2, 3, 16, 112, 112)),
        ("swin3d_t", None, (2, 3, 16, 224, 224)),
    ],
)
def test_inputs_have_the_size_of_the_weights_transforms(
    name: str, weights: str | None, shape: tuple[int, ...]
) -> None:
    (images,) = torchvision_models.example_inputs(name, 2, weights=weights)
    assert images.shape == shape


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("fasterrcnn_resnet50_fpn", 800),
        ("fasterrcnn_mobilenet_v3_large_320_fpn", 320),
        ("keypointrcnn_resnet50_fpn", 1333),
        ("ssd300_vgg16", 300),
        ("ssdlite320_mobilenet_v3_large", 320),
    ],
)
def test_detectors_take_a_list_of_images(name: str, side: int) -> None:
    (images,) = torchvision_models.example_inputs(name, 2)
    assert [image.shape for image in images] == 2 * [(3, side, side)]


def test_optical_flow_takes_two_images() -> None:
    with torch.device("meta"):
        first, second = torchvision_models.example_inputs("raft_small")
    assert first.shape == second.shape == (1, 3, 512, 512)
    assert first.device.type == "meta"


def test_a_shape_of_ones_own_is_that_of_one_image() -> None:
    (images,) = torchvision_models.example_inputs("resnet18", 4, (3, 64, 96))
    assert images.shape == (4, 3, 64, 96)
    (listed,) = torchvision_models.example_inputs("ssd300_vgg16", 1, (3, 64, 96))
    assert [image.shape for image in listed] == [(3, 64, 96)]
