"""The denoising auto-encoder by DTP: shared weights, bits on links, learning, and networks that start from it."""

import re
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lowbit_dtp import checkpoint, data
from lowbit_dtp.backends import numba_graph
from lowbit_dtp.comparison import summarize_run
from lowbit_dtp.data import DataSet, Samples
from lowbit_dtp.ensemble import Run, stack, unstack
from lowbit_dtp.experiment import Comparison, Experiment, ExperimentError
from lowbit_dtp.ledger import Direction, Ledger, load
from lowbit_dtp.links import Link
from lowbit_dtp.network import Network
from lowbit_dtp.optimizers import RMSprop
from lowbit_dtp.projections import Mirrored, Tied
from lowbit_dtp.report import write_report
from lowbit_dtp.rules import DTPAutoencoder
from lowbit_dtp.runs import run
from lowbit_dtp.storage import StorageError, read_json
from lowbit_dtp.tasks import TASKS
from lowbit_dtp.training import Progress, evaluate, fit

RECONSTRUCT = TASKS["reconstruct"]
INPUTS, HIDDEN = 64, 20
RULES = [DTPAutoencoder(), DTPAutoencoder(tied=False)]
either = pytest.mark.parametrize("rule", RULES, ids=["tied", "untied"])


@pytest.fixture(scope="module")
def digits() -> DataSet:
    return data.load("digits")


@pytest.fixture(scope="module")
def few(digits: DataSet) -> Samples:
    """103 digits: with 25 a minibatch, four whole ones and a rest."""
    return Samples(digits.train.stored[:103], digits.train.labels[:103], digits.train.format)


def network(rule: DTPAutoencoder, seed: int = 3, hidden: int = HIDDEN) -> Network:
    links = [Link("fixed(8,2)"), Link("fixed(6,2)", "fixed(4,1)")]
    net = Network.build([INPUTS, hidden, INPUTS], links, seed, "sigmoid", output_activation="sigmoid")
    rule.prepare(net, seed)
    return net


def trained(rule: DTPAutoencoder, samples: Samples, epochs: int = 2, mode: str = "auto", **options: Any) -> Run:
    done = Run(network(rule, **options), RMSprop(0.01), Progress())
    for _ in fit(done.net, rule, done.optimizer, samples, epochs, 25, 5, done.progress, mode, RECONSTRUCT):
        pass
    return done


def contents(done: Run) -> dict[str, Any]:
    """All that a run has changed, bit for bit."""
    return {
        "network": {name: x.tobytes() for name, x in done.net.tensors().items()},
        "optimizer": {key: [x.tobytes() for x in words] for key, words in done.optimizer.state.items()},
        "ledger": done.progress.ledger.as_dict(),
    }


# --- weights that are shared --------------------------------------------------------------------------------------


def test_encoder_has_one_array_and_decoder_a_copy() -> None:
    net = network(RULES[0])
    hidden, output = net.layers
    assert net.tensors().keys() == {"h1.weight", "h1.bias", "output.weight", "output.bias"}
    tied, mirrored = hidden.inputs["h1-output"], output.inputs["h1-output"]
    assert isinstance(tied, Tied) and tied.values is hidden.weight and tied.bias is hidden.bias
    assert isinstance(mirrored, Mirrored)
    assert np.array_equal(output.weight, hidden.weight.T) and not np.shares_memory(output.weight, hidden.weight)
    assert [link.name for link in net.links] == ["input-h1", "h1-output", "h1-output.weights"]
    before = net.tensors()
    RULES[0].prepare(net, 1)
    assert all(x is before[name] for name, x in net.tensors().items()) and len(net.links) == 3


@either
def test_file_holds_the_network_whole(rule: DTPAutoencoder, few: Samples, tmp_path: Path) -> None:
    net = trained(rule, few).net
    net.save(tmp_path / "network.safetensors")
    loaded = Network.load(tmp_path / "network.safetensors")
    assert loaded.describe() == net.describe()
    assert loaded.links == net.links
    hidden = loaded.layers[0]
    assert hidden.inputs["h1-output"].values is hidden.weight
    assert evaluate(loaded, few, task=RECONSTRUCT, rule=rule) == evaluate(net, few, task=RECONSTRUCT, rule=rule)
    again = [contents(Run(x, RMSprop(0.01), Progress())) for x in (net, loaded)]
    assert again[0] == again[1]


