"""What a test is called and what it cost, carried to the process that talks to the user."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest

from flopcount.pytest_plugin.budget import Measure, Verdict


def name_in_file(node: pytest.Item | pytest.Collector) -> str:
    """The classes and the name of a test, or of a class: ``TestStep::test_a``."""
    chain = reversed(node.listchain())
    parents = takewhile(lambda parent: not isinstance(parent, pytest.File), chain)
    return "::".join(reversed([parent.name for parent in parents]))


def relative_path(path: Path, config: pytest.Config) -> str:
    """``path`` relative to the directory where pytest was started."""
    return Path(os.path.relpath(path, config.invocation_params.dir)).as_posix()


def node_id(item: pytest.Item) -> str:
    """The node id that selects ``item`` from the directory where pytest was started."""
    return f"{relative_path(item.path, item.config)}::{name_in_file(item)}"


@dataclass(frozen=True)
class Outcome:
    """What a test cost, and what it was compared with."""

    node_id: str  # selects the test from the directory where pytest was started
    file: str
    test: str  # its name in that file
    flops: int | None  # None if nothing was counted
    measures: list[Measure]
    baselines: dict[str, dict[str, Any]]  # what an update would write, by name

    def attach_to(self, report: pytest.TestReport) -> None:
        """Let ``report`` carry this outcome, in plain values that pytest-xdist can send."""
        vars(report).update(flopcount=asdict(self))

    @classmethod
    def of(cls, report: pytest.TestReport) -> Outcome | None:
        """The outcome that ``report`` carries."""
        if fields := getattr(report, "flopcount", None):
            measures = [Measure(**measure) for measure in fields["measures"]]
            return cls(**{**fields, "measures": measures})
        return None


@dataclass
class Attempt:
    """One run of a test, from the setup of its fixtures to their teardown."""

    verdicts: list[Verdict] = field(default_factory=list)  # on the body and on finished blocks
    num_reported: int = 0  # verdicts that were reported with a subtest or a stage
    names: set[str] = field(default_factory=set)  # baselines that were opened
    baselines: dict[str, dict[str, Any]] = field(default_factory=dict)  # for an update, by name
    depth: int = 0  # how many counters are open
    body: int | None = None  # FLOPs of the body, or None if it was not counted
    blocks: int = 0  # FLOPs of the blocks that are not inside another
    has_raised: bool = False  # whether the stage before raised an error

    @classmethod
    def of(cls, item: pytest.Item) -> Attempt:
        """The attempt that ``item`` is in; a new one if none has begun."""
        return item.stash.setdefault(ATTEMPT, cls())

    @property
    def flops(self) -> int:
        """The cost of the test: its body's, or else its blocks'."""
        return self.blocks if self.body is None else self.body

    def new_verdicts(self) -> list[Verdict]:
        """The verdicts that were not reported before."""
        new = self.verdicts[self.num_reported :]
        self.num_reported += len(new)
        return new

    def record_flops(self, item: pytest.Item) -> None:
        """Set the test's property ``flops``, which an earlier stage or attempt may have set."""
        before = item.stash.get(PROPERTY, None)
        item.stash[PROPERTY] = ("flops", self.flops)
        others = [entry for entry in item.user_properties if entry is not before]
        item.user_properties[:] = [*others, item.stash[PROPERTY]]

    def outcome(self, item: pytest.Item) -> Outcome:
        """What this attempt says about ``item``."""
        return Outcome(
            node_id=node_id(item),
            file=os.fspath(item.path),
            test=name_in_file(item),
            flops=self.flops if self.verdicts else None,
            measures=[measure for verdict in self.verdicts for measure in verdict.measures],
            baselines=self.baselines,
        )


ATTEMPT = pytest.StashKey[Attempt]()
PROPERTY = pytest.StashKey[tuple[str, object]]()
