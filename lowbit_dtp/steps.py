"""The steps of a training run: each run in Python, or recorded and replayed without Python.

Nothing waits for a device before the end of an epoch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from .backends import Array, Factor, backend_of
from .choices import choose
from .data import Samples, order
from .ledger import Ledger
from .network import Network
from .optimizers import Optimizer
from .randomness import RandomStream
from .recording import LoopState, ReplayedStep
from .rules import LearningRule
from .rules.rule import StepContext
from .tasks import Task

MODES = {
    "plain": "every step in Python",
    "recorded": "each kind of step recorded once and replayed, as one call of machine code, or of a GPU",
    "compiled": "as recorded, with operations fused by torch.compile, which takes a while; for tensors",
    "auto": "recorded, or compiled if a run on a GPU is long; plain for few steps, NumPy ensembles, tensors on a CPU, "
    "and where codings are counted",
}
"""Modes that run the same steps."""


@dataclass
class Progress:
    """Progress of a run: what is needed, besides network and optimizer, to continue it."""

    epoch: int = 0
    """Epochs completed."""
    phase: int = 0
    """Index of the rule's pass over the data in the current epoch."""
    minibatch: int = 0
    """Minibatches done in that pass."""
    step: int = 0
    """Minibatches done in all."""
    loss: Array = field(default_factory=lambda: np.zeros(()))
    """Sum of the losses of this epoch's minibatches, float64; [members] of an ensemble."""
    losses: int = 0
    """How many there were."""
    ledger: Ledger = field(default_factory=Ledger)


def chosen_mode(mode: str, net: Network, steps: int) -> str:
    """`mode`, or what `auto` chooses for so many steps. Raises ValueError if the arrays of `net` have no such mode."""
    choose("mode", mode, MODES)
    like = net.layers[0].weight
    modes = backend_of(like).modes(like)
    if mode not in (*modes, "auto"):
        kind = f"{'ensembles' if net.members else 'networks'} of {type(like).__module__.split('.')[0]} {like.dtype}"
        raise ValueError(f"mode {mode!r} is not for {kind}; there are: {', '.join(modes)}")
    return backend_of(like).best_mode(like, steps) if mode == "auto" else mode


class Subject(NamedTuple):
    """The network that is trained, the samples, and the sum of the losses of an epoch."""

    net: Network
    samples: Samples
    loss: Array


@dataclass(frozen=True)
class Training:
    """The rule, the task and the settings of a training."""

    rule: LearningRule
    optimizer: Optimizer
    task: Task
    batch: int
    seed: int | Sequence[int]

    def step(
        self, subject: Subject, indices: Array | slice, context: StepContext, ledger: Ledger, rate_factor: Factor
    ) -> Array | None:
        """Train the network of `subject` on the samples at `indices`; the loss, which is added to its sum."""
        net, samples, total = subject
        inputs, labels = samples.part(indices)
        step = self.rule.step(net, inputs, self.task.target(inputs, labels), ledger, context)
        self.optimizer.apply(net, step.gradients, ledger, rate_factor, context.stream)
        for (layer, name), value in step.buffers.items():
            net.layer(layer).buffers[name][...] = value
        if step.loss is not None:
            total += step.loss
        return step.loss


class PlainSteps:
    """The steps of a run, each in Python."""

    def __init__(self, net: Network, samples: Samples, training: Training, progress: Progress) -> None:
        self.training, self.progress = training, progress
        self.like, output = net.like, net.layers[-1].weight
        self.xp = backend_of(self.like)
        if not progress.losses:
            seed = training.seed
            # where the output is: elsewhere, an array without numbers
            progress.loss = backend_of(output).moved(np.zeros(() if isinstance(seed, int) else len(seed)), output)
        self.given = Subject(net, samples, progress.loss)
        self.order: Array = np.zeros(0, np.int64)

    def moved(self, x: np.ndarray) -> Array:
        """`x` on the device of the network."""
        return self.xp.moved(x, self.like)

    @property
    def start(self) -> int:
        """Index of the next sample in the order of this pass."""
        return self.progress.minibatch * self.training.batch

    def begin(self, sweep: int) -> np.ndarray:
        """Shuffle the samples for a pass over them; the order, in NumPy."""
        count, seed = len(self.given.samples), self.training.seed
        if isinstance(seed, int):
            orders = order(count, seed, sweep)
        else:
            orders = np.stack([order(count, one, sweep) for one in seed])
        self.order = self.moved(orders)
        return orders

    def take(self, phase: str, rows: int) -> Array | None:
        """Train on the next `rows` samples; returns the loss."""
        progress, training = self.progress, self.training
        context = StepContext(progress.epoch, phase, RandomStream(training.seed, progress.step), training.task)
        indices, factor = (
            self.order[..., self.start : self.start + rows],
            training.optimizer.rate_factor(progress.epoch),
        )
        return training.step(self.given, indices, context, progress.ledger, factor)


