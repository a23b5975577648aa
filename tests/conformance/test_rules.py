"""One suite for every rule: who may touch what, what it learns, what it sends, on which links and devices."""

import re
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lowbit_dtp import backends, rules
from lowbit_dtp.formats import fixed, float32, float64
from lowbit_dtp.ledger import Direction, Ledger
from lowbit_dtp.links import Link
from lowbit_dtp.network import Network
from lowbit_dtp.randomness import RandomStream
from lowbit_dtp.rules import LearningRule
from lowbit_dtp.rules.rule import StepContext
from tests.conformance import oracle
from tests.conformance.cases import (
    BACKENDS,
    LABELS,
    LINK_FORMATS,
    RULES,
    BackendCase,
    links_with,
    small_inputs,
    small_network,
)
from tests.conformance.owned import CheckedBackend, LocalityError, Owned, checked_send, give_out, own

SIZES = [6, 7, 5, 4, 3]
EXACT = Link("float64", "float64")
every_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)


def trainee(rule: LearningRule, net: Network) -> Network:
    return net.with_links(rule.training_links(net.links))


def all_phases(
    rule: LearningRule, net: Network, inputs: Any, labels: Any, ledger: Ledger, stream: RandomStream
) -> tuple[dict, Any]:
    """Gradients of every phase, taken on the same minibatch, and the loss."""
    gradients: dict = {}
    losses = []
    for phase in rule.phases:
        step = rule.step(net, inputs, labels, ledger, StepContext(0, phase, stream))
        assert not gradients.keys() & step.gradients.keys()
        gradients |= step.gradients
        losses.append(step.loss)
    (loss,) = [x for x in losses if x is not None]
    return gradients, loss


# --- ownership ---------------------------------------------------------------------------------------------------


@pytest.fixture
def locality(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Link, "send", checked_send)
    monkeypatch.setitem(backends._backends, Owned, CheckedBackend())


def owned_step(rule: LearningRule, activation: str = "tanh") -> dict:
    links = links_with(SIZES, {2: Link("binary", "binary")})
    net = trainee(rule, small_network(SIZES, links, activation=activation))
    give_out(net)
    inputs, labels = own(small_inputs(SIZES[0]), "input"), own(LABELS, "output")
    gradients, _ = all_phases(rule, net, inputs, labels, Ledger(), RandomStream(0))
    for (layer, name), gradient in gradients.items():
        assert gradient.owner == net.layers[layer].name, (layer, name)
    return gradients


@pytest.mark.usefixtures("locality")
@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "relu"])
@every_rule
def test_layers_hear_of_each_other_through_links_alone(rule: LearningRule, activation: str) -> None:
    assert owned_step(rule, activation)


class ReadsTheStateAbove(rules.DTP):
    """Decodes from the upper layer's real numbers, which never crossed the link."""

    def target_below(self, net, index, run, target, ledger, context):  # type: ignore[no-untyped-def]
        here = net.layers[index - 1]
        return backends.backend_of(target).matmul(run.states[index], here.feedback)


class AddsTheTargetAbove(rules.DTP):
    """Elementwise, on a copy that has lost its owner."""

    def target_below(self, net, index, run, target, ledger, context):  # type: ignore[no-untyped-def]
        return run.states[index - 1] + np.asarray(target).mean() * np.ones_like(np.asarray(run.states[index - 1]))


class SendsFromTheWrongEnd(rules.DTP):
    """Sends the lower layer's state down the link."""

    def target_below(self, net, index, run, target, ledger, context):  # type: ignore[no-untyped-def]
        sent = net.links[index].send(run.states[index - 1], Direction.FEEDBACK, "target", ledger)
        return net.layers[index - 1].decode(sent, ledger, "target")


class MultipliesByItself(rules.DTP):
    """A product that no layer counts."""

    def target_below(self, net, index, run, target, ledger, context):  # type: ignore[no-untyped-def]
        return run.states[index - 1] @ np.eye(run.states[index - 1].shape[-1])


