"""Stochastic binary units: a hidden unit sends 1 with the probability that it computes, else 0.

D.-H. Lee, Difference Target Propagation, thesis, section 3.3.3, eqs. 3.28-3.31, after Raiko, Berglund, Alain, Dinh,
arXiv:1406.2989. One sample of each unit is drawn in training, many in use, where the output probabilities are averaged.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any, ClassVar

from ..activations import ACTIVATIONS
from ..backends import Array, backend_of
from ..formats import bernoulli, binary, table
from ..ledger import Direction, Ledger
from ..links import Link, Signal
from ..network import Network
from ..randomness import RandomStream
from .backprop import StraightThrough
from .dtp import DTP
from .rule import LearningRule, Step, StepContext

ROUNDED = table([0, 1])
"""One bit: whether a probability is 0.5 or more."""
PROBABILITIES = ("sigmoid", "hard-sigmoid", "step")
"""Activations whose states are probabilities."""


@dataclass(frozen=True)
class StochasticUnits(LearningRule):
    """Base of rules for stochastic binary units. The state of a hidden layer is its probabilities, h^p (eq. 3.28).

    Hidden layers become sigmoid if their states are not probabilities. Links above them carry samples up, one bit a
    unit, whatever format they were built with.
    """

    samples: int = 100
    """Samples of the hidden units over which the outputs of the trained network are averaged: M of the thesis."""
    input_noise: float = 0.3
    """Standard deviation of the Gaussian noise that is added to the inputs in training, before they are sent."""

    def __post_init__(self) -> None:
        super().__post_init__()  # type: ignore[misc]
        if not isinstance(self.samples, int) or isinstance(self.samples, bool) or self.samples < 1:
            raise ValueError(f"{self.name}: samples must be a whole number, 1 or more, not {self.samples!r}")
        if not (isfinite(self.input_noise) and self.input_noise >= 0):
            raise ValueError(f"{self.name}: input_noise must be a finite number, zero or more, not {self.input_noise}")

    def prepare(self, net: Network, seed: int) -> None:
        super().prepare(net, seed)
        for layer in net.layers[:-1]:
            if layer.activation.name not in PROBABILITIES:
                layer.activation = ACTIVATIONS["sigmoid"]

    def training_links(self, links: Sequence[Link]) -> list[Link]:
        first, *others = super().training_links(links)
        return [first, *(replace(link, forward=bernoulli) for link in others)]

    def step(self, net: Network, inputs: Array | Signal, target: Array, ledger: Ledger, context: StepContext) -> Step:
        if self.input_noise:
            inputs = inputs.values if isinstance(inputs, Signal) else inputs
            noise = context.stream.normal("input noise", inputs)
            inputs = backend_of(inputs).axpy(self.input_noise, noise, inputs)
        return super().step(net, inputs, target, ledger, context)  # type: ignore[safe-super]

    def infer(self, net: Network, inputs: Array | Signal, ledger: Ledger, stream: RandomStream | None = None) -> Array:
        """Mean over `samples` draws of all hidden units of the output probabilities: softmax over linear outputs.

        The lowest hidden layer receives the inputs once, and draws from its probabilities `samples` times.
        """
        first, *others = net.edges
        draws = stream or RandomStream(0 if net.members is None else (0,) * net.members)
        lowest = net.forward(inputs, ledger, draws, until=first.upper.name).output
        if not others:
            return lowest
        total: Any = 0
        for i in range(self.samples):
            state = lowest
            for edge in others:
                sample = edge.link.send(state, Direction.FORWARD, "activations", ledger, draws.at(i))
                state = edge.upper.state(sample, ledger)
            is_linear = net.layers[-1].activation.name == "identity"
            total = total + (backend_of(state).softmax(state) if is_linear else state)
        return total / self.samples


@dataclass(frozen=True)
class StochasticStraightThrough(StochasticUnits, StraightThrough):
    """Straight-through estimator, eq. 3.29: the derivative of a sample by its probability is taken as 1."""

    name: ClassVar[str] = "stochastic-straight-through"
    source: ClassVar[str] = "Lee 2018, eqs. 3.28, 3.29; Raiko et al., arXiv:1406.2989"
    crosses: ClassVar[str] = "samples (one bit a unit) up; input gradients down"
    tasks: ClassVar[tuple[str, ...]] = ("classify",)


@dataclass(frozen=True)
class StochasticDTP(StochasticUnits, DTP):
    """Difference target propagation of probabilities, eqs. 3.30 and 3.31.

    h_i^p = f_i(samples below) learns to reach the target of h_i^p. The feedback mapping g = tanh(V h^p) takes
    probabilities and targets as the links carry them down: real numbers in the author's script. It learns to
    reconstruct h^p + e from the state of the layer above for a sample drawn with probability h^p + e, clipped to
    [0, 1]: eq. 3.31 with units that send one bit. A link between hidden layers that is `binary` down becomes
    `table(0,1)`, 1 from a probability of 0.5 on: no probability is negative.
    """

    decoder: str = "tanh"
    """Activation of the feedback mappings g; "" is that of the layer."""

    name: ClassVar[str] = "stochastic-dtp"
    source: ClassVar[str] = "Lee 2018, eqs. 3.28, 3.30, 3.31"
    crosses: ClassVar[str] = (
        "samples, samples of noisy probabilities (one bit a unit) up; reconstructions, probabilities, targets down"
    )
    tasks: ClassVar[tuple[str, ...]] = ("classify",)

    def training_links(self, links: Sequence[Link]) -> list[Link]:
        lower = {link.lower for link in links}
        return [
            replace(link, feedback=ROUNDED) if link.feedback == binary and link.upper in lower else link
            for link in super().training_links(links)
        ]
