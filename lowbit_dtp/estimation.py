"""Estimates: the ledgers that training and inference would write, from shapes alone, before anything is trained.

The learning rule, the layers, the links and the optimizer are those of a run. They work on arrays without numbers
(`backends.shapes`), one step for each phase and size of minibatch, and each is counted as often as a run takes it. So
messages, bits, operations and memory accesses are those of a run to the last count, for a network of any size:

>>> from lowbit_dtp import Link, rules
>>> links = [Link("ufixed(8,0)"), Link("binary", "binary"), Link()]
>>> made = estimate([784, 10**6, 10**6, 10], rules.DTP(), links, samples=60_000, epochs=10)
>>> made.training.bits("h1-h2", per="sample"), made.inference.bits("h1-h2", per="sample")
(5000000.0, 1000000.0)

What depends on data is assumed. Ones and toggles come from an `activity`, or from a run; a rule that stops when it has
settled makes all its steps: see `LearningRule.without_data`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import singledispatch
from pathlib import Path
from typing import Any

import numpy as np

from . import ledger as ledgers
from .backends import Array
from .backends.shapes import ShapeArray
from .data import Outline, Samples, outline
from .experiment import Experiment
from .ledger import Direction, Ledger, MessageType
from .links import Link
from .network import Network
from .optimizers import Optimizer, RMSprop
from .randomness import RandomStream
from .rules import LearningRule, rule_named
from .rules.rule import StepContext
from .runs import rule_of, run_folders
from .steps import Subject, Training
from .tasks import TASKS, Task
from .training import EVALUATION_BATCH

ACTIVITY = 0.5
"""Fraction of ones that is assumed by default: that of random bits."""
SAMPLES, INFERENCES = 50_000, 10_000
"""Samples that are assumed by default: those of MNIST."""
WITHOUT_NUMBERS = ShapeArray((0,), np.float32)
"""What arrays of an estimate are like."""


@dataclass(frozen=True)
class Estimate:
    """The ledgers that a run would write, and what in them is assumed."""

    training: Ledger
    inference: Ledger
    assumed: Mapping[str, Mapping[MessageType, str]]
    """By name of the ledger: where the ones and toggles of each type of message come from."""
    notes: tuple[str, ...] = ()
    """What else is assumed."""

    @property
    def ledgers(self) -> dict[str, Ledger]:
        """The ledgers, by name."""
        return {"training": self.training, "inference": self.inference}

    def assumptions(self) -> list[dict[str, str]]:
        """What is assumed, as plain texts: for each type of message, the source of its ones and toggles; notes."""
        rows = [
            {"ledger": name, **dict(zip(_COMPARED, _key(message_type), strict=True)), "ones_and_toggles": source}
            for name, sources in self.assumed.items()
            for message_type, source in sources.items()
        ]
        return rows + [{"note": note} for note in self.notes]

    def save(self, path: Path) -> None:
        """Write the ledgers as a run writes its `ledger.json`, with the assumptions."""
        ledgers.save(path, self.assumptions(), **self.ledgers)


def data_for(sizes: Sequence[int], task: Task, samples: int = SAMPLES, inferences: int = INFERENCES) -> Outline:
    """Data for a network with layers of `sizes`, of so many samples to train on and to test with."""
    return Outline("", sizes[0], sizes[-1], samples, inferences, "values" if task.name == "associate" else "classes")


@singledispatch
def estimate(described: Any, *arguments: Any, **settings: Any) -> Estimate:
    """The ledgers that a run would write: of an `Experiment`, or of a network by the sizes of its layers.

    `estimate(experiment)` takes everything from the experiment but its data, of which it needs the sizes alone;
    published data is neither read nor downloaded. `estimate(sizes, rule, links)` is like `training.fit`.

    The fraction of ones, `activity`, is assumed for every message; the bits are taken to be independent, so that
    2 p (1 - p) of them differ from those of the message before on the same wires. `like` is a folder with one or
    several runs: a type of message that a run has sent, too, over a link of that name, in that direction, for that
    purpose and in that format, has as many ones and toggles a bit as there.

    ValueError if the parts do not fit together, as in a run.
    """
    raise TypeError(f"estimate needs an Experiment, or the sizes of layers, not {type(described).__name__}")


@estimate.register
def _of_experiment(
    experiment: Experiment,
    *,
    data: Outline | None = None,
    activity: float = ACTIVITY,
    like: Path | str | None = None,
) -> Estimate:
    """`data` has the sizes of the data, by default those of the experiment's."""
    rates = {"learning_rate": 1.0, "feedback_learning_rate": None}  # on which no count depends, nor on first weights
    experiment = replace(experiment, start="", optimizer=experiment.optimizer | rates)
    net, rule, optimizer = experiment.built(WITHOUT_NUMBERS)
    data = outline(experiment.data) if data is None else data
    experiment.check_sizes(data)
    run = _Run(net, rule, optimizer, experiment.learned_task(), data, experiment.epochs, experiment.batch)
    notes = ["coded bits depend on data and are not estimated"] if experiment.codings else []
    return run.estimate(Rates.of(activity, like, rule_of(experiment)), notes)


