"""Run folders: training writes them, and comparisons read them.

A run folder holds `experiment.toml`, `metrics.jsonl` and `checkpoint.safetensors`; when the run is finished, also
`network.safetensors`, `ledger.json` and `run.json`. `best.safetensors` is the network after the epoch with the lowest
score on the validation samples, the first of them. If the rule is diagnosed, there is `diagnosis.jsonl`, too. A
comparison holds `summary.json` and a run folder for each rule and seed. A training process locks `.lock`.

The checkpoint of a finished run is kept, so that the run can continue for more epochs. It holds the network and the
state of the optimizer (with RMSprop it is four times as large as `network.safetensors`). Nothing else reads it: delete
it to save space; the run can then not continue.
"""

import json
import os
import platform
import re
import resource
import shlex
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import ledger as ledgers
from .experiment import Experiment, ExperimentError
from .ledger import Direction, Ledger
from .projections import Quantized
from .storage import StorageError, append_text, locked, read_json, read_tensors, write_csv, write_json, write_text
from .summary import Row, Spread, link_rows

if TYPE_CHECKING:
    from .data import DataSet
    from .ensemble import Run
    from .network import Network
    from .optimizers import Optimizer

CHECKPOINT_SECONDS = 30.0
"""Most seconds of training that are lost when the process is killed."""
BEST = "best.safetensors"
"""File in a run folder with the network of the epoch with the best validation score."""
_PAUSE = 20
"""An ensemble is trained this many times as long as saving it takes before it is saved again."""


