"""Figures of a search: the best score by trials, the importance of settings, and the scores over each setting."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from .curves import INK, MARKERS, MUTED, PALETTE
from .search import Outcome
from .spaces import Space

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure


def history_figure(found: Mapping[str, Sequence[Outcome]], axis: str) -> "Figure":
    """The lowest score of each rule after so many trials, as steps, and the scores of the trials, as points."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure((6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    for i, (rule, outcomes) in enumerate(found.items()):
        colour, marker = PALETTE[i % len(PALETTE)], MARKERS[i % len(MARKERS)]
        scores = [(number, x.score) for number, x in enumerate(outcomes, 1) if x.score is not None]
        numbers, values = [number for number, _ in scores], [score for _, score in scores]
        axes.plot(numbers, values, marker=marker, color=colour, alpha=0.45, linestyle="")
        if scores:
            best = [*accumulate(values, min)]
            axes.step([*numbers, len(outcomes)], [*best, best[-1]], where="post", color=colour)
        axes.plot([], [], color=colour, marker=marker, label=rule)
    _score_axis(axes, [x.score for each in found.values() for x in each])
    axes.set_xlabel("trials")
    axes.set_ylabel(axis)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False)
    return figure


def importance_figure(importances: Mapping[str, Mapping[str, float]]) -> "Figure":
    """Bars of the share of each setting in the variance of the score, a panel for each rule."""
    from matplotlib.figure import Figure

    bars = [len(each) for each in importances.values()]
    figure = Figure((6.4, 0.5 + sum(0.45 + 0.25 * n for n in bars)), layout="constrained")
    panels = figure.subplots(len(bars), 1, sharex=True, squeeze=False, height_ratios=[1 + n for n in bars])
    for (axes,), (rule, shares) in zip(panels, importances.items(), strict=True):
        order = sorted(shares, key=lambda name: shares[name])
        axes.barh(order, [100 * shares[name] for name in order], 0.62, color=PALETTE[0])
        axes.set_title(rule, loc="left", fontsize=9, weight="bold")
        axes.tick_params(axis="y", labelcolor=INK)
        axes.set_xlim(0, 100)
        axes.grid(axis="x", color="#e6e9ee")
        axes.set_axisbelow(True)
    panels[-1][0].set_xlabel("% of the variance of the score")
    return figure


def settings_figure(outcomes: Sequence[Outcome], space: Space, axis: str) -> "Figure":
    """The score of each trial over each setting; the best is marked."""
    from matplotlib.figure import Figure

    scored = [outcome for outcome in outcomes if outcome.score is not None]
    best = min(scored, key=lambda outcome: outcome.score or 0.0)
    columns = min(3, len(space))
    rows = -(-len(space) // columns)
    figure = Figure((2.4 * columns + 0.5, 2.3 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for panel in panels.flat[len(space) :]:
        panel.set_visible(False)
    for axes, (name, values) in zip(panels.flat, space.items(), strict=False):
        for outcome in scored:
            colour = PALETTE[1] if outcome is best else PALETTE[0]
            alpha, size = (1.0, 7) if outcome is best else (0.6, 4)
            at = _place(outcome.settings[name])
            axes.plot([at], [outcome.score], marker="o", markersize=size, color=colour, alpha=alpha, linestyle="")
        if values.log:
            axes.set_xscale("log")
            _plain_numbers(axes.xaxis, (1,))
        if isinstance(_place(best.settings[name]), str):
            axes.tick_params(axis="x", rotation=30)
        axes.set_xlabel(name, color=INK)
        _score_axis(axes, [x.score for x in scored])
    for row in panels:
        row[0].set_ylabel(axis)
    return figure


def _place(value: Any) -> Any:
    """Where a value is drawn: a number, that in a text such as ternary*0.05, or the text of a choice."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    try:
        return float(str(value).rpartition("*")[2])
    except ValueError:
        return str(value)


def _score_axis(axes: "Axes", scores: Sequence[float | None]) -> None:
    """A logarithmic axis if the scores differ much."""
    known = [score for score in scores if score is not None]
    if known and min(known) > 0 and max(known) > 4 * min(known):
        axes.set_yscale("log")
        _plain_numbers(axes.yaxis, (1, 2, 5))
    axes.grid(color="#e6e9ee")
    axes.set_axisbelow(True)
    axes.tick_params(labelcolor=MUTED)


def _plain_numbers(axis: "Axis", digits: Sequence[float]) -> None:
    """Numbers without powers of ten, those that begin with `digits`, on a logarithmic axis."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=digits, numticks=4))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
