"""The chart of a comparison: one Plotly figure of five panels. Knows no folder and no page.

Each strategy is drawn at its best share of the learning rate, as the mean over seeds with a band
from the lowest to the highest.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from plotly.graph_objects import Figure

from training.growth_comparison.chart_layout import (
    ABOVE,
    BARS,
    DASHES,
    FLOPS,
    HALVES,
    SOFT,
    TOKENS,
    Panel,
    add_level,
    add_switch,
    colours_of,
    lay_out,
    transparent,
)
from training.growth_comparison.options import CONTINUED, CONTROLS, SCRATCH, in_words, is_clone
from training.growth_comparison.results import Result
from training.growth_comparison.verdicts import Arm, best_arms

TOKENS_SHOWN = "%{x:,.4~s} tokens"


@dataclass(frozen=True)
class Curve:
    """A strategy over its tokens; each of the lists holds one value per measurement.

    `above`: the loss less that of the continued small model with the same seed; None without one.
    """

    arm: Arm
    tokens: list[int]
    losses: list[list[float]]  # of each seed
    above: list[list[float]] | None
    halves: list[list[float]]  # empty for what is no clone
    flops_per_token: float


def make_figure(
    results: Sequence[Result], arms: Sequence[Arm], source_loss: float, source_flops: float | None
) -> Figure:
    """Return the figure; `source_flops` is what the small model's own training took, if known."""
    curves = make_curves(results, arms)
    colours = colours_of([curve.arm.strategy for curve in curves])
    figure = Figure()
    lay_out(figure)
    for curve in curves:
        style = _style(curve.arm.strategy, colours)
        tokens: list[float] = [*curve.tokens]
        _add_line(figure, TOKENS, tokens, curve.losses, style, "%{y:.4f} at " + TOKENS_SHOWN)
        if curve.above and curve.arm.strategy != SCRATCH:
            _add_line(figure, ABOVE, tokens, curve.above, style, "%{y:+.4f} at " + TOKENS_SHOWN)
        if curve.halves:
            _add_line(figure, HALVES, tokens, curve.halves, style, "%{y:.3f} at " + TOKENS_SHOWN)
    _add_computation(figure, curves, colours, source_flops)
    _add_bars(figure, [curve.arm for curve in curves], colours)
    losses = loss_range(curves, source_loss)
    figure.update_layout(yaxis_range=losses, yaxis2_range=losses)
    for panel in (TOKENS, FLOPS):
        add_level(figure, panel, source_loss)
    return figure


def make_curves(results: Sequence[Result], arms: Sequence[Arm]) -> list[Curve]:
    """Return one curve per strategy, over the complete runs of its best arm."""
    complete = {run.key: run for run in results if run.is_complete}
    curves = []
    for arm in best_arms(arms).values():
        runs = [run for key, run in complete.items() if key[:2] == (arm.strategy, arm.rate_factor)]
        losses = [[point.validation_loss for point in run.points] for run in runs]
        controls = [complete.get((CONTINUED, arm.rate_factor, run.seed)) for run in runs]
        above = [
            [loss - point.validation_loss for loss, point in zip(own, run.points, strict=True)]
            for own, run in zip(losses, controls, strict=True)
            if run is not None
        ]
        halves = [[point.half_difference or 0.0 for point in run.points] for run in runs]
        curves.append(
            Curve(
                arm,
                tokens=[point.tokens for point in runs[0].points],
                losses=losses,
                above=above or None,
                halves=halves if is_clone(arm.strategy) else [],
                flops_per_token=runs[0].flops_per_token,
            )
        )
    return curves


def loss_range(curves: Sequence[Curve], source_loss: float) -> tuple[float, float]:
    """Return the losses to show first: everything but the long way down from scratch."""
    shown = [
        loss
        for curve in curves
        for run in curve.losses
        for loss in (run[-1:] if curve.arm.strategy == SCRATCH else run)
    ]
    low, high = min([*shown, source_loss]), max([*shown, source_loss])
    margin = 0.06 * (high - low) + 0.01
    return low - margin, high + margin


