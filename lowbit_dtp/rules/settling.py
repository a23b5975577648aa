"""Rules that compare two states in which a network with feedback settles: its outputs free, and clamped to the target.

Contrastive Hebbian learning: J. R. Movellan, Connectionist Models, 1991; X. Xie, H. S. Seung, Neural Computation 15(2),
2003; eq. 1.13 of the thesis. Generalized recirculation: R. C. O'Reilly, Neural Computation 8(5), 1996; eq. 1.14.
"""

from abc import abstractmethod
from dataclasses import dataclass, field, replace
from functools import partial
from typing import ClassVar

import numpy as np

from ..backends import Array, Backend, backend_of, multiplied
from ..layers import Gradients, Layer
from ..ledger import Direction, Ledger
from ..links import Signal
from ..network import Network
from ..projections import Dense
from ..randomness import RandomStream
from .rule import LearningRule, Step, StepContext


def _transposed(xp: Backend, x: Array) -> np.ndarray:
    """`x` transposed, in NumPy, in memory of its own."""
    return np.ascontiguousarray(xp.numpy(x).mT)


@dataclass
class Phase:
    """A network with the states and signals with which it settles."""

    net: Network
    ledger: Ledger
    stream: RandomStream
    received: Signal
    """The inputs, as the lowest layer received them."""
    held: Array
    """Their part of its pre-activation, computed once, since inputs do not change while the network settles."""
    purpose: str = "activations"
    is_clamped: bool = False
    """Whether the state of the output layer is clamped."""
    states: dict[str, Array] = field(default_factory=dict)
    """State of each layer, by its name."""
    up: dict[str, Signal] = field(default_factory=dict)
    """The last signal that went up each link between layers."""
    down: dict[str, Signal] = field(default_factory=dict)
    """The last signal that came down."""

    @classmethod
    def free(cls, net: Network, inputs: Array | Signal, ledger: Ledger, stream: RandomStream) -> "Phase":
        """The free phase, before the first sweep."""
        lowest = net.edges[0]
        received = lowest.link.send(inputs, Direction.FORWARD, "activations", ledger, stream)
        return cls(net, ledger, stream, received, lowest.upper.pre_activation(received, ledger))

    def clamped(self, output: Array) -> "Phase":
        """The clamped phase, which starts from this one with another `output`; that is sent down once."""
        *_, top = self.net.edges
        phase = replace(self, purpose="clamped activations", is_clamped=True, states={}, up={}, down=dict(self.down))
        phase.states[top.upper.name] = output
        if top.lower is not None:
            phase._send_down(0, [top.link.name])
        return phase

    def settle(self, steps: int, gamma: float, tolerance: float | None) -> None:
        """Sweep `steps` times, or until no state changes by more than `tolerance`."""
        for sweep in range(steps):
            if sweep:
                self.send_down(sweep)
            before = dict(self.states)
            self._sweep_up(sweep, gamma)
            if sweep and tolerance is not None:
                changes = [float(abs(x - before[name]).max()) for name, x in self.states.items()]
                if max(changes) <= tolerance:
                    return

    def send_down(self, sweep: int) -> None:
        """Send the state of every layer that may have changed down."""
        edges = self.net.edges[1:]
        self._send_down(sweep, [edge.link.name for edge in (edges[:-1] if self.is_clamped else edges)])

    def _send_down(self, sweep: int, links: list[str]) -> None:
        for edge in self.net.edges:
            if edge.link.name in links:
                state, stream = self.states[edge.upper.name], self.stream.at(sweep)
                sent = edge.link.send(state, Direction.FEEDBACK, self.purpose, self.ledger, stream)
                self.down[edge.link.name] = sent

    def _sweep_up(self, sweep: int, gamma: float) -> None:
        edges, stream = self.net.edges, self.stream.at(sweep)
        for i, edge in enumerate(edges):
            link, layer = edge.link, edge.upper
            if edge.lower is not None:
                below = self.states[edge.lower.name]
                self.up[link.name] = link.send(below, Direction.FORWARD, self.purpose, self.ledger, stream)
            if self.is_clamped and edge is edges[-1]:
                break
            total = 1.0 * self.held if edge.lower is None else layer.pre_activation(self.up[link.name], self.ledger)
            above = None if edge is edges[-1] else self.down.get(edges[i + 1].link.name)
            if above is not None:
                total += gamma * layer.pre_activation(above, self.ledger)
            self.states[layer.name] = layer.activate(total, self.ledger)


