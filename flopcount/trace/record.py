"""Record a run here: torch.profiler around a block, with the names of its modules."""

from __future__ import annotations

import shutil
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

from torch import nn
from torch.profiler import ProfilerAction, profile, supported_activities

from flopcount.attribution.models import Given, models_by_name
from flopcount.attribution.tree import ModuleTree, Place
from flopcount.errors import FlopcountError
from flopcount.report.file import writing_whole
from flopcount.report.ledger import Ledger
from flopcount.report.report import Report
from flopcount.torch_private.autograd import backward_task
from flopcount.torch_private.compiler import around_compilation
from flopcount.torch_private.module_calls import ModuleCalls
from flopcount.torch_private.ranges import Range, is_recording
from flopcount.trace.events import CALL, MODULES, PART
from flopcount.trace.read import read_trace

RECORD, RECORD_AND_SAVE = ProfilerAction.RECORD, ProfilerAction.RECORD_AND_SAVE


def record(
    model: Given = None,
    *others: nn.Module,
    schedule: Callable[[int], ProfilerAction] | None = None,
) -> Recorder:
    """Record what runs in a block, and how long its device takes for it.

    >>> import torch, flopcount
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 2), torch.nn.ReLU())
    >>> with flopcount.record(model) as recording:
    ...     loss = model(torch.ones(4, 8)).sum()
    ...     loss.backward()
    >>> report = recording.report()
    >>> report["0"].total.macs, report["0"].params, report["0"].seconds > 0
    (128, 18, True)

    torch.profiler runs around the block, and a range around each call of a module, so that rows
    have the names that a counter gives them. Nothing else is watched: ops run as they do alone,
    and compiled functions stay compiled. What runs inside a compiled region belongs to the module
    that is compiled.

    Args:
        model: a model, or a dict of several by their names, as :class:`flopcount.FlopCounter`
            takes them. It names the root.
        others: further models, each of which has a root of its own.
        schedule: which steps to record, as ``torch.profiler.schedule`` says it. Call
            ``recording.step()`` at the end of each step. Of several cycles the last whole one is
            kept.

    Returns:
        What to enter, and to ask for ``report()`` and ``save(path)`` afterwards.

    Raises:
        TypeError, ValueError: the models are not what a counter takes.
    """
    named = bool(others) or isinstance(model, Mapping)
    return Recorder(ModuleTree(models_by_name(model, others), named=named), schedule)


