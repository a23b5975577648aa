"""Experiments of the thesis, trained again: what comes out beside what was published, and a page that shows it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .batches import Batch, train_all
from .choices import choose
from .comparison import TECHNOLOGIES, compare, deployed, placement_of, priced
from .curves import STYLE, Curve, curve_figure
from .experiment import Comparison, Experiment, Published
from .network import Network
from .observer import Observer
from .report import PARTS_OF_DATA, filled, filters_of, inline_svg, spread, traffic
from .results import Result
from .runs import folder_name, provenance, summary_row
from .storage import write_json, write_text
from .summary import Row, Spread
from .tasks import MEASURES
from .training import evaluate

if TYPE_CHECKING:
    from .data import DataSet

NAMES = ("fig3.2", "fig3.2-relu", "cifar10", "fig3.3", "table3.1", "fig3.4")
"""Experiments of the package that have something published."""
PAGE, FILE = "reproduction.html", "reproduction.json"
SEEDS = 10
"""Repetitions of all experiments of the thesis (section 3.3)."""
PICTURED = 100
"""Filters in figure 3.4."""


@dataclass(frozen=True)
class Line:
    """One quantity of one rule: published, and measured."""

    rule: str
    published: Published
    measured: Spread | None
    """None of a picture."""
    seeds: int
    epochs: int
    chosen: Spread | None = None
    """The same after the epoch of each seed with the lowest validation error, of scores on test samples."""


@dataclass(frozen=True)
class Reproduction:
    """An experiment that was trained again."""

    name: str
    lines: tuple[Line, ...]
    rows: tuple[Row, ...]
    """What the rules sent, and their joules."""
    scale: str
    """How far it is from the published experiment: "30 of 500 epochs, 3 of 10 seeds"; empty if it is as long."""
    folder: Path
    """Where its runs and its page are."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values by name, without the rows."""
        return {"name": self.name, "scale": self.scale, "lines": [asdict(line) for line in self.lines]}


def reproduce(
    name: str,
    folder: Path | str,
    *,
    epochs: int | None = None,
    seeds: int | None = None,
    data_dir: Path | None = None,
    technologies: Sequence[str] = TECHNOLOGIES,
    device: str = "numpy",
    ensemble: int | None = None,
    jobs: int | None = 1,
    threads: int | None = None,
    dask: str = "",
    observer: Observer | None = None,
) -> Reproduction:
    """Train the experiment `name` into `folder`, and write a page there with its results beside the published ones.

    It is as long as the published one, with as many seeds, unless `epochs` or `seeds` are given. Finished runs are not
    changed, and stopped runs continue. The other arguments are those of `comparison.compare`. ValueError if `name` is
    none of `NAMES`.
    """
    from .data import load

    choose("experiment with published results", name, dict.fromkeys(NAMES))
    folder, observer = Path(folder), observer or Observer()
    published, full = Comparison.load(name).published, full_scale(name)
    asked = {"epochs": full["epochs"] if epochs is None else epochs, "seeds": full["seeds"] if seeds is None else seeds}
    comparison = Comparison.load(name, epochs=asked["epochs"], seeds=asked["seeds"])
    work: dict[str, Any] = {"data_dir": data_dir, "device": device, "jobs": jobs, "threads": threads, "dask": dask}
    summary = compare(
        comparison, folder, technologies=technologies, export=False, ensemble=ensemble, observer=observer, **work
    )
    data = load(comparison.content["data"], data_dir)
    rows = list(summary.rows)
    for rule, after in dict.fromkeys((x.rule, x.after) for x in published if x.after):
        batches = _continued(name, asked, folder, rule, after)
        train_all(batches, data, observer, **work)
        rows.append(_row(f"{rule} after {after}", folder, [batch.folders[0] for batch in batches], technologies))
    lines = [line for row in rows for line in _lines(row, folder, published, data)]
    made = Reproduction(name, tuple(lines), tuple(rows), scale(asked, full), folder)
    write_json(folder / FILE, made.as_dict() | provenance())
    write_text(folder / PAGE, _page(made, data))
    return made


