"""Sweeps over runs and estimates: where the ledgers come from, and the page that shows the front."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from .comparison import deployed
from .curves import STYLE
from .experiment import Experiment
from .figures import Point, front_figure
from .report import count, filled, inline_svg, shown, si, si_range
from .runs import rule_of, run_folders, summary_row
from .storage import StorageError, write_text
from .tasks import MEASURES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from hw_models.sweep import Row, Source, Sweep

TABLE, PAGE = "sweep.csv", "sweep.html"
"""Files of a sweep."""


def run_sources(sweep: "Sweep") -> "Iterator[Source]":
    """The ledgers of each rule in the run folders of `sweep`, seeds added up.

    Inference is as exported, if the network can be exported. StorageError names the file and the folder.
    """
    from hw_models.sweep import Source

    for given in sweep.runs:
        folder = sweep.folder / given
        try:
            runs = run_folders(folder)
            for rule in dict.fromkeys(rule for rule, _, _ in runs):
                paths = {seed: path for of, seed, path in runs if of == rule}
                row, training, inference = summary_row(rule, Path(), {seed: str(path) for seed, path in paths.items()})
                first = next(iter(paths.values()))
                exported, _ = deployed(inference, first / "network.safetensors")
                origin = "\n".join((path / "ledger.json").read_text() for path in paths.values())
                yield Source(
                    {"run": given, **described(Experiment.load(first / "experiment.toml")), "measure": row.measure},
                    f"{origin}\n{row.test_score}",
                    partial(dict, training=training, inference=exported),
                    row.test_score.mean,
                )
        except (ValueError, OSError) as error:
            raise StorageError(f"{sweep.path}: runs: {error}") from None


def described(experiment: Experiment) -> "Row":
    """The columns of a table that an experiment gives: rule, data, and the network as options would."""
    return {
        "rule": rule_of(experiment),
        "data": experiment.data,
        "sizes": "-".join(map(str, experiment.sizes)),
        "links": ", ".join(
            f"{name}={given.get('forward', 'float32')}/{given.get('feedback', 'float32')}"
            for name, given in experiment.links.items()
        ),
        "weights": ", ".join(f"{name}={given}" for name, given in experiment.weights.items()),
    }


@dataclass(frozen=True)
class Front:
    """The points of one use and one kind of score, and those among them that no other beats, in order."""

    title: str
    rows: "Sequence[Row]"
    best: "Sequence[Row]"
    objectives: Sequence[str]
    """Those that the points have."""

    @property
    def table(self) -> tuple[list[str], list[list[str]]]:
        """Names of columns, and their texts for each of the best: a number, what differs between points, results."""
        names = varying(self.rows)
        results = [name for name in ("score", "bits", "joules", "seconds") if _values(self.rows, name)]
        lines = [
            [str(number), *(row[name] for name in names), *(_shown(row, name) for name in results)]
            for number, row in enumerate(self.best, 1)
        ]
        return ["", *names, *results], lines

    def figure(self) -> "Figure | None":
        """The first objective over the others; None if there are not two."""
        if len(self.objectives) < 2:
            return None
        names = varying(self.rows)
        colour, marker = [*sorted(names, key=lambda name: name not in _BY_COLOUR), "", ""][:2]
        points = [
            Point(values, row.get(colour, ""), row.get(marker, ""), self.best.index(row) + 1 if row in self.best else 0)
            for row in self.rows
            if len(values := [float(x) for name in self.objectives if (x := row[_COLUMN.get(name, name)])])
            == len(self.objectives)
        ]
        return front_figure(points, [(_axis(name, self.rows), _UNITS.get(name, "")) for name in self.objectives])


def fronts(rows: "Sequence[Row]", objectives: Sequence[str]) -> list[Front]:
    """The front of each group of `rows`."""
    from hw_models.sweep import groups

    found = []
    for group in groups(rows, objectives):
        best = [row for row in group.rows if row["front"]]
        best.sort(key=lambda row: [float(row[_COLUMN.get(name, name)]) for name in group.objectives])
        title = group.use + (f", {MEASURES[group.measure]}" if group.measure else "")
        found.append(Front(title, group.rows, best, group.objectives))
    return found


def varying(rows: "Sequence[Row]") -> list[str]:
    """Columns of settings in which `rows` differ."""
    from hw_models.sweep import HARDWARE, SOURCE

    return [name for name in (*SOURCE, *HARDWARE) if len({row[name] for row in rows}) > 1]


def fixed(rows: "Sequence[Row]") -> dict[str, str]:
    """Settings that all `rows` have in common."""
    from hw_models.sweep import HARDWARE, SOURCE

    names = [name for name in (*SOURCE, *HARDWARE) if name not in varying(rows)]
    return {name: rows[0][name] for name in names if rows and rows[0][name]}


def notes(rows: "Sequence[Row]") -> dict[str, int]:
    """Why points have no price, and how many."""
    return Counter(row["note"] for row in rows if row["note"])


def write_page(path: Path, sweep: "Sweep", rows: "Sequence[Row]") -> None:
    """Write the page of a sweep: its fronts as figures and tables."""
    from matplotlib import style

    drawn = []
    for number, front in enumerate(fronts(rows, sweep.objectives)):
        columns, lines = front.table
        title = f"{front.title}: {len(front.rows)} points, {len(front.best)} on the front"
        with style.context(["default", STYLE]):
            figure = front.figure()
            svg = figure and inline_svg(figure, f"front-{number}", title, "The numbers are those of the table.")
        drawn.append({"title": title, "svg": svg, "columns": columns, "lines": lines, "objectives": front.objectives})
    page = {
        "name": sweep.path.name, "points": len(rows), "fronts": drawn, "fixed": fixed(rows), "notes": notes(rows),
        "table": TABLE,
    }  # fmt: skip
    write_text(path, filled("sweep.html.jinja", page))


_COLUMN = {"error": "score", "joules": "joules_typical"}
"""Columns of objectives whose name is another."""
_UNITS = {"joules": "J", "seconds": "s"}
_BY_COLOUR = ("rule", "technology", "placement", "links", "sizes")
"""Columns that are drawn by colour and marker before others."""


def _values(rows: "Sequence[Row]", name: str) -> bool:
    return any(row[_COLUMN.get(name, name)] for row in rows)


def _axis(name: str, rows: "Sequence[Row]") -> str:
    measure = rows[0]["measure"]
    if name == "error" and measure:
        return MEASURES[measure] + " %" * measure.endswith("percent")
    return f"{name} a sample"


def _shown(row: "Row", name: str) -> str:
    if not row[_COLUMN.get(name, name)]:
        return ""
    if name == "joules":
        typical, low, high = (float(row[f"joules_{end}"]) for end in ("typical", "low", "high"))
        return f"{si(typical, 'J')} ({si_range(low, high, 'J')})"
    if name == "seconds":
        return si(float(row[name]), "s")
    return shown(float(row[name]), row["measure"]) if name == "score" else count(float(row[name]))