@dataclass(frozen=True)
class Evaluation:
    """The state of a run after an epoch: one line of `metrics.jsonl`."""

    epoch: int
    train_loss: float | None
    """Mean loss over the steps of the epoch; None for a rule without a loss."""
    valid_score: float
    test_score: float
    seconds: float
    """Seconds of training in that epoch."""
    forward_bits: float
    """Bits sent in the forward direction over all links since the run began."""
    feedback_bits: float
    measure: str = "error_percent"
    """Measure of the scores, one of `tasks.MEASURES`. Files use its name: `test_error_percent`, for example."""
    samples: int | None = None
    """Training samples since the run began; None, as the next, where codings are not counted."""
    flips: dict[str, int] | None = None
    """By link: codes of targets since then that differ from the state. See `CodedCounts.sparseness`."""
    zeros: dict[str, int] | None = None
    """By link: zeros among the codes of errors since then."""
    train_score: float | None = None
    """Of all training samples; None where `Experiment.training_error` is off."""

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers by name, and by link."""
        numbers = asdict(self)
        for name in ("samples", "flips", "zeros", "train_score"):
            if numbers[name] is None:
                del numbers[name]
        measure = numbers.pop("measure")
        return {name.replace("score", measure): value for name, value in numbers.items()}


def run(
    experiment: Experiment,
    folder: Path,
    data: "DataSet",
    *,
    device: str = "numpy",
    diagnose: bool = False,
    on_step: Callable[[int], None] = lambda step: None,
    on_evaluation: Callable[[Evaluation], None] = lambda evaluation: None,
) -> None:
    """Train `experiment` into `folder`, continuing from its checkpoint if it has one.

    If it is stopped at any point, a second call gives the same result as an uninterrupted run, bit for bit; on another
    `device`, up to rounding. A finished run is not changed, or continues if `experiment` has more epochs, with the same
    result as if it had had them from the start; it may have another `training_error` than before. With
    `stopping.patience`, it ends when the validation score has not improved for so many epochs. With `diagnose`, the
    rule is diagnosed after each epoch, which changes no number of the run: see `diagnosis`.

    Raises ExperimentError if the folder holds another experiment or has done more epochs, LockedError if another
    process trains into it, and DeviceError if the device cannot be used or is too small.
    """
    run_ensemble(
        [experiment], [folder], data, device=device, diagnose=diagnose, on_step=on_step,
        on_evaluation=lambda _, told: on_evaluation(told),
    )  # fmt: skip


def run_ensemble(
    experiments: Sequence[Experiment],
    folders: Sequence[Path],
    data: "DataSet",
    *,
    device: str = "numpy",
    diagnose: bool = False,
    on_step: Callable[[int], None] = lambda step: None,
    on_evaluation: Callable[[int, Evaluation], None] = lambda index, evaluation: None,
    command_line: str | None = None,
) -> None:
    """`run` for experiments that differ only in their seeds, in batched products where `device` is not NumPy's.

    Each has the same result as a separate run, up to rounding. Runs that were stopped at different steps continue
    separately. `on_evaluation` gets the index of the run. `command_line` is noted as the command that made the runs, by
    default that of this process.
    """
    from .backends.devices import usable

    device = usable(device)
    members = []
    with ExitStack() as locks:
        for index, (experiment, folder) in enumerate(zip(experiments, map(Path, folders), strict=True)):
            net, _, optimizer = experiment.built()
            experiment.check_sizes(data)
            if is_finished(folder, experiment):  # which needs no lock, as nothing is written
                continue
            locks.enter_context(locked(folder))
            if not is_finished(folder, experiment):  # still, now that no other process writes
                members.append(Member.begun(index, experiment, folder, net, optimizer, command_line))
        groups: dict[Any, list[Member]] = {}
        for member in members:
            place = member.index if device == "numpy" else member.run.progress.step
            groups.setdefault(place, []).append(member)
        for group in groups.values():
            if _lacks_memory(group, data, device, diagnose, on_step, on_evaluation):
                raise _too_large(group, data, device)


@dataclass
class Member:
    """A run that is not finished."""

    index: int
    experiment: Experiment
    folder: Path
    run: "Run"
    lines: list[str]
    """Lines of `metrics.jsonl`."""
    diagnoses: list[str]
    """Lines of `diagnosis.jsonl`."""
    seconds: float
    """Seconds spent on the present epoch."""
    parts: list[dict[str, Any]]
    """Devices of the run, in order, and the step reached on each."""
    saved_step: int | None = None
    """Step of the checkpoint in the folder."""
    command_line: str | None = None
    """The command that trains, if it is not that of this process."""
    best: dict[str, Any] = field(default_factory=dict)
    """Epoch and scores of the best validation epoch; empty before the first."""
    best_network: "Network | None" = None
    """The network of that epoch, until it is stored."""

    @classmethod
    def begun(
        cls,
        index: int,
        experiment: Experiment,
        folder: Path,
        net: "Network",
        optimizer: "Optimizer",
        command_line: str | None = None,
    ) -> "Member":
        """The run as stored in `folder`, which is locked, or a new one.

        ExperimentError if it has more epochs than `experiment`, or cannot continue.
        """
        from . import checkpoint
        from .ensemble import Run
        from .training import Progress

        progress = Progress(ledger=Ledger(codings=experiment.codings))
        notes: dict[str, Any] = {}
        saved_step = None
        if (folder / "checkpoint.safetensors").exists():
            progress, notes = checkpoint.load(folder / "checkpoint.safetensors", net, optimizer)
            saved_step = progress.step
        elif (folder / "run.json").exists():
            raise ExperimentError(
                f"{folder}: is finished and has no checkpoint.safetensors to continue from; "
                f"train {experiment.epochs} epochs in another folder, or remove this one"
            )
        if (progress.epoch, progress.phase, progress.minibatch) > (experiment.epochs, 0, 0):
            begun = " and a part" if progress.phase or progress.minibatch else ""
            raise ExperimentError(
                f"{folder}: has done {progress.epoch} epochs{begun}, more than {experiment.epochs}; "
                "give as many or more, or choose another folder"
            )
        (folder / "run.json").unlink(missing_ok=True)  # before the epochs change: it belongs to the old ones
        _write_experiment(folder, experiment)
        best = notes.get("best") or _best([json.loads(line) for line in notes.get("lines", [])])
        lines, diagnoses = notes.get("lines", []), notes.get("diagnoses", [])
        write_text(folder / "metrics.jsonl", "".join(f"{line}\n" for line in lines))
        if diagnoses or (folder / "diagnosis.jsonl").exists():
            write_text(folder / "diagnosis.jsonl", "".join(f"{line}\n" for line in diagnoses))
        return cls(
            index, experiment, folder, Run(net, optimizer, progress), lines, diagnoses, notes.get("seconds", 0.0),
            notes.get("parts", []), saved_step, command_line, best,
        )  # fmt: skip

    def goes_on(self, device: str, members: int) -> None:
        """Note that the run continues on `device`, as one of `members`."""
        part = {"device": device, "members": members}
        if not self.parts or part != {key: self.parts[-1][key] for key in part}:
            self.parts.append(part | {"to_step": self.run.progress.step})

    def is_done(self, epoch: int) -> bool:
        """Whether the run has all its epochs, or the last ones before `epoch` did not improve the validation score."""
        patience = self.experiment.stopping.get("patience")
        stopped = patience is not None and bool(self.best) and epoch - self.best["epoch"] >= patience
        return stopped or epoch >= self.experiment.epochs

    def evaluated(self, evaluation: Evaluation) -> bool:
        """Note the state after an epoch; whether it is the best one so far."""
        self.seconds = 0.0
        # the loss may be NaN, which JSON does not have
        line = {key: x if x == x else None for key, x in evaluation.as_dict().items()}
        self.lines.append(json.dumps(line))
        append_text(self.folder / "metrics.jsonl", self.lines[-1] + "\n")
        best = _best([self.best, line] if self.best else [line])
        is_better, self.best = best != self.best, best
        return is_better

    def diagnosed(self, epoch: int, measures: dict[str, Any]) -> None:
        """Note what was measured after an epoch."""
        self.diagnoses.append(json.dumps({"epoch": epoch} | measures))
        append_text(self.folder / "diagnosis.jsonl", self.diagnoses[-1] + "\n")

    def save(self, run: "Run") -> None:
        """Write a checkpoint of `run`."""
        from . import checkpoint

        self.parts[-1]["to_step"] = run.progress.step
        notes = {"lines": self.lines, "seconds": self.seconds, "parts": self.parts, "best": self.best}
        if self.best_network is not None:  # before the checkpoint, from which it could not be made again
            self.best_network.save(self.folder / BEST, epoch=self.best["epoch"])
            self.best_network = None
        if self.diagnoses:
            notes["diagnoses"] = self.diagnoses
        checkpoint.save(self.folder / "checkpoint.safetensors", *run, notes)
        self.saved_step = run.progress.step

    def finish(self, run: "Run", results: dict[str, Any], inference: "Network", testing: Ledger) -> None:
        """Write the files of a finished run."""
        if self.saved_step != run.progress.step:
            self.save(run)
        best = self.folder / BEST
        if best.exists() and read_tensors(best)[1].get("epoch") != self.best.get("epoch"):
            best.unlink()  # a part of the run that was lost had written it, and another device has rounded otherwise
        self.parts[-1]["to_step"] = run.progress.step
        results |= {
            "epochs": run.progress.epoch,
            **{f"best_{name}": value for name, value in self.best.items()},
            # the first epoch may include the time to compile kernels
            "seconds_per_epoch": _median([json.loads(line)["seconds"] for line in self.lines]),
            "parts": self.parts,
        }
        inference.save(self.folder / "network.safetensors")
        ledgers.save(self.folder / "ledger.json", training=run.progress.ledger, inference=testing)
        write_json(self.folder / "run.json", results | provenance(self.command_line))


def _best(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Epoch and scores of the first of `lines` of metrics with the lowest validation score; empty if there is none."""
    names = [name for line in lines[:1] for name in line if name == "epoch" or name.startswith(("valid_", "test_"))]
    valid = next((name for name in names if name.startswith("valid_")), "")
    known = [line for line in lines if line[valid] is not None]
    return {name: line[name] for name in names} if (line := min(known, key=lambda x: x[valid], default=None)) else {}


