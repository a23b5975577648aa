"""Exports as Verilog: checked by Verilator's lint, simulated, changed bit by bit; their traffic is the ledger's."""

import re
import shutil
import subprocess
from importlib.util import module_from_spec, spec_from_file_location
from itertools import pairwise

import numpy as np
import pytest

from export import TARGETS, FixedNetwork, VerificationError, simulation, verified, verilog, write
from export.folding import fold_layers
from lowbit_dtp.formats import float32
from lowbit_dtp.ledger import Direction, Ledger
from lowbit_dtp.links import Link, Signal
from lowbit_dtp.storage import read_json

needs_icarus = pytest.mark.skipif(shutil.which("iverilog") is None, reason="no iverilog")
needs_verilator = pytest.mark.skipif(shutil.which("verilator") is None, reason="no verilator")
LINKS = ("ufixed(4,0)", "ternary", "binary")
FED = "input-h1.codes|layers/h2/h1-h2.codes|layers/output/h2-output.codes|comparators/h.*sums|comparators/.*logits"
"""Golden files that are fed in; the others are compared."""


@pytest.fixture
def exported(make_network, tmp_path):
    """Writes a network as Verilog; returns the folder."""

    def make(weights="fixed(4,1)", samples=5, options=None, **arguments):
        network = FixedNetwork.of(*make_network(**{"links": LINKS} | arguments), weights)
        inputs = np.random.default_rng(3).random((samples, network.links[0].neurons)).astype(np.float32)
        write(network, "verilog", tmp_path / "verilog", inputs, options)
        return tmp_path / "verilog"

    return make


def _lint(folder):
    command = ["verilator", "--lint-only", "-Wall", "--top-module", "network", *simulation.sources(folder, "rtl")]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True).stderr


@needs_verilator
@pytest.mark.parametrize(
    ("links", "weights", "fold"),
    [
        (("ufixed(8,0)", "fixed(4,1)", "binary01"), "binary", "h1=4x2,h2=2x4,output=1x2"),
        (("binary", "binary", "table(-1,0,0.5)"), "table(-1,0,0.5)", "h1=3x2,h2=2x3,output=2x1"),
        (("fixed(3,1)", "binary01", "binary"), "fixed(8,1)", ""),
    ],
)
def test_verilator_finds_nothing_to_warn_of(exported, links, weights, fold):
    assert _lint(exported(weights, links=links, sizes=(7, 6, 5, 3), options={"fold": fold})) == ""


@needs_icarus
@pytest.mark.parametrize(
    ("sizes", "fold"),
    [
        ((7, 6, 5, 3), "h1=4x3,h2=3x2,output=2x3"),
        ((9, 4, 9, 2), "h1=2x4,h2=9x4,output=1x3"),
        ((1, 1, 1, 1), ""),
    ],
)
def test_frames_that_fill_no_beat_and_gearboxes_of_both_kinds(exported, sizes, fold):
    folder = exported(sizes=sizes, options={"fold": fold})
    assert simulation.test_bench(folder, "iverilog").status == "passed"


@needs_icarus
@pytest.mark.parametrize("link", ["binary", "fixed(3,1)"])
def test_memories_with_registers_behind_them(exported, link):
    folder = exported(links=("ufixed(2,0)", link), activations=("tanh",), sizes=(48, 11, 2), options={"fold": "1x1"})
    assert ".ROM_REGISTER(1)" in (folder / "rtl/layer_h1.v").read_text()
    assert ".ROM_REGISTER(0)" in (folder / "rtl/layer_output.v").read_text()
    assert simulation.test_bench(folder, "iverilog").status == "passed"


