"""Experiments: a TOML file and what overrides it become run folders, and run folders a comparison.

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
from copy import deepcopy
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from . import ledger as ledgers
from .formats import choose, parse
from .ledger import Flow, Ledger
from .storage import StorageError, read_json, write_json, write_text

if TYPE_CHECKING:
    from .data import DataSet
    from .network import Network
    from .optimizers import Optimizer
    from .rules import LearningRule

CHECKPOINT_SECONDS = 30.0
"""Most seconds of training that a sudden stop can lose."""

_OPTIMIZER_KEYS = ("learning_rate", "feedback_learning_rate")


class ExperimentError(ValueError):
    """An experiment cannot be run as described; the message names the key or option and says what would be right."""


@dataclass(frozen=True)
class Experiment:
    """One run, in full: everything that its numbers depend on."""

    data: str
    sizes: list[int]
    rule: str
    epochs: int
    batch: int
    seed: int
    activation: str = "tanh"
    links: dict[str, dict[str, str]] = field(default_factory=dict)
    """Formats `forward` and `feedback` of each link by name; float32 where not given."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What the rule takes, `gradient` or `target_step` say."""
    optimizer: dict[str, Any] = field(default_factory=dict)
    """`name`, `learning_rate` and what else the optimizer takes."""

    def __post_init__(self) -> None:
        for name, least in (("epochs", 0), ("batch", 1), ("seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ExperimentError(f"{name} must be a whole number, {least} or more, not {value!r}")

    def network(self) -> "Network":
        """The untrained network, with its links as built."""
        from .links import Link
        from .network import Network, link_names

        names = link_names(self.sizes)
        for name, given in self.links.items():
            if name not in names:
                sizes = "-".join(map(str, self.sizes))
                raise ExperimentError(f"links: no link {name!r} in a network {sizes}; there are: {', '.join(names)}")
            _check_keys(f"links.{name}", given, ("forward", "feedback"))
        formats = [self.links.get(name, {}) for name in names]
        links = [Link(parse(x.get("forward", "float32")), parse(x.get("feedback", "float32"))) for x in formats]
        return Network.build(self.sizes, links, self.seed, self.activation)

    def learning_rule(self) -> "LearningRule":
        """The rule, with its settings."""
        from .rules import rule_named

        kind = rule_named(self.rule)
        _check_keys(f"rules.{self.rule}", self.settings, [f.name for f in fields(kind)])  # type: ignore[arg-type]
        return kind(**self.settings)

    def make_optimizer(self) -> "Optimizer":
        """The optimizer, with its settings and no state."""
        from .optimizers import OPTIMIZERS

        settings = dict(self.optimizer)
        kind = choose("optimizer", settings.pop("name", "rmsprop"), OPTIMIZERS)
        known = [f.name for f in fields(kind) if f.name != "state"]
        _check_keys("optimizer", settings, [*known, "name"])
        if "learning_rate" not in settings:
            raise ExperimentError(f"rules.{self.rule}: no learning_rate; give one with --learning-rate")
        return kind(**settings)

    def steps(self, samples: int) -> int:
        """Steps of the whole run on `samples` training samples."""
        return self.epochs * len(self.learning_rule().phases) * -(-samples // self.batch)

    def as_toml(self) -> str:
        """The experiment as the text of `experiment.toml`."""
        import tomli_w

        return tomli_w.dumps(asdict(self))

    @classmethod
    def load(cls, path: Path) -> "Experiment":
        """The experiment in an `experiment.toml`."""
        content = _read_toml(path)
        _check_keys(str(path), content, [f.name for f in fields(cls)])
        try:
            return cls(**content)
        except TypeError as error:
            raise StorageError(f"{path}: not an experiment ({error})") from None


@dataclass(frozen=True)
class Plan:
    """A data set's experiments: the common part, and each rule's settings."""

    content: dict[str, Any]

    KEYS: ClassVar = ("data", "sizes", "activation", "epochs", "batch", "seeds", "compare", "placement", "links",
                      "optimizer", "rules")  # fmt: skip

    @classmethod
    def load(cls, data: str | None = None, config: Path | None = None, **overrides: Any) -> "Plan":
        """The file of data set `data`, overridden by the file `config` and then by what is not None in `overrides`.

        `config` may name its data set itself. Tables are merged key by key.
        """
        over = _read_toml(config) if config else {}
        if config:
            _check_keys(str(config), over, cls.KEYS)
        data = data or over.get("data") or "digits"
        known = {p.name.removesuffix(".toml"): p for p in (files(__package__) / "experiments").iterdir()}
        base = tomllib.loads(choose("data set", data, known).read_text())
        overrides = {key: value for key, value in overrides.items() if value is not None}
        content = _merge(_merge(base, over), overrides)
        content["data"] = data
        if content["sizes"] != base["sizes"]:  # links of the data set's own network mean nothing in another
            given = {**over.get("links", {}), **overrides.get("links", {})}
            from .network import link_names

            names = link_names(content["sizes"])
            content["links"] = {k: v for k, v in content["links"].items() if k in names or k in given}
        return cls(content)

    @property
    def rules(self) -> list[str]:
        """Rules to compare, as `rule` or `rule@gradient format`."""
        return list(self.content["compare"])

    @property
    def seeds(self) -> int:
        """Runs of each rule."""
        return int(self.content.get("seeds", 1))

    @property
    def placement(self) -> str:
        """Which link is what kind of wire, for the energy models."""
        return str(self.content.get("placement", ""))

    def experiment(self, spec: str, seed: int) -> Experiment:
        """The experiment with rule `spec` and `seed`."""
        from .rules import rule_named

        rule, _, gradient = spec.partition("@")
        kind = rule_named(rule)
        settings = dict(self.content["rules"].get(rule, {}))
        if gradient:
            if "gradient" not in {f.name for f in fields(kind)}:  # type: ignore[arg-type]
                raise ExperimentError(f"rule {spec!r}: {rule} sends no gradients over links, so it takes no format")
            settings["gradient"] = parse(gradient).name
        optimizer = dict(self.content["optimizer"])
        for key in _OPTIMIZER_KEYS:
            if key in settings:
                value = settings.pop(key)
                optimizer.setdefault(key, value)
        names = ("data", "sizes", "epochs", "batch", "activation", "links")
        common = {name: deepcopy(self.content[name]) for name in names if name in self.content}
        return Experiment(rule=rule, seed=seed, settings=settings, optimizer=optimizer, **common)


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
    on_step: Callable[[int], None] = lambda step: None,
    on_evaluation: Callable[[Evaluation], None] = lambda evaluation: None,
) -> None:
    """Train as `experiment` says into `folder`, going on from its checkpoint if it has one.

    Stopped at any moment, a second call ends as an uninterrupted one would have, bit for bit. A finished run is left
    as it is. Raises ExperimentError if the folder holds another experiment.
    """
    from . import checkpoint
    from .training import Progress, evaluate, fit

    folder = Path(folder)
    net, rule, optimizer = experiment.network(), experiment.learning_rule(), experiment.make_optimizer()
    inference = net.with_links(rule.inference_links(net.links))
    rule.training_links(net.links)
    if experiment.sizes[0] != data.train.stored.shape[1]:
        raise ExperimentError(f"sizes: {data.name} has {data.train.stored.shape[1]} pixels, not {experiment.sizes[0]}")
    if experiment.sizes[-1] < data.classes:
        raise ExperimentError(
            f"sizes: {data.name} has {data.classes} classes, so {experiment.sizes[-1]} outputs are few"
        )
    _claim(folder, experiment)
    if (folder / "run.json").exists():
        read_json(folder / "run.json")
        return
    saved, metrics = folder / "checkpoint.safetensors", folder / "metrics.jsonl"
    progress = Progress()
    notes: dict[str, Any] = {"lines": [], "loss": 0.0, "steps": 0, "seconds": 0.0}
    if saved.exists():
        progress, notes = checkpoint.load(saved, net, optimizer)
    write_text(metrics, "".join(f"{line}\n" for line in notes["lines"]))
    started = last_saved = time.perf_counter()
    steps = fit(
        net, rule, optimizer, data.train, experiment.epochs, experiment.batch, seed=experiment.seed, progress=progress
    )
    for step in steps:
        on_step(progress.step)
        if step.loss is not None:
            notes["loss"] += float(step.loss)
            notes["steps"] += 1
        now = time.perf_counter()
        if not step.epoch_ends and now - last_saved < CHECKPOINT_SECONDS:
            continue
        notes["seconds"] += now - started
        if step.epoch_ends:
            evaluation = Evaluation(
                progress.epoch,
                notes["loss"] / notes["steps"],
                evaluate(inference, data.valid),
                evaluate(inference, data.test),
                round(notes["seconds"], 4),
                progress.ledger.bits(flow=Flow.FORWARD),
                progress.ledger.bits(flow=Flow.FEEDBACK),
            )
            notes |= {"loss": 0.0, "steps": 0, "seconds": 0.0}
            notes["lines"].append(json.dumps(asdict(evaluation)))
            with metrics.open("a") as file:
                file.write(notes["lines"][-1] + "\n")
            on_evaluation(evaluation)
        checkpoint.save(saved, net, optimizer, progress, notes)
        started = last_saved = time.perf_counter()
    testing = Ledger()
    results = {
        "test_error_percent": evaluate(inference, data.test, testing),
        "valid_error_percent": evaluate(inference, data.valid),
        # of the first epoch, compiling kernels may be the larger part
        "seconds_per_epoch": _median([json.loads(line)["seconds"] for line in notes["lines"]]),
    }
    inference.save(folder / "network.safetensors")
    ledgers.save(folder / "ledger.json", training=progress.ledger, inference=testing)
    write_json(folder / "run.json", results | provenance())
    saved.unlink(missing_ok=True)


def _claim(folder: Path, experiment: Experiment) -> None:
    """Write the experiment into `folder`, or find it there."""
    path, text = folder / "experiment.toml", experiment.as_toml()
    if not path.exists():
        write_text(path, text)
        return
    there, here = _read_toml(path), tomllib.loads(text)
    for key in here:
        if there.get(key) != here[key]:
            raise ExperimentError(
                f"{folder}: holds a run with {key} = {there.get(key)!r}, not {here[key]!r}; "
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
        "device": "cpu",
    }
    return row, training, inference


def link_row(link: str, training: Ledger, inference: Ledger) -> dict[str, Any]:
    """What crosses `link` in a training sample and in an inference, each way."""
    row: dict[str, Any] = {}
    for way, flow in (("up", Flow.FORWARD), ("down", Flow.FEEDBACK)):
        crossings = [c for c, _ in training.crossings(link, flow)]
        row |= {
            f"{way}_bits_per_sample": training.bits(link, flow, per="sample"),
            f"{way}_bytes_padded_per_sample": training.bits(link, flow, per="sample", word_bits=8) / 8,
            f"{way}_ones_per_sample": training.ones(link, flow, per="sample"),
            f"{way}_toggles_per_sample": training.toggles(link, flow, per="sample"),
            f"{way}_bits_per_inference": inference.bits(link, flow, per="sample"),
            f"{flow}_format": crossings[0].format if crossings else None,
        }
    row["width"] = next(c.width for c, _ in training.crossings(link))
    return row


def provenance() -> dict[str, Any]:
    """Command, versions, commit and machine: what it takes to repeat a run."""
    return {"command": command(), "versions": versions(), "commit": _commit(), "machine": _machine()}


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


def _commit() -> str | None:
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


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(Path(path).read_text())
    except FileNotFoundError:
        raise StorageError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise StorageError(f"{path}: not TOML ({error})") from None


def _check_keys(where: str, content: Mapping[str, Any], known: Sequence[str]) -> None:
    if not isinstance(content, Mapping):
        raise ExperimentError(f"{where}: a table is needed, not {content!r}")
    for key in content:
        if key not in known:
            raise ExperimentError(f"{where}: no key {key!r}; there are: {', '.join(sorted(known))}")


def _merge(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged
