"""Counts of coded bits: what messages take with each coding, counted from the real messages as they are sent."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, prod
from typing import Any, NamedTuple

import numpy as np

from ..events import Direction, MessageType
from ..formats import Codes, Format, parse
from .base import FOLLOWS, Counts, Exchange
from .lines import BusInvert
from .registry import CODINGS, coding_names
from .symbols import has_zero, symbols_of

MAX_BITS = 16
"""Most bits a code of the formats whose entropy is counted."""


@dataclass
class Coded:
    """The messages of a type with one coding. Arrays have an axis over members; a single network is one member."""

    messages: int
    bits: Counts
    """Bits [members]; of a bound, those of scales, which are sent plain."""
    toggles: Counts | None = None
    """Lines [members] that changed, of a coding for parallel wires."""
    symbols: Counts | None = None
    """Of a bound, how often each symbol was sent [members, symbols]."""

    @property
    def total_bits(self) -> int:
        """Bits over all members; of a bound, rounded up."""
        return int(self.bits.sum()) + (0 if self.symbols is None else entropy_bits(self.symbols.sum(0)))

    def __iadd__(self, other: "Coded") -> "Coded":
        return Coded(
            self.messages + other.messages,
            self.bits + other.bits,
            _sum(self.toggles, other.toggles),
            _sum(self.symbols, other.symbols),
        )

    def each(self, change: Callable[[Counts], Counts], messages: int) -> "Coded":
        """The same with `change` of each array, and so many `messages`."""
        arrays = (self.bits, self.toggles, self.symbols)
        bits, toggles, symbols = (None if x is None else change(x) for x in arrays)
        assert bits is not None
        return Coded(messages, bits, toggles, symbols)


class _Held(NamedTuple):
    """A message that waits for the one that may follow it."""

    message_type: MessageType
    format: Format
    codes: Codes


@dataclass(eq=False)
class CodedCounts:
    """Bits of each type of message with each of the codings and bounds called `names`."""

    names: tuple[str, ...] = ()
    counts: dict[MessageType, dict[str, Coded]] = field(default_factory=dict)
    _held: dict[tuple[str, Direction], _Held] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.names = coding_names(self.names)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CodedCounts) and (self.names, self.rows()) == (other.names, other.rows())

    def count(self, message_type: MessageType, fmt: Format, codes: np.ndarray, before: np.ndarray | None) -> None:
        """Count `codes` [..., messages, codes in a row], sent after the row `before` [..., codes in a row], if any.

        Codes may be signed, as tensors have them. A message that another may follow is counted when the next one is
        sent on its link and direction, or by `settle`.
        """
        codes = _by_member(codes, 3, fmt)
        if "bus-invert" in self.names:
            last = None if before is None else _by_member(before, 2, fmt)
            toggles = BusInvert().toggles(codes, fmt, last).sum(-1)
            self._add(message_type, "bus-invert", Coded(0, np.zeros_like(toggles), toggles))
        wire = message_type.link, message_type.direction
        held = self._held.pop(wire, None)
        if held is not None:
            follows = FOLLOWS.get(message_type.purpose) == held.message_type.purpose
            if follows and held.codes.shape == codes.shape:
                self.exchanged([held.message_type, message_type], fmt, np.stack([held.codes, codes]))
                return
            self.exchanged([held.message_type], held.format, held.codes[None])
        if message_type.purpose in FOLLOWS.values():
            self._held[wire] = _Held(message_type, fmt, codes)
        else:
            self.exchanged([message_type], fmt, codes[None])

    def exchanged(self, message_types: Sequence[MessageType], fmt: Format, words: Exchange) -> None:
        """Count an exchange [words, members, messages, codes in a row], with a type of message for each word."""
        _, members, each, row = words.shape
        for name in self.names:
            if name in CODINGS:
                bits = CODINGS[name].bits(words.reshape(len(words), members * each, row), fmt)
                for kind, of_word in zip(message_types, bits.reshape(-1, members, each).sum(-1), strict=True):
                    self._add(kind, name, Coded(members * each, of_word))
            elif fmt.bits <= MAX_BITS:
                for i, kind in enumerate(message_types):
                    before = words[i - 1] if i and name == "flip-entropy" else None
                    scales = np.full(members, each * kind.scale_bits)
                    self._add(kind, name, Coded(members * each, scales, None, _symbols(words[i], before, fmt)))

    def settle(self) -> "CodedCounts":
        """Count the messages that wait for another; returns these counts."""
        held, self._held = self._held, {}
        for message_type, fmt, codes in held.values():
            self.exchanged([message_type], fmt, codes[None])
        return self

    def bits(self) -> dict[MessageType, dict[str, int]]:
        """Bits of each type of message with each coding and bound that was counted for it."""
        counts = self.settle().counts
        return {kind: {name: coded.total_bits for name, coded in by_name.items()} for kind, by_name in counts.items()}

    def sparseness(self, member: int = 0) -> dict[str, dict[str, int]]:
        """What feedback leaves as it was, by link: `flips` and `zeros`, over all samples of a member so far.

        Flips are codes of targets that differ from those of the state sent just before; zeros are those among the codes
        of errors. Both are counted with the bound "flip-entropy"; without it, and for formats that have no zero or no
        symbols, there are none.
        """
        found: dict[str, dict[str, int]] = {"flips": {}, "zeros": {}}
        counts = self.settle().counts
        followed = {(kind.link, kind.direction, kind.purpose) for kind in counts}
        for kind, by_name in counts.items():
            coded = by_name.get("flip-entropy")
            if coded is None or coded.symbols is None or kind.direction is not Direction.FEEDBACK:
                continue
            same, every = int(coded.symbols[member, 0]), int(coded.symbols[member].sum())
            if (kind.link, kind.direction, FOLLOWS.get(kind.purpose)) in followed:
                found["flips"][kind.link] = found["flips"].get(kind.link, 0) + every - same
            elif kind.purpose == "error" and has_zero(parse(kind.format)):
                found["zeros"][kind.link] = found["zeros"].get(kind.link, 0) + same
        return found

    def __iadd__(self, other: "CodedCounts") -> "CodedCounts":
        self.names = coding_names((*self.names, *other.names))
        self.counts = self._each(lambda x: x.sum(0, keepdims=True), 1)
        for kind, by_name in other._each(lambda x: x.sum(0, keepdims=True), 1).items():
            for name, coded in by_name.items():
                self._add(kind, name, coded)
        return self

    def of_member(self, member: int, members: int) -> "CodedCounts":
        """The counts of one member of an ensemble."""
        return CodedCounts(self.names, self._each(lambda x: x[member : member + 1], members))

    @classmethod
    def stacked(cls, each: Sequence["CodedCounts"]) -> "CodedCounts":
        """The counts of an ensemble whose members have counted `each`, of the same messages."""
        together = cls(each[0].names)
        for kind, by_name in each[0].settle().counts.items():
            for name, coded in by_name.items():
                parts = [one.settle().counts[kind][name] for one in each]
                bits, toggles, symbols = (
                    None if getattr(coded, count) is None else np.concatenate([getattr(part, count) for part in parts])
                    for count in ("bits", "toggles", "symbols")
                )
                assert bits is not None
                together._add(kind, name, Coded(sum(part.messages for part in parts), bits, toggles, symbols))
        return together

    def rows(self) -> list[dict[str, Any]]:
        """Plain numbers, for JSON: a row for each type of message and coding."""
        return [
            {
                **kind._asdict(),
                "coding": name,
                "messages": coded.messages,
                "coded_bits": coded.total_bits,
                **_more(coded),
            }
            for kind, by_name in self.settle().counts.items()
            for name, coded in by_name.items()
        ]

    @classmethod
    def from_rows(cls, names: Iterable[str], rows: Iterable[Mapping[str, Any]]) -> "CodedCounts":
        """The inverse of `rows`, as of one member; KeyError, TypeError or ValueError if they are not that."""
        counts = cls(tuple(names))
        for row in rows:
            rest = dict(row)
            name, messages, bits = (rest.pop(key) for key in ("coding", "messages", "coded_bits"))
            toggles, often = rest.pop("toggles", None), rest.pop("symbols", None)
            kind, symbols = MessageType(**(rest | {"direction": Direction(rest["direction"])})), None
            if often is not None:
                symbols = np.zeros((1, 2**kind.bits), np.int64)
                symbols[0, list(map(int, often))] = list(often.values())
                bits -= entropy_bits(symbols[0])
            (name,) = coding_names([name])
            coded = Coded(messages, np.array([bits]), None if toggles is None else np.array([toggles]), symbols)
            counts._add(kind, name, coded)
        return counts

    def _add(self, message_type: MessageType, name: str, coded: Coded) -> None:
        by_name = self.counts.setdefault(message_type, {})
        if name in by_name:
            by_name[name] += coded
        else:
            by_name[name] = coded

    def _each(self, change: Callable[[Counts], Counts], members: int) -> dict[MessageType, dict[str, Coded]]:
        """All counts, with `change` of each array, and the messages divided among `members`."""
        counts = self.settle().counts
        return {
            kind: {name: coded.each(change, coded.messages // members) for name, coded in by_name.items()}
            for kind, by_name in counts.items()
        }


def entropy_bits(symbols: Counts) -> int:
    """Bits that symbols sent so often take at least, if each is coded by itself; rounded up.

    >>> entropy_bits(np.array([4, 4])), entropy_bits(np.array([0, 8])), entropy_bits(np.array([1, 3]))
    (8, 0, 4)
    """
    often = symbols[symbols > 0]
    return ceil(round(float((often * np.log2(often.sum() / often)).sum()), 6))


def _symbols(codes: Codes, before: Codes | None, fmt: Format) -> Counts:
    """How often each symbol is in `codes` [members, messages, codes in a row], scales left out.

    Symbols are what codes are ahead of the idle code, or of those of the word `before`.
    """
    neurons, symbols = fmt.neurons_in_row(codes.shape[-1]), symbols_of(fmt)
    reference = np.full_like(codes, symbols.idle) if before is None else before
    ahead = symbols.difference(codes[..., :neurons], reference[..., :neurons]).astype(np.int64)
    return np.stack([np.bincount(member.ravel(), minlength=2**fmt.bits) for member in ahead])


def _by_member(codes: np.ndarray, axes: int, fmt: Format) -> Codes:
    """Codes as the format has them, in memory of their own, with an axis over members before the `axes` - 1 others."""
    unsigned: Codes = (codes.astype(np.uint64) & np.uint64(2**fmt.bits - 1)).astype(fmt.code_dtype)
    return unsigned.reshape(prod(codes.shape[: 1 - axes]), *codes.shape[1 - axes :])


def _sum(a: Counts | None, b: Counts | None) -> Counts | None:
    return b if a is None else a if b is None else a + b


def _more(coded: Coded) -> dict[str, Any]:
    """Columns that only some codings have."""
    more: dict[str, Any] = {}
    if coded.toggles is not None:
        more["toggles"] = int(coded.toggles.sum())
    if coded.symbols is not None:
        often = coded.symbols.sum(0)
        more["symbols"] = {str(symbol): int(often[symbol]) for symbol in np.flatnonzero(often)}
    return more
