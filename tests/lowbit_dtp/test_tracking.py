"""Curves as comma-separated values, and logs with MLflow."""

import csv
import json
from pathlib import Path

import pytest

from lowbit_dtp import Comparison, compare
from lowbit_dtp.runs import curves
from lowbit_dtp.storage import read_json
from tests.lowbit_dtp.test_cli import call

SMALL = ("--data", "digits", "--sizes", "64-8-10", "--epochs", 2, "--batch", 200)


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_curves_of_a_comparison_are_a_row_for_each_rule_seed_and_epoch(tmp_path):
    rules, measures = ["backprop", "vector-quantization"], ["error_percent", "squared_error"]
    comparison = Comparison.load("digits", epochs=2, seeds=2, compare=rules)
    compare(comparison, tmp_path, technologies=["7nm"], export=False)
    with (tmp_path / "curves.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["rule"], row["seed"], row["epoch"]) for row in rows] == [
        (rule, str(seed), str(epoch)) for rule in rules for seed in range(2) for epoch in (1, 2)
    ]
    for row in rows:
        line = lines(tmp_path / row["rule"] / f"seed-{row['seed']}")[int(row["epoch"]) - 1]
        given = {name: "" if value is None else str(value) for name, value in line.items()}
        assert {name: row[name] for name in line} == given
        other = measures[1 - rules.index(row["rule"])]
        assert (row[f"valid_{other}"], row[f"test_{other}"]) == ("", "")


def test_numbers_of_links_have_columns_of_their_own(tmp_path):
    line = ("train", *SMALL, "--rule", "straight-through", "--gradient", "ternary*0.05", "--link", "h1-h2=binary")
    said = call(*line, "--sizes", "64-8-8-10", "--codings", "all", "--out", tmp_path)
    assert said.status == 0, said.err
    rows = curves(tmp_path)
    assert [row["zeros.h1-h2"] for row in rows] == [line["zeros"]["h1-h2"] for line in lines(tmp_path)]
    assert "zeros" not in rows[0]


def test_a_run_without_metrics_is_left_out_of_the_curves(tmp_path):
    assert call("train", *SMALL, "--rule", "backprop", "--out", tmp_path).status == 0
    assert len((tmp_path / "curves.csv").read_text().splitlines()) == 3
    (tmp_path / "metrics.jsonl").unlink()
    message = f"{tmp_path}/metrics.jsonl: missing or broken, so the curves leave it out"
    with pytest.warns(UserWarning, match=f"^{message}$"):
        assert curves(tmp_path) == []


def test_runs_are_logged_with_mlflow_and_go_on_as_the_same(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path}/store")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    line = ("train", *SMALL, "--rule", "backprop", "--learning-rate", 0.00217, "--mlflow", "--out", tmp_path / "run")
    assert call(*line).status == 0
    (tmp_path / "run" / "run.json").unlink()  # as if the run had been stopped
    assert call(*line).status == 0
    client = mlflow.MlflowClient()
    [experiment] = [x for x in client.search_experiments() if x.name == "lowbit-dtp"]
    [run] = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("backprop seed 0", "FINISHED")
    assert run.data.params["optimizer.learning_rate"] == "0.00217"
    assert run.data.params["sizes"] == "[64, 8, 10]"
    for name in ("test_error_percent", "valid_error_percent", "train_loss", "feedback_bits"):
        logged = [(x.step, x.value) for x in client.get_metric_history(run.info.run_id, name)]
        assert logged == [(line["epoch"], pytest.approx(line[name])) for line in lines(tmp_path / "run")]
    links = json.loads(call(*line[:-3], "--out", tmp_path / "run", "--json").out)["links"]
    for link, row in links.items():
        for way in ("forward", "feedback"):
            assert run.data.metrics.get(f"bits_per_sample.{link}.{way}", 0) == row[way]["bits_per_sample"]
    assert run.data.metrics["test_error_percent"] == read_json(tmp_path / "run" / "run.json")["test_error_percent"]


def test_mlflow_without_a_place_is_refused(tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="MLflow is not installed")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    said = call("train", *SMALL, "--mlflow", "--out", tmp_path / "run")
    message = "lowbit-dtp: --mlflow needs MLFLOW_TRACKING_URI in the environment: http://HOST:5000 say"
    assert (said.status, said.err.splitlines()[-1]) == (2, message)
