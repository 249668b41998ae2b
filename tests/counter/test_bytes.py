"""What an op reads and writes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from flopcount import FlopCounter
from flopcount.cost import ZERO


class TestBytes:
    """Every distinct operand is read once, every result written once."""

    @staticmethod
    def moved(run: Callable[[], Any], op: str) -> tuple[int, int]:
        with FlopCounter() as counter:
            run()
        cost = counter.report().by_operator()[op]
        return cost.read, cost.written

    def test_a_square_reads_its_operand_once(self) -> None:
        x, y = torch.ones(5), torch.ones(5)
        assert self.moved(lambda: x * x, "aten.mul") == (4 * 5, 4 * 5)
        assert self.moved(lambda: x * y, "aten.mul") == (4 * 10, 4 * 5)

    def test_both_in_one_counter(self) -> None:
        x, y = torch.ones(5), torch.ones(5)
        assert self.moved(lambda: (x * x, x * y), "aten.mul") == (4 * 15, 4 * 10)

    def test_an_expanded_dimension_is_read_once(self) -> None:
        x, wide = torch.ones(3, 5), torch.ones(5).expand(3, 5)
        assert self.moved(lambda: x + wide, "aten.add") == (4 * (15 + 5), 4 * 15)
        assert self.moved(lambda: x + x.clone(), "aten.add") == (4 * 30, 4 * 15)

    def test_an_operand_expanded_to_no_element_is_not_read(self) -> None:
        none = torch.ones(5).expand(0, 5)  # its strides are 0 and 1
        assert self.moved(lambda: none + 1, "aten.add") == (0, 0)

    def test_a_broadcast_operand_is_read_once(self) -> None:
        x, row = torch.ones(3, 5), torch.ones(5)
        assert self.moved(lambda: x + row, "aten.add") == (4 * (15 + 5), 4 * 15)

    def test_a_view_moves_nothing(self) -> None:
        x = torch.ones(3, 5)
        with FlopCounter() as counter:
            x.T.reshape(5, 3)[0].unsqueeze(0).expand(7, 3)
        assert counter.report().total == ZERO

    @pytest.mark.parametrize("mode", [torch.enable_grad, torch.inference_mode])
    def test_what_gives_a_view_or_a_copy_is_counted_as_what_it_is(self, mode: Any) -> None:
        """24 elements of 4 bytes, read and written; in inference mode such ops come whole."""
        x = torch.ones(4, 6)
        with mode(), FlopCounter() as counter:
            x.reshape(24)
            x.contiguous()
            x.to(torch.float32)
        assert counter.report().total.bytes == 0
        with mode(), counter:
            x.t().reshape(24)
            x.t().contiguous()
            x.to(torch.float64)
        assert counter.report().total.bytes == 2 * (96 + 96) + (96 + 192)

    def test_an_op_in_place_writes_what_it_changes(self) -> None:
        x, y = torch.ones(5), torch.ones(5)
        assert self.moved(lambda: x.add_(y), "aten.add_") == (4 * 10, 4 * 5)

    def test_an_op_with_out_writes_it(self) -> None:
        x, y, out = torch.ones(5), torch.ones(5), torch.empty(5)
        assert self.moved(lambda: torch.mul(x, y, out=out), "aten.mul") == (4 * 10, 4 * 5)

    def test_noise_is_drawn_into_its_place_and_not_read(self) -> None:
        x = torch.ones(5, requires_grad=True)
        run = partial(F.rrelu, x, training=True)
        assert self.moved(run, "aten.rrelu_with_noise") == (4 * 5, 4 * 10)

    def test_foreach_ops_that_change_their_inputs(self) -> None:
        xs, ys = [torch.ones(5), torch.ones(3)], [torch.ones(5), torch.ones(3)]
        read, written = self.moved(lambda: torch._foreach_add_(xs, ys), "aten._foreach_add_")
        assert (read, written) == (4 * 16, 4 * 8)

    def test_half_precision_moves_half(self) -> None:
        x = torch.ones(5, dtype=torch.bfloat16)
        assert self.moved(lambda: x * x, "aten.mul") == (2 * 5, 2 * 5)

    @pytest.mark.parametrize(
        ("pool", "reads"),
        [
            pytest.param(lambda x: F.max_pool2d(x, 2), (4 + 8) * 24, id="max: g and places"),
            pytest.param(lambda x: F.adaptive_max_pool2d(x, 2), (4 + 8) * 24, id="adaptive max"),
            pytest.param(lambda x: F.fractional_max_pool2d(x, 2, 2), (4 + 8) * 24, id="fractional"),
            pytest.param(lambda x: F.avg_pool2d(x, 2), 4 * 24, id="mean: g alone"),
            pytest.param(lambda x: F.adaptive_avg_pool2d(x, 2), 4 * 24, id="adaptive mean"),
            pytest.param(lambda x: F.pad(x, [1] * 4, "reflect"), 4 * 216, id="padding: g alone"),
        ],
    )
    def test_a_gradient_does_not_read_what_only_tells_its_shape(
        self, pool: Callable[[Tensor], Tensor], reads: int
    ) -> None:
        x = torch.rand(2, 3, 4, 4, requires_grad=True)  # 96 elements, 24 where 2 by 2 remain
        y = pool(x)
        with FlopCounter() as counter:
            y.backward(torch.ones_like(y))
        (cost,) = (each for op, each in counter.report().by_operator().items() if "_backward" in op)
        assert (cost.read, cost.written) == (reads, 4 * 96)
