"""Tasks: the outputs that a network should learn, the loss, and the score."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from .backends import Array, backend_of
from .layers import Layer
from .ledger import Ledger
from .links import Signal


class Task(ABC):
    """The desired outputs for each sample, the loss, and the distance from them."""

    name: ClassVar[str]
    measure: ClassVar[str]
    """Name of the score, for example `error_percent`. Lower is better."""
    scale: ClassVar[float] = 1.0
    """Factor from a mean over samples to a score."""
    counts: ClassVar[bool] = False
    """Whether the distance counts samples, so that its sum is a whole number."""

    def target(self, inputs: Array | Signal, labels: Array) -> Array:
        """What the output layer learns from, for the inputs and labels of a minibatch: by default, the labels."""
        return labels

    def desired_output(self, target: Array, output: Array) -> Array:
        """The output with the least loss, in the shape and type of `output`: by default, `target` itself."""
        return target

    @abstractmethod
    def error(self, layer: Layer, output: Array, target: Array, ledger: Ledger) -> tuple[Array, Array]:
        """Gradient of each sample's loss at the pre-activation of the output `layer`, and the mean loss.

        `output` [..., batch, neurons] is the state of the layer.
        """

    @abstractmethod
    def distance(self, output: Array, target: Array) -> Array:
        """Sum over the batch of the distance of each output from its target: [] or [members]."""


@dataclass(frozen=True)
class Classify(Task):
    """One output neuron for each class; the largest output decides. Labels are whole numbers [..., batch].

    The loss is the negative log-likelihood of the label, softmax over linear outputs.
    """

    name: ClassVar[str] = "classify"
    measure: ClassVar[str] = "error_percent"
    scale: ClassVar[float] = 100.0
    counts: ClassVar[bool] = True

    def error(self, layer: Layer, output: Array, target: Array, ledger: Ledger) -> tuple[Array, Array]:
        return layer.classification_error(output, target, ledger)

    def desired_output(self, target: Array, output: Array) -> Array:
        return backend_of(output).one_hot(target, output)

    def distance(self, output: Array, target: Array) -> Array:
        return (output.argmax(-1) != target).sum(-1)


class _Regress(Task):
    """Outputs that should be close to given numbers: squared error, summed over neurons."""

    measure: ClassVar[str] = "squared_error"

    def error(self, layer: Layer, output: Array, target: Array, ledger: Ledger) -> tuple[Array, Array]:
        return layer.squared_error(output, target)

    def distance(self, output: Array, target: Array) -> Array:
        difference = output - target
        return (difference * difference).sum(-1).sum(-1)


@dataclass(frozen=True)
class Associate(_Regress):
    """Outputs [..., batch, outputs] that are given with the samples, as their labels."""

    name: ClassVar[str] = "associate"


@dataclass(frozen=True)
class Reconstruct(_Regress):
    """Outputs that should equal the inputs. The output layer is taken to be at their source, so it has them."""

    name: ClassVar[str] = "reconstruct"

    def target(self, inputs: Array | Signal, labels: Array) -> Array:
        return inputs.values if isinstance(inputs, Signal) else inputs


@dataclass(frozen=True)
class Quantize(Reconstruct):
    """A code vector for each input: the outputs are the vector of the winning neuron. Scored like `Reconstruct`."""

    name: ClassVar[str] = "quantize"


TASKS: dict[str, Task] = {task.name: task for task in (Classify(), Associate(), Reconstruct(), Quantize())}
"""Every task, by name."""


MEASURES = {"error_percent": "error", "squared_error": "squared error"}
"""Name of each score in text. A score whose name ends in `percent` is in percent."""


def score(task: Task, total: Any, samples: Any) -> Any:
    """The score for `total`, the sum of distances over `samples`."""
    return task.scale * total / samples
