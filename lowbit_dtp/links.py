"""Links: the wires between layers. All communication between layers crosses a link, which counts it."""

from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Any

from . import integers
from .backends import Array, backend_of
from .formats import Format, float32, parse
from .ledger import Direction, Ledger, MessageType, invalid_message
from .randomness import RandomStream


@dataclass(frozen=True)
class Signal:
    """What arrived over a link, as codes or as packed words, and their format."""

    carried: Array
    """Codes [..., batch, neurons], scales included; or words of 64 bits [..., batch, words], see `packing`."""
    format: Format
    like: Array
    """An array of the sender's floating-point type, which `values` has, too."""
    packed_neurons: int | None = None
    """Codes in a row, if `carried` is packed words; None if it is codes."""
    link: str = ""
    """Name of the link that it arrived over."""
    made: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """Results that a backend has computed from the signal, to compute them once."""

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """[..., batch, neurons]."""
        codes = self.carried.shape[-1] if self.packed_neurons is None else self.packed_neurons
        return (*self.carried.shape[:-1], self.format.neurons_in_row(int(codes)))

    @property
    def codes(self) -> Array:
        """Codes [..., batch, neurons]; [..., batch, codes in a row] if the format sends scales along."""
        if self.packed_neurons is None:
            return self.carried
        return backend_of(self.carried).unpack(self.carried, self.format, self.packed_neurons)

    @property
    def integers(self) -> Array:
        """The whole numbers that the codes stand for, in the unit of the format: see `integers.decode`."""
        return integers.decode(self.codes, self.format)

    @property
    def values(self) -> Array:
        """The numbers the codes stand for."""
        return backend_of(self.carried).values(self)

    @property
    def sent(self) -> Array:
        """`values`, for the layer that sent them: both ends of a link have the same numbers."""
        return self.values

    def first(self, samples: int) -> "Signal":
        """What arrived of the first `samples` samples."""
        return Signal(self.carried[..., :samples, :], self.format, self.like, self.packed_neurons, self.link)

    def packed(self) -> "Signal":
        """The same signal as packed words."""
        if self.packed_neurons is not None:
            return self
        words = backend_of(self.carried).pack(self.carried, self.format)
        return Signal(words, self.format, self.like, int(self.carried.shape[-1]), self.link)


@dataclass(frozen=True)
class Link:
    """A wire between a lower and an upper layer, with a format for each direction.

    Formats may be given by name: `Link("binary", "fixed(4,-2)")`. `Network.build` fills in the names of the layers.
    """

    forward: Format = float32
    feedback: Format = float32
    lower: str = ""
    upper: str = ""
    label: str = ""
    """Name of the link, if it is not `lower-upper`: links that skip layers are named from their upper end."""

    def __post_init__(self) -> None:
        for way in ("forward", "feedback"):
            if isinstance(getattr(self, way), str):
                object.__setattr__(self, way, parse(getattr(self, way)))

    @cached_property
    def name(self) -> str:
        """`label`, or `lower-upper`."""
        return self.label or f"{self.lower}-{self.upper}"

    @cached_property
    def _message_types(self) -> dict[tuple[Direction, str, int], MessageType]:
        """Types of message that have crossed, by direction, purpose and width."""
        return {}

    def _message_type(self, direction: Direction, purpose: str, width: int) -> MessageType:
        key = direction, purpose, width
        message_type = self._message_types.get(key)
        if message_type is None:
            fmt = self.format(direction)
            message_type = self._message_types[key] = MessageType(
                self.name, direction, purpose, fmt.name, fmt.bits, width, fmt.scale_bits(width)
            )
        return message_type

    def format(self, direction: Direction) -> Format:
        """The format in that direction."""
        return self.forward if direction is Direction.FORWARD else self.feedback

    def send(
        self, x: Array | Signal, direction: Direction, purpose: str, ledger: Ledger, stream: RandomStream | None = None
    ) -> Signal:
        """Quantize `x` [..., batch, neurons], count it in `ledger` as `purpose`, and deliver it.

        A signal in codes of the link's format, such as images stored as bytes, is not encoded again. Whole numbers are
        sent as the numbers that they stand for: see `integers`. `stream` is needed by formats that round
        stochastically. Raises ValueError, naming the link, on NaN; on devices that would have to wait for that, the
        ledger raises it when its traffic is read.
        """
        fmt = self.format(direction)
        if isinstance(x, Signal) and (x.format != fmt or x.packed_neurons is not None):
            x = x.values
        elif not isinstance(x, Signal) and integers.fraction_bits_of(x.dtype) is not None:
            try:
                x = Signal(integers.encode(x, fmt), fmt, x)
            except ValueError as error:
                raise ValueError(f"link {self.name}, {direction} {purpose!r}: {error}") from None
        messages, wire = prod(x.shape[:-1]), (self.name, direction)
        message_type, previous = self._message_type(direction, purpose, int(x.shape[-1])), ledger.wires.get(wire)
        if isinstance(x, Signal):
            like, carried = x.like, backend_of(x.carried).carry(x.carried, fmt, previous)
        else:
            like, xp, uniform = x, backend_of(x), None
            if fmt.stochastic and stream is not None:
                uniform = stream.uniform(f"{self.name} {direction} {purpose}", x)
            try:
                carried = xp.transmit(x, fmt, uniform, previous)
            except ValueError as error:
                raise invalid_message(message_type, str(error)) from None
        ledger.crossed(message_type, messages, carried.ones, carried.toggles, carried.invalid)
        signal = Signal(carried.words, fmt, like, carried.packed_neurons, self.name)
        if messages:
            ledger.wires[wire] = carried.words[..., -1, :]
            if ledger.coded_counts is not None:
                codes, xp = signal.codes, backend_of(carried.words)
                before = None if previous is None else xp.numpy(_unpacked(previous, fmt, int(codes.shape[-1])))
                ledger.coded_counts.count(message_type, fmt, xp.numpy(codes), before)
        return signal


def _unpacked(word: Array, fmt: Format, codes: int) -> Array:
    """The last word on a wire as codes, of which there are so many."""
    return word if word.shape[-1] == codes else backend_of(word).unpack(word, fmt, codes)
