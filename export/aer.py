"""Target `aer`: what crosses each link for the golden inputs, as address events.

An event is a 1 on a wire. A code of b bits has b wires, so the address of an event is neuron x b + bit; on a link of
one bit it is the number of the neuron that spikes. There are as many events as the ledger counts ones. The events of
sample i have the time i x `microseconds`.

`<link>.aedat` is in the format AEDAT 2.0 of jAER: a header of lines that begin with #, then for each event its address
and its time in microseconds, 32 bits each, the most significant byte first. `events.csv` has the same events of all
links.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lowbit_dtp.storage import StorageError

from .checksums import Damage
from .fixed import FixedNetwork, Integers
from .golden import Golden
from .places import Place
from .verify import Differs, GoldenFiles, Verification

HEADER = b"#!AER-DAT2.0\r\n"
TABLE = "events.csv"
COLUMNS = "link,neuron,bit,address,microseconds\n"
_BIG_ENDIAN = np.dtype(">u4")


@dataclass(frozen=True)
class Options:
    """How samples follow each other."""

    microseconds: int = 1000
    """From one sample to the next."""

    def __post_init__(self) -> None:
        if not 1 <= self.microseconds <= 1_000_000:
            raise ValueError(f"microseconds must be 1 to 1000000, not {self.microseconds}")


def files(network: FixedNetwork, golden: Sequence[Golden], options: Options) -> dict[str, bytes]:
    """A file of events for each link, and a table of all."""
    contents, table = {}, [COLUMNS]
    for link, events in _events(network, golden, options).items():
        bits = next(x.levels.bits for x in network.links if x.name == link)
        comment = f"# link {link}, address = neuron x {bits} + bit, written by lowbit-dtp\r\n".encode()
        contents[f"{link}.aedat"] = HEADER + comment + events.astype(_BIG_ENDIAN).tobytes()
        table += [f"{link},{address // bits},{address % bits},{address},{time}\n" for address, time in events.tolist()]
    return {**contents, TABLE: "".join(table).encode()}


def details(network: FixedNetwork, golden: Sequence[Golden], options: Options) -> dict[str, Any]:
    """For the manifest: the time of a sample, and the number of events on each link."""
    counts = {link: len(events) for link, events in _events(network, golden, options).items()}
    return {"events": {"microseconds": options.microseconds, "links": counts}}


def place(manifest: Mapping[str, Any], damage: Damage) -> Place | None:
    """The neuron whose event a byte is of."""
    if damage.found < 0:
        return None
    if damage.path == TABLE:
        link, neuron = damage.content.splitlines()[damage.line - 1].decode().split(",")[:2]
        return (link, int(neuron)) if damage.line > 1 else None
    for described in manifest["links"]:
        start = _header_end(damage.content)
        if damage.path == f"{described['name']}.aedat" and damage.offset >= start:
            first = start + (damage.offset - start) // 8 * 8
            address = int.from_bytes(damage.content[first : first + 4], "big")
            return described["name"], address // described["bits"]
    return None


def verify(folder: Path) -> Verification:
    """Put the codes of every link together from the events in `folder`, and compare them with the golden vectors.

    Raises StorageError for a file that is no such list of events.
    """
    golden = GoldenFiles(Path(folder))
    try:
        table = [COLUMNS]
        for link in golden.links:
            events = _read(golden, link)
            path = f"network/{link['name']}.codes.mem"
            expected = golden.golden(path)
            golden.compare(path, link["name"], _codes(golden, link, events, len(expected)), signed=False)
            golden.vectors = len(expected)
            table += [
                f"{link['name']},{address // link['bits']},{address % link['bits']},{address},{time}\n"
                for address, time in events
            ]
        _check_table(golden, "".join(table))
    except Differs as differs:
        return differs.failure
    return golden.passed()


def _events(network: FixedNetwork, golden: Sequence[Golden], options: Options) -> dict[str, Integers]:
    """Address and time [events, 2] of all events on each link, by time, then by address."""
    codes = {x.path: x.values for x in golden}
    found = {}
    for link in network.links:
        bits = codes[f"network/{link.name}.codes.mem"][..., None] >> np.arange(link.levels.bits) & 1
        sample, address = np.nonzero(bits.reshape(len(bits), -1))
        found[link.name] = np.stack([address, sample * options.microseconds], axis=1)
    return found


def _read(golden: GoldenFiles, link: dict[str, Any]) -> list[tuple[int, int]]:
    path = golden.folder / f"{link['name']}.aedat"
    if not path.is_file():
        raise StorageError(f"{path}: no such file")
    content = path.read_bytes()
    if not content.startswith(HEADER):
        raise StorageError(f"{path}: must begin with {HEADER.decode().strip()}")
    start = _header_end(content)
    if (len(content) - start) % 8:
        raise StorageError(f"{path}: an event has 8 bytes, and after the header there are {len(content) - start}")
    return list(struct.iter_unpack(">II", content[start:]))


def _header_end(content: bytes) -> int:
    """Where the events begin: after the lines that begin with #."""
    start = 0
    while content[start : start + 1] == b"#":
        end = content.find(b"\n", start)
        start = len(content) if end < 0 else end + 1
    return start


def _codes(golden: GoldenFiles, link: dict[str, Any], events: list[tuple[int, int]], samples: int) -> Integers:
    """Codes [samples, neurons]; StorageError for an event of no sample or neuron, or out of order."""
    path, step = golden.folder / f"{link['name']}.aedat", golden.manifest["events"]["microseconds"]
    codes, before = np.zeros((samples, link["neurons"]), np.int64), (-1, -1)
    for number, (address, time) in enumerate(events, 1):
        neuron, bit = divmod(address, link["bits"])
        if neuron >= link["neurons"] or time % step or time // step >= samples or (time, address) <= before:
            raise StorageError(
                f"{path}: event {number}, address {address} at {time} us, is not of one of {samples} samples, "
                f"{step} us apart, and {link['neurons'] * link['bits']} addresses, in this order"
            )
        codes[time // step, neuron] |= 1 << bit
        before = time, address
    return codes


def _check_table(golden: GoldenFiles, expected: str) -> None:
    """Raise StorageError for the first line of the table that is not that of its event."""
    path = golden.folder / TABLE
    if not path.is_file():
        raise StorageError(f"{path}: no such file")
    given, wanted = path.read_bytes().decode(errors="replace").splitlines(True), expected.splitlines(True)
    for number in range(max(len(given), len(wanted))):
        one, other = given[number : number + 1], wanted[number : number + 1]
        if one != other:
            said, right = ("".join(line).strip() or "nothing" for line in (one, other))
            raise StorageError(f"{path}: line {number + 1} must be {right}, as in the .aedat files, not {said}")
