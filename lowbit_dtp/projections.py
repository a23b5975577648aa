"""Projections: the weights of one direction of one link. They belong to the layer that receives the link's signals."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from math import log, prod, sqrt
from typing import Any, ClassVar

import numpy as np

from . import integers
from .activations import Activation
from .backends import Array, Gradient, backend_of, multiplied
from .choices import choose
from .ledger import Direction
from .links import Signal
from .quantization import quantize, scale_of
from .weight_formats import SCALINGS, WeightFormat, parse_weights

Slot = tuple[str, dict[str, Any], str]
"""Where an array is stored: its name in the layer, and a mapping and its key there."""


class Projection(ABC):
    """A linear map from the signals that arrive over one link to the pre-activations of the layer's neurons.

    Arrays are `[..., sources, neurons]`; leading axes run over the members of an ensemble. A projection equals itself
    alone, so it can be a key.
    """

    kind: ClassVar[str]
    direction: Direction
    """Direction of the link whose signals arrive here."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Name of the weights among the arrays of the layer."""

    @property
    @abstractmethod
    def values(self) -> Array:
        """The weights [..., sources, neurons] that products use."""

    @property
    def bias(self) -> Array | None:
        """The bias [..., neurons]; None if there is none."""
        return None

    @property
    def bias_name(self) -> str:
        """Name of the bias among the arrays of the layer."""
        return "bias" if self.name == "weight" else f"{self.name}_bias"

    @abstractmethod
    def slots(self) -> Iterator[Slot]:
        """Where each array that the projection owns is stored. Arrays that it shares with others are not included."""

    @property
    def trained(self) -> tuple[str, ...]:
        """Names of the arrays of which `gradients` computes gradients."""
        return (self.name,) if self.bias is None else (self.name, self.bias_name)

    def copy(self, inputs: "Mapping[str, Projection]") -> "Projection":
        """A copy with its own slots, for a layer that has `inputs` so far, whose arrays it shares where it is tied."""
        return replace(self)  # type: ignore[type-var]

    @property
    def shape(self) -> tuple[int, int]:
        """(sources, neurons)."""
        sources, neurons = self.values.shape[-2:]
        return int(sources), int(neurons)

    @property
    def members(self) -> tuple[int, ...]:
        """Leading axes: (members,) of an ensemble, () of a single network."""
        shape: tuple[int, ...] = self.values.shape[:-2]
        return shape

    @property
    def number(self) -> str:
        """Name of the format of the weights in the ledger."""
        return _number(self.values.dtype)

    @property
    def weight_bits(self) -> int:
        """Bits of one weight in memory."""
        return int(self.values.dtype.itemsize) * 8

    @property
    def sum_number(self) -> str:
        """Name of the format of sums and gradients in the ledger."""
        return _number(self.values.dtype)

    @property
    def sum_bits(self) -> int:
        """Bits of one sum in memory."""
        return int(self.values.dtype.itemsize) * 8

    def apply(self, signal: Signal) -> Array:
        """`signal @ values + bias` [..., batch, neurons]."""
        return backend_of(self.values).pre_activation(signal, self.values, self.bias)

    def respond(self, activation: Activation, signal: Signal) -> Array:
        """`activation` of the result of `apply`."""
        return backend_of(self.values).affine_activation(activation, signal, self.values, self.bias)

    def transpose(self, error: Array) -> Array:
        """`error @ values.T` [..., batch, sources]: an error at the pre-activation as a gradient at the signal."""
        return backend_of(error).matmul(error, self.values.mT)

    def gradients(self, signal: Signal, error: Array, spent: Array | None) -> dict[str, Gradient]:
        """Gradients of the trained arrays for an `error` [..., batch, neurons] at the pre-activation.

        The product may be written into `spent`, a gradient that is no longer needed.
        """
        weight, bias = backend_of(error).gradients(signal, error, spent)
        return {self.name: weight} if self.bias is None else {self.name: weight, self.bias_name: bias}

    def parameter(self, name: str) -> Array | None:
        """The array that an optimizer updates by the gradient of the array `name`; None if it is that array."""
        return None

    def flips(self, name: str) -> bool:
        """Whether the array `name` is trained by flipping signs: binary weights without a float copy."""
        return False

    def updated(self, name: str) -> None:  # noqa: B027 - most projections need nothing
        """Recompute, in place, what depends on the array `name`, whose parameter has just been updated."""

    @property
    def gradient_operations(self) -> dict[str, int]:
        """Arithmetic of `gradients` for each weight, beside the product."""
        return {}

    @property
    def update_operations(self) -> dict[str, int]:
        """Arithmetic of `updated` for each weight."""
        return {}

    def size(self, name: str) -> int:
        """Numbers that each member has in the array `name`."""
        return prod(self.shape) if name == self.name else self.shape[1]

    def describe(self) -> dict[str, Any]:
        """All but the numbers, as plain JSON."""
        return {"kind": self.kind, "name": self.name, "direction": str(self.direction)}

    @classmethod
    @abstractmethod
    def read(cls, row: dict[str, Any], arrays: dict[str, Array], inputs: "Mapping[str, Projection]") -> "Projection":
        """The projection that `describe` gave `row` of, in a layer with `arrays` that has `inputs` so far.

        KeyError if a part is missing.
        """


