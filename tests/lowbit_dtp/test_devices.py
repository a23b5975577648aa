"""Runs on other devices: their files, continuing on another device, and errors for devices that cannot be used."""

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from lowbit_dtp import runs
from lowbit_dtp.backends import devices
from lowbit_dtp.backends.devices import DeviceError, usable
from lowbit_dtp.data import Samples, load
from lowbit_dtp.ensemble import Run, member_bytes, stack, unstack
from lowbit_dtp.experiment import Comparison, Experiment
from lowbit_dtp.formats import ufixed
from lowbit_dtp.runs import run, run_ensemble, summary_row
from lowbit_dtp.storage import read_json, read_tensors
from lowbit_dtp.training import Progress, fit

RULES = ("dtp", "straight-through@fixed(4,-2)")
SEEDS = (0, 1, 2)
EPOCHS, STEPS_AN_EPOCH = 2, 6
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
every_device = pytest.mark.parametrize("device", DEVICES)
SETTINGS = {"sizes": [64, 12, 12, 10], "batch": 200, "links": {"h1-h2": {"forward": "binary", "feedback": "ternary"}}}
"""With a format that torch alone packs."""


class StoppedError(Exception):
    """Stands for whatever ends a run before its time."""


@pytest.fixture(scope="module")
def data() -> Any:
    return load("digits")


def experiments(rule: str = "dtp", seeds: tuple[int, ...] = SEEDS) -> list[Experiment]:
    comparison = Comparison.load("digits", epochs=EPOCHS, **SETTINGS)
    return [comparison.experiment(rule, seed) for seed in seeds]


