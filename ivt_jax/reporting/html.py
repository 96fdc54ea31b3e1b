"""A page that needs nothing else: no script, no request; light, dark, narrow and on paper."""

from collections.abc import Sequence
from html import escape
from typing import Any

from ivt_jax.retrieval.canvas import THEMES

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
*, *::before, *::after { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body { margin: 0; background: var(--background); color: var(--ink);
  font: 16px/1.55 Inter, system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; }
main, header, footer { max-width: 816px; margin: 0 auto; padding: 0 24px; }
header { padding-top: 40px; }
h1 { font-size: 30px; line-height: 1.2; letter-spacing: -.015em; margin: 0 0 8px;
  overflow-wrap: anywhere; }
h2 { font-size: 21px; line-height: 1.3; letter-spacing: -.01em; margin: 56px 0 12px;
  padding-top: 20px; border-top: 1px solid var(--rule); }
h3 { font-size: 16px; margin: 32px 0 8px; }
p, ul, dl { margin: 0 0 14px; overflow-wrap: anywhere; }
.lead { color: var(--muted); font-size: 17px; }
.muted, figcaption { color: var(--muted); font-size: 14px; }
.chip::before { content: ""; display: inline-block; width: 10px; height: 10px; margin-right: 8px;
  border-radius: 5px; background: var(--wrong); }
.chip.done::before { background: var(--right); }
nav ul { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: 4px 18px;
  font-size: 15px; margin-top: 20px; }
a { color: var(--series0); text-underline-offset: 3px; }
a:focus-visible, [tabindex]:focus-visible, summary:focus-visible { outline: 2px solid
  var(--series0); outline-offset: 2px; border-radius: 4px; }
.scores { display: grid; grid-template-columns: repeat(auto-fit, minmax(112px, 1fr)); gap: 12px;
  margin: 0 0 14px; }
.scores div { background: var(--panel); border-radius: 10px; padding: 12px 14px; }
.scores dt { color: var(--muted); font-size: 14px; }
.scores dd { margin: 0; font-size: 25px; font-weight: 600; font-variant-numeric: tabular-nums;
  letter-spacing: -.01em; }
.wide { overflow-x: auto; margin: 0 0 14px; }
table { border-collapse: collapse; font-size: 14.5px; font-variant-numeric: tabular-nums;
  min-width: 100%; }
caption { text-align: left; color: var(--muted); font-size: 14px; padding-bottom: 6px; }
th, td { text-align: left; vertical-align: top; padding: 6px 16px 6px 0;
  border-bottom: 1px solid var(--rule); }
thead th { color: var(--muted); font-weight: 500; white-space: nowrap; }
tbody th { font-weight: 500; }
td.n, th.n { text-align: right; white-space: nowrap; }
tr > :last-child { padding-right: 0; }
figure { margin: 0 0 8px; }
figure svg { display: block; width: 100%; min-width: 600px; height: auto; }
figcaption { margin-top: 6px; }
code, pre { font: 13.5px/1.6 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
pre { background: var(--panel); border-radius: 10px; padding: 14px 16px; margin: 0 0 14px;
  overflow-x: auto; }
td code { overflow-wrap: anywhere; }
details { margin: 0 0 14px; }
summary { cursor: pointer; color: var(--series0); font-size: 15px; padding: 2px 0 8px; }
footer { color: var(--muted); font-size: 14px; padding-top: 24px; padding-bottom: 56px; }
@media (max-width: 520px) {
  main, header, footer { padding-left: 16px; padding-right: 16px; }
  header { padding-top: 24px; } h1 { font-size: 25px; } h2 { margin-top: 40px; }
  .scores dd { font-size: 21px; } .scores { grid-template-columns: repeat(3, 1fr); gap: 8px; }
  .scores div { padding: 10px; }
}
@media print {
  body { font-size: 10.5pt; } nav { display: none; }
  main, header, footer { max-width: none; padding: 0; }
  .wide { overflow: visible; } figure svg { min-width: 0; max-width: 169mm; }
  .scores div, pre { border: 1px solid var(--rule); }
  h2, h3 { break-after: avoid; } tr, .scores { break-inside: avoid; }
  pre { white-space: pre-wrap; overflow-wrap: anywhere; }
  details::details-content { content-visibility: visible; height: auto; }
  @page { margin: 18mm 20mm; }
}
"""


def text(value: Any) -> str:
    """Any value as text of a page: nothing in it is read as HTML."""
    return escape("".join(c if c.isprintable() or c in " \n" else " " for c in str(value)))


def page(title: str, body: str) -> str:
    """The whole file; `body` is HTML."""
    light, dark = (
        " ".join(f"--{name}: {color};" for name, color in colors.items())
        for colors in (THEMES["light"], THEMES["dark"])
    )
    themes = (
        f":root {{ color-scheme: light dark; {light} }}\n"
        f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}"
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>\n{themes}{_STYLE}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def section(name: str, title: str, *parts: str) -> str:
    """A part of the page with a heading of level 2; `parts` are HTML."""
    inside = "\n".join(filter(None, parts))
    head = f'<h2 id="{name}-title">{text(title)}</h2>'
    return f'<section id="{name}" aria-labelledby="{name}-title">\n{head}\n{inside}\n</section>'


def paragraph(words: str, *, kind: str = "") -> str:
    """A paragraph of plain text."""
    return f'<p class="{kind}">{text(words)}</p>' if kind else f"<p>{text(words)}</p>"


def table(
    caption: str, head: Sequence[str], rows: Sequence[Sequence[Any]], *, numbers: Sequence[int] = ()
) -> str:
    """A table whose first cells name their rows.

    Args:
        caption: what it shows.
        head: of the columns.
        rows: texts.
        numbers: columns of numbers, which stand at the right.
    """

    def kind(column: int) -> str:
        return ' class="n"' if column in numbers else ""

    heads = "".join(f'<th scope="col"{kind(i)}>{text(cell)}</th>' for i, cell in enumerate(head))
    lines = []
    for first, *rest in rows:
        cells = "".join(f"<td{kind(i)}>{text(cell)}</td>" for i, cell in enumerate(rest, 1))
        lines.append(f'<tr><th scope="row">{text(first)}</th>{cells}</tr>')
    inside = "\n".join(lines)
    return wide(
        caption,
        f"<table><caption>{text(caption)}</caption>\n<thead><tr>{heads}</tr></thead>\n"
        f"<tbody>\n{inside}\n</tbody></table>",
    )


def wide(name: str, inside: str) -> str:
    """HTML that may be wider than a small screen, and is moved there by hand or keyboard."""
    return f'<div class="wide" tabindex="0" role="region" aria-label="{text(name)}">{inside}</div>'


def folded(name: str, inside: str) -> str:
    """HTML that opens on demand."""
    return f"<details><summary>{text(name)}</summary>\n{inside}\n</details>"


def listing(lines: Sequence[str]) -> str:
    """Commands, to be copied."""
    return f'<pre tabindex="0"><code>{text(chr(10).join(lines))}</code></pre>'


def listed(items: Sequence[str]) -> str:
    """A list of plain texts."""
    return "<ul>" + "".join(f"<li>{text(item)}</li>" for item in items) + "</ul>"
