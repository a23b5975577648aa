"""Kinds of events that are counted: messages on links, operations in layers, and accesses to memory."""

from enum import StrEnum
from typing import NamedTuple


class Direction(StrEnum):
    """Which way a message crosses a link."""

    FORWARD = "forward"
    FEEDBACK = "feedback"

    __hash__ = str.__hash__  # an enumeration's own is Python, and takes longer than a look-up


class MessageType(NamedTuple):
    """A kind of message: which link, which way, why, in which format, and how many codes wide."""

    link: str
    direction: Direction
    purpose: str
    format: str
    bits: int
    """Bits a code."""
    width: int
    """Codes a message; one message carries one sample."""
    scale_bits: int = 0
    """Bits of scales a message, which cross with its codes; none in files from before there were any."""

    @property
    def message_bits(self) -> int:
        """Bits a message, scales included."""
        return self.width * self.bits + self.scale_bits


class Work(NamedTuple):
    """A kind of operation: in which layer, what for, which, and on operands of which formats.

    `operation` is one of `OPERATIONS`; `right` is empty for those of one operand.
    """

    layer: str
    purpose: str
    operation: str
    left: str
    right: str = ""


OPERATIONS = ("multiply-accumulate", "multiply", "add", "divide", "square-root", "tanh", "exp")
"""What a `Work` can be. `exp` stands for a sigmoid or one term of a softmax as well."""


class Access(NamedTuple):
    """A kind of memory traffic: which array of which layer, read or written, in words of which format.

    Counted as if each sample were processed by itself (no reuse of a word over a minibatch); `capacity_bits` is the
    size of the whole array, from which a technology chooses a memory.
    """

    layer: str
    array: str
    operation: str
    """`read` or `write`."""
    format: str
    bits: int
    capacity_bits: int
