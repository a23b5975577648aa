"""Graphs of spiking neurons: run by simulators that others wrote, changed, damaged, refused."""

import io
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import export
from export import FixedNetwork, write
from export.nir import FILES, NEURONS, spiking
from export.nir import verify as verify_nir
from lowbit_dtp.commands.export import cores_of
from lowbit_dtp.storage import StorageError

nir = pytest.importorskip("nir")

PIXELS = np.random.default_rng(3).random((30, 6)).astype(np.float32)
LINKS = {
    "binary": ("ufixed(8,0)", "binary", "binary"),
    "binary01": ("binary01", "binary01", "binary01"),
    "mixed": ("fixed(5,1)", "ternary", "fixed(3,1)"),
    "uneven": ("table(-1,0,0.5)", "table(-1,0,0.5)", "binary01"),
}
"""Formats of the links of networks that are run."""
SIMULATORS = ["norse", "snntorch", "spikingjelly"]
RUN_BY = [
    (simulator, name) for simulator in SIMULATORS for name in FILES if (simulator, FILES[name]) != ("snntorch", "IF")
]
"""snnTorch maps IF neurons to others, which it cannot chain."""


def _run(simulator, graph, inputs, neurons):
    """What `simulator` makes of a graph for `inputs`, in one step, with its default time step if it has one."""
    torch = pytest.importorskip("torch")
    if simulator == "norse":
        model = pytest.importorskip("norse.torch").from_nir(graph, ignore_warnings=True)
    elif simulator == "snntorch":
        model = pytest.importorskip("snntorch.import_nir").import_from_nir(graph)
    else:
        load = pytest.importorskip("spikingjelly.activation_based.nir_exchange.from_nir").import_from_nir
        model = load(graph, **({"dt": 1.0} if neurons == "IF" else {}))
    with torch.no_grad():
        out, _ = model(torch.tensor(inputs, dtype=torch.float32))
    return out.numpy()


def _up_to(graph, last):
    """The graph with the output of the node `last` as its own."""
    nodes = {"input": graph.nodes["input"]}
    edges = dict(graph.edges)
    while last not in nodes:
        nodes[edges[list(nodes)[-1]]] = graph.nodes[edges[list(nodes)[-1]]]
    nodes["output"] = nir.Output({"output": np.array(graph.nodes[last].output_type["output"])})
    return nir.NIRGraph(nodes, list(pairwise(nodes)))


@pytest.fixture
def written(make_network, tmp_path):
    """A network and the folder of its export."""

    def make(links="mixed", sizes=(6, 5, 4, 3), **arguments):
        links = LINKS.get(links, links)
        network = FixedNetwork.of(*make_network(links=links, sizes=sizes, **arguments))
        write(network, "nir", tmp_path / "nir", PIXELS[:, : sizes[0]])
        return network, tmp_path / "nir"

    return make


def _inputs(network):
    """Steps above the lowest level, and the trace, of what the network gets for PIXELS."""
    trace = network.infer(PIXELS)
    link = network.links[0]
    levels = link.levels.by_code[trace.codes[link.name]]
    values = np.array(link.levels.values)
    return (levels - values[0]) // np.gcd.reduce(np.diff(values)), trace


@pytest.mark.parametrize("links", LINKS)
@pytest.mark.parametrize(("simulator", "name"), RUN_BY)
def test_simulators_send_the_same_codes_and_find_the_same_logits(written, simulator, name, links):
    network, folder = written(links)
    graph = nir.read(folder / name)
    inputs, trace = _inputs(network)
    logits = _run(simulator, graph, inputs, FILES[name])
    assert logits.tolist() == trace.logits.tolist()
    for layer in network.hidden:
        spikes = _run(simulator, _up_to(graph, f"neurons_{layer.name}"), inputs, FILES[name])
        counted = spikes.reshape(len(inputs), layer.neurons, -1).sum(-1).astype(int)
        assert layer.above.levels.codes[counted].tolist() == trace.codes[layer.above.name].tolist()


