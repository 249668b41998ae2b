"""Whatever is wrong in a file, there is a report of it, or one line that says what is wrong."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest

import flopcount
from flopcount import TraceError

FILE = Path(__file__).with_name("data") / "torch-2.13.0.json.gz"

VALUES: list[Any] = [
    None, -1, 0, 1.5, "", "x", [], [[]], {}, True, 10**30, float("inf"), "[1, nan]", "c10::Half",
    ["a"], [None], [-5, 3],
]  # fmt: skip
"""What may stand in the place of anything."""


def damaged(value: Any, draw: random.Random) -> Any:
    """``value`` with something in it missing, repeated, or replaced."""
    choice = draw.random()
    if isinstance(value, dict) and value and choice < 0.9:
        key, rest = draw.choice(list(value)), dict(value)
        if choice < 0.15:
            del rest[key]
        else:
            rest[key] = damaged(value[key], draw)
        return rest
    if isinstance(value, list) and value and choice < 0.8:
        place, rest = draw.randrange(len(value)), list(value)
        if choice < 0.1:
            del rest[place]
        elif choice < 0.2:
            rest.append(rest[place])
        else:
            rest[place] = damaged(rest[place], draw)
        return rest
    return draw.choice(VALUES)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(6))
def test_a_damaged_recording_is_read_or_refused(seed: int, tmp_path: Path) -> None:
    document = json.loads(gzip.decompress(FILE.read_bytes()))
    events, path, draw = document["traceEvents"][:300], tmp_path / "trace.json", random.Random(seed)
    refusals: list[str] = []
    for _ in range(25):
        some = list(events)
        for _ in range(draw.choice([1, 1, 3])):
            place = draw.randrange(len(some))
            some[place] = damaged(some[place], draw)
        whole = {**document, "traceEvents": some}
        path.write_text(json.dumps(damaged(whole, draw) if draw.random() < 0.2 else whole))
        try:
            flopcount.read_trace(path).table()
        except TraceError as error:
            refusals.append(str(error))
    assert 0 < len(refusals) < 25
    assert not any("\n" in refusal for refusal in refusals)