@needs_icarus
def test_memories_that_are_too_deep_are_laid_out_wide(exported, monkeypatch):
    monkeypatch.setattr(verilog, "ROM_ROWS", 64)
    folder = exported(
        links=("ufixed(2,0)", "binary"), activations=("tanh",), sizes=(49, 11, 2), options={"fold": "2x3"}
    )
    lines = (folder / "h1.weights.mem").read_text().split()  # 102 beats, two a line, each of 2 x 3 weights of 4 bits
    assert (len(lines), len(lines[0])) == (51, 12)
    assert ".ROW_BEATS(2)" in (folder / "rtl/layer_h1.v").read_text()
    assert simulation.test_bench(folder, "iverilog").status == "passed"
    monkeypatch.setattr(verilog, "ROM_ROWS", 24)
    folder = exported(
        links=("ufixed(2,0)", "binary"), activations=("tanh",), sizes=(49, 11, 2), options={"fold": "2x3"}
    )
    assert len((folder / "h1.weights.mem").read_text().split()) == 21  # the last of two beats out of five
    assert simulation.test_bench(folder, "iverilog").status == "passed"
    _spoil(folder / "h1.weights.mem", 4, 15, 0)  # beat 22 of 17 a group, neuron 1 of its two
    assert verified(folder).status == "failed at link h1-output, neuron 3"
    assert simulation.test_bench(folder, "iverilog").status == "failed at link h1-output, neuron 3"


@needs_icarus
@pytest.mark.parametrize(
    ("link", "weights"),
    [
        ("binary", "binary"),
        ("binary", "ternary"),
        ("binary01", "fixed(3,1)"),
        ("binary01", "table(0,1)"),
        ("ternary", "binary"),
        ("ufixed(2,0)", "table(-1,0,0.5)"),
        ("fixed(3,1)", "fixed(8,1)"),
        ("table(-1,0,0.5)", "fixed(16,1)"),
    ],
)
def test_every_product_and_comparison(exported, link, weights):
    activations = ("tanh", "sigmoid" if link.startswith("u") else "relu")
    folder = exported(weights, links=("ufixed(3,0)", link, link), activations=activations, options={"fold": "2x2"})
    result = TARGETS["verilog"].verify(folder)
    assert result.status == "passed", result
    golden = read_json(folder / "manifest.json")["golden"]
    fed = [x for x in golden if re.search(FED, x["path"])]
    assert len(fed) == 7
    assert result.vectors == sum(x["vectors"] for x in fed)
    assert result.values == sum(x["vectors"] * x["fields"] for x in golden if x not in fed)


@needs_icarus
@pytest.mark.parametrize("fold", ["1x1", "h1=4x2,h2=2x4,output=1x2"])
@pytest.mark.parametrize("links", [LINKS, ("fixed(3,1)", "binary01", "table(-1,0,0.5)")])
def test_traffic_in_the_simulator_is_that_of_the_ledger(exported, make_network, links, fold):
    folder = exported(links=links, options={"fold": fold})
    printed = simulation.simulate(folder, "iverilog", 1000)
    simulated = {
        name: tuple(map(int, counts))
        for name, *counts in re.findall(r"link (\S+): (\d+) bits, (\d+) ones, (\d+) toggles, ", printed)
    }
    network = FixedNetwork.of(*make_network(links=links), "fixed(4,1)")
    trace = network.infer(np.random.default_rng(3).random((5, 5)).astype(np.float32))
    ledger, forward = Ledger(), (Direction.FORWARD, "activations")
    for link in network.links:
        lower, upper = link.name.split("-")
        fmt, codes = link.levels.format, trace.codes[link.name].astype(np.uint8)
        Link(fmt, float32, lower, upper).send(Signal(codes, fmt, np.zeros(1, np.float32)), *forward, ledger)
    counted = {name: (ledger.bits(name), ledger.ones(name), ledger.toggles(name)) for name in ledger.links()}
    assert simulated == counted
    assert len(counted) == 3


@needs_icarus
def test_frames_follow_each_other_in_the_cycles_of_the_slowest_layer(exported):
    for options in ({"fold": "1x1"}, {"fold": "h1=2x4,h2=1x2,output=1x1"}, {"target_cycles": 12}):
        folder = exported(sizes=(8, 6, 5, 3), samples=6, options=options)
        hardware = read_json(folder / "manifest.json")["hardware"]
        assert hardware["cycles_per_frame"] == max(x["cycles"] for x in hardware["layers"])
        assert f"cycles: {hardware['cycles_per_frame']}\n" in simulation.simulate(folder, "iverilog", 1000)


