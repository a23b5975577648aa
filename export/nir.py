"""Target `nir`: the integer network as graphs of integrate-and-fire neurons, which run in one time step.

A graph is a chain: its input, then weights (`Affine`) and neurons for each hidden layer, then the weights of the output
layer, whose results are the logits. A neuron spikes when its sum reaches a threshold, so a hidden neuron takes as many
spiking neurons as its link has thresholds: one for a link of one bit. All numbers in the graph are whole, but for the
membrane threshold of 1/2, and small enough to be exact in float32 in any order of additions.

`network.nir` has leaky neurons (`LIF`) that forget nothing within their one step; norse, snnTorch and spikingjelly run
it with their default time steps. `network-if.nir` is the same graph with neurons without a leak (`IF`), for a time
step of 1.
"""

from collections.abc import Mapping, Sequence
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lowbit_dtp.storage import StorageError

from .checksums import Damage
from .fixed import LOGIT_FRACTION_BITS, FixedLayer, FixedNetwork, HiddenLayer, Integers, OutputLayer
from .places import Place
from .verify import Differs, GoldenFiles, Verification, first_largest

Floats = npt.NDArray[np.floating[Any]]

FILES = {"network.nir": "LIF", "network-if.nir": "IF"}
"""Kind of the neurons in each file."""

MOST_THRESHOLDS = 15
"""Most thresholds of a neuron, each of which is a spiking neuron with all its weights."""

EXACT_BITS = 24
"""Whole numbers up to 2^24 are exact in float32, in which simulators compute."""

NEURONS: Mapping[str, Mapping[str, float]] = {
    "IF": {"r": 1.0, "v_threshold": 0.5, "v_reset": 0.0},
    "LIF": {"tau": 1e-3, "r": 10.0, "v_leak": 0.0, "v_threshold": 0.5, "v_reset": 0.0},
}
"""Parameters of all neurons: in one step, the potential goes from 0 to the input current."""

LIF_STEP = 1e-4
"""Seconds of a step of the leaky neurons; of the others, 1."""


