"""Rules of a single layer: the updates of the thesis, their solutions, learning digits, bits and operations."""

import re
import warnings
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lowbit_dtp import checkpoint, data
from lowbit_dtp.data import DataSet, Samples
from lowbit_dtp.experiment import Comparison
from lowbit_dtp.ledger import Direction, Ledger
from lowbit_dtp.links import Link
from lowbit_dtp.network import Network
from lowbit_dtp.optimizers import SGD
from lowbit_dtp.randomness import RandomStream
from lowbit_dtp.report import filters_of
from lowbit_dtp.rules import LVQ, SOM, Competitive, Delta, Hebbian, LearningRule, Perceptron, VectorQuantization
from lowbit_dtp.rules.rule import StepContext
from lowbit_dtp.tasks import TASKS, Task
from lowbit_dtp.training import Progress, evaluate, fit
from tests.conformance import oracle_single_layer as oracle

CASES: dict[str, tuple[LearningRule, str, Any]] = {
    "hebbian": (Hebbian(), "associate", oracle.hebbian),
    "hebbian-covariance": (Hebbian("covariance"), "classify", oracle.hebbian),
    "hebbian-oja": (Hebbian("oja", supervised=False), "reconstruct", oracle.hebbian),
    "delta": (Delta(), "associate", oracle.delta),
    "perceptron": (Perceptron(), "classify", oracle.delta),
    "perceptron-winner": (Perceptron("winner-take-all"), "classify", oracle.delta),
    "competitive": (Competitive(), "quantize", oracle.competitive),
    "competitive-conscience": (Competitive(conscience=4.0), "quantize", oracle.competitive),
    "vector-quantization": (VectorQuantization(memory=1.0), "quantize", oracle.competitive),
    "som": (SOM(rows=2, columns=3, width=1.0, half_width_epoch=None), "quantize", oracle.competitive),
    "lvq": (LVQ(classes=6, guided_epochs=0), "classify", oracle.competitive),
}
ONE_LAYER = ("hebbian", "delta", "perceptron", "competitive", "vector-quantization", "som", "lvq")
every_case = pytest.mark.parametrize(("rule", "task", "expected"), CASES.values(), ids=CASES)


@pytest.fixture(scope="module")
def digits() -> DataSet:
    return data.load("digits")


def a_layer(rule: LearningRule, inputs: int, neurons: int, dtype: Any = np.float32, **options: Any) -> Network:
    net = Network.build([inputs, neurons], [Link("float64", "float64")], dtype=dtype, **options)
    rule.prepare(net, 0)
    return net


def take(rule: LearningRule, net: Network, x: np.ndarray, target: Any, task: Task, rate: float) -> Any:
    """One step with SGD, as `fit` takes it."""
    step = rule.step(net, x, target, Ledger(), StepContext(0, stream=RandomStream(0), task=task))
    SGD(rate).apply(net, step.gradients, Ledger())
    for (layer, name), value in step.buffers.items():
        net.layer(layer).buffers[name][...] = value
    return step


def trained(rule: str, digits: DataSet, seed: int = 0, **overrides: Any) -> tuple[Network, LearningRule, Task]:
    """A network trained by `rule` with the experiment file of digits, the rule and the task."""
    experiment = Comparison.load("digits", **overrides).experiment(rule, seed)
    net, learning, optimizer = experiment.built()
    task = experiment.learned_task()
    for _ in fit(net, learning, optimizer, digits.train, experiment.epochs, experiment.batch, seed, task=task):
        pass
    return net, learning, task


# --- updates -----------------------------------------------------------------------------------------------------


@every_case
def test_sgd_makes_the_update_of_the_thesis(rule: LearningRule, task: str, expected: Any) -> None:
    """Sample by sample, w <- w + eta dw, with dw by the loops of the oracle."""
    random, eta = np.random.default_rng(1), 0.25
    net = a_layer(rule, 5, 6, np.float64)
    for _ in range(20):
        x = random.standard_normal((1, 5))
        target = random.standard_normal((1, 6)) if task == "associate" else random.integers(0, 6, 1)
        gradients = expected(rule, net, x, target, RandomStream(0))
        wanted = {key: net.layer(key[0]).arrays()[key[1]] - eta * gradient for key, gradient in gradients.items()}
        take(rule, net, x, target, TASKS[task], eta)
        for (layer, name), w in wanted.items():
            np.testing.assert_allclose(net.layer(layer).arrays()[name], w, rtol=1e-12, atol=1e-14)


