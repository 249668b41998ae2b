"""The report: what was counted, as an immutable value to query, save and compare."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib import import_module
from os import PathLike
from typing import Any

from flopcount.attribution.phase import PHASES
from flopcount.cost import ZERO, Cost
from flopcount.errors import UnknownModuleError
from flopcount.hardware.device import Device
from flopcount.report import json
from flopcount.report.diff import Diff
from flopcount.report.file import write_whole
from flopcount.report.named import Modules, Named
from flopcount.report.roofline import Roofline, device_named, roofline
from flopcount.report.run import Run
from flopcount.report.tree import Module, ModuleNode, Row, tree_of

FORMATS = "flopcount.report.render"
"""The package of output formats, imported on use: formats know reports, not the reverse."""

LOADER = "DataLoader worker"
"""What reports call a process that loads data for others. No model runs there."""


@dataclass(frozen=True)
class Report:
    """The cost of a block of code, by module, phase, op and dtype.

    >>> import torch, flopcount
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 2))
    >>> report = flopcount.count(model, torch.ones(4, 8))
    >>> report.total.macs, report["0"].phases["backward"].macs
    (128, 64)
    >>> report.phases["forward"].flops, report.model_flops, report.hardware_flops
    (143, 256, 256)
    >>> report.root.path, report.model.type, list(report), report.uncounted
    ('<block>', 'Sequential', ['<block>', '', '0'], {})
    >>> report.run, report.seconds  # of a recorded run, see read_trace
    (None, None)
    >>> flopcount.Report.from_json(report.to_json()) == report
    True

    Attributes:
        modules: every module that ran, with its full path; the first is the block itself.
        entries: the cost of each op in each module, phase and dtype; ``rows()`` has plain dicts.
        model_path: the full path of the model that was given, or of the only root module.
        unwatched: threads that had not entered the counter, with what ran first in each.
        children: what processes ran that the block started, with their number. Nothing is counted
            there.
        models: the names of the models, if several were given, or in a dict; paths begin with one.
        run: the time that a recorded run took on its devices; None for what was only counted.
    """

    modules: tuple[Module, ...]
    entries: tuple[Row, ...]
    model_path: str | None = None
    unwatched: dict[str, str] = field(default_factory=dict)
    children: dict[str, int] = field(default_factory=dict)
    models: tuple[str, ...] = ()
    run: Run | None = None

    # -- totals

    @property
    def total(self) -> Cost:
        """Everything that was counted."""
        return self.root.total

    @property
    def phases(self) -> dict[str, Cost]:
        """The total of each phase: forward, backward, recompute, optimizer, other."""
        return self.root.phases

    @property
    def model_flops(self) -> int:
        """Matmul-class FLOPs that the model requires, forward and backward: MFU's numerator.

        Recomputation, the optimizer and the phase ``other`` are left out. Integer products are not
        FLOPs.
        """
        return self._matmul_flops("forward", "backward")

    @property
    def hardware_flops(self) -> int:
        """Matmul-class FLOPs that were executed, recomputation included: HFU's numerator."""
        return self._matmul_flops(*PHASES)

    def _matmul_flops(self, *phases: str) -> int:
        return sum(
            row.cost.matmul_flops
            for row in self.entries
            if row.phase in phases and row.dtype.startswith(("float", "bfloat", "complex"))
        )

    @property
    def seconds(self) -> float | None:
        """How long devices were busy in a recorded run; None if nobody measured.

        Kernels that ran at once count once here. In rows and in modules they add up.
        """
        return self.run.busy / 1e9 if self.run else None

    @property
    def uncounted(self) -> dict[str, int]:
        """How often each op ran whose cost is not known; no total includes its FLOPs."""
        calls = Named[int](kind="uncounted op")
        for row in self.entries:
            if row.uncounted:
                calls[row.op] = calls.get(row.op, 0) + row.uncounted
        return calls

    # -- modules

    @cached_property
    def root(self) -> ModuleNode:
        """The whole block. Its own work ran outside every module; its children are the roots."""
        return tree_of(self.modules, self.entries, self.relative)

    def relative(self, path: str) -> str:
        """A full path relative to the model; the block around the model is ``<block>``.

        >>> import torch, flopcount
        >>> report = flopcount.count(torch.nn.Sequential(torch.nn.Linear(8, 2)), torch.ones(4, 8))
        >>> report.relative("Sequential.0"), report.relative("")
        ('0', '<block>')

        Args:
            path: dotted, from the block.
        """
        if self.model_path is None:
            return path
        if not path:
            return "<block>"
        is_inside = f"{path}.".startswith(f"{self.model_path}.")
        return path.removeprefix(self.model_path).removeprefix(".") if is_inside else path

    @property
    def model(self) -> ModuleNode:
        """The given model, or the only root module that ran; else the whole block.

        Raises:
            UnknownModuleError: several models were given; the message names them.
        """
        if len(self.models) > 1:
            names = " or ".join(f"report[{name!r}]" for name in self.models)
            raise UnknownModuleError(f"there are {len(self.models)} models: take {names}")
        return self._nodes["".join(self.models)]

    @cached_property
    def _nodes(self) -> dict[str, ModuleNode]:
        nodes = Modules[ModuleNode]()
        for node in self.root.walk():  # the model comes first: its paths win over other roots'
            nodes.setdefault(node.path, node)
        return nodes

    @cached_property
    def _other_paths(self) -> dict[str, str]:
        """The path of the row of a shared module, by each other path of the module."""
        nodes = self._nodes.values()
        return {other: node.path for node in nodes for other in node.other_paths}

    def _row_path(self, path: Any) -> Any:
        """``path`` with the names that shared modules, and the block, have in the tree."""
        if path == "<block>" and path not in self._nodes:  # there is no single model
            return ""
        if isinstance(path, str) and path not in self._nodes:
            names = path.split(".")
            for end in range(len(names), 0, -1):
                known = self._other_paths.get(".".join(names[:end]))
                if known is not None:
                    return self._row_path(".".join([*filter(None, [known]), *names[end:]]))
        return path

    def __getitem__(self, path: str) -> ModuleNode:
        """The module at ``path``, relative to the model; a shared module has several paths.

        >>> import torch, flopcount
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU())
        >>> model = model.append(model[0])
        >>> report = flopcount.count(model, torch.ones(4, 8))
        >>> report["2"].path, report["0"].other_paths, report["0"].calls
        ('0', ('2',), 2)

        Raises:
            UnknownModuleError: no such module ran; the message names the nearest.
        """
        row = self._row_path(path)
        return self._nodes[row if row in self._nodes else path]

    def __contains__(self, path: object) -> bool:
        """Whether a module with this path ran."""
        return self._row_path(path) in self._nodes

    def __iter__(self) -> Iterator[str]:
        """The paths of all modules, parents first."""
        return iter(self._nodes)

    def roofline(self, device: Device | str | None = None, *, tf32: bool = False) -> Roofline:
        """The least time that a device needs for each op and module, beside the time it took.

        >>> import torch, flopcount
        >>> linear = torch.nn.Linear(8, 8, bias=False)
        >>> report = flopcount.count(linear, torch.ones(4, 8), backward=False)
        >>> slow = flopcount.Device("slow", peaks={"float32": 1e6}, bandwidth=1e6)
        >>> bound = report.roofline(slow).modules[""]
        >>> bound.compute, bound.memory, bound.by  # 4·8·8 MAC; 64 + 32 + 32 numbers of 4 bytes
        (0.000512, 0.000512, 'compute')

        Ops of unknown cost, and those whose dtype the device has no peak for, have no bound. See
        :class:`flopcount.report.roofline.Roofline`; the model is that of Williams, Waterman and
        Patterson, "Roofline: an insightful visual performance model", 2009.

        Args:
            device: a known device by its name, or a :class:`flopcount.Device`; by default the one
                of the recorded run.
            tf32: whether products of float32 may run as TF32.

        Raises:
            TypeError: ``device`` is neither a device nor a name.
            UnknownDeviceError: the peaks are not known; the message says how to pass them.
        """
        found = device_named(device, self.run.devices if self.run else ())
        return roofline(self.root, self.entries, found, tf32=tf32)

    # -- tables

    def by_module(self) -> dict[str, Cost]:
        """Total of each module, children included, by its path relative to the model.

        >>> import torch, flopcount
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 2), torch.nn.ReLU())
        >>> costs = flopcount.count(model, torch.ones(4, 8), backward=False).by_module()
        >>> {path: cost.flops for path, cost in costs.items()}
        {'<block>': 144, '': 144, '0': 136, '1': 8}
        """
        return Modules((path, node.total) for path, node in self._nodes.items())

    def by_operator(self) -> dict[str, Cost]:
        """Total of each op, the most expensive first.

        >>> import torch, flopcount
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 2), torch.nn.ReLU())
        >>> costs = flopcount.count(model, torch.ones(4, 8), backward=False).by_operator()
        >>> {op: cost.flops for op, cost in costs.items()}
        {'aten.addmm': 136, 'aten.relu': 8}
        """
        return _sums("op", self.entries, lambda row: row.op)

    def by_dtype(self) -> dict[str, Cost]:
        """Total of each dtype that ops worked in, so that int8 operations are not FLOPs.

        >>> import torch, flopcount
        >>> costs = flopcount.count(torch.nn.Linear(8, 2), torch.ones(4, 8)).by_dtype()
        >>> {dtype: cost.macs for dtype, cost in costs.items()}
        {'float32': 128}
        """
        return _sums("dtype", self.entries, lambda row: row.dtype)

    def by_module_and_operator(self) -> dict[str, dict[str, Cost]]:
        """Total of each op in each module, children included.

        >>> import torch, flopcount
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 2), torch.nn.ReLU())
        >>> report = flopcount.count(model, torch.ones(4, 8), backward=False)
        >>> report.by_module_and_operator()["1"]["aten.relu"].flops
        8
        """
        return Modules(
            (path, _sums("op", (row for n in node.walk() for row in n.rows), lambda row: row.op))
            for path, node in self._nodes.items()
        )

    def rows(self) -> list[dict[str, Any]]:
        """Every entry as a plain dict, for ``pandas.DataFrame``; they add up to the total.

        ``params`` and ``trainable`` are those of the entry's module, its children's included. An
        entry of a recorded run has ``nanoseconds``.

        >>> import torch, flopcount
        >>> (row,) = flopcount.count(torch.nn.Linear(8, 2), torch.ones(4, 8), backward=False).rows()
        >>> row["op"], row["phase"], row["dtype"], row["macs"], row["read"], row["written"]
        ('aten.addmm', 'forward', 'float32', 64, 200, 32)
        """
        modules = {module.path: module for module in self.modules}
        return [
            {
                "module": self.relative(row.module),
                "type": modules[row.module].type,
                "params": modules[row.module].params,
                "trainable": modules[row.module].trainable,
                "phase": row.phase,
                "op": row.op,
                "dtype": row.dtype,
                "calls": row.calls,
                "uncounted": row.uncounted,
                "flops": row.cost.flops,
                **asdict(row.cost),
                **({"nanoseconds": row.nanoseconds} if self.run else {}),
            }
            for row in self.entries
        ]

    def table(
        self,
        depth: int | None = None,
        *,
        columns: Iterable[str] | None = None,
        sort: str | None = None,
    ) -> str:
        """The report as text: modules, phases, layer types, ops.

        >>> import torch, flopcount
        >>> report = flopcount.count(torch.nn.Linear(8, 2), torch.ones(4, 8), backward=False)
        >>> print(report.table(columns=["macs", "bytes"]).partition("total")[0])
        module      forward MAC    bytes
        --------  -------------  -------
        Linear               64      232
        <BLANKLINE>

        Args:
            depth: levels of modules below the model to show; None shows all.
            columns: the columns to show, in order; see :mod:`flopcount.report.render.table`.
            sort: the column to sort sibling modules by, largest first; None keeps the order in
                which they ran.

        Raises:
            ValueError: a column is unknown, or the depth is negative.
        """
        table: str = import_module(f"{FORMATS}.table").render(
            self, depth=depth, columns=columns, sort=sort
        )
        return table

    def __str__(self) -> str:
        return self.table()

    def diff(self, other: Report) -> Diff:
        """What changed from this report to ``other``: see :class:`flopcount.report.diff.Diff`.

        >>> import torch, flopcount
        >>> narrow = flopcount.count(torch.nn.Linear(8, 2), torch.ones(4, 8), backward=False)
        >>> wide = flopcount.count(torch.nn.Linear(8, 3), torch.ones(4, 8), backward=False)
        >>> [(change.op, change.flops) for change in narrow.diff(wide).changes]
        [('aten.addmm', 68)]

        Args:
            other: the later report.

        Raises:
            TypeError: ``other`` is not a Report.
        """
        if not isinstance(other, Report):
            raise TypeError(f"expected another Report, got {type(other).__name__}")
        return Diff(self.root, other.root)

    # -- files

    def save(self, path: str | PathLike[str]) -> None:
        """Write the report to ``path``, in the format that its ending names.

        >>> import pathlib, tempfile, torch, flopcount
        >>> report = flopcount.count(torch.nn.Linear(8, 2), torch.ones(4, 8))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "step.json")
        ...     report.save(path)
        ...     flopcount.Report.from_json(path.read_text()) == report
        True

        ``.txt`` and ``.md`` have the tables, ``.csv`` has ``rows()``, and ``.html`` is a page.
        ``.json`` is exact and can be read again. ``.speedscope.json`` is for speedscope.app, and
        ``.trace.json`` for Perfetto.

        Args:
            path: the file to write; an existing one is replaced once all is written.

        Raises:
            ValueError: no format has this ending; the message names the known ones.
            OSError: the file cannot be written; an existing one is as it was before.
        """
        text = import_module(FORMATS).renderer(str(path))(self)
        write_whole(path, text)

    def to_json(self) -> str:
        """The report as JSON. It is exact: every count is an integer.

        >>> import json, torch, flopcount
        >>> report = flopcount.count(torch.nn.Linear(8, 2), torch.ones(4, 8), backward=False)
        >>> json.loads(report.to_json())["rows"][0]["cost"]["macs"]
        64
        """
        return json.write(
            (
                self.modules,
                self.entries,
                self.model_path,
                self.unwatched,
                self.children,
                self.models,
                self.run,
            )
        )

    @classmethod
    def from_json(cls, text: str) -> Report:
        """The report that :meth:`to_json` wrote.

        >>> import torch, flopcount
        >>> report = flopcount.count(torch.nn.Linear(8, 2), torch.ones(4, 8))
        >>> flopcount.Report.from_json(report.to_json()) == report
        True

        Args:
            text: JSON of a report.

        Raises:
            ValueError: the text is not a report, or its schema is not the one that this version
                reads.
        """
        return cls(*json.read(text))


def _sums(kind: str, rows: Iterable[Row], key: Callable[[Row], str]) -> dict[str, Cost]:
    """The cost of ``rows`` by ``key``, a name of some ``kind``, the most expensive first."""
    sums: dict[str, Cost] = {}
    for row in rows:
        sums[key(row)] = sums.get(key(row), ZERO) + row.cost
    ordered = sorted(sums.items(), key=lambda item: (-item[1].flops, -item[1].bytes))
    return Named(ordered, kind=kind)
