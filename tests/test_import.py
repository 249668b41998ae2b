"""What importing flopcount does, and what it leaves to later; each in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

import flopcount


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


@pytest.mark.parametrize("name", flopcount.__all__)
def test_every_public_name_resolves_and_is_documented(name: str) -> None:
    value = getattr(flopcount, name)
    assert value.__doc__
    assert name in dir(flopcount)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'flops'"):
        flopcount.flops  # noqa: B018
