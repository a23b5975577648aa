"""The base of every learning rule: a step computes gradients from a minibatch; all messages cross links."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from ..backends import Array, multiplied
from ..formats import Float, Format, float32, parse
from ..layers import Gradients
from ..ledger import Direction, Ledger
from ..links import Link, Signal
from ..network import Edge, Network, Pass
from ..randomness import RandomStream
from ..tasks import Classify, Task

BOTH = "both"
"""The phase of a rule that learns everything in each minibatch."""


@dataclass(frozen=True)
class Step:
    """The result of a rule for one minibatch."""

    gradients: Gradients
    loss: Array | None
    """Mean loss of the minibatch; None if the phase does not compute the output, or the rule has no loss."""
    buffers: dict[tuple[str, str], Array] = field(default_factory=dict)
    """New values of buffers, by the names of the layer and of the buffer."""


@dataclass(frozen=True)
class StepContext:
    """Epoch, phase, random numbers and task of a step."""

    epoch: Any = 0.0
    """Completed epochs: a number, or an array of one number on the device."""
    phase: str = BOTH
    stream: RandomStream = field(default_factory=lambda: RandomStream(0))
    task: Task = field(default_factory=Classify)


class LearningRule(ABC):
    """A learning rule. Rules compute elementwise; layers multiply and links send, and both are counted."""

    name: ClassVar[str]
    source: ClassVar[str]
    """Where the rule comes from."""
    crosses: ClassVar[str] = ""
    """What crosses the links in training, as text."""
    tasks: ClassVar[tuple[str, ...]] = ("classify",)
    """Names of the tasks that the rule can learn; the first is the default."""
    uses_feedback_weights: ClassVar[bool] = False

    @property
    def phases(self) -> tuple[str, ...]:
        """Passes over the data that make one epoch."""
        return (BOTH,)

    def training_links(self, links: Sequence[Link]) -> list[Link]:
        """`links` as the rule uses them in training. ValueError with the reason if it cannot use them."""
        return list(links)

    def inference_links(self, links: Sequence[Link]) -> list[Link]:
        """`links` for evaluation and use of the trained network."""
        return self.training_links(links)

    def prepare(self, net: Network, seed: int) -> None:  # noqa: B027 - most rules need nothing
        """Add to `net`, in place, the links, weights (drawn from `seed`) and buffers that the rule needs and it lacks.

        Called before training; a network that has everything is not changed.
        """

    def without_data(self) -> "LearningRule":
        """A rule that computes and sends what this one does at most, whatever the data: for `estimation`.

        By default this rule: what most rules compute does not depend on data.
        """
        return self

    @abstractmethod
    def step(self, net: Network, inputs: Array | Signal, target: Array, ledger: Ledger, context: StepContext) -> Step:
        """Gradients at the present parameters, for `inputs` [..., batch, input].

        `target` is the target of `context.task`: integer labels [..., batch], for example.
        """

    def infer(self, net: Network, inputs: Array | Signal, ledger: Ledger, stream: RandomStream | None = None) -> Array:
        """Outputs [..., batch, outputs] of the trained network."""
        return net.forward(inputs, ledger, stream).output


def output_error(
    net: Network, output: Array, target: Array, ledger: Ledger, context: StepContext
) -> tuple[Array, Array]:
    """Gradient of each sample's loss at the pre-activation of the output layer, and the mean loss."""
    return context.task.error(net.layers[-1], output, target, ledger)


def send_error(edge: Edge, error: Array, ledger: Ledger, stream: RandomStream) -> Array:
    """The input gradient for the lower layer, transposed weights times `error`, after it has crossed the link."""
    message = edge.upper.input_gradient(edge.link, error, ledger)
    return edge.link.send(message, Direction.FEEDBACK, "error", ledger, stream).values


def weight_gradients(edge: Edge, run: Pass, error: Array, ledger: Ledger, error_format: str = "") -> Gradients:
    """Gradients of the mean loss by the weights of `edge`, for each sample's `error` at the pre-activation.

    `error_format` is as in `Layer.gradients`.
    """
    return edge.upper.gradients(run.received[edge.link.name], error / error.shape[-2], ledger, error_format)


def summed(*parts: Gradients) -> Gradients:
    """The gradients in `parts`; those of the same array are added. `parts` must not be used afterwards."""
    total: Gradients = {}
    for part in parts:
        for key, gradient in part.items():
            if key in total:
                total[key] = multiplied(total[key])
                total[key] += multiplied(gradient)
            else:
                total[key] = gradient
    return total


def is_few_bit(fmt: Format) -> bool:
    """Whether this is a few-bit format: anything but floating point."""
    return not isinstance(fmt, Float)


def as_format(fmt: Any, default: Format = float32) -> Format:
    """`fmt` itself, or the format it names."""
    return parse(fmt) if isinstance(fmt, str) else (fmt or default)


def with_gradient(link: Link, gradient: Format | None) -> Link:
    """`link`, with `gradient` as feedback format if that is few-bit already."""
    return replace(link, feedback=gradient) if gradient is not None and is_few_bit(link.feedback) else link
