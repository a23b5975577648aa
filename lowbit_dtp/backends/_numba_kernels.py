"""Compiled loops over NumPy arrays: arrays in, arrays out. Each has a slow NumPy twin in its test.

Elementwise kernels over float32 are written once for a number of lanes, and used with `LANES` of them, then with one
for what is left. Blocks of work depend on shapes alone, so the bits of a result do not depend on the number of threads.
"""

import math

import numpy as np
from numba import types

from ._compiling import kernel, subroutine
from ._simd import (
    bits_of,
    converter,
    differs,
    fetch,
    fma,
    less,
    loader,
    lowest_bit,
    mask_of,
    prefetch,
    reader,
    select,
    splatter,
    spreader,
    sqrt,
    store,
    target,
    turn_rows,
)
from ._threads import share_out

LANES = 64
"""Numbers that a kernel takes at a time: four registers of AVX-512, eight of AVX2."""

_load = loader(types.float32, LANES)
_splat = splatter(types.float32, LANES)

# --- codes ------------------------------------------------------------------------------------------------------------


@kernel
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


@kernel
def encode_fixed(x, per_step, low, high, mask, codes):
    """Steps in flat `x`, half to even, within `low` and `high`, in two's complement. Returns whether NaN was met."""
    nan = 0
    for i in range(x.size):
        nan |= x[i] != x[i]
        codes[i] = np.int32(np.rint(min(max(x[i] * per_step, low), high))) & mask
    return nan != 0


@kernel
def encode_shared(x, word, top, bias, each, codes):
    """Codes of float32 `x` [rows, neurons], and the exponent of each row in the `each` codes after them.

    `top` is the largest level over 2^(word - 1). Returns whether NaN was met.
    """
    (rows, neurons), bits, met = x.shape, x.view(np.int32), False
    mask, held = (1 << word) - 1, np.empty(1, np.int32)
    high = np.float32((1 << (word - 1)) - 1)
    for i in range(rows):
        largest = np.int32(0)  # magnitudes compare as their bits do
        for j in range(neurons):
            largest = max(largest, bits[i, j] & np.int32(0x7FFFFFFF))
        met |= largest > 0x7F800000
        held[0] = largest
        fraction, exponent = math.frexp(held.view(np.float32)[0])
        exponent += 1 - word + (fraction > top)
        exponent = min(max(exponent, -bias), bias) if largest else -bias
        if largest == 0x7F800000:  # infinity
            exponent = bias
        per_step = np.float32(math.ldexp(1.0, -exponent))
        for j in range(neurons):
            steps = np.rint(min(max(x[i, j] * per_step, -high), high))
            codes[i, j] = np.int32(steps) & np.int32(mask)
        for k in range(each):
            codes[i, neurons + k] = (exponent + bias) >> (k * word) & mask
    return met


@kernel
def decode_shared(codes, word, bias, each, numbers):
    """The float32 `numbers` [rows, neurons] of which `encode_shared` gave the codes."""
    (rows, neurons), half = numbers.shape, np.int32(1 << (word - 1))
    for i in range(rows):
        exponent = 0
        for k in range(each):
            exponent |= np.int64(codes[i, neurons + k]) << (k * word)
        step = np.float32(math.ldexp(1.0, exponent - bias))
        for j in range(neurons):
            numbers[i, j] = np.float32((np.int32(codes[i, j]) ^ half) - half) * step


@kernel
def decode_table(codes, values, numbers):
    """`values` at each of flat `codes`."""
    for i in range(codes.size):
        numbers[i] = values[codes[i]]


@kernel
def decode_unsigned(codes, step, numbers):
    """`step` times each of flat `codes`."""
    for i in range(codes.size):
        numbers[i] = codes[i] * step


@kernel
def holds_nan(x):
    """Whether flat `x` holds a NaN."""
    nan = 0
    for i in range(x.size):
        nan |= x[i] != x[i]
    return nan != 0


@kernel
def gather_differing(a, b, rows, both):
    """Copy each row of words in `a` that is another in `b`, and that, to `both`, one after the other.

    Their numbers go to `rows`. Returns how many rows are written to `both`.
    """
    count = 0
    for i in range(a.shape[0]):
        difference = np.uint64(0)
        for w in range(a.shape[1]):
            both[2 * count, w], both[2 * count + 1, w] = a[i, w], b[i, w]
            difference |= a[i, w] ^ b[i, w]
        rows[count] = i
        count += difference != 0
    return 2 * count


