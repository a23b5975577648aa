"""The delta rule and the perceptron: learning from the difference of desired and actual output. Section 1.2.2."""

from dataclasses import dataclass
from typing import ClassVar

from ..backends import Array, backend_of
from ..choices import choose
from ..ledger import Direction, Ledger
from ..links import Signal
from ..network import Network
from ..randomness import RandomStream
from .rule import Step, StepContext, weight_gradients
from .single_layer import SingleLayerRule, single_edge

LOSSES = {
    "squared": "eq. 1.7: dw = eta (y - h) s'(a) x",
    "cross-entropy": "eq. 1.8: dw = eta (y - h) x, for sigmoid neurons",
}
"""Losses of the delta rule, for a desired output y and an output h = s(a). For linear neurons 1.7 equals 1.8."""

UNITS = {
    "step": "a step unit for each class, 1 for a sum of 0 or more; each unit learns when it is wrong",
    "winner-take-all": "the neuron with the largest sum decides; if it is wrong, it and the right one learn",
}
"""Kinds of output units of the perceptron."""


@dataclass(frozen=True)
class Delta(SingleLayerRule):
    """The delta rule: eq. 1.7 or, with the cross-entropy, eq. 1.8, for the network's output activation.

    The reported loss is that of eq. 1.7, half the squared error, in both cases.
    """

    loss: str = "squared"
    """One of `LOSSES`."""

    name: ClassVar[str] = "delta"
    source: ClassVar[str] = "Widrow, Hoff 1960; Lee 2018, eqs. 1.7, 1.8"
    crosses: ClassVar[str] = "inputs up"
    tasks: ClassVar[tuple[str, ...]] = ("classify", "associate")

    def __post_init__(self) -> None:
        choose("loss", self.loss, LOSSES)

    def prepare(self, net: Network, seed: int) -> None:
        super().prepare(net, seed)
        activation = net.layers[-1].activation.name
        if self.loss == "cross-entropy" and activation != "sigmoid":
            raise ValueError(
                f"delta: the loss cross-entropy needs output_activation = sigmoid, not {activation}; "
                "or choose the loss squared"
            )

    def step(self, net: Network, inputs: Array | Signal, target: Array, ledger: Ledger, context: StepContext) -> Step:
        edge = single_edge(net)
        run = net.forward(inputs, ledger, context.stream)
        wanted = context.task.desired_output(target, run.output)
        error, loss = edge.upper.squared_error(run.output, wanted)
        error = run.output - wanted if self.loss == "cross-entropy" else 0.5 * error
        return Step(weight_gradients(edge, run, error, ledger), 0.5 * loss)


@dataclass(frozen=True)
class Perceptron(SingleLayerRule):
    """The perceptron: eq. 1.8 with outputs of 0 and 1, so it learns only from errors.

    Inference gives the class of the largest sum. The reported loss is the number of wrong units in a sample.
    """

    units: str = "step"
    """One of `UNITS`."""

    name: ClassVar[str] = "perceptron"
    source: ClassVar[str] = "Rosenblatt 1958; Lee 2018, section 1.2.2"
    crosses: ClassVar[str] = "inputs up"

    def __post_init__(self) -> None:
        choose("units", self.units, UNITS)

    def step(self, net: Network, inputs: Array | Signal, target: Array, ledger: Ledger, context: StepContext) -> Step:
        edge = single_edge(net)
        layer = edge.upper
        received = edge.link.send(inputs, Direction.FORWARD, "activations", ledger, context.stream)
        total = layer.pre_activation(received, ledger)
        wanted = context.task.desired_output(target, total)
        output = layer.winner(total, ledger) if self.units == "winner-take-all" else backend_of(total).step(total)
        error = output - wanted
        loss = (error * error).sum(-1).mean(-1)
        return Step(layer.gradients(received, error / error.shape[-2], ledger), loss)

    def infer(self, net: Network, inputs: Array | Signal, ledger: Ledger, stream: RandomStream | None = None) -> Array:
        edge = single_edge(net)
        received = edge.link.send(inputs, Direction.FORWARD, "activations", ledger, stream)
        return edge.upper.pre_activation(received, ledger)
