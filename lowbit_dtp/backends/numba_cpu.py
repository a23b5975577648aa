"""NumPy arrays: Numba kernels, and BLAS in blocks that do not depend on the number of threads."""

import os
from functools import cache

# A thread that waits for work should sleep soon, not spin: where programs share the cores, spinning slows them all.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

import numba
import numpy as np
import scipy.linalg.cython_blas  # noqa: F401 (loaded before the controller below looks for it)
from threadpoolctl import ThreadpoolController

from ..formats import FixedPoint, Float, Format, Table
from . import Array
from . import _numba_kernels as kernels

# A product is cut into blocks of this many columns. The cut depends on the shape alone and each block is one
# single-threaded BLAS call, so the bits of a result do not depend on who computes it.
_BLOCK = 128
_SMALL = 2_000_000
"""Multiplications below which NumPy's own product is as fast."""
_DENSE = 0.3
"""Share of nonzeros from which BLAS is faster than passing over the zeros."""

_FAST_FIXED = (("nearest-even", "saturate"), ("nearest-even", "saturate-symmetric"))
"""Fixed point that has a kernel; the rest goes by the specification in `formats`."""


def set_threads(threads: int) -> None:
    """Use this many threads from here on. Changes the speed, never a number."""
    most = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
    if not 1 <= threads <= most:
        raise ValueError(f"threads must be 1 to {most} on this machine, not {threads}")
    numba.set_num_threads(threads)


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController().select(user_api="blas")


class NumbaBackend:
    """`Backend` for NumPy arrays."""

    def asarray(self, x: np.ndarray, like: Array) -> Array:
        return x.astype(like.dtype, copy=False) if x.dtype.kind == "f" else x

    def encode(self, x: Array, fmt: Format, uniform: Array | None) -> Array:
        codes, flat = np.empty(x.shape, fmt.code_dtype), np.ascontiguousarray(x).reshape(-1)
        if isinstance(fmt, Table):
            nan = kernels.encode_table(flat, _thresholds(fmt, x.dtype), codes.reshape(-1))
        elif isinstance(fmt, FixedPoint) and fmt.word <= 16 and (fmt.rounding, fmt.overflow) in _FAST_FIXED:
            numbers = (x.dtype.type(n) for n in (1 / fmt.step, fmt.lowest_level, fmt.highest_level))
            mask = np.int32(2**fmt.word - 1)
            nan = kernels.encode_fixed(flat, *numbers, mask, codes.reshape(-1))  # type: ignore[call-arg]
        else:
            return fmt.encode(x, uniform)
        if nan:
            raise ValueError(f"{fmt.name} cannot send NaN")
        return codes

    def decode(self, codes: Array, fmt: Format, like: Array) -> Array:
        if isinstance(fmt, Float):
            return fmt.decode(codes, fmt.dtype).astype(like.dtype, copy=False)
        if isinstance(fmt, Table) or (isinstance(fmt, FixedPoint) and fmt.word <= 8):
            numbers = np.empty(codes.shape, like.dtype)
            kernels.decode_table(np.ascontiguousarray(codes).reshape(-1), _values(fmt, like.dtype), numbers.reshape(-1))
            return numbers
        return fmt.decode(codes, like.dtype)

    def ones_and_toggles(self, codes: Array, previous: Array | None) -> tuple[int, int]:
        codes = np.ascontiguousarray(codes)
        ones, toggles = kernels.count_bits(codes.reshape(-1)), 0
        for member in np.ndindex(codes.shape[:-2]):
            rows = codes[member]
            if previous is not None and len(rows):
                toggles += kernels.count_differing_bits(rows[0], previous[member])
            toggles += kernels.count_differing_bits(rows[1:].reshape(-1), rows[:-1].reshape(-1))
        return int(ones), int(toggles)

    def matmul(self, a: Array, b: Array, out: Array | None = None) -> Array:
        members = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        product = np.empty((*members, a.shape[-2], b.shape[-1]), np.result_type(a, b)) if out is None else out
        a = np.broadcast_to(a, (*members, *a.shape[-2:]))
        b = np.broadcast_to(b, (*members, *b.shape[-2:]))
        with _blas().limit(limits=1):
            for member in np.ndindex(members):
                _multiply(a[member], b[member], product[member])
        return product

    def tanh(self, x: Array) -> Array:
        return np.tanh(x)

    def sigmoid(self, x: Array) -> Array:
        return 0.5 * np.tanh(0.5 * x) + 0.5

    def relu(self, x: Array) -> Array:
        return np.maximum(x, 0)

    def softmax(self, x: Array) -> Array:
        powers = np.exp(x - x.max(-1, keepdims=True))
        return powers / powers.sum(-1, keepdims=True)

    def one_hot(self, labels: Array, classes: int, like: Array) -> Array:
        return np.eye(classes, dtype=like.dtype)[labels]

    def log_loss(self, probability: Array, labels: Array) -> Array:
        chosen = np.take_along_axis(probability, labels[..., None], -1)[..., 0]
        return -np.log(np.maximum(chosen, np.finfo(chosen.dtype).tiny)).mean(-1)

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
        numbers = (parameter.dtype.type(x) for x in (learning_rate, decay, momentum, stabilizer))
        kernels.rmsprop(*(x.reshape(-1) for x in (parameter, np.ascontiguousarray(gradient), *state)), *numbers)


