"""``flopcount ops``: how each op is counted."""

from __future__ import annotations

import re
from argparse import Namespace

from flopcount.cli.parser import CommandError
from flopcount.errors import did_you_mean
from flopcount.formulas.op_table import op_rows, render


def run(options: Namespace) -> int:
    """Print how ops are decided: all of them, or those that the options select."""
    rows = op_rows()
    if options.name:
        name = options.name.replace("::", ".").lower().removesuffix(".default")
        matches = matching(name, {row.op for row in rows})
        rows = [row for row in rows if row.op in matches]
        rows.sort(key=lambda row: row.op not in (name, f"aten.{name}"))
    if options.uncounted:
        rows = [row for row in rows if row.decision == "uncounted"]
    which = f" with {options.name} in its name" if options.name else ""
    print(render(rows) if rows else f"every op{which} is decided")
    return 0


def matching(name: str, ops: set[str]) -> set[str]:
    """The ``ops`` that have ``name`` as a word of their name, or else as a part of it.

    So ``gelu`` matches ``gelu_backward``, and ``mm`` does not match ``addmm``.
    """
    words = re.compile(rf"(^|[._]){re.escape(name)}(\d+d)?(_|$)")
    matches = {op for op in ops if words.search(op.lower())}
    matches = matches or {op for op in ops if name in op.lower()}
    if not matches:
        bare = {op.partition(".")[2] for op in ops}
        raise CommandError(f"no op is named {name!r}{did_you_mean(name, ops | bare)}")
    return matches
