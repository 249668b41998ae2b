"""The notes of which autograd nodes were made where."""

from __future__ import annotations

import pytest

from flopcount.record import Record
from flopcount.scope import Scope


def test_nodes_belong_to_the_last_note_before_them() -> None:
    record = Record()
    first, second = Scope("a", None).forward, Scope("b", None).forward
    record.note(first, 3)
    record.note(second, 5)
    record.note(None, 8)
    found = [record.place(number) for number in range(2, 10)]
    assert found == [None, first, first, second, second, second, None, None]


def test_a_stretch_without_nodes_is_dropped() -> None:
    record = Record()
    first, second = Scope("a", None).forward, Scope("b", None).forward
    record.note(first, 3)
    record.note(second, 5)
    record.note(first, 5)
    assert (list(record.starts), record.places) == ([0, 3, 5], [None, first, first])


def test_it_is_bounded_and_forgets_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flopcount.record.RECORD_LIMIT", 20)
    record = Record()
    places = [Scope("a", None).forward, Scope("b", None).forward]
    for number in range(1000):
        record.note(places[number % 2], number)
        assert len(record.starts) == len(record.places) < 20
    assert record.place(999) is places[1]
    assert record.place(990) is places[0]
    assert record.place(5) is None
