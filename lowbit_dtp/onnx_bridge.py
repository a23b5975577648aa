"""Multilayer perceptrons in ONNX files with the quantizers of QONNX, as networks of whole numbers and thresholds.

QONNX is the dialect that Brevitas, FINN and hls4ml exchange: ONNX with the operators Quant, BipolarQuant and
MultiThreshold (Pappalardo et al., arXiv:2206.07527). A file is a chain of nodes from its input to its output, and
constants. What lies between two products is evaluated in float32, in the order of the file, as qonnx and onnxruntime
do; `folding` makes thresholds of it.
"""

from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .choices import choose
from .folding import MOST_VALUES, Function, Product, Wire, exact_wire, folded, input_wire
from .formats import Format, float32, parse
from .network import Network
from .step_functions import Float32s
from .storage import StorageError

OPSETS = range(7, 27)
"""Versions of the operators of ONNX that are read."""

_LARGEST = 1 << 26
"""Most numbers of a constant."""

_TRANSPARENT = ("Flatten", "Reshape", "Identity", "Dropout", "Squeeze", "Unsqueeze")
_QONNX = ("qonnx.custom_op.general", "onnx.brevitas", "finn.custom_op.general")

Array = npt.NDArray[Any]


def network_from_onnx(path: Path, input_format: Format | str = float32, input_factor: float = 1.0) -> Network:
    """The network in the file `path`: the class of every input is that of the chain.

    `input_format` is how inputs are sent, if the file does not quantize them itself. The file is given inputs times
    `input_factor`: 256 if it takes pixels from 0 to 255, and inputs are k/256. Raises StorageError, naming the
    file and a node, if the file is damaged or is not a chain of dense layers of few bits, and ImportError without the
    package onnx.
    """
    try:
        import onnx
    except ImportError:
        raise ImportError("reading ONNX files needs the package onnx: pip install lowbit-dtp[qonnx]") from None

    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        raise StorageError(f"{path}: no such file") from None
    except OSError as error:
        raise StorageError(f"{path}: cannot be read ({error.strerror})") from None
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
        given = parse(input_format) if isinstance(input_format, str) else input_format
        return _Reader(_Chain(model), given, input_factor).network()
    except ValueError as error:
        raise StorageError(f"{path}: {error}") from None
    except Exception as error:  # a damaged file may break the readers of any of its parts
        raise StorageError(f"{path}: not a whole ONNX file ({type(error).__name__}: {error})") from None


class _Node:
    """A node, with its attributes as Python values."""

    def __init__(self, node: Any) -> None:
        from onnx.helper import get_attribute_value

        self.op, self.domain = node.op_type, node.domain
        self.inputs, self.outputs = list(node.input), list(node.output)
        self.label = f"node {node.name or (self.outputs or ['without a name'])[0]} ({self.op})"
        self.attributes = {x.name: get_attribute_value(x) for x in node.attribute}

    def attribute(self, name: str, otherwise: Any) -> Any:
        """The attribute, as a value of the type of `otherwise`."""
        value = self.attributes.get(name, otherwise)
        if isinstance(value, bytes):
            value = value.decode()
        if not isinstance(value, int | float | str) or isinstance(value, str) != isinstance(otherwise, str):
            raise ValueError(f"{self.label}: attribute {name} must be a {type(otherwise).__name__}, not {value!r}")
        return value