def test_vector_quantization_keeps_means_of_what_was_won() -> None:
    """MacQueen's k-means, written with lists: a code vector is the mean of its start and of all that it won."""
    random, rule = np.random.default_rng(2), VectorQuantization(memory=1.0)
    net = a_layer(rule, 3, 4, np.float64)
    won = [[w] for w in net.layers[0].weight.T.copy()]
    for _ in range(60):
        x = random.standard_normal(3)
        means = [np.mean(each, 0) for each in won]
        won[int(np.argmin([((x - mean) ** 2).sum() for mean in means]))].append(x)
        take(rule, net, x[None], None, TASKS["quantize"], 1.0)
    np.testing.assert_allclose(net.layers[0].weight.T, [np.mean(each, 0) for each in won], rtol=1e-12)
    assert net.layers[0].buffers["wins"].tolist() == [len(each) for each in won]


def test_neighbourhood_of_a_map_narrows_by_the_epoch() -> None:
    rule = SOM(rows=2, columns=3, width=2.0, half_width_epoch=4.0)
    net = a_layer(rule, 5, 6, np.float64)
    x = np.random.default_rng(3).standard_normal((1, 5))
    winner = int(((x - net.layers[0].weight.T) ** 2).sum(1).argmin())
    for epoch, width in ((0, 2.0), (4, 1.0), (12, 0.5)):
        step = rule.step(net, x, None, Ledger(), StepContext(epoch, task=TASKS["quantize"]))
        for neuron in range(6):
            row, column = neuron // 3 - winner // 3, neuron % 3 - winner % 3
            near = np.exp(-(row**2 + column**2) / (2 * width**2))
            w = net.layers[0].weight[:, neuron]
            np.testing.assert_allclose(step.gradients["output", "weight"][:, neuron], near * (w - x[0]), rtol=1e-9)


def test_classes_of_code_vectors_are_guided_until_an_epoch() -> None:
    """The code vector of the wrong class is nearest: at first the right one learns, later the wrong one flees."""
    rule = LVQ(classes=2, guided_epochs=3.0)
    net = a_layer(rule, 1, 2, np.float64)
    net.layers[0].weight[...] = [[0.0, 5.0]]
    x, label = np.array([[1.0]]), np.array([1])
    for epoch, expected in ((0, [0.0, 4.0]), (2, [0.0, 4.0]), (3, [1.0, 0.0])):
        step = rule.step(net, x, label, Ledger(), StepContext(epoch, task=TASKS["classify"]))
        assert step.gradients["output", "weight"].tolist() == [expected]
    assert rule.infer(net, np.array([[1.0], [4.0]]), Ledger()).tolist() == [[1, 0], [0, 1]]


def test_perceptron_learns_from_mistakes_alone() -> None:
    """Two classes that a line parts: after some epochs nothing is wrong, and then nothing changes."""
    random = np.random.default_rng(4)
    labels = random.integers(0, 2, 100)
    x = random.uniform(0.3, 1, (100, 2)) * np.where(labels == 1, 1, -1)[:, None]
    rule = Perceptron()
    net = a_layer(rule, 2, 2, np.float64, initial_weights="zeros")
    mistakes = [float(take(rule, net, x, labels, TASKS["classify"], 1.0).loss) for _ in range(50)]
    assert mistakes[0] == 1.0  # all sums are 0, so both units fire, and one should for each sample
    assert mistakes[-1] == 0.0
    step = take(rule, net, x, labels, TASKS["classify"], 1.0)
    assert all((gradient == 0).all() for gradient in step.gradients.values())
    assert evaluate(net, Samples(x, labels), rule=rule) == 0.0


# --- what is found -----------------------------------------------------------------------------------------------


