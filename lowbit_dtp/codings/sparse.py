"""Codings that send only what is not idle, or only what differs from the word before."""

from typing import ClassVar

import numpy as np

from ..formats import Codes, Format
from .base import Coding, Counts, Exchange, Reader, WordCoding, field, scales_received, scales_sent
from .symbols import Bits, Symbols, bits_of, idle_word, symbols_of


class Events(WordCoding):
    """Address events: the addresses of the codes that are not idle, and which codes they are.

    One header bit. 1: the number of events in ceil(log2(neurons + 1)) bits, and for each its address in
    ceil(log2(neurons)) bits and, where a format has more than two codes, the code, in as many bits as tell it from the
    others that are not idle. 0: the plain codes, where events are not fewer bits.
    """

    name: ClassVar[str] = "events"
    source: ClassVar[str] = (
        "Boahen, IEEE Transactions on Circuits and Systems II 47(5), 2000: address events; the fall-back is added"
    )

    def word_bits(self, codes: Codes, before: Codes | None, symbols: Symbols) -> Counts:
        return events_bits(codes, _idle(codes, symbols), symbols)

    def encoded_word(self, codes: Codes, before: Codes | None, symbols: Symbols) -> list[Bits]:
        return events_encoded(codes, _idle(codes, symbols), symbols)

    def decoded_word(self, reader: Reader, before: Codes | None, symbols: Symbols, like: Codes) -> Codes:
        return events_decoded(reader, _idle(like, symbols), symbols)


class Flips(WordCoding):
    """The codes that differ from the word before, as `events` sends those that are not idle; the first word plain.

    So a target is sent as what differs from the state sent just before it on the same link and direction for the same
    sample: for a binary format, the addresses of the bits that flip. A message that follows no other has no header.
    """

    name: ClassVar[str] = "flips"
    source: ClassVar[str] = "events of differences"

    def word_bits(self, codes: Codes, before: Codes | None, symbols: Symbols) -> Counts:
        if before is None:
            return np.full(len(codes), codes.shape[-1] * symbols.bits)
        return events_bits(codes, before, symbols)

    def encoded_word(self, codes: Codes, before: Codes | None, symbols: Symbols) -> list[Bits]:
        if before is None:
            return [bits_of(codes, symbols.bits)]
        return events_encoded(codes, before, symbols)

    def decoded_word(self, reader: Reader, before: Codes | None, symbols: Symbols, like: Codes) -> Codes:
        if before is None:
            return reader.codes(len(like), symbols.bits, like.dtype)
        return events_decoded(reader, before, symbols)


