"""Experiments and run folders: reading, errors, and stopped runs that give the same result as uninterrupted ones."""

import errno
import json
import math
import os
import subprocess
import sys
from dataclasses import asdict, replace
from importlib import resources
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tomli_w

from lowbit_dtp import runs, storage
from lowbit_dtp.activations import ACTIVATIONS
from lowbit_dtp.data import SOURCES, Samples, load
from lowbit_dtp.experiment import Comparison, Experiment, ExperimentError
from lowbit_dtp.optimizers import OPTIMIZERS
from lowbit_dtp.rules import RULES as ALL_RULES
from lowbit_dtp.runs import folder_name, run, run_folders
from lowbit_dtp.storage import StorageError
from lowbit_dtp.training import fit

EPOCHS, STEPS_AN_EPOCH = 2, 6
WRITES = 9
"""Whole files a run writes: experiment, metrics, an epoch the best network and a checkpoint, network, ledger, run."""
BINARY = {"h1-h2": {"forward": "binary", "feedback": "binary"}}
RULES = ("dtp", "straight-through@fixed(4,-2)")


class StoppedError(Exception):
    """Stands for whatever ends a run before its time."""


@pytest.fixture(scope="module")
def data():
    return load("digits")


OLD_RULE = {"target_step": 0.176, "noise": 0.5, "learning_rate": 1.16e-3, "feedback_learning_rate": 2.01e-4}
"""Settings of DTP in version 0.1.0."""


def small(rule: str = "dtp", seed: int = 0, **overrides) -> Experiment:
    settings = {"sizes": [64, 8, 8, 10], "epochs": EPOCHS, "batch": 200, "links": BINARY, "rules": {"dtp": OLD_RULE}}
    return Comparison.load("digits", **settings | overrides).experiment(rule, seed)


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


def test_run_folder_holds_its_files_and_the_last_checkpoint(uninterrupted):
    folder = uninterrupted["dtp"]
    files = [
        "best.safetensors",
        "checkpoint.safetensors",
        "experiment.toml",
        "ledger.json",
        "metrics.jsonl",
        "network.safetensors",
    ]
    assert sorted(p.name for p in folder.iterdir()) == [*files, "run.json"]
    checkpoint, description = storage.read_tensors(folder / "checkpoint.safetensors")
    network, _ = storage.read_tensors(folder / "network.safetensors")
    assert description["progress"]["step"] == EPOCHS * STEPS_AN_EPOCH
    assert [x for x in network if (checkpoint[f"network.{x}"] != network[x]).any()] == []
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
    with pytest.raises(OSError, match=rf"^\[Errno 28\] No space left on device: '{tmp_path}/run/[a-z]+\.[a-z]+'$"):
        run(small(), tmp_path / "run", data)
    there = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}
    assert not [name for name in there if name.startswith(".")]
    assert ("checkpoint.safetensors" in there) == (write > 3)
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


def test_links_of_the_data_sets_network_do_not_outlive_it(tmp_path):
    inputs = {"input-h1": {"forward": "ufixed(5,1)"}}
    assert Comparison.load("digits", sizes=[64, 8, 8, 10]).content["links"] == inputs
    assert Comparison.load("digits", sizes=[64, 100, 100, 10]).content["links"] == inputs | BINARY
    assert Comparison.load("digits", sizes=[63, 8, 8, 10]).content["links"] == {}
    for given in ({"h1-h2": {"feedback": "ternary"}}, {"input-h1": {"feedback": "binary"}}):
        config = tmp_path / "mine.toml"
        ((name, formats),) = given.items()
        ((way, text),) = formats.items()
        config.write_text(f'sizes = [64, 8, 8, 10]\nlinks.{name}.{way} = "{text}"\n')
        links = Comparison.load("digits", config).content["links"]
        assert links == inputs | {name: inputs.get(name, {}) | formats}
        assert links == Comparison.load("digits", sizes=[64, 8, 8, 10], links=given).content["links"]
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


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("steps", [[1, 3], [0, 1, 3]], ids=str)
def test_a_finished_run_goes_on_to_more_epochs_as_if_it_had_had_them(rule, steps, data, tmp_path):
    run(small(rule, epochs=3), tmp_path / "whole", data)
    for epochs in steps:
        run(small(rule, epochs=epochs), tmp_path / "run", data)
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    results = [storage.read_json(tmp_path / name / "run.json") for name in ("run", "whole")]
    assert [r["parts"] for r in results] == [[{"device": "cpu", "members": 1, "to_step": 3 * STEPS_AN_EPOCH}]] * 2
    assert results[0]["test_error_percent"] == results[1]["test_error_percent"]


