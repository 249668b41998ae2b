"""Parameters are counted as the user's module has them: whole, unpacked, each once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import flopcount
from flopcount import FlopCounter, Report
from flopcount.attribution.parameters import Parameters, size_of

pytestmark = pytest.mark.filterwarnings("ignore")

ROWS = {
    "": 9 * 8 + 9 + 8 * 9 + 8 + 5 * 8 + 5,
    "body": 9 * 8 + 9 + 8 * 9 + 8,
    "body.0": 9 * 8 + 9,
    "body.1": 0,
    "body.2": 8 * 9 + 8,
    "head": 5 * 8 + 5,
}
FROZEN = {"": 9, "body": 9, "body.0": 9}


class Net(nn.Module):
    """8 → 9 → ReLU → 8 → 5: neither 9 nor 5 can be halved."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 9), nn.ReLU(), nn.Linear(9, 8))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


def partly_frozen() -> Net:
    net = Net()
    net.body[0].bias.requires_grad_(False)
    return net


def trained(model: nn.Module, given: nn.Module | None = None) -> Report:
    with FlopCounter(model if given is None else given) as counter:
        model(torch.rand(4, 8)).sum().backward()
    return counter.report()


def params(report: Report) -> dict[str, int]:
    return {node.path: node.params for node in report.model.walk()}


def trainable(report: Report) -> dict[str, Any]:
    return {node.path: node.trainable for node in report.model.walk()}


TRAINED = {path: size - FROZEN.get(path, 0) for path, size in ROWS.items()}


def test_frozen_parameters_are_told_apart() -> None:
    report = trained(partly_frozen())
    assert params(report) == ROWS
    assert trainable(report) == TRAINED
    assert (report.root.params, report.root.trainable) == (0, 0)


def test_what_is_frozen_at_the_end_counts() -> None:
    """A report says how the model is when it is made, as for lazy modules."""
    net = Net()
    with FlopCounter(net) as counter:
        net(torch.rand(4, 8))
    net.requires_grad_(False)
    assert set(trainable(counter.report()).values()) == {0}


def test_a_shared_parameter_counts_once() -> None:
    net = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
    net[1].weight = net[0].weight
    report = trained(net)
    assert (report.model.params, report.model.trainable) == (64, 64)
    assert (report["1"].params, report["1"].trainable) == (64, 64)


class TestSharded:
    """Rank 0 of two that are not there."""

    @pytest.fixture(autouse=True)
    def group(self) -> Iterator[None]:
        if not torch.distributed.is_available():
            pytest.skip("torch has no distributed")
        from torch.testing._internal.distributed.fake_pg import FakeStore

        torch.distributed.init_process_group("fake", rank=0, world_size=2, store=FakeStore())
        yield
        torch.distributed.destroy_process_group()

    @staticmethod
    def wrap(module: nn.Module, *, original: bool) -> nn.Module:
        from torch.distributed.fsdp import FullyShardedDataParallel

        return FullyShardedDataParallel(
            module, use_orig_params=original, device_id=torch.device("cpu")
        )

    @pytest.mark.parametrize("original", [True, False])
    @pytest.mark.parametrize("given", ["wrapper", "module", "nothing"])
    def test_one_flat_parameter_for_the_model(self, original: bool, given: str) -> None:
        net = partly_frozen() if original else Net()  # a flat one is frozen whole, or not
        wrapper = self.wrap(net, original=original)
        models = {"wrapper": wrapper, "module": net}
        report = trained(wrapper, models.get(given))
        assert params(report) == ROWS
        assert trainable(report) == (TRAINED if original else ROWS)

    @pytest.mark.parametrize("original", [True, False])
    def test_one_for_a_child_and_one_for_the_rest(self, original: bool) -> None:
        net = partly_frozen() if original else Net()
        net.body = self.wrap(net.body, original=original)
        report = trained(self.wrap(net, original=original))
        assert params(report) == ROWS
        assert trainable(report) == (TRAINED if original else ROWS)

    def test_children_alone(self) -> None:
        net = Net()
        net.body[0] = self.wrap(net.body[0].requires_grad_(False), original=False)
        net.head = self.wrap(net.head, original=True)
        report = trained(net)
        assert params(report) == ROWS
        assert trainable(report)[""] == ROWS[""] - ROWS["body.0"]

    def test_a_wrapper_in_a_wrapper(self) -> None:
        from torch.distributed.algorithms._checkpoint import checkpoint_wrapper

        net = Net()
        net.body = self.wrap(checkpoint_wrapper.checkpoint_wrapper(net.body), original=False)
        assert params(trained(self.wrap(net, original=False))) == ROWS

    def test_a_shared_parameter_in_a_flat_one(self) -> None:
        """Rows of both owners have it, their parent once."""
        net = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8))
        net[1].weight = net[0].weight
        for original in (True, False):
            report = trained(self.wrap(net, original=original))
            assert params(report) == {"": 64 + 8, "0": 64, "1": 64 + 8}
            net = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8))
            net[1].weight = net[0].weight

    @pytest.mark.parametrize("original", [True, False])
    def test_what_is_frozen_at_the_end(self, original: bool) -> None:
        wrapper = self.wrap(Net(), original=original)
        with FlopCounter(wrapper) as counter:
            wrapper(torch.rand(4, 8))
        wrapper.requires_grad_(False)
        assert params(counter.report()) == ROWS
        assert set(trainable(counter.report()).values()) == {0}

    def test_before_and_after_a_module_is_gone(self) -> None:
        """Its row keeps what it measured while its parameters were whole, in the forward pass."""
        wrapper = self.wrap(Net(), original=True)
        with FlopCounter(wrapper) as counter:
            wrapper(torch.rand(4, 8))
        del wrapper
        assert params(counter.report()) == ROWS

    def test_fully_shard(self) -> None:
        from torch.distributed.fsdp import fully_shard

        mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (2,))
        net = partly_frozen()
        fully_shard(net.body, mesh=mesh)
        fully_shard(net, mesh=mesh)
        report = trained(net)
        assert params(report) == ROWS
        assert trainable(report) == TRAINED

    def test_tensor_parallel(self) -> None:
        from torch.distributed.tensor import parallel

        mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (2,))
        net = nn.Sequential(nn.Linear(8, 32, bias=False), nn.Linear(32, 8))
        plan = {"0": parallel.ColwiseParallel(), "1": parallel.RowwiseParallel()}
        parallel.parallelize_module(net, mesh, plan)
        assert params(trained(net)) == {"": 520, "0": 256, "1": 264}