class _Chain:
    """The graph of a file, whose nodes are followed from the input to the output."""

    def __init__(self, model: Any) -> None:
        versions = [x.version for x in model.opset_import if x.domain in ("", "ai.onnx")]
        if len(versions) != 1 or versions[0] not in OPSETS:
            raise ValueError(
                f"its operators must be of one version of ONNX, {OPSETS.start} to {OPSETS.stop - 1}, not "
                f"{', '.join(map(str, versions)) or 'none'}"
            )
        graph = model.graph
        self.tensors = {x.name: x for x in graph.initializer}
        self.nodes = [_Node(node) for node in graph.node]
        self.makers: dict[str, _Node] = {}
        for node in self.nodes:
            for name in filter(None, node.outputs):
                if name in self.makers or name in self.tensors:
                    raise ValueError(f"{node.label}: {name!r} is given twice")
                self.makers[name] = node
        self.constants: dict[str, Array] = {}
        self.bits: dict[str, tuple[int, Float32s]] = {}
        """Bits and scale of constants that a quantizer gave."""
        self.visiting: set[str] = set()
        inputs = [x for x in graph.input if x.name not in self.tensors]
        if len(inputs) != 1 or not graph.output:
            raise ValueError(f"it must have one input and an output, not {len(inputs)} and {len(graph.output)}")
        self.input, self.outputs = inputs[0], [x.name for x in graph.output]

    def width(self) -> int:
        """Numbers of an input; 0 if the file does not tell."""
        dims = [x.dim_value for x in self.input.type.tensor_type.shape.dim][1:]
        return prod(dims) if dims and min(dims) > 0 else 0

    def path(self) -> list[tuple[_Node, int]]:
        """The nodes from the input to the output, each with the place of the chain among its inputs."""
        found: list[tuple[_Node, int]] = []
        name = self.input.name
        while name not in self.outputs:
            users = [node for node in self.nodes if name in node.inputs and node.op != "Shape"]
            if len(users) != 1 or users[0].inputs.count(name) != 1:
                who = ", ".join(node.label for node in users) or "no node"
                raise ValueError(f"{name!r} must be used by one node, once, for a chain of layers, not by {who}")
            node = users[0]
            if len(found) >= len(self.nodes) or not node.outputs:
                raise ValueError(f"{node.label}: the chain does not end")
            found.append((node, node.inputs.index(name)))
            name = node.outputs[0]
            if set(node.outputs) & set(self.outputs):
                break
        return found

    def constant(self, name: str, user: _Node) -> Array:
        """The constant `name`, an initializer or computed from some. ValueError if it is none."""
        if name in self.constants:
            return self.constants[name]
        if name in self.tensors:
            made = _array(self.tensors[name])
        elif name not in self.makers:
            raise ValueError(f"{user.label}: input {name!r} is neither the chain nor a constant")
        else:
            node = self.makers[name]
            if name in self.visiting:
                raise ValueError(f"{node.label}: its input depends on its output")
            self.visiting.add(name)
            made = self._computed(node, name)
            self.visiting.discard(name)
        self.constants[name] = made
        return made

    def _computed(self, node: _Node, name: str) -> Array:
        if node.op == "Constant":
            return _constant_of(node)
        if node.op in ("Transpose", "Identity", "Reshape", "Unsqueeze", "Squeeze", "Flatten", "Cast"):
            x = self.constant(node.inputs[0], node)
            if node.inputs[0] in self.bits and node.op in ("Transpose", "Identity"):
                bits, scale = self.bits[node.inputs[0]]
                self.bits[name] = bits, scale.T if node.op == "Transpose" and scale.ndim == 2 else scale
            return self._reshaped(node, x)
        if node.op not in ELEMENTWISE:
            raise ValueError(
                f"{node.label}: a constant is not computed by {node.op}; there are: {', '.join(ELEMENTWISE)}"
            )
        arrays = [self.constant(x, node) if x else np.zeros(0, np.float32) for x in node.inputs]
        if node.op in ("Quant", "IntQuant", "BipolarQuant"):
            bits = 1 if node.op == "BipolarQuant" else _bits(node, arrays[3])
            self.bits[name] = bits, _floats(node, arrays[1])
        x, *others = [_floats(node, array) for array in arrays]
        return np.asarray(ELEMENTWISE[node.op](node, others)(x), np.float32)

    def _reshaped(self, node: _Node, x: Array) -> Array:
        if node.op == "Transpose":
            return np.transpose(x, node.attributes.get("perm"))
        if node.op == "Reshape":
            return x.reshape(self.constant(node.inputs[1], node).astype(np.int64).tolist())
        if node.op == "Flatten":
            return x.reshape(len(x), -1)
        if node.op == "Squeeze":
            return np.squeeze(x)
        if node.op == "Unsqueeze":
            axes = node.attributes.get("axes") if len(node.inputs) < 2 else self.constant(node.inputs[1], node).tolist()
            return np.expand_dims(x, tuple(axes or ()))
        return x


