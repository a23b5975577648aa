"""Compiled loops over packed words: arrays in, arrays out. Each has a slow NumPy twin in its test.

Words are laid out as `packing.pack` has them. Everything here is whole numbers, so the bits of a result cannot depend on
the number of threads.
"""

import numpy as np
from numba import njit, prange, types

from ._simd import (
    at_least,
    bits_of,
    converter,
    differs,
    loader,
    mask_of,
    popcount,
    reader,
    select,
    splatter,
    store,
    total,
)

_WORD = 64
"""Bits of a word."""
_SMALL = 1 << 15
"""Numbers below which a pass is not worth a second thread."""


@njit(inline="always")
def _chunks(rows, numbers):
    """Into how many runs of rows a pass over `rows` rows and so many numbers is cut: a matter of shape alone."""
    return max(1, min(rows, numbers // _SMALL))


# --- packing ----------------------------------------------------------------------------------------------------------


def _signs(number):
    """A pass over rows of `number` that packs whether each is at or above a threshold."""
    load, splat = loader(number, _WORD), splatter(number, _WORD)

    @njit
    def run(x, threshold, words, first, stop):
        columns, flat, out = x.shape[1], x.reshape(-1), words.reshape(-1)
        width, whole, left = words.shape[1], columns // _WORD, columns % _WORD
        nan, kept = np.uint64(0), (np.uint64(1) << np.uint64(left)) - np.uint64(1)
        for i in range(first, stop):
            at, to = i * columns, i * width
            for word in range(whole):
                v = load(flat, at + word * _WORD)
                out[to + word] = bits_of(at_least(v, splat(threshold)))
                nan |= bits_of(differs(v, v))
            if left:
                at += whole * _WORD
                if at + _WORD <= flat.size:  # reads on into the next row
                    v = load(flat, at)
                    bits, met = bits_of(at_least(v, splat(threshold))), bits_of(differs(v, v))
                else:
                    bits = met = np.uint64(0)
                    for j in range(left):
                        bits |= np.uint64(flat[at + j] >= threshold) << np.uint64(j)
                        met |= np.uint64(flat[at + j] != flat[at + j]) << np.uint64(j)
                out[to + whole] = bits & kept
                nan |= met & kept
        return nan != np.uint64(0)

    return run


_signs_float32, _signs_float64 = _signs(types.float32), _signs(types.float64)


@njit(parallel=True, cache=True, nogil=True)
def pack_float32(x, threshold, words):
    """One bit for each of float32 `x` [rows, n]: whether it is `threshold` or more. Returns whether NaN was met.

    A comparison of vectors leaves 64 bits in mask registers, which are the word.
    """
    chunks, nans = _chunks(x.shape[0], x.size), 0
    if chunks == 1:
        return _signs_float32(x, threshold, words, 0, x.shape[0])
    for chunk in prange(chunks):
        nans += _signs_float32(x, threshold, words, x.shape[0] * chunk // chunks, x.shape[0] * (chunk + 1) // chunks)
    return nans != 0


@njit(parallel=True, cache=True, nogil=True)
def pack_float64(x, threshold, words):
    """`pack_float32` of float64."""
    chunks, nans = _chunks(x.shape[0], x.size), 0
    for chunk in prange(chunks):
        nans += _signs_float64(x, threshold, words, x.shape[0] * chunk // chunks, x.shape[0] * (chunk + 1) // chunks)
    return nans != 0


_load_64, _load_32, _load_16, _load_8 = (loader(types.uint8, lanes) for lanes in (64, 32, 16, 8))
_splat_64, _splat_w32, _splat_w16 = splatter(types.uint8, 64), splatter(types.uint32, 8), splatter(types.uint16, 8)
_read_w32, _read_w16 = reader(types.uint32, 8), reader(types.uint16, 8)
_read_8, _read_16, _read_32 = (reader(types.uint8, lanes) for lanes in (8, 16, 32))
_read_word, _load_word = reader(types.uint64, 1), loader(types.uint64, 1)
_to_8, _to_16, _to_32 = converter(types.uint8), converter(types.uint16), converter(types.uint32)


@njit(inline="always")
def _fold(codes, at, bits):
    """The word, as a vector of one, of the 64 / `bits` codes that begin at `codes[at]`: shifts within wider lanes."""
    if bits == 2:
        v = _read_w32(_load_32(codes, at))
        v = v | (v >> _splat_w32(np.uint32(6))) | (v >> _splat_w32(np.uint32(12))) | (v >> _splat_w32(np.uint32(18)))
        word = _read_word(_to_8(v))
    elif bits == 4:
        v = _read_w16(_load_16(codes, at))
        word = _read_word(_to_8(v | (v >> _splat_w16(np.uint16(4)))))
    else:
        word = _read_word(_load_8(codes, at))
    return word


@njit(inline="always")
def _unfold(words, at, bits, codes, to):
    """Undo `_fold`: write the codes of `words[at]` to `codes[to]` and what follows."""
    if bits == 1:
        store(codes, to, select(mask_of(words[at]), _splat_64(np.uint8(1)), _splat_64(np.uint8(0))))
    elif bits == 2:
        v = _to_32(_read_8(_load_word(words, at)))
        v = v | (v << _splat_w32(np.uint32(6))) | (v << _splat_w32(np.uint32(12))) | (v << _splat_w32(np.uint32(18)))
        store(codes, to, _read_32(v & _splat_w32(np.uint32(0x03030303))))
    elif bits == 4:
        v = _to_16(_read_8(_load_word(words, at)))
        store(codes, to, _read_16((v | (v << _splat_w16(np.uint16(4)))) & _splat_w16(np.uint16(0x0F0F))))
    else:
        store(codes, to, _load_word(words, at))


@njit
def _pack_rows(codes, bits, words, first, stop):
    columns, flat, out = codes.shape[1], codes.reshape(-1), words.reshape(-1)
    width, lanes = words.shape[1], _WORD // bits
    whole, left, last = columns // lanes, columns % lanes, np.zeros(_WORD, np.uint8)
    for i in range(first, stop):
        at, to = i * columns, i * width
        if bits == 1:
            for word in range(whole):
                out[to + word] = bits_of(differs(_load_64(flat, at + word * lanes), _splat_64(np.uint8(0))))
        else:
            for word in range(whole):
                store(out, to + word, _fold(flat, at + word * lanes, bits))
        if left:
            for j in range(left):
                last[j] = flat[at + whole * lanes + j]
            if bits == 1:
                out[to + whole] = bits_of(differs(_load_64(last, 0), _splat_64(np.uint8(0))))
            else:
                store(out, to + whole, _fold(last, 0, bits))


@njit(parallel=True, cache=True, nogil=True)
def pack_codes(codes, bits, words):
    """`codes` [rows, n], uint8 below 2^bits, side by side in `words`; 1, 2, 4 or 8 bits."""
    chunks, rows = _chunks(codes.shape[0], codes.size), codes.shape[0]
    for chunk in prange(chunks):
        _pack_rows(codes, bits, words, rows * chunk // chunks, rows * (chunk + 1) // chunks)


@njit
def _unpack_rows(words, bits, codes, first, stop):
    columns, flat, out = codes.shape[1], words.reshape(-1), codes.reshape(-1)
    width, lanes = words.shape[1], _WORD // bits
    whole, left, last = columns // lanes, columns % lanes, np.empty(_WORD, np.uint8)
    for i in range(first, stop):
        at, to = i * width, i * columns
        for word in range(whole):
            _unfold(flat, at + word, bits, out, to + word * lanes)
        if left:
            _unfold(flat, at + whole, bits, last, 0)
            for j in range(left):
                out[to + whole * lanes + j] = last[j]


@njit(parallel=True, cache=True, nogil=True)
def unpack_codes(words, bits, codes):
    """Undo `pack_codes`: the codes of `words` in `codes` [rows, n], uint8; 1, 2, 4 or 8 bits."""
    chunks, rows = _chunks(codes.shape[0], codes.size), codes.shape[0]
    for chunk in prange(chunks):
        _unpack_rows(words, bits, codes, rows * chunk // chunks, rows * (chunk + 1) // chunks)


def _chosen(number):
    """A pass over rows of words that writes one of two of `number` for each bit."""
    splat = splatter(number, _WORD)

    @njit
    def run(words, low, high, x, first, stop):
        columns, flat, out = x.shape[1], words.reshape(-1), x.reshape(-1)
        width, whole, left = words.shape[1], columns // _WORD, np.uint64(columns % _WORD)
        for i in range(first, stop):
            at, to = i * width, i * columns
            for word in range(whole):
                store(out, to + word * _WORD, select(mask_of(flat[at + word]), splat(high), splat(low)))
            if left and whole:  # the last 64, some of them once more
                bits = flat[at + whole] << (np.uint64(_WORD) - left) | flat[at + whole - 1] >> left
                store(out, to + columns - _WORD, select(mask_of(bits), splat(high), splat(low)))
            elif left:
                for j in range(columns):
                    out[to + j] = high if flat[at] >> np.uint64(j) & np.uint64(1) else low

    return run


_chosen_float32 = _chosen(types.float32)


@njit(parallel=True, cache=True, nogil=True)
def unpack_float32(words, low, high, x):
    """`x` [rows, n], float32: `high` where the bit in `words` is set, else `low`. The word is the mask of a choice."""
    chunks, rows = _chunks(x.shape[0], x.size), x.shape[0]
    for chunk in prange(chunks):
        _chosen_float32(words, low, high, x, rows * chunk // chunks, rows * (chunk + 1) // chunks)


# --- counting ---------------------------------------------------------------------------------------------------------

_COUNTED = 32
"""Words counted at a time."""
_load_words, _splat_words = loader(types.uint64, _COUNTED), splatter(types.uint64, _COUNTED)
_load_few, _splat_few = loader(types.uint64, 8), splatter(types.uint64, 8)
_splat_word = splatter(types.uint64, 1)


@njit(inline="always")
def _bits(word):
    return np.int64(total(popcount(_splat_word(word))))


@njit(cache=True, nogil=True)
def count(words, previous):
    """Bits set in `words` [rows, width], and bits that differ from the row before; `previous` is that of the first."""
    flat, width = words.reshape(-1), words.shape[1]
    ones, toggles, head = 0, 0, min(width, words.size)
    for i in range(head):
        ones, toggles = ones + _bits(flat[i]), toggles + _bits(flat[i] ^ previous[i])
    set_bits = changed = _splat_words(np.uint64(0))
    stop = head + (flat.size - head) // _COUNTED * _COUNTED
    for i in range(head, stop, _COUNTED):
        v = _load_words(flat, i)
        set_bits, changed = set_bits + popcount(v), changed + popcount(v ^ _load_words(flat, i - width))
    for i in range(stop, flat.size):
        ones, toggles = ones + _bits(flat[i]), toggles + _bits(flat[i] ^ flat[i - width])
    return ones + np.int64(total(set_bits)), toggles + np.int64(total(changed))


@njit(cache=True, nogil=True)
def count_flips(words, others, flips):
    """Bits that differ between `words` and `others` [rows, width], of each row, in `flips` [rows], int64."""
    width, a, b = words.shape[1], words.reshape(-1), others.reshape(-1)
    stop = width - width % 8
    for i in range(words.shape[0]):
        at, few, differing = i * width, _splat_few(np.uint64(0)), 0
        for j in range(0, stop, 8):
            few = few + popcount(_load_few(a, at + j) ^ _load_few(b, at + j))
        for j in range(stop, width):
            differing += _bits(a[at + j] ^ b[at + j])
        flips[i] = differing + np.int64(total(few))
