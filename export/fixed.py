"""The integer network from which every writer starts, and its exact inference.

Weights and signals are integers times powers of two; a neuron adds products and compares the sum with thresholds.
Nothing is rounded after the weights, the output's biases and the inputs, so this is the specification of the exported
hardware.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lowbit_dtp.choices import choose
from lowbit_dtp.formats import FixedPoint, Float, Format, parse
from lowbit_dtp.storage import read_network
from lowbit_dtp.weight_formats import WeightFormat, parse_weights

from .scales import Calibration, chosen_bits, has_thresholds, rounded, stated_format, trained_state
from .thresholds import ACTIVATIONS, integer_thresholds

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.floating[Any]]

MAX_LEVEL_BITS = 16
"""Widest level of a weight or a signal."""

MAX_EXPONENT = 96
"""Largest magnitude of the exponent of a unit, so that thresholds in steps of 2^-192 are exact."""

EXACT_BITS = 53
"""Sums stay below 2^53, so that a float64 matrix product of integers is exact in any order of additions."""

LOGIT_FRACTION_BITS = 4
"""Bits after the binary point of a sum to which the output's biases are rounded."""

INTEGER_SUM_FRACTION_BITS = 12
"""Bits after the binary point of the sums of a network trained in whole numbers, as in `integers`."""

DEFAULT_FORMAT = "fixed(8,1)"
"""Format of weights that were trained as floats, and of links that carry floats."""


def signed_bits(low: int, high: int) -> int:
    """Width of two's complement that holds `low` to `high`: ceil(log2(max(-low, high + 1))) + 1.

    >>> signed_bits(-128, 127), signed_bits(-129, 0), signed_bits(0, 128)
    (8, 9, 9)
    """
    return max(-low - 1, high, 0).bit_length() + 1


