"""Recording a block: the user's names, and nothing changed."""

from __future__ import annotations

import gc
import gzip
import json
import threading
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import schedule
from torch.utils.checkpoint import checkpoint

import flopcount
from flopcount import Cost, FlopCounter, FlopcountError, Report
from tests.hooks import watchers
from tests.trace.models import P, batch, linear, nested
from tests.trace.recordings import products_of


class Shared(nn.Module):
    """A layer with two names, one in a list, and one that a sibling calls by a lambda."""

    def __init__(self) -> None:
        super().__init__()
        self.first = linear()
        self.again = self.first
        self.listed = [linear()]
        self.inner = nn.ModuleDict({"a": linear()})
        self.helper = Helper()

    def forward(self, x: Tensor) -> Tensor:
        x = self.listed[0](self.again(self.first(x)))
        return self.helper(x, lambda y: self.inner["a"](y))


class Helper(nn.Module):
    """Calls what it is given."""

    def forward(self, x: Tensor, function: Any) -> Tensor:
        return torch.as_tensor(function(x))


class Checkpointed(nn.Module):
    """A layer that runs again in backward, and one after it."""

    def __init__(self) -> None:
        super().__init__()
        self.part, self.head = nn.Sequential(linear(), nn.Tanh()), linear()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(checkpoint(self.part, x, use_reentrant=False))


def train(model: nn.Module) -> None:
    optimizer = torch.optim.Adam(model.parameters())
    x = batch().requires_grad_()
    model(x).sum().backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


def recorded(model: nn.Module) -> Report:
    with flopcount.record(model) as recording:
        train(model)
    return recording.report()


def table(report: Report) -> dict[str, tuple[Any, ...]]:
    return {
        path: (node.type, node.params, node.trainable, node.calls, node.other_paths)
        for path in report
        for node in [report[path]]
    }


@pytest.mark.parametrize("make", [nested, Shared, Checkpointed, lambda: nn.LSTM(8, 8)])
def test_rows_are_those_of_a_counter(make: Any) -> None:
    model, other = (nn.Sequential(make(), First()) for _ in range(2))
    report = recorded(model)
    with FlopCounter(other) as counter:
        train(other)
    expected = counter.report()
    assert table(report) == table(expected)
    for path in expected:
        assert products_of(report, path) == products_of(expected, path)
        flops = {phase: cost.flops for phase, cost in report[path].phases.items()}
        assert flops == {phase: cost.flops for phase, cost in expected[path].phases.items()}
    assert report.model_path == expected.model_path
    assert report.uncounted == expected.uncounted == {}


class First(nn.Module):
    """The output of a recurrent layer, or of any other."""

    def forward(self, outputs: Any) -> Tensor:
        return torch.as_tensor(outputs[0] if isinstance(outputs, tuple) else outputs)


def test_gradients_of_gradients_belong_to_the_module_of_the_gradient() -> None:
    def penalty(model: nn.Module) -> None:
        x = batch().requires_grad_()
        (gradient,) = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
        gradient.square().sum().backward()

    model, other = (nn.Sequential(linear(), nn.Tanh(), linear()) for _ in range(2))
    with flopcount.record(model) as recording:
        penalty(model)
    with FlopCounter(other) as counter:
        penalty(other)
    report, expected = recording.report(), counter.report()
    assert {path: products_of(report, path) for path in report} == {
        path: products_of(expected, path) for path in expected
    }


def test_several_models_are_named() -> None:
    g, d = linear(), linear()
    with flopcount.record({"G": g, "D": d}) as recording:
        d(g(batch())).sum().backward()
    report = recording.report()
    assert report.models == ("G", "D")
    assert products_of(report, "G") == {"forward": P, "backward": P}
    assert products_of(report, "D") == {"forward": P, "backward": 2 * P}


def test_without_a_model_roots_have_the_names_of_their_classes() -> None:
    layers = linear(), linear()
    with flopcount.record() as recording:
        layers[1](layers[0](batch()))
    assert list(recording.report()) == ["", "Linear", "Linear#2"]


def test_threads_have_rows_of_their_own_calls() -> None:
    model = nn.ModuleList([linear(), linear()])
    with flopcount.record(model) as recording:
        threads = [threading.Thread(target=layer, args=(batch(),)) for layer in model]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    report = recording.report()
    # torch records the threads that it knows of
    assert {report[path].calls for path in ("0", "1") if path in report} <= {1}


