"""NumPy arrays: Numba kernels, and BLAS in blocks that do not depend on the number of threads."""

import os
from functools import cache
from math import prod

# A thread that waits for work should sleep soon, not spin: where programs share the cores, spinning slows them all.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

from typing import TYPE_CHECKING

import numba
import numpy as np
import scipy.linalg.cython_blas  # noqa: F401 (loaded before threadpoolctl looks for it)

from ..formats import FixedPoint, Float, Format, Table
from ..packing import packed_width
from . import Array, Carried
from . import _numba_kernels as kernels
from .numpy_plain import NumpyBackend, blas, thresholds

if TYPE_CHECKING:
    from ..activations import Activation
    from ..links import Signal

# A product is cut into blocks of this many columns. The cut depends on the shape alone and each block is one
# single-threaded BLAS call, so the bits of a result do not depend on who computes it.
_BLOCK = 128
_SMALL = 2_000_000
"""Multiplications below which calling BLAS costs more than it gains."""
_DENSE = 0.3
"""Share of nonzeros from which BLAS is faster than passing over the zeros."""
_FEW_ROWS = 0.7
"""Share of samples with an error below which the others are left out of a gradient."""

_FAST_FIXED = (("nearest-even", "saturate"), ("nearest-even", "saturate-symmetric"))
"""Fixed point that has a kernel; the rest goes by the specification in `formats`."""

_ACTIVATIONS = {
    "tanh": kernels.TANH,
    "sigmoid": kernels.SIGMOID,
    "relu": kernels.RELU,
    "identity": kernels.IDENTITY,
}


def set_threads(threads: int) -> None:
    """Use this many threads from here on. Changes the speed, never a number."""
    most = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
    if not 1 <= threads <= most:
        raise ValueError(f"threads must be 1 to {most} on this machine, not {threads}")
    numba.set_num_threads(threads)


