"""Every rule, format and backend, listed once: the conformance tests run on all of these tables."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from lowbit_dtp import rules
from lowbit_dtp.backends import Backend
from lowbit_dtp.backends.numba_cpu import NumbaBackend
from lowbit_dtp.backends.torch_gpu import TorchBackend, tensor_of
from lowbit_dtp.formats import (
    Format,
    bernoulli,
    bfloat16,
    binary,
    binary01,
    e2m1,
    e4m3,
    e5m2,
    fixed,
    float16,
    float32,
    float64,
    mxfp4,
    mxfp8_e4m3,
    mxfp8_e5m2,
    mxint8,
    nvfp4,
    scaled,
    shared,
    symmetric,
    table,
    ternary,
    ufixed,
)
from lowbit_dtp.ledger import Direction
from lowbit_dtp.links import Link
from lowbit_dtp.network import Network, layer_names
from lowbit_dtp.optimizers import SGD, Adam, Bop, RMSprop
from lowbit_dtp.projections import Dense, Integer, Mirrored, Projection, Quantized, Thresholded, Tied
from lowbit_dtp.tasks import TASKS, Task
from lowbit_dtp.weight_formats import parse_weights
from tests.conformance import oracle, oracle_alignment, oracle_settling, oracle_single_layer, oracle_targets

SIZES = (6, 7, 5, 4, 3)
CHAINS = ((6, 5, 3), (6, 7, 5, 3), SIZES, (6, 7, 5, 4, 6, 3))
LABELS = np.array([0, 2, 1, 1, 2])


ONE_LAYER: dict[str, Any] = {"sizes": (6, 3), "chains": ((6, 3), (4, 6)), "activations": ("tanh",)}


@dataclass(frozen=True)
class RuleCase:
    """A learning rule, the networks it is tried on, and who knows what it must give."""

    rule: rules.LearningRule
    oracle: Callable[..., dict[tuple[str, str], np.ndarray]]
    """Gradients by (rule, net, inputs, target, stream), computed by other means than the project's."""
    sizes: tuple[int, ...] = SIZES
    """Layers of the network for all tests but that of the gradients."""
    chains: tuple[tuple[int, ...], ...] = CHAINS
    """Networks on which its gradients are held to the oracle's."""
    task: Task = TASKS["classify"]
    activations: tuple[str, ...] = ("tanh", "sigmoid", "relu")
    """Activations of the hidden layers that it is tried with; the first is the usual one."""
    output_activation: str = "identity"
    has_loss: bool = True
    weights: str = ""
    """Few-bit format of the weights, forward and feedback, of hidden layers; none if empty.

    The output layer then has fixed(4): with equal weights to all classes, a neuron's gradient is zero but for rounding.
    """
    sends: Format | None = None
    """Format in which hidden layers send activations, if links are not asked; None if they are."""

    def network(self, at: dict[int, Link], other: Link | None = None, **options: Any) -> Network:
        """A network for the rule, with links `at` some indices and `other` elsewhere."""
        sizes = list(options.pop("sizes", self.sizes))
        options = {"activation": self.activations[0], "output_activation": self.output_activation} | options
        net = small_network(sizes, links_with(sizes, at, other), rule=self.rule, **options)
        if self.weights:
            names = (f"{layer.name}.{p.name}" for layer in net.layers for p in layer.inputs.values())
            net.quantize_weights(dict.fromkeys(names, self.weights) | {"output.weight": "fixed(4)"})
        return net

    def target(self, inputs: np.ndarray, outputs: int, seed: int = 0) -> np.ndarray:
        """What the output layer is given to learn from."""
        if self.task.name == "associate":
            return np.random.default_rng(seed + 7).random((len(inputs), outputs)).astype(inputs.dtype)
        return np.array(self.task.target(inputs, LABELS if seed == 0 else LABELS[::-1]))


AUTOENCODER = RuleCase(
    rules.DTPAutoencoder(noise=0.4, input_noise=0.2),
    oracle.dtp_autoencoder,
    sizes=(6, 5, 6),
    chains=((6, 5, 6), (4, 7, 4)),
    task=TASKS["reconstruct"],
    activations=("sigmoid", "tanh", "relu"),
    output_activation="sigmoid",
)

