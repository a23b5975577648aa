"""The C files on Cortex-M processors: golden vectors under QEMU, instructions, flash and memory."""

import re
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import export
from export import FixedNetwork, VerificationError, microcontroller, verified, write, write_page
from export.c import details
from export.verify import FLAGS
from lowbit_dtp.storage import read_json

absent = microcontroller.missing()
needs_tools = pytest.mark.skipif(bool(absent), reason=f"there is no {', '.join(absent)}")
MIXED = ("ufixed(8,0)", "ufixed(8,1)", "table(-1,0,0.5)")
"""With the weights below, a layer each of bytes, pairs and planes."""


def _write(network, folder, samples=3):
    inputs = np.random.default_rng(0).random((samples, network.links[0].neurons))
    write(network, "c", folder, inputs)
    return folder


@needs_tools
@pytest.mark.parametrize("cpu", microcontroller.CPUS)
def test_processors_compute_every_golden_vector(make_network, tmp_path, cpu):
    weights = {"h2": "fixed(4,1)", "output": "ternary"}
    network = FixedNetwork.of(*make_network(links=MIXED, activations=("sigmoid", "tanh"), sizes=(37, 9, 6, 3)), weights)
    assert details(network)["memory"]["layouts"] == {"h1": "bytes", "h2": "pairs", "output": "planes"}
    folder = _write(network, tmp_path / "c")
    assert microcontroller.verify(folder, cpu).passed
    source = (folder / "network.c").read_text()
    (folder / "network.c").write_text(source.replace("sum >= limits", "sum > limits"))
    assert microcontroller.verify(folder, cpu).status.startswith("failed at link h1-h2, neuron ")


@needs_tools
def test_figures_of_a_small_network(make_network, tmp_path):
    links, sizes = ("ufixed(4,0)", "binary", "binary"), (64, 64, 64, 10)
    network = FixedNetwork.of(*make_network(links=links, sizes=sizes), "fixed(4,1)")
    folder = _write(network, tmp_path / "c")
    small, large = (microcontroller.measure(folder, cpu) for cpu in microcontroller.CPUS)
    tables = details(network)["memory"]
    assert small.static_bytes == large.static_bytes == tables["static_bytes"] == 4 * (32 + 2)  # pairs; 64 bits
    for figures, most in ((small, 45_000), (large, 33_000)):
        assert tables["table_bytes"] < figures.flash_bytes < tables["table_bytes"] + 2500
        assert 64 * 64 < figures.instructions < most
        assert 0 < figures.stack_bytes < 512
        assert "arm-none-eabi-gcc" in figures.compiler
    assert replace(small, cpu="x").as_dict()["cpu"] == "x"


@needs_tools
def test_figures_are_put_into_the_manifest_and_on_the_page(make_network, tmp_path, monkeypatch):
    folder = _write(FixedNetwork.of(*make_network(links=("binary",), activations=(), sizes=(5, 3))), tmp_path / "c")
    monkeypatch.chdir(tmp_path)
    figures = microcontroller.build(Path("c"))
    assert list(figures) == list(microcontroller.CPUS)
    assert read_json(folder / "manifest.json")["microcontrollers"] == figures
    page = write_page(folder).read_text()
    for cpu, found in figures.items():
        assert found["verification"] == "passed"
        assert f"<tr><td>{cpu}</td><td>{found['flash_bytes']:,}</td>" in page
        assert f"<td>{found['instructions']:,}</td><td>passed</td>" in page
    assert verified(folder).passed


@needs_tools
def test_figures_of_what_computes_otherwise_are_refused(make_network, tmp_path):
    folder = _write(FixedNetwork.of(*make_network(links=("binary",), activations=(), sizes=(5, 3))), tmp_path / "c")
    source = (folder / "network.c").read_text()
    (folder / "network.c").write_text(source.replace("+ biases[", "+ 1 + biases["))
    with pytest.raises(VerificationError, match=r"on cortex-m0plus failed at link output, neuron 0: "):
        microcontroller.build(folder)


def test_other_targets_are_not_built():
    with pytest.raises(ValueError) as error:
        microcontroller.check("mem")
    assert str(error.value) == "target mem cannot be built for cortex-m; target c can"


@needs_tools
def test_a_class_that_differs_is_an_error(make_network, tmp_path):
    folder = _write(
        FixedNetwork.of(*make_network(links=("binary", "binary"), activations=("tanh",), sizes=(5, 4, 3))),
        tmp_path / "c",
        1,
    )
    path = folder / "golden/network/output.classes.mem"
    right = int(path.read_text())
    path.write_text(f"{right ^ 1}\n")
    with pytest.raises(VerificationError) as error:
        microcontroller.measure(folder, "cortex-m4")
    assert str(error.value) == f"{folder}: on cortex-m4 the classes are {right}, not {right ^ 1}"


def test_table_bytes_are_those_of_the_tables(make_network):
    """Counted by hand: 33 inputs, so two words a neuron, 2 neurons, 3 classes."""
    links, sizes = ("binary01", "binary"), (33, 2, 3)
    network = FixedNetwork.of(*make_network(links=links, activations=("tanh",), sizes=sizes), "binary")
    weights, limits, bases, biases = (2 * 2 + 3) * 4, 2, 3 * 4, 3 * 4
    tables = details(network)["memory"]
    assert tables["table_bytes"] == weights + limits + bases + biases
    assert tables["static_bytes"] == (2 + 1) * 4
    assert tables["layouts"] == {"h1": "planes", "output": "planes"}


@needs_tools
def test_the_main_program_of_the_page_compiles(make_network, tmp_path):
    page = (Path(export.__file__).parents[1] / "docs/export.md").read_text()
    (tmp_path / "main.c").write_text(re.search(r"```c\n(.*?)```", page, re.DOTALL)[1])
    folder = _write(FixedNetwork.of(*make_network(links=("binary",), activations=(), sizes=(5, 3))), tmp_path / "c")
    command = ["arm-none-eabi-gcc", *FLAGS, "-mcpu=cortex-m0plus", f"-I{folder}", "-c", tmp_path / "main.c"]
    subprocess.run([*command, "-o", tmp_path / "main.o"], check=True)


def test_missing_tools_and_unknown_processors_are_named(make_network, tmp_path, monkeypatch):
    folder = _write(FixedNetwork.of(*make_network(links=("binary",), activations=(), sizes=(5, 3))), tmp_path / "c")
    with pytest.raises(ValueError) as error:
        microcontroller.measure(folder, "z80")
    assert str(error.value) == "no processor 'z80'; there are: cortex-m0plus, cortex-m4"
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(VerificationError) as error:
        microcontroller.verify(folder, "cortex-m4")
    tools, packages = ", ".join(microcontroller.TOOLS), " ".join(microcontroller.TOOLS.values())
    assert str(error.value) == f"there is no {tools}; on Debian: apt-get install {packages}"
