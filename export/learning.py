"""A core that learns: difference target propagation in whole numbers, as Verilog.

The hardware is a processor of vectors (`verilog_templates/learner/learner.v`); a program for it is made here from the
sizes of the network. Training in Python, by the rule `integer-dtp`, is its specification: every message that crosses a
link, and every weight after any number of steps, is the same.
"""

import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from importlib.resources import files as resources
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lowbit_dtp.storage import read_json, write_bytes

from .checksums import Damage
from .folder import MANIFEST, replacing, seal
from .memory_files import hex_lines
from .places import Place
from .simulation import NO_SIMULATOR, simulate, simulator
from .verify import Verification, VerificationError

TARGET = "learner"
Integers = npt.NDArray[np.integer[Any]]

SUM_FRACTION_BITS, STATE_FRACTION_BITS = 12, 7
SOURCES = {
    "rtl": ("learner/learner.v", "learner/philox.v"),
    "bench": ("learner/testbench.v", "bench/icarus.v", "bench/simulate.cpp"),
}
"""Files of the templates, by the folder of the export that they are written to."""
INSTRUCTION_BYTES = 25
_LOAD, _PRODUCT, _OUTER, _SOFTMAX, _TOP, _BELOW, _NOISE, _INVERSE, _SEND, _UPDATE, _NEXT, _STEP = range(12)
_FIELDS = {  # of an instruction: least significant bit, width
    "key": (0, 32), "shift": (32, 8), "sj": (40, 16), "si": (56, 16), "nj": (72, 16), "ni": (88, 16), "w": (104, 24),
    "e": (128, 16), "d": (144, 16), "b": (160, 16), "a": (176, 16), "as_bits": (192, 1), "to_states": (193, 1),
    "op": (194, 4),
}  # fmt: skip


@dataclass(frozen=True)
class Message:
    """Codes that the core sends over a link, for each sample."""

    link: str
    direction: str
    purpose: str
    bits: int
    """Bits of a code."""
    neurons: int


