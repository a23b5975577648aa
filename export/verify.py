"""Verification of exported files with the golden vectors, by independent code.

`mem` is computed by a separate reader, only from the files and the manifest; `c` is compiled and run.
"""

import os
import re
import shlex
import shutil
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lowbit_dtp.storage import StorageError, read_json

from .folder import MANIFEST

Integers = npt.NDArray[np.int64]

FLAGS = ("-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", "-pedantic")
"""Compiler options of the C program."""

NO_COMPILER = "not run: no C compiler"


class VerificationError(OSError):
    """The check itself could not be completed; the message has the output of the compiler or the program."""


@dataclass(frozen=True)
class Verification:
    """Outcome of comparing an export with its golden vectors."""

    status: str
    """`passed`, `failed at link x, neuron y`, `failed at FILE, line n` or `not run: no C compiler`."""
    vectors: int = 0
    """Vectors compared; none if it failed."""
    values: int = 0
    """Sums, codes, logits and classes compared; none if it failed."""
    detail: str = ""
    """File and line that differ, with both values."""

    @property
    def passed(self) -> bool:
        """Whether all vectors were compared, and agree."""
        return self.status == "passed"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def changed_files(folder: Path) -> list[str]:
    """Paths in the manifest in `folder` that are missing or whose content has changed."""
    folder = Path(folder)
    entries = {x["path"]: x["sha256"] for x in read_json(folder / MANIFEST)["files"]}
    return [
        path
        for path, digest in entries.items()
        if not (folder / path).is_file() or sha256((folder / path).read_bytes()).hexdigest() != digest
    ]


def c_compiler() -> list[str] | None:
    """The command named by `$CC`, else `cc`; None if there is none."""
    command = shlex.split(os.environ.get("CC") or "cc")
    path = shutil.which(command[0])
    return [path, *command[1:]] if path else None


def c_program(folder: Path) -> Verification:
    """Compile the C files of `folder` in another folder, and let the program compare every golden vector."""
    compiler = c_compiler()
    if compiler is None:
        return Verification(NO_COMPILER)
    folder = Path(folder).absolute()
    with tempfile.TemporaryDirectory() as scratch:
        program = Path(scratch) / "reference"
        sources = [str(folder / name) for name in ("network.c", "main.c")]
        build = subprocess.run([*compiler, *FLAGS, *sources, "-o", str(program)], capture_output=True, text=True)
        if build.returncode:
            raise VerificationError(f"{folder}: the C files do not compile\n{build.stderr}")
        run = subprocess.run([str(program), "check", str(folder / "golden")], capture_output=True, text=True)
    return c_outcome(folder, run)


def c_outcome(folder: Path, run: "subprocess.CompletedProcess[str]") -> Verification:
    """What the C program of the export in `folder` said when it checked the golden vectors."""
    if passed := re.fullmatch(r"passed: (\d+) vectors, (\d+) values\n", run.stdout):
        return Verification("passed", int(passed[1]), int(passed[2]))
    if failed := re.fullmatch(r"(failed at link \S+, neuron \d+): (.+)\n", run.stdout):
        return Verification(failed[1], detail=failed[2])
    raise VerificationError(f"{folder}: the C program ended with status {run.returncode}\n{run.stdout}{run.stderr}")


def memory_files(folder: Path) -> Verification:
    """Compute every golden vector from the memory files in `folder`, and compare."""
    return NetworkCheck(Path(folder)).run()


@dataclass
class Differs(Exception):
    """A value that is not the expected one, and where."""

    place: str
    """Link."""
    neuron: int
    detail: str

    @property
    def failure(self) -> Verification:
        """The outcome of the comparison."""
        return Verification(f"failed at link {self.place}, neuron {self.neuron}", detail=self.detail)


