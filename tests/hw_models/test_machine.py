"""Machines: published examples, places of layers, event-driven counts, and files that are wrong."""

import random
import re
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_models import HardwareConfig, Machine, Technology, Wire, price, price_on, time_on
from hw_models.hardware import Core
from hw_models.layout import LayerSize, Mesh, distance, ends, sizes_of
from hw_models.machine_files import read_layers
from hw_models.synapses import by_events, neuron_updates, synaptic_operations
from lowbit_dtp.ledger import Access, Direction, Ledger, MessageType, Work
from lowbit_dtp.links import Link
from lowbit_dtp.network import Network
from lowbit_dtp.storage import StorageError
from tests.conformance.cases import WHOLE_MACHINES

PJ = 1e-12
MAC = "multiply-accumulate"
UP, DOWN = Direction.FORWARD, Direction.FEEDBACK
BITS = HardwareConfig(rest=Wire("interposer"))
"""Wires that cost by the bit, so that messages need no toggles."""


def near(joules):
    return pytest.approx(joules, rel=1e-9)


def spikes(ones=1, below=10, neurons=100, messages=1, fmt="binary01", weight="fixed(8,1)", link="h1-h2"):
    """Messages of `ones` spikes together, from `below` neurons to each of `neurons`."""
    ledger = Ledger(samples=messages)
    layer = link.partition("-")[2]
    bits = {"float32": 32, "ternary": 2}.get(fmt, 1)
    ledger.crossed(MessageType(link, UP, "activations", fmt, bits, below), messages, ones, 0)
    ledger.worked(Work(layer, "activations", MAC, fmt, weight), messages * below * neurons)
    return ledger


def inference(*links, sizes=(12, 10, 8, 4), samples=5, seed=0):
    """The ledger of a forward pass, and how many inputs of each layer were not zero."""
    net, ledger = Network.build(sizes, links, seed), Ledger(samples=samples)
    run = net.forward(np.random.default_rng(seed).normal(size=(samples, sizes[0])).astype(np.float32), ledger)
    return ledger, {
        layer.name: int((signal.values != 0).sum())
        for layer, signal in zip(net.layers, run.received.values(), strict=True)
    }


# --- published examples


def test_a_spike_on_loihi():
    """Davies et al. 2018, Table 2: 1.7 pJ, 3.0 or 4.0 pJ a hop, 23.6 pJ a synapse, 81 pJ a neuron."""
    fan_out, hops = 100, 3
    bill = price_on(spikes(neurons=fan_out), Machine.load("loihi"), HardwareConfig.parse(f"h1-h2=loihi:{hops}hops"))
    assert {key: joules.typical for key, joules in bill.by("operation").items()} == {
        "send": near((1.7 + 3.5 * hops) * PJ),
        "synaptic operation": near(23.6 * fan_out * PJ),
        "neuron update": near(81 * fan_out * PJ),
    }
    hop = next(c for c in bill.constants if c.name == "spike hop")
    assert (hop.low, hop.high) == (3e-12, 4e-12), "east-west and north-south"
    assert bill.technology == "loihi" and bill.notes[0] == (
        "loihi: synaptic operation: reading the synapse and adding it; the least, by the source"
    )


def test_learning_on_loihi():
    """Davies et al. 2018, Table 2: 120 pJ a synaptic update; one for each active input and neuron."""
    ledger = spikes(ones=7)
    ledger.worked(Work("h2", "gradient", MAC, "binary01", "float32"), 10 * 100)
    ledger.worked(Work("h2", "update", "add", "float32"), 1000)
    ledger.accessed(Access("h2", "weight gradient", "read", "float32", 32, 32_000, "gradient"), 1000)
    bill = price_on(ledger, Machine.load("loihi"))
    assert bill.by("operation")["learning update"].typical == near(7 * 100 * 120 * PJ)
    assert "memory" not in bill.by("part"), "learning updates include the optimizer and its memory"


@pytest.mark.parametrize(
    ("name", "synaptic", "neuron", "sparse"),
    [
        ("cpu", 8.6e-9, 8.6e-9, False),
        ("gpu", 0.3e-9, 0.3e-9, False),
        ("arm", 0.9e-9, 0.9e-9, False),
        ("loihi", 23.6e-12, 81e-12, True),
        ("spinnaker", 13.3e-9, 26e-9, True),
        ("spinnaker2", 450e-12, 2.19e-9, True),
    ],
)
def test_devices_of_keras_spiking(name, synaptic, neuron, sparse):
    """KerasSpiking, model_energy.py: all synapses of a clocked device, those of spikes of an event-driven one."""
    bill = price_on(spikes(ones=4), Machine.load(name))
    assert bill.by("operation")["synaptic operation"].typical == near((4 if sparse else 10) * 100 * synaptic)
    assert bill.by("operation")["neuron update"].typical == near(100 * neuron)


