"""Rules that settle: equivalent gradients, bits on links, and learning."""

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from lowbit_dtp import data
from lowbit_dtp.ledger import Direction, Ledger
from lowbit_dtp.links import Link
from lowbit_dtp.network import Network
from lowbit_dtp.optimizers import SGD, Optimizer, RMSprop
from lowbit_dtp.rules import ContrastiveHebbian, GeneRec, LearningRule, StepContext
from lowbit_dtp.tasks import TASKS
from lowbit_dtp.training import Progress, evaluate, fit

SIZES = (6, 7, 5, 3)
LABELS = np.array([0, 2, 1, 1, 2])
EXACT = Link("float64", "float64")
FEW_BITS = [Link("ufixed(8,0)"), Link("fixed(5,1)", "fixed(6,1)"), Link("fixed(4,1)", "ufixed(3,0)")]


def network(rule: LearningRule, links: list[Link], output_activation: str = "sigmoid", **options: Any) -> Network:
    net = Network.build(SIZES, links, seed=1, output_activation=output_activation, dtype=np.float64, **options)
    rule.prepare(net, 1)
    return net


def inputs() -> np.ndarray:
    return np.random.default_rng(0).random((len(LABELS), SIZES[0]))


def step(rule: LearningRule, net: Network, ledger: Ledger | None = None, target: np.ndarray = LABELS) -> Any:
    return rule.step(net, inputs(), target, Ledger() if ledger is None else ledger, StepContext())


@pytest.mark.parametrize("links", [[EXACT] * 3, FEW_BITS], ids=["float64", "few bits"])
@pytest.mark.parametrize("gamma", [1.0, 0.3])
def test_generec_by_the_midpoint_with_symmetric_weights_is_contrastive_hebbian(gamma: float, links: list[Link]) -> None:
    hebbian, generec = ContrastiveHebbian(gamma=gamma), GeneRec(gamma=gamma, midpoint=True, symmetric=True)
    net = network(hebbian, links)
    expected, found = step(hebbian, net).gradients, step(generec, network(generec, links)).gradients
    assert (
        found.keys()
        == expected.keys()
        == {
            *((layer, name) for layer in ("h1", "h2", "output") for name in ("weight", "bias")),
            *((layer, "feedback") for layer in ("h1", "h2")),
        }
    )
    for key, gradient in found.items():
        assert np.abs(gradient).max() > 0
        np.testing.assert_allclose(gradient, expected[key], rtol=1e-9, atol=1e-12, err_msg=str(key))
    one_sided = step(GeneRec(gamma=gamma), net).gradients
    assert not np.allclose(one_sided["h2", "weight"], expected["h2", "weight"])


def backpropagated(net: Network, loss: Any) -> dict[tuple[str, str], np.ndarray]:
    """Gradients of the mean `loss(logits, one-hot)` by autograd, through the network without feedback."""
    leaves = {
        (layer.name, name): torch.tensor(layer.arrays()[name], requires_grad=True)
        for layer in net.layers
        for name in ("weight", "bias")
    }
    x = torch.tensor(inputs())
    for layer in net.layers:
        x = x @ leaves[layer.name, "weight"] + leaves[layer.name, "bias"]
        x = torch.tanh(x) if layer is not net.layers[-1] else x
    (loss(x, torch.eye(SIZES[-1], dtype=torch.float64)[torch.tensor(LABELS)]) / len(LABELS)).backward()
    return {key: leaf.grad.numpy() for key, leaf in leaves.items()}


@pytest.mark.parametrize(
    ("output_activation", "loss"),
    [
        ("sigmoid", lambda x, y: torch.nn.functional.binary_cross_entropy_with_logits(x, y, reduction="sum")),
        ("identity", lambda x, y: 0.5 * ((x - y) ** 2).sum()),
    ],
    ids=["sigmoid", "linear"],
)
def test_contrastive_hebbian_tends_to_backpropagation_as_feedback_weakens(output_activation: str, loss: Any) -> None:
    """Xie and Seung 2003: of outputs whose error is output - target at their pre-activations. The rest is O(gamma)."""
    net = network(ContrastiveHebbian(), [EXACT] * 3, output_activation)
    expected = backpropagated(net, loss)
    assert {("h1", "weight"), ("h2", "weight"), ("output", "weight")} < expected.keys()
    errors = []
    for gamma in (1e-1, 1e-2, 1e-3, 1e-4):
        gradients = step(ContrastiveHebbian(steps=20, gamma=gamma), net).gradients
        off = [np.linalg.norm(gradients[key] - x) / np.linalg.norm(x) for key, x in expected.items()]
        errors.append(max(off))
    assert errors[-1] < 0.01
    for weaker, stronger in zip(errors[1:], errors, strict=False):
        assert weaker == pytest.approx(stronger / 10, rel=0.3)


