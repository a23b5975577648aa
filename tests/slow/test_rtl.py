"""The network of the thesis as Verilog, on the test images of MNIST: every sum, code and class, and the traffic."""

import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from export import FixedNetwork, simulation, write
from lowbit_dtp.data import find, load
from lowbit_dtp.formats import float32
from lowbit_dtp.ledger import Direction, Ledger
from lowbit_dtp.links import Link, Signal

MISSING = [file.name for file, path in find("mnist") if path is None]
TOOLS = [tool for tool in ("verilator", "g++", "make") if shutil.which(tool) is None]
IMAGES = int(os.environ.get("LOWBIT_DTP_IMAGES", "10000"))
"""Test images; fewer for a first look."""


@pytest.mark.skipif(bool(MISSING + TOOLS), reason=f"not found: {', '.join(MISSING + TOOLS)}")
def test_all_test_images_in_verilator(tmp_path):
    arguments = ["train", "--data", "mnist", "--rule", "straight-through", "--epochs", "1", "--out", tmp_path / "run"]
    subprocess.run([sys.executable, "-m", "lowbit_dtp", *arguments], check=True, capture_output=True)
    path = next((tmp_path / "run").rglob("network.safetensors"))
    network = FixedNetwork.load(path, weights="fixed(4,1)")
    assert [link.neurons for link in network.links] == [784, 500, 500]
    inputs = np.asarray(load("mnist").test.inputs)[:IMAGES]
    write(network, "verilog", tmp_path / "verilog", inputs, {"fold": "4x4"})
    printed = simulation.simulate(tmp_path / "verilog", "verilator", 24500 * IMAGES)
    assert simulation.outcome(tmp_path / "verilog", printed).passed
    assert "cycles: 24500\n" in printed
    trace, ledger = network.infer(inputs), Ledger()
    for link in network.links:
        fmt, codes = link.levels.format, trace.codes[link.name].astype(np.uint8)
        signal = Signal(codes, fmt, np.zeros(1, np.float32))
        Link(fmt, float32, *link.name.split("-")).send(signal, Direction.FORWARD, "activations", ledger)
    simulated = re.findall(r"link (\S+): (\d+) bits, (\d+) ones, (\d+) toggles, ", printed)
    assert [(name, *map(int, counts)) for name, *counts in simulated] == [
        (name, ledger.bits(name), ledger.ones(name), ledger.toggles(name)) for name in ledger.links()
    ]
