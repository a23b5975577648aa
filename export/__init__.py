"""From a trained network to integers, and to files for hardware and C that are verified bit for bit.

>>> sorted(TARGETS)
['aer', 'c', 'mem', 'nir', 'qonnx', 'verilog']
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from lowbit_dtp.choices import choose
from lowbit_dtp.settings import hints
from lowbit_dtp.storage import write_bytes, write_json

from . import aer, c, memory_files, nir, qonnx, qonnx_check, simulation, verify, verilog
from .accuracy import AccuracyLost, accuracy_lost
from .fixed import FixedLayer, FixedLink, FixedNetwork, HiddenLayer, Levels, OutputLayer, Trace
from .folder import MANIFEST, replacing
from .golden import Golden, golden_files, golden_vectors
from .manifest import manifest
from .verify import Verification, VerificationError

__all__ = [
    "TARGETS",
    "AccuracyLost",
    "ExportReport",
    "FixedLayer",
    "FixedLink",
    "FixedNetwork",
    "HiddenLayer",
    "Levels",
    "OutputLayer",
    "Target",
    "Trace",
    "Verification",
    "VerificationError",
    "accuracy_lost",
    "export_network",
    "write",
]


@dataclass(frozen=True)
class Target:
    """A kind of export: a function that writes a network's files, and one that verifies a folder of them.

    A target with a test bench is given the golden vectors, too, and may have `options`, a dataclass.
    """

    files: Callable[..., Mapping[str, bytes]]
    """Given the network; with `options`, the network, the golden vectors and the options."""
    verify: Callable[[Path], Verification]
    options: type | None = None
    details: Callable[..., Mapping[str, Any]] | None = None
    """What the manifest says beside what it says of all targets; given what `files` is given."""

    def arguments(
        self, name: str, network: FixedNetwork, golden: Sequence[Golden], options: Mapping[str, Any]
    ) -> tuple[Any, ...]:
        """What `files` and `details` are given. ValueError, naming the target, for an option that it does not have."""
        if self.options is None:
            if options:
                raise ValueError(f"target {name} has no options, so not {next(iter(options))!r}")
            return (network,)
        for option in options:
            choose(f"option of target {name}", option, hints(self.options))
        return network, golden, self.options(**options)


TARGETS: dict[str, Target] = {
    "mem": Target(memory_files.files, verify.memory_files),
    "c": Target(c.files, verify.c_program, details=c.details),
    "nir": Target(nir.files, nir.verify, details=nir.details),
    "aer": Target(aer.files, aer.verify, aer.Options, aer.details),
    "qonnx": Target(qonnx.files, qonnx_check.qonnx_file),
    "verilog": Target(verilog.files, simulation.test_bench, verilog.Options, verilog.details),
}


def write(
    network: FixedNetwork,
    target: str,
    folder: Path,
    golden_inputs: npt.ArrayLike,
    options: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Write `network` for `target` into `folder`, with golden vectors for `golden_inputs` [samples, inputs].

    `options` are those of the target, by name. All files are written, in place of an earlier export, or none. Returns
    their paths, the manifest last. Raises ValueError for an unknown target or option, FileExistsError if `folder`
    holds something else.
    """
    chosen = choose("target", target, TARGETS)
    golden = golden_vectors(network, golden_inputs)
    arguments = chosen.arguments(target, network, golden, options or {})
    files = {**chosen.files(*arguments), **golden_files(golden)}
    details = chosen.details(*arguments) if chosen.details else {}
    with replacing(folder) as new:
        for path, content in files.items():
            write_bytes(new / path, content)
        write_json(new / MANIFEST, {**manifest(network, target, files, golden), **details})
    return [Path(folder) / path for path in (*files, MANIFEST)]


@dataclass(frozen=True)
class ExportReport:
    """What was exported, its verification and its accuracy."""

    target: str
    folder: Path
    files: tuple[Path, ...]
    weights: dict[str, str]
    """Format of the weights, by layer."""
    sum_bits: dict[str, int]
    """Accumulator width, by layer."""
    quantized_links: dict[str, str]
    """Format of each link that was trained with real numbers, by link."""
    verification: Verification | None
    """None if it was not requested."""
    accuracy: AccuracyLost | None
    """None if no labelled inputs were given."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        accuracy = self.accuracy.as_dict() if self.accuracy else None
        files = list(map(str, self.files))
        return {**asdict(self), "folder": str(self.folder), "files": files, "accuracy": accuracy}


def export_network(
    network_path: Path,
    target: str,
    folder: Path,
    weights: str | Mapping[str, str] | None,
    signals: str,
    samples: npt.ArrayLike,
    verify: bool,
    labelled: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
    options: Mapping[str, Any] | None = None,
) -> ExportReport:
    """Export the network in the file `network_path`: load, write, and optionally verify and measure.

    `weights` and `signals` are as `FixedNetwork.of` takes them. `samples` [samples, inputs] are the inputs of the
    golden vectors; `labelled` are inputs and labels on which to measure the accuracy lost. `options` are those of the
    target, by name.
    """
    network = FixedNetwork.load(network_path, weights, signals)
    files = write(network, target, folder, samples, options)
    return ExportReport(
        target=target,
        folder=Path(folder),
        files=tuple(files),
        weights={layer.name: layer.weight_levels.format.name for layer in network.layers},
        sum_bits={layer.name: layer.sum_bits for layer in network.layers},
        quantized_links={link.name: link.levels.format.name for link in network.links if link.quantized_on_export},
        verification=TARGETS[target].verify(Path(folder)) if verify else None,
        accuracy=accuracy_lost(network, network_path, *labelled) if labelled else None,
    )