class Recorder:
    """A recording of a block: :func:`record` makes it."""

    def __init__(self, tree: ModuleTree, schedule: Callable[[int], ProfilerAction] | None) -> None:
        self._tree = tree
        self._ranges = ModuleRanges(tree)
        self._profile = profile(
            activities=supported_activities(),
            schedule=schedule,
            on_trace_ready=self._keep,
            record_shapes=True,
        )
        folder = tempfile.mkdtemp(prefix="flopcount-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self._path = Path(folder, "trace.json")
        self._thread: int | None = None  # in which it began
        self._is_leaving = False
        self._is_cut_off = False  # whether another profiler has ended the recording

    def __enter__(self) -> Recorder:
        if self._is_leaving:
            raise FlopcountError("this recorder has recorded: enter another flopcount.record(…)")
        if is_recording():
            raise FlopcountError(
                "torch.profiler is recording here already, and can do so once at a time: enter "
                "flopcount.record(…) once that block is over"
            )
        self._thread = threading.get_ident()
        self._profile.start()
        self._ranges.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._thread != threading.get_ident():
            raise FlopcountError("a recording ends in the thread that began it, and goes on there")
        self._ranges.close()
        self._is_leaving = True
        self._finish()
        if not self._is_cut_off:  # there is nothing to stop, and to write it ends the process
            self._profile.stop()

    def step(self) -> None:
        """End a step of the ``schedule``."""
        if self._profile.current_action is RECORD_AND_SAVE:
            self._finish()
        if not self._is_cut_off:
            self._profile.step()

    def report(self, steps: int | Iterable[int] | None = None) -> Report:
        """What the block cost, and how long it took: see :func:`flopcount.read_trace`.

        Args:
            steps: the profiler's steps to read, by number; by default all that were recorded.

        Raises:
            FlopcountError: nothing is recorded yet.
        """
        return read_trace(self._recorded(), steps)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the recording, which :func:`flopcount.read_trace` and trace viewers read.

        Args:
            path: the file, a ``.json`` or a ``.json.gz``, which is compressed. An existing one is
                replaced once all is written.

        Raises:
            ValueError: the path has another ending.
            FlopcountError: nothing is recorded yet.
            OSError: the file cannot be written.
        """
        if not str(path).endswith((".json", ".json.gz")):
            raise ValueError(f"a recording is a .json or a .json.gz, got {str(path)!r}")
        source = self._recorded()
        is_zipped = str(path).endswith(".gz")
        with source.open("rb") as file, writing_whole(path, is_zipped=is_zipped) as target:
            shutil.copyfileobj(file, target)

    def _recorded(self) -> Path:
        if not self._path.exists():
            raise FlopcountError(f"nothing is recorded: {self._why_not()}")
        return self._path

    def _why_not(self) -> str:
        if self._thread is None:
            return "enter it, with flopcount.record(model) as recording: …"
        if self._is_cut_off:
            return "another torch.profiler began in the block, and ended this recording"
        if not self._is_leaving:
            return "the block is not over"
        return "its schedule has recorded no step; call recording.step() at the end of each"

    def _keep(self, profiler: Any) -> None:
        if self._is_leaving and self._path.exists():
            return  # the schedule has begun another cycle, which is not whole
        profiler.export_chrome_trace(str(self._path))

    def _finish(self) -> None:
        """Write into the recording which modules ran, and note whether it still goes on."""
        records = self._profile.current_action in (RECORD, RECORD_AND_SAVE)
        self._is_cut_off = records and not is_recording()
        modules = Ledger().report(self._tree).to_json()
        # torch escapes neither quotes nor letters beyond ASCII
        self._profile.add_metadata_json(MODULES, f'"{quote(modules)}"')


class ModuleRanges:
    """Marks each call of a module in the recording, with the path of its row."""

    def __init__(self, tree: ModuleTree) -> None:
        self._tree = tree
        self._local = threading.local()

    def open(self) -> None:
        """Mark from here on."""
        models = (scope.module for scope in self._tree.models if scope.module is not None)
        modules = (module for model in models for module in model.modules())
        self._calls = ModuleCalls(self._enter, self._exit, modules)
        self._calls.hook()
        self._stop_hiding = around_compilation(self._calls.unhook_for_compilation, self._calls.hook)

    def close(self) -> None:
        """Mark no longer."""
        self._stop_hiding()
        self._calls.unhook()
        del self._stop_hiding, self._calls  # which hold modules
        self._leave(self._stack(), 0)

    def _stack(self) -> list[tuple[nn.Module, Place, Range]]:
        """The modules that are open in this thread."""
        stack: list[tuple[nn.Module, Place, Range]] | None
        stack = getattr(self._local, "stack", None)
        if stack is None:
            stack = self._local.stack = []
        return stack

    def _enter(self, module: nn.Module, inputs: Any) -> None:
        stack = self._stack()
        caller = stack[-1][1] if stack else self._tree.root.forward
        _, place, is_call = self._tree.find(module, caller)
        if is_call and backward_task() == -1:
            place.scope.calls += 1
        marked = Range(f"{CALL if is_call else PART}{quote(place.scope.path)}")
        marked.__enter__()
        stack.append((module, place, marked))

    def _exit(self, module: nn.Module, inputs: Any, output: Any) -> None:
        stack = self._stack()
        places = [place for place, (opened, _, _) in enumerate(stack) if opened is module]
        if places:  # an exception may have left others open inside it
            self._leave(stack, places[-1])

    @staticmethod
    def _leave(stack: list[tuple[nn.Module, Place, Range]], number: int) -> None:
        """Close the innermost calls, down to this number of open ones."""
        while len(stack) > number:
            stack.pop()[2].__exit__(None, None, None)
