"""One suite for every rule: locality, gradients, messages, links and devices."""

import re
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lowbit_dtp import backends, rules
from lowbit_dtp.formats import SPELLINGS, fixed, float32, float64
from lowbit_dtp.ledger import Direction, Ledger
from lowbit_dtp.links import Link
from lowbit_dtp.network import Network
from lowbit_dtp.optimizers import SGD
from lowbit_dtp.randomness import RandomStream
from lowbit_dtp.rules import LearningRule
from lowbit_dtp.rules.rule import StepContext
from lowbit_dtp.tasks import TASKS, Task
from tests.conformance import oracle
from tests.conformance.cases import (
    BACKENDS,
    INTEGER_RULES,
    LABELS,
    LINK_FORMATS,
    RULES,
    SIZES,
    BackendCase,
    RuleCase,
    links_with,
    small_inputs,
    small_network,
)
from tests.conformance.owned import CheckedBackend, LocalityError, Owned, checked_send, give_out, own

EXACT = Link("float64", "float64")
every_rule = pytest.mark.parametrize("learner", RULES.values(), ids=RULES)
DEEP = {name: case for name, case in RULES.items() if len(case.sizes) >= 4}
every_deep_rule = pytest.mark.parametrize("learner", DEEP.values(), ids=DEEP)


def trainee(rule: LearningRule, net: Network) -> Network:
    rule.prepare(net, 0)
    return net.with_links(rule.training_links(net.links))


def all_phases(
    rule: LearningRule,
    net: Network,
    inputs: Any,
    target: Any,
    ledger: Ledger,
    stream: RandomStream,
    task: Task = TASKS["classify"],
) -> tuple[dict, Any]:
    """Gradients of every phase, taken on the same minibatch, and the loss."""
    gradients: dict = {}
    losses = []
    for phase in rule.phases:
        step = rule.step(net, inputs, target, ledger, StepContext(0, phase, stream, task))
        assert not gradients.keys() & step.gradients.keys()
        gradients |= step.gradients
        losses.append(step.loss)
    given = [x for x in losses if x is not None]
    assert len(given) <= 1
    return gradients, given[0] if given else None


# --- ownership ---------------------------------------------------------------------------------------------------


@pytest.fixture
def locality(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Link, "send", checked_send)
    monkeypatch.setitem(backends._backends, Owned, CheckedBackend())


def owned_step(learner: RuleCase, activation: str = "tanh") -> dict:
    rule, at = learner.rule, min(len(learner.sizes) // 2, len(learner.sizes) - 2)
    net = trainee(rule, learner.network({at: Link("binary", "binary")}, activation=activation))
    give_out(net)
    inputs = small_inputs(learner.sizes[0])
    target = own(learner.target(inputs, learner.sizes[-1]), net.layers[-1].name)
    gradients, _ = all_phases(rule, net, own(inputs, "input"), target, Ledger(), RandomStream(0), learner.task)
    for (layer, name), gradient in gradients.items():
        assert gradient.owner == layer, (layer, name)
    return gradients


@pytest.mark.usefixtures("locality")
@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "relu"])
@every_rule
def test_layers_hear_of_each_other_through_links_alone(learner: RuleCase, activation: str) -> None:
    assert owned_step(learner, activation if activation in learner.activations else learner.activations[0])


class ReadsTheStateAbove(rules.DTP):
    """Decodes from the upper layer's real numbers, which never crossed the link."""

    def target_below(self, edge, run, target, ledger, context):  # type: ignore[no-untyped-def]
        here = edge.lower.arrays()["feedback"]
        return backends.backend_of(target).matmul(run.states[edge.upper.name], here)


class AddsTheTargetAbove(rules.DTP):
    """Elementwise, on a copy that has lost its owner."""

    def target_below(self, edge, run, target, ledger, context):  # type: ignore[no-untyped-def]
        return run.states[edge.lower.name] + np.asarray(target).mean() * np.ones_like(
            np.asarray(run.states[edge.lower.name])
        )


