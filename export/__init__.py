"""From a trained network to integers, and to files for hardware and C that are verified bit for bit.

>>> sorted(TARGETS)
['aer', 'c', 'mem', 'nir', 'qonnx', 'verilog']
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy.typing as npt

from lowbit_dtp.choices import choose
from lowbit_dtp.settings import hints
from lowbit_dtp.storage import read_json, write_bytes

from . import aer, c, learning, memory_files, nir, qonnx, qonnx_check, simulation, verify, verilog
from .accuracy import AccuracyLost, accuracy_lost
from .bits import AUTO, Trial, fewest_bits
from .checksums import CHECKSUMS, Damage
from .fixed import FixedLayer, FixedLink, FixedNetwork, HiddenLayer, Levels, OutputLayer, Trace
from .folder import MANIFEST, add_to_manifest, first_damage, replacing, seal
from .golden import Golden, golden_files, golden_vectors
from .manifest import manifest
from .page import write_page
from .places import Owner, line_of_layer, place
from .scales import levels_number, number_format
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
    "Trial",
    "Verification",
    "VerificationError",
    "accuracy_lost",
    "add_to_manifest",
    "export_network",
    "fewest_bits",
    "levels_number",
    "number_format",
    "verified",
    "write",
    "write_page",
]


@dataclass(frozen=True)
class Target:
    """A kind of export: functions that write a network's files, verify a folder of them, and find places in them.

    A target with a test bench is given the golden vectors, too, and may have `options`, a dataclass.
    """

    files: Callable[..., Mapping[str, bytes]]
    """Given the network; with `options`, the network, the golden vectors and the options."""
    verify: Callable[[Path], Verification]
    """Of a folder whose files are those that were written."""
    place: Owner = line_of_layer
    """The neuron, or else the part of its file, that a changed byte belongs to."""
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
    "c": Target(c.files, verify.c_program, c.place, details=c.details),
    "nir": Target(nir.files, nir.verify, nir.place, details=nir.details),
    "aer": Target(aer.files, aer.verify, aer.place, aer.Options, aer.details),
    "qonnx": Target(qonnx.files, qonnx_check.qonnx_file, qonnx.place),
    "verilog": Target(verilog.files, simulation.test_bench, verilog.place, verilog.Options, verilog.details),
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
    their paths, manifest and checksums last. Raises ValueError for an unknown target or option, FileExistsError if
    `folder` holds something else.
    """
    chosen = choose("target", target, TARGETS)
    golden = golden_vectors(network, golden_inputs)
    arguments = chosen.arguments(target, network, golden, options or {})
    files = {**chosen.files(*arguments), **golden_files(golden)}
    details = chosen.details(*arguments) if chosen.details else {}
    with replacing(folder) as new:
        for path, content in files.items():
            write_bytes(new / path, content)
        seal(new, {**manifest(network, target, files, golden), **details})
    return [Path(folder) / path for path in (*files, MANIFEST, CHECKSUMS)]


def verified(folder: Path) -> Verification:
    """Check that the files of the export in `folder` are those that were written, then verify it as its target does.

    A file that has changed fails: at the link and neuron of the changed bit, or else at the part or line of the file.
    Raises StorageError if a file is missing, VerificationError if the check could not be completed.
    """
    folder = Path(folder)
    changed = first_damage(folder)
    if changed is None:
        return choose("target", read_json(folder / MANIFEST)["target"], _CHECKS).verify(folder)
    return failure(folder, changed)


class _Check(NamedTuple):
    """How an export is verified, as in `Target`."""

    verify: Callable[[Path], Verification]
    place: Owner


_CHECKS = {name: _Check(target.verify, target.place) for name, target in TARGETS.items()}
_CHECKS[learning.TARGET] = _Check(learning.verify, learning.place)


def failure(folder: Path, changed: Damage) -> Verification:
    """The outcome for an export in `folder` of which a file has changed."""
    detail = f"line {changed.line} of {folder / changed.path}: {changed.detail}"
    found = None
    if changed.path != CHECKSUMS:
        written = read_json(folder / MANIFEST) if changed.path != MANIFEST else {}
        target = _CHECKS[written["target"] if written else "mem"]
        found = place(written, changed, target.place)
        if found is None and changed.found < 0 and changed.path in (x["path"] for x in written.get("files", ())):
            try:  # more than a bit: what the file computes may tell
                result = target.verify(folder)
            except (ValueError, VerificationError, ImportError):
                result = None
            if result and result.status.startswith("failed at link"):
                return Verification(result.status, detail=detail)
    if isinstance(found, tuple):
        return Verification(f"failed at link {found[0]}, neuron {found[1]}", detail=detail)
    return Verification(f"failed at {changed.path}, {found or f'line {changed.line}'}", detail=detail)


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
    weight_numbers: dict[str, str]
    """Format of the weights without its scale, as ledgers have it, by layer."""

    @property
    def weights_text(self) -> str:
        """The format of all weights, or the format by layer where they differ."""
        if len(set(self.weights.values())) == 1:
            return next(iter(self.weights.values()))
        return ", ".join(f"{layer} {name}" for layer, name in self.weights.items())

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
    calibration: npt.ArrayLike | None = None,
    validation: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
    max_loss: float = 0.5,
    on_trial: Callable[[Trial], None] = lambda trial: None,
) -> ExportReport:
    """Export the network in the file `network_path`: load, write, and optionally verify and measure.

    `weights`, `signals` and `calibration` are as `FixedNetwork.of` takes them. Weights may be `auto`, too: then
    `fewest_bits` finds their bits on `validation`, inputs and labels that are not `labelled`. `samples` [samples,
    inputs] are the inputs of the golden vectors; `labelled` are inputs and labels on which to measure the accuracy
    lost. `options` are those of the target, by name.
    """
    if weights is not None and AUTO in ([weights] if isinstance(weights, str) else weights.values()):
        if calibration is None or validation is None:
            raise ValueError(f"weights of {AUTO} bits need calibration inputs, and labelled validation inputs")
        weights = fewest_bits(network_path, weights, signals, calibration, validation, max_loss, on_trial)
    network = FixedNetwork.load(network_path, weights, signals, calibration)
    files = write(network, target, folder, samples, options)
    return ExportReport(
        target=target,
        folder=Path(folder),
        files=tuple(files),
        weights={layer.name: layer.weight_levels.format.name for layer in network.layers},
        sum_bits={layer.name: layer.sum_bits for layer in network.layers},
        quantized_links={link.name: link.levels.format.name for link in network.links if link.quantized_on_export},
        verification=verified(Path(folder)) if verify else None,
        accuracy=accuracy_lost(network, network_path, *labelled) if labelled else None,
        weight_numbers={layer.name: levels_number(layer.weight_levels) for layer in network.layers},
    )