RULES = {
    "dtp": RuleCase(rules.DTP(), oracle.target_propagation),
    "dtp-alternating": RuleCase(rules.DTP(schedule="alternating-epochs"), oracle.target_propagation),
    "target-prop": RuleCase(rules.TargetProp(), oracle.target_propagation),
    "target-prop-output": RuleCase(rules.TargetProp(top="output"), oracle_targets.target_propagation),
    "dtp-output": RuleCase(rules.DTP(top="output"), oracle_targets.target_propagation),
    "dtp-steps": RuleCase(
        rules.DTP(layer_steps=(0.5, 2)), oracle_targets.target_propagation, sizes=(6, 7, 5, 3), chains=((6, 7, 5, 3),)
    ),
    "sdtp": RuleCase(rules.SDTP(), oracle_targets.target_propagation),
    "dtp-fixed": RuleCase(rules.FixedDTP(), oracle_targets.target_propagation),
    "dtp-fixed-linear": RuleCase(rules.FixedDTP(weights="sign", decoder="identity"), oracle_targets.target_propagation),
    "dtp-fixed-mirror": RuleCase(
        rules.FixedDTP(weights="mirror", decoder="identity", top="output"), oracle_targets.target_propagation
    ),
    "drl": RuleCase(rules.DRL(), oracle_targets.target_propagation),
    "l-drl": RuleCase(rules.LDRL(), oracle_targets.target_propagation),
    "direct-dtp": RuleCase(rules.DirectDTP(), oracle_targets.target_propagation),
    "straight-through": RuleCase(rules.StraightThrough(), oracle.backpropagation),
    "straight-through-fixed(4,1)": RuleCase(rules.StraightThrough(gradient="fixed(4,1)"), oracle.backpropagation),
    "dtp-ternary-weights": RuleCase(rules.DTP(), oracle.target_propagation, weights="ternary"),
    "dtp-binary-weights": RuleCase(rules.DTP(), oracle.target_propagation, weights="binary:0.5"),
    "straight-through-binary-weights": RuleCase(rules.StraightThrough(), oracle.backpropagation, weights="binary"),
    "straight-through-fixed(3)-weights": RuleCase(
        rules.StraightThrough(), oracle.backpropagation, weights="fixed(3):largest"
    ),
    "backprop": RuleCase(rules.Backprop(), oracle.backpropagation, sends=float32),
    "backprop-then-sign": RuleCase(rules.BackpropThenSign(), oracle.backpropagation, sends=float32),
    "fixed-lower": RuleCase(rules.FixedLower(), oracle.backpropagation),
    "hebbian": RuleCase(
        rules.Hebbian(), oracle_single_layer.hebbian, task=TASKS["associate"], has_loss=False, **ONE_LAYER
    ),
    "hebbian-covariance": RuleCase(
        rules.Hebbian("covariance"), oracle_single_layer.hebbian, has_loss=False, **ONE_LAYER
    ),
    "hebbian-oja": RuleCase(
        rules.Hebbian("oja", supervised=False),
        oracle_single_layer.hebbian,
        task=TASKS["reconstruct"],
        has_loss=False,
        **ONE_LAYER,
    ),
    "delta": RuleCase(rules.Delta(), oracle_single_layer.delta, **ONE_LAYER),
    "delta-associate": RuleCase(
        rules.Delta(), oracle_single_layer.delta, task=TASKS["associate"], output_activation="sigmoid", **ONE_LAYER
    ),
    "delta-cross-entropy": RuleCase(
        rules.Delta("cross-entropy"), oracle_single_layer.delta, output_activation="sigmoid", **ONE_LAYER
    ),
    "perceptron": RuleCase(rules.Perceptron(), oracle_single_layer.delta, **ONE_LAYER),
    "perceptron-winner": RuleCase(rules.Perceptron("winner-take-all"), oracle_single_layer.delta, **ONE_LAYER),
    "competitive": RuleCase(rules.Competitive(), oracle_single_layer.competitive, task=TASKS["quantize"], **ONE_LAYER),
    "competitive-largest": RuleCase(
        rules.Competitive("largest"),
        oracle_single_layer.competitive,
        task=TASKS["quantize"],
        has_loss=False,
        **ONE_LAYER,
    ),
    "vector-quantization": RuleCase(
        rules.VectorQuantization(conscience=3.0, half_conscience_epoch=2.0),
        oracle_single_layer.competitive,
        task=TASKS["quantize"],
        **ONE_LAYER,
    ),
    "som": RuleCase(
        rules.SOM(rows=1, columns=6, width=1.5),
        oracle_single_layer.competitive,
        task=TASKS["quantize"],
        **ONE_LAYER | {"sizes": (4, 6), "chains": ((4, 6),)},
    ),
    "som-grid": RuleCase(
        rules.SOM(rows=3, columns=2, width=1.0),
        oracle_single_layer.competitive,
        task=TASKS["quantize"],
        **ONE_LAYER | {"sizes": (4, 6), "chains": ((4, 6),)},
    ),
    "lvq": RuleCase(
        rules.LVQ(classes=3, conscience=0.5, guided_epochs=0),
        oracle_single_layer.competitive,
        **ONE_LAYER | {"sizes": (4, 6), "chains": ((4, 6), (5, 3))},
    ),
    "lvq-guided": RuleCase(
        rules.LVQ(classes=3), oracle_single_layer.competitive, **ONE_LAYER | {"sizes": (4, 6), "chains": ((4, 6),)}
    ),
    "feedback-alignment": RuleCase(rules.FeedbackAlignment(), oracle_alignment.feedback_alignment),
    "feedback-alignment-signs": RuleCase(
        rules.FeedbackAlignment(feedback_weights="signs", gradient="fixed(4,1)"), oracle_alignment.feedback_alignment
    ),
    "direct-feedback-alignment": RuleCase(rules.DirectFeedbackAlignment(), oracle_alignment.direct_feedback_alignment),
    "direct-feedback-alignment-ternary": RuleCase(
        rules.DirectFeedbackAlignment(gradient="ternary"), oracle_alignment.direct_feedback_alignment
    ),
    "ternary-errors": RuleCase(
        rules.TernaryErrors(), oracle_alignment.ternary_errors, activations=("tanh", "hard-tanh", "relu")
    ),
    "stochastic-straight-through": RuleCase(
        rules.StochasticStraightThrough(samples=3),
        oracle_alignment.stochastic_straight_through,
        sends=bernoulli,
    ),
    "stochastic-dtp": RuleCase(rules.StochasticDTP(samples=3), oracle_alignment.stochastic_dtp, sends=bernoulli),
    "contrastive-hebbian": RuleCase(
        rules.ContrastiveHebbian(steps=3, gamma=0.5), oracle_settling.contrast, output_activation="sigmoid"
    ),
    "generec": RuleCase(rules.GeneRec(steps=3), oracle_settling.contrast, output_activation="sigmoid"),
    "generec-symmetric": RuleCase(
        rules.GeneRec(steps=2, gamma=0.5, symmetric=True), oracle_settling.contrast, output_activation="sigmoid"
    ),
    "generec-midpoint": RuleCase(
        rules.GeneRec(steps=2, gamma=0.7, midpoint=True), oracle_settling.contrast, output_activation="sigmoid"
    ),
    "dtp-autoencoder": AUTOENCODER,
    "dtp-autoencoder-untied": replace(AUTOENCODER, rule=rules.DTPAutoencoder(tied=False)),
    "dtp-autoencoder-contractive": replace(AUTOENCODER, rule=rules.DTPAutoencoder(target_step=0.5, contraction=0.3)),
}

