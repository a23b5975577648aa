"""A network: layers, and the link below each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from .activations import ACTIVATIONS
from .backends import Array
from .backends.devices import mover, usable
from .formats import UnknownFormatError, choose
from .layers import Layer
from .ledger import Direction, Ledger
from .links import Link, Signal
from .randomness import RandomStream, generator
from .storage import StorageError, read_tensors, write_tensors


@dataclass(frozen=True)
class Pass:
    """A way up: the state of each layer (the last is the logits), and the signal that each received."""

    states: list[Array]
    received: list[Signal]


@dataclass
class Network:
    """`links[i]` carries signals between `layers[i - 1]` (the input, for 0) and `layers[i]`."""

    layers: list[Layer]
    links: list[Link]

    @classmethod
    def build(
        cls,
        sizes: Sequence[int],
        links: Sequence[Link],
        seed: int = 0,
        activation: str = "tanh",
        dtype: Any = np.float32,
    ) -> "Network":
        """Layers of `sizes` neurons, input first, joined by `links`, with orthogonal weights drawn from `seed`.

        Layers are called h1, h2, ..., output. Every hidden layer below another has feedback weights. Biases are zero.
        """
        names = layer_names(sizes)
        if len(links) != len(sizes) - 1:
            raise ValueError(f"{len(sizes)} layers need {len(sizes) - 1} links, one between each two, not {len(links)}")
        hidden = choose("activation", activation, ACTIVATIONS)
        layers = []
        for i in range(1, len(sizes)):
            below, here, last = sizes[i - 1], sizes[i], i == len(sizes) - 1
            layer = Layer(
                names[i],
                orthogonal(below, here, seed, f"{names[i]}.weight").astype(dtype),
                np.zeros(here, dtype),
                activation=ACTIVATIONS["identity"] if last else hidden,
            )
            if i < len(sizes) - 2:
                layer.feedback = orthogonal(sizes[i + 1], here, seed, f"{names[i]}.feedback").astype(dtype)
                layer.feedback_bias = np.zeros(here, dtype)
            layers.append(layer)
        return cls(layers, [replace(x, lower=a, upper=b) for x, a, b in zip(links, names, names[1:], strict=False)])

    @property
    def sizes(self) -> list[int]:
        """Neurons of each layer, input first."""
        return [int(self.layers[0].weight.shape[-2])] + [layer.neurons for layer in self.layers]

    @classmethod
    def ensemble(cls, networks: "Sequence[Network]") -> "Network":
        """Networks of one architecture as one, with a leading axis over them in every parameter; for NumPy arrays."""
        stacked = networks[0].each_array(lambda x: x)
        for i, layer in enumerate(stacked.layers):
            for name in layer.parameters():
                setattr(layer, name, np.stack([getattr(net.layers[i], name) for net in networks]))
        return stacked

    @property
    def members(self) -> int | None:
        """How many networks the ensemble holds; None if it is one network, without an axis over members."""
        return self.layers[0].members if self.layers[0].bias.ndim > 1 else None

    def on(self, device: str) -> "Network":
        """A copy of the network, whose arrays are NumPy's, on `device`: see `backends.devices.DEVICES`."""
        move = mover(usable(device))
        return self.each_array(lambda x: move(x.copy()))

    def each_array(self, make: Callable[[Array], Array]) -> "Network":
        """The network with what `make` makes of each parameter."""
        moved = Network([replace(layer, _costs={}, _spent={}) for layer in self.layers], self.links)
        for layer in moved.layers:
            for name, x in layer.parameters().items():
                setattr(layer, name, make(x))
        return moved

    def with_links(self, links: Sequence[Link]) -> "Network":
        """The same layers (the same arrays), joined by other links."""
        return Network(self.layers, list(links))

    def link(self, name: str) -> Link:
        """The link called `name`."""
        return choose("link", name, {link.name: link for link in self.links})

    def forward(
        self, inputs: Array | Signal, ledger: Ledger, stream: RandomStream | None = None, layers: int | None = None
    ) -> Pass:
        """States of the lowest `layers` layers (default all) for `inputs` [..., batch, input]."""
        if inputs.shape[-1] != self.sizes[0]:
            raise ValueError(f"the network takes {self.sizes[0]} inputs a sample, but was given {inputs.shape[-1]}")
        states: list[Array] = []
        received: list[Signal] = []
        state: Array | Signal = inputs
        for link, layer in list(zip(self.links, self.layers, strict=True))[:layers]:
            received.append(link.send(state, Direction.FORWARD, "activations", ledger, stream))
            state = layer.state(received[-1], ledger)
            states.append(state)
        return Pass(states, received)

    def classify(self, inputs: Array | Signal, ledger: Ledger, stream: RandomStream | None = None) -> Array:
        """Class [..., batch] with the largest logit; the first of equals."""
        return self.forward(inputs, ledger, stream).states[-1].argmax(-1)

    def tensors(self) -> dict[str, Array]:
        """Every parameter, as `layer.name`."""
        return {f"{layer.name}.{name}": x for layer in self.layers for name, x in layer.parameters().items()}

    def describe(self) -> dict[str, Any]:
        """All but the numbers, as plain JSON."""
        return {
            "input": {"name": self.links[0].lower, "neurons": self.sizes[0]},
            "layers": [
                {"name": layer.name, "neurons": layer.neurons, "activation": layer.activation.name}
                for layer in self.layers
            ],
            "links": [
                {"lower": x.lower, "upper": x.upper, "forward": x.forward.name, "feedback": x.feedback.name}
                for x in self.links
            ],
        }

    @classmethod
    def of(cls, tensors: dict[str, Array], description: dict[str, Any]) -> "Network":
        """The network of which `tensors` and `describe` tell. KeyError if a part is missing."""
        layers = [
            Layer(
                row["name"],
                tensors[f"{row['name']}.weight"],
                tensors[f"{row['name']}.bias"],
                tensors.get(f"{row['name']}.feedback"),
                tensors.get(f"{row['name']}.feedback_bias"),
                choose("activation", row["activation"], ACTIVATIONS),
            )
            for row in description["layers"]
        ]
        return cls(layers, [Link(x["forward"], x["feedback"], x["lower"], x["upper"]) for x in description["links"]])

    def save(self, path: Path) -> None:
        """Write the network as one safetensors file whose header describes it."""
        write_tensors(path, self.tensors(), self.describe())

    @classmethod
    def load(cls, path: Path) -> "Network":
        """The network that `save` wrote. Raises `StorageError` naming `path` if it cannot be that."""
        tensors, description = read_tensors(path)
        try:
            return cls.of(tensors, description)
        except KeyError as error:
            raise StorageError(f"{path}: not a network, {error} is missing") from None
        except UnknownFormatError as error:
            raise StorageError(
                f"{path}: {error}. If it is a format of your own, give it to lowbit_dtp.formats.register first"
            ) from None


