"""Layers: neurons, and the projections through which signals reach them. Only layers multiply."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, Protocol

from . import integers
from .activations import ACTIVATIONS, Activation
from .backends import Array, Factor, Gradient, LazyOuterProduct, backend_of
from .counts import Counts
from .ledger import Access, Direction, Ledger, Work
from .links import Link, Signal
from .projections import Projection, Slot
from .randomness import RandomStream

Gradients = dict[tuple[str, str], Gradient]
"""Gradient of each array that a step trains, by the names of its layer and of the array there."""


class Updates(Protocol):
    """What a layer needs from an optimizer."""

    @property
    def operations(self) -> dict[str, int]:
        """Arithmetic operations of one update of one number."""

    @property
    def state_words(self) -> int:
        """Numbers kept for each parameter."""

    def update(
        self,
        key: tuple[str, str],
        parameter: Array,
        gradient: Gradient,
        rate_factor: Factor,
        direction: Direction,
        stream: RandomStream | None,
    ) -> None:
        """Change `parameter` in place."""


@dataclass
class Layer:
    """Neurons, and a projection for each link that sends signals to them, by the name of the link.

    Weights belong to the receiving neurons, so only states and errors cross links.
    """

    name: str
    inputs: dict[str, Projection]
    activation: Activation = ACTIVATIONS["tanh"]
    decoder_activation: Activation | None = None
    """Activation that `decode` applies; None for `activation`."""
    buffers: dict[str, Array] = field(default_factory=dict)
    """Arrays that a learning rule keeps with the neurons, by name: saved with the network, trained by no optimizer."""
    _spent: dict[str, Array] = field(default_factory=dict, repr=False, compare=False)
    """Gradients that an update has used: memory for the next ones, since new pages cost more time than the product."""
    _costs: dict[tuple[Any, ...], tuple[Counts, int]] = field(default_factory=dict, repr=False, compare=False)
    """Counts of each operation for a member and how many members there are, by everything that they depend on."""

    @property
    def projection(self) -> Projection:
        """The projection of the first link, the one from below."""
        return next(iter(self.inputs.values()))

    @property
    def weight(self) -> Array:
        """The weights [..., below, neurons] of `projection`."""
        return self.projection.values

    @weight.setter
    def weight(self, x: Array) -> None:
        self.put(self.projection.name, x)

    @property
    def bias(self) -> Array | None:
        """The bias [..., neurons] of `projection`."""
        return self.projection.bias

    @bias.setter
    def bias(self, x: Array) -> None:
        self.put(self.projection.bias_name, x)

    def drop_bias(self) -> None:
        """Leave the projection of the first link without a bias, for rules that train none."""
        link = next(iter(self.inputs))
        self.inputs[link] = replace(self.projection, offset=None)  # type: ignore[type-var]
        self._costs.clear()

    @property
    def neurons(self) -> int:
        """How many neurons the layer has."""
        return self.projection.shape[1]

    @property
    def members(self) -> int:
        """Members of the ensemble; 1 for a single layer."""
        return prod(self.projection.members)

    @property
    def number(self) -> str:
        """Name of the number format of the neurons' arithmetic."""
        return self.projection.sum_number

    def slots(self) -> Iterator[Slot]:
        """Where each array of the layer is held."""
        for projection in self.inputs.values():
            yield from projection.slots()
        for name in self.buffers:
            yield name, self.buffers, name

    def arrays(self) -> dict[str, Array]:
        """Every array of the layer, by name."""
        return {name: held[key] for name, held, key in self.slots()}

    def put(self, name: str, x: Array) -> None:
        """Replace the array `name` by `x`."""
        for known, held, key in self.slots():
            if known == name:
                held[key] = x
                self._costs.clear()
                return
        raise KeyError(f"layer {self.name} has no array {name!r}; there are: {', '.join(self.arrays())}")

    def receive(self, link: str, projection: Projection) -> None:
        """Use `projection` for signals of the link called `link`, in place of an earlier one."""
        self.inputs[link] = projection
        self._costs.clear()

    def each_array(self, make: Callable[[str, Array], Array]) -> "Layer":
        """The layer with `make(name, array)` in place of each of its arrays."""
        inputs: dict[str, Projection] = {}
        for link, projection in self.inputs.items():
            inputs[link] = projection.copy(inputs)
        layer = replace(self, inputs=inputs, buffers=dict(self.buffers), _costs={}, _spent={})
        for name, held, key in list(layer.slots()):
            held[key] = make(name, held[key])
        return layer

    def pre_activation(self, signals: Signal | Sequence[Signal], ledger: Ledger, purpose: str = "activations") -> Array:
        """Sum over `signals` of weights times signal, and biases [..., batch, neurons], before the activation."""
        first, *others = [signals] if isinstance(signals, Signal) else signals
        total = self._affine(first, ledger, purpose)
        for signal in others:
            total += self._affine(signal, ledger, purpose)
            self._count(ledger, self._count_sum, self._rows(signal), purpose)
        return total

    def state(self, signals: Signal | Sequence[Signal], ledger: Ledger, purpose: str = "activations") -> Array:
        """State [..., batch, neurons] of the neurons, given the signals that arrived over one or more links."""
        return self._respond(self.activation, signals, ledger, purpose)

    def activate(self, pre_activation: Array, ledger: Ledger, purpose: str = "activations") -> Array:
        """State of the neurons for `pre_activation` [..., batch, neurons], which may be overwritten."""
        self._count(ledger, self._count_activation, self.activation, self._rows(pre_activation), purpose)
        return self.activation.apply(backend_of(pre_activation), pre_activation)

    def decode(self, above: Signal, ledger: Ledger, purpose: str) -> Array:
        """Estimate of this layer's state from the signal from above: eq. 3.11 of the thesis, g(h above).

        The weights of the decoder belong to this layer.
        """
        return self._respond(self.decoder_activation or self.activation, above, ledger, purpose)

    def decode_change(self, before: Signal, after: Signal, ledger: Ledger, purpose: str) -> Array:
        """`decode(after) - decode(before)`.

        Exactly zero for a sample that is the same in both. A backend may skip such samples; they are counted all the
        same, as hardware would compute them.
        """
        projection, activation = self._projection(before), self.decoder_activation or self.activation
        self._projection(after)
        for above in (before, after):
            rows = self._rows(above)
            self._count(ledger, self._count_affine, projection, *_format(above), rows, purpose)
            self._count(ledger, self._count_activation, activation, rows, purpose)
        xp = backend_of(projection.values)
        return xp.change(activation, before, after, projection.values, projection.bias)

    def input_gradient(
        self, link: Link, error: Array, ledger: Ledger, purpose: str = "error", error_format: str = ""
    ) -> Array:
        """Input gradient of backpropagation for `link`: the error at the pre-activation times the transposed weights.

        Operations are counted as `purpose`. `error_format` is the few-bit format of the error's values, if any:
        products are counted with it.
        """
        projection = self.inputs[link.name]
        self._count(
            ledger, self._count_input_gradient, projection, error_format or self.number, self._rows(error), purpose
        )
        return projection.transpose(error)

    def match(self, signal: Signal, ledger: Ledger, nearest: bool = True) -> Array:
        """How well the weights w of each neuron match the signal x [..., batch, neurons]: x.w - |w|^2 / 2, or x.w.

        The first is largest for the w that is nearest to x: it is (|x|^2 - |x - w|^2) / 2. |w|^2 / 2 is counted once
        for each minibatch, as weights change no more often.
        """
        match = self.pre_activation(signal, ledger, "match")
        if not nearest:
            return match
        projection = self._projection(signal)
        self._count(ledger, self._count_norms, projection, self._rows(signal))
        weight = projection.values
        return match - 0.5 * (weight * weight).sum(-2)[..., None, :]

    def winner(self, match: Array, ledger: Ledger) -> Array:
        """1 for the neuron with the largest `match` [..., batch, neurons], the first one on a tie; 0 for the others.

        A comparison is counted as an addition: a comparator subtracts.
        """
        self._count(ledger, self._count_winner, self._rows(match))
        return backend_of(match).one_hot(match.argmax(-1), match)

    def code_vector(self, link: Link, winner: Array, ledger: Ledger) -> Array:
        """Weights of the winning neuron [..., batch, sources] in the projection of `link`.

        `winner` is the result of the method `winner`. Counted as a read of these weights, without arithmetic.
        """
        projection = self.inputs[link.name]
        self._count(ledger, self._count_code_vector, projection, self._rows(winner))
        return projection.transpose(winner)

    def buffer_row(self, name: str, winner: Array, ledger: Ledger) -> Array:
        """The row of the buffer `name` [..., neurons, width] that belongs to the winning neuron, likewise."""
        rows, (neurons, width) = self._rows(winner), self.buffers[name].shape[-2:]
        self._count(ledger, self._count_buffer_row, name, rows, int(neurons), int(width))
        return backend_of(winner).matmul(winner, self.buffers[name])

    def gradients(self, signal: Signal, error: Array, ledger: Ledger, error_format: str = "") -> Gradients:
        """Gradients of the trained arrays of `signal`'s projection, for an error [..., batch, neurons] at its sum.

        `error_format` is as in `input_gradient`; a factor common to the whole batch does not matter.
        """
        projection, right, rows = self._projection(signal), error_format or self.number, self._rows(error)
        names = projection.trained
        self._count(ledger, self._count_gradients, projection, *_format(signal), right, rows, names)
        made = projection.gradients(signal, error, self._spent.pop(projection.name, None))
        return {(self.name, name): gradient for name, gradient in made.items()}

    def transposed_gradients(self, error: Signal, state: Array, ledger: Ledger) -> Gradients:
        """Gradients of the weights in the projection of `error`, as the layer that sent it uses them: transposed.

        `error` [..., batch, sources] is the error at the pre-activation of the other layer; `state`
        [..., batch, neurons] is the state that this layer had sent it.
        """
        projection = self._projection(error)
        names, rows = (projection.name,), self._rows(state)
        self._count(ledger, self._count_gradients, projection, *_format(error), self.number, rows, names)
        made = projection.gradients(error, state, self._spent.pop(projection.name, None))
        return {(self.name, name): made[name] for name in names}

    def cross_entropy(self, logits: Array, labels: Array, ledger: Ledger) -> tuple[Array, Array]:
        """Gradient of each sample's loss at the `logits`, softmax - one-hot, and the mean loss over the batch."""
        self._count(ledger, self._count_softmax, self._rows(logits))
        return backend_of(logits).cross_entropy(logits, labels)

    def integer_cross_entropy(self, logits: Array, labels: Array, ledger: Ledger) -> Array:
        """`integers.softmax_error` of `logits` that are whole numbers: int8."""
        self._count(ledger, self._count_integer_softmax, self._rows(logits))
        return integers.softmax_error(logits, labels)

    def classification_error(self, output: Array, labels: Array, ledger: Ledger) -> tuple[Array, Array]:
        """Gradient of each sample's loss at the pre-activation of a layer with one neuron for each class; its mean.

        Linear outputs: negative log-likelihood under the softmax of them. Others: squared distance from the one-hot
        label.
        """
        if self.activation.name == "identity":
            return self.cross_entropy(output, labels, ledger)
        return self.squared_error(output, backend_of(output).one_hot(labels, output))

    def squared_error(self, output: Array, target: Array) -> tuple[Array, Array]:
        """Gradient of each sample's ||output - target||^2 at the pre-activation, and its mean over the batch."""
        difference = output - target
        error = backend_of(output).activation_backward(self.activation, output, difference, 2.0)
        return error, (difference * difference).sum(-1).mean(-1)

    def update(
        self,
        name: str,
        gradient: Gradient,
        optimizer: Updates,
        ledger: Ledger,
        rate_factor: Factor = 1.0,
        stream: RandomStream | None = None,
    ) -> None:
        """Update the array `name` by its `gradient` with `optimizer`, in place; `rate_factor` multiplies the rates.

        The layer's next gradient may overwrite `gradient`. `stream` has the random numbers of the step.
        """
        projection, held, key = self._slot(name)
        if projection.flips(name):
            self._flip(name, held[key], gradient, optimizer, rate_factor)
            self._count(ledger, self._count_flip, projection, name, type(optimizer))
        else:
            master = projection.parameter(name)
            parameter = held[key] if master is None else master
            optimizer.update((self.name, name), parameter, gradient, rate_factor, projection.direction, stream)
            projection.updated(name)
            operations = tuple(optimizer.operations.items())
            self._count(ledger, self._count_update, projection, name, operations, optimizer.state_words)
        if not isinstance(gradient, LazyOuterProduct):
            self._spent[name] = gradient

    def _flip(self, name: str, weights: Array, gradient: Gradient, optimizer: Updates, rate_factor: Factor) -> None:
        if not hasattr(optimizer, "flip"):
            kind = type(optimizer).__name__
            raise ValueError(
                f"layer {self.name}: {name!r} is binary without a float master copy, which {kind} cannot train; "
                "quantize it with a master copy, or use bop"
            )
        optimizer.flip((self.name, name), weights, gradient, rate_factor)

    def local_error(self, state: Array, target: Array) -> Array:
        """Gradient at the pre-activation of the batch mean of ||state - target||^2."""
        return self._local_error(self.activation, state, target)

    def decoder_error(self, state: Array, target: Array) -> Array:
        """`local_error` for a state that `decode` gave."""
        return self._local_error(self.decoder_activation or self.activation, state, target)

    def error_of(self, state: Array, input_gradient: Array) -> Array:
        """Gradient at the pre-activation for an `input_gradient`, the gradient at `state`."""
        return backend_of(state).activation_backward(self.activation, state, input_gradient)

    def decoder_error_of(self, state: Array, input_gradient: Array) -> Array:
        """`error_of` for a state that `decode` gave."""
        activation = self.decoder_activation or self.activation
        return backend_of(state).activation_backward(activation, state, input_gradient)

    def _slot(self, name: str) -> tuple[Projection, dict[str, Any], str]:
        """The projection that owns the array `name`, and where that is held."""
        for projection in self.inputs.values():
            for known, held, key in projection.slots():
                if known == name:
                    return projection, held, key
        raise KeyError(f"layer {self.name} trains no array {name!r}")

    def _local_error(self, activation: Activation, state: Array, target: Array) -> Array:
        xp = backend_of(state)
        return xp.activation_backward_difference(activation, state, state, target, 2 / state.shape[-2])

    def _affine(self, signal: Signal, ledger: Ledger, purpose: str) -> Array:
        projection = self._projection(signal)
        self._count(ledger, self._count_affine, projection, *_format(signal), self._rows(signal), purpose)
        return projection.apply(signal)

    def _respond(
        self, activation: Activation, signals: Signal | Sequence[Signal], ledger: Ledger, purpose: str
    ) -> Array:
        if isinstance(signals, Signal):  # product, sum and activation are one kernel
            projection, rows = self._projection(signals), self._rows(signals)
            self._count(ledger, self._count_affine, projection, *_format(signals), rows, purpose)
            state = projection.respond(activation, signals)
        else:
            total = self.pre_activation(signals, ledger, purpose)
            rows = self._rows(total)
            state = activation.apply(backend_of(total), total)
        self._count(ledger, self._count_activation, activation, rows, purpose)
        return state

    def _projection(self, signal: Signal) -> Projection:
        """The projection for a signal; ValueError if they do not go together."""
        projection = self.inputs.get(signal.link)
        if projection is None:
            known = ", ".join(self.inputs)
            raise ValueError(f"layer {self.name} has no weights for signals of link {signal.link!r}; it has: {known}")
        if signal.shape[-1] != projection.values.shape[-2]:
            raise ValueError(
                f"layer {self.name} takes {projection.shape[0]} neurons through {projection.name!r}, but was given "
                f"{signal.shape[-1]}"
            )
        return projection

    # what each operation counts: the same for every member of an ensemble

    def _count(self, ledger: Ledger, count: Callable[..., None], *details: Any) -> None:
        ledger.counts.repeat(*self._cost(count, *details))

    def _cost(self, count: Callable[..., None], *details: Any) -> tuple[Counts, int]:
        """What `count` counts for a member, and how many members there are."""
        key = (count.__name__, *details)
        cost = self._costs.get(key)
        if cost is None:
            count(once := Ledger(), *details)
            cost = self._costs[key] = once.counts, self.members
        return cost

    def _rows(self, x: Array | Signal) -> int:
        """Samples that each member has in `x` [..., batch, neurons]."""
        shape, axes = x.shape, self.projection.values.ndim - 2
        return shape[axes] if len(shape) == axes + 2 else prod(shape[axes:-1])

    def _count_affine(
        self, ledger: Ledger, projection: Projection, left: str, left_bits: int, rows: int, purpose: str
    ) -> None:
        sources = projection.shape[0]
        for operation in ("write", "read"):  # each input is read once, and goes to all neurons
            buffer = Access(self.name, "input", operation, left, left_bits, sources * left_bits, purpose)
            ledger.accessed(buffer, rows * sources)
        self._count_product(ledger, projection, left, rows, purpose)
        if projection.bias is not None:
            ledger.worked(Work(self.name, purpose, "add", self.number), rows * self.neurons)
            self._accessed(projection, projection.bias_name, "read", rows * self.neurons, ledger, purpose)

    def _count_input_gradient(self, ledger: Ledger, projection: Projection, left: str, rows: int, purpose: str) -> None:
        sources, neurons = projection.shape
        self._accessed_state("error", "read", rows * neurons, ledger, neurons, purpose)
        self._count_product(ledger, projection, left, rows, purpose)
        self._accessed_state("input gradient", "write", rows * sources, ledger, sources, purpose)

    def _count_sum(self, ledger: Ledger, rows: int, purpose: str) -> None:
        ledger.worked(Work(self.name, purpose, "add", self.number), rows * self.neurons)

    def _count_activation(self, ledger: Ledger, activation: Activation, rows: int, purpose: str) -> None:
        for operation in activation.operations:
            ledger.worked(Work(self.name, purpose, operation, self.number), rows * self.neurons)
        for operation in ("write", "read"):  # read to be sent or compared with a target
            self._accessed_state("state", operation, rows * self.neurons, ledger, self.neurons, purpose)

    def _count_norms(self, ledger: Ledger, projection: Projection, rows: int) -> None:
        size = prod(projection.shape)
        ledger.worked(Work(self.name, "match", "multiply-accumulate", projection.number, projection.number), size)
        self._accessed(projection, projection.name, "read", size, ledger, "norm")
        ledger.worked(Work(self.name, "match", "add", self.number), rows * self.neurons)
        for operation, words, purpose in (("write", self.neurons, "norm"), ("read", rows * self.neurons, "match")):
            self._accessed_state(f"{projection.name} norm", operation, words, ledger, self.neurons, purpose)

    def _count_winner(self, ledger: Ledger, rows: int) -> None:
        ledger.worked(Work(self.name, "winner", "add", self.number), rows * (self.neurons - 1))

    def _count_code_vector(self, ledger: Ledger, projection: Projection, rows: int) -> None:
        self._accessed(projection, projection.name, "read", rows * projection.shape[0], ledger, "winner")

    def _count_buffer_row(self, ledger: Ledger, name: str, rows: int, neurons: int, width: int) -> None:
        self._accessed_state(name, "read", rows * width, ledger, neurons * width, "winner")

    def _count_softmax(self, ledger: Ledger, rows: int) -> None:
        for operation in ("exp", "add", "divide"):
            ledger.worked(Work(self.name, "softmax", operation, self.number), rows * self.neurons)

    def _count_integer_softmax(self, ledger: Ledger, rows: int) -> None:
        for operation, times in (("add", 3), ("divide", 1)):
            ledger.worked(Work(self.name, "softmax", operation, self.number), rows * self.neurons * times)
        self._accessed_state("exp table", "read", rows * self.neurons, ledger, integers.TABLE_SIZE, "softmax")

    def _count_gradients(
        self,
        ledger: Ledger,
        projection: Projection,
        left: str,
        left_bits: int,
        right: str,
        rows: int,
        names: tuple[str, ...],
    ) -> None:
        arrays, sources = {}, projection.shape[0]
        self._accessed_state("error", "read", rows * self.neurons, ledger, self.neurons, "gradient")
        if projection.name in names:
            buffer = Access(self.name, "input", "read", left, left_bits, sources * left_bits, "gradient")
            ledger.accessed(buffer, rows * sources)
            arrays[projection.name] = rows * prod(projection.shape)
            ledger.worked(Work(self.name, "gradient", "multiply-accumulate", left, right), arrays[projection.name])
            for operation, times in projection.gradient_operations.items():
                ledger.worked(Work(self.name, "gradient", operation, self.number), prod(projection.shape) * times)
        if projection.bias_name in names:
            arrays[projection.bias_name] = rows * self.neurons
            ledger.worked(Work(self.name, "gradient", "add", self.number), rows * self.neurons)
        for name, words in arrays.items():
            for operation in ("read", "write"):
                self._accessed_state(f"{name} gradient", operation, words, ledger, projection.size(name), "gradient")

    def _count_update(
        self, ledger: Ledger, projection: Projection, name: str, operations: Sequence[tuple[str, int]], state_words: int
    ) -> None:
        size = projection.size(name)
        for operation, times in operations:
            ledger.worked(Work(self.name, "update", operation, self.number), size * times)
        master = projection.parameter(name) is not None
        for operation in ("read", "write"):
            if master:
                self._accessed_state(f"{name}_master", operation, size, ledger, size, "update")
            else:
                self._accessed(projection, name, operation, size, ledger, "update")
        if master:
            for operation, times in projection.update_operations.items():
                ledger.worked(Work(self.name, "quantization", operation, self.number), size * times)
            self._accessed(projection, name, "write", size, ledger, "quantization")
        self._accessed_state(f"{name} gradient", "read", size, ledger, size, "update")
        if state_words:
            words = size * state_words
            for operation in ("read", "write"):
                self._accessed_state(f"{name} optimizer state", operation, words, ledger, size, "update")

    def _count_flip(self, ledger: Ledger, projection: Projection, name: str, optimizer: Any) -> None:
        size = projection.size(name)
        for operation, times in optimizer.flip_operations.items():
            ledger.worked(Work(self.name, "update", operation, self.number), size * times)
        for operation in ("read", "write"):
            self._accessed(projection, name, operation, size, ledger, "update")
            self._accessed_state(f"{name} optimizer state", operation, size, ledger, size, "update")
        self._accessed_state(f"{name} gradient", "read", size, ledger, size, "update")

    def _count_product(self, ledger: Ledger, projection: Projection, left: str, rows: int, purpose: str) -> None:
        times = rows * prod(projection.shape)
        ledger.worked(Work(self.name, purpose, "multiply-accumulate", left, projection.number), times)
        self._accessed(projection, projection.name, "read", times, ledger, purpose)

    def _accessed(
        self, projection: Projection, name: str, operation: str, words: int, ledger: Ledger, purpose: str
    ) -> None:
        """Count accesses to an array as products read it: few-bit weights as few bits."""
        if name == projection.name:
            bits = projection.weight_bits
            access = Access(self.name, name, operation, projection.number, bits, projection.size(name) * bits, purpose)
            ledger.accessed(access, words)
        else:
            self._accessed_state(name, operation, words, ledger, projection.size(name), purpose)

    def _accessed_state(
        self, name: str, operation: str, words: int, ledger: Ledger, capacity: int, purpose: str
    ) -> None:
        bits = self._number_bits
        ledger.accessed(Access(self.name, name, operation, self.number, bits, capacity * bits, purpose), words)

    @property
    def _number_bits(self) -> int:
        return self.projection.sum_bits


def _format(signal: Signal) -> tuple[str, int]:
    """Name and bits of a signal's format: the object itself takes longer to hash."""
    return signal.format.name, signal.format.bits