@pytest.mark.parametrize("step", [1, STEPS_AN_EPOCH, STEPS_AN_EPOCH + 1])
def test_a_run_that_goes_on_may_be_stopped_again(step, data, tmp_path):
    def stop(done: int) -> None:
        if done == STEPS_AN_EPOCH + step:
            raise StoppedError

    run(small(epochs=3), tmp_path / "whole", data)
    run(small(epochs=1), tmp_path / "run", data)
    with pytest.raises(StoppedError):
        run(small(epochs=3), tmp_path / "run", data, on_step=stop)
    assert not (tmp_path / "run" / "run.json").exists()
    run(small(epochs=3), tmp_path / "run", data)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize(("stopped", "epochs"), [("experiment.toml", 1), ("metrics.jsonl", 3)])
def test_a_run_stopped_as_it_begins_to_go_on_loses_nothing(stopped, epochs, data, tmp_path, monkeypatch):
    run(small(epochs=3), tmp_path / "whole", data)
    run(small(epochs=1), tmp_path / "run", data)
    with monkeypatch.context() as patch:

        def stop(path: Path, text: str) -> None:
            if path.name == stopped:
                raise StoppedError
            storage.write_text(path, text)

        patch.setattr(runs, "write_text", stop)
        with pytest.raises(StoppedError):
            run(small(epochs=3), tmp_path / "run", data)
    assert Experiment.load(tmp_path / "run" / "experiment.toml").epochs == epochs
    run(small(epochs=3), tmp_path / "run", data)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_fewer_epochs_than_are_done_are_refused(uninterrupted, data, tmp_path):
    folder = uninterrupted["dtp"]
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with pytest.raises(ExperimentError) as error:
        run(small(epochs=1), folder, data)
    wanted = "give as many or more, or choose another folder"
    assert str(error.value) == f"{folder}: has done 2 epochs, more than 1; {wanted}"
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before

    def stop(done: int) -> None:
        if done == STEPS_AN_EPOCH + 2:
            raise StoppedError

    with pytest.MonkeyPatch.context() as patch, pytest.raises(StoppedError):
        patch.setattr(runs, "CHECKPOINT_SECONDS", 0.0)
        run(small(epochs=3), tmp_path, data, on_step=stop)
    with pytest.raises(ExperimentError) as error:
        run(small(epochs=1), tmp_path, data)
    assert str(error.value) == f"{tmp_path}: has done 1 epochs and a part, more than 1; {wanted}"
    run(small(epochs=2), tmp_path, data)
    assert_same_run(tmp_path, folder)


OLD = """
data = "digits"
sizes = [64, 8, 8, 10]
rule = "dtp"
epochs = 2
batch = 200
seed = 0
activation = "tanh"
[links.input-h1]
forward = "ufixed(5,1)"
[links.h1-h2]
forward = "binary"
feedback = "binary"
[settings]
target_step = 0.176
noise = 0.5
noise_half_life = 50
[optimizer]
name = "rmsprop"
learning_rate = 0.00116
feedback_learning_rate = 0.000201
"""
"""What version 0.1.0 wrote for `small()`."""


def test_a_run_of_version_0_1_0_is_the_same_run(uninterrupted, data, tmp_path):
    for name in ("network.safetensors", "ledger.json", "metrics.jsonl", "run.json"):
        (tmp_path / name).write_bytes((uninterrupted["dtp"] / name).read_bytes())
    (tmp_path / "experiment.toml").write_text(OLD)
    run(small(), tmp_path, data, on_step=lambda done: pytest.fail("trained again"))
    assert (tmp_path / "experiment.toml").read_text() == OLD
    with pytest.raises(ExperimentError) as error:  # that version removed the checkpoint
        run(small(epochs=3), tmp_path, data)
    assert str(error.value) == (
        f"{tmp_path}: is finished and has no checkpoint.safetensors to continue from; "
        "train 3 epochs in another folder, or remove this one"
    )