def _spoil(path, line, digit, bit):
    """Flip a bit of a hexadecimal digit of a line, counted from its end."""
    lines = path.read_text().splitlines()
    text = lines[line]
    at = len(text) - 1 - digit
    lines[line] = f"{text[:at]}{int(text[at], 16) ^ 1 << bit:x}{text[at + 1 :]}"
    path.write_text("\n".join(lines) + "\n")


@needs_icarus
@pytest.mark.parametrize(
    ("file", "line", "digit", "bit", "place"),
    [
        ("h1.weights.mem", 0, 0, 0, "h1-h2, neuron 0"),
        ("h1.weights.mem", 4, 3, 3, "h1-h2, neuron 3"),  # inputs 2 and 3 of neurons 2 and 3
        ("h1.thresholds.mem", 2, 0, 0, "h1-h2, neuron 2"),  # the first of two thresholds a neuron
        ("output.biases.mem", 1, 0, 1, "output, neuron 1"),
        ("golden/layers/h2/h2-output.sums.mem", 4, 0, 0, "h2-output, neuron 0"),
        ("golden/comparators/h1/h1-h2.codes.mem", 2, 1, 1, "h1-h2, neuron 2"),
        ("golden/comparators/output/output.classes.mem", 1, 0, 0, "output, neuron 0"),
        ("golden/network/output.logits.mem", 3, 0, 0, "output, neuron 0"),
    ],
)
def test_a_flipped_bit_is_located(exported, file, line, digit, bit, place):
    folder = exported(options={"fold": "2x2"})
    _spoil(folder / file, line, digit, bit)
    result = simulation.test_bench(folder, "iverilog")
    assert result.status == f"failed at link {place}"
    assert re.fullmatch(r"line \d+ of golden/\S+\.mem: expected -?\d+, got -?\d+", result.detail)
    assert (result.vectors, result.values, result.passed) == (0, 0, False)


@needs_icarus
def test_traffic_that_was_not_predicted_and_a_bench_without_result(exported):
    folder = exported()
    path = folder / "bench/testbench.v"
    right = path.read_text()
    predicted = read_json(folder / "manifest.json")["hardware"]["links"][1]
    path.write_text(right.replace(f".TOGGLES(64'd{predicted['toggles']})", ".TOGGLES(64'd123)", 2))
    result = simulation.test_bench(folder, "iverilog")
    assert result.status == "failed at link h1-h2, traffic"
    ones, bus = predicted["ones"], predicted["bus_toggles"]
    assert result.detail == f"expected {ones} ones, 123 toggles, {bus} of the bus"
    path.write_text(right.replace(".s_axis_tlast(last)", ".s_axis_tlast(1'b1)"))
    with pytest.raises(VerificationError) as error:
        simulation.test_bench(folder, "iverilog")
    assert str(error.value) == f"{folder}: the test bench came to no result\nstuck: frame_error\n"
    path.write_text("module testbench(")
    with pytest.raises(VerificationError) as error:
        simulation.test_bench(folder, "iverilog")
    assert str(error.value).startswith(f"{folder}: iverilog ended with status ")


def test_without_a_simulator_nothing_is_claimed(exported, monkeypatch):
    folder = exported()
    monkeypatch.setenv("PATH", "")
    assert simulation.test_bench(folder).as_dict() == {
        "status": "not run: neither iverilog nor verilator",
        "vectors": 0,
        "values": 0,
        "detail": "",
    }


def test_short_simulations_take_icarus_and_long_ones_verilator(exported, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: name)
    assert simulation.simulator(1000) == "iverilog"
    assert simulation.simulator(10**6) == "verilator"
    assert (
        1000
        < simulation.cycles(read_json(exported(sizes=(8, 6, 5, 3), options={"fold": "1x1"}) / "manifest.json"))
        < 9000
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fold": "2"}, "fold of all layers: '2' must be OUTPUTSxINPUTS, as 4x4"),
        ({"fold": "h1=0x1"}, "fold of layer h1: '0x1' must be OUTPUTSxINPUTS, as 4x4"),
        ({"fold": "h2=4x1"}, "fold of layer h2: 4x1 is more than its 3 outputs and 4 inputs"),
        ({"fold": "h3=1x1"}, "no layer 'h3'; there are: h1, h2, output"),
        (
            {"fold": "h1=3x1,h2=1x2"},
            "link h1-h2: layer h1 sends 3 codes a beat and layer h2 takes 2; one must divide the other",
        ),
        ({"fold": "1x1", "target_cycles": 9}, "give a fold or target cycles, not both: '1x1' and 9"),
        ({"target_cycles": 0}, "target cycles must be 1 or more, not 0"),
        ({"target_cycles": 2}, "layer output: no folding takes at most 2 cycles a frame; it takes at least 6"),
        ({"folds": "1x1"}, "no option of target verilog 'folds'; there are: fold, target_cycles"),
    ],
)
def test_foldings_that_cannot_be(exported, options, message):
    with pytest.raises(ValueError) as error:
        exported(options=options)
    assert str(error.value) == message


