"""Packed words in NumPy: packing, counting, and products that are exact in whole numbers.

The number of threads is Numba's, and no result depends on it.

    >>> from lowbit_dtp.formats import binary
    >>> weights = Weights.arrange(np.array([[1], [-2], [3]]))
    >>> words, nan = pack_signs(np.array([[0.5, -0.5, 2.0]], np.float32))
    >>> product(words, levels_of(binary), weights).tolist()
    [[6]]
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from ..formats import Bernoulli, FixedPoint, Format, Table
from ..packing import WORD_BITS, packed_width
from ..packing import pack as pack_any
from ..packing import unpack as unpack_any
from . import _packed_kernels
from ._simd import LOOKED_UP, TOGETHER, target
from .numpy_plain import rounded_up

Words = npt.NDArray[np.uint64]
Codes = npt.NDArray[np.unsignedinteger[Any]]
Floats = npt.NDArray[np.floating[Any]]
Whole = npt.NDArray[np.int32]

kernels: Any = _packed_kernels  # the compiler knows their types, mypy does not
empty: Any = np.empty
"""Creates arrays: while a step is recorded, in the arena of the tape, which also records calls of `kernels`."""

WIDTHS = (1, 2, 4, 8)
"""Widths of codes that have kernels; other widths use `packing`."""
_MOST, _MOST_SHORT = 2**31 - 1, 2**15 - 1

# --- packing ----------------------------------------------------------------------------------------------------------


def pack_signs(x: Floats, threshold: float = 0.0) -> tuple[Words, bool]:
    """A bit for each of `x` [..., n], float32 or float64: whether it reaches `threshold`; and whether NaN was met."""
    kernel = _PACK_SIGNS.get(x.dtype)
    if kernel is None:
        raise TypeError(f"pack_signs takes float32 or float64, not {x.dtype}")
    rows = _rows(x)
    words = empty((len(rows), -(-x.shape[-1] // WORD_BITS)), np.uint64)
    nan = getattr(kernels, kernel)(rows, _least(float(threshold), x.dtype), words)
    return words.reshape(*x.shape[:-1], words.shape[1]) if x.ndim != 2 else words, nan


_PACK_SIGNS = {np.dtype(np.float32): "pack_float32", np.dtype(np.float64): "pack_float64"}


@cache
def _least(threshold: float, dtype: np.dtype) -> Any:
    return rounded_up(np.array([threshold]), dtype)[0]


def pack_draws(x: Floats, uniform: Floats) -> tuple[Words, bool]:
    """A bit for each of `x` [rows, n], float32: 1 where it reaches 1 - `uniform`; and whether NaN was met."""
    words = empty((len(x), packed_width(x.shape[1], 1)), np.uint64)
    return words, kernels.pack_draws(x, uniform, words)


def unpack_signs(words: Words, neurons: int, low: float, high: float) -> npt.NDArray[np.float32]:
    """float32 [..., neurons]: `high` where a bit is set in `words` [..., packed_width(neurons, 1)], else `low`."""
    rows = _rows_of_words(words, neurons, 1)
    x = empty((len(rows), neurons), np.float32)
    kernels.unpack_float32(rows, np.float32(low), np.float32(high), x)
    return x if words.ndim == 2 else x.reshape(*words.shape[:-1], neurons)


def pack(codes: npt.NDArray[np.unsignedinteger[Any]], bits: int) -> Words:
    """As `packing.pack`, and sooner for uint8 codes of 1, 2, 4 and 8 bits."""
    if bits not in WIDTHS or codes.dtype != np.uint8:
        return pack_any(codes, bits)
    if codes.size and bits < 8 and int(codes.max()) >= 1 << bits:
        raise ValueError(f"code {int(codes.max())} does not fit in {bits} bits")
    rows = _rows(codes)
    words = np.empty((len(rows), packed_width(codes.shape[-1], bits)), np.uint64)
    kernels.pack_codes(rows, bits, words)
    return words.reshape(*codes.shape[:-1], words.shape[1])


def unpack(words: Words, bits: int, neurons: int) -> npt.NDArray[np.unsignedinteger[Any]]:
    """As `packing.unpack`, and sooner for codes of 1, 2, 4 and 8 bits."""
    if bits not in WIDTHS:
        return unpack_any(words, bits, neurons)
    rows = _rows_of_words(words, neurons, bits)
    codes = np.empty((len(rows), neurons), np.uint8)
    kernels.unpack_codes(rows, bits, np.uint8(0), neurons, codes)
    return codes.reshape(*words.shape[:-1], neurons)


# --- counting ---------------------------------------------------------------------------------------------------------


def ones_and_toggles(codes: Codes, previous: Codes | None = None) -> tuple[Any, Any]:
    """Bits set in `codes` or words [..., rows, width], and bits that differ from the row before: [...] each.

    `previous` [..., width] is the row before the first; without one the first toggles nothing.
    """
    if codes.ndim > 2:
        befores = [None] * len(codes) if previous is None else previous
        members = [ones_and_toggles(x, before) for x, before in zip(codes, befores, strict=True)]
        return np.array([ones for ones, _ in members]), np.array([toggles for _, toggles in members])
    if not codes.size:
        return 0, 0
    before = codes[0] if previous is None else previous
    return kernels.count_bits(codes.reshape(-1).view(np.uint8), before.reshape(-1).view(np.uint8))


def flips(words: Words, others: Words) -> npt.NDArray[np.int64]:
    """Bits that differ between `words` and `others` [..., width], of each row [...]."""
    if words.shape != others.shape:
        raise ValueError(f"rows are compared one by one, but the words have shapes {words.shape} and {others.shape}")
    counts = np.empty(words.shape[:-1], np.int64)
    kernels.count_flips(_rows(words), _rows(others), counts.reshape(-1))
    return counts


# --- products ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Levels:
    """What codes stand for in whole numbers of a `unit`: code `k` for `low + step * (k ^ flip)`.

    `highest` is the largest `k ^ flip`; `words` with others in them have no meaning.
    """

    bits: int
    low: int
    step: int
    highest: int
    flip: int = 0
    unit: float = 1.0

    @property
    def largest(self) -> int:
        """Largest magnitude."""
        return max(abs(self.low), abs(self.low + self.step * self.highest))


@cache
def levels_of(fmt: Format) -> Levels:
    """The levels of an evenly spaced format of at most 8 bits. ValueError for others.

    >>> from lowbit_dtp.formats import binary
    >>> levels_of(binary)
    Levels(bits=1, low=-1, step=2, highest=1, flip=0, unit=1.0)
    """
    if isinstance(fmt, Bernoulli):
        return Levels(1, 0, 1, 1)
    if fmt.bits <= 8 and isinstance(fmt, FixedPoint):
        top = 2 ** (fmt.bits - 1) if fmt.signed else 0
        return Levels(fmt.bits, -top, 1, 2**fmt.bits - 1, top, fmt.step)
    if fmt.bits <= 8 and isinstance(fmt, Table):
        values = np.array(fmt.values)
        spaces = np.diff(values)
        for parts in range(1, 9):  # the unit is the space, or a part of it if zero falls between two values
            unit = spaces[0] / parts
            low = round(values[0] / unit)
            if np.array_equal((low + parts * np.arange(len(values))) * unit, values):
                return Levels(fmt.bits, low, parts, len(values) - 1, 0, float(unit))
    raise ValueError(f"{fmt.name} is not a format of evenly spaced values in at most 8 bits")


@dataclass(frozen=True, eq=False)
class Weights:
    """Whole numbers [below, neurons], arranged once for products, in each layout that products need.

    A weight is `low` + `step` times its code in `codes`, the narrowest that do.
    """

    codes: npt.NDArray[Any]
    low: int
    step: int
    sums: Whole
    """Sum of each column, wrapped around."""
    largest_sum: int
    """Largest sum of magnitudes of a column."""

    @classmethod
    def arrange(cls, levels: npt.NDArray[np.integer[Any]]) -> "Weights":
        """Take `levels` [below, neurons], within 16 bits of each other, for the weights of products."""
        levels = np.asarray(levels)
        if levels.ndim != 2 or levels.dtype.kind not in "iu":
            raise TypeError(f"weights are whole numbers [below, neurons], not {levels.dtype} of shape {levels.shape}")
        wide = levels.astype(np.int64)
        low = int(wide.min()) if wide.size else 0
        span = int(wide.max()) - low if wide.size else 0
        if span >= 1 << 16:
            raise ValueError(f"weights must lie within 16 bits of each other, not from {low} to {low + span}")
        used = np.flatnonzero(np.bincount((wide - low).reshape(-1), minlength=1))
        step = int(np.gcd.reduce(used)) or 1
        codes = ((wide - low) // step).astype(np.uint8 if span // step < 1 << 8 else np.uint16)
        sums = wide.sum(0).astype(np.int32)
        return cls(codes, low, step, _padded(sums), int(np.abs(wide).sum(0).max(initial=0)))

    def by(self, levels: Levels) -> "Product":
        """What multiplies activations of `levels` by them, made once."""
        made = self.products.get(levels)
        if made is None:
            made = self.products[levels] = Product(levels, self)
        return made

    @cached_property
    def products(self) -> "dict[Levels, Product]":
        """`Product` for each `Levels` used so far."""
        return {}

    @property
    def below(self) -> int:
        return int(self.codes.shape[0])

    @property
    def neurons(self) -> int:
        return int(self.codes.shape[1])

    @cached_property
    def highest(self) -> int:
        """Largest code."""
        return int(self.codes.max(initial=0))

    @cached_property
    def ternary(self) -> bool:
        """Whether there are three levels, evenly spaced."""
        return self.highest == 2

    @cached_property
    def orders(self) -> int:
        """Bit planes in which they are arranged; ternary ones are one pair of planes, which costs as little as one."""
        return 1 if self.ternary else self.plain_orders

    @cached_property
    def plain_orders(self) -> int:
        """Bits of the largest code."""
        return max(1, self.highest.bit_length())

    @cached_property
    def planes(self) -> tuple[Words, Whole]:
        """Words of each block, plane, row of 64, and column; of ternary weights, of those below 0 and not 0 in turn.

        And how many in each column are below 0, for that arrangement counts them: in every plane of the activations.
        """
        if self.ternary:
            bits = np.stack([_in_words(self.codes == 0), _in_words(self.codes != 1)], 1)
            return _blocks(bits.transpose(2, 1, 0)), _padded((self.codes == 0).sum(0, dtype=np.int32))
        bits = np.stack([_in_words(self.codes >> order & 1) for order in range(self.orders)])
        return _blocks(bits.transpose(0, 2, 1)), _padded(np.zeros(self.neurons, np.int32))

    @cached_property
    def nibbles(self) -> npt.NDArray[np.uint8]:
        """Four bits of each block of columns to look up, plane, part of the block, four rows, and column."""
        words = np.stack([_in_words(self.codes >> order & 1) for order in range(self.plain_orders)])
        steps, parts = -(-self.below // 4), kernels.BLOCK // LOOKED_UP
        blocks = _blocks(unpack(words, 4, steps).transpose(0, 2, 1), kernels.BLOCK)
        count = blocks.size // max(1, steps * kernels.BLOCK)
        return _aligned(blocks.reshape(count, steps, parts, LOOKED_UP).swapaxes(1, 2))

    @property
    def centre(self) -> int:
        """The code that tables take for 0."""
        return (self.highest + 1) // 2

    @cached_property
    def table_kind(self) -> int:
        """How the sums of each four of them are kept in tables."""
        if self.highest <= 3:
            return kernels.CHOSEN
        steps = -(-self.below // 4)
        fours = np.zeros((4 * steps, self.neurons), np.int32)
        np.abs(self.codes.astype(np.int32) - self.centre, out=fours[: self.below])
        largest = int(fours.reshape(steps, 4, self.neurons).sum(1).max(initial=0))
        return next(kind for kind, most in _LARGEST.items() if largest <= most)

    @cached_property
    def tables(self) -> "Tables":
        """The sums of each four of them, or of all four that there can be."""
        if self.table_kind == kernels.CHOSEN:
            return _chosen_tables(self.codes, self.highest + 1, self.centre, -(-self.below // 4))
        return _own_tables(self.codes, self.table_kind, self.centre)

    @cached_property
    def digits(self) -> tuple[npt.NDArray[np.uint32], int, int]:
        """Signed bytes, four in a word, of each block, digit, four rows, and column; the digits; and what 0 stands for.

        A weight is the last + sum(256^i digit i).
        """
        wide = self.codes.astype(np.int32) * self.step + self.low
        # Two signed bytes reach from -32896 to 32639, one from -128 to 127: shift weights to the middle of that.
        low, high = int(wide.min(initial=0)), int(wide.max(initial=0))
        count = 1 if high - low < 256 else 2
        middle = 0 if low >= -128 and high <= 127 else low + (128 if count == 1 else 32896)
        first = (wide - middle + 128) % 256 - 128
        digits = np.stack([first, (wide - middle - first) >> 8][:count]).astype(np.int8)
        return _fours(digits), count, middle

    @cached_property
    def largest_digit(self) -> int:
        """Largest magnitude of a digit."""
        return int(np.abs(self.digits[0].view(np.int8).astype(np.int16)).max(initial=0))

    @cached_property
    def pairs(self) -> tuple[npt.NDArray[np.uint32], Whole]:
        """Codes, four in a word, of each block, eight rows: the second four and the first, and column.

        And the sum of the products of the two in each column.
        """
        steps = -(-self.below // 8)
        padded = np.zeros((8 * steps, self.neurons), np.uint8)
        padded[: self.below] = self.codes
        eights = padded.reshape(steps, 2, 4, self.neurons)
        products = eights[:, 0].astype(np.int32) * eights[:, 1]
        fours = eights[:, ::-1].reshape(1, 8 * steps, self.neurons)
        return _fours(fours), _padded(products.sum((0, 1), dtype=np.int32))


@dataclass(frozen=True)
class Tables:
    """What `tables_product` looks up: sums of four weights, from which the smallest of each four is taken off."""

    form: tuple[int, int, int, int]
    """Steps, kind, steps of chosen tables whose sums fit in a byte, and steps that follow each other."""
    tables: npt.NDArray[np.uint8]
    choices: npt.NDArray[np.uint16]
    biases: Whole
    """What is taken off each column."""


_LARGEST = {kernels.ONE: 255 // kernels.STEPS[kernels.ONE], kernels.TWO: 2**10 - 1, kernels.THREE: 2**18 - 1}
"""Largest sum of four weights, the smallest taken off, that has a place in tables of each kind."""
_CHOICES = np.arange(16) >> np.arange(4)[:, None] & 1
"""The bits of each number of four: [bit, number]."""


def _chosen_tables(codes: npt.NDArray[Any], levels: int, centre: int, steps: int) -> Tables:
    each = np.arange(levels**4)[:, None] // levels ** np.arange(4) % levels - centre
    sums = each @ _CHOICES
    least = sums.min(1)
    few, neurons = kernels.FEW, codes.shape[1]
    tiles = -(-neurons // few)
    fours = np.full((4 * steps, tiles * few), centre, np.int64)
    fours[: len(codes), :neurons] = codes
    chosen = np.tensordot(levels ** np.arange(4), fours.reshape(steps, 4, tiles * few), (0, 1))
    choices = (16 * chosen).astype(np.uint16).reshape(steps, tiles, few).swapaxes(0, 1)
    tables = (sums - least[:, None]).astype(np.uint8)
    biases = _padded(least[chosen].sum(0).astype(np.int32)[:neurons])
    flush = 255 // max(1, int(tables.max()))
    return Tables((steps, kernels.CHOSEN, flush, kernels.DEPTH), tables.reshape(-1), choices.reshape(-1), biases)


def _own_tables(codes: npt.NDArray[Any], kind: int, centre: int) -> Tables:
    count, bits, each, together = kind, kernels.DIGIT_BITS[kind], kernels.STEPS[kind], TOGETHER
    (below, neurons), deep = codes.shape, kernels.DEPTH // each * each
    steps = -(-below // (4 * together * each)) * each
    biases, groups = np.zeros(neurons, np.int32), []
    for first in range(0, neurons, kernels.GROUP):
        some = codes[:, first : first + kernels.GROUP].astype(np.int32) - centre
        fours = np.zeros((4 * together * steps, some.shape[1]), np.int32)
        fours[:below] = some
        fours = fours.reshape(steps, together, 4, some.shape[1])
        least = np.minimum(fours, 0).sum(2)
        biases[first : first + kernels.GROUP] = least.sum((0, 1))
        sums = np.tensordot(fours, _CHOICES, (2, 0)) - least[..., None]  # [steps, together, columns, 16]
        digits = np.stack([sums >> bits * digit & (1 << bits) - 1 for digit in range(count)], 1).astype(np.uint8)
        digits = digits.transpose(0, 3, 1, 2, 4)  # [steps, columns, digits, together, 16]
        groups += [digits[k : k + deep].swapaxes(0, 1).reshape(-1) for k in range(0, steps, deep)]
    tables = _aligned(np.concatenate([*groups, np.empty(0, np.uint8)]))
    return Tables((steps, kind, 1, deep), tables, np.empty(0, np.uint16), _padded(biases))


# Which way is the fastest: picoseconds of 128 products in each way, measured on one processor with AVX2 and, for
# targets that count bits in one instruction, with AVX-512, times the products of the way, padding after the last row
# and column included. Only their ratios matter. They are fixed for a kind of target, so every run makes the same
# choice, and all ways give the same numbers.


def _costs() -> dict[str, int]:
    has = target()
    if not has.looks_up:
        return {"planes": 1000, "bytes": 3500, "pairs": 3200}
    multiplies = "vpdpbusd" in (has.byte_products or ("",))[0]
    costs = {"planes": 160 if has.counts_bits else 600}
    costs |= {"bytes": 500, "pairs": 490} if multiplies else {"bytes": 850, "pairs": 1000}
    return costs if has.counts_bits else costs | {"look-up": 270}


_COSTS = _costs()
_KIND_COSTS = {kernels.CHOSEN: 280, kernels.ONE: 300, kernels.TWO: 530, kernels.THREE: 820}
"""The same for each kind of tables."""
_PREPARED = {"planes": 0, "look-up": 0, "tables": 2_000_000, "pairs": 3_000_000, "bytes": 3_000_000}
"""Picoseconds to prepare activations, and of planes, look-up and tables, those of more than one bit."""
_SPLIT, _WRITTEN, _COLUMN, _BYTE = 4_000_000, 100, 15_000, 25
"""Picoseconds to split codes, and of tables to write a number, to start with a column, and to read a byte of theirs."""


def ways_of(levels: Levels, weights: Weights, rows: int = 100) -> dict[str, float]:
    """The ways to multiply `rows` of activations by weights on the present target, with their costs.

    "planes" counts bits of each pair of bit planes, "look-up" looks those counts up, "tables" looks up sums of four
    weights, "pairs" multiplies bytes that are sums of two codes, and "bytes" multiplies bytes.
    """
    planes = levels.highest.bit_length()
    split = 0 if levels.bits == 1 and not levels.flip else _SPLIT

    def products(rows_at_once: int, columns: int) -> float:
        all_rows, all_columns = (-(-n // m) * m for n, m in ((rows, rows_at_once), (weights.neurons, columns)))
        return all_rows * all_columns * weights.below / 128

    def of_tables() -> float:
        kind = weights.table_kind
        if kind == kernels.CHOSEN:
            return planes * _KIND_COSTS[kind] * products(2 * LOOKED_UP, kernels.FEW)
        read = 4 * kind * weights.below * weights.neurons * _BYTE
        column = weights.neurons * -(-rows // 32) * _COLUMN
        return planes * max(read, _KIND_COSTS[kind] * products(16, 1) + column)

    digits, alone = 1 if weights.highest * weights.step < 256 else 2, rows == 1 and target().counts_bits
    costs = {
        "planes": split + planes * weights.orders * _COSTS["planes"] * products(1 if alone else 2, kernels.COLUMNS),
        "bytes": digits * _COSTS["bytes"] * products(6, kernels.COLUMNS) * (1 if levels.highest < 128 else 2),
    }
    if levels.highest + weights.highest < 128:
        costs["pairs"] = _COSTS["pairs"] * products(6, kernels.COLUMNS)
    fits = weights.neurons >= kernels.BLOCK and levels.highest * weights.highest * weights.below < 1 << 16
    if "look-up" in _COSTS and fits:
        at_once = products(2 if rows > 2 else 1, kernels.BLOCK)
        costs["look-up"] = split + planes * weights.plain_orders * _COSTS["look-up"] * at_once
    if target().looks_up:
        costs["tables"] = split + of_tables() + rows * weights.neurons * _WRITTEN
    return {way: cost + _PREPARED[way] for way, cost in costs.items()}


def way_of(levels: Levels, weights: Weights, rows: int = 100) -> str:
    """The fastest of `ways_of`."""
    costs = ways_of(levels, weights, rows)
    return min(costs, key=costs.__getitem__)


class Product:
    """Activations of `levels` times `weights`; everything that does not depend on the activations is prepared.

    Raises ValueError if a sum might not fit in 32 bits.
    """

    def __init__(self, levels: Levels, weights: Weights) -> None:
        bound = levels.largest * weights.largest_sum
        if bound > _MOST:
            raise ValueError(f"sums of up to {bound} may not fit in 32 bits")
        self.levels, self.weights = levels, weights
        self._width, self._direct = packed_width(weights.below, levels.bits), weights.neurons >= kernels.COLUMNS
        self._is_bits = levels.bits == 1 and not levels.flip
        self._ready: dict[str, tuple[Any, ...]] = {}
        self._ways: dict[int, tuple[str, Any, tuple[Any, ...]]] = {}

    def __call__(self, words: Words, out: Whole | None = None, way: str | None = None) -> Whole:
        """int32 [rows, neurons], in `out` if given, by `way` or the fastest: `words` [rows, width] hold codes."""
        if words.ndim != 2:
            raise ValueError(f"words are [rows, width], not {words.ndim} axes")
        if words.shape[1] != self._width or words.dtype != _UINT64 or not words.flags.c_contiguous:
            words = _rows_of_words(words, self.weights.below, self.levels.bits)
        shape = len(words), self.weights.neurons
        if out is not None and (out.shape != shape or out.dtype != _INT32):
            raise ValueError(f"out must be int32 of shape {shape}, not {out.dtype} of shape {out.shape}")
        if out is not None and self._direct and out.flags.c_contiguous:
            result = out
        else:
            result = np.empty((shape[0], max(shape[1], kernels.COLUMNS)), np.int32)
        of_bytes, kernel, ready = self._by(way) if way else self._ways.get(shape[0]) or self._fastest(shape[0])
        if of_bytes:
            kernel(_spread(words, self.levels, self.weights.below).view(np.uint64), *ready, result)
        else:
            kernel(words if self._is_bits else _split(words, self.levels, self.weights.below), *ready, result)
        if result is out or (out is None and self._direct):
            return result
        if out is None:
            return np.ascontiguousarray(result[:, : shape[1]])
        out[...] = result[:, : shape[1]]
        return out

    def of(self, x: Floats, threshold: float = 0.0, out: Whole | None = None) -> Whole:
        """The product of floats [rows, below] sent as one bit: code 1 from `threshold` on. ValueError on NaN."""
        if x.shape[-1] != self.weights.below:
            raise ValueError(f"weights take {self.weights.below} neurons, but were given {x.shape[-1]}")
        words, nan = pack_signs(x, threshold)
        if nan:
            raise ValueError("NaN cannot be sent as a bit")
        return self(words, out)

    def _fastest(self, rows: int) -> Any:
        """What `_by` gives for the fastest way to multiply so many rows."""
        if len(self._ways) >= 1000:
            self._ways.clear()
        self._ways[rows] = self._by(way_of(self.levels, self.weights, rows))
        return self._ways[rows]

    def _by(self, way: str) -> Any:
        """Whether the kernel of a way takes bytes rather than bit planes, the kernel, and its other arguments."""
        prepare, kernel = _WAYS[way]
        if way not in self._ready:
            self._ready[way] = prepare(self.levels, self.weights)
        return way in ("bytes", "pairs"), kernel, self._ready[way]


_INT32, _UINT64 = np.dtype(np.int32), np.dtype(np.uint64)


def _terms(factor: int, weights: Weights, other_factor: int = 0, others: Whole | None = None) -> Whole:
    """For each column, `factor` times its sum + `other_factor` times `others`, wrapped around."""
    terms = factor * weights.sums.astype(np.int64)
    return (terms if others is None else terms + other_factor * others.astype(np.int64)).astype(np.int32)


def _for_planes(levels: Levels, weights: Weights) -> tuple[Any, ...]:
    arranged, minus = weights.planes
    planes, scale = levels.highest.bit_length(), levels.step * weights.step
    zero = weights.low + weights.step if weights.ternary else weights.low
    terms = _terms(levels.low, weights, -scale * (2**planes - 1), minus)
    return planes, arranged, weights.orders, weights.ternary, scale, levels.step * zero, terms


def _for_look_up(levels: Levels, weights: Weights) -> tuple[Any, ...]:
    planes, steps, scale = levels.highest.bit_length(), -(-weights.below // 4), levels.step * weights.step
    terms = _terms(levels.low, weights)
    return planes, steps, weights.nibbles, weights.plain_orders, scale, levels.step * weights.low, terms


def _for_tables(levels: Levels, weights: Weights) -> tuple[Any, ...]:
    made, planes, scale = weights.tables, levels.highest.bit_length(), levels.step * weights.step
    zero, terms = (
        weights.low + weights.step * weights.centre,
        _terms(levels.low, weights, scale * (2**planes - 1), made.biases),
    )
    return planes, *made.form, made.tables, made.choices, scale, levels.step * zero, terms


def _for_pairs(levels: Levels, weights: Weights) -> tuple[Any, ...]:
    (pairs, products), scale = weights.pairs, levels.step * weights.step
    terms = _terms(levels.low, weights, -scale, products)
    return -(-weights.below // 8), pairs, 0, 0, scale, levels.step * weights.low, -scale, terms


def _for_bytes(levels: Levels, weights: Weights) -> tuple[Any, ...]:
    signed, digits, zero = weights.digits
    flush = _MOST_SHORT // max(1, 2 * levels.highest * weights.largest_digit) if kernels.SUMS_OF_PAIRS else 0
    terms = _terms(levels.low, weights)
    return -(-weights.below // 4), signed, digits, flush, levels.step, levels.step * zero, 0, terms


_WAYS: Mapping[str, tuple[Callable[[Levels, Weights], tuple[Any, ...]], Any]] = {
    "planes": (_for_planes, kernels.planes_product),
    "look-up": (_for_look_up, kernels.look_up_product),
    "tables": (_for_tables, kernels.tables_product),
    "pairs": (_for_pairs, kernels.bytes_product),
    "bytes": (_for_bytes, kernels.bytes_product),
}
"""The other arguments of a kernel besides words and result, and the kernel."""


def product(words: Words, levels: Levels, weights: Weights, out: Whole | None = None) -> Whole:
    """Activations times weights, int32 [rows, neurons]: `words` [rows, width] hold codes of `levels`.

    Raises ValueError if a sum might not fit in 32 bits.
    """
    return weights.by(levels)(words, out)


def product_of(x: Floats, threshold: float, levels: Levels, weights: Weights, out: Whole | None = None) -> Whole:
    """`product` of floats [rows, below] sent as one bit: code 1 from `threshold` on. Raises ValueError on NaN."""
    return weights.by(levels).of(x, threshold, out)


def _spread(words: Words, levels: Levels, neurons: int) -> npt.NDArray[np.uint8]:
    """Codes as bytes, flipped, with zeros up to a multiple of 64."""
    bits = levels.bits
    if bits not in WIDTHS:
        words, bits = pack(unpack_any(words, bits, neurons).astype(np.uint8), 8), 8
    codes = np.empty((len(words) + kernels.SLACK, packed_width(neurons, 1) * WORD_BITS), np.uint8)[: len(words)]
    kernels.unpack_codes(words, bits, np.uint8(levels.flip), neurons, codes)
    return codes


def _split(words: Words, levels: Levels, neurons: int) -> Words:
    codes = _spread(words, levels, neurons)
    planes = np.empty((levels.highest.bit_length(), len(codes), codes.shape[1] // WORD_BITS), np.uint64)
    kernels.split_codes(codes, planes)
    return planes.reshape(planes.shape[0] * planes.shape[1], planes.shape[2])


# --- arrangement ------------------------------------------------------------------------------------------------------


def _rows(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """`x` [..., n] as contiguous [rows, n]."""
    if x.ndim == 2 and x.flags.c_contiguous:
        return x
    return np.ascontiguousarray(x).reshape(prod(x.shape[:-1]), x.shape[-1])


def _rows_of_words(words: Words, neurons: int, bits: int) -> Words:
    if words.dtype != np.uint64 or words.shape[-1] != packed_width(neurons, bits):
        raise ValueError(
            f"{neurons} codes of {bits} bits take {packed_width(neurons, bits)} words of uint64, not "
            f"{words.shape[-1]} of {words.dtype}"
        )
    return _rows(words)


def _padded(columns: npt.NDArray[Any], block: int = kernels.COLUMNS) -> npt.NDArray[Any]:
    """`columns` [..., neurons] with zeros up to a block."""
    missing = max(0, block - columns.shape[-1])
    return np.pad(columns, [(0, 0)] * (columns.ndim - 1) + [(0, missing)])


def _blocks(columns: npt.NDArray[Any], block: int = kernels.COLUMNS) -> npt.NDArray[Any]:
    """[planes, steps, neurons] as flat [blocks, planes, steps, block], on a boundary of 64 bytes."""
    columns = _padded(columns, block)
    count = -(-columns.shape[-1] // block)
    starts = np.minimum(np.arange(count) * block, columns.shape[-1] - block)
    blocks = columns[..., starts[:, None] + np.arange(block)].transpose(2, 0, 1, 3)
    return _aligned(blocks)


def _aligned(numbers: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """`numbers`, flat, on a boundary of 64 bytes."""
    memory = np.empty(numbers.size * numbers.itemsize + 64, np.uint8)
    first = -memory.ctypes.data % 64
    arranged = memory[first : first + numbers.size * numbers.itemsize].view(numbers.dtype)
    arranged.reshape(numbers.shape)[...] = numbers
    return arranged


def _in_words(bits: npt.NDArray[Any]) -> Words:
    """Whether `bits` [below, neurons] are not 0, as [neurons, words]."""
    return pack(np.ascontiguousarray(bits.T != 0).view(np.uint8), 1)


def _fours(numbers: npt.NDArray[Any]) -> npt.NDArray[np.uint32]:
    """Bytes [digits, below, neurons] in blocks, four of below in a word."""
    count, below, neurons = numbers.shape
    steps = -(-below // 4)
    padded = np.zeros((count, 4 * steps, neurons), np.uint8)
    padded[:, :below] = numbers.view(np.uint8)
    fours = np.ascontiguousarray(padded.reshape(count, steps, 4, neurons).transpose(0, 1, 3, 2)).view(np.uint32)
    return _blocks(fours[..., 0])


# --- features --------------------------------------------------------------------------------------------------------


def features() -> dict[str, str]:
    """What is used on the present target, which NUMBA_CPU_NAME and NUMBA_CPU_FEATURES may have set."""
    has = target()
    counting = "one instruction" if has.counts_bits else "look-ups" if has.looks_up else "shifts and sums"
    return {
        "registers": f"{has.register_bits} bits",
        "bit counts": counting,
        "byte products": has.byte_products[0].removeprefix("llvm.") if has.byte_products else "32-bit products",
    }


def describe() -> str:
    """`features` in a line.

    >>> describe().split(":")[0]
    'registers'
    """
    return "; ".join(f"{name}: {what}" for name, what in features().items())