@estimate.register
def _of_sizes(
    sizes: Sequence,
    rule: LearningRule | str = "dtp",
    links: Sequence[Link] | None = None,
    optimizer: Optimizer | None = None,
    *,
    task: Task | None = None,
    weights: Mapping[str, Any] | None = None,
    activation: str = "tanh",
    output_activation: str = "identity",
    batch: int = 100,
    samples: int = SAMPLES,
    epochs: int = 1,
    inferences: int = INFERENCES,
    activity: float = ACTIVITY,
    like: Path | str | None = None,
) -> Estimate:
    """`rule` may be a name; links are float32 and the optimizer is RMSprop by default.

    `weights` are few-bit formats as `Network.quantize_weights` takes them.
    """
    rule = rule_named(rule)() if isinstance(rule, str) else rule
    optimizer = RMSprop(1.0) if optimizer is None else optimizer
    task = TASKS[rule.tasks[0]] if task is None else task
    if task.name not in rule.tasks:
        raise ValueError(f"{rule.name} does not learn to {task.name}; it learns to {', '.join(rule.tasks)}")
    net = Network.build(
        sizes,
        [Link() for _ in sizes[1:]] if links is None else links,
        activation=activation,
        output_activation=output_activation,
        like=WITHOUT_NUMBERS,
    )
    rule.prepare(net, 0)
    net.quantize_weights(weights or {}, optimizer.keeps_master)
    data = data_for(sizes, task, samples, inferences)
    return _Run(net, rule, optimizer, task, data, epochs, batch).estimate(Rates.of(activity, like, rule.name))


@dataclass(frozen=True)
class _Run:
    """What a run depends on, but for numbers; arrays are of shapes alone."""

    net: Network
    rule: LearningRule
    optimizer: Optimizer
    task: Task
    data: Outline
    epochs: int
    batch: int

    def __post_init__(self) -> None:
        for name, value, least in (
            ("batch", self.batch, 1), ("samples", self.data.train, 1), ("epochs", self.epochs, 0),
            ("inferences", self.data.test, 1),
        ):  # fmt: skip
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name} must be a whole number, {least} or more, not {value!r}")

    def estimate(self, rates: "Rates", notes: Sequence[str] = ()) -> Estimate:
        """The ledgers, with ones and toggles at `rates`."""
        rule, notes = self.rule.without_data(), list(notes)
        if rule != self.rule:
            notes.append(f"{rule.name} decides by its data when to stop; the most that it may do is counted")
        made = {"training": self._training(rule), "inference": self._inference(rule)}
        assumed = {name: rates.assume(name, ledger) for name, ledger in made.items()}
        return Estimate(**made, assumed=assumed, notes=tuple(notes))

    def _training(self, rule: LearningRule) -> Ledger:
        """As `training.fit` counts."""
        ledger, total, steps = Ledger(), ShapeArray((), np.float64), 0
        net = self.net.with_links(rule.training_links(self.net.links))
        training = Training(rule, self.optimizer, self.task, self.batch, 0)
        for phase in rule.phases if self.epochs else ():
            for rows, times in minibatches(self.data.train, self.batch):
                once, context = Ledger(), StepContext(0, phase, RandomStream(0), self.task)
                training.step(
                    Subject(net, samples_without_numbers(self.data, rows), total), slice(None), context, once, 1.0
                )
                ledger.counts.repeat(once.counts, self.epochs * times)
                ledger.batch = max(ledger.batch, rows)
                steps += self.epochs * times
        ledger.epochs, ledger.steps, ledger.samples = self.epochs, steps, self.epochs * self.data.train
        return ledger

    def _inference(self, rule: LearningRule) -> Ledger:
        """As `training.evaluate` counts."""
        ledger = Ledger(epochs=1, samples=self.data.test)
        net = self.net.with_links(rule.inference_links(self.net.links))
        for rows, times in minibatches(self.data.test, EVALUATION_BATCH):
            once = Ledger()
            rule.infer(net, samples_without_numbers(self.data, rows).stored, once, RandomStream(0))
            ledger.counts.repeat(once.counts, times)
            ledger.steps += times
        return ledger


