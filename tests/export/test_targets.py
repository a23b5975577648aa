"""Exported files: read back, compiled, run, changed bit by bit, and interrupted while written."""

import json
import os
import re
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

import export
from export import TARGETS, AccuracyLost, FixedNetwork, VerificationError, accuracy_lost, export_network, verify, write
from export.memory_files import hex_lines
from lowbit_dtp.storage import StorageError, read_json
from tests.conformance.cases import TARGETS as CASES
from tests.export.targets import ALL, COMPILER, needs_compiler

PIXELS = np.random.default_rng(3).random((4, 5)).astype(np.float32)
REFUSED = [
    ("nir", "float32", "fixed(8,1)"),
    ("nir", "binary", "fixed(16,1)"),
    ("qonnx", "binary", "fixed(16,1)"),
]
"""Target, links and weights that are refused; the tests of the target have the messages."""


@pytest.fixture
def exported(make_network, tmp_path):
    """Writes a network for a target; returns the folder."""

    def make(target, weights="fixed(8,1)", signals="fixed(8,1)", inputs=PIXELS, **arguments):
        write(FixedNetwork.of(*make_network(**arguments), weights, signals), target, tmp_path / target, inputs)
        return tmp_path / target

    return make


LINKS = ["binary", "binary01", "ternary", "fixed(4,1)", "ufixed(4,0)", "table(-1,0,0.5)", "float32"]
WEIGHTS = ["binary", "ternary", "fixed(3,1)", "fixed(16,1)"]


NETWORKS = [*((x, "fixed(8,1)") for x in LINKS), *(("binary", x) for x in WEIGHTS)]


@pytest.mark.parametrize(
    ("target", "link", "weights"),
    [
        pytest.param(*target.values, link, weights, marks=target.marks)
        for target in ALL
        for link, weights in NETWORKS
        if (*target.values, link, weights) not in REFUSED
    ],
)
def test_what_is_written_computes_the_same(exported, target, link, weights):
    activations = ("tanh", "sigmoid" if link.startswith("u") else "relu")
    folder = exported(target, weights, links=("ufixed(8,0)", link, link), activations=activations)
    result = TARGETS[target].verify(folder)
    assert result.status == "passed", result
    golden = read_json(folder / "manifest.json")["golden"]
    fed = (
        "input-h1.codes",
        "layers/h2/h1-h2.codes",
        "layers/output/h2-output.codes",
        "comparators/h1/h1-h2.sums",
        "comparators/h2/h2-output.sums",
        "comparators/output/output.logits",
    )
    inputs = [x for x in golden if any(part in x["path"] for part in fed)]
    assert len(inputs) == 7
    assert result.vectors == sum(x["vectors"] for x in inputs)
    assert result.values == sum(x["vectors"] * x["fields"] for x in golden if x not in inputs)


@pytest.mark.parametrize("target", ["mem", pytest.param("c", marks=needs_compiler)])
def test_sums_wider_than_32_bits(exported, target):
    folder = exported(target, "fixed(16,1)", links=("ufixed(16,0)", "binary"), activations=("tanh",), sizes=(5, 3, 1))
    assert TARGETS[target].verify(folder).passed
    assert read_json(folder / "manifest.json")["layers"][0]["sum_bits"] > 32
    if target == "c":
        assert "typedef int64_t network_sum;" in (folder / "network.h").read_text()


@pytest.mark.parametrize("target", ALL)
def test_one_layer(exported, target):
    assert TARGETS[target].verify(exported(target, links=("binary",), activations=(), sizes=(5, 3))).passed


def test_lines_of_hexadecimal():
    assert hex_lines([[1, -1, 2], [0, 0, -8]], 4) == b"2f1\n800\n"
    assert hex_lines([[1, 0, 1, 1, 1]], 1) == b"1d\n"
    assert hex_lines([[-1, 0]], 5) == b"01f\n"
    with pytest.raises(ValueError) as error:
        hex_lines([[8, -1]], 4)
    assert str(error.value) == "values -1 to 8 do not fit in 4 bits"


