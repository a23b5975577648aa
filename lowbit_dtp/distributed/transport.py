"""What carries messages between ranks, and the header that each message has.

A message is a header of 32 bytes and a payload whose size both ends know. Nothing is unpickled: what arrives is bytes,
which become numbers of a known type and shape.
"""

import struct
from dataclasses import dataclass
from typing import Protocol
from zlib import crc32

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]

_MAGIC = b"LBD1"
_HEADER = struct.Struct("<4sIQQII")
HEADER_BYTES = _HEADER.size
"""Bytes before the payload of a message.

A mark, what it is (as CRC-32), its number, bytes of payload, samples, and whether the sender has codes or packed words.
"""


class WireError(ConnectionError):
    """A message did not arrive, or is not the one that was due; the text names the link and the rank."""


class Transport(Protocol):
    """Carries bytes between ranks. Messages from one rank to another arrive in the order in which they were sent."""

    rank: int
    """The own rank."""
    size: int
    """How many ranks there are."""

    def send(self, rank: int, message: Bytes) -> None:
        """Send `message` to `rank`, which may not have asked for it yet. WireError if that rank is lost."""

    def receive(self, rank: int, size: int) -> Bytes:
        """The next message from `rank`, of `size` bytes at most. WireError if it is longer, or that rank is lost."""


@dataclass(frozen=True)
class Envelope:
    """What a message should be: how both ends name it, its number, and the bytes and rows of its payload."""

    name: str
    number: int
    size: int
    rows: int = 1

    def wrapped(self, payload: Bytes, is_packed: bool = False) -> Bytes:
        """The message with `payload`; `is_packed` is told to the receiver."""
        header = _HEADER.pack(_MAGIC, crc32(self.name.encode()), self.number, self.size, self.rows, is_packed)
        return np.concatenate([np.frombuffer(header, np.uint8), payload])

    def opened(self, message: Bytes, rank: int) -> tuple[Bytes, bool]:
        """The payload of `message`, which came from `rank`, and `is_packed`. WireError if it is not the one due."""
        mark, name, *numbers, is_packed = _HEADER.unpack(message[:HEADER_BYTES].tobytes())
        wrong = ""
        if mark != _MAGIC:
            wrong = "what came is no message of lowbit-dtp"
        elif name != crc32(self.name.encode()):
            wrong = "another message came"
        else:
            for what, came, due in zip(
                ("message number", "bytes", "samples"), numbers, (self.number, self.size, self.rows), strict=True
            ):
                wrong = wrong or (f"{what} {came} came, not {due}" if came != due else "")
        if wrong:
            raise WireError(f"{self.name}, from rank {rank}: {wrong}; all ranks must run the same experiment")
        return message[HEADER_BYTES:], bool(is_packed)
