"""The backend in plain NumPy: the reference of the compiled kernels, and their replacement without Numba."""

from collections.abc import Callable
from functools import cache
from math import pi, prod
from typing import Any, TypeAlias

import numpy as np
from threadpoolctl import ThreadpoolController

from .. import packing
from ..formats import Format, Table
from . import Backend, Key, Transmission
from .protocols import Signal

Array: TypeAlias = Any
"""A `numpy.ndarray`, where the base class says any array: its type would have to be checked in every method."""


@cache
def blas() -> ThreadpoolController:
    """The BLAS of NumPy and SciPy, whose bits depend on how many threads it uses."""
    return ThreadpoolController().select(user_api="blas")


FLOAT_BITS = {4: ("int32", 23, 0xFF << 23), 8: ("int64", 52, 0x7FF << 52)}
"""By bytes of an IEEE 754 number: the integer of its size, the bits of its fraction, and where its exponent is."""


class NumpyBackend(Backend):
    """`Backend` for NumPy arrays, in plain NumPy."""

    def asarray(self, x: np.ndarray, like: Array) -> Array:
        return x.astype(like.dtype, copy=False) if x.dtype.kind == "f" else x

    def numpy(self, x: Array) -> np.ndarray:
        return np.asarray(x)

    def normal(self, key: Key, like: Array) -> Array:
        return drawn(normal, key, like)

    def uniform(self, key: Key, like: Array) -> Array:
        return drawn(uniform, key, like)

    def bits(self, key: Key, like: Array) -> Array:
        return drawn(bits, key, like, np.dtype(np.int64))

    def is_floating(self, x: Array) -> bool:
        return x.dtype.kind == "f"

    def cast(self, x: Array, number: str) -> Array:
        return x.astype(number, copy=False)

    def integer_matmul(self, a: Array, b: Array) -> Array:
        return np.matmul(a, b, dtype=np.int32)

    def largest(self, x: Array) -> Array:
        return x.max(-1, keepdims=True)

    def look_up(self, table: tuple[int, ...], index: Array) -> Array:
        return _table(table)[index]

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

    def step(self, x: Array) -> Array:
        return np.heaviside(x, x.dtype.type(1))

    def clip(self, x: Array, low: Any, high: Any) -> Array:
        return np.minimum(np.maximum(x, low), high)

    def round(self, x: Array) -> Array:
        return np.rint(x)

    def power_of_two(self, x: Array) -> Array:
        integer, fraction, exponent = FLOAT_BITS[x.dtype.itemsize]
        bits = self.clip(x, 2.0**-64, 2.0**64).view(integer)  # where half a unit of the exponent is half the fraction
        return ((bits + (1 << (fraction - 1))) & exponent).view(x.dtype)

    def softmax(self, x: Array) -> Array:
        powers = np.exp(x - x.max(-1, keepdims=True))
        return powers / powers.sum(-1, keepdims=True)

    def cross_entropy(self, logits: Array, labels: Array) -> tuple[Array, Array]:
        probability = self.softmax(logits)
        chosen = np.take_along_axis(probability, labels[..., None], -1)[..., 0]
        loss = -np.log(np.maximum(chosen, np.finfo(chosen.dtype).tiny)).mean(-1)
        return probability - np.eye(logits.shape[-1], dtype=logits.dtype)[labels], loss

    def one_hot(self, labels: Array, like: Array) -> Array:
        return (labels[..., None] == np.arange(like.shape[-1])).astype(like.dtype)

    def sqrt(self, x: Array) -> Array:
        return np.sqrt(x)


# --- random numbers ---------------------------------------------------------------------------------------------------

_BLOCK = 32
"""Counters of Philox in a block, whose four words each are laid out one after the other, as the kernel does."""


