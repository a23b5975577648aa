"""One suite for rules without floats: only whole numbers, exact on every backend, and local."""

import re
from typing import Any

import numpy as np
import pytest

from lowbit_dtp import backends, integers, rules
from lowbit_dtp.backends.numpy_plain import NumpyBackend
from lowbit_dtp.formats import binary, fixed, symmetric, ternary, ufixed
from lowbit_dtp.ledger import Direction, Ledger
from lowbit_dtp.links import Link, Signal
from lowbit_dtp.network import Network
from lowbit_dtp.optimizers import SGD, ShiftSGD
from lowbit_dtp.randomness import RandomStream
from lowbit_dtp.rules.rule import StepContext
from tests.conformance import oracle_integers as oracle
from tests.conformance.cases import BACKENDS, INTEGER_RULES, LABELS, SIZES, BackendCase
from tests.conformance.owned import CheckedBackend, LocalityError, Owned, checked_send, give_out, own

INPUTS = ufixed(8, 0)
every_rule = pytest.mark.parametrize("rule", INTEGER_RULES.values(), ids=INTEGER_RULES)
CONTEXT = StepContext(stream=RandomStream(3, 7))
FEW_BITS = {
    "bits": {},
    "ternary and fixed point": {1: Link("ternary", "fixed(4,1)"), 2: Link("fixed(4,1)", "binary")},
    "error in a bit": {-1: Link("binary", "binary")},
}


def network(rule: Any, sizes: Any = SIZES, at: Any = None, seed: int = 0) -> Network:
    links = [Link(INPUTS, "float32"), *[Link() for _ in sizes[2:]]]
    for i, link in (at or {}).items():
        links[i] = link
    net = Network.build(sizes, links, seed)
    rule.prepare(net, seed)
    random = np.random.default_rng(seed + 100)
    for layer in net.layers:
        for projection in layer.inputs.values():  # weights within 0.4, so that sums are inside and outside of hard tanh
            reach = int(0.4 * 2**projection.fraction_bits)
            layer.put(projection.name, random.integers(-reach, reach, projection.shape).astype(projection.values.dtype))
    return net.with_links(rule.training_links(net.links))


def codes(width: int, seed: int = 0, samples: int = len(LABELS)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (samples, width), np.uint8)


def signal(x: Any) -> Signal:
    return Signal(x, INPUTS, x)


# --- gradients ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("links", FEW_BITS)
@pytest.mark.parametrize("sizes", [(6, 3), (6, 5, 3), (6, 7, 5, 3), SIZES], ids=str)
@every_rule
def test_gradients_are_those_of_the_oracle(rule: Any, sizes: tuple[int, ...], links: str) -> None:
    at = {i: link for i, link in FEW_BITS[links].items() if len(sizes) > 2 and i % (len(sizes) - 1) > 0}
    net, x, labels = network(rule, sizes, at), codes(sizes[0], samples=100), np.tile(LABELS, 20)
    step = rule.step(net, signal(x), labels, Ledger(), CONTEXT)
    expected = oracle.gradients(rule, net, x / 256, labels, CONTEXT.stream)
    assert step.gradients.keys() == expected.keys()
    for key, gradient in step.gradients.items():
        assert gradient.dtype == np.int32
        np.testing.assert_array_equal(gradient, expected[key], err_msg=str(key))
        assert gradient.any(), key
    assert step.loss is None


@pytest.mark.parametrize(
    "fmt", [binary, ternary, fixed(4, 1), fixed(8, -1), fixed(8, -6), ufixed(5, 1), fixed(2, 1)], ids=str
)
@pytest.mark.parametrize("dtype", [np.int8, np.int32])
def test_codes_are_those_of_the_numbers(fmt: Any, dtype: Any) -> None:
    x = np.arange(-128, 128) if dtype == np.int8 else np.arange(-9000, 9000)
    x = x.astype(dtype)[None]
    unit = 2.0 ** -(7 if dtype == np.int8 else 12)
    made = integers.encode(x, fmt)
    np.testing.assert_array_equal(made, fmt.encode(x * unit))
    levels = integers.decode(made, fmt) * 2.0 ** -integers.levels_of(fmt).fraction_bits
    np.testing.assert_array_equal(levels, fmt.decode(made))


def test_softmax_error_is_near_that_of_floats() -> None:
    logits = np.random.default_rng(0).normal(0, 8000, (200, 10)).astype(np.int32)
    labels = np.arange(200) % 10
    powers = np.exp(logits / 4096)
    exact = powers / powers.sum(-1, keepdims=True) - np.eye(10)[labels]
    assert abs(integers.softmax_error(logits, labels) / 128 - exact).max() < 0.025  # half a sixteenth, at most


