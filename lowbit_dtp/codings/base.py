"""The base of codings, and the stream of bits that they write and read."""

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from ..formats import Codes, Format
from .symbols import Bits, Symbols, bits_of, codes_of, sent_bits, symbols_of

Exchange = npt.NDArray[np.unsignedinteger]
"""Codes [words, messages, codes in a row]: the words that cross for each sample, one after the other."""
Counts = npt.NDArray[np.int64]

FOLLOWS = {"target": "state"}
"""Purpose of a message that follows another of the same sample on the same link and direction, and of that other.

Both are one exchange if the second is the next after the first, and of the same shape.
"""


class Coding(ABC):
    """A coding without loss: `decode` gives what `encode` was given, or what `arrived` says."""

    name: ClassVar[str]
    source: ClassVar[str]
    """Where the coding comes from."""

    @abstractmethod
    def bits(self, exchange: Exchange, fmt: Format) -> Counts:
        """Bits of each word [words, messages], without encoding them: those that `encode` writes, exactly."""

    @abstractmethod
    def encode(self, exchange: Exchange, fmt: Format) -> Bits:
        """The bits of an exchange: the first words of all messages, and then the second words."""

    @abstractmethod
    def decode(self, bits: Bits, fmt: Format, shape: tuple[int, int, int]) -> Exchange:
        """The exchange of `shape` [words, messages, codes in a row] of which `encode` made `bits`.

        ValueError if these are not the bits of such an exchange.
        """

    def arrived(self, exchange: Exchange, fmt: Format) -> Exchange:
        """What `decode` gives: the exchange."""
        return exchange


class WordCoding(Coding):
    """A coding of each word by itself, or with the word before it in the exchange at hand."""

    def bits(self, exchange: Exchange, fmt: Format) -> Counts:
        neurons = fmt.neurons_in_row(exchange.shape[-1])
        symbols, codes, scales = symbols_of(fmt), exchange[..., :neurons], int(fmt.scale_bits(neurons))
        words = [self.word_bits(word, codes[i - 1] if i else None, symbols) + scales for i, word in enumerate(codes)]
        return np.stack(words)

    def encode(self, exchange: Exchange, fmt: Format) -> Bits:
        neurons, symbols = fmt.neurons_in_row(exchange.shape[-1]), symbols_of(fmt)
        parts = [np.zeros(0, np.uint8)]
        for i, word in enumerate(exchange):
            for message, codes in enumerate(word):
                before = exchange[i - 1, message, :neurons] if i else None
                parts += [*self.encoded_word(codes[:neurons], before, symbols), scales_sent(codes, fmt)]
        return np.concatenate(parts)

    def decode(self, bits: Bits, fmt: Format, shape: tuple[int, int, int]) -> Exchange:
        reader, exchange = Reader(bits, self.name), np.zeros(shape, fmt.code_dtype)
        neurons, symbols = fmt.neurons_in_row(shape[-1]), symbols_of(fmt)
        for i, word in enumerate(exchange):
            for message, codes in enumerate(word):
                before = exchange[i - 1, message, :neurons] if i else None
                codes[:neurons] = self.decoded_word(reader, before, symbols, codes[:neurons])
                codes[neurons:] = scales_received(reader, fmt, neurons)
        reader.end()
        return exchange

    @abstractmethod
    def word_bits(self, codes: Codes, before: Codes | None, symbols: Symbols) -> Counts:
        """Bits [messages] of words `codes` [messages, neurons], after the words `before`, if there are any."""

    @abstractmethod
    def encoded_word(self, codes: Codes, before: Codes | None, symbols: Symbols) -> list[Bits]:
        """The bits of one word [neurons], in parts."""

    @abstractmethod
    def decoded_word(self, reader: "Reader", before: Codes | None, symbols: Symbols, like: Codes) -> Codes:
        """The word that is next in the stream, of the shape and type of `like`."""


class Reader:
    """Reads a stream of bits from its front. ValueError, naming the coding, if it is not what was to be read."""

    def __init__(self, bits: Bits, coding: str) -> None:
        self.left, self.coding = bits, coding

    def take(self, number: int) -> Bits:
        """The next bits."""
        if number > len(self.left):
            raise self.invalid(f"{number} bits must follow, and {len(self.left)} do")
        taken, self.left = self.left[:number], self.left[number:]
        return taken

    def codes(self, number: int, bits: int, dtype: npt.DTypeLike = np.uint64) -> Codes:
        """The next `number` codes of `bits` bits."""
        if not bits:
            return np.zeros(number, dtype)
        return codes_of(self.take(number * bits), bits, dtype)

    def number(self, bits: int, most: int) -> int:
        """The next number of so many bits, which must be at most `most`."""
        number = int(self.codes(1, bits)[0])
        if number > most:
            raise self.invalid(f"a number must be at most {most}, not {number}")
        return number

    def zeros(self) -> int:
        """How many zeros come before the next 1, which is not taken."""
        if not self.left.any():
            raise self.invalid("no 1 follows")
        return len(self.take(int(self.left.argmax())))

    def end(self) -> None:
        """Raise ValueError if bits are left."""
        if len(self.left):
            raise self.invalid(f"{len(self.left)} bits follow the last message")

    def invalid(self, why: str) -> ValueError:
        """The error for a stream that cannot be decoded."""
        return ValueError(f"coding {self.coding}: the bits are not those of an exchange: {why}")


def field(number: int, bits: int) -> Bits:
    """`number` as a field of so many bits, the lowest first."""
    return bits_of(np.array([number], np.uint64), bits)


def scales_sent(codes: Codes, fmt: Format) -> Bits:
    """Bits of the scales in `codes`, all the codes of a message."""
    neurons = fmt.neurons_in_row(codes.shape[-1])
    return bits_of(codes[neurons:], fmt.bits)[sent_bits(fmt, neurons)[neurons * fmt.bits :]]


def scales_received(reader: Reader, fmt: Format, neurons: int) -> Codes:
    """The codes of the scales of a message of `neurons` that are next in the stream."""
    sent = sent_bits(fmt, neurons)[neurons * fmt.bits :]
    lanes = np.zeros(len(sent), np.uint8)
    lanes[sent] = reader.take(int(sent.sum()))
    return codes_of(lanes, fmt.bits, fmt.code_dtype)
