"""The chart as one HTML file that works offline: plotly.js is inside, and nothing else is loaded.

A content security policy in the file forbids every connection. What comes from files (names, error
texts) is escaped here; the figure itself holds only words of this package and numbers.
"""

import json
from html import escape
from pathlib import Path

import plotly.io
from plotly.graph_objects import Figure

from training.growth_comparison.chart_layout import HEIGHT, side_by_side, stacked
from training.growth_comparison.options import in_words, note_on
from training.growth_comparison.report import (
    LEGEND,
    Report,
    conditions_lines,
    sentences,
    table_rows,
)

PAGE_FILE = "comparison.html"
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
)
STYLE = """
body { margin: 0; background: #f6f8f9; color: #191f25; line-height: 1.5;
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 28px 24px 48px; }
h1 { font-size: 24px; font-weight: 600; margin: 0 0 6px; }
h2 { font-size: 17px; font-weight: 600; margin: 28px 0 8px; }
p { margin: 4px 0; max-width: 90ch; }
.soft, footer { color: #4d5a64; font-size: 13.5px; }
.sheet { background: white; border: 1px solid #dde2e6; border-radius: 10px;
  padding: 10px 12px; margin-top: 18px; overflow-x: auto; }
.sheet > div { height: auto !important; }
table { border-collapse: collapse; font-size: 13.5px; width: 100%; }
th { text-align: right; font-weight: 600; color: #4d5a64; }
td { text-align: right; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 10px; border-bottom: 1px solid #eceff1; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
tr:last-child td { border-bottom: 0; }
li { margin: 3px 0; }
@media (max-width: 700px) { main { padding: 18px 12px 32px; } }
"""
# Below this width two columns of panels are too narrow to be read.
FIT = """
const chart = document.getElementById("{plot_id}"), narrow = matchMedia("(max-width: 700px)");
const fit = async () => {
  const { height, ...layout } = narrow.matches ? STACKED : SIDE_BY_SIDE;
  chart.style.height = `${height}px`;
  await Plotly.relayout(chart, { ...layout, autosize: true });
};
narrow.addEventListener("change", fit);
if (narrow.matches) fit();
"""
# Plotly's own buttons, less the one that would send the data to another host.
CONFIG = {
    "displaylogo": False,
    "responsive": True,
    "plotlyServerURL": "",
    "modeBarButtonsToRemove": ["sendDataToCloud", "lasso2d", "select2d"],
}


def write_page(folder: Path, report: Report, figure: Figure) -> Path:
    """Write the page beside and rename it into place; return its path."""
    path = folder / PAGE_FILE
    beside = folder / f".{PAGE_FILE}"
    beside.write_text(make_page(report, figure), encoding="utf-8")
    beside.replace(path)
    return path


def make_page(report: Report, figure: Figure) -> str:
    """Return the whole document."""
    chart = plotly.io.to_html(
        figure,
        config=CONFIG,
        include_plotlyjs=True,
        include_mathjax=False,
        full_html=False,
        default_width="100%",
        default_height=f"{HEIGHT}px",
        post_script=_fit_script(report, figure),
    )
    first, *others = conditions_lines(report)
    title = f"Ways to grow {escape(report.conditions.plan.model)}"
    return "\n".join(
        (
            "<!doctype html>",
            '<html lang="en-GB"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{title}</title><style>{STYLE}</style></head><body><main>",
            f'<h1>{title}</h1><p class="soft">{escape(first)}</p>',
            f'<div class="sheet">{chart}</div>',
            f"<h2>Figures</h2><div class='sheet'>{_table(report)}</div>",
            *(f'<p class="soft">{escape(line)}</p>' for line in LEGEND),
            "<h2>What was found</h2><ul>",
            *(f"<li>{escape(line)}</li>" for line in sentences(report)),
            "</ul><footer>",
            *(f"<p>{escape(line)}</p>" for line in others),
            f"<p>{escape(_names(report))}</p>",
            "</footer></main></body></html>",
        )
    )


def _fit_script(report: Report, figure: Figure) -> str:
    """Return the script that places the panels by the width of the screen, as it turns too."""
    layouts = {
        "STACKED": stacked(len(report.conditions.plan.strategies)),
        "SIDE_BY_SIDE": side_by_side(),
    }
    script = FIT
    for name, layout in layouts.items():
        if not figure.layout.updatemenus:  # no buttons to place
            layout.pop("updatemenus[0].y")
        script = script.replace(name, json.dumps(layout))
    return script


def _table(report: Report) -> str:
    head, *rows = table_rows(report)
    lines = ["<table><thead><tr>", *(f"<th>{escape(cell)}</th>" for cell in head)]
    lines.append("</tr></thead><tbody>")
    for row in rows:
        lines.append(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>")
    return "".join([*lines, "</tbody></table>"])


def _names(report: Report) -> str:
    """Return what each strategy is called on the command line."""
    strategies = report.conditions.plan.strategies
    return (
        "On the command line: "
        + "; ".join(f"{in_words(s)} is {s}{note_on(s)}" for s in strategies)
        + "."
    )
