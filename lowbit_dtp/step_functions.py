"""Formats from step functions of float32 numbers, which are evaluated and not understood."""

from collections.abc import Callable, Iterator
from itertools import product

import numpy as np
import numpy.typing as npt

from .formats import NAMED, FixedPoint, Format, Table, table

Float32s = npt.NDArray[np.float32]
Step = Callable[[Float32s], npt.NDArray[np.floating]]
"""A quantizer as a function of float32 numbers [n]."""

LARGEST = int(np.finfo(np.float32).max.view(np.int32))
"""Place of the largest finite float32: see `numbers`."""


def numbers(places: npt.NDArray[np.int64]) -> Float32s:
    """The float32 at indices `places`: 0 is zero, 1 the least above it, -1 the largest below it."""
    return np.copysign(np.abs(places).astype(np.int32).view(np.float32), places).astype(np.float32)


def least(step: Step, values: npt.NDArray[np.floating]) -> npt.NDArray[np.int64]:
    """Index among the float32 of the least `x` for which the ascending `step(x) >= value`, for each of `values`."""
    below, reached = np.full(len(values), -LARGEST), np.full(len(values), LARGEST)
    while (reached - below > 1).any():
        middle = (below + reached) // 2
        enough = step(numbers(middle)) >= values
        reached, below = np.where(enough, middle, reached), np.where(enough, below, middle)
    return reached


def sends_alike(fmt: Format, found: Table) -> bool:
    """Whether `fmt` sends every float32 like `found`: both ascend, so it is enough to check the ends of its steps."""
    edges = np.array(found.thresholds, np.float32)
    ends = np.concatenate([edges, np.nextafter(edges, np.float32(-np.inf)), np.array([-np.inf, np.inf], np.float32)])
    return np.array_equal(fmt.quantize(ends).astype(np.float32), found.quantize(ends).astype(np.float32))


def plain_formats(values: tuple[float, ...], bits: int, scale: float) -> Iterator[Format]:
    """Formats with short names, of `bits` bits, that may send `values`, whole multiples of `scale`."""
    yield from (fmt for fmt in NAMED.values() if isinstance(fmt, Table))
    signed, integer = values[0] < 0, bits + int(np.floor(np.log2(scale)))
    if bits > signed and abs(integer) <= 64:
        for rounding, overflow in product(("nearest-even", "floor"), ("saturate", "saturate-symmetric")):
            yield FixedPoint(bits, integer, rounding, overflow, signed)
    yield table(values)


def named(found: Table, bits: int, scale: float) -> Format:
    """The format with the shortest name that sends every float32 like `found`."""
    return next((fmt for fmt in plain_formats(found.values, bits, scale) if sends_alike(fmt, found)), found)
