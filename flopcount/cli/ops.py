"""``flopcount ops``: how each op is counted."""

from __future__ import annotations

import re
from collections.abc import Sequence

from flopcount.cli.parser import CommandError, Parser
from flopcount.errors import did_you_mean


def parser() -> Parser:
    """The options of ``flopcount ops``."""
    parser = Parser(
        prog="flopcount ops",
        description="List how each op that torch knows is counted, and by what formula.",
    )
    parser.add_argument(
        "name", nargs="?", metavar="NAME", help="an op, such as aten.mm, or a part of its name"
    )
    parser.add_argument(
        "--uncounted", action="store_true", help="only ops that nothing is known about"
    )
    return parser


def run(words: Sequence[str]) -> int:
    """Print how ops are decided: all of them, or those that the options select."""
    options = parser().parse_args(words)

    from flopcount.formulas.op_table import op_rows, render

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