def test_options_that_a_target_does_not_have(make_network, tmp_path):
    with pytest.raises(ValueError) as error:
        write(FixedNetwork.of(*make_network()), "mem", tmp_path / "mem", np.zeros((1, 5)), {"fold": "1x1"})
    assert str(error.value) == "target mem has no options, so not 'fold'"


def test_the_folding_that_is_chosen_meets_the_target_and_fits_together(make_network):
    network = FixedNetwork.of(*make_network(links=("ufixed(8,0)", "binary", "binary"), sizes=(784, 500, 500, 10)))
    sizes = []
    for target in (100_000, 24_500, 1834):
        layers = fold_layers(network, target_cycles=target)
        assert max(x.cycles for x in layers) <= target
        for below, above in pairwise(layers):
            sent, taken = below.fold.outputs, above.fold.inputs
            assert sent % taken == 0 or taken % sent == 0
        sizes.append(sum(x.size for x in layers))
    assert sizes == sorted(sizes)
    assert [str(x.fold) for x in fold_layers(network)] == ["4x4", "4x4", "1x4"]


@needs_icarus
@pytest.mark.parametrize(
    ("links", "sizes", "fold"),
    [
        (LINKS, (5, 4, 3, 3), "1x3"),
        (("binary", "binary", "binary"), (9, 4, 3, 1), "2x9"),
        (("ufixed(8,0)",), (5, 300), "4x1"),
    ],
)
def test_a_board_gives_the_classes_over_its_serial_port(exported, links, sizes, fold):
    activations = ("tanh",) * (len(sizes) - 2)
    folder = exported(links=links, sizes=sizes, activations=activations, options={"fold": fold})
    assert simulation.test_board(folder).as_dict() == {"status": "passed", "vectors": 5, "values": 5, "detail": ""}
    path = folder / f"{'h1' if activations else 'output'}.weights.mem"
    path.write_text("".join(f"{int(line, 16) ^ 5:0{len(line)}x}\n" for line in path.read_text().split()))
    classes = folder / "golden/network/output.classes.mem"
    classes.write_text("".join(f"{int(line, 16) ^ 1:0{len(line)}x}\n" for line in classes.read_text().split()))
    assert simulation.test_board(folder).status.startswith("failed at link output, neuron ")


@needs_verilator
def test_verilator_finds_nothing_to_warn_of_in_the_board(exported):
    folder = exported(options={"fold": "1x3"})
    files = [path for path in simulation.sources(folder, "boards") if not path.endswith("testbench.v")]
    command = ["verilator", "--lint-only", "-Wall", "--top-module", "board", *simulation.sources(folder, "rtl"), *files]
    assert subprocess.run(command, cwd=folder, capture_output=True, text=True).stderr == ""


def test_the_host_script_sends_what_the_board_expects(exported):
    folder = exported(links=("ufixed(3,0)", "binary", "binary"), sizes=(5, 4, 3, 3), options={"fold": "1x3"})
    spec = spec_from_file_location("classify", folder / "boards/classify.py")
    script = module_from_spec(spec)
    spec.loader.exec_module(script)
    codes = [5, 1, 7, 2, 6]  # beats 5, 1, 7 and 2, 6, of nine and six bits in two bytes each
    line = f"{sum(code << 3 * i for i, code in enumerate(codes)):04x}"
    assert script.frame(line, 3, 5, 3) == bytes([0b11_001_101, 0b1, 0b110_010, 0])
