"""Diagnosis: its measures against torch's autograd and plain NumPy; it changes no number of a run."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from lowbit_dtp import runs
from lowbit_dtp.activations import ACTIVATIONS
from lowbit_dtp.cli import main
from lowbit_dtp.data import Samples, load
from lowbit_dtp.diagnosis import AS_TRAINED, FLOAT, SPECTRUM_SAMPLES, angle_degrees, diagnose, jacobian, spectrum
from lowbit_dtp.experiment import Comparison, Experiment
from lowbit_dtp.links import Link
from lowbit_dtp.network import Network
from lowbit_dtp.rules import DTP, RULES, Backprop, FixedLower, StraightThrough, TargetProp
from lowbit_dtp.tasks import TASKS

SIZES = [6, 7, 5, 8, 3]
CLASSIFY = TASKS["classify"]


@pytest.fixture
def net() -> Network:
    """Three hidden layers of float64, discrete links between them, and biases that are not zero."""
    links = [Link("float32"), Link("ternary", "fixed(4,-2)"), Link("fixed(4,0)", "fixed(4,-2)"), Link("float32")]
    made = Network.build(SIZES, links, seed=3, dtype=np.float64)
    stream = np.random.default_rng(5)
    return made.each_array(lambda x: x + 0.2 * stream.standard_normal(x.shape))


@pytest.fixture
def samples() -> Samples:
    stream = np.random.default_rng(7)
    return Samples(stream.standard_normal((40, SIZES[0])).astype(np.float32), stream.integers(0, 3, 40))


class Straight(torch.autograd.Function):
    """A quantizer that passes gradients as they are."""

    @staticmethod
    def forward(ctx, x, fmt):
        return torch.tensor(fmt.quantize(x.detach().numpy()), dtype=torch.float64)

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


class Oracle:
    """The network in torch, float64; `discrete` says whether what links carry is quantized."""

    def __init__(self, net: Network, discrete: bool) -> None:
        self.net, self.discrete = net, discrete
        self.w = [{k: torch.tensor(x, requires_grad=True) for k, x in layer.arrays().items()} for layer in net.layers]

    def quantize(self, x, fmt):
        return Straight.apply(x, fmt) if self.discrete else x

    def f(self, i: int, below):
        """State of layer `i` for the state below."""
        total = self.quantize(below, self.net.links[i].forward) @ self.w[i]["weight"] + self.w[i]["bias"]
        return total if i == len(self.w) - 1 else torch.tanh(total)

    def g(self, i: int, above):
        """State of layer `i` as the one above implies it."""
        arrived = self.quantize(above, self.net.links[i + 1].feedback)
        return torch.tanh(arrived @ self.w[i]["feedback"] + self.w[i]["feedback_bias"])

    def states(self, inputs):
        states, state = [], inputs
        for i in range(len(self.w)):
            state = self.f(i, state)
            states.append(state)
        return states

    def targets(self, states, labels, step: float):
        """Targets of hidden layers by eq. 3.15."""
        top = len(self.w) - 1
        below = states[top - 1].detach().requires_grad_()
        loss = torch.nn.functional.cross_entropy(self.f(top, below), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, below)
        targets = {top - 1: states[top - 1] - step * gradient}
        for i in reversed(range(top - 1)):
            targets[i] = states[i] + (self.g(i, targets[i + 1]) - self.g(i, states[i + 1]))
        return {i: x.detach() for i, x in targets.items()}

    def gradients(self, loss) -> list[np.ndarray]:
        return [x.numpy() for x in torch.autograd.grad(loss, [w["weight"] for w in self.w], allow_unused=True)]


def angle(a: np.ndarray, b: np.ndarray) -> float:
    cosine = np.sum(a * b) / np.sqrt(np.sum(a * a) * np.sum(b * b))
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


@pytest.mark.parametrize("links", [AS_TRAINED, FLOAT])
def test_measures_are_those_of_an_independent_computation(links, net, samples):
    rule = DTP(target_step=0.3, noise=0.0)
    found = diagnose(net, rule, samples, CLASSIFY)[links]
    oracle = Oracle(net, discrete=links == AS_TRAINED)
    inputs, labels = torch.tensor(samples.stored, dtype=torch.float64), torch.tensor(samples.labels)
    states = oracle.states(inputs)
    targets = oracle.targets(states, labels, 0.3)
    # a layer's own loss changes its own weights alone
    own = [
        torch.autograd.grad(((oracle.f(i, below.detach()) - targets[i]) ** 2).sum(), oracle.w[i]["weight"])[0].numpy()
        for i, below in enumerate([inputs, *states[:2]])
    ]
    backprop = oracle.gradients(torch.nn.functional.cross_entropy(states[-1], labels))
    for i, name in enumerate(("h1", "h2", "h3")):
        assert found[name]["angle_degrees"] == pytest.approx(angle(own[i], backprop[i]), abs=1e-4)
    assert found["h1"]["angle_degrees"] > 5  # which the oracle's formula, and not rounding, gives
    assert found["output"]["angle_degrees"] == pytest.approx(0, abs=1e-6)
    for i, name in enumerate(("h1", "h2")):
        before, after = ((x - targets[i + 1]).norm(dim=-1) for x in (states[i + 1], oracle.f(i + 1, targets[i])))
        assert found[name]["target_lowers_loss"] == pytest.approx((after < before).double().mean().item())
        assert found[name]["target_moves"] == pytest.approx((targets[i] != states[i]).any(-1).double().mean().item())
        error = (oracle.g(i, states[i + 1]) - states[i]).norm() / states[i].norm()
        assert found[name]["reconstruction_error"] == pytest.approx(error.item(), rel=1e-6)
    losses = [
        torch.nn.functional.cross_entropy(oracle.f(3, x), labels, reduction="none") for x in (states[2], targets[2])
    ]
    assert found["h3"]["target_lowers_loss"] == pytest.approx((losses[1] < losses[0]).double().mean().item())
    assert "reconstruction_error" not in found["h3"] and "target_moves" not in found["output"]


def test_spectra_are_those_of_autograds_jacobians(net, samples):
    found = diagnose(net, DTP(target_step=0.3), samples, CLASSIFY)
    oracle = Oracle(net, discrete=False)
    states = oracle.states(torch.tensor(samples.stored, dtype=torch.float64))
    for i, name in enumerate(("h1", "h2")):
        largest, moduli = [], []
        for sample in range(SPECTRUM_SAMPLES):
            j_f = torch.func.jacrev(lambda x, i=i: oracle.f(i + 1, x))(states[i][sample].detach())
            j_g = torch.func.jacrev(lambda x, i=i: oracle.g(i, x))(states[i + 1][sample].detach())
            matrix = (torch.eye(len(j_f)) - j_f @ j_g).detach()
            largest.append(torch.linalg.eigvalsh(matrix.T @ matrix)[-1].sqrt().item())  # as theorem 2 has it
            moduli.append(torch.linalg.eigvals(matrix).abs().max().item())
        assert found[FLOAT][name]["largest_singular_value"] == pytest.approx(np.mean(largest))
        assert found[FLOAT][name]["spectral_radius"] == pytest.approx(np.mean(moduli))
        assert "spectral_radius" not in found[AS_TRAINED][name]


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_jacobians_are_autograds(name):
    functions = {"hard-sigmoid": lambda x: (x / 2 + 0.5).clamp(0, 1), "step": lambda x: x, "identity": lambda x: x}
    functions |= {"hard-tanh": torch.nn.functional.hardtanh, "softmax": lambda x: torch.softmax(x, -1)}
    function = functions.get(name) or getattr(torch, name)
    weight = torch.tensor(np.random.default_rng(1).standard_normal((4, 5)))
    x = torch.tensor([0.3, -0.8, 1.1, 0.2], dtype=torch.float64)
    expected = torch.func.jacrev(lambda x: function(x @ weight))(x)
    made = jacobian(ACTIVATIONS[name], function(x @ weight).numpy(), weight.numpy())
    np.testing.assert_allclose(made, expected.numpy(), atol=1e-12)


def test_spectrum_of_a_matrix_whose_spectrum_is_known():
    found = spectrum(np.array([[0.0, 2.0, 0.0], [-0.5, 0.0, 0.0], [0.0, 0.0, 0.25]]))
    assert found == pytest.approx({"spectral_radius": 1.0, "largest_singular_value": 2.0, "median_singular_value": 0.5})


def test_spectrum_of_what_is_not_finite_is_not_finite():
    assert np.isnan(list(spectrum(np.array([[np.inf, 0.0], [0.0, 1.0]])).values())).all()


@pytest.mark.parametrize("degrees", [0.0, 1e-6, 30.0, 90.0, 179.999999, 180.0])
def test_angles_are_exact_near_their_ends(degrees):
    turned = np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))])
    assert angle_degrees(np.array([3.0, 0.0]), 1e-20 * turned) == pytest.approx(degrees, rel=1e-6, abs=1e-9)


def test_angle_of_backpropagation_is_zero_and_targets_are_none(net, samples):
    for rule in (Backprop(), StraightThrough(gradient="float32")):
        for measures in diagnose(net, rule, samples, CLASSIFY).values():
            assert {name: list(row) for name, row in measures.items()} == {name: ["angle_degrees"] for name in measures}
            assert [row["angle_degrees"] for row in measures.values()] == pytest.approx([0] * 4, abs=1e-6)


def test_few_bit_gradients_turn_away_from_backpropagations(net, samples):
    ternary = StraightThrough(gradient="table(-0.05,0,0.05)")
    found = diagnose(net, ternary, samples, CLASSIFY)
    assert found[AS_TRAINED]["h1"]["angle_degrees"] > 1
    assert found[FLOAT]["h1"]["angle_degrees"] == pytest.approx(0, abs=1e-6)


def test_a_rule_that_needs_a_discrete_link_is_measured_with_it_alone(net, samples):
    found = diagnose(net, FixedLower(), samples, CLASSIFY)
    assert list(found) == [AS_TRAINED]
    assert {name: list(row) for name, row in found[AS_TRAINED].items()} == {
        "h1": [], "h2": [], "h3": ["angle_degrees"], "output": ["angle_degrees"],
    }  # fmt: skip


@pytest.mark.parametrize("rule", [TargetProp(), TargetProp(schedule="alternating-epochs"), DTP(half_noise_epoch=2)])
def test_every_call_measures_the_same_and_changes_nothing(rule, net, samples):
    before = {name: x.copy() for name, x in net.tensors().items()}
    first, second = (diagnose(net, rule, samples, CLASSIFY, epoch=4, seed=1) for _ in range(2))
    assert first == second
    assert json.loads(json.dumps(first)) == first
    for name, x in net.tensors().items():
        np.testing.assert_array_equal(x, before[name])


@pytest.mark.parametrize("name", RULES)
def test_every_rule_can_be_diagnosed(name, data):
    experiment = Comparison.load("digits").experiment(name, 0)
    net, rule, _ = experiment.built()
    found = diagnose(net, rule, data.valid, experiment.learned_task())
    assert json.loads(json.dumps(found)) == found
    rows = [row for measures in found.values() for row in measures.values()]
    assert all(0 <= row["angle_degrees"] <= 180 for row in rows if row.get("angle_degrees") is not None)
    if rule.uses_feedback_weights and isinstance(rule, TargetProp):
        assert any(row["reconstruction_error"] > 0 for row in rows if "reconstruction_error" in row)
        assert any(row["target_moves"] > 0 for row in rows if "target_moves" in row)


def test_a_zero_gradient_has_no_angle(net, samples):
    flat = net.each_named_array(lambda name, x: 0 * x if name == "output.weight" else x)
    assert diagnose(flat, DTP(), samples, CLASSIFY)[FLOAT]["h1"]["angle_degrees"] is None


# Runs


def small(rule: str, **overrides) -> Experiment:
    settings = {"sizes": [64, 8, 8, 10], "epochs": 3, "batch": 200}
    return Comparison.load("digits", **settings | overrides).experiment(rule, 0)


@pytest.fixture(scope="module")
def data():
    return load("digits")


def lines(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "diagnosis.jsonl").read_text().splitlines()]


def test_a_diagnosed_run_is_the_same_run_and_one_line_an_epoch_is_written(data, tmp_path):
    runs.run(small("dtp"), tmp_path / "plain", data)
    runs.run(small("dtp"), tmp_path / "diagnosed", data, diagnose=True)
    for name in ("network.safetensors", "ledger.json", "experiment.toml"):
        assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "diagnosed" / name).read_bytes()
    assert not (tmp_path / "plain" / "diagnosis.jsonl").exists()
    written = lines(tmp_path / "diagnosed")
    assert [line["epoch"] for line in written] == [1, 2, 3]
    net, rule, _ = small("dtp").built()
    net = Network.load(tmp_path / "diagnosed" / "network.safetensors").with_links(net.links)
    assert written[-1] == {"epoch": 3} | diagnose(net, rule, data.valid, CLASSIFY, 3)


class StoppedError(Exception):
    """Stands for whatever ends a run before its time."""


@pytest.mark.parametrize("step", [7, 13])
def test_a_run_that_goes_on_repeats_no_line(step, data, tmp_path, monkeypatch):
    runs.run(small("dtp"), tmp_path / "whole", data, diagnose=True)
    monkeypatch.setattr(runs, "CHECKPOINT_SECONDS", 0.0)

    def stop(done: int) -> None:
        if done == step:
            raise StoppedError

    with pytest.raises(StoppedError):
        runs.run(small("dtp"), tmp_path / "run", data, diagnose=True, on_step=stop)
    runs.run(small("dtp"), tmp_path / "run", data, diagnose=True)
    assert lines(tmp_path / "run") == lines(tmp_path / "whole")
    runs.run(small("dtp", epochs=4), tmp_path / "run", data, diagnose=True)
    assert [line["epoch"] for line in lines(tmp_path / "run")] == [1, 2, 3, 4]


def test_members_of_an_ensemble_are_diagnosed_each(data, tmp_path):
    experiments = [replace(small("dtp", epochs=1), seed=seed) for seed in (0, 1)]
    runs.run_ensemble(experiments, [tmp_path / "0", tmp_path / "1"], data, device="cpu", diagnose=True)
    runs.run(experiments[1], tmp_path / "alone", data, diagnose=True)
    together, alone = lines(tmp_path / "1")[0], lines(tmp_path / "alone")[0]
    assert together["float"]["h1"]["angle_degrees"] == pytest.approx(alone["float"]["h1"]["angle_degrees"], abs=0.5)
    assert together["float"] != lines(tmp_path / "0")[0]["float"]


def test_the_command_diagnoses_and_the_report_shows_it(tmp_path, monkeypatch):
    def call(*arguments: str) -> None:
        monkeypatch.setattr("sys.argv", ["lowbit-dtp", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 0

    common = ("--data", "digits", "--sizes", "64-8-8-10", "--epochs", "1", "--batch", "500", "--diagnose")
    call("train", *common, "--out", str(tmp_path / "run"))
    assert [line["epoch"] for line in lines(tmp_path / "run")] == [1]
    call("compare", *common, "--rules", "dtp,backprop", "--seeds", "1", "--no-export", "--out", str(tmp_path / "both"))
    page = (tmp_path / "both" / "report.html").read_text()
    assert 'id="diagnosis-0-reconstruction_error-desc"' in page  # of dtp
    assert 'id="diagnosis-1-angle_degrees-desc"' in page and "diagnosis-1-reconstruction_error" not in page