@dataclass(frozen=True, eq=False)
class LearningCore:
    """A network in whole numbers, with its decoders and what the core needs to know of rule and optimizer."""

    sizes: Sequence[int]
    """Inputs, one or more hidden layers, classes."""
    weights: Mapping[tuple[str, str], Integers]
    """Weights [below, neurons] by layer and `weight`, and [above, neurons] by layer and `feedback`."""
    weight_bits: int
    fraction_bits: int
    """Bits of a weight after the binary point."""
    rates: Mapping[tuple[str, str], int]
    """Shift of the learning rate, likewise."""
    input_fraction_bits: int
    error_fraction_bits: int
    """Of the 8-bit codes of the gradient on the top link."""
    target_shift: int
    noise_shift: int
    seed: int
    powers: Sequence[int]
    """256 powers of e, for the softmax."""
    program: list[int] = field(init=False, default_factory=list)
    messages: list[Message] = field(init=False, default_factory=list)
    """In the order in which they are sent for a sample."""

    def __post_init__(self) -> None:
        if not 0 <= self.error_fraction_bits <= SUM_FRACTION_BITS:
            raise ValueError(
                f"the gradient on the top link may have 0 to {SUM_FRACTION_BITS} bits after the binary point in a core "
                f"that learns, not {self.error_fraction_bits}"
            )
        if self.weight_words >= 1 << 24 or self.vector_words >= 1 << 16:
            raise ValueError(
                f"a core that learns holds up to {(1 << 24) - 1} weights and {(1 << 16) - 1} numbers in vectors; this "
                f"network has {self.weight_words} and {self.vector_words}"
            )
        _Compiler(self).compile()

    @property
    def layers(self) -> list[str]:
        """Names of the layers above the inputs."""
        return [*(f"h{i}" for i in range(1, len(self.sizes) - 1)), "output"]

    @property
    def weight_words(self) -> int:
        return sum(w.size for w in self.weights.values())

    @property
    def vector_words(self) -> int:
        """Numbers in vectors: inputs; sums, errors and targets of each layer; and what inverses work with."""
        return self.sizes[0] + 3 * sum(self.sizes[1:]) + 4 * max(self.sizes[1:])

    def flat(self, weights: Mapping[tuple[str, str], Integers]) -> Integers:
        """`weights` in the order in which the core holds them."""
        return np.concatenate([np.asarray(weights[key], np.int64).ravel() for key in self.weights])

    def files(self) -> dict[str, bytes]:
        """The Verilog, the program and the weights to begin with."""
        templates = resources(__package__) / "verilog_templates"
        made = {
            f"{part}/{Path(path).name}": (templates / path).read_bytes() for part in SOURCES for path in SOURCES[part]
        }
        made["program.mem"] = hex_lines([list(word.to_bytes(INSTRUCTION_BYTES, "little")) for word in self.program], 8)
        made["weights.mem"] = _lines(self.flat(self.weights), self.weight_bits)
        made["powers.mem"] = _lines(np.array(self.powers), 16)
        return made

    def golden(
        self, samples: Integers, labels: Integers, ends: Sequence[int], codes: Integers, trained: Integers
    ) -> dict[str, bytes]:
        """Files of the test bench.

        `samples` [samples, inputs] are what the codes of the inputs stand for, `labels` [samples] classes, `ends` the
        indices of the last samples of minibatches, `codes` [samples, codes] those of all messages of a sample, and
        `trained` the weights after that, `flat`.
        """
        last = np.isin(np.arange(len(samples)), ends)
        words = np.concatenate([samples & 0xFFFF, (labels + (last << 16))[:, None]], 1).ravel()
        numbers = np.repeat(np.arange(len(self.messages)), [m.neurons for m in self.messages])
        heard = (codes + (numbers << 8)).ravel()
        sizes = {
            "VECTOR_WORDS": self.vector_words, "WEIGHT_WORDS": self.weight_words, "WEIGHT_BITS": self.weight_bits,
            "PROGRAM_WORDS": len(self.program), "ERROR_FRACTION_BITS": self.error_fraction_bits,
            "TARGET_SHIFT": self.target_shift, "NOISE_SHIFT": self.noise_shift, "SAMPLES": len(samples),
            "SAMPLE_WORDS": len(words), "MESSAGES": len(self.messages), "MESSAGE_WORDS": len(heard),
        }  # fmt: skip
        lines = [f"localparam {name} = {value};" for name, value in sizes.items()]
        widths = "".join(f"{m.bits:x}" for m in reversed(self.messages))
        lines += [f"localparam [63:0] SEED = 64'd{self.seed};"]
        lines += [f"localparam [{4 * len(self.messages) - 1}:0] WIDTHS = {4 * len(self.messages)}'h{widths};"]
        return {
            "bench/sizes.vh": "\n".join([*lines, ""]).encode(),
            "bench/samples.mem": _lines(words, 17),
            "bench/messages.mem": _lines(heard, 16),
            "bench/trained.mem": _lines(trained, self.weight_bits),
        }


