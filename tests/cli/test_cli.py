from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import flopcount
from flopcount import cli


def build() -> nn.Module:
    """A model that the tests name as ``tests.cli.test_cli:build``."""
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


ready = nn.Linear(8, 4)
not_a_model = "text"


def refused(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 2) -> str:
    """The one line with which a bad command line is refused."""
    assert cli.main(arguments) == code
    output = capsys.readouterr()
    assert output.out == ""
    (line,) = output.err.splitlines()
    return line


def test_it_prints_the_report_of_a_training_step(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["resnet18", "--train", "--depth", "1", "--optimizer", "adamw"]) == 0
    output = capsys.readouterr().out
    assert "AdamW" in output.splitlines()[0]
    assert "layer4" in output
    assert "layer4.0" not in output
    assert output.rstrip().endswith("every op counted")


def test_what_it_prints_is_the_reports_own_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["tests.cli.test_cli:build", "--input", "8", "--train", "--batch", "3"]) == 0
    headline, _, table = capsys.readouterr().out.partition("\n\n")
    assert headline.startswith("tests.cli.test_cli:build(float32[3, 8]) on meta")
    model = build()
    optimizer = torch.optim.SGD(model.parameters())
    assert table.strip() == str(flopcount.count(model, torch.ones(3, 8), optimizer=optimizer))


def test_without_train_only_the_forward_pass_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["tests.cli.test_cli:build", "--input", "8"]) == 0
    output = capsys.readouterr().out
    assert "backward" not in output


def test_an_input_may_name_its_dtype(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["tests.cli.test_cli:embed", "--input", "5:int64"]) == 0
    assert "int64[1, 5]" in capsys.readouterr().out


def test_the_cpu_runs_what_needs_values(capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, "tests.cli.test_cli:reads_values", "--input", "4", code=1)
    assert line.endswith("--device cpu runs it on real values")
    assert cli.main(["tests.cli.test_cli:reads_values", "--input", "4", "--device", "cpu"]) == 0


def test_a_module_may_be_named_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["tests.cli.test_cli:ready", "--input", "8"]) == 0
    assert "Linear" in capsys.readouterr().out


def test_a_model_that_needs_a_larger_batch_is_told_so(capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, "tests.cli.test_cli:batch_norm", "--input", "4", "--train", code=1)
    assert line.endswith("--batch 2 gives it more")


def test_optimizer_none_leaves_the_optimizer_out(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["tests.cli.test_cli:build", "--input", "8", "--train", "--optimizer", "none"]
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
            ["tests.cli.test_cli:without_parameters", "--input", "8", "--train"],
            "optimizer got an empty parameter list; --optimizer none leaves it out",
        ),
        (["resnet18", "--train", "--optimizer", "muon"], "does not take the parameters"),
        (["fasterrcnn_resnet50_fpn", "--train"], "does not train on images alone"),
        (["quantized_resnet18"], "give --device cpu"),
        (["tests.cli.test_cli:", "--input", "8"], "expected package.module:callable"),
        ([":build", "--input", "8"], "expected package.module:callable"),
        (["nosuchpackage:build", "--input", "8"], "cannot import 'nosuchpackage'"),
        (["tests.cli.test_cli:biuld", "--input", "8"], "did you mean 'build'"),
        (["tests.cli.test_cli:not_a_model", "--input", "8"], "has no callable 'not_a_model'"),
        (["tests.cli.test_cli:refused", "--input", "8"], "without arguments failed: TypeError"),
        (["torch:get_default_dtype", "--input", "8"], "returned dtype; expected a torch.nn.Module"),
        (["tests.cli.test_cli:build"], "--input 3,224,224"),
        (["tests.cli.test_cli:embed", "--input", "5:long_"], "unknown dtype 'long_'"),
    ],
    ids=lambda value: " ".join(value) or "nothing" if isinstance(value, list) else "",
)
def test_bad_input_is_refused_in_one_line(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert says in refused(capsys, *arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_a_device_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "no CUDA device" in refused(capsys, "resnet50", "--device", "cuda")


def test_python_m_flopcount_is_the_same_command() -> None:
    command = [sys.executable, "-m", "flopcount", "resnet5"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == 2
    assert done.stderr.startswith("flopcount: error: ")
    assert len(done.stderr.splitlines()) == 1


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(["--version"])
    assert exit_.value.code == 0
    assert capsys.readouterr().out == f"flopcount {flopcount.__version__}\n"


class TestOps:
    """``flopcount ops``: how each op is decided."""

    def test_one_op_by_its_name(self, capsys: pytest.CaptureFixture[str]) -> None:
        for name in ("mm", "aten.mm", "aten::mm"):
            assert cli.main(["ops", name]) == 0
            output = capsys.readouterr().out
            assert [line.split()[0] for line in output.splitlines()[2:3]] == ["aten.mm"]
            assert "m·n dot products of length k" in output
            assert "aten.addmm" not in output

    def test_its_relatives_come_after_it(self, capsys: pytest.CaptureFixture[str]) -> None:
        for name in ("gelu", "GELU", "gelu.default"):
            assert cli.main(["ops", name]) == 0
            names = [line.split()[0] for line in capsys.readouterr().out.splitlines()[2:-2]]
            assert names[0] == "aten.gelu"
            assert "aten.gelu_backward" in names

    def test_a_part_of_a_name(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["ops", "max_pool"]) == 0
        output = capsys.readouterr().out
        assert "aten.max_pool2d_with_indices_backward" in output
        assert "aten.mm" not in output

    @pytest.mark.parametrize(
        ("op", "decision"),
        [
            ("aten.t", "view"),
            ("aten.clone", "free"),
            ("aten.matmul", "composite"),
            ("aten.relu", "formula"),
            ("aten._foobar", "uncounted"),
        ],
    )
    def test_decisions(self, op: str, decision: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["ops", op]) == 0
        assert capsys.readouterr().out.splitlines()[2].split()[:2] == [op, decision]

    def test_only_what_is_uncounted(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["ops", "--uncounted"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert {line.split()[1] for line in lines[2:-2]} == {"uncounted"}
        assert cli.main(["ops", "aten.mm", "--uncounted"]) == 0
        assert capsys.readouterr().out == "every op with aten.mm in its name is decided\n"

    def test_an_unknown_name_is_refused_with_near_ones(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert "no op is named 'aten.mmm'; did you mean 'aten.mm'" in refused(
            capsys, "ops", "aten.mmm"
        )


def test_a_reader_that_has_had_enough_is_no_error() -> None:
    """Below, the pipe is closed before anything is written."""
    run = subprocess.Popen(
        [sys.executable, "-m", "flopcount", "ops"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert run.stdout is not None
    assert run.stderr is not None
    run.stdout.close()
    assert run.stderr.read() == b""
    assert run.wait() == 0
