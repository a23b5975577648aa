"""Published examples come out as they were published, within the rounding of what was printed.

Each test names its source. Numbers are those of the source, not of this program; `docs/energy.md` lists the tests.
"""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from hw_models import HardwareConfig, Technology, accelergy, price
from hw_models.qtools import Dense, Memory, energy
from hw_models.technology import Term
from lowbit_dtp.codings import BusInvert
from lowbit_dtp.formats import binary, fixed, ufixed
from lowbit_dtp.ledger import Access, Direction, Ledger, MessageType, Work

PJ, FJ, KIB = 1e-12, 1e-15, 8 * 1024
MAC = "multiply-accumulate"


def printed(value, digits):
    """`value` as a table prints it, with so many digits."""
    return f"{value:.{digits - 1}e}"


def worked(operation, left, right="", times=1):
    ledger = Ledger(steps=1, samples=1)
    ledger.worked(Work("h1", "activations", operation, left, right), times)
    return ledger


def accessed(capacity_bits, bits=64, words=1, array="weight", operation="read"):
    ledger = Ledger(steps=1, samples=1)
    ledger.accessed(Access("h1", array, operation, "float32", bits, capacity_bits, "activations"), words)
    return ledger


def sent(width, messages, ones=0, toggles=0, fmt=binary):
    ledger = Ledger(steps=1, samples=messages)
    message = MessageType("h1-h2", Direction.FORWARD, "activations", fmt.name, fmt.bits, width)
    ledger.crossed(message, messages, ones, toggles)
    return ledger


def own(tmp_path, name, *top, **constants):
    """A technology file of one's own: constants by name, each typical, per, and more lines."""
    text = "\n".join(['description = "A published example."', *top, ""])
    for constant, (typical, per, *more) in constants.items():
        lines = [f"typical = {typical!r}", 'unit = "joule"', f'per = "{per}"', 'source = "as in the test, 2018"', *more]
        if not any(line.startswith("evidence") for line in lines):
            lines.append('evidence = "assumed"')
        text += f'[constants."{constant}"]\n' + "\n".join(lines) + "\n"
    path = tmp_path / f"{name}.toml"
    path.write_text(text)
    return str(path)


def joules(ledger, technology, config=None):
    loaded = Technology.load(technology) if isinstance(technology, str) else technology
    return price(ledger, config or HardwareConfig(), loaded).total.typical


# --- processes


@pytest.mark.parametrize(
    ("operation", "fmt", "picojoules"),
    [
        ("add", "fixed(8,8)", 0.03),
        ("add", "fixed(32,32)", 0.1),
        ("add", "float16", 0.4),
        ("add", "float32", 0.9),
        ("multiply", "fixed(8,8)", 0.2),
        ("multiply", "fixed(32,32)", 3.1),
        ("multiply", "float16", 1.1),
        ("multiply", "float32", 3.7),
    ],
)
def test_horowitz_arithmetic(operation, fmt, picojoules):
    """Horowitz, Computing's Energy Problem, ISSCC 2014, Fig. 1.1.9 (45 nm, 0.9 V)."""
    right = fmt if operation == "multiply" else ""
    assert joules(worked(operation, fmt, right), "45nm") == pytest.approx(picojoules * PJ)


@pytest.mark.parametrize(("kib", "picojoules"), [(8, 10), (32, 20), (1024, 100)])
def test_horowitz_memory(kib, picojoules):
    """The same figure: a 64-bit access to a cache of 8 KiB, 32 KiB and 1 MiB, and to DRAM, 1.3 to 2.6 nJ."""
    assert joules(accessed(kib * KIB), "45nm") == pytest.approx(picojoules * PJ)
    dram = price(accessed(kib * KIB), HardwareConfig(memory="dram"), Technology.load("45nm")).total
    assert (dram.low, dram.high) == pytest.approx((1300 * PJ, 2600 * PJ))


