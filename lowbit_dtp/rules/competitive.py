"""Competitive learning: the neuron that matches the input best moves its weights to it. Thesis, section 1.2.3.

The weights of a neuron are a code vector, and a trained layer is the encoder of a vector quantizer. The competition is
inside the layer, so training sends inputs up and nothing else. In use, the winner's code vector goes back down the link
to where the inputs come from, in the link's feedback format: inputs x bits for each sample. A receiver with a copy of
all code vectors would need the winner's address only, ceil(log2(neurons)) bits; here only the layer has its weights.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..backends import Array, backend_of, multiplied
from ..choices import choose
from ..layers import Layer
from ..ledger import Direction, Ledger
from ..links import Signal
from ..network import Network
from ..randomness import RandomStream
from .rule import Step, StepContext
from .single_layer import SingleLayerRule, same_type, single_edge

WINNERS = {
    "nearest": "the neuron whose weights are nearest to the input",
    "largest": "the neuron with the largest sum; for inputs and weights of one length that is the nearest",
}
"""Ways to choose the winner."""

Buffers = dict[tuple[str, str], Array]


class _Quantizer(SingleLayerRule):
    """Base of competitive rules; they differ in how much each neuron learns from a sample."""

    crosses: ClassVar[str] = "inputs up; in use, the winner's code vector down: inputs x feedback bits a sample"
    tasks: ClassVar[tuple[str, ...]] = ("quantize",)
    winner: str = "nearest"

    def prepare(self, net: Network, seed: int) -> None:
        super().prepare(net, seed)
        if net.layers[0].bias is not None:
            net.layers[0].drop_bias()

    def step(self, net: Network, inputs: Array | Signal, target: Array, ledger: Ledger, context: StepContext) -> Step:
        edge = single_edge(net)
        layer = edge.upper
        received = edge.link.send(inputs, Direction.FORWARD, "activations", ledger, context.stream)
        match = layer.match(received, ledger, self.winner == "nearest")
        winner = layer.winner(self.handicapped(layer, match, target, context), ledger)
        share, buffers = self.learning(layer, winner, target, ledger, context)
        key = layer.name, layer.projection.name
        # sum over samples of share (w - x) = w (sum of shares) - sum of share x
        gradient = multiplied(layer.gradients(received, share * -1.0, ledger)[key])
        gradient = gradient + layer.weight * share.sum(-2)[..., None, :]
        return Step({key: gradient}, self._distortion(received, match * winner), buffers)

    def handicapped(self, layer: Layer, match: Array, target: Array, context: StepContext) -> Array:
        """`match` [..., batch, neurons] with handicaps, from which the winner is chosen."""
        return match

    @abstractmethod
    def learning(
        self, layer: Layer, winner: Array, target: Array, ledger: Ledger, context: StepContext
    ) -> tuple[Array, Buffers]:
        """Share [..., batch, neurons] of each sample in the update of each neuron, and new values of buffers."""

    def _distortion(self, received: Signal, match: Array) -> Array | None:
        """Mean squared distance from the winner, for its `match` and zeros; None if distances were not computed."""
        if self.winner != "nearest":
            return None
        x = received.values
        return ((x * x).sum(-1) - 2 * match.sum(-1)).mean(-1)

    def infer(self, net: Network, inputs: Array | Signal, ledger: Ledger, stream: RandomStream | None = None) -> Array:
        edge = single_edge(net)
        link, layer = edge.link, edge.upper
        received = link.send(inputs, Direction.FORWARD, "activations", ledger, stream)
        winner = layer.winner(layer.match(received, ledger, self.winner == "nearest"), ledger)
        vector = layer.code_vector(link, winner, ledger)
        return link.send(vector, Direction.FEEDBACK, "code vector", ledger, stream).values


@dataclass(frozen=True)
class Competitive(_Quantizer):
    """Competitive learning, eq. 1.9, winner takes all: dw = eta (x - w) for the winner, the same eta for all.

    A neuron that never wins never learns. Against that, `conscience` handicaps neurons that win often in training
    (DeSieno, ICNN 1988), by conscience x (share of wins x neurons - 1) in squared distance.
    """

    winner: str = "nearest"
    """One of `WINNERS`."""
    conscience: float = 0.0
    """Handicap, in squared distance, of a neuron that wins twice as often as the mean of all; 0 for none."""
    half_conscience_epoch: float | None = None
    """Epoch E at which a quarter of it is left: c(e) = c / (1 + e / E)^2. None keeps it constant."""
    memory: float = 0.95
    """Share that the count of wins keeps from one minibatch to the next."""

    name: ClassVar[str] = "competitive"
    source: ClassVar[str] = "Rumelhart, Zipser 1985; Lee 2018, eq. 1.9"

    def __post_init__(self) -> None:
        choose("winner", self.winner, WINNERS)
        for name, positive in (("conscience", False), ("half_conscience_epoch", True)):
            value = getattr(self, name)
            if value is not None and not (0 < value < np.inf if positive else 0 <= value < np.inf):
                kind = "a finite number above zero" if positive else "a finite number, zero or more"
                raise ValueError(f"{self.name}: {name} must be {kind}, not {value}")
        if not 0 <= self.memory <= 1:
            raise ValueError(f"{self.name}: memory must be a number from 0 to 1, not {self.memory}")

    def prepare(self, net: Network, seed: int) -> None:
        super().prepare(net, seed)
        layer = net.layers[0]
        if "wins" not in layer.buffers:
            xp, neurons = backend_of(layer.weight), layer.neurons
            layer.buffers["wins"] = xp.filled((neurons,), layer.weight, lambda: np.ones(neurons))

    def handicapped(self, layer: Layer, match: Array, target: Array, context: StepContext) -> Array:
        if not self.conscience:
            return match
        wins = layer.buffers["wins"]
        often = wins * layer.neurons / wins.sum(-1)[..., None] - 1
        half = same_type(0.5 * self._conscience_at(context.epoch), wins)
        return match - (half * often)[..., None, :]

    def learning(
        self, layer: Layer, winner: Array, target: Array, ledger: Ledger, context: StepContext
    ) -> tuple[Array, Buffers]:
        wins = self.memory * layer.buffers["wins"] + winner.sum(-2)
        return self.rates(winner, wins), {(layer.name, "wins"): wins}

    def rates(self, winner: Array, wins: Array) -> Array:
        """eta_i of eq. 1.9, but for the optimizer's learning rate, for the winners [..., batch, neurons] of samples."""
        return winner / winner.shape[-2]

    def _conscience_at(self, epoch: Any) -> Any:
        fading = 1 + epoch / self.half_conscience_epoch if self.half_conscience_epoch else 1.0
        return self.conscience / (fading * fading)


