"""Training: a generator of steps, and the test of what came out."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from .backends import Array
from .data import Samples, minibatches
from .ledger import Ledger
from .network import Network
from .optimizers import Optimizer
from .randomness import Draws
from .rules import LearningRule
from .rules.rule import Moment


@dataclass
class Progress:
    """How far a run has come: what, beside network and optimizer, it takes to go on."""

    epoch: int = 0
    """Epochs completed."""
    phase: int = 0
    """Which of the rule's passes over the data the current epoch is in."""
    minibatch: int = 0
    """Minibatches done in that pass."""
    step: int = 0
    """Minibatches done in all."""
    ledger: Ledger = field(default_factory=Ledger)


@dataclass(frozen=True)
class Trained:
    """One step that was taken."""

    epoch: int
    phase: str
    loss: Array | None
    epoch_ends: bool
    """Whether this was the last step of an epoch."""


def fit(
    net: Network,
    rule: LearningRule,
    optimizer: Optimizer,
    samples: Samples,
    epochs: int,
    batch: int = 100,
    seed: int = 0,
    progress: Progress | None = None,
) -> Iterator[Trained]:
    """Train `net` on `samples` by `rule`, yielding after each step.

    `net`, `optimizer` and `progress` change as it goes, so the caller may evaluate, log, save or stop at any step; with
    all three as they were, it goes on where it stopped. Everything that crosses a link or is computed is counted in
    `progress.ledger`. `net.links` are as built; the rule makes of them what it trains with.
    """
    progress = Progress() if progress is None else progress
    if batch < 1:
        raise ValueError(f"batch must be 1 or more samples, not {batch}")
    trainee, phases, ledger = net.with_links(rule.training_links(net.links)), rule.phases, progress.ledger
    while progress.epoch < epochs:
        phase, last_phase = phases[progress.phase], progress.phase == len(phases) - 1
        order = list(minibatches(len(samples.labels), batch, seed, progress.epoch * len(phases) + progress.phase))
        for indices in order[progress.minibatch :]:
            moment = Moment(progress.epoch, phase, Draws(seed, progress.step))
            step = rule.step(trainee, *samples.part(indices), ledger, moment)
            optimizer.apply(trainee, step.gradients, ledger)
            progress.minibatch += 1
            progress.step += 1
            ledger.steps += 1
            ledger.samples += len(indices) * last_phase
            epoch = progress.epoch
            pass_ends = progress.minibatch == len(order)
            if pass_ends:
                progress.minibatch, progress.phase = 0, (progress.phase + 1) % len(phases)
                progress.epoch += last_phase
                ledger.epochs += last_phase
            yield Trained(epoch, phase, step.loss, pass_ends and last_phase)


def evaluate(net: Network, samples: Samples, ledger: Ledger | None = None, batch: int = 1000) -> float:
    """Share of `samples` that `net`, with its links as they are, puts in the wrong class, in percent.

    What inference sends and computes is counted in `ledger`, if given.
    """
    ledger = Ledger() if ledger is None else ledger
    wrong = 0
    for start in range(0, len(samples.labels), batch):
        pixels, labels = samples.part(slice(start, start + batch))
        guess = net.classify(pixels, ledger, Draws(0, start))
        wrong += int((guess != labels).sum())
        ledger.steps += 1
        ledger.samples += len(labels)
    ledger.epochs += 1
    return 100 * wrong / np.float64(len(samples.labels)).item()