def test_truenorth_by_slope_and_by_average():
    """Merolla et al. 2014: 26 pJ a synaptic event of the whole chip; Akopyan et al. 2015: 2.3 pJ for one more."""
    ledger = spikes(ones=20, neurons=128)
    for name, joules in (("truenorth", 2.297 * PJ), ("truenorth-average", 26 * PJ)):
        bill = price_on(ledger, Machine.load(name))
        assert bill.total.typical == near(20 * 128 * joules)
        assert set(bill.by("part")) == {"link", "compute"} and bill.by("part")["link"].typical == 0
    assert Machine.load("truenorth-average").static(HardwareConfig()) == []


@pytest.mark.parametrize(
    ("left", "right", "femtojoules"),
    [("binary", "binary", 70), ("ternary", "binary", 134), ("binary", "fixed(8,1)", 810)],
)
def test_braintta_by_bits(left, right, femtojoules):
    """Molendijk et al. 2022: 35, 67 and 405 fJ an operation, two to a multiply-accumulate."""
    bill = price_on(spikes(fmt=left, weight=right), Machine.load("braintta"))
    assert bill.total.typical == near(10 * 100 * femtojoules * 1e-15)


def test_finn_takes_25_watts_for_its_images():
    """Umuroglu et al. 2017: 25 W at 12.3 million images a second of 784-256-256-256-10."""
    sizes, ledger = (784, 256, 256, 256, 10), Ledger(samples=1)
    names = ("input", "h1", "h2", "h3", "output")
    for i, width in enumerate(sizes[:-1]):
        ledger += spikes(
            below=width, neurons=sizes[i + 1], fmt="binary", weight="binary", link="-".join(names[i : i + 2])
        )
    assert sum(ledger.work.values()) == 334_336
    assert price_on(ledger, Machine.load("finn")).total.typical == pytest.approx(25 / 12.3e6, rel=0.01)


# --- events


@pytest.mark.parametrize("seed", range(3))
def test_synaptic_operations_are_ones_times_fan_out(seed):
    ledger, active = inference(*[Link("binary01")] * 3, seed=seed)
    assert {w.layer: n for w, n in synaptic_operations(ledger).items()} == {
        layer: near(ones * neurons) for (layer, ones), neurons in zip(active.items(), (10, 8, 4), strict=True)
    }
    assert neuron_updates(ledger) == {
        ("h1", "activations"): 50,
        ("h2", "activations"): 40,
        ("output", "activations"): 20,
    }


def test_other_codes_are_dense_and_said_to_be():
    ledger, _ = inference(Link("ufixed(8,0)"), Link("binary"), Link("binary01"))
    bill = price_on(ledger, Machine.load("loihi"))
    by_layer = {item.where: item for item in bill.items if item.operation == "synaptic operation"}
    assert [by_layer[x].terms[0].times for x in ("h1", "h2")] == [5 * 12 * 10, 5 * 10 * 8]
    assert by_layer["output"].terms[0].times < 5 * 8 * 4
    sent = {item.where: item.terms[0].times for item in bill.items if item.part == "link"}
    assert (sent["input-h1"], sent["h1-h2"]) == (5 * 12, 5 * 10)
    assert bill.notes[2:] == (
        "loihi: only values 0 and 1 are events; every product is charged in h1 (ufixed(8,0) x float32), "
        "h2 (binary x float32)",
        "loihi: only values 0 and 1 are spikes; every code is charged as one on input-h1 (ufixed(8,0)), h1-h2 (binary)",
    )


def trained():
    """What training may send into one layer: two widths, five purposes, and a gradient of two arrays."""
    ledger = Ledger(samples=10, steps=1, batch=10)
    ones = {"activations": 37, "noisy activations": 11}
    for link, way, purpose, width, count in (
        ("input-h1", UP, "activations", 8, ones["activations"]),
        ("h1-h2", DOWN, "state", 6, 20),
        ("h1-h2", DOWN, "target", 6, 24),
        ("h1-h2", DOWN, "reconstruction", 6, 5),
    ):
        ledger.crossed(MessageType(link, way, purpose, "binary01", 1, width), 10, count, 0)
    for purpose, times in (("activations", 80), ("target", 120), ("inverse", 60), ("gradient", 80 + 60)):
        ledger.worked(Work("h1", purpose, MAC, "binary01", "float32"), times * 4)
    for array, numbers, words in (("weight", 32, 80), ("feedback", 24, 180)):
        purposes = ("activations",) if array == "weight" else ("target", "inverse")
        for purpose in purposes:
            part = words if len(purposes) == 1 else {"target": 120, "inverse": 60}[purpose]
            ledger.accessed(Access("h1", array, "read", "float32", 32, numbers * 32, purpose), part * 4)
    for width, words in ((8, 80), (6, 60)):
        ledger.accessed(Access("h1", "input", "read", "binary01", 1, width, "gradient"), words)
    ledger.accessed(Access("h1", "state", "write", "float32", 32, 4 * 32, "activations"), 40)
    return ledger