class SendsFromTheWrongEnd(rules.DTP):
    """Sends the lower layer's state down the link."""

    def target_below(self, edge, run, target, ledger, context):  # type: ignore[no-untyped-def]
        sent = edge.link.send(run.states[edge.lower.name], Direction.FEEDBACK, "target", ledger)
        return edge.lower.decode(sent, ledger, "target")


class MultipliesByItself(rules.DTP):
    """A product that no layer counts."""

    def target_below(self, edge, run, target, ledger, context):  # type: ignore[no-untyped-def]
        return run.states[edge.lower.name] @ np.eye(run.states[edge.lower.name].shape[-1])


class SkipsTheLinkAtTheTop(rules.StraightThrough):
    """The error of the layer above, without a link: what the first sketch of DTP did."""

    def step(self, net, inputs, labels, ledger, context):  # type: ignore[no-untyped-def]
        run = net.forward(inputs, ledger)
        input_gradient = net.layers[-1].input_gradient(net.links[-1], run.output, ledger)
        return rules.Step({("h3", "bias"): (run.states["h3"] * input_gradient).sum(-2)}, None)


class ReadsWhatTheOtherEndSent(rules.DTP):
    """What a layer sent is known to that layer, not to the one that received it."""

    def target_below(self, edge, run, target, ledger, context):  # type: ignore[no-untyped-def]
        asked = edge.link.send(target, Direction.FEEDBACK, "target", ledger)
        return run.states[edge.lower.name] * asked.sent.mean()


class ForgesWhatItSent(rules.DTP):
    """A signal that it did send, with another layer's numbers put into it."""

    def target_below(self, edge, run, target, ledger, context):  # type: ignore[no-untyped-def]
        signal = edge.link.send(run.states[edge.lower.name], Direction.FORWARD, "activations", ledger)
        forged = replace(signal, carried=target, like=target, format=float32)
        return run.states[edge.lower.name] + forged.sent.mean()


@pytest.mark.usefixtures("locality")
@pytest.mark.parametrize(
    ("cheat", "message"),
    [
        (ReadsTheStateAbove(), "matmul mixes arrays of ['h2', 'h3']; send one over a link first"),
        (AddsTheTargetAbove(), "add mixes arrays of ['', 'h2']; send one over a link first"),
        (SendsFromTheWrongEnd(), "link h2-h3 was given an array of 'h2' to send feedback, not of 'h3'"),
        (MultipliesByItself(), "only layers multiply matrices, through their backend"),
        (ReadsWhatTheOtherEndSent(), "multiply mixes arrays of ['h2', 'h3']; send one over a link first"),
        (ForgesWhatItSent(), "add mixes arrays of ['h2', 'h3']; send one over a link first"),
        (SkipsTheLinkAtTheTop(), "multiply mixes arrays of ['h3', 'output']; send one over a link first"),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, LearningRule) else "",
)
def test_a_rule_that_cheats_is_caught(cheat: LearningRule, message: str) -> None:
    with pytest.raises(LocalityError, match=f"^{re.escape(message)}$"):
        owned_step(RuleCase(cheat, oracle.target_propagation))


def owned_copy() -> Network:
    """A network whose output layer has a copy of the weights of h1; each layer owns its arrays."""
    case = RULES["dtp-autoencoder"]
    net = trainee(case.rule, case.network({}))
    give_out(net)
    return net


