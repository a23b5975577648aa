"""Training in memory: the same numbers on any number of threads, and after a stop at any step."""

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numba
import numpy as np
import pytest

from lowbit_dtp import checkpoint, data
from lowbit_dtp.backends.numba_cpu import set_threads
from lowbit_dtp.data import Samples
from lowbit_dtp.formats import ufixed
from lowbit_dtp.ledger import Direction
from lowbit_dtp.links import Link
from lowbit_dtp.network import Network
from lowbit_dtp.optimizers import SGD, Optimizer, RMSprop
from lowbit_dtp.rules import DTP, LearningRule
from lowbit_dtp.training import Progress, evaluate, fit
from tests.conformance.cases import CLASSIFIERS

SIZES = [64, 20, 15, 10]
every_rule = pytest.mark.parametrize("rule", CLASSIFIERS.values(), ids=CLASSIFIERS)


@pytest.fixture(scope="module")
def few() -> Samples:
    """103 digits: with 25 a minibatch, four whole ones and a rest."""
    train = data.load("digits").train
    return Samples(train.inputs[:103], train.labels[:103])


@pytest.fixture
def threads() -> Iterator[None]:
    before = numba.get_num_threads()
    yield
    set_threads(before)


def network(sizes: list[int] = SIZES) -> Network:
    middle = Link("binary", "fixed(4,1,stochastic)")
    return Network.build(sizes, [Link("ufixed(8,0)"), middle, Link()], seed=3)


def prepared(rule: LearningRule) -> Network:
    """The network with what `rule` adds to it."""
    net = network()
    rule.prepare(net, 3)
    return net


def contents(net: Network, optimizer: Optimizer, progress: Progress) -> dict[str, object]:
    """All that a run has changed, bit for bit."""
    return {
        "network": {name: x.tobytes() for name, x in net.tensors().items()},
        "optimizer": {key: [x.tobytes() for x in words] for key, words in optimizer.state.items()},
        "wires": {key: (x.dtype, x.tobytes()) for key, x in progress.ledger.wires.items()},
        "progress": progress,
    }


@pytest.mark.usefixtures("threads")
@every_rule
def test_threads_change_no_number(rule: LearningRule) -> None:
    if numba.config.NUMBA_NUM_THREADS < 2:
        pytest.skip("this machine has one thread")
    train = data.load("digits").train
    found = []
    for count in (1, 2):
        set_threads(count)
        net, optimizer, progress = network([64, 300, 300, 10]), RMSprop(0.001), Progress()
        losses = [step.loss for step in fit(net, rule, optimizer, train, 1, progress=progress)]
        found.append((losses, contents(net, optimizer, progress)))
    assert found[0] == found[1]


@pytest.mark.parametrize("stops", [(1,), (5,), (7,), (3, 4, 12)], ids=str)
@every_rule
def test_a_run_that_stops_goes_on_bit_for_bit(
    rule: LearningRule, stops: tuple[int, ...], few: Samples, tmp_path: Path
) -> None:
    path = tmp_path / "checkpoint.safetensors"
    net, optimizer, progress = prepared(rule), RMSprop(0.01), Progress()
    losses = [step.loss for step in fit(net, rule, optimizer, few, 3, 25, seed=5, progress=progress)]
    expected = contents(net, optimizer, progress)

    net, optimizer, progress = prepared(rule), RMSprop(0.01), Progress()
    parts, done = [], 0
    for stop in (*stops, None):
        steps = fit(net, rule, optimizer, few, 3, 25, seed=5, progress=progress)
        parts += [step.loss for step in islice(steps, None if stop is None else stop - done)]
        done = progress.step
        checkpoint.save(path, net, optimizer, progress, {"note": done})
        net, optimizer = prepared(rule), RMSprop(0.01)
        progress, notes = checkpoint.load(path, net, optimizer)
        assert notes == {"note": done}
    assert parts == losses
    assert contents(net, optimizer, progress) == expected


@pytest.mark.parametrize("link", ["ufixed(8,0)", "ufixed(5,1)", "fixed(9,1)", "float32"])
def test_images_kept_as_codes_train_as_their_pixels_do(link: str, few: Samples) -> None:
    """Bit for bit, whether the link's format is that of the codes, and they are sent as they are, or another."""
    coded = data.load("digits").train
    coded = Samples(coded.stored[:103], coded.labels[:103], coded.format)
    assert np.array_equal(coded.inputs, few.inputs)
    found = []
    for samples in (few, coded):
        links = [Link(link), Link("binary", "binary"), Link()]
        net, optimizer, progress = Network.build([64, 70, 80, 10], links), RMSprop(0.01), Progress()
        losses = [step.loss for step in fit(net, DTP(), optimizer, samples, 2, 25, progress=progress)]
        found.append((losses, contents(net, optimizer, progress), evaluate(net, samples)))
    assert found[0] == found[1]