class RecordedSteps(PlainSteps):
    """The steps of a run, each kind recorded after `patience` steps, and replayed from then on."""

    def __init__(
        self,
        net: Network,
        samples: Samples,
        training: Training,
        progress: Progress,
        compiled: bool = False,
        patience: int = 1,
    ) -> None:
        super().__init__(net, samples, training, progress)
        self.compiled, self.patience = compiled, patience
        self.taken: dict[tuple[str, int], int] = {}
        self.repeated: dict[tuple[str, int], ReplayedStep] = {}
        self.losses: dict[tuple[str, int], Array | None] = {}
        seen = self.xp.traceable
        stored = replace(samples, stored=seen(samples.stored), labels=seen(samples.labels))
        self.traced = Subject(net, stored, seen(progress.loss))
        self.loop = LoopState(lambda x: seen(self.moved(x)))
        self.loop_is_current = True
        self.gives_up = False
        """Whether steps are run in Python from now on."""
        self.rate_factor = seen(self.moved(np.ones(())))
        self._bind()

    def _bind(self) -> None:
        """Note the present parameters and settings, with which steps are recorded."""
        net, optimizer = self.given.net, self.training.optimizer
        self.bound = [(held, key, held[key]) for layer in net.layers for _, held, key in layer.slots()]
        self.settings = tuple(vars(optimizer).values())
        self.traced = self.traced._replace(net=net.each_array(self.xp.traceable))
        self.taken.clear()
        self.repeated.clear()
        self.rate_factor[...] = optimizer.rate_factor(self.progress.epoch)

    def _is_bound(self) -> bool:
        """Whether parameters are still the same arrays, and the optimizer's settings the same."""
        if self.settings != tuple(vars(self.training.optimizer).values()):
            return False
        return all(held[key] is x for held, key, x in self.bound)

    def begin(self, sweep: int) -> np.ndarray:
        orders, progress = super().begin(sweep), self.progress
        self.loop.begin(orders, self.start, progress.step, progress.epoch)
        self.rate_factor[...] = self.training.optimizer.rate_factor(progress.epoch)
        return orders

    def take(self, phase: str, rows: int) -> Array | None:
        if self.gives_up:
            return super().take(phase, rows)
        if not self._is_bound():
            self._bind()
        kind = phase, rows
        if self.taken.get(kind, 0) < self.patience and self.xp.checks:
            with self.progress.ledger.wires.in_place():  # where recorded steps find them
                loss = super().take(phase, rows)
            self.loop_is_current = False
            self.taken[kind] = self.taken.get(kind, 0) + 1
            if kind not in self.losses:
                self.losses[kind] = None if loss is None else self.xp.traceable(np.array(loss))
            return loss
        if not self.loop_is_current:
            self.loop.go_to(self.start, self.progress.step, self.progress.epoch)
            self.loop_is_current = True
        if kind not in self.repeated:
            self.repeated[kind] = self._recorder(kind)
        repeated = self.repeated[kind]
        repeated(self.progress.epoch)
        self.gives_up = repeated.plain
        loss = self.losses[kind]
        return None if loss is None else loss[()]

    def take_in_place(self, kind: tuple[str, int], ledger: Ledger) -> None:
        """A step that reads everything it depends on from arrays, and writes its loss to one."""
        (phase, rows), loop, training = kind, self.loop, self.training
        context = StepContext(loop.epoch, phase, RandomStream(training.seed, loop.step), training.task)
        factor = 1.0 if training.optimizer.schedule is None else self.rate_factor
        loss = training.step(self.traced, loop.indices(rows), context, ledger, factor)
        kept = self.losses.setdefault(kind, loss)
        if kept is not loss and kept is not None:
            kept[...] = loss
        loop.advance(rows)

    def _recorder(self, kind: tuple[str, int]) -> ReplayedStep:
        def changed() -> list[Array]:
            states = [x for arrays in self.training.optimizer.state.values() for x in arrays]
            losses = [loss for loss in self.losses.values() if loss is not None]
            return [*self.traced.net.tensors().values(), *states, self.traced.loss, *losses, *self.loop.changed()]

        def read() -> list[Array]:
            return [self.traced.samples.stored, self.traced.samples.labels, self.rate_factor, *self.loop.constants()]

        def work(ledger: Ledger) -> None:
            self.take_in_place(kind, ledger)

        self.loop.prepare(kind[1])
        compiled = self.compiled and kind[1] == self.training.batch
        return ReplayedStep(work, changed, read, self.xp, self.progress.ledger, compiled=compiled, warm=self.xp.checks)
