"""The user's names for recorded modules, where the order of their calls and the shapes agree.

torch's frames tell a module's class, and which instance of it was called: ``Linear_3``. Below a
module whose name is known, the instances of a class are the modules of that class that it holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from torch import nn

from flopcount.attribution.parameters import Parameters
from flopcount.attribution.wrappers import innermost, type_name
from flopcount.errors import TraceError
from flopcount.report.report import Report
from flopcount.report.tree import Module
from flopcount.trace.call import shapes_of
from flopcount.trace.events import INSTANCE, MODULE, MODULE_NAME, Event, Recording


@dataclass(eq=False)
class Instance:
    """A module that was called: its class, what it called, and the shapes that its ops saw."""

    name: str
    kind: str
    children: list[Instance] = field(default_factory=list)
    shapes: set[tuple[int, ...]] = field(default_factory=set)


def paths_of(recording: Recording, model: nn.Module) -> dict[str, str]:
    """The path of each recorded module that is found in ``model``, whose name it begins with.

    Raises:
        TraceError: the recording has no call of the model.
    """
    root = innermost(model)
    instances = instances_in(recording)
    kind = type(root).__name__
    first = next((instance for instance in instances.values() if instance.kind == kind), None)
    if first is None:
        known = ", ".join(dict.fromkeys(instance.kind for instance in instances.values()))
        have = f"of these classes: {known}" if known else "none: record with with_stack=True"
        raise TraceError(f"{recording.name}: no call of {kind} is recorded; modules are {have}")
    return dict(_found(first, root, type_name(root)))


def named_after(model: nn.Module, report: Report) -> Report:
    """``report``, whose modules have these paths, with the classes and parameters of ``model``."""
    root = innermost(model)
    start = type_name(root)
    held = {
        f"{start}.{name}".removesuffix("."): inner
        for name, inner in root.named_modules(remove_duplicate=False)
    }

    def told(row: Module) -> Module:
        if row.path not in held:
            return row
        params, trainable = Parameters().count(held[row.path])
        kind = type_name(held[row.path])
        return replace(row, type=kind, params=params, trainable=trainable)

    return replace(report, modules=tuple(map(told, report.modules)), model_path=start)


def instances_in(recording: Recording) -> dict[str, Instance]:
    """The modules that were called, by their names, in the order of their first calls."""
    instances: dict[str, Instance] = {}
    callers: dict[Event, Instance | None] = {}
    for event in recording.host:
        caller = callers.get(event.outer) if event.outer else None
        if event.kind is MODULE:
            name = event.name.removeprefix(MODULE_NAME)
            instance = instances.get(name)
            if instance is None:
                match = INSTANCE.fullmatch(name)
                instance = instances[name] = Instance(name, match["type"] if match else name)
                if caller is not None:
                    caller.children.append(instance)
            caller = instance
        elif caller is not None and event.arguments is not None:
            caller.shapes.update(shape for shape, _ in shapes_of(event.arguments))
        callers[event] = caller
    return instances


def _found(instance: Instance, module: nn.Module, path: str) -> Iterator[tuple[str, str]]:
    """The names and paths of ``instance``, which is ``module``, and of all that it called."""
    yield instance.name, path
    for kind in dict.fromkeys(child.kind for child in instance.children):
        called = [child for child in instance.children if child.kind == kind]
        for child, name, inner in _pairs(called, list(_held(module, kind))):
            yield from _found(child, inner, f"{path}.{name}")


def _held(module: nn.Module, kind: str) -> Iterator[tuple[str, nn.Module]]:
    """The modules of a class that ``module`` holds, the nearest first."""
    inner = [(name, item) for name, item in module.named_modules() if name]
    for name, item in sorted(inner, key=lambda named: named[0].count(".")):
        if type(item).__name__ == kind:
            yield name, item


def _pairs(
    called: list[Instance], held: list[tuple[str, nn.Module]]
) -> Iterator[tuple[Instance, str, nn.Module]]:
    """Which of the modules that are ``held`` each of those that were ``called`` is."""
    levels = sorted({name.count(".") for name, _ in held})
    for level in levels:  # as few levels down as hold enough of them
        near = [named for named in held if named[0].count(".") <= level]
        if len(near) >= len(called):
            held = near
            break
    in_order = list(zip(called, held, strict=False))
    if len(called) == len(held) and all(_fits(one, item) for one, (_, item) in in_order):
        yield from ((one, name, item) for one, (name, item) in in_order)
        return
    left = list(held)
    for one in called:  # shapes tell, if only one module has them
        fitting = [named for named in left if _fits(one, named[1])]
        if len(fitting) == 1:
            left.remove(fitting[0])
            yield one, *fitting[0]


def _fits(instance: Instance, module: nn.Module) -> bool:
    """Whether the ops of ``instance`` saw all parameters that ``module`` has itself."""
    return all(_seen(tuple(p.shape), instance.shapes) for p in module.parameters(recurse=False))


def _seen(shape: tuple[int, ...], shapes: Iterable[tuple[int, ...]]) -> bool:
    return shape in shapes or shape[::-1] in shapes
