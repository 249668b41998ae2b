"""What torch promises of flat parameters."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from flopcount.torch_private.sharding import (
    FLAT_PARAMETER,
    FSDP_WRAPPED_MODULE,
    flat_parameter,
    originals,
)


@pytest.fixture(autouse=True)
def group() -> Iterator[None]:
    """Rank 0 of two that are not there."""
    if not torch.distributed.is_available():
        pytest.skip("torch has no distributed")
    from torch.testing._internal.distributed.fake_pg import FakeStore

    torch.distributed.init_process_group("fake", rank=0, world_size=2, store=FakeStore())
    yield
    torch.distributed.destroy_process_group()


def wrap(module: nn.Module, *, original: bool) -> nn.Module:
    from torch.distributed.fsdp import FullyShardedDataParallel

    return FullyShardedDataParallel(module, use_orig_params=original, device_id=torch.device("cpu"))


@pytest.mark.parametrize("original", [True, False])
def test_a_flat_parameter_knows_what_it_is_made_of(original: bool) -> None:
    first, second = nn.Linear(8, 9), nn.Linear(9, 8, bias=False)
    net = nn.Sequential(first, second)
    if original:
        first.bias.requires_grad_(False)
    wrapper = wrap(net, original=original)
    assert wrapper._modules == {FSDP_WRAPPED_MODULE: net}
    flat = flat_parameter(wrapper)
    assert flat.numel() < 72 + 9 + 72  # it holds a part
    found = [(o.owner, o.name, o.size, o.tensor.requires_grad) for o in originals(flat)]
    assert found == [
        (first, "weight", 72, True),
        (first, "bias", 9, not original),
        (second, "weight", 72, True),
    ]
    tensors = [o.tensor for o in originals(flat)]
    if original:  # an optimizer gets the modules' own, which hold a rank's part
        assert tensors[0] is first.weight
        assert first.weight.numel() + first.bias.numel() + second.weight.numel() < 72 + 9 + 72
    else:
        assert all(tensor is flat for tensor in tensors)
        assert not first._parameters
    assert (FLAT_PARAMETER in net._parameters) is not original
    assert len({o.key for o in originals(flat)}) == 3


@pytest.mark.parametrize("original", [True, False])
def test_a_parameter_with_two_owners_has_one_key(original: bool) -> None:
    net = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
    net[1].weight = net[0].weight
    found = list(originals(flat_parameter(wrap(net, original=original))))
    assert [(o.owner, o.size) for o in found] == [(net[0], 64), (net[1], 64)]
    assert found[0].key == found[1].key


def test_a_wrapper_without_parameters_of_its_own() -> None:
    inner = wrap(nn.Linear(8, 8), original=True)
    assert flat_parameter(wrap(nn.Sequential(inner), original=True)) is None