@pytest.mark.usefixtures("locality")
def test_a_copy_of_weights_comes_over_a_link_after_each_update() -> None:
    net, ledger = owned_copy(), Ledger()
    hidden, output = net.layers
    before = np.array(hidden.weight)
    assert np.array(output.weight).tolist() != before.T.tolist()
    gradients = {("output", "bias"): own(np.ones(6, np.float32), "output")}
    SGD(0.5).apply(net, gradients, ledger)
    assert not ledger.traffic
    gradients = {("h1", "weight"): own(np.ones((6, 5), np.float32), "h1")}
    SGD(0.5).apply(net, gradients, ledger)
    assert np.array(hidden.weight).tolist() == (before - np.float32(0.5)).tolist()
    assert np.array(output.weight).tolist() == np.array(hidden.weight).T.tolist()
    assert output.weight.owner == "output"
    (message_type,) = ledger.traffic
    assert message_type[:4] == ("h1-output.weights", Direction.FORWARD, "weights", "float32")
    assert ledger.bits() == 6 * 5 * 32


@pytest.mark.usefixtures("locality")
def test_a_copy_that_came_over_no_link_is_caught() -> None:
    hidden, output = owned_copy().layers
    message = "assignment mixes arrays of ['h1', 'output']; send one over a link first"
    with pytest.raises(LocalityError, match=f"^{re.escape(message)}$"):
        output.weight[...] = hidden.weight.mT


class DecodesWithTheEncodersWeights(rules.DTPAutoencoder):
    """Multiplies in the output layer by the very array of h1."""

    def prepare(self, net, seed):  # type: ignore[no-untyped-def]
        link = net.edges[1].link.name
        net.tie_feedback(link)
        net.layers[1].inputs[link] = replace(net.layers[1].inputs[link], weight=net.layers[0].weight.T)


@pytest.mark.usefixtures("locality")
def test_weights_of_another_layer_without_a_copy_are_caught() -> None:
    case = RULES["dtp-autoencoder"]
    net = case.network({})
    give_out(net)
    rule = DecodesWithTheEncodersWeights()
    rule.prepare(net, 0)
    inputs, target = own(small_inputs(6), "input"), own(small_inputs(6), "output")
    with pytest.raises(LocalityError, match=r"^affine_activation mixes arrays of \['h1', 'output'\]; send one over"):
        rule.step(net, inputs, target, Ledger(), StepContext(task=case.task))


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


GRADIENT_CASES = [
    pytest.param(learner, activation, sizes, links, id=f"{name}-{links}-{len(sizes) - 2} hidden-{activation}")
    for name, learner in RULES.items()
    for links in LINKS
    for sizes in learner.chains
    for activation in learner.activations
]


@pytest.mark.parametrize(("learner", "activation", "sizes", "links"), GRADIENT_CASES)
def test_gradients_are_those_of_the_oracle(
    learner: RuleCase, activation: str, sizes: tuple[int, ...], links: str
) -> None:
    rule, at = learner.rule, LINKS[links]
    built = learner.network(at, EXACT, sizes=sizes, dtype=np.float64, activation=activation)
    if isinstance(rule, rules.FixedLower) and not any(0 < i < len(sizes) - 1 for i in at):
        with pytest.raises(ValueError, match="fixed-lower needs a few-bit link between two layers"):
            rule.training_links(built.links)
        return
    net = exact(trainee(rule, built))
    inputs, stream = small_inputs(sizes[0], dtype=np.float64), RandomStream(3, 7)
    target = learner.target(inputs, sizes[-1])
    gradients, loss = all_phases(rule, net, inputs, target, Ledger(), stream, learner.task)
    expected = learner.oracle(rule, net, inputs, target, stream)
    assert gradients.keys() == expected.keys()
    for key, gradient in gradients.items():
        np.testing.assert_allclose(gradient, expected[key], rtol=1e-9, atol=1e-12, err_msg=str(key))
    assert np.isfinite(loss) if learner.has_loss else loss is None


