"""Every error that flopcount raises derives from :class:`FlopcountError`."""

from __future__ import annotations

__all__ = ["FlopcountError", "UncountedOpError"]


class FlopcountError(Exception):
    """Base class of flopcount's errors."""


class UncountedOpError(FlopcountError):
    """An op has no formula and ``strict=True`` asked for every op to be counted."""