@dataclass(frozen=True)
class VectorQuantization(Competitive):
    """Vector quantization: eq. 1.9 with a rate for each neuron, eta_i = 1 / its wins, so w is the mean of what it won.

    For this, the optimizer is `sgd` with a learning rate of 1. With a `memory` of 1 it is MacQueen's k-means; with
    less, old samples count less, since they were assigned to older code vectors.
    """

    name: ClassVar[str] = "vector-quantization"
    source: ClassVar[str] = "MacQueen 1967; Burton, Shore, Buck 1983; Lee 2018, eq. 1.9"

    def rates(self, winner: Array, wins: Array) -> Array:
        return winner / (wins + (wins == 0))[..., None, :]  # 0 wins in all, so none here


@dataclass(frozen=True)
class LVQ(Competitive):
    """Learning vector quantization, LVQ1: competitive learning of classes.

    dw = eta (x - w) for the winner if its class is the label of x, else dw = -eta (x - w). Neuron j has the class
    j modulo `classes`. Weights must be among samples of their class before that: in the first `guided_epochs`, only
    neurons of the right class compete. The label and the class of the winner, ceil(log2(classes)) bits each, are where
    the outputs are; neither crosses the link.
    """

    classes: int = 10
    """How many classes there are; the neurons must be a multiple of it."""
    guided_epochs: float = 1.0

    name: ClassVar[str] = "lvq"
    source: ClassVar[str] = "Kohonen, Proc. IEEE 78, 1990, LVQ1"
    crosses: ClassVar[str] = "inputs up"
    tasks: ClassVar[tuple[str, ...]] = ("classify",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.classes, int) or isinstance(self.classes, bool) or self.classes < 1:
            raise ValueError(f"{self.name}: classes must be a whole number, 1 or more, not {self.classes!r}")
        if not 0 <= self.guided_epochs < np.inf:
            raise ValueError(
                f"{self.name}: guided_epochs must be a finite number, zero or more, not {self.guided_epochs}"
            )

    def prepare(self, net: Network, seed: int) -> None:
        super().prepare(net, seed)
        if net.layers[0].neurons % self.classes:
            raise ValueError(
                f"{self.name}: layer {net.layers[0].name} has {net.layers[0].neurons} neurons, which is no multiple of "
                f"the {self.classes} classes"
            )

    def handicapped(self, layer: Layer, match: Array, target: Array, context: StepContext) -> Array:
        match = super().handicapped(layer, match, target, context)
        later = backend_of(match).step(same_type(context.epoch, match) - self.guided_epochs)
        return match - (1 - later) * (1 - self._of_class(match, target, context)) * _FAR

    def learning(
        self, layer: Layer, winner: Array, target: Array, ledger: Ledger, context: StepContext
    ) -> tuple[Array, Buffers]:
        share, buffers = super().learning(layer, winner, target, ledger, context)
        return share * (2 * self._of_class(winner, target, context) - 1), buffers

    def infer(self, net: Network, inputs: Array | Signal, ledger: Ledger, stream: RandomStream | None = None) -> Array:
        """1 for the class of the winning neuron, 0 for the others [..., batch, classes]."""
        edge = single_edge(net)
        received = edge.link.send(inputs, Direction.FORWARD, "activations", ledger, stream)
        winner = edge.upper.winner(edge.upper.match(received, ledger, self.winner == "nearest"), ledger)
        return winner.reshape(self._by_class(winner)).sum(-2)

    def _of_class(self, like: Array, target: Array, context: StepContext) -> Array:
        """1 for the neurons that have the class of the sample, 0 for the others, in the shape of `like`."""
        label = context.task.desired_output(target, like[..., : self.classes])
        return ((like * 0).reshape(self._by_class(like)) + label[..., None, :]).reshape(like.shape)

    def _by_class(self, x: Array) -> tuple[int, ...]:
        """Shape of neurons [..., batch, neurons] as [..., batch, neurons of a class, classes]."""
        return *x.shape[:-1], x.shape[-1] // self.classes, self.classes


