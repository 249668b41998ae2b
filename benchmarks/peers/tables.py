"""The survey's figures as Markdown: the README's few rows, the page's summary, every row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from benchmarks.figures import Figures
from benchmarks.markdown import table
from benchmarks.peers.programs import NOT_OFFERED, RIGHT, WRONG
from benchmarks.peers.timing import PLAIN
from benchmarks.peers.verdicts import EXACT, KINDS

__all__ = ["detail", "readme_table", "section"]

WAYS = {"forward": "forward", "step": "forward + backward"}

NOTES = """\
*exact*: the multiply-accumulates of products are those derived by hand (layers, transformers) or \
published (torchvision's, rounded as printed). *exact\\**: more by at most 2 %, which the tool's \
documentation says that it adds (biases, norms, activations) and does not tell apart. *off*: \
another figure, its factor in the table of every row. *zero*: 0, and nothing said. *crash*: an \
exception where the model alone runs. *not offered*: forward is all that the tool counts. calflops \
and DeepSpeed take backward for twice forward, which is exact wherever that is so. What backward \
computes once more (checkpoints, scores of fused attention) may be counted or not. A complex \
product is four real ones. *Programs* (of the attribution benchmark) are watched whole by the \
first three tools; the others are given those that need no gradient, and judged on forward. All \
on a CPU: `FlopCounterMode` does know the fused attention of CUDA devices, and misses that of the \
CPU."""

TIMES = """\
Seconds from the call to the number, medians of calls in turns in one process, relative to the \
model alone in the same mode; below 1 where a tool runs the model without gradients, or not in \
the same way. Memory is the peak of a process above that of the model's own forward."""


def verdicts(figures: Figures, kind: str, direction: str, tool: str) -> Iterator[tuple[Any, int]]:
    """What ``tool`` is worth in each case, and for how many that stands."""
    for row in figures[kind].values():
        if direction in row:
            yield row[direction]["verdicts"][tool], row.get("of", 1)


def exact(figures: Figures, kind: str, direction: str, tool: str) -> tuple[int, int] | None:
    """How many are exact, of how many; None if the tool does not offer it."""
    found = list(verdicts(figures, kind, direction, tool))
    if all(verdict[0] == NOT_OFFERED for verdict, _ in found):
        return None
    return sum(of for verdict, of in found if verdict[0] in EXACT), sum(of for _, of in found)


def right(figures: Figures, part: str, tool: str) -> tuple[int, int] | None:
    """How many programs a tool is right about, of those it is for; None if it is for none."""
    found = [by_tool[tool].get(part, "crash") for by_tool in figures["programs"].values()]
    if not {RIGHT, WRONG} & set(found):
        return None
    return found.count(RIGHT), len(found) - found.count(NOT_OFFERED)


def ratios(figures: Figures, model: str, tool: str) -> str:
    """Time under ``tool`` over that of the model alone: of forward, and of a step if it has one."""
    by_way = figures["time"].get(model, {})
    offered = [by_way[way] for way in WAYS if tool in by_way.get(way, {})]
    return " / ".join(f"{times[tool] / times[PLAIN]:.2f}" for times in offered) or "–"


def best(counts: Iterable[tuple[int, int] | None]) -> list[str]:
    """Counts as they are shown in a row, the highest in bold; of how many, if not of as many."""
    counts = list(counts)
    most = max(count for count in counts if count)
    shown = []
    for count in counts:
        if not count:
            shown.append("–")
            continue
        number = f"{count[0]}" if count[1] == most[1] else f"{count[0]}/{count[1]}"
        shown.append(f"**{number}**" if count == most else number)
    return shown


LEGACY = "ptflops"
"""The README shows the other backend, which ptflops recommends."""


def readme_table(figures: Figures) -> str:
    """Five rows, flopcount beside its peers; a/b is a of the b programs that a tool is for."""
    tools = [tool for tool in figures["tools"] if tool != LEGACY]

    def row(what: str, counts: list[tuple[int, int] | None]) -> list[str]:
        return [f"{what} (of {max(count[1] for count in counts if count)})", *best(counts)]

    lines = [
        row("torchvision, forward", [exact(figures, "weights", "forward", t) for t in tools]),
        row("ops and layers, forward", [exact(figures, "layers", "forward", t) for t in tools]),
        row("ops and layers, with backward", [exact(figures, "layers", "step", t) for t in tools]),
        row("hard programs, every module", [right(figures, "rows", t) for t in tools]),
        [
            "time of ResNet-50 ÷ plain, forward / step",
            *(ratios(figures, "ResNet-50", tool) for tool in tools),
        ],
    ]
    return table(["exact", *tools], lines, "l" + "r" * len(tools))


def summary(figures: Figures) -> str:
    """How many cases are exact, for each tool."""
    columns = [
        (kind, direction)
        for kind in ("layers", "networks", "weights")
        for direction in WAYS
        if any(direction in row for row in figures[kind].values())
    ]
    names = {"layers": "ops and layers", "networks": "models", "weights": "torchvision's weights"}
    parts = ("total", "rows")
    counts = [[exact(figures, *column, tool) for tool in figures["tools"]] for column in columns]
    counts += [[right(figures, part, tool) for tool in figures["tools"]] for part in parts]
    of = [max(count[1] for count in column if count) for column in counts]
    shown = [best(column) for column in counts]
    titles = [f"{names[kind]}, {WAYS[direction]}" for kind, direction in columns]
    titles += ["programs, total", "programs, rows"]
    headers = [f"{title} (of {number})" for title, number in zip(titles, of, strict=True)]
    lines = [
        [f"{tool} {about['version']}", *(column[i] for column in shown)]
        for i, (tool, about) in enumerate(figures["tools"].items())
    ]
    return table(["exact", *headers], lines, "l" + "r" * len(headers))


def kinds(figures: Figures) -> str:
    """What becomes of ops and layers, by kind of verdict: forward, then forward and backward."""
    lines = []
    for tool in figures["tools"]:
        found = [
            Counter(verdict[0] for verdict, _ in verdicts(figures, "layers", way, tool))
            for way in WAYS
        ]
        lines.append([tool, *(" / ".join(str(by[kind]) for by in found) for kind in KINDS)])
    return table(["ops and layers", *KINDS], lines, "l" + "r" * len(KINDS))


def cost(figures: Figures) -> str:
    """Time and memory, for each tool."""
    tools = list(figures["tools"])
    lines = [
        [f"{model}: time ÷ plain, forward / step", *(ratios(figures, model, t) for t in tools)]
        for model in figures["time"]
    ]
    lines += [
        [f"{model}: MB, forward", *(megabytes(by_tool[tool]) for tool in tools)]
        for model, by_tool in figures["memory"].items()
    ]
    return table(["what asking costs", *tools], lines, "l" + "r" * len(tools))


def megabytes(said: dict[str, Any]) -> str:
    return f"{said['bytes'] / 1e6:.0f}" if "bytes" in said else "–"


def section(figures: Figures) -> str:
    """The page's summary."""
    weights = (
        f"torchvision's weights are those of at most {figures['limit']} GMAC, without detectors. "
    )
    return "\n\n".join([summary(figures), weights + NOTES, kinds(figures), cost(figures), TIMES])


def detail(figures: Figures) -> str:
    """Every row."""
    tools = list(figures["tools"])
    about = [
        [tool, by["version"], by["counts"], by["adds"]] for tool, by in figures["tools"].items()
    ]
    parts = [NOTES, table(["tool", "version", "what is read as MACs", "adds"], about)]
    parts += [f"Does not install here: {', '.join(figures['missing'])}."] * bool(figures["missing"])
    titles = {"layers": "Ops and layers", "networks": "Models", "weights": "torchvision's weights"}
    for kind, title in titles.items():
        for way, words in WAYS.items():
            lines = [
                [name, " or ".join(f"{n:,}" for n in row[way]["right"])]
                + [" ".join(filter(None, row[way]["verdicts"][tool])) for tool in tools]
                for name, row in figures[kind].items()
                if way in row
            ]
            if lines:
                parts += [f"## {title}, {words}", table(["MACs", "right", *tools], lines, "lr")]
        if kind != "weights":
            reasons = [[name, row["why"]] for name, row in figures[kind].items()]
            parts += [f"### {title}: the reasons", table(["case", "why"], reasons)]
    programs = [
        [name.replace("_", " "), *(said(by_tool[tool]) for tool in tools)]
        for name, by_tool in figures["programs"].items()
    ]
    parts += ["## Attribution programs: total / rows", table(["program", *tools], programs)]
    return "\n\n".join(parts)


def said(verdict: dict[str, str]) -> str:
    """Both verdicts on a program."""
    if "error" in verdict:
        return f"crash {verdict['error']}"
    return " / ".join(dict.fromkeys([verdict["total"], verdict["rows"]]))
