"""Few-bit formats that are a table of values, and a bit that is drawn at random."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite

import numpy as np
import numpy.typing as npt

from .base import MAX_TABLE_BITS, Codes, Floats, Format


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


binary = Table("binary", (-1.0, 1.0))
"""{-1, +1}; sends 0.0 as +1. (The thesis' scripts send it as -1.)"""

binary01 = Table("binary01", (0.0, 1.0), (0.0,))
"""{0, 1}, firing at 0 and above as eq. 3.24 of the thesis, which sends 0.0 itself as 0; here it is 1."""

ternary = Table("ternary", (-1.0, 0.0, 1.0))
"""{-1, 0, +1} in two bits, with thresholds -1/2 and +1/2."""


@dataclass(frozen=True)
class Bernoulli(Format):
    """{0, 1}: 1 with probability `x`, clipped to [0, 1]; the codes of `ufixed(1,1,stochastic)`.

    The code is 1 where `x >= 1 - uniform`. `uniform` are multiples of 2^-24, as backends draw them, so that float32
    holds the difference exactly.
    """

    name: str = "bernoulli"

    @property
    def bits(self) -> int:
        return 1

    @property
    def largest(self) -> float:
        return 1.0

    @property
    def stochastic(self) -> bool:
        return True

    def _encode(self, x: Floats, uniform: Floats | None) -> Codes:
        if uniform is None:
            raise ValueError(f"{self.name} draws its codes: it needs uniform random numbers, one per value")
        return (x >= 1 - np.asarray(uniform)).astype(self.code_dtype)

    def decode(self, codes: npt.ArrayLike, dtype: npt.DTypeLike = np.float64) -> Floats:
        return np.asarray(codes).astype(dtype)

    def table(self) -> Table:
        raise ValueError(
            f"{self.name} is not a table of thresholds, since it draws its codes at random; choose binary01 or another "
            "few-bit format"
        )


bernoulli = Bernoulli()
"""{0, 1}, 1 with probability `x`: a sampled binary unit."""


def table(values: Sequence[float], thresholds: Sequence[float] = ()) -> Table:
    """Your own format: ascending `values`, and thresholds, if not halfway: the least `x` sent as each but the first.

    >>> table([-1, 0, 0.5]).name
    'table(-1,0,0.5)'
    >>> table([-1, 1], [0.25]).name
    'table(-1,1;0.25)'
    """
    name = ",".join(map(_number, values)) + (";" + ",".join(map(_number, thresholds)) if thresholds else "")
    return Table(f"table({name})", tuple(map(float, values)), tuple(map(float, thresholds)))


def scaled(fmt: Table, factor: float) -> Table:
    """`fmt` with values and thresholds times `factor`, above zero.

    >>> scaled(ternary, 0.05).values
    (-0.05, 0.0, 0.05)
    >>> scaled(ternary, 0.05).name
    'ternary*0.05'
    """
    name = f"{fmt.name}*{_number(factor)}"
    if not (isfinite(factor) and factor > 0):
        raise ValueError(f"{name}: a table is scaled by a number above zero, not {factor}")
    values, thresholds = (tuple(x * factor for x in numbers) for numbers in (fmt.values, fmt.thresholds))
    return Table(name, values, thresholds)


def _number(x: float) -> str:
    return repr(int(x)) if isfinite(x) and x == int(x) else repr(float(x))