@pytest.mark.parametrize(
    ("operation", "fmt", "picojoules"),
    [
        ("add", "fixed(8,8)", 0.007),
        ("add", "fixed(32,32)", 0.03),
        ("add", "bfloat16", 0.11),
        ("add", "float16", 0.16),
        ("add", "float32", 0.38),
        ("multiply", "fixed(8,8)", 0.07),
        ("multiply", "fixed(32,32)", 1.48),
        ("multiply", "bfloat16", 0.21),
        ("multiply", "float16", 0.34),
        ("multiply", "float32", 1.31),
    ],
)
def test_jouppi_arithmetic(operation, fmt, picojoules):
    """Jouppi et al., Ten Lessons From Three Generations Shaped Google's TPUv4i, ISCA 2021, Table 2 (7 nm)."""
    right = fmt if operation == "multiply" else ""
    assert joules(worked(operation, fmt, right), "7nm") == pytest.approx(picojoules * PJ)


@pytest.mark.parametrize(
    ("network", "acs", "macs", "millijoules"),
    [
        ("spiking_resnet18", 0.10e9, 0.14e9, "0.734"),
        ("sew_resnet18", 0.50e9, 2.75e9, "13.10"),
        ("DSNN18", 1.69e9, 0.20e9, "2.44"),
        ("resnet18", 0, 1.82e9, "8.372"),
    ],
)
def test_syops(network, acs, macs, millijoules):
    """SyOPs counter: accumulations of spikes at 0.9 pJ, multiply-accumulates of floats at 4.6 pJ, both at 45 nm.

    Source: github.com/iCGY96/syops-counter, README.md at 4232f77, table Benchmark, column Energy (mJ).
    """
    ledger = worked(MAC, "float32", "float32", int(macs)) + worked(MAC, "binary01", "float32", int(acs))
    digits = len(millijoules.partition(".")[2])
    assert f"{joules(ledger, '45nm') * 1e3:.{digits}f}" == millijoules


# --- QTools


INT8, INT32, RELU4, BITS4 = fixed(8, 1), fixed(32, 1), ufixed(4, 0), fixed(4, 1)
REPORTS = {
    "quantized": (
        [
            Dense("d0", 784, 300, INT8, binary, binary, sends=RELU4),
            Dense("d1", 300, 100, RELU4, BITS4, BITS4, sends=RELU4),
            Dense("d2", 100, 10, RELU4, BITS4, BITS4, sends=INT32),
        ],
        {
            "d0": (372.77, 342.34, 13997.95, 15729.0),
            "d1": (72.27, 110.31, 7158.73, 3250.0),
            "d2": (26.63, 11.41, 243.44, 102.08),
        },
        41070,
    ),
    "reference": (
        [
            Dense("d0", 784, 300, INT8, INT8, INT8, sends=INT32, accumulator_bits=32),
            Dense("d1", 300, 100, INT32, INT8, INT8, sends=INT32, accumulator_bits=32),
            Dense("d2", 100, 10, INT32, INT8, INT8, sends=INT32, accumulator_bits=32),
        ],
        {
            "d0": (372.77, 570.57, 111975.96, 70560.0),
            "d1": (570.57, 190.19, 14313.66, 26500.0),
            "d2": (190.19, 19.02, 483.08, 883.33),
        },
        226629,
    ),
}


@pytest.mark.parametrize(("layers", "report", "total"), REPORTS.values(), ids=REPORTS)
def test_qtools_report(layers, report, total):
    """QTools' report of 784-300-100-10, with binary and 4-bit weights, and all of it in int8 with 32-bit sums.

    Inputs, outputs, parameters and operations of each layer in picojoules, within 0.1 as its own test has it, and the
    sum. Source: github.com/google/qkeras, tests/qtools_model_test.py at 5c058cf, test_qenergy: process horowitz, all
    in SRAM of at least 16 MiB.
    """
    found = energy(layers, Memory(least_sram_bits=8 * 16 * 1024 * 1024))
    for name, published in report.items():
        layer = found[name]
        ours = (layer.inputs, layer.outputs, layer.parameters, layer.operations)
        assert [joules / PJ for joules in ours] == pytest.approx(published, abs=0.1)
    assert int(sum(layer.total for layer in found.values()) / PJ) == total