def test_memory_files_of_a_hand_computed_network(make_network, tmp_path):
    tensors, description = make_network(links=("ufixed(2,0)", "binary"), activations=("tanh",), sizes=(2, 2, 2))
    tensors |= {
        "h1.weight": np.array([[0.5, -0.25], [0.25, 1.0]], np.float32),
        "h1.bias": np.array([-0.5, 0.25], np.float32),
        "output.weight": np.array([[-1, 1], [1, 1]], np.float32),
        "output.bias": np.array([0.0, -0.5], np.float32),
    }
    network = FixedNetwork.of(tensors, description, {"h1": "fixed(4,2)", "output": "binary"})
    write(network, "mem", tmp_path / "mem", np.zeros((1, 2)))
    lines = {path.name: path.read_text() for path in (tmp_path / "mem").glob("*.mem")}
    assert lines == {
        "h1.weights.mem": "12\n4f\n",  # 2, 1 and -1, 4 quarters; input 0 least significant
        "h1.thresholds.mem": "08\n1d\n",  # 8 and -3; sums from -3 to 12 take 5 bits
        "output.weights.mem": "2\n3\n",  # bit 1 is +1
        "output.biases.mem": "0\n8\n",  # -1/2 in sixteenths is -8: 4 bits
    }


@pytest.mark.skipif(shutil.which("iverilog") is None, reason="no iverilog")
def test_a_verilog_simulator_reads_the_memory_files(make_network, tmp_path):
    """`$readmemh` takes the files as they are, and field `i` of a line is the part select `[i*bits +: bits]`."""
    network = FixedNetwork.of(*make_network())
    write(network, "mem", tmp_path / "mem", PIXELS)
    layer = network.hidden[0]
    (tmp_path / "read.v").write_text(f"""
module read;
  reg [39:0] memory [0:3];
  reg signed [7:0] weight;
  integer neuron, i;
  initial begin
    $readmemh("{tmp_path}/mem/h1.weights.mem", memory);
    for (neuron = 0; neuron < 4; neuron = neuron + 1)
      for (i = 0; i < 5; i = i + 1) begin
        weight = memory[neuron][i*8 +: 8];
        $display("%0d", weight);
      end
  end
endmodule
""")
    subprocess.run(["iverilog", "-o", tmp_path / "read", tmp_path / "read.v"], check=True)
    printed = subprocess.run([tmp_path / "read"], capture_output=True, text=True, check=True).stdout
    assert list(map(int, printed.split())) == layer.weight.T.ravel().tolist()


def _flips(path):
    """Contents of `path`, each with one bit flipped, and the line it is on."""
    text = path.read_text()
    line = 0
    for position, digit in enumerate(text):
        if digit == "\n":
            line += 1
            continue
        for bit in range(4):
            yield line, f"{text[:position]}{int(digit, 16) ^ 1 << bit:x}{text[position + 1 :]}"


@pytest.mark.parametrize("weights", ["fixed(8,1)", "ternary", "binary"])
@pytest.mark.parametrize("link", ["binary", "ternary", "fixed(4,1)"])
def test_every_flipped_bit_of_weights_and_biases_in_memory_files_is_located(exported, link, weights):
    folder = exported("mem", weights, links=("ufixed(8,0)", link, link))
    manifest = read_json(folder / "manifest.json")
    widths = {"input-h1": 5, "h1-h2": 4, "h2-output": 3}
    flipped = 0
    for layer in manifest["layers"]:
        bits = {"weights": widths[layer["below"]] * layer["weights"]["bits"]}
        if layer["name"] == "output":
            bits["biases"] = manifest["output"]["bias_bits"]
        for kind, used in bits.items():
            path = folder / f"{layer['name']}.{kind}.mem"
            right = path.read_text()
            for line, text in _flips(path):
                if any(int(row, 16) >> used for row in text.split()):
                    continue  # a bit of the padding to whole digits
                path.write_text(text)
                assert verify.memory_files(folder).status == f"failed at link {layer['output_name']}, neuron {line}"
                flipped += 1
            path.write_text(right)
    assert (
        flipped
        == sum(layer["neurons"] * widths[layer["below"]] * layer["weights"]["bits"] for layer in manifest["layers"])
        + 3 * manifest["output"]["bias_bits"]
    )
    assert verify.memory_files(folder).passed


