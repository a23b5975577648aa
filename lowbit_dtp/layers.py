"""Layers: neurons, with the weights that arrive at them from below and from above. Only layers multiply."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from math import prod
from typing import TYPE_CHECKING, Any

from .activations import ACTIVATIONS, Activation
from .backends import Array, LazyOuterProduct, backend_of
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
    _costs: dict[tuple[Any, ...], Ledger] = field(default_factory=dict, repr=False, compare=False)
    """What each operation counts, by all that it depends on."""

    @property
    def neurons(self) -> int:
        """How many neurons the layer has."""
        return int(self.bias.shape[-1])

    @property
    def members(self) -> int:
        """Members of the ensemble of layers that this is; 1 if it is alone."""
        return prod(self.bias.shape[:-1])

    @property
    def number(self) -> str:
        """Name of the floating type of the weights."""
        return _number(self.weight.dtype)

    def parameters(self) -> dict[str, Array]:
        """The arrays that the layer has, by name."""
        return {name: x for name in PARAMETERS if (x := getattr(self, name)) is not None}

    def pre_activation(self, below: Signal, ledger: Ledger, purpose: str = "activations") -> Array:
        """Sum of inputs [..., batch, neurons], before the activation."""
        self._admit(below, "weight", "bias", ledger, purpose)
        return backend_of(self.weight).pre_activation(below, self.weight, self.bias)

    def state(self, below: Signal, ledger: Ledger, purpose: str = "activations") -> Array:
        """What the neurons make of the signal from below: `activation(below @ weight + bias)`."""
        return self._respond(below, "weight", "bias", ledger, purpose)

    def decode(self, above: Signal, ledger: Ledger, purpose: str) -> Array:
        """This layer's state as the layer above implies it: `activation(above @ feedback + feedback_bias)`.

        Eq. 3.11 of the thesis, with the decoder's weights beside the neurons it decodes to.
        """
        return self._respond(above, "feedback", "feedback_bias", ledger, purpose)

    def decode_change(self, before: Signal, after: Signal, ledger: Ledger, purpose: str) -> Array:
        """What `decode` gives for one signal less what it gives for another: `decode(after) - decode(before)`.

        Exactly zero for a sample that is the same in both. A backend may leave such samples out; they are counted, as
        the neurons would compute them.
        """
        for above in (before, after):
            self._admit(above, "feedback", "feedback_bias", ledger, purpose)
            self._count(ledger, self._count_activation, self._rows(above), purpose)
        xp = backend_of(self.feedback)
        return xp.change(self.activation, before, after, self.feedback, self.feedback_bias)

    def input_gradient(self, error: Array, ledger: Ledger) -> Array:
        """Backpropagation's message to the layer below, `error @ weight.T` [..., batch, below]."""
        self._count(ledger, self._count_product, self.number, "weight", self._rows(error), "error")
        return backend_of(error).matmul(error, self.weight.mT)

    def gradients(self, below: Signal, error: Array, ledger: Ledger) -> dict[str, Array]:
        """Gradients of `weight` and `bias` for an error [..., batch, neurons] in the pre-activation."""
        return self._gradients(below, error, "weight", "bias", ledger)

    def feedback_gradients(self, above: Signal, error: Array, ledger: Ledger) -> dict[str, Array]:
        """Gradients of `feedback` and `feedback_bias` for an error in the pre-activation from above."""
        return self._gradients(above, error, "feedback", "feedback_bias", ledger)

    def cross_entropy(self, logits: Array, labels: Array, ledger: Ledger) -> tuple[Array, Array]:
        """Gradient of each sample's loss at the `logits`, softmax - one-hot, and the mean loss over the batch."""
        self._count(ledger, self._count_softmax, self._rows(logits))
        return backend_of(logits).cross_entropy(logits, labels)

    def update(
        self, name: str, gradient: Array, optimizer: "Optimizer", ledger: Ledger, rate_factor: Array = 1.0
    ) -> None:
        """Let `optimizer` change the parameter `name` by its `gradient`, in place, its rates times `rate_factor`.

        `gradient` is used up: the layer's next gradient may be written over it.
        """
        parameter = getattr(self, name)
        optimizer.update((self.name, name), parameter, gradient, rate_factor)
        if not isinstance(gradient, LazyOuterProduct):
            self._spent[name] = gradient
        self._count(ledger, self._count_update, name, type(optimizer))

    def local_error(self, state: Array, target: Array) -> Array:
        """Gradient at the pre-activation of the batch mean of ||state - target||^2."""
        xp = backend_of(state)
        return xp.activation_backward_difference(self.activation, state, state, target, 2 / state.shape[-2])

    def error_of(self, state: Array, input_gradient: Array) -> Array:
        """Gradient at the pre-activation for an `input_gradient`, the gradient at `state`."""
        return backend_of(state).activation_backward(self.activation, state, input_gradient)

    def _respond(self, signal: Signal, weight: str, bias: str, ledger: Ledger, purpose: str) -> Array:
        self._admit(signal, weight, bias, ledger, purpose)
        self._count(ledger, self._count_activation, self._rows(signal), purpose)
        w = getattr(self, weight)
        return backend_of(w).affine_activation(self.activation, signal, w, getattr(self, bias))

    def _admit(self, signal: Signal, weight: str, bias: str, ledger: Ledger, purpose: str) -> None:
        """Count the product of a signal with weights; ValueError if they do not go together."""
        w = getattr(self, weight)
        if w is None:
            raise ValueError(f"layer {self.name} has no {weight} weights")
        if signal.shape[-1] != w.shape[-2]:
            raise ValueError(
                f"layer {self.name} takes {w.shape[-2]} neurons through {weight!r}, but was given {signal.shape[-1]}"
            )
        self._count(ledger, self._count_affine, weight, bias, signal.format.name, self._rows(signal), purpose)

    def _gradients(self, signal: Signal, error: Array, weight: str, bias: str, ledger: Ledger) -> dict[str, Array]:
        self._count(ledger, self._count_gradients, weight, bias, signal.format.name, self._rows(error))
        gradient, sums = backend_of(error).gradients(signal, error, self._spent.pop(weight, None))
        return {weight: gradient, bias: sums}

    # what each operation counts: the same for every member of an ensemble

    def _count(self, ledger: Ledger, count: Callable[..., None], *details: Any) -> None:
        key = (count.__name__, *details)
        cost = self._costs.get(key)
        if cost is None:
            count(cost := Ledger(), *details)
            self._costs[key] = cost
        ledger.repeated(cost, 1 if self.bias.ndim == 1 else self.members)

    def _rows(self, x: Array | Signal) -> int:
        """Samples that each member has in `x` [..., batch, neurons]."""
        shape, axes = x.shape, self.bias.ndim - 1
        return shape[axes] if len(shape) == axes + 2 else prod(shape[axes:-1])

    def _size(self, name: str) -> int:
        """Numbers that each member has in its parameter `name`."""
        return prod(getattr(self, name).shape[self.bias.ndim - 1 :])

    def _count_affine(self, ledger: Ledger, weight: str, bias: str, left: str, rows: int, purpose: str) -> None:
        self._count_product(ledger, left, weight, rows, purpose)
        ledger.worked(Work(self.name, purpose, "add", self.number), rows * self.neurons)
        self._accessed(bias, "read", rows * self.neurons, ledger)

    def _count_activation(self, ledger: Ledger, rows: int, purpose: str) -> None:
        for operation in self.activation.operations:
            ledger.worked(Work(self.name, purpose, operation, self.number), rows * self.neurons)

    def _count_softmax(self, ledger: Ledger, rows: int) -> None:
        for operation in ("exp", "add", "divide"):
            ledger.worked(Work(self.name, "softmax", operation, self.number), rows * self.neurons)

    def _count_gradients(self, ledger: Ledger, weight: str, bias: str, left: str, rows: int) -> None:
        size = rows * int(getattr(self, weight).shape[-2]) * self.neurons
        ledger.worked(Work(self.name, "gradient", "multiply-accumulate", left, self.number), size)
        ledger.worked(Work(self.name, "gradient", "add", self.number), rows * self.neurons)
        for name, words in ((weight, size), (bias, rows * self.neurons)):
            for way in ("read", "write"):
                self._accessed(f"{name} gradient", way, words, ledger, self._size(name))

    def _count_update(self, ledger: Ledger, name: str, optimizer: "type[Optimizer]") -> None:
        size = self._size(name)
        for operation, times in optimizer.operations.items():
            ledger.worked(Work(self.name, "update", operation, self.number), size * times)
        self._accessed(name, "read", size, ledger)
        self._accessed(name, "write", size, ledger)
        self._accessed(f"{name} gradient", "read", size, ledger, size)
        if optimizer.state_words:
            for way in ("read", "write"):
                self._accessed(f"{name} optimizer state", way, size * optimizer.state_words, ledger, size)

    def _count_product(self, ledger: Ledger, left: str, array: str, rows: int, purpose: str) -> None:
        matrix = getattr(self, array)
        times = rows * int(matrix.shape[-2]) * int(matrix.shape[-1])
        ledger.worked(Work(self.name, purpose, "multiply-accumulate", left, self.number), times)
        self._accessed(array, "read", times, ledger)

    def _accessed(self, array: str, way: str, words: int, ledger: Ledger, capacity: int | None = None) -> None:
        bits = self.weight.dtype.itemsize * 8
        capacity = self._size(array) if capacity is None else capacity
        ledger.accessed(Access(self.name, array, way, self.number, bits, capacity * bits), words)


@cache  # NumPy takes microseconds to name a type, and every entry in a ledger has it named
def _number(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")
