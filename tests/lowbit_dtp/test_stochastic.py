"""Stochastic binary units: averaged outputs, bits on links, learning digits."""

import re

import numpy as np
import pytest

from lowbit_dtp import data
from lowbit_dtp.experiment import Comparison
from lowbit_dtp.ledger import Direction, Ledger
from lowbit_dtp.links import Link
from lowbit_dtp.network import Network
from lowbit_dtp.randomness import RandomStream
from lowbit_dtp.rules import RULES, LearningRule, StepContext, StochasticDTP, StochasticStraightThrough
from lowbit_dtp.training import evaluate, fit

SIZES, SAMPLES, DRAWS = [6, 9, 7, 3], 5, 4
RULE_NAMES = ("stochastic-straight-through", "stochastic-dtp")


def network(rule: LearningRule) -> Network:
    net = Network.build(SIZES, [Link("ufixed(8,0)"), Link(), Link()], initial_weights="uniform")
    rule.prepare(net, 0)
    return net.with_links(rule.training_links(net.links))


def inputs() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (SAMPLES, 6)).astype(np.float32) / 256


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("kind", [StochasticStraightThrough, StochasticDTP])
def test_outputs_are_mean_probabilities_of_samples(kind) -> None:
    rule, stream = kind(samples=DRAWS), RandomStream(3, 5)
    net = network(rule)
    h1, h2, output = net.layers
    probabilities, total = sigmoid(inputs() @ h1.weight + h1.bias), 0
    for draw in range(DRAWS):
        uniforms = stream.at(draw)
        p = probabilities
        for link, layer in (("h1-h2", h2), ("h2-output", output)):
            sample = uniforms.uniform(f"{link} forward activations", p.astype(np.float32)) >= 1 - p
            x = sample @ layer.weight + layer.bias
            p = sigmoid(x)
        total = total + np.exp(x) / np.exp(x).sum(-1, keepdims=True)
    found = rule.infer(net, inputs(), Ledger(), stream)
    np.testing.assert_allclose(found, total / DRAWS, rtol=1e-5)
    np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-5)


@pytest.mark.parametrize("kind", [StochasticStraightThrough, StochasticDTP])
def test_bits_of_an_inference(kind) -> None:
    rule, ledger = kind(samples=DRAWS), Ledger()
    rule.infer(network(rule), inputs(), ledger)
    bits = {link: ledger.bits(link, Direction.FORWARD) / SAMPLES for link in ("input-h1", "h1-h2", "h2-output")}
    assert bits == {"input-h1": 6 * 8, "h1-h2": DRAWS * 9, "h2-output": DRAWS * 7}
    assert ledger.bits(direction=Direction.FEEDBACK) == 0


@pytest.mark.parametrize(
    ("rule", "up", "down"),
    [
        (StochasticStraightThrough(), {"h1-h2": 9, "h2-output": 7}, {"h1-h2": 9 * 32, "h2-output": 7 * 32}),
        # samples, and samples under noise; reconstruction, state and target
        (StochasticDTP(), {"h1-h2": 2 * 9, "h2-output": 7}, {"h1-h2": 3 * 7 * 32, "h2-output": 7 * 32}),
    ],
    ids=RULE_NAMES,
)
def test_bits_of_a_training_sample(rule: LearningRule, up: dict[str, float], down: dict[str, float]) -> None:
    ledger = Ledger()
    rule.step(network(rule), inputs(), np.array([0, 1, 2, 1, 0]), ledger, StepContext())
    for direction, expected in ((Direction.FORWARD, {"input-h1": 6 * 8} | up), (Direction.FEEDBACK, down)):
        names = ("input-h1", "h1-h2", "h2-output")
        bits = {link: ledger.bits(link, direction) / SAMPLES for link in names}
        assert {link: number for link, number in bits.items() if number} == expected


def test_units_are_probabilities_and_feedback_is_as_the_decoder_says() -> None:
    net = network(StochasticDTP())
    assert [layer.activation.name for layer in net.layers] == ["sigmoid", "sigmoid", "identity"]
    assert net.layers[0].decoder_activation.name == "tanh"
    assert network(StochasticDTP(decoder="")).layers[0].decoder_activation is None
    assert network(StochasticStraightThrough()).layers[0].decoder_activation is None


def test_a_binary_link_carries_probabilities_down_as_0_and_1() -> None:
    links = [Link("ufixed(8,0)"), Link("binary", "binary"), Link("binary", "binary")]
    net, rule, ledger = Network.build(SIZES, links), StochasticDTP(), Ledger()
    trained = rule.training_links(net.links)
    assert [link.feedback.name for link in trained[1:]] == ["table(0,1)", "binary"]  # gradients come down at the top
    rule.prepare(net, 0)
    rule.step(net.with_links(trained), inputs(), np.array([0, 1, 2, 1, 0]), ledger, StepContext())
    assert ledger.bits("h1-h2", Direction.FEEDBACK) / SAMPLES == 3 * 7
    assert StochasticStraightThrough().training_links(net.links)[1].feedback.name == "binary"


def test_noise_is_added_in_training_alone() -> None:
    quiet, noisy = StochasticStraightThrough(input_noise=0), StochasticStraightThrough()
    net, labels = network(quiet), np.array([0, 1, 2, 1, 0])
    gradients = [rule.step(net, inputs(), labels, Ledger(), StepContext()).gradients for rule in (quiet, noisy)]
    assert (np.asarray(gradients[0]["h1", "weight"]) != np.asarray(gradients[1]["h1", "weight"])).any()
    assert (quiet.infer(net, inputs(), Ledger()) == noisy.infer(net, inputs(), Ledger())).all()


def test_table_3_1_is_an_experiment_on_mnist() -> None:
    comparison = Comparison.load("table3.1")
    for name in RULE_NAMES:
        experiment = comparison.experiment(name, 0)
        net, rule, _ = experiment.built()
        assert (experiment.data, net.sizes, type(rule)) == ("mnist", [784, 200, 200, 10], RULES[name])
        assert [link.forward.name for link in rule.training_links(net.links)] == ["float32", "bernoulli", "bernoulli"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StochasticDTP(samples=0), "stochastic-dtp: samples must be a whole number, 1 or more, not 0"),
        (
            lambda: StochasticStraightThrough(input_noise=-1),
            "stochastic-straight-through: input_noise must be a finite number, zero or more, not -1",
        ),
        (lambda: StochasticDTP(noise=-1), "stochastic-dtp: noise must be a finite number, zero or more, not -1"),
    ],
)
def test_settings_that_are_wrong(make, message) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make()


@pytest.mark.parametrize(("rule", "most"), [("stochastic-straight-through", 16), ("stochastic-dtp", 20)])
def test_digits_are_learned(rule: str, most: float) -> None:
    """Test error after 40 epochs of seed 0, mean of 100 samples; chance is 90 %."""
    digits = data.load("digits")
    net, learner, optimizer = Comparison.load("digits").experiment(rule, 0).built()
    for _ in fit(net, learner, optimizer, digits.train, 40, 50):
        pass
    assert evaluate(net.with_links(learner.inference_links(net.links)), digits.test, rule=learner) <= most