def test_the_page_about_exports_runs_a_graph(make_network, tmp_path, monkeypatch, capsys):
    pytest.importorskip("norse.torch")
    page = (Path(export.__file__).parents[1] / "docs/export.md").read_text()
    (code,) = (x for x in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "import nir" in x)
    network = FixedNetwork.of(*make_network(links=("ufixed(8,0)", "binary"), activations=("tanh",), sizes=(784, 9, 4)))
    write(network, "nir", tmp_path / "out-nir", np.zeros((1, 784)))
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code, names)
    classes = network.infer(names["pixels"].numpy()).classes
    assert capsys.readouterr().out.splitlines()[-1] == str(classes)


def test_graph_of_a_hand_computed_network(make_network):
    """784 - 2 - 1 in small: pixels 0 to 3, weights in quarters, a {-1, +1} link that becomes one of spikes."""
    tensors, description = make_network(links=("ufixed(2,0)", "binary"), activations=("tanh",), sizes=(2, 2, 2))
    tensors |= {
        "h1.weight": np.array([[0.5, -0.25], [0.25, 1.0]], np.float32),
        "h1.bias": np.array([-0.5, 0.25], np.float32),
        "output.weight": np.array([[0.5, 0.25], [0.25, -0.5]], np.float32),
        "output.bias": np.array([0.0, 0.1], np.float32),
    }
    h1, output = spiking(FixedNetwork.of(tensors, description, "fixed(4,2)"))
    assert h1.weight.tolist() == [[2, 1], [-1, 4]]
    assert h1.bias.tolist() == [1 - 8, 1 + 3]  # thresholds 8 and -3
    assert output.weight.tolist() == [[2 * 16 * 2, 2 * 16 * 1], [2 * 16 * 1, 2 * 16 * -2]]  # a spike is -1 to +1
    assert output.bias.tolist() == [-16 * (2 + 1), -16 * (1 - 2) + 6]


@pytest.mark.parametrize("name", FILES)
def test_changed_weights_and_biases_are_located(written, name):
    network, folder = written()
    graph = nir.read(folder / name)
    random = np.random.default_rng(0)
    for layer in network.layers:
        thresholds = 1 if layer is network.output else layer.thresholds.shape[1]
        affine = graph.nodes[f"weights_{layer.name}"]
        weight, bias = ((array, tuple(random.integers(array.shape))) for array in (affine.weight, affine.bias))
        right = weight[0][weight[1]]
        for (array, index), changed in ((weight, right + 1), (weight, np.nextafter(right, np.float32(999))), (bias, 7)):
            before = array[index]
            array[index] = changed
            nir.write(folder / name, graph)
            place = f"link {layer.output_name}, neuron {index[0] // thresholds}"
            assert verify_nir(folder).status == f"failed at {place}"
            array[index] = before
    nir.write(folder / name, graph)
    assert verify_nir(folder).passed


@pytest.mark.parametrize("name", FILES)
def test_every_changed_parameter_of_a_neuron_is_located(written, name):
    network, folder = written()
    graph = nir.read(folder / name)
    for layer in network.hidden:
        node = graph.nodes[f"neurons_{layer.name}"]
        for key, value in NEURONS[FILES[name]].items():
            array = getattr(node, key)
            neuron = len(array) - 1
            array[neuron] = np.nextafter(array[neuron], np.float32(20))
            nir.write(folder / name, graph)
            result = verify_nir(folder)
            assert result.status == f"failed at link {layer.above.name}, neuron {layer.neurons - 1}"
            assert result.detail == f"{key} of {name} is {array[neuron]}, not {value}"
            array[neuron] = value


