"""Codings of words whose bits are on parallel wires: as they are, or inverted where that changes fewer wires."""

from typing import ClassVar

import numpy as np

from ..formats import Codes, Format, ScaledFormat
from .base import Coding, Counts, Exchange, Reader, WordCoding
from .symbols import Bits, Symbols, bits_of, codes_of, sent_bits

BUS = 8
"""Wires that share an invert line, a byte; the last bus of a message may have fewer."""


class Plain(WordCoding):
    """The codes one after the other, in the bits of their format. No header."""

    name: ClassVar[str] = "plain"
    source: ClassVar[str] = "the format"

    def word_bits(self, codes: Codes, before: Codes | None, symbols: Symbols) -> Counts:
        return np.full(len(codes), codes.shape[-1] * symbols.bits)

    def encoded_word(self, codes: Codes, before: Codes | None, symbols: Symbols) -> list[Bits]:
        return [bits_of(codes, symbols.bits)]

    def decoded_word(self, reader: Reader, before: Codes | None, symbols: Symbols, like: Codes) -> Codes:
        return reader.codes(len(like), symbols.bits, like.dtype)


class BusInvert(Coding):
    """Bus-invert: each bus of `BUS` wires has one more line, which says whether its wires are inverted.

    The line changes where that lets fewer lines change in all, itself included. So a word that differs from the last
    one in d wires of a bus of n changes min(d, n + 1 - d) lines. Bits are those of `plain` and one a bus; what the
    coding lowers are toggles. Scales are on wires like codes.
    """

    name: ClassVar[str] = "bus-invert"
    source: ClassVar[str] = "Stan and Burleson, IEEE Transactions on VLSI Systems 3(1), 1995"

    def bits(self, exchange: Exchange, fmt: Format) -> Counts:
        wires = _wires(fmt, exchange.shape[-1])
        return np.full(exchange.shape[:-1], wires + _buses(wires))

    def encode(self, exchange: Exchange, fmt: Format) -> Bits:
        """The levels of all lines, word after word, on a bus that was all zero."""
        return self.lines(exchange.reshape(-1, exchange.shape[-1]), fmt).ravel()

    def decode(self, bits: Bits, fmt: Format, shape: tuple[int, int, int]) -> Exchange:
        reader, (words, messages, row) = Reader(bits, self.name), shape
        neurons, wires = fmt.neurons_in_row(row), _wires(fmt, row)
        lines = reader.take(words * messages * (wires + _buses(wires)))
        reader.end()
        lines = lines.reshape(words, messages, wires + _buses(wires))
        inverted = np.repeat(lines[..., wires:], BUS, axis=-1)[..., :wires]
        lanes = np.zeros((words, messages, row * fmt.bits), np.uint8)
        lanes[..., sent_bits(fmt, neurons)] = lines[..., :wires] ^ inverted
        return codes_of(lanes, fmt.bits, fmt.code_dtype)

    def lines(self, codes: Codes, fmt: Format, before: Bits | None = None) -> Bits:
        """Levels [messages, wires and invert lines] for `codes` [messages, codes in a row].

        `before` are the levels before the first message; all zero if not given.
        """
        levels = _levels(codes, fmt)
        wires = levels.shape[-1]
        before = np.zeros(wires + _buses(wires), np.uint8) if before is None else before
        last = before[:wires] ^ np.repeat(before[wires:], BUS)[:wires]
        changed = np.packbits(levels ^ np.concatenate([last[None], levels[:-1]]), axis=-1, bitorder="little")
        different = np.bitwise_count(changed)
        changes = (2 * different > _sizes(wires) + 1).astype(np.uint8)
        inverted = np.bitwise_xor.accumulate(np.concatenate([before[None, wires:], changes]))[1:]
        return np.concatenate([levels ^ np.repeat(inverted, BUS, axis=-1)[:, :wires], inverted], -1)

    def toggles(self, codes: Codes, fmt: Format, before: Codes | None) -> Counts:
        """Lines that change with each message [..., messages] of `codes` [..., messages, codes in a row].

        `before` [..., codes in a row] was sent before the first message, which without it changes nothing.
        """
        first = codes[..., :1, :] if before is None else before[..., None, :]
        changed = codes ^ np.concatenate([first, codes[..., :-1, :]], -2)
        if fmt.bits == 8 * changed.dtype.itemsize and not isinstance(fmt, ScaledFormat):
            buses = changed.view(np.uint8)
        else:
            buses = np.packbits(_levels(changed, fmt), axis=-1, bitorder="little")
        different, sizes = np.bitwise_count(buses), _sizes(_wires(fmt, codes.shape[-1])).astype(np.uint8)
        toggles: Counts = np.minimum(different, sizes + np.uint8(1) - different).sum(-1, dtype=np.int64)
        return toggles


def _wires(fmt: Format, row: int) -> int:
    """Bits of a message of so many codes."""
    return int(sent_bits(fmt, fmt.neurons_in_row(row)).sum())


def _buses(wires: int) -> int:
    return -(-wires // BUS)


def _sizes(wires: int) -> Counts:
    """Wires of each bus."""
    sizes: Counts = np.minimum(BUS, wires - BUS * np.arange(_buses(wires)))
    return sizes


def _levels(codes: Codes, fmt: Format) -> Bits:
    """The levels [..., wires] of wires that carry `codes` [..., codes in a row]."""
    levels = bits_of(codes, fmt.bits)
    if not isinstance(fmt, ScaledFormat):
        return levels
    return levels[..., sent_bits(fmt, fmt.neurons_in_row(codes.shape[-1]))]