@dataclass(frozen=True)
class SettlingRule(LearningRule):
    """Learning from the difference between a clamped and a free phase, in a network with feedback connections.

    In each sweep of a phase every layer, lowest first, takes the state f(W below + b + gamma F above) and sends it up;
    then every layer sends its state down. The first sweep of the free phase has no feedback yet: it is a forward pass.
    The clamped phase starts from the free one. Constant signals are sent once: the inputs, and the state that the
    output layer is clamped to, the one-hot label where classes are learned.

    Feedback is weakened by gamma in each layer that it passes, so an update of layer k of L is divided by gamma^(L - k)
    (Xie, Seung 2003, eq. 11).
    """

    steps: int = 10
    """Sweeps of each phase."""
    gamma: float = 1.0
    """Strength of feedback."""
    tolerance: float | None = None
    """A phase ends once no state changes by more than this in a sweep; None makes all `steps`.

    Samples of a minibatch, and members of an ensemble, stop together, by a signal that is not counted. Such a step
    reads numbers to decide, so it is not recorded.
    """

    tasks: ClassVar[tuple[str, ...]] = ("classify", "associate", "reconstruct")
    uses_feedback_weights: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not isinstance(self.steps, int) or isinstance(self.steps, bool) or self.steps < 1:
            raise ValueError(f"{self.name}: steps must be a whole number, 1 or more, not {self.steps!r}")
        if not 0 < self.gamma < np.inf:
            raise ValueError(f"{self.name}: gamma must be a finite number above zero, not {self.gamma}")
        if self.tolerance is not None and not 0 <= self.tolerance < np.inf:
            raise ValueError(f"{self.name}: tolerance must be a finite number, zero or more, not {self.tolerance}")

    @property
    @abstractmethod
    def has_symmetric_weights(self) -> bool:
        """Whether feedback weights equal the transposed forward weights, before and after each update.

        Both ends of a link then learn from the same numbers, those that crossed it. Their learning rates must be equal.
        """

    @abstractmethod
    def errors(self, free: Array, clamped: Array) -> tuple[Array, Array | None]:
        """Factors of the signals of the free and of the clamped phase in a gradient; None for no term.

        `free` and `clamped` are states [..., batch, neurons] of the layer that holds the weights.
        """

    def without_data(self) -> "SettlingRule":
        """The rule that makes all `steps`."""
        return replace(self, tolerance=None)

    def prepare(self, net: Network, seed: int) -> None:
        """Give each hidden layer feedback weights, without a bias: the layer has one for its forward weights."""
        for edge in net.edges[1:]:
            link, lower = edge.link.name, edge.lower
            assert lower is not None
            net.add_feedback(link, seed)
            if lower.inputs[link].bias is None:  # prepared before
                continue
            weight = lower.inputs[link].values
            if self.has_symmetric_weights:
                xp, above = backend_of(weight), edge.upper.inputs[link].values
                weight = xp.filled(tuple(weight.shape), above, partial(_transposed, xp, above))
            lower.inputs[link] = Dense(weight, None, Direction.FEEDBACK, "feedback")

    def step(self, net: Network, inputs: Array | Signal, target: Array, ledger: Ledger, context: StepContext) -> Step:
        top = net.layers[-1]
        free = Phase.free(net, inputs, ledger, context.stream)
        free.settle(self.steps, self.gamma, self.tolerance)
        free.send_down(self.steps)
        output = free.states[top.name]
        desired = context.task.desired_output(target, output)
        clamped = free.clamped(desired)
        clamped.settle(self.steps, self.gamma, self.tolerance)
        clamped.send_down(self.steps)
        _, loss = top.squared_error(output, desired)
        return Step(self._gradients(free, clamped, ledger), loss)

    def infer(self, net: Network, inputs: Array | Signal, ledger: Ledger, stream: RandomStream | None = None) -> Array:
        """Outputs of the free phase."""
        free = Phase.free(net, inputs, ledger, RandomStream(0) if stream is None else stream)
        free.settle(self.steps, self.gamma, self.tolerance)
        return free.states[net.layers[-1].name]

    def _gradients(self, free: Phase, clamped: Phase, ledger: Ledger) -> Gradients:
        gradients: Gradients = {}
        lowest, *others = free.net.edges
        state = free.states[lowest.upper.name]
        share, scale = 1 / state.shape[-2], self.gamma ** -len(others)
        for_free, for_clamped = self.errors(state, clamped.states[lowest.upper.name])
        error = for_free if for_clamped is None else for_free + for_clamped
        gradients |= lowest.upper.gradients(free.received, share * scale * error, ledger)
        for edge in others:
            link, lower, upper = edge.link.name, edge.lower, edge.upper
            assert lower is not None
            below, scale = scale, scale * self.gamma
            up, down = (free.up[link], clamped.up[link]), (free.down[link], clamped.down[link])
            if self.has_symmetric_weights:
                at_upper, at_lower = [x.sent for x in down], [x.sent for x in up]
                below = scale
            else:
                at_upper, at_lower = ([phase.states[x.name] for phase in (free, clamped)] for x in (upper, lower))
            gradients |= self._contrast(upper, up, at_upper, share * scale, ledger)
            gradients |= self._contrast(lower, down, at_lower, share * below, ledger)
        return gradients

    def _contrast(
        self, layer: Layer, signals: tuple[Signal, Signal], states: list[Array], scale: float, ledger: Ledger
    ) -> Gradients:
        """Gradients of weights for `signals` received in the free and the clamped phase, and `states`."""
        for_free, for_clamped = self.errors(*states)
        made = layer.gradients(signals[0], scale * for_free, ledger)
        if for_clamped is None:
            return made
        other = layer.gradients(signals[1], scale * for_clamped, ledger)
        return {key: multiplied(x) + multiplied(other[key]) for key, x in made.items()}


