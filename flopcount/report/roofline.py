"""How near a recorded run came to what its device can do: by op and by module."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module

from flopcount.errors import UnknownDeviceError
from flopcount.hardware.device import Device
from flopcount.hardware.known import KNOWN, find_device
from flopcount.hardware.roofline import Bound, bound_of
from flopcount.report.named import Modules
from flopcount.report.tree import ModuleNode, Row, rows_by_op


@dataclass(frozen=True)
class Roofline:
    """The least time for a report's work on a device, beside the time that it took.

    >>> import torch, flopcount
    >>> report = flopcount.count(torch.nn.Linear(4096, 4096), torch.ones(8, 4096), backward=False)
    >>> roofline = report.roofline("H100 SXM")
    >>> roofline.device.name, roofline.total.by, f"{1e6 * roofline.total.least:.1f} µs"
    ('H100 SXM', 'memory', '20.1 µs')
    >>> bound = roofline.ops["aten.addmm", "float32"]
    >>> bound.cost.macs, bound.measured  # this report was not recorded
    (134217728, None)

    Attributes:
        device: the device.
        tf32: whether products of float32 count as TF32.
        ops: the :class:`flopcount.hardware.roofline.Bound` of each op and dtype. One of unknown
            cost has none.
        modules: of each module with its children, by its path, its ops one after another. Ops
            without a bound have no part in it, nor has the time that they took.
        total: of all ops, likewise.
    """

    device: Device
    tf32: bool
    ops: Mapping[tuple[str, str], Bound]
    modules: Mapping[str, Bound]
    total: Bound

    def __str__(self) -> str:
        text: str = import_module("flopcount.report.render.rates").roofline_table(self)
        return text


def roofline(root: ModuleNode, entries: Iterable[Row], device: Device, *, tf32: bool) -> Roofline:
    """The roofline of the rows of a report, whose tree is ``root``."""
    rows = rows_by_op(entries)
    nodes: dict[str, ModuleNode] = {}
    for node in root.walk():
        nodes.setdefault(node.path, node)

    def bound(some: Iterable[Row]) -> Bound:
        work = ((row.cost, row.dtype, _seconds(row)) for row in some)
        return bound_of(device, work, tf32=tf32)

    def of_counted(some: Iterable[Row]) -> Bound:
        return bound(row for row in some if not row.uncounted)

    return Roofline(
        device=device,
        tf32=tf32,
        ops={
            key: replace(bound(some), compute=None, memory=None, least=None)
            if any(row.uncounted for row in some)
            else bound(some)
            for key, some in rows.items()
        },
        modules=Modules(
            (path, of_counted(row for inner in node.walk() for row in inner.rows))
            for path, node in nodes.items()
        ),
        total=of_counted(row for some in rows.values() for row in some),
    )


def device_named(device: Device | str | None, recorded: tuple[str, ...]) -> Device:
    """The device with this name, or the one that ``recorded`` names.

    Raises:
        TypeError: ``device`` is neither a device nor a name.
        UnknownDeviceError: none is known by the name, or several devices or none were recorded.
    """
    if isinstance(device, Device):
        return device
    if device is not None and not isinstance(device, str):
        raise TypeError(f"expected a flopcount.Device or a name, got {device!r}")
    names = set(recorded) if device is None else {device}
    if len(names) != 1:
        what = f"these devices were recorded: {', '.join(sorted(names))}" if names else "no device"
        raise UnknownDeviceError(f"{what}: name one, as in roofline('H100 SXM')")
    (name,) = names
    found = find_device(name)
    if found is None:
        devices = [known.device.name for known in KNOWN]
        near = [device for device in devices if name and name.lower() in device.lower()]
        raise UnknownDeviceError(
            f"the peaks of {name!r} are not known: pass flopcount.Device({name!r}, "
            f'peaks={{"bfloat16": …}}, bandwidth=…); known: {", ".join(near or devices)}'
        )
    return found


def _seconds(row: Row) -> float | None:
    return None if row.nanoseconds is None else row.nanoseconds / 1e9
