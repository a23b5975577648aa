"""Compiled loops over packed words: arrays in, arrays out. Each has a slow NumPy twin in its test.

Words are laid out as `packing.pack` has them. Everything here is whole numbers, so that no result can depend on the
number of threads.
"""

import numpy as np
from numba import types

from ._compiling import kernel, subroutine
from ._simd import (
    LOOKED_UP,
    TOGETHER,
    at_least,
    bits_of,
    chosen_summer,
    converter,
    differs,
    digits_summer,
    dot4,
    dot4_small,
    gatherer,
    less,
    loader,
    mask_of,
    pairs_summer,
    popcount,
    reader,
    scatter,
    select,
    signs,
    splatter,
    spreader,
    store,
    target,
    total,
    turn_rows,
    turned,
)
from ._threads import share_out

_WORD = 64
"""Bits of a word."""
_SMALL = 1 << 17
"""Numbers below which a pass is not worth a second thread."""


@subroutine(inline="always")
def _chunks(rows, numbers):
    """Into how many runs of rows a pass over so many numbers is cut."""
    return max(1, min(rows, numbers // _SMALL))


# --- packing ----------------------------------------------------------------------------------------------------------


def _signs(number):
    """A pass over rows of `number` that packs whether each reaches a threshold, and returns whether NaN was found."""
    load, splat = loader(number, _WORD), splatter(number, _WORD)

    @subroutine
    def run(x, threshold, words, first, stop):
        columns, flat, out = x.shape[1], x.reshape(-1), words.reshape(-1)
        width, whole, left = words.shape[1], columns // _WORD, columns % _WORD
        least, kept, late = splat(threshold), mask_of((np.uint64(1) << np.uint64(left)) - np.uint64(1)), False
        met = differs(least, least)
        for i in range(first, stop):
            at, to = np.uintp(i * columns), np.uintp(i * width)
            for _ in range(whole):
                numbers = load(flat, at)
                out[to] = bits_of(at_least(numbers, least))
                met = met | differs(numbers, numbers)
                at, to = at + np.uintp(_WORD), to + np.uintp(1)
            if left and at + np.uintp(_WORD) <= np.uintp(flat.size):  # reads on into the next row
                numbers = load(flat, at)
                out[to] = bits_of(at_least(numbers, least) & kept)
                met = met | (differs(numbers, numbers) & kept)
            elif left:
                bits = np.uint64(0)
                for j in range(left):
                    number = flat[at + np.uintp(j)]
                    bits |= np.uint64(number >= threshold) << np.uint64(j)
                    late |= number != number
                out[to] = bits
        return late or bits_of(met) != np.uint64(0)

    return run


def _signs_by_bytes():
    """`_signs(types.float32)` for AVX2."""
    splat, nowhere = splatter(types.float32, 8), splatter(types.int32, 8)

    @subroutine
    def run(x, threshold, words, first, stop):
        columns, flat, out = x.shape[1], x.reshape(-1), words.reshape(-1)
        width, whole, left = words.shape[1], columns // _WORD, columns % _WORD
        least, kept, met, late = splat(threshold), (np.uint64(1) << np.uint64(left)) - np.uint64(1), nowhere(0), False
        for i in range(first, stop):
            at, to = i * columns, np.uintp(i * width)
            for _ in range(whole):
                out[to], met = signs(flat, at, least, met)
                at, to = at + _WORD, to + np.uintp(1)
            if left and at + _WORD <= flat.size:  # reads on into the next row, and meets its NaN, too
                word, met = signs(flat, at, least, met)
                out[to] = word & kept
            elif left:
                bits = np.uint64(0)
                for j in range(left):
                    number = flat[np.uintp(at + j)]
                    bits |= np.uint64(number >= threshold) << np.uint64(j)
                    late |= number != number
                out[to] = bits
        return late or total(met) != 0

    return run


_signs_float64 = _signs(types.float64)
_signs_float32 = _signs_by_bytes() if target().looks_up else _signs(types.float32)


@kernel
def pack_float32(x, threshold, words):
    """One bit for each of float32 `x` [rows, n]: whether it is `threshold` or more. Returns whether NaN was met.

    A comparison of vectors leaves 64 bits in mask registers, which are the word.
    """
    chunks = _chunks(x.shape[0], x.size)
    met = np.zeros(chunks, np.uint8)
    share_out(_signs_part, chunks, (x, threshold, words, met))
    return met.any()


@subroutine
def _signs_part(begin, end, x, threshold, words, met):
    rows, chunks = x.shape[0], met.size
    met[begin] = _signs_float32(x, threshold, words, rows * begin // chunks, rows * end // chunks)


@kernel
def pack_float64(x, threshold, words):
    """`pack_float32` of float64."""
    return _signs_float64(x, threshold, words, 0, x.shape[0])


_load_float32, _splat_float32 = loader(types.float32, _WORD), splatter(types.float32, _WORD)


@kernel
def pack_draws(x, uniform, words):
    """One bit for each of float32 `x` [rows, n]: whether it is 1 - `uniform` or more. Returns whether NaN was met."""
    chunks = _chunks(x.shape[0], x.size)
    met = np.zeros(chunks, np.uint8)
    share_out(_draws_part, chunks, (x, uniform, words, met))
    return met.any()


@subroutine
def _draws_part(begin, end, x, uniform, words, met):
    (rows, columns), chunks, flat, drawn, out = x.shape, met.size, x.reshape(-1), uniform.reshape(-1), words.reshape(-1)
    width, whole, one, late = words.shape[1], columns // _WORD, _splat_float32(np.float32(1)), False
    seen = differs(one, one)
    for i in range(rows * begin // chunks, rows * end // chunks):
        at, to = np.uintp(i * columns), np.uintp(i * width)
        for _ in range(whole):
            numbers = _load_float32(flat, at)
            out[to] = bits_of(at_least(numbers, one - _load_float32(drawn, at)))
            seen = seen | differs(numbers, numbers)
            at, to = at + np.uintp(_WORD), to + np.uintp(1)
        if columns % _WORD:
            bits = np.uint64(0)
            for j in range(columns % _WORD):
                number = flat[at + np.uintp(j)]
                bits |= np.uint64(number >= np.float32(1) - drawn[at + np.uintp(j)]) << np.uint64(j)
                late |= number != number
            out[to] = bits
    met[begin] = late or bits_of(seen) != np.uint64(0)


_load_64, _load_32, _load_16, _load_8 = (loader(types.uint8, lanes) for lanes in (64, 32, 16, 8))
_splat_64, _splat_32, _splat_16, _splat_8 = (splatter(types.uint8, lanes) for lanes in (64, 32, 16, 8))
_splat_w32, _splat_w16 = splatter(types.uint32, 8), splatter(types.uint16, 8)
_read_w32, _read_w16 = reader(types.uint32, 8), reader(types.uint16, 8)
_read_8, _read_16, _read_32 = (reader(types.uint8, lanes) for lanes in (8, 16, 32))
_read_word, _load_word = reader(types.uint64, 1), loader(types.uint64, 1)
_to_8, _to_16, _to_32 = converter(types.uint8), converter(types.uint16), converter(types.uint32)


@subroutine
def _fold(codes, at, bits, words, to):
    """Write the 64 / `bits` codes that begin at `codes[at]` to `words[to]`: shifts within lanes of one byte to be."""
    if bits == 1:
        words[to] = bits_of(differs(_load_64(codes, at), _splat_64(np.uint8(0))))
    elif bits == 2:
        v = _read_w32(_load_32(codes, at))
        v = v | (v >> _splat_w32(np.uint32(6))) | (v >> _splat_w32(np.uint32(12))) | (v >> _splat_w32(np.uint32(18)))
        store(words, to, _read_word(_to_8(v)))
    elif bits == 4:
        v = _read_w16(_load_16(codes, at))
        store(words, to, _read_word(_to_8(v | (v >> _splat_w16(np.uint16(4))))))
    else:
        store(words, to, _read_word(_load_8(codes, at)))


@subroutine
def _unfold(words, at, bits, flip, codes, to):
    """Undo `_fold`: write the codes of `words[at]`, with the bits `flip` flipped, to `codes[to]` and what follows."""
    if bits == 1:
        store(codes, to, select(mask_of(words[at]), _splat_64(np.uint8(1) ^ flip), _splat_64(flip)))
    elif bits == 2:
        v = _to_32(_read_8(_load_word(words, at)))
        v = v | (v << _splat_w32(np.uint32(6))) | (v << _splat_w32(np.uint32(12))) | (v << _splat_w32(np.uint32(18)))
        store(codes, to, _read_32(v & _splat_w32(np.uint32(0x03030303))) ^ _splat_32(flip))
    elif bits == 4:
        v = _to_16(_read_8(_load_word(words, at)))
        v = _read_16((v | (v << _splat_w16(np.uint16(4)))) & _splat_w16(np.uint16(0x0F0F)))
        store(codes, to, v ^ _splat_16(flip))
    else:
        store(codes, to, _read_8(_load_word(words, at)) ^ _splat_8(flip))


@kernel
def pack_codes(codes, bits, words):
    """`codes` [rows, n], uint8 below 2^bits, side by side in `words`; 1, 2, 4 or 8 bits."""
    columns, flat, out = codes.shape[1], codes.reshape(-1), words.reshape(-1)
    width, lanes = words.shape[1], _WORD // bits
    whole, left, last = columns // lanes, columns % lanes, np.zeros(_WORD, np.uint8)
    for i in range(codes.shape[0]):
        at, to = i * columns, i * width
        for word in range(whole):
            _fold(flat, at + word * lanes, bits, out, to + word)
        if left:
            for j in range(left):
                last[j] = flat[at + whole * lanes + j]
            _fold(last, 0, bits, out, to + whole)


@kernel
def unpack_codes(words, bits, flip, columns, codes):
    """Undo `pack_codes`, and flip the bits `flip` of each code; 0 in `codes` [rows, stride] from `columns` on."""
    flat, out, last = words.reshape(-1), codes.reshape(-1), np.empty(_WORD, np.uint8)
    width, stride, lanes = words.shape[1], codes.shape[1], _WORD // bits
    whole, left = columns // lanes, columns % lanes
    for i in range(codes.shape[0]):
        at, to = i * width, i * stride
        for word in range(whole):
            _unfold(flat, at + word, bits, flip, out, to + word * lanes)
        if left:
            _unfold(flat, at + whole, bits, flip, last, 0)
            for j in range(left):
                out[to + whole * lanes + j] = last[j]
        for j in range(columns, stride):
            out[to + j] = 0


@kernel
def split_codes(codes, words):
    """Bit planes `words` [planes, rows, width] of `codes` [rows, 64 width], uint8; the lowest first."""
    flat, (planes, rows, width) = codes.reshape(-1), words.shape
    for i in range(rows):
        for word in range(width):
            v = _load_64(flat, (i * width + word) * _WORD)
            for plane in range(planes):
                bit = _splat_64(np.uint8(1 << plane))
                words[plane, i, word] = bits_of(differs(v & bit, _splat_64(np.uint8(0))))


_splat_low = splatter(types.float32, 16)


@subroutine
def _choose_rows(words, low, high, x, first, stop):
    columns, flat, out, begin = x.shape[1], words.reshape(-1), x.reshape(-1), x.ctypes.data // 4
    width, whole, left = words.shape[1], columns // _WORD, columns % _WORD
    clear, set_ = _splat_low(low), _splat_low(high)
    for i in range(first, stop):
        at, to = i * width, i * columns
        if whole:  # from a boundary of cache lines on, which takes half the time, with those before and after
            skipped = -(begin + to) % 16
            done, less_, more = skipped, np.uint64(skipped), np.uint64(63 - skipped)
            store(out, to, _chosen(flat[at], 0, set_, clear))
            for word in range((columns - skipped) // _WORD):
                bits = flat[at + word] >> less_ | flat[at + min(word + 1, width - 1)] << np.uint64(1) << more
                for quarter in range(0, _WORD, 16):
                    store(out, to + done + quarter, _chosen(bits, quarter, set_, clear))
                done += _WORD
            if done < columns:  # the last 64, some of them once more
                bits = flat[at + whole - 1]
                if left:
                    bits = flat[at + whole] << np.uint64(_WORD - left) | bits >> np.uint64(left)
                for quarter in range(0, _WORD, 16):
                    store(out, to + columns - _WORD + quarter, _chosen(bits, quarter, set_, clear))
        else:
            for j in range(left):
                out[to + j] = high if flat[at] >> np.uint64(j) & np.uint64(1) else low


_MASKED = target().register_bits >= 512
"""Whether a choice takes its mask from a register of bits, rather than from the signs of numbers."""
_SHIFTS = np.arange(31, -1, -1, dtype=np.uint32)
_load_shifts, _splat_bits = loader(types.uint32, 16), splatter(types.uint32, 16)
_read_signed, _nothing = reader(types.int32, 16), splatter(types.int32, 16)


@subroutine(inline="always")
def _chosen(word, first, set_, clear):
    """Of each of 16 bits of a word, `set_` or `clear`."""
    bits = word >> np.uint64(first)
    if _MASKED:
        return select(mask_of(np.uint16(bits)), set_, clear)
    signed = _splat_bits(np.uint32(bits)) << _load_shifts(_SHIFTS, 0)
    return select(less(_read_signed(signed), _nothing(np.int32(0))), set_, clear)


@kernel
def unpack_float32(words, low, high, x):
    """`x` [rows, n], float32: `high` where the bit in `words` is set, else `low`. The word is the mask of a choice."""
    chunks = _chunks(x.shape[0], x.size)
    share_out(_choose_part, chunks, (chunks, words, low, high, x))


@subroutine
def _choose_part(begin, end, chunks, words, low, high, x):
    rows = x.shape[0]
    _choose_rows(words, low, high, x, rows * begin // chunks, rows * end // chunks)


# --- counting ---------------------------------------------------------------------------------------------------------

_load_few, _splat_few = loader(types.uint64, 8), splatter(types.uint64, 8)
_load_row, _read_few = loader(types.uint8, 64), reader(types.uint64, 8)
_splat_word = splatter(types.uint64, 1)


@subroutine(inline="always")
def _ones_in(word):
    """Bits set in an unsigned number."""
    return np.int64(total(popcount(_splat_word(np.uint64(word)))))


@kernel
def count_bits(rows, before):
    """Bits set in the bytes of flat `rows`, and bits that differ from the row before; before the first is `before`."""
    ones, toggles, width = np.int64(0), np.int64(0), before.size
    set_bits = changed = _splat_few(np.uint64(0))
    first, stop = width // 64 * 64, width + (rows.size - width) // 64 * 64
    for i in range(0, first, 64):
        now, then = _read_few(_load_row(rows, i)), _read_few(_load_row(before, i))
        set_bits, changed = set_bits + popcount(now), changed + popcount(now ^ then)
    for i in range(first, width):
        ones += _ones_in(rows[i])
        toggles += _ones_in(rows[i] ^ before[i])
    for i in range(width, stop, 64):
        now, then = _read_few(_load_row(rows, i)), _read_few(_load_row(rows, i - width))
        set_bits, changed = set_bits + popcount(now), changed + popcount(now ^ then)
    for i in range(stop, rows.size):
        ones += _ones_in(rows[i])
        toggles += _ones_in(rows[i] ^ rows[i - width])
    return ones + np.int64(total(set_bits)), toggles + np.int64(total(changed))


@kernel
def count_flips(words, others, flips):
    """Bits that differ between `words` and `others` [rows, width], of each row, in `flips` [rows], int64."""
    width, a, b = words.shape[1], words.reshape(-1), others.reshape(-1)
    stop = width - width % 8
    for i in range(words.shape[0]):
        at, few, differing = i * width, _splat_few(np.uint64(0)), 0
        for j in range(0, stop, 8):
            few = few + popcount(_load_few(a, at + j) ^ _load_few(b, at + j))
        for j in range(stop, width):
            differing += _ones_in(a[at + j] ^ b[at + j])
        flips[i] = differing + np.int64(total(few))


# --- products ---------------------------------------------------------------------------------------------------------
#
# Of unsigned codes u [rows, below] and v [below, neurons]: `product` [rows, neurons] = `scale` sum(u v) + a number for
# each row + one for each column, which make of codes the levels they stand for. Weights come in blocks of COLUMNS
# columns, of which the last overlaps the one before rather than being a special case: there are COLUMNS or more.

COLUMNS = 32 if target().register_bits == 512 else 16
"""Columns of a block of weights. It depends on the target, as the place of Numba's cache does."""
_TASK_ROWS = 96
"""Rows, or nearly, of a task for one thread."""

_load_block, _no_bits = loader(types.uint64, COLUMNS), splatter(types.uint64, COLUMNS)
_spread_word, _to_int = spreader(types.uint64, COLUMNS), converter(types.int32)
_load_terms, _splat_terms = loader(types.int32, COLUMNS), splatter(types.int32, COLUMNS)
_spread_term, _spread_codes = spreader(types.int32, COLUMNS), spreader(types.uint32, COLUMNS)
_load_bytes, _read_bytes = loader(types.uint32, COLUMNS), reader(types.uint8, 4 * COLUMNS)
_read_sums, _load_pairs, _splat_pairs = reader(types.int32, 16), loader(types.uint64, 8), splatter(types.uint64, 8)
_read_terms = reader(types.int32, COLUMNS)
_splat_sums = splatter(types.int32, 16)


@subroutine(inline="always")
def _tasks(rows, neurons, columns):
    """Tasks that a product is cut into: runs of rows of blocks of columns."""
    return (neurons + columns - 1) // columns * max(1, rows // _TASK_ROWS)


@subroutine(inline="always")
def _task(task, rows, neurons, columns):
    """Block and column at which a task begins, and its first row and the end of its rows."""
    blocks, runs = (neurons + columns - 1) // columns, max(1, rows // _TASK_ROWS)
    block, run = task % blocks, task // blocks
    return block, min(block * columns, neurons - columns), rows * run // runs, rows * (run + 1) // runs


@subroutine(inline="always")
def _next_five(i, last):
    return min(i + 1, last), min(i + 2, last), min(i + 3, last), min(i + 4, last), min(i + 5, last)


@subroutine
def _planes_task(task, planes, words, weights, orders, ternary, scale, row_terms, column_terms, product):
    block, column, first, stop = _task(task, product.shape[0], product.shape[1], COLUMNS)
    (rows, n), width = product.shape, words.shape[1]
    flat, out = words.reshape(-1), product.reshape(-1)
    scales, terms = _splat_terms(np.int32(scale)), _load_terms(column_terms, column)
    for i in range(first, stop, 2):
        k = min(i + 1, stop - 1)
        a = b = _no_bits(np.uint64(0))
        for order in range(planes + orders - 2, -1, -1):
            a, b = a + a, b + b
            for plane in range(max(0, order - orders + 1), min(planes, order + 1)):
                at, below = (plane * rows + i) * width, (plane * rows + k) * width
                if ternary:
                    start = block * width * 2 * COLUMNS
                    for word in range(width):
                        sign = _load_block(weights, start + 2 * word * COLUMNS)
                        used = _load_block(weights, start + (2 * word + 1) * COLUMNS)
                        a = a + popcount((_spread_word(flat, at + word) ^ sign) & used)
                        b = b + popcount((_spread_word(flat, below + word) ^ sign) & used)
                elif i == k:
                    start = (block * orders + order - plane) * width * COLUMNS
                    for word in range(width):
                        v = _load_block(weights, start + word * COLUMNS)
                        a = a + popcount(_spread_word(flat, at + word) & v)
                else:
                    start = (block * orders + order - plane) * width * COLUMNS
                    for word in range(width):
                        v = _load_block(weights, start + word * COLUMNS)
                        a = a + popcount(_spread_word(flat, at + word) & v)
                        b = b + popcount(_spread_word(flat, below + word) & v)
        store(out, i * n + column, scales * _to_int(a) + terms + _spread_term(row_terms, i))
        if i != k:
            store(out, k * n + column, scales * _to_int(b) + terms + _spread_term(row_terms, k))


@kernel
def planes_product(words, planes, weights, orders, ternary, scale, row_factor, column_terms, product):
    """The product of bit planes `words` [planes rows, width] by `orders` bit planes of weights, the lowest first.

    A popcount of an AND multiplies 64 pairs of bits (Courbariaux et al., 2016); planes are summed by Horner's rule.
    A `ternary` weight, a sign and whether it is used, takes one popcount: where it is used, the bits that differ.
    """
    rows, neurons = product.shape
    row_terms = _plane_terms(words, planes, row_factor)
    tasks = _tasks(rows, neurons, COLUMNS)
    shares = tasks if words.size * neurons * orders >= _SMALL else 1
    given = planes, words, weights, orders, ternary, scale, row_terms, column_terms, product
    share_out(_planes_part, shares, (tasks, shares, *given))


@subroutine
def _planes_part(
    begin, end, tasks, shares, planes, words, weights, orders, ternary, scale, row_terms, column_terms, product
):
    for task in range(tasks * begin // shares, tasks * end // shares):
        _planes_task(task, planes, words, weights, orders, ternary, scale, row_terms, column_terms, product)


BLOCK = 64
"""Columns of a block of weights that are looked up."""
_VECTORS = BLOCK // LOOKED_UP
_CHOOSERS = 12 // _VECTORS
"""Rows whose sums fit in registers."""
_COUNTS = np.bitwise_count(np.arange(16)[:, None] & np.arange(16)).astype(np.uint8).reshape(-1)
_add_counts = chosen_summer(_CHOOSERS, _VECTORS, side_by_side=False)
_add_counts_of_one = chosen_summer(1, _VECTORS, side_by_side=False)
_load_counts, _no_counts = loader(types.uint16, BLOCK), splatter(types.uint16, BLOCK)
_load_wide, _splat_wide, _spread_wide = (make(types.int32, BLOCK) for make in (loader, splatter, spreader))


@subroutine
def _look_up_task(task, planes, choices, weights, orders, scale, row_terms, column_terms, product):
    block, column, first, stop = _task(task, product.shape[0], product.shape[1], BLOCK)
    flat, out, (rows, n), steps = choices.reshape(-1), product.reshape(-1), product.shape, choices.shape[1]
    sums, scales, terms = (
        np.empty(_CHOOSERS * BLOCK, np.uint16),
        _splat_wide(np.int32(scale)),
        _load_wide(column_terms, column),
    )
    i = first
    while i < stop:
        some = _CHOOSERS if stop - i > 2 else 1
        for j in range(0, some * BLOCK, BLOCK):
            store(sums, j, _no_counts(np.uint16(0)))
        for order in range(planes + orders - 2, -1, -1):
            for j in range(0, some * BLOCK, BLOCK):
                store(sums, j, _load_counts(sums, j) + _load_counts(sums, j))
            for plane in range(max(0, order - orders + 1), min(planes, order + 1)):
                row, start = (plane * rows + i) * steps, (block * orders + order - plane) * steps * BLOCK
                for k in range(0, steps, 63):  # counts of 4 in a byte
                    deep, at, apart = min(63, steps - k), start + k * LOOKED_UP, steps * LOOKED_UP
                    if some == 1:
                        _add_counts_of_one(_COUNTS, flat, row + k, steps, weights, at, apart, deep, sums)
                    else:
                        _add_counts(_COUNTS, flat, row + k, steps, weights, at, apart, deep, sums)
        for k in range(i, min(i + some, stop)):
            found = scales * _to_int(_load_counts(sums, (k - i) * BLOCK))
            store(out, k * n + column, found + terms + _spread_wide(row_terms, k))
        i += some


@kernel
def look_up_product(words, planes, steps, weights, orders, scale, row_factor, column_terms, product):
    """`planes_product` for AVX2; a sum(u v) below 2^16; BLOCK or more columns.

    Four bits of the activations choose a table of 16 counts, four bits of a weight an entry: a byte shuffle looks up 32
    at a time (as in Mula, Kurz and Lemire, Faster Population Counts Using AVX2 Instructions, 2018).
    """
    row_terms, choices, tasks = (
        _plane_terms(words, planes, row_factor),
        _choices(words, steps),
        _tasks(product.shape[0], product.shape[1], BLOCK),
    )
    shares = tasks if choices.size * product.shape[1] * orders >= 8 * _SMALL else 1
    given = planes, choices, weights, orders, scale, row_terms, column_terms, product
    share_out(_look_up_part, shares, (tasks, shares, *given))


@subroutine
def _look_up_part(begin, end, tasks, shares, planes, choices, weights, orders, scale, row_terms, column_terms, product):
    for task in range(tasks * begin // shares, tasks * end // shares):
        _look_up_task(task, planes, choices, weights, orders, scale, row_terms, column_terms, product)


@subroutine
def _choices(words, steps):
    """Where in `_COUNTS` the table begins that each four bits of `words` choose. Memory goes on for some rows more."""
    more = np.zeros((words.shape[0] + _CHOOSERS, steps), np.uint8)
    choices = more[: words.shape[0]]
    unpack_codes(words, 4, np.uint8(0), steps, choices)
    flat = choices.reshape(-1)
    for i in range(flat.size):
        flat[i] <<= 4
    return choices


GROUP = 24
"""Columns that are multiplied before their sums are written, row by row."""
_ROWS = 128
"""Rows of a task, whose bits stay in the first cache while columns pass."""
DEPTH = 256
"""Steps of four inputs after which the next rows and columns follow, for the same reason; a step adds 255 or less."""
CHOSEN, ONE, TWO, THREE = 0, 1, 2, 3
"""How the sums of four weights are kept: in tables shared by all, or one for each four in so many digits."""
_STEPS_OF_ONE, _STEPS_OF_TWO, _STEPS_OF_THREE = 7, 7, 4
STEPS = {ONE: _STEPS_OF_ONE, TWO: _STEPS_OF_TWO, THREE: _STEPS_OF_THREE}
"""Steps whose digits, summed, fit in a byte."""
DIGIT_BITS = {ONE: 8, TWO: 5, THREE: 6}
FEW = 6
"""Columns whose chosen tables are used at a time."""

_add_chosen = chosen_summer(FEW, 2, side_by_side=True)
_gather_words, _read_row, _read_words = gatherer(types.uint64, 8), reader(types.uint8, 64), reader(types.uint64, 8)
_load_found, _load_sums = loader(types.uint16, LOOKED_UP), loader(types.int32, LOOKED_UP)
_splat_half = splatter(types.uint16, LOOKED_UP)
_splat_found = splatter(types.int32, LOOKED_UP)
_load_terms_16, _splat_terms_16, _spread_term_16 = (
    loader(types.int32, 16),
    splatter(types.int32, 16),
    spreader(types.int32, 16),
)


@subroutine
def _nibbles(words, planes, vectors, depth, lanes):
    """Four bits a byte of `words` [planes rows, width]: flat [planes, vectors, depth, lanes].

    Lanes are rows; what is in those beyond the last has no meaning.
    """
    rows, width = words.shape[0] // planes, words.shape[1]
    flat, last = words.reshape(-1), np.zeros(8 * width, np.uint64)
    out = np.zeros(planes * vectors * depth * lanes, np.uint8)
    for plane in range(planes):
        for i in range(0, rows, 8):
            source, at = flat, (plane * rows + i) * width
            if i + 8 > rows:
                for j in range((rows - i) * width):
                    last[j] = flat[at + j]
                source, at = last, 0
            to = (plane * vectors + i // lanes) * depth * lanes + i % lanes
            for word in range(width):
                eight = turned(_read_row(_gather_words(source, at + word, width)))
                scatter(out, to, 2 * lanes, _read_words(eight & _splat_64(np.uint8(15))))
                scatter(out, to + lanes, 2 * lanes, _read_words(eight >> _splat_64(np.uint8(4))))
                to += 16 * lanes
    return out


@subroutine
def _add_few(tables, choices, at, nibbles, first, vectors, apart, steps, between, flush, columns, sums, plane):
    """Add to `sums` [columns, _ROWS] what `steps` steps of `choices`, from `at` on, give for some vectors of rows.

    The loops are in here, as a call among kernels takes as long as some steps.
    """
    weight, zero, found = (
        _splat_found(np.int32(plane)),
        _splat_half(np.uint16(0)),
        np.empty(2 * FEW * LOOKED_UP, np.uint16),
    )
    for c in range(0, columns, FEW):
        for v in range(0, vectors, 2):
            for i in range(0, found.size, LOOKED_UP):
                store(found, i, zero)
            for k in range(0, steps, flush):
                some, here = min(flush, steps - k), first + v * apart + k * LOOKED_UP
                _add_chosen(tables, choices, at + c * between + k * FEW, 0, nibbles, here, apart, some, found)
            for i in range(0, 2 * FEW, 2):
                for j in range(2):
                    place = (c + i // 2) * _ROWS + (v + j) * LOOKED_UP
                    more = _to_int(_load_found(found, (i + j) * LOOKED_UP))
                    store(sums, place, _load_sums(sums, place) + (more << weight))


def _adder(kind, lines):
    """`_add_few` for columns with tables of their own, and 16 rows a vector."""
    each, size = STEPS[kind], kind * LOOKED_UP
    add, add_twice = (digits_summer(kind, DIGIT_BITS[kind], each, vectors, lines) for vectors in (1, 2))

    @subroutine
    def add_own(tables, at, nibbles, first, vectors, apart, steps, columns, sums, plane):
        blocks, share = steps // each, steps // each * 64 * lines
        for c in range(columns):
            here, ahead, to, start = at + c * steps * size, at + (c + 1) * steps * size, c * _ROWS, first
            for _ in range(vectors // 2):
                add_twice(tables, here, nibbles, start, apart, blocks, sums, to, plane, ahead)
                start, ahead, to = start + 2 * apart, ahead + share, to + 32
            if vectors % 2:
                add(tables, here, nibbles, start, apart, blocks, sums, to, plane, ahead)

    return add_own


_add_one, _add_two, _add_three = _adder(ONE, 1), _adder(TWO, 2), _adder(THREE, 2)


@subroutine
def _tables_task(task, form, nibbles, tables, choices, scale, row_terms, column_terms, product):
    planes, vectors, depth, lanes, kind, flush, most, steps = form
    (rows, n), runs = product.shape, (product.shape[0] + _ROWS - 1) // _ROWS
    column, first = task // runs * GROUP, task % runs * _ROWS
    columns, here, apart = min(GROUP, n - column), first // lanes, depth * lanes
    sums, some = np.zeros(GROUP * _ROWS, np.int32), min(_ROWS // lanes, vectors - here)
    for plane in range(planes):
        for k in range(0, steps, most):
            deep, at = min(most, steps - k), (column * steps + k * columns) * LOOKED_UP * kind
            first_bits = (plane * vectors + here) * apart + k * LOOKED_UP
            if kind == CHOSEN:
                at = column * steps + k * FEW
                _add_few(
                    tables, choices, at, nibbles, first_bits, some, apart, deep, steps, flush, columns, sums, plane
                )
            elif kind == ONE:
                _add_one(tables, at, nibbles, first_bits, some, apart, deep, columns, sums, plane)
            elif kind == TWO:
                _add_two(tables, at, nibbles, first_bits, some, apart, deep, columns, sums, plane)
            else:
                _add_three(tables, at, nibbles, first_bits, some, apart, deep, columns, sums, plane)
    scales = _splat_terms_16(np.int32(scale))
    for c in range(columns):
        for v in range(0, some * lanes, 16):
            place, terms = c * _ROWS + v, _spread_term_16(column_terms, column + c)
            store(sums, place, scales * _load_terms_16(sums, place) + terms + _load_terms_16(row_terms, first + v))
    _write_turned(sums, columns, product.reshape(-1), n, column, first, min(rows, first + _ROWS))


@subroutine
def _write_turned(sums, columns, out, n, column, first, stop):
    """Write `sums` [columns, _ROWS], rows for columns, to rows `first` to `stop` of flat `out` [rows, n]."""
    edge, last, end = np.empty(64, np.int32), max(first, stop - 8), max(0, columns - 8)
    for eight in range(first, stop, 8):
        i = min(eight, last)  # the last of more than 8 once more, with some of those before
        for some in range(0, columns, 8):
            c = min(some, end)
            if i + 8 <= stop and c + 8 <= columns:
                turn_rows(sums, c * _ROWS + i - first, _ROWS, out, i * n + column + c, n)
            else:
                turn_rows(sums, c * _ROWS + i - first, _ROWS, edge, 0, 8)
                for k in range(i, min(i + 8, stop)):
                    for j in range(c, min(c + 8, columns)):
                        out[k * n + column + j] = edge[(k - i) * 8 + j - c]


@kernel
def tables_product(words, planes, steps, kind, flush, most, tables, choices, scale, row_factor, column_terms, product):
    """The product of bit planes `words` by weights of which tables hold the sums that four bits can choose.

    Four bits of many rows choose sums of four weights at once, by a byte shuffle. If weights are few, four of them
    choose one of some tables shared by all, else each four have their own, with a byte for each digit (as T-MAC, Wei et
    al., 2024, has tables of activations).
    """
    rows, neurons = product.shape
    if kind == CHOSEN:
        lanes, vectors, depth = LOOKED_UP, (rows + 2 * LOOKED_UP - 1) // (2 * LOOKED_UP) * 2, steps
    else:
        lanes, vectors, depth = 16, (rows + 15) // 16, steps * TOGETHER
    depth = max(depth, 16 * words.shape[1])
    nibbles, form = (
        _nibbles(words, planes, vectors, depth, lanes),
        (planes, vectors, depth, lanes, kind, flush, most, steps),
    )
    some_terms, row_terms = _plane_terms(words, planes, row_factor), np.zeros(vectors * lanes, np.int32)
    for i in range(rows):
        row_terms[i] = some_terms[i]
    tasks = (neurons + GROUP - 1) // GROUP * ((rows + _ROWS - 1) // _ROWS)
    shares = tasks if nibbles.size * neurons >= 16 * _SMALL else 1
    given = form, nibbles, tables, choices, scale, row_terms, column_terms, product
    share_out(_tables_part, shares, (tasks, shares, *given))


@subroutine
def _tables_part(begin, end, tasks, shares, form, nibbles, tables, choices, scale, row_terms, column_terms, product):
    for task in range(tasks * begin // shares, tasks * end // shares):
        _tables_task(task, form, nibbles, tables, choices, scale, row_terms, column_terms, product)


@subroutine(inline="always")
def _write_six(out, n, column, i, last, a, b, c, d, e, f, scale, row_terms, column_terms):
    """Write the sums of six rows from `i` on, scaled and with their terms, to `column` of flat `out` [rows, n]."""
    i1, i2, i3, i4, i5 = _next_five(i, last)
    scales, terms = _splat_terms(np.int32(scale)), _load_terms(column_terms, column)
    store(out, i * n + column, scales * a + terms + _spread_term(row_terms, i))
    store(out, i1 * n + column, scales * b + terms + _spread_term(row_terms, i1))
    store(out, i2 * n + column, scales * c + terms + _spread_term(row_terms, i2))
    store(out, i3 * n + column, scales * d + terms + _spread_term(row_terms, i3))
    store(out, i4 * n + column, scales * e + terms + _spread_term(row_terms, i4))
    store(out, i5 * n + column, scales * f + terms + _spread_term(row_terms, i5))


@subroutine
def _bytes_task(task, codes, steps, weights, digits, scale, row_terms, column_terms, product):
    block, column, first, stop = _task(task, product.shape[0], product.shape[1], COLUMNS)
    flat, out, n, stride = codes.reshape(-1), product.reshape(-1), product.shape[1], codes.shape[1]
    for i in range(first, stop, 6):
        i1, i2, i3, i4, i5 = _next_five(i, stop - 1)
        a = b = c = d = e = f = _splat_terms(np.int32(0))
        for digit in range(digits - 1, -1, -1):
            base, start = _splat_terms(np.int32(256)), (block * digits + digit) * steps * COLUMNS
            a, b, c, d, e, f = a * base, b * base, c * base, d * base, e * base, f * base
            for k in range(steps):
                v = _load_bytes(weights, start + k * COLUMNS)
                a = dot4(a, _spread_codes(flat, i * stride + k), v)
                b = dot4(b, _spread_codes(flat, i1 * stride + k), v)
                c = dot4(c, _spread_codes(flat, i2 * stride + k), v)
                d = dot4(d, _spread_codes(flat, i3 * stride + k), v)
                e = dot4(e, _spread_codes(flat, i4 * stride + k), v)
                f = dot4(f, _spread_codes(flat, i5 * stride + k), v)
        _write_six(out, n, column, i, stop - 1, a, b, c, d, e, f, scale, row_terms, column_terms)


SUMS_OF_PAIRS = target().looks_up and "vpdpbusd" not in target().byte_products[0]
"""Whether bytes are multiplied in pairs whose sums take 16 bits, which leaves it to us when those are added up."""
SLACK = _AT_ONCE = 6
"""Rows whose sums fit in registers."""
_add_products = pairs_summer(_AT_ONCE, 2)


@subroutine
def _small_bytes_task(task, codes, steps, weights, digits, flush, scale, row_terms, column_terms, product):
    """`_bytes_task` where `flush` steps of products fit in 16 bits."""
    block, column, first, stop = _task(task, product.shape[0], product.shape[1], COLUMNS)
    flat, out, n, stride = codes.reshape(-1), product.reshape(-1), product.shape[1], codes.shape[1]
    sums, scales, terms = np.empty(_AT_ONCE * COLUMNS, np.int32), _splat_terms(scale), _load_terms(column_terms, column)
    base = _splat_terms(256)
    for i in range(first, stop, _AT_ONCE):
        for j in range(0, sums.size, COLUMNS):
            store(sums, j, _splat_terms(0))
        for digit in range(digits - 1, -1, -1):
            start = (block * digits + digit) * steps * COLUMNS
            for j in range(0, sums.size, COLUMNS):
                store(sums, j, _load_terms(sums, j) * base)
            for k in range(0, steps, flush):
                some, at = min(flush, steps - k), start + k * COLUMNS
                _add_products(flat, i * stride + k, stride, weights, at, some, sums)
        for row in range(i, min(i + _AT_ONCE, stop)):
            found = scales * _load_terms(sums, (row - i) * COLUMNS)
            store(out, row * n + column, found + terms + _spread_term(row_terms, row))


@subroutine(inline="always")
def _pairs(sums, flat, at, p, q):
    x = _read_bytes(_spread_codes(flat, at)) + p
    y = _read_bytes(_spread_codes(flat, at + 1)) + q
    return dot4_small(sums, _read_terms(x), _read_terms(y))


@subroutine
def _pairs_task(task, codes, steps, weights, scale, row_terms, column_terms, product):
    block, column, first, stop = _task(task, product.shape[0], product.shape[1], COLUMNS)
    flat, out, n, stride = codes.reshape(-1), product.reshape(-1), product.shape[1], codes.shape[1]
    for i in range(first, stop, 6):
        i1, i2, i3, i4, i5 = _next_five(i, stop - 1)
        a = b = c = d = e = f = _splat_terms(np.int32(0))
        for k in range(steps):
            at = (block * steps + k) * 2 * COLUMNS
            p, q = _read_bytes(_load_bytes(weights, at)), _read_bytes(_load_bytes(weights, at + COLUMNS))
            a = _pairs(a, flat, i * stride + 2 * k, p, q)
            b = _pairs(b, flat, i1 * stride + 2 * k, p, q)
            c = _pairs(c, flat, i2 * stride + 2 * k, p, q)
            d = _pairs(d, flat, i3 * stride + 2 * k, p, q)
            e = _pairs(e, flat, i4 * stride + 2 * k, p, q)
            f = _pairs(f, flat, i5 * stride + 2 * k, p, q)
        _write_six(out, n, column, i, stop - 1, a, b, c, d, e, f, scale, row_terms, column_terms)


@kernel
def bytes_product(codes, steps, weights, digits, flush, scale, row_factor, pair_factor, column_terms, product):
    """The product of `codes` [rows, stride], eight bytes in a uint64, by weights of `digits` signed bytes, 1 or 2.

    An instruction multiplies four pairs of bytes and sums them, in each lane; digits are summed by Horner's rule. If
    `flush` is not 0, the sums of products of pairs in so many steps fit in 16 bits, and memory goes on for SLACK rows.
    With 0 digits, weights are codes v too: (u1 + v2)(u2 + v1) = u1 v1 + u2 v2 + u1 u2 + v1 v2, where the last two go
    into the terms, takes half the multiplications (Winograd, A New Algorithm for Inner Product, 1968); u + v < 128.
    """
    (rows, neurons), row_terms = product.shape, _code_terms(codes, row_factor, pair_factor)
    fours = codes.view(np.uint32)
    tasks = _tasks(rows, neurons, COLUMNS)
    shares = tasks if codes.size * neurons >= _SMALL else 1
    given = fours, steps, weights, digits, flush, scale, row_terms, column_terms, product
    share_out(_codes_part, shares, (tasks, shares, *given))


@subroutine
def _codes_part(
    begin, end, tasks, shares, codes, steps, weights, digits, flush, scale, row_terms, column_terms, product
):
    for task in range(tasks * begin // shares, tasks * end // shares):
        _code_task(task, codes, steps, weights, digits, flush, scale, row_terms, column_terms, product)


@subroutine
def _code_task(task, codes, steps, weights, digits, flush, scale, row_terms, column_terms, product):
    if SUMS_OF_PAIRS and flush:
        _small_bytes_task(task, codes, steps, weights, digits, flush, scale, row_terms, column_terms, product)
    elif digits:
        _bytes_task(task, codes, steps, weights, digits, scale, row_terms, column_terms, product)
    else:
        _pairs_task(task, codes, steps, weights, scale, row_terms, column_terms, product)


@subroutine
def _plane_terms(words, planes, factor):
    """For each row of bit planes `words` [planes rows, width], `factor` times the sum of its codes."""
    rows, width = words.shape[0] // planes, words.shape[1]
    terms, flat, stop = np.zeros(rows, np.int32), words.reshape(-1), width - width % 8
    if factor != 0:
        for plane in range(planes):
            for i in range(rows):
                at, few, ones = (plane * rows + i) * width, _splat_few(np.uint64(0)), 0
                for j in range(0, stop, 8):
                    few = few + popcount(_load_few(flat, at + j))
                for j in range(stop, width):
                    ones += _ones_in(flat[at + j])
                terms[i] += np.int32((factor * (ones + np.int64(total(few)))) << plane)
    return terms


@subroutine
def _code_terms(codes, factor, pair_factor):
    """For each row, `factor` sum(u) + `pair_factor` sum(u1 u2): u1 and u2 are codes, four and four.

    `codes` [rows, stride] holds eight in a uint64; stride is a multiple of 8.
    """
    terms, flat, stride = np.zeros(codes.shape[0], np.int32), codes.reshape(-1), codes.shape[1]
    ones, half, none = _splat_sums(np.int32(0x01010101)), _splat_pairs(np.uint64(32)), _splat_sums(np.int32(0))
    if factor != 0 or pair_factor != 0:
        for i in range(codes.shape[0]):
            sums = pairs = none
            for j in range(i * stride, (i + 1) * stride, 8):
                v = _load_pairs(flat, j)
                sums, pairs = dot4(sums, _read_sums(v), ones), dot4(pairs, _read_sums(v), _read_sums(v >> half))
            terms[i] = np.int32(factor * np.int64(total(sums)) + pair_factor * np.int64(total(pairs)))
    return terms
