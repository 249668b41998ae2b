"""What a counter keeps does not grow with the steps that it sees."""

from __future__ import annotations

import gc
import threading
import tracemalloc

import pytest
import torch
from torch import nn

import flopcount
from flopcount import Cost, FlopCounter
from tests.counter.units import batch, linear, mm
from tests.invariants import check


class TestMemory:
    def test_folding_the_tally_changes_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def run() -> flopcount.Report:
            model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
            with FlopCounter(model) as counter:
                for size in (1, 2, 3, 2, 1):
                    model(torch.ones(size, 8)).sum().backward()
            return counter.report()

        unfolded = run()
        monkeypatch.setattr("flopcount.counter.tally.TALLY_LIMIT", 3)
        folded = run()
        check(folded, plain=True)
        assert set(folded.modules) == set(unfolded.modules)
        assert folded.total == unfolded.total
        key = lambda row: (row.module, row.phase, row.op, row.dtype)  # noqa: E731
        assert sorted(folded.entries, key=key) == sorted(unfolded.entries, key=key)

    def test_a_number_that_changes_at_every_step_is_not_a_new_signature(self) -> None:
        layer = linear()
        optimizer = torch.optim.SGD(layer.parameters(), lr=1.0, foreach=False)
        counter = FlopCounter()

        def train(steps: int) -> int:
            with counter:
                for step in range(steps):
                    optimizer.param_groups[0]["lr"] = 0.1 + 1 / (step + 3)
                    optimizer.zero_grad()
                    layer(batch()).sum().backward()
                    optimizer.step()
            return len(counter._local.tally.counted)

        assert train(3) == train(100)

    def test_entering_again_keeps_nothing_of_the_last_time(self) -> None:
        counter = FlopCounter(formulas={torch.ops.aten.mm: lambda a, b, *, out: Cost(macs=1)})
        for _ in range(100):
            with counter:
                mm()
        assert len(counter._handlers._known) < 10

    def test_threads_that_have_ended_and_counted_nothing_are_forgotten(self) -> None:
        counter, layer = FlopCounter(), linear()
        with counter:
            for _ in range(20):
                thread = threading.Thread(target=lambda: layer(batch()))
                thread.start()
                thread.join()
        assert len(counter._attribution.threads.states) <= 2

    @pytest.mark.parametrize(
        "steps", [300, pytest.param(10_000, marks=pytest.mark.slow)], ids="{} steps".format
    )
    def test_it_does_not_grow_with_steps(self, steps: int) -> None:
        model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        x = torch.ones(2, 4)

        def train(count: int) -> None:
            for _ in range(count):
                optimizer.zero_grad()
                model(x).sum().backward()
                optimizer.step()

        with FlopCounter(model) as counter:
            train(20)
            gc.collect()
            tracemalloc.start()
            try:
                train(steps)
                gc.collect()
                grown, _ = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
        # the record of scopes grows until it is full: 7 changes a step of 16 bytes each
        assert grown < min(20_000_000, 200_000 + 1_000 * steps)
        assert counter.report().model.calls == 20 + steps
