"""Time and power: seconds by hand, what is missing, published chips in watts, and rooflines."""

from dataclasses import astuple

import pytest

from hw_models import HardwareConfig, Machine, Range, Technology, Wire, power, price_on, time_on, with_static
from hw_models.hardware import Core
from hw_models.timing import Point, Roof, roofline
from lowbit_dtp.ledger import Access, Direction, Ledger, MessageType, Work

MAC = "multiply-accumulate"
UP = Direction.FORWARD


def near(value):
    return pytest.approx(value, rel=1e-9)


def chain(*sizes, samples=4, ones=0.5, fmt="binary01", weight="fixed(8,1)"):
    """Inference of a chain of layers; so many codes of each message are 1."""
    names = ["input", *(f"h{i}" for i in range(1, len(sizes) - 1)), "output"]
    ledger = Ledger(samples=samples)
    for below, neurons, lower, upper in zip(sizes, sizes[1:], names, names[1:], strict=False):
        message = MessageType(f"{lower}-{upper}", UP, "activations", fmt, 1, below)
        ledger.crossed(message, samples, round(ones * samples * below), samples * below // 2)
        ledger.worked(Work(upper, "activations", MAC, fmt, weight), samples * below * neurons)
        bits = 8 * below * neurons
        ledger.accessed(Access(upper, "weight", "read", weight, 8, bits, "activations"), samples * below * neurons)
    return ledger


def rate(name, value, per, high=None):
    return (
        f'\n[constants."throughput {name}"]\ntypical = {value}\n'
        + (f"low = {value / 2}\nhigh = {high}\n" if high else "")
        + f'unit = "per second"\nper = "{per}"\nsource = "A. Author, 2000"\nevidence = "assumed"\n'
    )


def watts(value, per):
    text = f'\n[constants."static {per}"]\ntypical = {value}\nunit = "watt"\nper = "{per}"\n'
    return text + 'source = "A. Author, 2000"\nevidence = "assumed"\n'


PROCESS = """
description = "Mine."
source = "assumed"
process = "45nm"
event_driven = false

[core]
neurons = 10

[chip]
mesh = [4, 4]
wire = "on-die:1mm"
"""
RATES = rate(MAC, 1e9, "operation") + rate("memory", 5e8, "64-bit access") + rate("wire on-die", 1e9, "bit")


def machine(tmp_path, *more, text=PROCESS):
    path = tmp_path / "mine.toml"
    path.write_text(text + "".join(more))
    return Machine.read(path)


# --- seconds


def test_a_layer_takes_its_slowest_resource_and_a_network_the_sum(tmp_path):
    """20 inputs, 20 neurons on two cores, 10 on one: products, 8-bit weights and links by hand."""
    mine = machine(tmp_path, RATES, f"\n[units]\n{MAC!r} = 4\n")
    time = time_on(chain(20, 20, 10), mine)
    found = {(load.where, load.resource): load.seconds.typical for load in time.loads}
    assert found == {
        ("h1", MAC): near(400 / (2 * 4) / 1e9),
        ("h1", "memory"): near(400 * 8 / 64 / 2 / 5e8),
        ("output", MAC): near(200 / 4 / 1e9),
        ("output", "memory"): near(200 * 8 / 64 / 5e8),
        ("input-h1", "wire on-die"): near(2 * 20 / 1e9),  # a copy to each core of h1
        ("h1-output", "wire on-die"): near(20 / 1e9),
    }
    bound = max(found.values())
    assert astuple(time.pipelined) == near((bound, bound, bound))
    h1, output = (max(found[layer, r] for r in (MAC, "memory")) for layer in ("h1", "output"))
    links = found["input-h1", "wire on-die"] + found["h1-output", "wire on-die"]
    assert time.sequence.typical == near(h1 + output + links)
    assert (time.bound.where, time.bound.resource) in (("h1", MAC), ("h1", "memory"), ("output", MAC))
    assert time.missing == ()


def test_a_range_of_rates_is_a_range_of_times(tmp_path):
    mine = machine(tmp_path, rate(MAC, 1e9, "operation", 4e9), rate("memory", 5e12, "64-bit access"))
    config = HardwareConfig(rest=Wire("interposer"))
    time = time_on(chain(20, 10), mine, config)
    assert time.missing == ("throughput of wire interposer (input-output)",) and time.sequence is None
    products = next(load for load in time.loads if load.resource == MAC)
    assert astuple(products.seconds) == near((200 / 4e9, 200 / 1e9, 200 / 5e8))


def test_what_no_source_gives_has_no_time(tmp_path):
    mine = machine(tmp_path)
    ledger = chain(20, 10)
    time = time_on(ledger, mine)
    assert (time.sequence, time.pipelined, time.bound) == (None, None, None)
    assert time.missing == (
        "throughput of multiply-accumulate (output)",
        "throughput of memory (output)",
        "throughput of wire on-die (input-output)",
    )
    bill = price_on(ledger, mine).per("sample")
    assert power(bill, time) is None and roofline(time) is None and with_static(bill, time) == bill
    with pytest.raises(ValueError, match=r"^output: the throughput of multiply-accumulate is not known$"):
        _ = time.loads[0].seconds


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("cpu", ("throughput of synaptic operation (output)", "throughput of neuron update (output)")),
        ("xnorbin", ("throughput of synaptic operation (output)",)),
        ("loihi", ()),
        ("spinnaker", ()),
        ("braintta", ()),
    ],
)
def test_machines_with_and_without_a_time(name, missing):
    fmt, weight = ("binary", "binary") if name == "xnorbin" else ("binary01", "fixed(8,1)")
    time = time_on(chain(20, 10, fmt=fmt, weight=weight), Machine.load(name))
    assert time.missing == missing and (time.sequence is None) == bool(missing)