@kernel
def scatter_differences(x, rows, differences):
    """Write row 2 i + 1 less row 2 i of `x` to row `rows[i]` of `differences`, which are zero elsewhere."""
    differences[:] = 0
    for i in range(x.shape[0] // 2):
        before, after, difference = x[2 * i], x[2 * i + 1], differences[rows[i]]
        for j in range(x.shape[1]):
            difference[j] = after[j] - before[j]


# --- centred RMSprop with momentum, for what follows ------------------------------------------------------------------


def _rmsprop(lanes):
    load, splat = loader(types.float32, lanes), splatter(types.float32, lanes)

    @subroutine(error_model="numpy")
    def run(p, a, s, v, g, place, rate, decay, momentum, epsilon, start, stop):
        fresh = splat(np.float32(1) - decay)
        for i in range(start, stop, lanes):
            gradient, at = load(g, i), place + i
            mean = fma(splat(decay), load(a, at), fresh * gradient)
            square = fma(splat(decay), load(s, at), fresh * gradient * gradient)
            scaled = splat(rate) * gradient / sqrt(square - mean * mean + splat(epsilon))
            velocity = splat(momentum) * load(v, at) - scaled
            store(a, at, mean)
            store(s, at, square)
            store(v, at, velocity)
            store(p, at, load(p, at) + velocity)

    return run


_rmsprop_lanes, _rmsprop_one = _rmsprop(LANES), _rmsprop(1)


@subroutine
def _update(p, a, s, v, g, place, size, numbers):
    """RMSprop of `size` numbers from `place` on of a parameter, its mean, square and velocity, by a gradient from 0 on.

    `numbers` are rate, decay, momentum and epsilon. Vectors begin where `p` is aligned, not to straddle two cache
    lines: large arrays mostly lie alike.
    """
    rate, decay, momentum, epsilon = numbers
    skip = min((-(p.ctypes.data // 4 + place)) % 16, size)
    middle = size - (size - skip) % LANES
    _rmsprop_one(p, a, s, v, g, place, rate, decay, momentum, epsilon, np.intp(0), skip)
    _rmsprop_lanes(p, a, s, v, g, place, rate, decay, momentum, epsilon, skip, middle)
    _rmsprop_one(p, a, s, v, g, place, rate, decay, momentum, epsilon, middle, size)


# --- activations, for what follows ------------------------------------------------------------------------------------

TANH, SIGMOID, RELU, IDENTITY = range(4)
"""Activations, for kernels."""


def _rational_tanh(lanes):
    """tanh as a quotient of polynomials of degree 13 and 6, to a few units in the last place (as Eigen has it)."""
    splat = splatter(types.float32, lanes)
    limit = np.float32(7.90531110763549805)

    @subroutine(error_model="numpy")
    def run(v):
        v = select(less(v, splat(-limit)), splat(-limit), v)  # a NaN is not less, and stays
        v = select(less(splat(limit), v), splat(limit), v)
        s = v * v
        p = splat(np.float32(-2.76076847742355e-16))
        p = fma(p, s, splat(np.float32(2.00018790482477e-13)))
        p = fma(p, s, splat(np.float32(-8.60467152213735e-11)))
        p = fma(p, s, splat(np.float32(5.12229709037114e-08)))
        p = fma(p, s, splat(np.float32(1.48572235717979e-05)))
        p = fma(p, s, splat(np.float32(6.37261928875436e-04)))
        p = fma(p, s, splat(np.float32(4.89352455891786e-03)))
        q = splat(np.float32(1.19825839466702e-06))
        q = fma(q, s, splat(np.float32(1.18534705686654e-04)))
        q = fma(q, s, splat(np.float32(2.26843463243900e-03)))
        q = fma(q, s, splat(np.float32(4.89352518554385e-03)))
        return v * p / q

    return run


_tanh_of = _rational_tanh(LANES)


@subroutine
def _activated(activation, x):
    """An activation of a vector."""
    if activation == TANH:
        return _tanh_of(x)
    if activation == SIGMOID:
        half = _splat(np.float32(0.5))
        return fma(half, _tanh_of(half * x), half)
    if activation == RELU:
        return select(less(x, _splat(np.float32(0))), _splat(np.float32(0)), x)  # a NaN stays
    return x


@subroutine
def _activate(activation, x, place, size):
    """Apply an activation in place to `size` numbers of flat `x` from `place` on, rounded up to `LANES`."""
    if activation != IDENTITY:
        for i in range(place, place + size, LANES):
            store(x, i, _activated(activation, _load(x, i)))


# --- products ---------------------------------------------------------------------------------------------------------


def _tiles(lanes):
    """Rows of a product with `lanes` columns, six at a time so that their sums stay in registers (Goto, 2008)."""
    load, spread = loader(types.float32, lanes), spreader(types.float32, lanes)

    @subroutine
    def run(a, start, step, panel, place, depth, rows, x, x_place, x_row, y, y_place, y_row):
        for m in range(0, rows, 6):
            m1, m2, m3 = min(m + 1, rows - 1), min(m + 2, rows - 1), min(m + 3, rows - 1)
            m4, m5 = min(m + 4, rows - 1), min(m + 5, rows - 1)
            a0, a1, a2 = start + m * step, start + m1 * step, start + m2 * step
            a3, a4, a5 = start + m3 * step, start + m4 * step, start + m5 * step
            s0, s1 = load(x, x_place + m * x_row), load(x, x_place + m1 * x_row)
            s2, s3 = load(x, x_place + m2 * x_row), load(x, x_place + m3 * x_row)
            s4, s5 = load(x, x_place + m4 * x_row), load(x, x_place + m5 * x_row)
            for k in range(depth):
                b = load(panel, place + k * lanes)
                s0 = fma(spread(a, a0 + k), b, s0)
                s1 = fma(spread(a, a1 + k), b, s1)
                s2 = fma(spread(a, a2 + k), b, s2)
                s3 = fma(spread(a, a3 + k), b, s3)
                s4 = fma(spread(a, a4 + k), b, s4)
                s5 = fma(spread(a, a5 + k), b, s5)
            store(y, y_place + m * y_row, s0)
            store(y, y_place + m1 * y_row, s1)
            store(y, y_place + m2 * y_row, s2)
            store(y, y_place + m3 * y_row, s3)
            store(y, y_place + m4 * y_row, s4)
            store(y, y_place + m5 * y_row, s5)

    return run


NARROW = 16
"""Columns up to which a product is a narrow one."""
_load_narrow = loader(types.float32, NARROW)
_WIDE = LANES if target().register_bits == 512 else NARROW
"""Columns of which six rows of sums fit the registers."""
_DEPTH = 400
"""Rows of `b` that are multiplied before the next; an odd number of cache lines, for rows to lie in all of its sets."""
_HEIGHT = 252
"""Rows of `a` in a task, at most."""
_COLUMNS = 128
"""Columns of a task; more if there are many tasks, or if they are not deep."""
_wide_tiles = _tiles(_WIDE)
_narrow_tiles = _wide_tiles if _WIDE == NARROW else _tiles(NARROW)


@kernel
def matmul(a, a_row_step, a_step, b, b_step, b_column_step, bias, activation, product):
    """`product` [m, n] = `activation` of [m, k] times [k, n], plus `bias` [n]: what is in flat `a` and `b`.

    Rows and columns of each are so many steps apart, one of them one, and k is what `a` has for m.
    """
    (rows, columns), depth = product.shape, a.size // max(product.shape[0], 1)
    # not literals, for which a part of a kernel is compiled again
    height, deep = _even(rows, np.intp(_HEIGHT), np.intp(6)), _even(depth, np.intp(_DEPTH), np.intp(1))
    heights, wide = (rows + height - 1) // height, _COLUMNS
    if heights >= 4:
        wide *= max(1, min(_DEPTH // deep, 4))
    tasks = heights * ((columns + wide - 1) // wide)
    factors = a, a_row_step, a_step, depth, b, b_step, b_column_step
    share_out(_multiply, tasks, (*factors, height, wide, deep, bias, activation, product))


@subroutine
def _even(size, most, unit):
    """The largest of equal parts, each a multiple of `unit` and none above `most`, or `unit` more, that make `size`."""
    parts = max((size + most - 1) // most, 1)
    return max((size + parts * unit - 1) // (parts * unit) * unit, unit)


@subroutine
def _multiply(
    begin, end, a, a_row_step, a_step, depth, b, b_step, b_column_step, height, wide, most, bias, activation, product
):
    """Blocks of a product: what is needed of `b` is copied to where it is together, and multiplied while in cache."""
    rows, columns = product.shape
    flat, widths = product.reshape(-1), (columns + wide - 1) // wide
    block, panels, sums = _aligned(height * _DEPTH), _aligned(_DEPTH * wide), _aligned(height * wide + LANES)
    for task in range(begin, end):
        top, left = task // widths * height, task % widths * wide
        count, width = min(height, rows - top), min(wide, columns - left)
        for k in range(0, max(depth, 1), most):
            deep, first, last = min(most, depth - k), k == 0, k + most >= depth
            _copy_panels(b, k * b_step + left * b_column_step, b_step, b_column_step, panels, deep, width)
            factor, start, step = a, top * a_row_step + k, a_row_step
            if a_step != 1:
                _copy_turned(a, top + k * a_step, a_step, block, np.intp(_DEPTH), count, deep)
                factor, start, step = block, 0, _DEPTH
            column = 0
            while column < width:
                lanes = _lanes_at(column, width)
                place, out = column * height, top * columns + left + column
                whole, x, x_place, x_row = column + lanes <= width, sums, place, lanes
                at_once = whole and activation == IDENTITY
                if first and whole:
                    x, x_place, x_row = bias, left + column, 0
                elif first:
                    _copy_rows(bias, left + column, np.intp(0), sums, place, lanes, count, width - column)
                y, y_place, y_row = (flat, out, columns) if last and at_once else (sums, place, lanes)
                at = column * _DEPTH
                if lanes == _WIDE:
                    _wide_tiles(factor, start, step, panels, at, deep, count, x, x_place, x_row, y, y_place, y_row)
                else:
                    _narrow_tiles(factor, start, step, panels, at, deep, count, x, x_place, x_row, y, y_place, y_row)
                if last and not at_once:
                    _activate(activation, sums, place, count * lanes)
                    _copy_rows(sums, place, lanes, flat, out, columns, count, min(lanes, width - column))
                column += lanes


@subroutine
def _lanes_at(column, width):
    """Columns of the panel at `column`."""
    return _WIDE if column + _WIDE <= width else NARROW


@subroutine
def _copy_panels(b, start, step, column_step, panels, rows, width):
    """Write `rows` rows of so many columns of flat `b` as panels."""
    whole = width - width % NARROW
    if column_step == 1:
        for i in range(rows):
            for column in range(0, whole, NARROW):
                panel = column - column % _WIDE if column - column % _WIDE + _WIDE <= width else column
                lanes = _lanes_at(panel, width)
                store(panels, panel * _DEPTH + i * lanes + column - panel, _load_narrow(b, start + i * step + column))
            for column in range(whole, width):
                panels[whole * _DEPTH + i * NARROW + column - whole] = fetch(b, start + i * step + column)
    else:
        column = 0
        while column < width:
            lanes = _lanes_at(column, width)
            count = min(lanes, width - column)
            _copy_turned(b, start + column * column_step, column_step, panels[column * _DEPTH :], lanes, rows, count)
            column += lanes


@subroutine
def _copy_turned(x, start, step, y, row, rows, width):
    """Write `width` columns of `rows` numbers, `step` apart in flat `x`, to flat `y` as rows, `row` apart."""
    wide, high = width - width % 8, rows - rows % 8
    for first in range(0, high, 16):  # a cache line of each column
        for j in range(0, wide, 8):
            for i in range(first, min(first + 16, high), 8):
                turn_rows(x, start + j * step + i, step, y, i * row + j, row)
    for i in range(rows):
        for j in range(wide if i < high else 0, width):
            y[i * row + j] = fetch(x, start + j * step + i)


@subroutine
def _copy_rows(x, start, step, y, place, row, rows, width):
    """Write `rows` rows of `width` numbers, `step` apart in flat `x`, to flat `y`, `row` apart."""
    whole = width - width % NARROW
    for m in range(rows):
        for j in range(0, whole, NARROW):
            store(y, place + m * row + j, _load_narrow(x, start + m * step + j))
        for j in range(whole, width):
            y[place + m * row + j] = fetch(x, start + m * step + j)


@kernel
def direct_matmul(a, b, bias, activation, product):
    """`product` [m, n] = `activation` of `a` [m, k] times `b` [k, n], plus `bias` [n]; n >= LANES.

    For few rows, or few columns of `a`: no panel of `b` is copied.
    """
    share_out(_direct_matmul, (product.shape[1] + LANES - 1) // LANES, (a, b, bias, activation, product))


@subroutine
def _direct_matmul(begin, end, a, b, bias, activation, product):
    (rows, n), flat, out = product.shape, b.reshape(-1), product.reshape(-1)
    for panel in range(begin, end):
        column = min(panel * LANES, n - LANES)
        for i in range(rows):
            row = _load(bias, column)
            for k in range(b.shape[0]):
                row = fma(_splat(a[i, k]), _load(flat, k * n + column), row)
            store(out, i * n + column, _activated(activation, row))


@subroutine
def _aligned(size):
    """Fresh float32 at an address that is a multiple of 64, so that no vector straddles two cache lines."""
    room = np.empty(size + 16, np.float32)
    skip = (-room.ctypes.data // 4) % 16
    return room[skip : skip + size]


_GROUPS = 8
"""Nibbles in 32 bits; as many tables of 16 sums of `LANES` columns fill the first cache."""
_ROWS = 256
"""Rows for which one set of tables is made; their sums stay in the second cache."""
_PART = target().register_bits // 32
"""Columns of which eight sums stay in registers."""
_load_part, _splat_part = loader(types.float32, _PART), splatter(types.float32, _PART)


@kernel
def row_tables(words, row_step, block_step, low, high, weight, bias, activation, product):
    """`product` [rows, n] = `activation` of two-valued [rows, k] times `weight` [k, n], plus `bias` [n]; n >= LANES.

    The method of the Four Russians (Arlazarov et al., 1970): the 16 possible sums of each four rows of `weight` are
    made once, and four bits of a row choose one. Bits 32 q to 32 q + 31 of row m are in
    `words[m * row_step + q * block_step]`, and stand for `low` or `high`. The last columns overlap their neighbours,
    rather than being a special case.
    """
    rows, n = product.shape
    tasks = (n + LANES - 1) // LANES * ((rows + _ROWS - 1) // _ROWS)
    share_out(_row_tables, tasks, (words, row_step, block_step, low, high, weight, bias, activation, product))


@subroutine
def _row_tables(begin, end, words, row_step, block_step, low, high, weight, bias, activation, product):
    rows, n = product.shape
    w, out, panels = weight.reshape(-1), product.reshape(-1), (n + LANES - 1) // LANES
    table, sums = _aligned(_GROUPS * 16 * LANES), _aligned(_ROWS * LANES)
    for task in range(begin, end):
        column, first = min(task % panels * LANES, n - LANES), task // panels * _ROWS
        count = min(_ROWS, rows - first)
        _add_up(words, first * row_step, row_step, block_step, low, high, w, n, column, bias, table, sums, count)
        _activate(activation, sums, 0, count * LANES)
        for m in range(count):
            store(out, (first + m) * n + column, _load(sums, m * LANES))


@kernel
def row_tables_rmsprop(
    words, row_step, block_step, low, high, error, parameter, mean, square, velocity, rate, decay, momentum, epsilon
):
    """`rmsprop` by the gradient of `row_tables` for an `error` [k, n], some rows at a time, while in cache."""
    factors = words, row_step, block_step, low, high, error
    numbers = rate, decay, momentum, epsilon
    share_out(_row_tables_rmsprop, _updates(len(parameter)), (factors, parameter, mean, square, velocity, numbers))


@subroutine
def _row_tables_rmsprop(begin, end, factors, parameter, mean, square, velocity, numbers):
    words, row_step, block_step, low, high, error = factors
    (rows, n), tasks = parameter.shape, _updates(len(parameter))
    w, none, p = error.reshape(-1), np.zeros(n, np.float32), parameter.reshape(-1)
    a, s, v = mean.reshape(-1), square.reshape(-1), velocity.reshape(-1)
    table, sums, g = _aligned(_GROUPS * 16 * LANES), _aligned(_UPDATED * LANES), _aligned(_UPDATED * n)
    for task in range(begin, end):
        first, last = rows * task // tasks, rows * (task + 1) // tasks
        count, start = last - first, first * row_step
        for panel in range((n + LANES - 1) // LANES):
            column = min(panel * LANES, n - LANES)
            _add_up(words, start, row_step, block_step, low, high, w, n, column, none, table, sums, count)
            for m in range(count):
                store(g, m * n + column, _load(sums, m * LANES))
        _update(p, a, s, v, g, first * n, count * n, numbers)


_UPDATED = 256
"""Rows of a parameter, at most, that are updated as soon as their gradient is known."""


@subroutine
def _updates(rows):
    """Into how many runs of rows an update is cut: one, or an even number, for two threads to have as much to do."""
    return 1 if rows <= _UPDATED else (rows + 2 * _UPDATED - 1) // (2 * _UPDATED) * 2


@subroutine
def _add_up(words, start, row_step, block_step, low, high, w, n, column, bias, table, sums, rows):
    """Sums [rows, LANES] of what the words from `start` on choose of the panel of flat `w` [k, n] at `column`."""
    k = w.size // n
    for m in range(rows):
        store(sums, m * LANES, _load(bias, column))
    for q in range((k + 31) // 32):
        groups, at = min(_GROUPS, (k - 32 * q + 3) // 4), start + q * block_step
        for u in range(groups):
            _subset_sums(w, 32 * q + 4 * u, k, n, column, low, high, table, u * 16 * LANES)
        for i in range(32 * q + 32, min(32 * q + 64, k)):
            _prefetch_row(w, i * n + column, LANES)
        for m in range(rows):
            word, row = fetch(words, at + m * row_step), _load(sums, m * LANES)
            if groups == _GROUPS:  # a constant, which unrolls the loop
                for u in range(_GROUPS):
                    row = row + _load(table, (u * 16 + np.intp(word >> np.uint32(4 * u) & np.uint32(15))) * LANES)
            else:
                for u in range(groups):
                    row = row + _load(table, (u * 16 + np.intp(word >> np.uint32(4 * u) & np.uint32(15))) * LANES)
            store(sums, m * LANES, row)


@subroutine
def _subset_sums(w, row, k, n, column, low, high, table, place):
    """Write the 16 sums of `low` or `high` times each of 4 rows of `w` from `row`; rows from `k` on count as zero.

    A few columns at a time, whose sums stay in registers.
    """
    lowest, step, left = _splat_part(low), _splat_part(high - low), k - row
    for part in range(0, LANES, _PART):
        at, to = row * n + column + part, place + part
        a = _load_part(w, at)
        b = c = d = _splat_part(np.float32(0))
        if left > 1:
            b = _load_part(w, at + n)
        if left > 2:
            c = _load_part(w, at + 2 * n)
        if left > 3:
            d = _load_part(w, at + 3 * n)
        s0 = lowest * (a + b + c + d)
        a, b, c, d = step * a, step * b, step * c, step * d
        s1 = s0 + a
        s2, s3 = s0 + b, s1 + b
        s4, s5, s6, s7 = s0 + c, s1 + c, s2 + c, s3 + c
        store(table, to, s0)
        store(table, to + LANES, s1)
        store(table, to + 2 * LANES, s2)
        store(table, to + 3 * LANES, s3)
        store(table, to + 4 * LANES, s4)
        store(table, to + 5 * LANES, s5)
        store(table, to + 6 * LANES, s6)
        store(table, to + 7 * LANES, s7)
        store(table, to + 8 * LANES, s0 + d)
        store(table, to + 9 * LANES, s1 + d)
        store(table, to + 10 * LANES, s2 + d)
        store(table, to + 11 * LANES, s3 + d)
        store(table, to + 12 * LANES, s4 + d)
        store(table, to + 13 * LANES, s5 + d)
        store(table, to + 14 * LANES, s6 + d)
        store(table, to + 15 * LANES, s7 + d)


_splat_bits = splatter(types.uint32, 64)


@kernel
def transpose_bits(words, columns):
    """Bit i of flat uint32 `columns[q * width + c]` = bit c of row 32 q + i of `words` [rows, width / 64]."""
    rows, width = words.shape[0], 64 * words.shape[1]
    for q in range((rows + 31) // 32):
        for w in range(words.shape[1]):
            gathered = _splat_bits(np.uint32(0))
            for i in range(min(32, rows - 32 * q)):
                bit = _splat_bits(np.uint32(1) << np.uint32(i))
                gathered = gathered | select(mask_of(words[32 * q + i, w]), bit, _splat_bits(np.uint32(0)))
            store(columns, q * width + 64 * w, gathered)


# Sparse products. Nonzeros are kept by pairs of neighbouring columns, since neighbours in an image are mostly bright
# together: what a pair of numbers is multiplied with, or added to, is read and written once for both.

_SAMPLES = 128
"""Samples whose nonzeros are together: a panel of their sums stays in the first cache."""
_FIRST_OF_PAIRS = np.uint64(0x5555555555555555)
_STRIP = LANES if target().register_bits == 512 else LANES // 2
"""Columns of which two rows and a sum fit the registers."""
_load_strip, _splat_strip, _spread_strip = (make(types.float32, _STRIP) for make in (loader, splatter, spreader))


def _finder(number):
    """A pass over rows of `number` that writes the nonzeros of `unit` times them as compressed pairs of columns."""
    load, splat = loader(number, LANES), splatter(number, LANES)

    @subroutine
    def find(x, zero, unit, ends, samples, numbers):
        (rows, n), flat = x.shape, x.reshape(-1)
        whole, pairs = n - n % LANES, (n + 1) // 2
        place = np.empty(pairs, np.int64)
        ends[0] = 0
        for block in range((rows + _SAMPLES - 1) // _SAMPLES):
            first, last = block * _SAMPLES, min((block + 1) * _SAMPLES, rows)
            counts = np.zeros(pairs, np.uint8)  # no more than `_SAMPLES`
            for i in range(first, last):
                for pair in range(n // 2):
                    counts[pair] += np.uint8((x[i, 2 * pair] != zero) | (x[i, 2 * pair + 1] != zero))
                if n % 2:
                    counts[pairs - 1] += np.uint8(x[i, n - 1] != zero)
            for pair in range(pairs):
                place[pair] = ends[block * pairs + pair]
                ends[block * pairs + pair + 1] = place[pair] + counts[pair]
            if ends[(block + 1) * pairs] > samples.size:
                return False
            for i in range(first, last):
                for j in range(0, whole, LANES):
                    found = bits_of(differs(load(flat, i * n + j), splat(zero)))
                    found = (found | found >> np.uint64(1)) & _FIRST_OF_PAIRS
                    while found:
                        column = np.uintp(j + lowest_bit(found))
                        to = np.uintp(place[column // np.uintp(2)])
                        place[column // np.uintp(2)] += 1
                        samples[to] = i
                        numbers[2 * to] = unit * x[i, column]
                        numbers[2 * to + np.uintp(1)] = unit * x[i, column + np.uintp(1)]
                        found &= found - np.uint64(1)
                for column in range(whole, n, 2):
                    here, there = x[i, column], x[i, column + 1] if column + 1 < n else zero
                    if here != zero or there != zero:
                        to = place[column // 2]
                        place[column // 2] += 1
                        samples[to], numbers[2 * to], numbers[2 * to + 1] = i, unit * here, unit * there
        return True

    return find


_find_floats, _find_codes = _finder(types.float32), _finder(types.uint8)


@kernel
def find_nonzeros(x, ends, samples, numbers):
    """The nonzeros of `x` [rows, n] as compressed pairs of columns, of each `_SAMPLES` rows. Returns whether they fit.

    Samples that have something in columns 2 p and 2 p + 1 are at `ends[b * pairs + p]` to `ends[b * pairs + p + 1]`,
    for block b of rows, and both numbers of each at twice its place.
    """
    return _find_floats(x, np.float32(0), np.float32(1), ends, samples, numbers)


@kernel
def find_nonzero_codes(codes, step, ends, samples, numbers):
    """The same of `step` times uint8 `codes`."""
    return _find_codes(codes, np.uint8(0), step, ends, samples, numbers)


def lists_of(rows, columns):
    """In how many lists the nonzeros of so many rows and columns are."""
    return -(-rows // _SAMPLES) * -(-columns // 2)


@kernel
def sparse_matmul(ends, samples, numbers, b, bias, activation, product):
    """`product` [m, n] = `activation` of sparse [m, k] times `b` [k, n], plus `bias` [n]; n >= LANES.

    Two rows of `b` at a time, which are read once and ahead, and added to the sums of the samples that have them.
    """
    rows, n = product.shape
    tasks = (n + _STRIP - 1) // _STRIP * ((rows + _SAMPLES - 1) // _SAMPLES)
    share_out(_sparse_matmul, tasks, (ends, samples, numbers, b, bias, activation, product))


@subroutine
def _sparse_matmul(begin, end, ends, samples, numbers, b, bias, activation, product):
    (rows, n), flat, out = product.shape, b.reshape(-1), product.reshape(-1)
    k, panels, pairs = b.shape[0], (n + _STRIP - 1) // _STRIP, (b.shape[0] + 1) // 2
    sums = _aligned(_SAMPLES * _STRIP)
    for task in range(begin, end):
        column, block = min(task % panels * _STRIP, n - _STRIP), task // panels
        first = block * _SAMPLES
        count = min(_SAMPLES, rows - first)
        for i in range(count):
            store(sums, i * _STRIP, _load_strip(bias, column))
        for pair in range(pairs):
            here, there = 2 * pair * n + column, min(2 * pair + 1, k - 1) * n + column
            _prefetch_row(flat, here + _AHEAD * n, _STRIP)
            _prefetch_row(flat, there + _AHEAD * n, _STRIP)
            start, stop = fetch(ends, block * pairs + pair), fetch(ends, block * pairs + pair + 1)
            if start < stop:
                row, other = _load_strip(flat, here), _load_strip(flat, there)
                for at in range(start, stop):
                    to = (np.intp(fetch(samples, at)) - first) * _STRIP
                    total = fma(_spread_strip(numbers, 2 * at), row, _load_strip(sums, to))
                    store(sums, to, fma(_spread_strip(numbers, 2 * at + 1), other, total))
        _activate(activation, sums, 0, count * _STRIP)
        for i in range(count):
            store(out, (first + i) * n + column, _load_strip(sums, i * _STRIP))


_AHEAD = 8
"""Rows of a matrix after which one that is read now is needed."""


@subroutine
def _prefetch_row(x, start, size):
    """Have `size` float32 from `start` on read, for later."""
    for i in range(0, size, 16):
        prefetch(x, start + i)
    prefetch(x, start + size - 1)


@kernel
def sparse_gradient(ends, samples, numbers, slots, kept, error, gradient):
    """`gradient` [m, n] = sparse [k, m] transposed times an `error` [k, n]; n >= LANES.

    `slots` number the `kept` rows of `error` that are not all zero, as `number_rows` does.
    """
    share_out(_sparse_gradient, _updates(len(gradient)), (ends, samples, numbers, slots, kept, error, gradient))


@subroutine
def _sparse_gradient(begin, end, ends, samples, numbers, slots, kept, error, gradient):
    rows, n = gradient.shape
    out, pairs, tasks = gradient.reshape(-1), (rows + 1) // 2, _updates(rows)
    for task in range(begin, end):
        first, last = pairs * task // tasks, pairs * (task + 1) // tasks
        count = min(2 * last, rows) - 2 * first
        _add_kept(ends, samples, numbers, slots, kept, error, pairs, first, count, out, 2 * first * n)


@kernel
def sparse_rmsprop(
    ends, samples, numbers, slots, kept, error, parameter, mean, square, velocity, rate, decay, momentum, epsilon
):
    """`rmsprop` by the gradient that `sparse_gradient` makes, some rows at a time, while in cache."""
    factors, constants = (ends, samples, numbers, slots, kept, error), (rate, decay, momentum, epsilon)
    share_out(_sparse_rmsprop, _updates(len(parameter)), (factors, parameter, mean, square, velocity, constants))


@subroutine
def _sparse_rmsprop(begin, end, factors, parameter, mean, square, velocity, constants):
    ends, samples, numbers, slots, kept, error = factors
    rows, n = parameter.shape
    p, a, s, v = parameter.reshape(-1), mean.reshape(-1), square.reshape(-1), velocity.reshape(-1)
    pairs, tasks, g = (rows + 1) // 2, _updates(rows), _aligned(_UPDATED * n)
    for task in range(begin, end):
        first, last = pairs * task // tasks, pairs * (task + 1) // tasks
        count = min(2 * last, rows) - 2 * first
        _add_kept(ends, samples, numbers, slots, kept, error, pairs, first, count, g, 0)
        _update(p, a, s, v, g, 2 * first * n, count * n, constants)


@subroutine
def _add_kept(ends, samples, numbers, slots, kept, error, pairs, first, count, gradient, place):
    """`count` rows of a sparse gradient, from the `first` of `pairs` of them on, to flat `gradient` from `place` on.

    Nonzeros of samples without an error are dropped first; errors of the others are copied to where they are aligned,
    a panel at a time. Sums stay in registers.
    """
    n, blocks, here, size = error.shape[1], (error.shape[0] + _SAMPLES - 1) // _SAMPLES, (count + 1) // 2, 0
    for block in range(blocks):
        size += ends[block * pairs + first + here] - ends[block * pairs + first]
    theirs, values = np.empty(size, np.int32), np.empty(2 * size, np.float32)
    bounds, to = np.zeros(here + 1, np.int64), np.uintp(0)
    for pair in range(here):
        for block in range(blocks):
            begin = block * pairs + first + pair
            for at in range(fetch(ends, begin), fetch(ends, begin + 1)):
                slot = fetch(slots, np.intp(fetch(samples, at)))
                theirs[to], values[2 * to] = slot, fetch(numbers, 2 * at)
                values[2 * to + np.uintp(1)] = fetch(numbers, 2 * at + 1)
                to += np.uintp(slot >= 0)
        bounds[pair + 1] = to
    panel, flat = _aligned(kept * _STRIP), error.reshape(-1)
    for part in range((n + _STRIP - 1) // _STRIP):
        column = min(part * _STRIP, n - _STRIP)
        for i in range(slots.size):
            if slots[i] >= 0:
                store(panel, np.intp(slots[i]) * _STRIP, _load_strip(flat, i * n + column))
        for pair in range(here):
            row = other = _splat_strip(np.float32(0))
            for at in range(fetch(bounds, pair), fetch(bounds, pair + 1)):
                errors = _load_strip(panel, np.intp(fetch(theirs, at)) * _STRIP)
                row = fma(_spread_strip(values, 2 * at), errors, row)
                other = fma(_spread_strip(values, 2 * at + 1), errors, other)
            store(gradient, place + 2 * pair * n + column, row)
            if 2 * pair + 1 < count:
                store(gradient, place + (2 * pair + 1) * n + column, other)


@kernel
def number_rows(x, slots):
    """Number the rows of `x` [rows, n] that hold anything but zero, from 0; the others get -1. Returns how many."""
    kept = 0
    for i in range(x.shape[0]):
        some = False
        for j in range(x.shape[1]):
            some |= x[i, j] != 0
        slots[i] = kept if some else -1
        kept += some
    return kept


@kernel
def keep_rows(slots, x, kept):
    """Copy each row of `x` to its slot in `kept`; those below 0 are left out. Returns how many numbers are kept."""
    rows = 0
    for i in range(x.shape[0]):
        if slots[i] >= 0:
            kept[slots[i]] = x[i]
            rows += 1
    return rows * x.shape[1]


@kernel
def column_sums(x, sums):
    """Sum of each column of `x` [rows, n], row by row."""
    sums[:] = 0
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            sums[j] += x[i, j]


# --- elementwise ------------------------------------------------------------------------------------------------------


def _elementwise_tanh(lanes):
    load, splat, tanh_of = loader(types.float32, lanes), splatter(types.float32, lanes), _rational_tanh(lanes)

    @subroutine(error_model="numpy")
    def run(x, inner, outer, shift, y, start, stop):
        for i in range(start, stop, lanes):
            store(y, i, fma(splat(outer), tanh_of(splat(inner) * load(x, i)), splat(shift)))

    return run


_tanh_lanes, _tanh_one = _elementwise_tanh(LANES), _elementwise_tanh(1)


_PASS = 1 << 16
"""Numbers in an elementwise task: some tens of microseconds, which are worth a second thread."""


@subroutine(inline="always")
def _passes(size):
    """Tasks of a pass over `size` numbers: one, if they are few."""
    return max(1, size // _PASS)


@subroutine(inline="always")
def _cut(begin, end, size, unit):
    """The numbers of the tasks from `begin` to `end`, in whole units."""
    tasks, units = _passes(size), (size + unit - 1) // unit
    return units * begin // tasks * unit, min(units * end // tasks * unit, size)


@kernel(error_model="numpy")
def tanh(x, inner, outer, shift, y):
    """`y` = `outer` tanh(`inner` x) + `shift`: a tanh with 1, 1, 0, a sigmoid with 1/2, 1/2, 1/2."""
    share_out(_tanh_part, _passes(x.size), (x.reshape(-1), inner, outer, shift, y.reshape(-1)))


@subroutine(error_model="numpy")
def _tanh_part(begin, end, x, inner, outer, shift, y):
    start, stop = _cut(begin, end, x.size, LANES)
    middle = stop - (stop - start) % LANES
    _tanh_lanes(x, inner, outer, shift, y, start, middle)
    _tanh_one(x, inner, outer, shift, y, middle, stop)


@kernel
def activation_backward(activation, state, error, scale, y):
    """`y` = `scale` times `error` times the slope of `activation` where it gave `state`."""
    flat = state.reshape(-1), error.reshape(-1)
    share_out(_through_part, _passes(y.size), (activation, *flat, scale, y.reshape(-1)))


@subroutine
def _through_part(begin, end, activation, s, e, scale, y):
    start, stop = _cut(begin, end, y.size, 1)
    s, e, y = s[start:stop], e[start:stop], y[start:stop]  # for indices that cannot be negative: loops of vectors
    if activation == TANH:
        for i in range(y.size):
            y[i] = scale * e[i] * (np.float32(1) - s[i] * s[i])
    elif activation == SIGMOID:
        for i in range(y.size):
            y[i] = scale * e[i] * (s[i] * (np.float32(1) - s[i]))
    elif activation == RELU:
        for i in range(y.size):
            y[i] = scale * e[i] * (np.float32(1) if s[i] > 0 else np.float32(0))
    else:
        for i in range(y.size):
            y[i] = scale * e[i]


@kernel
def activation_backward_difference(activation, state, a, b, scale, y):
    """`activation_backward` for the error a - b."""
    flat = state.reshape(-1), a.reshape(-1), b.reshape(-1)
    share_out(_difference_part, _passes(y.size), (activation, *flat, scale, y.reshape(-1)))


@subroutine
def _difference_part(begin, end, activation, s, a, b, scale, y):
    start, stop = _cut(begin, end, y.size, 1)
    s, a, b, y = s[start:stop], a[start:stop], b[start:stop], y[start:stop]
    if activation == TANH:
        for i in range(y.size):
            y[i] = scale * (a[i] - b[i]) * (np.float32(1) - s[i] * s[i])
    elif activation == SIGMOID:
        for i in range(y.size):
            y[i] = scale * (a[i] - b[i]) * (s[i] * (np.float32(1) - s[i]))
    elif activation == RELU:
        for i in range(y.size):
            y[i] = scale * (a[i] - b[i]) * (np.float32(1) if s[i] > 0 else np.float32(0))
    else:
        for i in range(y.size):
            y[i] = scale * (a[i] - b[i])


@kernel
def axpy(scale, x, y, z):
    """`z` = `scale` x + y."""
    share_out(_axpy_part, _passes(z.size), (scale, x.reshape(-1), y.reshape(-1), z.reshape(-1)))


@subroutine
def _axpy_part(begin, end, scale, x, y, z):
    start, stop = _cut(begin, end, z.size, 1)
    x, y, z = x[start:stop], y[start:stop], z[start:stop]
    for i in range(z.size):
        z[i] = scale * x[i] + y[i]


@kernel
def rmsprop(parameter, gradient, mean, square, velocity, rate, decay, momentum, epsilon):
    """Centred RMSprop with momentum over flat arrays of float32, in place: one pass over five arrays."""
    numbers = rate, decay, momentum, epsilon
    given = parameter, gradient, mean, square, velocity, numbers
    share_out(_rmsprop_part, _passes(parameter.size), given)


@subroutine
def _rmsprop_part(begin, end, parameter, gradient, mean, square, velocity, numbers):
    start, stop = _cut(begin, end, parameter.size, LANES)
    _update(parameter, mean, square, velocity, gradient[start:stop], start, stop - start, numbers)


def _adam(lanes):
    load, splat = loader(types.float32, lanes), splatter(types.float32, lanes)

    @subroutine(error_model="numpy")
    def run(p, a, s, g, step, decay, square_decay, square_of_one, epsilon, start, stop):
        fresh, fresh_square = splat(np.float32(1) - decay), splat(np.float32(1) - square_decay)
        for i in range(start, stop, lanes):
            gradient = load(g, i)
            mean = fma(splat(decay), load(a, i), fresh * gradient)
            square = fma(splat(square_decay), load(s, i), fresh_square * gradient * gradient)
            store(a, i, mean)
            store(s, i, square)
            store(p, i, load(p, i) - splat(step) * mean / (sqrt(square / splat(square_of_one)) + splat(epsilon)))

    return run


_adam_lanes, _adam_one = _adam(LANES), _adam(1)


@kernel(error_model="numpy")
def adam(parameter, gradient, mean, square, step, decay, square_decay, square_of_one, epsilon):
    """Adam over flat arrays of float32, in place: one pass over four arrays.

    `step` is the learning rate with the correction of `mean`, `square_of_one` what corrects `square`.
    """
    numbers = step, decay, square_decay, square_of_one, epsilon
    share_out(_adam_part, _passes(parameter.size), (parameter, mean, square, gradient, numbers))


@subroutine(error_model="numpy")
def _adam_part(begin, end, parameter, mean, square, gradient, numbers):
    start, stop = _cut(begin, end, parameter.size, LANES)
    middle = stop - (stop - start) % LANES
    _adam_lanes(parameter, mean, square, gradient, *numbers, start, middle)
    _adam_one(parameter, mean, square, gradient, *numbers, middle, stop)


@kernel(error_model="numpy")
def cross_entropy(logits, labels, error, loss):
    """`error` = softmax of `logits` [batch, classes] less 1 at the label; `loss` = the mean negative log-likelihood.

    Returns whether a label is of no class.
    """
    total = 0.0
    for i in range(logits.shape[0]):
        if not 0 <= labels[i] < logits.shape[1]:
            return True
        top = logits[i, 0]
        for j in range(1, logits.shape[1]):
            top = max(top, logits[i, j])
        all_powers = np.float32(0)
        for j in range(logits.shape[1]):
            error[i, j] = np.exp(logits[i, j] - top)
            all_powers += error[i, j]
        total += np.log(all_powers) - (logits[i, labels[i]] - top)
        for j in range(logits.shape[1]):
            error[i, j] /= all_powers
        error[i, labels[i]] -= 1
    loss[0] = total / logits.shape[0]
    return False


# --- noise ------------------------------------------------------------------------------------------------------------

_DRAWS = 32
"""Counters of Philox taken at a time, which give four numbers each."""
DRAWN = 4 * _DRAWS
"""Normal numbers drawn at a time."""
_NUMBERED = np.arange(_DRAWS, dtype=np.uint64)
_load_counter, _splat_word = loader(types.uint64, _DRAWS), splatter(types.uint64, _DRAWS)
_splat_draw, _splat_int = splatter(types.float32, _DRAWS), splatter(types.int32, _DRAWS)
_to_int, _to_float = converter(types.int32), converter(types.float32)
_read_int, _read_float = reader(types.int32, _DRAWS), reader(types.float32, _DRAWS)


@subroutine(error_model="numpy")
def _philox(c0, c1, c2, c3, k0, k1):
    """Philox4x32-10 (Salmon et al., SC 2011): four random words of 32 bits, each in a lane of 64."""
    low, half = _splat_word(np.uint64(0xFFFFFFFF)), _splat_word(np.uint64(32))
    for _ in range(10):
        p0, p1 = _splat_word(np.uint64(0xD2511F53)) * c0, _splat_word(np.uint64(0xCD9E8D57)) * c2
        c0, c1, c2, c3 = (p1 >> half) ^ c1 ^ _splat_word(k0), p1 & low, (p0 >> half) ^ c3 ^ _splat_word(k1), p0 & low
        k0 = (k0 + np.uint64(0x9E3779B9)) & np.uint64(0xFFFFFFFF)
        k1 = (k1 + np.uint64(0xBB67AE85)) & np.uint64(0xFFFFFFFF)
    return c0, c1, c2, c3


@subroutine
def _words(block, key, counter):
    """The random words of a block of `DRAWN` numbers."""
    first = _load_counter(_NUMBERED, 0) + _splat_word(np.uint64(block * _DRAWS))
    purpose, step = counter[0], counter[1]
    c1, c2, c3 = _splat_word(purpose), _splat_word(step & np.uint64(0xFFFFFFFF)), _splat_word(step >> np.uint64(32))
    return _philox(first, c1, c2, c3, key[0], key[1])


@subroutine(error_model="numpy")
def _log(x):
    """Natural logarithm of float32 lanes in (0, 1], by the polynomial of Cephes' logf."""
    bits = _read_int(x)
    exponent = (bits >> _splat_int(np.int32(23))) - _splat_int(np.int32(126))
    mantissa = _read_float((bits & _splat_int(np.int32(0x007FFFFF))) | _splat_int(np.int32(0x3F000000)))
    below = less(mantissa, _splat_draw(np.float32(0.70710678)))
    exponent = select(below, exponent - _splat_int(np.int32(1)), exponent)
    f = select(below, mantissa + mantissa, mantissa) - _splat_draw(np.float32(1))
    p = _splat_draw(np.float32(7.0376836292e-2))
    p = fma(p, f, _splat_draw(np.float32(-1.1514610310e-1)))
    p = fma(p, f, _splat_draw(np.float32(1.1676998740e-1)))
    p = fma(p, f, _splat_draw(np.float32(-1.2420140846e-1)))
    p = fma(p, f, _splat_draw(np.float32(1.4249322787e-1)))
    p = fma(p, f, _splat_draw(np.float32(-1.6668057665e-1)))
    p = fma(p, f, _splat_draw(np.float32(2.0000714765e-1)))
    p = fma(p, f, _splat_draw(np.float32(-2.4999993993e-1)))
    p = fma(p, f, _splat_draw(np.float32(3.3333331174e-1)))
    s = f * f
    p = fma(_splat_draw(np.float32(-0.5)), s, p * s * f)
    return fma(_to_float(exponent), _splat_draw(np.float32(0.69314718)), f + p)


@subroutine
def _unit(word):
    """Multiples of 2^-24 in [0, 1)."""
    return _to_float(_to_int(word >> _splat_word(np.uint64(8)))) * _splat_draw(np.float32(2.0**-24))


@subroutine(error_model="numpy")
def _box_muller(radius_word, angle_word):
    """Two standard normal vectors of two vectors of random words (Box and Muller, 1958).

    The angle is a quarter turn or four from [-pi/4, pi/4], where sine and cosine are short polynomials (Cephes).
    """
    middle = _unit(radius_word) + _splat_draw(np.float32(2.0**-25))
    radius = sqrt(_splat_draw(np.float32(-2)) * _log(middle))
    bits = _to_int(angle_word)
    angle = _to_float((bits << _splat_int(np.int32(2))) >> _splat_int(np.int32(8)))
    angle = angle * _splat_draw(np.float32(np.pi / 4 / 2**23))
    s = angle * angle
    p = fma(_splat_draw(np.float32(-1.9515295891e-4)), s, _splat_draw(np.float32(8.3321608736e-3)))
    p = fma(p, s, _splat_draw(np.float32(-1.6666654611e-1)))
    sine = fma(p * s, angle, angle)
    p = fma(_splat_draw(np.float32(2.443315711809948e-5)), s, _splat_draw(np.float32(-1.388731625493765e-3)))
    p = fma(p, s, _splat_draw(np.float32(4.166664568298827e-2)))
    cosine = fma(p * s, s, fma(_splat_draw(np.float32(-0.5)), s, _splat_draw(np.float32(1))))
    zero = _splat_int(np.int32(0))
    swapped = less(bits << _splat_int(np.int32(1)), zero)
    radius = select(less(bits, zero), _splat_draw(np.float32(0)) - radius, radius)
    return radius * select(swapped, sine, cosine), radius * select(swapped, cosine, sine)


@kernel(error_model="numpy")
def normal(key, counter, numbers):
    """Standard normal float32 in flat `numbers`, a multiple of `DRAWN`, from a `key` and a `counter`, purpose and step.

    Each depends only on its index, whichever thread draws it.
    """
    share_out(_normal_part, _passes(numbers.size), (key, counter, numbers))


@subroutine(error_model="numpy")
def _normal_part(begin, end, key, counter, numbers):
    start, stop = _cut(begin, end, numbers.size, DRAWN)
    for block in range(start // DRAWN, stop // DRAWN):
        c0, c1, c2, c3 = _words(block, key, counter)
        x0, x1 = _box_muller(c0, c1)
        x2, x3 = _box_muller(c2, c3)
        place = block * DRAWN
        store(numbers, place, x0)
        store(numbers, place + _DRAWS, x1)
        store(numbers, place + 2 * _DRAWS, x2)
        store(numbers, place + 3 * _DRAWS, x3)


@kernel(error_model="numpy")
def uniform(key, counter, numbers):
    """Uniform float32 in [0, 1), as `normal` has it: the upper 24 bits of each word."""
    share_out(_uniform_part, _passes(numbers.size), (key, counter, numbers))


@subroutine
def _uniform_part(begin, end, key, counter, numbers):
    start, stop = _cut(begin, end, numbers.size, DRAWN)
    for block in range(start // DRAWN, stop // DRAWN):
        c0, c1, c2, c3 = _words(block, key, counter)
        place = block * DRAWN
        store(numbers, place, _unit(c0))
        store(numbers, place + _DRAWS, _unit(c1))
        store(numbers, place + 2 * _DRAWS, _unit(c2))
        store(numbers, place + 3 * _DRAWS, _unit(c3))


@kernel
def shift_sgd(weights, gradient, shift, low, high, key, counter):
    """Flat integer `weights` less `gradient` / 2^`shift`, rounded stochastically, within `low` and `high`, in place.

    Random bits are added below the point and dropped with what is there, which rounds up as often as the remainder says
    (Gupta et al., ICML 2015). A number's bits depend on its place alone.
    """
    share_out(_shift_sgd_part, _passes(weights.size), (weights, gradient, shift, low, high, key, counter))


@subroutine
def _shift_sgd_part(begin, end, weights, gradient, shift, low, high, key, counter):
    start, stop = _cut(begin, end, weights.size, DRAWN)
    below, bits = (np.int64(1) << np.int64(shift)) - np.int64(1), np.empty(DRAWN, np.uint64)
    for block in range(start // DRAWN, (stop + DRAWN - 1) // DRAWN):
        place = block * DRAWN
        c0, c1, c2, c3 = _words(block, key, counter)
        store(bits, 0, c0)
        store(bits, _DRAWS, c1)
        store(bits, 2 * _DRAWS, c2)
        store(bits, 3 * _DRAWS, c3)
        for i in range(place, min(place + DRAWN, stop)):
            step = (np.int64(gradient[i]) + (np.int64(bits[i - place]) & below)) >> np.int64(shift)
            weights[i] = min(max(np.int64(weights[i]) - step, low), high)


@kernel
def integer_matmul(a, b, product):
    """int32 `product` [m, n] = int16 `a` [m, k] times int16 `b` [k, n]; what `a` has of zeros is left out."""
    share_out(_integer_rows, len(a), (a, b, product))


@subroutine
def _integer_rows(begin, end, a, b, product):
    for i in range(begin, end):
        for j in range(product.shape[1]):
            product[i, j] = 0
        for k in range(a.shape[1]):
            factor = np.int32(a[i, k])
            if factor != 0:
                for j in range(product.shape[1]):
                    product[i, j] += np.int32(factor * np.int32(b[k, j]))
