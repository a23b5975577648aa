"""The base of number formats: how a number becomes a code, and the bits of a message."""

from abc import ABC, abstractmethod
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from .tables import Table

Floats = npt.NDArray[np.floating[Any]]
Codes = npt.NDArray[np.unsignedinteger[Any]]
T = TypeVar("T")

MAX_TABLE_BITS = 16
"""Largest width of a format as a table of values."""


class Format(ABC):
    """A number format: `bits` a code, and the number of each code."""

    name: str
    """Its spelling for `parse`."""

    @property
    @abstractmethod
    def bits(self) -> int:
        """Bits that one code takes on the wire."""

    @property
    @abstractmethod
    def largest(self) -> float:
        """Largest magnitude of a value."""

    @property
    def stochastic(self) -> bool:
        """Whether `encode` needs random numbers."""
        return False

    def scale_bits(self, neurons: int) -> int:
        """Bits of scales that cross with a message of `neurons` codes; 0 where the format has no scales of its own."""
        return 0

    def codes_in_row(self, neurons: int) -> int:
        """Codes in a message of `neurons` numbers: one for each, and those that hold its scales."""
        return neurons

    def neurons_in_row(self, codes: int) -> int:
        """Numbers in a message of so many codes."""
        return codes

    @cached_property
    def code_dtype(self) -> type[np.unsignedinteger[Any]]:
        """Smallest unsigned NumPy type that holds a code."""
        for dtype in (np.uint8, np.uint16, np.uint32):
            if self.bits <= np.iinfo(dtype).bits:
                return dtype
        return np.uint64

    @cached_property
    def zero(self) -> float:
        """The value that 0.0 is sent as."""
        return float(self.quantize(0.0, None if not self.stochastic else np.zeros(())))

    def encode(self, x: npt.ArrayLike, uniform: Floats | None = None) -> Codes:
        """Codes of `x` [..., neurons], [..., codes_in_row(neurons)]; of any shape where a format has no scales.

        `uniform` in [0, 1), of the shape of `x`, is needed only by stochastic formats. Raises ValueError
        if `x` holds NaN.
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
        """The numbers that arrive when `x` is sent."""
        return self.decode(self.encode(x, uniform))

    @abstractmethod
    def table(self) -> "Table":
        """The same encoder as an ascending table of values and thresholds. ValueError where there is none."""

    def __str__(self) -> str:
        return self.name