def test_layers_on_one_core_take_turns(tmp_path):
    text = PROCESS[: PROCESS.index("[core]")] + 'left_out = ["links"]\n'
    mine = machine(tmp_path, rate(MAC, 1e9, "operation"), rate("memory", 1e12, "bit"), text=text)
    ledger = chain(20, 20, 10)
    time = time_on(ledger, mine, HardwareConfig(cores={"h1": (Core(),), "output": (Core(),)}))
    assert time.missing == ("throughput of links (input-h1)",)
    loads = {(load.where, load.resource): load for load in time.loads}
    assert loads["h1", "memory"].events == 400 * 8, "a throughput of bits"
    apart = time_on(ledger, mine, HardwareConfig(cores={"h1": (Core(),), "output": (Core(column=1),)}))
    for each, taken in ((time, 600e-9), (apart, 400e-9)):
        without_links = type(each)(each.machine, each.config, each.layers, tuple(x for x in each.loads if x.throughput))
        assert without_links.pipelined.typical == near(taken) and without_links.sequence.typical == near(600e-9)


def test_a_fixed_step_is_the_time_of_a_layer():
    time = time_on(chain(20, 20, 10), Machine.load("truenorth"))
    assert time.sequence == Range(2e-3, 2e-3, 2e-3) and time.pipelined == Range(1e-3, 1e-3, 1e-3)
    assert time.bound is None


def test_cores_wait_for_each_other_on_loihi():
    """Davies et al. 2018, Table 2: 3.5 ns a synapse, 8.4 ns a neuron, 3.44 Gspike/s, 465 ns a barrier of 32 tiles."""
    time = time_on(chain(20, 10, ones=0.4), Machine.load("loihi"))
    synapses, neurons, spikes = 8 * 10 * 3.5e-9, 10 * 8.4e-9, 8 / 3.44e9
    assert time.sequence.typical == pytest.approx(max(synapses, neurons) + spikes + 465e-9, rel=1e-3)
    assert time.pipelined.typical == pytest.approx(synapses + 465e-9, rel=1e-3)
    assert (time.bound.where, time.bound.resource) == ("output", "synaptic operation")


def test_formats_have_rates_of_their_own():
    """Molendijk et al. 2022: 614, 307 and 77 GOPS at 1, 2 and 8 bits, two operations to a multiply-accumulate."""
    for fmt, weight, each in (
        ("binary", "binary", 307e9),
        ("binary", "ternary", 153.5e9),
        ("binary", "fixed(8,1)", 38.5e9),
    ):
        time = time_on(chain(20, 10, fmt=fmt, weight=weight), Machine.load("braintta"))
        assert time.sequence.typical == near(200 / each)


# --- power


