"""Hebbian learning: a weight grows with the product of its input and output. Section 1.2.1 of the thesis."""

from dataclasses import dataclass
from typing import ClassVar

from ..backends import Array, backend_of, multiplied
from ..choices import choose
from ..ledger import Direction, Ledger
from ..links import Signal
from ..network import Edge, Network
from ..randomness import RandomStream
from .rule import Step, StepContext
from .single_layer import SingleLayerRule, single_edge

VARIANTS = {
    "plain": "eq. 1.6: dw = eta x y",
    "covariance": "dw = eta (x - mean x) (y - mean y); the means are those of all samples so far",
    "oja": "dw = eta y (x - y w), each neuron by itself: lengths stay bounded (Oja, J. Math. Biology 15, 1982)",
}
"""Forms of the rule, for an input x, an output y and the weight w between them."""


@dataclass(frozen=True)
class Hebbian(SingleLayerRule):
    """Hebbian learning, eq. 1.6, and two variants in which weights also decrease.

    Supervised, the outputs are given with the samples, so training needs no forward pass. Unsupervised, they are
    computed by the layer; `oja` with one neuron then finds the first principal component of inputs with zero mean, and
    inference sends the reconstruction y w down the link to the inputs. There is no bias.
    """

    variant: str = "plain"
    """One of `VARIANTS`."""
    supervised: bool = True
    """Whether outputs are given with the samples, or else computed by the layer."""

    name: ClassVar[str] = "hebbian"
    source: ClassVar[str] = "Hebb 1949; Lee 2018, eq. 1.6; Dayan and Abbott 2001, section 8.2; Oja 1982"
    crosses: ClassVar[str] = "inputs up; unsupervised, in use, a reconstruction of the inputs down"
    tasks: ClassVar[tuple[str, ...]] = ("associate", "classify", "reconstruct")

    def __post_init__(self) -> None:
        choose("variant", self.variant, VARIANTS)
        if not isinstance(self.supervised, bool):
            raise ValueError(f"{self.name}: supervised must be true or false, not {self.supervised!r}")

    def prepare(self, net: Network, seed: int) -> None:
        super().prepare(net, seed)
        layer = net.layers[0]
        if layer.bias is not None:
            layer.drop_bias()
        if self.variant == "covariance" and "samples" not in layer.buffers:
            xp, (sources, neurons) = backend_of(layer.weight), layer.projection.shape
            for name, shape in (("samples", (1,)), ("input_mean", (sources,)), ("output_mean", (neurons,))):
                layer.buffers[name] = xp.zeros(shape, layer.weight)

    def step(self, net: Network, inputs: Array | Signal, target: Array, ledger: Ledger, context: StepContext) -> Step:
        edge = single_edge(net)
        link, layer = edge.link, edge.upper
        received = link.send(inputs, Direction.FORWARD, "activations", ledger, context.stream)
        if self.supervised:
            if context.task.name == "reconstruct":
                raise ValueError("hebbian: the task reconstruct gives no outputs; it needs supervised = false")
            output = context.task.desired_output(target, layer.weight)
        else:
            output = layer.state(received, ledger)
        if self.variant == "covariance":
            return self._covariance(edge, received, output, ledger)
        key, batch = (layer.name, layer.projection.name), output.shape[-2]
        gradient = multiplied(layer.gradients(received, output / -batch, ledger)[key])
        if self.variant == "oja":
            squares = (output * output).sum(-2)[..., None, :] / batch
            gradient = gradient + layer.weight * squares
        return Step({key: gradient}, None)

    def _covariance(self, edge: Edge, received: Signal, output: Array, ledger: Ledger) -> Step:
        layer, batch = edge.upper, output.shape[-2]
        held = layer.buffers
        samples = held["samples"] + batch
        input_mean = held["input_mean"] + (received.values.sum(-2) - batch * held["input_mean"]) / samples
        output_mean = held["output_mean"] + (output.sum(-2) - batch * held["output_mean"]) / samples
        deviation = (output_mean[..., None, :] - output) / batch
        key = layer.name, layer.projection.name
        gradient = multiplied(layer.gradients(received, deviation, ledger)[key])
        # sum over samples of (x - mean x) d = sum of x d - mean x (sum of d)
        gradient = gradient - input_mean[..., :, None] * deviation.sum(-2)[..., None, :]
        means = {"samples": samples, "input_mean": input_mean, "output_mean": output_mean}
        return Step({key: gradient}, None, {(layer.name, name): x for name, x in means.items()})

    def infer(self, net: Network, inputs: Array | Signal, ledger: Ledger, stream: RandomStream | None = None) -> Array:
        output = net.forward(inputs, ledger, stream).output
        if self.supervised:
            return output
        edge = single_edge(net)
        reconstruction = edge.upper.input_gradient(edge.link, output, ledger, "reconstruction")
        return edge.link.send(reconstruction, Direction.FEEDBACK, "reconstruction", ledger, stream).values
