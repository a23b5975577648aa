"""Compiled loops over NumPy arrays: arrays in, arrays out. Each has a slow NumPy twin in its test."""

import numpy as np
from llvmlite import ir
from numba import njit, prange, types
from numba.extending import intrinsic

# LLVM gives up vectorising a loop over more than a few arrays, so long updates go through a block that stays in cache.
_BLOCK = 2048


@njit(cache=True, nogil=True)
def encode_table(x, thresholds, codes):
    """Count, for each value of flat `x`, the `thresholds` at or below it. Returns whether NaN was met."""
    nan = 0
    if thresholds.size == 1:
        threshold = thresholds[0]
        for i in range(x.size):
            codes[i] = x[i] >= threshold
            nan |= x[i] != x[i]
    else:
        for i in range(x.size):
            nan |= x[i] != x[i]
        if not nan:
            for i in range(x.size):
                low, high = 0, thresholds.size
                while low < high:
                    middle = (low + high) // 2
                    if x[i] >= thresholds[middle]:
                        low = middle + 1
                    else:
                        high = middle
                codes[i] = low
    return nan != 0


@njit(cache=True, nogil=True)
def encode_fixed(x, per_step, low, high, mask, codes):
    """Steps in flat `x`, half to even, held to `low` and `high`, in two's complement. Returns whether NaN was met."""
    nan = 0
    for i in range(x.size):
        nan |= x[i] != x[i]
        codes[i] = np.int32(np.rint(min(max(x[i] * per_step, low), high))) & mask
    return nan != 0


@njit(cache=True, nogil=True)
def decode_table(codes, values, numbers):
    """`values` at each of flat `codes`."""
    for i in range(codes.size):
        numbers[i] = values[codes[i]]


@njit(cache=True, nogil=True)
def count_bits(words):
    """Bits set in flat `words`, an unsigned array."""
    total = 0
    for i in range(words.size):
        total += _popcount(words[i])
    return total


@njit(cache=True, nogil=True)
def count_differing_bits(a, b):
    """Bits that differ between two flat unsigned arrays."""
    total = 0
    for i in range(a.size):
        total += _popcount(a[i] ^ b[i])
    return total


@njit(inline="always")
def _popcount(word):
    x = np.uint64(word)
    x = x - ((x >> np.uint64(1)) & np.uint64(0x5555555555555555))
    x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
    x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((x * np.uint64(0x0101010101010101)) >> np.uint64(56))


@njit(parallel=True, cache=True, nogil=True)
def matmul(kind, a, a_layout, a_row, b, b_layout, b_row, product, product_row, m, k, n, block, one_zero):
    """BLAS products of [m, k] at address `a` and [k, n] at `b`, one for each `block` columns of [m, n] at `product`.

    A layout is `n` for rows one after another, `t` for columns; a row (or column) is `*_row` numbers after the last.
    `kind` is `s` or `d`; `one_zero` holds 1 and 0 of that type. BLAS wants columns one after another, so it is told to
    multiply the transposed, b.T times a.T.
    """
    item = one_zero.itemsize
    step = item if b_layout == ord("n") else b_row * item
    one = one_zero.ctypes.data
    for i in prange((n + block - 1) // block):
        start = i * block
        _gemm(kind, b_layout, a_layout, min(block, n - start), m, k, _pointer(one), _pointer(b + start * step), b_row,
              _pointer(a), a_row, _pointer(one + item), _pointer(product + start * item), product_row)  # fmt: skip


# the BLAS of SciPy as Numba's own `numpy.dot` calls it, which lets a product be cut without copying its parts
_gemm = types.ExternalFunction(
    "numba_xxgemm",
    types.intc(
        types.char, types.char, types.char, types.intp, types.intp, types.intp, types.voidptr, types.voidptr,
        types.intp, types.voidptr, types.intp, types.voidptr, types.voidptr, types.intp,
    ),
)  # fmt: skip


@intrinsic
def _pointer(typing_context, address):
    """The address as the pointer that BLAS wants."""

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())

    return types.voidptr(types.intp), generate


@njit(parallel=True, cache=True, nogil=True, fastmath={"contract"})
def sparse_matmul(a, b, product):
    """`product` = `a` [m, k] times `b` [k, n], passing over the zeros of `a`: four rows of `b` at a time."""
    for i in prange(a.shape[0]):
        found = np.zeros(a.shape[1] + 3, np.int64)
        weights = np.zeros(a.shape[1] + 3, a.dtype)
        count = 0
        for k in range(a.shape[1]):
            if a[i, k] != 0:
                found[count], weights[count] = k, a[i, k]
                count += 1
        row = product[i]
        row[:] = 0
        for g in range(0, count, 4):
            v0, v1, v2, v3 = weights[g], weights[g + 1], weights[g + 2], weights[g + 3]
            b0, b1, b2, b3 = b[found[g]], b[found[g + 1]], b[found[g + 2]], b[found[g + 3]]
            for j in range(row.size):
                row[j] += v0 * b0[j] + v1 * b1[j] + v2 * b2[j] + v3 * b3[j]


@njit(parallel=True, cache=True, nogil=True, error_model="numpy")
def rmsprop(parameter, gradient, mean, square, velocity, learning_rate, decay, momentum, stabilizer):
    """Centred RMSprop with momentum over flat arrays, all of one floating type, in place."""
    fresh = type(decay)(1) - decay
    for block in prange((parameter.size + _BLOCK - 1) // _BLOCK):
        start = block * _BLOCK
        stop = min(start + _BLOCK, parameter.size)
        scaled = np.empty(_BLOCK, parameter.dtype)
        g, a, s = gradient[start:stop], mean[start:stop], square[start:stop]
        for i in range(stop - start):
            a[i] = decay * a[i] + fresh * g[i]
            s[i] = decay * s[i] + fresh * g[i] * g[i]
            scaled[i] = learning_rate * g[i] / np.sqrt(s[i] - a[i] * a[i] + stabilizer)
        v, p = velocity[start:stop], parameter[start:stop]
        for i in range(stop - start):
            v[i] = momentum * v[i] - scaled[i]
            p[i] += v[i]
