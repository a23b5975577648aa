"""Experiments and run folders: what is read, what is invalid, and that a run that was stopped ends as if it was not."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest

from lowbit_dtp import runs, storage
from lowbit_dtp.data import load
from lowbit_dtp.experiment import Comparison, Experiment, ExperimentError
from lowbit_dtp.runs import folder_name, run, run_folders
from lowbit_dtp.storage import StorageError

EPOCHS, STEPS_AN_EPOCH = 2, 6
WRITES = 7
"""Whole files a run writes: experiment, metrics, a checkpoint an epoch, network, ledger, run."""
RULES = ("dtp", "straight-through@fixed(4,-2)")


class StoppedError(Exception):
    """Stands for whatever ends a run before its time."""


@pytest.fixture(scope="module")
def data():
    return load("digits")


def small(rule: str = "dtp", seed: int = 0, **overrides) -> Experiment:
    return Comparison.load(
        "digits", **{"sizes": [64, 8, 8, 10], "epochs": EPOCHS, "batch": 200} | overrides
    ).experiment(rule, seed)


@pytest.fixture(scope="module")
def uninterrupted(data, tmp_path_factory):
    """Run folders of `RULES` that nothing happened to."""
    folders = {rule: tmp_path_factory.mktemp("whole") / "run" for rule in RULES}
    for rule, folder in folders.items():
        run(small(rule), folder, data)
    return folders


def metrics(folder: Path) -> list[dict]:
    """Lines of `metrics.jsonl`, but for the time they took."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        assert line.pop("seconds") > 0
    return lines


def assert_same_run(one: Path, other: Path) -> None:
    assert sorted(p.name for p in one.iterdir()) == sorted(p.name for p in other.iterdir())
    for name in ("network.safetensors", "ledger.json", "experiment.toml"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    assert metrics(one) == metrics(other)


def test_run_folder_holds_its_files_and_no_checkpoint(uninterrupted):
    files = sorted(p.name for p in uninterrupted["dtp"].iterdir())
    assert files == ["experiment.toml", "ledger.json", "metrics.jsonl", "network.safetensors", "run.json"]
    assert [line["epoch"] for line in metrics(uninterrupted["dtp"])] == [1, 2]
    assert Experiment.load(uninterrupted["dtp"] / "experiment.toml") == small()


@pytest.mark.parametrize("rule", RULES)
def test_every_layer_learns_whichever_way_its_weights_are_longer(rule, data, tmp_path):
    experiment = small(rule, sizes=[64, 70, 80, 10], epochs=1)
    untrained = experiment.network().tensors()
    run(experiment, tmp_path, data)
    trained, _ = storage.read_tensors(tmp_path / "network.safetensors")
    names = [x for x in trained if x.endswith("weight") or (rule == "dtp" and "feedback" in x)]
    assert [x for x in names if (trained[x] == untrained[x]).all()] == []


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("step", [1, 4, STEPS_AN_EPOCH, STEPS_AN_EPOCH + 1, EPOCHS * STEPS_AN_EPOCH])
def test_run_stopped_at_a_step_ends_as_uninterrupted(rule, step, uninterrupted, data, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "CHECKPOINT_SECONDS", 0.0)
    reached = []

    def stop(done: int) -> None:
        reached.append(done)
        if done == step:
            raise StoppedError

    with pytest.raises(StoppedError):
        run(small(rule), tmp_path / "run", data, on_step=stop)
    assert (tmp_path / "run" / "checkpoint.safetensors").exists() == (step > 1)
    run(small(rule), tmp_path / "run", data, on_step=reached.append)
    assert reached == [*range(1, step + 1), *range(step, EPOCHS * STEPS_AN_EPOCH + 1)]
    assert_same_run(tmp_path / "run", uninterrupted[rule])


@pytest.mark.parametrize("write", range(WRITES))
def test_full_disk_loses_nothing_finished(write, uninterrupted, data, tmp_path, monkeypatch):
    writes = []

    def fsync(handle: int) -> None:
        writes.append(handle)
        if len(writes) == write + 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(storage.os, "fsync", fsync)
    with pytest.raises(OSError, match="No space left on device"):
        run(small(), tmp_path / "run", data)
    there = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}
    assert not [name for name in there if name.startswith(".")]
    assert ("checkpoint.safetensors" in there) == (write > 2)
    assert "run.json" not in there
    run(small(), tmp_path / "run", data)
    assert len(writes) >= WRITES
    assert_same_run(tmp_path / "run", uninterrupted["dtp"])


def test_line_cut_short_in_metrics_is_mended(uninterrupted, data, tmp_path):
    def stop(done: int) -> None:
        if done == STEPS_AN_EPOCH + 2:
            raise StoppedError

    with pytest.raises(StoppedError):
        run(small(), tmp_path / "run", data, on_step=stop)
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 2, "train_l')
    run(small(), tmp_path / "run", data)
    assert_same_run(tmp_path / "run", uninterrupted["dtp"])


def test_finished_run_is_left_as_it_is(uninterrupted, data):
    folder = uninterrupted["dtp"]
    before = {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.iterdir()}
    run(small(), folder, data, on_step=lambda done: pytest.fail("trained again"))
    assert {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (small(epochs=3), "epochs = 2, not 3"),
        (small("straight-through"), "rule = 'dtp', not 'straight-through'"),
        (small(seed=1), "seed = 0, not 1"),
        (small(batch=100), "batch = 200, not 100"),
    ],
)
def test_folder_of_another_experiment_is_refused(other, said, uninterrupted, data):
    folder = uninterrupted["dtp"]
    with pytest.raises(ExperimentError) as error:
        run(other, folder, data)
    assert str(error.value) == f"{folder}: holds a run with {said}; choose another folder, or remove this one"