# --- the experiment files of the package --------------------------------------------------------------------------

FILES = sorted(p.name.removesuffix(".toml") for p in (resources.files("lowbit_dtp") / "experiments").iterdir())
COMPARED = [(file, rule) for file in FILES for rule in Comparison.load(file).rules]
PUBLISHED = {"digits": (64, 10), "mnist": (784, 10), "fashion-mnist": (784, 10), "cifar10": (3072, 10)}
"""Inputs and classes of each data set."""
LARGE = 2_000_000
"""Weights from which on a network is built, but not trained."""


def weights_of(experiment: Experiment) -> int:
    return sum(below * above for below, above in pairwise(experiment.sizes))


@pytest.mark.parametrize("file", FILES)
def test_experiment_file_builds_each_rule_that_it_compares_or_has_a_table_for(file):
    comparison = Comparison.load(file)
    inputs, classes = PUBLISHED[comparison.content["data"]]
    for rule in {*comparison.rules, *comparison.content["rules"]}:
        experiment = comparison.experiment(rule, 0)
        outputs = {"classify": classes, "reconstruct": inputs}.get(experiment.learned_task().name)
        assert experiment.sizes[0] == inputs, rule
        if rule != "lvq":  # several neurons stand for a class
            assert outputs in (experiment.sizes[-1], None), rule
        # zeros: orthogonal weights of large layers take seconds
        net, learning, _ = replace(experiment, initial_weights="zeros").built()
        assert (net.sizes, learning.name) == (experiment.sizes, rule.partition("@")[0])


TRAINED = [(file, rule) for file, rule in COMPARED if weights_of(Comparison.load(file).experiment(rule, 0)) < LARGE]


@pytest.mark.parametrize(("file", "rule"), TRAINED)
def test_experiment_file_trains_a_minibatch(file, rule):
    experiment = Comparison.load(file).experiment(rule, 0)
    net, learning, optimizer = experiment.built()
    random, source = np.random.default_rng(0), SOURCES[experiment.data]
    codes = random.integers(0, 2**source.input_format.bits, (8, experiment.sizes[0]), np.uint8)
    samples = Samples(codes, random.integers(0, 10, 8), source.input_format)
    before = net.tensors()["output.weight"].copy()
    steps = list(fit(net, learning, optimizer, samples, 1, len(samples), task=experiment.learned_task()))
    assert len(steps) == len(learning.phases)
    assert 0 < steps[-1].epoch_loss < math.inf
    assert (net.tensors()["output.weight"] != before).any()