def test_what_is_no_such_graph_is_named(written):
    _, folder = written("binary")
    path = folder / "network-if.nir"
    graph = nir.read(path)
    right = path.read_bytes()

    def problem():
        with pytest.raises(StorageError) as error:
            verify_nir(folder)
        return str(error.value)

    path.write_bytes(right[:100])
    assert problem().startswith(f"{path}: cannot be read as a graph of NIR: ")
    path.write_bytes((folder / "network.nir").read_bytes())
    chain = "input, weights_h1, neurons_h1, weights_h2, neurons_h2, weights_output, output"
    assert problem() == f"{path}: the nodes must be {chain}, one after the other, the neurons IF"
    nir.write(path, _up_to(graph, "neurons_h1"))
    assert problem() == f"{path}: the nodes must be {chain}, one after the other, the neurons IF"
    affine = graph.nodes["weights_h1"]
    graph.nodes["weights_h1"] = nir.Affine(affine.weight[:, :5], affine.bias)
    graph.nodes["input"] = nir.Input({"input": np.array([5])})
    nir.write(path, graph)
    assert problem() == f"{path}: the weights of h1 must be 5 x 6"
    path.unlink()
    assert problem() == f"{path}: no such file"


@pytest.mark.parametrize(
    ("links", "weights", "message"),
    [
        (
            ("ufixed(8,0)", "fixed(5,1)"),
            "fixed(8,1)",
            "link h1-output: fixed(5,1) has 31 thresholds, each of which would be a spiking neuron; target nir takes "
            "at most 15, those of 4 bits",
        ),
        (
            ("ufixed(16,0)", "binary"),
            "fixed(8,1)",
            "layer h1: sums up to {} are not exact in float32, in which simulators of NIR compute; use fewer bits for "
            "its weights or for link input-h1",
        ),
    ],
)
def test_what_spikes_cannot_carry_is_refused(make_network, links, weights, message):
    network = FixedNetwork.of(*make_network(links=links, activations=("tanh",), sizes=(6, 4, 2)), weights)
    layer = network.hidden[0]
    largest = (np.abs(layer.weight).sum(0) * 65535 + np.abs(1 - layer.thresholds[:, 0])).max()
    with pytest.raises(ValueError) as error:
        spiking(network)
    assert str(error.value) == message.format(largest)


def test_cores_of_a_machine(make_network, tmp_path):
    """On Loihi, 9-bit weights of 128 kB a core: 97 neurons of 1200 inputs; of the rest, 1024 neurons."""
    network = FixedNetwork.of(*make_network(links=("binary01", "ternary"), activations=("tanh",), sizes=(1200, 200, 3)))
    write(network, "nir", tmp_path / "nir", np.zeros((1, 1200)))
    assert cores_of("loihi", tmp_path / "nir") == (
        "loihi: 6 of 128 cores (h1 5, for 400 neurons and 480,000 synapses; output 1, for 3 neurons and 1,200 synapses)"
    )
    with pytest.raises(ValueError) as error:
        cores_of("truenorth", tmp_path / "nir")
    assert str(error.value) == (
        "machine 'truenorth': layer h1 does not fit: a neuron needs 1200 inputs, a core has 256"
    )


def test_weights_wider_than_those_of_a_machine_are_named(make_network, tmp_path):
    links = ("binary01", "binary")
    network = FixedNetwork.of(*make_network(links=links, activations=("tanh",), sizes=(9, 5, 3)), "fixed(12,1)")
    write(network, "nir", tmp_path / "nir", np.zeros((1, 9)))
    with pytest.raises(ValueError) as error:
        cores_of("loihi", tmp_path / "nir")
    assert str(error.value) == (
        "machine 'loihi': weights of layer h1 take 12 bits, and the machine's have 9; export with fewer: --weights "
        "'fixed(4,1)'"
    )


def test_without_the_package_it_says_what_to_install(make_network, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "nir", None)
    with pytest.raises(ImportError) as error:
        write(FixedNetwork.of(*make_network(links=LINKS["binary"])), "nir", tmp_path / "nir", PIXELS[:, :5])
    assert str(error.value) == "target nir needs the package nir: pip install 'lowbit-dtp[nir]'"
    assert not (tmp_path / "nir").exists()


def test_files_can_be_read_from_memory(make_network):
    """As a program that gets them over a network does."""
    from export.nir import files

    network = FixedNetwork.of(*make_network(links=LINKS["binary"]))
    for name, content in files(network).items():
        kinds = [type(node).__name__ for node in nir.read(io.BytesIO(content)).nodes.values()]
        assert kinds.count(FILES[name]) == 2
