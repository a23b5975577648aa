"""Target `qonnx`: one ONNX file with the quantizers of QONNX, in the real numbers that the integers stand for.

MatMul, Add, and a quantizer for each link: Quant where a fixed-point format rounds inputs or the link carries 0 or 1,
BipolarQuant where it carries +-a, MultiThreshold otherwise. Weights pass a Quant, +-a as two bits. All numbers are
whole multiples of powers of two that float32 holds, so every sum is exact.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lowbit_dtp.formats import FixedPoint

from .checksums import Damage
from .fixed import LOGIT_FRACTION_BITS, FixedLayer, FixedLink, FixedNetwork, HiddenLayer, Levels, signed_bits
from .places import Place

FILE = "network.onnx"
DOMAIN = "qonnx.custom_op.general"
OPSET, QONNX_VERSION, IR_VERSION = 13, 1, 8
EXACT_BITS = 24
"""Whole numbers below 2^24 are exact in float32."""

Floats = npt.NDArray[np.floating[Any]]


def files(network: FixedNetwork) -> dict[str, bytes]:
    """The file `network.onnx`. ValueError, naming the layer, if float32 cannot hold a sum; ImportError without onnx."""
    try:
        from onnx import helper
    except ImportError:
        raise ImportError("target qonnx needs the package onnx: pip install lowbit-dtp[qonnx]") from None

    for layer in network.layers:
        _check_exact(layer, network)
    graph = _Graph()
    graph.input(network.links[0])
    for layer in network.layers:
        graph.product(layer)
        if isinstance(layer, HiddenLayer):
            graph.thresholds(layer)
    output = network.output
    logits = output.exponent - LOGIT_FRACTION_BITS
    graph.node("Add", [sums_of(output), graph.constant("output_bias", np.ldexp(output.bias, logits)[None])], "logits")
    ends = [
        _rows(name, neurons) for name, neurons in (("inputs", network.links[0].neurons), ("logits", output.neurons))
    ]
    made = helper.make_graph(graph.nodes, "network", ends[:1], ends[1:], graph.constants, value_info=graph.tensors[:-1])
    imports = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, QONNX_VERSION)]
    model = helper.make_model(made, opset_imports=imports, ir_version=IR_VERSION, producer_name="lowbit-dtp")
    return {FILE: model.SerializeToString(deterministic=True)}


def place(manifest: Mapping[str, Any], damage: Damage) -> Place | str | None:
    """The neuron whose weight, threshold or bias a byte of the file is of; else the name of its node or tensor."""
    if damage.path != FILE or damage.found < 0:
        return None
    content, offset = damage.content, damage.offset
    model = _field_at(content, offset, 0, len(content))
    if model is None or model.number != GRAPH or offset < model.start:
        return "model"
    part = _field_at(content, offset, model.start, model.end)
    if part is None or part.number not in PARTS:
        return "graph"
    kind, key = PARTS[part.number]
    fields = list(_fields(content, part.start, part.end))
    name = next(content[x.start : x.end].decode() for x in fields if x.number == key)
    if kind == "initializer":
        data = next(x for x in fields if x.number == RAW_DATA)
        elements, element = (data.end - data.start) // 4, (offset - data.start) // 4
        for layer in manifest["layers"] if data.start <= offset < data.end else ():
            tables, neurons = (values_of(layer["output_name"]), layer["name"]), layer["neurons"]
            if name == f"{layer['name']}_weights":  # [below, neurons]
                return layer["output_name"], element % neurons
            if name in (f"{tables[0]}_offset", f"{tables[0]}_thresholds", f"{tables[1]}_bias"):  # neurons one by one
                return layer["output_name"], element // (elements // neurons)
    return f"{kind} {name}"


GRAPH, RAW_DATA = 7, 9
"""Numbers of the fields of ONNX's protobuf that hold the graph of a model, and the content of a tensor."""

PARTS = {1: ("node", 3), 5: ("initializer", 8), 11: ("tensor", 1), 12: ("tensor", 1), 13: ("tensor", 1)}
"""By number of a graph's field: what it holds, and the number of the field with its name."""


