"""Backpropagation and three rules for discrete links: the baselines of the thesis' section 3.3.2."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from ..backends import Array
from ..formats import Format, float32
from ..layers import Gradients
from ..ledger import Ledger
from ..links import Link, Signal
from ..network import Edge, Network, Pass
from .rule import (
    LearningRule,
    Step,
    StepContext,
    as_format,
    is_few_bit,
    output_error,
    send_error,
    weight_gradients,
    with_gradient,
)


@dataclass(frozen=True)
class GradientRule(LearningRule):
    """The upper layer of each link sends `weight.T @ error` down."""

    crosses: ClassVar[str] = "activations up; input gradients down"
    tasks: ClassVar[tuple[str, ...]] = ("classify", "associate", "reconstruct")

    def trained(self, net: Network) -> list[Edge]:
        """The upper part of the chain, whose weights learn."""
        return net.edges

    def step(self, net: Network, inputs: Array | Signal, target: Array, ledger: Ledger, context: StepContext) -> Step:
        run = net.forward(inputs, ledger, context.stream)
        error, loss = output_error(net, run.output, target, ledger, context)
        lowest, *others = self.trained(net)
        gradients: Gradients = {}
        for edge in reversed(others):
            gradients |= weight_gradients(edge, run, error, ledger)
            error = self.error_below(edge, run, error, ledger, context)
        return Step(gradients | weight_gradients(lowest, run, error, ledger), loss)

    def error_below(self, edge: Edge, run: Pass, error: Array, ledger: Ledger, context: StepContext) -> Array:
        """The error at the pre-activation of the lower layer of `edge`, for that of the upper one."""
        assert edge.lower is not None
        input_gradient = send_error(edge, error, ledger, context.stream)
        return edge.lower.error_of(run.states[edge.lower.name], input_gradient)


@dataclass(frozen=True)
class FormattedGradientRule(GradientRule):
    """A gradient rule with a setting for the format in which few-bit links carry gradients."""

    gradient: Any = None
    """Format, or its name, of gradients on few-bit links; None keeps the feedback format of each link."""

    def __post_init__(self) -> None:
        if self.gradient is not None:
            object.__setattr__(self, "gradient", as_format(self.gradient))


@dataclass(frozen=True)
class StraightThrough(FormattedGradientRule):
    """Straight-through estimator: backpropagation that takes the derivative of a quantizer as 1."""

    name: ClassVar[str] = "straight-through"
    source: ClassVar[str] = "Bengio, Leonard, Courville, arXiv:1308.3432; Lee 2018, section 3.3.2"

    def training_links(self, links: Sequence[Link]) -> list[Link]:
        return [with_gradient(link, self.gradient) for link in links]


@dataclass(frozen=True)
class Backprop(FormattedGradientRule):
    """Backpropagation with float32 links: a step function has no useful slope, so forward signals are not quantized."""

    name: ClassVar[str] = "backprop"
    source: ClassVar[str] = "Rumelhart, Hinton, Williams, Nature 323, 1986"

    def training_links(self, links: Sequence[Link]) -> list[Link]:
        gradient: Format = as_format(self.gradient)
        return [links[0], *(replace(with_gradient(link, gradient), forward=float32) for link in links[1:])]


@dataclass(frozen=True)
class BackpropThenSign(Backprop):
    """Backpropagation with float32 links, tested with the discrete ones."""

    name: ClassVar[str] = "backprop-then-sign"
    source: ClassVar[str] = "the thesis' scripts, whose published straight-through curve it matches"

    def inference_links(self, links: Sequence[Link]) -> list[Link]:
        return list(links)


@dataclass(frozen=True)
class FixedLower(GradientRule):
    """Backpropagation down to the highest discrete link; layers below it keep their initial weights."""

    name: ClassVar[str] = "fixed-lower"
    source: ClassVar[str] = "Lee 2018, section 3.3.2, second baseline"

    def training_links(self, links: Sequence[Link]) -> list[Link]:
        self._highest_discrete(links)
        return list(links)

    def trained(self, net: Network) -> list[Edge]:
        return net.edges[self._highest_discrete(net.links) :]

    def _highest_discrete(self, links: Sequence[Link]) -> int:
        few = [i for i, link in enumerate(links) if i and is_few_bit(link.forward)]
        if not few:
            raise ValueError(
                "fixed-lower needs a few-bit link between two layers, for what lies under it to stay fixed; "
                f"the links carry {', '.join(f'{x.name} {x.forward.name}' for x in links)}"
            )
        return few[-1]