class _Reader:
    """Reads the nodes of a chain, one after the other."""

    def __init__(self, chain: _Chain, given: Format, factor: float) -> None:
        if not 0 < factor < np.inf:
            raise ValueError(f"inputs are multiplied by a number above zero, not {factor}")
        self.chain, self.given, self.factor = chain, given, factor
        self.products: list[Product] = []
        self.wire: Wire | None = None
        self.label = "inputs"
        self.weight: Array = np.zeros((0, 0))
        self.bits, self.step = 1, 0.0
        self.functions: list[Function] = []
        self.values: Float32s | None = None

    def network(self) -> Network:
        path = self.chain.path()
        if path and path[-1][0].op in ("TopK", "ArgMax"):
            _check_decision(path.pop()[0])
        for node, place in path:
            self._read(node, place)
        if self.wire is None:
            raise ValueError("it has no MatMul or Gemm node between its input and its output")
        self._end_product()
        return folded(self.wire, self.products)

    def _read(self, node: _Node, place: int) -> None:
        known = _QONNX if node.op in ("Quant", "IntQuant", "BipolarQuant", "MultiThreshold") else ("", "ai.onnx")
        if node.domain not in known:
            raise ValueError(f"{node.label}: its domain must be {known[0] or 'that of ONNX'}, not {node.domain!r}")
        if node.op in ("MatMul", "Gemm"):
            self._multiply(node, place)
        elif node.op in ELEMENTWISE:
            self._apply(node, place)
        elif node.op not in _TRANSPARENT or place:
            there = ", ".join(["MatMul", "Gemm", *ELEMENTWISE, *_TRANSPARENT])
            raise ValueError(
                f"{node.label}: not part of a chain of dense layers; there are: {there}, and TopK or ArgMax at the end"
            )

    def _multiply(self, node: _Node, place: int) -> None:
        if place or len(node.inputs) < 2:
            raise ValueError(f"{node.label}: its first input must be the chain, its second the weights")
        weight = _floats(node, self.chain.constant(node.inputs[1], node))
        if weight.ndim != 2 or not weight.size:
            raise ValueError(f"{node.label}: its weights must be [below, neurons], not {list(weight.shape)}")
        gemm = node.op == "Gemm"
        if gemm and node.attribute("transA", 0):
            raise ValueError(f"{node.label}: transA must be 0")
        if gemm and node.attribute("transB", 0):
            weight = np.ascontiguousarray(weight.T)
        below = self.weight.shape[1] if self.wire else self.chain.width() or len(weight)
        if len(weight) != below:
            raise ValueError(f"{node.label}: its weights are for {len(weight)} inputs, but it is given {below}")
        self._end_product() if self.wire else self._end_inputs()
        bits, step = self.chain.bits.get(node.inputs[1], (1, np.zeros(1)))
        self.bits, self.step = bits, float(step.ravel()[0]) if step.size == 1 else 0.0
        self.label, self.weight, self.functions, self.values = node.label, weight, [], None
        if gemm:
            alpha, beta = (np.float32(node.attribute(name, 1.0)) for name in ("alpha", "beta"))
            if alpha != 1:
                self.functions.append(lambda x: x * alpha)
            if len(node.inputs) > 2 and node.inputs[2]:
                offset = self._fits(node, _floats(node, self.chain.constant(node.inputs[2], node))) * beta
                self.functions.append(lambda x: x + offset)

    def _apply(self, node: _Node, place: int) -> None:
        arrays = [
            _floats(node, self.chain.constant(name, node)) if name else np.zeros(0, np.float32)
            for index, name in enumerate(node.inputs)
            if index != place
        ]
        if place and node.op not in ("Add", "Mul", "Sub"):
            raise ValueError(f"{node.label}: its first input must be the chain")
        own = arrays[:1] if node.op in ("Quant", "IntQuant") else [] if node.op == "MultiThreshold" else arrays
        shapes = [self._fits(node, array) for array in own]
        if node.op == "MultiThreshold":
            self._fits(node, _thresholds(node, arrays)[0][:, 0])
        function = ELEMENTWISE[node.op](node, shapes + arrays[len(own) :])
        if place and node.op == "Sub":
            function = _negated(function)
        self.functions.append(function)
        if node.op in VALUES:
            if node.op != "MultiThreshold" and arrays[0].size != 1 and np.ptp(arrays[0]):
                raise ValueError(f"{node.label}: it has a scale for each channel; a link has one for all neurons")
            self.values = VALUES[node.op](node, arrays)
        elif self.values is not None:
            alike = all(array.size <= 1 for array in arrays)
            self.values = function(self.values[:, None])[:, 0] if alike else None

    def _fits(self, node: _Node, x: Float32s) -> Float32s:
        """`x`, one number or one for each neuron, so that it broadcasts with [samples, neurons]."""
        neurons = self.weight.shape[1] if self.wire else 1
        if x.size <= 1:
            return x.reshape(-1)
        if not self.wire:
            raise ValueError(
                f"{node.label}: it has {x.size} constants for inputs; a link has one format for all neurons"
            )
        if x.size != neurons or (x.ndim > 1 and x.shape[1] != neurons and x.shape[-1] != neurons):
            raise ValueError(
                f"{node.label}: a constant must be one number or one for each of {neurons} neurons, not {list(x.shape)}"
            )
        return x.reshape(-1)

    def _end_inputs(self) -> None:
        factor = np.float32(self.factor)
        functions = [*([] if factor == 1 else [lambda x: x * factor]), *self.functions]
        if self.values is not None:
            self.wire = input_wire(lambda x: _composed(functions, x), self.values, "the quantizer of inputs")
        elif self.given == float32 or self.functions:
            raise ValueError("no Quant, BipolarQuant or MultiThreshold quantizes its inputs; give an input format")
        else:
            self.wire = exact_wire(self.given, f"input format {self.given}", self.factor)

    def _end_product(self) -> None:
        self.products.append(Product(self.label, self.weight, tuple(self.functions), self.values, self.bits, self.step))