def samples_without_numbers(data: Outline, rows: int) -> Samples:
    """So many samples of `data`, as arrays of shapes alone."""
    labels: Array = ShapeArray((rows,), np.int64)
    if data.label_kind == "values":
        labels = ShapeArray((rows, data.classes), np.float32)
    return Samples(ShapeArray((rows, data.inputs), np.float32), labels)


def minibatches(samples: int, batch: int) -> list[tuple[int, int]]:
    """Sizes of the minibatches of `samples`, and how many of each.

    >>> minibatches(1097, 50), minibatches(100, 50), minibatches(7, 50)
    ([(50, 21), (47, 1)], [(50, 2)], [(7, 1)])
    """
    whole, rest = divmod(samples, batch)
    return [(rows, times) for rows, times in ((batch, whole), (rest, 1)) if rows and times]


_COMPARED = ("link", "direction", "purpose", "format")


@dataclass(frozen=True)
class Rates:
    """How many bits of a type of message are 1, and how many toggle."""

    activity: Fraction
    known: Mapping[str, Ledger]
    """Ledgers of runs, by name."""
    source: str
    """Where they come from."""

    @classmethod
    def of(cls, activity: float, like: Path | str | None, rule: str) -> "Rates":
        """The rates of `activity` and of the runs in the folder `like`: those of `rule`, if it has any, else all."""
        if isinstance(activity, bool) or not isinstance(activity, int | float) or not 0 <= activity <= 1:
            raise ValueError(f"activity must be a fraction of ones, a number from 0 to 1, not {activity!r}")
        books: list[dict[str, Ledger]] = []
        if like is not None:
            runs = run_folders(Path(like))
            chosen = [folder for spec, _, folder in runs if spec == rule] or [folder for _, _, folder in runs]
            books = [ledgers.load(folder / "ledger.json") for folder in chosen]
        names = dict.fromkeys(name for book in books for name in book)
        known = {name: ledgers.merged(book[name] for book in books if name in book) for name in names}
        return cls(Fraction(activity), known, str(like))

    def assume(self, name: str, ledger: Ledger) -> dict[MessageType, str]:
        """Put ones and toggles into the ledger called `name`; where those of each type of message come from."""
        measured = self._measured(name)
        sources: dict[MessageType, str] = {}
        used: set[tuple[str, Direction]] = set()
        for message_type, traffic in ledger.counts.settle().traffic.items():
            bits, wire = traffic.messages * message_type.message_bits, (message_type.link, message_type.direction)
            if _key(message_type) in measured:
                traffic.ones, traffic.toggles = (round(rate * bits) for rate in measured[_key(message_type)])
                sources[message_type] = self.source
            else:
                compared = bits if wire in used else bits - message_type.message_bits  # none comes before the first
                traffic.ones = round(self.activity * bits)
                traffic.toggles = round(2 * self.activity * (1 - self.activity) * compared)
                sources[message_type] = f"activity {float(self.activity):g}"
            used.add(wire)
        return sources

    def _measured(self, name: str) -> dict[tuple[str, ...], tuple[Fraction, Fraction]]:
        """Ones and toggles a bit of each type of message in the runs' ledger called `name`."""
        measured = {}
        for message_type, traffic in self.known[name].traffic.items() if name in self.known else ():
            if bits := traffic.messages * message_type.message_bits:
                measured[_key(message_type)] = Fraction(traffic.ones, bits), Fraction(traffic.toggles, bits)
        return measured


def _key(message_type: MessageType) -> tuple[str, ...]:
    """What types of message have in common whose ones and toggles a bit are taken to be equal; not their width."""
    return tuple(str(getattr(message_type, name)) for name in _COMPARED)