class Silence(Coding):
    """One bit where there is nothing to say, and where there is, one bit more than the other sparse codings.

    A message by itself says nothing if it is all idle, as an error of zeros is. Of a state and a target, the target has
    nothing to say if it equals the state: then neither is sent, and one bit stands for both. Otherwise a first word
    follows as `events` sends it, and the words after it as `flips` does.

    A rule that uses a state only in the difference of what is decoded from target and state, as difference target
    propagation does, loses nothing: both arrive as idle words then, with the same difference, zero. See `arrived`.
    """

    name: ClassVar[str] = "silence"
    source: ClassVar[str] = "no message is a message; for difference target propagation, this project"

    def bits(self, exchange: Exchange, fmt: Format) -> Counts:
        neurons = fmt.neurons_in_row(exchange.shape[-1])
        symbols, codes, scales = symbols_of(fmt), exchange[..., :neurons], int(fmt.scale_bits(neurons))
        before = [_idle(codes[0], symbols), *codes[:-1]]
        words = [events_bits(word, last, symbols) + scales for word, last in zip(codes, before, strict=True)]
        bits = np.where(self._silent(exchange, fmt), 0, np.stack(words))
        bits[0] += 1
        return bits

    def encode(self, exchange: Exchange, fmt: Format) -> Bits:
        neurons, symbols = fmt.neurons_in_row(exchange.shape[-1]), symbols_of(fmt)
        silent, parts = self._silent(exchange, fmt), [np.zeros(0, np.uint8)]
        for i, word in enumerate(exchange):
            for message, codes in enumerate(word):
                if not i:
                    parts.append(field(not silent[message], 1))
                if not silent[message]:
                    before = exchange[i - 1, message, :neurons] if i else _idle(codes[:neurons], symbols)
                    parts += [*events_encoded(codes[:neurons], before, symbols), scales_sent(codes, fmt)]
        return np.concatenate(parts)

    def decode(self, bits: Bits, fmt: Format, shape: tuple[int, int, int]) -> Exchange:
        reader, exchange = Reader(bits, self.name), np.zeros(shape, fmt.code_dtype)
        neurons, symbols = fmt.neurons_in_row(shape[-1]), symbols_of(fmt)
        exchange[...] = idle_word(fmt, neurons)
        silent = np.zeros(shape[1], np.bool_)
        for i, word in enumerate(exchange):
            for message, codes in enumerate(word):
                if not i:
                    silent[message] = not reader.number(1, 1)
                if not silent[message]:
                    before = exchange[i - 1, message, :neurons] if i else _idle(codes[:neurons], symbols)
                    codes[:neurons] = events_decoded(reader, before, symbols)
                    codes[neurons:] = scales_received(reader, fmt, neurons)
        reader.end()
        return exchange

    def arrived(self, exchange: Exchange, fmt: Format) -> Exchange:
        """The exchange, with idle words in place of a state and a target that are equal."""
        silent = self._silent(exchange, fmt)
        return np.where(silent[:, None], idle_word(fmt, fmt.neurons_in_row(exchange.shape[-1])), exchange)

    def _silent(self, exchange: Exchange, fmt: Format) -> np.ndarray:
        """Whether each message [messages] has nothing to say."""
        first, others = exchange[0], exchange[1:]
        if not len(others):
            return (first == idle_word(fmt, fmt.neurons_in_row(exchange.shape[-1]))).all(-1)
        return (others == first).all((0, -1))


class RunLength(WordCoding):
    """How many idle codes come before each code that is not idle, plus 1, in Elias' gamma code; then which code it is.

    Idle codes at the end are a number without a code. n takes 2 floor(log2 n) + 1 bits; a code is sent as in `events`.
    No header and no fall-back: random bits take 13 % more than plain ones.
    """

    name: ClassVar[str] = "run-length"
    source: ClassVar[str] = "Elias, IEEE Transactions on Information Theory 21(2), 1975: the gamma code"

    def word_bits(self, codes: Codes, before: Codes | None, symbols: Symbols) -> Counts:
        messages, neurons = codes.shape
        rows, columns = np.nonzero(codes != symbols.idle)
        first = np.diff(rows, prepend=-1) != 0
        runs = np.diff(columns, prepend=-1) - 1
        runs[first] = columns[first]
        gamma = 2 * np.frexp(np.arange(1.0, neurons + 2))[1] - 1  # bits of n = runs + 1
        bits = np.bincount(rows, gamma[runs] + symbols.value_bits, messages).astype(np.int64)
        last = np.full(messages, -1)
        last[rows] = columns  # of a row's columns the last stays
        trailing = neurons - 1 - last
        bits += np.where(trailing > 0, gamma[trailing], 0)
        return bits

    def encoded_word(self, codes: Codes, before: Codes | None, symbols: Symbols) -> list[Bits]:
        parts, position = [], 0
        different = symbols.difference(codes, _idle(codes, symbols))
        for column in np.flatnonzero(different):
            parts += [_gamma(int(column) - position + 1), field(int(different[column]) - 1, symbols.value_bits)]
            position = int(column) + 1
        return parts if position == len(codes) else [*parts, _gamma(len(codes) - position + 1)]

    def decoded_word(self, reader: Reader, before: Codes | None, symbols: Symbols, like: Codes) -> Codes:
        different, position = np.zeros(len(like), np.uint64), 0
        while position < len(like):
            high = reader.zeros()
            run = int("".join(map(str, reader.take(high + 1))), 2) - 1
            if run > len(like) - position:
                raise reader.invalid(f"a run of {run}, and {len(like) - position} codes are left")
            position += run
            if position < len(like):
                different[position] = 1 + reader.number(symbols.value_bits, symbols.number - 2)
                position += 1
        return symbols.ahead(_idle(like, symbols), different)


