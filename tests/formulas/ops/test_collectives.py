"""What one of four processes reads and writes: 64 floats are 256 bytes, 16 are 64.

The processes are pretended: torch's fake group moves nothing, and ours is the first of four.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional
from torch import Tensor
from torch.testing._internal.distributed.fake_pg import FakeStore

import flopcount
from tests.formulas.reports import report_of

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # torch renames some

X = torch.ones(64)
WHOLE = torch.ones(4 * 64)
BATCH, OTHERS = [torch.ones(64) for _ in range(4)], [torch.ones(64) for _ in range(4)]
QUARTERS, OTHER_QUARTERS = list(torch.ones(4, 16)), list(torch.ones(4, 16))
UNEVEN = torch.ones(100)


@pytest.fixture(autouse=True, scope="module")
def four_processes() -> Iterator[None]:
    dist.init_process_group("fake", rank=0, world_size=4, store=FakeStore())
    yield
    dist.destroy_process_group()


def coalesced(call: Callable[[], Any]) -> None:
    with dist._coalescing_manager(device=torch.device("cpu")):
        call()


def waited(call: Callable[..., Tensor], *args: Any) -> None:
    functional.wait_tensor(call(*args, dist.group.WORLD))


def exchange() -> None:
    dist.batch_isend_irecv([dist.P2POp(dist.isend, X, 1), dist.P2POp(dist.irecv, UNEVEN, 1)])


def by_name(op: str, *args: Any) -> Any:
    """A functional collective that torch calls only in programs that it traces."""
    group = dist.group.WORLD
    assert group is not None
    return getattr(torch.ops._c10d_functional, op)(*args, group.group_name)


@pytest.mark.parametrize(
    ("call", "read", "written"),
    [
        pytest.param(lambda: dist.broadcast(X, 0), 256, 256, id="broadcast"),
        pytest.param(lambda: dist.all_reduce(X), 256, 256, id="all_reduce"),
        pytest.param(lambda: dist.all_reduce_coalesced([X, WHOLE]), 1280, 1280, id="of a list"),
        pytest.param(lambda: dist.reduce(X, 0), 256, 256, id="reduce"),
        pytest.param(lambda: dist.all_gather(BATCH, X), 256, 1024, id="all_gather"),
        pytest.param(
            lambda: dist.all_gather_into_tensor(WHOLE, X), 256, 1024, id="all_gather_into_tensor"
        ),
        pytest.param(
            lambda: dist.all_gather_coalesced([[y] for y in BATCH], [X]), 256, 1024, id="of lists"
        ),
        pytest.param(lambda: dist.reduce_scatter(X, BATCH), 1024, 256, id="reduce_scatter"),
        pytest.param(
            lambda: dist.reduce_scatter_tensor(X, WHOLE), 1024, 256, id="reduce_scatter_tensor"
        ),
        pytest.param(lambda: dist.all_to_all(QUARTERS, OTHER_QUARTERS), 256, 256, id="all_to_all"),
        pytest.param(lambda: dist.all_to_all_single(BATCH[0], X), 256, 256, id="all_to_all_single"),
        pytest.param(
            lambda: dist.all_to_all_single(UNEVEN, X, [40, 20, 20, 20], [16] * 4),
            256,
            400,
            id="all_to_all_single of uneven parts",
        ),
        pytest.param(lambda: dist.gather(X, BATCH, dst=0), 256, 1024, id="gather, here"),
        pytest.param(lambda: dist.gather(X, dst=1), 256, 0, id="gather, at another process"),
        pytest.param(lambda: dist.scatter(X, BATCH, src=0), 1024, 256, id="scatter, from here"),
        pytest.param(lambda: dist.scatter(X, src=1), 0, 256, id="scatter, from another process"),
        pytest.param(lambda: dist.send(X, 1), 256, 0, id="send"),
        pytest.param(lambda: dist.isend(X, 1), 256, 0, id="isend"),
        pytest.param(lambda: dist.recv(X, 1), 0, 256, id="recv"),
        pytest.param(lambda: dist.irecv(X, 1), 0, 256, id="irecv"),
        pytest.param(exchange, 256, 400, id="batch_isend_irecv"),
        pytest.param(dist.barrier, 0, 0, id="barrier"),
        pytest.param(
            lambda: coalesced(lambda: [dist.all_reduce(X), dist.all_reduce(WHOLE)]),
            1280,
            1280,
            id="a coalesced all_reduce",
        ),
        pytest.param(
            lambda: coalesced(lambda: dist.all_gather_into_tensor(WHOLE, X)),
            256,
            1024,
            id="a coalesced all_gather",
        ),
        pytest.param(
            lambda: coalesced(lambda: dist.reduce_scatter_tensor(X, WHOLE)),
            1024,
            256,
            id="a coalesced reduce_scatter",
        ),
        pytest.param(
            lambda: waited(functional.all_reduce, X, "sum"), 256, 256, id="functional all_reduce"
        ),
        pytest.param(
            lambda: waited(functional.all_to_all_single, X, None, None),
            256,
            256,
            id="functional all_to_all",
        ),
        pytest.param(
            lambda: waited(functional.reduce_scatter_tensor, WHOLE, "sum", 0),
            1024,
            256,
            id="functional reduce_scatter",
        ),
    ],
)
def test_a_collective_writes_what_it_receives(
    call: Callable[[], Any], read: int, written: int
) -> None:
    report = report_of(call)
    assert report.total == flopcount.Cost(read=read, written=written)


def test_a_receiver_that_is_a_view_of_one_element_is_written_once() -> None:
    """Broadcast memory holds one element, whatever its shape."""
    report = report_of(lambda: dist.recv(torch.ones(1).expand(64), 1))
    assert report.by_operator()["c10d.recv_"] == flopcount.Cost(written=4)


@pytest.mark.parametrize(
    ("op", "arguments", "read", "written"),
    [
        ("isend", (X, 1, 0), 256, 0),
        ("irecv", (X, 1, 0), 0, 256),
        ("batch_p2p_ops", (["isend", "irecv"], [1, 1], [0, 0], [X, UNEVEN]), 256, 400),
    ],
)
def test_a_functional_exchange_reads_what_it_sends(
    op: str, arguments: tuple[Any, ...], read: int, written: int
) -> None:
    if not hasattr(torch.ops._c10d_functional, op):
        pytest.skip("this torch has no such collective")
    report = report_of(lambda: by_name(op, *arguments))
    assert report.total == flopcount.Cost(read=read, written=written)