class SkipsTheLinkAtTheTop(rules.StraightThrough):
    """The error of the layer above, without a link: what the first sketch of DTP did."""

    def step(self, net, inputs, labels, ledger, context):  # type: ignore[no-untyped-def]
        run = net.forward(inputs, ledger)
        input_gradient = net.layers[-1].input_gradient(run.states[-1], ledger)
        return rules.Step({(2, "bias"): (run.states[-2] * input_gradient).sum(-2)}, None)


@pytest.mark.usefixtures("locality")
@pytest.mark.parametrize(
    ("cheat", "message"),
    [
        (ReadsTheStateAbove(), "matmul mixes arrays of ['h2', 'h3']; send one over a link first"),
        (AddsTheTargetAbove(), "add mixes arrays of ['', 'h2']; send one over a link first"),
        (SendsFromTheWrongEnd(), "link h2-h3 was given an array of 'h2' to send feedback, not of 'h3'"),
        (MultipliesByItself(), "only layers multiply matrices, through their backend"),
        (SkipsTheLinkAtTheTop(), "multiply mixes arrays of ['h3', 'output']; send one over a link first"),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, LearningRule) else "",
)
def test_a_rule_that_cheats_is_caught(cheat: LearningRule, message: str) -> None:
    with pytest.raises(LocalityError, match=f"^{re.escape(message)}$"):
        owned_step(cheat)


# --- gradients ---------------------------------------------------------------------------------------------------

LINKS = {
    "float64": {},
    "binary at h1-h2": {1: Link("binary", "binary")},
    "few bits everywhere": {
        0: Link("ufixed(8,0)", "float64"),
        1: Link("ternary", "fixed(4,1)"),
        2: Link("binary", "binary"),
        3: Link("fixed(4,1)", "fixed(6,1)"),
    },
}


def exact(net: Network) -> Network:
    """`net` with float64 where a rule insists on float32."""
    swap = {float32: float64}
    return net.with_links(
        [
            replace(x, forward=swap.get(x.forward, x.forward), feedback=swap.get(x.feedback, x.feedback))
            for x in net.links
        ]
    )


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "relu"])
@pytest.mark.parametrize(
    "sizes", [[6, 5, 3], [6, 7, 5, 3], SIZES, [6, 7, 5, 4, 6, 3]], ids=lambda x: f"{len(x) - 2} hidden"
)
@pytest.mark.parametrize("links", LINKS.values(), ids=LINKS)
@every_rule
def test_gradients_are_those_of_autograd(
    rule: LearningRule, links: dict[int, Link], sizes: list[int], activation: str
) -> None:
    built = small_network(sizes, links_with(sizes, links, EXACT), dtype=np.float64, activation=activation)
    if isinstance(rule, rules.FixedLower) and not any(0 < i < len(sizes) - 1 for i in links):
        with pytest.raises(ValueError, match="fixed-lower needs a few-bit link between two layers"):
            rule.training_links(built.links)
        return
    net = exact(trainee(rule, built))
    inputs, stream = small_inputs(sizes[0], dtype=np.float64), RandomStream(3, 7)
    gradients, loss = all_phases(rule, net, inputs, LABELS, Ledger(), stream)
    expected = oracle.gradients(rule, net, inputs, LABELS, stream)
    assert gradients.keys() == expected.keys()
    for key, gradient in gradients.items():
        np.testing.assert_allclose(gradient, expected[key], rtol=1e-9, atol=1e-12, err_msg=str(key))
    assert np.isfinite(loss)


def test_what_each_rule_trains() -> None:
    """The sets of parameters, written out: an oracle that forgets one as the rule does would not show it."""
    net = small_network([6, 7, 5, 3], links_with([6, 7, 5, 3], {1: Link("binary", "binary")}))
    forward = {(i, name) for i in range(3) for name in ("weight", "bias")}
    feedback = {(0, "feedback"), (0, "feedback_bias")}
    for name, rule in RULES.items():
        gradients, _ = all_phases(rule, trainee(rule, net), small_inputs(6), LABELS, Ledger(), RandomStream(0))
        expected = forward | feedback if isinstance(rule, rules.TargetProp) else forward
        assert gradients.keys() == (expected - {(0, "weight"), (0, "bias")} if name == "fixed-lower" else expected), (
            name
        )


