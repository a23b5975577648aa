"""What every learning rule is: it turns one minibatch into gradients, with links as the only messengers."""

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
"""The phase of a rule that does all its learning in each minibatch."""


@dataclass(frozen=True)
class Step:
    """What a rule makes of one minibatch."""

    gradients: Gradients
    loss: Array | None
    """Mean loss of the minibatch, or None if the phase does not come to the output, or the rule has no loss."""
    buffers: dict[tuple[str, str], Array] = field(default_factory=dict)
    """New values of buffers, by the names of the layer and of the buffer."""


@dataclass(frozen=True)
class StepContext:
    """Where in a run a step is taken, and what is learned."""

    epoch: Any = 0.0
    """Epochs completed, from 0: a number, or an array of one on the device."""
    phase: str = BOTH
    stream: RandomStream = field(default_factory=lambda: RandomStream(0))
    task: Task = field(default_factory=Classify)


class LearningRule(ABC):
    """A learning rule. Rules do elementwise arithmetic; layers multiply, links carry, and those two are counted."""

    name: ClassVar[str]
    source: ClassVar[str]
    """Where the rule comes from."""
    crosses: ClassVar[str] = ""
    """What crosses the links in training, in words."""
    tasks: ClassVar[tuple[str, ...]] = ("classify",)
    """Names of the tasks that the rule learns; the first is the usual one."""
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

    def prepare(self, net: Network, seed: int) -> None:  # noqa: B027 - most rules need nothing
        """Add to `net`, in place, what the rule needs and the network lacks: links, weights drawn from `seed`, buffers.

        Called before training; a network that has all of it is left as it is.
        """

    @abstractmethod
    def step(self, net: Network, inputs: Array, target: Array, ledger: Ledger, context: StepContext) -> Step:
        """What is to change at the present parameters, for `inputs` [..., batch, input].

        `target` is what `context.task` gives the output layer to learn from: integer labels [..., batch], say.
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
    """What the lower layer hears of the `error` in the upper one: its weights transposed times it, over the link."""
    message = edge.upper.input_gradient(edge.link, error, ledger)
    return edge.link.send(message, Direction.FEEDBACK, "error", ledger, stream).values


def weight_gradients(edge: Edge, run: Pass, error: Array, ledger: Ledger, error_format: str = "") -> Gradients:
    """Gradients of the weights of `edge`, for each sample's `error` at the pre-activation: of the minibatch's mean.

    `error_format` is as `Layer.gradients` has it.
    """
    return edge.upper.gradients(run.received[edge.link.name], error / error.shape[-2], ledger, error_format)


def summed(*parts: Gradients) -> Gradients:
    """All gradients in `parts`, added up where several are of one array. What is in `parts` is used up."""
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
    """Whether a wire in this format is a constrained one: anything but floating point."""
    return not isinstance(fmt, Float)


def as_format(fmt: Any, default: Format = float32) -> Format:
    """`fmt` itself, or the format it names."""
    return parse(fmt) if isinstance(fmt, str) else (fmt or default)


def with_gradient(link: Link, gradient: Format | None) -> Link:
    """`link`, carrying `gradient` down if it is a constrained one."""
    return replace(link, feedback=gradient) if gradient is not None and is_few_bit(link.feedback) else link