@pytest.mark.parametrize("optimizer", [RMSprop(0.003), SGD(0.1)], ids=["rmsprop", "sgd"])
@pytest.mark.parametrize("rule", [ContrastiveHebbian(steps=3), GeneRec(steps=3, symmetric=True), GeneRec(steps=3)])
@pytest.mark.parametrize("few_bits", [False, True])
def test_symmetric_weights_stay_symmetric(rule: LearningRule, optimizer: Optimizer, few_bits: bool) -> None:
    links = [Link("ufixed(5,1)"), Link("ternary", "fixed(4,1)"), Link("fixed(4,1)", "binary01")]
    net = Network.build([64, 20, 15, 10], links if few_bits else [Link()] * 3, seed=0, output_activation="sigmoid")
    rule.prepare(net, 0)
    first = {name: x.copy() for name, x in net.tensors().items()}
    samples = data.load("digits").train
    for _ in fit(net, rule, replace(optimizer, state={}), samples, 2, 50):
        pass
    for upper, lower in (("h2", "h1"), ("output", "h2")):
        forward, feedback = net.layer(upper).weight, net.layer(lower).arrays()["feedback"]
        changed = np.abs(forward - first[f"{upper}.weight"]).max()
        assert changed > 0.01
        if rule.has_symmetric_weights:  # type: ignore[attr-defined]
            np.testing.assert_allclose(feedback, forward.T, atol=1e-4)
        else:
            assert np.abs(feedback - forward.T).max() > changed


@pytest.mark.parametrize("rule", [ContrastiveHebbian(steps=4), GeneRec(steps=4)], ids=lambda rule: rule.name)
def test_bits_on_each_link(rule: LearningRule) -> None:
    """Per sample. In either phase each link between layers carries `steps` states up and as many down, but the clamped
    one of the output layer only once; the inputs cross once."""
    ledger, testing, steps = Ledger(), Ledger(), 4
    net = network(rule, FEW_BITS)
    step(rule, net, ledger)
    ledger.samples = len(LABELS)
    rule.infer(net, inputs(), testing)
    testing.samples = len(LABELS)
    expected = {
        ("input-h1", Direction.FORWARD): (6 * 8, 6 * 8),
        ("h1-h2", Direction.FORWARD): (2 * steps * 7 * 5, steps * 7 * 5),
        ("h1-h2", Direction.FEEDBACK): (2 * steps * 5 * 6, (steps - 1) * 5 * 6),
        ("h2-output", Direction.FORWARD): (2 * steps * 5 * 4, steps * 5 * 4),
        ("h2-output", Direction.FEEDBACK): ((steps + 1) * 3 * 3, (steps - 1) * 3 * 3),
    }
    for (link, direction), (training, inference) in expected.items():
        assert ledger.bits(link, direction, per="sample") == training
        assert testing.bits(link, direction, per="sample") == inference
    assert ledger.bits(per="sample") == sum(training for training, _ in expected.values())
    assert testing.bits(per="sample") == sum(inference for _, inference in expected.values())


def test_work_of_inference() -> None:
    """The first layer multiplies the inputs once; what comes from neighbours is multiplied in each sweep."""
    ledger, steps = Ledger(), 4
    rule = GeneRec(steps=steps)
    rule.infer(network(rule, [EXACT] * 3), inputs(), ledger)
    products: dict[str, int] = {}
    for work, times in ledger.work.items():
        if work.operation == "multiply-accumulate":
            products[work.layer] = products.get(work.layer, 0) + times // len(LABELS)
    assert products == {
        "h1": 6 * 7 + (steps - 1) * 5 * 7,
        "h2": steps * 7 * 5 + (steps - 1) * 3 * 5,
        "output": steps * 5 * 3,
    }


def test_a_phase_ends_where_states_no_longer_change() -> None:
    rule = ContrastiveHebbian(steps=500, gamma=0.3)
    net, early, all_steps = network(rule, [EXACT] * 3), Ledger(), Ledger()
    found = replace(rule, tolerance=1e-9).infer(net, inputs(), early)
    output = rule.infer(net, inputs(), all_steps)
    np.testing.assert_allclose(found, output, atol=1e-7)
    assert 5 < early.codes("h1-h2", Direction.FORWARD) / 7 / len(LABELS) < 100
    assert all_steps.codes("h1-h2", Direction.FORWARD) == 500 * 7 * len(LABELS)
    gradients = step(replace(rule, tolerance=1e-9), net).gradients
    for key, gradient in step(rule, net).gradients.items():
        np.testing.assert_allclose(gradients[key], gradient, atol=1e-6, err_msg=str(key))


