"""A wrapper leaves no row: its module has the name and path that it would have alone."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from flopcount import FlopCounter
from flopcount.attribution.wrappers import WRAPPER_CLASSES
from tests.attribution.units import batch, linear, paths, units

# torch says so of any global hook; tests/counter/test_compiled.py shows that the graphs stay
pytestmark = pytest.mark.filterwarnings("ignore:Using `torch.compile")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(linear(), linear())
        self.head = linear()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


NET_PATHS = ["", "body", "body.0", "body.1", "head"]


def trained(model: nn.Module, given: nn.Module | None = None) -> FlopCounter:
    with FlopCounter(given) as counter:
        model(batch()).sum().backward()
    return counter


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    if not torch.distributed.is_gloo_available():
        pytest.skip("this torch has no gloo")
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


def assert_is_plain(counter: FlopCounter) -> None:
    """The report of the net without any wrapper: one call each, 3 U forward, 1 + 2 + 2 back."""
    report = counter.report()
    assert paths(report) == NET_PATHS
    assert [report[path].type for path in NET_PATHS] == ["Net", "Sequential", *["Linear"] * 3]
    assert [report[path].calls for path in NET_PATHS] == [1] * 5
    assert units(report.model) == {"forward": 3, "backward": 5}
    assert units(report["body"]) == {"forward": 2, "backward": 3}


@pytest.mark.parametrize("given", ["wrapper", "module", "nothing"])
class TestAroundTheModel:
    def given(self, which: str, wrapper: nn.Module, module: nn.Module) -> nn.Module | None:
        return {"wrapper": wrapper, "module": module, "nothing": None}[which]

    def test_data_parallel(self, given: str) -> None:
        net = Net()
        wrapper = nn.DataParallel(net)
        assert_is_plain(trained(wrapper, self.given(given, wrapper, net)))

    def test_compiled_in_eager_mode(self, given: str) -> None:
        net = Net()
        wrapper = torch.compile(net, backend="eager")
        assert_is_plain(trained(wrapper, self.given(given, wrapper, net)))

    def test_distributed_data_parallel(self, given: str, process_group: None) -> None:
        net = Net()
        wrapper = nn.parallel.DistributedDataParallel(net)
        counter = trained(wrapper, self.given(given, wrapper, net))
        assert_is_plain(counter)

    def test_a_wrapper_in_a_wrapper(self, given: str) -> None:
        net = Net()
        wrapper = nn.DataParallel(torch.compile(net, backend="eager"))
        assert_is_plain(trained(wrapper, self.given(given, wrapper, net)))


def wrapper_class(name: str, attribute: str) -> type[nn.Module]:
    """A stand-in for a library's wrapper, which keeps the module as that library does."""

    def init(self: nn.Module, module: nn.Module) -> None:
        nn.Module.__init__(self)
        setattr(self, attribute, module)

    def forward(self: nn.Module, *args: Tensor) -> Tensor:
        return getattr(self, attribute)(*args)

    return type(name, (nn.Module,), {"__init__": init, "forward": forward})


KNOWN = [*WRAPPER_CLASSES.items(), ("FlattenParamsWrapper", "_fpw_module")]


@pytest.mark.parametrize("given", ["wrapper", "module", "nothing"])
@pytest.mark.parametrize(("name", "attribute"), KNOWN)
class TestOfOtherLibraries:
    given = TestAroundTheModel.given

    def test_around_the_model(self, name: str, attribute: str, given: str) -> None:
        net = Net()
        engine = type("Mine", (wrapper_class(name, attribute),), {})(net)  # a subclass of it
        assert_is_plain(trained(engine, self.given(given, engine, net)))

    def test_in_a_wrapper_of_torch_in_the_model(
        self, name: str, attribute: str, given: str
    ) -> None:
        net = Net()
        whole = nn.DataParallel(net)
        net.body = wrapper_class(name, attribute)(torch.compile(net.body, backend="eager"))
        assert_is_plain(trained(whole, self.given(given, whole, net)))


@pytest.mark.parametrize("attribute", sorted(set(WRAPPER_CLASSES.values())))
def test_these_attributes_are_names_in_other_classes(attribute: str) -> None:
    model = wrapper_class("Model", attribute)(Net())
    report = trained(model, model).report()
    assert paths(report) == ["", *(f"{attribute}.{path}".rstrip(".") for path in NET_PATHS)]


def test_a_method_of_the_module_is_called_by_way_of_its_wrapper() -> None:
    class Engine(wrapper_class("DeepSpeedEngine", "module")):  # type: ignore[misc]
        def encode(self, x: Tensor) -> Tensor:
            return self.module.body(x)

    engine = Engine(Net())
    with FlopCounter(engine) as counter:
        engine.encode(batch())
    assert paths(counter.report()) == ["", "body", "body.0", "body.1"]


def test_compiled_inside_the_model() -> None:
    net = Net()
    net.body = torch.compile(net.body, backend="eager")
    assert_is_plain(trained(net))


def test_checkpointed_inside_the_model() -> None:
    net = Net()
    net.body = checkpoint_wrapper(net.body)
    with FlopCounter(net) as counter:
        net(batch(grad=True)).sum().backward()
    report = counter.report()
    assert paths(report) == NET_PATHS
    assert [report[path].calls for path in NET_PATHS] == [1] * 5
    # "body.1" has saved the output of "body.0"; nobody saved that of "body.1" there
    assert units(report["body.0"]) == {"forward": 1, "backward": 2, "recompute": 1}
    assert units(report["body.1"]) == {"forward": 1, "backward": 2}
    assert units(report["head"]) == {"forward": 1, "backward": 2}
    assert report["body"].type == "Sequential"


def test_fully_sharded(process_group: None) -> None:
    fsdp = pytest.importorskip("torch.distributed.fsdp")
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
    net = Net()
    fsdp.fully_shard(net.body, mesh=mesh)
    fsdp.fully_shard(net, mesh=mesh)
    assert type(net).__name__ == "FSDPNet"
    counter = trained(net)
    report = counter.report()
    assert [node.path for node in report.model.walk()] == NET_PATHS
    assert [report[path].type for path in NET_PATHS] == ["Net", "Sequential", *["Linear"] * 3]
    assert units(report.model) == {"forward": 3, "backward": 5}


def half_of_a_sharded_layer() -> dict[str, tuple[int, int]]:
    """Bytes that each of FSDP's own ops reads and writes, on one of two ranks."""
    from torch.distributed.fsdp import fully_shard
    from torch.testing._internal.distributed.fake_pg import FakeStore

    torch.distributed.init_process_group("fake", rank=0, world_size=2, store=FakeStore())
    layer = linear()
    fully_shard(layer, mesh=torch.distributed.device_mesh.init_device_mesh("cpu", (2,)))
    with FlopCounter(layer, strict=True) as counter:
        layer(batch()).sum().backward()
    costs = counter.report().by_operator()
    return {op: (cost.read, cost.written) for op, cost in costs.items() if op.startswith("fsdp")}


def test_a_rank_copies_its_shard_and_all_that_it_gathers() -> None:
    """The layer's weight is 8 · 8 · 4 = 256 bytes, of which a rank has half."""
    pytest.importorskip("torch.distributed.fsdp")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        moved = pool.apply(half_of_a_sharded_layer)
    assert moved == {
        "fsdp.all_gather_copy_in": (128, 128),
        "fsdp.split_with_sizes_copy": (256, 256),
        "fsdp.chunk_cat": (256, 256),
    }