def test_messages_are_found_for_each_product_in_training():
    found = {w.purpose: n for w, n in synaptic_operations(trained()).items()}
    rest = 20 + 24 + 5  # what is not activations, shared by the two products that are left
    assert found == {
        "activations": near(37 * 4),
        "target": near(rest * 4 * 120 / 180),
        "inverse": near(rest * 4 * 60 / 180),
        "gradient": near((37 + 5) * 4),  # forward weights learn from activations, feedback weights from reconstructions
    }


def test_an_event_driven_process_adds_and_reads_a_weight_for_each_event(tmp_path):
    machine = Machine.read(written(tmp_path, PROCESS.replace("false", "true")))
    ledger = spikes(ones=7, weight="ternary")
    ledger.accessed(Access("h2", "weight", "read", "ternary", 2, 2000, "activations"), 1000)
    ledger.accessed(Access("h2", "bias", "read", "fixed(8,1)", 8, 800, "activations"), 100)
    bill = price_on(ledger, machine, BITS)
    costs = Technology.load("45nm").constants
    add, read = costs["add int32"].typical, costs["sram 8 KiB"].typical
    assert bill.by("operation")["synaptic operation"].typical == near(700 * add)
    assert bill.by("part")["memory"].typical == near((700 * 2 + 100 * 8) / 64 * read)
    wide = price_on(ledger, machine, replace(BITS, accumulator_bits=20))
    assert wide.by("part")["compute"].typical == near(700 * (costs["add int8"].typical + add) / 2)


def test_floats_are_added_as_floats_by_an_event_driven_process(tmp_path):
    machine = Machine.read(written(tmp_path, PROCESS.replace("false", "true")))
    bill = price_on(spikes(ones=7, weight="float32"), machine, BITS)
    assert bill.by("part")["compute"].typical == near(700 * 0.9 * PJ)


def test_events_leave_what_other_products_read():
    ledger = trained()
    made = by_events(ledger, {w: n for w, n in synaptic_operations(ledger).items() if w.purpose == "activations"})
    reads = {(a.array, a.purpose): words for a, words in made.accesses.items()}
    assert reads["weight", "activations"] == 37 * 4
    assert reads["feedback", "target"] == 480 and reads["input", "gradient"] == 60


def test_a_clocked_machine_on_a_process_is_the_process(tmp_path):
    ledger, _ = inference(Link("ufixed(8,0)"), Link("binary"), Link("binary01"))
    machine = Machine.read(written(tmp_path, PROCESS))
    config = machine.place(ledger)
    bill, plain = price_on(ledger, machine), price(ledger, config, Technology.load("45nm"))
    assert [(item, item.joules) for item in bill.items] == [(item, item.joules) for item in plain.items]
    assert bill.technology == "mine" and bill.notes == ()
    assert bill.config.cores["h2"] == (Core(0, 1, 0, 0),)


def test_what_a_machine_has_no_constant_for_is_done_by_its_process(tmp_path):
    text = PROCESS.replace('process = "45nm"', 'process = "45nm"\nconstants = "xnorbin"\n')
    machine = Machine.read(written(tmp_path, text))
    ledger, _ = inference(*[Link("binary")] * 3)
    bill = price_on(ledger, machine)
    alone = price(ledger, machine.place(ledger), Technology.load("45nm"))
    assert bill.by("operation")["synaptic operation"].typical == near(5 * (120 + 80 + 32) * 2.1e-14)
    for operation in ("tanh", "add", "write"):
        assert bill.by("operation")[operation] == alone.by("operation")[operation]
    assert {item.purpose for item in bill.items if item.part == "memory"} == {"input", "bias", "state"}


@pytest.mark.parametrize(
    ("name", "ledger", "message"),
    [
        ("finn", {"fmt": "ternary"}, "multiplies numbers of at most 1 bits; layer h2 multiplies ternary x fixed(8,1)"),
        (
            "braintta",
            {"weight": "float32"},
            "multiplies numbers of at most 8 bits; layer h2 multiplies binary01 x float32",
        ),
    ],
)
def test_operands_that_are_too_wide(name, ledger, message):
    with pytest.raises(ValueError) as error:
        price_on(spikes(**ledger), Machine.load(name))
    assert str(error.value) == f"machine {name!r} {message}"


def test_learning_without_a_source():
    ledger = spikes()
    ledger.worked(Work("h2", "gradient", MAC, "binary01", "float32"), 1000)
    with pytest.raises(ValueError) as error:
        price_on(ledger, Machine.load("truenorth"))
    assert str(error.value) == (
        "machine 'truenorth' has no constant 'learning update', which the gradient of layer h2 needs, and no process"
    )