def _style(strategy: str, colours: dict[str, str]) -> dict[str, Any]:
    """Return what all lines of a strategy share; one legend entry switches all of them."""
    colour = colours[strategy]
    return {
        "name": in_words(strategy),
        "legendgroup": strategy,
        "line": {"color": colour, "width": 2.2, "dash": DASHES.get(strategy, "solid")},
        "marker": {"size": 5, "color": colour},
    }


def _add_line(
    figure: Figure,
    panel: Panel,
    along: list[float],
    runs: list[list[float]],
    style: dict[str, Any],
    shown: str,
) -> None:
    """Add the mean of several runs to a panel, and where there are several, their band."""
    columns = list(zip(*runs, strict=True))
    axes = {"xaxis": f"x{panel.axes}", "yaxis": f"y{panel.axes}"}
    if len(runs) > 1:
        figure.add_scatter(
            x=[*along, *reversed(along)],
            y=[*map(max, columns), *reversed([*map(min, columns)])],
            fill="toself",
            fillcolor=transparent(style["line"]["color"]),
            line={"width": 0},
            mode="lines",
            legendgroup=style["legendgroup"],
            hoverinfo="skip",
            showlegend=False,
            **axes,
        )
    figure.add_scatter(
        x=along,
        y=[sum(column) / len(column) for column in columns],
        mode="lines+markers",
        hovertemplate=shown,
        showlegend=panel is TOKENS,
        **style,
        **axes,
    )


def _add_computation(
    figure: Figure, curves: list[Curve], colours: dict[str, str], source_flops: float | None
) -> None:
    """Add loss over FLOPs; a reader may add the small model's own training to all but scratch."""
    lines: list[int] = []
    plain: list[list[float]] = []
    for curve in curves:
        flops = [tokens * curve.flops_per_token for tokens in curve.tokens]
        means = [[sum(column) / len(column) for column in zip(*curve.losses, strict=True)]]
        style = _style(curve.arm.strategy, colours)
        _add_line(figure, FLOPS, flops, means, style, "%{y:.4f} at %{x:.3~e} FLOPs")
        lines.append(len(figure.data) - 1)
        plain.append(flops)
    if source_flops is None:
        return
    charged = [
        flops if curve.arm.strategy == SCRATCH else [source_flops + value for value in flops]
        for curve, flops in zip(curves, plain, strict=True)
    ]
    choices = (("this training alone", plain), ("with the small model's", charged))
    add_switch(figure, lines, choices)


def _add_bars(figure: Figure, arms: list[Arm], colours: dict[str, str]) -> None:
    """Add jump and bump of what grew; those of a model from scratch would dwarf all others."""
    grown = [arm for arm in arms if arm.strategy not in CONTROLS]
    for arm in grown:
        kinds = (("jump", arm.jump, ""), ("peak above the small model", arm.bump, "/"))
        for title, value, pattern in kinds:
            figure.add_bar(
                orientation="h",
                y=[in_words(arm.strategy).replace(" + ", "<br>+ ")],
                x=[value],
                text="" if value is None else f"{value:+.3f}",
                textposition="outside",
                textfont={"size": 11, "color": SOFT},
                cliponaxis=False,
                marker={
                    "color": colours[arm.strategy],
                    "pattern": {"shape": pattern, "fgcolor": "white", "size": 6},
                },
                name=title,
                legendgroup=arm.strategy,
                offsetgroup=title,
                xaxis=f"x{BARS.axes}",
                yaxis=f"y{BARS.axes}",
                showlegend=False,
                hovertemplate=f"{title}: %{{x:+.4f}} nats<extra></extra>",
            )
    lengths = [value for arm in grown for value in (arm.jump, arm.bump) if value is not None]
    low, high = min([0.0, *lengths]), max([0.0, *lengths])
    # Room for the numbers beside the bars, on the left too: names stand there.
    span = max(high - low, 0.01)
    figure.update_layout(xaxis5_range=(low - 0.2 * span, high + 0.2 * span))
