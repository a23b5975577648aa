"""Figures of energy: what moves an answer most."""

from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from .report import INK, PALETTE, STYLE, prefix
from .storage import write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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


def save_figure(figure: "Figure", path: Path) -> None:
    """Write `figure` as SVG. The same figure gives the same file."""
    from matplotlib import style

    text = StringIO()
    with style.context(["default", STYLE]):
        figure.savefig(text, format="svg", metadata={"Date": None})
    write_text(path, text.getvalue())