def test_what_no_source_gives_is_said():
    bill = price_on(spikes(), Machine.load("spinnaker"))
    assert bill.by("part")["link"].typical == 0
    assert bill.notes[-1] == "spinnaker: not in this bill, since no source gives it: links"


# --- places


def test_layers_go_to_cores_in_a_snake():
    mesh = Mesh(3, 2, 2, 2)
    cores = [mesh.core(i) for i in range(mesh.number)]
    assert [str(core) for core in cores[:12]] == [
        "0,0", "0,0,1", "1,0", "1,0,1", "2,0", "2,0,1", "2,1", "2,1,1", "1,1", "1,1,1", "0,1", "0,1,1",
    ]  # fmt: skip
    assert cores[12] == Core(1, 0, 0, 0) and len(set(cores)) == 24
    assert [mesh.index(core) for core in cores] == list(range(24))
    for a, b in pairwise(cores[:12]):
        assert abs(a.column - b.column) + abs(a.row - b.row) <= 1


def test_the_thesis_network_on_loihi():
    """784 x 500 weights of 9 bits need four cores of 1 Mibit, 500 x 500 three, 500 x 10 one: four cores a tile."""
    config = Machine.load("loihi").place([784, 500, 500, 10])
    assert {layer: [str(core) for core in cores] for layer, cores in config.cores.items()} == {
        "input": ["0,0"],
        "h1": ["0,0", "0,0,1", "0,0,2", "0,0,3"],
        "h2": ["1,0", "1,0,1", "1,0,2"],
        "output": ["1,0,3"],
    }
    assert {link: str(wire) for link, wire in config.links.items()} == {
        "input-h1.forward": "loihi:0hops:4times",
        "input-h1.feedback": "loihi:0hops",
        "h1-h2.forward": "loihi:1hop:3times",
        "h1-h2.feedback": "loihi:1hop:4times",
        "h2-output.forward": "loihi:0hops",
        "h2-output.feedback": "loihi:0hops:3times",
    }
    assert config.as_dict()["cores"]["output"] == ["1,0,3"]


cores_of_a_chip = st.lists(
    st.builds(Core, st.just(0), st.integers(0, 4), st.integers(0, 3), st.integers(0, 1)), min_size=1, max_size=6
)


def route(a, b):
    """Links between routers on the way: along the row, then along the column."""
    steps = [(x, a.row) for x in range(a.column, b.column, 1 if b.column > a.column else -1)]
    steps += [(b.column, y) for y in range(a.row, b.row, 1 if b.row > a.row else -1)]
    steps.append((b.column, b.row))
    return {frozenset(pair) for pair in pairwise(steps)}


@settings(max_examples=40, deadline=None)
@given(senders=cores_of_a_chip, receivers=cores_of_a_chip)
def test_hops_are_counted_link_by_link(senders, receivers):
    apart = [len(route(a, b)) for a, b in product(senders, receivers)]
    times, hops = distance(senders, receivers, multicast=False)
    assert (times, hops) == (len(receivers), pytest.approx(sum(apart) / len(apart)))
    trees = [len(set().union(*(route(a, b) for b in receivers))) for a in senders]
    assert distance(senders, receivers, multicast=True) == (1, pytest.approx(sum(trees) / len(trees)))


MESH = """
description = "Mine."
source = "assumed"
process = "45nm"
event_driven = false

[core]
neurons = 10

[chip]
mesh = [2, 2]
wire = "mesh:0.5mm"

[board]
chips = 2
wire = "chip-to-chip"

[system]
boards = 2
wire = "serdes"
"""
PROCESS = MESH[: MESH.index("[board]")]


def written(folder, text):
    path = folder / "mine.toml"
    path.write_text(text)
    return path


def test_wires_within_and_between_chips_and_boards(tmp_path):
    machine = Machine.read(written(tmp_path, MESH))
    assert machine.mesh == Mesh(2, 2, 1, 4) and machine.chips_of_board == 2
    config = machine.place({"input": 5, "a": 10, "b": 40, "c": 60, "d": 10})
    assert [len(config.cores[x]) for x in "abcd"] == [1, 4, 6, 1]
    assert [core.chip for core in config.cores["b"]] == [0, 0, 0, 1]
    assert config.wire("input-a", "forward") == Wire("mesh", 0.0, 0.0, 1.0)
    assert config.wire("a-b", "forward") == Wire("chip-to-chip", times=1), "one copy to the other chip"
    assert config.wire("a-b", "feedback") == Wire("chip-to-chip", times=0.25), "one of four cores is on the other chip"
    assert {core.chip for core in config.cores["c"]} == {1, 2}
    assert config.wire("b-c", "forward") == Wire("serdes", times=1)
    assert config.wire("c-d", "feedback") == Wire("serdes", times=1)