def test_finn_by_its_watts(tmp_path):
    """Umuroglu et al. 2017: 12.3 million images a second at 25 W, whatever is charged by event: 2.03 uJ an image."""
    text = PROCESS[: PROCESS.index("[core]")].replace('process = "45nm"', 'covered = ["synapses", "neurons", "links"]')
    mine = machine(
        tmp_path, rate("synaptic operation", 12.3e6 * 334_336, "synaptic operation"), watts(25, "chip"), text=text
    )
    ledger = chain(784, 256, 256, 256, 10, fmt="binary", weight="binary")
    bill, time = price_on(ledger, mine).per("sample"), time_on(ledger, mine)
    assert bill.total.typical == 0 and time.pipelined.typical == near(1 / 12.3e6)
    drawn = power(bill, time)
    assert drawn.total.typical == near(25 / 12.3e6) and drawn.watts.typical == near(25)
    published = price_on(ledger, Machine.load("finn")).per("sample")
    assert drawn.total.typical == pytest.approx(published.total.typical, rel=0.01)


def test_truenorth_draws_26_picojoules_a_synaptic_event():
    """Merolla et al. 2014: 26 pJ at 20 Hz and 128 synapses a neuron, of 2^20 neurons; most of it is static."""
    seconds, neurons = 1000, 2**20  # a second, in steps of 1 ms
    ledger = Ledger(samples=seconds)
    ledger.crossed(MessageType("a-b", UP, "activations", "binary01", 1, neurons), seconds, 20 * neurons, 0)
    ledger.worked(Work("b", "activations", MAC, "binary01", "binary"), seconds * neurons * 128)
    machine, config = Machine.load("truenorth"), HardwareConfig()
    bill, time = price_on(ledger, machine, config).per("sample"), time_on(ledger, machine, config)
    events = 20 * neurons * 128 / seconds
    assert bill.total.typical / events == near(2.297e-12)
    drawn = power(bill, time)
    assert drawn.total.typical / events == pytest.approx(26e-12, rel=0.02)
    assert drawn.watts.typical == pytest.approx(0.0708, rel=0.01)
    average = price_on(ledger, Machine.load("truenorth-average"), config).per("sample")
    assert with_static(average, time_on(ledger, Machine.load("truenorth-average"), config)) == average


def test_static_power_is_of_the_parts_in_use(tmp_path):
    text = PROCESS.replace("neurons = 10", "neurons = 10\nmemory_bits = 1000000")
    parts = watts(3, "chip"), watts(0.5, "core"), watts(1e-6, "memory bit")
    mine = machine(tmp_path, RATES, *parts, text=text)
    ledger = chain(20, 20, 10)
    time, bill = time_on(ledger, mine), price_on(ledger, mine).per("sample")
    full = with_static(bill, time)
    assert full.by("part")["static"].typical == near((3 + 3 * 0.5 + 3) * time.sequence.typical)
    assert {item.where for item in full.items if item.part == "static"} == {"chip", "core", "memory bit"}
    drawn = power(bill, time)
    assert astuple(drawn.total) == near(astuple(full.total)) and drawn.dynamic == bill.total
    assert drawn.energy_delay.typical == near(full.total.typical * time.sequence.typical)
    assert drawn.watts.typical == near(full.total.typical / time.sequence.typical)


def test_idle_time_costs_static_power(tmp_path):
    mine = machine(tmp_path, RATES, watts(3, "chip"))
    ledger = chain(20, 20, 10)
    time, bill = time_on(ledger, mine), price_on(ledger, mine).per("sample")
    drawn = power(bill, time, samples_per_second=100)
    assert drawn.static.typical == near(3 / 100) and drawn.watts.typical == near(3 + 100 * bill.total.typical)
    assert with_static(bill, time, 100).by("part")["static"].typical == near(0.03)
    with pytest.raises(ValueError) as error:
        power(bill, time, samples_per_second=1e9)
    assert (
        str(error.value)
        == f"machine 'mine' takes {time.pipelined.typical:.3g} s a sample, so it does not do 1e+09 a second"
    )
    with pytest.raises(ValueError) as error:
        power(price_on(ledger, mine), time)
    assert str(error.value) == "power is of samples, and this bill is per ledger; take it per sample"


def test_static_power_without_a_time_is_left_out_and_said(tmp_path):
    mine = machine(tmp_path, watts(3, "chip"), rate(MAC, 1e9, "operation"), rate("memory", 1e9, "bit"))
    ledger = chain(20, 10)
    full = with_static(price_on(ledger, mine).per("sample"), time_on(ledger, mine))
    assert full.notes[-1] == (
        "mine: without static power, since the time is not known: no throughput of wire on-die (input-output)"
    )


