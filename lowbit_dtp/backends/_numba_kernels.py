"""Compiled loops over NumPy arrays: arrays in, arrays out. Each has a slow NumPy twin in its test."""

import numpy as np
from numba import njit

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


@njit(cache=True, nogil=True, error_model="numpy")
def rmsprop(parameter, gradient, mean, square, velocity, learning_rate, decay, momentum, stabilizer):
    """Centred RMSprop with momentum over flat arrays, all of one floating type, in place."""
    fresh = type(decay)(1) - decay
    scaled = np.empty(_BLOCK, parameter.dtype)
    for start in range(0, parameter.size, _BLOCK):
        stop = min(start + _BLOCK, parameter.size)
        g, a, s = gradient[start:stop], mean[start:stop], square[start:stop]
        for i in range(stop - start):
            a[i] = decay * a[i] + fresh * g[i]
            s[i] = decay * s[i] + fresh * g[i] * g[i]
            scaled[i] = learning_rate * g[i] / np.sqrt(s[i] - a[i] * a[i] + stabilizer)
        v, p = velocity[start:stop], parameter[start:stop]
        for i in range(stop - start):
            v[i] = momentum * v[i] - scaled[i]
            p[i] += v[i]
