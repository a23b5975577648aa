"""Optimizers: how gradients change parameters, for every rule. Each declares the operations of an update.

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

An entry in `OPTIMIZERS` gives it a name in experiment files. A backend may compute the same update faster: see
`Backend.fused_update`.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

import numpy as np

from . import schedules
from .backends import Array, Backend, Factor, Gradient, Key, backend_of, multiplied
from .layers import Gradients
from .ledger import Direction, Ledger
from .network import Network
from .randomness import RandomStream
from .schedules import Schedule

State: TypeAlias = dict[tuple[str, str], tuple[Array, ...]]
"""Arrays that an optimizer keeps, by the names of a layer and of its parameter."""


@dataclass
class Optimizer(ABC):
    """Changes parameters by their gradients. Feedback weights may have a separate learning rate.

    Rates may be given for each member of an ensemble.
    """

    learning_rate: float | Sequence[float]
    feedback_learning_rate: float | Sequence[float] | None = None
    state: State = field(default_factory=dict, repr=False)
    """What `change` keeps for each layer and parameter that has been updated."""
    schedule: Schedule | str | None = field(default=None, kw_only=True)
    """Schedule of the learning rates, or its spelling (see `schedules`); None for constant rates."""

    keeps_master: ClassVar[bool] = True
    """Whether few-bit weights are trained through a float master copy; else binary ones have a method `flip`."""
    state_numbers: ClassVar[int] = 0
    """Numbers kept for a parameter as a whole."""
    draws: ClassVar[bool] = False
    """Whether `change` has a last argument for random numbers: a `backends.Key`, for `Backend.bits` for example."""
    integer: ClassVar[bool] = False
    """Whether parameters are whole numbers, rather than floats."""

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

    @property
    @abstractmethod
    def operations(self) -> dict[str, int]:
        """Operations of one update of one number, by their names in `ledger.OPERATIONS`."""

    @property
    def state_words(self) -> int:
        """Numbers kept for each number of a parameter."""
        return 0

    def rate_factor(self, epoch: int) -> float:
        """Factor of the learning rates after `epoch` completed epochs."""
        return self.schedule.factor(epoch) if isinstance(self.schedule, Schedule) else 1.0

    @abstractmethod
    def change(self, parameter: Array, gradient: Array, state: tuple[Array, ...], rate: Factor) -> None:
        """Update `parameter` by its `gradient` of the same shape, in place, and `state` likewise.

        `state` holds `state_words` arrays like the parameter and then `state_numbers` arrays of one number with as
        many axes, which it may be multiplied by; all are zero before the first update. `rate` is the learning rate: a
        number or an array, to multiply by. Everything that differs from update to update must be in `state`.
        """

    def apply(
        self,
        net: Network,
        gradients: Gradients,
        ledger: Ledger,
        rate_factor: Factor = 1.0,
        stream: RandomStream | None = None,
    ) -> None:
        """Update every parameter of `net` that has a gradient, and then the copies of it in other layers.

        `rate_factor` multiplies the learning rates: a number, as the method `rate_factor` returns it for an epoch, or a
        float64 array of one number that a recorded step reads. `stream` has the random numbers of the step, for
        optimizers that draw.
        """
        layers = {layer.name: layer for layer in net.layers}
        for (layer, name), gradient in gradients.items():
            layers[layer].update(name, gradient, self, ledger, rate_factor, stream)
        net.synchronise(ledger, gradients.keys())

    def update(
        self,
        key: tuple[str, str],
        parameter: Array,
        gradient: Gradient,
        rate_factor: Factor = 1.0,
        direction: Direction = Direction.FORWARD,
        stream: RandomStream | None = None,
    ) -> None:
        """Change `parameter` in place; `key` is the names of its layer and array, `direction` that of its signals.

        `stream` has the random numbers of the step; by default, those of step 0 of seed 0.
        """
        xp = backend_of(parameter)
        if gradient.shape != parameter.shape:
            shapes = tuple(parameter.shape), tuple(gradient.shape)
            raise ValueError(f"a parameter of shape {shapes[0]} has no gradient of shape {shapes[1]}")
        if key not in self.state and self.state_words + self.state_numbers:
            self.state[key] = self._first_state(xp, parameter)
        if xp.is_floating(parameter) == self.integer:
            kind, wanted = type(self).__name__, "int8 or int16" if self.integer else "floating-point"
            raise ValueError(f"{kind} changes {wanted} weights, not {'.'.join(key)} of type {parameter.dtype}")
        state = self.state.get(key, ())
        if state and type(state[0]) is not type(parameter):
            state = tuple(map(xp.traceable, state))
        given: tuple[Any, ...] = parameter, gradient, state, self._rate(key, parameter, rate_factor, direction)
        if self.draws:
            given = *given, (stream or RandomStream(0)).key(f"update {'.'.join(key)}")
        fused = xp.fused_update(type(self).change)
        if fused is None or not fused(self, *given):
            self.change(parameter, multiplied(gradient), *given[2:])

    def _rate(self, key: tuple[str, str], parameter: Array, factor: Factor, direction: Direction) -> Factor:
        """The argument `rate` of `change`."""
        rate = self.learning_rate
        if direction is Direction.FEEDBACK and self.feedback_learning_rate is not None:
            rate = self.feedback_learning_rate
        return backend_of(parameter).each(rate, parameter, factor)

    def _first_state(self, xp: Backend, parameter: Array) -> tuple[Array, ...]:
        shapes = [parameter.shape] * self.state_words + [(1,) * parameter.ndim] * self.state_numbers
        return tuple(xp.zeros(tuple(shape), parameter) for shape in shapes)


@dataclass
class RMSprop(Optimizer):
    """Centred RMSprop with momentum, as the thesis' scripts have it, after Graves (arXiv:1308.0850, eqs. 38-45).

    mean <- decay mean + (1 - decay) g; square likewise of g^2;
    velocity <- momentum velocity - rate g / sqrt(square - mean^2 + epsilon); parameter <- parameter + velocity.
    The epsilon is inside the square root, so the scale of the loss matters.
    """

    decay: float = 0.95
    momentum: float = 0.9
    epsilon: float = 0.001

    operations = {"multiply": 8, "add": 6, "divide": 1, "square-root": 1}
    state_words = 3

    def change(self, parameter: Array, gradient: Array, state: tuple[Array, ...], rate: Factor) -> None:
        mean, square, velocity = state
        sqrt = backend_of(parameter).sqrt
        mean[...] = self.decay * mean + (1 - self.decay) * gradient
        square[...] = self.decay * square + (1 - self.decay) * gradient**2
        velocity[...] = self.momentum * velocity - rate * gradient / sqrt(square - mean**2 + self.epsilon)
        parameter += velocity


@dataclass
class SGD(Optimizer):
    """Stochastic gradient descent: parameter <- parameter - rate g.

    With momentum, velocity <- momentum velocity + g takes the place of g (Polyak 1964, as torch writes it).
    """

    momentum: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be 0 or more and below 1, not {self.momentum}")

    @property
    def operations(self) -> dict[str, int]:
        return {"multiply": 2, "add": 2} if self.momentum else {"multiply": 1, "add": 1}

    @property
    def state_words(self) -> int:
        return 1 if self.momentum else 0

    def change(self, parameter: Array, gradient: Array, state: tuple[Array, ...], rate: Factor) -> None:
        if self.momentum:
            (velocity,) = state
            velocity *= self.momentum
            velocity += gradient
            gradient = velocity
        parameter -= rate * gradient


@dataclass
class ShiftSGD(Optimizer):
    """Stochastic gradient descent on int8 or int16 weights: parameter <- parameter - gradient / 2^shift, no floats.

    The quotient is rounded stochastically (Gupta et al., ICML 2015); a weight is clipped to the range of its type
    without the lowest number. Gradients are whole numbers, sums over the minibatch. Learning rates are powers of two,
    2^-shift; `shifts` has those of single arrays, by `layer.name`: `{"h1.weight": 14}`.
    """

    shifts: dict[str, int] = field(default_factory=dict)

    operations = {"add": 2}
    draws = True
    integer = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.schedule is not None:
            raise ValueError("shift-sgd has no schedule: its learning rates are shifts")
        for name in ("learning_rate", "feedback_learning_rate"):
            rate = getattr(self, name)
            if rate is not None and (isinstance(rate, Sequence) or rate not in _POWERS):
                raise ValueError(f"{name} of shift-sgd must be a power of two from 2^-32 to 1, not {rate}")
        for array, shift in self.shifts.items():
            if not 0 <= shift <= 32:
                raise ValueError(f"shifts.{array} must be 0 to 32 bits, not {shift}")

    def _rate(self, key: tuple[str, str], parameter: Array, factor: Factor, direction: Direction) -> int:
        return self.shift(key, direction)

    def shift(self, key: tuple[str, str], direction: Direction) -> int:
        """Shift of the learning rate of an array; `key` is the names of its layer and array."""
        shift = self.shifts.get(".".join(key))
        if shift is not None:
            return shift
        if direction is Direction.FEEDBACK and self.feedback_learning_rate is not None:
            return _POWERS[self.feedback_learning_rate]
        return _POWERS[self.learning_rate]

    def change(  # type: ignore[override]
        self, parameter: Array, gradient: Array, state: tuple[Array, ...], rate: int, key: Key
    ) -> None:
        xp, most = backend_of(parameter), 2 ** (8 * parameter.dtype.itemsize - 1) - 1
        step = (gradient + (xp.bits(key, parameter) & ((1 << rate) - 1))) >> rate
        parameter[...] = xp.clip(parameter - step, -most, most)


_POWERS: dict[Any, int] = {2.0**-shift: shift for shift in range(33)}
"""Shift for each learning rate that is a power of two."""


@dataclass
class Adam(Optimizer):
    """Adam (Kingma and Ba, 2015, algorithm 1), with its bias correction and the epsilon outside the root.

    mean <- decay mean + (1 - decay) g; square likewise of g^2, with `square_decay`;
    parameter <- parameter - rate mean' / (sqrt(square') + epsilon), where mean' = mean / (1 - decay^t) after t updates,
    and square' likewise. The divisors are stored as moving averages of the constant 1, which they equal.
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

    def change(self, parameter: Array, gradient: Array, state: tuple[Array, ...], rate: Factor) -> None:
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


