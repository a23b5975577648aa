"""Target `mem`: files for Verilog's `$readmemh`, one line an output neuron.

A line is one hexadecimal number of fixed width. Field `i` of it (input `i`, or threshold `i + 1`) takes the bits from
`i * bits` on, so input 0 is least significant. Weights are codes of their format, thresholds and biases two's
complement.
"""

import numpy as np
import numpy.typing as npt

from .fixed import FixedNetwork, signed_bits

_AT_ONCE = 256
"""Lines whose bits are in memory at once."""


def hex_lines(values: npt.ArrayLike, bits: int) -> bytes:
    """`values` [lines, fields], signed or not, as lines of hexadecimal.

    >>> hex_lines([[1, -1, 2]], bits=4)
    b'2f1\\n'

    Raises ValueError if a value does not fit in `bits`.
    """
    values = np.asarray(values, np.int64)
    low, high = int(values.min()), int(values.max())
    if high >= 1 << bits or (low < 0 and signed_bits(low, high) > bits):
        raise ValueError(f"values {low} to {high} do not fit in {bits} bits")
    digits = -(-values.shape[-1] * bits // 4)
    lines = []
    for start in range(0, len(values), _AT_ONCE):
        each = values[start : start + _AT_ONCE, :, None] >> np.arange(bits) & 1
        octets = np.packbits(each.reshape(len(each), -1).astype(np.uint8), axis=-1, bitorder="little")[:, ::-1]
        lines += [row.tobytes().hex()[-digits:] for row in octets]
    return "\n".join([*lines, ""]).encode()


def bias_bits(network: FixedNetwork) -> int:
    """Width of a bias of the output layer."""
    return signed_bits(int(network.output.bias.min()), int(network.output.bias.max()))


def files(network: FixedNetwork) -> dict[str, bytes]:
    """Weights and thresholds or biases of each layer, by file name."""
    contents = {}
    for layer in network.layers:
        levels = layer.weight_levels
        ranks = np.searchsorted(levels.values, layer.weight.T)
        contents[f"{layer.name}.weights.mem"] = hex_lines(levels.codes[ranks], levels.bits)
    for hidden in network.hidden:
        contents[f"{hidden.name}.thresholds.mem"] = hex_lines(hidden.thresholds, hidden.threshold_bits)
    output = network.output
    contents[f"{output.name}.biases.mem"] = hex_lines(output.bias[:, None], bias_bits(network))
    return contents