def test_hebbian_recalls_orthogonal_patterns_without_error() -> None:
    """8 patterns of +-1, orthogonal, with any responses: one pass stores them all, exactly."""
    patterns = np.array([[(-1) ** bin(i & j).count("1") for j in range(8)] for i in range(8)], np.float32)
    responses = np.random.default_rng(5).integers(-8, 8, (8, 3)).astype(np.float32)
    samples, rule, task = Samples(patterns, responses), Hebbian(), TASKS["associate"]
    net = Network.build([8, 3], [Link()], initial_weights="zeros")
    rule.prepare(net, 0)
    assert evaluate(net, samples, task=task, rule=rule) > 0
    for _ in fit(net, rule, SGD(1.0), samples, 1, 8, task=task):  # 1 = samples / |pattern|^2
        pass
    assert evaluate(net, samples, task=task, rule=rule) == 0.0


def test_oja_finds_the_first_principal_component() -> None:
    random = np.random.default_rng(6)
    x = (random.standard_normal((2000, 6)) * [3, 1.5, 1, 1, 0.5, 0.5]) @ np.linalg.qr(random.standard_normal((6, 6)))[0]
    samples = Samples(x.astype(np.float32), np.zeros(len(x), np.int64))
    first = np.linalg.eigh(x.T @ x / len(x))[1][:, -1]
    rule, net = Hebbian("oja", supervised=False), Network.build([6, 1], [Link()])
    for _ in fit(net, rule, SGD(0.01), samples, 20, 50, task=TASKS["reconstruct"]):
        pass
    found = net.layers[0].weight[:, 0]
    assert np.linalg.norm(found) == pytest.approx(1, abs=0.01)
    assert abs(found @ first) > 0.999
    unexplained = ((x - np.outer(x @ first, first)) ** 2).sum(1).mean()
    assert evaluate(net, samples, task=TASKS["reconstruct"], rule=rule) == pytest.approx(unexplained, rel=0.01)


@pytest.mark.parametrize(("rule", "percent"), [("hebbian", 20), ("delta", 15), ("perceptron", 13), ("lvq", 8)])
def test_classes_of_digits(rule: str, percent: float, digits: DataSet) -> None:
    """Mean test errors of seeds 0 to 2 are 16.5 %, 12.8 %, 10.3 % and 5.4 %."""
    net, learning, task = trained(rule, digits)
    assert evaluate(net, digits.test, task=task, rule=learning) < percent


def distortion(x: np.ndarray, codes: np.ndarray) -> float:
    """Mean squared distance of `x` from the nearest of `codes`."""
    return float(((x[:, None] - codes) ** 2).sum(-1).min(1).mean())


@pytest.mark.parametrize("rule", ["competitive", "vector-quantization", "som"])
def test_code_vectors_of_digits(rule: str, digits: DataSet) -> None:
    """Nearer than as many samples drawn at random; quantizers as near as those of k-means, to 10 %."""
    from sklearn.cluster import KMeans

    net, learning, task = trained(rule, digits)
    x = digits.test.inputs.astype(np.float64)
    train = digits.train.inputs.astype(np.float64)
    score = evaluate(net, digits.test, task=task, rule=learning)
    assert score == pytest.approx(distortion(x, net.layers[0].weight.T), rel=1e-4)
    drawn = train[np.random.default_rng(7).choice(len(train), 100, replace=False)]
    assert score < 0.85 * distortion(x, drawn)
    k_means = KMeans(100, n_init=1, random_state=0).fit(train).cluster_centers_
    if rule != "som":  # whose neighbours hold its code vectors back
        assert distortion(train, net.layers[0].weight.T) < 1.1 * distortion(train, k_means)
    assert score < 1.1 * distortion(x, k_means)


def test_neighbours_on_the_map_are_alike(digits: DataSet) -> None:
    net, _, _ = trained("som", digits)
    codes = net.layers[0].weight.T.reshape(10, 10, 64).astype(np.float64)
    beside = ((codes[1:] - codes[:-1]) ** 2).sum(-1).mean()
    any_two = ((codes.reshape(100, 1, 64) - codes.reshape(100, 64)) ** 2).sum(-1).mean()
    assert beside < 0.4 * any_two  # 1 in no order