def test_backprop_descends_the_loss_it_reports() -> None:
    net = small_network(SIZES, links_with(SIZES, {}, EXACT), dtype=np.float64)
    inputs, rule, tiny = small_inputs(SIZES[0], dtype=np.float64), rules.Backprop(), 1e-6

    def loss() -> Any:
        return rule.step(net, inputs, LABELS, Ledger(), StepContext())

    gradients = loss().gradients
    for (layer, name), gradient in gradients.items():
        parameter = getattr(net.layers[layer], name)
        for index in [(0,) * parameter.ndim, (-1,) * parameter.ndim]:
            kept = parameter[index]
            parameter[index] = kept + tiny
            above = loss().loss
            parameter[index] = kept - tiny
            below = loss().loss
            parameter[index] = kept
            assert gradient[index] == pytest.approx((above - below) / (2 * tiny), rel=1e-6, abs=1e-9)


def test_noise_fades_by_the_epoch() -> None:
    rule = rules.DTP(noise=0.4, half_noise_epoch=10)
    assert [rule.noise_at(epoch) for epoch in (0, 10, 30)] == [0.4, 0.2, 0.1]
    assert rules.DTP(noise=0.4).noise_at(1000) == 0.4


def test_noise_of_the_epoch_is_used() -> None:
    net = small_network(SIZES, links_with(SIZES, {}))
    inputs = small_inputs(SIZES[0])
    faded = rules.DTP(noise=0.4, half_noise_epoch=10).step(net, inputs, LABELS, Ledger(), StepContext(10))
    half = rules.DTP(noise=0.2).step(net, inputs, LABELS, Ledger(), StepContext(0))
    assert {k: x.tolist() for k, x in faded.gradients.items()} == {k: x.tolist() for k, x in half.gradients.items()}


# --- links, errors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", range(len(SIZES) - 1))
@pytest.mark.parametrize("fmt", LINK_FORMATS, ids=str)
@every_rule
def test_any_link_in_any_format(rule: LearningRule, fmt: Any, at: int) -> None:
    net = small_network(SIZES, links_with(SIZES, {at: Link(fmt, fmt)}))
    if isinstance(rule, rules.FixedLower) and (fmt is float32 or not at):
        carried = ", ".join(f"{x.name} {x.forward.name}" for x in net.links)
        message = (
            "fixed-lower needs a few-bit link between two layers, for what lies under it to stay fixed; "
            f"the links carry {carried}"
        )
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            rule.training_links(net.links)
        return
    ledger = Ledger()
    gradients, loss = all_phases(rule, trainee(rule, net), small_inputs(SIZES[0]), LABELS, ledger, RandomStream(0))
    assert np.isfinite(loss)
    for key, gradient in gradients.items():
        assert gradient.shape == getattr(net.layers[key[0]], key[1]).shape
        assert np.isfinite(gradient).all(), key
    keeps_forward = not isinstance(rule, rules.Backprop) or at == 0
    name = net.links[at].name
    assert {c.format for c, _ in ledger.message_types(name, Direction.FORWARD)} == {
        fmt.name if keeps_forward else "float32"
    }
    assert rule.inference_links(net.links)[at].forward == (float32 if type(rule) is rules.Backprop and at else fmt)


@every_rule
def test_stochastic_links(rule: LearningRule) -> None:
    fmt = fixed(4, 1, "stochastic")
    net = trainee(rule, small_network(SIZES, links_with(SIZES, {2: Link(fmt, fmt)})))
    inputs = small_inputs(SIZES[0])

    def step(stream: RandomStream) -> dict:
        gradients, _ = all_phases(rule, net, inputs, LABELS, Ledger(), stream)
        return {key: x.tolist() for key, x in gradients.items()}

    assert step(RandomStream(0)) == step(RandomStream(0))
    if not isinstance(rule, rules.Backprop):
        assert step(RandomStream(0)) != step(RandomStream(1))


