"""A search for an op's name in ``formulas/ops`` finds where it is decided."""

import re
import subprocess
import sys
from pathlib import Path

import torch

from flopcount.formulas import ops

REGISTERED = """
import flopcount.formulas
from flopcount.formulas import registry
print(*(name for name, _, _ in registry.rules()), sep="\\n")
"""
"""A program of its own, as tests register ops of their own."""


NOT_IN_EVERY_TORCH = {
    "aten::linalg_matrix_sqrth",  # since 2.14
    "aten::linalg_polar",
    "aten::_flash_attention_forward_no_dropout_inplace",  # since 2.12 or 2.13, as those below
    "aten::_foreach_clone",
    "aten::_foreach_mm",
    "aten::_philox_key_fold_in",
    "aten::_philox_key_split",
    "aten::_philox_normal",
    "aten::_philox_uniform",
    "aten::_upsample_lanczos2d_aa",
    "aten::_upsample_lanczos2d_aa_backward",
    "aten::cholesky",  # until 2.13
}
"""Ops that one of the supported releases of torch does not have."""


def registered() -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", REGISTERED], capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def words_of(folder: Path) -> set[str]:
    return {word for path in folder.glob("*.py") for word in re.findall(r"\w+", path.read_text())}


def test_every_aten_op_with_a_rule_is_one_of_torchs() -> None:
    names = {name.partition(".")[0] for name in registered() if name.startswith("aten::")}
    known = {schema.name for schema in torch._C._jit_get_all_schemas()}
    missing = {name for name in names if name not in known and f"{name}_" not in known}
    assert missing <= NOT_IN_EVERY_TORCH


def test_every_op_is_found_by_its_bare_name() -> None:
    names = registered()
    assert {"aten::mm", "aten::_foreach_abs", "aten::adaptive_avg_pool2d.out"} <= set(names)
    words = words_of(Path(next(iter(ops.__path__))))
    bare = {name: name.partition("::")[2].partition(".")[0] for name in names}
    hidden = [name for name, word in bare.items() if word not in words]
    assert not hidden, "write these ops' bare names in formulas/ops, where grep finds them"
