"""The array operations that NumPy and torch spell differently: one small protocol, chosen by the type of the array.

Everything else is written with array operators that both understand. Arrays are `[..., batch, neurons]` and weights
`[..., below, neurons]`; a leading axis, where there is one, runs over the members of an ensemble.
"""

from typing import Any, Protocol, TypeAlias

import numpy as np

from ..formats import Format

Array: TypeAlias = Any
"""A `numpy.ndarray` or a `torch.Tensor`."""


class Backend(Protocol):
    """What a device must do. Results are new arrays unless said otherwise."""

    def asarray(self, x: np.ndarray, like: Array) -> Array:
        """`x`, as drawn or loaded in NumPy, on the device of `like`; floats in its floating type."""

    def encode(self, x: Array, fmt: Format, uniform: Array | None) -> Array:
        """Codes of `x`, as `fmt.encode` gives them. Raises ValueError on NaN."""

    def decode(self, codes: Array, fmt: Format, like: Array) -> Array:
        """The numbers `codes` stand for, in the floating type of `like`."""

    def ones_and_toggles(self, codes: Array, previous: Array | None) -> tuple[int, int]:
        """Bits set in `codes` [..., batch, neurons], and bits that differ from the row before.

        `previous` [..., neurons] is the row before the first; without one the first toggles nothing.
        """

    def matmul(self, a: Array, b: Array, out: Array | None = None) -> Array:
        """`a` [..., m, k] times `b` [..., k, n], into `out` if given.

        Equal bits for equal inputs, whatever the number of threads (of a CPU).
        """

    def tanh(self, x: Array) -> Array:
        """Hyperbolic tangent."""

    def sigmoid(self, x: Array) -> Array:
        """Logistic function."""

    def relu(self, x: Array) -> Array:
        """`x` where positive, else 0."""

    def softmax(self, x: Array) -> Array:
        """Softmax over the last axis."""

    def one_hot(self, labels: Array, classes: int, like: Array) -> Array:
        """Integer `labels` [..., batch] as [..., batch, classes] of 0 and 1, in the floating type of `like`."""

    def log_loss(self, probability: Array, labels: Array) -> Array:
        """Mean negative log-likelihood of `labels` [..., batch] under `probability` [..., batch, classes]."""

    def rmsprop(
        self,
        parameter: Array,
        gradient: Array,
        state: tuple[Array, Array, Array],
        learning_rate: float,
        decay: float,
        momentum: float,
        stabilizer: float,
    ) -> None:
        """Centred RMSprop with momentum, in place on `parameter` and `state` (mean, mean square, velocity)."""


_backends: dict[type, Backend] = {}


def register(kind: type, backend: Backend) -> None:
    """Let `backend` serve arrays of `kind`."""
    _backends[kind] = backend


def backend_of(x: Array) -> Backend:
    """The backend that serves arrays like `x`. Compiled kernels and torch are imported by the first who needs them."""
    backend = _backends.get(type(x))
    return backend if backend is not None else _load(type(x))


def _load(kind: type) -> Backend:
    if issubclass(kind, np.ndarray | np.generic):
        from .numba_cpu import NumbaBackend

        register(np.ndarray, NumbaBackend())
        return _backends[np.ndarray]
    if kind.__module__.split(".")[0] == "torch":
        from .torch_gpu import TorchBackend

        register(kind, TorchBackend())
        return _backends[kind]
    raise TypeError(f"no backend for arrays of type {kind.__module__}.{kind.__qualname__}; give NumPy or torch arrays")
