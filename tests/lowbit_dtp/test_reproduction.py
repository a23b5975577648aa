"""Experiments of the thesis, trained again on a few samples: what is told beside what was published."""

import json
import re

import numpy as np
import pytest
from typer.testing import CliRunner

from lowbit_dtp import data
from lowbit_dtp.cli import app
from lowbit_dtp.data import DataSet
from lowbit_dtp.experiment import Comparison, Experiment
from lowbit_dtp.formats import parse
from lowbit_dtp.reproduction import NAMES, full_scale, reproduce
from lowbit_dtp.storage import read_tensors

PUBLISHED = {
    "fig3.2": {("dtp", "test error"): 1.94, ("backprop", "test error"): 1.86,
               ("dtp", "training cost"): 4.584e-5, ("backprop", "training cost"): 1.797e-5},
    "fig3.2-relu": {("dtp", "test error"): 3.15, ("backprop", "test error"): 1.62},
    "cifar10": {("dtp", "test accuracy"): 50.71, ("backprop", "test accuracy"): 53.72},
    "fig3.3": {("fixed-lower", "training error"): 0.0},
    "table3.1": {("stochastic-dtp", "test error"): 1.54, ("stochastic-straight-through", "test error"): 1.71},
    "fig3.4": {("backprop", "test error"): 1.35},
}  # fmt: skip
"""Every number in sections 3.3.1 to 3.3.4 of the thesis, by rule and quantity."""
FULL = {
    "fig3.2": (100, 10), "fig3.2-relu": (100, 10), "cifar10": (100, 10), "fig3.3": (500, 10), "table3.1": (1000, 10),
    "fig3.4": (20, 10),
}  # fmt: skip


@pytest.fixture
def few(monkeypatch) -> DataSet:
    """A data set of 784 inputs that takes the place of MNIST."""
    draw = np.random.default_rng(0)
    labels = np.arange(70) % 10
    centres = draw.integers(0, 256, (10, 784))
    images = np.clip(centres[labels] + draw.normal(0, 60, (70, 784)), 0, 255).astype(np.uint8)
    parts = [(images[a:b], labels[a:b]) for a, b in ((0, 40), (40, 50), (50, 70))]
    samples = [data.Samples(x, y, parse("ufixed(8,0)")) for x, y in parts]
    few = DataSet("mnist", *samples, 10, samples[0].format, (28, 28), "drawn at random")
    monkeypatch.setattr(data, "load", lambda name, folder=None: few)
    return few


@pytest.mark.parametrize("name", NAMES)
def test_what_is_published(name):
    published = Comparison.load(name).published
    assert {(x.rule, x.quantity): x.value for x in published if x.value is not None} == PUBLISHED[name]
    assert all("D.-H. Lee" in x.source and (x.value is not None or x.note) and x.std is None for x in published)
    assert tuple(full_scale(name).values()) == FULL[name]
    assert "published" not in Comparison.load(name).content


def forward(tensors, inputs):
    """Outputs of the network of figure 3.3, in NumPy."""
    h1 = np.tanh(inputs @ tensors["h1.weight"] + tensors["h1.bias"])
    h2 = np.tanh(np.where(h1 >= 0, 1, -1) @ tensors["h2.weight"] + tensors["h2.bias"])
    return h2 @ tensors["output.weight"] + tensors["output.bias"]


def test_measured_beside_published(few, tmp_path):
    folder = tmp_path / "out"
    made = reproduce("fig3.3", folder, epochs=2, seeds=1, technologies=["45nm"])
    assert made.scale == "2 of 500 epochs, 1 of 10 seeds"
    rules = ["dtp", "straight-through", "fixed-lower", "backprop-then-sign"]
    assert [row.rule for row in made.rows] == rules
    assert [(line.rule, line.published.quantity) for line in made.lines] == [
        *((rule, f"{part} error") for rule in rules[:3] for part in ("training", "test")), (rules[3], "test error"),
    ]  # fmt: skip
    for line in made.lines:
        run = folder / line.rule / "seed-0"
        metrics = [json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()]
        if line.published.quantity == "test error":
            assert line.measured.mean == metrics[-1]["test_error_percent"]
            best = min(metrics, key=lambda line: line["valid_error_percent"])
            assert line.chosen.mean == best["test_error_percent"]
        else:
            assert line.measured.mean == metrics[-1]["train_error_percent"]
            outputs = forward(read_tensors(run / "network.safetensors")[0], few.train.inputs)
            error = 100 * np.mean(outputs.argmax(-1) != few.train.labels)
            assert line.measured.mean == pytest.approx(error) and line.chosen is None
    page = (folder / "reproduction.html").read_text()
    text = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    assert "Scaled down: 2 of 500 epochs, 1 of 10 seeds. Data: mnist, from drawn at random." in text
    assert "fixed-lower training error 0.00\u00a0%" in page.replace("</th><td>", " ").replace(
        '</td><td class="words">', " "
    )
    assert "backprop-then-sign test error nothing published" in text
    assert "dtp training error in words: &#39;the training error did approach zero&#39; 10 seeds, 500 epochs" in text
    for title in ("Training cost", "Test error", "Validation error", "Training error"):
        assert f"<figcaption>{title}</figcaption>" in page
    assert json.loads((folder / "reproduction.json").read_text())["scale"] == made.scale


def test_a_classifier_begins_with_the_filters_of_its_seed(few, tmp_path):
    result = CliRunner().invoke(
        app, ["reproduce", "fig3.4", "--epochs", "1", "--seeds", "2", "--jobs", "1", "--out", str(tmp_path), "--json"],
        catch_exceptions=False,
    )  # fmt: skip
    made = json.loads(result.stdout)
    assert made["scale"] == "1 of 20 epochs, 2 of 10 seeds"
    filters, tuned = made["lines"]
    assert (filters["published"]["quantity"], filters["measured"]) == ("filters", None)
    assert tuned["rule"] == "backprop after dtp-autoencoder" and tuned["published"]["value"] == 1.35
    for seed in range(2):
        run = tmp_path / "backprop_after_dtp-autoencoder" / f"seed-{seed}"
        start = tmp_path / "dtp-autoencoder" / f"seed-{seed}"
        assert Experiment.load(run / "experiment.toml").start == str(start)
    page = (tmp_path / "reproduction.html").read_text()
    assert "to the first 100 of 1000 hidden neurons" in page and 'src="data:image/png;base64,' in page


def test_a_name_without_published_results(tmp_path):
    with pytest.raises(ValueError) as error:
        reproduce("mnist", tmp_path)
    known = "cifar10, fig3.2, fig3.2-relu, fig3.3, fig3.4, table3.1"
    assert str(error.value) == f"no experiment with published results 'mnist'; there are: {known}"
