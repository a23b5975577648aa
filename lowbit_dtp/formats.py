"""Number formats: which values a wire carries, and how a number becomes a code.

A few-bit format is a table of values: encoding counts the thresholds at or below `x`, decoding looks up. Wide formats
are rules behind the same two functions. The `encode` and `decode` here are the specification, in plain NumPy; the
kernels in `backends/` are held to them code for code.

    >>> parse("binary").encode([-0.5, 0.0, 0.5]).tolist()
    [0, 1, 1]
    >>> parse("fixed<4,2>").quantize([0.3, 9.0]).tolist()
    [0.25, 1.75]
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import isfinite
from typing import Any

import numpy as np
import numpy.typing as npt

from .choices import choose

Floats = npt.NDArray[np.floating[Any]]
Codes = npt.NDArray[np.unsignedinteger[Any]]

MAX_TABLE_BITS = 16
"""Widest format that is spelled out as a table of values."""


class Format(ABC):
    """What a wire carries: `bits` a code, and which number each code stands for."""

    name: str
    """How `parse` spells it."""

    @property
    @abstractmethod
    def bits(self) -> int:
        """Bits that one code takes on the wire."""

    @property
    @abstractmethod
    def largest(self) -> float:
        """Largest magnitude that arrives undistorted."""

    @property
    def stochastic(self) -> bool:
        """Whether `encode` needs random numbers."""
        return False

    @cached_property
    def code_dtype(self) -> type[np.unsignedinteger[Any]]:
        """Smallest unsigned NumPy type that holds a code."""
        for dtype in (np.uint8, np.uint16, np.uint32):
            if self.bits <= np.iinfo(dtype).bits:
                return dtype
        return np.uint64

    @cached_property
    def zero(self) -> float:
        """What 0.0 is sent as."""
        return float(self.quantize(0.0, None if not self.stochastic else np.zeros(())))

    def encode(self, x: npt.ArrayLike, uniform: Floats | None = None) -> Codes:
        """Codes of `x`, any shape. `uniform` in [0, 1), same shape, is needed by stochastic rounding alone.

        Raises ValueError if `x` holds NaN.
        """
        x = np.asarray(x)
        if np.isnan(x).any():
            raise ValueError(f"{self.name} cannot send NaN")
        return self._encode(x, uniform)

    @abstractmethod
    def _encode(self, x: Floats, uniform: Floats | None) -> Codes: ...

    @abstractmethod
    def decode(self, codes: npt.ArrayLike, dtype: npt.DTypeLike = np.float64) -> Floats:
        """The numbers that `codes` stand for, as `dtype`."""

    def quantize(self, x: npt.ArrayLike, uniform: Floats | None = None) -> Floats:
        """What arrives at the far end when `x` is sent."""
        return self.decode(self.encode(x, uniform))

    @abstractmethod
    def table(self) -> "Table":
        """The same encoder as an ascending table of values and thresholds. ValueError where there is none."""

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Table(Format):
    """A table of ascending `values`. Code `k` stands for `values[k]`.

    `thresholds[k - 1]` is the least `x` sent as code `k`; without them they lie halfway between neighbours, so a tie
    goes to the larger value.
    """

    name: str
    values: tuple[float, ...]
    thresholds: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.thresholds:
            object.__setattr__(self, "thresholds", tuple((a + b) / 2 for a, b in pairwise(self.values)))
        if len(self.values) < 2 or any(a >= b for a, b in pairwise(self.values)):
            raise ValueError(f"{self.name}: values must be two or more, ascending, not {self.values}")
        if len(self.values) > 2**MAX_TABLE_BITS:
            raise ValueError(f"{self.name}: a table holds at most {2**MAX_TABLE_BITS} values, not {len(self.values)}")
        if not all(map(isfinite, self.values + self.thresholds)):
            raise ValueError(f"{self.name}: values and thresholds must be finite, not {self.values}")
        if len(self.thresholds) != len(self.values) - 1 or any(a >= b for a, b in pairwise(self.thresholds)):
            raise ValueError(
                f"{self.name}: {len(self.values)} values need {len(self.values) - 1} ascending thresholds, "
                f"not {self.thresholds}"
            )

    @property
    def bits(self) -> int:
        return (len(self.values) - 1).bit_length()

    @property
    def largest(self) -> float:
        return max(abs(self.values[0]), abs(self.values[-1]))

    def _encode(self, x: Floats, uniform: Floats | None) -> Codes:
        return np.searchsorted(np.asarray(self.thresholds), x, side="right").astype(self.code_dtype)

    def decode(self, codes: npt.ArrayLike, dtype: npt.DTypeLike = np.float64) -> Floats:
        return np.asarray(self.values, dtype)[np.asarray(codes)]

    def table(self) -> "Table":
        return self

    def __str__(self) -> str:
        return self.name


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


binary = Table("binary", (-1.0, 1.0))
"""{-1, +1}; sends 0.0 as +1. (The thesis' scripts send it as -1.)"""

binary01 = Table("binary01", (0.0, 1.0), (0.0,))
"""{0, 1}, firing at 0 and above as eq. 3.24 of the thesis, which sends 0.0 itself as 0; here it is 1."""

ternary = Table("ternary", (-1.0, 0.0, 1.0))
"""{-1, 0, +1} in two bits, with thresholds -1/2 and +1/2."""

float32 = Float(32)
float64 = Float(64)


def fixed(
    word: int, integer: int, rounding: str = "nearest-even", overflow: str = "saturate", signed: bool = True
) -> FixedPoint:
    """Fixed point with `word` bits, `integer` of them (sign included) before the binary point.

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


def table(values: Sequence[float], thresholds: Sequence[float] = ()) -> Table:
    """A format of your own: ascending `values`, and the least `x` sent as each but the first, if not halfway.

    >>> table([-1, 0, 0.5]).name
    'table(-1,0,0.5)'
    >>> table([-1, 1], [0.25]).name
    'table(-1,1;0.25)'
    """
    name = ",".join(map(_number, values)) + (";" + ",".join(map(_number, thresholds)) if thresholds else "")
    return Table(f"table({name})", tuple(map(float, values)), tuple(map(float, thresholds)))


def _number(x: float) -> str:
    return repr(int(x)) if isfinite(x) and x == int(x) else repr(float(x))


NAMED: dict[str, Format] = {fmt.name: fmt for fmt in (binary, binary01, ternary, float32, float64)}
"""Formats that go by a bare name."""

SPELLINGS = (*NAMED, "fixed(W,I)", "ufixed(W,I)", "fixed(W,I,floor|stochastic,wrap)", "table(-1,0,0.5)")
"""What `parse` understands, as told to users."""


def parse(text: str) -> Format:
    """The format that `text` names: a bare name, `fixed(W,I)` or `fixed<W,I>`, `ufixed(...)`, or `table(...)`.

    >>> parse("fixed<8,1>") == parse("fixed(8,1)") == fixed(8, 1)
    True
    >>> parse("fixd(8,1)")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: no format 'fixd(8,1)'; there are: binary, binary01, ternary, float32, float64, fixed(W,I), ...
    """
    text = text.replace(" ", "")
    if text in NAMED:
        return NAMED[text]
    call = re.fullmatch(r"(u?fixed|table)(?:\((.+)\)|<(.+)>)", text)
    if not call:
        raise ValueError(f"no format {text!r}; there are: {', '.join(SPELLINGS)}")
    kind, arguments = call[1], call[2] or call[3]
    try:
        if kind == "table":
            values, _, thresholds = arguments.partition(";")
            return table(_floats(values), _floats(thresholds) if thresholds else ())
        word, integer, *rest = arguments.split(",")
        sizes = int(word), int(integer)
    except ValueError as error:
        raise ValueError(f"format {text!r}: {error}") from None
    rounding = next((r for r in rest if r in ROUNDINGS), "nearest-even")
    overflow = next((r for r in rest if r in OVERFLOWS), "saturate")
    for word in set(rest) - {rounding, overflow}:
        raise ValueError(
            f"format {text!r}: no rounding or overflow {word!r}; there are: {', '.join(ROUNDINGS)}, "
            f"{', '.join(OVERFLOWS)}"
        )
    return FixedPoint(*sizes, rounding, overflow, signed=kind == "fixed")


def _floats(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]