class _Compiler:
    """Instructions for one sample, and for the end of a minibatch."""

    def __init__(self, core: LearningCore) -> None:
        self.core = core
        self.bases: dict[tuple[str, str], int] = {}
        base = 0
        for key, weight in core.weights.items():
            self.bases[key] = base
            base += weight.size
        self.free = 0
        sizes, widest = core.sizes, max(core.sizes[1:])
        self.inputs = self._vector(sizes[0])
        self.sums, self.errors, self.targets = ([0, *map(self._vector, sizes[1:])] for _ in range(3))
        self.message, self.before, self.after, self.noisy = (self._vector(widest) for _ in range(4))

    def _vector(self, words: int) -> int:
        self.free += words
        return self.free - words

    def compile(self) -> None:
        """Write the program and the list of messages of the core."""
        core, top = self.core, len(self.core.sizes) - 1
        names = ["input", *core.layers]
        links = [f"{lower}-{upper}" for lower, upper in pairwise(names)]
        self._do(_LOAD, d=self.inputs, ni=core.sizes[0])
        for i in range(1, top + 1):
            self._up(i, self.sums[i - 1] if i > 1 else self.inputs, self.sums[i], raw=i == 1)
            if i < top:
                self._send(links[i], "forward", "activations", self.sums[i], core.sizes[i])
        self._do(_SOFTMAX, a=self.sums[top], d=self.errors[top], ni=core.sizes[top])
        self._outer("output", "weight", self.sums[top - 1], self.errors[top])
        n, classes = core.sizes[top - 1], core.sizes[top]
        self._do(
            _PRODUCT, a=self.errors[top], d=self.message, w=self.bases["output", "weight"], ni=classes, nj=n, si=1,
            sj=classes, shift=core.fraction_bits + STATE_FRACTION_BITS - SUM_FRACTION_BITS,
        )  # fmt: skip
        self._do(
            _TOP, a=self.message, b=self.sums[top - 1], d=self.errors[top - 1], e=self.targets[top - 1], ni=n,
        )  # fmt: skip
        self._send(links[top - 1], "feedback", "error", self.message, n, bits=8)
        for i in range(top - 1, 0, -1):
            self._outer(names[i], "weight", self.sums[i - 1] if i > 1 else self.inputs, self.errors[i], raw=i == 1)
            if i == 1:
                break
            for said, vector, decoded in (
                ("state", self.sums[i], self.before), ("target", self.targets[i], self.after),
            ):  # fmt: skip
                self._send(links[i - 1], "feedback", said, vector, core.sizes[i])
                self._down(i, vector, decoded)
            self._do(
                _BELOW, a=self.before, b=self.after, w=self.sums[i - 1], d=self.errors[i - 1], e=self.targets[i - 1],
                ni=core.sizes[i - 1],
            )  # fmt: skip
        for i in range(1, top - 1):
            purpose = zlib.crc32(f"noise {names[i]}".encode())
            self._do(_NOISE, a=self.sums[i], d=self.noisy, ni=core.sizes[i], key=purpose)
            self._send(links[i], "forward", "noisy activations", self.noisy, core.sizes[i])
            self._up(i + 1, self.noisy, self.after, to_states=1)
            self._send(links[i], "feedback", "reconstruction", self.after, core.sizes[i + 1])
            self._down(i + 1, self.after, self.before)
            self._do(_INVERSE, a=self.before, b=self.noisy, d=self.message, ni=core.sizes[i])
            self._outer(names[i], "feedback", self.after, self.message)
        self._do(_NEXT)
        for array, weight in core.weights.items():
            rows, columns = weight.shape
            purpose = zlib.crc32(f"update {'.'.join(array)}".encode())
            self._do(_UPDATE, w=self.bases[array], ni=rows, nj=columns, shift=core.rates[array], key=purpose)
        self._do(_STEP)

    def _do(self, op: int, **fields: int) -> None:
        word = 0
        for name, value in {"op": op, **fields}.items():
            low, width = _FIELDS[name]
            word |= (value & (1 << width) - 1) << low
        self.core.program.append(word)

    def _send(self, link: str, direction: str, purpose: str, vector: int, neurons: int, bits: int = 1) -> None:
        """Send the signs of `vector`, or its numbers as codes of 8 bits."""
        self._do(_SEND, a=vector, ni=neurons, as_bits=bits == 1, key=len(self.core.messages))
        self.core.messages.append(Message(link, direction, purpose, bits, neurons))

    def _product(self, key: tuple[str, str], vector: int, into: int, raw: bool, to_states: int) -> None:
        below, neurons = self.core.weights[key].shape
        unit = self.core.input_fraction_bits if raw else 0
        self._do(
            _PRODUCT, a=vector, d=into, w=self.bases[key], ni=below, nj=neurons, si=neurons, sj=1, as_bits=not raw,
            to_states=to_states, shift=self.core.fraction_bits + unit - SUM_FRACTION_BITS,
        )  # fmt: skip

    def _up(self, i: int, vector: int, into: int, raw: bool = False, to_states: int = 0) -> None:
        """Sums, or states, of layer `i` for a vector below it."""
        self._product((self.core.layers[i - 1], "weight"), vector, into, raw, to_states)

    def _down(self, i: int, vector: int, into: int) -> None:
        """States that the layer below layer `i` decodes from the signs of a vector of layer `i`."""
        self._product((self.core.layers[i - 2], "feedback"), vector, into, False, 1)

    def _outer(self, layer: str, array: str, below: int, error: int, raw: bool = False) -> None:
        """Add a sample's outer product to the gradients of `array`."""
        rows, columns = self.core.weights[layer, array].shape
        self._do(_OUTER, a=below, b=error, w=self.bases[layer, array], ni=rows, nj=columns, as_bits=not raw)


def _lines(numbers: Integers, bits: int) -> bytes:
    """One number a line."""
    return hex_lines(numbers[:, None], bits)


