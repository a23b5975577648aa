"""Projections: the weights of one direction of one link. They belong to the layer that receives the link's signals."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any, ClassVar

from .backends import Array, backend_of
from .ledger import Direction
from .links import Signal

Slot = tuple[str, dict[str, Any], str]
"""Where an array is held: its name in the layer, and a mapping and the key under which it lies there."""


class Projection(ABC):
    """A linear map from the signals that arrive over one link to the pre-activations of the layer's neurons.

    Arrays are `[..., sources, neurons]`; leading axes run over the members of an ensemble.
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
        """What is added to every product [..., neurons], if anything."""
        return None

    @property
    def bias_name(self) -> str:
        """Name of the bias among the arrays of the layer."""
        return "bias" if self.name == "weight" else f"{self.name}_bias"

    @abstractmethod
    def slots(self) -> Iterator[Slot]:
        """Where each array that the projection owns is held. What it shares with others is not among them."""

    @property
    def trained(self) -> tuple[str, ...]:
        """Names of the arrays that `gradients` gives gradients of."""
        return (self.name,) if self.bias is None else (self.name, self.bias_name)

    def copy(self, inputs: "Mapping[str, Projection]") -> "Projection":
        """The same with slots of its own, for a layer that has `inputs` so far: what it shares is theirs."""
        return replace(self)  # type: ignore[type-var]

    @property
    def shape(self) -> tuple[int, int]:
        """(sources, neurons)."""
        sources, neurons = self.values.shape[-2:]
        return int(sources), int(neurons)

    @property
    def members(self) -> tuple[int, ...]:
        """Leading axes: (members,) of an ensemble, () of a single network."""
        return tuple(self.values.shape[:-2])

    @property
    def number(self) -> str:
        """What the ledger calls the format of the weights."""
        return str(self.values.dtype).removeprefix("torch.")

    @property
    def weight_bits(self) -> int:
        """Bits of one weight in memory."""
        return int(self.values.dtype.itemsize) * 8

    def apply(self, signal: Signal) -> Array:
        """`signal @ values + bias` [..., batch, neurons]."""
        return backend_of(self.values).pre_activation(signal, self.values, self.bias)

    def transpose(self, error: Array) -> Array:
        """`error @ values.T` [..., batch, sources]: an error at the pre-activation as a gradient at the signal."""
        return backend_of(error).matmul(error, self.values.mT)

    def gradients(self, signal: Signal, error: Array, spent: Array | None) -> dict[str, Array]:
        """Gradients of what is trained here for an `error` [..., batch, neurons] at the pre-activation.

        The product may be written into `spent`, a gradient that has been used up.
        """
        weight, bias = backend_of(error).gradients(signal, error, spent)
        return {self.name: weight} | ({self.bias_name: bias} if self.bias is not None else {})

    def size(self, name: str) -> int:
        """Numbers that each member has in the array `name`."""
        return prod(self.shape) if name == self.name else self.shape[1]

    def describe(self) -> dict[str, Any]:
        """All but the numbers, as plain JSON."""
        return {"kind": self.kind, "name": self.name, "direction": str(self.direction)}


@dataclass
class Dense(Projection):
    """Every source is joined to every neuron by a weight of its own."""

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


@dataclass
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

    def transpose(self, error: Array) -> Array:
        return self.source.transpose(error)

    def gradients(self, signal: Signal, error: Array, spent: Array | None) -> dict[str, Array]:
        return self.source.gradients(signal, error, spent)

    def copy(self, inputs: Mapping[str, Projection]) -> "Tied":
        return replace(self, source=inputs[self.link])

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"link": self.link}


@dataclass
class Mirrored(Projection):
    """A copy of weights that another layer owns and trains, transposed or not, with a bias of its own.

    The copy is saved with the network. `Network.synchronise` sends the weights anew, over a link that counts them.
    """

    weight: Array
    """The copy [..., sources, neurons]."""
    offset: Array | None
    """[..., neurons], the bias, which is trained here; None if there is none."""
    source: tuple[str, str]
    """Names of the layer that owns the weights, and of the array there."""
    link: str
    """Name of the link over which the weights come."""
    transposed: bool = True
    """Whether the copy is the transpose of what the owner has."""
    direction: Direction = Direction.FORWARD
    label: str = "weight"
    kind: ClassVar[str] = "mirrored"

    @property
    def name(self) -> str:
        return self.label

    @property
    def values(self) -> Array:
        return self.weight

    @property
    def bias(self) -> Array | None:
        return self.offset

    @property
    def trained(self) -> tuple[str, ...]:
        return () if self.offset is None else (self.bias_name,)

    def slots(self) -> Iterator[Slot]:
        yield self.name, vars(self), "weight"
        if self.offset is not None:
            yield self.bias_name, vars(self), "offset"

    def gradients(self, signal: Signal, error: Array, spent: Array | None) -> dict[str, Array]:
        return {name: error.sum(-2) for name in self.trained}

    def refresh(self, weights: Signal) -> None:
        """Put `weights`, as they arrived from their owner, in the place of the copy."""
        values = weights.values
        self.weight[...] = values.mT if self.transposed else values

    def describe(self) -> dict[str, Any]:
        own = {"source": list(self.source), "link": self.link, "transposed": self.transposed}
        return super().describe() | own


def projection_of(row: dict[str, Any], arrays: dict[str, Array], inputs: Mapping[str, Projection]) -> Projection:
    """The projection that `describe` gave `row` of, in a layer with `arrays` that has `inputs` so far.

    KeyError if a part is missing.
    """
    direction = Direction(row["direction"])
    if row["kind"] == Tied.kind:
        return Tied(row["link"], inputs[row["link"]], direction)
    projection: Dense | Mirrored
    if row["kind"] == Dense.kind:
        projection = Dense(arrays[row["name"]], None, direction, row["name"])
    elif row["kind"] == Mirrored.kind:
        owner, name = row["source"]
        weight = arrays[row["name"]]
        projection = Mirrored(weight, None, (owner, name), row["link"], row["transposed"], direction, row["name"])
    else:
        raise KeyError(f"projection kind {row['kind']!r}")
    projection.offset = arrays.get(projection.bias_name)
    return projection
