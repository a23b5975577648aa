"""Figures of energy: what moves an answer most, and the front of a sweep."""

from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from .curves import INK, MARKERS, MUTED, PALETTE, STYLE
from .report import prefix
from .storage import write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from hw_models.timing import Roofline

    from .bands import Tornado

MOST = 12
"""Most bars of a tornado; a note says how many quantities are left out."""
LOW, HIGH = PALETTE[5], PALETTE[1]
"""Colours of the answer at the low and at the high of a quantity."""


def tornado_figure(tornado: "Tornado") -> "Figure":
    """Bars from the answer at the low to the answer at the high of each quantity, around the typical answer.

    Quantities that do not move the answer have no bar.
    """
    from matplotlib import style
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    typical, unit = tornado.typical, tornado.unit
    moving = [swing for swing in tornado.swings if swing.size > 0]
    bars, others = moving[:MOST], len(moving[MOST:])
    name, factor = prefix(max([typical, *(max(bar.at_low, bar.at_high) for bar in bars)])) if unit else ("", 1.0)
    with style.context(["default", STYLE]):
        margin = 0.3 + 0.075 * max((len(bar.quantity) for bar in bars), default=0)
        width, height = 6.4, 1.25 + 0.3 * max(1, len(bars))
        figure = Figure((width, height))
        axes = figure.add_axes((margin / width, 0.6 / height, 1 - (margin + 0.3) / width, 1 - 1.25 / height))
        for y, bar in enumerate(bars):
            for end, colour in ((bar.at_low, LOW), (bar.at_high, HIGH)):
                axes.barh(y, (end - typical) / factor, 0.62, typical / factor, color=colour)
        axes.axvline(typical / factor, color=INK, linewidth=1)
        axes.set_yticks(range(len(bars)), [bar.quantity for bar in bars], color=INK)
        axes.set_ylim(max(len(bars), 1) - 0.4, -0.6)
        axes.margins(x=0.05)
        note = f"; not drawn: {others} that move it less" if others else ""
        axes.set_xlabel(f"{name}{unit}{note}" if unit else f"ratio{note}")
        axes.grid(axis="x", color="#e6e9ee")
        axes.set_axisbelow(True)
        figure.text(0.12 / width, 1 - 0.2 / height, tornado.title, weight="bold", va="top")
        ends = [
            Patch(color=LOW, label="one quantity at its low, all others typical"),
            Patch(color=HIGH, label="at its high"),
        ]
        figure.legend(handles=ends, ncols=2, frameon=False, loc="upper left", bbox_to_anchor=(0.0, 1 - 0.3 / height))
    return figure


def roofline_figure(roofline: "Roofline") -> "Figure":
    """What a core can do over products a bit that is moved: a roof for each kind of traffic, a point for each layer.

    A point on the slope of its roof waits for bits, one under the flat part for arithmetic, or for what is not drawn.
    """
    from matplotlib import style
    from matplotlib.figure import Figure

    roofs = {roof.name: roof.bits_per_second for roof in roofline.roofs}
    layers = list(dict.fromkeys(point.where for point in roofline.points))
    ridges = [roofline.peak / rate for rate in roofs.values()]
    intensities = [*ridges, *(point.intensity for point in roofline.points)]
    low, high = min(intensities) / 4, max(intensities) * 4
    with style.context(["default", STYLE]):
        figure = Figure((6.4, 4.2), layout="constrained")
        axes = figure.subplots()
        for i, (name, rate) in enumerate(roofs.items()):
            ends = sorted((low, roofline.peak / rate, high))
            axes.plot(ends, [roofline.attainable(name, x) for x in ends], color=PALETTE[i % len(PALETTE)], label=name)
        for point in roofline.points:
            colour = PALETTE[list(roofs).index(point.roof) % len(PALETTE)]
            at, marker = (point.intensity, point.products_per_second), _marker(layers, point.where)
            axes.plot(*at, marker=marker, color=colour, markeredgecolor=INK, linestyle="")
        for layer in layers:
            axes.plot([], [], marker=_marker(layers, layer), color=MUTED, linestyle="", label=layer)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("products a bit")
        axes.set_ylabel("products a second, of a core")
        axes.set_title(f"{roofline.machine}: roofs of a core, and layers", loc="left", weight="bold")
        axes.grid(color="#e6e9ee")
        axes.set_axisbelow(True)
        axes.legend(frameon=False, loc="lower right")
    return figure