def test_a_hop_has_routers_and_a_length(tmp_path):
    machine = Machine.read(written(tmp_path, MESH))
    config = machine.place({"input": 5, "a": 10, "b": 20})  # at 0,0; at 1,0 and 1,1
    assert config.wire("a-b", "forward") == Wire("mesh", 1.5 * 0.5e-3, 1.5, 2.0)
    ledger = spikes(ones=4, link="a-b", neurons=20)
    with pytest.warns(UserWarning, match="toggles need two messages"):
        bill = price_on(ledger, machine, config.within(ledger)).by("part")["link"]
    constants = Technology.load("mesh").constants
    bits, toggles = 10, 5
    expected = 2 * (bits * 1.5 * constants["router"].typical + toggles * 1.5 * 0.5e-3 * constants["wire"].typical)
    assert bill.typical == near(expected)


@pytest.mark.parametrize(
    ("wire", "placed"),
    [("on-die:1mm", Wire("on-die", 1.5e-3, None, 2.0)), ("interposer", Wire("interposer", times=3.0))],
)
def test_a_hop_may_be_any_wire(tmp_path, wire, placed):
    machine = Machine.read(written(tmp_path, MESH.replace("mesh:0.5mm", wire)))
    assert machine.place({"input": 5, "a": 10, "b": 20}).wire("a-b", "forward") == placed


def test_a_multicast_is_one_message(tmp_path):
    machine = Machine.read(written(tmp_path, MESH.replace("mesh = [2, 2]", "mesh = [2, 2]\nmulticast = true")))
    config = machine.place({"input": 5, "a": 10, "b": 30})  # 0,0 to 1,0, 1,1 and 0,1: a tree of three hops
    assert config.wire("a-b", "forward") == Wire("mesh", 1.5e-3, 3.0, 1.0)


@pytest.mark.parametrize(
    "given", ['"1:0,1"', "{ chip = 1, core = [0, 1] }", "{ chip = 1, core = [0, 1, 0] }", '"1:0,1,0"']
)
def test_a_place_of_its_own(tmp_path, given):
    machine = Machine.read(written(tmp_path, MESH))
    path = tmp_path / "place.toml"
    path.write_text(f"[layers]\nb = {given}\n")
    config = machine.place({"input": 5, "a": 20, "b": 10, "c": 10}, read_layers(path, machine))
    assert config.cores["b"] == (Core(1, 0, 1, 0),)
    assert config.cores["c"] == (Core(0, 1, 1, 0),), "the first core that is free"
    own = Machine.read(written(tmp_path, f"{MESH}\n[layers]\nb = {given}\ninput = '1,1'\n"))
    assert own.place({"input": 5, "a": 20, "b": 10, "c": 10}).cores == config.cores | {"input": (Core(0, 1, 1, 0),)}


def test_layers_may_share_a_core_that_has_room(tmp_path):
    machine = Machine.read(written(tmp_path, MESH))
    place = {"a": Core(), "b": Core()}
    assert machine.place({"input": 5, "a": 4, "b": 6}, place).cores["b"] == (Core(),)
    with pytest.raises(ValueError) as error:
        machine.place({"input": 5, "a": 4, "b": 7}, place)
    assert str(error.value) == (
        "machine 'mine': layers a and b do not fit on core 0,0: they need 11 neurons, a core has 10"
    )


@pytest.mark.parametrize(
    ("core", "network", "message"),
    [
        ("neurons = 10", [5, 170, 20], "the network needs 19 cores (h1 17, output 2), and there are 16"),
        ("inputs = 10", [5, 11, 20], "layer output does not fit: a neuron needs 11 inputs, a core has 10"),
        ("synapses = 10", [5, 11, 20], "layer output does not fit: a neuron needs 11 synapses, a core has 10"),
        (
            "memory_bits = 80\nweight_bits = 8",
            [5, 11, 20],
            "layer output does not fit: a neuron needs 88 bits of memory, a core has 80",
        ),
        ("synapses = 10", [5, 40], "the network needs 20 cores (output 20), and there are 16"),
    ],
)  # fmt: skip
def test_a_network_that_does_not_fit(tmp_path, core, network, message):
    machine = Machine.read(written(tmp_path, MESH.replace("neurons = 10", core)))
    with pytest.raises(ValueError) as error:
        machine.place(network)
    assert str(error.value) == f"machine 'mine': {message}"


@pytest.mark.parametrize(
    ("layer", "core", "message"),
    [
        ("h9", Core(), "no layer 'h9'; there are: input, output"),
        (
            "output",
            Core(4, 0, 0, 0),
            "machine 'mine': layer output: no core 4:0,0; a core is COLUMN,ROW or CHIP:COLUMN,ROW,CORE from 0:0,0,0 to "
            "3:1,1,0",
        ),
    ],
)
def test_places_that_are_none(tmp_path, layer, core, message):
    machine = Machine.read(written(tmp_path, MESH))
    with pytest.raises(ValueError) as error:
        machine.place([5, 10], {layer: core})
    assert str(error.value) == message