WRONG = {
    'epochs = "5"': "epochs must be a whole number, 0 or more, not '5'",
    "epochs = -1": "epochs must be a whole number, 0 or more, not -1",
    "epochs = true": "epochs must be a whole number, 0 or more, not True",
    "batch = 0": "batch must be a whole number, 1 or more, not 0",
    "batch = 1.5": "batch must be a whole number, 1 or more, not 1.5",
    "seeds = [1, 2]": "seeds must be a whole number, 1 or more, not [1, 2]",
    'sizes = "a"': "sizes must be a list of whole numbers, not 'a'",
    'sizes = [64, "a", 10]': "sizes[1] must be a whole number, not 'a'",
    "sizes = [64, true, 10]": "sizes[1] must be a whole number, not True",
    "sizes = []": "sizes must be two or more positive whole numbers, input first, not []",
    "sizes = [64]": "sizes must be two or more positive whole numbers, input first, not [64]",
    "sizes = [63, 10]": "sizes: digits has 64 inputs, not 63",
    "sizes = [64, 9]": "sizes: digits has 10 classes, so 9 outputs are few",
    "activation = 1": "activation must be text, not 1",
    'activation = "tan"': f"no activation 'tan'; there are: {', '.join(sorted(ACTIVATIONS))}",
    'data = "mnits"': f"no data set 'mnits'; there are: {', '.join(sorted(SOURCES))}",
    "data = 1": "data must be text, not 1",
    "placement = 1": "placement must be text, not 1",
    'compare = "dtp"': "compare must be a list of texts, not 'dtp'",
    "compare = []": "compare must name at least one rule, not []",
    'compare = ["dpt"]': f"no rule 'dpt'; there are: {', '.join(sorted(ALL_RULES))}",
    'links.h1-h2 = "binary"': "links.h1-h2 must be a table, not 'binary'",
    "links.h1-h2.forward = 1": "links.h1-h2.forward must be text, not 1",
    'links.h1-h2.forward = "bin"': "links.h1-h2.forward: no format 'bin'; there are: ",
    'links.h1-h2.up = "binary"': "links.h1-h2: no key 'up'; there are: feedback, forward",
    'links.h1-h9.forward = "binary"': "no link 'h1-h9'; there are: h1-h2, h2-output, input-h1",
    "links = []": "links must be a table, not []",
    "rules = 1": "rules must be a table, not 1",
    "rules.dtp = 1": "rules.dtp must be a table, not 1",
    "rules.dpt.noise = 1": f"no rule 'dpt'; there are: {', '.join(sorted(ALL_RULES))}",
    'rules.dtp.half_noise_epoch = "x"': "rules.dtp.half_noise_epoch must be a number, not 'x'",
    "rules.dtp.half_noise_epoch = nan": "rules.dtp.half_noise_epoch must be a finite number, not nan",
    'rules.dtp.noise_half_life = "x"': "rules.dtp.half_noise_epoch must be a number, not 'x'",
    "rules.dtp.noise = true": "rules.dtp.noise must be a number, not True",
    "rules.dtp.noise = [0.5, 0.5]": "rules.dtp.noise must be a number, not [0.5, 0.5]",
    "rules.dtp.noise = -1": "rules.dtp: dtp: noise must be a finite number, zero or more, not -1",
    "rules.dtp.nois = 1": "rules.dtp: no key 'nois'; there are: ",
    "rules.dtp.schedule = 1": "rules.dtp.schedule must be text, not 1",
    'rules.dtp.schedule = "x"': "rules.dtp: no schedule 'x'; there are: minibatch, alternating-epochs",
    'rules.dtp.learning_rate = "fast"': "rules.dtp.learning_rate must be a number, not 'fast'",
    "rules.dtp.learning_rate = [0.1]": "rules.dtp.learning_rate must be a number, not [0.1]",
    "rules.dtp.learning_rate = inf": "rules.dtp.learning_rate must be a finite number, not inf",
    "rules.straight-through.gradient = 4": "rules.straight-through.gradient must be text, not 4",
    'rules.straight-through.gradient = "x"': "rules.straight-through.gradient: no format 'x'; there are: ",
    'optimizer = "sgd"': "optimizer must be a table, not 'sgd'",
    "optimizer.name = 1": "optimizer.name must be text, not 1",
    'optimizer.name = "sdg"': f"no optimizer 'sdg'; there are: {', '.join(sorted(OPTIMIZERS))}",
    'optimizer.learning_rate = "fast"': "optimizer.learning_rate must be a number, not 'fast'",
    "optimizer.learning_rate = -1": "optimizer: learning_rate must be a finite number, zero or more, not -1",
    "optimizer.decay = true": "optimizer.decay must be a number, not True",
    "optimizer.state = 1": "optimizer: no key 'state'; there are: ",
}


@pytest.mark.parametrize(("line", "message"), WRONG.items(), ids=WRONG)
def test_a_wrong_setting_is_refused_by_file_and_key(line, message, tmp_path):
    config = tmp_path / "mine.toml"
    config.write_text(line + "\n")
    with pytest.raises(ValueError) as error:
        Comparison.load("digits" if not line.startswith("data") else None, config)
    assert str(error.value).startswith(f"{config}: {message}")
    assert message.endswith(": ") or str(error.value) == f"{config}: {message}"


