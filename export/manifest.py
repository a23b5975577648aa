"""`manifest.json`: everything that a reader needs besides the other files."""

from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from lowbit_dtp.formats import FixedPoint

from .fixed import LOGIT_FRACTION_BITS, FixedLayer, FixedLink, FixedNetwork, HiddenLayer, Levels
from .golden import Golden
from .memory_files import bias_bits

CLASS_RULE = "number of the largest logit; the lowest number on a tie"


def manifest(network: FixedNetwork, target: str, files: Mapping[str, bytes], golden: list[Golden]) -> dict[str, Any]:
    """Description of an export: formats, units, widths, conventions, and the SHA-256 of each of `files`."""
    output = network.output
    return {
        "target": target,
        "trained_network": dict(network.description),
        "class_rule": CLASS_RULE,
        "links": [_link(link) for link in network.links],
        "layers": [_layer(layer) for layer in network.layers],
        "output": {
            "bias_bits": bias_bits(network),
            "logit_bits": output.logit_bits,
            "logit_exponent": output.exponent - LOGIT_FRACTION_BITS,
            "class_bits": output.class_bits,
        },
        "golden": [
            {"path": f"golden/{x.path}", "vectors": len(x.values), "fields": x.values.shape[1], "bits": x.bits}
            for x in golden
        ],
        "files": [
            {"path": path, "bytes": len(content), "sha256": sha256(content).hexdigest()}
            for path, content in files.items()
        ],
    }


def _link(link: FixedLink) -> dict[str, Any]:
    return {
        "name": link.name,
        "neurons": link.neurons,
        "trained_format": link.trained,
        "quantized_on_export": link.quantized_on_export,
        **_levels(link.levels),
    }


def _layer(layer: FixedLayer) -> dict[str, Any]:
    low, high = (bound.tolist() for bound in layer.sum_bounds)
    entry = {
        "name": layer.name,
        "neurons": layer.neurons,
        "below": layer.below.name,
        "output_name": layer.output_name,
        "weights": _levels(layer.weight_levels),
        "weight_table_bits": layer.weight.size * layer.weight_levels.bits,
        "sum_exponent": layer.exponent,
        "sum_bits": layer.sum_bits,
        "neuron_sum_bits": layer.neuron_sum_bits,
        "lowest_sum": low,
        "highest_sum": high,
    }
    if isinstance(layer, HiddenLayer):
        entry |= {
            "activation": layer.activation,
            "thresholds_per_neuron": layer.thresholds.shape[1],
            "threshold_bits": layer.threshold_bits,
            "threshold_table_bits": layer.thresholds.size * layer.threshold_bits,
        }
    return entry


def _levels(levels: Levels) -> dict[str, Any]:
    """A code stands for a level; the number is level times 2^`unit_exponent`."""
    fmt = levels.format
    entry = {
        "format": fmt.name,
        "bits": levels.bits,
        "unit_exponent": levels.exponent,
        "lowest_level": levels.values[0],
        "highest_level": levels.values[-1],
        "zero": {"sent_as": fmt.zero, "code": int(fmt.encode(0.0))},
    }
    if isinstance(fmt, FixedPoint):
        kind = "two's complement" if fmt.signed else "unsigned"
        sign = ", sign included," if fmt.signed else ""
        definition = (
            f"{kind}, {fmt.word} bits: {fmt.integer}{sign} before the binary point and {fmt.word - fmt.integer} after"
        )
        return {**entry, "codes": kind, "q_notation": fmt.q_notation, "q_definition": definition}
    return {**entry, "codes": "index", "levels": list(levels.values)}
