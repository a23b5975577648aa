"""Rules with targets: bits on links, learning of feedback weights, learning digits, stopped runs."""

import re
from collections import Counter
from typing import Any

import numpy as np
import pytest

from lowbit_dtp import data, runs
from lowbit_dtp.backends import multiplied
from lowbit_dtp.experiment import Comparison, Experiment
from lowbit_dtp.ledger import Ledger
from lowbit_dtp.links import Link
from lowbit_dtp.network import Network
from lowbit_dtp.optimizers import SGD
from lowbit_dtp.randomness import RandomStream
from lowbit_dtp.rules import DRL, DTP, LDRL, SDTP, DirectDTP, FixedDTP, TargetProp, TargetRule
from lowbit_dtp.rules.rule import StepContext
from lowbit_dtp.runs import run
from lowbit_dtp.training import Progress, evaluate, fit

SIZES = [64, 20, 15, 10]
LINKS = [Link("ufixed(5,1)"), Link("binary", "ternary"), Link("fixed(4,1)", "fixed(6,1)")]


def ends(net: Network) -> dict[str, tuple[int, int, int, int]]:
    """Neurons below and above each link, and bits of a code up and down."""
    neurons = {layer.name: layer.neurons for layer in net.layers} | {"input": net.sizes[0]}
    return {x.name: (neurons[x.lower], neurons[x.upper], x.forward.bits, x.feedback.bits) for x in net.links}


NOISY = "noisy activations"
CROSSINGS: dict[str, tuple[TargetRule, dict[str, dict[str, int]]]] = {
    # messages a sample for each purpose, up and down together, on each link that carries more than activations
    "dtp": (
        DTP(),
        {
            "h1-h2": {NOISY: 1, "state": 1, "target": 1, "reconstruction": 1},
            "h2-output": {"error": 1},
        },
    ),
    "dtp-output": (
        DTP(top="output"),
        {link: {NOISY: 1, "state": 1, "target": 1, "reconstruction": 1} for link in ("h1-h2", "h2-output")},
    ),
    "target-prop-output": (
        TargetProp(top="output"),
        {link: {NOISY: 1, "target": 1, "reconstruction": 1} for link in ("h1-h2", "h2-output")},
    ),
    "sdtp": (
        SDTP(),
        {link: {NOISY: 1, "state": 1, "target": 1, "reconstruction": 1} for link in ("h1-h2", "h2-output")},
    ),
    "dtp-fixed": (FixedDTP(), {"h1-h2": {"state": 1, "target": 1}, "h2-output": {"error": 1}}),
    "l-drl": (
        LDRL(),
        {
            link: {NOISY: 1, "state": 2, "target": 1, "reconstruction": 1, "noisy state": 1}
            for link in ("h1-h2", "h2-output")
        },
    ),
    "drl": (
        DRL(),
        {
            "h1-h2": {NOISY: 1, "state": 2, "target": 1, "reconstruction": 1, "noisy state": 1},
            "h2-output": {NOISY: 2, "state": 2, "target": 1, "reconstruction": 2, "noisy state": 1},
        },
    ),
    "direct-dtp": (
        DirectDTP(feedback="fixed(5,1)"),
        {
            "h1-h2": {NOISY: 1},
            "h2-output": {NOISY: 2, "state": 2, "target": 1, "reconstruction": 1, "noisy state": 1},
            "output-h1": {"state": 2, "target": 1, "reconstruction": 1, "noisy state": 1},
        },
    ),
}


