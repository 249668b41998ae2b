"""Interrupts that come while a counter is at work, not while an op is."""

from __future__ import annotations

import pytest

from flopcount import FlopCounter
from flopcount.torch_private.modes import modes, pop_mode, push_mode
from tests.counter.units import PRODUCT, mm
from tests.torch_private.ops import Ops


@pytest.mark.parametrize("left", [0, 2, 3], ids=["closed too early", "left open", "twice"])
def test_modes_that_an_interrupt_left_or_closed_do_not_outlive_the_block(left: int) -> None:
    """Its way in and its way out are not one step: what comes between them leaves one too many."""
    with FlopCounter() as counter:
        mm()
        pop_mode()
        for _ in range(left):
            push_mode(counter)
    assert modes() == []
    with counter:
        mm()
    assert modes() == []
    assert counter.report().total.macs == 2 * PRODUCT


def test_modes_of_the_program_around_the_block_are_left_alone() -> None:
    with Ops(lambda op, args: None) as mode:
        with FlopCounter() as counter:
            push_mode(counter)
        assert modes() == [mode]
    assert modes() == []
