"""Optimizers: how parameters change by their gradients, for every rule. Each says what an update costs.

An optimizer is a dataclass with a method `change`, which writes one update in array operators that NumPy and torch
share, in place on the parameter and the state. It then works on every device, in ensembles and in recorded steps:

    >>> from dataclasses import dataclass
    >>> import numpy as np
    >>> from lowbit_dtp.optimizers import Optimizer
    >>> @dataclass
    ... class HeavyBall(Optimizer):
    ...     momentum: float = 0.9
    ...     operations = {"multiply": 2, "add": 2}
    ...     state_words = 1
    ...
    ...     def change(self, parameter, gradient, state, rate):
    ...         (velocity,) = state
    ...         velocity *= self.momentum
    ...         velocity += gradient
    ...         parameter -= rate * velocity
    >>> weight, optimizer = np.ones(3), HeavyBall(learning_rate=0.1)
    >>> for _ in range(2):
    ...     optimizer.update(("h1", "weight"), weight, np.array([0.0, 1.0, 2.0]))
    >>> weight.round(3).tolist()
    [1.0, 0.71, 0.42]

In `OPTIMIZERS`, it has a name in experiment files too. A backend may do the same update faster: see
`Backend.fused_update`.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from . import schedules
from .backends import Array, Backend, backend_of, multiplied
from .layers import Gradients
from .ledger import Direction, Ledger
from .network import Network
from .schedules import Schedule


@dataclass
class Optimizer(ABC):
    """A way to change parameters by their gradients. Feedback weights may have a learning rate of their own.

    Rates may be given for each member of an ensemble.
    """

    learning_rate: float | Sequence[float]
    feedback_learning_rate: float | Sequence[float] | None = None
    state: dict[tuple[str, str], tuple[Array, ...]] = field(default_factory=dict, repr=False)
    """What `change` keeps for each layer and parameter that has been updated."""
    schedule: Schedule | str | None = field(default=None, kw_only=True)
    """What multiplies the rates in each epoch, or how `schedules` spells it; None for nothing."""

    operations: ClassVar[dict[str, int]]
    """Arithmetic of one update of one number, by `ledger.OPERATIONS`."""
    state_words: ClassVar[int] = 0
    """Numbers kept for each number of a parameter."""
    state_numbers: ClassVar[int] = 0
    """Numbers kept for a parameter as a whole."""

    def __post_init__(self) -> None:
        for name in ("learning_rate", "feedback_learning_rate"):
            given = getattr(self, name)
            for rate in given if isinstance(given, Sequence) else [given]:
                if rate is not None and not 0 <= rate < np.inf:
                    raise ValueError(f"{name} must be a finite number, zero or more, not {rate}")
        if isinstance(self.schedule, str):
            self.schedule = schedules.parse(self.schedule)
        if not isinstance(self.schedule, Schedule | None):
            raise ValueError(f"schedule must be a text such as 'cosine(100)', or a Schedule, not {self.schedule!r}")

    def rate_factor(self, epoch: int) -> float:
        """What `schedule` multiplies the learning rates by after `epoch` completed epochs."""
        return self.schedule.factor(epoch) if isinstance(self.schedule, Schedule) else 1.0

    @abstractmethod
    def change(self, parameter: Array, gradient: Array, state: tuple[Array, ...], rate: Array) -> None:
        """Update `parameter` by its `gradient` of the same shape, in place, and `state` likewise.

        `state` holds `state_words` arrays like the parameter and then `state_numbers` arrays of one number with as
        many axes, which it may be multiplied by; all are zero before the first update. `rate` is the learning rate: a
        number or an array, to multiply by. What differs from update to update has to be in `state`.
        """

    def apply(self, net: Network, gradients: Gradients, ledger: Ledger, rate_factor: Array = 1.0) -> None:
        """Update every parameter of `net` that has a gradient, and then the copies that other layers have of it.

        `rate_factor` multiplies the learning rates: a number, as the method of this name gives it for an epoch, or a
        float64 array of one that a recorded step reads.
        """
        for (layer, name), gradient in gradients.items():
            net.layer(layer).update(name, gradient, self, ledger, rate_factor)
        net.synchronise(ledger, gradients.keys())

    def update(
        self,
        key: tuple[str, str],
        parameter: Array,
        gradient: Array,
        rate_factor: Array = 1.0,
        direction: Direction = Direction.FORWARD,
    ) -> None:
        """Change `parameter` in place; `key` names its layer and itself, `direction` is that of its signals."""
        xp = backend_of(parameter)
        if gradient.shape != parameter.shape:
            shapes = tuple(parameter.shape), tuple(gradient.shape)
            raise ValueError(f"a parameter of shape {shapes[0]} has no gradient of shape {shapes[1]}")
        if key not in self.state and self.state_words + self.state_numbers:
            self.state[key] = self._first_state(xp, parameter)
        rate = self.learning_rate
        if direction is Direction.FEEDBACK and self.feedback_learning_rate is not None:
            rate = self.feedback_learning_rate
        state = tuple(x if type(x) is type(parameter) else xp.traceable(x) for x in self.state.get(key, ()))
        given = parameter, gradient, state, xp.each(rate, parameter, rate_factor)
        fused = xp.fused_update(type(self).change)
        if fused is None or not fused(self, *given):
            self.change(parameter, multiplied(gradient), *given[2:])

    def _first_state(self, xp: Backend, parameter: Array) -> tuple[Array, ...]:
        shapes = [parameter.shape] * self.state_words + [(1,) * parameter.ndim] * self.state_numbers
        return tuple(xp.asarray(np.zeros(shape), parameter) for shape in shapes)


@dataclass
class RMSprop(Optimizer):
    """Centred RMSprop with momentum, as the thesis' scripts have it, after Graves (arXiv:1308.0850, eqs. 38-45).

    mean <- decay mean + (1 - decay) g; square likewise of g^2;
    velocity <- momentum velocity - rate g / sqrt(square - mean^2 + epsilon); parameter <- parameter + velocity.
    The epsilon is inside the root, so the scale of the loss matters.
    """

    decay: float = 0.95
    momentum: float = 0.9
    epsilon: float = 0.001

    operations = {"multiply": 8, "add": 6, "divide": 1, "square-root": 1}
    state_words = 3

    def change(self, parameter: Array, gradient: Array, state: tuple[Array, ...], rate: Array) -> None:
        mean, square, velocity = state
        sqrt = backend_of(parameter).sqrt
        mean[...] = self.decay * mean + (1 - self.decay) * gradient
        square[...] = self.decay * square + (1 - self.decay) * gradient**2
        velocity[...] = self.momentum * velocity - rate * gradient / sqrt(square - mean**2 + self.epsilon)
        parameter += velocity


@dataclass
class SGD(Optimizer):
    """Stochastic gradient descent: parameter <- parameter - rate g."""

    operations = {"multiply": 1, "add": 1}

    def change(self, parameter: Array, gradient: Array, state: tuple[Array, ...], rate: Array) -> None:
        parameter -= rate * gradient


@dataclass
class Adam(Optimizer):
    """Adam (Kingma and Ba, 2015, algorithm 1), with its bias correction and the epsilon outside the root.

    mean <- decay mean + (1 - decay) g; square likewise of g^2, with `square_decay`;
    parameter <- parameter - rate mean' / (sqrt(square') + epsilon), where mean' = mean / (1 - decay^t) after t updates,
    and square' likewise. The divisors are kept as moving averages of one, which they are.
    """

    decay: float = 0.9
    square_decay: float = 0.999
    epsilon: float = 1e-8

    operations = {"multiply": 6, "add": 4, "divide": 2, "square-root": 1}
    state_words = 2
    state_numbers = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("decay", "square_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be 0 or more and below 1, not {getattr(self, name)}")

    def change(self, parameter: Array, gradient: Array, state: tuple[Array, ...], rate: Array) -> None:
        mean, square, mean_of_one, square_of_one = state
        for average, decay, value in (
            (mean, self.decay, gradient),
            (square, self.square_decay, gradient * gradient),
            (mean_of_one, self.decay, 1),
            (square_of_one, self.square_decay, 1),
        ):
            average *= decay
            average += (1 - decay) * value
        root = backend_of(parameter).sqrt(square / square_of_one)
        parameter -= rate / mean_of_one * mean / (root + self.epsilon)


OPTIMIZERS: dict[str, type[Optimizer]] = {"rmsprop": RMSprop, "sgd": SGD, "adam": Adam}
"""Every optimizer, by name."""