# --- no floats ---------------------------------------------------------------------------------------------------


class FloatError(AssertionError):
    """An array of floats was made."""


class Whole(np.ndarray):
    """An array of which no floats can be made."""

    def __array_finalize__(self, source: Any) -> None:
        if self.dtype.kind not in "iub":
            raise FloatError(f"an array of {self.dtype} was made of one of {getattr(source, 'dtype', None)}")


def whole_step(rule: Any, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Take a step and update weights, with arrays that refuse floats; the types of all gradients and weights."""
    monkeypatch.setitem(backends._backends, Whole, NumpyBackend())
    net = network(rule, (6, 7, 5, 3)).each_array(lambda x: x.view(Whole))
    x, labels, ledger = codes(6, samples=100).view(Whole), np.tile(LABELS, 20).view(Whole), Ledger()
    before = {name: np.array(weight) for name, weight in net.tensors().items()}
    step = rule.step(net, signal(x), labels, ledger, CONTEXT)
    optimizer = ShiftSGD(2.0**-4, shifts={"h1.weight": 10})
    optimizer.apply(net, step.gradients, ledger, 1.0, CONTEXT.stream)
    assert optimizer.state == {}
    for name, weight in net.tensors().items():
        assert (np.asarray(weight) != before[name]).any(), name
    arrays = [*step.gradients.values(), *net.tensors().values(), *ledger.wires.values()]
    assert all(isinstance(x, Whole) for x in arrays)
    return {str(x.dtype) for x in arrays}


@every_rule
def test_no_float_is_in_a_step(rule: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert whole_step(rule, monkeypatch) == {f"int{rule.weight_bits}", "int32", "uint8"}


class HalvesTheError(rules.IntegerDTP):
    """Makes floats on the way, and whole numbers of them again."""

    def _top_target(self, *given: Any) -> Any:
        error, target = super()._top_target(*given)
        return (error / 2).astype(np.int8), target


def test_a_float_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FloatError, match=r"an array of float(16|64) was made of one of int8"):
        whole_step(HalvesTheError(), monkeypatch)


# --- ownership ---------------------------------------------------------------------------------------------------


def owned_step(rule: Any, monkeypatch: pytest.MonkeyPatch) -> dict:
    monkeypatch.setattr(Link, "send", checked_send)
    monkeypatch.setitem(backends._backends, Owned, CheckedBackend())
    net = network(rule)
    give_out(net)
    inputs = own(codes(SIZES[0]) / np.float32(256), "input")  # as a sensor gives them to the first link
    return rule.step(net, inputs, own(LABELS, "output"), Ledger(), CONTEXT).gradients


@every_rule
def test_layers_hear_of_each_other_through_links_alone(rule: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gradients = owned_step(rule, monkeypatch)
    assert gradients
    assert all(gradient.owner == layer for (layer, _), gradient in gradients.items())


class ReadsTheSumsAbove(rules.IntegerDTP):
    """Uses the upper layer's sums without a link."""

    def _target_below(self, edge, target, sums, ledger, context):  # type: ignore[no-untyped-def]
        return integers.saturated(target[..., :1] * sums[edge.lower.name]), target


def test_a_rule_that_cheats_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    message = "multiply mixes arrays of ['h2', 'h3']; send one over a link first"
    with pytest.raises(LocalityError, match=f"^{re.escape(message)}$"):
        owned_step(ReadsTheSumsAbove(), monkeypatch)


# --- ensembles and backends --------------------------------------------------------------------------------------

PLAIN = BackendCase("plain", NumpyBackend(), np.array, np.asarray)


def trained(rule: Any, net: Network, x: Any, labels: Any, stream: RandomStream, ledger: Ledger) -> dict[str, Any]:
    """Gradients of a step, and the weights after it."""
    step = rule.step(net, signal(x), labels, ledger, StepContext(stream=stream))
    made = {f"{layer} {name} gradient": gradient for (layer, name), gradient in step.gradients.items()}
    ShiftSGD(2.0**-4).apply(net, step.gradients, ledger, 1.0, stream)
    return made | net.tensors()


@pytest.mark.parametrize("case", [PLAIN, *BACKENDS], ids=lambda case: case.name)
@every_rule
def test_backends_give_the_same_numbers(rule: Any, case: BackendCase, monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = network(rule, at=FEW_BITS["ternary and fixed point"]), codes(SIZES[0])
    there = net.each_array(case.array)
    expected, ledger = trained(rule, net, x, LABELS, RandomStream(5, 2), counted := Ledger()), Ledger()
    if case is PLAIN:
        monkeypatch.setitem(backends._backends, np.ndarray, case.backend)
    made = trained(rule, there, case.array(x), case.array(LABELS), RandomStream(5, 2), ledger)
    assert made.keys() == expected.keys()
    for name, numbers in made.items():
        np.testing.assert_array_equal(case.numpy(numbers), expected[name], err_msg=name)
    assert ledger == counted


@pytest.mark.parametrize("case", BACKENDS, ids=lambda case: case.name)
@every_rule
def test_a_member_of_an_ensemble_learns_what_it_would_alone(rule: Any, case: BackendCase) -> None:
    nets = [network(rule, seed=seed) for seed in (0, 1)]
    together = Network.ensemble(nets).each_array(case.array)
    xs = [codes(SIZES[0], seed) for seed in (0, 1)]
    labels, both = [LABELS, LABELS[::-1]], Ledger(runs=2)
    stacked = case.array(np.stack(xs)), case.array(np.stack(labels))
    made = trained(rule, together, *stacked, RandomStream((0, 1), 4), both)
    alone = Ledger(runs=0)
    for member, net in enumerate(nets):
        ledger = Ledger()
        expected = trained(rule, net, xs[member], labels[member], RandomStream(member, 4), ledger)
        alone += ledger
        for name, numbers in made.items():
            np.testing.assert_array_equal(case.numpy(numbers)[member], expected[name], err_msg=name)
    assert both.traffic == alone.traffic
    assert both.work == alone.work


# --- what crosses, errors ----------------------------------------------------------------------------------------


def test_the_ledger_has_the_bits_of_the_algorithm() -> None:
    rule, ledger = rules.IntegerDTP(), Ledger()
    rule.step(network(rule, (6, 7, 5, 3)), signal(codes(6)), LABELS, ledger, CONTEXT)
    ledger.samples = len(LABELS)
    per_sample = {
        ("input-h1", Direction.FORWARD): 8 * 6,
        ("h1-h2", Direction.FORWARD): 2 * 7,
        ("h1-h2", Direction.FEEDBACK): 3 * 5,
        ("h2-output", Direction.FORWARD): 5,
        ("h2-output", Direction.FEEDBACK): 8 * 5,
    }
    for (link, direction), bits in per_sample.items():
        assert ledger.bits(link, direction, per="sample") == bits, (link, direction)
    assert ledger.bits(per="sample") == sum(per_sample.values())
    assert {work.right for work in ledger.work if work.operation == "multiply-accumulate"} == {
        "fixed(16,4)",
        "fixed(8,1)",
    }
    assert not any("float" in name for work in ledger.work for name in (work.left, work.right))


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: rules.IntegerDTP(weight_bits=4), "integer-dtp: weight_bits must be 8 or 16, not 4"),
        (
            lambda: rules.IntegerDTP(target_shift=-1),
            "integer-dtp: target_shift must be a whole number from 0 to 15, not -1",
        ),
        (
            lambda: rules.IntegerDTP().training_links([Link("float32", "float32", "input", "h1")]),
            "integer-dtp: link input-h1, forward: float32 does not carry whole numbers; binary, ternary, fixed(W,I) "
            "and ufixed(W,I) do, with W up to 8 and W - I from 0 to 16",
        ),
        (
            lambda: Link(feedback=symmetric(2, -3), lower="h1", upper="h2").send(
                np.zeros((1, 2), np.int8), Direction.FEEDBACK, "state", Ledger()
            ),
            f"link h1-h2, feedback 'state': {symmetric(2, -3).name} does not carry whole numbers; binary, ternary, "
            "fixed(W,I) and ufixed(W,I) do, with W up to 8 and W - I from 0 to 16",
        ),
        (
            lambda: rules.IntegerDTP().prepare(Network.build([3, 2, 2], [Link()] * 2, activation="relu"), 0),
            "integer-dtp: the activation of layer h1 must be tanh or hard-tanh, not relu",
        ),
        (
            lambda: ShiftSGD(learning_rate=0.3),
            "learning_rate of shift-sgd must be a power of two from 2^-32 to 1, not 0.3",
        ),
        (lambda: ShiftSGD(0.5, shifts={"h1.weight": 33}), "shifts.h1.weight must be 0 to 32 bits, not 33"),
        (
            lambda: ShiftSGD(0.5, schedule="cosine(10)"),
            "shift-sgd has no schedule: its learning rates are shifts",
        ),
        (
            lambda: ShiftSGD(0.5).update(("h1", "weight"), np.zeros(2), np.zeros(2)),
            "ShiftSGD changes int8 or int16 weights, not h1.weight of type float64",
        ),
        (
            lambda: SGD(0.5).update(("h1", "weight"), np.zeros(2, np.int8), np.zeros(2, np.int32)),
            "SGD changes floating-point weights, not h1.weight of type int8",
        ),
    ],
)
def test_errors(act: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        act()