def write(folder: Path, core: LearningCore, golden: Mapping[str, bytes], traffic: Sequence[tuple[int, int]]) -> None:
    """Write a core and the files of its test bench, in place of an earlier export, or nothing.

    `traffic` are the bits and ones of each of `core.messages`, as a ledger counts them.
    """
    files = {**core.files(), **golden}
    above = {lower: f"{lower}-{upper}" for lower, upper in pairwise(core.layers)}
    arrays = [
        {"layer": layer, "array": array, "output_name": above.get(layer, layer), "shape": list(weight.shape)}
        for (layer, array), weight in core.weights.items()
    ]
    messages = [
        {**asdict(message), "sent_bits": bits, "sent_ones": ones}
        for message, (bits, ones) in zip(core.messages, traffic, strict=True)
    ]
    content = {
        "target": TARGET, "sizes": list(core.sizes), "weight_bits": core.weight_bits,
        "fraction_bits": core.fraction_bits, "program_words": len(core.program), "vector_words": core.vector_words,
        "weights": arrays, "messages": messages,
        "files": [{"path": path, "sha256": sha256(data).hexdigest()} for path, data in files.items()],
    }  # fmt: skip
    with replacing(folder) as new:
        for path, data in files.items():
            write_bytes(new / path, data)
        seal(new, content)


def place(manifest: Mapping[str, Any], damage: Damage) -> Place | None:
    """The neuron of a weight, before or after training, or of a code of a message: a line is one of them."""
    if damage.path in ("weights.mem", "bench/trained.mem"):
        array, _, neuron = _of_weight(manifest, damage.line - 1)
        return array["output_name"], neuron
    if damage.path == "bench/messages.mem":
        message, _, neuron = _of_code(manifest, damage.line - 1)
        return message["link"], neuron
    return None


def _of_weight(manifest: Mapping[str, Any], index: int) -> tuple[Mapping[str, Any], int, int]:
    """The array of the weight with that index, its row, and the neuron that it belongs to."""
    for array in manifest["weights"]:
        rows, columns = array["shape"]
        if index < rows * columns:
            return array, *divmod(index, columns)
        index -= rows * columns
    raise ValueError(f"the core has no weight {index}")


def _of_code(manifest: Mapping[str, Any], index: int) -> tuple[Mapping[str, Any], int, int]:
    """The message of the code with that index, its sample, and its neuron."""
    sample, index = divmod(index, sum(m["neurons"] for m in manifest["messages"]))
    for message in manifest["messages"]:
        if index < message["neurons"]:
            break
        index -= message["neurons"]
    return message, sample, index


def verify(folder: Path, chosen: str | None = None) -> Verification:
    """Train the core of the export in `folder` in a simulator; compare each message, each weight, and the traffic.

    `chosen` is `iverilog` or `verilator`; None takes the one that is faster for this export.
    """
    folder = Path(folder).absolute()
    manifest = read_json(folder / MANIFEST)
    cycles = 10 * sum(m["sent_bits"] // m["bits"] for m in manifest["messages"])
    chosen = chosen or simulator(cycles)
    if chosen is None:
        return Verification(NO_SIMULATOR)
    return _outcome(folder, manifest, simulate(folder, chosen, cycles))


def _outcome(folder: Path, manifest: Mapping[str, Any], printed: str) -> Verification:
    if failed := re.search(r"failed at code (\d+): (.+)", printed):
        message, sample, neuron = _of_code(manifest, int(failed[1]))
        detail = f"{message['purpose']} of sample {sample}: {failed[2]}"
        return Verification(f"failed at link {message['link']}, neuron {neuron}", detail=detail)
    if failed := re.search(r"failed at weight (\d+): (.+)", printed):
        array, row, neuron = _of_weight(manifest, int(failed[1]))
        detail = f"{array['array']} {row} after training: {failed[2]}"
        return Verification(f"failed at layer {array['layer']}, neuron {neuron}", detail=detail)
    passed = re.search(r"passed: (\d+) samples, (\d+) codes, (\d+) weights, (\d+) cycles", printed)
    if not passed:
        raise VerificationError(f"{folder}: the test bench came to no result\n{printed[-4000:]}")
    counted = {int(k): (int(b), int(o)) for k, b, o in re.findall(r"message (\d+) (\d+) (\d+)", printed)}
    for number, message in enumerate(manifest["messages"]):
        expected = message["sent_bits"], message["sent_ones"]
        if counted[number] != expected:
            detail = f"{message['purpose']}: {expected} bits and ones expected, counted {counted[number]}"
            return Verification(f"failed at link {message['link']}, traffic", detail=detail)
    return Verification("passed", int(passed[1]), int(passed[2]) + int(passed[3]))