# --- what is sent and computed -----------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ONE_LAYER)
def test_what_crosses_the_link(rule: str, digits: DataSet) -> None:
    """Training: 64 pixels of 5 bits up. Use: as many, and for a quantizer 64 numbers of 32 bits down."""
    experiment = Comparison.load("digits", epochs=1).experiment(rule, 0)
    net, learning, optimizer = experiment.built()
    task, progress, testing = experiment.learned_task(), Progress(), Ledger()
    for _ in fit(net, learning, optimizer, digits.train, 1, 50, progress=progress, task=task):
        pass
    evaluate(net, digits.test, testing, task=task, rule=learning)
    for ledger, down in ((progress.ledger, 0), (testing, 64 * 32 if task.name == "quantize" else 0)):
        assert ledger.bits("input-output", Direction.FORWARD, per="sample") == 64 * 5
        assert ledger.bits("input-output", Direction.FEEDBACK, per="sample") == down
        assert {kind.link for kind, _ in ledger.message_types()} == {"input-output"}


def test_what_a_quantizer_computes() -> None:
    """For b samples: b x.w of d terms and a bias; n |w|^2 once; n - 1 comparisons; the gradient; one vector read."""
    d, n, b = 5, 6, 7
    rule = SOM(rows=2, columns=3)
    net, ledger = a_layer(rule, d, n), Ledger()
    x = np.random.default_rng(8).random((b, d)).astype(np.float32)
    rule.step(net, x, None, ledger, StepContext(task=TASKS["quantize"]))
    work = {(w.purpose, w.operation, w.left): times for w, times in ledger.work.items()}
    assert work == {
        ("match", "multiply-accumulate", "float64"): b * d * n,
        ("match", "multiply-accumulate", "float32"): d * n,
        ("match", "add", "float32"): b * n,
        ("winner", "add", "float32"): b * (n - 1),
        ("gradient", "multiply-accumulate", "float64"): b * d * n,
    }
    reads = {(a.array, a.operation): words for a, words in ledger.accesses.items()}
    assert reads["neighbourhood", "read"] == b * n
    assert reads["weight norm", "write"] == n
    assert reads["weight norm", "read"] == b * n
    used = Ledger()
    rule.infer(net, x, used)
    assert {(a.array, a.purpose): words for a, words in used.accesses.items() if a.operation == "read"} == {
        ("input", "match"): b * d,
        ("weight", "match"): b * d * n,
        ("weight", "norm"): d * n,
        ("weight norm", "match"): b * n,
        ("weight", "winner"): b * d,
    }


# --- runs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ONE_LAYER)
def test_recorded_and_stopped_runs_are_equal_bit_for_bit(rule: str, digits: DataSet, tmp_path: Path) -> None:
    few = Samples(digits.train.stored[:103], digits.train.labels[:103], digits.train.format)
    comparison = Comparison.load("digits", sizes=[64, 10], links={"input-output": {"forward": "ufixed(5,1)"}})
    if rule == "som":
        comparison.content["rules"]["som"] |= {"rows": 2, "columns": 5}
    if rule == "hebbian":
        comparison.content["rules"]["hebbian"] |= {"variant": "covariance"}
    experiment = comparison.experiment(rule, 5)
    task = experiment.learned_task()

    def contents(net: Network, progress: Progress) -> dict[str, Any]:
        return {name: x.tobytes() for name, x in net.tensors().items()} | {"progress": progress}

    found = []
    for mode in ("plain", "recorded"):
        net, learning, optimizer = experiment.built()
        progress = Progress()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for _ in fit(net, learning, optimizer, few, 3, 25, 5, progress, mode, task):
                pass
        found.append(contents(net, progress))
    path = tmp_path / "checkpoint.safetensors"
    net, learning, optimizer = experiment.built()
    progress = Progress()
    for stop in (7, None):
        for _ in islice(fit(net, learning, optimizer, few, 3, 25, 5, progress, "recorded", task), stop):
            pass
        checkpoint.save(path, net, optimizer, progress, {})
        net, _, optimizer = experiment.built()
        progress, _ = checkpoint.load(path, net, optimizer)
    found.append(contents(net, progress))
    assert found[0] == found[1] == found[2]