def full_scale(name: str) -> dict[str, int]:
    """Epochs and seeds of the published experiment; where epochs are not published, those of the file `name`.

    >>> full_scale("table3.1")
    {'epochs': 1000, 'seeds': 10}
    """
    comparison = Comparison.load(name)
    epochs, seeds = ([number for x in comparison.published if (number := getattr(x, of))] for of in ("epochs", "seeds"))
    return {"epochs": max(epochs, default=comparison.content["epochs"]), "seeds": max(seeds, default=SEEDS)}


def scale(done: Mapping[str, int], full: Mapping[str, int]) -> str:
    """What is less than in the published experiment, or more, in words.

    >>> full = {"epochs": 500, "seeds": 10}
    >>> scale({"epochs": 30, "seeds": 3}, full), scale(full, full), scale({"epochs": 500, "seeds": 12}, full)
    ('30 of 500 epochs, 3 of 10 seeds', '', '12 seeds instead of 10')
    """
    said = []
    for what, number in done.items():
        if number < full[what]:
            said.append(f"{number} of {full[what]} {what}")
        elif number > full[what]:
            said.append(f"{number} {what} instead of {full[what]}")
    return ", ".join(said)


def _continued(name: str, asked: Mapping[str, int], folder: Path, rule: str, after: str) -> list[Batch]:
    """Runs of `rule` that begin with the layers of the runs of `after`, each seed with its own."""
    batches = []
    for seed in range(asked["seeds"]):
        start = folder / folder_name(after) / f"seed-{seed}"
        experiment = Comparison.load(name, start=str(start), epochs=asked["epochs"]).experiment(rule, seed)
        run = folder / folder_name(f"{rule} after {after}") / f"seed-{seed}"
        batches.append(Batch(f"{rule} after {after}", (experiment,), (run,)))
    return batches


def _row(name: str, folder: Path, runs: Sequence[Path], technologies: Sequence[str]) -> Row:
    """The row of `runs`, with every link a default wire."""
    from hw_models import Technology

    paths = {seed: str(run.relative_to(folder)) for seed, run in enumerate(runs)}
    row, training, inference = summary_row(name, folder, paths, folder_name(name))
    used, as_simulated = deployed(inference, runs[0] / "network.safetensors")
    row = replace(row, not_as_exported=as_simulated)
    return priced(row, training, used, placement_of(""), [Technology.load(each) for each in technologies])


def _lines(row: Row, folder: Path, published: Sequence[Published], data: "DataSet") -> list[Line]:
    """What is published of the rule of `row`, and what was measured."""
    rule, _, after = row.rule.partition(" after ")
    result = Result.load(folder, row.folder)
    named = [x for x in published if (x.rule, x.after) == (rule, after)]
    lines = []
    for one in named or [Published(row.rule, "test error", "")]:
        measured = choose("quantity", one.quantity, _MEASURED)(
            result, [folder / run for run in row.runs.values()], data
        )
        chosen = result.chosen if one.quantity == "test error" else None
        chosen = _accuracy(result.chosen) if one.quantity == "test accuracy" else chosen
        lines.append(Line(row.rule, one, measured, result.seeds, result.epochs, chosen))
    return lines


def _accuracy(error: Spread) -> Spread:
    return Spread(100 - error.mean, error.std)


def _training_error(result: Result, runs: Sequence[Path], data: "DataSet") -> Spread:
    """Score of each trained network on all training samples, from its metrics or measured now."""
    if result.training_error:
        return result.training_error
    scores = []
    for run in runs:
        experiment = Experiment.load(run / "experiment.toml")
        rule, task = experiment.learning_rule(), experiment.learned_task()
        scores.append(float(evaluate(Network.load(run / "network.safetensors"), data.train, task=task, rule=rule)))
    return Spread.of(scores)


_MEASURED: dict[str, Callable[[Result, Sequence[Path], "DataSet"], Spread | None]] = {
    "test error": lambda result, runs, data: result.last("test"),
    "test accuracy": lambda result, runs, data: _accuracy(result.last("test")),
    "training error": _training_error,
    "training cost": lambda result, runs, data: Spread.of([lines[-1]["train_loss"] for lines in result.lines]),
    "filters": lambda result, runs, data: None,
}


# The page


