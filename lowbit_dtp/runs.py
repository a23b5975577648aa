"""Run folders: experiments are trained into them, on one device or another, and comparisons are read from them.

A run folder holds `experiment.toml`, `network.safetensors`, `ledger.json`, `metrics.jsonl` and `run.json`; while it is
under way, `checkpoint.safetensors`. A comparison holds `summary.json` and a run folder for each rule and seed.
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
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import ledger as ledgers
from .experiment import Experiment, ExperimentError, read_toml
from .ledger import Direction, Ledger
from .storage import StorageError, read_json, write_json, write_text

if TYPE_CHECKING:
    from .data import DataSet
    from .ensemble import Run
    from .network import Network
    from .optimizers import Optimizer

CHECKPOINT_SECONDS = 30.0
"""Most seconds of training that a sudden stop can lose."""
_PAUSE = 20
"""How many times as long as saving an ensemble takes, it is trained before it is saved again."""


@dataclass(frozen=True)
class Evaluation:
    """The state of a run after an epoch: one line of `metrics.jsonl`."""

    epoch: int
    train_loss: float
    """Mean negative log-likelihood over the epoch, as the network was at each step."""
    valid_error_percent: float
    test_error_percent: float
    seconds: float
    """Spent training in that epoch."""
    up_bits: float
    """Sent up over all links since the run began."""
    down_bits: float


def run(
    experiment: Experiment,
    folder: Path,
    data: "DataSet",
    *,
    device: str = "numpy",
    on_step: Callable[[int], None] = lambda step: None,
    on_evaluation: Callable[[Evaluation], None] = lambda evaluation: None,
) -> None:
    """Train as `experiment` says into `folder`, going on from its checkpoint if it has one.

    Stopped at any context, a second call ends as an uninterrupted one would have, bit for bit; on another `device`, to
    rounding. A finished run is left as it is. Raises ExperimentError if the folder holds another experiment, and
    DeviceError if the device cannot be used or is too small.
    """
    run_ensemble(
        [experiment], [folder], data, device=device, on_step=on_step, on_evaluation=lambda _, told: on_evaluation(told)
    )


def run_ensemble(
    experiments: Sequence[Experiment],
    folders: Sequence[Path],
    data: "DataSet",
    *,
    device: str = "numpy",
    on_step: Callable[[int], None] = lambda step: None,
    on_evaluation: Callable[[int, Evaluation], None] = lambda index, evaluation: None,
) -> None:
    """`run` for experiments that differ in their seeds alone, in batched products where `device` is not NumPy's.

    Each ends as it would alone, to rounding. Those that were stopped at different steps go on apart. `on_evaluation` is
    told which it is about.
    """
    from .backends.devices import usable

    device = usable(device)
    members = []
    for index, (experiment, folder) in enumerate(zip(experiments, map(Path, folders), strict=True)):
        net, _, optimizer = experiment.built()
        experiment.check_sizes(data)
        _claim(folder, experiment)
        if (folder / "run.json").exists():
            read_json(folder / "run.json")
        else:
            members.append(_Member.begun(index, experiment, folder, net, optimizer))
    groups: dict[Any, list[_Member]] = {}
    for member in members:
        place = member.index if device == "numpy" else member.run.progress.step
        groups.setdefault(place, []).append(member)
    for group in groups.values():
        if _lacks_memory(group, data, device, on_step, on_evaluation):
            raise _too_large(group, data, device)


@dataclass
class _Member:
    """A run that is under way."""

    index: int
    experiment: Experiment
    folder: Path
    run: "Run"
    lines: list[str]
    """Of `metrics.jsonl`."""
    seconds: float
    """Spent on the present epoch."""
    parts: list[dict[str, Any]]
    """On which device the run went how far, one after the other."""

    @classmethod
    def begun(
        cls, index: int, experiment: Experiment, folder: Path, net: "Network", optimizer: "Optimizer"
    ) -> "_Member":
        """The run as it was left in `folder`, or a new one."""
        from . import checkpoint
        from .ensemble import Run
        from .training import Progress

        progress = Progress()
        notes: dict[str, Any] = {}
        if (folder / "checkpoint.safetensors").exists():
            progress, notes = checkpoint.load(folder / "checkpoint.safetensors", net, optimizer)
        lines = notes.get("lines", [])
        write_text(folder / "metrics.jsonl", "".join(f"{line}\n" for line in lines))
        return cls(
            index, experiment, folder, Run(net, optimizer, progress), lines, notes.get("seconds", 0.0),
            notes.get("parts", []),
        )  # fmt: skip

    def goes_on(self, device: str, members: int) -> None:
        """Note that the run goes on on `device`, as one of `members`."""
        part = {"device": device, "members": members}
        if not self.parts or part != {key: self.parts[-1][key] for key in part}:
            self.parts.append(part | {"to_step": self.run.progress.step})

    def evaluated(self, evaluation: Evaluation) -> None:
        """Note the state after an epoch."""
        self.seconds = 0.0
        self.lines.append(json.dumps(asdict(evaluation)))
        with (self.folder / "metrics.jsonl").open("a") as file:
            file.write(self.lines[-1] + "\n")

    def save(self, run: "Run") -> None:
        """Write a checkpoint: `run` is where it stands."""
        from . import checkpoint

        self.parts[-1]["to_step"] = run.progress.step
        notes = {"lines": self.lines, "seconds": self.seconds, "parts": self.parts}
        checkpoint.save(self.folder / "checkpoint.safetensors", *run, notes)

    def finish(self, run: "Run", results: dict[str, Any], inference: "Network", testing: Ledger) -> None:
        """Write all that a finished run leaves."""
        self.parts[-1]["to_step"] = run.progress.step
        results |= {
            # of the first epoch, compiling kernels may be the larger part
            "seconds_per_epoch": _median([json.loads(line)["seconds"] for line in self.lines]),
            "parts": self.parts,
        }
        inference.save(self.folder / "network.safetensors")
        ledgers.save(self.folder / "ledger.json", training=run.progress.ledger, inference=testing)
        write_json(self.folder / "run.json", results | provenance())
        (self.folder / "checkpoint.safetensors").unlink(missing_ok=True)


def _train(
    members: list[_Member],
    data: "DataSet",
    device: str,
    on_step: Callable[[int], None],
    on_evaluation: Callable[[int, Evaluation], None],
) -> None:
    """Train `members` to the end, as one."""
    from .backends import backend_of
    from .backends.devices import described
    from .ensemble import stack, unstack, unstack_ledger
    from .training import Evaluator, evaluate, fit

    experiment, single = members[0].experiment, device == "numpy"
    rule, task = experiment.learning_rule(), experiment.learned_task()
    net, optimizer, progress = run = members[0].run if single else stack([m.run for m in members], device)
    inference = net.with_links(rule.inference_links(net.links))
    train, valid, test = (samples.on(device) for samples in (data.train, data.valid, data.test))
    numpy = backend_of(net.layers[0].weight).numpy
    tests = [Evaluator(inference, samples, task=task, rule=rule) for samples in (valid, test)]
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
    for step in steps:
        on_step(progress.step)
        if step.epoch_ends:
            no_loss = step.epoch_loss is None
            losses = [None] * len(members) if no_loss else np.ravel(numpy(step.epoch_loss)).tolist()  # which waits
            spent()
            bits = [progress.ledger.bits(direction=direction) for direction in (Direction.FORWARD, Direction.FEEDBACK)]
            errors = [np.ravel(test()).tolist() for test in tests]
            for member, loss, *wrong in zip(members, losses, *errors, strict=True):
                evaluation = Evaluation(progress.epoch, loss, wrong[0], wrong[1], round(member.seconds, 4), *bits)
                member.evaluated(evaluation)
                on_evaluation(member.index, evaluation)
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
    testing = Ledger()
    last = np.ravel(evaluate(inference, test, testing, task=task, rule=rule)), np.ravel(tests[0]())
    testings = [testing] if single else unstack_ledger(testing)
    for member, own, tested, *errors in zip(members, unstack(run), testings, *last, strict=True):
        results = dict(zip(("test_error_percent", "valid_error_percent"), map(float, errors), strict=True))
        member.finish(own, results, own.net.with_links(inference.links), tested)


def _lacks_memory(members: list[_Member], data: "DataSet", device: str, *told: Any) -> bool:
    """`_train`, and whether that took more memory than the device has. All of it is free again then."""
    from .backends.devices import is_out_of_memory

    try:
        _train(members, data, device, *told)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return True
    return False


def _too_large(members: list[_Member], data: "DataSet", device: str) -> Exception:
    """What is to be said of an ensemble for which a device has no memory."""
    from .backends.devices import DeviceError, free_bytes
    from .ensemble import member_bytes

    run, batch = members[0].run, members[0].experiment.batch
    shared = sum(x.stored.nbytes + x.labels.nbytes for x in (data.train, data.valid, data.test))
    free, one = max(0, (free_bytes(device) or 0) - shared), member_bytes(run.net, run.optimizer, batch)
    fits = free // one
    advice = f"--ensemble {fits} would fit" if fits else "not even one would fit; leave --device out"
    return DeviceError(
        f"device {device} has too little memory for {len(members)} networks at a time: about {one / 1e6:.0f} MB each, "
        f"and beside the data {free / 1e6:.0f} MB are free; {advice}"
    )


def _claim(folder: Path, experiment: Experiment) -> None:
    """Write the experiment into `folder`, or find it there."""
    path, text = folder / "experiment.toml", experiment.as_toml()
    if not path.exists():
        write_text(path, text)
        return
    there, here = read_toml(path), tomllib.loads(text)
    for key in {**here, **there}:
        if there.get(key) != here.get(key):
            raise ExperimentError(
                f"{folder}: holds a run with {key} = {there.get(key)!r}, not {here.get(key)!r}; "
                "choose another folder, or remove this one"
            )


def run_folders(folder: Path, rule: str | None = None, seed: int | None = None) -> list[tuple[str, int, Path]]:
    """Finished runs in `folder`, itself a run or a comparison, with rule and seed; those of `rule` and `seed` alone.

    Raises StorageError if there is none, or one is from a newer version.
    """
    folder = Path(folder)
    if (folder / "network.safetensors").exists():
        found = [(_spec(Experiment.load(folder / "experiment.toml")), folder)]
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


def _spec(experiment: Experiment) -> str:
    gradient = experiment.settings.get("gradient")
    return f"{experiment.rule}@{gradient}" if gradient not in (None, "float32") else experiment.rule


def folder_name(spec: str) -> str:
    """Name of the folder for the runs of a rule.

    >>> folder_name("straight-through@fixed(4,-2)")
    'straight-through_fixed_4_-2'
    """
    return re.sub(r"[^A-Za-z0-9.-]+", "_", spec).strip("_")


def summary_row(spec: str, folder: Path, seeds: Sequence[int]) -> tuple[dict[str, Any], Ledger, Ledger]:
    """A row of `summary.json` for the runs of rule `spec` with `seeds`, and their ledgers of training and inference."""
    paths = [folder / folder_name(spec) / f"seed-{seed}" for seed in seeds]
    results = [read_json(path / "run.json") for path in paths]
    books = [ledgers.load(path / "ledger.json") for path in paths]
    training = ledgers.merged(book["training"] for book in books)
    inference = ledgers.merged(book["inference"] for book in books)
    row = {
        "rule": spec,
        "folder": folder_name(spec),
        "seeds": len(seeds),
        "test_error_percent": _spread([r["test_error_percent"] for r in results]),
        "valid_error_percent": _spread([r["valid_error_percent"] for r in results]),
        "links": {link: link_row(link, training, inference) for link in training.links()},
        "seconds_per_epoch": _median([r["seconds_per_epoch"] for r in results]),
        "device": ", ".join(dict.fromkeys(_devices(r.get("parts", [])) for r in results)),
    }
    return row, training, inference


def _devices(parts: Sequence[Mapping[str, Any]]) -> str:
    """On which device a run went how far, in words."""
    names = [part["device"] + (f", {part['members']} at a time" if part["members"] > 1 else "") for part in parts]
    ends = [f" to step {part['to_step']}" for part in parts] if len(parts) > 1 else [""]
    return ", then ".join(name + end for name, end in zip(names, ends, strict=True))


def link_row(link: str, training: Ledger, inference: Ledger) -> dict[str, Any]:
    """What crosses `link` in a training sample and in an inference, each way."""
    row: dict[str, Any] = {}
    for way, direction in (("up", Direction.FORWARD), ("down", Direction.FEEDBACK)):
        message_types = [c for c, _ in training.message_types(link, direction)]
        row |= {
            f"{way}_bits_per_sample": training.bits(link, direction, per="sample"),
            f"{way}_bytes_padded_per_sample": training.bits(link, direction, per="sample", word_bits=8) / 8,
            f"{way}_ones_per_sample": training.ones(link, direction, per="sample"),
            f"{way}_toggles_per_sample": training.toggles(link, direction, per="sample"),
            f"{way}_bits_per_inference": inference.bits(link, direction, per="sample"),
            f"{direction}_format": message_types[0].format if message_types else None,
        }
    row["width"] = next(c.width for c, _ in training.message_types(link))
    return row


def provenance() -> dict[str, Any]:
    """Command, versions, commit and machine: what it takes to repeat a run."""
    return {"command": command(), "versions": versions(), "commit": commit(), "machine": _machine()}


def command() -> str:
    """The command line that is running."""
    name = "lowbit-dtp" if Path(sys.argv[0]).stem in ("lowbit-dtp", "__main__") else Path(sys.argv[0]).name
    return shlex.join([name, *sys.argv[1:]])


def versions() -> dict[str, str]:
    """Versions of this program and of what its numbers depend on."""
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
    """Kind of machine, and the most memory that the process has held on it so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return (
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs; at most {peak / 1e6:.0f} MB of memory used"
    )


def _spread(values: Sequence[float]) -> dict[str, float]:
    """Mean and sample standard deviation, 0 of a single value."""
    return {"mean": statistics.fmean(values), "std": statistics.stdev(values) if len(values) > 1 else 0.0}


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None
