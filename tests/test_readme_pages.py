"""The README and the guide hang together: links lead somewhere, and no public name is missing."""

from __future__ import annotations

import inspect
import posixpath
import re
import textwrap
from typing import Any

import pytest
import torch

import flopcount
from flopcount.formulas import registry
from flopcount.report.render.table import COLUMNS
from tests.test_readme import PAGES, ROOT

REFERENCE = PAGES["docs/reference.md"]

TEXT = {page: re.sub(r"```.*?```", "", text, flags=re.DOTALL) for page, text in PAGES.items()}
"""Pages without their blocks."""

TEXT["CONTRIBUTING.md"] = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")

LINKS = [(page, link) for page, text in TEXT.items() for link in re.findall(r"\]\((.+?)\)", text)]


def anchors(text: str) -> set[str]:
    """What GitHub calls the headings of a page."""
    titles = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def target(page: str, link: str) -> str:
    """The file that ``link`` on ``page`` leads to, from the root of the repository."""
    path = link.partition("#")[0]
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), path)) if path else page


@pytest.mark.parametrize(("page", "link"), LINKS)
def test_a_link_leads_to_a_file_and_a_heading(page: str, link: str) -> None:
    path, anchor = target(page, link), link.partition("#")[2]
    assert (ROOT / path).is_file()
    assert not anchor or anchor in anchors(TEXT[path])


def test_what_github_calls_a_heading() -> None:
    assert anchors("# dx, dw and db\n## From torch.profiler\n") == {
        "dx-dw-and-db",
        "from-torchprofiler",
    }


@pytest.mark.parametrize("index", ["README.md", "docs/README.md"])
def test_an_index_lists_every_page_of_the_guide(index: str) -> None:
    pages = {page for page in PAGES if page.startswith("docs/")} - {"docs/README.md"}
    assert pages <= {target(page, link) for page, link in LINKS if page == index}


def test_the_readme_is_read_in_one_sitting() -> None:
    assert len(PAGES["README.md"].splitlines()) <= 250


@pytest.mark.parametrize("name", flopcount.__all__)
def test_the_reference_has_every_public_name(name: str) -> None:
    assert re.search(rf"^\| `@?{name}\b", REFERENCE, flags=re.MULTILINE)


MEMBERS = [
    name
    for owner in (flopcount.Report, flopcount.ModuleNode)
    for name in {**owner.__annotations__, **vars(owner)}
    if not name.startswith("_")
]


@pytest.mark.parametrize("name", ["report", "reset", *MEMBERS])
def test_the_reference_has_every_member(name: str) -> None:
    assert re.search(rf"\.{name}\b", REFERENCE)


@pytest.mark.parametrize("name", COLUMNS)
def test_the_reference_has_every_column(name: str) -> None:
    rows = REFERENCE.partition("| column | shows |")[2].partition("\n\n")[0]
    columns = [row.split(" | ")[0] for row in rows.splitlines()]
    assert any(f"`{name}`" in column for column in columns)


def without_annotations(thing: Any) -> str:
    """The signature of ``thing``, as the reference shows it."""
    parameters = inspect.signature(thing).parameters.values()
    bare = [parameter.replace(annotation=parameter.empty) for parameter in parameters]
    return str(inspect.Signature(bare))


@pytest.mark.parametrize(
    "name", ["Convention", "Cost", "FlopCounter", "count", "count_graph", "read_trace", "record"]
)
def test_a_signature_is_as_the_reference_shows_it(name: str) -> None:
    assert f"| `{name}{without_annotations(getattr(flopcount, name))}` |" in REFERENCE


def test_the_formula_in_contributing_counts() -> None:
    (block,) = re.findall(r"```python\n(.*?)```", TEXT["CONTRIBUTING.md"], flags=re.DOTALL)
    names: dict[str, Any] = {}
    with registry.replaced(lambda name, rule: None if name == "aten::mm" else rule):
        exec(textwrap.dedent(block), names)
        cost = names["mm"](torch.ones(2, 3), torch.ones(3, 5), out=torch.ones(2, 5))
    assert cost == flopcount.Cost(macs=2 * 3 * 5, dots=2 * 5)
