"""A network: layers, and the link below each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from .activations import ACTIVATIONS
from .backends import Array
from .backends.devices import mover, usable
from .choices import choose
from .formats import UnknownFormatError
from .layers import Layer
from .ledger import Direction, Ledger
from .links import Link, Signal
from .projections import Dense, projection_of
from .randomness import RandomStream, generator
from .storage import StorageError, read_network, write_tensors


@dataclass(frozen=True)
class Pass:
    """What a forward pass leaves: the state of each layer by its name, and the signal that arrived over each link."""

    states: dict[str, Array]
    received: dict[str, Signal]

    @property
    def output(self) -> Array:
        """State of the highest layer that the pass came to."""
        return next(reversed(self.states.values()))


@dataclass(frozen=True)
class Edge:
    """A link of the chain from inputs to outputs, with the layers at its ends."""

    link: Link
    lower: Layer | None
    """None at the link that carries the inputs."""
    upper: Layer


@dataclass
class Network:
    """A chain of layers, lowest first, with the link below each; then links that join layers that are no neighbours."""

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
        output_activation: str = "identity",
        initial_weights: str = "orthogonal",
    ) -> "Network":
        """Layers of `sizes` neurons, input first, joined by `links`, with weights drawn from `seed`.

        Layers are called h1, h2, ..., output. Every hidden layer below another has feedback weights. Biases are zero.
        `initial_weights` is one of `INITIALIZERS`.
        """
        names = layer_names(sizes)
        if len(links) != len(sizes) - 1:
            raise ValueError(f"{len(sizes)} layers need {len(sizes) - 1} links, one between each two, not {len(links)}")
        hidden, top = (choose("activation", name, ACTIVATIONS) for name in (activation, output_activation))
        chain = [replace(x, lower=a, upper=b) for x, a, b in zip(links, names, names[1:], strict=False)]
        net = cls([], chain)
        for i, link in enumerate(chain):
            layer = Layer(link.upper, {}, top if i == len(chain) - 1 else hidden)
            layer.inputs[link.name] = dense(
                layer.name, sizes[i], sizes[i + 1], seed, "weight", Direction.FORWARD, initial_weights, dtype
            )
            net.layers.append(layer)
        for i in range(len(chain) - 2):
            net.add_feedback(chain[i + 1].name, seed, initial_weights)
        return net

    def add_feedback(self, link: str, seed: int, initial_weights: str = "orthogonal") -> None:
        """Give the lower layer of `link` weights for the signals that come down over it, if it has none."""
        edge = {edge.link.name: edge for edge in self.edges}[link]
        layer, above = edge.lower, edge.upper
        if layer is None or link in layer.inputs:
            return
        dtype = layer.projection.values.dtype
        layer.inputs[link] = dense(
            layer.name, above.neurons, layer.neurons, seed, "feedback", Direction.FEEDBACK, initial_weights, dtype
        )

    @property
    def edges(self) -> list[Edge]:
        """The chain from inputs to outputs: its links, lowest first, with the layers at their ends."""
        lower: list[Layer | None] = [None, *self.layers]
        return [Edge(*ends) for ends in zip(self.links, lower, self.layers, strict=False)]

    def layer(self, name: str) -> Layer:
        """The layer called `name`."""
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise ValueError(f"no layer {name!r}; there are: {', '.join(layer.name for layer in self.layers)}")

    @property
    def sizes(self) -> list[int]:
        """Neurons of each layer, input first."""
        return [self.layers[0].projection.shape[0]] + [layer.neurons for layer in self.layers]

    @classmethod
    def ensemble(cls, networks: "Sequence[Network]") -> "Network":
        """Networks of one architecture as one, with a leading axis over them in every parameter; for NumPy arrays."""
        arrays = [net.tensors() for net in networks]
        return networks[0].each_named_array(lambda name, x: np.stack([each[name] for each in arrays]))

    @property
    def members(self) -> int | None:
        """How many networks the ensemble holds; None if it is one network, without an axis over members."""
        members = self.layers[0].projection.members
        return members[0] if members else None

    def on(self, device: str) -> "Network":
        """A copy of the network, whose arrays are NumPy's, on `device`: see `backends.devices.DEVICES`."""
        move = mover(usable(device))
        return self.each_array(lambda x: move(x.copy()))

    def each_array(self, make: Callable[[Array], Array]) -> "Network":
        """The network with what `make` makes of each parameter."""
        return self.each_named_array(lambda name, x: make(x))

    def each_named_array(self, make: Callable[[str, Array], Array]) -> "Network":
        """The network with what `make` makes of each array and its name in `tensors`."""
        return Network([layer.each_array(partial(_make, make, layer.name)) for layer in self.layers], self.links)

    def with_links(self, links: Sequence[Link]) -> "Network":
        """The same layers (the same arrays), joined by other links."""
        return Network(self.layers, list(links))

    def link(self, name: str) -> Link:
        """The link called `name`."""
        return choose("link", name, {link.name: link for link in self.links})

    def forward(
        self,
        inputs: Array | Signal,
        ledger: Ledger,
        stream: RandomStream | None = None,
        until: str | None = None,
    ) -> Pass:
        """States of the layers, up to that called `until` (default all), for `inputs` [..., batch, input]."""
        if inputs.shape[-1] != self.sizes[0]:
            raise ValueError(f"the network takes {self.sizes[0]} inputs a sample, but was given {inputs.shape[-1]}")
        run = Pass({}, {})
        state: Array | Signal = inputs
        for edge in self.edges:
            link, layer = edge.link, edge.upper
            run.received[link.name] = link.send(state, Direction.FORWARD, "activations", ledger, stream)
            state = run.states[layer.name] = layer.state(run.received[link.name], ledger)
            if layer.name == until:
                break
        return run

    def classify(self, inputs: Array | Signal, ledger: Ledger, stream: RandomStream | None = None) -> Array:
        """Class [..., batch] with the largest logit; the first of equals."""
        return self.forward(inputs, ledger, stream).output.argmax(-1)

    def tensors(self) -> dict[str, Array]:
        """Every array, as `layer.name`."""
        return {f"{layer.name}.{name}": x for layer in self.layers for name, x in layer.arrays().items()}

    def describe(self) -> dict[str, Any]:
        """All but the numbers, as plain JSON."""
        return {
            "input": {"name": self.links[0].lower, "neurons": self.sizes[0]},
            "layers": [
                {
                    "name": layer.name,
                    "neurons": layer.neurons,
                    "activation": layer.activation.name,
                    "decoder_activation": layer.decoder_activation and layer.decoder_activation.name,
                    "inputs": {link: projection.describe() for link, projection in layer.inputs.items()},
                    "buffers": list(layer.buffers),
                }
                for layer in self.layers
            ],
            "links": [
                {
                    "lower": x.lower,
                    "upper": x.upper,
                    "forward": x.forward.name,
                    "feedback": x.feedback.name,
                    "label": x.label,
                }
                for x in self.links
            ],
        }

    @classmethod
    def of(cls, tensors: dict[str, Array], description: dict[str, Any]) -> "Network":
        """The network of which `tensors` and `describe` tell. KeyError if a part is missing."""
        links = [
            Link(x["forward"], x["feedback"], x["lower"], x["upper"], x.get("label", "")) for x in description["links"]
        ]
        layers = []
        for i, row in enumerate(description["layers"]):
            start = f"{row['name']}."
            arrays = {name.removeprefix(start): x for name, x in tensors.items() if name.startswith(start)}
            inputs = row["inputs"] if "inputs" in row else _inputs_of_version_1(arrays, links[i:])
            decoder = row.get("decoder_activation")
            layers.append(
                Layer(
                    row["name"],
                    {link: projection_of(projection, arrays) for link, projection in inputs.items()},
                    choose("activation", row["activation"], ACTIVATIONS),
                    choose("activation", decoder, ACTIVATIONS) if decoder else None,
                    {name: arrays[name] for name in row.get("buffers", ())},
                )
            )
        return cls(layers, links)

    def save(self, path: Path) -> None:
        """Write the network as one safetensors file whose header describes it."""
        write_tensors(path, self.tensors(), self.describe())

    @classmethod
    def load(cls, path: Path) -> "Network":
        """The network that `save` wrote. Raises `StorageError` naming `path` if it cannot be that."""
        tensors, description = read_network(path)
        try:
            return cls.of(tensors, description)
        except KeyError as error:
            raise StorageError(f"{path}: not a network, {error} is missing") from None
        except UnknownFormatError as error:
            raise StorageError(
                f"{path}: {error}. If it is a format of your own, give it to lowbit_dtp.formats.register first"
            ) from None
        except ValueError as error:
            raise StorageError(f"{path}: {error}") from None


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


