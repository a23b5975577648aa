"""Formats whose codes share scales, which cross with each message: one message is one sample's row.

In the array of codes, the scales of a row follow its codes, cut into codes of the same width with the lowest bits
first: an exponent of 8 bits is two codes of 4 bits. So packing, and counting of ones and toggles, treat
both alike. Unused bits of the last code of a scale are zero, and are not counted as bits that cross.
"""

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from .base import Codes, Floats, Format
from .fixed_point import ROUNDINGS, FixedPoint
from .floating import SmallFloat, e2m1, e4m3, e5m2
from .tables import Table

Integers = npt.NDArray[np.int64]

_TINY, _HUGE = 2.0**-1000, 2.0**1000
"""Magnitudes whose exponents are out of every range, for zero and infinity."""


class ScaledFormat(Format):
    """Codes of an `element` format for numbers that are divided by a scale, which blocks of neurons share."""

    element: Format
    """Format of the numbers once divided."""
    block: int | None
    """Neurons that share a scale, the last block perhaps fewer; None for all of a message."""
    block_scale_bits: int
    """Bits of a block's scale."""
    message_scale_bits: int = 0
    """Bits of a scale that all blocks of a message share."""

    @property
    def bits(self) -> int:
        return self.element.bits

    @property
    def stochastic(self) -> bool:
        return self.element.stochastic

    def blocks(self, neurons: int) -> int:
        """Blocks in a message."""
        return 1 if self.block is None else -(-neurons // self.block)

    def scale_bits(self, neurons: int) -> int:
        return self.blocks(neurons) * self.block_scale_bits + self.message_scale_bits

    @cached_property
    def scale_codes(self) -> tuple[int, int]:
        """Codes that hold a block's scale, and the message's."""
        return -(-self.block_scale_bits // self.bits), -(-self.message_scale_bits // self.bits)

    def codes_in_row(self, neurons: int) -> int:
        of_block, of_message = self.scale_codes
        return neurons + self.blocks(neurons) * of_block + of_message

    def neurons_in_row(self, codes: int) -> int:
        of_block, of_message = self.scale_codes
        codes -= of_message
        return codes - (1 if self.block is None else -(-codes // (self.block + of_block))) * of_block

    def quantize(self, x: npt.ArrayLike, uniform: Floats | None = None) -> Floats:
        return super().quantize(x, uniform).reshape(np.shape(x))

    def _encode(self, x: Floats, uniform: Floats | None) -> Codes:
        rows = np.atleast_1d(np.asarray(x, np.float64))
        neurons, blocks = rows.shape[-1], self.blocks(rows.shape[-1])
        size = neurons if self.block is None else self.block
        padded = np.pad(rows, [(0, 0)] * (rows.ndim - 1) + [(0, blocks * size - neurons)])
        largest = np.abs(padded.reshape(*rows.shape[:-1], blocks, size)).max(-1, initial=0)
        scales, of_blocks, of_message = self._scales(largest)
        each = np.repeat(scales, size, axis=-1)[..., :neurons]
        divided = np.divide(rows, each, out=np.zeros(rows.shape), where=each != 0)
        codes = self.element.encode(divided, None if uniform is None else np.reshape(uniform, rows.shape))
        parts = [codes, _cut(of_blocks, self.block_scale_bits, self.bits)]
        if of_message is not None:
            parts.append(_cut(of_message, self.message_scale_bits, self.bits))
        return np.concatenate([part.astype(self.code_dtype) for part in parts], -1)

    def decode(self, codes: npt.ArrayLike, dtype: npt.DTypeLike = np.float64) -> Floats:
        codes = np.asarray(codes)
        neurons = self.neurons_in_row(codes.shape[-1])
        blocks, (of_block, _) = self.blocks(neurons), self.scale_codes
        end = neurons + blocks * of_block
        of_blocks = _joined(codes[..., neurons:end], of_block, self.bits)
        of_message = _joined(codes[..., end:], codes.shape[-1] - end, self.bits) if self.message_scale_bits else None
        scales = self._decoded_scales(of_blocks, of_message)
        each = np.repeat(scales, neurons if self.block is None else self.block, axis=-1)[..., :neurons]
        with np.errstate(over="ignore"):  # next to the largest float32, a number may be rounded to infinity
            return (self.element.decode(codes[..., :neurons]) * each).astype(dtype)

    @abstractmethod
    def _scales(self, largest: Floats) -> tuple[Floats, Integers, Integers | None]:
        """Scales for the largest magnitudes [..., blocks]; their codes, and [..., 1] the code of the message's."""

    @abstractmethod
    def _decoded_scales(self, of_blocks: Integers, of_message: Integers | None) -> Floats:
        """The scales [..., blocks] of which `_scales` gave the codes."""

    def table(self) -> Table:
        raise ValueError(
            f"{self.name} is not a table of thresholds, since its scales depend on the message; choose a fixed-point "
            "or few-bit format"
        )


def _cut(scales: Integers, scale_bits: int, bits: int) -> Integers:
    """Scales [..., n] of so many bits as codes [..., n * codes of each]."""
    lanes = np.arange(0, scale_bits, bits)
    cut: Integers = (scales[..., None] >> lanes) & (2**bits - 1)
    return cut.reshape(*scales.shape[:-1], scales.shape[-1] * len(lanes))


def _joined(codes: Codes, each: int, bits: int) -> Integers:
    """The scales that codes hold, `each` of them one."""
    parts = codes.reshape(*codes.shape[:-1], codes.shape[-1] // each, each).astype(np.int64)
    joined: Integers = (parts << np.arange(each) * bits).sum(-1)
    return joined


class PowerOfTwoScaled(ScaledFormat):
    """A scale is a power of two, sent as its exponent plus `bias`.

    With 8 bits that is OCP's E8M0: 2^-127 to 2^127. Here as there, the code of all ones is not sent.
    """

    @property
    def bias(self) -> int:
        """What is added to an exponent; also the largest exponent."""
        return int(2 ** (self.block_scale_bits - 1) - 1)

    @property
    def largest(self) -> float:
        return self.element.largest * 2.0**self.bias

    @abstractmethod
    def _exponents(self, largest: Floats) -> Integers:
        """Exponents for the largest magnitudes, above zero, whatever the range of exponents."""

    def _scales(self, largest: Floats) -> tuple[Floats, Integers, Integers | None]:
        exponents = np.clip(self._exponents(np.clip(largest, _TINY, _HUGE)), -self.bias, self.bias)
        return np.ldexp(1.0, exponents), exponents + self.bias, None

    def _decoded_scales(self, of_blocks: Integers, of_message: Integers | None) -> Floats:
        return np.ldexp(1.0, of_blocks - self.bias)


@dataclass(frozen=True)
class SharedExponent(PowerOfTwoScaled):
    """Two's complement of `word` bits without its lowest value, and one exponent of `exponent` bits for each message.

    The scale is the smallest power of two for which the message's largest magnitude lies within the range of codes.
    """

    word: int
    exponent: int = 8
    rounding: str = "nearest-even"
    block: ClassVar[None] = None  # type: ignore[misc]

    def __post_init__(self) -> None:
        if not 2 <= self.word <= 16:
            raise ValueError(f"{self.name}: a word has 2 to 16 bits, not {self.word}")
        if not 2 <= self.exponent <= 8:
            raise ValueError(f"{self.name}: an exponent has 2 to 8 bits, not {self.exponent}")
        if self.rounding not in ROUNDINGS:
            raise ValueError(f"{self.name}: no rounding {self.rounding!r}; there are: {', '.join(ROUNDINGS)}")

    @cached_property
    def name(self) -> str:  # type: ignore[override]
        more = [str(v) for v, usual in ((self.exponent, 8), (self.rounding, "nearest-even")) if v != usual]
        return f"shared({','.join([str(self.word), *more])})"

    @cached_property
    def element(self) -> FixedPoint:  # type: ignore[override]
        return FixedPoint(self.word, self.word, self.rounding, "saturate-symmetric")

    @property
    def block_scale_bits(self) -> int:  # type: ignore[override]
        return self.exponent

    @property
    def top(self) -> float:
        """Largest code's part of the next power of two, in [0.5, 1)."""
        return self.element.highest_level / 2 ** (self.word - 1)

    def _exponents(self, largest: Floats) -> Integers:
        fraction, exponent = np.frexp(largest)
        exponents: Integers = exponent.astype(np.int64) - (self.word - 1) + (fraction > self.top)
        return exponents


@dataclass(frozen=True)
class Microscaling(PowerOfTwoScaled):
    """A format of the OCP Microscaling Formats (MX) Specification 1.0: blocks of 32 with a scale in E8M0 each.

    The scale is the largest power of two in the block over the largest of the element format (section 6.3), so that a
    number next to a power of two may saturate.
    """

    name: str
    element: SmallFloat | FixedPoint
    block: int = 32
    block_scale_bits: int = 8

    @property
    def highest_exponent(self) -> int:
        """Exponent of the element's largest power of two."""
        if isinstance(self.element, SmallFloat):
            return self.element.highest_exponent
        return self.element.integer - 2

    def _exponents(self, largest: Floats) -> Integers:
        exponents: Integers = np.frexp(largest)[1].astype(np.int64) - 1 - self.highest_exponent
        return exponents


@dataclass(frozen=True)
class NVFP4(ScaledFormat):
    """E2M1 in blocks of 16, with a scale in E4M3 each, and a float32 scale for each message (arXiv:2509.25149).

    The message's scale takes its largest magnitude to 6 * 448, a block's takes its largest magnitude to 6. A block
    that is so much smaller that its scale rounds to zero is sent as zeros.
    """

    name: str = "nvfp4"
    element: SmallFloat = e2m1
    block: int = 16
    block_scale_bits: int = 8
    message_scale_bits: int = 32
    block_scale: SmallFloat = e4m3

    @property
    def largest(self) -> float:
        return float(np.finfo(np.float32).max)

    def _scales(self, largest: Floats) -> tuple[Floats, Integers, Integers | None]:
        numbers = np.finfo(np.float32)
        largest = np.minimum(largest, float(numbers.max))
        all_blocks = largest.max(-1, keepdims=True, initial=0) / (self.element.largest * self.block_scale.largest)
        message = np.maximum(all_blocks.astype(np.float32), numbers.smallest_normal)
        of_blocks = self.block_scale.encode(largest / (self.element.largest * message.astype(np.float64)))
        scales = self.block_scale.decode(of_blocks) * message
        return scales, of_blocks.astype(np.int64), message.view(np.uint32).astype(np.int64)

    def _decoded_scales(self, of_blocks: Integers, of_message: Integers | None) -> Floats:
        assert of_message is not None
        return self.block_scale.decode(of_blocks) * of_message.astype(np.uint32).view(np.float32)


mxfp8_e4m3 = Microscaling("mxfp8-e4m3", e4m3)
mxfp8_e5m2 = Microscaling("mxfp8-e5m2", e5m2)
mxfp4 = Microscaling("mxfp4", e2m1)
mxint8 = Microscaling("mxint8", FixedPoint(8, 2, overflow="saturate-symmetric"))
"""8 bits of which 6 come after the binary point. -2, which the specification leaves open, is not sent."""
nvfp4 = NVFP4()


def shared(word: int, exponent: int = 8, rounding: str = "nearest-even") -> SharedExponent:
    """Symmetric codes of `word` bits, with one power of two for each message, sent in `exponent` bits.

    >>> shared(4).quantize([0.7, -0.31, 0.04]).tolist()
    [0.75, -0.25, 0.0]
    >>> shared(4).bits, shared(4).scale_bits(500)
    (4, 8)
    """
    return SharedExponent(word, exponent, rounding)
