"""flopcount counts what a piece of PyTorch code costs: exactly, per module and phase.

The names below are resolved on first use, so that importing the package does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flopcount.cost import Convention as Convention
    from flopcount.cost import Cost as Cost
    from flopcount.counter.count import count as count
    from flopcount.counter.counter import FlopCounter as FlopCounter
    from flopcount.errors import FlopcountError as FlopcountError
    from flopcount.errors import TraceError as TraceError
    from flopcount.errors import UncountedOpError as UncountedOpError
    from flopcount.errors import UncountedOpWarning as UncountedOpWarning
    from flopcount.errors import UnknownDeviceError as UnknownDeviceError
    from flopcount.errors import UnknownModuleError as UnknownModuleError
    from flopcount.errors import UnknownNameError as UnknownNameError
    from flopcount.errors import UnwatchedProcessWarning as UnwatchedProcessWarning
    from flopcount.errors import UnwatchedThreadWarning as UnwatchedThreadWarning
    from flopcount.formulas import Gradients as Gradients
    from flopcount.formulas import formula as formula
    from flopcount.graph.count_graph import count_graph as count_graph
    from flopcount.hardware.device import Device as Device
    from flopcount.report.report import Report as Report
    from flopcount.report.tree import ModuleNode as ModuleNode
    from flopcount.trace.read import read_trace as read_trace
    from flopcount.trace.record import record as record

__version__ = "0.1.0"

_HOMES = {
    "Convention": "cost",
    "Cost": "cost",
    "Device": "hardware.device",
    "FlopCounter": "counter.counter",
    "FlopcountError": "errors",
    "Gradients": "formulas",
    "ModuleNode": "report.tree",
    "Report": "report.report",
    "TraceError": "errors",
    "UncountedOpError": "errors",
    "UncountedOpWarning": "errors",
    "UnknownDeviceError": "errors",
    "UnknownModuleError": "errors",
    "UnknownNameError": "errors",
    "UnwatchedProcessWarning": "errors",
    "UnwatchedThreadWarning": "errors",
    "count": "counter.count",
    "count_graph": "graph.count_graph",
    "formula": "formulas",
    "read_trace": "trace.read",
    "record": "trace.record",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        from flopcount.errors import did_you_mean

        hint = did_you_mean(name, __all__)
        raise AttributeError(f"module 'flopcount' has no attribute {name!r}{hint}")
    value = getattr(import_module(f"flopcount.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    dunders = (name for name in globals() if name.startswith("__"))
    return sorted({*dunders, *__all__})
