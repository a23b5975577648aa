"""Results: what of a run is small enough to be kept with the code, and what several seeds of it say.

A folder of results holds `seed-0`, `seed-1`, ... of one rule, or folders of them by rule. Each has `experiment.toml`,
`metrics.jsonl`, `ledger.json` and `run.json` of a run, and no weights.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from . import ledger as ledgers
from .experiment import Experiment
from .ledger import Ledger
from .runs import rule_of
from .storage import StorageError, read_json, read_tensors, write_json, write_text
from .summary import LinkRow, Spread, link_rows
from .tasks import MEASURES

DIGITS = 6
"""Digits of a loss that are kept."""


@dataclass(frozen=True)
class Saved:
    """A run whose results were saved."""

    folder: Path
    epochs: int
    """Epochs that it has done."""
    planned: int
    """Epochs that it is to have: those of its experiment, or those that it has done if it is finished."""


def save(source: Path, target: Path) -> list[Saved]:
    """Copy the results of every run in the folder `source` into `target`, without weights.

    A run has the same place in `target` as in `source`, in a folder called `seed-N`. One that is not finished is saved
    as far as it has come, with the counts of its last checkpoint and no `run.json`. StorageError if no run has done an
    epoch, two would have the same place, or a file cannot be read.
    """
    source, target = Path(source), Path(target)
    found: dict[Path, Path] = {}
    for path in sorted(source.rglob("experiment.toml")):
        run = path.parent
        place = target / run.relative_to(source)
        seed = f"seed-{Experiment.load(path).seed}"
        if place.name != seed:
            place /= seed
        if place in found:
            raise StorageError(
                f"{place}: is the place of two runs, {found[place]} and {run}; save them into two folders"
            )
        if _read_lines(run / "metrics.jsonl"):
            found[place] = run
    if not found:
        raise StorageError(f"{source}: no run here has done an epoch; a run folder has experiment.toml")
    return [_save_run(run, place, source, target) for place, run in found.items()]


def _save_run(run: Path, place: Path, source: Path, target: Path) -> Saved:
    """Save one of the runs in `source` as the folder `place` in `target`."""
    experiment, lines = Experiment.load(run / "experiment.toml"), _read_lines(run / "metrics.jsonl")
    finished, checkpoint = (run / "run.json").exists(), run / "checkpoint.safetensors"
    if finished or not checkpoint.exists():
        counts = read_json(run / "ledger.json")
    else:
        counts = {"training": read_tensors(checkpoint)[1]["ledger"], "inference": Ledger().as_dict()}
    for line in lines:
        if line.get("train_loss") is not None:
            line["train_loss"] = float(f"{line['train_loss']:.{DIGITS}g}")
    write_text(place / "experiment.toml", experiment.as_toml())
    write_text(place / "metrics.jsonl", "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))
    write_json(place / "ledger.json", counts, compact=True)
    if finished:
        results = read_json(run / "run.json")
        results["command"] = results["command"].replace(str(source), str(target))
        write_json(place / "run.json", results, compact=True)
    elif run != place:
        (place / "run.json").unlink(missing_ok=True)
    return Saved(place, lines[-1]["epoch"], lines[-1]["epoch"] if finished else experiment.epochs)


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """Whole lines of a `metrics.jsonl`, to which a run may be writing; none if there is no such file."""
    if not path.exists():
        return []
    try:
        return [dict(json.loads(line)) for line in path.read_text().splitlines(True) if line.endswith("\n")]
    except (ValueError, TypeError) as error:
        raise StorageError(f"{path}: not the metrics of a run ({type(error).__name__}: {error})") from None


@dataclass(frozen=True)
class Result:
    """The runs of one rule, with one setting and several seeds."""

    folder: str
    """Where they are, in the folder of all results."""
    experiment: Experiment
    """Of the first seed."""
    lines: Sequence[Sequence[dict[str, Any]]]
    """Lines of `metrics.jsonl` of each seed."""
    training: Ledger
    """Counts over all seeds."""
    inference: Ledger
    measure: str
    """Measure of the scores, one of `tasks.MEASURES`."""
    finished: bool
    """Whether the runs are finished, and not under way."""

    @classmethod
    def load(cls, root: Path, folder: str) -> "Result":
        """The result in `folder` of `root`, of seeds that are finished, or if none is, of those under way.

        StorageError, naming it, if it has no seeds, or files cannot be read.
        """
        paths = sorted((Path(root) / folder).glob("seed-*"), key=lambda path: int(path.name.removeprefix("seed-")))
        if not paths:
            raise StorageError(f"{Path(root) / folder}: no results here; a folder of results has seed-0, seed-1, ...")
        finished = [path for path in paths if (path / "run.json").exists()]
        paths = finished or paths
        books = [ledgers.load(path / "ledger.json") for path in paths]
        lines = [_read_lines(path / "metrics.jsonl") for path in paths]
        measures = [name for name in MEASURES if all(f"test_{name}" in line for each in lines for line in each)]
        for path, each in zip(paths, lines, strict=True):
            if not each or not measures:
                raise StorageError(f"{path / 'metrics.jsonl'}: must have a line for each epoch, with a score")
        return cls(
            folder,
            Experiment.load(paths[0] / "experiment.toml"),
            lines,
            ledgers.merged(book["training"] for book in books),
            ledgers.merged(book["inference"] for book in books),
            measures[0],
            bool(finished),
        )

    @property
    def rule(self) -> str:
        """As `rule` or `rule@gradient format`."""
        return rule_of(self.experiment)

    @property
    def seeds(self) -> int:
        """How many runs."""
        return len(self.lines)

    @property
    def epochs(self) -> int:
        """Epochs that all seeds have done."""
        return min(self.epochs_done)

    @property
    def epochs_done(self) -> list[int]:
        """Epochs of each seed. They differ where runs are under way, or stopped early."""
        return [int(lines[-1]["epoch"]) for lines in self.lines]

    def of_epochs(self, name: str) -> dict[int, list[float]]:
        """What the metrics of each seed call `name`, by epoch, for epochs of which all seeds have it."""
        by_epoch: dict[int, list[float]] = {}
        for line in (line for lines in self.lines for line in lines if name in line):
            by_epoch.setdefault(line["epoch"], []).append(line[name])
        return {epoch: values for epoch, values in by_epoch.items() if len(values) == self.seeds}

    def scores(self, part: str) -> dict[int, list[float]]:
        """Score of each seed on `part`, "valid", "test" or "train", by epoch; empty where it was not measured."""
        return self.of_epochs(f"{part}_{self.measure}")

    @property
    def ends(self) -> list[int]:
        """The last epoch of each seed that counts: its own if it is finished, or else one that all have done."""
        return self.epochs_done if self.finished else [self.epochs] * self.seeds

    def last_scores(self, part: str) -> list[float]:
        """Score on `part` after the last epoch of each seed: see `ends`."""
        name = f"{part}_{self.measure}"
        return [lines[end - 1][name] for lines, end in zip(self.lines, self.ends, strict=True)]

    def last(self, part: str) -> Spread:
        """Mean and deviation of `last_scores`."""
        return Spread.of(self.last_scores(part))

    @property
    def training_error(self) -> Spread | None:
        """Score on the training samples after the last epoch of each seed; None where it was not measured."""
        known = all(f"train_{self.measure}" in lines[end - 1] for lines, end in zip(self.lines, self.ends, strict=True))
        return self.last("train") if known else None

    @property
    def chosen(self) -> Spread:
        """Test score of each seed after its epoch with the lowest validation score; the first, if several have it."""
        valid, test = (f"{part}_{self.measure}" for part in ("valid", "test"))
        runs = [lines[:end] for lines, end in zip(self.lines, self.ends, strict=True)]
        return Spread.of([min(lines, key=lambda line: line[valid])[test] for lines in runs])

    @cached_property
    def links(self) -> dict[str, LinkRow]:
        """Traffic on each link, for a sample."""
        return link_rows(self.training, self.inference)


def load_all(root: Path, patterns: Sequence[str]) -> list[Result]:
    """Results in `root` whose folders match `patterns`: paths in it, with `*` for any name.

    In the order of the patterns, each once. StorageError if a pattern matches none.
    """
    folders: dict[str, None] = {}
    for pattern in patterns:
        paths = sorted({path.parent for path in Path(root).glob(f"{pattern}/seed-*")})
        if not paths:
            raise StorageError(f"{Path(root) / pattern}: no results here; a folder of results has seed-0, seed-1, ...")
        folders |= dict.fromkeys(str(path.relative_to(root)) for path in paths)
    return [Result.load(root, folder) for folder in folders]
