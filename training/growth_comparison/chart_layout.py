"""How the chart of a comparison looks: panels, axes, colours. Knows no results."""

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import Any

from plotly.graph_objects import Figure

from training.growth_comparison.options import CONTINUED, CONTROLS, SCRATCH

# Hues that colour-blind readers can tell apart; the controls are grey and broken.
COLOURS = ("#177874", "#c2500a", "#3f6fb5", "#8a5a9e", "#b8860b", "#a33b5e", "#4f8a2f", "#6b4d3a")
CONTROL_COLOURS = {CONTINUED: "#39444d", SCRATCH: "#93a0a9"}
DASHES = {CONTINUED: "dash", SCRATCH: "dot"}
INK, SOFT, LINE = "#191f25", "#4d5a64", "#dde2e6"
FONT = "system-ui, Segoe UI, Roboto, Helvetica Neue, Arial, sans-serif"
HEIGHT = 1080
# On a phone the panels stand below each other: pixels of each, and between two of them.
STACKED_PIXELS, STACKED_GAP = (230, 230, 210, 210, 420), 120
STACKED_TITLE = 30  # characters of a line
STACKED_MARGINS, MARGINS = {"l": 56, "r": 14}, {"l": 66, "r": 28}
LEGEND_TOP = 1.045
TITLE_SHIFT, SWITCH_PIXELS = 8, 34


@dataclass(frozen=True)
class Panel:
    """One pair of axes: its place as shares of the figure (left, right, bottom, top) and titles."""

    axes: str  # "", "2", ..: what plotly appends to x, y, xaxis and yaxis
    place: tuple[float, float, float, float]
    title: str
    along: str
    up: str


TOKENS = Panel("", (0.0, 0.465, 0.71, 1.0), "Held-out loss", "training tokens", "nats per token")
FLOPS = Panel("2", (0.535, 1.0, 0.71, 1.0), "Held-out loss over FLOPs", "FLOPs", "")
ABOVE = Panel(
    "3",
    (0.0, 0.465, 0.355, 0.6),
    "Loss above the small model's, same batches and rate",
    "training tokens",
    "nats per token",
)
HALVES = Panel(
    "4",
    (0.0, 0.465, 0.0, 0.245),
    "How far the halves of a clone have grown apart",
    "training tokens",
    "|W top - W bottom| / |W|",
)
BARS = Panel(
    "5",
    (0.68, 1.0, 0.0, 0.6),
    "At first: jump by growing (plain), peak above the small model (hatched)",
    "nats per token",
    "",
)
PANELS = (TOKENS, FLOPS, ABOVE, HALVES, BARS)


def colours_of(strategies: Sequence[str]) -> dict[str, str]:
    """Return a colour for each strategy and both controls."""
    grown = [strategy for strategy in strategies if strategy not in CONTROLS]
    chosen = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(grown)}
    return {**CONTROL_COLOURS, **chosen}


