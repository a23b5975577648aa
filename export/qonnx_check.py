"""Verification of the target `qonnx`: its nodes, run by the executor of the package qonnx."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lowbit_dtp.formats import parse
from lowbit_dtp.storage import StorageError

from .qonnx import FILE, values_of
from .verify import Differs, NetworkCheck, Verification, changed_files

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

NO_QONNX = "not run: no qonnx; pip install lowbit-dtp[qonnx]"


def can_run_qonnx() -> bool:
    """Whether the packages that run ONNX files with the quantizers of QONNX are installed."""
    return all(map(find_spec, ("qonnx", "onnxruntime")))


def qonnx_file(folder: Path) -> Verification:
    """Run the nodes of the ONNX file in `folder` with the executor of qonnx, and compare every golden vector."""
    if not can_run_qonnx():
        return Verification(NO_QONNX)
    result = _Check(Path(folder)).run()
    if result.passed and (changed := changed_files(folder)):
        return Verification("failed: not the file that was written", detail=", ".join(changed))
    return result


class _Check(NetworkCheck):
    """The nodes of the ONNX file, run by the executor of the package qonnx."""

    def open(self) -> None:
        from qonnx.core.modelwrapper import ModelWrapper

        path = self.folder / FILE
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
            raise StorageError(f"{self.folder / FILE}: node of {last} cannot be run ({error})") from None
        return made

    def _whole(self, x: Floats, exponent: int, place: str) -> Integers:
        """`x` [vectors, neurons] in steps of 2^exponent, which at `place` are whole numbers."""
        steps = np.ldexp(x, -exponent)
        for row, column in zip(*np.nonzero(~((steps == np.rint(steps)) & (np.abs(steps) < 2.0**53))), strict=True):
            raise Differs(place, int(column), f"{FILE} gives {x[row, column]}, no whole step of 2^{exponent}")
        return steps.astype(np.int64)

    def _check_inputs(self) -> None:
        """The quantizer of the inputs: at each of its thresholds, and just below."""
        link = self.links[0]
        least = np.array(parse(link["format"]).table().thresholds, np.float32)
        probes = np.concatenate([least, np.nextafter(least, np.float32(-np.inf))])
        expected = np.concatenate([np.arange(1, len(least) + 1), np.arange(len(least))])
        codes = expected if link["codes"] == "index" else (expected + link["lowest_level"]) % (1 << link["bits"])
        tensor = values_of(link["name"])
        first = next(name for name, node in self.nodes.items() if "inputs" in node.input)
        sent = self._run(first, tensor, "inputs", np.repeat(probes[:, None], link["neurons"], 1))
        levels = self._whole(sent, link["unit_exponent"], link["name"])
        for row, column in zip(*np.nonzero(levels != self.levels(link, codes, "", "")[:, None]), strict=True):
            raise Differs(link["name"], int(column), f"{probes[row]} is sent as {sent[row, column]}")

    def sums(self, index: int, levels: Integers) -> Integers:
        layer, below = self.layers[index], self.links[index]
        name, given = layer["name"], values_of(below["name"])
        x = np.ldexp(levels.astype(np.float64), below["unit_exponent"])
        sums = self._run(f"{name}_weights_quantized", f"{name}_sums", given, x)
        return self._whole(sums, layer["sum_exponent"], layer["output_name"])

    def codes(self, index: int, sums: Integers) -> Integers:
        layer, above = self.layers[index], self.links[index + 1]
        given, tensor = f"{layer['name']}_sums", values_of(above["name"])
        first = next(name for name, node in self.nodes.items() if given in node.input)
        sent = self._run(first, tensor, given, np.ldexp(sums.astype(np.float64), layer["sum_exponent"]))
        levels = self._whole(sent, above["unit_exponent"], above["name"])
        if above["codes"] != "index":
            return levels % (1 << above["bits"])
        for _, column in zip(*np.nonzero(~np.isin(levels, above["levels"])), strict=True):
            raise Differs(above["name"], int(column), f"{FILE} gives a number that the link does not carry")
        return np.searchsorted(above["levels"], levels)

    def logits(self, index: int, sums: Integers) -> Integers:
        layer = self.layers[index]
        x = np.ldexp(sums.astype(np.float64), layer["sum_exponent"])
        logits = self._run("logits", "logits", f"{layer['name']}_sums", x)
        return self._whole(logits, self.manifest["output"]["logit_exponent"], layer["output_name"])
