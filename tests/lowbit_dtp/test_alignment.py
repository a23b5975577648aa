"""Feedback alignment and ternary errors: fixed weights, bits on links, learning digits."""

import re

import numpy as np
import pytest

from lowbit_dtp import data
from lowbit_dtp.experiment import Comparison, ExperimentError
from lowbit_dtp.formats import ternary
from lowbit_dtp.ledger import Direction, Ledger
from lowbit_dtp.links import Link
from lowbit_dtp.network import Network, signs
from lowbit_dtp.rules import DirectFeedbackAlignment, FeedbackAlignment, LearningRule, StepContext, TernaryErrors
from lowbit_dtp.training import evaluate, fit

SIZES, SAMPLES = [6, 9, 7, 5, 3], 4
LINKS = [Link("ufixed(8,0)"), Link("binary", "fixed(4,1)"), Link("binary", "ternary"), Link()]
NAMES = ("input-h1", "h1-h2", "h2-h3", "h3-output", "output-h1", "output-h2")


def sent(rule: LearningRule, direction: Direction) -> dict[str, float]:
    """Bits that cross each link in a training sample."""
    net = Network.build(SIZES, LINKS)
    rule.prepare(net, 0)
    inputs, labels = np.random.default_rng(0).random((SAMPLES, 6)).astype(np.float32), np.array([0, 1, 2, 1])
    ledger = Ledger()
    rule.step(net.with_links(rule.training_links(net.links)), inputs, labels, ledger, StepContext())
    return {name: ledger.bits(name, direction) / SAMPLES for name in NAMES if ledger.bits(name, direction)}


@pytest.mark.parametrize(
    ("rule", "down"),
    [
        (FeedbackAlignment(), {"h1-h2": 7 * 4, "h2-h3": 5 * 2, "h3-output": 3 * 32}),
        (FeedbackAlignment(gradient="binary"), {"h1-h2": 7, "h2-h3": 5, "h3-output": 3 * 32}),
        (DirectFeedbackAlignment(), {"output-h1": 3 * 32, "output-h2": 3 * 32, "h3-output": 3 * 32}),
        (DirectFeedbackAlignment(gradient="ternary"), {"output-h1": 3 * 2, "output-h2": 3 * 2, "h3-output": 3 * 32}),
        (TernaryErrors(), {"h1-h2": 9 * 2, "h2-h3": 7 * 2, "h3-output": 5 * 2}),
    ],
    ids=repr,
)
def test_bits_that_cross_in_a_training_sample(rule: LearningRule, down: dict[str, float]) -> None:
    assert sent(rule, Direction.FEEDBACK) == down
    assert sent(rule, Direction.FORWARD) == {"input-h1": 6 * 8, "h1-h2": 9, "h2-h3": 7, "h3-output": 5 * 32}


def test_ternary_errors_need_no_multiplier() -> None:
    net, rule, ledger = Network.build([6, 9, 7, 3], [Link("binary")] * 3), TernaryErrors(), Ledger()
    labels = np.array([0, 1, 2, 1])
    rule.step(net, np.random.default_rng(0).random((4, 6)).astype(np.float32), labels, ledger, StepContext())
    products = [work for work in ledger.work if work.operation == "multiply-accumulate"]
    assert {work.purpose for work in products} == {"activations", "error", "gradient"}
    assert all({work.left, work.right} & {"binary", "ternary"} for work in products)


def test_signs_are_of_one_magnitude_which_is_a_power_of_two() -> None:
    weights = signs(100, 60, 0, "h1.feedback")
    assert set(np.unique(weights)) == {-0.125, 0.125}
    assert abs(weights.mean()) < 0.01


def test_feedback_weights_are_drawn_once_and_never_trained() -> None:
    train = data.load("digits").train
    for rule in (FeedbackAlignment(feedback_weights="signs"), DirectFeedbackAlignment()):
        experiment = Comparison.load("digits").experiment(rule.name, 0)
        net, _, optimizer = experiment.built()
        rule.prepare(net, 0)
        links = [link.name for link in net.links]
        before = {name: x.copy() for name, x in net.tensors().items()}
        rule.prepare(net, 1)
        assert [link.name for link in net.links] == links
        for _ in zip(range(3), fit(net, rule, optimizer, train, 1, 50), strict=False):
            pass
        after = net.tensors()
        assert after.keys() == before.keys()
        changed = {name for name, x in after.items() if (x != before[name]).any()}
        assert changed == {name for name in after if name.endswith((".weight", ".bias"))}
        assert not any("feedback_bias" in name for name in after if rule.name == "feedback-alignment")


def test_links_that_a_rule_adds_can_be_given_formats() -> None:
    few = {"output-h1": {"feedback": "ternary"}, "h2-output": {"feedback": "ternary"}}
    net, rule, _ = Comparison.load("digits", links=few).experiment("direct-feedback-alignment", 0).built()
    assert net.link("output-h1").feedback == ternary
    samples, ledger = data.load("digits").train, Ledger()
    context = StepContext()
    rule.step(net, samples.inputs[:50], samples.labels[:50], ledger, context)
    assert ledger.bits(direction=Direction.FEEDBACK) == 50 * 40
    assert Network.of(net.tensors(), net.describe()).link("output-h1").feedback == ternary


def test_links_that_no_rule_adds_are_refused() -> None:
    message = "links: dtp uses no link 'output-h1'; there are: input-h1, h1-h2, h2-output"
    with pytest.raises(ExperimentError, match=f"^{re.escape(message)}$"):
        Comparison.load("digits", links={"output-h1": {"feedback": "ternary"}}).experiment("dtp", 0).built()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: FeedbackAlignment(feedback_weights="sign"),
            "no feedback-alignment feedback_weights 'sign'; there are: orthogonal, signs, uniform, zeros",
        ),
        (
            lambda: TernaryErrors(threshold=0),
            "ternary-errors: threshold must be a finite number above zero, not 0",
        ),
    ],
)
def test_settings_that_are_wrong(make, message) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make()


@pytest.mark.parametrize(
    ("rule", "most"),
    [("feedback-alignment", 14), ("direct-feedback-alignment", 14), ("ternary-errors", 16)],
)
def test_digits_are_learned(rule: str, most: float) -> None:
    """Test error after 15 epochs of seed 0; chance is 90 %."""
    digits = data.load("digits")
    net, learner, optimizer = Comparison.load("digits").experiment(rule, 0).built()
    for _ in fit(net, learner, optimizer, digits.train, 15, 50):
        pass
    assert evaluate(net, digits.test, rule=learner) <= most
