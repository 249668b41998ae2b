"""What a piece of work costs: a vector of exact integers, and the ways to read it as one number.

A :class:`Cost` holds facts only. Whether a multiply-accumulate is one operation or two is
decided when a Cost is read, never when it is counted.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from fractions import Fraction

__all__ = ["UNITS", "ZERO", "Convention", "Cost", "format_quantity", "parse_quantity"]


@dataclass(frozen=True, slots=True)
class Cost:
    """Exact additive cost of an op, a module or a step.

    >>> linear = Cost(macs=4 * 8 * 8, dots=4 * 8)  # (4, 8) @ (8, 8)
    >>> linear.flops, linear.exact_flops
    (512, 480)
    >>> (linear + Cost(arith=32)).flops  # and its bias
    544
    >>> masked = Cost(macs=8, void_macs=2, read=12, written=4)
    >>> masked.matmul_flops, masked.valid_macs, masked.bytes, masked.intensity
    (16, 6, 16, 1.0)

    Args:
        macs: multiply-accumulates of contractions (matmul, convolution, attention), padding
            included.
        dots: the dot products that those MACs form; one of length K is K multiplications
            and K - 1 additions.
        void_macs: the part of ``macs`` known to meet a structural zero (padding, causal mask).
        arith: other additions, subtractions, multiplications, divisions and square roots.
        compare: comparisons, minima, maxima, selects, absolute values and negations.
        special: evaluations of transcendental functions.
        read: bytes of distinct operands read.
        written: bytes of results written.
    """

    macs: int = 0
    dots: int = 0
    void_macs: int = 0
    arith: int = 0
    compare: int = 0
    special: int = 0
    read: int = 0
    written: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.macs + other.macs,
            self.dots + other.dots,
            self.void_macs + other.void_macs,
            self.arith + other.arith,
            self.compare + other.compare,
            self.special + other.special,
            self.read + other.read,
            self.written + other.written,
        )

    def __radd__(self, other: int) -> Cost:
        if other != 0:  # what sum() begins with
            return NotImplemented
        return self

    def __sub__(self, other: Cost) -> Cost:
        return self + -1 * other

    def __mul__(self, times: int) -> Cost:
        return Cost(
            times * self.macs,
            times * self.dots,
            times * self.void_macs,
            times * self.arith,
            times * self.compare,
            times * self.special,
            times * self.read,
            times * self.written,
        )

    __rmul__ = __mul__

    def __bool__(self) -> bool:
        return self != ZERO

    @property
    def flops(self) -> int:
        """All floating-point operations; a multiply-accumulate is two."""
        return 2 * self.macs + self.arith + self.compare + self.special

    @property
    def matmul_flops(self) -> int:
        """The contractions alone, two per MAC: what papers, MFU and torch's counter quote."""
        return 2 * self.macs

    @property
    def exact_flops(self) -> int:
        """Like ``flops``, with 2K - 1 operations for a dot product of length K."""
        return self.flops - self.dots

    @property
    def valid_macs(self) -> int:
        """The MACs that meet no structural zero: what XLA counts and oneDNN executes."""
        return self.macs - self.void_macs

    @property
    def bytes(self) -> int:
        """Bytes read and written."""
        return self.read + self.written

    @property
    def intensity(self) -> float:
        """FLOPs per byte moved; 0 if nothing was moved."""
        return self.flops / self.bytes if self.bytes else 0.0


ZERO = Cost()


@dataclass(frozen=True, slots=True, kw_only=True)
class Convention:
    """How many operations each kind of work counts for.

    >>> from flopcount import Convention, Cost
    >>> softmax = Cost(arith=2 * 10 - 1, compare=9, special=10)
    >>> softmax.flops, Convention(special=8).flops(softmax)  # an exp is 8
    (38, 108)

    The readings of a :class:`Cost` are conventions too: ``Convention()`` is ``flops``,
    ``Convention(dots=-1)`` is ``exact_flops``, ``Convention(arith=0, compare=0, special=0)`` is
    ``matmul_flops``.

    Args:
        macs: operations for a multiply-accumulate.
        dots: to add for a dot product; -1 removes the addition that it saves.
        void_macs: to add for a MAC that meets a structural zero; -2 removes it.
        arith: for an addition, subtraction, multiplication, division or square root.
        compare: for a comparison, minimum, maximum, select, absolute value or negation.
        special: for an evaluation of a transcendental function.

    Raises:
        TypeError: a weight is not a number.
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
        """``cost`` in operations: an exact int if all weights are ints.

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


UNITS = {"FLOP": "flops", "MAC": "macs", "B": "bytes"}
"""Units of quantities, and the reading of a :class:`Cost` that each stands for."""

_PREFIXES = ["", "k", "M", "G", "T", "P", "E", "Z", "Y"]


def format_quantity(count: int, unit: str = "") -> str:
    """``count`` with four significant digits and an SI prefix.

    >>> format_quantity(8_178_368_512, "FLOP")
    '8.178 GFLOP'
    >>> format_quantity(999, "B"), format_quantity(0)
    ('999 B', '0')

    Args:
        count: an exact number of operations or bytes.
        unit: what is counted (``"FLOP"``, ``"MAC"``, ``"B"``); empty for a bare number.
    """
    power, value = 0, float(count)
    # 999.95 would print as 1000 with four digits: it belongs to the next prefix
    while abs(value) >= 999.95 and power < len(_PREFIXES) - 1:
        power, value = power + 1, value / 1000
    digits = str(count) if power == 0 else f"{value:#.4g}"
    return f"{digits} {_PREFIXES[power]}{unit}".rstrip()


_NUMBER = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+(?:_[0-9]+)*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,2})?"
_QUANTITY = re.compile(rf"({_NUMBER}) *([{''.join(_PREFIXES)}]?)(?:(FLOP|MAC)s?|(B))")
_RATE = re.compile(r"(?i)/ *s|\bper\b|(?:FLOP|MAC)S$|(?:FLOP|MAC|B)ps$")


def parse_quantity(text: str) -> tuple[int, str]:
    """The exact number and the unit of a quantity as people write it.

    >>> parse_quantity("8.2 GFLOP"), parse_quantity("1 MAC"), parse_quantity("1.5e3 kFLOPs")
    ((8200000000, 'FLOP'), (1, 'MAC'), (1500000, 'FLOP'))

    Args:
        text: a decimal number, an SI prefix, and FLOP, MAC or B (bytes); FLOPs and MACs, too.

    Raises:
        TypeError: not a string: a number alone does not say of what.
        ValueError: anything else than a quantity, such as a rate (FLOP/s, or FLOPS, which many
            read as one), or one that is no whole number.
    """
    form = "a number, an SI prefix and FLOP, MAC or B, such as '8.2 GFLOP'"
    if not isinstance(text, str):
        raise TypeError(f"expected {form}, got {text!r}")
    match = _QUANTITY.fullmatch(text)
    if match is None:
        why = ": a rate (FLOP/s, FLOPS) is no count" if _RATE.search(text) else ""
        raise ValueError(f"expected {form}, got {text!r}{why}")
    digits, prefix, *units = match.groups()
    unit = units[0] or units[1]
    count = Fraction(re.sub("[_,]", "", digits)) * 1000 ** _PREFIXES.index(prefix)
    if count.denominator != 1:
        raise ValueError(f"expected a whole number of {unit}, got {text!r}")
    return int(count), unit