def test_a_network_may_name_its_inputs(tmp_path):
    machine = Machine.read(written(tmp_path, MESH))
    config = machine.place({"retina": 5, "a": 10}, {"retina": Core(0, 1, 1, 0)})
    assert config.cores == {"retina": (Core(0, 1, 1, 0),), "a": (Core(),)}
    assert config.wire("retina-a", "forward") == Wire("mesh", 1e-3, 2.0)


def test_a_place_too_near_the_end(tmp_path):
    machine = Machine.read(written(tmp_path, MESH))
    with pytest.raises(ValueError) as error:
        machine.place([5, 20], {"output": Core(3, 0, 1, 0)})
    assert str(error.value) == (
        "machine 'mine': the network needs 2 cores (output 2), and there are 16, 1 of them from 3:0,1 on"
    )


@pytest.mark.parametrize(
    ("network", "said"),
    [([5], ""), ({"a": 5}, ""), ([5, 0], ", not output=0"), ([5, 2.5, True], ", not h1=2.5, output=True")],
)
def test_what_is_no_network(network, said):
    with pytest.raises(ValueError) as error:
        Machine.load("loihi").place(network)
    assert str(error.value) == f"a network is the neurons of two or more layers, inputs first, whole and positive{said}"


def test_sizes_of_layers_that_keep_no_state():
    ledger = Ledger(samples=1)
    ledger.crossed(MessageType("input-output", UP, "activations", "binary", 1, 64), 1, 30, 0)
    ledger.worked(Work("output", "match", MAC, "binary", "float32"), 640)
    ledger.accessed(Access("output", "weight", "read", "float32", 32, 640 * 32, "match"), 640)
    assert sizes_of(ledger) == {"output": LayerSize(10, 64, 640 * 32)}
    ledger.accessed(Access("output", "error", "read", "float32", 32, 20 * 32, "gradient"), 20)
    assert sizes_of(ledger)["output"].neurons == 20


def test_sizes_are_read_from_a_ledger():
    ledger, _ = inference(Link("ufixed(8,0)"), Link("binary"), Link("binary01"))
    assert sizes_of(ledger) == {
        "h1": LayerSize(10, 12, (120 + 10) * 32),
        "h2": LayerSize(8, 10, (80 + 8) * 32),
        "output": LayerSize(4, 8, (32 + 4) * 32),
    }
    assert sizes_of(trained())["h1"] == LayerSize(4, 14, (32 + 24) * 32)
    assert sizes_of(spikes()) == {"h2": LayerSize(100, 10, 8000)}
    assert sizes_of(spikes())["h2"].synapses == 1000


@pytest.mark.parametrize(
    ("link", "found"),
    [
        ("input-h1", ("input", "h1")),
        ("h1-h2.weights", ("h1", "h2")),
        ("output-h1", ("h1", "output")),
        ("x-h1", ("x", "h1")),
    ],
)
def test_ends_of_links(link, found):
    assert ends(link, ["h1", "h2", "output"]) == found


def test_a_link_without_ends():
    with pytest.raises(ValueError) as error:
        ends("bus", ["h1", "h2"])
    assert str(error.value) == "link bus joins no two layers, so it has no place; the layers are: input, h1, h2"


def test_the_wire_of_a_direction_is_its_own():
    config = HardwareConfig({"h1-h2": Wire("board"), "h1-h2.feedback": Wire("serdes")})
    ledger = spikes()
    config.check(ledger)
    assert (config.wire("h1-h2", "forward"), config.wire("h1-h2", "feedback")) == (Wire("board"), Wire("serdes"))
    assert config.within(ledger).links == config.links and config.within(Ledger()).links == {}


# --- files


def test_machines_there_are():
    assert Machine.names() == WHOLE_MACHINES
    with pytest.raises(ValueError) as error:
        Machine.load("abacus")
    assert str(error.value) == f"no machine 'abacus'; there are: {', '.join(Machine.names())}"


@pytest.mark.parametrize("name", Machine.names())
def test_every_machine_has_sources(name):
    machine = Machine.load(name)
    assert machine.name == name and machine.description.endswith(".")
    assert re.search(r"\b20\d\d\b", machine.source)
    used = {constant for _, constant in machine.synaptic}
    assert used <= set(machine.technology.constants)
    assert Machine.load(str(machine_file(name))) == machine


def machine_file(name):
    from hw_models.machine import FOLDER

    return FOLDER / f"{name}.toml"


