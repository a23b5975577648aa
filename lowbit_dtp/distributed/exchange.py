"""Texts and arrays between ranks, of sizes that the other end does not know: at the start, and after an epoch."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from ..backends import Array
from .transport import HEADER_BYTES, Bytes, Envelope, Transport, WireError

_SIZE = np.dtype("<u8")


def send_bytes(transport: Transport, rank: int, name: str, payload: bytes) -> None:
    """Send `payload`, which both ends call `name`, to `rank`: first its size, then itself."""
    size = np.frombuffer(np.array(len(payload), _SIZE).tobytes(), np.uint8)
    transport.send(rank, Envelope(f"size of {name}", 0, size.size).wrapped(size))
    transport.send(rank, Envelope(name, 0, len(payload)).wrapped(np.frombuffer(payload, np.uint8)))


def receive_bytes(transport: Transport, rank: int, name: str) -> bytes:
    """What `rank` sent as `name`."""
    size = int(_received(transport, rank, f"size of {name}", _SIZE.itemsize).view(_SIZE)[0])
    return _received(transport, rank, name, size).tobytes()


def _received(transport: Transport, rank: int, name: str, size: int) -> Bytes:
    return Envelope(name, 0, size).opened(transport.receive(rank, HEADER_BYTES + size), rank)[0]


def send_arrays(transport: Transport, rank: int, arrays: Mapping[str, Array]) -> None:
    """Send NumPy arrays by name, as a safetensors file."""
    send_bytes(transport, rank, "arrays", save({name: np.ascontiguousarray(x) for name, x in arrays.items()}))


def receive_arrays(transport: Transport, rank: int) -> dict[str, Array]:
    """The arrays that `rank` sent."""
    try:
        return dict(load(receive_bytes(transport, rank, "arrays")))
    except SafetensorError as error:
        raise WireError(f"arrays, from rank {rank}: not a whole safetensors file ({error})") from None


def gather(transport: Transport, value: Any) -> list[Any]:
    """The `value`, plain JSON, of every rank, on every rank."""
    others = [rank for rank in range(transport.size) if rank != transport.rank]
    text = json.dumps(value).encode()
    for rank in others:
        send_bytes(transport, rank, "state", text)
    values = {rank: _json(transport, rank, "state") for rank in others} | {transport.rank: value}
    return [values[rank] for rank in range(transport.size)]


def told(transport: Transport, value: Any, root: int = 0) -> Any:
    """The `value`, plain JSON, of the rank `root`, on every rank."""
    if transport.rank != root:
        return _json(transport, root, "decision")
    text = json.dumps(value).encode()
    for rank in range(transport.size):
        if rank != root:
            send_bytes(transport, rank, "decision", text)
    return value


def _json(transport: Transport, rank: int, name: str) -> Any:
    try:
        return json.loads(receive_bytes(transport, rank, name))
    except ValueError as error:
        raise WireError(f"{name}, from rank {rank}: not JSON ({error})") from None
