"""The file of a recording, plain or gzip, read value by value: it may be larger than memory."""

from __future__ import annotations

import codecs
import gzip
import json
import re
import zlib
from collections.abc import Iterator
from os import PathLike, fspath
from typing import IO, Any

from flopcount.errors import TraceError

EVENTS = "traceEvents"
"""The key of the events in the file of torch.profiler; all other keys describe the recording."""

PIECE = 1 << 20
"""How many characters are read at once."""

LARGEST = 1 << 26
"""Characters that one value may have. An event has thousands, a description a million."""

GZIP = b"\x1f\x8b"
"""The first bytes of a gzip file."""

VISIBLE = re.compile(r"[^ \t\r\n\ufeff]")

TRUNCATED = "it ends in the middle: the run or the copy was interrupted before all was written"


def contents(path: str | PathLike[str]) -> Iterator[tuple[str, Any]]:
    """The values of the recording at ``path`` with their keys: each event has the key ``EVENTS``.

    Raises:
        TraceError: the file is damaged, ends early, or is no JSON with events.
        OSError: it cannot be read.
    """
    name = fspath(path)
    with open(path, "rb") as raw:
        is_zipped = raw.read(2) == GZIP
        raw.seek(0)
        stream: Any = gzip.GzipFile(fileobj=raw) if is_zipped else raw
        try:
            yield from _document(_Text(stream))
        except EOFError as error:  # gzip's own, and ours
            raise TraceError(f"{name}: {TRUNCATED}") from error
        except (gzip.BadGzipFile, zlib.error) as error:
            raise TraceError(f"{name}: it is damaged: {error}") from error
        except RecursionError as error:
            raise TraceError(f"{name}: lists are nested too deeply for a recording") from error
        except ValueError as error:
            raise TraceError(f"{name}: it is no recording of torch.profiler: {error}") from error


class _Text:
    """The text of a stream, of which a window is in memory."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._decoder = json.JSONDecoder(strict=False)  # names of kernels may hold a tab
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._window, self._at, self._passed = "", 0, 0

    def next(self) -> str:
        """The next character that is not a space, which stays the next; none at the end."""
        while True:
            found = VISIBLE.search(self._window, self._at)
            self._at = found.start() if found else len(self._window)
            if self._at < len(self._window) or not self._read():
                return self._window[self._at : self._at + 1]

    def take(self, characters: str) -> str:
        """Take the next character, which is one of these."""
        found = self.next()
        if not found:
            raise EOFError
        if found not in characters:
            wanted = " or ".join(map(repr, characters))
            raise ValueError(f"{found!r} at character {self._passed + self._at}, not {wanted}")
        self._at += 1
        return found

    def value(self) -> Any:
        """Take the next value."""
        self.next()
        while True:
            found = self._decoded()
            if found is None:
                continue
            value, length = found
            # a number may go on behind the window
            if self._at + length < len(self._window) or not self._read():
                self._at += length
                return value

    def _decoded(self) -> tuple[Any, int] | None:
        """The next value and its length; None if it goes on behind the window, which has grown."""
        try:
            value, end = self._decoder.raw_decode(self._window, self._at)
            return value, end - self._at
        except json.JSONDecodeError as error:
            size = len(self._window)
            is_cut = error.msg.startswith("Unterminated") or error.pos + 8 > size
            is_large, where = size - self._at > LARGEST, self._passed + error.pos
            if is_large or not self._read():
                if is_cut and not is_large:
                    raise EOFError from error
                raise ValueError(f"{error.msg} at character {where}") from error
            return None

    def _read(self) -> bool:
        """Let the window begin here, and read on; False at the end of the text."""
        rest = self._window[self._at :]
        self._passed += self._at
        self._window, self._at = rest, 0
        while data := self._stream.read(max(PIECE, len(rest))):
            if text := self._decode(data):
                self._window += text
                return True
        return False


def _document(text: _Text) -> Iterator[tuple[str, Any]]:
    """The values of a JSON object, or of a list of events."""
    first = text.next()
    if not first:
        raise ValueError("it is empty")
    if text.take("{[") == "[":
        yield from _events(text)
        return
    while text.next() != "}":
        key = text.value()
        if not isinstance(key, str):
            raise ValueError(f"a key is {key!r}, and no text")
        text.take(":")
        if key == EVENTS and text.next() == "[":
            text.take("[")
            yield from _events(text)
        else:
            yield key, text.value()
        if text.next() != "}":
            text.take(",")


def _events(text: _Text) -> Iterator[tuple[str, Any]]:
    """The items of a list, behind its bracket."""
    while text.next() != "]":
        yield EVENTS, text.value()
        if text.next() != "]":
            text.take(",")
    text.take("]")
