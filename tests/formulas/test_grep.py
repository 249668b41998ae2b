"""A search for an op's name in ``formulas/ops`` finds where it is decided."""

import re
import subprocess
import sys
from pathlib import Path

from flopcount.formulas import ops

REGISTERED = """
import flopcount.formulas
from flopcount.formulas import registry
print(*(name for name, _, _ in registry.rules()), sep="\\n")
"""
"""A program of its own, as tests register ops of their own."""


def words_of(folder: Path) -> set[str]:
    return {word for path in folder.glob("*.py") for word in re.findall(r"\w+", path.read_text())}


def test_every_op_is_found_by_its_bare_name() -> None:
    done = subprocess.run(
        [sys.executable, "-c", REGISTERED], capture_output=True, text=True, check=True
    )
    names = done.stdout.split()
    assert {"aten::mm", "aten::_foreach_abs", "aten::adaptive_avg_pool2d.out"} <= set(names)
    words = words_of(Path(next(iter(ops.__path__))))
    bare = {name: name.partition("::")[2].partition(".")[0] for name in names}
    assert [name for name, word in bare.items() if word not in words] == []