def _composed(functions: Sequence[Function], x: Float32s) -> Float32s:
    """`functions`, the first one first, of numbers [n]."""
    state = x[:, None]
    with np.errstate(all="ignore"):
        for function in functions:
            state = function(state)
    return state[:, 0]


def _negated(function: Function) -> Function:
    return lambda x: -function(x)


def _array(tensor: Any) -> Array:
    """The numbers of a tensor of the file."""
    from onnx import TensorProto
    from onnx.numpy_helper import to_array

    if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
        raise ValueError(
            f"tensor {tensor.name!r}: its numbers are in another file; save the model with them, "
            "by onnx.save(onnx.load(FILE), OTHER) say"
        )
    if any(size < 0 for size in tensor.dims) or prod(tensor.dims) > _LARGEST:
        raise ValueError(
            f"tensor {tensor.name!r}: of shape {list(tensor.dims)}; it may have {_LARGEST} numbers at most"
        )
    try:
        made: Array = to_array(tensor)
    except Exception as error:  # what to_array raises for a damaged tensor depends on what is damaged
        raise ValueError(f"tensor {tensor.name!r}: damaged ({error})") from None
    return made


def _constant_of(node: _Node) -> Array:
    value = node.attributes.get("value")
    if hasattr(value, "dims"):
        return _array(value)
    for kind in ("value_float", "value_floats", "value_int", "value_ints"):
        if kind in node.attributes:
            return np.array(node.attributes[kind])
    raise ValueError(f"{node.label}: it has no value")


def _floats(node: _Node, x: Array) -> Float32s:
    if x.dtype.kind not in "fiub" or not np.isfinite(x).all():
        raise ValueError(f"{node.label}: its constants must be finite numbers")
    with np.errstate(over="ignore"):
        return x.astype(np.float32)


def _check_decision(node: _Node) -> None:
    """ValueError if a node at the end does not choose the largest logit."""
    if not node.attribute("largest", 1) or node.attribute("axis", -1) not in (-1, 1):
        raise ValueError(f"{node.label}: it must choose the largest of the last axis")
    if node.attribute("select_last_index", 0):
        raise ValueError(f"{node.label}: of equal logits it must choose the first")