def layer_names(sizes: Sequence[int]) -> list[str]:
    """`input`, `h1`, `h2`, ..., `output`.

    >>> layer_names([784, 500, 500, 10])
    ['input', 'h1', 'h2', 'output']
    """
    if len(sizes) < 2 or any(not isinstance(size, int) or size < 1 for size in sizes):
        raise ValueError(f"sizes must be two or more positive whole numbers, input first, not {list(sizes)}")
    return ["input", *(f"h{i}" for i in range(1, len(sizes) - 1)), "output"]


def link_names(sizes: Sequence[int]) -> list[str]:
    """`input-h1`, `h1-h2`, ...: the links of a network with layers of `sizes`."""
    names = layer_names(sizes)
    return [f"{lower}-{upper}" for lower, upper in pairwise(names)]


def orthogonal(rows: int, columns: int, seed: int, purpose: str) -> np.ndarray:
    """Random [rows, columns], float64, all of whose singular values are 1 (Saxe, McClelland, Ganguli, 2014)."""
    from threadpoolctl import threadpool_limits

    gaussian = generator(seed, purpose).standard_normal((max(rows, columns), min(rows, columns)))
    with threadpool_limits(1, user_api="blas"):  # the bits of a factorisation depend on the number of threads
        q, r = np.linalg.qr(gaussian)
    q *= np.sign(np.diagonal(r))
    return q if rows >= columns else np.ascontiguousarray(q.T)