def normal(seed: int, purpose: int, step: int, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal float32 of `shape`, each number keyed by seed, purpose (32 bits), step and its own place."""
    size = prod(shape)
    numbers = np.empty(-(-size // kernels.DRAWN) * kernels.DRAWN, np.float32)
    key = np.array([seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF], np.uint64)
    kernels.normal(key, np.array([purpose, step & 0xFFFFFFFF, step >> 32], np.uint64), numbers)
    return numbers[:size].reshape(shape)


class NumbaBackend(NumpyBackend):
    """`Backend` for NumPy arrays: compiled for float32 and few bits, plain NumPy for the rest."""

    def encode(self, x: Array, fmt: Format, uniform: Array | None) -> Array:
        codes, flat = np.empty(x.shape, fmt.code_dtype), np.ascontiguousarray(x).reshape(-1)
        if isinstance(fmt, Table):
            nan = kernels.encode_table(flat, thresholds(fmt, x.dtype), codes.reshape(-1))
        elif isinstance(fmt, FixedPoint) and fmt.word <= 16 and (fmt.rounding, fmt.overflow) in _FAST_FIXED:
            numbers = (x.dtype.type(n) for n in (1 / fmt.step, fmt.lowest_level, fmt.highest_level))
            mask = np.int32(2**fmt.word - 1)
            nan = kernels.encode_fixed(flat, *numbers, mask, codes.reshape(-1))  # type: ignore[call-arg]
        elif isinstance(fmt, Float) and flat.dtype == fmt.dtype:
            nan, codes = kernels.holds_nan(flat), flat.view(fmt.code_dtype).reshape(x.shape)
        else:
            return fmt.encode(x, uniform)
        if nan:
            raise ValueError(f"{fmt.name} cannot send NaN")
        return codes

    def decode(self, codes: Array, fmt: Format, like: Array) -> Array:
        if isinstance(fmt, Float):
            return codes.view(fmt.dtype).astype(like.dtype, copy=False)
        if isinstance(fmt, FixedPoint) and not fmt.signed and fmt.word <= 16:
            numbers = np.empty(codes.shape, like.dtype)
            kernels.decode_unsigned(_flat(codes), like.dtype.type(fmt.step), numbers.reshape(-1))
            return numbers
        if isinstance(fmt, Table) or (isinstance(fmt, FixedPoint) and fmt.word <= 8):
            numbers = np.empty(codes.shape, like.dtype)
            kernels.decode_table(_flat(codes), _values(fmt, like.dtype), numbers.reshape(-1))
            return numbers
        return fmt.decode(codes, like.dtype)

    def transmit(self, x: Array, fmt: Format, uniform: Array | None, previous: Array | None) -> Carried:
        if not (isinstance(fmt, Table) and len(fmt.values) == 2 and x.ndim == 2 and _is_plain(x)):
            return super().transmit(x, fmt, uniform, previous)
        words = np.empty((len(x), packed_width(x.shape[1], 1)), np.uint64)
        if kernels.pack_two_valued(x, thresholds(fmt, x.dtype)[0], words):
            raise ValueError(f"{fmt.name} cannot send NaN")
        return Carried(words, x.shape[1], *self.ones_and_toggles(words, previous))

    def ones_and_toggles(self, codes: Array, previous: Array | None) -> tuple[int, int]:
        if not codes.size:
            return 0, 0
        ones = toggles = 0
        for member in np.ndindex(codes.shape[:-2]):
            rows = np.ascontiguousarray(codes[member])
            before = rows[:1] if previous is None else np.ascontiguousarray(previous[member])
            counted = kernels.count_bits(_bytes(rows), _bytes(before))
            ones, toggles = ones + counted[0], toggles + counted[1]
        return ones, toggles

    def matmul(self, a: Array, b: Array, out: Array | None = None) -> Array:
        members = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        product = np.empty((*members, a.shape[-2], b.shape[-1]), np.result_type(a, b)) if out is None else out
        a = np.broadcast_to(a, (*members, *a.shape[-2:]))
        b = np.broadcast_to(b, (*members, *b.shape[-2:]))
        for member in np.ndindex(members):
            _multiply(a[member], b[member], product[member])
        return product

    def drive(self, signal: "Signal", weight: Array, bias: Array) -> Array:
        if weight.ndim != 2 or len(signal.shape) != 2 or not (_is_plain(weight) and _is_plain(bias)):
            return super().drive(signal, weight, bias)
        rows, (_, neurons) = signal.shape[0], weight.shape
        drive = np.empty((rows, neurons), np.float32)
        if signal.packed_neurons is not None and neurons >= kernels.LANES:
            words = signal.carried.view(np.uint32)
            values = _values(signal.format, weight.dtype)
            kernels.row_tables(words.reshape(-1), words.shape[1], 1, *values, weight, bias, drive)
        elif neurons >= 2 * kernels.LANES and (sparse := _sparse(signal)) is not None:
            kernels.sparse_matmul(*sparse, weight, bias, drive)
        elif rows * weight.size < _SMALL:
            kernels.small_matmul(signal.values, weight, bias, drive)
        else:
            _multiply(signal.values, weight, drive)
            drive += bias
        return drive

    def gradients(self, signal: "Signal", error: Array, spent: Array | None) -> tuple[Array, Array]:
        if error.ndim != 2 or not _is_plain(error) or (spent is not None and not _is_plain(spent)):
            return super().gradients(signal, error, spent)
        (rows, below), neurons = signal.shape, error.shape[1]
        gradient = np.empty((below, neurons), np.float32) if spent is None else spent
        none, sums = _zeros(neurons), np.empty(neurons, np.float32)
        kernels.column_sums(error, sums)
        if signal.packed_neurons is not None and neurons >= kernels.LANES:
            width = 64 * signal.carried.shape[1]
            columns = np.empty(-(-rows // 32) * width, np.uint32)
            kernels.transpose_bits(signal.carried, columns)
            kernels.row_tables(columns, 1, width, *_values(signal.format, error.dtype), error, none, gradient)
            return gradient, sums
        learning = np.empty(rows, np.bool_)
        kernels.nonzero_rows(error, learning)
        if neurons >= 2 * kernels.LANES and (sparse := _sparse(signal)) is not None:
            ends, columns, numbers = sparse
            transposed = np.empty(below + 1, np.int64), np.empty_like(columns), np.empty_like(numbers)
            kernels.transpose_nonzeros(ends, columns, numbers, learning, *transposed)
            kernels.sparse_matmul(*transposed, error, none, gradient)
            return gradient, sums
        values = signal.values
        if learning.sum() < _FEW_ROWS * rows:
            values, error = values[learning], error[learning]
        _multiply(values.T, error, gradient)
        return gradient, sums

    def same_rows(self, signal: "Signal", other: "Signal") -> Array | None:
        if signal.packed_neurons is None or signal.carried.shape != other.carried.shape:
            return None
        same = np.empty(len(signal.carried), np.bool_)
        kernels.same_rows(signal.carried, other.carried, same)
        return same

    def tanh(self, x: Array, out: Array | None = None) -> Array:
        return _tanh(x, out, 1.0, 1.0, 0.0) if _is_plain(x) else super().tanh(x, out)

    def sigmoid(self, x: Array, out: Array | None = None) -> Array:
        return _tanh(x, out, 0.5, 0.5, 0.5) if _is_plain(x) else super().sigmoid(x, out)

    def through(self, activation: "Activation", state: Array, error: Array, scale: float = 1.0) -> Array:
        if activation.name not in _ACTIVATIONS or not (_is_plain(state) and _is_plain(error)):
            return super().through(activation, state, error, scale)
        result, kind = np.empty_like(state), _ACTIVATIONS[activation.name]
        kernels.through(kind, _flat(state), _flat(error), np.float32(scale), _flat(result))
        return result

    def through_difference(self, activation: "Activation", state: Array, a: Array, b: Array, scale: float) -> Array:
        if activation.name not in _ACTIVATIONS or not (_is_plain(state) and _is_plain(a) and _is_plain(b)):
            return super().through_difference(activation, state, a, b, scale)
        result, kind = np.empty_like(state), _ACTIVATIONS[activation.name]
        kernels.through_difference(kind, _flat(state), _flat(a), _flat(b), np.float32(scale), _flat(result))
        return result

    def axpy(self, scale: float, x: Array, y: Array) -> Array:
        if not (_is_plain(x) and _is_plain(y) and x.shape == y.shape):
            return super().axpy(scale, x, y)
        result = np.empty_like(y)
        kernels.axpy(np.float32(scale), _flat(x), _flat(y), _flat(result))
        return result

    def cross_entropy(self, logits: Array, labels: Array) -> tuple[Array, Array]:
        if logits.ndim != 2 or not _is_plain(logits):
            return super().cross_entropy(logits, labels)
        error = np.empty_like(logits)
        return error, kernels.cross_entropy(logits, labels, error)

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
        if not all(x.flags.c_contiguous for x in (parameter, *state)):  # a flat view of any other would be a copy
            raise ValueError("a parameter that is updated in place must be C-contiguous; see numpy.ascontiguousarray")
        if parameter.dtype != np.float32:
            super().rmsprop(parameter, gradient, state, learning_rate, decay, momentum, stabilizer)
            return
        flat = (x.reshape(-1) for x in (parameter, np.ascontiguousarray(gradient, np.float32), *state))
        numbers = (np.float32(n) for n in (learning_rate, decay, momentum, stabilizer))
        kernels.rmsprop(*flat, *numbers)  # type: ignore[call-arg]


def _is_plain(x: Array) -> bool:
    """Whether the kernels for float32 can read `x`."""
    return x.dtype == np.float32 and x.flags.c_contiguous


def _flat(x: Array) -> Array:
    return np.ascontiguousarray(x).reshape(-1)


def _bytes(x: Array) -> Array:
    return x.reshape(-1).view(np.uint8)


def _tanh(x: Array, out: Array | None, inner: float, outer: float, shift: float) -> Array:
    result = np.empty_like(x) if out is None else out
    kernels.tanh(_flat(x), *map(np.float32, (inner, outer, shift)), result.reshape(-1))
    return result


@cache
def _zeros(size: int) -> Array:
    return np.zeros(size, np.float32)


def _multiply(a: Array, b: Array, product: Array) -> None:
    (m, k), n = a.shape, b.shape[1]
    same = a.dtype == b.dtype == product.dtype
    if same and a.dtype == np.float32 and m * k * n < _SMALL and product.flags.c_contiguous:
        kernels.small_matmul(a, b, _zeros(n), product)
    elif not same or m * k * n < _SMALL or not product.flags.c_contiguous:
        with blas().limit(limits=1):
            np.matmul(a, b, out=product)
    else:
        (a, *a_layout), (b, *b_layout) = _laid_out(a), _laid_out(b)
        kind, one_zero = ord("s" if a.dtype == np.float32 else "d"), np.array([1, 0], a.dtype)
        left, right = (a.ctypes.data, *a_layout), (b.ctypes.data, *b_layout)
        with blas().limit(limits=1):
            kernels.matmul(kind, *left, *right, product.ctypes.data, n, m, k, n, _BLOCK, one_zero)  # type: ignore[call-arg]


def _sparse(signal: "Signal") -> tuple[Array, Array, Array] | None:
    """The nonzeros of a signal as compressed rows, made once; None if they are not few, as in images with no ground."""
    if "sparse" not in signal.made:
        values = signal.values
        signal.made["sparse"] = None
        if _is_plain(values) and (count := kernels.count_nonzeros(values.reshape(-1))) < _DENSE * values.size:
            found = np.empty(len(values) + 1, np.int64), np.empty(count, np.int32), np.empty(count, np.float32)
            kernels.find_nonzeros(values, *found)
            signal.made["sparse"] = found
    return signal.made["sparse"]


def _laid_out(x: Array) -> tuple[Array, int, int]:
    """`x`, or a copy that BLAS can read; `n` or `t` for rows or columns one after another; the distance of two."""
    rows, columns = x.shape
    if x.strides[1] == x.itemsize and x.strides[0] >= columns * x.itemsize:
        return x, ord("n"), x.strides[0] // x.itemsize
    if x.strides[0] == x.itemsize and x.strides[1] >= rows * x.itemsize:
        return x, ord("t"), x.strides[1] // x.itemsize
    return np.ascontiguousarray(x), ord("n"), columns


@cache
def _values(fmt: Format, dtype: np.dtype) -> np.ndarray:
    size = len(fmt.values) if isinstance(fmt, Table) else 2**fmt.bits
    return fmt.decode(np.arange(size, dtype=fmt.code_dtype), dtype)