INTEGER_RULES = {
    "integer-dtp": rules.IntegerDTP(),
    "integer-dtp-int8": rules.IntegerDTP(weight_bits=8, noise_shift=4, target_shift=1),
}
"""Rules without floats, which have conformance tests of their own: `test_integers`."""

CLASSIFIERS = {
    name: case.rule
    for name, case in RULES.items()
    if case.task.name == "classify" and case.sizes == SIZES and not case.weights
}
"""Rules that train a chain of layers to classify, each once."""

FORMATS = [
    binary,
    binary01,
    ternary,
    table([-1, -0.5, -0.25, 0, 0.25, 0.5, 1]),
    table([-2, 0.1, 3], [-0.3, 0.7]),
    fixed(2, 1),
    fixed(4, 1),
    fixed(8, 3, "floor"),
    fixed(5, -2, overflow="saturate-symmetric"),
    fixed(4, 2, overflow="wrap"),
    fixed(6, 3, "stochastic"),
    fixed(6, 3, "stochastic", "wrap"),
    fixed(16, 8),
    fixed(32, 16),
    ufixed(1, 1),
    ufixed(8, 0),
    ufixed(12, 4, "floor", "wrap"),
    ufixed(32, 2),
    float32,
    float64,
    scaled(binary, 0.25),
    scaled(ternary, 0.05),
    symmetric(2, -3),
    bernoulli,
    bfloat16,
    float16,
    e4m3,
    e5m2,
    e2m1,
    shared(2),
    shared(4),
    shared(3, 4),
    shared(12),
    shared(4, 8, "stochastic"),
    shared(5, 6, "floor"),
    mxfp8_e4m3,
    mxfp8_e5m2,
    mxfp4,
    mxint8,
    nvfp4,
]

