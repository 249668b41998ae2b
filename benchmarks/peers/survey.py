"""The survey: every tool is asked every question, and the answers become figures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from benchmarks.figures import Figures
from benchmarks.peers import programs
from benchmarks.peers.cases import LAYERS, LIMIT, NETWORKS, weights
from benchmarks.peers.environment import Environment
from benchmarks.peers.jobs import Job, case_of
from benchmarks.peers.timing import MODELS
from benchmarks.peers.tools import OPTIONAL, TOOLS
from benchmarks.peers.verdicts import truths, verdict
from benchmarks.progress import each

__all__ = ["QUICK", "jobs", "survey"]

QUICK = {"layers": 4, "networks": 6, "weights": 20, "programs": 20, "memory": 4}
"""With ``--quick``, every so-manieth case of each kind."""

Answers = dict[tuple[str, Job], dict[str, Any]]


def jobs(quick: bool) -> list[Job]:
    """All questions."""
    names = {
        "layers": list(LAYERS),
        "networks": list(NETWORKS),
        "weights": list(weights()),
        "programs": programs.NAMES,
        "memory": list(MODELS),
    }
    asked = []
    for kind, cases in names.items():
        for name in cases[:: QUICK[kind] if quick else 1]:
            asked.append(Job(kind, name))
            if kind in ("layers", "networks") and truths(case_of(Job(kind, name)), "step"):
                asked.append(Job(kind, name, "step"))
    return asked


def survey(environment: Environment, quick: bool) -> Figures:
    """The figures of everything but time."""
    tools = [tool for tool in TOOLS if environment.deepspeed or tool != OPTIONAL]
    asked = jobs(quick)
    answers: Answers = {}
    for tool in tools:
        offered = [job for job in asked if getattr(TOOLS[tool], job.direction)]
        for job, answer in zip(offered, replies(environment, tool, offered), strict=True):
            answers[tool, job] = answer
    return {
        "tools": described(environment, tools),
        "missing": sorted(set(TOOLS) - set(tools)),
        "limit": LIMIT,
        **{kind: compared(kind, asked, tools, answers) for kind in ("layers", "networks")},
        "weights": counted_weights(asked, tools, answers),
        **{kind: answered(kind, asked, tools, answers) for kind in ("programs", "memory")},
    }


def replies(environment: Environment, tool: str, asked: list[Job]) -> Iterator[dict[str, Any]]:
    """What ``tool`` answers, one question after the other."""
    with environment.start("-m", "benchmarks.peers.worker", tool) as worker:
        assert worker.stdin
        assert worker.stdout
        for job in each(asked, tool):
            print(json.dumps(job), file=worker.stdin, flush=True)
            yield json.loads(worker.stdout.readline())
        worker.stdin.close()


def described(environment: Environment, tools: list[str]) -> Figures:
    """Each tool's version, and what it is said to count."""
    versions = environment.versions([TOOLS[tool].package for tool in tools])
    return {
        tool: {
            "version": versions[TOOLS[tool].package],
            "counts": TOOLS[tool].counts,
            "adds": TOOLS[tool].adds,
        }
        for tool in tools
    }


def compared(kind: str, asked: list[Job], tools: list[str], answers: Answers) -> Figures:
    """For each case and direction: the right figure, why, and the tools' verdicts."""
    found: Figures = {}
    for job in asked:
        if job.kind != kind:
            continue
        case = case_of(job)
        right = truths(case, job.direction)
        assert right is not None
        row = found.setdefault(job.name, {"why": case.why})
        row[job.direction] = {
            "right": sorted(right[0]),
            "verdicts": {
                tool: verdict(case, job.direction, answers.get((tool, job))) for tool in tools
            },
        }
    return found


def counted_weights(asked: list[Job], tools: list[str], answers: Answers) -> Figures:
    """The same of torchvision's weights, forward; and for how many weights each one stands."""
    found = compared("weights", asked, tools, answers)
    return {name: {"of": weights()[name][1], **row} for name, row in found.items()}


def answered(kind: str, asked: list[Job], tools: list[str], answers: Answers) -> Figures:
    """Answers as they are."""
    return {
        job.name: {tool: answers[tool, job] for tool in tools} for job in asked if job.kind == kind
    }