def test_results_hooks_and_random_numbers_are_as_without() -> None:
    model = nn.Sequential(linear(), nn.Dropout(), linear())
    before = watchers()
    torch.manual_seed(0)
    expected = model(batch())
    torch.manual_seed(0)
    with flopcount.record(model):
        found = model(batch())
    assert torch.equal(found, expected)
    assert watchers() == before


def test_an_exception_passes_and_what_ran_is_recorded() -> None:
    class Fails(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise KeyError("mine")

    model = nn.Sequential(linear(), Fails())
    before = watchers()
    with pytest.raises(KeyError, match="mine"), flopcount.record(model) as recording:
        model(batch())
    assert watchers() == before
    report = recording.report()
    assert report["0"].total.macs == P
    assert report["1"].calls == 1


def test_a_module_that_an_exception_left_is_closed() -> None:
    class Skips(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = Fails(), linear()

        def forward(self, x: Tensor) -> Tensor:
            with suppress(KeyError):
                x = self.layer(x)
            return self.head(x)

    class Fails(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = linear()

        def forward(self, x: Tensor) -> Tensor:
            raise KeyError(self.inner(x))

    model = Skips()
    with flopcount.record(model) as recording:
        model(batch())
    report = recording.report()
    assert {path: report[path].own.macs for path in report if report[path].own.macs} == {
        "layer.inner": P,
        "head": P,
    }


def test_it_is_saved_whole_and_read_again(tmp_path: Path) -> None:
    model = nested()
    with flopcount.record(model) as recording:
        train(model)
    report = recording.report()
    for name in ("trace.json", "trace.json.gz"):
        recording.save(tmp_path / name)
        assert flopcount.read_trace(tmp_path / name) == report
    assert json.loads(gzip.decompress((tmp_path / "trace.json.gz").read_bytes()))["traceEvents"]
    with pytest.raises(OSError, match="nothing was written"):
        recording.save(tmp_path / "no folder" / "trace.json")
    assert Report.from_json(report.to_json()) == report


def test_steps_of_a_schedule() -> None:
    """Of six steps the fifth and sixth: each of one more product than the one before."""
    layer = linear()
    with flopcount.record(layer, schedule=schedule(wait=3, warmup=1, active=2)) as recording:
        for step in range(6):
            for _ in range(step + 1):
                layer(batch())
            recording.step()
    report = recording.report()
    assert report.run is not None
    assert (report.run.steps, report.total.macs) == ((4, 5), 11 * P)
    assert recording.report(steps=5).total.macs == 6 * P
    assert recording.report(steps=5).model.calls == 6


@pytest.mark.parametrize("name", ["step.html", "step", "step.gz", "step.json.GZ"])
def test_a_recording_has_its_own_endings(tmp_path: Path, name: str) -> None:
    with flopcount.record() as recording:
        batch() + 1
    with pytest.raises(ValueError, match=r"a recording is a \.json or a \.json\.gz, got"):
        recording.save(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_nothing_to_report_says_why() -> None:
    with (
        flopcount.record() as recording,
        pytest.raises(FlopcountError, match="nothing is recorded"),
    ):
        recording.report()
    with flopcount.record(schedule=schedule(wait=5, warmup=1, active=1)) as recording:
        recording.step()
    with pytest.raises(FlopcountError, match="its schedule has recorded no step"):
        recording.save("trace.json")


@pytest.mark.parametrize("name", ['a"b', "ü", "a\\b", "a\nb", "模", "a b", "%41"])
def test_names_of_modules_may_have_any_letters(name: str) -> None:
    """torch writes names into the file as they are, quotes and all."""
    model = nn.ModuleDict({name: linear()})
    with flopcount.record(model) as recording:
        model[name](batch())
    report = recording.report()
    assert report[name].total.macs == P
    assert (report[name].type, report[name].params) == ("Linear", 64)


@pytest.mark.parametrize(("steps", "products"), [(2, 1), (3, 5), (4, 5), (5, 5), (6, 11)])
def test_the_last_whole_cycle_of_a_schedule_is_kept(steps: int, products: int) -> None:
    """Step n has n products; of each three, the second and the third are recorded."""
    layer = linear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with flopcount.record(layer, schedule=schedule(wait=1, warmup=0, active=2)) as recording:
            for step in range(steps):
                for _ in range(step + 1):
                    layer(batch())
                recording.step()
    if steps == 2:
        products = 2  # a part of the first cycle is more than nothing
    assert recording.report().total.macs == products * P


def test_an_empty_block_has_an_empty_report() -> None:
    with flopcount.record(linear()) as recording:
        pass
    report = recording.report()
    assert (report.total, report.uncounted) == (Cost(), {})
    assert report.run is not None
    assert report.run.work == 0


def test_two_recordings_at_once_are_refused() -> None:
    """torch's profiler would end the process."""
    with flopcount.record() as recording:
        with pytest.raises(FlopcountError, match="recording here already"), flopcount.record():
            pass
        with pytest.raises(FlopcountError, match="recording here already"), recording:
            pass
        batch() + 1
    assert recording.report().total.arith == 32
    with pytest.raises(FlopcountError, match="this recorder has recorded"), recording:
        pass
    with flopcount.record() as recording, torch.profiler.profile():
        batch() + 1
    with pytest.raises(FlopcountError, match=r"another torch\.profiler began in the block"):
        recording.report()
    with pytest.raises(FlopcountError, match=r"nothing is recorded: enter it, with flopcount"):
        flopcount.record().report()
    with torch.profiler.profile(), pytest.raises(FlopcountError, match="recording here already"):
        flopcount.record().__enter__()


def test_a_model_that_computes_its_loss() -> None:
    """Its thread makes no node outside of modules; after backward, it clips gradients."""

    class WithLoss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = linear()

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x).pow(2).mean()

    def step(model: nn.Module) -> None:
        model(batch()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)

    model, other = WithLoss(), WithLoss()
    with flopcount.record(model) as recording:
        step(model)
    with FlopCounter(other) as counter:
        step(other)
    phases, expected = recording.report().phases, counter.report().phases
    assert {p: c.flops for p, c in phases.items()} == {p: c.flops for p, c in expected.items()}
    assert phases["other"].flops > 64


def test_a_recording_ends_in_its_own_thread() -> None:
    recording = flopcount.record()
    recording.__enter__()
    errors: list[BaseException] = []

    def leave() -> None:
        try:
            recording.__exit__(None, None, None)
        except FlopcountError as error:
            errors.append(error)

    other = threading.Thread(target=leave)
    other.start()
    other.join()
    assert "ends in the thread that began it" in str(errors)
    batch() + 1
    recording.__exit__(None, None, None)
    assert recording.report().total.arith == 32


def test_a_fused_optimizer_is_counted() -> None:
    """Its list of greatest averages is empty, since nobody asked for them."""
    model, other = linear(), linear()
    reports = []
    for layer in (model, other):
        optimizer = torch.optim.Adam(layer.parameters(), fused=True)
        layer(batch()).sum().backward()
        if layer is model:
            with flopcount.record(layer) as recording:
                optimizer.step()
            reports.append(recording.report())
        else:
            with FlopCounter(layer) as counter:
                optimizer.step()
            reports.append(counter.report())
    report, expected = reports
    assert report.uncounted == {}
    op = "aten._fused_adam_"
    assert report.by_operator()[op].flops == expected.by_operator()[op].flops > 0


def test_an_op_of_unknown_cost_is_named_though_it_prepares_by_others() -> None:
    with flopcount.record() as recording:
        torch.unique(torch.arange(9.0))
        torch.linalg.lstsq(torch.eye(4), torch.eye(4))
    assert {"aten._unique2", "aten.linalg_lstsq"} <= set(recording.report().uncounted)


def test_what_is_no_model() -> None:
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got list"):
        flopcount.record([linear()])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
def test_a_device_has_its_own_time() -> None:
    model = nn.Sequential(nn.Linear(1024, 1024), nn.ReLU()).cuda()
    x = torch.ones(512, 1024, device="cuda")
    with flopcount.record(model) as recording:
        model(x).sum().backward()
    report = recording.report()
    assert report.run is not None
    assert report.run.devices == (torch.cuda.get_device_name(),)
    assert report.model.total.macs == 2 * 512 * 1024 * 1024
    assert 0 < (report["0"].seconds or 0) <= report.run.work / 1e9
    assert report.run.kernels


def test_its_file_goes_with_it() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with flopcount.record() as recording:
            batch() + 1
        path = recording._path
        assert path.exists()
        del recording
        gc.collect()
    assert not path.parent.exists()
