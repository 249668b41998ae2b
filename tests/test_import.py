"""What importing flopcount does, and what it leaves to later; each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import flopcount
from tests.conftest import IS_INSTALLED


def modules_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(*sys.modules)"
    output = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    ).stdout
    return set(output.split())


def test_importing_flopcount_does_not_import_torch() -> None:
    assert "torch" not in modules_after("import flopcount")


def test_using_a_public_name_does() -> None:
    assert "torch" in modules_after("import flopcount; flopcount.FlopCounter")


def test_counting_imports_neither_torchvision_nor_dynamo() -> None:
    loaded = modules_after(
        "import torch, flopcount\n"
        "print(flopcount.count(torch.nn.Linear(2, 2), torch.ones(2, 2)), file=sys.stderr)"
    )
    assert "torchvision" not in loaded
    assert "torch._dynamo" not in loaded


def test_the_pytest_plugin_imports_nothing_of_flopcount_but_its_names() -> None:
    loaded = modules_after("import flopcount.pytest_plugin")
    ours = {name for name in loaded if name.partition(".")[0] in ("flopcount", "torch")}
    assert ours == {"flopcount", "flopcount.pytest_plugin"}


def run_of_pytest(test: str, folder: Path) -> set[str]:
    """The modules that a run of pytest with the plugin on a file of one test has loaded."""
    (folder / "test_it.py").write_text(test, encoding="utf-8")
    arguments = ["-p", "no:cacheprovider", str(folder), "--rootdir", str(folder)]
    if not IS_INSTALLED:
        arguments += ["-p", "flopcount.pytest_plugin"]
    return modules_after(f"import pytest; assert pytest.main({arguments}) == 0")


def test_a_run_without_budgets_does_not_import_torch(tmp_path: Path) -> None:
    loaded = run_of_pytest("def test_it(): pass", tmp_path)
    assert "flopcount.pytest_plugin" in loaded
    ours = {
        f"flopcount.{name}" for name in ("pytest_plugin.budget", "pytest_plugin.guard", "report")
    }
    assert not {"torch", *ours} & loaded


def test_a_budget_does(tmp_path: Path) -> None:
    test = "import pytest\n@pytest.mark.flop_budget('0 FLOP')\ndef test_it(): pass"
    assert "torch" in run_of_pytest(test, tmp_path)


@pytest.mark.parametrize("name", flopcount.__all__)
def test_every_public_name_resolves_and_is_documented(name: str) -> None:
    value = getattr(flopcount, name)
    assert value.__doc__
    assert name in dir(flopcount)


def test_dir_shows_the_public_names_and_no_more() -> None:
    shown = {name for name in dir(flopcount) if not name.startswith("__")}
    assert shown == {*flopcount.__all__}
    assert "__version__" in dir(flopcount)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'flops'"):
        flopcount.flops  # noqa: B018
