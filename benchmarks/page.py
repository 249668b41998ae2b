"""The page that shows the figures of all benchmarks: ``benchmarks/README.md``."""

from __future__ import annotations

import ast
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from benchmarks.figures import FOLDER, Figures, Target, names, read
from benchmarks.markdown import table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HOME = Path(__file__).parent

BENCHMARKS = (
    *("accuracy", "attribution", "coverage", "overhead", "scaling", "peers"),
    "pytest_overhead",
)
"""In the order of the page."""


class Benchmark(Protocol):
    """What a benchmark's module has; ``detail`` and ``plot`` it may have."""

    def run(self, quick: bool) -> Figures:
        """Find the figures: all of them, or quickly some."""

    def targets(self, figures: Figures) -> list[Target]:
        """What the figures are held to."""

    def section(self, figures: Figures) -> str:
        """Markdown for the page: what was found, at a glance."""

    def detail(self, figures: Figures) -> str:
        """Markdown for a page of its own, ``results/NAME.md``: every row."""

    def plot(self, figures: Figures) -> Figure:
        """A picture, ``results/NAME.svg``."""


def benchmark(name: str) -> Benchmark:
    """The benchmark of that name."""
    return cast(Benchmark, import_module(f"benchmarks.{name}"))


def about() -> dict[str, str]:
    """The first line of what each benchmark says of itself, without importing it."""
    lines = {}
    for name in BENCHMARKS:
        spec = find_spec(f"benchmarks.{name}")
        assert spec is not None
        assert spec.origin is not None
        source = Path(spec.origin).read_text(encoding="utf-8")
        lines[name] = (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
    return lines


def held_to(targets: list[Target]) -> str:
    """A table of targets, and whether they hold."""
    lines = [
        [what, wanted, found, "yes" if ok else "**no**"] for what, wanted, found, ok in targets
    ]
    return table(["held to", "wanted", "found", "holds"], lines)


def page(figures: dict[str, Figures]) -> str:
    """``benchmarks/README.md``, from the figures of each benchmark."""
    found = {name: benchmark(name) for name in BENCHMARKS if name in figures}
    targets = [target for name, module in found.items() for target in module.targets(figures[name])]
    commands = [[f"`python -m benchmarks {name}`", line] for name, line in about().items()]
    parts = [
        "# Benchmarks",
        "Written by `python -m benchmarks`, from the figures in `results`; do not edit. Every "
        'number can be made again, after `pip install -c constraints.txt -e ".[bench]"`; with '
        "`--quick` a part of each, in minutes.",
        table(["command", "what it finds"], commands),
        held_to(targets),
    ]
    for name, module in found.items():
        parts += [f"## {title(name)}", module.section(figures[name])]
        parts += [f"![{name}](results/{name}.svg)"] * hasattr(module, "plot")
        parts += [f"Every row: [results/{name}.md](results/{name}.md)."] * hasattr(module, "detail")
        parts += [provenance(figures[name])]
    return "\n\n".join(parts) + "\n"


def provenance(figures: Figures) -> str:
    """When, where and with what figures were made."""
    machine = figures["machine"]
    versions = ", ".join(f"{package} {version}" for package, version in figures["versions"].items())
    seconds = f", in {figures['seconds']} s" if "seconds" in figures else ""
    return (
        f"*{figures['date']}{seconds}, on {machine['cores']} cores of {machine['processor']}: "
        f"{versions}.*"
    )


def write() -> None:
    """Make the page, the pages of details and the plots from the figures in ``results``."""
    import matplotlib

    matplotlib.rcParams["svg.hashsalt"] = "flopcount"  # the same figures make the same file
    figures = {name: read(name) for name in BENCHMARKS if name in names()}
    (HOME / "README.md").write_text(page(figures), encoding="utf-8")
    for name, found in figures.items():
        module = benchmark(name)
        if hasattr(module, "detail"):
            text = f"# {title(name)}: every row\n\n{module.detail(found)}\n"
            (FOLDER / f"{name}.md").write_text(text, encoding="utf-8")
        if hasattr(module, "plot"):
            picture = module.plot(found)
            picture.savefig(FOLDER / f"{name}.svg", metadata={"Date": None}, bbox_inches="tight")


def title(name: str) -> str:
    """The heading of a benchmark."""
    return name.replace("_", " ").capitalize()
