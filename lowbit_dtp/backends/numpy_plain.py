"""NumPy arrays without a compiled kernel: what the kernels are held to, and what runs where they do not."""

from collections.abc import Callable
from functools import cache

import numpy as np
from threadpoolctl import ThreadpoolController

from .. import packing
from ..formats import Format, Table
from . import Array, Backend, Key, Transmission
from .protocols import Signal


@cache
def blas() -> ThreadpoolController:
    """The BLAS of NumPy and SciPy, whose bits depend on how many threads it uses."""
    return ThreadpoolController().select(user_api="blas")


class NumpyBackend(Backend):
    """`Backend` for NumPy arrays, in plain NumPy."""

    def asarray(self, x: np.ndarray, like: Array) -> Array:
        return x.astype(like.dtype, copy=False) if x.dtype.kind == "f" else x

    def numpy(self, x: Array) -> np.ndarray:
        return np.asarray(x)

    def normal(self, key: Key, like: Array) -> Array:
        from .numba_cpu import normal

        return _drawn(normal, key, like)

    def uniform(self, key: Key, like: Array) -> Array:
        from .numba_cpu import uniform

        return _drawn(uniform, key, like)

    def shared(self, x: Array, members: int) -> Array:
        return np.broadcast_to(x, (members, *x.shape))

    def encode(self, x: Array, fmt: Format, uniform: Array | None) -> Array:
        if isinstance(fmt, Table):
            if np.isnan(x).any():
                raise ValueError(f"{fmt.name} cannot send NaN")
            return np.searchsorted(thresholds(fmt, x.dtype), x, side="right").astype(fmt.code_dtype)
        return fmt.encode(x, uniform)

    def float_codes(self, x: Array) -> Array:
        return x.copy().view({4: np.uint32, 8: np.uint64}[x.dtype.itemsize])

    def decode(self, codes: Array, fmt: Format, like: Array) -> Array:
        return fmt.decode(codes, like.dtype)

    def values(self, signal: "Signal") -> Array:
        if "values" not in signal.made:
            signal.made["values"] = super().values(signal)
        return signal.made["values"]

    def pack(self, codes: Array, fmt: Format) -> Array:
        return packing.pack(codes, fmt.bits)

    def unpack(self, words: Array, fmt: Format, neurons: int) -> Array:
        return packing.unpack(words, fmt.bits, neurons).astype(fmt.code_dtype)

    def transmit(self, x: Array, fmt: Format, uniform: Array | None, previous: Array | None) -> Transmission:
        return self.carry(self.encode(x, fmt, uniform), fmt, previous)

    def carry(self, codes: Array, fmt: Format, previous: Array | None) -> Transmission:
        if previous is not None and previous.dtype != codes.dtype:  # words, of a run begun with another backend
            previous = self.unpack(previous, fmt, codes.shape[-1])
        return Transmission(codes, None, *self.ones_and_toggles(codes, previous))

    def ones_and_toggles(self, codes: Array, previous: Array | None) -> tuple[Array, Array]:
        toggles = np.bitwise_count(codes[..., 1:, :] ^ codes[..., :-1, :]).sum((-2, -1), dtype=np.int64)
        if previous is not None and codes.shape[-2]:
            toggles += np.bitwise_count(codes[..., 0, :] ^ previous).sum(-1, dtype=np.int64)
        return np.bitwise_count(codes).sum((-2, -1), dtype=np.int64), toggles

    def matmul(self, a: Array, b: Array, out: Array | None = None) -> Array:
        with blas().limit(limits=1):
            return np.matmul(a, b, out=out)

    def tanh(self, x: Array, out: Array | None = None) -> Array:
        return np.tanh(x, out=out)

    def sigmoid(self, x: Array, out: Array | None = None) -> Array:
        return np.add(0.5 * np.tanh(0.5 * x), 0.5, out=out)

    def relu(self, x: Array, out: Array | None = None) -> Array:
        return np.maximum(x, 0, out=out)

    def cross_entropy(self, logits: Array, labels: Array) -> tuple[Array, Array]:
        powers = np.exp(logits - logits.max(-1, keepdims=True))
        probability = powers / powers.sum(-1, keepdims=True)
        chosen = np.take_along_axis(probability, labels[..., None], -1)[..., 0]
        loss = -np.log(np.maximum(chosen, np.finfo(chosen.dtype).tiny)).mean(-1)
        return probability - np.eye(logits.shape[-1], dtype=logits.dtype)[labels], loss

    def one_hot(self, labels: Array, like: Array) -> Array:
        return (labels[..., None] == np.arange(like.shape[-1])).astype(like.dtype)

    def rmsprop(
        self,
        parameter: Array,
        gradient: Array,
        state: tuple[Array, Array, Array],
        learning_rate: Array,
        decay: float,
        momentum: float,
        epsilon: float,
    ) -> None:
        mean, square, velocity = state
        mean[...] = decay * mean + (1 - decay) * gradient
        square[...] = decay * square + (1 - decay) * gradient**2
        velocity[...] = momentum * velocity - learning_rate * gradient / np.sqrt(square - mean**2 + epsilon)
        parameter += velocity


def _drawn(draw: Callable[..., np.ndarray], key: Key, like: Array) -> Array:
    """What `draw` stream, for each member of an ensemble by itself."""
    if isinstance(key.seed, int):
        numbers = draw(key.seed, key.purpose, key.step, like.shape)
    else:
        numbers = np.stack([draw(seed, key.purpose, key.step, like.shape[1:]) for seed in key.seed])
    return numbers.astype(like.dtype, copy=False)


@cache
def thresholds(fmt: Table, dtype: np.dtype) -> np.ndarray:
    """Thresholds in the type of the states, rounded up."""
    return rounded_up(np.asarray(fmt.thresholds, np.float64), dtype)


def rounded_up(exact: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """float64 thresholds as `dtype`, no lower: `x >= t` then means the same for every `x` of that type."""
    rounded = exact.astype(dtype)
    return np.where(rounded < exact, np.nextafter(rounded, dtype.type(np.inf)), rounded)
