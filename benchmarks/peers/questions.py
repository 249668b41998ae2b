"""The questions: one tool is asked about one case, in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib import import_module
from time import perf_counter
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor, nn

from benchmarks.peers import programs
from benchmarks.peers.cases import LAYERS, NETWORKS, Case, weights
from benchmarks.peers.tools import OURS, TOOLS
from benchmarks.peers.verdicts import CRASH, NOT_OFFERED, truths, verdict
from benchmarks.processes import Died, Hung, in_a_fork
from benchmarks.progress import progress
from benchmarks.timing import Time, Timed, in_turns
from benchmarks.training import loss_of
from tests.programs import PROGRAMS

__all__ = ["PLAIN", "TIMED", "Question", "ask", "case_of", "judge", "questions", "times"]


class Question(NamedTuple):
    """A question.

    Attributes:
        kind: of which collection: layers, models, weights, programs.
        name: which case of it.
        direction: forward, or step: forward and backward.
    """

    kind: str
    name: str
    direction: str = "forward"


EVERY = {"layers": 4, "models": 6, "weights": 20, "programs": 20}
"""If ``quick``, one in so many cases of each kind."""

SECONDS = 200
"""Seconds that a question may take, many times what it needs."""


def questions(quick: bool) -> list[Question]:
    """All questions, or a part of them if ``quick``."""
    names = {
        "layers": list(LAYERS),
        "models": list(NETWORKS),
        "weights": list(weights()),
        "programs": [name for name, program in PROGRAMS.items() if not program.uncounted],
    }
    asked = []
    for kind, cases in names.items():
        for name in cases[:: EVERY[kind] if quick else 1]:
            asked.append(Question(kind, name))
            step = Question(kind, name, "step")
            if kind in ("layers", "models") and truths(case_of(step), "step"):
                asked.append(step)
    return asked


def case_of(question: Question) -> Case:
    """The case that a question is about."""
    if question.kind == "weights":
        return weights()[question.name][0]
    return {"layers": LAYERS, "models": NETWORKS}[question.kind][question.name]


@contextmanager
def blank() -> Iterator[None]:
    """A context in which layers start as zeros, which is quicker, and counts the same."""

    def zeros(tensor: Tensor, *args: Any, **options: Any) -> Tensor:
        return tensor.detach().zero_()

    names = [name for name in vars(nn.init) if name.endswith("_") and not name.startswith("_")]
    with ExitStack() as stack:
        for name in names:
            stack.enter_context(patch.object(nn.init, name, zeros))
        yield


def judge(tool: str, question: Question) -> str:
    """The verdict on the answer of ``tool``."""
    torch.set_num_threads(1)
    if question.kind == "programs":
        return programs.verdict(question.name, tool)
    measure = getattr(TOOLS[tool], question.direction)
    if measure is None:
        return NOT_OFFERED
    torch.manual_seed(0)
    try:
        with blank():
            model, args = case_of(question).build()
        answer = measure(model.train(question.direction == "step"), args)
    except Exception as error:
        return f"{CRASH} {type(error).__name__}"
    return verdict(case_of(question), question.direction, answer)


def ask(tool: str, asked: list[Question]) -> list[str]:
    """The verdicts on all answers of ``tool``, each of which comes from a fork of this process."""
    import_module(TOOLS[tool].module)  # once, for all forks
    return [judge_apart(tool, question) for question in progress(asked, tool)]


def judge_apart(tool: str, question: Question) -> str:
    """The verdict from a fork, which may die or hang."""
    try:
        judgement: str = in_a_fork(judge, tool, question, seconds=SECONDS)
    except (Died, Hung) as error:
        return f"{CRASH} {type(error).__name__}"
    return judgement


# -- time

PLAIN = "plain"

TIMED = ("ResNet-50", "MobileNetV2", "ResNet-18", "ViT-B/16", "GPT-2", "tiny layers", "LSTM")


def works(call: Callable[[], object]) -> bool:
    """Whether the call ends without an exception."""
    try:
        call()
    except Exception:  # a tool that fails on a model has no time for it
        return False
    return True


def times(name: str, tools: list[str], rounds: int) -> dict[str, dict[str, Time]]:
    """Seconds of a model's forward and of its step: alone, and from asking a tool to its answer.

    Steps are timed under tools that watch one. For the others a step is forward times a factor.
    """
    torch.set_num_threads(1)
    model, args = NETWORKS[name].build()

    def forward(model: nn.Module, args: tuple[Any, ...]) -> object:
        return model(*args)

    def step(model: nn.Module, args: tuple[Any, ...]) -> None:
        loss_of(model(*args)).backward()

    watchers = [tool for tool in tools if tool in (OURS, "FlopCounterMode", "torch.profiler")]
    asked: dict[str, dict[str, Any]] = {
        "forward": {PLAIN: forward, **{tool: TOOLS[tool].forward for tool in tools}},
        "step": {PLAIN: step, **{tool: TOOLS[tool].step for tool in watchers}},
    }
    taken = {}
    for direction, measures in asked.items():
        model.train(direction == "step")
        calls = {tool: partial(call, model, args) for tool, call in measures.items() if call}
        timed = {
            tool: Timed(call)
            for tool, call in calls.items()
            if tool in (PLAIN, OURS) or works(call)
        }
        taken[direction] = in_turns(timed, rounds=rounds, clock=perf_counter)
    return taken
