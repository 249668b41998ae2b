"""A mode that asks something about every op."""

from __future__ import annotations

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode


class Ops(TorchDispatchMode):
    """Writes down what ``look(op, arguments)`` answers for every op."""

    supports_higher_order_operators = True

    def __init__(self, look: Any) -> None:
        super().__init__()
        self.look = look
        self.seen: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(self.look(func, args))
        return func(*args, **(kwargs or {}))
