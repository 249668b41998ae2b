"""``flopcount MODEL``: what a step of a model costs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import flopcount
from flopcount import cli
from tests.cli.conftest import refused


def build() -> nn.Module:
    """A model that the tests name as ``tests.cli.test_count:build``."""
    return nn.Sequential(nn.Linear(8, 4), nn.ReLU())


def embed() -> nn.Module:
    return nn.Embedding(10, 4)


def reads_values() -> nn.Module:
    class Branch(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2 if x.sum() > 1e9 else x

    return Branch()


def without_parameters() -> nn.Module:
    return nn.ReLU()


def batch_norm() -> nn.Module:
    return nn.BatchNorm1d(4)


def fails_below_an_empty_line() -> nn.Module:
    raise ValueError("\n  no weights here\n  look elsewhere")


def fails_below_a_heading() -> nn.Module:
    model = nn.Linear(8, 4)
    model.load_state_dict({"weight": model.weight})
    return model


def fails_without_words() -> nn.Module:
    raise AssertionError


def runs_into_an_error() -> nn.Module:
    class Fails(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("\n\nsizes differ:\n\n  expected 3, got 4\n  at the head")

    return Fails()


def returns_a_namespace() -> nn.Module:
    class Wraps(nn.Linear):
        def forward(self, x: torch.Tensor) -> Any:
            return SimpleNamespace(y=super().forward(x))

    return Wraps(8, 4)


ready = nn.Linear(8, 4)
not_a_model = "text"


def test_it_prints_the_report_of_a_training_step(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["resnet18", "--train", "--depth", "1", "--optimizer", "adamw"]) == 0
    output = capsys.readouterr().out
    assert "AdamW" in output.splitlines()[0]
    assert "layer4" in output
    assert "layer4.0" not in output
    assert output.rstrip().endswith("every op counted")


def test_what_it_prints_is_the_reports_own_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["tests.cli.test_count:build", "--input", "8", "--train", "--batch", "3"]) == 0
    headline, _, table = capsys.readouterr().out.partition("\n\n")
    assert headline.startswith("tests.cli.test_count:build(float32[3, 8]) on meta")
    model = build()
    optimizer = torch.optim.SGD(model.parameters())
    assert table.strip() == str(flopcount.count(model, torch.ones(3, 8), optimizer=optimizer))


def test_without_train_only_the_forward_pass_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["tests.cli.test_count:build", "--input", "8"]) == 0
    output = capsys.readouterr().out
    assert "backward" not in output


def test_an_input_may_name_its_dtype(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["tests.cli.test_count:embed", "--input", "5:int64"]) == 0
    assert "int64[1, 5]" in capsys.readouterr().out


def test_the_cpu_runs_what_needs_values(capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, "tests.cli.test_count:reads_values", "--input", "4", code=1)
    assert line.endswith("--device cpu runs it on real values")
    assert cli.main(["tests.cli.test_count:reads_values", "--input", "4", "--device", "cpu"]) == 0


def test_a_module_may_be_named_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["tests.cli.test_count:ready", "--input", "8"]) == 0
    assert "Linear" in capsys.readouterr().out


def test_a_model_that_needs_a_larger_batch_is_told_so(capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, "tests.cli.test_count:batch_norm", "--input", "4", "--train", code=1)
    assert line.endswith("--batch 2 gives it more")


def test_optimizer_none_leaves_the_optimizer_out(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["tests.cli.test_count:build", "--input", "8", "--train", "--optimizer", "none"]
    assert cli.main(arguments) == 0
    output = capsys.readouterr().out
    assert "backward" in output
    assert "\noptimizer" not in output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "MODEL"),
        (["resnet5O"], "did you mean 'resnet50'"),
        (["resnet50", "--batch", "0"], "expected a whole number from 1 up, got '0'"),
        (["resnet50", "--batch", "two"], "expected a whole number such as 2, got 'two'"),
        (["resnet50", "--depth", "-1"], "--depth"),
        (["resnet50", "--input", "3,x"], "expected positive numbers joined by commas"),
        (["resnet50", "--input", "3,0,2"], "expected positive numbers joined by commas"),
        (["resnet50", "--device", "tpu"], "choose from"),
        (["resnet50", "--optimizer", "sgd"], "give --train too"),
        (["resnet50", "--train", "--optimizer", "adamx"], "did you mean 'adamax' or 'adam'"),
        (
            ["tests.cli.test_count:without_parameters", "--input", "8", "--train"],
            "optimizer got an empty parameter list; --optimizer none leaves it out",
        ),
        (["resnet18", "--train", "--optimizer", "muon"], "does not take the parameters"),
        (["fasterrcnn_resnet50_fpn", "--train"], "does not train on images alone"),
        (["quantized_resnet18"], "give --device cpu"),
        (["tests.cli.test_count:", "--input", "8"], "expected package.module:callable"),
        ([":build", "--input", "8"], "expected package.module:callable"),
        (["nosuchpackage:build", "--input", "8"], "cannot import 'nosuchpackage'"),
        (["tests.cli.test_count:biuld", "--input", "8"], "did you mean 'build'"),
        (["tests.cli.test_count:not_a_model", "--input", "8"], "has no callable 'not_a_model'"),
        (["tests.cli.test_count:refused", "--input", "8"], "without arguments failed: TypeError"),
        (["torch:get_default_dtype", "--input", "8"], "returned dtype; expected a torch.nn.Module"),
        (["tests.cli.test_count:build"], "--input 3,224,224"),
        (["tests.cli.test_count:embed", "--input", "5:long_"], "unknown dtype 'long_'"),
    ],
    ids=lambda value: " ".join(value) or "nothing" if isinstance(value, list) else "",
)
def test_bad_input_is_refused_in_one_line(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert says in refused(capsys, *arguments)


@pytest.mark.parametrize(
    ("factory", "says"),
    [
        ("fails_below_an_empty_line", "failed: ValueError: no weights here"),
        (
            "fails_below_a_heading",
            'Error(s) in loading state_dict for Linear: Missing key(s) in state_dict: "bias".',
        ),
        ("fails_without_words", "failed: AssertionError"),
    ],
)
def test_the_line_of_an_error_that_says_something_is_shown(
    factory: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, f"tests.cli.test_count:{factory}", "--input", "8")
    assert line.rstrip().endswith(says)


def test_so_it_is_if_the_model_fails(capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, "tests.cli.test_count:runs_into_an_error", "--input", "8", code=1)
    assert line.endswith("RuntimeError: sizes differ: expected 3, got 4")


def test_a_file_that_fails_when_it_is_imported_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_models.py").write_text("raise RuntimeError('\\nno config\\nat all')")
    monkeypatch.syspath_prepend(tmp_path)
    line = refused(capsys, "broken_models:build", "--input", "8")
    assert line.endswith("cannot import 'broken_models': RuntimeError: no config")


def test_an_output_without_a_loss_says_what_the_command_can_do(
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["tests.cli.test_count:returns_a_namespace", "--input", "8", "--train"]
    line = refused(capsys, *arguments, code=1)
    assert line.endswith("without --train the forward pass is counted")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_a_device_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "no CUDA device" in refused(capsys, "resnet50", "--device", "cuda")
