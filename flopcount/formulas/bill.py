"""What one call of an op costs, ready to be posted to a ledger."""

from dataclasses import dataclass, field

from flopcount.cost import ZERO, Cost


@dataclass(frozen=True, slots=True)
class Bill:
    """What one call of an op costs, ready to be posted.

    ``recompute`` and ``integer`` stand in rows of their own, and are not in ``cost``.
    """

    op: str
    dtype: str
    cost: Cost
    gradients: dict[str, Cost] = field(default_factory=dict)
    recompute: Cost = ZERO
    integer: Cost = ZERO
    unknown: str = ""

    @property
    def counted(self) -> bool:
        """Whether ``unknown``, the reason why the cost is not known, is empty."""
        return not self.unknown
