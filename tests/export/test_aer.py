"""Address events: read by other code, counted by the ledger, changed, damaged."""

import numpy as np
import pytest

from export import TARGETS, FixedNetwork, write
from lowbit_dtp import Link
from lowbit_dtp.ledger import Direction, Ledger
from lowbit_dtp.storage import StorageError, read_json

PIXELS = np.random.default_rng(3).random((7, 5)).astype(np.float32)
LINKS = ("ufixed(3,0)", "binary", "ternary")


@pytest.fixture
def written(make_network, tmp_path):
    network = FixedNetwork.of(*make_network(links=LINKS))
    write(network, "aer", tmp_path / "aer", PIXELS, {"microseconds": 10})
    return network, tmp_path / "aer"


def verify(folder):
    return TARGETS["aer"].verify(folder)


def test_events_are_the_ones_that_the_ledger_counts(written):
    network, folder = written
    trace, ledger = network.infer(PIXELS), Ledger()
    for link in network.links:
        values = link.levels.format.decode(trace.codes[link.name], np.float32)
        Link(link.levels.format.name, label=link.name).send(values, Direction.FORWARD, "activations", ledger)
    ones = {message.link: int(traffic.ones) for message, traffic in ledger.traffic.items()}
    manifest = read_json(folder / "manifest.json")
    assert manifest["events"] == {"microseconds": 10, "links": ones}
    assert all(ones.values())
    result = verify(folder)
    assert (result.status, result.vectors) == ("passed", len(PIXELS))
    assert result.values == sum(codes.size for codes in trace.codes.values())


def test_the_format_is_aedat_2(written):
    """Header lines, then pairs of big-endian words: address and time. Read as jAER's documentation says."""
    network, folder = written
    content = (folder / "h1-h2.aedat").read_bytes()
    lines = content.split(b"\r\n", 2)
    assert lines[0] == b"#!AER-DAT2.0"
    assert lines[1] == b"# link h1-h2, address = neuron x 1 + bit, written by lowbit-dtp"
    events = np.frombuffer(lines[2], ">u4").reshape(-1, 2).tolist()
    spikes = network.infer(PIXELS).codes["h1-h2"]
    assert events == [[neuron, 10 * sample] for sample, neuron in np.argwhere(spikes).tolist()]
    table = (folder / "events.csv").read_text().splitlines()
    assert table[0] == "link,neuron,bit,address,microseconds"
    assert [line for line in table if line.startswith("h1-h2,")] == [f"h1-h2,{a},0,{a},{t}" for a, t in events]


def _problem(folder):
    with pytest.raises(StorageError) as error:
        verify(folder)
    return str(error.value)


def test_a_missing_and_an_additional_event_are_located(written):
    network, folder = written
    path = folder / "h2-output.aedat"
    right = path.read_bytes()
    address, time = np.frombuffer(right[-8:], ">u4").tolist()
    path.write_bytes(right[:-8])
    result = verify(folder)
    assert result.status == f"failed at link h2-output, neuron {address // 2}"
    codes = network.infer(PIXELS).codes["h2-output"]
    expected = codes[time // 10, address // 2]
    golden = folder / "golden/network/h2-output.codes.mem"
    changed = expected & ~(1 << address % 2)
    assert result.detail == f"line {time // 10 + 1} of {golden}: expected {expected}, got {changed}"


def test_what_is_no_list_of_events_is_named(written):
    _, folder = written
    path = folder / "input-h1.aedat"
    right = path.read_bytes()
    path.write_bytes(b"!" + right[1:])
    assert _problem(folder) == f"{path}: must begin with #!AER-DAT2.0"
    path.write_bytes(right[:-1])
    length = len(right) - right.index(b"\n#") - 1
    events = length - right[right.index(b"\n#") + 1 :].index(b"\n") - 1
    assert _problem(folder) == f"{path}: an event has 8 bytes, and after the header there are {events - 1}"
    for event, what in (
        (b"\0\0\0\x0f\0\0\0\x3c", "address 15 at 60 us"),
        (b"\0\0\0\0\0\0\0\x3d", "address 0 at 61 us"),
    ):
        path.write_bytes(right + event)
        assert _problem(folder) == (
            f"{path}: event {events // 8 + 1}, {what}, is not of one of 7 samples, 10 us apart, and 15 addresses, "
            "in this order"
        )
    path.write_bytes(right + right[-8:])
    assert "in this order" in _problem(folder)
    path.unlink()
    assert _problem(folder) == f"{path}: no such file"


def test_the_table_is_compared(written):
    _, folder = written
    path = folder / "events.csv"
    right = path.read_text()
    first = right.splitlines()[1]
    path.write_text(right.replace(first, first[:-1] + "7", 1))
    assert _problem(folder) == f"{path}: line 2 must be {first}, as in the .aedat files, not {first[:-1]}7"
    path.write_text(right + "x\n")
    assert _problem(folder) == f"{path}: line {right.count(chr(10)) + 1} must be nothing, as in the .aedat files, not x"
    path.unlink()
    assert _problem(folder) == f"{path}: no such file"


@pytest.mark.parametrize("time", [0, 1_000_001])
def test_wrong_times_and_options_are_named(make_network, tmp_path, time):
    network = FixedNetwork.of(*make_network(links=LINKS))
    with pytest.raises(ValueError) as error:
        write(network, "aer", tmp_path / "aer", PIXELS, {"microseconds": time})
    assert str(error.value) == f"microseconds must be 1 to 1000000, not {time}"
