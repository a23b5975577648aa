"""Target `c`: a C99 header and source of the integer network, and a program that checks them with golden vectors.

No floating point, no memory allocation, no undefined behaviour. Only the tables differ from network to network.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .checksums import Damage
from .fixed import LOGIT_FRACTION_BITS, FixedNetwork
from .memory_files import bias_bits
from .places import Place

_TEMPLATES = Path(__file__).parent / "c_templates"


def files(network: FixedNetwork) -> dict[str, bytes]:
    """`network.h`, `network.c` and `main.c`."""
    texts = {
        "network.h": _fill("network.h", _constants(network)),
        "network.c": _fill("network.c", {"TABLES": "\n".join(_tables(network))}),
        "main.c": _fill("main.c", {}),
    }
    return {name: text.encode() for name, text in texts.items()}


def place(manifest: Mapping[str, Any], damage: Damage) -> Place | None:
    """The place in a table of `network.c` with a line for each neuron, or in that of the biases."""
    content, declared = damage.content, damage.content.rfind(b"\nstatic const ", 0, damage.offset)
    if damage.path != "network.c" or declared < 0:
        return None
    head, opened, body = content[declared + 1 : damage.offset].partition(b" = {\n")
    table = opened and re.fullmatch(rb"static const \w+ (?:(?:weights|thresholds)_(\d+)|biases)\[\d+\]", head)
    if not table or b"}" in body + content[damage.offset : damage.offset + 1]:
        return None
    if table[1]:
        return manifest["layers"][int(table[1])]["output_name"], body.count(b"\n")
    return manifest["layers"][-1]["output_name"], body.count(b",")


def _fill(name: str, values: dict[str, str]) -> str:
    text = (_TEMPLATES / name).read_text()
    for key, value in values.items():
        text = text.replace(f"@{key}@", value)
    return text


def _constants(network: FixedNetwork) -> dict[str, str]:
    output = network.output
    weights = [end for layer in network.layers for end in (int(layer.weight.min()), int(layer.weight.max()))]
    sum_bits = max(
        output.logit_bits,
        bias_bits(network),
        *(x.sum_bits for x in network.layers),
        *(x.threshold_bits for x in network.hidden),
        0,
    )
    fields = [output.neurons * output.logit_bits]
    fields += [link.neurons * link.levels.bits for link in network.links]
    fields += [layer.neurons * layer.sum_bits for layer in network.layers]
    return {
        "WEIGHT": next(t for t, bits in _SIGNED if -(1 << bits - 1) <= min(weights) and max(weights) < 1 << bits - 1),
        "CODE": "uint8_t" if max(link.levels.bits for link in network.links) <= 8 else "uint16_t",
        "SUM": "int32_t" if sum_bits <= 32 else "int64_t",
        "LAYERS": str(len(network.layers)),
        "INPUTS": str(network.links[0].neurons),
        "CLASSES": str(output.neurons),
        "WIDEST": str(max(output.neurons, *(link.neurons for link in network.links), 0)),
        "DIGITS": str(-(-max(fields) // 4)),
        "LOGIT_ONE": str(1 << LOGIT_FRACTION_BITS),
        "LOGIT_BITS": str(output.logit_bits),
        "CLASS_BITS": str(output.class_bits),
    }


_SIGNED = (("int8_t", 8), ("int16_t", 16), ("int32_t", 32))


def _tables(network: FixedNetwork) -> Iterable[str]:
    links = []
    for index, link in enumerate(network.links):
        yield _array("int32_t", f"levels_{index}", link.levels.by_code, "what each code stands for")
        yield _array("network_code", f"codes_{index}", link.levels.codes, "the code of each level, ascending")
        links.append(f'    {{"{link.name}", {link.neurons}, {link.levels.bits}, levels_{index}, codes_{index}}}')
    layers = []
    for index, layer in enumerate(network.layers):
        yield _array("network_weight", f"weights_{index}", layer.weight.T, f"{layer.name}, a line a neuron")
        count, thresholds = 0, "NULL"
        if index < len(network.hidden):
            hidden = network.hidden[index]
            count, thresholds = hidden.thresholds.shape[1], f"thresholds_{index}"
            yield _array("network_sum", thresholds, hidden.thresholds, f"{layer.name}, a line a neuron, ascending")
        fields = f"{layer.neurons}, {count}, {layer.sum_bits}, weights_{index}, {thresholds}"
        layers.append(f'    {{"{layer.name}", "{layer.output_name}", {fields}}}')
    yield _array("network_sum", "biases", network.output.bias, f"{network.output.name}, in 1/16 of a sum")
    yield "const network_link network_links[NETWORK_LAYERS] = {\n" + ",\n".join(links) + "\n};\n"
    yield "const network_layer network_layers[NETWORK_LAYERS] = {\n" + ",\n".join(layers) + "\n};\n"


def _array(kind: str, name: str, values: "np.typing.ArrayLike", comment: str) -> str:
    table = np.atleast_2d(np.asarray(values))
    lines = ",\n".join("    " + ", ".join(map(str, row)) for row in table.tolist())
    return f"/* {comment} */\nstatic const {kind} {name}[{table.size}] = {{\n{lines}\n}};\n"
