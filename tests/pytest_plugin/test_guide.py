"""What the guide shows of a changed baseline is what pytest says."""

from __future__ import annotations

import re

import pytest

from tests.conftest import IS_INSTALLED
from tests.test_readme import PAGES

PLUGIN = () if IS_INSTALLED else ("-p", "flopcount.pytest_plugin")


def test_a_changed_baseline_looks_as_is_shown(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    page = PAGES["docs/budgets.md"]
    tests = "\n".join(re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL))
    (shown,) = re.findall(r"```text\n(.*?)```", page, flags=re.DOTALL)
    for width, option in (("256", "--flops-update"), ("320", "--flops-fail-on=change")):
        pytester.makepyfile(test_step=tests.replace("256", width))
        result = pytester.runpytest_inprocess(*PLUGIN, option, "-k", "cost")
    result.assert_outcomes(failed=1, deselected=2)
    said = result.outlines
    for line in shown.splitlines():
        start = line.removesuffix("…")  # of a long line, or of lines that are cut out
        at = next(n for n, each in enumerate(said) if each.startswith(start))
        assert said[at] == line or line != start
        said = said[at:]