def test_qtools_report_of_an_earlier_version():
    """The same network as QTools counted it when sums had no bit for the bias, and the softmax sent 8 bits.

    Source: github.com/google/qkeras, tests/qtools_model_test.py at 1523479, test_qenergy.
    """
    earlier = {"d0": (18, RELU4), "d1": (17, RELU4), "d2": (15, INT8)}
    layers = [
        replace(layer, accumulator_bits=earlier[layer.name][0], sends=earlier[layer.name][1])
        for layer in REPORTS["quantized"][0]
    ]
    found = energy(layers, Memory(least_sram_bits=8 * 16 * 1024 * 1024))
    published = {"d0": (323.32, 14994.0), "d1": (102.7, 3156.25), "d2": (11.41, 98.96)}
    for name, (outputs, operations) in published.items():
        layer = found[name]
        assert (layer.outputs / PJ, layer.operations / PJ) == pytest.approx((outputs, operations), abs=0.1)
    assert int(sum(layer.total for layer in found.values()) / PJ) == 40227


# --- Accelergy and Timeloop


TABLE = """\
ERT:
  version: '0.4'
  tables:
  - name: PE_top_level.MainMemory[1..1]
    actions:
    - {name: read, arguments: {data_delta: 0, address_delta: 0}, energy: 0.0}
    - {name: read, arguments: {data_delta: 1, address_delta: 1}, energy: 33.19811}
    - {name: read, arguments: {data_delta: 1, address_delta: 2}, energy: 39.0566}
    - {name: write, arguments: {data_delta: 1, address_delta: 2}, energy: 31.5767}
    - {name: update, arguments: {}, energy: 26.840195}
  - name: PE_top_level.Buffer[1..1]
    actions:
    - {name: read, arguments: {data_delta: 1, address_delta: 1}, energy: 0.42564}
    - {name: write, arguments: {data_delta: 1, address_delta: 1}, energy: 0.42564}
    - {name: update, arguments: {}, energy: 0.42564}
  - name: PE_top_level.MACC[1..1]
    actions:
    - {name: mac_random, energy: 0.845}
    - {name: mac_gated, energy: 0.0575}
    - {name: compute, energy: 0.845}
lowbit_dtp:
  bits: {MainMemory: 64, Buffer: 8, MACC: 8}
"""


def test_timeloop(tmp_path):
    """A convolution of 16 outputs and 3 weights, weight-stationary, on a buffer and a memory, by Accelergy's table.

    Timeloop counts 48 multiply-accumulates; 128 reads of the buffer and 69 writes, each of 8 bits; and whole blocks of
    64 bits of the memory: one of 3 weights, three of 18 inputs, two updates of 16 outputs. Source:
    github.com/Accelergy-Project/timeloop-accelergy-exercises at ccaba0c, workspace/exercises/
    01_accelergy_timeloop_2020_ispass/timeloop/01-model-conv1d-2level/ref-output/ws, timeloop-model.ERT.yaml and
    timeloop-model.stats.txt, Energy (total) of each level.
    """
    path = tmp_path / "timeloop-model.ERT.yaml"
    path.write_text(TABLE)
    technology = accelergy.read(path)
    levels = {
        "MACC": (worked(MAC, "fixed(8,8)", "fixed(8,8)", 48), "Buffer", 40.56),
        "weights in Buffer": (accessed(512, 8, 48 + 3), "Buffer", 21.71),
        "inputs in Buffer": (accessed(512, 8, 48 + 18), "Buffer", 28.09),
        "outputs in Buffer": (accessed(512, 8, 32 + 48), "Buffer", 34.05),
        "weights in MainMemory": (accessed(2**21, 64, 1), "MainMemory", 39.06),
        "inputs in MainMemory": (accessed(2**21, 64, 3), "MainMemory", 117.17),
        "outputs in MainMemory": (accessed(2**21, 64, 2), "MainMemory update", 53.68),
    }
    for name, (ledger, memory, published) in levels.items():
        found = joules(ledger, technology, HardwareConfig(memory=memory))
        assert found / PJ == pytest.approx(published, abs=0.005), name


# --- machines that count synaptic operations and neuron updates


def on(device, synapses, updates):
    """Joules of so many synaptic operations and neuron updates; on Loihi each synaptic operation is also one hop."""
    technology = Technology.load(device)
    hop = [Term(technology.constants["spike hop"], synapses)] if device == "loihi" else []
    terms = [
        Term(technology.constant("synaptic operation", device), synapses),
        Term(technology.constant("neuron update", device), updates),
        *hop,
    ]
    return sum(term.joules.typical for term in terms)


