"""A network: layers, and the link below each."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .activations import ACTIVATIONS
from .backends import Array, backend_of
from .backends.devices import mover, usable
from .backends.shapes import ShapeArray
from .choices import choose
from .formats import Float, Format, UnknownFormatError, parse
from .layers import Layer
from .ledger import Direction, Ledger
from .links import Link, Signal
from .projections import Dense, Mirrored, Projection, Quantized, Tied, projection_of
from .randomness import RandomStream, generator
from .storage import StorageError, read_network, write_tensors
from .weight_formats import WeightFormat, parse_weights


@dataclass(frozen=True)
class Pass:
    """Result of a forward pass: the state of each layer by name, and the signal that arrived over each link."""

    states: dict[str, Array]
    received: dict[str, Signal]

    @property
    def output(self) -> Array:
        """State of the highest layer that the pass computed."""
        return next(reversed(self.states.values()))


class Edge(NamedTuple):
    """A link of the chain from inputs to outputs, with the layers at its ends."""

    link: Link
    lower: Layer | None
    """None for the link that carries the inputs."""
    upper: Layer


@dataclass
class Network:
    """A chain of layers, lowest first, with the link below each; then links between layers that are not neighbours."""

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
        like: Array | None = None,
    ) -> "Network":
        """Layers of `sizes` neurons, input first, joined by `links`, with weights drawn from `seed`.

        Layers are called h1, h2, ..., output. Every hidden layer below another has feedback weights. Biases are zero.
        `initial_weights` is one of `INITIALIZERS`. Arrays are NumPy's, of `dtype`, or of the kind and type of `like`:
        like a `backends.shapes.ShapeArray`, they have shapes alone, and nothing is drawn.
        """
        like = np.zeros(0, dtype) if like is None else like
        names = layer_names(sizes)
        if len(links) != len(sizes) - 1:
            raise ValueError(f"{len(sizes)} layers need {len(sizes) - 1} links, one between each two, not {len(links)}")
        hidden, top = (choose("activation", name, ACTIVATIONS) for name in (activation, output_activation))
        chain = [replace(x, lower=a, upper=b) for x, a, b in zip(links, names, names[1:], strict=False)]
        net = cls([], chain)
        for i, link in enumerate(chain):
            layer = Layer(link.upper, {}, top if i == len(chain) - 1 else hidden)
            layer.inputs[link.name] = dense(
                layer.name, sizes[i], sizes[i + 1], seed, "weight", Direction.FORWARD, like, initial_weights
            )
            net.layers.append(layer)
        for edge in net.edges[1:-1]:
            _add_feedback(edge, seed, initial_weights)
        return net

    def add_feedback(self, link: str, seed: int, initial_weights: str = "orthogonal") -> None:
        """Give the lower layer of `link` weights for the signals that come down over it, if it has none."""
        _add_feedback({edge.link.name: edge for edge in self.edges}[link], seed, initial_weights)

    def quantize_weights(self, formats: Mapping[str, Any], keep_master: bool = True) -> None:
        """Give weights few-bit formats, in place, as `parse_weights` spells them; the weights become the master.

        Keys are `LAYER` for the weights of the link from below, `LAYER.ARRAY` for others, `h1.feedback` say, and `rest`
        or `rest.ARRAY` for those of all layers that are not named; a table `LAYER` of `ARRAY` works, too. Without
        `keep_master`, binary weights have none, for an optimizer that flips their signs. Weights that have a few-bit
        format already do not change, and copies follow the weights they copy. ValueError, naming the key, if it
        names no weights or no format.
        """
        given = _by_array(formats)
        known = [(layer.name, projection.name) for layer in self.layers for projection in layer.inputs.values()]
        for key in given:
            if not any(key in (f"{layer}.{array}", f"rest.{array}") for layer, array in known):
                there = ", ".join(_short(f"{layer}.{array}") for layer, array in known)
                raise ValueError(f"weights {_short(key)!r}: there are none; there are: {there}, and rest")
        for layer in self.layers:
            for link, projection in list(layer.inputs.items()):
                own = f"{layer.name}.{projection.name}"
                fmt = given[own] if own in given else given.get(f"rest.{projection.name}")
                if isinstance(projection, Tied):
                    layer.inputs[link] = projection.copy(layer.inputs)
                    continue
                if (
                    fmt is None
                    or isinstance(projection, Quantized)
                    or (own not in given and type(projection) is not Dense)
                ):
                    continue
                if type(projection) is not Dense:
                    raise ValueError(f"weights {_short(own)!r}: {projection.kind} weights have no few-bit format")
                layer.inputs[link] = Quantized.of(projection, fmt, keep_master or fmt.levels != "binary")
        self.synchronise(Ledger())

    def tie_feedback(self, link: str) -> None:
        """Let the lower layer of `link` use the weights for its first link on the signals that come down `link`, too.

        Weights that it had for them are dropped.
        """
        layer = self.layer(self.link(link).lower)
        first = next(iter(layer.inputs))
        if not isinstance(layer.inputs.get(link), Tied):
            layer.inputs[link] = Tied(first, layer.inputs[first])

    def mirror(self, link: str) -> None:
        """Let the upper layer of `link` use the lower layer's weights, transposed, on the signals that come up `link`.

        It keeps its bias. The copies are sent over a separate link, `link.weights`, without quantization.
        """
        lower, upper = (self.layer(name) for name in (self.link(link).lower, self.link(link).upper))
        dense = upper.inputs[link]
        if not isinstance(dense, Mirrored):
            upper.inputs[link] = self._mirrored(link, lower, lower.projection, dense.direction, dense.name, dense.bias)

    def mirror_feedback(self, link: str, fmt: Format | None = None) -> None:
        """Let the lower layer of `link` use the upper layer's weights, transposed, on signals that come down `link`.

        Weights that it had for them are dropped; there is no bias. The copies are sent over a separate link,
        `link.weights`, in the format `fmt`, by default without quantization.
        """
        lower, upper = (self.layer(name) for name in (self.link(link).lower, self.link(link).upper))
        if not isinstance(lower.inputs.get(link), Mirrored):
            weight = upper.inputs[link]
            lower.inputs[link] = self._mirrored(link, upper, weight, Direction.FEEDBACK, "feedback", None, fmt)

    def _mirrored(
        self,
        link: str,
        owner: Layer,
        weight: Projection,
        direction: Direction,
        name: str,
        bias: Array | None,
        fmt: Format | None = None,
    ) -> Mirrored:
        """A transposed copy of `weight`, of the layer `owner`, with a link `link.weights` for later copies."""
        label, ends = f"{link}.weights", self.link(link)
        if label not in [x.name for x in self.links]:
            number = parse(weight.number) if fmt is None else fmt
            self.links.append(Link(number, number, ends.lower, ends.upper, label))
        xp, values = backend_of(weight.values), weight.values

        def sent() -> np.ndarray:
            numbers = xp.numpy(values)
            return (numbers if fmt is None else fmt.quantize(numbers)).mT.copy()

        copy = xp.filled(tuple(values.mT.shape), values, sent)
        return Mirrored(copy, bias, direction, name, source=(owner.name, weight.name), link=label)

    def synchronise(self, ledger: Ledger, changed: Collection[tuple[str, str]] | None = None) -> None:
        """Send weights of which other layers hold copies: all, or those whose layer and name are among `changed`.

        One message, with the purpose "weights", holds the weights from one source to all neurons.
        """
        for layer in self.layers:
            for projection in layer.inputs.values():
                if isinstance(projection, Mirrored) and (changed is None or projection.source in changed):
                    self._refresh(projection, ledger)

    def _refresh(self, copy: Mirrored, ledger: Ledger) -> None:
        owner, name = copy.source
        link = self.link(copy.link)
        weights = next(x for x in self.layer(owner).inputs.values() if x.name == name).values
        direction = Direction.FORWARD if link.lower == owner else Direction.FEEDBACK
        fmt = link.format(direction)
        # as codes: a recorded step cannot stop at a NaN once arrays have changed; the activations raise the error
        sent = Signal(backend_of(weights).float_codes(weights), fmt, weights) if isinstance(fmt, Float) else weights
        copy.refresh(link.send(sent, direction, "weights", ledger))

    def start_from(self, other: "Network") -> None:
        """Copy, in place, the arrays that hidden layers of the same name have in `other`.

        The arrays of the output layer, too, if both networks have the same sizes. An array that only one of the two
        layers has, feedback weights for example, is not copied. Raises ValueError if there is no such layer, or an
        array does not fit.
        """
        there = {layer.name: layer for layer in other.layers[:-1]}
        if self.sizes == other.sizes:
            there[other.layers[-1].name] = other.layers[-1]
        common = [(layer, there[layer.name]) for layer in self.layers if layer.name in there]
        if not common:
            sizes = ["-".join(map(str, net.sizes)) for net in (other, self)]
            raise ValueError(f"a network {sizes[0]} has no hidden layer for one of {sizes[1]}")
        for layer, source in common:
            given, arrays = source.arrays(), layer.arrays()
            if layer.activation != source.activation:
                names = source.activation.name, layer.activation.name
                raise ValueError(f"{layer.name} has the activation {names[0]}, not {names[1]}")
            for name in [name for name in arrays if name in given]:
                if given[name].shape != arrays[name].shape:
                    shapes = [list(x[name].shape) for x in (given, arrays)]
                    raise ValueError(f"{name} of {layer.name} is {shapes[0]}, not {shapes[1]}")
                layer.put(name, np.asarray(given[name]).astype(arrays[name].dtype))

    @property
    def edges(self) -> list[Edge]:
        """The chain from inputs to outputs: its links, lowest first, with the layers at their ends."""
        lower: list[Layer | None] = [None, *self.layers]
        return list(map(Edge, self.links, lower, self.layers))

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
        return networks[0].each_named_array(lambda name, x: np.stack([np.asarray(each[name]) for each in arrays]))

    @property
    def like(self) -> Array:
        """An array of the network, with numbers if any has."""
        arrays = [layer.weight for layer in self.layers]
        return next((x for x in arrays if not isinstance(x, ShapeArray)), arrays[0])

    @property
    def members(self) -> int | None:
        """How many networks the ensemble holds; None if it is one network, without an axis over members."""
        members = self.layers[0].projection.members
        return members[0] if members else None

    def on(self, device: str) -> "Network":
        """A copy of the network, whose arrays are NumPy's, on `device`: see `backends.devices.DEVICES`."""
        move = mover(usable(device))
        return self.each_array(lambda x: move(np.asarray(x).copy()))

    def each_array(self, make: Callable[[Array], Array]) -> "Network":
        """The network with `make(parameter)` in place of each parameter."""
        return self.each_named_array(lambda name, x: make(x))

    def each_named_array(self, make: Callable[[str, Array], Array]) -> "Network":
        """The network with `make(name, array)` in place of each array; names are those in `tensors`."""
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
        taken = self.layers[0].projection.shape[0]
        if inputs.shape[-1] != taken:
            raise ValueError(f"the network takes {taken} inputs a sample, but was given {inputs.shape[-1]}")
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
        """Class [..., batch] with the largest logit; the first one on a tie."""
        return self.forward(inputs, ledger, stream).output.argmax(-1)

    def tensors(self) -> dict[str, Array]:
        """Every array, as `layer.name`."""
        return {f"{layer.name}.{name}": x for layer in self.layers for name, x in layer.arrays().items()}

    def describe(self) -> dict[str, Any]:
        """Everything but the arrays, as plain JSON."""
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
        """The network that `tensors` and `describe` gave. KeyError if a part is missing."""
        links = [
            Link(x["forward"], x["feedback"], x["lower"], x["upper"], x.get("label", "")) for x in description["links"]
        ]
        layers = []
        for i, row in enumerate(description["layers"]):
            start = f"{row['name']}."
            arrays = {name.removeprefix(start): x for name, x in tensors.items() if name.startswith(start)}
            rows = row["inputs"] if "inputs" in row else _inputs_of_version_1(arrays, links[i:])
            inputs: dict[str, Projection] = {}
            for link, projection in rows.items():
                inputs[link] = projection_of(projection, arrays, inputs)
            decoder = row.get("decoder_activation")
            layers.append(
                Layer(
                    row["name"],
                    inputs,
                    choose("activation", row["activation"], ACTIVATIONS),
                    choose("activation", decoder, ACTIVATIONS) if decoder else None,
                    {name: arrays[name] for name in row.get("buffers", ())},
                )
            )
        return cls(layers, links)

    def save(self, path: Path, **notes: Any) -> None:
        """Write the network as one safetensors file whose header describes it, and has `notes`."""
        write_tensors(path, self.tensors(), self.describe() | notes)

    @classmethod
    def load(cls, path: Path) -> "Network":
        """The network that `save` wrote. Raises `StorageError` naming `path` if it is not such a file."""
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


