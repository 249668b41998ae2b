"""HTML: one page that needs nothing else, its modules folded below their callers."""

from __future__ import annotations

from html import escape

from flopcount.cost import format_quantity
from flopcount.report.render import table
from flopcount.report.report import Report
from flopcount.report.tree import ModuleNode

__all__ = ["render"]

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ font: 14px/1.5 system-ui, sans-serif; margin: 2rem auto; padding: 0 2rem;
  max-width: 76rem; color: #222; }}
.row {{ display: grid; gap: 1rem;
  grid-template-columns: minmax(0, 1fr) 5rem 4rem 8rem 8rem 5rem minmax(4rem, 12rem); }}
.head {{ color: #888; border-bottom: 1px solid #ddd; }}
.total {{ border-top: 1px solid #ddd; }}
summary {{ cursor: pointer; }}
summary .name::before {{ content: "▸"; position: absolute; margin-left: -1rem; color: #888; }}
details[open] > summary .name::before {{ content: "▾"; }}
.number {{ text-align: right; font-variant-numeric: tabular-nums; }}
.type {{ color: #888; }}
.bar {{ background: #eee; height: .8em; align-self: center; }}
.bar i {{ display: block; height: 100%; background: #3b7dd8; }}
pre {{ overflow-x: auto; }}
</style>
</head>
<body>
<h1>{title}</h1>
<div class="row head"><span>module</span><span class="number">params</span>
<span class="number">calls</span><span class="number">forward FLOP</span>
<span class="number">backward FLOP</span><span class="number">bwd ÷ fwd</span>
<span>share</span></div>
{modules}
<pre>{tables}</pre>
</body>
</html>
"""


def render(report: Report) -> str:
    """The module tree, and the other tables as text."""
    whole = report.total.flops
    title = f"{report.model.type or 'flopcount'}: {format_quantity(whole, 'FLOP')}"
    parts = [table.phases, table.layer_types, table.operators, table.uncounted]
    tables = "\n\n".join(part(report) for part in parts)
    rows = [_node(child, whole, 0) for child in report.root.children]
    rows += [_row(line, "row") for line in table.summary(report)]
    return PAGE.format(title=escape(title), modules="\n".join(rows), tables=escape(tables))


def _node(node: ModuleNode, whole: int, level: int) -> str:
    line = table.line(node.name, node, whole)
    if not node.children:
        return _row(line, "row", level)
    inner = "\n".join(_node(child, whole, level + 1) for child in node.children)
    opened = " open" if 2 * node.total.flops > whole else ""  # follow the money
    summary = _row(line, "row", level, tag="summary")
    return f"<details{opened}>{summary}\n{inner}\n</details>"


def _row(line: table.Line, style: str, level: int = 0, tag: str = "div") -> str:
    numbers = "".join(
        f'<span class="number">{table.cell(name, line)}</span>'
        for name in ("params", "calls", "forward", "backward", "ratio")
    )
    share = table.cell("share", line)
    return (
        f'<{tag} class="{style}"><span class="name" style="padding-left:{1.2 * level:.1f}rem">'
        f'{escape(line.label)} <span class="type">{escape(line.type)}</span></span>{numbers}'
        f'<span class="bar" title="{share}"><i style="width:{share.replace(" ", "")}"></i></span>'
        f"</{tag}>"
    )
