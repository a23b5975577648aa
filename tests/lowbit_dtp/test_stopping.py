"""Early stopping by the validation score, and the network of the best validation epoch."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lowbit_dtp import compare, runs, storage
from lowbit_dtp.data import load
from lowbit_dtp.experiment import Comparison, Experiment, ExperimentError
from lowbit_dtp.network import Network
from lowbit_dtp.runs import network_file, run, run_ensemble
from lowbit_dtp.storage import StorageError
from lowbit_dtp.training import evaluate
from tests.lowbit_dtp.test_cli import call

EPOCHS, PATIENCE = 12, 2
BEST = "best.safetensors"


class StoppedError(Exception):
    """Stands for whatever ends a run before its time."""


@pytest.fixture(scope="module")
def data():
    return load("digits")


def comparison(patience: int | None = PATIENCE, epochs: int = EPOCHS, **more: Any) -> Comparison:
    stopping = {} if patience is None else {"stopping": {"patience": patience}}
    return Comparison.load("digits", sizes=[64, 8, 10], epochs=epochs, batch=50, optimizer={"learning_rate": 0.02},
                           **stopping, **more)  # fmt: skip


def small(patience: int | None = PATIENCE, epochs: int = EPOCHS, seed: int = 0) -> Experiment:
    return comparison(patience, epochs).experiment("backprop", seed)


def metrics(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: x for key, x in line.items() if key != "seconds"} for line in lines]


def result(folder: Path) -> dict[str, Any]:
    found = storage.read_json(folder / "run.json")
    return {key: x for key, x in found.items() if key not in ("seconds_per_epoch", "machine", "commit", "command")}


def stopping_epoch(valid: list[float], patience: int) -> int:
    """The epoch after which a run with these validation scores stops: the oracle."""
    best, waited = np.inf, 0
    for epoch, score in enumerate(valid, start=1):
        waited = 0 if score < best else waited + 1
        best = min(best, score)
        if waited == patience:
            return epoch
    return len(valid)


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A run without early stopping."""
    folder = tmp_path_factory.mktemp("whole")
    run(small(None), folder, data)
    return folder


@pytest.fixture(scope="module")
def stopped(data, tmp_path_factory):
    """The same run with early stopping, which nothing else happened to."""
    folder = tmp_path_factory.mktemp("stopped")
    run(small(), folder, data)
    return folder


def test_a_run_stops_where_its_validation_score_no_longer_improves(whole, stopped):
    valid = [line["valid_error_percent"] for line in metrics(whole)]
    last = stopping_epoch(valid, PATIENCE)
    assert len(valid) == EPOCHS and last < EPOCHS
    assert metrics(stopped) == metrics(whole)[:last]
    assert result(stopped)["epochs"] == last


@pytest.mark.parametrize("which", ["whole", "stopped"])
def test_the_network_of_the_best_epoch_is_that_of_a_run_of_so_many_epochs(which, data, tmp_path, request):
    folder = request.getfixturevalue(which)
    found, lines = result(folder), metrics(folder)
    valid = [line["valid_error_percent"] for line in lines]
    best = 1 + valid.index(min(valid))
    assert (found["best_epoch"], found["best_valid_error_percent"]) == (best, min(valid))
    assert found["best_test_error_percent"] == lines[best - 1]["test_error_percent"]
    run(small(None, best), tmp_path, data)
    wanted, _ = storage.read_tensors(tmp_path / "network.safetensors")
    kept, header = storage.read_tensors(folder / BEST)
    assert header["epoch"] == best
    assert wanted.keys() == kept.keys()
    assert [name for name in wanted if not np.array_equal(wanted[name], kept[name])] == []
    assert evaluate(Network.load(network_file(folder, best=True)), data.valid) == min(valid)
    assert network_file(folder) == folder / "network.safetensors"


@pytest.mark.parametrize("lost", ["", BEST])
def test_a_run_that_is_stopped_at_any_checkpoint_ends_as_uninterrupted(lost, stopped, data, tmp_path, monkeypatch):
    writes, stop_at, original = 0, 0, storage.write_tensors

    def write(path: Path, *content: Any) -> None:
        nonlocal writes
        original(path, *content)
        writes += 1
        if writes == stop_at:
            raise StoppedError

    for module in ("checkpoint", "network"):
        monkeypatch.setattr(f"lowbit_dtp.{module}.write_tensors", write)
    monkeypatch.setattr(runs, "CHECKPOINT_SECONDS", 0.0)
    for stop_at in (3, 4, 5, 6, 9):  # noqa: B007 (`write` reads it)
        writes = 0
        with pytest.raises(StoppedError):
            run(small(), tmp_path, data)
        if lost:
            (tmp_path / lost).unlink(missing_ok=True)
    stop_at = 0
    run(small(), tmp_path, data)
    assert result(tmp_path) == result(stopped)
    assert metrics(tmp_path) == metrics(stopped)
    for name in ("network.safetensors", "ledger.json"):
        assert (tmp_path / name).read_bytes() == (stopped / name).read_bytes()
    if not lost or (tmp_path / BEST).exists():  # a later epoch may be the best
        assert (tmp_path / BEST).read_bytes() == (stopped / BEST).read_bytes()


