"""Estimates from shapes alone, held to the ledgers of real runs, for every rule, format and optimizer."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lowbit_dtp import rules
from lowbit_dtp.backends.shapes import ShapeArray
from lowbit_dtp.data import Samples
from lowbit_dtp.estimation import estimate
from lowbit_dtp.formats import Format, ufixed
from lowbit_dtp.ledger import Direction, Ledger
from lowbit_dtp.links import Link
from lowbit_dtp.network import Network
from lowbit_dtp.optimizers import OPTIMIZERS as KINDS
from lowbit_dtp.optimizers import Optimizer, RMSprop, ShiftSGD
from lowbit_dtp.tasks import TASKS, Task
from lowbit_dtp.training import Progress, evaluate, fit
from tests.conformance.cases import FORMATS, INTEGER_RULES, LABELS, RULES, RuleCase, links_with, small_inputs

EPOCHS, BATCH = 2, 2
"""Of the samples, five, the last is in a minibatch of its own."""


def counted(ledger: Ledger) -> dict[str, Any]:
    """All of a ledger that does not depend on data."""
    return {
        "over": (ledger.runs, ledger.epochs, ledger.steps, ledger.samples, ledger.batch),
        "messages": {message_type: traffic.messages for message_type, traffic in ledger.traffic.items()},
        "work": ledger.work,
        "accesses": ledger.accesses,
    }


def run(
    net: Network, rule: rules.LearningRule, optimizer: Optimizer, samples: Samples, task: Task, epochs: int = EPOCHS
) -> dict[str, Ledger]:
    """The ledgers of a run with numbers."""
    progress, testing = Progress(), Ledger()
    for _ in fit(net, rule, optimizer, samples, epochs, BATCH, progress=progress, task=task, mode="plain"):
        pass
    inference = net.with_links(rule.inference_links(net.links))
    evaluate(inference, samples, testing, task=task, rule=rule)
    return {"training": progress.ledger, "inference": testing}


def check(found: dict[str, Ledger], expected: dict[str, Ledger]) -> None:
    assert found.keys() == expected.keys()
    for name, ledger in expected.items():
        assert counted(found[name]) == counted(ledger), name
        assert found[name].links() == ledger.links()  # in the same order
        assert found[name].layers() == ledger.layers()


def network(case: RuleCase, at: dict[int, Link], like: Any = None) -> Network:
    """The network of a case as it is built, with arrays like `like`."""
    net = Network.build(
        case.sizes, links_with(case.sizes, at), activation=case.activations[0], like=like,
        output_activation=case.output_activation,
    )  # fmt: skip
    case.rule.prepare(net, 0)
    net.quantize_weights(weights_of(case, net))
    return net


def weights_of(case: RuleCase, net: Network) -> dict[str, str]:
    """The formats that the case gives weights."""
    names = (f"{layer.name}.{p.name}" for layer in net.layers for p in layer.inputs.values())
    return dict.fromkeys(names, case.weights) | {"output.weight": "fixed(4)"} if case.weights else {}


def samples_of(case: RuleCase) -> Samples:
    inputs = small_inputs(case.sizes[0])
    return Samples(inputs, case.target(inputs, case.sizes[-1]) if case.task.name == "associate" else LABELS)


@pytest.mark.parametrize("learner", RULES.values(), ids=RULES)
def test_ledgers_are_those_of_a_run(learner: RuleCase) -> None:
    at = {min(len(learner.sizes) // 2, len(learner.sizes) - 2): Link("binary", "ternary")}
    net = network(learner, at)
    made = estimate(
        list(learner.sizes),
        learner.rule,
        links_with(learner.sizes, at),
        task=learner.task,
        weights=weights_of(learner, net),
        activation=learner.activations[0],
        output_activation=learner.output_activation,
        batch=BATCH,
        samples=len(LABELS),
        epochs=EPOCHS,
        inferences=len(LABELS),
    )
    check(made.ledgers, run(net, learner.rule, RMSprop(1e-3), samples_of(learner), learner.task))


@pytest.mark.parametrize("rule", INTEGER_RULES.values(), ids=INTEGER_RULES)
def test_ledgers_of_whole_numbers_are_those_of_a_run(rule: rules.LearningRule) -> None:
    sizes, optimizer = [6, 7, 5, 3], ShiftSGD(2.0**-4)
    links = [Link(ufixed(8, 0)), Link("ternary", "binary"), Link()]
    samples = Samples(np.random.default_rng(0).integers(0, 256, (5, 6), np.uint8), LABELS, ufixed(8, 0))
    expected = run(Network.build(sizes, links), rule, optimizer, samples, TASKS["classify"])
    made = estimate(
        sizes, rule, links, optimizer, batch=BATCH, samples=len(LABELS), epochs=EPOCHS, inferences=len(LABELS)
    )
    check(made.ledgers, expected)


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
def test_any_format_counts_as_in_a_run(fmt: Format) -> None:
    sizes, rule = [6, 70, 5, 3], rules.DTP(schedule="alternating-epochs")
    links = [Link(), Link(fmt, fmt), Link("float32", fmt)]
    samples = Samples(small_inputs(6), LABELS)
    expected = run(Network.build(sizes, links), rule, RMSprop(1e-3), samples, TASKS["classify"])
    made = estimate(sizes, rule, links, batch=BATCH, samples=len(LABELS), epochs=EPOCHS, inferences=len(LABELS))
    check(made.ledgers, expected)
    for ledger in made.ledgers.values():
        for message_type, traffic in ledger.traffic.items():
            assert traffic.ones == round(traffic.messages * message_type.message_bits / 2)


@pytest.mark.parametrize("weights", ["", "binary", "ternary", "fixed(3):learned", "fixed(2):initial"])
@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if not kind.integer])
def test_any_optimizer_counts_as_in_a_run(name: str, weights: str) -> None:
    kind, sizes, links = KINDS[name], [6, 5, 3], [Link(), Link("binary", "fixed(4,1)")]
    rule, few = rules.StraightThrough(), {"h1": weights} if weights else {}
    net = Network.build(sizes, links)
    net.quantize_weights(few, kind.keeps_master)
    expected = run(net, rule, kind(1e-3), Samples(small_inputs(6), LABELS), TASKS["classify"])
    shaped = {"batch": BATCH, "samples": len(LABELS), "epochs": EPOCHS, "inferences": len(LABELS)}
    check(estimate(sizes, rule, links, kind(1e-3), weights=few, **shaped).ledgers, expected)


@pytest.mark.parametrize("learner", RULES.values(), ids=RULES)
def test_arrays_are_those_of_a_network_with_numbers(learner: RuleCase) -> None:
    at = {len(learner.sizes) - 2: Link("binary", "binary")}
    expected, net = network(learner, at), network(learner, at, ShapeArray((), np.float32))
    assert {name: (x.shape, x.dtype) for name, x in net.tensors().items()} == {
        name: (x.shape, x.dtype) for name, x in expected.tensors().items()
    }
    assert all(isinstance(x, ShapeArray) for x in net.tensors().values())
    assert net.links == expected.links


def test_a_rule_that_settles_makes_all_its_steps() -> None:
    """Whatever its tolerance; a run that stops sooner sends less."""
    sizes, links = [6, 5, 3], [Link(), Link()]
    patient = rules.GeneRec(steps=4, tolerance=0.0)
    shaped = {"batch": BATCH, "samples": len(LABELS), "epochs": EPOCHS, "inferences": len(LABELS)}
    made = estimate(sizes, patient, links, **shaped)
    check(made.ledgers, estimate(sizes, replace(patient, tolerance=None), links, **shaped).ledgers)
    assert made.notes == ("generec decides by its data when to stop; the most that it may do is counted",)
    hasty = run(
        Network.build(sizes, links), replace(patient, tolerance=10.0), RMSprop(1e-3), Samples(small_inputs(6), LABELS),
        TASKS["classify"],
    )  # fmt: skip
    for name, ledger in hasty.items():
        sent, most = (x.bits("h1-output", Direction.FORWARD) for x in (ledger, made.ledgers[name]))
        assert 0 < sent < most
