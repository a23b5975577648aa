"""Floating point: IEEE 754 numbers as they are, and the formats of 4 to 16 bits that accelerators compute with."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from .base import Codes, Floats, Format
from .tables import Table


@dataclass(frozen=True)
class Float(Format):
    """IEEE 754 numbers, sent as they are: `float32` for baselines, `float64` for checking mathematics."""

    word: int = 32

    @cached_property
    def name(self) -> str:  # type: ignore[override]
        return f"float{self.word}"

    @property
    def dtype(self) -> type[np.floating[Any]]:
        """NumPy type of the numbers."""
        return np.float32 if self.word == 32 else np.float64

    @property
    def bits(self) -> int:
        return self.word

    @property
    def largest(self) -> float:
        return float(np.finfo(self.dtype).max)

    def _encode(self, x: Floats, uniform: Floats | None) -> Codes:
        return np.ascontiguousarray(x, self.dtype).view(self.code_dtype).reshape(x.shape)

    def decode(self, codes: npt.ArrayLike, dtype: npt.DTypeLike = np.float64) -> Floats:
        codes = np.asarray(codes)
        return np.ascontiguousarray(codes).view(self.dtype).reshape(codes.shape).astype(dtype)

    def table(self) -> Table:
        raise ValueError(f"{self.name} is not a table of thresholds; choose a fixed-point or few-bit format")


@dataclass(frozen=True)
class SmallFloat(Format):
    """Floating point of a sign, `exponent` bits and `mantissa` bits, rounded to nearest, ties to even.

    Codes are sign and magnitude, as the formats define them: subnormal numbers in the codes below 2^mantissa, `largest`
    in the code `largest_code`. What rounds to more is sent as that (`saturates`), or else as the code above it.
    """

    name: str
    exponent: int
    mantissa: int
    largest_code: int
    has_infinity: bool = False
    """Whether the code above `largest_code` stands for infinity; other codes above it are NaN, and never sent."""
    saturates: bool = True

    @property
    def bits(self) -> int:
        return 1 + self.exponent + self.mantissa

    @property
    def lowest_exponent(self) -> int:
        """Exponent of the smallest normal number."""
        return 2 - 2 ** (self.exponent - 1)

    @property
    def highest_exponent(self) -> int:
        """Exponent of the largest power of two."""
        return (self.largest_code >> self.mantissa) + self.lowest_exponent - 1

    @property
    def overflow_code(self) -> int:
        """Code, without a sign, of what rounds to more than `largest`."""
        return self.largest_code + (not self.saturates)

    @cached_property
    def largest(self) -> float:
        return float(self.decode(self.largest_code))

    def _encode(self, x: Floats, uniform: Floats | None) -> Codes:
        x = np.asarray(x, np.float64)
        magnitude = np.minimum(np.abs(x), 2 * self.largest)
        exponent = np.frexp(np.maximum(magnitude, 2.0**self.lowest_exponent))[1].astype(np.int64) - 1
        steps = np.rint(np.ldexp(magnitude, self.mantissa - exponent)).astype(np.int64)
        # the code of the exponent's lowest number, less 2^mantissa where it is normal, which is among the steps
        code = np.minimum(((exponent - self.lowest_exponent) << self.mantissa) + steps, self.overflow_code)
        return (code | np.signbit(x).astype(np.int64) << (self.bits - 1)).astype(self.code_dtype)

    def decode(self, codes: npt.ArrayLike, dtype: npt.DTypeLike = np.float64) -> Floats:
        codes = np.asarray(codes).astype(np.int64)
        magnitude, negative = codes & (2 ** (self.bits - 1) - 1), codes >> (self.bits - 1) != 0
        field = magnitude >> self.mantissa
        steps = magnitude - (np.maximum(field - 1, 0) << self.mantissa)
        x = np.ldexp(steps.astype(np.float64), np.maximum(field, 1) + self.lowest_exponent - 1 - self.mantissa)
        x = np.where(magnitude > self.largest_code, np.nan, x)
        if self.has_infinity:
            x = np.where(magnitude == self.largest_code + 1, np.inf, x)
        return np.asarray(np.where(negative, -x, x)).astype(dtype)

    def table(self) -> Table:
        raise ValueError(f"{self.name} is floating point, not a table of thresholds; choose a fixed-point format")


float32 = Float(32)
float64 = Float(64)

e4m3 = SmallFloat("fp8-e4m3", 4, 3, 0x7E)
"""8 bits for activations and weights, saturating at 448 (OCP 8-bit Floating Point Specification 1.0)."""

e5m2 = SmallFloat("fp8-e5m2", 5, 2, 0x7B, has_infinity=True)
"""8 bits for gradients, saturating at 57344 (OCP 8-bit Floating Point Specification 1.0)."""

e2m1 = SmallFloat("fp4-e2m1", 2, 1, 0x7)
"""0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives (OCP Microscaling Formats 1.0)."""

bfloat16 = SmallFloat("bfloat16", 8, 7, 0x7F7F, has_infinity=True, saturates=False)
"""The upper half of a float32, rounded."""

float16 = SmallFloat("float16", 5, 10, 0x7BFF, has_infinity=True, saturates=False)
"""IEEE 754 half precision."""