class Spiking(NamedTuple):
    """The spiking neurons of a layer, or the logits of the last."""

    layer: FixedLayer
    weight: Integers
    """[neurons, inputs]"""
    bias: Integers
    """[neurons]"""

    @property
    def weight_bits(self) -> int:
        """Width of two's complement that holds every weight, in the largest unit that divides all."""
        unit = max(1, int(np.gcd.reduce(self.weight.ravel())))
        return int(np.abs(self.weight).max() // unit).bit_length() + 1


def files(network: FixedNetwork) -> dict[str, bytes]:
    """A graph with each kind of neurons, by file name.

    ValueError, naming the link or layer, if a link has too many thresholds or sums would not be exact; ImportError
    without the package `nir`.
    """
    nir = _nir()
    tables = spiking(network)
    contents = {}
    for name, kind in FILES.items():
        nodes = {"input": nir.Input({"input": np.array([network.links[0].neurons])})}
        for layer, weight, bias in tables:
            nodes[f"weights_{layer.name}"] = nir.Affine(weight.astype(np.float32), bias.astype(np.float32))
            if layer is not network.output:
                parameters = {key: np.full(len(bias), x, np.float32) for key, x in NEURONS[kind].items()}
                nodes[f"neurons_{layer.name}"] = getattr(nir, kind)(**parameters)
        nodes["output"] = nir.Output({"output": np.array([network.output.neurons])})
        stream = BytesIO()
        # uncompressed, so that a damaged number stays one number
        nir.write(stream, nir.NIRGraph(nodes, list(pairwise(nodes))), compression=None)
        contents[name] = stream.getvalue()
    return contents


def details(network: FixedNetwork) -> dict[str, Any]:
    """For the manifest: what each layer needs of the cores of a neuromorphic machine."""
    rows = [
        {
            "name": spikes.layer.name,
            "neurons": spikes.weight.shape[0],
            "inputs": spikes.weight.shape[1],
            "synapses": spikes.weight.size,
            "weight_bits": spikes.weight_bits,
        }
        for spikes in spiking(network)
    ]
    return {"spiking": rows}


def spiking(network: FixedNetwork) -> list[Spiking]:
    """The layers of `network` in spiking neurons, the lowest first.

    A level of a link is the lowest one, which goes into biases, plus what each of its spikes adds. Nothing spikes
    below the lowest layer: its inputs are numbers of equal steps above the lowest level. ValueError as in `files`.
    """
    tables = []
    for layer in network.layers:
        levels = np.array(layer.below.levels.values)
        jumps, most = np.diff(levels), 1
        if layer is network.layers[0]:
            jumps, most = np.gcd.reduce(jumps, keepdims=True), int(jumps.sum() // np.gcd.reduce(jumps))
        elif len(jumps) > MOST_THRESHOLDS:
            raise ValueError(
                f"link {layer.below.name}: {layer.below.levels.format.name} has {len(jumps)} thresholds, each of which "
                f"would be a spiking neuron; target nir takes at most {MOST_THRESHOLDS}, those of 4 bits"
            )
        weight = (layer.weight.T[..., None] * jumps).reshape(layer.neurons, -1)
        bias = layer.weight.sum(0) * levels[0]
        if isinstance(layer, HiddenLayer):
            weight = weight.repeat(layer.thresholds.shape[1], axis=0)
            bias = (bias[:, None] + 1 - layer.thresholds).ravel()  # the sum reaches a threshold: 1 or more, above 1/2
        elif isinstance(layer, OutputLayer):
            weight, bias = weight << LOGIT_FRACTION_BITS, (bias << LOGIT_FRACTION_BITS) + layer.bias
        largest = int((np.abs(weight).sum(1) * most + np.abs(bias)).max())
        if largest > 1 << EXACT_BITS:
            raise ValueError(
                f"layer {layer.name}: sums up to {largest} are not exact in float32, in which simulators of NIR "
                f"compute; use fewer bits for its weights or for link {layer.below.name}"
            )
        tables.append(Spiking(layer, weight, bias))
    return tables


def place(manifest: Mapping[str, Any], damage: Damage) -> Place | str | None:
    """The neuron whose number a byte of a graph is of; else the name of its data set, or None."""
    if damage.path not in FILES or damage.found < 0:
        return None
    try:
        import h5py
    except ImportError:
        return None
    with h5py.File(BytesIO(damage.content)) as file:
        found: list[Any] = []
        file.visititems(lambda name, item: found.append(item) if isinstance(item, h5py.Dataset) else None)
        for data in found:
            start = data.id.get_offset()
            if start is None or not start <= damage.offset < start + data.id.get_storage_size():
                continue
            node = data.name.split("/")[-2]
            layers = (x for x in manifest["layers"] if node in (f"weights_{x['name']}", f"neurons_{x['name']}"))
            layer = next(layers, None)
            if layer is None or data.dtype != np.float32 or not data.shape:
                return f"data set {data.name}"
            row = (damage.offset - start) // data.dtype.itemsize // (data.size // len(data))
            return layer["output_name"], row // (len(data) // layer["neurons"])
    return None


def verify(folder: Path) -> Verification:
    """Read the graphs in `folder`, run them on the golden vectors by the equations of NIR, and compare.

    Input currents of neurons are compared, not only spikes, so that a change of any weight is found. Raises
    StorageError for a file that is no such graph, ImportError without the package `nir`.
    """
    checks = [_Check(Path(folder), name, kind) for name, kind in FILES.items()]
    for check in checks:
        check.known = checks[0].known
    results = [check.run() for check in checks]
    return next((result for result in results if not result.passed), results[0])


def _nir() -> Any:
    try:
        import nir
    except ImportError:
        raise ImportError("target nir needs the package nir: pip install 'lowbit-dtp[nir]'") from None
    return nir


class _Check(GoldenFiles):
    """One of the graphs, beside the golden vectors."""

    def __init__(self, folder: Path, name: str, kind: str) -> None:
        super().__init__(folder)
        self.name, self.kind = name, kind
        self.nodes = self._read()

    def run(self) -> Verification:
        try:
            self._check_parameters()
            for index, layer in enumerate(self.layers):
                self._check_layers(f"layers/{layer['name']}", [index])
                self._check_comparators(index)
            self._check_layers("network", range(len(self.layers)))
        except Differs as differs:
            return differs.failure
        return self.passed()

    def _read(self) -> dict[str, Any]:
        """The nodes of the graph; StorageError if the file is not the chain of layers that the manifest describes."""
        path, nir = self.folder / self.name, _nir()
        if not path.is_file():
            raise StorageError(f"{path}: no such file")
        try:
            graph = nir.read(path)
        except Exception as error:  # h5py and nir raise errors of many kinds for a damaged file
            raise StorageError(f"{path}: cannot be read as a graph of NIR: {error}") from None
        names = [layer["name"] for layer in self.layers]
        chain = [f"{kind}_{name}" for name in names for kind in ("weights", "neurons")][:-1]
        kinds = ["Input", *(("Affine", self.kind) * len(names))[:-1], "Output"]
        wanted = dict(zip(("input", *chain, "output"), kinds, strict=True))
        given = {name: type(node).__name__ for name, node in graph.nodes.items()}
        if given != wanted or sorted(graph.edges) != sorted(pairwise(wanted)):
            raise StorageError(
                f"{path}: the nodes must be {', '.join(wanted)}, one after the other, the neurons {self.kind}"
            )
        below = self.links[0]["neurons"]
        for index, layer in enumerate(self.layers):
            affine = graph.nodes[f"weights_{layer['name']}"]
            neurons = layer["neurons"] * layer.get("thresholds_per_neuron", 1)
            if affine.weight.shape != (neurons, below) or affine.bias.shape != (neurons,):
                raise StorageError(f"{path}: the weights of {layer['name']} must be {neurons} x {below}")
            below = neurons
            if index < len(names) - 1:
                shapes = {np.shape(getattr(graph.nodes[f"neurons_{layer['name']}"], key)) for key in NEURONS[self.kind]}
                if shapes != {(neurons,)}:
                    raise StorageError(f"{path}: there must be {neurons} neurons of {layer['name']}")
        return dict(graph.nodes)

    def _check_parameters(self) -> None:
        for layer in self.layers[:-1]:
            for key, value in NEURONS[self.kind].items():
                given = getattr(self.nodes[f"neurons_{layer['name']}"], key)
                for neuron in np.flatnonzero(given != np.float32(value)):
                    detail = f"{key} of {self.name} is {given[neuron]}, not {value}"
                    place = layer["output_name"]
                    raise Differs(place, int(neuron) // layer["thresholds_per_neuron"], detail)

    def _ranks(self, index: int, codes: Integers, path: str) -> Integers:
        """Numbers of the levels of `codes`, from the lowest on."""
        link = self.links[index]
        return np.searchsorted(self._values(index), self.levels(link, codes, link["name"], path))

    def _values(self, index: int) -> Integers:
        """The levels of a link, ascending."""
        link = self.links[index]
        levels = link["levels"] if link["codes"] == "index" else range(link["lowest_level"], link["highest_level"] + 1)
        return np.array(levels, np.int64)

    def _inputs(self, index: int, ranks: Integers) -> Integers:
        """What the weights of a layer get for `ranks` [batch, below]: steps for the lowest, else spikes."""
        values = self._values(index)
        if index == 0:
            return (values[ranks] - values[0]) // np.gcd.reduce(np.diff(values))
        return (ranks[..., None] > np.arange(len(values) - 1)).reshape(len(ranks), -1).astype(np.int64)

    def _currents(self, index: int, inputs: Integers) -> Floats:
        """Input currents [batch, neurons, thresholds] of a layer's neurons; logits [batch, classes, 1] of the last."""
        layer = self.layers[index]
        affine = self.nodes[f"weights_{layer['name']}"]
        with np.errstate(invalid="ignore", over="ignore"):  # of a damaged weight
            currents = inputs @ affine.weight.astype(np.float64).T + affine.bias.astype(np.float64)
        return currents.reshape(len(inputs), layer["neurons"], -1)

    def _codes(self, index: int, currents: Floats) -> Integers:
        """Codes of a layer: the spikes of each neuron's spiking neurons after one step, counted."""
        p = NEURONS[self.kind]
        rise = p["r"] * (LIF_STEP / p["tau"] if self.kind == "LIF" else 1)  # tau dv/dt = v_leak - v + r i; dv/dt = r i
        ranks = (rise * currents > p["v_threshold"]).sum(-1)
        link = self.links[index + 1]
        return ranks if link["codes"] == "index" else (ranks + link["lowest_level"]) % (1 << link["bits"])

    def _check_layers(self, folder: str, indices: Sequence[int]) -> None:
        """Layers one after the other, fed with the golden codes below the first."""
        link = self.links[indices[0]]
        path = f"{folder}/{link['name']}.codes.mem"
        codes = self.golden(path)
        self.vectors += len(codes)
        for index in indices:
            place = self.layers[index]["output_name"]
            currents = self._currents(index, self._inputs(index, self._ranks(index, codes, path)))
            sums = (currents + self._offsets(index)) / self._sum_unit(index)
            differs = sums != self.golden(f"{folder}/{place}.sums.mem", signed=True)[..., None]
            shown = np.take_along_axis(sums, differs.argmax(-1)[..., None], axis=-1)[..., 0]
            self.compare(f"{folder}/{place}.sums.mem", place, shown, signed=True)
            if index < len(self.layers) - 1:
                codes = self._codes(index, currents)
                self.compare(f"{folder}/{place}.codes.mem", place, codes, signed=False)
            else:
                logits = currents[..., 0]
                self.compare(f"{folder}/{place}.logits.mem", place, logits, signed=True)
                self.compare(f"{folder}/{place}.classes.mem", place, first_largest(logits), signed=False)

    def _check_comparators(self, index: int) -> None:
        folder, place = f"comparators/{self.layers[index]['name']}", self.layers[index]["output_name"]
        if index < len(self.layers) - 1:
            sums = self.golden(f"{folder}/{place}.sums.mem", signed=True)
            codes = self._codes(index, sums[..., None] - self._offsets(index))
            self.compare(f"{folder}/{place}.codes.mem", place, codes, signed=False)
        else:
            sums = self.golden(f"{folder}/{place}.logits.mem", signed=True)
            self.compare(f"{folder}/{place}.classes.mem", place, first_largest(sums), signed=False)
        self.vectors += len(sums)

    def _sum_unit(self, index: int) -> int:
        """What a sum of 1 is in currents, or in logits."""
        return 1 if index < len(self.layers) - 1 else 1 << LOGIT_FRACTION_BITS

    def _offsets(self, index: int) -> Floats:
        """Sums minus currents [neurons, thresholds]: a threshold less 1, or minus a bias of the output.

        Of the first golden vector of a layer. Its inputs are the lowest, which are no spikes, so currents are biases.
        """
        layer = self.layers[index]
        sums = self.golden(f"layers/{layer['name']}/{layer['output_name']}.sums.mem", signed=True)[0]
        bias = self.nodes[f"weights_{layer['name']}"].bias.astype(np.float64)
        return sums[:, None] * self._sum_unit(index) - bias.reshape(layer["neurons"], -1)