@every_rule
def test_nan_names_the_link(rule: LearningRule) -> None:
    net = trainee(rule, small_network(SIZES, links_with(SIZES, {2: Link("binary", "binary")})))
    net.layers[0].weight[0, 0] = np.nan
    name = net.links[1].forward.name
    message = f"link h1-h2, forward 'activity': {name} cannot send NaN"
    if rule.phases[0] == "inverse":
        net.layers[0].weight[0, 0], net.layers[0].bias[0] = 1, np.nan
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        all_phases(rule, net, small_inputs(SIZES[0]), LABELS, Ledger(), RandomStream(0))


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (
            lambda: rules.rule_named("dpt"),
            "no rule 'dpt'; there are: backprop, backprop-then-sign, dtp, fixed-lower, straight-through, target-prop",
        ),
        (
            lambda: rules.DTP(schedule="daily"),
            "no schedule 'daily'; there are: minibatch, alternating-epochs",
        ),
        (
            lambda: rules.DTP(noise=-1),
            "dtp: noise must be a finite number, zero or more, not -1",
        ),
        (
            lambda: rules.TargetProp(target_step=float("inf")),
            "target-prop: target_step must be a finite number, zero or more, not inf",
        ),
        (
            lambda: rules.StraightThrough(gradient="bits"),
            "no format 'bits'; there are: binary, binary01, ternary, float32, float64, fixed(W,I), ufixed(W,I), "
            "fixed(W,I,floor|stochastic,wrap), table(-1,0,0.5)",
        ),
        (
            lambda: Network.build([3, 2], [Link()], activation="tan"),
            "no activation 'tan'; there are: hard-sigmoid, hard-tanh, identity, relu, sigmoid, softmax, step, tanh",
        ),
        (
            lambda: Network.build([3, 2, 2], [Link()]),
            "3 layers need 2 links, one between each two, not 1",
        ),
        (
            lambda: Network.build([3, 0], [Link()]),
            "sizes must be two or more positive whole numbers, input first, not [3, 0]",
        ),
        (
            lambda: Network.build([3, 2], [Link()]).link("h1-h2"),
            "no link 'h1-h2'; there are: input-output",
        ),
        (
            lambda: Network.build([3, 2], [Link()]).forward(np.zeros((1, 4), np.float32), Ledger()),
            "the network takes 3 inputs a sample, but was given 4",
        ),
    ],
)
def test_errors(act: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        act()


def test_every_rule_is_a_case() -> None:
    assert {rule.name for rule in RULES.values()} == set(rules.RULES)
    for name, rule in rules.RULES.items():
        assert rule.name == name
        assert rule.source


# --- ensembles and devices ---------------------------------------------------------------------------------------


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Direction, str, np.ndarray]]:
    """Everything that crosses a link, in order."""
    log: list = []
    plain = Link.send

    def send(link: Link, x: Any, direction: Direction, purpose: str, *args: Any) -> Any:
        signal = plain(link, x, direction, purpose, *args)
        log.append((link.name, direction, purpose, signal.codes))
        return signal

    monkeypatch.setattr(Link, "send", send)
    return log


FEW_BITS = {1: Link("binary", "binary"), 2: Link("ternary", "fixed(6,1)"), 3: Link("fixed(6,1)", "fixed(6,1)")}


def few_bit_network(seed: int, rule: LearningRule) -> Network:
    return trainee(rule, small_network(SIZES, links_with(SIZES, FEW_BITS), seed))