@dataclass(frozen=True)
class Levels:
    """A format in integers: ascending `values`, each times 2^`exponent`."""

    format: Format
    values: tuple[int, ...]
    exponent: int

    @classmethod
    def of(cls, fmt: Format, owner: str) -> "Levels":
        """The levels of `fmt`, in the largest power of two that divides all its values. Errors begin with `owner`."""
        try:
            fractions = [value.as_integer_ratio() for value in fmt.table().values]
        except ValueError as error:
            raise ValueError(f"{owner}: {error}") from None
        exponent = min((n & -n).bit_length() - d.bit_length() for n, d in fractions if n)
        if abs(exponent) > MAX_EXPONENT:
            raise ValueError(
                f"{owner}: {fmt.name} counts in units of 2^{exponent}; units from 2^-{MAX_EXPONENT} to "
                f"2^{MAX_EXPONENT} can be exported"
            )
        values = tuple((n << max(-exponent, 0)) // (d << max(exponent, 0)) for n, d in fractions)
        bits = signed_bits(values[0], values[-1]) - (values[0] >= 0)
        if bits > MAX_LEVEL_BITS:
            raise ValueError(
                f"{owner}: {fmt.name} takes {bits}-bit levels in units of 2^{exponent}; at most {MAX_LEVEL_BITS} bits "
                "can be exported"
            )
        return cls(fmt, values, exponent)

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return self.format.bits

    @cached_property
    def codes(self) -> Integers:
        """Code of each value: two's complement for fixed point, else its rank."""
        # Not `encode(values)`: binary01 sends 0.0 as 1, and other tables with their own thresholds may do so, too.
        if isinstance(self.format, FixedPoint):
            return np.array(self.values, np.int64) & ((1 << self.bits) - 1)
        return np.arange(len(self.values), dtype=np.int64)

    @cached_property
    def by_code(self) -> Integers:
        """Value of each of the 2^bits codes; 0 for a code that the format never sends."""
        values = np.zeros(1 << self.bits, np.int64)
        values[self.codes] = self.values
        return values


@dataclass(frozen=True)
class FixedLink:
    """A link of the integer network, in the forward direction."""

    name: str
    neurons: int
    """Codes a message."""
    levels: Levels
    trained: str
    """Format that the network was trained with."""

    @property
    def quantized_on_export(self) -> bool:
        """Whether the trained network sends real numbers here."""
        return self.levels.format != parse(self.trained)


@dataclass(frozen=True, eq=False)
class FixedLayer:
    """Neurons that add `weight` [below, neurons] times the levels that arrive on the link `below`."""

    name: str
    below: FixedLink
    weight: Integers
    weight_levels: Levels

    @property
    def neurons(self) -> int:
        return int(self.weight.shape[1])

    @property
    def output_name(self) -> str:
        """Name of the layer's results: that of its link upwards, or its own if there is none."""
        return self.name

    @property
    def exponent(self) -> int:
        """The unit of a sum is 2^`exponent`."""
        return self.weight_levels.exponent + self.below.levels.exponent

    @cached_property
    def sum_bounds(self) -> tuple[Integers, Integers]:
        """Smallest and largest sum [neurons] of each neuron."""
        ends = self._end_products
        return ends.min(0).sum(0), ends.max(0).sum(0)

    @cached_property
    def partial_bounds(self) -> tuple[Integers, Integers]:
        """Bounds [neurons] of every partial sum, added in any order, from 0 on."""
        ends = self._end_products
        return ends.min(0).clip(max=0).sum(0), ends.max(0).clip(min=0).sum(0)

    @property
    def _end_products(self) -> Integers:
        values = self.below.levels.values
        return np.stack([self.weight * values[0], self.weight * values[-1]])

    @cached_property
    def neuron_sum_bits(self) -> tuple[int, ...]:
        """Accumulator width of each neuron."""
        low, high = self.partial_bounds
        return tuple(map(signed_bits, low.tolist(), high.tolist()))

    @property
    def sum_bits(self) -> int:
        """Accumulator width for all neurons of the layer."""
        return max(self.neuron_sum_bits)

    def sums(self, codes: npt.ArrayLike) -> Integers:
        """Sums [batch, neurons] of `codes` [batch, below]; exact."""
        levels = self.below.levels.by_code[np.asarray(codes)].astype(np.float64)
        sums: Integers = (levels @ self.weight.astype(np.float64)).astype(np.int64)
        return sums


@dataclass(frozen=True, eq=False)
class HiddenLayer(FixedLayer):
    """A layer whose sums become codes on the link `above`, by `thresholds` [neurons, codes - 1]."""

    activation: str
    above: FixedLink
    thresholds: Integers

    @property
    def output_name(self) -> str:
        return self.above.name

    @property
    def threshold_bits(self) -> int:
        """Width of a threshold: `high + 1`, for one that is never reached, may need a bit more than a sum."""
        return max(self.sum_bits, signed_bits(int(self.thresholds.min()), int(self.thresholds.max())))

    def codes(self, sums: Integers) -> Integers:
        """Wire codes [batch, neurons] for `sums`."""
        pairs = zip(self.thresholds, sums.T, strict=True)
        ranks = np.stack([np.searchsorted(row, column, side="right") for row, column in pairs], axis=-1)
        codes: Integers = self.above.levels.codes[ranks]
        return codes


@dataclass(frozen=True, eq=False)
class OutputLayer(FixedLayer):
    """The layer whose largest logit decides the class. `bias` [neurons] is in sixteenths of a sum."""

    bias: Integers

    @property
    def class_bits(self) -> int:
        """Width of a class number."""
        return max(1, (self.neurons - 1).bit_length())

    @property
    def logit_bits(self) -> int:
        """Width of a logit, and of all intermediate results."""
        low, high = (bound << LOGIT_FRACTION_BITS for bound in self.partial_bounds)
        ends = np.concatenate([low, high, low + self.bias, high + self.bias])
        return signed_bits(int(ends.min()), int(ends.max()))

    def logits(self, sums: Integers) -> Integers:
        """Logits [batch, neurons], in units of 2^(exponent - 4)."""
        logits: Integers = (sums << LOGIT_FRACTION_BITS) + self.bias
        return logits

    def classes(self, logits: Integers) -> Integers:
        """Number of the largest logit [batch]; the lowest one on a tie."""
        classes: Integers = logits.argmax(-1).astype(np.int64)
        return classes


@dataclass(frozen=True, eq=False)
class Trace:
    """Results of an inference on every link. Arrays are [batch, neurons]."""

    sums: dict[str, Integers]
    """Before the threshold, by link; the last layer's under its own name."""
    codes: dict[str, Integers]
    """After the threshold, by link."""
    logits: Integers
    classes: Integers
    """[batch]"""


@dataclass(frozen=True, eq=False)
class FixedNetwork:
    """A trained network in integers."""

    hidden: tuple[HiddenLayer, ...]
    output: OutputLayer
    description: Mapping[str, Any]
    """Description of the trained network."""

    @classmethod
    def load(
        cls,
        path: Path,
        weights: str | Mapping[str, str] | None = None,
        signals: str = DEFAULT_FORMAT,
        calibration: npt.ArrayLike | None = None,
    ) -> "FixedNetwork":
        """The network in the file `path`, in integers; see `of`."""
        tensors, description = read_network(Path(path))
        try:
            return cls.of(tensors, description, weights, signals, calibration)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    @classmethod
    def of(
        cls,
        tensors: Mapping[str, Floats],
        description: Mapping[str, Any],
        weights: str | Mapping[str, str] | None = None,
        signals: str = DEFAULT_FORMAT,
        calibration: npt.ArrayLike | None = None,
    ) -> "FixedNetwork":
        """The network of `tensors` and its `description`, in integers.

        Weights are float32, or whole numbers that a network was trained with, which keep their unit and their bits.
        `weights` names the format of all weights, or of those of some layers by name, `rest` being the others. What has
        no format keeps the few-bit format and scale that it was trained with, and is not rounded; or else has
        fixed(8,1). Fixed point saturates symmetrically. Where a format has no scale (`4`, `fixed(4)`, `binary`,
        `ternary`), one is chosen for each layer as in `scales`, with `calibration` [samples, inputs], inputs from
        training, if there are any. `signals` replaces float formats of links. Raises ValueError naming the layer,
        link or tensor that cannot be exported.
        """
        layers = description["layers"]
        _check_chain(description)
        by_layer = formats_by_layer(weights, [layer["name"] for layer in layers])
        trained = {layer["name"]: _trained_format(layer, tensors) for layer in layers}
        widths = [description["input"]["neurons"], *(x["neurons"] for x in layers)]
        links = [_link(x, width, signals) for x, width in zip(chain_links(description), widths, strict=False)]
        reached = None if calibration is None else _calibration(links[0], calibration)
        hidden: list[HiddenLayer] = []
        for index, (layer, below) in enumerate(zip(layers, links, strict=True)):
            name = layer["name"]
            shape = widths[index], layer["neurons"]
            if (fraction_bits := integer_fraction_bits(layer)) is not None:  # trained as whole numbers: not rounded
                plain, weight, bias = _integer_layer(tensors, name, below, shape, fraction_bits)
                _check_integer_links(layer, layers, links[index : index + 2], plain)
                corrected = bias
            else:
                weight, bias = _tensor(tensors, f"{name}.weight", shape), np.zeros(shape[1], np.float32)
                if not has_thresholds(layer):
                    bias = _tensor(tensors, f"{name}.bias", shape[1:])
                plain, chosen = _rounded_layer(name, below, weight, by_layer[name], trained[name], reached)
                corrected = reached.corrected(plain, weight, bias) if reached and chosen else bias
            _check_exact(plain)
            parts = {"name": name, "below": below, "weight": plain.weight, "weight_levels": plain.weight_levels}
            if layer is layers[-1]:
                return cls(tuple(hidden), OutputLayer(**parts, bias=_output_bias(plain, corrected)), description)
            above, activation = links[index + 1], layer["activation"]
            if has_thresholds(layer):
                thresholds = _given_thresholds(tensors, plain, above, corrected)
            else:
                of_bias = corrected, plain.exponent, *plain.sum_bounds
                thresholds = integer_thresholds(above.levels.format, activation, *of_bias)
            hidden.append(HiddenLayer(**parts, activation=activation, above=above, thresholds=thresholds))
            if reached:
                state = trained_state(layer, tensors, reached.trained @ weight + bias)
                reached = reached.through(hidden[-1], state)
        raise ValueError("the network has no layers")

    @property
    def layers(self) -> tuple[FixedLayer, ...]:
        """All layers, the lowest first."""
        return (*self.hidden, self.output)

    @property
    def links(self) -> tuple[FixedLink, ...]:
        """All links, the lowest first."""
        return tuple(layer.below for layer in self.layers)

    def encode(self, inputs: npt.ArrayLike) -> Integers:
        """Codes [batch, inputs] that the first link sends for `inputs` [batch, inputs]."""
        return _encode(self.links[0], inputs)

    def infer(self, inputs: npt.ArrayLike) -> Trace:
        """What the integer network computes for `inputs` [batch, inputs]; exact."""
        codes = self.encode(inputs)
        trace_codes, trace_sums = {self.links[0].name: codes}, {}
        for layer in self.hidden:
            trace_sums[layer.output_name] = layer.sums(codes)
            trace_codes[layer.output_name] = codes = layer.codes(trace_sums[layer.output_name])
        trace_sums[self.output.output_name] = self.output.sums(codes)
        logits = self.output.logits(trace_sums[self.output.output_name])
        return Trace(trace_sums, trace_codes, logits, self.output.classes(logits))


def formats_by_layer(weights: str | Mapping[str, str] | None, names: Sequence[str]) -> dict[str, str]:
    """The format that is given for the weights of each layer, as `FixedNetwork.of` takes them; empty where none is."""
    if isinstance(weights, str):
        return dict.fromkeys(names, weights)
    given = dict(weights or {})
    rest = given.pop("rest", "") if "rest" not in names else ""
    formats = dict.fromkeys(names, rest)
    for name, text in given.items():
        choose("layer", name, formats)
        formats[name] = text
    return formats


def _encode(link: FixedLink, inputs: npt.ArrayLike) -> Integers:
    """Codes [batch, inputs] that `link`, the first, sends for `inputs` [batch, inputs]."""
    inputs = np.asarray(inputs)
    if inputs.ndim != 2 or inputs.shape[1] != link.neurons:
        raise ValueError(
            f"link {link.name} carries {link.neurons} neurons, but was given an array of shape {inputs.shape}"
        )
    try:
        return link.levels.format.encode(inputs).astype(np.int64)
    except ValueError as error:
        raise ValueError(f"link {link.name}: {error}") from None


def _calibration(link: FixedLink, inputs: npt.ArrayLike) -> Calibration:
    """`inputs` on `link`, the first."""
    inputs = np.asarray(inputs, np.float32)
    codes = _encode(link, inputs)
    if not len(codes):
        raise ValueError("calibration needs at least one sample of inputs, but was given none")
    return Calibration.arriving(link, inputs, codes)


def _rounded_layer(
    name: str,
    below: FixedLink,
    weight: npt.NDArray[np.float32],
    given: str,
    trained: Format | None,
    reached: Calibration | None,
) -> tuple[FixedLayer, bool]:
    """The layer with `weight` rounded to the format `given`, else `trained`; and whether its scale was chosen here."""
    bits = chosen_bits(given)
    if bits is None:
        fmt = trained if trained and not given else stated_format(given or DEFAULT_FORMAT, name)
    else:
        fmt, weight = rounded(bits, weight, reached, below)
    levels = Levels.of(fmt, f"weights of layer {name}")
    return FixedLayer(name, below, levels.by_code[levels.format.encode(weight)], levels), bits is not None


def chain_links(description: Mapping[str, Any]) -> list[Mapping[str, str]]:
    """Links between neighbours. Those with a label join others, and carry no activations in inference."""
    return [link for link in description["links"] if not link.get("label")]


def _check_chain(description: Mapping[str, Any]) -> None:
    layers, links = description["layers"], chain_links(description)
    names = [description["input"]["name"], *(layer["name"] for layer in layers)]
    for name in names:
        if not re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII):
            raise ValueError(f"layer {name!r} cannot name a file; a name is a letter, then letters, digits or _")
    if len(set(names)) < len(names):
        raise ValueError(f"layers need different names, not {', '.join(names)}")
    wanted = [f"{lower}-{upper}" for lower, upper in pairwise(names)]
    given = [f"{link['lower']}-{link['upper']}" for link in links]
    if given != wanted:
        raise ValueError(f"links must be {', '.join(wanted)}, in this order, not {', '.join(given)}")
    for layer in layers:
        choose(f"activation of layer {layer['name']}", layer["activation"], ACTIVATIONS)
    if layers and layers[-1]["activation"] != "identity":
        raise ValueError(
            f"layer {names[-1]}: the last layer's activation must be identity, not {layers[-1]['activation']}"
        )


