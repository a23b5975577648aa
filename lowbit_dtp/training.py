"""Training: a generator of steps, and the test of what came out. An ensemble is trained as one network is.

Each kind of step is written down once and repeated without Python, where that can be. Nothing waits for a device before
the end of an epoch.
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from .backends import Array, backend_of
from .choices import choose
from .data import Samples, order
from .ledger import Ledger
from .links import Signal
from .network import Network
from .optimizers import Optimizer
from .randomness import RandomStream
from .recording import LoopState, ReplayedStep
from .rules import LearningRule
from .rules.rule import StepContext
from .tasks import Classify, Task, score

MODES = {
    "plain": "every step as it is written, in Python",
    "recorded": "each kind of step written down once and repeated, as one call of machine code, or of a GPU",
    "compiled": "the same, its operations fused by torch.compile, which takes a while; for tensors",
    "auto": "recorded, or compiled if a run on a GPU is long; plain for few steps, NumPy ensembles, tensors on a CPU",
}
"""Ways to do the same steps."""


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
    loss: Array = field(default_factory=lambda: np.zeros(()))
    """Sum of the losses of this epoch's minibatches, float64; [members] of an ensemble."""
    losses: int = 0
    """How many there were."""
    ledger: Ledger = field(default_factory=Ledger)


@dataclass(frozen=True)
class Trained:
    """One step that was taken."""

    epoch: int
    phase: str
    loss: Array | None
    """Mean loss of the minibatch, if the phase comes to it. The next step may write over it."""
    epoch_ends: bool
    """Whether this was the last step of an epoch."""
    epoch_loss: Array | None
    """At the end of an epoch, the mean over its minibatches, as the network was at each; None if there was no loss."""


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

    `net`, `optimizer` and `progress` change as it goes, so the caller may evaluate, log, save or stop at any step; with
    all three as they were, it goes on where it stopped. Everything that crosses a link or is computed is counted in
    `progress.ledger`. `net.links` are as built; the rule makes of them what it trains with.

    An ensemble takes a sequence of seeds, one for each member, and `samples` once, for all. Network and samples are on
    the same device. `mode` is one of `MODES`, `task` what the network learns: by default, to classify.

    Raises ValueError if the rule does not learn the task, or lacks what it needs.
    """
    progress = Progress() if progress is None else progress
    if batch < 1:
        raise ValueError(f"batch must be 1 or more samples, not {batch}")
    if (None if isinstance(seed, int) else len(seed)) != net.members:
        needed = f"{net.members} seeds, one for each member" if net.members else "a whole number for a single network"
        raise ValueError(f"seed must be {needed}, not {seed}")
    task = Classify() if task is None else task
    if task.name not in rule.tasks:
        raise ValueError(f"{rule.name} does not learn to {task.name}; it learns to {', '.join(rule.tasks)}")
    if isinstance(seed, int):
        rule.prepare(net, seed)
    trainee, phases, ledger = net.with_links(rule.training_links(net.links)), rule.phases, progress.ledger
    members, count = net.members or 1, len(samples)
    ledger.runs = members
    like = net.layers[0].weight
    chosen = _chosen(mode, net, (epochs - progress.epoch) * len(phases) * (count // batch))
    patience = backend_of(like).patience if mode == "auto" else 1
    steps = _Steps(trainee, rule, optimizer, samples, batch, seed, progress, chosen, patience, task)
    while progress.epoch < epochs:
        phase, last_phase = phases[progress.phase], progress.phase == len(phases) - 1
        steps.begin(progress.epoch * len(phases) + progress.phase)
        for start in range(progress.minibatch * batch, count, batch):
            rows = min(batch, count - start)
            loss = steps.take(phase, rows)
            progress.minibatch += 1
            progress.step += 1
            progress.losses += loss is not None
            ledger.steps += members
            ledger.samples += members * rows * last_phase
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


def _chosen(mode: str, net: Network, steps: int) -> str:
    """What `auto` is for a run of so many steps. Raises ValueError if the arrays of `net` have no such mode."""
    choose("mode", mode, MODES)
    like = net.layers[0].weight
    modes = backend_of(like).modes(like)
    if mode not in (*modes, "auto"):
        kind = f"{'ensembles' if net.members else 'networks'} of {type(like).__module__.split('.')[0]} {like.dtype}"
        raise ValueError(f"mode {mode!r} is not for {kind}; there are: {', '.join(modes)}")
    return backend_of(like).best_mode(like, steps) if mode == "auto" else mode


class _Subject(NamedTuple):
    """What is trained, on what, and where the losses of an epoch are summed."""

    net: Network
    samples: Samples
    loss: Array


class _Steps:
    """The steps of a run, taken as they are written, or recorded once they have been taken `patience` times."""

    def __init__(
        self,
        net: Network,
        rule: LearningRule,
        optimizer: Optimizer,
        samples: Samples,
        batch: int,
        seed: int | Sequence[int],
        progress: Progress,
        mode: str,
        patience: int = 1,
        task: Task | None = None,
    ) -> None:
        self.task = Classify() if task is None else task
        self.rule, self.optimizer, self.batch, self.seed = rule, optimizer, batch, seed
        self.progress, self.mode, self.patience = progress, mode, patience
        self.like = net.layers[0].weight
        self.xp = backend_of(self.like)
        if not progress.losses:
            progress.loss = self._moved(np.zeros(() if isinstance(seed, int) else len(seed)))
        self.given = _Subject(net, samples, progress.loss)
        self.order = np.zeros(0, np.int64)
        self.loop: LoopState | None = None
        self.loop_is_current = True
        self.taken: dict[tuple[str, int], int] = {}
        self.repeated: dict[tuple[str, int], ReplayedStep] = {}
        self.losses: dict[tuple[str, int], Array] = {}
        if mode != "plain":
            seen = self.xp.traceable
            stored = replace(samples, stored=seen(samples.stored), labels=seen(samples.labels))
            self.traced = _Subject(net, stored, seen(progress.loss))
            self.loop = LoopState(lambda x: seen(self._moved(x)))
            self._bind()

    def _bind(self) -> None:
        """Take parameters and settings as they are now, for steps that are recorded with them."""
        net = self.given.net
        self.bound = [(held, key, held[key]) for layer in net.layers for _, held, key in layer.slots()]
        self.settings = tuple(vars(self.optimizer).values())
        self.traced = self.traced._replace(net=net.each_array(self.xp.traceable))
        self.taken.clear()
        self.repeated.clear()

    def _is_bound(self) -> bool:
        """Whether no one has put other arrays in the place of parameters, or changed the optimizer's settings."""
        if self.settings != tuple(vars(self.optimizer).values()):
            return False
        return all(held[key] is x for held, key, x in self.bound)

    def _moved(self, x: np.ndarray) -> Array:
        return self.xp.moved(x, self.like)

    def begin(self, sweep: int) -> None:
        """Shuffle the samples for a pass over them."""
        count = len(self.given.samples)
        if isinstance(self.seed, int):
            orders = order(count, self.seed, sweep)
        else:
            orders = np.stack([order(count, seed, sweep) for seed in self.seed])
        self.order = self._moved(orders)
        if self.loop is not None:
            progress = self.progress
            self.loop.begin(orders, progress.minibatch * self.batch, progress.step, progress.epoch)

    def take(self, phase: str, rows: int) -> Array | None:
        """Train on the next `rows` samples; returns the loss."""
        kind, loop = (phase, rows), self.loop
        if loop is None:
            return self._take_as_written(phase, rows)
        if not self._is_bound():
            self._bind()
        if self.taken.get(kind, 0) < self.patience and self.xp.checks:
            loss = self._take_as_written(phase, rows)
            self.taken[kind] = self.taken.get(kind, 0) + 1
            if kind not in self.losses:
                self.losses[kind] = None if loss is None else self.xp.traceable(np.array(loss))
            return loss
        if not self.loop_is_current:
            loop.go_to(self.progress.minibatch * self.batch, self.progress.step, self.progress.epoch)
            self.loop_is_current = True
        if kind not in self.repeated:
            self.repeated[kind] = self._recorder(loop, kind)
        repeated = self.repeated[kind]
        repeated(self.progress.epoch)
        if repeated.plain:
            self.loop = None
        loss = self.losses[kind]
        return None if loss is None else loss[()]

    def _take_as_written(self, phase: str, rows: int) -> Array | None:
        progress, start = self.progress, self.progress.minibatch * self.batch
        self.loop_is_current = False
        context = StepContext(progress.epoch, phase, RandomStream(self.seed, progress.step), self.task)
        with progress.ledger.wires.in_place() if self.loop else nullcontext():  # where recorded steps find them
            return self._step(self.given, self.order[..., start : start + rows], context, progress.ledger)

    def _take_in_place(self, loop: LoopState, kind: tuple[str, int], ledger: Ledger) -> None:
        """A step that finds all that it depends on in arrays, and leaves its loss in one."""
        phase, rows = kind
        context = StepContext(loop.epoch, phase, RandomStream(self.seed, loop.step), self.task)
        loss = self._step(self.traced, loop.indices(rows), context, ledger)
        if kind not in self.losses:
            self.losses[kind] = loss
        elif loss is not None:
            self.losses[kind][...] = loss
        loop.advance(rows)

    def _recorder(self, loop: LoopState, kind: tuple[str, int]) -> ReplayedStep:
        def changed() -> list[Array]:
            states = [x for arrays in self.optimizer.state.values() for x in arrays]
            losses = [loss for loss in self.losses.values() if loss is not None]
            return [*self.traced.net.tensors().values(), *states, self.traced.loss, *losses, *loop.changed()]

        def read() -> list[Array]:
            return [self.traced.samples.stored, self.traced.samples.labels, *loop.constants()]

        def work(ledger: Ledger) -> None:
            self._take_in_place(loop, kind, ledger)

        loop.prepare(kind[1])
        compiled = self.mode == "compiled" and kind[1] == self.batch
        return ReplayedStep(work, changed, read, self.xp, self.progress.ledger, compiled=compiled, warm=self.xp.checks)

    def _step(self, subject: _Subject, indices: Array, context: StepContext, ledger: Ledger) -> Array | None:
        net, samples, total = subject
        inputs, labels = samples.part(indices)
        step = self.rule.step(net, inputs, self.task.target(inputs, labels), ledger, context)
        self.optimizer.apply(net, step.gradients, ledger)
        for (layer, name), value in step.buffers.items():
            net.layer(layer).buffers[name][...] = value
        if step.loss is not None:
            total += step.loss
        return step.loss


