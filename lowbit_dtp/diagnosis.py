"""Diagnosis of a learning rule: how its updates compare with backpropagation's, and how good its targets are.

Everything is measured on a copy of the network, for one fixed minibatch, so that the run and its ledger do not change.
D.-H. Lee, Difference Target Propagation, thesis, section 3.2: angles as in theorem 1, targets as in eqs. 3.6 and 3.19,
the spectrum of I - J_f J_g as in theorem 2.
"""

from contextlib import suppress
from dataclasses import dataclass, field, fields, replace

import numpy as np

from .activations import Activation
from .backends import Array, multiplied
from .backends.numpy_plain import blas
from .data import Samples
from .formats import float32
from .layers import Gradients, Layer
from .ledger import Direction, Ledger
from .links import Link, Signal
from .network import Network, Pass
from .randomness import RandomStream
from .rules import LearningRule, StepContext, StraightThrough, TargetProp
from .tasks import Task

SAMPLES = 100
"""Samples in the minibatch that is measured, at most."""
SPECTRUM_SAMPLES = 3
"""Samples of which Jacobians are computed: their time grows with the cube of the neurons."""

AS_TRAINED, FLOAT = "as_trained", "float"
"""Links as in training; and all links except that of the inputs in float32."""

Measures = dict[str, dict[str, float | None]]
"""Measures of each layer, by the names of the layer and of the measure. None stands for a number that is not finite.

`angle_degrees`: between the gradients of the layer's forward weights by the rule and by backpropagation, which takes
the derivative of quantizers as 1 and sends gradients in float32. None if one is zero.

For layers that get a target, `target_lowers_loss`: share of samples for which the target of the layer lowers the loss
of the next, ||f(target) - target above|| < ||h above - target above|| (eqs. 3.6, 3.19), or the task's loss if the next
is the output layer. `target_moves`: share of samples whose target is not the state itself; others lower no loss.

For layers that decode a signal from above, `reconstruction_error`: ||g(f(h)) - h|| / ||h||, norms over all samples.
With float links, of I - J_f J_g at the states, means over `SPECTRUM_SAMPLES` samples: `spectral_radius`, the largest
modulus of an eigenvalue, `largest_singular_value` and `median_singular_value`. Theorem 2 needs the largest singular
value below 1. They are left out where the layer above does not send its state: the outputs of SDTP send probabilities.
"""


def diagnose(
    net: Network, rule: LearningRule, samples: Samples, task: Task, epoch: int = 0, seed: int = 0
) -> dict[str, Measures]:
    """Measure the single network `net`, in NumPy, after `epoch` epochs of `rule`, with links as built.

    Measures with links `AS_TRAINED` and with `FLOAT` ones; the latter are left out if the rule cannot train with them.
    Uses the first `SAMPLES` of `samples`; noise is drawn from `seed`, the same at every call.
    """
    inputs, labels = samples.part(slice(0, SAMPLES))
    target = task.target(inputs, labels)
    links = rule.training_links(net.links)
    variants = {AS_TRAINED: links}
    with suppress(ValueError):  # fixed-lower needs a discrete link
        float_links = [links[0], *(replace(link, forward=float32, feedback=float32) for link in links[1:])]
        variants[FLOAT] = rule.training_links(float_links)
    found = {}
    for name, chosen in variants.items():
        with np.errstate(over="ignore", invalid="ignore"), blas().limit(limits=1):
            diagnosis = _Diagnosis(_Probe.network(net, chosen), inputs, target, task, RandomStream(seed))
            found[name] = diagnosis.measures(rule, epoch, with_spectra=name == FLOAT)
    return found


def angle_degrees(a: np.ndarray, b: np.ndarray) -> float | None:
    """Angle between two arrays of one shape as vectors, accurate also near 0 and 180; None if one is zero.

    >>> angle_degrees(np.array([1.0, 0.0]), np.array([1.0, 1.0])), angle_degrees(np.zeros(2), np.ones(2))
    (45.0, None)
    """
    lengths = [float(np.linalg.norm(x)) for x in (a, b)]
    if not all(lengths) or not np.isfinite(lengths).all():
        return None
    a, b = a / lengths[0], b / lengths[1]
    return float(np.degrees(2 * np.arctan2(np.linalg.norm(a - b), np.linalg.norm(a + b))))