class Packed(nn.Parameter):
    """A weight of 4 bits as bitsandbytes keeps it: bytes, and beside them its shape."""


def packed(shape: tuple[int, int] | None) -> nn.Parameter:
    parameter = torch.Tensor._make_subclass(Packed, torch.zeros(36, 1, dtype=torch.uint8), False)
    parameter.quant_state = shape and SimpleNamespace(shape=torch.Size(shape))
    return parameter


def float4() -> Tensor | None:
    dtype = getattr(torch, "float4_e2m1fn_x2", None)
    return None if dtype is None else torch.empty(9, 4, dtype=torch.uint8).view(dtype)


@pytest.mark.parametrize(
    ("make", "size"),
    [
        pytest.param(lambda: packed((9, 8)), 72, id="4 bits, two in a byte"),
        pytest.param(lambda: packed(None), 36, id="not packed yet"),
        pytest.param(lambda: nn.Parameter(torch.rand(9, 8)), 72, id="plain"),
        pytest.param(lambda: nn.UninitializedParameter(), 0, id="lazy"),
        pytest.param(lambda: nn.Parameter(torch.rand(9, 8).to_sparse_csr()), 72, id="sparse"),
    ],
)
def test_the_numbers_in_a_parameter(make: Callable[[], Any], size: int) -> None:
    assert size_of(make()) == size


def test_two_numbers_in_an_element() -> None:
    if (pairs := float4()) is None:
        pytest.skip("this torch has no such dtype")
    assert size_of(nn.Parameter(pairs, requires_grad=False)) == 72


def test_a_module_in_two_places_counts_once() -> None:
    frozen = nn.Linear(9, 8).requires_grad_(False)
    layer = nn.Linear(8, 9)
    assert Parameters().count(nn.Sequential(layer, frozen, layer)) == (81 + 80, 81)
    assert Parameters().count(nn.ReLU()) == (0, 0)


class TestReports:
    report = flopcount.count(partly_frozen(), torch.rand(4, 8), backward=False)

    def test_in_rows(self) -> None:
        rows = {row["module"]: (row["params"], row["trainable"]) for row in self.report.rows()}
        assert rows["body.0"] == (81, 72)
        assert rows["head"] == (45, 45)

    def test_in_json(self) -> None:
        again = Report.from_json(self.report.to_json())
        assert again == self.report
        assert again["body"].trainable == 152

    def test_a_column(self) -> None:
        table = self.report.table(columns=["params", "trainable"])
        (line,) = (line.split() for line in table.splitlines() if line.strip().startswith("head"))
        assert line == ["head", "45", "45"]
        (line,) = (line.split() for line in table.splitlines() if line.strip().startswith("body"))
        assert line == ["body", "161", "152"]
        assert "trainable" not in self.report.table()

    def test_an_older_file_does_not_know(self) -> None:
        import json

        document = json.loads(self.report.to_json())
        for module in document["modules"]:
            del module["trainable"]
        older = Report.from_json(json.dumps(document))
        assert (older["head"].params, older["head"].trainable) == (45, None)
        assert older.rows()[0]["trainable"] is None
        assert older.table(columns=["trainable"])
