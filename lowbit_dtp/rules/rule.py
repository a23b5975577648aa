"""What every learning rule is: a way to turn one minibatch into gradients, with links as the only messengers."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from ..backends import Array
from ..formats import Float, Format, float32, parse
from ..ledger import Direction, Ledger
from ..links import Link
from ..network import Network, Pass
from ..optimizers import Gradients
from ..randomness import RandomStream

BOTH = "both"
"""The phase of a rule that does all its learning in each minibatch."""


@dataclass(frozen=True)
class Step:
    """What a rule makes of one minibatch."""

    gradients: Gradients
    loss: Array | None
    """Mean negative log-likelihood of the labels, or None if the phase does not come to the output."""


@dataclass(frozen=True)
class StepContext:
    """Where in a run a step is taken."""

    epoch: Any = 0.0
    """Epochs completed, from 0: a number, or an array of one on the device."""
    phase: str = BOTH
    stream: RandomStream = field(default_factory=lambda: RandomStream(0))


class LearningRule(ABC):
    """A learning rule. Rules do elementwise arithmetic; layers multiply, links carry, and those two are counted."""

    name: ClassVar[str]
    source: ClassVar[str]
    """Where the rule comes from."""
    uses_feedback_weights: ClassVar[bool] = False

    @property
    def phases(self) -> tuple[str, ...]:
        """Passes over the data that make one epoch."""
        return (BOTH,)

    def training_links(self, links: Sequence[Link]) -> list[Link]:
        """`links` as the rule uses them in training. ValueError, saying why, if it cannot use them."""
        return list(links)

    def inference_links(self, links: Sequence[Link]) -> list[Link]:
        """`links` as the trained network is tested and used with."""
        return self.training_links(links)

    @abstractmethod
    def step(self, net: Network, inputs: Array, labels: Array, ledger: Ledger, context: StepContext) -> Step:
        """Gradients for `inputs` [..., batch, input] and integer `labels` [..., batch], at the present parameters."""


def output_error(net: Network, logits: Array, labels: Array, ledger: Ledger) -> tuple[Array, Array]:
    """Gradient of each sample's negative log-likelihood at the logits, softmax - one-hot, and the mean loss."""
    return net.layers[-1].cross_entropy(logits, labels, ledger)


def input_gradient_below(net: Network, index: int, error: Array, ledger: Ledger, stream: RandomStream) -> Array:
    """What layer `index - 1` hears of the `error` in layer `index`: weights transposed, over the link."""
    message = net.layers[index].input_gradient(error, ledger)
    return net.links[index].send(message, Direction.FEEDBACK, "error", ledger, stream).values


def keyed(index: int, gradients: dict[str, Array]) -> Gradients:
    """A layer's gradients under the index of that layer."""
    return {(index, name): gradient for name, gradient in gradients.items()}


def output_gradients(net: Network, run: Pass, error: Array, ledger: Ledger) -> Gradients:
    """Gradients of the output layer for the mean of a minibatch."""
    top = len(net.layers) - 1
    return keyed(top, net.layers[top].gradients(run.received[top], error / error.shape[-2], ledger))


def is_few_bit(fmt: Format) -> bool:
    """Whether a wire in this format is a constrained one: anything but floating point."""
    return not isinstance(fmt, Float)


def as_format(fmt: Any, default: Format = float32) -> Format:
    """`fmt` itself, or the format it names."""
    return parse(fmt) if isinstance(fmt, str) else (fmt or default)


def with_gradient(link: Link, gradient: Format | None) -> Link:
    """`link`, carrying `gradient` down if it is a constrained one."""
    return replace(link, feedback=gradient) if gradient is not None and is_few_bit(link.feedback) else link