@dataclass(eq=False)
class Dense(Projection):
    """Every source has a weight to every neuron."""

    weight: Array
    """[..., sources, neurons]."""
    offset: Array | None = None
    """[..., neurons], the bias; None if there is none."""
    direction: Direction = Direction.FORWARD
    label: str = "weight"
    kind: ClassVar[str] = "dense"

    @property
    def name(self) -> str:
        return self.label

    @property
    def values(self) -> Array:
        return self.weight

    @property
    def bias(self) -> Array | None:
        return self.offset

    def slots(self) -> Iterator[Slot]:
        yield self.name, vars(self), "weight"
        if self.offset is not None:
            yield self.bias_name, vars(self), "offset"

    @classmethod
    def read(cls, row: dict[str, Any], arrays: dict[str, Array], inputs: Mapping[str, Projection]) -> "Dense":
        name = row["name"]
        projection = cls(arrays[name], None, Direction(row["direction"]), name, **cls._read_more(row, arrays))
        projection.offset = arrays.get(projection.bias_name)
        return projection

    @classmethod
    def _read_more(cls, row: dict[str, Any], arrays: dict[str, Array]) -> dict[str, Any]:
        """What else there is to a kind of dense weights."""
        return {}


@dataclass(eq=False)
class Quantized(Dense):
    """`Dense` with few-bit weights, which products, ledgers and exporters use, trained with the quantizer in the loop.

    An optimizer changes the float copy `master` by the gradient of the few-bit weights (the straight-through estimator:
    Courbariaux, Bengio, David, BinaryConnect, NeurIPS 2015); `updated` quantizes it again. A master is clipped to the
    range of the levels, since outside it would have to return before a weight can change; not if the scale is computed
    from the master: clipping would then make both shrink. Binary weights may have no master, for an optimizer that
    flips their signs.
    """

    format: WeightFormat = field(kw_only=True)
    scale: Array = field(kw_only=True)
    """[..., 1, 1], a power of two: `weight` is whole levels times it."""
    master: Array | None = None
    """[..., sources, neurons], float."""
    log2_scale: Array | None = None
    """[..., 1, 1], if the scale is learned: its logarithm, before it is rounded to a power of two."""
    kind: ClassVar[str] = "quantized"

    @classmethod
    def of(cls, dense: Dense, fmt: WeightFormat, keep_master: bool = True) -> "Quantized":
        """`dense` with quantized weights; the float weights become the master, if that is kept."""
        weights, scale = dense.weight, scale_of(fmt, dense.weight)
        if fmt.scaling not in SCALINGS:
            scale[...] = float(fmt.scaling)
        xp = backend_of(weights)
        learned = None
        if fmt.scaling == "learned":
            learned = xp.filled(tuple(scale.shape), weights, lambda: np.log2(xp.numpy(scale)))
        made = cls(
            quantize(fmt, weights, scale), dense.offset, dense.direction, dense.label, format=fmt, scale=scale,
            master=weights if keep_master else None, log2_scale=learned,
        )  # fmt: skip
        made.updated(made.name)
        return made

    @property
    def number(self) -> str:
        return self.format.number

    @property
    def weight_bits(self) -> int:
        return self.format.bits

    def slots(self) -> Iterator[Slot]:
        yield from super().slots()
        for part in ("scale", "master", "log2_scale"):
            if getattr(self, part) is not None:
                yield f"{self.name}_{part}", vars(self), part

    @property
    def trained(self) -> tuple[str, ...]:
        return super().trained + (() if self.log2_scale is None else (f"{self.name}_log2_scale",))

    def parameter(self, name: str) -> Array | None:
        return self.master if name == self.name else None

    def flips(self, name: str) -> bool:
        return name == self.name and self.master is None

    def updated(self, name: str) -> None:
        if self.master is None or name == self.bias_name:
            return
        xp = backend_of(self.master)
        if self.log2_scale is not None:
            self.scale[...] = xp.power_of_two(2.0**self.log2_scale)
        if self.format.follows:
            self.scale[...] = scale_of(self.format, self.master)
        else:
            most = self.format.highest * self.scale
            self.master[...] = xp.clip(self.master, -most, most)
        self.weight[...] = quantize(self.format, self.master, self.scale)

    def gradients(self, signal: Signal, error: Array, spent: Array | None) -> dict[str, Gradient]:
        made = super().gradients(signal, error, spent)
        if self.log2_scale is not None:
            made[f"{self.name}_log2_scale"] = self._scale_gradient(multiplied(made[self.name]))
        return made

    def _scale_gradient(self, gradient: Array) -> Array:
        """Gradient of the scale's logarithm: Esser et al. 2020, eq. 3 and section 2.2, times scale ln 2."""
        slope, most = self.weight / self.scale, self.format.highest
        if self.format.levels != "binary":
            steps = self.master / self.scale
            slope = slope - steps * (abs(steps) < most)
        total = (gradient * slope).reshape((*self.members, -1)).sum(-1)[..., None, None]
        return total * self.scale * (log(2) / sqrt(prod(self.shape) * most))

    @property
    def gradient_operations(self) -> dict[str, int]:
        if self.log2_scale is None:
            return {}
        return {"multiply": 1, "add": 1 if self.format.levels == "binary" else 3}

    @property
    def update_operations(self) -> dict[str, int]:
        return self.format.operations

    def size(self, name: str) -> int:
        return 1 if name == f"{self.name}_log2_scale" else super().size(name)

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"format": self.format.name}

    @classmethod
    def _read_more(cls, row: dict[str, Any], arrays: dict[str, Array]) -> dict[str, Any]:
        name, fmt = row["name"], parse_weights(row["format"])
        if fmt is None:
            raise KeyError(f"few-bit format of {name}")
        return {
            "format": fmt,
            "scale": arrays[f"{name}_scale"],
            "master": arrays.get(f"{name}_master"),
            "log2_scale": arrays.get(f"{name}_log2_scale"),
        }


