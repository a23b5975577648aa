"""Two processes exchange the messages of a training over a local socket: what is sent is what the ledger counts.

One process trains by difference target propagation and sends, as it goes, each exchange that crosses a link, in a
coding. The other decodes it and says what it got. Each frame has a header of `HEADER.size` bytes.
"""

import hashlib
import multiprocessing
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import pytest

from lowbit_dtp import data, packing
from lowbit_dtp.codings import CODINGS, CodedCounts, Exchange
from lowbit_dtp.formats import Codes, Format, parse
from lowbit_dtp.ledger import Direction, Ledger, MessageType, padded
from lowbit_dtp.links import Link
from lowbit_dtp.network import Network
from lowbit_dtp.optimizers import RMSprop
from lowbit_dtp.rules import DTP
from lowbit_dtp.training import Progress, fit

SIZES, STEPS, BATCH = [64, 30, 26, 10], 4, 15
FORMATS = {
    ("input-h1", Direction.FORWARD): "ufixed(5,1)",
    ("h1-h2", Direction.FORWARD): "binary",
    ("h1-h2", Direction.FEEDBACK): "binary",
    ("h2-output", Direction.FORWARD): "fixed(4,1)",
    ("h2-output", Direction.FEEDBACK): "ternary*0.05",
}
"""Formats that both processes know, by link and direction."""
WIRES = list(FORMATS)
HEADER = struct.Struct("<BBHHI")
"""Link and direction, words and messages of the exchange, codes in a row, and bits that follow, in whole bytes."""
PADDED = "packed words"
"""Plain messages, each the first bytes of its packed words: padded to whole words of 8 bits."""
SECONDS = 120.0


def payload(coding: str, exchange: Exchange, fmt: Format) -> tuple[int, bytes]:
    """The bits of an exchange, and the bytes that hold them."""
    if coding == PADDED:
        rows = exchange.reshape(-1, exchange.shape[-1])
        size = padded(rows.shape[-1] * fmt.bits, 8) // 8
        content = b"".join(row.astype("<u8").tobytes()[:size] for row in packing.pack(rows, fmt.bits))
        return 8 * len(content), content
    bits = CODINGS[coding].encode(exchange, fmt)
    return len(bits), np.packbits(bits, bitorder="little").tobytes()


def exchange_of(coding: str, bits: int, content: bytes, fmt: Format, shape: tuple[int, int, int]) -> Exchange:
    """The inverse of `payload`."""
    if coding == PADDED:
        messages = shape[0] * shape[1]
        rows = [content[i * len(content) // messages : (i + 1) * len(content) // messages] for i in range(messages)]
        whole = 8 * packing.packed_width(shape[-1], fmt.bits)
        words = np.frombuffer(b"".join(row.ljust(whole, b"\0") for row in rows), "<u8").reshape(messages, -1)
        return packing.unpack(words.astype(np.uint64), fmt.bits, shape[-1]).reshape(shape)
    return CODINGS[coding].decode(
        np.unpackbits(np.frombuffer(content, np.uint8), count=bits, bitorder="little"), fmt, shape
    )


def digest(codes: Codes) -> str:
    return hashlib.sha256(repr(codes.shape).encode() + codes.astype(np.uint64).tobytes()).hexdigest()


def receive(pipe: Connection) -> None:
    """The other process: for each connection, what arrived, exchange by exchange, and the bytes that it took."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        pipe.send(server.getsockname()[1])
        while (coding := pipe.recv()) is not None:
            connection, _ = server.accept()
            connection.settimeout(SECONDS)
            arrived, total = [], 0
            with connection, connection.makefile("rb") as stream:
                while header := stream.read(HEADER.size):
                    wire, words, messages, row, bits = HEADER.unpack(header)
                    fmt, content = parse(FORMATS[WIRES[wire]]), stream.read(padded(bits, 8) // 8)
                    arrived.append(digest(exchange_of(coding, bits, content, fmt, (words, messages, row))))
                    total += len(header) + len(content)
            pipe.send((arrived, total))


@pytest.fixture(scope="module")
def receiver() -> Iterator[tuple[Connection, int]]:
    """A process that receives, and its port."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=receive, args=(there,), daemon=True)
    process.start()
    assert here.poll(SECONDS)
    yield here, here.recv()
    here.send(None)
    process.join(SECONDS)
    assert process.exitcode == 0


@dataclass(eq=False)
class Sender(CodedCounts):
    """Counts of coded bits that also send each exchange."""

    coding: str = ""
    socket: Any = None
    arriving: list[str] = field(default_factory=list)
    """What must arrive."""
    rounded_up: int = 0
    """Bits that fill the last byte of each frame."""

    def exchanged(self, message_types: Sequence[MessageType], fmt: Format, words: Exchange) -> None:
        super().exchanged(message_types, fmt, words)
        exchange = words[:, 0]  # of one network
        (bits, content), kind = payload(self.coding, exchange, fmt), message_types[0]
        wire = WIRES.index((kind.link, kind.direction))
        self.socket.sendall(HEADER.pack(wire, len(exchange), *exchange.shape[1:], bits) + content)
        self.arriving.append(digest(exchange if self.coding == PADDED else CODINGS[self.coding].arrived(exchange, fmt)))
        self.rounded_up += -bits % 8


@pytest.mark.parametrize("coding", [PADDED, *CODINGS])
def test_bytes_sent_are_those_counted(coding: str, receiver: tuple[Connection, int]) -> None:
    pipe, port = receiver
    pipe.send(coding)
    train, names = data.load("digits").train, ("plain",) if coding == PADDED else (coding,)
    samples = type(train)(train.stored[: STEPS * BATCH], train.labels[: STEPS * BATCH], train.format)
    links = [
        Link(*(FORMATS.get((name, way), "float32") for way in Direction)) for name in ("input-h1", "h1-h2", "h2-output")
    ]
    with socket.create_connection(("127.0.0.1", port), SECONDS) as wire:
        counts = Sender(names, coding=coding, socket=wire)
        ledger = Ledger(coded_counts=counts)
        net, rule = Network.build(SIZES, links, seed=0), DTP(target_step=3.0)
        for _ in fit(net, rule, RMSprop(2e-3, 1e-3), samples, 1, BATCH, 0, Progress(ledger=ledger)):
            pass
        counts.settle()
    assert pipe.poll(SECONDS)
    arrived, total = pipe.recv()
    assert arrived == counts.arriving and len(arrived) == STEPS * 7
    counted = ledger.bits(word_bits=8) if coding == PADDED else ledger.coded_bits(coding) + counts.rounded_up
    assert 8 * total == counted + 8 * HEADER.size * len(arrived)