@dataclass(frozen=True)
class Point:
    """A point of a sweep: its values, its group by colour and by marker, and its number if it is on the front."""

    values: Sequence[float]
    colour: str
    marker: str
    number: int = 0
    """0 for a point that is not on the front."""


def front_figure(points: Sequence[Point], axes: Sequence[tuple[str, str]]) -> "Figure":
    """The first value of each point over each of the others, a panel for each; points of the front have numbers.

    `axes` are the name and unit of each value. Values that are positive and differ much are on logarithmic axes. With
    one panel, a line separates what some point of the front reaches from what none does.
    """
    from matplotlib import style
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    colours, markers = (list(dict.fromkeys(getattr(point, of) for point in points)) for of in ("colour", "marker"))
    with style.context(["default", STYLE]):
        panels = len(axes) - 1
        key = [
            Line2D([], [], color=_colour(colours, name), marker="o", linestyle="", label=name)
            for name in colours
            if len(colours) > 1
        ] + [
            Line2D([], [], color=MUTED, marker=_marker(markers, name), linestyle="", label=name)
            for name in markers
            if len(markers) > 1
        ]
        key_height = 0.2 * (len(key) + 1) if key else 0.0
        figure = Figure((4.6 * panels + 0.4, 3.9 + key_height), layout="constrained")
        for i, drawn in enumerate(figure.subplots(1, panels, squeeze=False)[0], 1):
            for point in sorted(points, key=lambda point: point.number > 0):
                drawn.plot(
                    point.values[i],
                    point.values[0],
                    color=_colour(colours, point.colour),
                    marker=_marker(markers, point.marker),
                    alpha=1.0 if point.number else 0.35,
                    markersize=7 if point.number else 4.5,
                    markeredgecolor=INK if point.number else "none",
                    markeredgewidth=0.8,
                    linestyle="",
                )
            if panels == 1:  # with more objectives, points of the front are not on one line
                best = sorted((point.values[1], point.values[0]) for point in points if point.number)
                drawn.step(*zip(*best, strict=True), where="post", color=MUTED, linewidth=1, zorder=1)
            for axis, of in (("x", i), ("y", 0)):
                _scale(drawn, axis, [point.values[of] for point in points], *axes[of])
            for point in (point for point in points if point.number):
                drawn.annotate(
                    str(point.number), (point.values[i], point.values[0]), (5, 4), textcoords="offset points", size=8
                )
            drawn.grid(color="#e6e9ee")
            drawn.set_axisbelow(True)
        if key:
            figure.legend(handles=key, loc="outside lower left", ncols=2, frameon=False)
    return figure


def _scale(axes: "Axes", axis: str, values: Sequence[float], name: str, unit: str) -> None:
    """Scale, ticks and label of one axis."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    own = getattr(axes, f"{axis}axis")
    low, high = min(values, default=0.0), max(values, default=0.0)
    if low > 0 and high > 4 * low:
        getattr(axes, f"set_{axis}scale")("log")
        own.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
        own.set_minor_formatter(NullFormatter())
    else:
        getattr(axes, f"set_{axis}lim")(0, 1.08 * high or 1.0)
    scaled, factor = prefix(high) if unit else ("", 1.0)
    own.set_major_formatter(FuncFormatter(lambda value, _: f"{value / factor:g}"))
    own.set_label_text(f"{name}, {scaled}{unit}" if unit else name)


def _colour(names: Sequence[str], name: str) -> str:
    return PALETTE[names.index(name) % len(PALETTE)]


def _marker(names: Sequence[str], name: str) -> str:
    return MARKERS[names.index(name) % len(MARKERS)]


def save_figure(figure: "Figure", path: Path) -> None:
    """Write `figure` as SVG. The same figure gives the same file."""
    from matplotlib import style

    with style.context(["default", STYLE]):
        write_text(path, svg_text(figure))


def svg_text(figure: "Figure") -> str:
    """`figure` as the text of an SVG file, without date and version."""
    text = StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()
