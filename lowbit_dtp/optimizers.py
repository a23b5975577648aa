"""Optimizers: one home for all rules. Each changes a parameter in place, and says what an update costs."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from .backends import Array, backend_of
from .layers import Gradients
from .ledger import Ledger
from .network import Network


@dataclass
class Optimizer(ABC):
    """A way to change parameters by their gradients. Feedback weights may have a learning rate of their own.

    Rates may be given for each member of an ensemble.
    """

    learning_rate: float | Sequence[float]
    feedback_learning_rate: float | Sequence[float] | None = None
    state: dict[tuple[str, str], tuple[Array, ...]] = field(default_factory=dict, repr=False)
    """For each layer and parameter that has been updated, `state_words` arrays like it."""

    operations: ClassVar[dict[str, int]]
    """Arithmetic of one update of one number."""
    state_words: ClassVar[int]
    """Numbers kept for each parameter."""

    def __post_init__(self) -> None:
        for name in ("learning_rate", "feedback_learning_rate"):
            given = getattr(self, name)
            for rate in given if isinstance(given, Sequence) else [given]:
                if rate is not None and not 0 <= rate < np.inf:
                    raise ValueError(f"{name} must be a finite number, zero or more, not {rate}")

    def apply(self, net: Network, gradients: Gradients, ledger: Ledger) -> None:
        """Update every parameter of `net` that has a gradient, and then the copies that other layers have of it."""
        for (layer, name), gradient in gradients.items():
            net.layer(layer).update(name, gradient, self, ledger)
        net.synchronise(ledger, gradients.keys())

    def update(self, key: tuple[str, str], parameter: Array, gradient: Array) -> None:
        """Change `parameter` in place; `key` names its layer and itself."""
        xp = backend_of(parameter)
        if self.state_words and key not in self.state:
            zeros = (np.zeros(parameter.shape) for _ in range(self.state_words))
            self.state[key] = tuple(xp.asarray(x, parameter) for x in zeros)
        rate = self.learning_rate
        if key[1].startswith("feedback") and self.feedback_learning_rate is not None:
            rate = self.feedback_learning_rate
        state = tuple(x if type(x) is type(parameter) else xp.traceable(x) for x in self.state.get(key, ()))
        self._change(parameter, gradient, state, xp.each(rate, parameter))

    @abstractmethod
    def _change(self, parameter: Array, gradient: Array, state: Iterable[Array], rate: Array) -> None: ...


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

    def _change(self, parameter: Array, gradient: Array, state: Iterable[Array], rate: Array) -> None:
        mean, square, velocity = state
        backend_of(parameter).rmsprop(
            parameter, gradient, (mean, square, velocity), rate, self.decay, self.momentum, self.epsilon
        )


@dataclass
class SGD(Optimizer):
    """Stochastic gradient descent: parameter <- parameter - rate g."""

    operations = {"multiply": 1, "add": 1}
    state_words = 0

    def _change(self, parameter: Array, gradient: Array, state: Iterable[Array], rate: Array) -> None:
        backend_of(parameter).sgd(parameter, gradient, rate)


OPTIMIZERS: dict[str, type[Optimizer]] = {"rmsprop": RMSprop, "sgd": SGD}
"""Every optimizer, by name."""