_FAR = 1e9
"""More than any squared distance."""


@dataclass(frozen=True)
class SOM(_Quantizer):
    """Self-organizing map: neurons lie on a grid, and the neighbours of the winner learn with it.

    dw = eta h (x - w), h = exp(-d^2 / (2 width^2)) for a neuron at a distance d from the winner on the grid.
    """

    rows: int = 10
    columns: int = 10
    """Neurons of the grid; neuron r x columns + c is in row r and column c."""
    width: float = 3.0
    """Width of the neighbourhood at the start, in neurons."""
    half_width_epoch: float | None = 2.0
    """Epoch E at which the width is half of that: width(e) = width / (1 + e / E). None keeps it constant."""

    name: ClassVar[str] = "som"
    source: ClassVar[str] = "Kohonen 1982; Lee 2018, section 1.2.3"

    def __post_init__(self) -> None:
        for name in ("rows", "columns"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{self.name}: {name} must be a whole number, 1 or more, not {value!r}")
        for name in ("width", "half_width_epoch"):
            value = getattr(self, name)
            if not (value is None and name != "width") and not 0 < value < np.inf:
                raise ValueError(f"{self.name}: {name} must be a finite number above zero, not {value}")

    def prepare(self, net: Network, seed: int) -> None:
        super().prepare(net, seed)
        layer = net.layers[0]
        if self.rows * self.columns != layer.neurons:
            raise ValueError(
                f"som: a grid of {self.rows} x {self.columns} has {self.rows * self.columns} neurons, but layer "
                f"{layer.name} has {layer.neurons}"
            )
        if "neighbourhood" not in layer.buffers:
            xp, shape = backend_of(layer.weight), (layer.neurons, layer.neurons)
            layer.buffers["neighbourhood"] = xp.filled(shape, layer.weight, self._neighbourhood)

    def _neighbourhood(self) -> np.ndarray:
        """h at the first width, for each two neurons."""
        row, column = np.divmod(np.arange(self.rows * self.columns), self.columns)
        squares = np.subtract.outer(row, row) ** 2 + np.subtract.outer(column, column) ** 2
        return np.exp(-squares / (2 * self.width**2))

    def learning(
        self, layer: Layer, winner: Array, target: Array, ledger: Ledger, context: StepContext
    ) -> tuple[Array, Buffers]:
        near = layer.buffer_row("neighbourhood", winner, ledger)
        if self.half_width_epoch:
            narrower = 1 + context.epoch / self.half_width_epoch
            near = near ** same_type(narrower * narrower, near)  # h at a smaller width, of h at the first
        return near / near.shape[-2], {}