def _by_array(formats: Mapping[str, Any]) -> dict[str, WeightFormat | None]:
    """What `quantize_weights` takes, by `LAYER.ARRAY`. ValueError, naming the key, if one is no format."""
    flat: dict[str, Any] = {}
    for key, value in formats.items():
        arrays = value if isinstance(value, Mapping) else {"": value}
        for array, text in arrays.items():
            name = f"{key}.{array}" if array else key if "." in key else f"{key}.weight"
            if name in flat:
                raise ValueError(f"weights {_short(name)!r}: given twice")
            flat[name] = text
    given = {}
    for name, text in flat.items():
        try:
            given[name] = parse_weights(text)
        except ValueError as error:
            raise ValueError(f"weights {_short(name)!r}: {error}") from None
    return given


def _short(name: str) -> str:
    """`LAYER.ARRAY` as a user writes it."""
    return name.removesuffix(".weight")


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
    """`output-h1`, ...: the links between layers that are not neighbours, which some rules add to a network.

    >>> long_link_names([784, 500, 500, 500, 10])
    ['h3-h1', 'output-h1', 'output-h2']
    """
    names = layer_names(sizes)[1:]
    return [f"{upper}-{lower}" for i, lower in enumerate(names) for upper in names[i + 2 :]]


def _add_feedback(edge: Edge, seed: int, initial_weights: str) -> None:
    """Give the lower layer of `edge` weights for the signals that come down, if it has none."""
    layer, above, link = edge.lower, edge.upper, edge.link.name
    if layer is None or link in layer.inputs:
        return
    like = layer.projection.values
    layer.inputs[link] = dense(
        layer.name, above.neurons, layer.neurons, seed, "feedback", Direction.FEEDBACK, like, initial_weights
    )


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
    like: Array,
    initial_weights: str = "orthogonal",
    bias: bool = True,
) -> Dense:
    """Weights `name` of `layer`, drawn from `seed`, with a bias of zeros; arrays of the kind and type of `like`."""
    draw, xp = choose("initial weights", initial_weights, INITIALIZERS), backend_of(like)
    weight = xp.filled((sources, neurons), like, lambda: draw(sources, neurons, seed, f"{layer}.{name}"))
    return Dense(weight, xp.zeros((neurons,), like) if bias else None, direction, name)


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


def zeros(rows: int, columns: int, seed: int, purpose: str) -> np.ndarray:
    """Zeros [rows, columns], float64: for rules of a single layer."""
    return np.zeros((rows, columns))


def signs(rows: int, columns: int, seed: int, purpose: str) -> np.ndarray:
    """Random [rows, columns], float64, +-s, with s the power of two nearest the size of a weight in `orthogonal`."""
    size = 2.0 ** -np.rint(np.log2(max(rows, columns)) / 2)
    return size * (2.0 * generator(seed, purpose).integers(0, 2, (rows, columns)) - 1)


INITIALIZERS: dict[str, Callable[[int, int, int, str], np.ndarray]] = {
    "orthogonal": orthogonal,
    "uniform": uniform,
    "zeros": zeros,
    "signs": signs,
}
"""Ways to draw the first weights [sources, neurons] from a seed, for a purpose."""