def long_link_names(sizes: Sequence[int]) -> list[str]:
    """`output-h1`, ...: the links between layers that are no neighbours, which some rules add to a network.

    >>> long_link_names([784, 500, 500, 500, 10])
    ['h3-h1', 'output-h1', 'output-h2']
    """
    names = layer_names(sizes)[1:]
    return [f"{upper}-{lower}" for i, lower in enumerate(names) for upper in names[i + 2 :]]


def _make(make: Callable[[str, Array], Array], layer: str, name: str, x: Array) -> Array:
    return make(f"{layer}.{name}", x)


def _inputs_of_version_1(arrays: dict[str, Array], links: Sequence[Link]) -> dict[str, dict[str, Any]]:
    """The projections of a layer with `arrays` in a file of format version 1; `links` begin with the one below."""
    inputs = {links[0].name: {"kind": "dense", "name": "weight", "direction": "forward"}}
    if "feedback" in arrays:
        inputs[links[1].name] = {"kind": "dense", "name": "feedback", "direction": "feedback"}
    return inputs


def dense(
    layer: str,
    sources: int,
    neurons: int,
    seed: int,
    name: str,
    direction: Direction,
    initial_weights: str = "orthogonal",
    dtype: Any = np.float32,
    bias: bool = True,
) -> Dense:
    """Weights `name` of `layer`, drawn from `seed`, with a bias of zeros."""
    draw = choose("initial weights", initial_weights, INITIALIZERS)
    weight = draw(sources, neurons, seed, f"{layer}.{name}").astype(dtype)
    return Dense(weight, np.zeros(neurons, dtype) if bias else None, direction, name)