class Evaluator:
    """The test of a network on samples, as often as one likes; on a device that records, written down once for all.

    `net` may be trained in the meantime; its links stay as they are. It is used as `rule` says; without one, in a
    forward pass.
    """

    def __init__(
        self,
        net: Network,
        samples: Samples,
        batch: int = 1000,
        mode: str = "auto",
        task: Task | None = None,
        rule: LearningRule | None = None,
    ) -> None:
        self.net, self.samples, self.batch = net, samples, batch
        self.task = Classify() if task is None else task
        self._infer = LearningRule.infer if rule is None else type(rule).infer
        self._rule: Any = rule
        self._like = net.layers[0].weight
        self._xp = backend_of(self._like)
        self._total = self._zeros()
        self._loop: LoopState | None = None
        if _chosen(mode, net, 0) != "plain":
            self._loop = LoopState(self._moved)
            self._loop.begin(np.arange(len(samples)))
        self._repeated: dict[int, ReplayedStep] = {}

    def __call__(self, ledger: Ledger | None = None) -> Any:
        """The task's score: of classes, the share of samples in the wrong one, in percent. A number, or [members].

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
        mean = score(self.task, self._xp.numpy(total), np.float64(count))
        return mean.item() if self.net.members is None else mean

    def _moved(self, x: np.ndarray) -> Array:
        return self._xp.moved(x, self._like)

    def _zeros(self) -> Array:
        return self._moved(np.zeros(self.net.members or (), np.int64 if self.task.counts else np.float64))

    def _distance(self, which: Any, start: Any, ledger: Ledger) -> Array:
        """Sum of the task's distances of `which` samples, of which `start` is the first."""
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
    batch: int = 1000,
    task: Task | None = None,
    rule: LearningRule | None = None,
) -> Any:
    """Share of `samples` that `net`, with its links as they are, puts in the wrong class, in percent.

    Of another `task`, its score. The network is used as `rule` says, if given: one that settles, say. A number, or an
    array [members] of an ensemble. What inference sends and computes is counted in `ledger`, if given.
    """
    return Evaluator(net, samples, batch, "plain", task, rule)(ledger)