def test_every_threshold_in_memory_files_that_is_off_by_one_within_reach_is_located(make_network, tmp_path):
    network = FixedNetwork.of(*make_network(links=("ufixed(8,0)", "fixed(3,1)", "binary")))
    write(network, "mem", tmp_path / "mem", PIXELS)
    layer, path = network.hidden[0], tmp_path / "mem" / "h1.thresholds.mem"
    moved = 0
    for neuron, index in np.ndindex(*layer.thresholds.shape):
        low, high = (bound[neuron] for bound in layer.sum_bounds)
        for step in (-1, 1):
            spoilt = layer.thresholds.copy()
            spoilt[neuron, index] += step
            if not (low < spoilt[neuron, index] <= high and low < layer.thresholds[neuron, index] <= high):
                continue
            path.write_bytes(hex_lines(spoilt, layer.threshold_bits))
            assert verify.memory_files(tmp_path / "mem").status == f"failed at link h1-h2, neuron {neuron}"
            moved += 1
    assert moved > layer.thresholds.size


@needs_compiler
@pytest.mark.parametrize("weights", ["fixed(8,1)", "fixed(4,1)", "ternary"])
@pytest.mark.parametrize(
    ("table", "output_name", "neuron"),
    [
        ("weights_0", "h1-h2", 3),
        ("bases_1", "h2-output", 1),
        ("thresholds_0", "h1-h2", 1),
        ("weights_1", "h2-output", 0),
        ("thresholds_1", "h2-output", 2),
        ("weights_2", "output", 1),
        ("biases", "output", 0),
    ],
)
def test_a_flipped_bit_in_a_table_of_the_c_source_is_located(exported, table, output_name, neuron, weights):
    folder = exported("c", weights, links=("ufixed(8,0)", "fixed(3,1)", "ternary"))
    path = folder / "network.c"
    before, name, after = path.read_text().partition(f" {table}[")
    lines = after.split("\n")
    line = 1 if table.startswith("bases") or table == "biases" else 1 + neuron  # those have one line in all
    numbers = re.findall(r"-?\w+", lines[line])
    column = neuron if len(numbers) > 1 and line == 1 and not table.startswith(("weights", "thresholds")) else 0
    numbers[column] = str(int(numbers[column], 0) ^ 1)
    lines[line] = ", ".join(numbers) + "," * lines[line].endswith(",")
    path.write_text(before + name + "\n".join(lines))
    result = verify.c_program(folder)
    assert result.status == f"failed at link {output_name}, neuron {neuron}"
    assert re.fullmatch(r"line \d+ of \S+\.mem: expected -?\d+, got -?\d+", result.detail)
    assert (result.vectors, result.values, result.passed) == (0, 0, False)


@needs_compiler
@pytest.mark.parametrize(
    ("code", "instead", "place"),
    [
        ("sum >= limits", "sum > limits", "h1-h2"),
        ("logits[neuron] > logits[best]", "logits[neuron] >= logits[best]", "output"),
        ("* NETWORK_LOGIT_ONE +", "* NETWORK_LOGIT_ONE -", "output"),
        ("(uint32_t)weights[2] * signal[2]", "(uint32_t)weights[2] * signal[1]", "h1-h2"),
        ("part * 2 +", "part * 2 -", "output"),
        ("(w >> 8 & 0x000f000f)", "(w >> 8 & 0x000f0007)", "h2-output"),
    ],
)
def test_changed_c_code_is_found(exported, code, instead, place):
    links, weights = ("ufixed(8,0)", "ufixed(8,1)", "fixed(4,1)"), {"h2": "fixed(4,1)", "output": "ternary"}
    folder = exported("c", weights, links=links, sizes=(5, 4, 3, 3))
    path = folder / "network.c"
    assert path.read_text().count(code) == 1
    path.write_text(path.read_text().replace(code, instead))
    assert verify.c_program(folder).status.startswith(f"failed at link {place}, neuron ")


@pytest.mark.parametrize("target", ALL)
def test_every_golden_file_is_compared(exported, target, tmp_path):
    """Some flipped bit is found in each file: in what is fed in, as it changes what comes out, and in the answers."""
    folder = exported(target, links=("ufixed(8,0)", "binary", "ternary"))

    def passed():
        if target == "c":
            command = [tmp_path / "reference", "check", folder / "golden"]
            return subprocess.run(command, capture_output=True).returncode == 0
        return TARGETS[target].verify(folder).passed

    if target == "c":
        _compile(folder, tmp_path / "reference")
    assert passed()
    for golden in read_json(folder / "manifest.json")["golden"]:
        path = folder / golden["path"]
        right = path.read_text()
        found = False
        for _, text in _flips(path):
            path.write_text(text)
            if found := not passed():
                break
        assert found, path
        path.write_text(right)