def test_newer_run_is_refused_by_name(data, tmp_path):
    run(small(), tmp_path, data)
    path = tmp_path / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": storage.FORMAT_VERSION + 1}))
    message = (
        f"{path}: format version {storage.FORMAT_VERSION + 1} is newer than {storage.FORMAT_VERSION}, the newest this "
        "program reads; upgrade lowbit-dtp"
    )
    for use in (lambda: run(small(), tmp_path, data), lambda: run_folders(tmp_path)):
        with pytest.raises(StorageError) as error:
            use()
        assert str(error.value) == message


@pytest.mark.parametrize("field", ["epochs", "batch", "seed"])
def test_numbers_are_checked_where_an_experiment_is_made(field):
    known = {"data": "digits", "sizes": [64, 10], "rule": "dtp", "epochs": 1, "batch": 1, "seed": 0}
    for wrong in (-1, 1.5, True, "2"):
        with pytest.raises(ExperimentError) as error:
            Experiment(**known | {field: wrong})
        least = 1 if field == "batch" else 0
        assert str(error.value) == f"{field} must be a whole number, {least} or more, not {wrong!r}"


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ([63, 8, 8, 10], "sizes: digits has 64 inputs, not 63"),
        ([64, 8, 8, 9], "sizes: digits has 10 classes, so 9 outputs are few"),
    ],
)
def test_network_must_fit_the_data(sizes, message, data, tmp_path):
    with pytest.raises(ExperimentError) as error:
        run(small(sizes=sizes), tmp_path / "run", data)
    assert str(error.value) == message
    assert not (tmp_path / "run").exists()


def test_options_go_before_the_file_and_the_file_before_the_data_set(tmp_path):
    config = tmp_path / "mine.toml"
    config.write_text(
        'epochs = 7\nbatch = 25\nlinks.h1-h2.forward = "ternary"\nrules.dtp.noise = 0.25\n'
        '[rules.straight-through]\ngradient = "fixed(6,1)"\n'
    )
    comparison = Comparison.load("digits", config, epochs=9)
    dtp, through = comparison.experiment("dtp", 0), comparison.experiment("straight-through", 0)
    assert (dtp.epochs, dtp.batch, dtp.sizes) == (9, 25, [64, 100, 100, 10])
    assert dtp.links["h1-h2"] == {"forward": "ternary", "feedback": "binary"}
    assert dtp.settings == Comparison.load("digits").experiment("dtp", 0).settings | {"noise": 0.25}
    assert through.settings == {"gradient": "fixed(6,1)"}
    assert comparison.experiment("straight-through@binary", 0).settings == {"gradient": "binary"}


def test_data_of_ones_own_is_found_from_the_folder_of_its_file_and_trained_on(tmp_path, monkeypatch):
    draw = np.random.default_rng(0)
    (tmp_path / "inside").mkdir()
    path = tmp_path / "inside" / "mine.npz"
    np.savez(path, inputs=draw.random((60, 7)), labels=np.arange(60) % 3, split=[40, 10, 10])
    config = tmp_path / "inside" / "mine.toml"
    config.write_text('data = "mine.npz"\nepochs = 2\n')
    monkeypatch.chdir(tmp_path)
    for comparison in (Comparison.load(config=config), Comparison.load("inside/mine.npz", epochs=2)):
        assert comparison.content["data"] == str(path) and comparison.content["links"] == {}
        assert (comparison.content["sizes"], comparison.placement) == ([7, 100, 100, 3], "")
        for rule in comparison.rules:
            experiment = comparison.experiment(rule, 0)
            net, _, _ = experiment.built()
            assert {x.forward.name for x in net.links} == {"float32"}
            experiment.check_sizes(load(experiment.data))
    run(experiment, tmp_path / "run", load(experiment.data))
    monkeypatch.chdir("/")
    assert len(load(Experiment.load(tmp_path / "run" / "experiment.toml").data).train) == 40


def test_links_of_the_data_sets_network_do_not_outlive_it():
    assert set(Comparison.load("digits", sizes=[64, 10]).content["links"]) == set()
    own = Comparison.load("digits", sizes=[64, 10], links={"h1-h2": {"forward": "binary"}})
    with pytest.raises(ExperimentError) as error:
        own.experiment("dtp", 0).network()
    assert str(error.value) == "links: no link 'h1-h2' in a network 64-10; there are: input-output"


def test_runs_are_found_by_rule_and_seed(data, tmp_path):
    for seed in (0, 1):
        run(small(seed=seed, epochs=0), tmp_path / "dtp" / f"seed-{seed}", data)
    storage.write_json(tmp_path / "summary.json", {"rows": [{"rule": "dtp", "folder": folder_name("dtp")}]})
    paths = [tmp_path / "dtp" / f"seed-{seed}" for seed in (0, 1)]
    assert run_folders(tmp_path) == [("dtp", 0, paths[0]), ("dtp", 1, paths[1])]
    assert run_folders(tmp_path, "dtp", 1) == [("dtp", 1, paths[1])]
    assert run_folders(paths[1]) == [("dtp", 1, paths[1])]
    with pytest.raises(StorageError) as error:
        run_folders(tmp_path, "dtp", 2)
    assert str(error.value) == f"{tmp_path}: no run with rule dtp and seed 2; there are: dtp seed 0, dtp seed 1"
