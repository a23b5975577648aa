"""The ledger in closed form: bits of each rule on the links of the thesis' discrete network."""

import json
import re

import numpy as np
import pytest

from lowbit_dtp import ledger as ledgers
from lowbit_dtp import rules
from lowbit_dtp.ledger import Access, Direction, Ledger
from lowbit_dtp.links import Link
from lowbit_dtp.network import Network
from lowbit_dtp.optimizers import SGD
from lowbit_dtp.randomness import RandomStream
from lowbit_dtp.rules.rule import StepContext
from lowbit_dtp.storage import StorageError

SIZES = [784, 500, 500, 10]
LINKS = [Link("ufixed(8,0)"), Link("binary", "binary"), Link()]
BATCH = 6


def trained(rule: rules.LearningRule, links: list[Link] = LINKS) -> Ledger:
    """The ledger of one minibatch, in all phases of `rule`."""
    net, ledger = Network.build(SIZES, links), Ledger()
    net = net.with_links(rule.training_links(net.links))
    inputs = np.random.default_rng(0).random((BATCH, SIZES[0]), dtype=np.float32)
    for phase in rule.phases:
        step = rule.step(net, inputs, np.arange(BATCH) % 10, ledger, StepContext(0, phase, RandomStream(0)))
        SGD(0.0).apply(net, step.gradients, ledger)
    ledger.samples += BATCH
    ledger.steps += 1
    return ledger


@pytest.mark.parametrize(
    ("rule", "up", "down"),
    [
        (rules.DTP(), 1000, 1500),
        (rules.DTP(schedule="alternating-epochs"), 1000, 1500),
        (rules.TargetProp(), 1000, 1000),
        *((rules.StraightThrough(f"fixed({g},-2)"), 500, 500 * g) for g in (2, 3, 4, 8)),
        (rules.StraightThrough("binary"), 500, 500),
        (rules.StraightThrough("float32"), 500, 16000),
        (rules.Backprop(), 16000, 16000),
        (rules.BackpropThenSign(), 16000, 16000),
        (rules.FixedLower(), 500, 0),
    ],
    ids=lambda x: f"{x.name} {x.__dict__}" if isinstance(x, rules.LearningRule) else str(x),
)
def test_bits_of_a_training_sample(rule: rules.LearningRule, up: int, down: int) -> None:
    ledger = trained(rule)
    ways = (Direction.FORWARD, Direction.FEEDBACK)
    assert [ledger.bits("h1-h2", way, per="sample") for way in ways] == [up, down]
    passes = len(rule.phases)
    assert [ledger.bits("input-h1", way, per="sample") for way in ways] == [6272 * passes, 0]
    assert [ledger.bits("h2-output", way, per="sample") for way in ways] == [16000, 16000]


@pytest.mark.parametrize("rule", [rules.DTP(), rules.BackpropThenSign(), rules.StraightThrough()], ids=lambda r: r.name)
def test_bits_of_an_inference(rule: rules.LearningRule) -> None:
    net, ledger = Network.build(SIZES, LINKS), Ledger()
    net = net.with_links(rule.inference_links(net.links))
    net.classify(np.zeros((3, 784), np.float32), ledger)
    ledger.samples += 3
    assert ledger.bits("h1-h2", Direction.FORWARD, per="sample") == 500
    assert ledger.bits(direction=Direction.FEEDBACK, per="sample") == 0


def test_multiplications_of_an_inference() -> None:
    net, ledger = Network.build(SIZES, LINKS), Ledger()
    net.classify(np.zeros((2, 784), np.float32), ledger)
    products = {w.layer: n for w, n in ledger.work.items() if w.operation == "multiply-accumulate"}
    assert products == {"h1": 2 * 784 * 500, "h2": 2 * 500 * 500, "output": 2 * 500 * 10}
    reads = {(a.layer, a.array): n for a, n in ledger.accesses.items() if a.operation == "read"}
    assert reads["h1", "weight"] == 2 * 784 * 500


def test_codes_ones_toggles_and_padding() -> None:
    link, ledger = Link("binary", lower="a", upper="b"), Ledger()
    x = np.array([[1, -1, 1], [1, 1, -1]], np.float32)
    link.send(x, Direction.FORWARD, "activations", ledger)
    link.send(-x, Direction.FORWARD, "activations", ledger)
    ledger.samples = ledger.steps = 4
    assert (ledger.codes(), ledger.bits(), ledger.ones(), ledger.toggles()) == (12, 12, 4 + 2, 2 + 1 + 2)
    assert ledger.bits(word_bits=8) == 4 * 8
    assert ledger.bits(per="sample") == 3


def test_sums_files_and_units(tmp_path) -> None:
    one = trained(rules.DTP())
    both = one + one
    assert (both.runs, both.samples, both.bits(), both.ones()) == (2, 2 * BATCH, one.bits(), one.ones())
    assert both.bits(per="sample") == one.bits(per="sample")
    assert both.bits(per="run") == one.bits()
    ledgers.save(tmp_path / "ledger.json", training=one, inference=Ledger())
    assert ledgers.load(tmp_path / "ledger.json") == {"training": one, "inference": Ledger()}
    with pytest.raises(ValueError, match=r"^the ledger has counted no epoch, so it has no answer per epoch$"):
        one.bits(per="epoch")
    with pytest.raises(ValueError, match=r"^no unit 'batch'; there are: run, epoch, step, sample$"):
        one.bits(per="batch")


def test_a_file_that_is_no_ledger(tmp_path) -> None:
    path = tmp_path / "ledger.json"
    for content, message in [
        ('{"format_version": 2, "training": {}}', f"{path}: not a ledger (KeyError: 'runs')"),
        (
            '{"format_version": 3}',
            f"{path}: format version 3 is newer than 2, the newest this program reads; upgrade lowbit-dtp",
        ),
        ("{}", f"{path}: has no format version; this program reads 1 to 2"),
        ("[]", f"{path}: holds a JSON list, not an object"),
    ]:
        path.write_text(content)
        with pytest.raises(StorageError, match=f"^{re.escape(message)}$"):
            ledgers.load(path)


def test_a_file_of_version_1_loads(tmp_path) -> None:
    """As version 0.1.0 wrote it, which called the direction `flow` and the operation on memory `way`."""
    message = {"link": "h1-h2", "flow": "feedback", "purpose": "target", "format": "binary", "bits": 1, "width": 8}
    access = {"layer": "h1", "array": "bias", "way": "write", "format": "float32", "bits": 32, "capacity_bits": 64}
    content = {
        "format_version": 1,
        "training": {
            **{"runs": 1, "epochs": 1, "steps": 2, "samples": 3},
            "traffic": [message | {"messages": 3, "ones": 5, "toggles": 4}],
            "work": [],
            "accesses": [access | {"words": 6}],
        },
    }
    path = tmp_path / "ledger.json"
    path.write_text(json.dumps(content))
    ledger = ledgers.load(path)["training"]
    assert ledger.bits("h1-h2", Direction.FEEDBACK) == 24 and ledger.toggles(per="step") == 2
    assert ledger.accesses == {Access("h1", "bias", "write", "float32", 32, 64): 6}
