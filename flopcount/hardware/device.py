"""A device: how fast it computes and moves bytes at best."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from flopcount.cost import Cost

KINDS = ("float64", "float32", "tf32", "float16", "bfloat16", "float8", "int8")
"""What products are computed in; ``tf32`` is what tensor cores may make of float32."""

SYNONYMS = {
    "complex64": "float32",
    "complex128": "float64",
    "complex32": "float16",
    "uint8": "int8",
    "qint8": "int8",
    "quint8": "int8",
}
"""Other dtypes that a device computes products of at the same peak."""


@dataclass(frozen=True)
class Device:
    """The peaks of a device, without sparsity.

    >>> import flopcount
    >>> mine = flopcount.Device("mine", peaks={"bfloat16": 400e12}, bandwidth=2e12)
    >>> mine.peak("bfloat16"), mine.peak("float64"), mine.bandwidth
    (400000000000000.0, None, 2000000000000.0)
    >>> mine.compute_seconds(flopcount.Cost(macs=10**12), "bfloat16")
    0.005

    Args:
        name: what people call it.
        peaks: FLOP/s of products by what they are computed in: ``float64``, ``float32``, ``tf32``,
            ``float16``, ``bfloat16``, ``float8``, ``int8``. None is assumed for those left out.
        bandwidth: bytes/s of its memory; None if it is not known.
        vector: FLOP/s of other arithmetic in float32. If it is not known, such arithmetic takes
            no time: memory bounds it on most devices.
        source: where the figures come from.

    Raises:
        TypeError: the peaks are no dict.
        ValueError: a dtype is none of these, or a peak is not a number above 0.
    """

    name: str
    peaks: Mapping[str, float]
    bandwidth: float | None = None
    vector: float | None = None
    source: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.peaks, Mapping):
            raise TypeError(f'expected peaks={{"bfloat16": FLOP/s}}, got {self.peaks!r}')
        for kind in self.peaks:
            if kind not in KINDS:
                raise ValueError(f"{kind!r} is no kind of product; known: {', '.join(KINDS)}")
        for peak in (*self.peaks.values(), self.bandwidth, self.vector):
            is_number = isinstance(peak, (int, float))
            if peak is not None and not (is_number and peak > 0 and math.isfinite(peak)):
                raise ValueError(f"a peak of {self.name} is {peak!r}; expected FLOP/s or bytes/s")

    def peak(self, dtype: str, *, tf32: bool = False) -> float | None:
        """FLOP/s of products in ``dtype``; None if it is not known.

        >>> import flopcount
        >>> mine = flopcount.Device("mine", peaks={"float32": 20e12, "tf32": 150e12})
        >>> mine.peak("complex64") / 1e12, mine.peak("float32", tf32=True) / 1e12
        (20.0, 150.0)

        Args:
            dtype: as rows have it: ``"bfloat16"``.
            tf32: whether products of float32 may run as TF32.
        """
        kind = "float8" if dtype.startswith("float8") else SYNONYMS.get(dtype, dtype)
        if kind == "float32" and tf32 and "tf32" in self.peaks:
            kind = "tf32"
        return self.peaks.get(kind)

    def compute_seconds(self, cost: Cost, dtype: str, *, tf32: bool = False) -> float | None:
        """The least time for the arithmetic of ``cost``; None if its products' peak is not known.

        Products run at the peak of their dtype, and all else at the vector units' peak, at once.

        >>> import flopcount
        >>> mine = flopcount.Device("mine", peaks={"float32": 20e12}, vector=10e12)
        >>> mine.compute_seconds(flopcount.Cost(macs=10**13, arith=10**13), "float32")
        1.0

        Args:
            cost: what is computed.
            dtype: in which dtype.
            tf32: whether products of float32 may run as TF32.
        """
        products, others = cost.matmul_flops, cost.flops - cost.matmul_flops
        peak = self.peak(dtype, tf32=tf32)
        if products and peak is None:
            return None
        seconds = products / peak if peak and products else 0.0
        return max(seconds, others / self.vector if self.vector else 0.0)

    def memory_seconds(self, cost: Cost) -> float | None:
        """The least time to move the bytes of ``cost``; None if the bandwidth is not known.

        >>> import flopcount
        >>> mine = flopcount.Device("mine", peaks={}, bandwidth=2e12)
        >>> mine.memory_seconds(flopcount.Cost(read=10**12, written=10**12))
        1.0

        Args:
            cost: what is read and written.
        """
        return cost.bytes / self.bandwidth if self.bandwidth else None