@pytest.mark.parametrize(
    ("device", "synapse", "update"),
    [
        ("cpu", 8.6e-9, 8.6e-9),
        ("gpu", 0.3e-9, 0.3e-9),
        ("arm", 0.9e-9, 0.9e-9),
        ("loihi", (23.6 + 3.5) * 1e-12, 81e-12),
        ("spinnaker", 13.3e-9, 26e-9),
        ("spinnaker2", 450e-12, 2.19e-9),
    ],
)
def test_keras_spiking_devices(device, synapse, update):
    """All of KerasSpiking: github.com/nengo/keras-spiking, keras_spiking/model_energy.py at 1384ec3, `devices`."""
    assert on(device, 1, 0) == pytest.approx(synapse)
    assert on(device, 0, 1) == pytest.approx(update)
    assert Technology.load(device).event_driven == (device in ("loihi", "spinnaker", "spinnaker2"))


CONVOLUTION = {"conv2d": 47432, "dense": 123904, "dense_1": 1280}
NEURONS = {"re_lu": 968, "re_lu_1": 128}


def test_keras_spiking_summary_of_a_convolution():
    """28 x 28 pixels, 2 filters of 7 x 7, 128 and 10 neurons, on a CPU and a GPU: all synapses once.

    Source: github.com/nengo/keras-spiking, examples/model-energy.ipynb at ae8432f, cells 4 and 7.
    """
    for device, layers in {
        "cpu": {
            "conv2d": "4.1e-04",
            "dense": "1.1e-03",
            "dense_1": "1.1e-05",
            "re_lu": "8.3e-06",
            "re_lu_1": "1.1e-06",
        },
        "gpu": {
            "conv2d": "1.4e-05",
            "dense": "3.7e-05",
            "dense_1": "3.8e-07",
            "re_lu": "2.9e-07",
            "re_lu_1": "3.8e-08",
        },
    }.items():
        for name, published in layers.items():
            assert printed(on(device, CONVOLUTION.get(name, 0), NEURONS.get(name, 0)), 2) == published
    totals = sum(CONVOLUTION.values()), sum(NEURONS.values())
    assert printed(on("cpu", *totals), 3) == "1.49e-03"
    assert printed(on("gpu", *totals), 3) == "5.21e-05"


@pytest.mark.parametrize(
    ("steps", "seconds", "published"),
    [(1, 0.001, "9.96e-08"), (10, 0.001, "9.96e-07"), (20, 0.001, "1.99e-06"), (1, 0.002, "1.10e-07")],
)
def test_keras_spiking_summary_on_loihi(steps, seconds, published):
    """The same network where only spikes do synaptic operations: 5, 1.3 and 0.91 of them a second into each layer.

    Source: the same notebook, cells 6, 8, 9, 10 and 11: rates, timesteps and dt, and the total.
    """
    rates = {"conv2d": 5, "dense": 1.3, "dense_1": 0.91}
    synapses = sum(number * rates[name] for name, number in CONVOLUTION.items()) * seconds * steps
    assert printed(on("loihi", synapses, sum(NEURONS.values()) * steps), 3) == published


@pytest.mark.parametrize(
    ("device", "sizes", "rate", "published"),
    [
        ("cpu", (784, 128), None, "8.64e-04"),  # model_energy.py, docstring of ModelEnergy
        ("loihi", (32, 64), 0.001, "5.24e-09"),  # the notebook, cell 19: one spike a second, steps of a millisecond
        ("cpu", (32, 64, 10), None, "2.38e-05"),  # snnTorch, tests/test_energy_estimation.py at 516334c, network 2
        ("cpu", (1, 1, 1), None, "3.44e-08"),  # the same, network 1, without biases
    ],
)
def test_keras_spiking_and_snntorch_dense_networks(device, sizes, rate, published):
    """Dense networks: each synapse and each neuron once, or at a rate of spikes."""
    synapses = sum(below * above for below, above in pairwise(sizes))
    assert printed(on(device, synapses * (rate or 1), sum(sizes[1:])), 3) == published