@pytest.mark.parametrize("name", CROSSINGS)
def test_bits_of_each_link_are_those_of_the_closed_form(name: str) -> None:
    rule, crossings = CROSSINGS[name]
    net = Network.build(SIZES, LINKS, seed=1)
    rule.prepare(net, 1)
    net = net.with_links(rule.training_links(net.links))
    ledger, samples = Ledger(), 7
    inputs = np.random.default_rng(0).random((samples, 64)).astype(np.float32)
    rule.step(net, inputs, np.arange(7), ledger, StepContext())

    expected: Counter[tuple[str, str, str]] = Counter()
    for link, (below, above, up, down) in ends(net).items():
        if link != "output-h1":
            expected[link, "forward", "activations"] = samples * below * up
        for purpose, messages in crossings.get(link, {}).items():
            sources = below if purpose == "error" else above  # an error is one number for each neuron below
            way, bits = ("forward", below * up) if purpose == NOISY else ("feedback", sources * down)
            expected[link, way, purpose] = samples * messages * bits
    found: Counter[tuple[str, str, str]] = Counter()
    for kind, traffic in ledger.message_types():
        found[kind.link, str(kind.direction), kind.purpose] += traffic.messages * kind.width * kind.bits
    assert found == expected


@pytest.mark.parametrize("schedule", ["minibatch", "alternating-epochs"])
@pytest.mark.parametrize("rule", [DTP, TargetProp, LDRL, DRL, SDTP])
def test_inverses_learn_from_the_first_samples_alone(rule: type[TargetProp], schedule: str) -> None:
    inputs, labels = np.random.default_rng(0).random((7, 64)).astype(np.float32), np.arange(7)
    found, bits = [], []
    for share, samples in ((0.4, 7), (1.0, 3)):  # three of seven
        learner, net = rule(inverse_share=share, schedule=schedule), Network.build(SIZES, LINKS, seed=1)
        learner.prepare(net, 1)
        ledger, context = Ledger(), StepContext(phase=learner.phases[0], stream=RandomStream(0))
        gradients = learner.step(net, inputs[:samples], labels[:samples], ledger, context).gradients
        found.append({key: value for key, value in gradients.items() if "feedback" in key[1]})
        bits.append({x: ledger.bits(purpose=x) for x in (NOISY, "reconstruction", "noisy state")})
    assert bits[0] == bits[1]
    assert found[0]
    assert found[0].keys() == found[1].keys()
    for key, gradient in found[0].items():
        np.testing.assert_array_equal(multiplied(gradient), multiplied(found[1][key]))


def test_fixed_feedback_of_the_thesis_net_costs_500_bits_up_and_1000_down() -> None:
    net = Network.build([784, 500, 500, 10], [Link("ufixed(8,0)"), Link("binary", "binary"), Link()])
    ledger = Ledger()
    FixedDTP().step(net, np.zeros((1, 784), np.float32), np.array([3]), ledger, StepContext())
    bits: Counter[str] = Counter()
    for kind, traffic in ledger.message_types("h1-h2"):
        bits[str(kind.direction)] += traffic.messages * kind.width * kind.bits
    assert bits == {"forward": 500, "feedback": 1000}


# --- feedback weights -------------------------------------------------------------------------------------------------


def cosines(net: Network, inputs: np.ndarray) -> list[float]:
    """For each hidden layer, cosine of the angle between its decoder's weights and the mean transposed Jacobian of f.

    Decoders are linear. The Jacobian of tanh(h W + b) to h, by hand: dy_k/dh_j = (1 - y_k^2) W_jk.
    """
    found, run = [], net.forward(inputs, Ledger())
    for edge in net.edges[1:]:
        slope = 1.0 if edge.upper.activation.name == "identity" else 1 - run.states[edge.upper.name] ** 2
        jacobian = (slope * np.ones((len(inputs), 1))).mean(0) * edge.upper.weight  # [below, above]
        decoder = edge.lower.inputs[edge.link.name].values  # [above, below]
        found.append(float((decoder.T * jacobian).sum() / np.linalg.norm(decoder) / np.linalg.norm(jacobian)))
    return found


def trained_feedback(rule: TargetProp, steps: int = 1500) -> tuple[Network, np.ndarray, list[float]]:
    """A small float64 network whose feedback weights alone were trained; inputs; the cosines before."""
    links = [Link("float64", "float64") for _ in range(3)]
    net = Network.build([6, 5, 4, 3], links, seed=2, dtype=np.float64)
    rule.prepare(net, 2)
    random = np.random.default_rng(4)
    inputs, labels = random.standard_normal((40, 6)), random.integers(0, 3, 40)
    before, optimizer = cosines(net, inputs), SGD(0.05 / rule.noise**2)
    for step in range(steps):
        made = rule.step(net, inputs, labels, Ledger(), StepContext(stream=RandomStream(0, step)))
        feedback = {key: x for key, x in made.gradients.items() if key[1].startswith("feedback")}
        optimizer.apply(net, feedback, Ledger())
    return net, inputs, before


