"""Target `c`: a C99 header and source of the integer network, and a program that checks them with golden vectors.

No floating point, no memory allocation, no undefined behaviour; made for microcontrollers without a cache: tables are
constant, and signals take a few bits a neuron. Only the tables differ from network to network.

Weights and signals are numbers of equal steps above their lowest value, without a sign: w = w0 + ws v, x = x0 + xs u.
So a sum is ws xs (sum of v u) + w0 xs (sum of u) + x0 (sum of w), and only the first depends on both. Few bits are
laid out as planes of bits and multiplied by AND and population counts, others as numbers.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .checksums import Damage
from .fixed import LOGIT_FRACTION_BITS, FixedLayer, FixedLink, FixedNetwork, HiddenLayer, Integers, signed_bits
from .memory_files import bias_bits
from .places import Place

_TEMPLATES = Path(__file__).parent / "c_templates"

_SIGNED = (("int8_t", 8), ("int16_t", 16), ("int32_t", 32), ("int64_t", 64))


def files(network: FixedNetwork) -> dict[str, bytes]:
    """`network.h`, `network.c` and `main.c`."""
    layers = [_Layer(layer) for layer in network.layers]
    texts = {
        "network.h": _fill("network.h", _constants(network, layers)),
        "network.c": _fill("network.c", {"TABLES": "\n".join(_tables(network, layers)), **_calls(len(layers))}),
        "main.c": _fill("main.c", {}),
    }
    return {name: text.encode() for name, text in texts.items()}


def place(manifest: Mapping[str, Any], damage: Damage) -> Place | None:
    """The place in a table of `network.c` with a line for each neuron, or of biases or first sums."""
    content, declared = damage.content, damage.content.rfind(b"\nstatic const ", 0, damage.offset)
    if damage.path != "network.c" or declared < 0:
        return None
    head, opened, body = content[declared + 1 : damage.offset].partition(b" = {\n")
    table = opened and re.fullmatch(rb"static const \w+ (?:(weights|thresholds|bases)_(\d+)|biases)\[\d+\]", head)
    if not table or b"}" in body + content[damage.offset : damage.offset + 1]:
        return None
    layer = manifest["layers"][int(table[2]) if table[1] else -1]
    return layer["output_name"], body.count(b"\n" if table[1] in (b"weights", b"thresholds") else b",")


def details(network: FixedNetwork) -> dict[str, Any]:
    """For the manifest: bytes of the tables and of the static memory of `network_classify`, and each layer's layout."""
    layers = [_Layer(layer) for layer in network.layers]
    one_sum, one_limit = _sum_bits(network, layers) // 8, _limit_bits(network) // 8
    tables = one_sum * network.output.neurons + sum(layer.weights.nbytes for layer in layers)
    tables += sum(one_sum * layer.layer.neurons for layer in layers if layer.bases.any())
    tables += sum(one_limit * hidden.thresholds.size for hidden in network.hidden)
    return {
        "memory": {
            "table_bytes": tables,
            "static_bytes": 4 * sum(max(1, *(x.signal_words for x in layers[first::2]), 0) for first in (0, 1)),
            "layouts": {layer.layer.name: layer.layout for layer in layers},
        }
    }


