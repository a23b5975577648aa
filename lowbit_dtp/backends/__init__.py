"""Array operations that differ between NumPy and torch: a small protocol, chosen by the type of the array.

Everything else is written with array operators that both understand. Arrays are `[..., batch, neurons]` and weights
`[..., below, neurons]`; a leading axis, where there is one, runs over the members of an ensemble.

NumPy arrays go to compiled kernels, or, with `LOWBIT_DTP_KERNELS=plain` in the environment, to plain NumPy: slower, and
the same up to rounding.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, Protocol, TypeAlias

import numpy as np

from ..choices import choose
from ..formats import Format
from .protocols import Activation, Signal
from .protocols import Array as Array
from .protocols import Factor as Factor


class Transmission(NamedTuple):
    """One message a sample on a link, as it arrives, with its ones and toggles."""

    words: Array
    """Codes [..., batch, neurons], or packed words [..., batch, words]."""
    packed_neurons: int | None
    """Codes in a row of packed words; None for codes."""
    ones: Array
    """Bits set, a number for each member of an ensemble."""
    toggles: Array
    """Bits that differ from the row before, likewise."""
    invalid: Array | int = 0
    """Numbers that the format cannot send, likewise, on devices that do not wait to raise an error."""


class Key(NamedTuple):
    """Key of random numbers: they depend only on this and on their index."""

    seed: int | tuple[int, ...]
    """One for each member of an ensemble."""
    purpose: int
    """32 bits."""
    step: Any
    """A whole number, or an array of one number on the device."""


class CannotRecord(RuntimeError):
    """Work cannot be recorded; the message has the reason."""


class Recording(Protocol):
    """Recorded work on arrays; a call replays it."""

    def compile(self) -> None:
        """Compile it with the next call, which takes some time, to make it faster."""

    def __call__(self) -> bool | None:
        """Replay it. False if a branch differs from the recording; nothing has changed then."""


FusedUpdate: TypeAlias = Callable[..., bool]
"""`update(optimizer, parameter, gradient, state, rate)`. False, and nothing has changed, if not for such arrays."""


class LazyOuterProduct:
    """A gradient `signal.T @ error` not yet computed, so that an optimizer can multiply and update in one pass."""

    def __init__(self, signal: "Signal", error: Array, multiply: Callable[["Signal", Array], Array]) -> None:
        self.signal, self.error, self._multiply = signal, error, multiply

    @property
    def shape(self) -> tuple[int, ...]:
        """[below, neurons]."""
        return self.signal.shape[-1], int(self.error.shape[-1])

    @cached_property
    def product(self) -> Array:
        """The gradient [below, neurons]."""
        return self._multiply(self.signal, self.error)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.product, dtype)


Gradient: TypeAlias = Array | LazyOuterProduct
"""A gradient of a parameter, perhaps not yet computed."""


def multiplied(gradient: Gradient) -> Array:
    """A gradient as an array, whether or not it has been multiplied."""
    return gradient.product if isinstance(gradient, LazyOuterProduct) else gradient


class Backend(ABC):
    """Operations of a device. Results are new arrays unless stated otherwise.

    Abstract methods have no code that NumPy and torch share; the others are plain formulas, which a backend may
    override with faster code.
    """

    @abstractmethod
    def asarray(self, x: np.ndarray, like: Array) -> Array:
        """`x`, drawn or loaded in NumPy, on the device of `like`; floats in its floating-point type."""

    def moved(self, x: np.ndarray, like: Array) -> Array:
        """`x` on the device of `like`, in its own type."""
        return x

    def filled(self, shape: tuple[int, ...], like: Array, numbers: Callable[[], np.ndarray]) -> Array:
        """`asarray(numbers(), like)`, of `shape`; `numbers` is not called where arrays have shapes alone."""
        return self.asarray(numbers(), like)

    def zeros(self, shape: tuple[int, ...], like: Array) -> Array:
        """Zeros of `shape`, on the device of `like` and in its floating-point type."""
        return self.filled(shape, like, lambda: np.zeros(shape))

    @abstractmethod
    def numpy(self, x: Array) -> np.ndarray:
        """`x` in NumPy: the same memory where it can be, packed words as uint64."""

    def each(self, values: float | Sequence[float], like: Array, factor: Factor = 1.0) -> Factor:
        """`factor * values` to multiply `like` [members, ...] by, of one value for each member, or one for all.

        `factor` is a number, or a float64 array of one that a recorded step reads; products are rounded once.
        """
        if isinstance(values, Sequence):
            products = np.reshape(values, (-1, *[1] * (like.ndim - 1))).astype(np.float64) * factor
            return self.asarray(np.asarray(products), like)
        product: Any = values * factor
        return product if type(factor) is float else product.astype(like.dtype)

    @abstractmethod
    def shared(self, x: Array, members: int) -> Array:
        """`x` [...] as what each of `members` has, [members, ...], in the same memory."""

    @abstractmethod
    def normal(self, key: Key, like: Array) -> Array:
        """Standard normal numbers of the shape and type of `like` [..., batch, neurons], but float32 in precision."""

    @abstractmethod
    def uniform(self, key: Key, like: Array) -> Array:
        """Uniform numbers in [0, 1), multiples of 2^-24, of the shape and type of `like`."""

    @abstractmethod
    def bits(self, key: Key, like: Array) -> Array:
        """32 random bits, as whole numbers from 0 to 2^32 - 1, int64, of the shape of `like`."""

    @abstractmethod
    def is_floating(self, x: Array) -> bool:
        """Whether `x` are floating-point numbers."""

    @abstractmethod
    def cast(self, x: Array, number: str) -> Array:
        """Whole numbers `x` in the type called `number`: int8, int16, int32, int64 or uint8."""

    @abstractmethod
    def integer_matmul(self, a: Array, b: Array) -> Array:
        """int8 or int16 `a` [..., m, k] times `b` [..., k, n]: int32, exact as long as a sum fits."""

    @abstractmethod
    def largest(self, x: Array) -> Array:
        """Largest number along the last axis [..., 1]."""

    @abstractmethod
    def look_up(self, table: tuple[int, ...], index: Array) -> Array:
        """`table[index]`, int32."""

    @abstractmethod
    def encode(self, x: Array, fmt: Format, uniform: Array | None) -> Array:
        """Codes of `x`, as `fmt.encode` gives them. Raises ValueError on NaN."""

    @abstractmethod
    def float_codes(self, x: Array) -> Array:
        """Codes of `x` in the float format of its own type, in memory of their own. NaN is let through."""

    @abstractmethod
    def decode(self, codes: Array, fmt: Format, like: Array) -> Array:
        """The numbers `codes` stand for, in the floating type of `like`."""

    @abstractmethod
    def pack(self, codes: Array, fmt: Format) -> Array:
        """Codes as packed words, as `packing.pack` gives them."""

    @abstractmethod
    def unpack(self, words: Array, fmt: Format, neurons: int) -> Array:
        """The codes [..., neurons] in packed words, in the type in which `encode` gives them."""

    @abstractmethod
    def ones_and_toggles(self, codes: Array, previous: Array | None) -> tuple[Array, Array]:
        """Bits set in `codes` [..., batch, neurons], and bits that differ from the row before: [...] each.

        `previous` [..., neurons] is the row before the first; without one the first toggles nothing. Packed words will
        do, too.
        """

    @abstractmethod
    def transmit(self, x: Array, fmt: Format, uniform: Array | None, previous: Array | None) -> Transmission:
        """`x` [..., batch, neurons] as it crosses a wire on which the last word was `previous`, packed or not.

        Raises ValueError on NaN, or says in `invalid` that it met it.
        """

    @abstractmethod
    def carry(self, codes: Array, fmt: Format, previous: Array | None) -> Transmission:
        """`transmit` of what is in codes already."""

    def values(self, signal: "Signal") -> Array:
        """The numbers that the codes of `signal` stand for."""
        return self.decode(signal.codes, signal.format, signal.like)

    @abstractmethod
    def matmul(self, a: Array, b: Array, out: Array | None = None) -> Array:
        """`a` [..., m, k] times `b` [..., k, n], into `out` if given.

        Equal bits for equal inputs, whatever the number of threads (of a CPU).
        """

    def pre_activation(self, signal: "Signal", weight: Array, bias: Array | None) -> Array:
        """`signal @ weight + bias`."""
        pre_activation = self.matmul(signal.values, weight)
        if bias is not None:
            pre_activation += bias[..., None, :]
        return pre_activation

    def affine_activation(self, activation: "Activation", signal: "Signal", weight: Array, bias: Array | None) -> Array:
        """`activation(signal @ weight + bias)`."""
        return activation.apply(self, self.pre_activation(signal, weight, bias))

    def gradients(self, signal: "Signal", error: Array, spent: Array | None) -> tuple[Gradient, Array]:
        """`signal.T @ error`, into `spent` if given, and the sum of `error` over the batch.

        The first may be an `LazyOuterProduct`, which a `fused_update` takes too.
        """
        return self.matmul(signal.values.mT, error, spent), error.sum(-2)

    def change(
        self, activation: "Activation", before: "Signal", after: "Signal", weight: Array, bias: Array | None
    ) -> Array:
        """`activation(after @ weight + bias) - activation(before @ weight + bias)`."""
        return self.affine_activation(activation, after, weight, bias) - self.affine_activation(
            activation, before, weight, bias
        )

    @abstractmethod
    def tanh(self, x: Array, out: Array | None = None) -> Array:
        """Hyperbolic tangent, into `out` if given, which may be `x`."""

    @abstractmethod
    def sigmoid(self, x: Array, out: Array | None = None) -> Array:
        """Logistic function, into `out` if given, which may be `x`."""

    @abstractmethod
    def relu(self, x: Array, out: Array | None = None) -> Array:
        """`x` where positive, else 0, into `out` if given, which may be `x`."""

    @abstractmethod
    def step(self, x: Array) -> Array:
        """0 where `x` is negative, else 1; NaN stays."""

    @abstractmethod
    def clip(self, x: Array, low: Factor, high: Factor) -> Array:
        """`x` clipped to `low` and `high`; NaN stays."""

    @abstractmethod
    def round(self, x: Array) -> Array:
        """The nearest whole numbers; a half goes to the even one."""

    @abstractmethod
    def power_of_two(self, x: Array) -> Array:
        """The nearest power of two to each number, which is positive; at least 2^-64 and at most 2^64.

        A number halfway between two goes to the larger.
        """

    @abstractmethod
    def softmax(self, x: Array) -> Array:
        """`exp(x)` in proportion to its sum over the last axis."""

    def activation_backward(self, activation: "Activation", state: Array, error: Array, scale: float = 1.0) -> Array:
        """`scale * error * slope`: the gradient at the pre-activation, for an `error` at the `state`."""
        if activation.backward is not None:
            return activation.backward(state, scale * error)
        assert activation.slope is not None, f"activation {activation.name} needs a slope or backward"
        return scale * error * activation.slope(state)

    def activation_backward_difference(
        self, activation: "Activation", state: Array, a: Array, b: Array, scale: float
    ) -> Array:
        """`activation_backward` for the error `a - b`."""
        return self.activation_backward(activation, state, a - b, scale)

    def axpy(self, scale: Factor, x: Array, y: Array) -> Array:
        """`scale * x + y`."""
        return scale * x + y

    @abstractmethod
    def cross_entropy(self, logits: Array, labels: Array) -> tuple[Array, Array]:
        """Gradient of each sample's negative log-likelihood, softmax - one-hot, and the mean of that likelihood.

        `logits` [..., batch, classes], integer `labels` [..., batch].
        """

    @abstractmethod
    def one_hot(self, labels: Array, like: Array) -> Array:
        """1 at the label and 0 elsewhere, in the shape and type of `like` [..., batch, classes]."""

    @abstractmethod
    def sqrt(self, x: Array) -> Array:
        """Square root."""

    def fused_update(self, change: Callable[..., None]) -> "FusedUpdate | None":
        """A faster equivalent of an optimizer's method `change`, in one pass over memory; None if there is none.

        It takes what `change` takes, and the gradient as an `LazyOuterProduct` too.
        """
        return None

    def modes(self, like: Array) -> tuple[str, ...]:
        """Those of `training.MODES` for arrays like `like`, besides "auto"."""
        return ("plain",)

    def best_mode(self, like: Array, steps: int) -> str:
        """The one of `modes` for so many steps."""
        return "plain"

    checks: ClassVar[bool] = False
    """Whether a recording is compared with the work in Python."""

    patience: ClassVar[int] = 0
    """Times that work is run in Python before it is recorded."""

    def traceable(self, x: Array) -> Array:
        """`x`, in the same memory, as an array whose operations can be recorded."""
        return x

    @contextmanager
    def unrecorded(self) -> Iterator[None]:
        """For work on `traceable` arrays that is not recorded."""
        yield

    def record(self, body: Callable[[], None], arrays: Sequence[Array]) -> "Recording":
        """Run `body` once, and return its recording, which is faster. Raises `CannotRecord`.

        `body` works on `arrays`, as `traceable` returns them, and changes only these, in place. On a device it must do
        the same operations for all numbers.
        """
        raise NotImplementedError(f"{type(self).__name__} records nothing")


_backends: dict[type, Backend] = {}


def register(kind: type, backend: Backend) -> None:
    """Use `backend` for arrays of `kind`."""
    _backends[kind] = backend


def backend_of(x: Array) -> Backend:
    """The backend for arrays like `x`. Compiled kernels and torch are imported when they are first needed."""
    backend = _backends.get(type(x))
    return backend if backend is not None else _load(type(x))


def _load(kind: type) -> Backend:
    if issubclass(kind, np.ndarray | np.generic):
        if np.ndarray not in _backends:
            kernels = os.environ.get("LOWBIT_DTP_KERNELS", "compiled")
            register(np.ndarray, choose("LOWBIT_DTP_KERNELS", kernels, _CPU)())
        register(kind, _backends[np.ndarray])
        return _backends[kind]
    if kind.__module__.split(".")[0] == "torch":
        from .torch_gpu import TorchBackend

        register(kind, TorchBackend())
        return _backends[kind]
    raise TypeError(f"no backend for arrays of type {kind.__module__}.{kind.__qualname__}; give NumPy or torch arrays")


def _compiled() -> Backend:
    from .numba_cpu import NumbaBackend

    return NumbaBackend()


def _plain() -> Backend:
    from .numpy_plain import NumpyBackend

    return NumpyBackend()


_CPU = {"compiled": _compiled, "plain": _plain}