def test_the_machine_in_the_documentation_can_be_read(tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "machines.md").read_text()
    example = next(block for block in re.findall(r"```toml\n(.*?)```", text, re.DOTALL) if "description" in block)
    machine = Machine.read(written(tmp_path, example))
    assert machine.mesh == Mesh(4, 4, 1, 4) and machine.units == {"operation": 4}
    ledger, _ = inference(*[Link("binary01")] * 3)
    assert time_on(ledger, machine).missing == ("throughput of memory (h1)", "throughput of wire mesh (input-h1)")
    assert price_on(ledger, machine).total.typical > 0


def test_files_beside_a_machine(tmp_path):
    (tmp_path / "own.toml").write_text(
        (machine_file("loihi").parent.parent / "technologies/machines/loihi.toml").read_text()
    )
    text = machine_file("loihi").read_text().replace('"loihi"', '"own.toml"')
    machine = Machine.read(written(tmp_path, text))
    config = machine.place([4, 3, 2])
    assert config.wire("h1-output", "forward").kind == str(tmp_path / "own.toml")
    ledger = spikes(link="h1-output", below=3, neurons=2)
    assert price_on(ledger, machine).total == price_on(ledger, Machine.load("loihi")).total


def test_constants_in_the_file_itself(tmp_path):
    constant = '\n[constants."synaptic operation"]\ntypical = 1e-12\nunit = "joule"\nper = "synaptic operation"\n'
    text = PROCESS + constant + 'source = "A. Author, 2000"\nevidence = "assumed"\n'
    machine = Machine.read(written(tmp_path, text))
    assert machine.technology.constants["synaptic operation"].typical == 1e-12
    assert "add float32" in machine.technology.constants and machine.process == "45nm"
    with pytest.raises(StorageError) as error:
        Machine.read(written(tmp_path, text.replace('"assumed"', '"hearsay"')))
    assert str(error.value).startswith(f"{tmp_path}/mine.toml: constant 'synaptic operation': evidence 'hearsay'")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('source = "assumed"', "", "source is missing"),
        ('description = "Mine."', 'description = " "', "description must not be empty"),
        ('process = "45nm"', "", "constants and process are missing: a machine needs one of them, or both"),
        (
            "[core]",
            "[cores]",
            "cores: no such key; there are: description, source, constants, process, event_driven, "
            "synaptic_operation, covered, left_out, memory, reuse, core, chip, board, system, units, time, layers",
        ),
        (
            "neurons = 10",
            "neurones = 10",
            "core.neurones: no such key; there are: neurons, inputs, synapses, memory_bits, weight_bits",
        ),
        ("neurons = 10", "neurons = 0", "core.neurons must be 1 or more and below 2^48, not 0"),
        ("neurons = 10", 'neurons = "x"', "core.neurons must be a whole number, not 'x'"),
        ("mesh = [2, 2]", "mesh = [2]", "chip.mesh must be columns and rows, as in [8, 4], not [2]"),
        ("mesh = [2, 2]", "mesh = [2, -1]", "chip.mesh must be 1 or more and below 2^48, not -1"),
        ("mesh = [2, 2]", "mesh = [2, true]", "chip.mesh[1] must be a whole number, not True"),
        (
            'wire = "mesh:0.5mm"',
            "",
            "chip.wire is missing: give the wire of a hop, or list links as covered or left_out",
        ),
        (
            'wire = "serdes"',
            "",
            "system.wire is missing: give the wire between boards, or list links as covered or left_out",
        ),
        ("mesh:0.5mm", "mesh", "chip.wire 'mesh': such a wire needs a length"),
        ("mesh:0.5mm", "mesh:3hops:1mm", "chip.wire 'mesh:3hops:1mm': write the wire of one hop, without hops"),
        ("chip-to-chip", "chip-to-chip:1mm", "board.wire 'chip-to-chip:1mm': such a wire has no use for a length"),
        ("chip-to-chip", "mesh:1mm", "board.wire 'mesh:1mm': such a wire needs a hop count"),
        ("chip-to-chip", "string", "board.wire: no technology 'string'; there are: "),
        ("45nm", "45 nm", "process: no technology '45 nm'; there are: "),
        ("false", "1", "event_driven must be true or false, not 1"),
        (
            "event_driven = false",
            "",
            "event_driven is missing: whether only inputs that are 1 are computed, true or false",
        ),
        (
            'process = "45nm"',
            'constants = "loihi"',
            "event_driven is False, but its constants are of a machine where it is True",
        ),
        ("event_driven = false", "event_driven = false\nreuse = 0.5", "reuse must be 1 or more, not 0.5"),
        (
            "event_driven = false",
            'event_driven = false\ncovered = ["wires"]',
            "covered: no part 'wires'; there are: synapses, neurons, links, learning, static",
        ),
        (
            "event_driven = false",
            'event_driven = false\nleft_out = ["links"]',
            "chip.wire: links have a cost of their own, so they are neither covered nor left_out",
        ),
        (
            "event_driven = false",
            'event_driven = false\nsynaptic_operation = "add float32"',
            "synaptic_operation: no constant 'add float32' in joules per synaptic operation",
        ),
        (
            "[core]",
            "[synaptic_operation]\n0 = 'x'\n[core]",
            "synaptic_operation.0: a key must be a number of bits, not '0'",
        ),
        (
            "[core]",
            "[synaptic_operation]\n1 = 3\n[core]",
            "synaptic_operation.1: no constant 3 in joules per synaptic operation",
        ),
        ("[core]", "[synaptic_operation]\n[core]", "synaptic_operation names no constant"),
        ("[core]", "[units]\nmemory = 2\n[core]", "units.memory: there is no constant 'throughput memory'"),
        ("[core]", "[time]\nstep = 0\n[core]", "time.step must be seconds, more than 0, not 0"),
        ("[core]", "[time]\nbarrier = -1e-9\n[core]", "time.barrier must be seconds, more than 0, not -1e-09"),
        (
            "[core]",
            "[layers]\nh1 = '2,0'\n[core]",
            "layers.h1: no core '2,0'; a core is COLUMN,ROW or CHIP:COLUMN,ROW,CORE from 0:0,0,0 to 3:1,1,0",
        ),
        (
            "[core]",
            "[layers]\nh1 = { core = [0, 0], die = 1 }\n[core]",
            "layers.h1.die: no such key; there are: chip, core",
        ),
        (
            '[board]\nchips = 2\nwire = "chip-to-chip"\n',
            "",
            "board is missing: a system is of boards, so the file must say what a board is",
        ),
    ],
)
def test_wrong_fields(tmp_path, old, new, message):
    assert old in MESH
    path = written(tmp_path, MESH.replace(old, new))
    with pytest.raises(StorageError) as error:
        Machine.read(path)
    said = str(error.value)
    assert said.startswith(f"{path}: {message}") if message.endswith("are: ") else said == f"{path}: {message}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "layers is missing"),
        ("layers = 3", "layers must be a table, not 3"),
        ("[layers]\nh1 = 3", "layers.h1 must be text or a table, not 3"),
        ("[layers]\nh1 = {}", "layers.h1.core is missing"),
        ("[layers]\nh1 = '0,0'\n[chip]\n", "chip: no such key; there are: layers"),
        (
            "[layers]\nh1 = '0,x'",
            "layers.h1: no core '0,x'; a core is COLUMN,ROW or CHIP:COLUMN,ROW,CORE from 0:0,0,0 to 0:7,3,3",
        ),
    ],
)
def test_wrong_places(tmp_path, text, message):
    path = tmp_path / "place.toml"
    path.write_text(text)
    with pytest.raises(StorageError) as error:
        read_layers(path, Machine.load("loihi"))
    assert str(error.value) == f"{path}: {message}"