def test_what_the_first_rules_train() -> None:
    """The sets of parameters, written out: an oracle that forgets one as the rule does would not show it."""
    forward = {(layer, name) for layer in ("h1", "h2", "output") for name in ("weight", "bias")}
    feedback = {("h1", "feedback"), ("h1", "feedback_bias")}
    for name in ("dtp", "dtp-alternating", "target-prop", "straight-through", "backprop", "fixed-lower"):
        rule = RULES[name].rule
        net = small_network([6, 7, 5, 3], links_with([6, 7, 5, 3], {1: Link("binary", "binary")}))
        gradients, _ = all_phases(rule, trainee(rule, net), small_inputs(6), LABELS, Ledger(), RandomStream(0))
        expected = forward | feedback if isinstance(rule, rules.TargetProp) else forward
        assert gradients.keys() == (
            expected - {("h1", "weight"), ("h1", "bias")} if name == "fixed-lower" else expected
        )


def test_backprop_descends_the_loss_it_reports() -> None:
    net = small_network(SIZES, links_with(SIZES, {}, EXACT), dtype=np.float64)
    inputs, rule, tiny = small_inputs(SIZES[0], dtype=np.float64), rules.Backprop(), 1e-6

    def loss() -> Any:
        return rule.step(net, inputs, LABELS, Ledger(), StepContext())

    gradients = loss().gradients
    for (layer, name), gradient in gradients.items():
        parameter = net.layer(layer).arrays()[name]
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


@pytest.mark.parametrize("fmt", LINK_FORMATS, ids=str)
@every_rule
def test_any_link_in_any_format(learner: RuleCase, fmt: Any) -> None:
    rule = learner.rule
    for at in range(len(learner.sizes) - 1):
        net = learner.network({at: Link(fmt, fmt)})
        if isinstance(rule, rules.FixedLower) and (fmt is float32 or not at):
            carried = ", ".join(f"{x.name} {x.forward.name}" for x in net.links)
            message = (
                "fixed-lower needs a few-bit link between two layers, for what lies under it to stay fixed; "
                f"the links carry {carried}"
            )
            with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
                rule.training_links(net.links)
            continue
        ledger, inputs = Ledger(), small_inputs(learner.sizes[0])
        target = learner.target(inputs, learner.sizes[-1])
        gradients, loss = all_phases(rule, trainee(rule, net), inputs, target, ledger, RandomStream(0), learner.task)
        assert np.isfinite(loss) if learner.has_loss else loss is None
        for key, gradient in gradients.items():
            assert gradient.shape == net.layer(key[0]).arrays()[key[1]].shape
            assert np.isfinite(gradient).all(), key
        sent = fmt if learner.sends is None or at == 0 else learner.sends
        name = net.links[at].name
        assert {c.format for c, _ in ledger.message_types(name, Direction.FORWARD)} == {sent.name}
        tested = fmt if isinstance(rule, rules.BackpropThenSign) else sent
        assert rule.inference_links(net.links)[at].forward == tested