class _Field(NamedTuple):
    """A field of protobuf: its number, and where its content is."""

    number: int
    start: int
    end: int


def _field_at(content: bytes, offset: int, start: int, end: int) -> _Field | None:
    """The field between `start` and `end` whose key, length or content has the byte at `offset`."""
    return next((field for field in _fields(content, start, end) if offset < field.end), None)


def _fields(content: bytes, start: int, end: int) -> Iterator[_Field]:
    """The fields of the message from `start` to `end`, as in protobuf.dev/programming-guides/encoding."""
    while start < end:
        key, start = _varint(content, start)
        if key & 7 == 0:  # a number
            stop = _varint(content, start)[1]
        elif key & 7 == 2:  # bytes, after their number
            length, start = _varint(content, start)
            stop = start + length
        else:  # 8 or 4 bytes
            stop = start + (8 if key & 7 == 1 else 4)
        yield _Field(key >> 3, start, stop)
        start = stop


def _varint(content: bytes, start: int) -> tuple[int, int]:
    """A number, 7 bits a byte, the lowest first, and where it ends."""
    number = shift = 0
    while True:
        number |= (content[start] & 127) << shift
        shift, start = shift + 7, start + 1
        if content[start - 1] < 128:
            return number, start


def values_of(link: str) -> str:
    """Name of the tensor that a link carries, in real numbers."""
    return link.replace("-", "_")


def sums_of(layer: FixedLayer) -> str:
    """Name of the tensor of a layer's sums."""
    return f"{layer.name}_sums"


def _rows(name: str, neurons: int) -> Any:
    from onnx import TensorProto, helper

    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, neurons])


def _check_exact(layer: FixedLayer, network: FixedNetwork) -> None:
    """Sums, and what they are compared with: a threshold that is half a step off, or a bias in sixteenths."""
    bits = network.output.logit_bits if layer is network.output else layer.sum_bits + 1
    if bits > EXACT_BITS + 1:
        raise ValueError(
            f"layer {layer.name}: its sums take {bits} bits, which the float32 of ONNX does not hold; "
            f"use fewer bits for its weights or for link {layer.below.name}"
        )


