"""Fixed point, as in hardware description and high-level synthesis."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ..choices import choose
from .base import MAX_TABLE_BITS, Codes, Floats, Format
from .tables import Table

ROUNDINGS: dict[str, Callable[[Floats, Floats | None], Floats]] = {
    "nearest-even": lambda x, uniform: np.rint(x),
    "floor": lambda x, uniform: np.floor(x),
    "stochastic": lambda x, uniform: np.floor(x + np.asarray(uniform)),
}
"""How a number between two steps is sent: AP_RND_CONV, AP_TRN, and up with the probability of the remainder."""

OVERFLOWS = ("saturate", "saturate-symmetric", "wrap")
"""How a number out of range is sent: AP_SAT, AP_SAT_SYM, AP_WRAP."""


@dataclass(frozen=True)
class FixedPoint(Format):
    """Fixed point as in `ap_fixed<word, integer>`: `word` bits of which `integer`, sign included, before the point.

    One step is 2^(integer - word). Codes are two's complement where signed. `integer` may be negative or larger than
    `word`.
    """

    word: int
    integer: int
    rounding: str = "nearest-even"
    overflow: str = "saturate"
    signed: bool = True

    def __post_init__(self) -> None:
        if not (1 + self.signed) <= self.word <= 32:
            raise ValueError(f"{self.name}: a word has {1 + self.signed} to 32 bits, not {self.word}")
        if not -64 <= self.integer <= 64:
            raise ValueError(f"{self.name}: integer bits must be -64 to 64, not {self.integer}")
        choose("rounding", self.rounding, ROUNDINGS)
        choose("overflow", self.overflow, dict.fromkeys(OVERFLOWS))

    @cached_property
    def name(self) -> str:  # type: ignore[override]
        extra = [v for v, usual in ((self.rounding, "nearest-even"), (self.overflow, "saturate")) if v != usual]
        return f"{'' if self.signed else 'u'}fixed({','.join(map(str, [self.word, self.integer, *extra]))})"

    @property
    def q_notation(self) -> str:
        """`Qm.n` as Arm writes it: m bits before the point, sign included, and n after; `UQm.n` if unsigned."""
        return f"{'' if self.signed else 'U'}Q{self.integer}.{self.word - self.integer}"

    @property
    def bits(self) -> int:
        return self.word

    @property
    def step(self) -> float:
        """Distance of two neighbouring values."""
        return 2.0 ** (self.integer - self.word)

    @property
    def lowest_level(self) -> int:
        """Smallest value, in steps."""
        low = -(2 ** (self.word - 1)) if self.signed else 0
        return low + 1 if self.signed and self.overflow == "saturate-symmetric" else low

    @property
    def highest_level(self) -> int:
        """Largest value, in steps."""
        return 2 ** (self.word - self.signed) - 1

    @property
    def largest(self) -> float:
        return max(-self.lowest_level, self.highest_level) * self.step

    @property
    def stochastic(self) -> bool:
        return self.rounding == "stochastic"

    def levels(self, x: npt.ArrayLike, uniform: Floats | None = None) -> npt.NDArray[np.int64]:
        """`x` in whole steps, rounded and brought into range."""
        if self.stochastic and uniform is None:
            raise ValueError(f"{self.name} rounds stochastically: it needs uniform random numbers, one per value")
        x = np.asarray(x, np.float64)
        if self.overflow == "wrap" and np.isinf(x).any():
            raise ValueError(f"{self.name} wraps, so it cannot send infinity")
        steps = ROUNDINGS[self.rounding](x / self.step, uniform)
        if self.overflow == "wrap":
            wrapped = np.mod(steps - self.lowest_level, 2.0**self.word)
            return wrapped.astype(np.int64) + self.lowest_level
        return np.clip(steps, self.lowest_level, self.highest_level).astype(np.int64)

    def _encode(self, x: Floats, uniform: Floats | None) -> Codes:
        return (self.levels(x, uniform) & (2**self.word - 1)).astype(self.code_dtype)

    def decode(self, codes: npt.ArrayLike, dtype: npt.DTypeLike = np.float64) -> Floats:
        levels = np.asarray(codes).astype(np.int64)
        if self.signed:
            levels = levels - ((levels >> (self.word - 1)) << self.word)
        return (levels * self.step).astype(dtype)

    def table(self) -> Table:
        if self.stochastic or self.overflow == "wrap" or self.word > MAX_TABLE_BITS:
            raise ValueError(
                f"{self.name} is not a table of thresholds: that takes deterministic rounding, saturation and at most "
                f"{MAX_TABLE_BITS} bits"
            )
        levels = range(self.lowest_level, self.highest_level + 1)
        return Table(
            self.name, tuple(k * self.step for k in levels), tuple(self._least(k) for k in levels if k > levels.start)
        )

    def _least(self, level: int) -> float:
        """Least float32 sent as `level`."""
        if self.rounding == "floor":
            return level * self.step
        middle = np.float32((level - 0.5) * self.step)
        return float(middle if level % 2 == 0 else np.nextafter(middle, np.float32(np.inf)))


def fixed(
    word: int, integer: int, rounding: str = "nearest-even", overflow: str = "saturate", signed: bool = True
) -> FixedPoint:
    """Fixed point with `word` bits, `integer` of them (sign included) before the binary point.

    `rounding` is one of `ROUNDINGS`, `overflow` of `OVERFLOWS`: "saturate-symmetric" leaves out the lowest value, as
    `symmetric` does.

    >>> fixed(3, 2).table().values
    (-2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5)
    """
    return FixedPoint(word, integer, rounding, overflow, signed)


def ufixed(word: int, integer: int, rounding: str = "nearest-even", overflow: str = "saturate") -> FixedPoint:
    """Unsigned `fixed`.

    >>> ufixed(2, 0).table().values
    (0.0, 0.25, 0.5, 0.75)
    """
    return FixedPoint(word, integer, rounding, overflow, signed=False)


def symmetric(word: int, integer: int, rounding: str = "nearest-even") -> FixedPoint:
    """`fixed` without its lowest value, which has no positive counterpart: overflow is "saturate-symmetric".

    >>> symmetric(2, -3).table().values
    (-0.03125, 0.0, 0.03125)
    >>> symmetric(2, -3).name
    'fixed(2,-3,saturate-symmetric)'
    """
    return FixedPoint(word, integer, rounding, "saturate-symmetric")