def test_wires_of_links_that_a_network_lacks_are_not_placed():
    assert Comparison.load("digits", sizes=[64, 8, 8, 10]).placement == "h1-h2=board"
    assert Comparison.load("digits", sizes=[64, 10]).placement == ""
    assert Comparison.load("digits", sizes=[64, 10], placement="h1-h2=board").placement == "h1-h2=board"


def test_errors_about_what_a_file_says_begin_with_its_name(tmp_path):
    config = tmp_path / "mine.toml"
    config.write_text('placement = "h1-h2=moon"\nepochs = 3\n')
    comparison = Comparison.load("digits", config, epochs=2)
    named = {}
    for key in ("placement", "epochs", "sizes"):
        with pytest.raises(ValueError) as error, comparison.naming(key):
            raise ValueError("wrong")
        named[key] = str(error.value)
    assert named == {"placement": f"{config}: wrong", "epochs": "wrong", "sizes": "wrong"}


def test_settings_given_in_python_are_checked_too():
    for settings, message in (
        ({"noise": "x"}, "rules.dtp.noise must be a number, not 'x'"),
        ({"noise": [0.5, 0.5]}, "rules.dtp.noise must be a number, not [0.5, 0.5]"),
        ({"noise": math.nan}, "rules.dtp.noise must be a finite number, not nan"),
    ):
        with pytest.raises(ExperimentError) as error:
            replace(small(), settings=settings).built()
        assert str(error.value) == message


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("sizes", "a", "sizes must be a list of whole numbers, not 'a'"),
        ("sizes", [64, 1.5, 10], "sizes[1] must be a whole number, not 1.5"),
        ("rule", 1, "rule must be text, not 1"),
        ("links", {"h1-h2": "binary"}, "links.h1-h2 must be a table, not 'binary'"),
        ("settings", [], "settings must be a table, not []"),
        ("optimizer", "sgd", "optimizer must be a table, not 'sgd'"),
        ("plugins", "mine.py", "plugins must be a list of texts, not 'mine.py'"),
        ("epochs", math.nan, "epochs must be a whole number, 0 or more, not nan"),
    ],
)
def test_a_wrong_experiment_is_refused_by_its_file(key, value, message, tmp_path):
    path = tmp_path / "experiment.toml"
    path.write_text(tomli_w.dumps(asdict(small()) | {key: value}))
    with pytest.raises(ExperimentError) as error:
        Experiment.load(path)
    assert str(error.value) == f"{path}: {message}"
    content = asdict(small())
    del content["rule"], content["seed"]
    path.write_text(tomli_w.dumps(content))
    with pytest.raises(StorageError) as error:
        Experiment.load(path)
    assert str(error.value) == f"{path}: not an experiment: it has no rule, seed"


TRAIN = """
import sys
from pathlib import Path
from lowbit_dtp.data import load
from lowbit_dtp.experiment import Experiment
from lowbit_dtp.runs import run

def wait(done):
    print(done, flush=True)
    sys.stdin.readline()

run(Experiment.load(Path(sys.argv[1])), Path(sys.argv[2]), load("digits"), on_step=wait)
"""
"""Trains, waiting for a line after each step."""


@pytest.mark.parametrize("end", ["go on", "kill"])
def test_a_folder_into_which_another_process_trains_is_refused(end, uninterrupted, data, tmp_path):
    folder, before = tmp_path / "run", uninterrupted["dtp"]
    line = [sys.executable, "-c", TRAIN, str(before / "experiment.toml"), str(folder)]
    process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "1\n"
        there = {p.name: p.read_bytes() for p in folder.iterdir()}
        for experiment in (small(), small(epochs=1)):
            with pytest.raises(storage.LockedError) as error:
                run(experiment, folder, data)
            assert str(error.value) == (
                f"{folder}: process {process.pid} is writing to this folder; "
                "wait for it to end, or choose another folder"
            )
        assert {p.name: p.read_bytes() for p in folder.iterdir()} == there
        if end == "go on":
            process.communicate("\n" * EPOCHS * STEPS_AN_EPOCH, timeout=60)
            assert process.returncode == 0
    finally:
        process.kill()
        process.wait()
    run(small(), folder, data)
    assert_same_run(folder, before)
