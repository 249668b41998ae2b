"""What a test cost: noted while it runs, then carried to the process that talks to the user."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from typing import Any

import pytest

from flopcount.pytest_plugin.budget import Measure, Verdict
from flopcount.pytest_plugin.node_id import name_in_file, node_id


@dataclass(frozen=True)
class Outcome:
    """What a test cost, and what it was compared with.

    Attributes:
        node_id: selects the test from the directory where pytest was started.
        file: the path of its file.
        test: its name in that file.
        flops: its cost, or None if nothing was counted.
        measures: its counts beside their limits.
        baselines: what an update would write, by the baselines' names.
    """

    node_id: str
    file: str
    test: str
    flops: int | None
    measures: list[Measure]
    baselines: dict[str, dict[str, Any]]

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
    """One run of a test, from the setup of its fixtures to their teardown.

    Attributes:
        verdicts: on the body and on the blocks that have finished.
        num_reported: how many of the verdicts were reported with a subtest or a stage.
        names: names of the baselines that were opened.
        baselines: what an update would write, by name.
        depth: how many counters are open.
        body: FLOPs of the body, or None if it was not counted.
        blocks: FLOPs of the blocks that are not inside another.
        has_raised: whether the stage before raised an error.
    """

    verdicts: list[Verdict] = field(default_factory=list)
    num_reported: int = 0
    names: set[str] = field(default_factory=set)
    baselines: dict[str, dict[str, Any]] = field(default_factory=dict)
    depth: int = 0
    body: int | None = None
    blocks: int = 0
    has_raised: bool = False

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