def test_l_drl_turns_decoders_into_transposed_jacobians() -> None:
    net, inputs, before = trained_feedback(LDRL(noise=0.05))
    after = cosines(net, inputs)
    assert max(before) < 0.7
    assert min(after) > 0.98
    # and not only their direction: the weights of the output layer, which is linear, are reached
    np.testing.assert_allclose(net.layer("h2").arrays()["feedback"], net.layer("output").weight.T, atol=0.15)


def test_drl_makes_the_way_up_and_down_the_identity_where_it_can() -> None:
    """For the top hidden layer, J_f J_g learns to be the identity on the outputs: g is the pseudo-inverse of f."""
    net, *_ = trained_feedback(DRL(noise=0.05, damping=0.0))
    there, back = net.layer("output").weight, net.layer("h2").arrays()["feedback"]
    np.testing.assert_allclose(back @ there, np.eye(3), atol=0.15)
    np.testing.assert_allclose(back, np.linalg.pinv(there), atol=0.15)


def test_fixed_feedback_weights_of_one_size() -> None:
    rule = FixedDTP(weights="sign", decoder="identity")
    net = Network.build(SIZES, LINKS, seed=1)
    drawn = net.layer("h1").arrays()["feedback"].copy()
    rule.prepare(net, 1)
    made = net.layer("h1").arrays()["feedback"]
    assert made.dtype == np.float32
    assert set(np.unique(made)) == {-0.25, 0.25}  # 15 neurons above: 1 / sqrt(15) is nearest to 1 / 4
    assert ((made > 0) == (drawn > 0)).all()
    rule.prepare(net, 1)
    assert (net.layer("h1").arrays()["feedback"] == made).all()
    assert net.layer("h1").decoder_activation.name == "identity"


@pytest.mark.parametrize(("copied", "bits"), [(None, 32), ("ternary", 2)], ids=str)
def test_mirrored_weights_are_sent_after_each_step(copied: str | None, bits: int) -> None:
    rule = FixedDTP(weights="mirror", decoder="identity", copied=copied)
    net, ledger = Network.build(SIZES, LINKS, seed=1), Ledger()
    rule.prepare(net, 1)
    inputs, optimizer = np.random.default_rng(0).random((7, 64)).astype(np.float32), SGD(0.1)
    for step in (1, 2):
        made = rule.step(net, inputs, np.arange(7), ledger, StepContext())
        optimizer.apply(net, made.gradients, ledger)
        forward, copy = net.layer("h2").weight, net.layer("h1").arrays()["feedback"]
        wanted = forward if copied is None else net.link("h1-h2.weights").feedback.quantize(forward)
        np.testing.assert_array_equal(copy, wanted.T)
        sent = [
            (kind.purpose, str(kind.direction), traffic.messages * kind.width * kind.bits)
            for kind, traffic in ledger.message_types("h1-h2.weights")
        ]
        assert sent == [("weights", "feedback", step * 20 * 15 * bits)]


def test_output_target_is_the_label_for_half_a_step_of_squared_error() -> None:
    """The note under eq. 3.7: with squared error and a step of 0.5, the target of the output is y."""
    net = Network.build([6, 5, 3], [Link()] * 2, output_activation="tanh")
    outputs, labels = np.array([[0.3, -0.2, 0.9]], np.float32), np.array([1])
    layer, rule = net.layers[-1], DTP(top="output", target_step=0.5)
    error, _ = layer.classification_error(outputs, labels, Ledger())
    state, target = rule.output_target(layer, outputs, error, labels, StepContext())
    assert state is outputs
    np.testing.assert_allclose(target, [[0, 1, 0]], atol=1e-7)


