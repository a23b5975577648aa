"""Few-bit formats of weights: levels times a scale that is a power of two, one scale for all weights of a projection.

>>> parse_weights("ternary").bits, parse_weights("fixed(4)").highest
(2, 7)
>>> parse_weights("binary:0.25").with_scale(0.25).values
(-0.25, 0.25)
"""

import re
from dataclasses import dataclass
from functools import cached_property
from math import frexp, log2

from .formats import FixedPoint, Format, table

SCALINGS = {
    "least-squares": "recomputed with each update, for the least squared error",
    "largest": "recomputed with each update, for the largest weight to be in range",
    "initial": "of least squares at the start, then kept",
    "learned": "trained: Esser et al., ICLR 2020, for powers of two as in Jain et al., MLSys 2020",
}
"""How the scale is computed, if it is not given as a number."""

SPELLINGS = ("float32", "binary", "ternary", "fixed(2)", "...", "fixed(8)", "FORMAT:SCALING")
"""Spellings that `parse_weights` understands, for help texts and errors."""


@dataclass(frozen=True)
class WeightFormat:
    """A few-bit format of weights: its levels, and how their scale is computed."""

    levels: str
    """`binary`, `ternary`, or `fixed(W)`: W bits, symmetric, -(2^(W-1) - 1) to 2^(W-1) - 1."""
    bits: int
    scaling: str = "least-squares"
    """One of `SCALINGS`, or a power of two."""

    @cached_property
    def name(self) -> str:
        """How `parse_weights` spells it."""
        return self.levels if self.scaling == "least-squares" else f"{self.levels}:{self.scaling}"

    @property
    def number(self) -> str:
        """Its name in ledgers: the format without its scale."""
        return f"fixed({self.bits},1)" if self.levels.startswith("fixed") else self.levels

    @property
    def highest(self) -> int:
        """The highest level."""
        return max(1, 2 ** (self.bits - 1) - 1)

    @property
    def follows(self) -> bool:
        """Whether the scale is computed from the weights with each update."""
        return self.scaling in ("least-squares", "largest")

    @property
    def operations(self) -> dict[str, int]:
        """Operations of quantizing one weight, its share of the scale included; comparisons count as additions.

        Factors that are powers of two are free.
        """
        adds = 0 if self.levels == "binary" else 2
        if not self.follows:
            return {"add": adds + 2}  # clipping
        squares = self.levels.startswith("fixed") and self.scaling == "least-squares"
        adds += 2 if self.levels == "ternary" and self.scaling == "least-squares" else 1
        return {"multiply": 1, "add": adds} if squares else {"add": adds}

    def with_scale(self, scale: float) -> Format:
        """The format whose values are the levels times `scale`, a power of two."""
        if self.levels == "binary":
            return table([-scale, scale])
        if self.levels == "ternary":
            return table([-scale, 0.0, scale])
        return FixedPoint(self.bits, self.bits + round(log2(scale)), overflow="saturate-symmetric")


def parse_weights(text: str) -> WeightFormat | None:
    """The format of weights that `text` names; None for float32, which does not quantize.

    >>> parse_weights("fixed(4,0)") == parse_weights("fixed(4):0.0625")
    True
    >>> parse_weights("binary:loudest")
    Traceback (most recent call last):
    ValueError: binary:loudest: no scaling 'loudest'; there are: least-squares, largest, initial, learned, ...
    """
    levels, _, scaling = text.replace(" ", "").partition(":")
    if levels == "float32" and not scaling:
        return None
    fixed = re.fullmatch(r"fixed(?:\((\d+)(?:,(-?\d+))?\)|<(\d+)(?:,(-?\d+))?>)", levels)
    bits = int(fixed[1] or fixed[3]) if fixed else {"binary": 1, "ternary": 2}.get(levels, 0)
    if not bits or (fixed and not 2 <= bits <= 8):
        raise ValueError(f"no format {text!r}; there are: {', '.join(SPELLINGS)}")
    if (levels, scaling) == ("binary", "largest"):
        raise ValueError(f"{text}: the largest weight is no scale for all; write binary:least-squares")
    if fixed and (integer := fixed[2] or fixed[4]):
        if scaling:
            raise ValueError(f"{text}: {levels} has a scale already; write fixed({bits}):{scaling}")
        scaling = repr(2.0 ** (int(integer) - bits))
    name = f"fixed({bits})" if fixed else levels
    return WeightFormat(name, bits, _scaling(text, scaling))


def _scaling(text: str, scaling: str) -> str:
    if not scaling or scaling in SCALINGS:
        return scaling or "least-squares"
    try:
        scale = float(scaling)
    except ValueError:
        known = ", ".join(SCALINGS)
        raise ValueError(f"{text}: no scaling {scaling!r}; there are: {known}, or a power of two") from None
    if not 2.0**-64 <= scale <= 2.0**64 or frexp(scale)[0] != 0.5:
        raise ValueError(f"{text}: the scale must be a power of two, 0.125 say, not {scaling}")
    return repr(scale)