@dataclass(frozen=True, eq=False)
class _Layer:
    """A layer, with its weights as they lie in memory."""

    layer: FixedLayer

    @cached_property
    def numbers(self) -> Integers:
        """Weights [neurons, below] as numbers of steps above the lowest."""
        return (self.layer.weight.T - self.lowest) // self.step

    @property
    def lowest(self) -> int:
        return int(self.layer.weight.min())

    @cached_property
    def step(self) -> int:
        return max(1, int(np.gcd.reduce((self.layer.weight - self.lowest).ravel())))

    @property
    def planes(self) -> int:
        """Bits of a weight's number of steps."""
        return max(1, int(self.numbers.max()).bit_length())

    @property
    def layout(self) -> str:
        """That with the fewest instructions: of planes, population counts of 32 products of bits at once."""
        signal = _planes(self.layer.below)
        if self.planes * signal <= 8 or max(self.planes, signal) > 8:
            return "planes"
        return "pairs" if self.planes <= 4 else "bytes"

    @property
    def row(self) -> int:
        """Words of a plane, words a neuron, or bytes a neuron."""
        return -(-self.layer.below.neurons // {"planes": 32, "pairs": 8, "bytes": 1}[self.layout])

    @property
    def signal_words(self) -> int:
        """Words of the signal that the layer gets."""
        below = self.layer.below
        words = {"planes": self.row * _planes(below), "pairs": self.row * 4, "bytes": -(-below.neurons // 4)}
        return words[self.layout]

    @cached_property
    def weights(self) -> npt.NDArray[np.unsignedinteger[Any]]:
        """[neurons, ...]"""
        if self.layout == "bytes":
            return self.numbers.astype(np.uint8)
        if self.layout == "pairs":
            return _words((self.numbers[..., None] >> np.arange(4) & 1).reshape(len(self.numbers), 1, -1))
        return _words(self.numbers[:, None] >> np.arange(self.planes)[:, None] & 1)

    @cached_property
    def bases(self) -> Integers:
        """What sums begin with [neurons]."""
        return self.layer.weight.sum(0) * self.layer.below.levels.values[0]

    @property
    def bits(self) -> int:
        """Width of all intermediate results."""
        below = self.layer.below
        numbers, step = _steps(below)
        most = below.neurons * int(numbers.max()) * step * abs(self.lowest)
        most += int(self.numbers.sum(1).max()) * int(numbers.max()) * step * self.step + int(np.abs(self.bases).max())
        return signed_bits(-most, most)


def _steps(link: FixedLink) -> tuple[Integers, int]:
    """Levels of a link, by rank, as numbers of equal steps above the lowest; and a step."""
    values = np.array(link.levels.values)
    step = int(np.gcd.reduce(np.diff(values)))
    return (values - values[0]) // step, step


def _planes(link: FixedLink) -> int:
    """Bits of a number of steps."""
    return int(_steps(link)[0].max()).bit_length()


def _words(bits: Integers) -> npt.NDArray[np.unsignedinteger[Any]]:
    """Rows of bits [neurons, rows, bits] in words of 32, the first bit least significant; a line a neuron."""
    padded = np.zeros((*bits.shape[:2], -(-bits.shape[2] // 32) * 32), np.uint8)
    padded[..., : bits.shape[2]] = bits
    return np.packbits(padded, axis=-1, bitorder="little").view("<u4").reshape(len(bits), -1)


def _fill(name: str, values: dict[str, str]) -> str:
    text = (_TEMPLATES / name).read_text()
    for key, value in values.items():
        text = text.replace(f"@{key}@", value)
    return text


def _sum_bits(network: FixedNetwork, layers: list[_Layer]) -> int:
    """Width of `network_sum`: 32 or 64."""
    widths = [network.output.logit_bits, bias_bits(network), *(layer.bits for layer in layers)]
    widths += [layer.threshold_bits for layer in network.hidden]
    return 32 if max(widths) <= 32 else 64


def _limit_bits(network: FixedNetwork) -> int:
    """Width of `network_limit`: 8, 16, 32 or 64."""
    ends = [end for layer in network.hidden for end in (int(layer.thresholds.min()), int(layer.thresholds.max()))]
    needed = signed_bits(min(ends), max(ends)) if ends else 8
    return next(bits for _, bits in _SIGNED if needed <= bits)


def _constants(network: FixedNetwork, layers: list[_Layer]) -> dict[str, str]:
    output = network.output
    fields = [output.neurons * output.logit_bits]
    fields += [link.neurons * link.levels.bits for link in network.links]
    fields += [layer.neurons * layer.sum_bits for layer in network.layers]
    words = [layer.signal_words for layer in layers]
    return {
        "CODE": "uint8_t" if max(link.levels.bits for link in network.links) <= 8 else "uint16_t",
        "SUM": f"int{_sum_bits(network, layers)}_t",
        "LIMIT": f"int{_limit_bits(network)}_t",
        "LAYERS": str(len(network.layers)),
        "INPUTS": str(network.links[0].neurons),
        "CLASSES": str(output.neurons),
        "WIDEST": str(max(output.neurons, *(link.neurons for link in network.links), 0)),
        "WORDS": str(max(words)),
        "EVEN_WORDS": str(max(words[0::2])),
        "ODD_WORDS": str(max(words[1::2], default=1)),
        "DIGITS": str(-(-max(fields) // 4)),
        "LOGIT_ONE": str(1 << LOGIT_FRACTION_BITS),
        "LOGIT_BITS": str(output.logit_bits),
        "CLASS_BITS": str(output.class_bits),
    }


def _tables(network: FixedNetwork, layers: list[_Layer]) -> Iterable[str]:
    links, rows = [], []
    for index, link in enumerate(network.links):
        numbers, _ = _steps(link)
        table = "NULL"
        if len(numbers) <= numbers.max():  # not each code is one step
            table = f"steps_{index}"
            by_code = np.zeros(1 << link.levels.bits, np.int64)
            by_code[link.levels.codes] = numbers
            yield _array("uint16_t", table, by_code, f"{link.name}, steps above the lowest level, by code")
        fields = f"{link.neurons}, {link.levels.bits}, {link.levels.codes[0]}, {table}, {_planes(link)}"
        links.append(f'    {{"{link.name}", {fields}}}')
    for index, own in enumerate(layers):
        layer, (_, step) = own.layer, _steps(own.layer.below)
        kind = "uint8_t" if own.layout == "bytes" else "uint32_t"
        yield _array(kind, f"weights_{index}", own.weights, f"{layer.name}, a line a neuron")
        count, thresholds, bases = 0, "NULL", "NULL"
        if own.bases.any():
            bases = f"bases_{index}"
            yield _array("network_sum", bases, own.bases, f"{layer.name}, what sums begin with")
        if isinstance(layer, HiddenLayer):
            count, thresholds = layer.thresholds.shape[1], f"thresholds_{index}"
            yield _array("network_limit", thresholds, layer.thresholds, f"{layer.name}, a line a neuron, ascending")
        fields = f"{layer.neurons}, {count}, {layer.sum_bits}, NETWORK_{own.layout.upper()}, {own.planes}, {own.row}"
        fields += f", weights_{index}, {own.step * step}, {own.lowest * step}, {bases}, {thresholds}"
        rows.append(f'    {{"{layer.name}", "{layer.output_name}", {fields}}}')
    yield _array("network_sum", "biases", network.output.bias, f"{network.output.name}, in 1/16 of a sum")
    yield "const network_link network_links[NETWORK_LAYERS] = {\n" + ",\n".join(links) + "\n};\n"
    yield "const network_layer network_layers[NETWORK_LAYERS] = {\n" + ",\n".join(rows) + "\n};\n"


def _calls(layers: int) -> dict[str, str]:
    """The calls of `network_classify`, a line a layer, in which sizes are constants to the compiler."""
    signals = ("even", "odd") * layers
    sends = [f"    send({index}, &{signals[index]}, &{signals[index + 1]});" for index in range(layers - 1)]
    used = [] if sends else ["    (void)odd;"]
    return {"SENDS": "\n".join(sends + used), "LAST": signals[layers - 1]}


def _array(kind: str, name: str, values: npt.ArrayLike, comment: str) -> str:
    table = np.atleast_2d(np.asarray(values))
    show = hex if kind == "uint32_t" else str
    lines = ",\n".join("    " + ", ".join(map(show, row)) for row in table.tolist())
    return f"/* {comment} */\nstatic const {kind} {name}[{table.size}] = {{\n{lines}\n}};\n"
