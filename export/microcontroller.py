"""The C files on microcontrollers: flash and memory as the Arm compiler lays them out, instructions under QEMU.

QEMU's board has an Arm Cortex-M4, which runs the instructions of a Cortex-M0+, too. Each instruction counts as one;
cycles, and waits of a flash memory, depend on the chip.
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lowbit_dtp.choices import choose

from .folder import add_to_manifest
from .verify import FLAGS, GoldenFiles, Verification, VerificationError, c_outcome

CPUS = ("cortex-m0plus", "cortex-m4")
"""Processors for which C files are measured."""

DEVICE = "cortex-m"
"""What `--build` calls them all."""

TOOLS = {
    "arm-none-eabi-gcc": "gcc-arm-none-eabi libnewlib-arm-none-eabi",
    "arm-none-eabi-size": "binutils-arm-none-eabi",
    "qemu-system-arm": "qemu-system-arm",
}
"""Programs that are needed, with the Debian packages that have them."""

SAMPLES = 8
"""Golden inputs whose inferences are counted, at most."""

_TEMPLATES = Path(__file__).parent / "qemu_templates"
_BOARD = ("-M", "mps2-an386", "-display", "none", "-monitor", "none", "-icount", "shift=0")


@dataclass(frozen=True)
class Figures:
    """What an inference takes on a processor."""

    cpu: str
    flash_bytes: int
    """Code and tables of `network_classify`."""
    static_bytes: int
    """Memory for signals; the input's own is the caller's."""
    stack_bytes: int
    instructions: int
    """Of an inference; the mean of a few golden inputs, rounded."""
    compiler: str

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def missing() -> dict[str, str]:
    """Programs that are not there, and the Debian packages that have them."""
    return {tool: package for tool, package in TOOLS.items() if shutil.which(tool) is None}


def check(target: str) -> None:
    """ValueError unless exports for `target` can be measured; VerificationError if a tool is missing."""
    if target != "c":
        raise ValueError(f"target {target} cannot be built for {DEVICE}; target c can")
    if absent := missing():
        install = " ".join(absent.values())
        raise VerificationError(f"there is no {', '.join(absent)}; on Debian: apt-get install {install}")


def build(folder: Path) -> dict[str, dict[str, Any]]:
    """Verify the C export in `folder` on every processor, and put its figures there into the manifest.

    Returns them by processor. Raises VerificationError if a golden vector is computed otherwise, or as `measure`.
    """
    figures = {}
    for cpu in CPUS:
        outcome = verify(folder, cpu)
        if not outcome.passed:
            raise VerificationError(f"{folder}: on {cpu} {outcome.status}: {outcome.detail}")
        figures[cpu] = {**measure(folder, cpu).as_dict(), "verification": outcome.status}
    add_to_manifest(folder, microcontrollers=figures)
    return figures


def measure(folder: Path, cpu: str) -> Figures:
    """Compile the C export in `folder` for `cpu`, and count instructions of inferences of its golden inputs.

    Raises ValueError for an unknown processor, VerificationError if a tool is missing or fails, or if a class is not
    that of the golden vectors.
    """
    golden = GoldenFiles(Path(folder).absolute())  # the compiler runs elsewhere
    codes = golden.golden(f"network/{golden.links[0]['name']}.codes.mem")[:SAMPLES]
    classes = golden.golden(f"network/{golden.layers[-1]['output_name']}.classes.mem")[:SAMPLES, 0]
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        rows = ",\n".join("{" + ", ".join(map(str, row)) + "}" for row in codes.tolist())
        (work / "inputs.h").write_text(f"static const network_code inputs[][NETWORK_INPUTS] = {{\n{rows}\n}};\n")
        only = ("-nostartfiles", "-Wl,--entry=network_classify")
        program = _compile(golden.folder, cpu, work, ["network.c"], *only, "-fstack-usage")
        sizes = _run(["arm-none-eabi-size", program]).splitlines()[1].split()
        stack = re.search(r":network_classify\t(\d+)", next(work.glob("*.su")).read_text())
        counter = _compile(golden.folder, cpu, work, ["network.c", _TEMPLATES / "count.c", _TEMPLATES / "start.c"])
        lines = [tuple(map(int, line.split())) for line in _emulate(counter).stdout.splitlines()]
        found = [number for number, _ in lines]
        if found != classes.tolist():
            raise VerificationError(f"{folder}: on {cpu} the classes are {_told(found)}, not {_told(classes.tolist())}")
    return Figures(
        cpu=cpu,
        flash_bytes=int(sizes[0]),
        static_bytes=int(sizes[1]) + int(sizes[2]),
        stack_bytes=int(stack[1]) if stack else 0,
        instructions=round(sum(number for _, number in lines) / len(lines)),
        compiler=_run(["arm-none-eabi-gcc", "--version"]).splitlines()[0],
    )


def verify(folder: Path, cpu: str) -> Verification:
    """Compile the C export in `folder` for `cpu`, and let it compare every golden vector under QEMU."""
    folder = Path(folder).absolute()
    with tempfile.TemporaryDirectory() as scratch:
        program = _compile(folder, cpu, Path(scratch), ["network.c", "main.c", _TEMPLATES / "start.c"])
        return c_outcome(folder, _emulate(program, "reference", "check", str(folder / "golden")))


def _compile(folder: Path, cpu: str, work: Path, sources: Sequence[str | Path], *flags: str) -> Path:
    """The program for QEMU's board, of files of `folder` and others."""
    choose("processor", cpu, dict.fromkeys(CPUS))
    check("c")
    program = work / "program.elf"
    target = (f"-mcpu={cpu}", "-mthumb", "-ffunction-sections", "-fdata-sections", "--specs=rdimon.specs")
    command = [
        "arm-none-eabi-gcc",
        *FLAGS,
        *target,
        *flags,
        f"-I{folder}",
        f"-I{work}",
        f"-T{_TEMPLATES / 'memory.ld'}",
    ]
    _run([*command, *(folder / source for source in sources), "-Wl,--gc-sections", "-o", program], work)
    return program


def _told(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def _run(command: Sequence[str | Path], work: Path | None = None) -> str:
    made = subprocess.run(command, capture_output=True, text=True, cwd=work, env={**os.environ, "LC_ALL": "C"})
    if made.returncode:
        raise VerificationError(f"{command[0]} ended with status {made.returncode}\n{made.stderr}")
    return made.stdout


def _emulate(program: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    told = "".join(f",arg={argument.replace(',', ',,')}" for argument in arguments)
    semihosting = ("-semihosting-config", f"enable=on,target=native{told}")
    return subprocess.run(
        ["qemu-system-arm", *_BOARD, *semihosting, "-kernel", program], capture_output=True, text=True
    )