@dataclass(eq=False)
class Thresholded(Quantized):
    """`Quantized` whose sums become levels, by thresholds of each neuron: a layer of an imported network.

    A neuron gives the level whose rank is the number of its thresholds that are at most its sum. The thresholds hold
    what was between the product and the next one: biases, normalization, activation and quantizer. Nothing is trained,
    and errors pass straight through.
    """

    thresholds: Array = field(kw_only=True)
    """[..., neurons, levels - 1], ascending: sums, in the unit of the products."""
    levels: Array = field(kw_only=True)
    """[..., levels], ascending: values of the format of the link above."""
    kind: ClassVar[str] = "thresholded"

    def slots(self) -> Iterator[Slot]:
        yield from super().slots()
        for part in ("thresholds", "levels"):
            yield part, vars(self), part

    @property
    def trained(self) -> tuple[str, ...]:
        return ()

    def apply(self, signal: Signal) -> Array:
        sums = super().apply(signal)
        steps = self.levels[..., 1:] - self.levels[..., :-1]
        state = 0 * sums + self.levels[..., 0][..., None, None]
        for rank in range(self.thresholds.shape[-1]):
            state += (sums >= self.thresholds[..., None, :, rank]) * steps[..., rank][..., None, None]
        return state

    def respond(self, activation: Activation, signal: Signal) -> Array:
        return activation.apply(backend_of(self.weight), self.apply(signal))

    def gradients(self, signal: Signal, error: Array, spent: Array | None) -> dict[str, Gradient]:
        return {}

    @classmethod
    def _read_more(cls, row: dict[str, Any], arrays: dict[str, Array]) -> dict[str, Any]:
        return super()._read_more(row, arrays) | {part: arrays[part] for part in ("thresholds", "levels")}


@dataclass(eq=False)
class Tied(Projection):
    """The weights and bias of another link of the same layer, used for this link, too: the same arrays.

    Gradients are those of the shared arrays, under their names. In `Layer.inputs`, the other link comes first.
    """

    link: str
    """Name of the link whose weights these are."""
    source: Projection
    """Its projection."""
    direction: Direction = Direction.FEEDBACK
    kind: ClassVar[str] = "tied"

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def values(self) -> Array:
        return self.source.values

    @property
    def bias(self) -> Array | None:
        return self.source.bias

    @property
    def bias_name(self) -> str:
        return self.source.bias_name

    @property
    def number(self) -> str:
        return self.source.number

    @property
    def weight_bits(self) -> int:
        return self.source.weight_bits

    @property
    def trained(self) -> tuple[str, ...]:
        return self.source.trained

    def slots(self) -> Iterator[Slot]:
        yield from ()

    def apply(self, signal: Signal) -> Array:
        return self.source.apply(signal)

    def respond(self, activation: Activation, signal: Signal) -> Array:
        return self.source.respond(activation, signal)

    def transpose(self, error: Array) -> Array:
        return self.source.transpose(error)

    def gradients(self, signal: Signal, error: Array, spent: Array | None) -> dict[str, Gradient]:
        return self.source.gradients(signal, error, spent)

    def copy(self, inputs: Mapping[str, Projection]) -> "Tied":
        return replace(self, source=inputs[self.link])

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"link": self.link}

    @classmethod
    def read(cls, row: dict[str, Any], arrays: dict[str, Array], inputs: Mapping[str, Projection]) -> "Tied":
        return cls(row["link"], inputs[row["link"]], Direction(row["direction"]))