def _multiply(a: Array, b: Array, product: Array) -> None:
    """`product` [m, n] = `a` [m, k] times `b` [k, n]. Which way is taken depends on shapes and values alone."""
    (m, k), n = a.shape, b.shape[1]
    if m * k * n < _SMALL or len({a.dtype, b.dtype, product.dtype}) > 1 or not product.flags.c_contiguous:
        np.matmul(a, b, out=product)
    elif _is_sparse(a) and b.flags.c_contiguous:
        kernels.sparse_matmul(a, b, product)
    else:
        (a, *a_layout), (b, *b_layout) = _laid_out(a), _laid_out(b)
        kind, one_zero = ord("s" if a.dtype == np.float32 else "d"), np.array([1, 0], a.dtype)
        left, right = (a.ctypes.data, *a_layout), (b.ctypes.data, *b_layout)
        kernels.matmul(kind, *left, *right, product.ctypes.data, n, m, k, n, _BLOCK, one_zero)  # type: ignore[call-arg]


def _is_sparse(a: Array) -> bool:
    """Whether most of `a` is zero, as in images with an empty ground; a few rows tell most of those that are not."""
    few = a[: len(a) // 8 + 1]
    return np.count_nonzero(few) < _DENSE * few.size and np.count_nonzero(a) < _DENSE * a.size


def _laid_out(x: Array) -> tuple[Array, int, int]:
    """`x`, or a copy that BLAS can read; `n` or `t` for rows or columns one after another; the distance of two."""
    rows, columns = x.shape
    if x.strides[1] == x.itemsize and x.strides[0] >= columns * x.itemsize:
        return x, ord("n"), x.strides[0] // x.itemsize
    if x.strides[0] == x.itemsize and x.strides[1] >= rows * x.itemsize:
        return x, ord("t"), x.strides[1] // x.itemsize
    return np.ascontiguousarray(x), ord("n"), columns


@cache
def _thresholds(fmt: Table, dtype: np.dtype) -> np.ndarray:
    """Thresholds in the type of the states, rounded up: `x >= t` then means the same for every `x` of that type."""
    exact = np.asarray(fmt.thresholds, np.float64)
    rounded = exact.astype(dtype)
    return np.where(rounded < exact, np.nextafter(rounded, dtype.type(np.inf)), rounded)


@cache
def _values(fmt: Format, dtype: np.dtype) -> np.ndarray:
    size = len(fmt.values) if isinstance(fmt, Table) else 2**fmt.bits
    return fmt.decode(np.arange(size, dtype=fmt.code_dtype), dtype)
