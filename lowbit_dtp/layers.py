"""Layers: neurons, with the weights that arrive at them from below and from above. Only layers multiply."""

from dataclasses import dataclass, field
from functools import cache
from math import prod
from typing import TYPE_CHECKING, Any

from .activations import ACTIVATIONS, Activation
from .backends import Array, backend_of
from .ledger import Access, Ledger, Work
from .links import Signal

if TYPE_CHECKING:
    from .optimizers import Optimizer

PARAMETERS = ("weight", "bias", "feedback", "feedback_bias")


@dataclass
class Layer:
    """Neurons with `weight` [..., below, neurons] from below and `feedback` [..., above, neurons] from above.

    Both matrices live with the neurons that receive, so only neuron states cross links. Biases are [..., neurons].
    """

    name: str
    weight: Array
    bias: Array
    feedback: Array | None = None
    feedback_bias: Array | None = None
    activation: Activation = ACTIVATIONS["tanh"]
    _spent: dict[str, Array] = field(default_factory=dict, repr=False, compare=False)
    """Gradients that an update has used up: memory for the next, since fresh pages cost more than the product."""

    @property
    def neurons(self) -> int:
        """How many neurons the layer has."""
        return int(self.bias.shape[-1])

    @property
    def number(self) -> str:
        """Name of the floating type of the weights."""
        return _number(self.weight.dtype)

    def parameters(self) -> dict[str, Array]:
        """The arrays that the layer has, by name."""
        return {name: x for name in PARAMETERS if (x := getattr(self, name)) is not None}

    def drive(self, below: Signal, ledger: Ledger, purpose: str = "activity") -> Array:
        """Sum of inputs [..., batch, neurons], before the activation."""
        return self._affine(below, "weight", "bias", ledger, purpose)

    def state(self, below: Signal, ledger: Ledger, purpose: str = "activity") -> Array:
        """What the neurons make of the signal from below: `activation(below @ weight + bias)`."""
        return self._activate(self.drive(below, ledger, purpose), ledger, purpose)

    def recall(self, above: Signal, ledger: Ledger, purpose: str) -> Array:
        """This layer's state as the layer above implies it: `activation(above @ feedback + feedback_bias)`.

        Eq. 3.11 of the thesis, with the decoder's weights beside the neurons it decodes to.
        """
        return self._activate(self._affine(above, "feedback", "feedback_bias", ledger, purpose), ledger, purpose)

    def blame(self, error: Array, ledger: Ledger) -> Array:
        """Backpropagation's message to the layer below, `error @ weight.T` [..., batch, below]."""
        self._multiplied(self.number, "weight", _rows(error), ledger, "error")
        return backend_of(error).matmul(error, self.weight.mT)

    def gradients(self, below: Signal, error: Array, ledger: Ledger) -> dict[str, Array]:
        """Gradients of `weight` and `bias` for an error [..., batch, neurons] in the drive."""
        return self._gradients(below, error, "weight", "bias", ledger)

    def feedback_gradients(self, above: Signal, error: Array, ledger: Ledger) -> dict[str, Array]:
        """Gradients of `feedback` and `feedback_bias` for an error in the drive from above."""
        return self._gradients(above, error, "feedback", "feedback_bias", ledger)

    def probabilities(self, logits: Array, ledger: Ledger) -> Array:
        """Softmax of the layer's drive."""
        rows = _rows(logits)
        for operation in ("exp", "add", "divide"):
            ledger.worked(Work(self.name, "softmax", operation, self.number), rows * self.neurons)
        return backend_of(logits).softmax(logits)

    def update(self, name: str, gradient: Array, optimizer: "Optimizer", ledger: Ledger) -> None:
        """Let `optimizer` change the parameter `name` by its `gradient`, in place.

        `gradient` is used up: the layer's next gradient may be written over it.
        """
        parameter = getattr(self, name)
        optimizer.update((self.name, name), parameter, gradient)
        self._spent[name] = gradient
        size = _size(parameter)
        for operation, times in optimizer.operations.items():
            ledger.worked(Work(self.name, "update", operation, self.number), size * times)
        self._accessed(name, "read", size, ledger)
        self._accessed(name, "write", size, ledger)
        self._accessed(f"{name} gradient", "read", size, ledger, size)
        if optimizer.state_words:
            for way in ("read", "write"):
                self._accessed(f"{name} optimizer state", way, size * optimizer.state_words, ledger, size)

    def _affine(self, signal: Signal, weight: str, bias: str, ledger: Ledger, purpose: str) -> Array:
        w, b = getattr(self, weight), getattr(self, bias)
        if w is None:
            raise ValueError(f"layer {self.name} has no {weight} weights")
        if signal.codes.shape[-1] != w.shape[-2]:
            raise ValueError(
                f"layer {self.name} takes {w.shape[-2]} neurons through {weight!r}, "
                f"but was given {signal.codes.shape[-1]}"
            )
        rows = _rows(signal.codes)
        self._multiplied(signal.format.name, weight, rows, ledger, purpose)
        ledger.worked(Work(self.name, purpose, "add", self.number), rows * self.neurons)
        self._accessed(bias, "read", rows * self.neurons, ledger)
        drive = backend_of(w).matmul(signal.values, w)
        drive += b[..., None, :]
        return drive

    def _activate(self, drive: Array, ledger: Ledger, purpose: str) -> Array:
        if self.activation.operation:
            work = Work(self.name, purpose, self.activation.operation, self.number)
            ledger.worked(work, _rows(drive) * self.neurons)
        return self.activation.apply(backend_of(drive), drive)

    def _gradients(self, signal: Signal, error: Array, weight: str, bias: str, ledger: Ledger) -> dict[str, Array]:
        rows = _rows(error)
        size = rows * int(signal.codes.shape[-1]) * self.neurons
        ledger.worked(Work(self.name, "gradient", "multiply-accumulate", signal.format.name, self.number), size)
        ledger.worked(Work(self.name, "gradient", "add", self.number), rows * self.neurons)
        for name, words in ((weight, size), (bias, rows * self.neurons)):
            for way in ("read", "write"):
                self._accessed(f"{name} gradient", way, words, ledger, _size(getattr(self, name)))
        spent = self._spent.pop(weight, None)
        return {weight: backend_of(error).matmul(signal.values.mT, error, spent), bias: error.sum(-2)}

    def _multiplied(self, left: str, array: str, rows: int, ledger: Ledger, purpose: str) -> None:
        matrix = getattr(self, array)
        times = rows * int(matrix.shape[-2]) * int(matrix.shape[-1])
        ledger.worked(Work(self.name, purpose, "multiply-accumulate", left, self.number), times)
        self._accessed(array, "read", times, ledger)

    def _accessed(self, array: str, way: str, words: int, ledger: Ledger, capacity: int | None = None) -> None:
        bits = self.weight.dtype.itemsize * 8
        capacity = _size(getattr(self, array)) if capacity is None else capacity
        ledger.accessed(Access(self.name, array, way, self.number, bits, capacity * bits), words)


@cache  # NumPy takes microseconds to name a type, and every entry in a ledger has it named
def _number(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def _rows(x: Array) -> int:
    """Samples in `x` [..., batch, neurons], over all members."""
    return prod(x.shape[:-1])


def _size(x: Array) -> int:
    return prod(x.shape)