LINK_FORMATS = [binary, ternary, fixed(4, 1), table([-1, -0.25, 0.25, 1]), shared(4), float32]
"""Formats that every rule is made to use, both ways, on each link."""


@dataclass(frozen=True)
class BackendCase:
    """A backend, with the way to its arrays and back."""

    name: str
    backend: Backend
    array: Callable[[np.ndarray], Any]
    """The NumPy array as one of the backend; never the same memory."""
    numpy: Callable[[Any], np.ndarray]


BACKENDS: list[Any] = [
    BackendCase("numpy", NumbaBackend(), np.array, np.asarray),
    BackendCase("torch", TorchBackend(), lambda x: tensor_of(x.copy(), "cpu"), lambda x: x.numpy()),
    pytest.param(
        BackendCase("cuda", TorchBackend(), lambda x: tensor_of(x, "cuda"), lambda x: x.cpu().numpy()),
        marks=pytest.mark.gpu,
    ),
]


def links_with(sizes: Sequence[int], at: dict[int, Link], other: Link | None = None) -> list[Link]:
    """Links for layers of `sizes`: those in `at`, by index, and `other` elsewhere."""
    names = layer_names(sizes)
    other = Link() if other is None else other
    chosen = [at.get(i, other) for i in range(len(sizes) - 1)]
    return [Link(x.forward, x.feedback, *ends) for x, ends in zip(chosen, pairwise(names), strict=True)]


def small_network(
    sizes: Sequence[int],
    links: list[Link],
    seed: int = 0,
    dtype: Any = np.float32,
    rule: rules.LearningRule | None = None,
    **options: Any,
) -> Network:
    """A network with all that `rule` needs, none of whose parameters is zero."""
    net = Network.build(sizes, links, seed=seed, dtype=dtype, **options)
    if rule is not None:
        rule.prepare(net, seed)
    random = np.random.default_rng(seed + 100)
    for layer in net.layers:
        for name, x in layer.arrays().items():
            layer.put(name, (x + 0.3 * random.standard_normal(x.shape)).astype(dtype))
    return net


def small_inputs(width: int, seed: int = 0, dtype: Any = np.float32) -> np.ndarray:
    """As many samples as `LABELS`, in [0, 1)."""
    return np.random.default_rng(seed).random((len(LABELS), width)).astype(dtype)


OPTIMIZERS = {
    "sgd": (SGD(0.05), lambda p: torch.optim.SGD(p, 0.05)),
    "adam": (Adam(0.003), lambda p: torch.optim.Adam(p, 0.003)),
    "rmsprop": (
        RMSprop(0.001, decay=0.9, momentum=0.8, epsilon=0.0),  # torch's epsilon is outside the root
        lambda p: torch.optim.RMSprop(p, 0.001, 0.9, 0.0, momentum=0.8, centered=True),
    ),
    "bop": (  # for all but binary weights without a master
        Bop(0.001, decay=0.9, momentum=0.8, epsilon=0.0),
        lambda p: torch.optim.RMSprop(p, 0.001, 0.9, 0.0, momentum=0.8, centered=True),
    ),
}
"""Optimizers, and torch's with the same settings."""

