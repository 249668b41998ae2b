"""What the README shows of a changed baseline is what pytest says."""

from __future__ import annotations

import re

import pytest

from tests.conftest import IS_INSTALLED
from tests.test_readme import SECTIONS

PLUGIN = () if IS_INSTALLED else ("-p", "flopcount.pytest_plugin")


def test_a_changed_baseline_looks_as_is_shown(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    section = SECTIONS["Budgets in pytest"]
    tests = "\n".join(re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL))
    (shown,) = re.findall(r"```text\n(.*?)```", section, flags=re.DOTALL)
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
