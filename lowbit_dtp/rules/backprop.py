"""Backpropagation and three ways to put up with a discrete link: the baselines of the thesis' section 3.3.2."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from ..backends import Array
from ..formats import Format, float32
from ..ledger import Ledger
from ..links import Link
from ..network import Network
from .rule import (
    LearningRule,
    Step,
    StepContext,
    as_format,
    input_gradient_below,
    is_few_bit,
    keyed,
    output_error,
    output_gradients,
    with_gradient,
)


@dataclass(frozen=True)
class GradientRule(LearningRule):
    """Gradients carried down as `weight.T @ error`, from the upper side of each link."""

    def lowest_trained(self, net: Network) -> int:
        """Index of the lowest layer that learns."""
        return 0

    def step(self, net: Network, inputs: Array, labels: Array, ledger: Ledger, context: StepContext) -> Step:
        run = net.forward(inputs, ledger, context.stream)
        error, loss = output_error(net, run.states[-1], labels, ledger)
        gradients = output_gradients(net, run, error, ledger)
        for i in reversed(range(self.lowest_trained(net), len(net.layers) - 1)):
            input_gradient = input_gradient_below(net, i + 1, error, ledger, context.stream)
            error = net.layers[i].error_of(run.states[i], input_gradient)
            gradients |= keyed(i, net.layers[i].gradients(run.received[i], error / error.shape[-2], ledger))
        return Step(gradients, loss)


@dataclass(frozen=True)
class FormattedGradientRule(GradientRule):
    """A gradient rule that takes the format in which constrained links carry gradients."""

    gradient: Any = None
    """Format, or its name, in which constrained links carry gradients; None leaves each link its feedback format."""

    def __post_init__(self) -> None:
        if self.gradient is not None:
            object.__setattr__(self, "gradient", as_format(self.gradient))


@dataclass(frozen=True)
class StraightThrough(FormattedGradientRule):
    """Straight-through estimator: quantized on the way up, and the quantizer taken for the identity on the way down."""

    name: ClassVar[str] = "straight-through"
    source: ClassVar[str] = "Bengio, Leonard, Courville, arXiv:1308.3432; Lee 2015, section 3.3.2"

    def training_links(self, links: Sequence[Link]) -> list[Link]:
        return [with_gradient(link, self.gradient) for link in links]


@dataclass(frozen=True)
class Backprop(FormattedGradientRule):
    """Plain backpropagation. A step function has no useful slope, so links between layers carry real numbers."""

    name: ClassVar[str] = "backprop"
    source: ClassVar[str] = "Rumelhart, Hinton, Williams, Nature 323, 1986"

    def training_links(self, links: Sequence[Link]) -> list[Link]:
        gradient: Format = as_format(self.gradient)
        return [links[0], *(replace(with_gradient(link, gradient), forward=float32) for link in links[1:])]


@dataclass(frozen=True)
class BackpropThenSign(Backprop):
    """Backpropagation with continuous links, tested with the discrete ones."""

    name: ClassVar[str] = "backprop-then-sign"
    source: ClassVar[str] = "the thesis' scripts, whose published straight-through curve it matches"

    def inference_links(self, links: Sequence[Link]) -> list[Link]:
        return list(links)


@dataclass(frozen=True)
class FixedLower(GradientRule):
    """Backpropagation down to the highest discrete link; layers under it keep their initial weights."""

    name: ClassVar[str] = "fixed-lower"
    source: ClassVar[str] = "Lee 2015, section 3.3.2, second baseline"

    def training_links(self, links: Sequence[Link]) -> list[Link]:
        self._highest_discrete(links)
        return list(links)

    def lowest_trained(self, net: Network) -> int:
        return self._highest_discrete(net.links)

    def _highest_discrete(self, links: Sequence[Link]) -> int:
        few = [i for i, link in enumerate(links) if i and is_few_bit(link.forward)]
        if not few:
            raise ValueError(
                "fixed-lower needs a few-bit link between two layers, for what lies under it to stay fixed; "
                f"the links carry {', '.join(f'{x.name} {x.forward.name}' for x in links)}"
            )
        return few[-1]
