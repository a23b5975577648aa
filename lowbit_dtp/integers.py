"""Whole numbers in place of floats, for training without floating point.

Each type has a unit: int8 holds states and errors in units of 2^-7, int32 holds sums in units of 2^-12.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from math import exp
from typing import Any

from .backends import Array, backend_of
from .choices import choose
from .formats import FixedPoint, Format, Table

STATE_FRACTION_BITS = 7
SUM_FRACTION_BITS = 12
ONE = 1 << SUM_FRACTION_BITS
"""1.0 in units of a sum."""

_FRACTION_BITS = {"int8": STATE_FRACTION_BITS, "int32": SUM_FRACTION_BITS}
_MOST_FRACTION_BITS = 16

_EXP_BITS, _STEPS = 15, 16
TABLE_SIZE = 256
POWERS = tuple(round(2**_EXP_BITS * exp(-k / _STEPS)) for k in range(TABLE_SIZE))
"""2^15 exp(-k/16): look-up table of the softmax."""


@dataclass(frozen=True)
class IntegerLevels:
    """Values of the codes of a format: code `k` has `low + step * (k ^ flip)`, in units of 2^-fraction_bits."""

    low: int
    step: int
    """1 or 2."""
    highest: int
    """Largest `k ^ flip`."""
    flip: int
    fraction_bits: int
    ties_to_even: bool


@cache
def levels_of(fmt: Format) -> IntegerLevels:
    """The levels of a fixed-point format of at most 8 bits, binary or ternary. ValueError for others.

    >>> from lowbit_dtp.formats import binary
    >>> levels_of(binary)
    IntegerLevels(low=-1, step=2, highest=1, flip=0, fraction_bits=0, ties_to_even=False)
    """
    if isinstance(fmt, FixedPoint) and fmt.bits <= 8:
        fraction_bits, top = fmt.word - fmt.integer, 2 ** (fmt.word - 1) if fmt.signed else 0
        if (fmt.rounding, fmt.overflow) == ("nearest-even", "saturate") and 0 <= fraction_bits <= _MOST_FRACTION_BITS:
            return IntegerLevels(-top, 1, 2**fmt.word - 1, top, fraction_bits, True)
    if isinstance(fmt, Table) and fmt.values in ((-1.0, 1.0), (-1.0, 0.0, 1.0)):
        return IntegerLevels(-1, 4 - len(fmt.values), len(fmt.values) - 1, 0, 0, False)
    raise ValueError(
        f"{fmt.name} does not carry whole numbers; binary, ternary, fixed(W,I) and ufixed(W,I) do, with W up to 8 and "
        f"W - I from 0 to {_MOST_FRACTION_BITS}"
    )


@cache
def fraction_bits_of(dtype: Any) -> int | None:
    """Bits after the binary point of whole numbers of a type; None if the type has no unit here."""
    return _FRACTION_BITS.get(str(dtype).removeprefix("torch."))


def encode(x: Array, fmt: Format) -> Array:
    """Codes of whole numbers `x`, the same as `fmt.encode` of the numbers that they stand for.

    ValueError if `levels_of` does not take `fmt`.
    """
    levels, xp = levels_of(fmt), backend_of(x)
    finer = (fraction_bits_of(x.dtype) or 0) - levels.fraction_bits
    wide = xp.cast(x, "int32") << max(-finer, 0)
    finer = max(finer, 0)
    space = levels.step << finer
    shift, half = space.bit_length() - 1, space // 2
    above = wide - (levels.low << finer)
    if levels.ties_to_even and half:
        above = above - 1 + ((above >> shift) & 1)
    return xp.cast(xp.clip((above + half) >> shift, 0, levels.highest) ^ levels.flip, "uint8")


def decode(codes: Array, fmt: Format) -> Array:
    """Values of `codes`, int16, in units of 2^-`levels_of(fmt).fraction_bits`."""
    levels = levels_of(fmt)
    return (backend_of(codes).cast(codes, "int16") ^ levels.flip) * levels.step + levels.low


def shifted(x: Array, bits: int) -> Array:
    """`x` / 2^bits, rounded down; `bits` may be negative."""
    return x >> bits if bits >= 0 else x << -bits


def clipped(sums: Array) -> Array:
    """Hard tanh of `sums`, as sums: int32."""
    return backend_of(sums).clip(sums, -ONE, ONE)


def states(sums: Array) -> Array:
    """Hard tanh of `sums` as int8 states, rounded down: -128 is -1, and 127 is the largest."""
    xp = backend_of(sums)
    return xp.cast(xp.clip(sums >> (SUM_FRACTION_BITS - STATE_FRACTION_BITS), -128, 127), "int8")


def saturated(x: Array) -> Array:
    """`x` as int8, clipped to -127 to 127."""
    xp = backend_of(x)
    return xp.cast(xp.clip(x, -127, 127), "int8")


def softmax_error(logits: Array, labels: Array) -> Array:
    """Softmax less one-hot, int8, for `logits` [..., batch, classes] that are sums: a look-up and a division.

    Logits are rounded to sixteenths below the largest, and probabilities to 2^-7.
    """
    xp = backend_of(logits)
    below = (xp.largest(logits) - logits) >> (SUM_FRACTION_BITS - _STEPS.bit_length() + 1)
    powers = xp.look_up(POWERS, xp.clip(below, 0, TABLE_SIZE - 1))
    total = xp.cast(powers.sum(-1), "int32")[..., None]
    probabilities = ((powers << STATE_FRACTION_BITS) + (total >> 1)) // total
    return saturated(probabilities - (xp.one_hot(labels, logits) << STATE_FRACTION_BITS))


def activation(name: str) -> Callable[[Array], Array]:
    """The activation called `name` in whole numbers, of int32 sums. ValueError if there is none."""
    return choose("activation of whole numbers", name, _ACTIVATIONS)


_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"hard-tanh": states, "identity": lambda sums: sums}