def test_other_arrays_stay_shared() -> None:
    hidden, _ = network(RULES[0]).each_array(lambda x: x + 1).layers
    assert hidden.inputs["h1-output"].values is hidden.weight
    hidden.weight = np.zeros_like(hidden.weight)
    assert hidden.inputs["h1-output"].values is hidden.weight


def test_copy_is_the_encoder_after_each_step(few: Samples) -> None:
    net = network(RULES[0])
    before = net.layers[0].weight.copy()
    for _ in islice(fit(net, RULES[0], RMSprop(0.01), few, 1, 25, task=RECONSTRUCT), 3):
        hidden, output = net.layers
        assert np.array_equal(output.weight, hidden.weight.T)
        assert not np.array_equal(hidden.weight, before)
        before = hidden.weight.copy()


def test_unknown_projection_is_named(tmp_path: Path) -> None:
    net = network(RULES[0])
    description = net.describe()
    description["layers"][0]["inputs"]["h1-output"]["kind"] = "knotted"
    with pytest.raises(ValueError, match=r"^no kind of projection 'knotted'; there are: dense, "):
        Network.of(net.tensors(), description)


@pytest.mark.parametrize("sizes", [[64, 10], [64, 20, 10], [64, 20, 20, 64]], ids=str)
def test_network_of_another_form_is_refused(sizes: list[int]) -> None:
    named = "-".join(map(str, sizes))
    message = f"dtp-autoencoder needs one hidden layer and as many outputs as inputs, not {named}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        RULES[0].prepare(Network.build(sizes, [Link()] * (len(sizes) - 1)), 0)


def test_setting_is_checked() -> None:
    with pytest.raises(ValueError, match=r"^dtp-autoencoder: noise must be a finite number, zero or more, not -0\.5$"):
        DTPAutoencoder(noise=-0.5)


# --- what crosses -------------------------------------------------------------------------------------------------


@either
def test_bits_are_those_of_the_closed_form(rule: DTPAutoencoder, few: Samples) -> None:
    ledger = trained(rule, few).progress.ledger
    samples, steps = 2 * 103, 2 * 5
    assert (ledger.samples, ledger.steps) == (samples, steps)
    expected = {
        ("input-h1", Direction.FORWARD): 2 * INPUTS * 8 * samples,
        ("h1-output", Direction.FORWARD): HIDDEN * 6 * samples,
        ("h1-output", Direction.FEEDBACK): (1 + rule.tied) * INPUTS * 4 * samples,
    }
    if rule.tied:
        expected["h1-output.weights", Direction.FORWARD] = INPUTS * HIDDEN * 32 * steps
    assert {key: ledger.bits(*key) for key in expected} == expected
    assert ledger.bits() == sum(expected.values())
    rows = {(t.purpose, t.direction) for t in ledger.traffic if t.link.startswith("h1-output")}
    assert (("weights", Direction.FORWARD) in rows) == (("error", Direction.FEEDBACK) in rows) == rule.tied


@either
def test_products_are_those_of_the_closed_form(rule: DTPAutoencoder, few: Samples) -> None:
    """Up twice into h1, once into the output, once down; and a gradient of each product whose weights learn."""
    ledger = trained(rule, few).progress.ledger
    products: dict[tuple[str, str], int] = {}
    for work, times in ledger.work.items():
        if work.operation == "multiply-accumulate":
            key = work.layer, "gradient" if work.purpose == "gradient" else "state"
            products[key] = products.get(key, 0) + times
    each = 2 * 103 * INPUTS * HIDDEN
    expected = {("h1", "state"): 3 * each, ("output", "state"): each, ("h1", "gradient"): (1 + rule.tied) * each}
    assert products == expected | ({} if rule.tied else {("output", "gradient"): each})


# --- learning -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rule", [DTPAutoencoder(noise=0.3, input_noise=0.3, tied=tied) for tied in (True, False)], ids=str
)
def test_it_learns_to_reconstruct_digits(rule: DTPAutoencoder, digits: DataSet) -> None:
    net = Network.build([64, 100, 64], [Link(), Link()], 0, "sigmoid", output_activation="sigmoid")
    for _ in fit(net, rule, RMSprop(4e-3), digits.train, 10, 50, task=RECONSTRUCT):
        pass
    mean = digits.train.inputs.mean(0)
    of_the_mean = ((digits.test.inputs - mean) ** 2).sum(1).mean()
    assert evaluate(net, digits.test, task=RECONSTRUCT, rule=rule) < 0.5 * of_the_mean