def _bits(node: _Node, x: Array) -> int:
    bits = float(x.reshape(-1)[0]) if x.size == 1 else 0.0
    if bits != int(bits) or not 1 <= bits <= 32:
        raise ValueError(f"{node.label}: its bit width must be one whole number from 1 to 32, not {x.tolist()}")
    return int(bits)


def _range(node: _Node, bits: int) -> tuple[int, int]:
    """Lowest and highest whole number of a Quant node."""
    signed, narrow = bool(node.attribute("signed", 1)), bool(node.attribute("narrow", 1))
    if signed:
        return narrow - 2 ** (bits - 1), 2 ** (bits - 1) - 1
    return 0, 2**bits - 1 - narrow


_ROUNDINGS: dict[str, Callable[[Float32s], Float32s]] = {
    "ROUND": np.rint,
    "HALF_EVEN": np.rint,
    "CEIL": np.ceil,
    "FLOOR": np.floor,
    "UP": lambda x: np.sign(x) * np.ceil(np.abs(x)),
    "DOWN": np.trunc,
    "HALF_UP": lambda x: np.sign(x) * np.floor(np.abs(x) + np.float32(0.5)),
    "HALF_DOWN": lambda x: np.sign(x) * np.ceil(np.abs(x) - np.float32(0.5)),
}


def _takes(node: _Node, constants: Sequence[Float32s], least: int, most: int | None = None) -> None:
    if not least <= len(constants) <= (least if most is None else most):
        raise ValueError(f"{node.label}: it has {len(constants)} constants, not {least}")


def _quant(node: _Node, constants: Sequence[Float32s]) -> Function:
    _takes(node, constants, 3)
    scale, zero, width = constants
    bits = _bits(node, width)
    low, high = (np.float32(x) for x in _range(node, bits))
    rounding = choose(f"rounding of {node.label}", node.attribute("rounding_mode", "ROUND").upper(), _ROUNDINGS)
    if zero.size != 1:
        raise ValueError(f"{node.label}: its zero point must be one number, not {list(zero.shape)}")
    _check_scale(node, scale)
    bipolar = bits == 1 and low < 0

    def function(x: Float32s) -> Float32s:
        steps = x / scale + zero
        steps = _sign(steps) if bipolar else rounding(np.clip(steps, low, high))
        return (steps - zero) * scale

    return function


def _check_scale(node: _Node, scale: Float32s) -> None:
    if not scale.size or (scale <= 0).any():
        raise ValueError(f"{node.label}: its scale must be above zero")


def _sign(x: Float32s) -> Float32s:
    return np.where(x >= 0, np.float32(1), np.float32(-1))


def _bipolar(node: _Node, constants: Sequence[Float32s]) -> Function:
    _takes(node, constants, 1)
    _check_scale(node, constants[0])
    return lambda x: _sign(x) * constants[0]


def _multi_threshold(node: _Node, constants: Sequence[Float32s]) -> Function:
    thresholds, scale, offset = _thresholds(node, constants)

    def function(x: Float32s) -> Float32s:
        ranks = np.zeros(x.shape, np.float32)
        for column in thresholds.T:
            ranks += x >= column
        return scale * ranks + offset

    return function


def _thresholds(node: _Node, constants: Sequence[Float32s]) -> tuple[Float32s, np.float32, np.float32]:
    """Thresholds [neurons or 1, values - 1], ascending, and the scale and offset of the ranks."""
    _takes(node, constants, 1)
    if constants[0].ndim != 2 or not constants[0].size or constants[0].shape[1] >= MOST_VALUES:
        raise ValueError(f"{node.label}: its thresholds must be [neurons, values - 1], not {list(constants[0].shape)}")
    scale, offset = (np.float32(node.attribute(*x)) for x in (("out_scale", 1.0), ("out_bias", 0.0)))
    return np.sort(constants[0], axis=1), scale, offset


