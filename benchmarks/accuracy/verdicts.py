"""The verdicts of a comparison."""

from __future__ import annotations

from typing import Any

__all__ = ["AGREES", "ALONE", "EXPLAINED", "UNEXPLAINED", "UNKNOWN", "VERDICTS", "Row"]

Row = dict[str, Any]
"""One comparison, with its verdict."""

AGREES = "agrees"

EXPLAINED = "explained"
"""Named reasons add up to the difference."""

ALONE = "alone"
"""No reason is known, but torchvision's registry, or the same paper elsewhere, has flopcount's."""

UNKNOWN = "unknown"
"""The paper does not say how it counted, and no way that was tried leads to its figure."""

UNEXPLAINED = "unexplained"

VERDICTS = (AGREES, EXPLAINED, ALONE, UNKNOWN, UNEXPLAINED)