@either
def test_stopped_run_goes_on_bit_for_bit(rule: DTPAutoencoder, few: Samples, tmp_path: Path) -> None:
    expected, path = contents(trained(rule, few, 3)), tmp_path / "checkpoint.safetensors"
    done = Run(network(rule), RMSprop(0.01), Progress())
    for stop in (1, 6, None):
        going = fit(done.net, rule, done.optimizer, few, 3, 25, 5, done.progress, task=RECONSTRUCT)
        for _ in islice(going, None if stop is None else stop - done.progress.step):
            pass
        checkpoint.save(path, *done, {})
        fresh = Run(network(rule), RMSprop(0.01), Progress())
        progress, _ = checkpoint.load(path, fresh.net, fresh.optimizer)
        done = fresh._replace(progress=progress)
    assert contents(done) == expected


@either
def test_recorded_steps_are_the_plain_ones(rule: DTPAutoencoder, few: Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    repeated: list[bool] = []
    plain = numba_graph.Program.__call__

    def call(self: numba_graph.Program) -> bool:
        repeated.append(plain(self))
        return repeated[-1]

    monkeypatch.setattr(numba_graph.Program, "__call__", call)
    written, recorded = (contents(trained(rule, few, 3, mode)) for mode in ("plain", "recorded"))
    assert recorded == written
    assert repeated and all(repeated)


def test_recorded_steps_on_tensors_learn_the_same(few: Samples) -> None:
    rule = RULES[0]
    expected, done = trained(rule, few, 1), Run(network(rule).on("cpu"), RMSprop(0.01), Progress())
    for _ in fit(done.net, rule, done.optimizer, few.on("cpu"), 1, 25, 5, done.progress, "recorded", RECONSTRUCT):
        pass
    for name, x in done.net.tensors().items():
        np.testing.assert_allclose(x.numpy(), expected.net.tensors()[name], atol=2e-2, err_msg=name)
    hidden, output = done.net.layers
    assert bool((output.weight == hidden.weight.mT).all())
    assert done.progress.ledger.bits() == expected.progress.ledger.bits()


def test_members_of_an_ensemble_learn_alone(few: Samples) -> None:
    rule = RULES[0]
    alone = []
    for seed in (5, 6):
        done = Run(network(rule, seed), RMSprop(0.01), Progress())
        for _ in fit(done.net, rule, done.optimizer, few, 1, 25, seed, done.progress, task=RECONSTRUCT):
            pass
        alone.append(done)
    both = stack([Run(network(rule, seed), RMSprop(0.01), Progress()) for seed in (5, 6)], "cpu")
    for _ in fit(both.net, rule, both.optimizer, few.on("cpu"), 1, 25, (5, 6), both.progress, task=RECONSTRUCT):
        pass
    for member, single in zip(unstack(both), alone, strict=True):
        for name, x in member.net.tensors().items():
            np.testing.assert_allclose(x, single.net.tensors()[name], atol=2e-2, err_msg=name)
        hidden, output = member.net.layers
        assert np.array_equal(output.weight, hidden.weight.T)
        assert hidden.inputs["h1-output"].values is hidden.weight
        assert member.progress.ledger.bits() == single.progress.ledger.bits()


# --- runs, and what starts from them ------------------------------------------------------------------------------


def autoencoder(**overrides: Any) -> Experiment:
    return Comparison.load("digits", **overrides).experiment("dtp-autoencoder", 0)


def classifier(**overrides: Any) -> Experiment:
    given = {"sizes": [64, 100, 10], "activation": "sigmoid", "epochs": 3} | overrides
    return Comparison.load("digits", **given).experiment("backprop", 0)


@pytest.fixture(scope="module")
def pretrained(digits: DataSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pretrained") / "run"
    run(autoencoder(epochs=3), folder, digits)
    return folder


def test_table_of_a_rule_gives_its_network() -> None:
    experiment = autoencoder()
    assert (experiment.sizes, experiment.activation, experiment.output_activation) == ([64, 100, 64], *["sigmoid"] * 2)
    assert experiment.links == {"input-h1": {"forward": "fixed(8,2)"}}
    assert experiment.settings.keys() == {"noise", "input_noise"}
    given = autoencoder(sizes=[64, 30, 64], activation="tanh", links={"input-h1": {"forward": "float32"}})
    assert (given.sizes, given.activation) == ([64, 30, 64], "tanh")
    assert given.links == {"input-h1": {"forward": "float32"}}
    dtp = Comparison.load("digits").experiment("dtp", 0)
    assert (dtp.sizes, dtp.activation) == ([64, 100, 100, 10], "tanh")
    assert dtp.links["input-h1"] == {"forward": "ufixed(5,1)"}


def test_run_counts_weights_and_scores_reconstruction(pretrained: Path, digits: DataSet) -> None:
    training = load(pretrained / "ledger.json")["training"]
    assert training.bits("h1-output.weights", per="step") == 64 * 100 * 32
    inference = load(pretrained / "ledger.json")["inference"]
    assert inference.bits(per="sample") == 64 * 8 + 100 * 32
    assert 0 < read_json(pretrained / "run.json")["test_squared_error"] < 4


def test_classifier_starts_from_the_encoder(pretrained: Path) -> None:
    source = Network.load(pretrained / "network.safetensors")
    for start in (pretrained, pretrained / "network.safetensors"):
        net, _, _ = classifier(start=str(start)).built()
        fresh, _, _ = classifier().built()
        for name, x in net.tensors().items():
            of = source if name.startswith("h1") else fresh
            assert np.array_equal(x, of.tensors()[name]), name


def test_autoencoder_goes_on_from_another_with_its_copy(pretrained: Path) -> None:
    source = Network.load(pretrained / "network.safetensors").tensors()
    net, _, _ = autoencoder(start=str(pretrained)).built()
    assert all(np.array_equal(x, source[name]) for name, x in net.tensors().items())


def test_start_is_recorded(pretrained: Path, digits: DataSet, tmp_path: Path) -> None:
    experiment = classifier(start=str(pretrained), epochs=1)
    run(experiment, tmp_path, digits)
    assert Experiment.load(tmp_path / "experiment.toml") == experiment
    with pytest.raises(ExperimentError, match="holds a run with start = "):
        run(classifier(epochs=1), tmp_path, digits)
    assert "start" not in classifier().as_toml()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda start: classifier(start=start, sizes=[64, 50, 10]),
            "start: {file}: weight of h1 is [64, 100], not [64, 50]",
        ),
        (
            lambda start: classifier(start=start, activation="tanh"),
            "start: {file}: h1 has the activation sigmoid, not tanh",
        ),
        (
            lambda start: classifier(start=start, sizes=[64, 10]),
            "start: {file}: a network 64-100-64 has no hidden layer for one of 64-10",
        ),
    ],
    ids=["shape", "activation", "no layer"],
)
def test_start_that_does_not_fit_is_refused(make: Callable[[str], Experiment], message: str, pretrained: Path) -> None:
    message = message.format(file=pretrained / "network.safetensors")
    with pytest.raises(ExperimentError, match=f"^{re.escape(message)}$"):
        make(str(pretrained)).built()