class _Graph:
    """Nodes, constants and tensors of the file, in the order of computation."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.tensors: list[Any] = []
        self.neurons = 0

    def constant(self, name: str, value: npt.ArrayLike) -> str:
        """Add a constant; returns its name."""
        from onnx import numpy_helper

        self.constants.append(numpy_helper.from_array(np.array(value, np.float32), name))
        return name

    def node(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Add a node that gives [1, neurons]; returns the name of what it gives."""
        from onnx import helper

        domain = {} if op in ("Add", "Sub", "MatMul") else {"domain": DOMAIN}
        self.nodes.append(helper.make_node(op, inputs, [output], f"{output}_{op}", **domain, **attributes))
        self.tensors.append(_rows(output, self.neurons))
        return output

    def quant(
        self, given: str, output: str, bits: int, exponent: int, signed: bool, narrow: bool, rounding: str = "ROUND"
    ) -> None:
        """Add a Quant to `bits` bits in steps of 2^exponent."""
        parts = (("scale", 2.0**exponent), ("zero", 0), ("bits", bits))
        constants = [self.constant(f"{output}_{name}", value) for name, value in parts]
        options = {"signed": int(signed), "narrow": int(narrow), "rounding_mode": rounding}
        self.node("Quant", [given, *constants], output, **options)

    def bipolar(self, given: str, output: str, levels: Levels) -> None:
        """Add a BipolarQuant to +-the larger level."""
        scale = np.ldexp(float(levels.values[1]), levels.exponent)
        self.node("BipolarQuant", [given, self.constant(f"{output}_scale", scale)], output)

    def multi_threshold(self, given: str, output: str, levels: Levels, thresholds: Floats) -> None:
        """Add a MultiThreshold; where levels are two steps apart, a threshold is there twice."""
        steps = np.diff(levels.values)
        table = self.constant(f"{output}_thresholds", np.repeat(thresholds, steps, axis=1))
        bits = signed_bits(levels.values[0], levels.values[-1]) - (levels.values[0] >= 0)
        one = levels.exponent == 0
        kind = f"{'UINT' if levels.values[0] >= 0 else 'INT'}{bits}" if one else "FLOAT32"
        unit = 2.0**levels.exponent
        options = {"out_scale": unit, "out_bias": levels.values[0] * unit, "out_dtype": kind}
        self.node("MultiThreshold", [given, table], output, **options)

    def input(self, link: FixedLink) -> None:
        """Add the quantizer of the inputs."""
        self.neurons = link.neurons
        levels, output = link.levels, values_of(link.name)
        fmt = levels.format
        if isinstance(fmt, FixedPoint):
            rounding = "ROUND" if fmt.rounding == "nearest-even" else "FLOOR"
            narrow = fmt.signed and fmt.overflow == "saturate-symmetric"
            self.quant("inputs", output, fmt.bits, fmt.integer - fmt.word, fmt.signed, narrow, rounding)
            return
        thresholds = np.array([fmt.table().thresholds], np.float32)
        if not _is_bipolar(levels):
            self.multi_threshold("inputs", output, levels, thresholds)
            return
        given = "inputs"
        if thresholds[0, 0]:
            given = self.node("Sub", ["inputs", self.constant("input_threshold", thresholds[0, :1])], "inputs_shifted")
        self.bipolar(given, output, levels)

    def product(self, layer: FixedLayer) -> None:
        """Add the weights of `layer` and its sums."""
        from onnx import TensorProto, helper

        levels, name = layer.weight_levels, f"{layer.name}_weights"
        low, high = levels.values[0], levels.values[-1]
        real = self.constant(name, np.ldexp(layer.weight.astype(np.float64), levels.exponent))
        self.quant(real, f"{name}_quantized", max(2, signed_bits(low, high)), levels.exponent, True, low == -high)
        self.tensors[-1] = helper.make_tensor_value_info(f"{name}_quantized", TensorProto.FLOAT, layer.weight.shape)
        self.neurons = layer.neurons
        self.node("MatMul", [values_of(layer.below.name), f"{name}_quantized"], sums_of(layer))

    def thresholds(self, layer: HiddenLayer) -> None:
        """Add the comparison of the sums of `layer` with its thresholds."""
        levels, output, unit = layer.above.levels, values_of(layer.above.name), 2.0**layer.exponent
        if _is_bipolar(levels):  # halfway below the threshold is zero
            offset = self.constant(f"{output}_offset", (0.5 - layer.thresholds.T) * unit)
            self.bipolar(self.node("Add", [sums_of(layer), offset], f"{output}_shifted"), output, levels)
        elif levels.values == (0, 1) and isinstance(levels.format, FixedPoint) and _is_near(layer):
            # one step below the threshold is half of 2^exponent, which is rounded to even, to 0
            offset = self.constant(f"{output}_offset", (1 - layer.thresholds.T) * unit + 2.0 ** (levels.exponent - 1))
            given = self.node("Add", [sums_of(layer), offset], f"{output}_shifted")
            self.quant(given, output, 1, levels.exponent, False, False)
        else:
            self.multi_threshold(sums_of(layer), output, levels, _spread(layer) * unit)


def _is_bipolar(levels: Levels) -> bool:
    return len(levels.values) == 2 and levels.values[0] == -levels.values[1]


def _is_near(layer: HiddenLayer) -> bool:
    """Whether half a step of the link above is a number that float32 adds to a sum exactly."""
    return abs(layer.above.levels.exponent - layer.exponent) + layer.sum_bits < EXACT_BITS - 1


def _spread(layer: HiddenLayer) -> Floats:
    """Thresholds, a little apart in the first neuron if two are alike in all: equal ones stand for no code at all.

    It is by less than half a step of its sums, so it changes no code.
    """
    thresholds = layer.thresholds.astype(np.float64)
    count = thresholds.shape[1]
    bits = count.bit_length() + 1
    if (np.diff(layer.thresholds, axis=1) == 0).all(0).any() and layer.sum_bits + bits <= EXACT_BITS:
        thresholds[0] -= np.arange(count)[::-1] * 2.0**-bits
    return thresholds
