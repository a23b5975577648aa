"""Kinds of events that are counted: messages on links, operations in layers, and accesses to memory."""

from enum import StrEnum
from typing import NamedTuple


class Direction(StrEnum):
    """The direction in which a message crosses a link."""

    FORWARD = "forward"
    FEEDBACK = "feedback"

    __hash__ = str.__hash__  # the hash of an enumeration is written in Python, and is slower than a look-up


class MessageType(NamedTuple):
    """A type of message: its link, direction, purpose and format, and its width in codes."""

    link: str
    direction: Direction
    purpose: str
    format: str
    bits: int
    """Bits a code."""
    width: int
    """Codes a message; one message carries one sample."""
    scale_bits: int = 0
    """Bits of scales that cross with each message; absent in older files."""

    @property
    def message_bits(self) -> int:
        """Bits a message, scales included."""
        return self.width * self.bits + self.scale_bits


class Work(NamedTuple):
    """A kind of operation: its layer, purpose and name, and the formats of its operands.

    `operation` is one of `OPERATIONS`; `right` is empty for operations with one operand.
    """

    layer: str
    purpose: str
    operation: str
    left: str
    right: str = ""


OPERATIONS = ("multiply-accumulate", "multiply", "add", "divide", "square-root", "tanh", "exp")
"""Names of operations. A sigmoid or one term of a softmax counts as `exp`, too."""


class Access(NamedTuple):
    """A kind of memory access: its layer and array, read or write, the format of its words, and its purpose.

    Counted as if each sample were processed by itself (no reuse of a word over a minibatch); `capacity_bits` is the
    size of the whole array, from which a technology chooses a memory. Buffers of activations hold one sample.
    """

    layer: str
    array: str
    operation: str
    """`read` or `write`."""
    format: str
    bits: int
    capacity_bits: int
    purpose: str = ""
    """That of the `Work` that needs the words: "gradient" or "update", say; absent in older files."""


BUFFERS = ("input", "state", "error", "input gradient")
"""Arrays of a layer that hold activations and errors: what arrived over links, and what the neurons computed."""