def test_start_that_is_missing_is_named(tmp_path: Path) -> None:
    for start, file in ((tmp_path, tmp_path / "network.safetensors"), (tmp_path / "none", tmp_path / "none")):
        with pytest.raises(StorageError, match=f"^{re.escape(f'start: {file}: no such file')}$"):
            classifier(start=str(start)).built()


def test_fine_tuning_starts_ahead(pretrained: Path, digits: DataSet, tmp_path: Path) -> None:
    """Mean loss of the first epoch, of the classifier on the encoder of 3 epochs, and on weights as drawn; seed 0."""
    losses = []
    for start in (str(pretrained), ""):
        folder = tmp_path / (f"tuned{bool(start)}")
        run(replace(classifier(epochs=1), start=start), folder, digits)
        losses.append(float(re.findall(r'"train_loss": ([\d.]+)', (folder / "metrics.jsonl").read_text())[0]))
    assert losses[0] < losses[1]


def test_synchronise_sends_all_if_nothing_is_said() -> None:
    net, ledger = network(RULES[0]), Ledger()
    net.layers[0].weight[...] = 1
    net.synchronise(ledger)
    assert (net.layers[1].weight == 1).all()
    assert ledger.bits(purpose="weights") == INPUTS * HIDDEN * 32


def test_report_draws_the_filters(pretrained: Path) -> None:
    path = write_report(pretrained, summarize_run(pretrained))
    assert "40 neurons of the first layer" in path.read_text()