@pytest.fixture(scope="module")
def alone(data: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Run folders of each rule and seed, trained in NumPy one by one."""
    folders = {rule: [tmp_path_factory.mktemp("alone") / "run" for _ in SEEDS] for rule in RULES}
    for rule, paths in folders.items():
        for experiment, path in zip(experiments(rule), paths, strict=True):
            run(experiment, path, data)
    return folders


def assert_alike(folder: Path, other: Path) -> None:
    """The same run, to the rounding of two devices."""
    assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in other.iterdir())
    assert (folder / "experiment.toml").read_bytes() == (other / "experiment.toml").read_bytes()
    tensors, description = read_tensors(folder / "network.safetensors")
    others, other_description = read_tensors(other / "network.safetensors")
    assert (description, tensors.keys()) == (other_description, others.keys())
    for name, x in tensors.items():
        assert x.dtype == others[name].dtype
        np.testing.assert_allclose(x, others[name], atol=1e-4, err_msg=name)
    books = [read_json(path / "ledger.json") for path in (folder, other)]
    for use in ("training", "inference"):
        one, two = (book[use] for book in books)
        for key in ("runs", "epochs", "steps", "samples", "work", "accesses"):
            assert one[key] == two[key], (use, key)
        assert len(one["traffic"]) == len(two["traffic"])
        for row, other_row in zip(one["traffic"], two["traffic"], strict=True):
            for key in row:
                tolerance = 0 if row["bits"] < 32 else 3e-2  # the last bits of a float32 are each library's own
                same = row[key] == other_row[key] if isinstance(row[key], str) else None
                assert same or row[key] == pytest.approx(other_row[key], rel=tolerance), (use, row)
    lines = [[json.loads(x) for x in (p / "metrics.jsonl").read_text().splitlines()] for p in (folder, other)]
    assert len(lines[0]) == len(lines[1]) == EPOCHS
    for line, other_line in zip(*lines, strict=True):
        assert line.pop("seconds") > 0 and other_line.pop("seconds") > 0
        assert line == pytest.approx(other_line, rel=1e-4)


@every_device
@pytest.mark.parametrize("rule", RULES)
def test_an_ensemble_leaves_what_its_members_leave_alone(
    rule: str, device: str, alone: dict[str, list[Path]], data: Any, tmp_path: Path
) -> None:
    folders, told = [tmp_path / f"seed-{seed}" for seed in SEEDS], []
    run_ensemble(experiments(rule), folders, data, device=device, on_evaluation=lambda i, x: told.append((i, x.epoch)))
    assert told == [(i, epoch) for epoch in (1, 2) for i in range(3)]
    for folder, other in zip(folders, alone[rule], strict=True):
        assert_alike(folder, other)
        (part,) = read_json(folder / "run.json")["parts"]
        assert part == {"device": devices.described(device), "members": 3, "to_step": part["to_step"]}


@every_device
@pytest.mark.parametrize("steps", [1, 4, STEPS_AN_EPOCH + 1])
@pytest.mark.parametrize("forth", [True, False], ids=["numpy first", "numpy last"])
def test_a_run_goes_on_on_another_device(
    forth: bool, steps: int, device: str, alone: dict[str, list[Path]], data: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(runs, "CHECKPOINT_SECONDS", 0.0)
    folders, rule = [tmp_path / f"seed-{seed}" for seed in SEEDS], RULES[0]

    def stop(done: int) -> None:
        if done == steps + 1:
            raise StoppedError

    order = ("numpy", device) if forth else (device, "numpy")
    if forth:
        for experiment, folder in zip(experiments(rule), folders, strict=True):
            with pytest.raises(StoppedError):
                run(experiment, folder, data, on_step=stop)
    else:
        with pytest.raises(StoppedError):
            run_ensemble(experiments(rule), folders, data, device=device, on_step=stop)
    run_ensemble(experiments(rule), folders, data, device=order[1])
    for folder, other in zip(folders, alone[rule], strict=True):
        assert_alike(folder, other)
        parts = read_json(folder / "run.json")["parts"]
        assert [part["device"] for part in parts] == [devices.described(x) for x in order]
        assert parts[0]["to_step"] == steps
    (tmp_path / rule).mkdir()
    for folder in folders:
        folder.rename(tmp_path / rule / folder.name)
    row, *_ = summary_row(rule, tmp_path, {seed: f"{rule}/seed-{seed}" for seed in SEEDS})
    names = [x["device"] + (", 3 at a time" if x["members"] == 3 else "") for x in parts]
    assert row.device == f"{names[0]} to step {steps}, then {names[1]} to step {EPOCHS * STEPS_AN_EPOCH}"


def test_members_that_were_stopped_apart_go_on_apart(
    alone: dict[str, list[Path]], data: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    """One is finished, one half-way, one not begun: none is trained again, and all end as they would."""
    monkeypatch.setattr(runs, "CHECKPOINT_SECONDS", 0.0)
    folders, rule, seen = [tmp_path / f"seed-{seed}" for seed in SEEDS], RULES[0], []

    def stop(done: int) -> None:
        if done == 5:
            raise StoppedError

    run(experiments(rule)[0], folders[0], data)
    finished = (folders[0] / "run.json").stat().st_mtime_ns
    with pytest.raises(StoppedError):
        run(experiments(rule)[1], folders[1], data, on_step=stop)
    run_ensemble(experiments(rule), folders, data, device="cpu", on_step=seen.append)
    assert seen == [*range(5, 13), *range(1, 13)]
    assert (folders[0] / "run.json").stat().st_mtime_ns == finished
    for folder, other in zip(folders, alone[rule], strict=True):
        assert_alike(folder, other)


@every_device
def test_a_finished_ensemble_goes_on_to_more_epochs(
    device: str, alone: dict[str, list[Path]], data: Any, tmp_path: Path
) -> None:
    folders, rule = [tmp_path / f"seed-{seed}" for seed in SEEDS], RULES[0]
    run_ensemble([replace(x, epochs=1) for x in experiments(rule)], folders, data, device=device)
    run_ensemble(experiments(rule), folders, data, device=device)
    for folder, other in zip(folders, alone[rule], strict=True):
        assert_alike(folder, other)


def test_an_ensemble_is_saved_after_its_first_epoch(data: Any, tmp_path: Path) -> None:
    def stop(done: int) -> None:
        if done == STEPS_AN_EPOCH + 1:
            raise StoppedError

    folders = [tmp_path / f"seed-{seed}" for seed in SEEDS]
    with pytest.raises(StoppedError):
        run_ensemble(experiments(), folders, data, device="cpu", on_step=stop)
    assert all((folder / "checkpoint.safetensors").exists() for folder in folders)


def test_apart_gives_back_what_was_put_together(data: Any) -> None:
    members = []
    for experiment in experiments():
        run = Run(experiment.network(), experiment.make_optimizer(), Progress())
        run.optimizer.learning_rate *= 1 + experiment.seed
        for _ in fit(
            run.net, experiment.learning_rule(), run.optimizer, data.train, 1, 200, experiment.seed, run.progress
        ):
            pass
        members.append(run)
    back = unstack(stack(members, "cpu"))
    for run, other in zip(members, back, strict=True):
        for name, x in run.net.tensors().items():
            assert np.array_equal(other.net.tensors()[name], x)
        assert run.optimizer.state.keys() == other.optimizer.state.keys()
        for key, words in run.optimizer.state.items():
            assert all(map(np.array_equal, words, other.optimizer.state[key]))
        assert run.optimizer.learning_rate == other.optimizer.learning_rate
        assert run.progress == other.progress
        for wire, x in run.progress.ledger.wires.items():
            assert np.array_equal(other.progress.ledger.wires[wire], x)


# --- devices that cannot be used --------------------------------------------------------------------------------------


def fake_torch(**cuda: Any) -> SimpleNamespace:
    """As much of torch as is asked whether there is a GPU."""
    build = SimpleNamespace(cuda=cuda.pop("built", "13.0"))
    return SimpleNamespace(__version__="2.13.0", version=build, cuda=SimpleNamespace(**cuda))


def no_driver() -> bool:
    import warnings

    warnings.warn(
        "CUDA initialization: The NVIDIA driver on your system is too old (found version 11040).\nMore.", stacklevel=1
    )
    return False


@pytest.mark.parametrize(
    ("torch", "device", "fault"),
    [
        (
            fake_torch(built=None),
            "cuda",
            "this torch, 2.13.0, is built without CUDA (see https://pytorch.org for one that is not)",
        ),
        (
            fake_torch(is_available=no_driver),
            "cuda",
            "torch 2.13.0, built for CUDA 13.0, finds none (CUDA initialization: The NVIDIA driver on your system is "
            "too old (found version 11040).)",
        ),
        (
            fake_torch(is_available=lambda: False),
            "cuda",
            "torch 2.13.0, built for CUDA 13.0, finds none (no GPU is visible to it)",
        ),
        (
            fake_torch(is_available=lambda: True, device_count=lambda: 2),
            "cuda:2",
            "there are 2 GPUs, counted from 0",
        ),
    ],
)
def test_why_a_gpu_cannot_be_used(torch: Any, device: str, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch", torch)
    message = f"device {device} cannot be used: {fault}. Leave --device out to train on the CPU"
    with pytest.raises(DeviceError, match=f"^{re.escape(message)}$"):
        usable(device)


def test_which_device_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeviceError, match=r"^no device 'gpu'; there are: numpy, cpu, cuda, auto$"):
        usable("gpu")
    modules = __import__("sys").modules
    assert [usable("numpy"), usable("cpu")] == ["numpy", "cpu"]
    monkeypatch.setitem(modules, "torch", fake_torch(is_available=lambda: True, device_count=lambda: 2))
    assert [usable("auto"), usable("cuda"), usable("cuda:1")] == ["cuda", "cuda", "cuda:1"]
    monkeypatch.setitem(modules, "torch", fake_torch(is_available=lambda: False))
    assert usable("auto") == "numpy"
    monkeypatch.setitem(modules, "torch", None)
    assert usable("auto") == "numpy"
    with pytest.raises(ImportError, match=r"^device cpu needs torch: pip install 'lowbit-dtp\[torch\]'$"):
        usable("cpu")


@pytest.mark.parametrize(
    ("free", "advice"),
    [(5_500_000, "--ensemble 2 would fit"), (1_000_000, "not even one would fit; leave --device out")],
)
def test_too_large_an_ensemble(free: int, advice: str, data: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """The error gives the number that fits, nothing is lost, and the same command with fewer at a time continues."""

    def lacks(*args: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(devices, "free_bytes", lambda device: free)
    folders = [tmp_path / f"seed-{seed}" for seed in SEEDS]
    with monkeypatch.context() as context:
        context.setattr(runs, "_train", lacks)
        message = (
            r"device cpu has too little memory for 3 networks at a time: about 2 MB each, and beside the data \d MB "
            rf"are free; {advice}"
        )
        with pytest.raises(DeviceError, match=f"^{message}$"):
            run_ensemble(experiments(), folders, data, device="cpu")
    run_ensemble(experiments()[:2], folders[:2], data, device="cpu")
    assert (folders[1] / "run.json").exists()


@pytest.mark.gpu
def test_what_a_member_takes() -> None:
    """The estimate against what the GPU gives out, for the network of the thesis: within a factor of two."""
    comparison = Comparison.load("mnist")
    one = comparison.experiment("dtp", 0)
    draw = np.random.default_rng(0)
    samples = Samples(draw.integers(0, 256, (1000, 784)).astype(np.uint8), draw.integers(0, 10, 1000), ufixed(8, 0)).on(
        "cuda"
    )
    taken = []
    for members in (4, 20):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        seeds = list(range(members))
        run = stack([Run(one.network(), one.make_optimizer(), Progress()) for _ in seeds], "cuda")
        for _ in fit(run.net, one.learning_rule(), run.optimizer, samples, 1, 100, seeds, run.progress):
            pass
        taken.append(torch.cuda.max_memory_allocated())
        del run
    each = (taken[1] - taken[0]) / 16
    assert each / 2 < member_bytes(one.network(), one.make_optimizer(), 100) < 2 * each
