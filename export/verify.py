"""Verification of exported files with the golden vectors, by independent code.

`mem` is computed by a separate reader, only from the files and the manifest; `c` is compiled and run; `qonnx` is run by
the executor of the package qonnx.
"""

import os
import re
import shlex
import shutil
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lowbit_dtp.formats import parse
from lowbit_dtp.storage import StorageError, read_json

from . import qonnx
from .folder import MANIFEST

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

FLAGS = ("-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", "-pedantic")
"""Compiler options of the C program."""

NO_QONNX = "not run: no qonnx; pip install lowbit-dtp[qonnx]"
NO_COMPILER = "not run: no C compiler"


class VerificationError(RuntimeError):
    """The check itself could not be completed; the message has the output of the compiler or the program."""


@dataclass(frozen=True)
class Verification:
    """Outcome of comparing an export with its golden vectors."""

    status: str
    """`passed`, `failed at link x, neuron y` or `not run: no C compiler`."""
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
    if passed := re.fullmatch(r"passed: (\d+) vectors, (\d+) values\n", run.stdout):
        return Verification("passed", int(passed[1]), int(passed[2]))
    if failed := re.fullmatch(r"(failed at link \S+, neuron \d+): (.+)\n", run.stdout):
        return Verification(failed[1], detail=failed[2])
    raise VerificationError(f"{folder}: the C program ended with status {run.returncode}\n{run.stdout}{run.stderr}")


def memory_files(folder: Path) -> Verification:
    """Compute every golden vector from the memory files in `folder`, and compare."""
    return _MemoryCheck(Path(folder)).run()


def can_run_qonnx() -> bool:
    """Whether the packages that run ONNX files with the quantizers of QONNX are installed."""
    return all(map(find_spec, ("qonnx", "onnxruntime")))


def qonnx_file(folder: Path) -> Verification:
    """Run the nodes of the ONNX file in `folder` with the executor of qonnx, and compare every golden vector."""
    if not can_run_qonnx():
        return Verification(NO_QONNX)
    result = _QonnxCheck(Path(folder)).run()
    if result.passed and (changed := changed_files(folder)):
        return Verification("failed: not the file that was written", detail=", ".join(changed))
    return result


@dataclass
class _Differs(Exception):
    place: str
    neuron: int
    detail: str


