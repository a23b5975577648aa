"""Checksums of an export: they find every flipped bit, and tell which bit of which line it is.

`checksums.txt` has a line for each file, the manifest included: CRC-32s of its blocks of 1,024 bytes, its size, its
path, and the CRC-32 of the line so far. A CRC is linear, so what one flipped bit changes in it depends on the bit's
distance from the end of the block alone, and is different for each bit of a block.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from zlib import crc32

CHECKSUMS = "checksums.txt"

BLOCK = 1024
"""Bytes that share a checksum."""

_LINE = re.compile(rb"((?:[0-9a-f]{8})*) (\d+) (\S+) ([0-9a-f]{8})")


@dataclass(frozen=True)
class FileSums:
    """Size and checksums of a file."""

    size: int
    blocks: tuple[int, ...]


@dataclass(frozen=True)
class Damage:
    """The first place where an exported file is not what was written."""

    path: str
    """Relative to the export."""
    offset: int
    """Of the damaged byte."""
    content: bytes
    """The file as it was written, if one bit has flipped; else as it is."""
    detail: str
    """What has changed."""
    found: int = -1
    """The damaged byte as it is, if one bit has flipped; else -1."""

    @property
    def line(self) -> int:
        """Number of the damaged line, from 1 on."""
        return self.content.count(b"\n", 0, self.offset) + 1

    @property
    def column(self) -> int:
        """Byte of that line, from 0 on."""
        return self.offset - self.content.rfind(b"\n", 0, self.offset) - 1


def checksums(files: Mapping[str, bytes]) -> bytes:
    """The content of `checksums.txt` for `files`, by path.

    >>> checksums({"a": b"abc"})
    b'352441c2 3 a 2db8e2f6\\n'
    """
    lines = []
    for path, content in files.items():
        blocks = "".join(f"{crc32(block):08x}" for block in _blocks(content))
        line = f"{blocks} {len(content)} {path}".encode()
        lines.append(line + f" {crc32(line):08x}\n".encode())
    return b"".join(lines)


def read_checksums(content: bytes) -> dict[str, FileSums] | Damage:
    """What `checksums.txt` says of each file, by path; or where it is damaged itself."""
    files = {}
    start = 0
    for line in content.removesuffix(b"\n").split(b"\n"):
        found = _LINE.fullmatch(line)
        if not found or crc32(line[: found.start(4) - 1]) != int(found[4], 16) or not content.endswith(b"\n"):
            return Damage(CHECKSUMS, start, content, "the line is not what was written")
        crcs = tuple(int(found[1][i : i + 8], 16) for i in range(0, len(found[1]), 8))
        files[found[3].decode()] = FileSums(int(found[2]), crcs)
        start += len(line) + 1
    return files


def damage(path: str, content: bytes, sums: FileSums) -> Damage | None:
    """Where the file `path` is not what was written; None if it is."""
    if len(content) != sums.size:
        shorter = min(len(content), sums.size)
        return Damage(path, max(shorter - 1, 0), content, f"{len(content)} bytes, not {sums.size}")
    for index, (block, crc) in enumerate(zip(_blocks(content), sums.blocks, strict=True)):
        if changed := crc32(block) ^ crc:
            start = index * BLOCK
            distance, bit = _flips().get(changed, (len(block), 0))
            if distance >= len(block):
                return Damage(path, start, content, f"bytes {start} to {start + len(block) - 1} have changed")
            offset = start + len(block) - 1 - distance
            right = content[offset] ^ 1 << bit
            written = content[:offset] + bytes([right]) + content[offset + 1 :]
            return Damage(path, offset, written, f"bit {bit} of byte {offset} has flipped", content[offset])
    return None


def _blocks(content: bytes) -> Iterable[bytes]:
    return (content[start : start + BLOCK] for start in range(0, len(content), BLOCK))


@cache
def _flips() -> dict[int, tuple[int, int]]:
    """What a flipped bit changes in the checksum of a block: how far its byte is from the end, and the bit."""
    return {
        crc32(bytes([1 << bit]) + bytes(distance)) ^ crc32(bytes(distance + 1)): (distance, bit)
        for distance in range(BLOCK)
        for bit in range(8)
    }