@dataclass
class Bop(RMSprop):
    """Bop, the binary optimizer without latent weights (Helwegen et al., NeurIPS 2019, algorithm 1).

    mean <- (1 - adaptivity) mean + adaptivity g; a weight changes its sign where |mean| exceeds `threshold` and has the
    sign of the weight. This trains binary weights without a master copy; RMSprop trains all other parameters, with its
    learning rates. A schedule multiplies the adaptivity, too, which decays in the paper.
    """

    adaptivity: float = 1e-4
    threshold: float = 1e-6

    keeps_master = False
    flip_operations: ClassVar[dict[str, int]] = {"multiply": 2, "add": 2}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.adaptivity <= 1:
            raise ValueError(f"adaptivity must be above 0 and at most 1, not {self.adaptivity}")
        if not 0 <= self.threshold < np.inf:
            raise ValueError(f"threshold must be a finite number, zero or more, not {self.threshold}")

    def flip(self, key: tuple[str, str], weights: Array, gradient: Gradient, rate_factor: Factor = 1.0) -> None:
        """Flip signs of binary `weights`, in place; `key` is the names of their layer and array."""
        xp = backend_of(weights)
        if key not in self.state:
            self.state[key] = (xp.zeros(tuple(weights.shape), weights),)
        (mean,) = self.state[key]
        mean = mean if type(mean) is type(weights) else xp.traceable(mean)
        mean += xp.each(self.adaptivity, weights, rate_factor) * (multiplied(gradient) - mean)
        turned = mean * weights > self.threshold * abs(weights)
        weights -= 2 * weights * turned


OPTIMIZERS: dict[str, type[Optimizer]] = {
    "rmsprop": RMSprop,
    "sgd": SGD,
    "adam": Adam,
    "bop": Bop,
    "shift-sgd": ShiftSGD,
}
"""Every optimizer, by name."""
