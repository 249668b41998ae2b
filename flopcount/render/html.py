"""HTML: one page that needs nothing else, its modules folded below their callers."""

from __future__ import annotations

from html import escape

from flopcount.cost import format_quantity
from flopcount.render import table
from flopcount.report import ModuleNode, Report

__all__ = ["render"]

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ font: 14px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; color: #222; }}
summary, .leaf {{ display: grid; grid-template-columns: 1fr 9rem 9rem 6rem 14rem; gap: 1rem; }}
summary {{ cursor: pointer; }}
summary::before {{ content: "▸"; position: absolute; margin-left: -1rem; color: #888; }}
details[open] > summary::before {{ content: "▾"; }}
details details, details .leaf {{ margin-left: 1.2rem; }}
details details > summary, details .leaf {{ grid-template-columns: 1fr 9rem 9rem 6rem 14rem; }}
.number {{ text-align: right; font-variant-numeric: tabular-nums; }}
.type {{ color: #888; }}
.bar {{ background: #eee; height: .8em; align-self: center; }}
.bar i {{ display: block; height: 100%; background: #3b7dd8; }}
pre {{ overflow-x: auto; }}
</style>
</head>
<body>
<h1>{title}</h1>
<div class="leaf type"><span>module</span><span class="number">forward FLOP</span>
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
    modules = "\n".join(_node(child, whole) for child in report.root.children)
    return PAGE.format(title=escape(title), modules=modules, tables=escape(tables))


def _node(node: ModuleNode, whole: int) -> str:
    share = 100 * node.total.flops / whole if whole else 0
    forward, backward = node.phases["forward"].flops, node.phases["backward"].flops
    ratio = table.ratio(node.phases)
    cells = (
        f'<span>{escape(node.name)} <span class="type">{escape(node.type)}</span></span>'
        f'<span class="number">{format_quantity(forward)}</span>'
        f'<span class="number">{format_quantity(backward)}</span>'
        f'<span class="number">{f"{ratio:.2f}" if ratio else ""}</span>'
        f'<span class="bar" title="{share:.1f} %"><i style="width:{share:.2f}%"></i></span>'
    )
    if not node.children:
        return f'<div class="leaf">{cells}</div>'
    inner = "\n".join(_node(child, whole) for child in node.children)
    opened = " open" if share > 50 else ""  # follow the money
    return f"<details{opened}><summary>{cells}</summary>\n{inner}\n</details>"
