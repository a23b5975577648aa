"""The codes of a format as symbols that can be told apart in few bits, and the bits of its messages."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ..formats import Codes, FixedPoint, Format, ScaledFormat, Table

Bits = npt.NDArray[np.uint8]
"""Bits, each 0 or 1, in the order in which they are sent."""


@dataclass(frozen=True)
class Symbols:
    """The codes that a format sends: how many there are, and which one is idle."""

    bits: int
    """Bits a code."""
    number: int
    """Codes that may be sent: 3 of `ternary`, in two bits."""
    idle: int
    """Code of 0.0 if the format has this value, else 0, the code of the lowest value."""
    unused: int | None = None
    """A code with sent ones above and below it, which is never sent: the lowest value of `symmetric(W,I)`."""

    @property
    def value_bits(self) -> int:
        """Bits that tell which code it is, if it is known which one it is not: 0 of two codes, 1 of three."""
        return (self.number - 2).bit_length()

    def difference(self, codes: Codes, reference: Codes) -> npt.NDArray[np.uint64]:
        """What `codes` are ahead of `reference`, modulo `number`: 0 where they are equal."""
        ahead = self._index(codes) - self._index(reference)  # modulo 2^64
        if self.number & (self.number - 1) == 0:
            return ahead & np.uint64(self.number - 1)
        return (ahead + np.uint64(self.number)) % np.uint64(self.number)

    def ahead(self, reference: Codes, difference: npt.NDArray[np.uint64]) -> Codes:
        """The codes that are `difference` ahead of `reference`."""
        index = self._index(reference) + difference
        if self.number & (self.number - 1) == 0:
            index &= np.uint64(self.number - 1)
        else:
            index %= np.uint64(self.number)
        if self.unused is not None:
            index += index >= np.uint64(self.unused)
        return index.astype(reference.dtype)

    def _index(self, codes: Codes) -> npt.NDArray[np.uint64]:
        index = codes.astype(np.uint64)
        return index if self.unused is None else index - (codes > self.unused)


@cache
def symbols_of(fmt: Format) -> Symbols:
    """The codes of `fmt`; of those that share scales, without these.

    >>> from lowbit_dtp.formats import binary, ternary, symmetric
    >>> symbols_of(binary)
    Symbols(bits=1, number=2, idle=0, unused=None)
    >>> symbols_of(ternary).idle, symbols_of(ternary).value_bits, symbols_of(symmetric(4, 1)).number
    (1, 1, 15)
    """
    if isinstance(fmt, ScaledFormat):
        return symbols_of(fmt.element)
    if isinstance(fmt, Table):
        return Symbols(fmt.bits, len(fmt.values), fmt.values.index(0.0) if 0.0 in fmt.values else 0)
    if isinstance(fmt, FixedPoint) and fmt.signed and fmt.overflow == "saturate-symmetric":
        return Symbols(fmt.bits, 2**fmt.bits - 1, 0, 2 ** (fmt.bits - 1))
    zero = fmt.encode(np.zeros(1), np.zeros(1))[0] if fmt.zero == 0 else 0
    return Symbols(fmt.bits, 2**fmt.bits, int(zero))


def has_zero(fmt: Format) -> bool:
    """Whether the idle code of `fmt` stands for 0.0.

    >>> from lowbit_dtp.formats import binary, ternary
    >>> has_zero(binary), has_zero(ternary)
    (False, True)
    """
    if isinstance(fmt, ScaledFormat):
        return has_zero(fmt.element)
    return 0.0 in fmt.values if isinstance(fmt, Table) else True


@cache
def idle_word(fmt: Format, neurons: int) -> Codes:
    """The codes of a message that says nothing: idle codes, and the scales that go with them."""
    if isinstance(fmt, ScaledFormat):
        return fmt.encode(np.zeros(neurons), np.zeros(neurons))
    return np.full(neurons, symbols_of(fmt).idle, fmt.code_dtype)


def bits_of(codes: npt.NDArray[Any], bits: int) -> Bits:
    """Each code as `bits` bits, the lowest first, as `packing` has them: [..., codes * bits].

    >>> bits_of(np.array([1, 2], np.uint8), 2).tolist()
    [1, 0, 0, 1]
    """
    size, shape = codes.dtype.itemsize, codes.shape
    stored = np.ascontiguousarray(codes, codes.dtype.newbyteorder("<")).reshape(*shape, 1).view(np.uint8)
    lanes = np.unpackbits(stored, axis=-1, bitorder="little")
    return lanes.reshape(*shape, 8 * size)[..., :bits].reshape(*shape[:-1], shape[-1] * bits)


def codes_of(bits: Bits, width: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """The inverse of `bits_of` for codes of `width` bits."""
    size = np.dtype(dtype).itemsize
    lanes = bits.reshape(*bits.shape[:-1], bits.shape[-1] // width if width else 0, width)
    lanes = np.pad(lanes, [(0, 0)] * (lanes.ndim - 1) + [(0, 8 * size - width)])
    stored = np.packbits(lanes, axis=-1, bitorder="little")
    return stored.view(np.dtype(dtype).newbyteorder("<"))[..., 0].astype(dtype)


@cache
def sent_bits(fmt: Format, neurons: int) -> npt.NDArray[np.bool_]:
    """Which bits of the codes of a message cross: all but those in which the codes of a scale are longer than it."""
    sent = np.ones(neurons * fmt.bits, np.bool_)
    if isinstance(fmt, ScaledFormat):
        of_block, of_message = (np.arange(codes * fmt.bits) for codes in fmt.scale_codes)
        blocks = np.tile(of_block < fmt.block_scale_bits, fmt.blocks(neurons))
        sent = np.concatenate([sent, blocks, of_message < fmt.message_scale_bits])
    if sent.sum() != neurons * fmt.bits + fmt.scale_bits(neurons):
        raise ValueError(f"format {fmt.name} has scales, and codings know only those of a ScaledFormat")
    return sent