def spectrum(matrix: np.ndarray) -> dict[str, float]:
    """Largest modulus of the eigenvalues of a square matrix, and its largest and median singular value.

    NaN if it is not finite, as in a run that has diverged.
    """
    if not np.isfinite(matrix).all():
        return dict.fromkeys(("spectral_radius", "largest_singular_value", "median_singular_value"), np.nan)
    singular = np.linalg.svd(matrix, compute_uv=False)
    return {
        "spectral_radius": float(np.abs(np.linalg.eigvals(matrix)).max()),
        "largest_singular_value": float(singular[0]),
        "median_singular_value": float(np.median(singular)),
    }


def jacobian(activation: Activation, state: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Derivative [neurons, sources] of `activation(x @ weight + bias)` by `x`, where its value is `state` [neurons]."""
    if activation.backward is not None:
        return activation.backward(np.broadcast_to(state, (len(state),) * 2), np.eye(len(state))) @ weight.T
    assert activation.slope is not None, f"activation {activation.name} needs a slope or backward"
    return activation.slope(state)[:, None] * weight.T


@dataclass(frozen=True)
class _Diagnosis:
    """One minibatch, and the copy of the network that is measured."""

    net: Network
    inputs: Array | Signal
    target: Array
    task: Task
    stream: RandomStream
    ledger: Ledger = field(default_factory=Ledger)

    def measures(self, rule: LearningRule, epoch: int, with_spectra: bool) -> Measures:
        """All measures of each layer for a step of `rule`."""
        found: dict[str, dict[str, float | None]] = {layer.name: {} for layer in self.net.layers}
        gradients: Gradients = {}
        for phase in rule.phases:
            context = StepContext(epoch, phase, self.stream, self.task)
            gradients |= rule.step(self.net, self.inputs, self.target, self.ledger, context).gradients
        made = {key: np.array(multiplied(x), np.float64) for key, x in gradients.items()}
        reference = self._backpropagation()
        for layer in self.net.layers:
            key = layer.name, layer.projection.name
            if key in made and key in reference:
                found[layer.name]["angle_degrees"] = angle_degrees(made[key], reference[key])
        run = self.net.forward(self.inputs, self.ledger, self.stream)
        for name, measured in self._targets(run).items():
            found[name] |= measured
        for name, link in self._decoders().items():
            found[name] |= self._inverse(rule, self.net.layer(name), link, run, with_spectra)
        return {
            name: {key: x if x is not None and np.isfinite(x) else None for key, x in measured.items()}
            for name, measured in found.items()
        }

    def _backpropagation(self) -> dict[tuple[str, str], np.ndarray]:
        """Gradients by straight-through backpropagation; none if the task or the weights have none."""
        is_float = all(layer.projection.values.dtype.kind == "f" for layer in self.net.layers)
        if not is_float or self.task.name not in StraightThrough.tasks:
            return {}
        net = self.net.with_links([replace(link, feedback=float32) for link in self.net.links])
        context = StepContext(stream=self.stream, task=self.task)
        step = StraightThrough().step(net, self.inputs, self.target, Ledger(), context)
        return {key: np.array(multiplied(x), np.float64) for key, x in step.gradients.items()}

    def _targets(self, run: Pass) -> Measures:
        """Measures of the targets that the rule computed."""
        given = {layer.name: layer.targets[-1] for layer in self._probes if layer.targets}
        found: Measures = {}
        for edge in self.net.edges:
            if edge.lower is None or edge.lower.name not in given:
                continue
            state, target = given[edge.lower.name]
            sent = edge.link.send(target, Direction.FORWARD, "target", self.ledger, self.stream)
            reached = edge.upper.state(sent, self.ledger)
            if edge.upper is self.net.layers[-1]:
                before, after = self._losses(run.output), self._losses(reached)
            elif edge.upper.name in given:
                above, target_above = given[edge.upper.name]
                before, after = (np.linalg.norm(np.asarray(x - target_above), axis=-1) for x in (above, reached))
            else:
                continue
            found[edge.lower.name] = {
                "target_lowers_loss": float((after < before).mean()),
                "target_moves": float((target != state).any(-1).mean()),
            }
        return found

    def _losses(self, output: Array) -> np.ndarray:
        """The task's loss of each sample."""
        rows = [slice(i, i + 1) for i in range(len(output))]
        top = self.net.layers[-1]
        return np.array([self.task.error(top, output[i], self.target[i], self.ledger)[1] for i in rows])

    def _decoders(self) -> dict[str, Link]:
        """The link whose signal each layer decoded, by the name of the layer."""
        return {layer.name: self.net.link(layer.decoded[0]) for layer in self._probes if layer.decoded}

    def _inverse(
        self, rule: LearningRule, layer: Layer, link: Link, run: Pass, with_spectra: bool
    ) -> dict[str, float | None]:
        """Measures of the decoder of `layer` as the inverse of the network from it to the upper end of `link`."""
        state, above = np.asarray(run.states[layer.name]), run.states[link.upper]
        sent = above
        if isinstance(rule, TargetProp):
            context = StepContext(stream=self.stream, task=self.task)
            sent = rule.sent_state(self.net.layer(link.upper), above, self.target, self.ledger, context)
        down = link.send(sent, Direction.FEEDBACK, "reconstruction", self.ledger, self.stream)
        reconstruction = np.asarray(layer.decode(down, self.ledger, "inverse"))
        length = float(np.linalg.norm(state))
        error = float(np.linalg.norm(reconstruction - state)) / length if length else None
        found: dict[str, float | None] = {"reconstruction_error": error}
        if with_spectra and sent is above:
            spectra = [
                spectrum(self._theorem_2_matrix(layer, link, run, reconstruction, i))
                for i in range(min(SPECTRUM_SAMPLES, len(state)))
            ]
            found |= {key: float(np.mean([x[key] for x in spectra])) for key in spectra[0]}
        return found

    def _theorem_2_matrix(
        self, layer: Layer, link: Link, run: Pass, reconstruction: np.ndarray, sample: int
    ) -> np.ndarray:
        """I - J_f J_g for one sample: f from the `layer` up to the upper end of `link`, g back."""
        projection = layer.inputs[link.name]
        product = jacobian(layer.decoder_activation or layer.activation, _float64(reconstruction[sample]),
                           _float64(projection.values))  # fmt: skip
        names = [x.name for x in self.net.layers]
        for upper in self.net.layers[names.index(layer.name) + 1 : names.index(link.upper) + 1]:
            state = _float64(run.states[upper.name][sample])
            product = jacobian(upper.activation, state, _float64(upper.projection.values)) @ product
        return np.eye(len(product)) - product

    @property
    def _probes(self) -> "list[_Probe]":
        return [layer for layer in self.net.layers if isinstance(layer, _Probe)]


def _float64(x: Array) -> np.ndarray:
    return np.asarray(x, np.float64)


@dataclass
class _Probe(Layer):
    """A layer that records its targets and the links whose signals it decodes."""

    targets: list[tuple[Array, Array]] = field(default_factory=list)
    """(state, target) of each call."""
    decoded: list[str] = field(default_factory=list)
    """Names of links."""

    @classmethod
    def network(cls, net: Network, links: list[Link]) -> Network:
        """A copy of `net` with such layers, joined by `links`."""
        copy = net.each_array(lambda x: np.array(x))
        layers: list[Layer] = [cls(**{f.name: getattr(x, f.name) for f in fields(Layer)}) for x in copy.layers]
        return Network(layers, links)

    def local_error(self, state: Array, target: Array) -> Array:
        self.targets.append((np.array(state), np.array(target)))
        return super().local_error(state, target)

    def decode(self, above: Signal, ledger: Ledger, purpose: str) -> Array:
        self.decoded.append(above.link)
        return super().decode(above, ledger, purpose)

    def decode_change(self, before: Signal, after: Signal, ledger: Ledger, purpose: str) -> Array:
        self.decoded.append(before.link)
        return super().decode_change(before, after, ledger, purpose)