@pytest.mark.parametrize("case", BACKENDS, ids=lambda case: case.name)
@every_rule
def test_a_member_of_an_ensemble_learns_what_it_would_alone(rule: LearningRule, case: BackendCase, sent: list) -> None:
    nets = [few_bit_network(seed, rule) for seed in (0, 1)]
    together = few_bit_network(0, rule)
    for i, layer in enumerate(together.layers):
        for name in layer.parameters():
            setattr(layer, name, case.array(np.stack([getattr(net.layers[i], name) for net in nets])))
    inputs = [small_inputs(SIZES[0], seed) for seed in (0, 1)]
    labels = [LABELS, LABELS[::-1].copy()]
    both = Ledger()
    gradients, losses = all_phases(
        rule, together, case.array(np.stack(inputs)), case.array(np.stack(labels)), both, RandomStream((0, 1), 4)
    )
    codes = list(sent)
    traffic: Counter = Counter()
    work: Counter = Counter()
    for member, net in enumerate(nets):
        for layer in net.layers:
            for name, x in layer.parameters().items():
                setattr(layer, name, case.array(x))
        sent.clear()
        ledger = Ledger()
        alone, loss = all_phases(
            rule, net, case.array(inputs[member]), case.array(labels[member]), ledger, RandomStream(member, 4)
        )
        assert float(losses[member]) == pytest.approx(float(loss), rel=1e-6)
        assert gradients.keys() == alone.keys()
        for key, gradient in gradients.items():
            np.testing.assert_allclose(case.numpy(gradient[member]), case.numpy(alone[key]), rtol=1e-5, atol=1e-6)
        assert [x[:3] for x in codes] == [x[:3] for x in sent]
        for (link, *_, stacked), (*_, single) in zip(codes, sent, strict=True):
            if any(x.name == link and x.forward.bits < 32 for x in net.links):
                np.testing.assert_array_equal(case.numpy(stacked[member]), case.numpy(single), err_msg=link)
        for message_type, counted in ledger.message_types():
            few = message_type.bits < 32
            traffic[message_type] += np.array([counted.messages, few * counted.ones, few * counted.toggles])
        work.update(ledger.work)
    assert both.work == work
    assert both.traffic.keys() == traffic.keys()
    for message_type, counted in both.message_types():
        few = message_type.bits < 32
        expected = [counted.messages, few * counted.ones, few * counted.toggles]
        assert traffic[message_type].tolist() == expected, message_type


@pytest.mark.parametrize("case", BACKENDS[1:], ids=lambda case: case.name)
@every_rule
def test_backends_learn_and_count_the_same(rule: LearningRule, case: BackendCase) -> None:
    check_backend(case, rule, FEW_BITS)


@pytest.mark.parametrize("case", BACKENDS[1:], ids=lambda case: case.name)
@pytest.mark.parametrize("fmt", LINK_FORMATS, ids=str)
@every_rule
def test_backends_agree_on_any_link_in_any_format(rule: LearningRule, fmt: Any, case: BackendCase) -> None:
    for at in range(len(SIZES) - 1):
        if not isinstance(rule, rules.FixedLower) or (at and fmt is not float32):
            check_backend(case, rule, {at: Link(fmt, fmt)})


def check_backend(case: BackendCase, rule: LearningRule, at: dict[int, Link]) -> None:
    """Hold what a rule makes of a minibatch there, and what the ledger counts, to NumPy's."""
    net = trainee(rule, small_network(SIZES, links_with(SIZES, at)))
    inputs, expected, moved = small_inputs(SIZES[0]), Ledger(), Ledger()
    gradients, loss = all_phases(rule, net, inputs, LABELS, expected, RandomStream(0))
    there, loss_there = all_phases(
        rule, net.each_array(case.array), case.array(inputs), case.array(LABELS), moved, RandomStream(0)
    )
    assert float(loss_there) == pytest.approx(float(loss), rel=1e-5)
    assert there.keys() == gradients.keys()
    for key, gradient in there.items():
        np.testing.assert_allclose(case.numpy(gradient), gradients[key], rtol=1e-5, atol=1e-5, err_msg=str(key))
    assert moved.work == expected.work
    assert moved.accesses == expected.accesses
    assert moved.traffic.keys() == expected.traffic.keys()
    for message_type, counted in moved.traffic.items():
        counts = expected.traffic[message_type]
        assert counted.messages == counts.messages
        if message_type.bits < 32:  # the last bits of a float32 are each library's own
            assert counted == counts, message_type
