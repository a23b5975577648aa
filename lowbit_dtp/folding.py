"""A chain of dense layers with functions between, as a network of whole numbers and thresholds.

Weights and signals of few bits are whole numbers times a scale. So the sum of a neuron, too, is a whole number, and all
that follows it up to the next layer (scales, bias, normalization, activation, quantizer) is a staircase over whole
numbers. It ascends, or, below a negative scale, descends; then the weights of the neuron change their sign. The
functions are evaluated, not understood: a threshold is the least sum at which they give a level, found by bisection.

Thresholds are those of the functions as they round. Scales that are powers of two are kept, and the sums are then the
very numbers that the functions were given in the chain; others are left out of weights and links, which become whole
numbers, and the sums are within float32 rounding of the chain's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import frexp

import numpy as np
import numpy.typing as npt

from .activations import ACTIVATIONS
from .formats import Format, float32, table
from .layers import Layer
from .links import Link
from .network import Network, layer_names
from .projections import Dense, Projection, Quantized, Thresholded
from .step_functions import LARGEST, Float32s, Step, least, named, numbers, plain_formats
from .weight_formats import WeightFormat, parse_weights

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Function = Callable[[Float32s], Float32s]
"""Of sums [samples, neurons] or what was made of them, each neuron for itself."""

MOST_BITS = 8
"""Of a weight."""
MOST_VALUES = 1 << 12
"""On a link."""
EXACT = 1 << 24
"""Whole numbers up to here are exact in float32."""

_NOISE = 2.0**-22
"""Relative error of a number that was computed from a level and a scale in float32."""
_PROBES = 1025


class NotWholeNumbersError(ValueError):
    """The chain is not one of few-bit weights and signals, although it may be a network."""


@dataclass(frozen=True, eq=False)
class Product:
    """A dense layer without a bias, and what is computed from its sums before the next one."""

    label: str
    """What errors call it."""
    weight: npt.NDArray[np.floating]
    """[below, neurons]."""
    functions: Sequence[Function] = ()
    """From the sums to what the next product is given, or to the logits; the first one first."""
    values: npt.NDArray[np.floating] | None = None
    """What the next product can be given; None if that is no short list."""
    bits: int = 1
    """Of a weight, at least."""
    step: float = 0.0
    """Scale of the weights, if it is known and one for all neurons."""


@dataclass(frozen=True, eq=False)
class Wire:
    """The values of a link: in the chain `levels * scale + offset`, in the network `levels * kept`."""

    format: Format
    levels: Integers
    scale: float
    offset: float
    kept: float


def input_wire(step: Step, values: npt.NDArray[np.floating], label: str) -> Wire:
    """How inputs are sent: what the ascending `step` gives for each float32, one of `values`.

    ValueError, beginning with `label`, if it does not ascend.
    """
    ends = step(numbers(np.array([-LARGEST, LARGEST])))
    reached = _sorted(values)
    reached = reached[(reached >= ends[0]) & (reached <= ends[1])]
    if len(reached) < 2:
        raise ValueError(f"{label}: every input is sent alike, or larger ones as less")
    levels, scale, offset, kept = _grid(reached, label)
    edges = numbers(least(step, _middles(reached)))
    found = table((levels * kept).tolist(), edges.tolist())
    random = np.random.default_rng(0).normal(0, 1 + np.abs(edges).max() % 1e30, 4096).astype(np.float32)
    probes = np.concatenate([random, edges, np.nextafter(edges, np.float32(-np.inf))])
    if not np.array_equal(reached[found.encode(probes)].astype(np.float32), step(probes)):
        raise ValueError(f"{label}: what inputs are sent as does not ascend, or is not one of its quantizer's values")
    return Wire(named(found, _bits(len(reached)), kept), levels, scale, offset, kept)


def exact_wire(fmt: Format, label: str, factor: float = 1.0) -> Wire:
    """How inputs are sent in the few-bit format `fmt`, which the chain multiplies by `factor` first."""
    own = fmt.table()
    levels, scale, offset, kept = _grid(np.array(own.values), label)
    if not np.array_equal(levels * kept, own.values):
        fmt = table((levels * kept).tolist(), own.thresholds)
    return Wire(fmt, levels, scale * factor, offset * factor, kept)


def folded(inputs: Wire, products: Sequence[Product]) -> Network:
    """The network that puts every input into the class that the chain of `products` puts it into.

    Hidden layers are `Thresholded`. The weights of the output are whole numbers, too; its outputs are the logits of the
    chain times a number above zero, plus one number for all classes. If the chain has another scale for each class, the
    output has float weights, and its outputs are the logits.

    Raises NotWholeNumbersError if a weight has more than 8 bits, or a layer below another gives no few-bit values, and
    ValueError if functions neither ascend nor descend; both begin with the label of a product.
    """
    layers: list[Layer] = []
    wires = [inputs]
    names = layer_names([products[0].weight.shape[0], *(product.weight.shape[1] for product in products)])
    for product, lower, upper in zip(products, names, names[1:], strict=False):
        part = _Part(product, wires[-1])
        projection: Projection
        if upper == names[-1]:
            projection = part.output()
        else:
            projection, wire = part.hidden()
            wires.append(wire)
        layers.append(Layer(upper, {f"{lower}-{upper}": projection}, ACTIVATIONS["identity"]))
    rows = zip(wires, pairwise(names), strict=True)
    return Network(layers, [Link(wire.format, float32, *ends) for wire, ends in rows])


class _Part:
    """A product in whole numbers."""

    def __init__(self, product: Product, wire: Wire) -> None:
        self.product, self.wire, self.label = product, wire, product.label
        weight = np.asarray(product.weight, np.float64)
        if not np.isfinite(weight).all():
            raise ValueError(f"{self.label}: its weights are not all finite")
        self.levels, self.scales = self._whole(weight)
        uniform = float(self.scales[0]) if np.ptp(self.scales) == 0 else 0.0
        self.kept = uniform if _is_power_of_two(uniform) else 1.0
        self.unit = self.kept * wire.kept
        """Of a sum in the network."""
        self.totals = self.levels.sum(0)
        ends = np.stack([self.levels * wire.levels[0], self.levels * wire.levels[-1]])
        self.low, self.high = ends.min(0).sum(0), ends.max(0).sum(0)
        reach = int((np.abs(self.levels).sum(0) * np.abs(wire.levels[[0, -1]]).max()).max())
        if reach >= EXACT:
            raise ValueError(f"{self.label}: its sums reach {reach} steps; up to {EXACT - 1} are exact in float32")

    def _whole(self, weight: Floats) -> tuple[Integers, Floats]:
        """Whole numbers [below, neurons] and the scale of each neuron."""
        most = 2 ** (MOST_BITS - 1) - 1
        everywhere = weight.reshape(-1, 1)
        for columns, step in ((everywhere, self.product.step), (everywhere, 0.0), (weight, 0.0)):
            scales = np.array([step or _common_step(column) or 1.0 for column in columns.T])
            steps = columns / scales
            levels = np.rint(steps)
            if np.abs(levels).max() <= most and (np.abs(steps - levels) <= most * _NOISE).all():
                return levels.astype(np.int64).reshape(weight.shape), np.broadcast_to(scales, weight.shape[1:])
        raise NotWholeNumbersError(
            f"{self.label}: its weights are not whole numbers from -{most} to {most} times a scale of the layer or the "
            "neuron; quantize them to at most 8 bits"
        )

    def values_at(self, sums: Integers) -> Float32s:
        """What the chain makes of sums [samples, neurons] of whole numbers."""
        real = self.scales * (self.wire.scale * sums + self.wire.offset * self.totals)
        x = real.astype(np.float32)
        with np.errstate(all="ignore"):
            for function in self.product.functions:
                x = function(x)
        if x.shape != sums.shape or np.isnan(x).any():
            raise ValueError(f"{self.label}: what is computed from its sums is not a number for each neuron")
        return x

    def hidden(self) -> tuple[Thresholded, Wire]:
        """The layer, and the link above it."""
        if self.product.values is None:
            raise NotWholeNumbersError(f"{self.label}: nothing quantizes what it gives to the next layer")
        values = _sorted(self.product.values)
        levels, scale, offset, kept = _grid(values, self.label)
        ends = self.values_at(np.stack([self.low, self.high]))
        sign = np.where(ends[1] < ends[0], -1, 1)
        low, high = np.where(sign < 0, -self.high, self.low), np.where(sign < 0, -self.low, self.high)
        middles = _middles(values)[:, None]
        below, reached = np.broadcast_to(low - 1, (len(middles), len(low))), np.broadcast_to(high + 1, (1, len(low)))
        while (reached - below > 1).any():
            middle = (below + reached) // 2
            enough = self.values_at(sign * np.clip(middle, low, high)) >= middles
            reached, below = np.where(enough, middle, reached), np.where(enough, below, middle)
        thresholds = np.broadcast_to(reached, below.shape).T
        self._check(values, thresholds, sign, low, high)
        wire = Wire(_format_of(levels * kept, kept), levels, scale, offset, kept)
        weight, fmt = self._weights(self.levels * sign)
        return Thresholded(
            weight, format=fmt, scale=np.full((1, 1), self.kept, np.float32),
            thresholds=(thresholds * self.unit).astype(np.float32), levels=(levels * kept).astype(np.float32),
        ), wire  # fmt: skip

    def _check(self, values: Floats, thresholds: Integers, sign: Integers, low: Integers, high: Integers) -> None:
        """ValueError if the functions are not the staircase that `thresholds` describe, wherever they are tried."""
        probes = np.rint(np.linspace(low, high, _PROBES)).astype(np.int64)
        probes = np.concatenate([probes, thresholds.T, thresholds.T - 1]).clip(low, high)
        ranks = np.stack([np.searchsorted(*pair, side="right") for pair in zip(thresholds, probes.T, strict=True)], -1)
        wrong = np.abs(self.values_at(sign * probes) - values[ranks]) > 1e-3 * np.diff(values).min()
        if wrong.any():
            raise ValueError(
                f"{self.label}: what is computed from the sums of neuron {int(wrong.any(0).argmax())} neither ascends "
                "nor descends, or is not one of its quantizer's values"
            )

    def output(self) -> Dense:
        """The layer that gives the logits."""
        far = int(max(np.abs(self.low).max(), np.abs(self.high).max(), 1))
        at_zero, at_far = (
            self.values_at(np.full((1, len(self.low)), x, np.int64))[0].astype(np.float64) for x in (0, far)
        )
        slopes = (at_far - at_zero) / far
        probes = np.rint(np.linspace(self.low, self.high, _PROBES)).astype(np.int64)
        found = self.values_at(probes)
        if (np.abs(found - at_zero - slopes * probes) > 2.0**-12 * np.abs([at_zero, at_far]).max()).any():
            raise ValueError(f"{self.label}: what follows the last layer is more than a scale and an offset of logits")
        largest = float(np.abs(slopes).max())
        if np.ptp(slopes) > 2 * _NOISE * np.abs([at_zero, at_far]).max() / far:
            return Dense((self.levels * slopes).astype(np.float32), at_zero.astype(np.float32))
        slope = slopes[np.abs(slopes).argmax()]
        weight, fmt = self._weights(self.levels * int(np.sign(slope)))
        bias = at_zero * (self.unit / largest if largest else 1.0)
        if np.ptp(at_zero) == 0 and not (abs(steps := bias[0] / self.unit * 16) < EXACT and steps.is_integer()):
            bias = np.zeros(len(bias))  # alike for all classes, so it only costs accuracy
        scale = np.full((1, 1), self.kept, np.float32)
        return Quantized(weight, bias.astype(np.float32), format=fmt, scale=scale, master=weight.copy())

    def _weights(self, levels: Integers) -> tuple[Float32s, WeightFormat]:
        """The weights of the network for whole numbers, and their format."""
        most, bits = int(np.abs(levels).max(initial=0)), self.product.bits
        if bits <= 2 and most == 1 and levels.all():
            name = "binary"
        elif bits <= 2 and most <= 1:
            name = "ternary"
        else:
            name = f"fixed({max(bits, most.bit_length() + 1)})"
        fmt = parse_weights(f"{name}:{self.kept!r}")
        assert fmt is not None
        return (levels * self.kept).astype(np.float32), fmt


def _sorted(values: npt.NDArray[np.floating]) -> Floats:
    return np.unique(np.asarray(values, np.float64)) + 0.0  # without -0.0


def _middles(values: Floats) -> Floats:
    return (values[1:] + values[:-1]) / 2


def _bits(values: int) -> int:
    return (values - 1).bit_length()


def _is_power_of_two(x: float) -> bool:
    return frexp(x)[0] == 0.5 and 2.0**-64 <= x <= 2.0**64


def _grid(values: Floats, label: str) -> tuple[Integers, float, float, float]:
    """Levels, scale and offset of ascending values, and the scale that the network keeps."""
    if 2 <= len(values) <= MOST_VALUES and np.isfinite(values).all():
        for offset in (0.0, float(values[0])):
            scale = _common_step(values - offset)
            steps = (values - offset) / (scale or 1.0)
            levels = np.rint(steps)
            most = np.abs(levels).max()
            if most <= 2 * MOST_VALUES and (np.abs(steps - levels) <= most * _NOISE).all():
                kept = scale if offset == 0 and _is_power_of_two(scale) else 1.0
                return levels.astype(np.int64), scale, offset, kept
    raise ValueError(
        f"{label}: the values that it gives, {len(values)} of them, are not 2 to {MOST_VALUES} whole steps of one scale"
    )


def _common_step(values: Floats) -> float:
    """Largest number of which all values are whole multiples but for rounding to float32; 0 if all are 0.

    If there is none that is large enough to tell, one of which they are not.
    """
    sizes = np.unique(np.abs(values))
    least_step, step = sizes[-1] / (4 * MOST_VALUES), 0.0
    for size in sizes:
        a, b = float(size), step
        while b > least_step:
            a, b = b, abs(a - round(a / b) * b)
        step = a
    count = round(float(sizes[-1]) / step) if step else 0
    return float(sizes[-1]) / count if count else 0.0


def _format_of(values: npt.NDArray[np.floating], scale: float) -> Format:
    """A format of these values that sends each of them as itself."""
    wanted = tuple(values.tolist())
    return next(
        fmt
        for fmt in plain_formats(wanted, _bits(len(wanted)), scale)
        if fmt.table().values == wanted and np.array_equal(fmt.quantize(values), values)
    )
