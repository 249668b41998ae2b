"""Weights of one's own, to read a Cost as one number."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from flopcount.cost import Cost

__all__ = ["Convention"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Convention:
    """How many operations each kind of work counts for.

    >>> from flopcount import Convention, Cost
    >>> softmax = Cost(arith=2 * 10 - 1, compare=9, special=10)
    >>> softmax.flops, Convention(special=8).flops(softmax)  # an exp is 8
    (38, 108)

    The readings of a :class:`Cost` are conventions, too: ``Convention()`` is ``flops``,
    ``Convention(dots=-1)`` is ``exact_flops``, ``Convention(arith=0, compare=0, special=0)`` is
    ``matmul_flops``.

    Args:
        macs: operations for a multiply-accumulate.
        dots: for each dot product, beside its MACs; -1 takes off the addition that it saves.
        void_macs: for a MAC that meets a structural zero, beside its weight as a MAC; -2 takes
            them off.
        arith: for an addition, subtraction, multiplication, division or square root.
        compare: for a comparison, minimum, maximum, select, absolute value or negation.
        special: for an evaluation of a transcendental function.

    Raises:
        TypeError: a weight is not a number, or what is read is not a Cost.
    """

    macs: float = 2
    dots: float = 0
    void_macs: float = 0
    arith: float = 1
    compare: float = 1
    special: float = 1

    def __post_init__(self) -> None:
        for name, weight in asdict(self).items():
            if not isinstance(weight, (int, float)):
                raise TypeError(f"{name} must be a number, got {weight!r}")

    def flops(self, cost: Cost) -> float:
        """``cost`` in operations: an exact int where all weights are ints.

        >>> from flopcount import Convention, Cost
        >>> Convention(dots=-1).flops(Cost(macs=64, dots=8))  # 8 dot products of length 8
        120

        Args:
            cost: what to read, such as ``report.total``.

        Raises:
            TypeError: not a Cost.
        """
        if not isinstance(cost, Cost):
            raise TypeError(f"expected a Cost, such as report.total, got {type(cost).__name__}")
        counts = asdict(cost)
        operations: float = sum(weight * counts[kind] for kind, weight in asdict(self).items())
        return operations