def test_images_may_lie_in_any_order() -> None:
    """Sparse ones, whose nonzeros are taken from their codes where these lie row by row."""
    draw = np.random.default_rng(0)
    rows = (draw.integers(0, 32, (103, 64)) * (draw.random((103, 64)) < 0.2)).astype(np.uint8)
    columns, labels = np.asfortranarray(rows), draw.integers(0, 10, 103)
    net = Network.build([64, 70, 80, 10], [Link("ufixed(5,1)"), Link("binary"), Link()])
    errors = [evaluate(net, Samples(x, labels, ufixed(5, 1)), batch=50) for x in (rows, columns)]
    assert errors[0] == errors[1] < 100
    assert not columns[:50].flags.c_contiguous


@pytest.mark.parametrize(
    ("stored", "error", "message"),
    [
        (np.full((2, 3), 32, np.uint8), ValueError, "samples: code 32 does not fit in the 5 bits of ufixed(5,1)"),
        (np.zeros((2, 3)), TypeError, "samples: codes of ufixed(5,1) are unsigned whole numbers, not float64"),
    ],
)
def test_codes_that_are_none_of_their_format(stored: np.ndarray, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        Samples(stored, np.zeros(2, np.int64), ufixed(5, 1))


@every_rule
def test_what_a_run_counts(rule: LearningRule, few: Samples) -> None:
    progress = Progress()
    steps = list(fit(network(), rule, SGD(0.01), few, 2, 25, progress=progress))
    ledger = progress.ledger
    assert (ledger.runs, ledger.epochs, ledger.samples) == (1, 2, 206)
    assert ledger.steps == len(steps) == 2 * 5 * len(rule.phases)
    assert [i for i, step in enumerate(steps) if step.epoch_ends] == [len(steps) // 2 - 1, len(steps) - 1]
    activity = ledger.bits("h1-h2", Direction.FORWARD, "activations")
    width = 20 * rule.training_links(network().links)[1].forward.bits * getattr(rule, "steps", 1)  # where it settles
    assert activity == 206 * width
    assert ledger.bits("h1-h2", Direction.FORWARD, "activations", per="sample") == width
    assert ledger.bits("h1-h2", Direction.FORWARD, "activations", per="epoch") == 103 * width


@pytest.mark.parametrize("optimizer", [SGD(0.1), SGD(0.1, 0.02), RMSprop(0.01), RMSprop(0.01, 0.002)], ids=repr)
def test_optimizers_follow_their_equations(optimizer: Optimizer) -> None:
    random = np.random.default_rng(0)
    for name in ("weight", "feedback"):
        rate = optimizer.learning_rate
        if name == "feedback" and optimizer.feedback_learning_rate is not None:
            rate = optimizer.feedback_learning_rate
        parameter = random.standard_normal((7, 5))
        twin, mean, square, velocity = parameter.copy(), 0.0, 0.0, 0.0
        for _ in range(4):
            gradient = random.standard_normal((7, 5))
            direction = Direction.FEEDBACK if name == "feedback" else Direction.FORWARD
            optimizer.update(("h1", name), parameter, gradient, direction=direction)
            if isinstance(optimizer, SGD):
                twin = twin - rate * gradient
                continue
            mean = 0.95 * mean + 0.05 * gradient
            square = 0.95 * square + 0.05 * gradient**2
            velocity = 0.9 * velocity - rate * gradient / np.sqrt(square - mean**2 + 0.001)
            twin = twin + velocity
        np.testing.assert_allclose(parameter, twin, rtol=1e-12, atol=1e-12)


def test_error_is_the_share_of_wrong_classes(few: Samples) -> None:
    net = network()
    logits = few.inputs
    for link, layer in zip(net.links, net.layers, strict=True):
        logits = link.forward.quantize(logits) @ layer.weight + layer.bias
        logits = logits if layer.name == "output" else np.tanh(logits)
    wrong = int((logits.argmax(1) != few.labels).sum())
    assert 0 < wrong < len(few)
    assert evaluate(net, few) == evaluate(net, few, batch=10) == pytest.approx(100 * wrong / len(few))