def test_a_network_that_is_not_of_the_best_epoch_is_not_kept(data, tmp_path):
    def stop(done: int) -> None:
        if done == 2 * -(-len(data.train) // 50) + 1:
            raise StoppedError

    with pytest.raises(StoppedError):
        run(small(epochs=3), tmp_path, data, on_step=stop)
    Network.load(tmp_path / BEST).save(tmp_path / BEST, epoch=99)  # as of a part that was computed elsewhere, and lost
    (tmp_path / "experiment.toml").unlink()
    run(small(epochs=2), tmp_path, data)
    assert not (tmp_path / BEST).exists()
    message = f"{tmp_path / BEST}: no such file: the run has no epochs, or is of a version that did not keep it"
    with pytest.raises(StorageError, match=f"^{re.escape(message)}$"):
        network_file(tmp_path, best=True)


def test_a_run_that_stopped_early_stays_as_it_is_with_more_epochs(data, tmp_path):
    run(small(), tmp_path, data)
    before = result(tmp_path), metrics(tmp_path), (tmp_path / BEST).read_bytes()
    run(small(epochs=2 * EPOCHS), tmp_path, data)
    assert (result(tmp_path), metrics(tmp_path), (tmp_path / BEST).read_bytes()) == before


def test_members_of_an_ensemble_stop_each_in_their_time(data, tmp_path):
    pytest.importorskip("torch", reason="torch is not installed")
    seeds = range(4)
    folders = [tmp_path / str(seed) for seed in seeds]
    run_ensemble([small(seed=seed) for seed in seeds], folders, data, device="cpu")
    lengths = []
    for folder in folders:
        lines = metrics(folder)
        valid = [line["valid_error_percent"] for line in lines]
        assert len(lines) == stopping_epoch(valid, PATIENCE) == result(folder)["epochs"]
        _, header = storage.read_tensors(folder / BEST)
        assert header["epoch"] == result(folder)["best_epoch"] == 1 + valid.index(min(valid))
        kept = Network.load(folder / BEST).on("cpu")
        assert evaluate(kept, data.valid.on("cpu")) == pytest.approx(min(valid), abs=0.5)  # a sum rounds otherwise
        lengths.append(len(lines))
    assert len(set(lengths)) > 1, "the seeds are no test of anything"


def test_rows_have_the_score_of_the_best_networks(tmp_path):
    summary = compare(comparison(seeds=2, compare=["backprop"]), tmp_path, technologies=["7nm"], export=False)
    each = [result(tmp_path / "backprop" / f"seed-{seed}")["best_test_error_percent"] for seed in range(2)]
    assert summary.rows[0].best_test_score.mean == pytest.approx(np.mean(each))
    assert type(summary).load(tmp_path) == summary


def test_command_stops_and_reads_the_best_network(tmp_path):
    line = ("train", "--data", "digits", "--sizes", "64-8-10", "--rule", "backprop", "--epochs", EPOCHS)
    line += ("--batch", 50, "--learning-rate", 0.02, "--json")
    one, other = (
        json.loads(call(*line, *option, "--out", tmp_path / name).out)
        for name, option in (("a", ("--patience", PATIENCE)), ("b", ("--set", f"stopping.patience={PATIENCE}")))
    )
    assert one["best_epoch"] == other["best_epoch"] < EPOCHS
    assert "[stopping]\npatience = 2\n" in (tmp_path / "a" / "experiment.toml").read_text()
    for part in ("valid", "test"):
        [row] = json.loads(call("evaluate", tmp_path / "a", "--best", "--part", part, "--json").out)
        assert row["error_percent"] == one[f"best_{part}_error_percent"]
    said = call("export", tmp_path / "a", "--best", "--target", "mem", "--out", tmp_path / "export", "--json")
    float_percent = json.loads(said.out)["test_error_percent_float"]
    assert float_percent == pytest.approx(one["best_test_error_percent"])
    (tmp_path / "a" / BEST).unlink()
    said = call("evaluate", tmp_path / "a", "--best")
    assert (said.status, said.err) == (
        2,
        f"lowbit-dtp: {tmp_path / 'a' / BEST}: no such file: the run has no epochs, or is of a version that did not "
        "keep it\n",
    )


@pytest.mark.parametrize(
    ("stopping", "message"),
    [
        ({"patience": 0}, "stopping.patience must be 1 epoch or more, not 0"),
        ({"patience": 1.5}, "stopping.patience must be a whole number, not 1.5"),
        ({"patients": 1}, "stopping: no key 'patients'; there are: patience"),
    ],
)
def test_stopping_that_makes_no_sense_is_refused(stopping, message, tmp_path):
    with pytest.raises(ExperimentError, match=f"^{re.escape(message)}$"):
        Comparison.load("digits", stopping=stopping).experiment("backprop", 0)
    storage.write_text(tmp_path / "mine.toml", "[stopping]\n" + "".join(f"{k} = {v}\n" for k, v in stopping.items()))
    with pytest.raises(ExperimentError, match=f"^{re.escape(f'{tmp_path}/mine.toml: {message}')}$"):
        Comparison.load("digits", tmp_path / "mine.toml")