CODINGS: dict[str, tuple[int, int]] = {
    "plain": (100, 100),
    "events": (1 + 7 + 3 * 7, 1 + 7 + 4 * 7),
    "flips": (100, 1 + 7 + 1 * 7),
    "silence": (1 + 29, 1 + 7 + 1 * 7),
    "run-length": (1 + 11 + 11, 1 + 5 + 11 + 11),  # n = 1, 50, 49 and 1, 7, 43, 49
    "zero-skip": (100, 100),
    "bus-invert": (100 + 13, 100 + 13),
}
"""Codings, with the bits of a binary state of 100 neurons, 0, 50 and 99 at +1, and a target in which 7 is, too."""

PROCESSES = ["45nm", "7nm"]
WIRES = ["board", "chip-to-chip", "interposer", "mesh", "on-die", "radio", "serdes"]
MACHINES = [
    "arm", "braintta", "cpu", "finn", "gpu", "loihi", "spinnaker", "spinnaker2", "truenorth", "xnorbin",
]  # fmt: skip
"""Technologies, by the name of their file."""
WHOLE_MACHINES = sorted([*MACHINES, "truenorth-average"])
"""Machines that networks are placed on, by the name of their file."""

TARGETS = ["aer", "c", "mem", "nir", "qonnx", "verilog"]
"""Targets of exports."""


@dataclass(frozen=True)
class ExportCase:
    """A network of two layers that every target writes and verifies."""

    weights: str = "4"
    hidden: str = "binary"
    """Format of the link between the layers."""
    activation: str = "tanh"
    inputs: str = "ufixed(8,0)"
    sizes: tuple[int, int, int] = (5, 4, 3)


EXPORTS: dict[str, ExportCase] = {
    **{f"weights of {bits} bits": ExportCase(weights=str(bits)) for bits in range(1, 9)},
    "weights 0 and 1": ExportCase(weights="binary01"),
    "links 0 and 1": ExportCase(hidden="binary01", inputs="binary01"),
    "ternary links": ExportCase(hidden="ternary", inputs="ternary"),
    **{f"links of {bits} bits": ExportCase(hidden=f"fixed({bits},1)") for bits in range(2, 9)},
    **{
        activation: ExportCase(activation=activation, hidden="ternary")
        for activation in ("identity", "relu", "sigmoid", "step", "hard-tanh", "hard-sigmoid")
    },
    "one neuron": ExportCase(sizes=(5, 1, 2)),
    "one input": ExportCase(sizes=(1, 4, 3), inputs="binary"),
    "no full word": ExportCase(weights="3", sizes=(67, 33, 9), inputs="binary"),
    "more than a word of links": ExportCase(weights="1", hidden="fixed(3,1)", sizes=(65, 31, 3), inputs="ternary"),
}
"""Formats, activations, and widths that fill no word, of exported networks."""

REFUSED_EXPORTS: dict[str, str] = {
    "nir": "link h1-output",
}
"""Targets that refuse links of many levels, and what their message begins with."""


def _dense(seed: int = 0) -> Dense:
    random = np.random.default_rng(seed)
    return Dense(random.standard_normal((6, 4)).astype(np.float32), random.standard_normal(4).astype(np.float32))


def _thresholded() -> Thresholded:
    plain, steps = Quantized.of(_dense(), parse_weights("ternary")), np.arange(-1, 2, dtype=np.float32)
    thresholds = np.arange(4, dtype=np.float32)[:, None] / 4 + steps[:2]
    return Thresholded(plain.weight, format=plain.format, scale=plain.scale, thresholds=thresholds, levels=steps)


PROJECTIONS: dict[str, Callable[[], Projection]] = {
    "dense": _dense,
    "quantized": lambda: Quantized.of(_dense(), parse_weights("ternary")),
    "thresholded": lambda: _thresholded(),
    "tied": lambda: Tied("a-b", _dense(), Direction.FEEDBACK),
    "mirrored": lambda: Mirrored(_dense().weight, _dense().offset, source=("a", "weight"), link="a-b.weights"),
    "integer": lambda: Integer.of(_dense(), bits=8, fraction_bits=4),
}
"""Kinds of projection, 6 sources to 4 neurons."""