class GoldenFiles:
    """The golden vectors and the manifest of an export in `folder`, read by code that is not shared with a writer."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = read_json(folder / MANIFEST)
        self.layers: list[dict[str, Any]] = self.manifest["layers"]
        self.links: list[dict[str, Any]] = self.manifest["links"]
        self.shapes = {x["path"]: (x["fields"], x["bits"]) for x in self.manifest["golden"]}
        self.known: dict[str, Integers] = {}
        """Golden files that were read."""
        self.vectors = self.values = 0

    def lines(self, path: str, fields: int, bits: int, signed: bool) -> Integers:
        """The numbers [lines, fields] in a file of lines of hexadecimal."""
        digits = -(-fields * bits // 4)
        rows = []
        try:
            lines = (self.folder / path).read_text().splitlines()
        except FileNotFoundError:
            raise StorageError(f"{self.folder / path}: no such file") from None
        for number, line in enumerate(lines, 1):
            if not re.fullmatch(rf"[0-9a-f]{{{digits}}}", line):
                raise StorageError(
                    f"{self.folder / path}: line {number} must be {digits} hexadecimal digits, not {line[:40]!r}"
                )
            rows.append(int(line, 16).to_bytes(-(-digits // 2), "little"))
        words = np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), -(-digits // 2))
        places = np.unpackbits(words, axis=1, bitorder="little")[:, : fields * bits].reshape(-1, fields, bits)
        table = places @ (1 << np.arange(bits, dtype=np.int64))
        return np.where(table >= 1 << bits - 1, table - (1 << bits), table) if signed else table

    def golden(self, path: str, signed: bool = False) -> Integers:
        """The numbers [vectors, fields] in a golden file."""
        if path not in self.known:
            self.known[path] = self.lines(f"golden/{path}", *self.shapes[f"golden/{path}"], signed)
        return self.known[path]

    def levels(self, fmt: dict[str, Any], codes: Integers, place: str, path: str, rows: bool = False) -> Integers:
        """Levels of `codes`. A code that the format does not have is a failure of its neuron."""
        if fmt["codes"] == "two's complement":
            return np.where(codes >= 1 << fmt["bits"] - 1, codes - (1 << fmt["bits"]), codes)
        if fmt["codes"] == "unsigned":
            return codes
        for row, column in zip(*np.nonzero(codes >= len(fmt["levels"])), strict=True):
            problem = f"field {column} holds code {codes[row, column]}, which {fmt['format']} has not"
            raise Differs(place, int(row if rows else column), f"line {row + 1} of {path}: {problem}")
        return np.array(fmt["levels"], np.int64)[codes]

    def compare(self, path: str, place: str, got: npt.NDArray[Any], signed: bool) -> None:
        """Raise `Differs`, naming the link `place` and the neuron, unless `got` is what the golden file holds."""
        expected = self.golden(path, signed)
        if len(expected) != len(got):
            raise StorageError(f"{self.folder / 'golden' / path}: has {len(expected)} lines, not {len(got)}")
        for row, column in zip(*np.nonzero(expected != got), strict=True):
            wanted, given = expected[row, column], got[row, column]
            neuron = wanted if path.endswith(".classes.mem") else column
            detail = f"line {row + 1} of {self.folder / 'golden' / path}: expected {wanted}, got {given}"
            raise Differs(place, int(neuron), detail)
        self.values += got.size

    def passed(self) -> Verification:
        """The outcome, if nothing that was compared differs."""
        return Verification("passed", self.vectors, self.values)


class NetworkCheck(GoldenFiles):
    """The integer network from memory files and the manifest; `open`, `sums`, `codes` and `logits` may be another's."""

    def run(self) -> Verification:
        try:
            self.open()
            for index, layer in enumerate(self.layers):
                self._check_layers(f"layers/{layer['name']}", [index])
                self._check_comparator(f"comparators/{layer['name']}", index)
            self._check_layers("network", list(range(len(self.layers))))
        except Differs as differs:
            return differs.failure
        return self.passed()

    def open(self) -> None:
        """Read what was exported."""
        self.tables = [self._load(index) for index in range(len(self.layers))]

    def _load(self, index: int) -> tuple[Integers, Integers]:
        """Weights [neurons, below], and thresholds [neurons, codes - 1] or biases [neurons, 1]."""
        layer, below = self.layers[index], self.links[index]["neurons"]
        weights = self.lines(f"{layer['name']}.weights.mem", below, layer["weights"]["bits"], signed=False)
        levels = self.levels(layer["weights"], weights, layer["output_name"], f"{layer['name']}.weights.mem", rows=True)
        if index == len(self.layers) - 1:
            limits = self.lines(f"{layer['name']}.biases.mem", 1, self.manifest["output"]["bias_bits"], signed=True)
        else:
            count = layer["thresholds_per_neuron"]
            limits = self.lines(f"{layer['name']}.thresholds.mem", count, layer["threshold_bits"], signed=True)
        for name, table in (("weights", weights), ("thresholds or biases", limits)):
            if len(table) != layer["neurons"]:
                raise StorageError(
                    f"{self.folder}: {name} of {layer['name']} have {len(table)} lines, "
                    f"not {layer['neurons']}, one a neuron"
                )
        return levels, limits

    def sums(self, index: int, levels: Integers) -> Integers:
        """Sums of layer `index` for `levels` [vectors, below]."""
        return levels @ self.tables[index][0].T

    def logits(self, index: int, sums: Integers) -> Integers:
        """Logits of layer `index`, the last one."""
        exponent = self.layers[index]["sum_exponent"] - self.manifest["output"]["logit_exponent"]
        return (sums << exponent) + self.tables[index][1].T

    def codes(self, index: int, sums: Integers) -> Integers:
        """Codes on the link above layer `index`, by counting the thresholds that each sum reaches."""
        ranks = np.zeros_like(sums)
        for threshold in self.tables[index][1].T:
            ranks += sums >= threshold
        fmt = self.links[index + 1]
        return ranks if fmt["codes"] == "index" else (ranks + fmt["lowest_level"]) % (1 << fmt["bits"])

    def _check_layers(self, folder: str, indices: list[int]) -> None:
        link = self.links[indices[0]]
        path = f"{folder}/{link['name']}.codes.mem"
        codes = self.golden(path)
        self.vectors += len(codes)
        for index in indices:
            link, place = self.links[index], self.layers[index]["output_name"]
            sums = self.sums(index, self.levels(link, codes, link["name"], path))
            self.compare(f"{folder}/{place}.sums.mem", place, sums, signed=True)
            if index < len(self.layers) - 1:
                codes = self.codes(index, sums)
                self.compare(f"{folder}/{place}.codes.mem", place, codes, signed=False)
            else:
                logits = self.logits(index, sums)
                self.compare(f"{folder}/{place}.logits.mem", place, logits, signed=True)
                self.compare(f"{folder}/{place}.classes.mem", place, first_largest(logits), signed=False)

    def _check_comparator(self, folder: str, index: int) -> None:
        place = self.layers[index]["output_name"]
        if index < len(self.layers) - 1:
            sums = self.golden(f"{folder}/{place}.sums.mem", signed=True)
            self.compare(f"{folder}/{place}.codes.mem", place, self.codes(index, sums), signed=False)
        else:
            sums = self.golden(f"{folder}/{place}.logits.mem", signed=True)
            self.compare(f"{folder}/{place}.classes.mem", place, first_largest(sums), signed=False)
        self.vectors += len(sums)


def first_largest(logits: npt.NDArray[Any]) -> Integers:
    """The class [vectors, 1] of `logits` [vectors, classes]."""
    return np.array([[row.index(max(row))] for row in logits.tolist()], np.int64)