def normal(seed: int, purpose: int, step: int, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal float32 of `shape`, each number keyed by seed, purpose (32 bits), step and its index."""
    words = _random_words(seed, purpose, step, prod(shape))
    return _in_order([*_box_muller(*words[:2]), *_box_muller(*words[2:])], shape)


def uniform(seed: int, purpose: int, step: int, shape: tuple[int, ...]) -> np.ndarray:
    """Uniform float32 in [0, 1) of `shape`, multiples of 2^-24, keyed as `normal` is."""
    return _in_order([_unit(word) for word in _random_words(seed, purpose, step, prod(shape))], shape)


def bits(seed: int, purpose: int, step: int, shape: tuple[int, ...]) -> np.ndarray:
    """32 random bits, int64 of `shape`, each number keyed as `normal` is."""
    return _in_order(_random_words(seed, purpose, step, prod(shape)), shape, np.int64)


def drawn(draw: Callable[..., np.ndarray], key: Key, like: Array, dtype: np.dtype | None = None) -> Array:
    """Numbers from `draw`, separately for each member of an ensemble, in the type of `like` or `dtype`."""
    if isinstance(key.seed, int):
        numbers = draw(key.seed, key.purpose, key.step, like.shape)
    else:
        numbers = np.stack([draw(seed, key.purpose, key.step, like.shape[1:]) for seed in key.seed])
    return numbers.astype(like.dtype if dtype is None else dtype, copy=False)


def _random_words(seed: int, purpose: int, step: int, size: int) -> list[np.ndarray]:
    """Philox4x32-10 (Salmon et al., SC 2011): four words of 32 random bits a counter, for `size` numbers."""
    low, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    counters, step = -(-size // (4 * _BLOCK)) * _BLOCK, int(step)
    c0 = np.arange(counters, dtype=np.uint64)
    c1, c2, c3 = (np.full(counters, word, np.uint64) for word in (purpose, step & 0xFFFFFFFF, step >> 32))
    for i in range(10):
        k0, k1 = (np.uint64((k + i * w) & 0xFFFFFFFF) for k, w in ((seed, 0x9E3779B9), (seed >> 32, 0xBB67AE85)))
        p0, p1 = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (p1 >> half) ^ c1 ^ k0, p1 & low, (p0 >> half) ^ c3 ^ k1, p0 & low
    return [c0, c1, c2, c3]


def _in_order(quarters: list[np.ndarray], shape: tuple[int, ...], dtype: type = np.float32) -> np.ndarray:
    """Numbers of the four words of each block, one word after the other, as `dtype` of `shape`."""
    numbers = np.stack([x.reshape(-1, _BLOCK) for x in quarters], 1).reshape(-1)[: prod(shape)]
    return numbers.reshape(shape).astype(dtype)


def _unit(word: np.ndarray) -> np.ndarray:
    """Multiples of 2^-24 in [0, 1)."""
    return (word >> np.uint64(8)) * 2.0**-24


def _box_muller(radius_word: np.ndarray, angle_word: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two standard normal numbers of two random words (Box and Muller, 1958): an angle to pi/4, and quarter turns."""
    radius = np.sqrt(-2 * np.log(_unit(radius_word) + 2.0**-25))
    bits = angle_word.astype(np.uint32).view(np.int32)
    angle = ((bits << np.int32(2)) >> np.int32(8)) * (pi / 4 / 2**23)
    radius = np.where(bits < 0, -radius, radius)
    swapped = (bits << np.int32(1)) < 0
    sine, cosine = np.sin(angle), np.cos(angle)
    return radius * np.where(swapped, sine, cosine), radius * np.where(swapped, cosine, sine)


# --- constants --------------------------------------------------------------------------------------------------------


@cache
def _table(numbers: tuple[int, ...]) -> np.ndarray:
    return np.array(numbers, np.int32)


@cache
def thresholds(fmt: Table, dtype: np.dtype) -> np.ndarray:
    """Thresholds in the type of the states, rounded up."""
    return rounded_up(np.asarray(fmt.thresholds, np.float64), dtype)


def rounded_up(exact: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """float64 thresholds as `dtype`, no lower: `x >= t` then means the same for every `x` of that type."""
    rounded = exact.astype(dtype)
    return np.where(rounded < exact, np.nextafter(rounded, dtype.type(np.inf)), rounded)
