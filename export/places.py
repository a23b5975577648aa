"""Which neuron of which link a byte of an exported file belongs to."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from .checksums import Damage
from .folder import MANIFEST

Place = tuple[str, int]
"""A link, or a layer without a link above, and a neuron."""

Owner = Callable[[Mapping[str, Any], Damage], Place | str | None]
"""Of a manifest and the damage of a file: the place; the name of a part of the file that is of no neuron; or None."""


def place(manifest: Mapping[str, Any], damage: Damage, owner: Owner) -> Place | str | None:
    """The place of a damage; `owner` knows the files of the target. `manifest` is not needed for its own damage."""
    if damage.path == MANIFEST:
        return _of_manifest(damage)
    golden = next((x for x in manifest.get("golden", ()) if x["path"] == damage.path), None)
    return _of_golden(golden, damage) if golden else owner(manifest, damage)


def line_of_layer(manifest: Mapping[str, Any], damage: Damage) -> Place | None:
    """The place in a file `LAYER.KIND.mem`, which has a line for each neuron."""
    layer = next((x for x in manifest["layers"] if x["name"] == damage.path.partition(".")[0]), None)
    if layer is None or not damage.path.endswith(".mem"):
        return None
    return layer["output_name"], damage.line - 1


def bit_of_line(damage: Damage) -> int:
    """The least changed bit of the number that a line of hexadecimal is, if its digits tell; else the digit's first."""
    start = damage.offset - damage.column
    digits = damage.content.find(b"\n", start) - start
    bit = 4 * max(digits - 1 - damage.column, 0)  # the line's end belongs to the least significant field
    digit, found = damage.content[damage.offset : damage.offset + 1], bytes([max(damage.found, 0)])
    if digit.isalnum() and found in b"0123456789abcdef":
        changed = int(digit, 16) ^ int(found, 16)
        bit += (changed & -changed).bit_length() - 1
    return bit


def _of_golden(golden: Mapping[str, Any], damage: Damage) -> Place:
    """A line has `fields` numbers of `bits` bits, neuron 0 in the least significant."""
    field = min(bit_of_line(damage) // golden["bits"], golden["fields"] - 1)
    return golden["path"].rpartition("/")[2].split(".")[0], field


def _of_manifest(damage: Damage) -> Place | None:
    """Lists of a number for each neuron are of a neuron; all else is of none."""
    before = damage.content[: damage.offset].decode(errors="replace")
    names = re.findall(r'"output_name": "([^"]*)"', before)
    key, _, numbers = before.rpartition("[")
    if not names or not re.search(r'"(neuron_sum_bits|lowest_sum|highest_sum)": $', key) or "]" in numbers:
        return None
    return names[-1], numbers.count(",")