def orthogonal(rows: int, columns: int, seed: int, purpose: str) -> np.ndarray:
    """Random [rows, columns], float64, all of whose singular values are 1 (Saxe, McClelland, Ganguli, 2014)."""
    from threadpoolctl import threadpool_limits

    gaussian = generator(seed, purpose).standard_normal((max(rows, columns), min(rows, columns)))
    with threadpool_limits(1, user_api="blas"):  # the bits of a factorisation depend on the number of threads
        q, r = np.linalg.qr(gaussian)
    q *= np.sign(np.diagonal(r))
    return q if rows >= columns else np.ascontiguousarray(q.T)


def uniform(rows: int, columns: int, seed: int, purpose: str) -> np.ndarray:
    """Random [rows, columns], float64, uniform within +-sqrt(6 / (rows + columns)) (Glorot, Bengio, AISTATS 2010)."""
    limit = np.sqrt(6 / (rows + columns))
    return generator(seed, purpose).uniform(-limit, limit, (rows, columns))


def signs(rows: int, columns: int, seed: int, purpose: str) -> np.ndarray:
    """Random [rows, columns], float64, +-s, with s the power of two nearest the size of a weight in `orthogonal`."""
    size = 2.0 ** -np.rint(np.log2(max(rows, columns)) / 2)
    return size * (2.0 * generator(seed, purpose).integers(0, 2, (rows, columns)) - 1)


def zeros(rows: int, columns: int, seed: int, purpose: str) -> np.ndarray:
    """Zeros [rows, columns], float64: for rules of a single layer, whose weights then are what it has learned."""
    return np.zeros((rows, columns))


INITIALIZERS: dict[str, Callable[[int, int, int, str], np.ndarray]] = {
    "orthogonal": orthogonal,
    "uniform": uniform,
    "signs": signs,
    "zeros": zeros,
}
"""Ways to draw the first weights [sources, neurons] from a seed, for a purpose."""
