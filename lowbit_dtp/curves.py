"""Figures of errors: over the epochs of a training, and over the bits that it sends."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from textwrap import wrap
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Distinct for colour-blind readers (Okabe and Ito, Color Universal Design, 2008), without yellow, faint on white."""
MARKERS = "os^DvP*"
INK, MUTED = "#1c2430", "#5b6675"
STYLE = {
    "svg.fonttype": "none",  # text stays text: small, searchable, and in the page's own font
    "svg.hashsalt": "lowbit-dtp",  # the same figure has the same ids
    "text.parse_math": False,
    "text.color": INK,
    "font.size": 9,
    "axes.edgecolor": "#9aa3b0",
    "axes.labelcolor": MUTED,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "ytick.left": False,
    "ytick.minor.left": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 4,
}
"""Settings on top of matplotlib's defaults, independent of the user's settings."""


@dataclass(frozen=True)
class Curve:
    """A quantity over epochs: mean and standard deviation over seeds."""

    rule: str
    """Label at its end."""
    index: int
    """Index of its colour and marker."""
    epochs: list[int]
    mean: "np.ndarray"
    std: "np.ndarray"
    line: str = ""
    """Line style; "" is chosen by `index`."""

    @classmethod
    def of(cls, rule: str, index: int, by_epoch: Mapping[int, Sequence[float]], line: str = "") -> "Curve":
        """The curve of the values of each seed, by epoch; the deviation of a single value is 0."""
        import numpy as np

        epochs = sorted(by_epoch)
        mean = np.array([np.mean(by_epoch[epoch]) for epoch in epochs])
        std = np.array([np.std(by_epoch[epoch], ddof=len(by_epoch[epoch]) > 1) for epoch in epochs])
        return cls(rule, index, epochs, mean, std, line)