@every_rule
def test_stochastic_links(learner: RuleCase) -> None:
    rule, fmt = learner.rule, fixed(4, 1, "stochastic")
    at = min(len(learner.sizes) // 2, len(learner.sizes) - 2)
    net = trainee(rule, learner.network({at: Link(fmt, fmt)}))
    inputs = small_inputs(learner.sizes[0])
    target = learner.target(inputs, learner.sizes[-1])

    def step(stream: RandomStream) -> dict:
        gradients, _ = all_phases(rule, net, inputs, target, Ledger(), stream, learner.task)
        return {key: x.tolist() for key, x in gradients.items()}

    assert step(RandomStream(0)) == step(RandomStream(0))
    if not isinstance(rule, rules.Backprop):
        assert step(RandomStream(0)) != step(RandomStream(1))


@every_deep_rule
def test_nan_names_the_link(learner: RuleCase) -> None:
    rule = learner.rule
    net = trainee(rule, learner.network({2: Link("binary", "binary")}))
    net.layers[0].weight[0, 0] = np.nan
    name = net.links[1].forward.name
    message = f"link h1-h2, forward 'activations': {name} cannot send NaN"
    if rule.phases[0] == "inverse":
        net.layers[0].weight[0, 0], net.layers[0].bias[0] = 1, np.nan
    inputs = small_inputs(learner.sizes[0])
    target = learner.target(inputs, learner.sizes[-1])
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        all_phases(rule, net, inputs, target, Ledger(), RandomStream(0), learner.task)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (
            lambda: rules.rule_named("dpt"),
            f"no rule 'dpt'; there are: {', '.join(sorted(rules.RULES))}",
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
            f"no format 'bits'; there are: {', '.join(SPELLINGS)}",
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
    cases = [learner.rule for learner in RULES.values()] + list(INTEGER_RULES.values())
    assert {rule.name for rule in cases} == set(rules.RULES)
    for name, rule in rules.RULES.items():
        assert rule.name == name
        assert rule.source
        assert rule.crosses
        assert set(rule.tasks) <= set(TASKS)


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


def few_bit_network(seed: int, learner: RuleCase) -> Network:
    return trainee(learner.rule, learner.network(FEW_BITS, seed=seed))


@pytest.mark.parametrize("case", BACKENDS, ids=lambda case: case.name)
@every_rule
def test_a_member_of_an_ensemble_learns_what_it_would_alone(learner: RuleCase, case: BackendCase, sent: list) -> None:
    rule = learner.rule
    nets = [few_bit_network(seed, learner) for seed in (0, 1)]
    together = few_bit_network(0, learner)
    for i, layer in enumerate(together.layers):
        for name in layer.arrays():
            layer.put(name, case.array(np.stack([net.layers[i].arrays()[name] for net in nets])))
    inputs = [small_inputs(learner.sizes[0], seed) for seed in (0, 1)]
    targets = [np.array(learner.target(inputs[seed], learner.sizes[-1], seed)) for seed in (0, 1)]
    both = Ledger()
    gradients, losses = all_phases(
        rule,
        together,
        case.array(np.stack(inputs)),
        case.array(np.stack(targets)),
        both,
        RandomStream((0, 1), 4),
        learner.task,
    )
    codes = list(sent)
    traffic: Counter = Counter()
    work: Counter = Counter()
    for member, net in enumerate(nets):
        for layer in net.layers:
            for name, x in layer.arrays().items():
                layer.put(name, case.array(x))
        sent.clear()
        ledger = Ledger()
        alone, loss = all_phases(
            rule,
            net,
            case.array(inputs[member]),
            case.array(targets[member]),
            ledger,
            RandomStream(member, 4),
            learner.task,
        )
        if learner.has_loss:
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
def test_backends_learn_and_count_the_same(learner: RuleCase, case: BackendCase) -> None:
    check_backend(case, learner, FEW_BITS)


@pytest.mark.parametrize("case", BACKENDS[1:], ids=lambda case: case.name)
@pytest.mark.parametrize("fmt", LINK_FORMATS, ids=str)
@every_rule
def test_backends_agree_on_any_link_in_any_format(learner: RuleCase, fmt: Any, case: BackendCase) -> None:
    for at in range(len(learner.sizes) - 1):
        if not isinstance(learner.rule, rules.FixedLower) or (at and fmt is not float32):
            check_backend(case, learner, {at: Link(fmt, fmt)})


def check_backend(case: BackendCase, learner: RuleCase, at: dict[int, Link]) -> None:
    """Hold what a rule makes of a minibatch there, and what the ledger counts, to NumPy's."""
    rule = learner.rule
    net = trainee(rule, learner.network(at))
    inputs, expected, moved = small_inputs(learner.sizes[0]), Ledger(), Ledger()
    target = np.array(learner.target(inputs, learner.sizes[-1]))
    there_net = net.each_array(case.array)
    gradients, loss = all_phases(rule, net, inputs, target, expected, RandomStream(0), learner.task)
    there, loss_there = all_phases(
        rule, there_net, case.array(inputs), case.array(target), moved, RandomStream(0), learner.task
    )
    if learner.has_loss:
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