def transparent(colour: str) -> str:
    """Return `#rrggbb` as a tint that lets lines through."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, 0.13)"


def lay_out(figure: Figure) -> None:
    """Set fonts, margins, legend and the axes of all panels."""
    figure.update_layout(
        autosize=True,  # the page gives the height, see side_by_side and stacked
        margin={**MARGINS, "t": 110, "b": 56},
        paper_bgcolor="white",
        plot_bgcolor="white",
        font={"family": FONT, "size": 13, "color": INK},
        legend={"orientation": "h", "x": 0, "y": LEGEND_TOP, "yanchor": "bottom"},
        hoverlabel={"namelength": -1},
        bargap=0.4,
        bargroupgap=0.12,
    )
    for panel in PANELS:
        _lay_out_panel(figure, panel)
    figure.update_layout(
        yaxis2_matches="y",
        xaxis3_matches="x",
        xaxis4_matches="x",
        yaxis4_rangemode="tozero",
        yaxis5_autorange="reversed",
        yaxis5_showgrid=False,
    )


def _lay_out_panel(figure: Figure, panel: Panel) -> None:
    left, right, bottom, top = panel.place
    axis = {"gridcolor": LINE, "linecolor": LINE, "zerolinecolor": "#c3ccd2", "automargin": True}
    small = {"size": 12, "color": SOFT}
    along = {"domain": [left, right], "anchor": f"y{panel.axes}"}
    up = {"domain": [bottom, top], "anchor": f"x{panel.axes}"}
    figure.update_layout(
        {
            f"xaxis{panel.axes}": {**axis, **along, "title": {"text": panel.along, "font": small}},
            f"yaxis{panel.axes}": {**axis, **up, "title": {"text": panel.up, "font": small}},
        }
    )
    figure.add_annotation(
        text=f"<b>{panel.title}</b>",
        xref="paper",
        yref="paper",
        # The names of the bars begin where the panel above them does.
        x=FLOPS.place[0] if panel is BARS else left,
        y=top,
        yanchor="bottom",
        yshift=TITLE_SHIFT,
        xanchor="left",
        align="left",
        showarrow=False,
    )


def side_by_side() -> dict[str, Any]:
    """Return what `Plotly.relayout` needs to place the panels as they were drawn."""
    changes = _placed([panel.place for panel in PANELS])
    for index, panel in enumerate(PANELS):
        changes[f"annotations[{index}].text"] = f"<b>{panel.title}</b>"
        changes[f"annotations[{index}].yshift"] = TITLE_SHIFT
    # The names of the bars begin where the panel above them does.
    changes[f"annotations[{PANELS.index(BARS)}].x"] = FLOPS.place[0]
    return {**changes, **_room(MARGINS, 13, 0), "height": HEIGHT, "legend.y": LEGEND_TOP}


def stacked(num_strategies: int) -> dict[str, Any]:
    """Return the same for a narrow screen: all panels below each other."""
    total = sum(STACKED_PIXELS) + STACKED_GAP * (len(PANELS) - 1)
    places, top = [], float(total)
    for panel, pixels in zip(PANELS, STACKED_PIXELS, strict=True):
        left = 0.44 if panel is BARS else 0.0
        places.append((left, 1.0, (top - pixels) / total, top / total))
        top -= pixels + STACKED_GAP
    changes = _placed(places)
    for index, panel in enumerate(PANELS):
        lines = "<br>".join(wrap(panel.title, STACKED_TITLE))
        below = SWITCH_PIXELS if panel is FLOPS else 0  # the buttons stand below the title
        changes[f"annotations[{index}].text"] = f"<b>{lines}</b>"
        changes[f"annotations[{index}].x"] = 0.0
        changes[f"annotations[{index}].yshift"] = TITLE_SHIFT + below
    # The legend has a line for each strategy.
    height = total + 200 + 24 * num_strategies
    room = _room(STACKED_MARGINS, 10, 3)
    return {**changes, **room, "height": height, "legend.y": 1 + 50 / total}


def _room(margins: dict[str, int], name_size: int, num_ticks: int) -> dict[str, Any]:
    """Return the margins, and what the bars' names and numbers take of their panel."""
    return {
        **{f"margin.{side}": pixels for side, pixels in margins.items()},
        f"yaxis{BARS.axes}.tickfont.size": name_size,
        f"xaxis{BARS.axes}.nticks": num_ticks,  # 0: as many as fit
    }


def _placed(places: Sequence[tuple[float, float, float, float]]) -> dict[str, Any]:
    """Return the axes, titles and buttons of all panels at (left, right, bottom, top)."""
    changes: dict[str, Any] = {}
    for index, (panel, place) in enumerate(zip(PANELS, places, strict=True)):
        left, right, bottom, top = place
        changes[f"xaxis{panel.axes}.domain"] = [left, right]
        changes[f"yaxis{panel.axes}.domain"] = [bottom, top]
        changes[f"annotations[{index}].x"] = left
        changes[f"annotations[{index}].y"] = top
        if panel is FLOPS:
            changes["updatemenus[0].y"] = top
    return changes


def add_level(figure: Figure, panel: Panel, level: float) -> None:
    """Draw a thin horizontal line across a panel."""
    figure.add_shape(
        type="line",
        xref=f"x{panel.axes} domain",
        yref=f"y{panel.axes}",
        x0=0,
        x1=1,
        y0=level,
        y1=level,
        line={"color": SOFT, "width": 1, "dash": "dot"},
    )


def add_switch(
    figure: Figure, lines: list[int], choices: Sequence[tuple[str, list[list[float]]]]
) -> None:
    """Add buttons above the panel of computation; a choice is a label and the x of each line."""
    buttons = [
        {"label": label, "method": "restyle", "args": [{"x": flops}, lines]}
        for label, flops in choices
    ]
    figure.update_layout(
        updatemenus=[
            {
                "type": "buttons",
                "direction": "right",
                "buttons": buttons,
                "x": FLOPS.place[1],
                "xanchor": "right",
                "y": FLOPS.place[3],
                "yanchor": "bottom",
                "pad": {"b": 6},
                "font": {"size": 11},
                "bgcolor": "white",
                "bordercolor": LINE,
            }
        ]
    )