def _page(made: Reproduction, data: "DataSet") -> str:
    from matplotlib import style

    with style.context(["default", STYLE]):
        curves = _curves(made)
    filters = None
    if any(line.published.quantity == "filters" for line in made.lines):
        row = made.rows[0]
        filters, _ = filters_of(made.folder, row.runs[0], list(data.image_shape), PICTURED)
    page = {
        "name": made.name,
        "scale": made.scale,
        "data": data,
        "lines": [in_cells(line) for line in made.lines],
        "sources": dict.fromkeys(line.published.source for line in made.lines if line.published.source),
        "rows": made.rows,
        "traffic": traffic,
        "technologies": list(made.rows[0].joules_per_sample),
        "curves": curves,
        "filters": filters,
        **provenance(),
    }
    return filled("reproduction.html.jinja", page)


def in_cells(line: Line) -> dict[str, str]:
    """A line as texts."""
    one, quantity = line.published, line.published.quantity
    published = "nothing published"
    if one.value is not None:
        published = number(quantity, Spread(one.value, one.std or 0.0), one.std is not None)
    elif one.source:
        published = "in words" if one.note else "no number"
    return {
        "rule": line.rule,
        "quantity": quantity,
        "published": published,
        "note": one.note,
        "of": _of(one.seeds, one.epochs) if one.source else "",
        "measured": "drawn below" if line.measured is None else number(quantity, line.measured, line.seeds > 1),
        "of_measured": _of(line.seeds, line.epochs),
        "chosen": "" if line.chosen is None else number(quantity, line.chosen, line.seeds > 1),
    }


def number(quantity: str, value: Spread, deviation: bool = True) -> str:
    """A value with its deviation, in percent but for a cost.

    >>> number("test error", Spread(1.94, 0.1)), number("training cost", Spread(4.584e-5, 0.0), deviation=False)
    ('1.94 ± 0.10\\xa0%', '4.584e-05')
    """
    if quantity == "training cost":
        return f"{value.mean:.4g}" + (f" ± {value.std:.2g}" if deviation else "")
    return spread(value, 2 if deviation else 1)


def _of(seeds: int | None, epochs: int | None) -> str:
    """Seeds and epochs in words."""
    return ", ".join(
        f"{value} {what}{'s' if value != 1 else ''}" if value else f"{what}s not published"
        for value, what in ((seeds, "seed"), (epochs, "epoch"))
    )


def _curves(made: Reproduction) -> list[dict[str, Any]]:
    """Training cost and scores on each part of the data over epochs, with published values as dashed lines."""
    results = [Result.load(made.folder, row.folder) for row in made.rows]
    costs = {i: result.of_epochs("train_loss") for i, result in enumerate(results)}
    drawn = [_figure(made, "Training cost", "", costs, _levels(made, "training cost"))]
    for measure in dict.fromkeys(result.measure for result in results):
        unit = "%" if measure.endswith("percent") else ""
        for part, of in PARTS_OF_DATA.items():
            scores = {i: result.scores(part) for i, result in enumerate(results) if result.measure == measure}
            levels = _levels(made, f"{of.lower()} error") if unit == "%" else []
            drawn.append(_figure(made, f"{of} {MEASURES[measure]}", unit, scores, levels))
    return [figure for figure in drawn if figure]


def _figure(
    made: Reproduction,
    title: str,
    unit: str,
    values: Mapping[int, Mapping[int, Sequence[float]]],
    levels: Sequence[tuple[int, float]],
) -> dict[str, Any] | None:
    """`values` of rows by epoch; None if there are none. Those of a rule without a loss are left out."""
    known = {i: x for i, x in values.items() if x and not any(None in each for each in x.values())}
    curves = [Curve.of(made.rows[i].rule, i, by_epoch) for i, by_epoch in known.items()]
    if not curves:
        return None
    last = "; ".join(f"{curve.rule} {curve.mean[-1]:.4g}{unit} after epoch {curve.epochs[-1]}" for curve in curves)
    figure = curve_figure(curves, unit, levels=levels)
    return {"title": title, "svg": inline_svg(figure, title, title, f"Means over seeds. {last}.")}


def _levels(made: Reproduction, quantity: str) -> list[tuple[int, float]]:
    """Published values of a quantity, an accuracy as an error, each with the index of its rule."""
    rules = [row.rule for row in made.rows]
    found = []
    for line in made.lines:
        if line.published.value is not None:
            value, named = line.published.value, line.published.quantity
            if named == "test accuracy":
                value, named = 100 - value, "test error"
            if named == quantity:
                found.append((rules.index(line.rule), value))
    return found