def test_one_sweep_is_a_forward_pass() -> None:
    rule = GeneRec(steps=1)
    net = network(rule, FEW_BITS)
    expected = net.forward(inputs(), Ledger()).output
    np.testing.assert_array_equal(rule.infer(net, inputs(), Ledger()), expected)
    assert np.abs(GeneRec(steps=2).infer(net, inputs(), Ledger()) - expected).max() > 1e-3


def test_given_outputs_are_clamped_as_they_are() -> None:
    rule, target = ContrastiveHebbian(), np.random.default_rng(1).random((len(LABELS), SIZES[-1]))
    net = network(rule, [EXACT] * 3)
    made = rule.step(net, inputs(), target, Ledger(), StepContext(task=TASKS["associate"]))
    output = rule.infer(net, inputs(), Ledger())
    np.testing.assert_allclose(made.gradients["output", "bias"], (output - target).mean(0), rtol=1e-9)
    assert made.loss == pytest.approx(((output - target) ** 2).sum(1).mean())


def test_preparing_twice_changes_nothing() -> None:
    for rule in (ContrastiveHebbian(), GeneRec()):
        net = network(rule, [EXACT] * 3)
        once = {name: x.copy() for name, x in net.tensors().items()}
        assert {"h1.feedback", "h2.feedback"} < once.keys() and "h1.feedback_bias" not in once
        rule.prepare(net, 2)
        assert {name: x.tobytes() for name, x in net.tensors().items()} == {n: x.tobytes() for n, x in once.items()}


@pytest.mark.parametrize("tolerance", [None, 1e-3])
def test_a_trained_network_is_saved_and_goes_on(tolerance: float | None, tmp_path: Any) -> None:
    rule = ContrastiveHebbian(steps=3, gamma=0.5, tolerance=tolerance)
    samples = data.load("digits").train

    def untrained() -> tuple[Network, Optimizer, Progress]:
        net = Network.build([64, 20, 10], [Link(), Link("float32", "fixed(8,2)")], output_activation="sigmoid")
        return net, RMSprop(0.002), Progress()

    whole, optimizer, progress = untrained()
    for _ in fit(whole, rule, optimizer, samples, 2, 100, 0, progress):
        pass
    net, optimizer, progress = untrained()
    for i, _ in enumerate(fit(net, rule, optimizer, samples, 2, 100, 0, progress)):
        if i == 7:
            break
    net.save(tmp_path / "network")
    net = Network.load(tmp_path / "network")
    for _ in fit(net, rule, optimizer, samples, 2, 100, 0, progress):
        pass
    assert {n: x.tobytes() for n, x in net.tensors().items()} == {n: x.tobytes() for n, x in whole.tensors().items()}


LEARNERS = {
    "contrastive-hebbian": (ContrastiveHebbian(steps=5, gamma=0.3), Link()),
    "generec": (GeneRec(steps=5, gamma=0.3), Link()),
    "generec by the midpoint": (GeneRec(steps=5, gamma=0.3, midpoint=True), Link()),
    "contrastive-hebbian, 4 bits": (ContrastiveHebbian(steps=5, gamma=0.3), Link("fixed(4,1)", "ufixed(4,0)")),
}


@pytest.mark.parametrize(("rule", "link"), LEARNERS.values(), ids=LEARNERS)
def test_it_learns_digits(rule: LearningRule, link: Link) -> None:
    digits = data.load("digits")
    net = Network.build([64, 50, 10], [Link("ufixed(5,1)"), link], seed=0, output_activation="sigmoid")
    rule.prepare(net, 0)
    assert evaluate(net, digits.valid, rule=rule) > 70
    for _ in fit(net, rule, RMSprop(0.003), digits.train, 20, 50):
        pass
    assert evaluate(net, digits.valid, rule=rule) < 8


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: GeneRec(steps=0), "generec: steps must be a whole number, 1 or more, not 0"),
        (lambda: GeneRec(steps=2.5), "generec: steps must be a whole number, 1 or more, not 2.5"),
        (
            lambda: ContrastiveHebbian(gamma=0.0),
            "contrastive-hebbian: gamma must be a finite number above zero, not 0.0",
        ),
        (
            lambda: ContrastiveHebbian(tolerance=-1.0),
            "contrastive-hebbian: tolerance must be a finite number, zero or more, not -1.0",
        ),
    ],
)
def test_errors(act: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        act()