@dataclass(eq=False)
class Mirrored(Dense):
    """A copy of weights that another layer owns and trains, transposed or not, with a bias of its own.

    The copy is saved with the network. `Network.synchronise` sends the weights anew, over a link that counts them.
    """

    source: tuple[str, str] = field(kw_only=True)
    """Names of the layer that owns the weights, and of the array there."""
    link: str = field(kw_only=True)
    """Name of the link over which the weights come."""
    transposed: bool = field(default=True, kw_only=True)
    """Whether the copy is the transpose of what the owner has."""
    kind: ClassVar[str] = "mirrored"

    @property
    def trained(self) -> tuple[str, ...]:
        return () if self.offset is None else (self.bias_name,)

    def gradients(self, signal: Signal, error: Array, spent: Array | None) -> dict[str, Gradient]:
        return {name: error.sum(-2) for name in self.trained}

    def refresh(self, weights: Signal) -> None:
        """Replace the copy by `weights`, as they arrived from their owner."""
        values = weights.values
        self.weight[...] = values.mT if self.transposed else values

    def describe(self) -> dict[str, Any]:
        own = {"source": list(self.source), "link": self.link, "transposed": self.transposed}
        return super().describe() | own

    @classmethod
    def _read_more(cls, row: dict[str, Any], arrays: dict[str, Array]) -> dict[str, Any]:
        layer, name = row["source"]
        return {"source": (layer, name), "link": row["link"], "transposed": row["transposed"]}


@dataclass(eq=False)
class Integer(Dense):
    """Whole numbers of 8 or 16 bits as weights, in units of 2^-fraction_bits, with sums of 32 bits and no floats.

    Signals, states, errors and sums are whole numbers, as `integers` has them; sums are exact and then rounded down to
    their unit. There is no bias.
    """

    fraction_bits: int = field(kw_only=True)
    kind: ClassVar[str] = "integer"
    sum_number: ClassVar[str] = f"fixed(32,{32 - integers.SUM_FRACTION_BITS})"
    sum_bits: ClassVar[int] = 32

    @classmethod
    def of(cls, dense: Dense, bits: int, fraction_bits: int) -> "Integer":
        """`dense`, with weights rounded to nearest and clipped to the range; the bias is left out."""
        xp, most = backend_of(dense.weight), 2 ** (bits - 1) - 1
        weight = xp.cast(xp.clip(xp.round(dense.weight * 2.0**fraction_bits), -most, most), f"int{bits}")
        return cls(weight, None, dense.direction, dense.label, fraction_bits=fraction_bits)

    @property
    def number(self) -> str:
        return f"fixed({self.weight_bits},{self.weight_bits - self.fraction_bits})"

    def apply(self, signal: Signal) -> Array:
        sums = backend_of(self.weight).integer_matmul(signal.integers, self.weight)
        below = self.fraction_bits + integers.levels_of(signal.format).fraction_bits
        return integers.shifted(sums, below - integers.SUM_FRACTION_BITS)

    def respond(self, activation: Activation, signal: Signal) -> Array:
        return integers.activation(activation.name)(self.apply(signal))

    def transpose(self, error: Array) -> Array:
        sums = backend_of(error).integer_matmul(error, self.weight.mT)
        below = self.fraction_bits + integers.STATE_FRACTION_BITS
        return integers.shifted(sums, below - integers.SUM_FRACTION_BITS)

    def gradients(self, signal: Signal, error: Array, spent: Array | None) -> dict[str, Gradient]:
        return {self.name: backend_of(error).integer_matmul(signal.integers.mT, error)}

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"fraction_bits": self.fraction_bits}

    @classmethod
    def _read_more(cls, row: dict[str, Any], arrays: dict[str, Array]) -> dict[str, Any]:
        return {"fraction_bits": row["fraction_bits"]}


PROJECTIONS: dict[str, type[Projection]] = {
    kind.kind: kind for kind in (Dense, Quantized, Thresholded, Tied, Mirrored, Integer)
}
"""Every kind of projection, by name."""


def projection_of(row: dict[str, Any], arrays: dict[str, Array], inputs: Mapping[str, Projection]) -> Projection:
    """The projection that `describe` gave `row` of, in a layer with `arrays` that has `inputs` so far.

    KeyError if a part is missing, ValueError if one is not what it should be.
    """
    try:
        return choose("kind of projection", row["kind"], PROJECTIONS).read(row, arrays, inputs)
    except TypeError as error:
        raise ValueError(f"projection {row['name']!r}: {error}") from None


@cache  # NumPy takes microseconds to name a type, and every entry in a ledger has it named
def _number(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")