def _batch_normalization(node: _Node, constants: Sequence[Float32s]) -> Function:
    _takes(node, constants, 4)
    scale, offset, mean, variance = constants
    if node.attribute("training_mode", 0):
        raise ValueError(f"{node.label}: it is in training mode")
    if (variance + node.attribute("epsilon", 1e-5) <= 0).any():
        raise ValueError(f"{node.label}: its variances must not be negative")
    factor = scale * (1 / np.sqrt(variance + np.float32(node.attribute("epsilon", 1e-5))))
    shift = offset - mean * factor
    return lambda x: x * factor + shift


def _clip(node: _Node, constants: Sequence[Float32s]) -> Function:
    given = [node.attribute(name, otherwise) for name, otherwise in (("min", -np.inf), ("max", np.inf))]
    for index, array in enumerate(constants[:2]):
        given[index] = float(array.reshape(-1)[0]) if array.size else given[index]
    low, high = (np.float32(x) for x in given)
    return lambda x: np.clip(x, low, high)


def _with_one(operation: Callable[[Float32s, Float32s], Float32s]) -> Callable[[_Node, Sequence[Float32s]], Function]:
    """An operation with one constant."""

    def make(node: _Node, constants: Sequence[Float32s]) -> Function:
        _takes(node, constants, 1)
        if node.op == "Div" and not constants[0].all():
            raise ValueError(f"{node.label}: it divides by zero")
        return lambda x: operation(x, constants[0])

    return make


def _alone(operation: Callable[[Float32s], Float32s]) -> Callable[[_Node, Sequence[Float32s]], Function]:
    """An operation without constants."""

    def make(node: _Node, constants: Sequence[Float32s]) -> Function:
        _takes(node, constants, 0)
        return operation

    return make


ELEMENTWISE: dict[str, Callable[[_Node, Sequence[Float32s]], Function]] = {
    "Add": _with_one(lambda x, c: x + c),
    "Sub": _with_one(lambda x, c: x - c),
    "Mul": _with_one(lambda x, c: x * c),
    "Div": _with_one(lambda x, c: x / c),
    "Pow": _with_one(lambda x, c: x**c),
    "Sqrt": _alone(np.sqrt),
    "Neg": _alone(np.negative),
    "Relu": _alone(lambda x: np.maximum(x, 0)),
    "Tanh": _alone(np.tanh),
    "Sigmoid": _alone(lambda x: (np.tanh(x * np.float32(0.5)) + np.float32(1)) * np.float32(0.5)),
    "Clip": _clip,
    "BatchNormalization": _batch_normalization,
    "Quant": _quant,
    "IntQuant": _quant,
    "BipolarQuant": _bipolar,
    "MultiThreshold": _multi_threshold,
}
"""Operators on each number, with constants: the function of a node."""


def _quant_values(node: _Node, constants: Sequence[Float32s]) -> Float32s | None:
    scale, zero, width = constants
    low, high = _range(node, _bits(node, width))
    if high - low >= MOST_VALUES:
        return None
    if (low, high) == (-1, 0):
        return np.array([-1, 1], np.float32) * scale.reshape(-1)[0]
    steps: Float32s = np.arange(low, high + 1).astype(np.float32)
    return (steps - zero.reshape(-1)[0]) * scale.reshape(-1)[0]


def _multi_threshold_values(node: _Node, constants: Sequence[Float32s]) -> Float32s:
    """All values but those between equal thresholds of all neurons, which are never sent."""
    thresholds, scale, offset = _thresholds(node, constants)
    sent = np.ones(thresholds.shape[1] + 1, bool)
    sent[1:-1] = (np.diff(thresholds, axis=1) > 0).any(0)
    return (scale * np.arange(len(sent)).astype(np.float32) + offset)[sent]


VALUES: dict[str, Callable[[_Node, Sequence[Float32s]], Float32s | None]] = {
    "Quant": _quant_values,
    "IntQuant": _quant_values,
    "BipolarQuant": lambda node, constants: np.array([-1, 1], np.float32) * constants[0].reshape(-1)[0],
    "MultiThreshold": _multi_threshold_values,
}
"""What a quantizer can give; None if that is no short list."""
