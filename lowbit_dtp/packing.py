"""Packed words: codes of `bits` bits, side by side in uint64, the first code in the least significant bits.

A row of codes starts on a fresh word, as a message does on a wire; the bits left over in its last word are zero.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.unsignedinteger[Any]]
Words = npt.NDArray[np.uint64]

WORD_BITS = 64


def packed_width(neurons: int, bits: int) -> int:
    """Words that a row of `neurons` codes of `bits` bits takes."""
    return -(-neurons * bits // WORD_BITS)


def pack(codes: Codes, bits: int) -> Words:
    """`codes` [..., neurons] as words [..., packed_width(neurons, bits)].

    >>> pack(np.array([1, 0, 1, 1], np.uint8), bits=1).tolist()
    [13]

    Raises ValueError if a code does not fit in `bits`.
    """
    if codes.size and int(codes.max()) >= 1 << bits:
        raise ValueError(f"code {int(codes.max())} does not fit in {bits} bits")
    neurons = codes.shape[-1]
    lanes = _bit_lanes(bits)
    stream = (codes[..., None].astype(np.uint64) >> lanes & np.uint64(1)).astype(np.uint8)
    stream = stream.reshape(*codes.shape[:-1], neurons * bits)
    padding = packed_width(neurons, bits) * WORD_BITS - neurons * bits
    stream = np.pad(stream, [(0, 0)] * (codes.ndim - 1) + [(0, padding)])
    return np.packbits(stream, axis=-1, bitorder="little").view("<u8").astype(np.uint64)


def unpack(words: Words, bits: int, neurons: int) -> Codes:
    """Codes [..., neurons] of which `pack` made `words`, in the smallest unsigned type that holds them.

    >>> unpack(np.array([13], np.uint64), bits=1, neurons=4).tolist()
    [1, 0, 1, 1]
    """
    stream = np.unpackbits(words.astype("<u8").view(np.uint8), axis=-1, bitorder="little", count=neurons * bits)
    lanes = stream.reshape(*words.shape[:-1], neurons, bits).astype(np.uint64) << _bit_lanes(bits)
    return lanes.sum(-1, dtype=np.uint64).astype(np.min_scalar_type((1 << bits) - 1))


def _bit_lanes(bits: int) -> Words:
    return np.arange(bits, dtype=np.uint64)
