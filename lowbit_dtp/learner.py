"""A core that learns, exported with what training in Python sends and learns in its first steps."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from export import learning
from export.learning import LearningCore

from . import integers
from .data import DataSet, order
from .experiment import Experiment
from .formats import binary
from .ledger import Direction
from .links import Link, Signal
from .network import Network
from .optimizers import ShiftSGD
from .projections import Integer
from .rules.integer_dtp import IntegerDTP
from .training import Progress, Trained, fit


@dataclass(frozen=True)
class _ListeningLink(Link):
    """A link that keeps the codes of every message, by link, direction and purpose."""

    heard: dict[tuple[str, str, str], list[Any]] = field(default_factory=dict, compare=False)

    def send(self, x: Any, direction: Direction, purpose: str, *rest: Any, **more: Any) -> Signal:
        signal = super().send(x, direction, purpose, *rest, **more)
        self.heard.setdefault((self.name, str(direction), purpose), []).append(np.array(signal.codes))
        return signal


@dataclass(frozen=True)
class Training:
    """The first steps of a training by `integer-dtp`, as a core takes them."""

    core: LearningCore
    samples: Any
    """[samples, inputs]: what the codes of the inputs stand for."""
    labels: Any
    ends: Sequence[int]
    """Indices of the last samples of minibatches."""
    codes: Any
    """[samples, codes] of all messages of a sample."""
    trained: Any
    """Weights after that, flat."""
    progress: Progress

    def write(self, folder: Path) -> None:
        """Write the core and its test bench into `folder`, in place of an earlier export."""
        ledger = self.progress.ledger
        asked = [(m.link, Direction(m.direction), m.purpose) for m in self.core.messages]
        traffic = [(int(ledger.bits(*which)), int(ledger.ones(*which))) for which in asked]
        golden = self.core.golden(self.samples, self.labels, self.ends, self.codes, self.trained)
        learning.write(folder, self.core, golden, traffic)


def first_steps(experiment: Experiment, data: DataSet, steps: int) -> Training:
    """Train `experiment` from its first weights for `steps` minibatches, and keep what crosses.

    ValueError if its rule is not integer-dtp, no layer is hidden, a link between hidden layers is not binary, or it has
    fewer steps.
    """
    if len(experiment.sizes) < 3:
        sizes = "-".join(map(str, experiment.sizes))
        raise ValueError(f"a core that learns needs a hidden layer; {sizes} has none")
    net, rule, optimizer = experiment.built()
    if not isinstance(rule, IntegerDTP) or not isinstance(optimizer, ShiftSGD):
        raise ValueError(f"a core that learns needs the rule integer-dtp and the optimizer shift-sgd, not {rule.name}")
    heard: dict[tuple[str, str, str], list[Any]] = {}
    made = rule.training_links(net.links)
    for link in made[1:]:
        if link.forward != binary or (link is not made[-1] and link.feedback != binary):
            raise ValueError(f"link {link.name}: a core that learns sends binary activations and targets, not others")
    core = _core(net, rule, optimizer, made, experiment.seed)
    net.links = [_ListeningLink(x.forward, x.feedback, x.lower, x.upper, x.label, heard) for x in net.links]
    progress, labels, ends = Progress(), [], []
    for taken, step in enumerate(_training(net, rule, optimizer, experiment, data, progress), 1):
        rows = len(heard[made[0].name, "forward", "activations"][-1])
        start = sum(map(len, labels)) % len(data.train)
        labels.append(data.train.labels[order(len(data.train), experiment.seed, step.epoch)[start : start + rows]])
        ends.append(sum(map(len, labels)) - 1)
        if taken == steps:
            break
    else:
        raise ValueError(f"steps: the experiment has {progress.step}, not {steps}; give it more epochs")
    codes = [np.concatenate(heard[m.link, m.direction, m.purpose]) for m in core.messages]
    arrived = np.concatenate(heard[made[0].name, "forward", "activations"])
    samples = integers.decode(arrived, made[0].forward).astype(np.int64)
    trained = core.flat({key: net.layer(key[0]).arrays()[key[1]] for key in core.weights})
    return Training(
        core=core,
        samples=samples,
        labels=np.concatenate(labels).astype(np.int64),
        ends=ends,
        codes=np.concatenate(codes, 1).astype(np.int64),
        trained=trained,
        progress=progress,
    )


def _training(
    net: Network, rule: IntegerDTP, optimizer: ShiftSGD, experiment: Experiment, data: DataSet, progress: Progress
) -> Iterator[Trained]:
    return fit(
        net, rule, optimizer, data.train, experiment.epochs, experiment.batch, experiment.seed, progress, "plain"
    )


def _core(net: Network, rule: IntegerDTP, optimizer: ShiftSGD, links: Sequence[Link], seed: int) -> LearningCore:
    weights = {
        (layer.name, name): np.array(layer.arrays()[name])
        for layer in net.layers
        for name in ("weight", "feedback")
        if name in layer.arrays()
    }
    projection = net.layers[0].projection
    assert isinstance(projection, Integer)
    directions = {"weight": Direction.FORWARD, "feedback": Direction.FEEDBACK}
    return LearningCore(
        sizes=net.sizes,
        weights=weights,
        weight_bits=rule.weight_bits,
        fraction_bits=projection.fraction_bits,
        rates={key: optimizer.shift(key, directions[key[1]]) for key in weights},
        input_fraction_bits=integers.levels_of(links[0].forward).fraction_bits,
        error_fraction_bits=integers.levels_of(links[-1].feedback).fraction_bits,
        target_shift=rule.target_shift,
        noise_shift=rule.noise_shift,
        seed=seed,
        powers=integers.POWERS,
    )