class _MemoryCheck:
    """The integer network from files and manifest, in code that is not shared with a writer."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = read_json(folder / MANIFEST)
        self.layers: list[dict[str, Any]] = self.manifest["layers"]
        self.links: list[dict[str, Any]] = self.manifest["links"]
        self.shapes = {x["path"]: (x["fields"], x["bits"]) for x in self.manifest["golden"]}
        self.vectors = self.values = 0

    def run(self) -> Verification:
        try:
            self._open()
            for index, layer in enumerate(self.layers):
                self._check_layers(f"layers/{layer['name']}", [index])
                self._check_comparator(f"comparators/{layer['name']}", index)
            self._check_layers("network", list(range(len(self.layers))))
        except _Differs as differs:
            return Verification(f"failed at link {differs.place}, neuron {differs.neuron}", detail=differs.detail)
        return Verification("passed", self.vectors, self.values)

    def _open(self) -> None:
        """Read what was exported."""
        self.tables = [self._load(index) for index in range(len(self.layers))]

    def _load(self, index: int) -> tuple[Integers, Integers]:
        """Weights [neurons, below], and thresholds [neurons, codes - 1] or biases [neurons, 1]."""
        layer, below = self.layers[index], self.links[index]["neurons"]
        weights = self._file(f"{layer['name']}.weights.mem", below, layer["weights"]["bits"], signed=False)
        levels = self._levels_of(
            layer["weights"], weights, layer["output_name"], f"{layer['name']}.weights.mem", rows=True
        )
        if index == len(self.layers) - 1:
            limits = self._file(f"{layer['name']}.biases.mem", 1, self.manifest["output"]["bias_bits"], signed=True)
        else:
            count = layer["thresholds_per_neuron"]
            limits = self._file(f"{layer['name']}.thresholds.mem", count, layer["threshold_bits"], signed=True)
        for name, table in (("weights", weights), ("thresholds or biases", limits)):
            if len(table) != layer["neurons"]:
                raise StorageError(
                    f"{self.folder}: {name} of {layer['name']} have {len(table)} lines, "
                    f"not {layer['neurons']}, one a neuron"
                )
        return levels, limits

    def _file(self, path: str, fields: int, bits: int, signed: bool) -> Integers:
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
            word = f"{int(line, 16):0{fields * bits}b}"[::-1]
            rows.append([int(word[i : i + bits][::-1], 2) for i in range(0, fields * bits, bits)])
        table = np.array(rows, np.int64).reshape(len(rows), fields)
        return np.where(table >= 1 << bits - 1, table - (1 << bits), table) if signed else table

    def _golden(self, path: str, signed: bool = False) -> Integers:
        return self._file(f"golden/{path}", *self.shapes[f"golden/{path}"], signed)

    def _levels_of(self, fmt: dict[str, Any], codes: Integers, place: str, path: str, rows: bool = False) -> Integers:
        """Levels of `codes`. A code that the format does not have is a failure of its neuron."""
        if fmt["codes"] == "two's complement":
            return np.where(codes >= 1 << fmt["bits"] - 1, codes - (1 << fmt["bits"]), codes)
        if fmt["codes"] == "unsigned":
            return codes
        for row, column in zip(*np.nonzero(codes >= len(fmt["levels"])), strict=True):
            problem = f"field {column} holds code {codes[row, column]}, which {fmt['format']} has not"
            raise _Differs(place, int(row if rows else column), f"line {row + 1} of {path}: {problem}")
        return np.array(fmt["levels"], np.int64)[codes]

    def _sums(self, index: int, levels: Integers) -> Integers:
        """Sums of layer `index` for `levels` [vectors, below]."""
        return levels @ self.tables[index][0].T

    def _logits(self, index: int, sums: Integers) -> Integers:
        """Logits of layer `index`, the last one."""
        exponent = self.layers[index]["sum_exponent"] - self.manifest["output"]["logit_exponent"]
        return (sums << exponent) + self.tables[index][1].T

    def _codes(self, index: int, sums: Integers) -> Integers:
        """Codes on the link above layer `index`, by counting the thresholds that each sum reaches."""
        ranks = np.zeros_like(sums)
        for threshold in self.tables[index][1].T:
            ranks += sums >= threshold
        fmt = self.links[index + 1]
        return ranks if fmt["codes"] == "index" else (ranks + fmt["lowest_level"]) % (1 << fmt["bits"])

    def _compare(self, path: str, place: str, got: Integers, signed: bool) -> None:
        expected = self._golden(path, signed)
        if len(expected) != len(got):
            raise StorageError(f"{self.folder / 'golden' / path}: has {len(expected)} lines, not {len(got)}")
        for row, column in zip(*np.nonzero(expected != got), strict=True):
            wanted, given = expected[row, column], got[row, column]
            neuron = wanted if path.endswith(".classes.mem") else column
            detail = f"line {row + 1} of {self.folder / 'golden' / path}: expected {wanted}, got {given}"
            raise _Differs(place, int(neuron), detail)
        self.values += got.size

    def _check_layers(self, folder: str, indices: list[int]) -> None:
        link = self.links[indices[0]]
        path = f"{folder}/{link['name']}.codes.mem"
        codes = self._golden(path)
        self.vectors += len(codes)
        for index in indices:
            link, place = self.links[index], self.layers[index]["output_name"]
            sums = self._sums(index, self._levels_of(link, codes, link["name"], path))
            self._compare(f"{folder}/{place}.sums.mem", place, sums, signed=True)
            if index < len(self.layers) - 1:
                codes = self._codes(index, sums)
                self._compare(f"{folder}/{place}.codes.mem", place, codes, signed=False)
            else:
                logits = self._logits(index, sums)
                self._compare(f"{folder}/{place}.logits.mem", place, logits, signed=True)
                self._compare(f"{folder}/{place}.classes.mem", place, _first_largest(logits), signed=False)

    def _check_comparator(self, folder: str, index: int) -> None:
        place = self.layers[index]["output_name"]
        if index < len(self.layers) - 1:
            sums = self._golden(f"{folder}/{place}.sums.mem", signed=True)
            self._compare(f"{folder}/{place}.codes.mem", place, self._codes(index, sums), signed=False)
        else:
            sums = self._golden(f"{folder}/{place}.logits.mem", signed=True)
            self._compare(f"{folder}/{place}.classes.mem", place, _first_largest(sums), signed=False)
        self.vectors += len(sums)


class _QonnxCheck(_MemoryCheck):
    """The nodes of the ONNX file, run by the executor of the package qonnx."""

    def _open(self) -> None:
        from qonnx.core.modelwrapper import ModelWrapper

        path = self.folder / qonnx.FILE
        if not path.is_file():
            raise StorageError(f"{path}: no such file")
        try:
            self.model = ModelWrapper(str(path))
            self.nodes = {node.output[0]: node for node in self.model.graph.node}
        except Exception as error:  # whatever a damaged file makes of its readers
            raise StorageError(f"{path}: not a whole ONNX file ({error})") from None
        self._check_inputs()

    def _run(self, first: str, last: str, given: str, x: npt.ArrayLike) -> Floats:
        """The tensor `last` for `x` [vectors, neurons] as the tensor `given`; runs the nodes from `first` to `last`."""
        from qonnx.core.onnx_exec import execute_onnx

        x = np.asarray(x, np.float32)
        graph = self.model.graph
        for tensor in (*graph.input, *graph.value_info, *graph.output):
            if tensor.name in ("inputs", *self.nodes) and not tensor.name.endswith("_weights_quantized"):
                tensor.type.tensor_type.shape.dim[0].dim_value = len(x)
        try:
            context = execute_onnx(self.model, {given: x}, True, self.nodes[first], self.nodes[last])
            made: Floats = np.asarray(context[last], np.float64)
        except Exception as error:
            raise StorageError(f"{self.folder / qonnx.FILE}: node of {last} cannot be run ({error})") from None
        return made

    def _whole(self, x: Floats, exponent: int, place: str) -> Integers:
        """`x` [vectors, neurons] in steps of 2^exponent, which at `place` are whole numbers."""
        steps = np.ldexp(x, -exponent)
        for row, column in zip(*np.nonzero(~((steps == np.rint(steps)) & (np.abs(steps) < 2.0**53))), strict=True):
            raise _Differs(place, int(column), f"{qonnx.FILE} gives {x[row, column]}, no whole step of 2^{exponent}")
        return steps.astype(np.int64)

    def _check_inputs(self) -> None:
        """The quantizer of the inputs: at each of its thresholds, and just below."""
        link = self.links[0]
        least = np.array(parse(link["format"]).table().thresholds, np.float32)
        probes = np.concatenate([least, np.nextafter(least, np.float32(-np.inf))])
        expected = np.concatenate([np.arange(1, len(least) + 1), np.arange(len(least))])
        codes = expected if link["codes"] == "index" else (expected + link["lowest_level"]) % (1 << link["bits"])
        tensor = qonnx.values_of(link["name"])
        first = next(name for name, node in self.nodes.items() if "inputs" in node.input)
        sent = self._run(first, tensor, "inputs", np.repeat(probes[:, None], link["neurons"], 1))
        levels = self._whole(sent, link["unit_exponent"], link["name"])
        for row, column in zip(*np.nonzero(levels != self._levels_of(link, codes, "", "")[:, None]), strict=True):
            raise _Differs(link["name"], int(column), f"{probes[row]} is sent as {sent[row, column]}")

    def _sums(self, index: int, levels: Integers) -> Integers:
        layer, below = self.layers[index], self.links[index]
        name, given = layer["name"], qonnx.values_of(below["name"])
        x = np.ldexp(levels.astype(np.float64), below["unit_exponent"])
        sums = self._run(f"{name}_weights_quantized", f"{name}_sums", given, x)
        return self._whole(sums, layer["sum_exponent"], layer["output_name"])

    def _codes(self, index: int, sums: Integers) -> Integers:
        layer, above = self.layers[index], self.links[index + 1]
        given, tensor = f"{layer['name']}_sums", qonnx.values_of(above["name"])
        first = next(name for name, node in self.nodes.items() if given in node.input)
        sent = self._run(first, tensor, given, np.ldexp(sums.astype(np.float64), layer["sum_exponent"]))
        levels = self._whole(sent, above["unit_exponent"], above["name"])
        if above["codes"] != "index":
            return levels % (1 << above["bits"])
        for _, column in zip(*np.nonzero(~np.isin(levels, above["levels"])), strict=True):
            raise _Differs(above["name"], int(column), f"{qonnx.FILE} gives a number that the link does not carry")
        return np.searchsorted(above["levels"], levels)

    def _logits(self, index: int, sums: Integers) -> Integers:
        layer = self.layers[index]
        x = np.ldexp(sums.astype(np.float64), layer["sum_exponent"])
        logits = self._run("logits", "logits", f"{layer['name']}_sums", x)
        return self._whole(logits, self.manifest["output"]["logit_exponent"], layer["output_name"])


def _first_largest(logits: Integers) -> Integers:
    return np.array([[row.index(max(row))] for row in logits.tolist()], np.int64)
