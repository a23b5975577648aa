"""Feedback alignment: errors are sent down through fixed random weights, with which forward weights align.

T. P. Lillicrap, D. Cownden, D. B. Tweed, C. J. Akerman, Random synaptic feedback weights support error backpropagation
for deep learning, Nature Communications 7:13276, 2016; A. Nøkland, Direct feedback alignment provides learning in deep
neural networks, NeurIPS 2016.
"""

from dataclasses import dataclass
from typing import ClassVar

from ..backends import Array
from ..choices import choose
from ..formats import float32
from ..layers import Gradients, Layer
from ..ledger import Direction, Ledger
from ..links import Link, Signal
from ..network import INITIALIZERS, Edge, Network, Pass, dense
from .backprop import StraightThrough
from .rule import Step, StepContext, output_error, weight_gradients


@dataclass(frozen=True)
class FeedbackAlignment(StraightThrough):
    """The upper layer sends its error, and the lower layer multiplies it by fixed random weights B.

    (B @ error) replaces (W.T @ error) of backpropagation: one number for each upper neuron crosses a link, not one
    for each lower neuron. Few-bit links quantize as with the straight-through estimator.
    """

    feedback_weights: str = "orthogonal"
    """How B is drawn: one of `network.INITIALIZERS`; `signs` is one magnitude, a power of two, and random signs."""

    name: ClassVar[str] = "feedback-alignment"
    source: ClassVar[str] = "Lillicrap, Cownden, Tweed, Akerman, Nature Communications 7:13276, 2016"
    crosses: ClassVar[str] = "activations up; errors of the upper layer down"

    def __post_init__(self) -> None:
        super().__post_init__()
        choose(f"{self.name} feedback_weights", self.feedback_weights, INITIALIZERS)

    def prepare(self, net: Network, seed: int) -> None:
        for edge in net.edges:
            if edge.lower is not None:
                self.fix_weights(edge.lower, edge.link, edge.upper.neurons, "feedback", seed)

    def fix_weights(self, layer: Layer, link: Link, sources: int, label: str, seed: int) -> None:
        """Give `layer` fixed weights for errors from `link`. They have no bias; projections that learn have one."""
        known = layer.inputs.get(link.name)
        if known is None or known.bias is not None:
            draw, like = self.feedback_weights, layer.projection.values
            projection = dense(
                layer.name, sources, layer.neurons, seed, label, Direction.FEEDBACK, like, draw, bias=False
            )
            layer.receive(link.name, projection)

    def error_below(self, edge: Edge, run: Pass, error: Array, ledger: Ledger, context: StepContext) -> Array:
        assert edge.lower is not None
        return received_error(edge.lower, edge.link, run, error, ledger, context)


@dataclass(frozen=True)
class DirectFeedbackAlignment(FeedbackAlignment):
    """The output layer sends its error to every hidden layer, which multiplies it by fixed random weights.

    The highest hidden layer receives it over the link that carries its activations; the others over added links:
    `output-h1`, `output-h2`, ...
    """

    name: ClassVar[str] = "direct-feedback-alignment"
    source: ClassVar[str] = "Nøkland, Direct feedback alignment provides learning in deep neural networks, 2016"
    crosses: ClassVar[str] = "activations up; the error of the output layer down to every hidden layer"

    def prepare(self, net: Network, seed: int) -> None:
        top = net.layers[-1]
        known = {link.name for link in net.links}
        for layer in net.layers[:-2]:
            name = f"{top.name}-{layer.name}"
            if name not in known:
                net.links.append(Link(float32, self.gradient or float32, layer.name, top.name, name))
        for layer, link in self._error_links(net):
            self.fix_weights(layer, link, top.neurons, "direct_feedback", seed)

    def _error_links(self, net: Network) -> list[tuple[Layer, Link]]:
        """The hidden layers, lowest first, and the link over which each receives the error of the output layer."""
        top = net.layers[-1].name
        links = {link.lower: link for link in net.links if link.upper == top}
        return [(layer, links[layer.name]) for layer in net.layers[:-1]]

    def step(self, net: Network, inputs: Array | Signal, target: Array, ledger: Ledger, context: StepContext) -> Step:
        run = net.forward(inputs, ledger, context.stream)
        *hidden, top = net.edges
        error, loss = output_error(net, run.output, target, ledger, context)
        gradients: Gradients = weight_gradients(top, run, error, ledger)
        for edge, (layer, link) in zip(hidden, self._error_links(net), strict=True):
            own = received_error(layer, link, run, error, ledger, context)
            gradients |= weight_gradients(edge, run, own, ledger)
        return Step(gradients, loss)


def received_error(layer: Layer, link: Link, run: Pass, error: Array, ledger: Ledger, context: StepContext) -> Array:
    """The error at the pre-activation of `layer`, from the `error` that the upper end of `link` sends."""
    arrived = link.send(error, Direction.FEEDBACK, "error", ledger, context.stream)
    return layer.error_of(run.states[layer.name], layer.pre_activation(arrived, ledger, "error"))
