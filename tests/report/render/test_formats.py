"""Each format is read back by its own means, and adds up to the report."""

from __future__ import annotations

import csv
import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from torch import nn

import flopcount
from flopcount import Report
from flopcount.report import render
from flopcount.report.render import renderers


@pytest.fixture(scope="module")
def report() -> Report:
    model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Sequential(nn.Linear(4, 2)))
    return flopcount.count(model, torch.ones(3, 8))


def saved(report: Report, folder: Path, ending: str) -> str:
    path = folder / f"step{ending}"
    report.save(path)
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize("ending", renderers())
def test_every_ending_writes_a_file(ending: str, report: Report, tmp_path: Path) -> None:
    assert saved(report, tmp_path, ending)


def test_an_unknown_ending_is_refused_and_writes_nothing(report: Report, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no format for .*step\.xml.*; known endings: .*\.csv"):
        report.save(tmp_path / "step.xml")
    assert not list(tmp_path.iterdir())


def test_each_format_is_found_by_the_endings_that_it_names() -> None:
    files = {path.stem for path in Path(render.__file__).parent.glob("[!_]*.py")}
    homes = {function.__module__.rpartition(".")[2] for function in renderers().values()}
    # the report writes its own JSON, and rates are no file
    assert files - {"rates"} == homes - {"operator"}
    assert [*renderers()].index(".speedscope.json") < [*renderers()].index(".json")


def test_json_is_the_report_itself(report: Report, tmp_path: Path) -> None:
    assert Report.from_json(saved(report, tmp_path, ".json")) == report


def test_csv_rows_add_up_to_the_total(report: Report, tmp_path: Path) -> None:
    rows = list(csv.DictReader(saved(report, tmp_path, ".csv").splitlines()))
    assert sum(int(row["flops"]) for row in rows) == report.total.flops
    assert sum(int(row["read"]) for row in rows) == report.total.read


def test_speedscope_weights_add_up_to_each_phase(report: Report, tmp_path: Path) -> None:
    document = json.loads(saved(report, tmp_path, ".speedscope.json"))
    frames = document["shared"]["frames"]
    for profile in document["profiles"]:
        phase = profile["name"].split()[0]
        assert sum(profile["weights"]) == profile["endValue"] == report.phases[phase].flops
        assert len(profile["weights"]) == len(profile["samples"])
        assert all(index < len(frames) for stack in profile["samples"] for index in stack)
    assert {profile["name"].split()[0] for profile in document["profiles"]} == {
        "forward",
        "backward",
    }


def test_trace_slices_nest_and_the_outermost_is_the_phase(report: Report, tmp_path: Path) -> None:
    events = json.loads(saved(report, tmp_path, ".trace.json"))["traceEvents"]
    for track, phase in enumerate(["forward", "backward"]):
        slices = [event for event in events if event["ph"] == "X" and event["tid"] == track]
        assert slices[0]["args"]["flops"] == report.phases[phase].flops
        stack: list[float] = []
        for event in slices:
            while stack and event["ts"] >= stack[-1] - 1e-12:
                stack.pop()
            end = event["ts"] + event["dur"]
            assert not stack or end <= stack[-1] + 1e-12
            stack.append(end)


def test_markdown_is_pipe_tables(report: Report, tmp_path: Path) -> None:
    lines = saved(report, tmp_path, ".md").splitlines()
    rules = [line for line in lines if set(line) <= set("|-: ") and line]
    assert len(rules) == 4  # modules, phases, layer types, ops


def test_html_is_well_formed_and_escapes_names(tmp_path: Path) -> None:
    class Generic(nn.Linear):
        pass

    Generic.__name__ = "Generic<int>"
    page = saved(flopcount.count(Generic(2, 2), torch.ones(1, 2)), tmp_path, ".html")
    assert "Generic&lt;int&gt;" in page
    assert "Generic<int>" not in page
    open_tags: list[str] = []

    class Checker(HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            if tag != "meta":
                open_tags.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert open_tags.pop() == tag

    Checker().feed(page)
    assert not open_tags


def test_html_is_tables(report: Report, tmp_path: Path) -> None:
    page = saved(report, tmp_path, ".html")
    assert page.count("<table>") == 4  # modules, phases, layer types, ops
    assert "<th>module" in page
    assert "<p>every op counted</p>" in page
