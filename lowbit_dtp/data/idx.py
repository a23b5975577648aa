"""IDX files, gzipped or not: a header of magic number and sizes, and then the numbers.

Y. LeCun, C. Cortes and C. J. C. Burges, The MNIST database of handwritten digits, 1998, describes the format.
"""

import gzip
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from .samples import DataError

TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
"""NumPy type of the numbers for each third byte of the magic number."""

_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK = 2**24
"""Bytes to read at a time: reading at once what a broken header states could take all memory."""


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The content of the file at `path`, unpacked as it is read. DataError if it cannot be read."""
    try:
        with path.open("rb") as file, unpacked(file, path) as content:
            yield content
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


@contextmanager
def unpacked(file: BinaryIO, origin: Path | str) -> Iterator[BinaryIO]:
    """`file`, gunzipped if it begins like a gzip file, whatever its name: some browsers unpack and keep `.gz`.

    It is unpacked only as far as it is read, so a small file that unpacks to a huge one takes little memory.
    """
    packed = file.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
    file.seek(0)
    try:
        yield cast(BinaryIO, gzip.GzipFile(fileobj=file)) if packed else file
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{origin}: is a corrupt gzip file ({error})") from None


def read_body(content: BinaryIO, length: int, before: int, origin: Path | str) -> bytearray:
    """The `length` bytes that end `content`, of which `before` were read. DataError if there are fewer or more."""
    body = bytearray()
    while chunk := content.read(min(length - len(body), _CHUNK)):
        body += chunk
    if len(body) < length:
        raise DataError(f"{origin}: is truncated: {before + len(body)} bytes unpacked, not {before + length}")
    if content.read(1):  # which also reads the end of a gzip file, and checks its checksum
        raise DataError(f"{origin}: is too long: more than {before + length} bytes unpacked")
    return body


def read_published(content: BinaryIO, shape: tuple[int, ...], origin: Path | str) -> tuple[bytes, np.ndarray]:
    """Header and array of an IDX file of unsigned bytes that must be of `shape`; no more is read than needed."""
    header = header_of(shape)
    found = content.read(len(header))
    if found[:4] != header[:4]:
        kinds = {bytes([0, 0, 8, 1]): "IDX labels", bytes([0, 0, 8, 3]): "IDX images"}
        what = kinds.get(found[:4], f"something that begins with {found[:4].hex() or 'nothing'}")
        raise DataError(f"{origin}: holds {what}, not {kinds[header[:4]]} ({header[:4].hex()})")
    if len(found) == len(header) and found != header:
        sizes = np.frombuffer(found[4:], ">u4").tolist()
        raise DataError(f"{origin}: holds {_described(sizes)}, not {_described(shape)}")
    if len(found) < len(header):
        raise DataError(f"{origin}: is truncated: {len(found)} bytes unpacked, not {len(header) + prod(shape)}")
    body = read_body(content, prod(shape), len(header), origin)
    return header, np.frombuffer(body, np.uint8).reshape(shape)


def read_any(content: BinaryIO, origin: Path | str) -> np.ndarray:
    """The array in an IDX file of any type and shape; no more is read than its header states."""
    magic = content.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in TYPES or not magic[3]:
        begin = magic.hex() or "nothing"
        raise DataError(f"{origin}: begins with {begin}; an IDX file begins with 0000, a type and how many dimensions")
    sizes = content.read(4 * magic[3])
    if len(sizes) < 4 * magic[3]:
        raise DataError(f"{origin}: is truncated: ends in its header")
    shape, kind = tuple(np.frombuffer(sizes, ">u4").tolist()), np.dtype(TYPES[magic[2]])
    body = read_body(content, prod(shape) * kind.itemsize, 4 + len(sizes), origin)
    return np.frombuffer(body, kind).reshape(shape).astype(kind.newbyteorder("="), copy=False)


def header_of(shape: tuple[int, ...]) -> bytes:
    """The header of an IDX file of unsigned bytes: 00 00 08, the number of dimensions, and the size of each."""
    return bytes([0, 0, 8, len(shape)]) + np.array(shape, ">u4").tobytes()


def _described(shape: Iterable[int]) -> str:
    count, *image = shape
    return f"{count} images of {' x '.join(map(str, image))} inputs" if image else f"{count} labels"
