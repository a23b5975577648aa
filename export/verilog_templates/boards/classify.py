"""Sends vectors of codes to a board over its serial port, and prints the class of each; compares them if it can.

    python classify.py /dev/ttyUSB1                      # the golden vectors of this export
    python classify.py /dev/ttyUSB1 mine.mem             # lines of hexadecimal in the same form

Needs Python 3.11 and a POSIX system, and no packages.
"""

import argparse
import json
import os
import select
import sys
import termios
import tty
from pathlib import Path

EXPORT = Path(__file__).resolve().parents[1]


def frame(line: str, bits: int, neurons: int, lanes: int) -> bytes:
    """The bytes of one vector: beats of `lanes` codes, each of whole bytes, the first code least significant."""
    number, beat_bits = int(line, 16), lanes * bits
    size, beats = -(-beat_bits // 8), -(-neurons // lanes)
    return b"".join((number >> k * beat_bits & (1 << beat_bits) - 1).to_bytes(size, "little") for k in range(beats))


def opened(port: str) -> int:
    """The serial port at 115200 baud, 8 bits, no parity, no translation of characters."""
    descriptor = os.open(port, os.O_RDWR | os.O_NOCTTY)
    tty.setraw(descriptor)
    settings = termios.tcgetattr(descriptor)
    settings[4] = settings[5] = termios.B115200
    termios.tcsetattr(descriptor, termios.TCSANOW, settings)
    termios.tcflush(descriptor, termios.TCIOFLUSH)
    return descriptor


def asked(descriptor: int, sent: bytes, wanted: int, seconds: float) -> bytes:
    """The `wanted` bytes that come back for `sent`."""
    while sent:
        sent = sent[os.write(descriptor, sent) :]
    answer = b""
    while len(answer) < wanted:
        if not select.select([descriptor], [], [], seconds)[0]:
            sys.exit(f"no answer within {seconds:g} s: is this the port of the board, and is the bitstream loaded?")
        answer += os.read(descriptor, wanted - len(answer))
    return answer


def main() -> None:
    """Classify every vector of a file."""
    parser = argparse.ArgumentParser(description="Send vectors to a board, and print their classes.")
    parser.add_argument("port", help="serial port, as /dev/ttyUSB1")
    parser.add_argument("vectors", nargs="?", type=Path, help="lines of hexadecimal; default: the golden vectors")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long to wait for an answer")
    given = parser.parse_args()
    manifest = json.loads((EXPORT / "manifest.json").read_text())
    link, output = manifest["links"][0], manifest["layers"][-1]["name"]
    golden = EXPORT / "golden" / "network"
    lanes = manifest["hardware"]["layers"][0]["inputs_in_parallel"]
    lines = (given.vectors or golden / f"{link['name']}.codes.mem").read_text().split()
    right = None if given.vectors else [int(x, 16) for x in (golden / f"{output}.classes.mem").read_text().split()]
    size = -(-manifest["output"]["class_bits"] // 8)
    descriptor = opened(given.port)
    wrong = 0
    for index, line in enumerate(lines):
        sent = frame(line, link["bits"], link["neurons"], lanes)
        found = int.from_bytes(asked(descriptor, sent, size, given.seconds), "little")
        note = ""
        if right is not None and found != right[index]:
            wrong += 1
            note = f"  should be {right[index]}"
        print(f"{index}: class {found}{note}")
    if right is not None:
        print(f"{len(lines) - wrong} of {len(lines)} as in the golden vectors")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