def _compile(folder, program, flags=verify.FLAGS):
    command = [*COMPILER, *flags, folder / "network.c", folder / "main.c", "-o", program]
    return subprocess.run(command, capture_output=True, text=True)


@needs_compiler
def test_c_program_has_no_undefined_behaviour(exported, tmp_path):
    links, weights = ("ufixed(8,0)", "ufixed(8,1)", "fixed(4,1)"), {"h2": "fixed(4,1)", "output": "ternary"}
    folder = exported("c", weights, links=links, sizes=(5, 9, 70, 3))
    program = tmp_path / "sanitized"
    build = _compile(folder, program, [*verify.FLAGS, "-fsanitize=undefined,address", "-fno-sanitize-recover"])
    if build.returncode:
        pytest.skip(f"the C compiler has no sanitizers: {build.stderr[:200]}")
    run = subprocess.run([program, "check", folder / "golden"], capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.startswith("passed: ")


@needs_compiler
def test_c_program_runs_inputs_of_ones_own(make_network, tmp_path):
    network = FixedNetwork.of(*make_network())
    write(network, "c", tmp_path / "c", PIXELS)
    _compile(tmp_path / "c", tmp_path / "reference")
    inputs = tmp_path / "c/golden/network/input-h1.codes.mem"
    printed = subprocess.run([tmp_path / "reference", "run", inputs], capture_output=True, text=True, check=True).stdout
    trace, expected = network.infer(PIXELS), []
    for n in range(len(PIXELS)):
        for layer in network.layers:
            expected.append(" ".join(map(str, [layer.below.name, "codes", *trace.codes[layer.below.name][n]])))
            expected.append(" ".join(map(str, [layer.output_name, "sums", *trace.sums[layer.output_name][n]])))
        expected.append(" ".join(map(str, ["output", "logits", *trace.logits[n]])))
        expected.append(f"class {trace.classes[n]}")
    assert printed.splitlines() == expected
    wrong = subprocess.run([tmp_path / "reference", "run", tmp_path / "none"], capture_output=True, text=True)
    assert (wrong.returncode, wrong.stderr) == (2, f"{tmp_path / 'none'}: cannot be opened\n")


@needs_compiler
def test_broken_golden_file_and_broken_source_are_errors_not_outcomes(exported):
    folder = exported("c")
    path = folder / "golden/network/output.sums.mem"
    right = path.read_text()
    for text, problem in (
        (right[: right.rindex("\n", 0, -1) + 1], "has too few lines"),
        (right + right[: right.index("\n") + 1], "has too many lines"),
        (right[1:], "a line is not a hexadecimal number of the right width"),
    ):
        path.write_text(text)
        with pytest.raises(VerificationError) as error:
            verify.c_program(folder)
        assert str(error.value) == f"{folder}: the C program ended with status 2\n{path}: {problem}\n"
    (folder / "main.c").write_text("int main(void) { return x; }\n")
    with pytest.raises(VerificationError) as error:
        verify.c_program(folder)
    assert str(error.value).startswith(f"{folder}: the C files do not compile\n")


def test_without_a_compiler_nothing_is_claimed(exported, monkeypatch):
    folder = exported("c")
    monkeypatch.setenv("CC", "no-such-compiler -O1")
    result = verify.c_program(folder)
    assert result.as_dict() == {"status": "not run: no C compiler", "vectors": 0, "values": 0, "detail": ""}
    assert not result.passed


def test_broken_memory_files_are_named(exported):
    folder = exported("mem")
    path = folder / "h1.weights.mem"
    right = path.read_text()
    for text, message in (
        (right[1:], f"{path}: line 1 must be 10 hexadecimal digits, not {right.split()[0][1:]!r}"),
        (right[: right.index("\n") + 1], f"{folder}: weights of h1 have 1 lines, not 4, one a neuron"),
    ):
        path.write_text(text)
        with pytest.raises(StorageError) as error:
            verify.memory_files(folder)
        assert str(error.value) == message
    path.unlink()
    with pytest.raises(StorageError) as error:
        verify.memory_files(folder)
    assert str(error.value) == f"{path}: no such file"
    assert verify.changed_files(folder) == ["h1.weights.mem"]


def test_manifest_says_what_a_reader_needs(make_network, tmp_path):
    network = FixedNetwork.of(*make_network(links=("ufixed(8,0)", "binary01", "float32")), signals="fixed(4,2)")
    paths = write(network, "mem", tmp_path / "mem", PIXELS)
    assert set(paths) == {path for path in (tmp_path / "mem").rglob("*") if path.is_file()}
    manifest = read_json(tmp_path / "mem/manifest.json")
    assert json.loads((tmp_path / "mem/manifest.json").read_text())["format_version"] == 2
    assert manifest["class_rule"] == "number of the largest logit; the lowest number on a tie"
    inputs, binary, quantized = manifest["links"]
    assert inputs == {
        "name": "input-h1",
        "neurons": 5,
        "trained_format": "ufixed(8,0)",
        "quantized_on_export": False,
        "format": "ufixed(8,0)",
        "bits": 8,
        "unit_exponent": -8,
        "lowest_level": 0,
        "highest_level": 255,
        "zero": {"sent_as": 0.0, "code": 0},
        "codes": "unsigned",
        "q_notation": "UQ0.8",
        "q_definition": "unsigned, 8 bits: 0 before the binary point and 8 after",
    }
    assert binary == {
        "name": "h1-h2",
        "neurons": 4,
        "trained_format": "binary01",
        "quantized_on_export": False,
        "format": "binary01",
        "bits": 1,
        "unit_exponent": 0,
        "lowest_level": 0,
        "highest_level": 1,
        "zero": {"sent_as": 1.0, "code": 1},
        "codes": "index",
        "levels": [0, 1],
    }
    assert (quantized["trained_format"], quantized["format"]) == ("float32", "fixed(4,2)")
    assert quantized["quantized_on_export"] is True
    definition = "two's complement, 4 bits: 2, sign included, before the binary point and 2 after"
    assert quantized["q_definition"] == definition
    h2 = manifest["layers"][1]
    assert h2["threshold_table_bits"] == 3 * 15 * h2["threshold_bits"]
    assert {entry["path"]: entry["sha256"] for entry in manifest["files"]} == {
        str(path.relative_to(tmp_path / "mem")): sha256(path.read_bytes()).hexdigest() for path in paths[:-2]
    }
    assert verify.changed_files(tmp_path / "mem") == []


@pytest.mark.parametrize("target", ALL)
def test_same_network_same_bytes(exported, target, tmp_path):
    def content():
        folder = exported(target, links=("ufixed(8,0)", "binary", "ternary"))
        return {path.relative_to(tmp_path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    assert content() == content()


def _content(folder: Path):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("context", ["a file", "the manifest", "the last step"])
def test_an_export_that_fails_half_way_leaves_the_old_one(exported, make_network, monkeypatch, tmp_path, context):
    folder = exported("mem")
    before = _content(tmp_path)
    calls = []

    def full(path, *rest):
        calls.append(path)
        if context != "a file" or len(calls) > 3:
            raise OSError(28, "No space left on device")
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(*rest)

    if context == "the last step":
        rename = Path.rename
        monkeypatch.setattr(Path, "rename", lambda self, to: full(self) if self.name == "new" else rename(self, to))
    else:
        module, name = (export, "write_bytes") if context == "a file" else (export.folder, "write_json")
        monkeypatch.setattr(module, name, full)
    with pytest.raises(OSError, match="No space left on device"):
        write(FixedNetwork.of(*make_network(seed=9)), "mem", folder, PIXELS)
    monkeypatch.undo()
    assert _content(tmp_path) == before
    assert calls
    write(FixedNetwork.of(*make_network(seed=9)), "mem", folder, PIXELS)
    assert _content(tmp_path) != before
    assert list(tmp_path.iterdir()) == [folder]


def test_only_an_export_is_replaced(exported, make_network, tmp_path):
    (tmp_path / "c").mkdir()
    (tmp_path / "c/thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError) as error:
        exported("c")
    problem = "exists and is not an export (it has no manifest.json); choose another folder"
    assert str(error.value) == f"{tmp_path / 'c'} {problem}"
    assert (tmp_path / "c/thesis.txt").read_text() == "years of work"
    (tmp_path / "c/thesis.txt").unlink()
    folder = exported("c")
    assert not (exported("c") / "h1.weights.mem").exists()
    shutil.rmtree(folder)


def test_unknown_target_lists_those_there_are(make_network, tmp_path):
    with pytest.raises(ValueError) as error:
        write(FixedNetwork.of(*make_network()), "vhdl", tmp_path / "x", PIXELS)
    assert str(error.value) == f"no target 'vhdl'; there are: {', '.join(sorted(TARGETS))}"
    assert list(tmp_path.iterdir()) == []


def test_report_is_json_and_complete(saved, tmp_path):
    path = saved()
    inputs = np.random.default_rng(4).random((50, 5)).astype(np.float32)
    labelled = inputs, np.zeros(50)
    report = export_network(path, "mem", tmp_path / "mem", {"h1": "binary:1"}, "fixed(6,1)", PIXELS, True, labelled)
    told = json.loads(json.dumps(report.as_dict()))
    assert told["verification"]["status"] == "passed"
    assert told["weights"]["h1"] == "table(-1,1)"
    assert told["quantized_links"] == {"h2-output": "fixed(6,1)"}
    figures = {"trained_error_percent", "integer_error_percent", "agreement_percent", "lost_percent"}
    assert set(told["accuracy"]) == {"samples", *figures}
    assert all(Path(file).is_file() for file in told["files"])
    bare = export_network(path, "mem", tmp_path / "mem", "fixed(8,1)", "fixed(8,1)", PIXELS, False)
    assert (bare.verification, bare.accuracy) == (None, None)


def test_accuracy_lost_counts_both_networks(make_network, saved):
    path = saved(links=("ufixed(8,0)", "binary", "float32"), sizes=(5, 9, 7, 3))
    tensors, _ = make_network(sizes=(5, 9, 7, 3))
    network = FixedNetwork.load(path, "fixed(2,1)")
    inputs = np.random.default_rng(5).random((300, 5)).astype(np.float32)
    sent = np.clip(np.rint(inputs * 256), 0, 255) / 256
    h1 = np.where(sent @ tensors["h1.weight"] + tensors["h1.bias"] >= 0, 1, -1)
    h2 = np.tanh(h1 @ tensors["h2.weight"] + tensors["h2.bias"])
    trained = (h2 @ tensors["output.weight"] + tensors["output.bias"]).argmax(1)
    integer = network.infer(inputs).classes
    lost = accuracy_lost(network, path, inputs, trained)
    agreement = 100 * float(np.mean(trained == integer))
    assert lost == AccuracyLost(300, 0.0, 100 - agreement, agreement)
    assert 0 < agreement < 100
    assert lost.as_dict()["lost_percent"] == lost.integer_error_percent
    with pytest.raises(ValueError) as error:
        accuracy_lost(network, path, inputs, trained[:7])
    assert str(error.value) == "labels must be one for each of 300 samples, at least one, not of shape (7,)"


@needs_compiler
def test_the_page_about_exports_does_what_it_says(saved, tmp_path, monkeypatch):
    page = (Path(export.__file__).parents[1] / "docs/export.md").read_text()
    python, shell = (re.search(rf"```{language}\n(.*?)```", page, re.DOTALL)[1] for language in ("python", "sh"))
    saved(sizes=(784, 4, 3, 3))
    monkeypatch.chdir(tmp_path)
    told = subprocess.run(
        [sys.executable, "-c", python],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(export.__file__).parents[1])},
    )
    assert told.returncode == 0, told.stderr
    first, second = told.stdout.splitlines()
    assert first.startswith("Verification(status='passed'")
    assert second.startswith("Verification(status='passed'")
    assert second.endswith(" []")
    shown = subprocess.run(
        ["sh", "-e", "-c", shell.replace("/tmp/reference", str(tmp_path / "reference"))], capture_output=True, text=True
    )
    assert (shown.returncode, shown.stderr) == (0, "")
    passed, codes, *_ = shown.stdout.splitlines()
    assert passed.startswith("passed: ")
    assert codes.startswith("input-h1 codes ")


def test_every_target_is_a_case():
    assert sorted(TARGETS) == sorted(CASES)
