"""The log of which autograd nodes were made where."""

from __future__ import annotations

import pytest

from flopcount.attribution.node_log import NodeLog
from flopcount.attribution.tree import Scope


def test_nodes_belong_to_the_last_note_before_them() -> None:
    log = NodeLog()
    first, second = Scope("a", None).forward, Scope("b", None).forward
    log.start(first, 3)
    log.start(second, 5)
    log.start(None, 8)
    found = [log.place(number) for number in range(2, 10)]
    assert found == [None, first, first, second, second, second, None, None]


def test_a_stretch_without_nodes_is_dropped() -> None:
    log = NodeLog()
    first, second = Scope("a", None).forward, Scope("b", None).forward
    log.start(first, 3)
    log.start(second, 5)
    log.start(first, 5)
    assert (list(log.starts), log.places) == ([0, 3, 5], [None, first, first])


def test_it_is_bounded_and_forgets_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flopcount.attribution.node_log.LOG_LIMIT", 20)
    log = NodeLog()
    places = [Scope("a", None).forward, Scope("b", None).forward]
    for number in range(1000):
        log.start(places[number % 2], number)
        assert len(log.starts) == len(log.places) < 20
    assert log.place(999) is places[1]
    assert log.place(990) is places[0]
    assert log.place(5) is None