VALUES = ("0", "-1", "1e400", "nan", "true", '""', '"x"', "[]", "[1, 2, 3]", "{}", "9" * 400, "2.5", '"mesh:1furlong"')
"""What takes the place of a value: wrong for every field, but for `HARMLESS`."""
DAMAGED = MESH + '\n[time]\nstep = 1e-3\nbarrier = 1e-9\n\n[layers]\nh1 = "1,0"\nh2 = { chip = 1, core = [0, 1] }\n'


def test_300_damaged_files_are_told_by_file_and_field(tmp_path):
    draw, told = random.Random(7), 0
    lines = DAMAGED.splitlines()
    fields = [i for i, line in enumerate(lines) if "=" in line]
    for _ in range(300):
        i = draw.choice(fields)
        key = lines[i].partition("=")[0].strip()
        table = next((x.strip("[]") for x in reversed(lines[:i]) if x.startswith("[")), "")
        value = draw.choice(VALUES)
        path = written(tmp_path, "\n".join([*lines[:i], f"{key} = {value}", *lines[i + 1 :]]))
        read = [lambda path=path: Machine.read(path)]
        if table == "layers":
            (tmp_path / "place.toml").write_text(f"[layers]\n{key} = {value}\n")
            read.append(lambda: read_layers(tmp_path / "place.toml", Machine.load("loihi")))
        for file, reader in zip((path, tmp_path / "place.toml"), read, strict=False):
            try:
                reader()
            except StorageError as error:
                name = f"{table}.{key}" if table else key
                assert str(error).startswith(f"{file}: {name}"), (value, str(error))
                assert len(str(error)) < 700
                told += 1
            else:
                assert (key, value) in HARMLESS, (key, value)
    assert told > 250


HARMLESS = {
    *(("description", text) for text in ('"x"', '"mesh:1furlong"')),
    *(("source", text) for text in ('"x"', '"mesh:1furlong"')),
    ("event_driven", "true"),
    ("barrier", "0"),
    ("barrier", "2.5"),
    ("step", "2.5"),
}
