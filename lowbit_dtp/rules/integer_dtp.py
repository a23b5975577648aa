"""Difference target propagation in whole numbers: 1-bit links, 8-bit states and errors, 8- or 16-bit weights.

The rule is D.-H. Lee, Difference Target Propagation, thesis, Algorithm 1; weights are rounded stochastically, after
Gupta, Agrawal, Gopalakrishnan, Narayanan, Deep Learning with Limited Numerical Precision, ICML 2015.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from .. import integers
from ..activations import ACTIVATIONS
from ..backends import Array, backend_of
from ..formats import Float, Format, binary, parse
from ..layers import Gradients, Layer
from ..ledger import Direction, Ledger
from ..links import Link, Signal
from ..network import Edge, Network
from ..projections import Dense, Integer
from .rule import LearningRule, Step, StepContext

_FRACTION_BITS = {8: 8, 16: 12}
"""Bits after the binary point of weights of so many bits, unless a rule says otherwise."""
_ERROR = f"fixed(8,{8 - integers.STATE_FRACTION_BITS})"
"""Name of the format of errors in the ledger."""


@dataclass(frozen=True)
class IntegerDTP(LearningRule):
    """Difference target propagation, eq. 3.15, without a float in a step. Hidden activations are hard tanh.

    Whole numbers are as in `integers`. Bits that cross a link are computed from sums of 32 bits. The rule needs the
    optimizer shift-sgd, and few-bit codes as inputs. Links between layers that are built with floats carry `binary`,
    and the top link carries `error` down.
    """

    weight_bits: int = 16
    """8 or 16."""
    fraction_bits: int | None = None
    """Bits of a weight after the binary point; None for 12 of 16, or 8 of 8.

    At most `integers.SUM_FRACTION_BITS`, so that sums of bits need no rounding.
    """
    error: str = "fixed(8,-1)"
    """Format of the gradient of the loss on the top link, which needs a finer unit than states."""
    target_shift: int = 2
    """The target of the top hidden layer is its state minus that gradient times 2^-target_shift."""
    noise_shift: int = 3
    """The noise under which inverses are learned is 2^noise_shift times a sum of four random bytes, as a sum.

    It is nearly normal; its standard deviation is 0.036 times 2^noise_shift.
    """

    name: ClassVar[str] = "integer-dtp"
    source: ClassVar[str] = "Lee 2018, Algorithm 1, eqs. 3.13, 3.15; stochastic rounding: Gupta et al. 2015"
    crosses: ClassVar[str] = (
        "activations, noisy activations up; reconstructions, states, targets down: 1 bit each; 8-bit error at the top"
    )
    uses_feedback_weights: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.weight_bits not in _FRACTION_BITS:
            raise ValueError(f"{self.name}: weight_bits must be 8 or 16, not {self.weight_bits}")
        for name, most in (("fraction_bits", integers.SUM_FRACTION_BITS), ("target_shift", 15), ("noise_shift", 15)):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= most:
                raise ValueError(f"{self.name}: {name} must be a whole number from 0 to {most}, not {value}")
        integers.levels_of(parse(self.error))

    def training_links(self, links: Sequence[Link]) -> list[Link]:
        first, *others = links
        self._check(first.name, "forward", first.forward)
        made = [first]
        for link in others:
            down = parse(self.error) if link is links[-1] else binary
            link = replace(
                link,
                forward=binary if isinstance(link.forward, Float) else link.forward,
                feedback=down if isinstance(link.feedback, Float) else link.feedback,
            )
            for direction in Direction:
                self._check(link.name, str(direction), link.format(direction))
            made.append(link)
        return made

    def _check(self, link: str, direction: str, fmt: Format) -> None:
        try:
            integers.levels_of(fmt)
        except ValueError as error:
            raise ValueError(f"{self.name}: link {link}, {direction}: {error}") from None

    def prepare(self, net: Network, seed: int) -> None:
        """Round weights to whole numbers, leave out biases, and make tanh hard tanh."""
        fraction_bits = _FRACTION_BITS[self.weight_bits] if self.fraction_bits is None else self.fraction_bits
        for layer in net.layers:
            for link, projection in layer.inputs.items():
                if isinstance(projection, Dense) and not isinstance(projection, Integer):
                    layer.inputs[link] = Integer.of(projection, self.weight_bits, fraction_bits)
            top = layer is net.layers[-1]
            if layer.activation.name == "tanh":
                layer.activation = ACTIVATIONS["hard-tanh"]
            wanted = "identity" if top else "hard-tanh"
            if layer.activation.name != wanted:
                raise ValueError(
                    f"{self.name}: the activation of layer {layer.name} must be {'' if top else 'tanh or '}{wanted}, "
                    f"not {layer.activation.name}"
                )

    def step(self, net: Network, inputs: Array | Signal, target: Array, ledger: Ledger, context: StepContext) -> Step:
        received, sums, state = {}, {}, inputs
        for edge in net.edges:
            layer = edge.upper
            arrived = edge.link.send(state, Direction.FORWARD, "activations", ledger, context.stream)
            received[layer.name], sums[layer.name] = arrived, layer.pre_activation(arrived, ledger)
            state = integers.activation(layer.activation.name)(sums[layer.name])
        gradients = self._forward_gradients(net, received, sums, target, ledger, context)
        return Step(gradients | self._inverse_gradients(net, sums, ledger, context), None)

    def _forward_gradients(
        self,
        net: Network,
        received: dict[str, Signal],
        sums: dict[str, Array],
        labels: Array,
        ledger: Ledger,
        context: StepContext,
    ) -> Gradients:
        """Each layer's gradient of its own loss; targets are sums, so that small changes can flip a bit."""
        *hidden, top = net.edges
        error = top.upper.integer_cross_entropy(sums[top.upper.name], labels, ledger)
        gradients = top.upper.gradients(received[top.upper.name], error, ledger, _ERROR)
        if top.lower is not None:
            error, target = self._top_target(top, error, sums[top.lower.name], ledger, context)
        for edge in reversed(hidden):
            gradients |= edge.upper.gradients(received[edge.upper.name], error, ledger, _ERROR)
            if edge.lower is not None:
                error, target = self._target_below(edge, target, sums, ledger, context)
        return gradients

    def _top_target(
        self, edge: Edge, error: Array, sums: Array, ledger: Ledger, context: StepContext
    ) -> tuple[Array, Array]:
        """Error and target of the top hidden layer: h - step dL/dh. The error has the unit of the gradient."""
        message = edge.upper.input_gradient(edge.link, error, ledger, error_format=_ERROR)
        arrived = edge.link.send(message, Direction.FEEDBACK, "error", ledger, context.stream)
        gradient = backend_of(sums).cast(arrived.integers, "int32")
        finer = integers.SUM_FRACTION_BITS - integers.levels_of(arrived.format).fraction_bits
        target = integers.clipped(sums) - integers.shifted(gradient, self.target_shift - finer)
        return integers.saturated(gradient * _slope(sums)), target

    def _target_below(
        self, edge: Edge, target: Array, sums: dict[str, Array], ledger: Ledger, context: StepContext
    ) -> tuple[Array, Array]:
        """Error and target of the lower layer of `edge`: h + (g(target above) - g(state above)), eq. 3.15."""
        link, lower, upper = edge.link, edge.lower, edge.upper
        assert lower is not None
        state = integers.clipped(sums[upper.name])
        said = link.send(state, Direction.FEEDBACK, "state", ledger, context.stream)
        asked = link.send(target, Direction.FEEDBACK, "target", ledger, context.stream)
        before, after = (_wide(lower.decode(signal, ledger, "target")) for signal in (said, asked))
        change, own = after - before, sums[lower.name]
        finer = integers.SUM_FRACTION_BITS - integers.STATE_FRACTION_BITS
        return integers.saturated(-change * _slope(own)), integers.clipped(own) + (change << finer)

    def _inverse_gradients(
        self, net: Network, sums: dict[str, Array], ledger: Ledger, context: StepContext
    ) -> Gradients:
        """Gradients of the feedback mappings g for ||g(f(h + e)) - (h + e)||^2, eq. 3.13."""
        gradients: Gradients = {}
        for edge in net.edges:
            link, layer = edge.link, edge.lower
            if layer is None or link.name not in layer.inputs:
                continue
            noisy = integers.clipped(sums[layer.name]) + self._noise(layer, sums[layer.name], context)
            up = link.send(noisy, Direction.FORWARD, "noisy activations", ledger, context.stream)
            lifted = edge.upper.state(up, ledger, "inverse")
            down = link.send(lifted, Direction.FEEDBACK, "reconstruction", ledger, context.stream)
            reconstruction = layer.decode(down, ledger, "inverse")
            inside = (reconstruction > -128) * (reconstruction < 127)
            error = (_wide(reconstruction) - _wide(integers.states(noisy))) * inside
            gradients |= layer.gradients(down, integers.saturated(error), ledger, _ERROR)
        return gradients

    def _noise(self, layer: Layer, like: Array, context: StepContext) -> Array:
        """Noise of the shape of `like`, as sums."""
        bits = context.stream.bits(f"noise {layer.name}", like)
        total = (bits & 255) + ((bits >> 8) & 255) + ((bits >> 16) & 255) + (bits >> 24)
        return backend_of(like).cast(total - 510, "int32") << self.noise_shift


def _slope(sums: Array) -> Any:
    """Whether the slope of hard tanh is 1 there, not 0."""
    return (sums > -integers.ONE) * (sums < integers.ONE)


def _wide(states: Array) -> Array:
    return backend_of(states).cast(states, "int32")