class ZeroSkip(WordCoding):
    """A bit for each code, 1 where it is not idle; then which codes these are, as `events` sends them. No header.

    A ternary code takes 1 bit plus, where it is not zero, 1 for its sign.
    """

    name: ClassVar[str] = "zero-skip"
    source: ClassVar[str] = "Aimar et al., NullHop, IEEE Transactions on Neural Networks 30(3), 2019: sparsity map"

    def word_bits(self, codes: Codes, before: Codes | None, symbols: Symbols) -> Counts:
        return codes.shape[-1] + symbols.value_bits * (codes != symbols.idle).sum(-1, dtype=np.int64)

    def encoded_word(self, codes: Codes, before: Codes | None, symbols: Symbols) -> list[Bits]:
        different = symbols.difference(codes, _idle(codes, symbols))
        mask = different != 0
        return [mask.astype(np.uint8), bits_of(different[mask] - np.uint64(1), symbols.value_bits)]

    def decoded_word(self, reader: Reader, before: Codes | None, symbols: Symbols, like: Codes) -> Codes:
        mask, different = reader.take(len(like)) == 1, np.zeros(len(like), np.uint64)
        different[mask] = values_received(reader, int(mask.sum()), symbols)
        return symbols.ahead(_idle(like, symbols), different)


def events_bits(codes: Codes, reference: Codes, symbols: Symbols) -> Counts:
    """Bits [messages] of `codes` [messages, neurons] as events where they differ from `reference`; see `Events`."""
    neurons = codes.shape[-1]
    number = (codes != reference).sum(-1, dtype=np.int64)
    sparse = neurons.bit_length() + number * (_address_bits(neurons) + symbols.value_bits)
    bits: Counts = 1 + np.minimum(sparse, neurons * symbols.bits)
    return bits


def events_encoded(codes: Codes, reference: Codes, symbols: Symbols) -> list[Bits]:
    """The bits of one word [neurons], in parts."""
    neurons, different = len(codes), symbols.difference(codes, reference)
    addresses = np.flatnonzero(different)
    sparse = neurons.bit_length() + len(addresses) * (_address_bits(neurons) + symbols.value_bits)
    if sparse >= neurons * symbols.bits:
        return [field(0, 1), bits_of(codes, symbols.bits)]
    values = bits_of((different[addresses] - np.uint64(1))[:, None], symbols.value_bits)
    events = np.concatenate([bits_of(addresses[:, None], _address_bits(neurons)), values], -1)
    return [field(1, 1), field(len(addresses), neurons.bit_length()), events.ravel()]


def events_decoded(reader: Reader, reference: Codes, symbols: Symbols) -> Codes:
    """The next word, of which `reference` [neurons] is what it differs from in its events."""
    neurons = len(reference)
    if not reader.number(1, 1):
        return reader.codes(neurons, symbols.bits, reference.dtype)
    different = np.zeros(neurons, np.uint64)
    for _ in range(reader.number(neurons.bit_length(), neurons)):
        address = reader.number(_address_bits(neurons), neurons - 1)
        different[address] = 1 + reader.number(symbols.value_bits, symbols.number - 2)
    return symbols.ahead(reference, different)


def values_received(reader: Reader, number: int, symbols: Symbols) -> np.ndarray:
    """Differences, 1 or more, of the next `number` codes."""
    values = reader.codes(number, symbols.value_bits)
    if number and int(values.max()) > symbols.number - 2:
        raise reader.invalid(f"a number must be at most {symbols.number - 2}, not {values.max()}")
    return values + np.uint64(1)


def _idle(codes: Codes, symbols: Symbols) -> Codes:
    return np.full_like(codes, symbols.idle)


def _address_bits(neurons: int) -> int:
    return max(neurons - 1, 0).bit_length()


def _gamma(number: int) -> Bits:
    """Elias' gamma code: as many zeros as binary digits follow the first, and the digits."""
    digits = np.array(list(map(int, f"{number:b}")), np.uint8)
    return np.concatenate([np.zeros(len(digits) - 1, np.uint8), digits])
