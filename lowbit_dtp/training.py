"""Training: a generator of steps, and the evaluation of a network. An ensemble is trained like a single network.

The module `steps` runs each step.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from .backends import Array, backend_of
from .backends.shapes import ShapeArray
from .data import Samples
from .ledger import Ledger
from .links import Signal
from .network import Network
from .optimizers import Optimizer
from .randomness import RandomStream
from .recording import LoopState, ReplayedStep
from .rules import LearningRule
from .steps import MODES as MODES
from .steps import PlainSteps, RecordedSteps, Training, chosen_mode
from .steps import Progress as Progress
from .tasks import TASKS, Classify, Task, score

EVALUATION_BATCH = 1000
"""Samples in a minibatch of an evaluation."""


@dataclass(frozen=True)
class Trained:
    """One step that was taken."""

    epoch: int
    phase: str
    loss: Array | None
    """Mean loss of the minibatch, if the phase computes it. The next step may overwrite it."""
    epoch_ends: bool
    """Whether this was the last step of an epoch."""
    epoch_loss: Array | None
    """At the end of an epoch, the mean loss over its minibatches, during training; None if there was no loss."""


def fit(
    net: Network,
    rule: LearningRule,
    optimizer: Optimizer,
    samples: Samples,
    epochs: int,
    batch: int = 100,
    seed: int | Sequence[int] = 0,
    progress: Progress | None = None,
    mode: str = "auto",
    task: Task | None = None,
) -> Iterator[Trained]:
    """Train `net` on `samples` by `rule`, yielding after each step.

    `net`, `optimizer` and `progress` are changed in place, so the caller may evaluate, log, save or stop at any step;
    called again with all three, it continues where it stopped. Everything that crosses a link or is computed is counted
    in `progress.ledger`. `net.links` are as built; the rule derives its training links from them.

    An ensemble takes a sequence of seeds, one for each member, and `samples` once, for all. Network and samples are on
    the same device. `mode` is one of `MODES`; `task` is by default the first of the tasks of the rule.

    Where the ledger counts codings, steps are plain, in whichever mode.

    Raises ValueError if the rule cannot learn the task, or the network lacks what the rule needs.
    """
    progress = Progress() if progress is None else progress
    if batch < 1:
        raise ValueError(f"batch must be 1 or more samples, not {batch}")
    if (None if isinstance(seed, int) else len(seed)) != net.members:
        needed = f"{net.members} seeds, one for each member" if net.members else "a whole number for a single network"
        raise ValueError(f"seed must be {needed}, not {seed}")
    task = TASKS[rule.tasks[0]] if task is None else task
    if task.name not in rule.tasks:
        raise ValueError(f"{rule.name} does not learn to {task.name}; it learns to {', '.join(rule.tasks)}")
    if isinstance(seed, int):
        rule.prepare(net, seed)
    trainee, phases, ledger = net.with_links(rule.training_links(net.links)), rule.phases, progress.ledger
    members, count = net.members or 1, len(samples)
    ledger.runs = members
    like = net.layers[0].weight
    chosen = chosen_mode(mode, net, (epochs - progress.epoch) * len(phases) * (count // batch))
    if ledger.codings and chosen != "plain":
        if mode != "auto":
            warnings.warn(f"codings are counted in Python, so steps are plain, not {mode}", stacklevel=2)
        chosen = "plain"
    training = Training(rule, optimizer, task, batch, seed)
    steps: Callable[..., PlainSteps] = PlainSteps
    if chosen != "plain":
        patience = backend_of(like).patience if mode == "auto" else 1
        steps = partial(RecordedSteps, compiled=chosen == "compiled", patience=patience)
    taking = steps(trainee, samples, training, progress)
    while progress.epoch < epochs:
        phase, last_phase = phases[progress.phase], progress.phase == len(phases) - 1
        taking.begin(progress.epoch * len(phases) + progress.phase)
        for start in range(progress.minibatch * batch, count, batch):
            rows = min(batch, count - start)
            loss = taking.take(phase, rows)
            progress.minibatch += 1
            progress.step += 1
            progress.losses += loss is not None
            ledger.steps += members
            ledger.samples += members * rows * last_phase
            ledger.batch = max(ledger.batch, rows)
            epoch, mean = progress.epoch, None
            pass_ends = start + rows == count
            if pass_ends:
                progress.minibatch, progress.phase = 0, (progress.phase + 1) % len(phases)
                progress.epoch += last_phase
                ledger.epochs += members * last_phase
            if pass_ends and last_phase:
                mean = progress.loss / progress.losses if progress.losses else None
                progress.loss[...] = 0
                progress.losses = 0
            yield Trained(epoch, phase, loss, pass_ends and last_phase, mean)


class Evaluator:
    """Evaluates a network on samples, repeatedly; on a device that records, the evaluation is recorded once.

    `net` may be trained between calls; its links must not change. Its outputs are those of `rule.infer`, or without a
    rule, of a forward pass.
    """

    def __init__(
        self,
        net: Network,
        samples: Samples,
        batch: int = EVALUATION_BATCH,
        mode: str = "auto",
        task: Task | None = None,
        rule: LearningRule | None = None,
    ) -> None:
        self.net, self.samples, self.batch = net, samples, batch
        self.task = Classify() if task is None else task
        self._infer = LearningRule.infer if rule is None else type(rule).infer
        self._rule: Any = rule
        self._like = net.layers[-1].weight
        self._xp = backend_of(self._like)
        self._total = self._zeros()
        self._loop: LoopState | None = None
        if chosen_mode(mode, net, 0) != "plain":
            self._loop = LoopState(self._moved)
            self._loop.begin(np.arange(len(samples)))
        self._repeated: dict[int, ReplayedStep] = {}

    def __call__(self, ledger: Ledger | None = None) -> Any:
        """The score of the task; for classes, the percentage of samples in the wrong class. A number, or [members].

        None if the outputs are arrays without numbers, as on a rank that does not have the output layer.
        What inference sends and computes is counted in `ledger`, if given.
        """
        members, count = self.net.members or 1, len(self.samples)
        starts, counted = range(0, count, self.batch), Ledger() if ledger is None else ledger
        if self._loop is not None and ledger is None:
            self._loop.start[...], self._total[...] = 0, 0
            for start in starts:
                self._recorded(self._loop, min(self.batch, count - start))()
            total = self._total
        else:
            total = self._zeros()
            for start in starts:
                total += self._distance(slice(start, start + self.batch), start, counted)
        counted.runs = members
        counted.epochs += members
        counted.steps += members * len(starts)
        counted.samples += members * count
        if isinstance(total, ShapeArray):
            return None
        mean = score(self.task, self._xp.numpy(total), np.float64(count))
        return mean.item() if self.net.members is None else mean

    def _moved(self, x: np.ndarray) -> Array:
        return self._xp.moved(x, self._like)

    def _zeros(self) -> Array:
        return self._moved(np.zeros(self.net.members or (), np.int64 if self.task.counts else np.float64))

    def _distance(self, which: Any, start: Any, ledger: Ledger) -> Array:
        """Sum of the task's distances over `which` samples; `start` is the first of them."""
        inputs, labels = self.samples.part(which)
        stream, members = RandomStream(0, start), self.net.members
        if members is not None:
            stream = RandomStream((0,) * members, start)
            if isinstance(inputs, Signal):
                inputs = replace(inputs, carried=self._xp.shared(inputs.carried, members), made={})
            else:
                inputs = self._xp.shared(inputs, members)
        output = self._infer(self._rule, self.net, inputs, ledger, stream)
        return self.task.distance(output, self.task.target(inputs, labels))

    def _recorded(self, loop: LoopState, rows: int) -> ReplayedStep:
        def work(ledger: Ledger) -> None:
            self._total += self._distance(loop.indices(rows), loop.start, ledger)
            loop.advance(rows)

        def changed() -> list[Array]:
            return [self._total, *loop.changed()]

        def arrays() -> list[Array]:
            return [*self.net.tensors().values(), self.samples.stored, self.samples.labels, *loop.constants()]

        if rows not in self._repeated:
            loop.prepare(rows)
            self._repeated[rows] = ReplayedStep(work, changed, arrays, self._xp, None, compiled=False)
        return self._repeated[rows]


def evaluate(
    net: Network,
    samples: Samples,
    ledger: Ledger | None = None,
    batch: int = EVALUATION_BATCH,
    task: Task | None = None,
    rule: LearningRule | None = None,
) -> Any:
    """Percentage of `samples` that `net`, with its present links, puts in the wrong class.

    For another `task`, its score. With a `rule`, the outputs are those of `rule.infer`. A number, or an
    array [members] of an ensemble. What inference sends and computes is counted in `ledger`, if given.
    """
    return Evaluator(net, samples, batch, "plain", task, rule)(ledger)
