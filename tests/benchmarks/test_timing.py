"""The one way of timing: calls in turns, and what is made of their seconds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from benchmarks.timing import WARM_UP, Timed, in_turns, median, ratio, summary


class Clock:
    """Time that passes only when a call says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def passes(self, *seconds: float) -> Timed:
        """A call that takes the next of ``seconds`` each time."""
        left = iter(seconds)

        def call() -> None:
            self.now += next(left)

        return Timed(call)


def test_rounds_to_warm_up_are_not_counted() -> None:
    clock = Clock()
    calls = {"a": clock.passes(*[100] * WARM_UP, 1, 2, 3), "b": clock.passes(*[4] * (WARM_UP + 3))}
    times = in_turns(calls, rounds=3, clock=clock)
    assert times["a"] == {"median": 2, "min": 1, "spread": 0.5}
    assert times["b"] == {"median": 4, "min": 4, "spread": 0}
    assert ratio(times, "a", "b") == 0.5


def test_every_call_has_its_turn_in_each_round() -> None:
    order: list[str] = []
    calls = {name: Timed(lambda name=name: order.append(name)) for name in "abc"}
    in_turns(calls, rounds=20)
    rounds = [tuple(order[i : i + 3]) for i in range(0, len(order), 3)]
    assert len(rounds) == WARM_UP + 20
    assert all(sorted(turns) == ["a", "b", "c"] for turns in rounds)
    assert len(set(rounds)) > 1


def test_entering_and_leaving_is_not_timed() -> None:
    clock, entered = Clock(), []

    @contextmanager
    def context() -> Iterator[None]:
        clock.now += 10
        entered.append(clock.now)
        yield
        clock.now += 10

    call = clock.passes(*[1] * (WARM_UP + 2)).call
    assert median(in_turns({"a": Timed(call, context)}, rounds=2, clock=clock), "a") == 1
    assert len(entered) == WARM_UP + 2


def test_short_calls_are_repeated_for_some_time() -> None:
    count = 0

    def call() -> None:
        nonlocal count
        count += 1

    in_turns({"a": Timed(call)}, rounds=2, seconds=0.05)
    assert count > WARM_UP + 2


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([2.0, 2.0, 2.0], {"median": 2, "min": 2, "spread": 0}),
        ([1.0, 2.0, 3.0, 4.0, 5.0], {"median": 3, "min": 1, "spread": 0.666667}),
    ],
)
def test_a_summary(values: list[float], expected: dict[str, float]) -> None:
    assert summary(values) == expected