def _train(
    members: list[Member],
    data: "DataSet",
    device: str,
    diagnoses: bool,
    on_step: Callable[[int], None],
    on_evaluation: Callable[[int, Evaluation], None],
) -> list[Member]:
    """Train `members` in one batch until one of them is done, and finish those that are; returns the others."""
    from .backends import backend_of
    from .backends.devices import described
    from .diagnosis import diagnose
    from .ensemble import snapshots, stack, unstack, unstack_ledger
    from .training import Evaluator, evaluate, fit

    experiment, single = members[0].experiment, device == "numpy"
    rule, task = experiment.learning_rule(), experiment.learned_task()
    net, optimizer, progress = run = members[0].run if single else stack([m.run for m in members], device)
    inference = net.with_links(rule.inference_links(net.links))
    train, valid, test = (samples.on(device) for samples in (data.train, data.valid, data.test))
    numpy = backend_of(net.layers[0].weight).numpy
    tests = [Evaluator(inference, samples, task=task, rule=rule) for samples in (valid, test)]
    tests += [Evaluator(inference, train, task=task, rule=rule)] if experiment.training_error else []
    for member in members:
        member.goes_on(described(device), len(members))
    started = last_saved = time.perf_counter()
    pause = 0.0

    def spent() -> None:
        nonlocal started
        for member in members:
            member.seconds += (time.perf_counter() - started) / len(members)
        started = time.perf_counter()

    steps = fit(
        net, rule, optimizer, train, experiment.epochs, experiment.batch,
        experiment.seed if single else [m.experiment.seed for m in members], progress, task=task,
    )  # fmt: skip
    for step in () if any(member.is_done(progress.epoch) for member in members) else steps:
        on_step(progress.step)
        if step.epoch_ends:
            loss = step.epoch_loss
            losses = [None] * len(members) if loss is None else np.ravel(numpy(loss)).tolist()  # which waits
            spent()
            bits = [progress.ledger.bits(direction=direction) for direction in (Direction.FORWARD, Direction.FEEDBACK)]
            errors = [np.ravel(test()).tolist() for test in tests]
            better = []
            for member, loss, *scores in zip(members, losses, *errors, strict=True):
                seconds = round(member.seconds, 4)
                evaluation = Evaluation(
                    progress.epoch, loss, scores[0], scores[1], seconds, bits[0], bits[1], task.measure,
                    **sparseness(progress.ledger, members.index(member), len(members)),
                    train_score=scores[2] if experiment.training_error else None,
                )  # fmt: skip
                better.append(member.evaluated(evaluation))
                on_evaluation(member.index, evaluation)
            if any(better):
                for member, network, is_better in zip(members, snapshots(inference), better, strict=True):
                    member.best_network = network if is_better else member.best_network
            for member, own in zip(members, unstack(run), strict=True) if diagnoses else ():
                measures = diagnose(own.net, rule, data.valid, task, progress.epoch, member.experiment.seed)
                member.diagnosed(progress.epoch, measures)
        now = time.perf_counter()
        due = now - last_saved >= (pause if step.epoch_ends else CHECKPOINT_SECONDS)
        if due:
            runs = unstack(run)
            if not step.epoch_ends:
                spent()
            for member, own in zip(members, runs, strict=True):
                member.save(own)
            last_saved = time.perf_counter()
            if not single:  # of which an epoch may take less than a checkpoint
                pause = min(CHECKPOINT_SECONDS, _PAUSE * (last_saved - now))
        if due or step.epoch_ends:
            started = time.perf_counter()
        if step.epoch_ends and any(member.is_done(progress.epoch) for member in members):
            break
    testing = Ledger(codings=experiment.codings)
    last = np.ravel(evaluate(inference, test, testing, task=task, rule=rule)), np.ravel(tests[0]())
    testings = [testing] if single else unstack_ledger(testing)
    left = []
    for member, own, tested, *errors in zip(members, unstack(run), testings, *last, strict=True):
        if not member.is_done(progress.epoch):
            member.run = own
            left.append(member)
            continue
        named = zip((f"test_{task.measure}", f"valid_{task.measure}"), map(float, errors), strict=True)
        results: dict[str, Any] = {"measure": task.measure, **dict(named)}
        member.finish(own, results, own.net.with_links(inference.links), tested)
    return left


