"""Truncated ternary errors: binary states up, errors of -1, 0 or +1 down, no multiplier in either direction.

H. Mostafa, B. Pedroni, S. Sheik, G. Cauwenberghs, Hardware-efficient on-line learning through pipelined truncated-error
backpropagation in binary-state networks, Frontiers in Neuroscience 11:496, 2017. Here without the pipeline: the weights
that carry an error down are those that carried the sample up.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import ClassVar

from ..backends import Array, backend_of
from ..formats import ternary
from ..layers import Gradients
from ..ledger import Direction, Ledger
from ..links import Link, Signal
from ..network import Network
from .rule import LearningRule, Step, StepContext, output_error, weight_gradients


@dataclass(frozen=True)
class TernaryErrors(LearningRule):
    """Backpropagation of errors that every layer truncates to -1, 0 or +1.

    The output layer truncates its error at `output_threshold`. An upper layer truncates (W.T @ error), sums of weights
    and their negatives, at `threshold`, and sends it in the format `ternary`. The lower layer keeps it where the slope
    of its activation is at least `least_slope`: in a window of the pre-activation, as for `hard-tanh`, or `tanh`.
    Binary states need a link with a binary forward format: `--link h1-h2=binary`.
    """

    threshold: float = 0.05
    """Least magnitude of an element of (W.T @ error) that is not truncated to 0."""
    output_threshold: float = 0.3
    """Least magnitude of an error of the output layer that is not truncated to 0; for classes, of a probability."""
    least_slope: float = 0.5
    """Least slope of a unit through which an error passes; a sigmoid has 0.25 at most."""

    name: ClassVar[str] = "ternary-errors"
    source: ClassVar[str] = "Mostafa, Pedroni, Sheik, Cauwenberghs, Frontiers in Neuroscience 11:496, 2017"
    crosses: ClassVar[str] = "activations up; input gradients, each -1, 0 or +1, down"
    tasks: ClassVar[tuple[str, ...]] = ("classify", "associate", "reconstruct")

    def __post_init__(self) -> None:
        for name in ("threshold", "output_threshold", "least_slope"):
            value = getattr(self, name)
            if not (isfinite(value) and value > 0):
                raise ValueError(f"{self.name}: {name} must be a finite number above zero, not {value}")

    def training_links(self, links: Sequence[Link]) -> list[Link]:
        return [links[0], *(replace(link, feedback=ternary) for link in links[1:])]

    def step(self, net: Network, inputs: Array | Signal, target: Array, ledger: Ledger, context: StepContext) -> Step:
        run = net.forward(inputs, ledger, context.stream)
        error, loss = output_error(net, run.output, target, ledger, context)
        error = truncated(error, self.output_threshold)
        gradients: Gradients = {}
        for edge in reversed(net.edges):
            gradients |= weight_gradients(edge, run, error, ledger, ternary.name)
            if edge.lower is not None:
                sums = edge.upper.input_gradient(edge.link, error, ledger, error_format=ternary.name)
                message = truncated(sums, self.threshold)
                arrived = edge.link.send(message, Direction.FEEDBACK, "error", ledger, context.stream).values
                sloped = edge.lower.error_of(run.states[edge.lower.name], arrived)
                error = truncated(sloped, self.least_slope)
        return Step(gradients, loss)


def truncated(x: Array, threshold: float) -> Array:
    """-1 where `x` is at most -`threshold`, +1 where it is at least `threshold`, else 0."""
    xp = backend_of(x)
    return xp.step(x - threshold) - xp.step(-x - threshold)