def test_target_of_sdtp_is_the_label() -> None:
    net = Network.build([6, 5, 3], [Link()] * 2)
    logits, labels = np.array([[0.3, -0.2, 0.9], [5, 1, 2]], np.float32), np.array([1, 0])
    layer = net.layers[-1]
    error, _ = layer.classification_error(logits, labels, Ledger())
    state, target = SDTP().output_target(layer, logits, error, labels, StepContext())
    powers = np.exp(logits)
    np.testing.assert_allclose(state, powers / powers.sum(-1, keepdims=True), rtol=1e-5)
    assert target.tolist() == [[0, 1, 0], [1, 0, 0]]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DTP(top="label"), "dtp: top must be 'gradient' or 'output', not 'label'"),
        (lambda: SDTP(top="gradient"), "sdtp: top must be 'output', not 'gradient'"),
        (lambda: DTP(layer_steps=0.5), "dtp: layer_steps must be a list of numbers, not 0.5"),
        (lambda: DTP(layer_steps=[1, -1]), "dtp: layer_steps must be a finite number, zero or more, not -1"),
        (lambda: DRL(damping=-1), "drl: damping must be a finite number, zero or more, not -1"),
        (
            lambda: DTP(layer_steps=[1.0]).prepare(Network.build(SIZES, LINKS), 0),
            "dtp: layer_steps must be 2 numbers, one for each hidden layer, lowest first, not [1.0]",
        ),
        (lambda: DTP(inverse_share=0), "dtp: inverse_share must be above 0 and at most 1, not 0"),
        (lambda: FixedDTP(weights="ones"), "dtp-fixed: weights must be 'random', 'sign' or 'mirror', not 'ones'"),
        (lambda: LDRL(decoder="tan"), "no activation 'tan'; there are: "),
    ],
)
def test_errors(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        make()


# --- digits -----------------------------------------------------------------------------------------------------------

LEARNERS: dict[str, tuple[str, dict[str, Any], float]] = {
    "dtp-output": ("dtp", {"top": "output", "target_step": 0.945, "noise": 0.3, "learning_rate": 2.19e-4}, 25),
    "sdtp": ("sdtp", {}, 20),
    "dtp-fixed": ("dtp-fixed", {}, 20),
    "dtp-mirror": ("dtp-fixed", {"weights": "mirror"}, 20),
    "drl": ("drl", {}, 25),
    "l-drl": ("l-drl", {}, 20),
    "direct-dtp": ("direct-dtp", {}, 15),
}
"""Rule, what its settings for digits are changed by, and the error in percent that 10 epochs stay under."""


def digits(name: str, **overrides: Any) -> Experiment:
    rule, settings, _ = LEARNERS[name]
    comparison = Comparison.load("digits", **overrides)
    rules = comparison.content["rules"]
    return Comparison(comparison.content | {"rules": rules | {rule: rules[rule] | settings}}).experiment(rule, 0)


@pytest.mark.parametrize("name", LEARNERS)
def test_learns_digits(name: str) -> None:
    experiment, samples = digits(name, epochs=10), data.load("digits")
    net, rule, optimizer = experiment.built()
    for _ in fit(net, rule, optimizer, samples.train, experiment.epochs, experiment.batch, 0, Progress()):
        pass
    assert evaluate(net.with_links(rule.inference_links(net.links)), samples.test) < LEARNERS[name][2]


class StoppedError(Exception):
    """Stands for whatever ends a run before its time."""


@pytest.mark.parametrize("name", LEARNERS)
def test_a_stopped_run_ends_as_one_that_was_not(name: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "CHECKPOINT_SECONDS", 0.0)
    experiment, samples = digits(name, sizes=[64, 8, 8, 10], epochs=2, batch=200), data.load("digits")

    def stop(done: int) -> None:
        if done == 8:
            raise StoppedError

    run(experiment, tmp_path / "whole", samples)
    with pytest.raises(StoppedError):
        run(experiment, tmp_path / "stopped", samples, on_step=stop)
    run(experiment, tmp_path / "stopped", samples)
    for file in ("network.safetensors", "ledger.json"):
        assert (tmp_path / "stopped" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file
