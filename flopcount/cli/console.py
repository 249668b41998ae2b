"""Terminals and pipes whose encoding lacks √, ÷ or ·: such characters are spelled in ASCII."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO
from unicodedata import combining, decomposition, name

SPELLED = {
    "√": "sqrt ",
    "Σ": "sum ",
    "∂": "d",
    "÷": "/",
    "·": "*",
    "×": "x",
    "⊗": "(x)",
    "∘": "o",
    "−": "-",
    "–": "-",
    "—": "-",
    "≤": "<=",
    "≥": ">=",
    "≠": "!=",
    "∞": "inf",
    "⌈": "ceil(",
    "⌉": ")",
    "½": "1/2",
    "…": "...",
    "′": "'",
    "µ": "u",
    "\u0302": "_hat",
}
"""How characters are written that no rule of :func:`spelled` covers."""

ERRORS = "flopcount.spelled"
"""The name under which Python's codecs know :func:`_replace`."""


def spelled(text: str) -> str:
    """``text`` in ASCII; what has no spelling is escaped.

    >>> spelled("√(x² + ε)·W₂ᵀ"), spelled("n·⌈log₂ n⌉, U⁻¹"), spelled("Größe 模")
    ('sqrt (x^2 + epsilon)*W_2^T', 'n*ceil(log_2 n), U^-1', 'Gro\\\\xdfe \\\\u6a21')
    """
    return "".join(map(_spelled, text)).replace("^-^", "^-")  # a minus and digits, all superscript


def _spelled(character: str) -> str:
    if character in SPELLED or character.isascii():
        return SPELLED.get(character, character)
    *kind, parts = decomposition(character).rpartition("> ")
    if parts:  # a superscript, a subscript, or a letter and its accent
        mark = {"<super": "^", "<sub": "_"}.get(kind[0], "")
        return mark + "".join(_spelled(chr(int(code, 16))) for code in parts.split())
    if combining(character):
        return ""
    form, _, letter = name(character, "").rpartition(" LETTER ")
    if form.startswith("GREEK "):
        return letter.title() if form.endswith("CAPITAL") else letter.lower()
    return character.encode("ascii", "backslashreplace").decode("ascii")


def _replace(error: UnicodeError) -> tuple[str, int]:
    """Spell the characters that an encoding lacks."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return spelled(error.object[error.start : error.end]), error.end


codecs.register_error(ERRORS, _replace)


@contextmanager
def spelling(*streams: TextIO) -> Iterator[None]:
    """In this block, ``streams`` spell what their encoding lacks, where they would raise."""
    before = [(stream, stream.errors) for stream in streams if isinstance(stream, io.TextIOWrapper)]
    for stream, _ in before:
        stream.reconfigure(errors=ERRORS)
    try:
        yield
    finally:
        for stream, errors in before:
            if not stream.closed:
                stream.reconfigure(errors=errors)