def test_a_device_of_ones_own(tmp_path):
    """KerasSpiking's `my-gpu`, 1 nJ a synaptic operation and 2 nJ an update: the notebook, cell 7."""
    device = own(
        tmp_path,
        "my-gpu",
        **{"synaptic operation": (1e-9, "synaptic operation"), "neuron update": (2e-9, "neuron update")},
    )
    assert printed(on(device, sum(CONVOLUTION.values()), sum(NEURONS.values())), 3) == "1.75e-04"


# --- chips given in watts


@pytest.mark.parametrize(
    ("machine", "constant", "operations_per_second", "watts"),
    [
        ("finn", "synaptic operation", 12.3e6 * 334_336, 25),  # Umuroglu et al., FPGA 2017, abstract: less than 25 W
        ("xnorbin", "synaptic operation", 95e12 / 2, 1),  # Al Bahou et al., COOL Chips 2018, title: 95 TOp/s/W
        ("braintta", "synaptic operation", 614e9 / 2, 614e9 * 35 * FJ),  # Molendijk et al., 2022, abstract
        ("braintta", "synaptic operation, ternary", 307e9 / 2, 307e9 * 67 * FJ),
        ("braintta", "synaptic operation, 8 bits", 77e9 / 2, 77e9 * 405 * FJ),
    ],
)
def test_watts_at_the_published_throughput(machine, constant, operations_per_second, watts):
    """Joules an operation, times operations a second, are the watts of the source, to the two digits it has."""
    joules_per_operation = Technology.load(machine).constants[constant].typical
    assert joules_per_operation * operations_per_second == pytest.approx(watts, rel=0.01)


@pytest.mark.parametrize(("hertz", "watts"), [(11.58, 0.068), (95.93, 0.094)])
def test_truenorth_watts_against_firing_rate(hertz, watts):
    """A million neurons with 128 synapses each: static watts and synaptic operations.

    Source: Akopyan et al., TrueNorth, IEEE TCAD 34(10), 2015, power against firing rate at 0.8 V.
    """
    constants = Technology.load("truenorth").constants
    static, synapse = constants["static"], constants["synaptic operation"]
    assert (static.unit, static.per) == ("watt", "chip")
    assert static.typical + synapse.typical * 2**20 * 128 * hertz == pytest.approx(watts, abs=0.0005)


# --- links by flit, toggle, hop and spike


@pytest.mark.parametrize(("switching", "published"), [(0, 3.58), (32, 11.16), (64, 16.68)])
@pytest.mark.parametrize("hops", [1, 8])
def test_piton_flits(tmp_path, switching, published, hops):
    """A flit of 64 bits and a hop cost 3.58 pJ where no wire toggles, 11.16 where half do, 16.68 where all do.

    A toggle costs a little less the more there are, so its range is that of the source. Source: McKeown et al., Power
    and Energy Characterization of an Open Source 25-core Manycore Processor (Piton), HPCA 2018, Fig. 12.
    """
    each = {switched: (picojoules - 3.58) / switched for switched, picojoules in ((32, 11.16), (64, 16.68))}
    ends = [f"low = {each[64] * PJ!r}", f"high = {each[32] * PJ!r}", 'evidence = "measured silicon"']
    wire = own(
        tmp_path,
        "piton",
        "flit_bits = 64",
        flit=(3.58 * PJ, "flit and hop"),
        toggle=(sum(each.values()) / 2 * PJ, "transition and hop", *ends),
    )
    ledger = sent(64, messages=1000, toggles=1000 * switching)
    config = HardwareConfig.parse(f"h1-h2={wire}:{hops}hops")
    total = price(ledger, config, Technology.load("45nm")).total
    low, high = total.low / PJ / 1000 / hops, total.high / PJ / 1000 / hops
    assert low - 1e-9 <= published <= high + 1e-9
    assert {0: low, 32: high, 64: low}[switching] == pytest.approx(published)


