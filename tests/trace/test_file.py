"""Files of recordings are read piece by piece, and a bad one has one clear line."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from flopcount import TraceError
from flopcount.trace import file
from flopcount.trace.file import EVENTS, contents

DOCUMENT: dict[str, Any] = {
    "schemaVersion": 1,
    "deviceProperties": [{"id": 0, "name": 'A \\ "B" µ'}],
    "traceEvents": [{"ph": "X", "name": f"op{i}", "ts": i + 0.125, "args": {}} for i in range(50)],
    "traceName": "späte Zeile",
}
EVERYTHING = [
    *((key, value) for key, value in list(DOCUMENT.items())[:2]),
    *((EVENTS, event) for event in DOCUMENT["traceEvents"]),
    ("traceName", DOCUMENT["traceName"]),
]


def saved(folder: Path, data: bytes) -> Path:
    path = folder / "trace.json"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 64, 1 << 20])
@pytest.mark.parametrize("indent", [None, 2])
def test_pieces_may_end_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int, indent: int | None
) -> None:
    """Inside a word, a number, an escape, or a character of two bytes."""
    monkeypatch.setattr(file, "PIECE", piece)
    text = json.dumps(DOCUMENT, indent=indent, ensure_ascii=indent is None)
    assert list(contents(saved(tmp_path, text.encode()))) == EVERYTHING


def test_a_zipped_file_needs_no_ending(tmp_path: Path) -> None:
    path = saved(tmp_path, gzip.compress(json.dumps(DOCUMENT).encode()))
    assert list(contents(path)) == EVERYTHING


def test_a_bare_list_of_events(tmp_path: Path) -> None:
    path = saved(tmp_path, b'\xef\xbb\xbf [ {"a": 1} , {"b": 2} ] ')
    assert list(contents(path)) == [(EVENTS, {"a": 1}), (EVENTS, {"b": 2})]


def test_numbers_at_the_end_of_a_piece_are_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file, "PIECE", 7)
    assert list(contents(saved(tmp_path, b'{"a": 123456789, "b": 1.5}'))) == [
        ("a", 123456789),
        ("b", 1.5),
    ]


def message(path: Path) -> str:
    with pytest.raises(TraceError) as caught:
        list(contents(path))
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    return text.removeprefix(f"{path}: ")


@pytest.mark.parametrize("part", [0.2, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("is_zipped", [False, True])
def test_a_file_that_ends_early(tmp_path: Path, part: float, is_zipped: bool) -> None:
    data = json.dumps(DOCUMENT).encode()
    data = gzip.compress(data) if is_zipped else data
    path = saved(tmp_path, data[: int(part * len(data))])
    assert message(path).startswith("it ends in the middle")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "it is empty"),
        (b"hello", "'h' at character 0, not '{' or '['"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "at character 0, not '{' or '['"),
        (b'{"traceEvents": [{"a": nonsense, "b": 1}, {"c": 2}]}', "Expecting value"),
        (b'{"traceEvents": [{"a": 1} {"b": 2}]}', "not ','"),
        (b'{"traceEvents" [1]}', "not ':'"),
        (b'{"a": ' + 100_000 * b"[", "nested too deeply"),
        (b'{"traceEvents": [' + 100_000 * b'{"a":', "nested too deeply"),
        (b"\x1f\x8bnonsense that is no gzip", "it is damaged"),
    ],
)
def test_what_is_no_recording(tmp_path: Path, data: bytes, expected: str) -> None:
    assert expected in message(saved(tmp_path, data))


def test_damage_inside_a_zipped_file(tmp_path: Path) -> None:
    data = bytearray(gzip.compress(json.dumps(DOCUMENT).encode()))
    data[len(data) // 2] ^= 0xFF
    assert "damaged" in message(saved(tmp_path, bytes(data)))


def test_one_value_without_end_does_not_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bomb: a megabyte zipped, a gigabyte of one string."""
    monkeypatch.setattr(file, "LARGEST", 1 << 22)
    path = saved(tmp_path, gzip.compress(b'{"a": "' + (1 << 26) * b"a"))
    tracemalloc.start()
    assert "Unterminated string" in message(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 26


def test_a_missing_file_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(contents(tmp_path / "none.json"))
