"""Verification of an export as Verilog: its test bench, in Icarus Verilog or Verilator."""

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from lowbit_dtp.storage import read_json

from .folder import MANIFEST
from .verify import Verification, VerificationError

NO_SIMULATOR = "not run: neither iverilog nor verilator"

SHORT = 100_000
"""Cycles of a simulation that Icarus, which compiles at once, finishes before Verilator has compiled."""


def sources(folder: Path, part: str) -> list[str]:
    """The Verilog files of `part` of an export, `rtl` or `bench`."""
    return sorted(str(path) for path in (folder / part).glob("*.v"))


def simulator(cycles: int) -> str | None:
    """The simulator for so many cycles: Icarus for a few, Verilator for many, or the one that is there."""
    order = ("iverilog", "verilator") if cycles <= SHORT else ("verilator", "iverilog")
    return next((name for name in order if shutil.which(name)), None)


def cycles(manifest: dict[str, Any]) -> int:
    """About how many cycles the test bench takes."""
    hardware = manifest["hardware"]
    vectors = {x["path"]: x["vectors"] for x in manifest["golden"] if x["path"].endswith(".codes.mem")}
    by_layer = {
        layer["name"]: vectors[f"golden/layers/{layer['name']}/{layer['below']}.codes.mem"]
        for layer in manifest["layers"]
    }
    alone = sum(by_layer[x["name"]] * x["cycles"] for x in hardware["layers"])
    messages: int = hardware["links"][0]["messages"]
    return alone + messages * int(hardware["cycles_per_frame"])


def test_bench(folder: Path, chosen: str | None = None) -> Verification:
    """Compile the test bench of `folder` in another folder, and let it compare every golden vector.

    `chosen` is `iverilog` or `verilator`; None takes the one that is faster for this export.
    """
    folder = Path(folder).absolute()
    expected = cycles(read_json(folder / MANIFEST))
    chosen = chosen or simulator(expected)
    if chosen is None:
        return Verification(NO_SIMULATOR)
    return outcome(folder, simulate(folder, chosen, expected))


def simulate(folder: Path, chosen: str, cycles: int) -> str:
    """What the test bench of `folder`, which takes about so many `cycles`, prints in the simulator `chosen`."""
    files = [*sources(folder, "rtl"), *sources(folder, "bench")]
    with tempfile.TemporaryDirectory() as scratch:
        if chosen == "iverilog":
            program = _icarus(folder, files, Path(scratch))
        else:
            program = _verilator(folder, files, Path(scratch), cycles)
        return run(folder, program, "the test bench")


def test_board(folder: Path) -> Verification:
    """Let the board of `folder` compute the golden vectors over its serial port, in Icarus Verilog."""
    folder = Path(folder).absolute()
    if shutil.which("iverilog") is None:
        return Verification(NO_SIMULATOR)
    files = [*sources(folder, "rtl"), *sources(folder, "boards")]
    files += [str(folder / "bench" / name) for name in ("ldtp_source.v", "ldtp_check.v")]
    with tempfile.TemporaryDirectory() as scratch:
        return outcome(folder, run(folder, _icarus(folder, files, Path(scratch), "board_bench"), "the test bench"))


def _icarus(folder: Path, files: list[str], scratch: Path, top: str = "icarus") -> list[str]:
    program = scratch / "testbench"
    run(folder, ["iverilog", "-g2005", "-s", top, "-o", str(program), *files], "iverilog")
    return ["vvp", str(program)]


def _verilator(folder: Path, files: list[str], scratch: Path, cycles: int) -> list[str]:
    verilog = [path for path in files if not path.endswith("/icarus.v")]
    options = ["--cc", "--exe", "--top-module", "testbench", "-Wno-fatal", "-Wno-lint", "-O3", "--x-assign", "fast"]
    optimized = "-O2" if cycles > SHORT else "-O0"  # compiling takes longer than running
    build = ["--build", "-j", str(os.cpu_count() or 1), "-CFLAGS", optimized, "--Mdir", str(scratch / "build")]
    clock = str(folder / "bench" / "simulate.cpp")
    run(folder, ["verilator", *options, *build, *verilog, clock], "verilator")
    return [str(scratch / "build" / "Vtestbench")]


def run(folder: Path, command: list[str], what: str) -> str:
    """Standard output of `command`, run in `folder`. VerificationError with its output if it fails."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise VerificationError(
            f"{folder}: {what} ended with status {done.returncode}\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
        )
    return done.stdout


def outcome(folder: Path, printed: str) -> Verification:
    """What a test bench found, from what it `printed`."""
    for line in printed.splitlines():
        if passed := re.fullmatch(r"passed: (\d+) vectors, (\d+) values", line):
            return Verification("passed", int(passed[1]), int(passed[2]))
        if failed := re.fullmatch(r"(failed at link \S+, (?:neuron \d+|traffic)): (.+)", line):
            return Verification(failed[1], detail=failed[2])
    raise VerificationError(f"{folder}: the test bench came to no result\n{printed[-4000:]}")