def test_a_rule_has_a_network_of_its_own_unless_one_is_given() -> None:
    own = Comparison.load("digits").experiment("som", 0)
    assert own.sizes == [64, 100]
    assert own.links == {"input-output": {"forward": "ufixed(5,1)"}}
    assert own.optimizer == {"name": "sgd", "learning_rate": 1.0}
    assert own.settings["rows"] == 10
    given = Comparison.load("digits", sizes=[64, 25], optimizer={"name": "rmsprop"})
    experiment = given.experiment("som", 0)
    assert (experiment.sizes, experiment.links) == ([64, 25], {})
    linked = Comparison.load("digits", links={"input-output": {"forward": "ufixed(8,1)"}}).experiment("som", 0)
    assert linked.links == {"input-output": {"forward": "ufixed(8,1)"}}
    assert experiment.optimizer["name"] == "rmsprop"
    assert Comparison.load("digits").experiment("dtp", 0).sizes == [64, 100, 100, 10]


def test_the_picture_of_a_map_is_its_grid(tmp_path: Path) -> None:
    from base64 import b64decode
    from io import BytesIO

    from matplotlib import image

    comparison = Comparison.load("digits", sizes=[64, 6])
    comparison.content["rules"]["som"] |= {"rows": 3, "columns": 2}
    experiment = comparison.experiment("som", 0)
    net, _, _ = experiment.built()
    net.layers[0].weight[...] = -1
    net.layers[0].weight[:, 3] = 1  # in row 1 and column 1
    net.save(tmp_path / "network.safetensors")
    (tmp_path / "experiment.toml").write_text(experiment.as_toml())
    filters, reason = filters_of(tmp_path, ".", [8, 8])
    assert (reason, filters and filters["shown"]) == ("", 6)
    assert filters is not None
    picture = image.imread(BytesIO(b64decode(filters["png"])))
    assert picture.shape == (3 * 9 - 1, 2 * 9 - 1, 4)
    corners = picture[4::9, 4::9, :3]
    assert (corners != corners[0, 0]).any(-1).tolist() == [[False, False], [False, True], [False, False]]


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (
            lambda: Delta().prepare(Network.build([3, 2, 2], [Link(), Link()]), 0),
            "delta trains one layer, so sizes must be [inputs, neurons], not [3, 2, 2]",
        ),
        (lambda: Hebbian("anti"), "no variant 'anti'; there are: covariance, oja, plain"),
        (lambda: Hebbian(supervised="no"), "hebbian: supervised must be true or false, not 'no'"),  # type: ignore[arg-type]
        (
            lambda: take(Hebbian(), a_layer(Hebbian(), 3, 3), np.ones((1, 3)), None, TASKS["reconstruct"], 1.0),
            "hebbian: the task reconstruct gives no outputs; it needs supervised = false",
        ),
        (lambda: Delta("absolute"), "no loss 'absolute'; there are: cross-entropy, squared"),
        (
            lambda: Delta("cross-entropy").prepare(Network.build([3, 2], [Link()]), 0),
            "delta: the loss cross-entropy needs output_activation = sigmoid, not identity; or choose the loss squared",
        ),
        (lambda: Perceptron("spiking"), "no units 'spiking'; there are: step, winner-take-all"),
        (lambda: Competitive("farthest"), "no winner 'farthest'; there are: largest, nearest"),
        (
            lambda: Competitive(conscience=-1),
            "competitive: conscience must be a finite number, zero or more, not -1",
        ),
        (
            lambda: VectorQuantization(half_conscience_epoch=0),
            "vector-quantization: half_conscience_epoch must be a finite number above zero, not 0",
        ),
        (lambda: Competitive(memory=1.5), "competitive: memory must be a number from 0 to 1, not 1.5"),
        (lambda: LVQ(classes=0), "lvq: classes must be a whole number, 1 or more, not 0"),
        (lambda: LVQ(guided_epochs=-1), "lvq: guided_epochs must be a finite number, zero or more, not -1"),
        (
            lambda: LVQ(classes=2).prepare(Network.build([3, 5], [Link()]), 0),
            "lvq: layer output has 5 neurons, which is no multiple of the 2 classes",
        ),
        (lambda: SOM(rows=0), "som: rows must be a whole number, 1 or more, not 0"),
        (lambda: SOM(width=0), "som: width must be a finite number above zero, not 0"),
        (
            lambda: SOM(rows=2, columns=2).prepare(Network.build([3, 5], [Link()]), 0),
            "som: a grid of 2 x 2 has 4 neurons, but layer output has 5",
        ),
    ],
)
def test_errors(act: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        act()