def sparseness(ledger: Ledger, member: int, members: int) -> dict[str, Any]:
    """What `Evaluation` has about flips and zeros of a member; nothing if their codings are not counted."""
    if ledger.coded_counts is None or "flip-entropy" not in ledger.codings:
        return {}
    return {"samples": ledger.samples // members, **ledger.coded_counts.sparseness(member)}


def _lacks_memory(members: list[Member], data: "DataSet", device: str, *told: Any) -> bool:
    """Train `members` to their ends; whether it needed more memory than the device has, which is free again then."""
    from .backends.devices import is_out_of_memory

    try:
        while members:  # an ensemble goes on without those that stop early
            members = _train(members, data, device, *told)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return True
    return False


def _too_large(members: list[Member], data: "DataSet", device: str) -> Exception:
    """The error for an ensemble that does not fit in the memory of a device."""
    from .backends.devices import DeviceError, free_bytes
    from .ensemble import member_bytes

    run, batch = members[0].run, members[0].experiment.batch
    parts = data.train, data.valid, data.test
    shared = sum(np.asarray(x).nbytes for part in parts for x in (part.stored, part.labels))
    free, one = max(0, (free_bytes(device) or 0) - shared), member_bytes(run.net, run.optimizer, batch)
    fits = free // one
    advice = f"--ensemble {fits} would fit" if fits else "not even one would fit; leave --device out"
    return DeviceError(
        f"device {device} has too little memory for {len(members)} networks at a time: about {one / 1e6:.0f} MB each, "
        f"and beside the data {free / 1e6:.0f} MB are free; {advice}"
    )


def is_finished(folder: Path, experiment: Experiment) -> bool:
    """Whether the run in `folder` is finished and has all epochs. ExperimentError if it is another experiment."""
    if not (folder / "experiment.toml").exists():
        return False
    there, here = vars(Experiment.load(folder / "experiment.toml")), vars(experiment)
    for key in here:
        if key not in ("epochs", "plugins", "training_error") and there[key] != here[key]:
            raise ExperimentError(
                f"{folder}: holds a run with {key} = {there[key]!r}, not {here[key]!r}; "
                "choose another folder, or remove this one"
            )
    if not (folder / "run.json").exists():
        return False
    read_json(folder / "run.json")
    if there["epochs"] > here["epochs"]:
        raise ExperimentError(
            f"{folder}: has done {there['epochs']} epochs, more than {here['epochs']}; "
            "give as many or more, or choose another folder"
        )
    return bool(there["epochs"] == here["epochs"])


def _write_experiment(folder: Path, experiment: Experiment) -> None:
    """Write `experiment.toml`, unless it is there and describes the same experiment."""
    path = folder / "experiment.toml"
    if not path.exists() or Experiment.load(path) != experiment:
        write_text(path, experiment.as_toml())


def save_imported(net: "Network", source: Path, folder: Path, data: "DataSet", name: str) -> float:
    """Write `net`, imported from the file `source`, as a finished run in `folder`; return its score on the test data.

    `name` is that of `data`, or its path. The run has the rule straight-through and no epochs. Raises ExperimentError
    if the folder holds a run that was trained, or the network does not fit `data`.
    """
    from .training import evaluate

    weights = {x.name: p.format.name for x in net.layers if isinstance(p := x.projection, Quantized)}
    links = {x.name: {"forward": x.forward.name, "feedback": x.feedback.name} for x in net.links}
    experiment = Experiment(
        name, net.sizes, "straight-through", epochs=0, batch=100, seed=0, activation="identity",
        links=links, weights=dict(weights), optimizer={"name": "sgd", "learning_rate": 0.01},
    )  # fmt: skip
    experiment.check_sizes(data)
    with locked(folder):
        if (folder / "experiment.toml").exists() and "imported" not in read_json(folder / "run.json"):
            raise ExperimentError(f"{folder}: holds a run that was trained; choose another folder")
        task, testing = experiment.learned_task(), Ledger()
        scores = [evaluate(net, part, book, task=task, rule=experiment.learning_rule())
                  for part, book in ((data.valid, Ledger()), (data.test, testing))]  # fmt: skip
        named = {f"{part}_{task.measure}": float(score) for part, score in zip(("valid", "test"), scores, strict=True)}
        net.save(folder / "network.safetensors")
        ledgers.save(folder / "ledger.json", training=Ledger(), inference=testing)
        write_text(folder / "experiment.toml", experiment.as_toml())
        write_text(folder / "metrics.jsonl", "")
        results: dict[str, Any] = {"measure": task.measure, **named, "seconds_per_epoch": None, "parts": []}
        write_json(folder / "run.json", results | {"imported": str(source)} | provenance())
    return named[f"test_{task.measure}"]


def run_folders(folder: Path, rule: str | None = None, seed: int | None = None) -> list[tuple[str, int, Path]]:
    """Finished runs in `folder`, a run or a comparison, with rule and seed; only those of `rule` and `seed` if given.

    Raises StorageError if there are none, or one is from a newer version.
    """
    folder = Path(folder)
    if (folder / "network.safetensors").exists():
        found = [(rule_of(Experiment.load(folder / "experiment.toml")), folder)]
    else:
        summary = read_json(folder / "summary.json") if (folder / "summary.json").exists() else {"rows": []}
        paths = [
            (row["rule"], path) for row in summary["rows"] for path in sorted((folder / row["folder"]).glob("seed-*"))
        ]
        found = [(spec, path) for spec, path in paths if (path / "run.json").exists()]
    runs = [(spec, Experiment.load(path / "experiment.toml").seed, path) for spec, path in found]
    for _, _, path in runs:
        read_json(path / "run.json")
    chosen = [r for r in runs if rule in (None, r[0]) and seed in (None, r[1])]
    if not runs:
        raise StorageError(
            f"{folder}: no finished run here; a run folder has network.safetensors, a comparison summary.json"
        )
    if not chosen:
        raise StorageError(f"{folder}: no run with rule {rule} and seed {seed}; there are: "
                           + ", ".join(f"{spec} seed {n}" for spec, n, _ in runs))  # fmt: skip
    return chosen


def network_file(folder: Path, best: bool = False) -> Path:
    """The file with the last network of the run in `folder`, or with that of its best validation epoch.

    Raises StorageError if the run has not kept that.
    """
    path = Path(folder) / (BEST if best else "network.safetensors")
    if best and not path.exists():
        raise StorageError(f"{path}: no such file: the run has no epochs, or is of a version that did not keep it")
    return path


def flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values of nested tables by their keys, joined by dots.

    >>> flat({"links": {"h1-h2": {"forward": "binary"}}, "seed": 0})
    {'links.h1-h2.forward': 'binary', 'seed': 0}
    """
    found: dict[str, Any] = {}
    for key, value in content.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def curves(folder: Path) -> list[dict[str, Any]]:
    """The curves of the runs in `folder`, a run or a comparison: a row for each rule, seed and epoch.

    Columns are those of `metrics.jsonl`, of numbers by link as in `flips.h1-h2`; what a rule does not have is empty. A
    run whose metrics are missing or broken is left out, with a warning.
    """
    rows: list[dict[str, Any]] = []
    for rule, seed, run in run_folders(folder):
        path = run / "metrics.jsonl"
        try:
            rows += [{"rule": rule, "seed": seed, **flat(json.loads(x))} for x in path.read_text().splitlines()]
        except (OSError, TypeError, ValueError):
            warnings.warn(f"{path}: missing or broken, so the curves leave it out", stacklevel=2)
    columns = dict.fromkeys(name for row in rows for name in row)
    return [{name: row.get(name) for name in columns} for row in rows]


def save_curves(folder: Path) -> None:
    """Write `curves` of `folder` as comma-separated values, into `curves.csv` there."""
    write_csv(Path(folder) / "curves.csv", curves(folder))


def rule_of(experiment: Experiment) -> str:
    """The rule of `experiment`, as `rule` or `rule@gradient format`."""
    gradient = experiment.settings.get("gradient")
    return f"{experiment.rule}@{gradient}" if gradient not in (None, "float32") else experiment.rule


def folder_name(spec: str) -> str:
    """Name of the folder for the runs of a rule.

    >>> folder_name("straight-through@fixed(4,-2)")
    'straight-through_fixed_4_-2'
    """
    return re.sub(r"[^A-Za-z0-9.-]+", "_", spec).strip("_")


def summary_row(rule: str, folder: Path, runs: Mapping[int, str], where: str = "") -> tuple[Row, Ledger, Ledger]:
    """The row of `rule` for `runs`, folders in `folder` by seed, and their ledgers of training and inference.

    `where` is the folder in `folder` that holds all of them.
    """
    paths = [Path(folder) / run for run in runs.values()]
    results = [read_json(path / "run.json") for path in paths]
    books = [ledgers.load(path / "ledger.json") for path in paths]
    training = ledgers.merged(book["training"] for book in books)
    inference = ledgers.merged(book["inference"] for book in books)
    measure = results[0].get("measure", "error_percent")
    best = [r[f"best_test_{measure}"] for r in results if f"best_test_{measure}" in r]
    row = Row(
        rule=rule,
        folder=where,
        seeds=len(runs),
        runs=dict(runs),
        measure=measure,
        test_score=Spread.of([r[f"test_{measure}"] for r in results]),
        valid_score=Spread.of([r[f"valid_{measure}"] for r in results]),
        links=link_rows(training, inference),
        seconds_per_epoch=_median([x for r in results if (x := r["seconds_per_epoch"]) is not None]),
        device=", ".join(dict.fromkeys(_devices(r.get("parts", [])) for r in results)),
        network=read_tensors(paths[0] / "network.safetensors")[1],
        best_test_score=Spread.of(best) if len(best) == len(results) else None,
    )
    return row, training, inference


def _devices(parts: Sequence[Mapping[str, Any]]) -> str:
    """Devices of a run and the step reached on each, as text."""
    names = [part["device"] + (f", {part['members']} at a time" if part["members"] > 1 else "") for part in parts]
    ends = [f" to step {part['to_step']}" for part in parts] if len(parts) > 1 else [""]
    return ", then ".join(name + end for name, end in zip(names, ends, strict=True))


def provenance(command_line: str | None = None) -> dict[str, Any]:
    """Command (by default that of this process), versions, commit and machine, to repeat a run."""
    return {"command": command_line or command(), "versions": versions(), "commit": commit(), "machine": _machine()}


def command() -> str:
    """The command line that is running."""
    name = "lowbit-dtp" if Path(sys.argv[0]).stem in ("lowbit-dtp", "__main__") else Path(sys.argv[0]).name
    return shlex.join([name, *sys.argv[1:]])


def versions() -> dict[str, str]:
    """Versions of this program and of the packages that its numbers depend on."""
    from .version import __version__

    found = {"lowbit-dtp": __version__, "python": platform.python_version()}
    for name in ("numpy", "numba", "scikit-learn", "torch"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """Commit of the checkout that this file is in, or None."""
    here = Path(__file__).parent
    try:
        tracked = subprocess.run(["git", "ls-files", "--error-unmatch", __file__], cwd=here, capture_output=True)
        if tracked.returncode:
            return None
        out = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=here, capture_output=True, text=True)
        return out.stdout.strip() or None
    except OSError:
        return None


def _machine() -> str:
    """Kind of machine, and the peak memory of the process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return (
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs; at most {peak / 1e6:.0f} MB of memory used"
    )


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None