@dataclass(frozen=True)
class ContrastiveHebbian(SettlingRule):
    """Contrastive Hebbian learning, eq. 1.13: a Hebbian update in the clamped phase, and its opposite in the free one.

    Feedback weights are the transposed forward weights. For small gamma it is backpropagation, of the error output -
    target at the outputs' pre-activations.
    """

    name: ClassVar[str] = "contrastive-hebbian"
    source: ClassVar[str] = "Movellan 1991; Xie, Seung, Neural Computation 15, 2003; Lee 2018, eq. 1.13"
    crosses: ClassVar[str] = "activations up and down in each sweep of two phases"

    @property
    def has_symmetric_weights(self) -> bool:
        return True

    def errors(self, free: Array, clamped: Array) -> tuple[Array, Array | None]:
        return free, -clamped


@dataclass(frozen=True)
class GeneRec(SettlingRule):
    """Generalized recirculation, eq. 1.14: change of a neuron when outputs are clamped, times what it received.

    Feedback weights learn like forward weights; a `feedback_learning_rate` of 0 keeps them fixed.
    """

    midpoint: bool = False
    """Multiply the mean of what was received in both phases, not that of the free phase (the midpoint method)."""
    symmetric: bool = False
    """Keep feedback weights equal to the transposed forward weights: both get the sum of their two updates.

    With `midpoint` this is contrastive Hebbian learning.
    """

    name: ClassVar[str] = "generec"
    source: ClassVar[str] = "O'Reilly, Neural Computation 8, 1996; Lee 2018, eq. 1.14"
    crosses: ClassVar[str] = "activations up and down in each sweep of two phases"

    @property
    def has_symmetric_weights(self) -> bool:
        return self.symmetric

    def errors(self, free: Array, clamped: Array) -> tuple[Array, Array | None]:
        difference = free - clamped
        half = 0.5 * difference
        own = (half, half) if self.midpoint else (difference, None)
        if not self.symmetric:
            return own
        # change of the neurons at the other end, times what they received from this end
        said = 0.5 * (free + clamped) if self.midpoint else free
        return own[0] + said, -said if own[1] is None else own[1] - said
