"""Which tools count what correctly, forward and backward, and how long they take.

torch's ``FlopCounterMode``, its ``ModTracker`` and ``torch.profiler``, fvcore, ptflops, thop,
torchinfo, calflops and DeepSpeed's profiler get the same models and inputs as flopcount, in a
process of its own for each question. Tools that are not installed are named, and have no figures:
``requirements.txt`` says how to install them. Where a peer is right or faster, the tables say so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from benchmarks.peers.cases import LIMIT, weights
from benchmarks.peers.programs import RIGHT, WRONG, parts
from benchmarks.peers.questions import PLAIN, TIMED, Question, ask, questions, times
from benchmarks.peers.tools import OURS, TOOLS
from benchmarks.peers.verdicts import EXACT, KINDS, NOT_OFFERED, kind_of
from benchmarks.processes import in_a_new_process
from benchmarks.progress import progress
from benchmarks.results import Figures, Target, table, version
from benchmarks.timing import ratio

__all__ = ["run", "show", "targets"]

WAYS = {"forward": "forward", "step": "forward + backward"}

ROWS, TOTAL = "programs, every module", "programs, total"


def run(quick: bool) -> Figures:
    """Ask all questions and take all times, or a part if ``quick``."""
    versions = {tool: version(about.package) for tool, about in TOOLS.items()}
    tools = [tool for tool, number in versions.items() if number]
    asked = questions(quick)
    answers = {tool: in_a_new_process(ask, tool, asked) for tool in tools}
    figures: Figures = {
        "tools": {tool: versions[tool] for tool in tools},
        "missing": [tool for tool in TOOLS if tool not in tools],
        "verdicts": {},
        "alike": {name: of for name, (_, of) in weights().items() if of > 1},
    }
    for number, question in enumerate(asked):
        cases = figures["verdicts"].setdefault(heading(question), {})
        cases[question.name] = [answers[tool][number] for tool in tools]
    counters = [tool for tool in tools if TOOLS[tool].forward]
    figures["times"] = {
        name: in_a_new_process(times, name, counters, 3 if quick else 7)
        for name in progress(TIMED[:2] if quick else TIMED, "times")
    }
    return figures


def heading(question: Question) -> str:
    """The heading of the verdicts on a question."""
    if question.kind == "programs":
        return "programs"
    return f"{question.kind}, {WAYS[question.direction]}"


# -- how many figures are right

Count = tuple[int, int]
"""How many cases a tool is right about, out of how many that it is meant for."""


def columns(figures: Figures) -> dict[str, dict[str, Count]]:
    """The count of each tool under each heading that it offers."""
    counts = {
        title: {tool: exact(figures, title, number) for number, tool in enumerate(figures["tools"])}
        for title in figures["verdicts"]
        if title != "programs"
    }
    for title, part in ((TOTAL, 0), (ROWS, 1)):
        cases = figures["verdicts"]["programs"].values()
        counts[title] = {
            tool: right(parts(verdicts[number])[part] for verdicts in cases)
            for number, tool in enumerate(figures["tools"])
        }
    return {
        title: {tool: count for tool, count in by_tool.items() if count[1]}
        for title, by_tool in counts.items()
    }


def exact(figures: Figures, title: str, number: int) -> Count:
    """A tool's count under one heading; a case of torchvision may stand for several weights."""
    count = Counter[bool]()
    for name, verdicts in figures["verdicts"][title].items():
        if verdicts[number] != NOT_OFFERED:
            count[kind_of(verdicts[number]) in EXACT] += figures["alike"].get(name, 1)
    return count[True], count.total()


def right(verdicts: Iterable[str]) -> Count:
    """A tool's count among the programs that it is meant for; of 0 if it raises in all."""
    offered = [verdict for verdict in verdicts if verdict != NOT_OFFERED]
    answers = any(verdict.startswith((RIGHT, WRONG)) for verdict in offered)
    return offered.count(RIGHT), len(offered) if answers else 0


def targets(figures: Figures) -> list[Target]:
    """The target that flopcount is exact everywhere."""
    counts = {title: by_tool[OURS] for title, by_tool in columns(figures).items()}
    return [
        Target(title, "all exact", f"{count} of {of}", count == of)
        for title, (count, of) in counts.items()
    ]


# -- what is printed


def show(figures: Figures) -> str:
    """Tables: how many figures of each tool are exact, verdicts on ops and layers, times."""
    missing = ", ".join(figures["missing"])
    notes = [
        f"Weights are torchvision's of at most {LIMIT} GMAC, without detectors. a/b: a of the b "
        "cases that a tool offers; –: it offers none.",
        *([f"Not installed, and not compared: {missing}."] if missing else []),
    ]
    return "\n\n".join([summary(figures), *notes, of_layers(figures), of_times(figures)])


def summary(figures: Figures) -> str:
    """How many cases are exact, for each tool."""
    by_title = columns(figures)
    most = {title: max(by_tool.values()) for title, by_tool in by_title.items()}

    def cell(title: str, tool: str) -> str:
        count = by_title[title].get(tool)
        if not count:
            return "–"
        text = f"{count[0]}" if count[1] == most[title][1] else f"{count[0]}/{count[1]}"
        return f"**{text}**" if count == most[title] else text

    rows = [
        [f"{tool} {number}", *(cell(title, tool) for title in by_title)]
        for tool, number in figures["tools"].items()
    ]
    return table(["exact", *(f"{title} (of {most[title][1]})" for title in by_title)], rows)


def of_layers(figures: Figures) -> str:
    """A table of verdicts on ops and layers: forward, then forward and backward."""
    rows = []
    for number, tool in enumerate(figures["tools"]):
        kinds = [
            Counter(kind_of(verdicts[number]) for verdicts in figures["verdicts"][title].values())
            for title in (f"layers, {way}" for way in WAYS.values())
        ]
        rows.append([tool, *(" / ".join(str(by[kind]) for by in kinds) for kind in KINDS)])
    return table(["layers, forward / with backward", *KINDS], rows)


def of_times(figures: Figures) -> str:
    """A table of times from the call to the number ÷ the model alone: forward, and a whole step."""

    def cell(model: str, tool: str) -> str:
        offered = [times for times in figures["times"][model].values() if tool in times]
        return " / ".join(f"{ratio(times, tool, PLAIN):.2f}" for times in offered) or "–"

    tools = [tool for tool in figures["tools"] if tool != "ModTracker"]
    rows = [[model, *(cell(model, tool) for tool in tools)] for model in figures["times"]]
    return table(["time ÷ plain, forward / step", *tools], rows)
