"""Tasks: what a network is to make of its inputs, the loss by which it learns that, and how it is scored."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from .backends import Array, backend_of
from .layers import Layer
from .ledger import Ledger
from .links import Signal


class Task(ABC):
    """What the outputs should be for each sample, and how far from it they are."""

    name: ClassVar[str]
    measure: ClassVar[str]
    """What a score is called: `error_percent`, say. Less is better."""
    scale: ClassVar[float] = 1.0
    """What a mean over samples is multiplied by to make a score."""
    counts: ClassVar[bool] = False
    """Whether samples are counted: the sum of scores is a whole number then."""

    def target(self, inputs: Array | Signal, labels: Array) -> Array:
        """What the output layer is given to learn from: of a minibatch's inputs and labels, the latter."""
        return labels

    def desired_output(self, target: Array, output: Array) -> Array:
        """The output for which the loss is least, in the shape and type of `output`: of a `target`, itself."""
        return target

    @abstractmethod
    def error(self, layer: Layer, output: Array, target: Array, ledger: Ledger) -> tuple[Array, Array]:
        """Gradient of each sample's loss at the pre-activation of the output `layer`, and the mean loss.

        `output` [..., batch, neurons] is the state of the layer.
        """

    @abstractmethod
    def distance(self, output: Array, target: Array) -> Array:
        """Sum over the batch of how far each output is from its target: [] or [members]."""


@dataclass(frozen=True)
class Classify(Task):
    """One output neuron for each class; the largest output is the answer. Labels are whole numbers [..., batch].

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
    """Outputs that should come close to given numbers: squared error, summed over neurons."""

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
    """The inputs themselves. The output layer is taken to be where the inputs come from, so it knows them."""

    name: ClassVar[str] = "reconstruct"

    def target(self, inputs: Array | Signal, labels: Array) -> Array:
        return inputs.values if isinstance(inputs, Signal) else inputs


@dataclass(frozen=True)
class Quantize(Reconstruct):
    """A code vector for each input: the outputs are the vector of the neuron that wins. Scored as `Reconstruct` is."""

    name: ClassVar[str] = "quantize"


TASKS: dict[str, Task] = {task.name: task for task in (Classify(), Associate(), Reconstruct(), Quantize())}
"""Every task, by name."""


MEASURES = {"error_percent": "error", "squared_error": "squared error"}
"""What each measure is called in text. One whose name ends in `percent` is given in percent."""


def score(task: Task, total: Any, samples: Any) -> Any:
    """The score of which `total` is the sum of distances over `samples`."""
    return task.scale * total / samples