def test_idle_links_draw_power(tmp_path):
    wire = tmp_path / "serial.toml"
    wire.write_text(
        'description = "Serial."\n[constants.wire]\ntypical = 5e-12\nunit = "joule"\nper = "bit"\n'
        'source = "A. Author, 2000"\nevidence = "assumed"\n' + watts(0.1, "link") + rate("lanes", 1e11, "bit")
    )
    mine = machine(tmp_path, RATES, "\n[units]\nmemory = 2\n", text=PROCESS)
    config = HardwareConfig({"h1-output": Wire(str(wire))})
    assert [(constant.typical, number) for constant, number in mine.static(config)] == [(0.1, 1)]
    time = time_on(chain(20, 20, 10), mine, config)
    lanes = next(load for load in time.loads if load.where == "h1-output")
    assert lanes.throughput.typical == 1e11 and lanes.resource == f"wire {wire}"


def test_watts_of_parts_that_nobody_counts(tmp_path):
    mine = machine(tmp_path, watts(1e-9, "memory bit"))
    with pytest.raises(ValueError) as error:
        mine.static(HardwareConfig())
    assert str(error.value) == (
        "machine 'mine': constant 'static memory bit' is in watts per memory bit, and the machine does not say how "
        "many it has"
    )


# --- rooflines


def test_roofline(tmp_path):
    """20 neurons on two cores do 400 products and read 3200 bits of weights, and 20 bits come to each."""
    mine = machine(tmp_path, RATES)
    drawn = roofline(time_on(chain(20, 20, 10), mine))
    assert drawn.machine == "mine" and drawn.peak == near(1e9)
    assert drawn.roofs == (
        Roof("memory", near(64 * 5e8)),
        Roof("wire on-die", near(1e9 / 2)),
        Roof("wire on-die of output", near(1e9)),
    )
    reached = 200 / max(200 / 1e9, 200 * 8 / 64 / 5e8, 2 * 20 / 1e9)
    assert drawn.points == (
        Point("h1", "memory", near(1 / 8), near(reached)),
        Point("h1", "wire on-die", near(400 / 40), near(reached)),
        Point("output", "memory", near(1 / 8), near(reached)),
        Point("output", "wire on-die of output", near(200 / 20), near(reached)),
    )
    assert drawn.attainable("memory", 1 / 64) == near(5e8) and drawn.attainable("memory", 1) == near(1e9)


@pytest.mark.parametrize("memory", [1e7, 1e9, 1e11])
def test_no_point_is_above_its_roofs(tmp_path, memory):
    mine = machine(
        tmp_path, rate(MAC, 1e9, "operation"), rate("memory", memory, "bit"), rate("wire on-die", 1e8, "bit")
    )
    drawn = roofline(time_on(chain(20, 30, 40, 10), mine))
    bounds = [drawn.attainable(point.roof, point.intensity) for point in drawn.points]
    assert len(bounds) == 6
    assert all(
        point.products_per_second <= bound * (1 + 1e-9) for point, bound in zip(drawn.points, bounds, strict=True)
    )


def test_time_of_learning_on_loihi():
    """Davies et al. 2018, Table 2: 6.1 ns a synaptic update."""
    ledger = chain(20, 10, ones=0.4)
    ledger.worked(Work("output", "gradient", MAC, "binary01", "float32"), 4 * 200)
    time = time_on(ledger, Machine.load("loihi"))
    update = next(load for load in time.loads if load.resource == "learning update")
    assert update.seconds.typical == pytest.approx(8 * 10 * 6.1e-9, rel=1e-3)


def test_a_wire_of_flits_is_timed_by_the_flit(tmp_path):
    wire = tmp_path / "noc.toml"
    wire.write_text(
        'description = "A mesh."\nflit_bits = 16\n[constants.router]\ntypical = 1e-12\nunit = "joule"\n'
        'per = "flit and hop"\nsource = "A. Author, 2000"\nevidence = "assumed"\n' + rate("flits", 1e9, "flit")
    )
    mine = machine(tmp_path, RATES, text=PROCESS.replace("on-die:1mm", str(wire)))
    time = time_on(chain(20, 20, 10), mine)
    flits = {load.where: (load.events, load.bits_each) for load in time.loads if load.resource.startswith("wire")}
    assert flits == {"input-h1": (2 * 2, 16), "h1-output": (2, 16)}
    assert Technology.load(str(wire)).flit_bits == 16