def test_noxim_flits(tmp_path):
    """Noxim, XY routing: a flit costs 0.151 nJ in a router and 0.384 nJ on the wires of a hop.

    Source: github.com/davidepatti/noxim, trunk/src/NoximPower.h, PWR_ROUTING_XY and PWR_FORWARD_FLIT. A message of 100
    bits is four flits of 32.
    """
    wire = own(tmp_path, "noxim", "flit_bits = 32", router=(0.151e-9, "flit and hop"), wires=(0.384e-9, "flit and hop"))
    config = HardwareConfig.parse(f"h1-h2={wire}:3hops")
    assert joules(sent(100, messages=5), "45nm", config) == pytest.approx(5 * 4 * 3 * (0.151 + 0.384) * 1e-9)


def test_floonoc_hops():
    """FlooNoC moves a byte over a hop for 0.15 pJ: Fischer et al., IEEE Trans. VLSI 33(4), 2025, title."""
    router = Technology.load("mesh").constants["router"]
    assert 8 * router.typical == pytest.approx(0.15 * PJ)
    config = HardwareConfig.parse("h1-h2=mesh:4hops:1mm")
    assert joules(sent(8 * 64, messages=10), "45nm", config) == pytest.approx(10 * 64 * 4 * 0.15 * PJ)


def test_sana_fe_spikes(tmp_path):
    """SANA-FE's first example: three neurons, each accessed in 1000 steps at 1 pJ, and 166 spikes at 3 pJ.

    Source: github.com/SLAM-Lab/SANA-FE at d5d78d7, tutorial/arch.yaml, tutorial/run.log: energy 3.498000e-09.
    """
    machine = own(tmp_path, "tutorial", **{"neuron update": (1e-12, "neuron update")})
    wire = own(tmp_path, "spikes", spike=(3e-12, "event"))
    spikes = joules(sent(3, messages=1000, ones=166, fmt=ufixed(1, 1)), "45nm", HardwareConfig.parse(f"h1-h2={wire}"))
    updates = Term(Technology.load(machine).constants["neuron update"], 3 * 1000).joules.typical
    assert f"{spikes + updates:.6e}" == "3.498000e-09"


@pytest.mark.parametrize(("hops", "fan_out"), [(0, 1), (1, 128), (7, 1024)])
def test_sana_fe_loihi_spikes_by_hop_and_fan_out(tmp_path, hops, fan_out):
    """A spike of SANA-FE's Loihi: 69.3 pJ to fire, 111 a message, 3.0 a hop east, 35.5 each dense synapse it reaches.

    Source: github.com/SLAM-Lab/SANA-FE, sanafe/examples/loihi.yaml at af11051; SANA-FE adds them up.
    """
    wire = own(
        tmp_path, "loihi-links", fire=(69.3e-12, "event"), message=(111e-12, "event"), hop=(3e-12, "event and hop")
    )
    machine = own(tmp_path, "loihi-cores", **{"synaptic operation": (35.5e-12, "synaptic operation")})
    config = HardwareConfig.parse(f"h1-h2={wire}:{hops}hops")
    spikes = joules(sent(1000, messages=10, ones=400, fmt=ufixed(1, 1)), "45nm", config)
    synapses = Term(Technology.load(machine).constants["synaptic operation"], 400 * fan_out).joules.typical
    assert (spikes + synapses) / PJ == pytest.approx(400 * (69.3 + 111 + 3.0 * hops + 35.5 * fan_out))


# --- codings


@pytest.mark.parametrize(("lines", "published"), [(2, "0.75"), (8, "3.27"), (64, "26.16")])
def test_bus_invert(lines, published):
    """Lines that change with a random word, the invert lines included; 64 are eight buses of 8.

    Source: Stan and Burleson, Bus-Invert Coding for Low-Power I/O, IEEE Trans. VLSI Systems 3(1), 1995, pp. 49-58: 3.27
    in place of 4 for 8 lines, 26.16 for 64 that are divided into eight. Each pair of words is taken once.
    """
    bus = min(lines, 8)
    words = np.arange(2**bus)
    before, after = (np.tile(x.ravel()[:, None], lines // bus) for x in np.meshgrid(words, words))
    fmt = ufixed(bus, bus)
    toggles = BusInvert().toggles(np.stack([before, after], 1).astype(fmt.code_dtype), fmt, None)
    assert f"{toggles[:, 1].mean():.2f}" == published