def curve_figure(
    curves: Sequence[Curve],
    unit: str = "%",
    title: str = "",
    width: float = 5.0,
    levels: Sequence[tuple[int, float]] = (),
    over: str = "epoch",
) -> "Figure":
    """`curves` with a label at the end of each, `width` inches wide; a logarithmic axis where values differ much.

    `levels` are values to compare with, drawn as dashed lines, each with the index of its colour. `over` names what is
    in the place of epochs.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    labels = [wrapped(curve.rule) for curve in curves]
    lines = [label.count("\n") + 1 for label in labels]
    margin = 0.45 + 0.075 * max(len(part) for label in labels for part in label.split("\n"))
    height = max(0.66 * width, 0.9 + 0.19 * sum(lines))
    figure = Figure((width, height))
    plot_height = height - 0.68 - 0.2 * bool(title)
    axes = figure.add_axes((0.58 / width, 0.5 / height, 1 - (0.58 + margin) / width, plot_height / height))
    for curve in curves:
        axes.plot(
            curve.epochs,
            curve.mean,
            color=colour_of(curve.index),
            marker=MARKERS[curve.index % len(MARKERS)],
            markevery=max(1, len(curve.epochs) // 8),
            linestyle=curve.line or ("-", "--", ":")[curve.index // len(PALETTE) % 3],
        )
    for index, level in levels:
        axes.axhline(level, color=colour_of(index), linestyle=(0, (6, 3)), linewidth=0.9, zorder=1)
    means = [*(value for curve in curves for value in curve.mean), *(level for _, level in levels if level > 0)]
    if min(means) > 0 and max(means) > 4 * min(means):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_ylim(min(means) / 1.25, max(means) * 1.25)
    else:
        axes.set_ylim(0, max(max(means) * 1.15, 0.1))
    for curve in curves:
        axes.fill_between(
            curve.epochs,
            (curve.mean - curve.std).clip(axes.get_ylim()[0]),
            curve.mean + curve.std,
            color=colour_of(curve.index),
            alpha=0.16,
            linewidth=0,
        )
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}{unit}"))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))
    axes.set_xlabel(over)
    axes.grid(axis="y", color="#e6e9ee")
    figure.text(0.1 / width, 1 - 0.1 / height, title, weight="bold", va="top")
    to_fraction = axes.transData + axes.transAxes.inverted()
    ends = [float(to_fraction.transform((curve.epochs[-1], curve.mean[-1]))[1]) for curve in curves]
    places = spaced(ends, [0.185 * n / plot_height for n in lines])
    right = 1 + 0.24 / (width - 0.58 - margin)
    for curve, label, place in zip(curves, labels, places, strict=True):
        axes.annotate(
            label,
            (curve.epochs[-1], curve.mean[-1]),
            (right, place),
            textcoords="axes fraction",
            va="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": colour_of(curve.index),
                "relpos": (0, 0.5),
                "shrinkA": 1,
                "shrinkB": 3,
                "linewidth": 1.2,
            },
        )
    return figure


def colour_of(index: int) -> str:
    return PALETTE[index % len(PALETTE)]


def wrapped(label: str) -> str:
    """A label in lines: options of a rule, and words, have their own; a word that is too long is shortened.

    >>> wrapped("straight-through@fixed(4,-2)"), wrapped("DTP, larger step, cosine over 40 epochs")
    ('straight-through\\n@fixed(4,-2)', 'DTP, larger step,\\ncosine over 40 epochs')
    """
    lines = [line for part in label.replace("@", "\n@").split("\n") for line in wrap(part, 22, break_long_words=False)]
    return "\n".join(line if len(line) <= 22 else line[:21] + "…" for line in lines)


def spaced(wanted: Sequence[float], sizes: Sequence[float]) -> list[float]:
    """Positions near those `wanted`, in the same order, at which labels of such `sizes` do not overlap, within 0 to 1.

    >>> [round(place, 3) for place in spaced([0.5, 0.5, 1.0], [0.2, 0.2, 0.2])]
    [0.5, 0.7, 0.9]
    """
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    places, floor, ceiling = list(wanted), 0.0, 1.0
    for i in order:
        places[i] = max(wanted[i], floor + sizes[i] / 2)
        floor = places[i] + sizes[i] / 2
    for i in reversed(order):
        places[i] = min(places[i], ceiling - sizes[i] / 2)
        ceiling = places[i] - sizes[i] / 2
    return places


@dataclass(frozen=True)
class Tradeoff:
    """A way to train: its error, and the bits that it sends for a sample."""

    label: str
    group: str
    """Those of a group have one colour and marker."""
    error: float
    """What is drawn, and its standard deviation over seeds."""
    deviation: float
    valid_error: float
    """What decides whether it is on the front, since nothing is chosen by test samples."""
    bits: float
    coded_bits: float | None = None
    """Bits with the best of the codings that were counted; None if none was."""

    def sent(self, coded: bool) -> float:
        """Its bits, coded if that is asked for and was counted."""
        return self.coded_bits if coded and self.coded_bits is not None else self.bits


def front(ways: Sequence[Tradeoff], coded: bool = False) -> list[Tradeoff]:
    """Those of `ways` that no other beats in validation error and bits, by rising bits.

    >>> few, many = Tradeoff("few", "", 3.0, 0.0, 3.1, 500.0), Tradeoff("many", "", 2.0, 0.0, 2.1, 1500.0, 20.0)
    >>> [way.label for way in front([many, few])], [way.label for way in front([many, few], coded=True)]
    (['few', 'many'], ['many'])
    """

    def beats(a: Tradeoff, b: Tradeoff) -> bool:
        ours, theirs = ((way.valid_error, way.sent(coded)) for way in (a, b))
        return ours != theirs and all(x <= y for x, y in zip(ours, theirs, strict=True))

    best = [way for way in ways if not any(beats(other, way) for other in ways)]
    return sorted(best, key=lambda way: (way.sent(coded), -way.valid_error))


def tradeoff_figure(
    ways: Sequence[Tradeoff],
    bits: str,
    error: str,
    title: str = "",
    width: float = 7.2,
    marks: Mapping[str, float] | None = None,
) -> "Figure":
    """Error over bits: a hollow point for plain bits, joined to a filled one for coded bits, and the fronts of both.

    `bits` and `error` are the labels of the axes, `marks` bits by the text of a line that is drawn there. Ways that
    send nothing are at the left edge.
    """
    from matplotlib import ticker
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    groups = list(dict.fromkeys(way.group for way in ways))
    any_coded = any(way.coded_bits is not None for way in ways)
    sent = [x for way in ways for x in (way.sent(False), way.sent(True))] + list((marks or {}).values())
    least, most = min((x for x in sent if x > 0), default=1.0), max([*sent, 1.0])
    nothing = least / 4
    key = [
        Line2D([], [], color=colour_of(i), marker=MARKERS[i % len(MARKERS)], linestyle="", label=group or "runs")
        for i, group in enumerate(groups)
    ]
    if any_coded:
        key += [
            Line2D([], [], color=MUTED, marker="o", markerfacecolor="white", linestyle="", label="plain bits"),
            Line2D([], [], color=MUTED, marker="o", linestyle="", label="coded bits"),
        ]
    key.append(
        Line2D(
            [], [], color=MUTED, linestyle="--" if any_coded else "-", linewidth=1, label="front, by validation error"
        )
    )
    if any_coded:
        key.append(Line2D([], [], color=MUTED, linewidth=1, label="front of coded bits"))
    rows = -(-len(key) // 4)
    plot, top = 0.52 * width, 0.3 + 0.2 * rows + 0.25 * bool(title)
    height = plot + 0.55 + top
    figure = Figure((width, height), dpi=72)
    axes = figure.add_axes((0.62 / width, 0.55 / height, 1 - 0.9 / width, plot / height))
    axes.set_xscale("log")
    axes.set_xlim((nothing if min(sent, default=1) <= 0 else least) / 1.6, most * 1.6)
    low, high = min(way.error - way.deviation for way in ways), max(way.error + way.deviation for way in ways)
    if low > 0 and high > 4 * low:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_formatter(ticker.NullFormatter())
        axes.set_ylim(low / 1.15, high * 1.15)
    else:
        margin = 0.12 * (high - low) or 0.1 * abs(high) or 1.0
        axes.set_ylim(low - margin, high + margin)
    for text, x in (marks or {}).items():
        axes.axvline(x, color=MUTED, linewidth=0.8, linestyle=":", zorder=0)
        axes.annotate(text, (x, 0.99), (-3, 0), xycoords=("data", "axes fraction"), textcoords="offset points",
                      rotation=90, ha="right", va="top", size=7.5, color=MUTED)  # fmt: skip
    fronts = []
    for coded in (False, True) if any_coded else (False,):
        fronts.append([(way.sent(coded) or nothing, way.error) for way in front(ways, coded)])
        style = "-" if coded == any_coded else "--"
        axes.plot(*zip(*fronts[-1], strict=True), color=MUTED, linewidth=1, linestyle=style, zorder=1)
    ends: list[tuple[tuple[float, float], list[float]]] = []
    for way in ways:
        i = groups.index(way.group)
        plain, last = (way.sent(coded) or nothing for coded in (False, True))
        look: dict[str, Any] = {
            "color": colour_of(i),
            "marker": MARKERS[i % len(MARKERS)],
            "markersize": 6,
            "linestyle": "",
        }
        if way.coded_bits is not None:
            axes.plot([plain, last], [way.error] * 2, color=colour_of(i), linewidth=0.7, alpha=0.6, zorder=2)
            axes.plot(plain, way.error, markerfacecolor="white", zorder=3, **look)
        axes.errorbar(last, way.error, way.deviation or None, capsize=2, elinewidth=0.8, zorder=4, **look)
        ends.append(((last, way.error), [plain]))
    steps = (1, 2, 5) if most < 100 * least else (1,)
    left, right = axes.get_xlim()
    decades = range(math.floor(math.log10(least)), math.ceil(math.log10(most)) + 1)
    ticks = {
        x: f"{x:,.0f}" if x >= 1 else f"{x:g}"
        for k in decades
        for step in steps
        if left <= (x := step * 10.0**k) <= right
    }
    if min(sent, default=1) <= 0:
        axes.axvline(2 * nothing, color="#9aa3b0", linewidth=0.8)
        ticks = {nothing: "0"} | {x: text for x, text in ticks.items() if x > 2 * nothing}
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.set_xticks([], minor=True)
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel(bits)
    axes.set_ylabel(error)
    axes.grid(color="#e6e9ee")
    axes.set_axisbelow(True)
    _label(axes, [way.label for way in ways], ends, fronts)
    left = 0.1 / width
    if title:
        figure.text(left, 1 - 0.1 / height, title, weight="bold", va="top")
    figure.legend(handles=key, ncols=4, frameon=False, loc="upper left", columnspacing=1.2, handletextpad=0.4,
                  bbox_to_anchor=(left - 0.01, 1 - 0.25 * bool(title) / height))  # fmt: skip
    return figure


def _label(
    axes: "Axes",
    labels: Sequence[str],
    ends: Sequence[tuple[tuple[float, float], list[float]]],
    lines: Sequence[Sequence[tuple[float, float]]],
) -> None:
    """Write each of `labels` near its point, where there is room, with a line to the point if that is far.

    `ends` are the points, and the bits of others at the same height; `lines` join points. All are in data units.
    """
    to_points = axes.transData.transform  # a figure of 72 dots an inch has a dot a point
    frame = axes.get_window_extent()
    taken = []
    for (x, y), others in ends:
        at = [to_points((each, y)) for each in (x, *others)]
        taken += [(px - 4, py - 4, px + 4, py + 4) for px, py in at]
        taken.append((min(px for px, _ in at), at[0][1] - 1, max(px for px, _ in at), at[0][1] + 1))
    for (ax, ay), (bx, by) in (map(to_points, pair) for line in lines for pair in pairwise(line)):
        steps = max(1, int(math.hypot(bx - ax, by - ay) / 4))
        along = [(ax + (bx - ax) * k / steps, ay + (by - ay) * k / steps) for k in range(steps + 1)]
        taken += [(px - 1, py - 1, px + 1, py + 1) for px, py in along]

    def is_free(box: tuple[float, float, float, float]) -> bool:
        inside = frame.x0 <= box[0] and box[2] <= frame.x1 and frame.y0 <= box[1] and box[3] <= frame.y1
        return inside and not any(
            box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3] for other in taken
        )

    for label, ((x, y), _) in zip(labels, ends, strict=True):
        px, py = to_points((x, y))
        width, height = 4.4 * len(label) + 2, 10.0
        places = []
        for distance in (7, 14, 24, 36, 50, 66):
            for turn in (0, 180, 45, -45, 135, -135, 90, -90):
                dx, dy = distance * math.cos(math.radians(turn)), distance * math.sin(math.radians(turn))
                left = px + dx - (0 if dx > 1 else width if dx < -1 else width / 2)
                places.append((distance, (left, py + dy - height / 2, left + width, py + dy + height / 2)))
        distance, box = next((place for place in places if is_free(place[1])), places[0])
        taken.append(box)
        line: dict[str, Any] = {"arrowstyle": "-", "color": MUTED, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3}
        axes.annotate(
            label, (x, y), (box[0] - px, (box[1] + box[3]) / 2 - py), textcoords="offset points", size=8, va="center",
            arrowprops=line if distance > 14 else None,
        )  # fmt: skip