def _link(link: Mapping[str, str], neurons: int, signals: str) -> FixedLink:
    name = f"{link['lower']}-{link['upper']}"
    fmt = parse(link["forward"])
    if isinstance(fmt, Float):
        fmt = parse(signals)
    return FixedLink(name, neurons, Levels.of(fmt, f"link {name}"), link["forward"])


def is_rounded(layer: Mapping[str, Any]) -> bool:
    """Whether the weights of `layer`, of a description, were trained as floats."""
    return integer_fraction_bits(layer) is None and _trained_weights(layer) is None


def _trained_weights(layer: Mapping[str, Any]) -> WeightFormat | None:
    rows = [row for row in layer.get("inputs", {}).values() if row["name"] == "weight" and "format" in row]
    return parse_weights(rows[0]["format"]) if rows else None


def _trained_format(layer: Mapping[str, Any], tensors: Mapping[str, Floats]) -> Format | None:
    """The few-bit format, with its scale, that the weights of `layer` were trained with; None if they were floats."""
    fmt = _trained_weights(layer)
    if fmt is None:
        return None
    scale = _tensor(tensors, f"{layer['name']}.weight_scale", (1, 1))
    return fmt.with_scale(scale.item())


def _tensor(tensors: Mapping[str, Floats], name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    tensor = choose("tensor", name, tensors)
    if tensor.shape != shape or tensor.dtype != np.float32:
        raise ValueError(f"tensor {name} must be float32 {list(shape)}, not {tensor.dtype} {list(tensor.shape)}")
    if not np.isfinite(tensor).all():
        raise ValueError(f"tensor {name} holds NaN or infinity; all its values must be finite")
    return tensor.astype(np.float32)


def integer_fraction_bits(layer: Mapping[str, Any]) -> int | None:
    """Bits after the binary point of weights that were trained as whole numbers; None for floats."""
    rows = layer.get("inputs", {}).values()
    return next((row["fraction_bits"] for row in rows if row["name"] == "weight" and row["kind"] == "integer"), None)


def _given_thresholds(
    tensors: Mapping[str, Any], layer: FixedLayer, above: FixedLink, bias: npt.NDArray[np.float32]
) -> Integers:
    """Thresholds [neurons, codes - 1] that the neurons of `layer` were imported with, for sums plus `bias`."""
    values = np.ldexp(np.array(above.levels.values, np.float64), above.levels.exponent)
    given = _tensor(tensors, f"{layer.name}.thresholds", (layer.neurons, len(values) - 1))
    levels = _tensor(tensors, f"{layer.name}.levels", values.shape)
    if not np.array_equal(levels, values):
        raise ValueError(
            f"tensor {layer.name}.levels must hold the values of link {above.name}, {above.levels.format.name}"
        )
    if (np.diff(given, axis=1) < 0).any():
        raise ValueError(f"tensor {layer.name}.thresholds must ascend for each neuron")
    low, high = (bound[:, None] for bound in layer.sum_bounds)
    steps = np.ceil(np.ldexp(given.astype(np.float64) - bias[:, None], -layer.exponent))
    thresholds: Integers = steps.clip(low, high + 1).astype(np.int64)
    return thresholds


def _integer_layer(
    tensors: Mapping[str, Any], name: str, below: FixedLink, shape: tuple[int, int], fraction_bits: int
) -> tuple[FixedLayer, npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """The layer `name` with its whole numbers as weights; these weights and its biases as floats."""
    weight = choose("tensor", f"{name}.weight", tensors)
    if weight.shape != shape or weight.dtype not in (np.int8, np.int16):
        found = f"{weight.dtype} {list(weight.shape)}"
        raise ValueError(f"tensor {name}.weight must be int8 or int16 {list(shape)}, not {found}")
    bits = 8 * weight.dtype.itemsize
    fmt = FixedPoint(bits, bits - fraction_bits, overflow="saturate-symmetric")
    levels = Levels(fmt, tuple(range(fmt.lowest_level, fmt.highest_level + 1)), -fraction_bits)
    scaled = weight * np.float32(2.0**-fraction_bits)
    return FixedLayer(name, below, weight.astype(np.int64), levels), scaled, np.zeros(shape[1], np.float32)


def _check_integer_links(
    layer: Mapping[str, Any], layers: Sequence[Mapping[str, Any]], links: Sequence[FixedLink], plain: FixedLayer
) -> None:
    """Raise ValueError if a neuron trained in whole numbers rounds its sum before it sends it, as hardware would not.

    Bits and ternary codes are the same either way.
    """
    if layer is not layers[-1]:
        above = links[1]
        if above.levels.values not in ((-1, 1), (-1, 0, 1)) or above.levels.exponent:
            raise ValueError(
                f"link {above.name}: {above.levels.format.name} on a link of a network trained in whole numbers cannot "
                "be exported exactly; binary and ternary can"
            )
    elif plain.exponent < -INTEGER_SUM_FRACTION_BITS:
        raise ValueError(
            f"layer {plain.name}: sums in units of 2^{plain.exponent} were rounded to 2^-{INTEGER_SUM_FRACTION_BITS} "
            "in training, which exported logits are not; use fewer bits after the point for its weights or inputs"
        )


def _check_exact(layer: FixedLayer) -> None:
    reach = max(map(abs, (layer.below.levels.values[0], layer.below.levels.values[-1])))
    largest = int(np.abs(layer.weight).sum(0).max()) * reach
    if largest >= 1 << (EXACT_BITS - LOGIT_FRACTION_BITS - 1):
        raise ValueError(
            f"layer {layer.name}: sums up to {largest} are too large to be exact; use fewer bits for its weights or "
            f"for link {layer.below.name}"
        )


def _output_bias(layer: FixedLayer, bias: npt.NDArray[np.float32]) -> Integers:
    scaled = bias.astype(np.float64) * 2.0 ** (LOGIT_FRACTION_BITS - layer.exponent)
    if np.abs(scaled).max() >= 1 << (EXACT_BITS - 1):
        raise ValueError(
            f"tensor {layer.name}.bias: {float(np.abs(bias).max())} is too large beside a sum's unit of "
            f"2^{layer.exponent}; use a coarser format for the weights"
        )
    return np.rint(scaled).astype(np.int64)
