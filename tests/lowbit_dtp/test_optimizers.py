"""Optimizers against torch's own, and the same bits however a run is taken."""

import re
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lowbit_dtp import backends, checkpoint, data
from lowbit_dtp.backends import LazyOuterProduct, backend_of
from lowbit_dtp.backends.numba_cpu import NumbaBackend
from lowbit_dtp.backends.numpy_plain import NumpyBackend
from lowbit_dtp.data import Samples
from lowbit_dtp.ensemble import Run, stack, unstack
from lowbit_dtp.experiment import Experiment
from lowbit_dtp.formats import ufixed
from lowbit_dtp.links import Link, Signal
from lowbit_dtp.network import Network
from lowbit_dtp.optimizers import OPTIMIZERS, SGD, Adam, Optimizer, RMSprop
from lowbit_dtp.rules import DTP
from lowbit_dtp.training import Progress, fit

SIZES, LINKS = [64, 80, 70, 10], [Link("ufixed(5,1)"), Link("binary", "binary"), Link()]
SEEDS = (5, 6, 7)


@dataclass
class HeavyBall(Optimizer):
    """An optimizer of one's own: SGD with momentum, as torch has it."""

    momentum: float = 0.9
    operations = {"multiply": 2, "add": 2}
    state_words = 1

    def change(self, parameter: Any, gradient: Any, state: Any, rate: Any) -> None:
        assert isinstance(gradient, np.ndarray | torch.Tensor)
        (velocity,) = state
        velocity *= self.momentum
        velocity += gradient
        parameter -= rate * velocity


EVERY = {
    "sgd": (SGD(0.05), lambda p: torch.optim.SGD(p, 0.05)),
    "heavy-ball": (HeavyBall(0.01), lambda p: torch.optim.SGD(p, 0.01, momentum=0.9)),
    "adam": (Adam(0.003), lambda p: torch.optim.Adam(p, 0.003)),
    "adam-decays": (
        Adam(0.01, decay=0.8, square_decay=0.95, epsilon=0.01),
        lambda p: torch.optim.Adam(p, 0.01, (0.8, 0.95), 0.01),
    ),
    "rmsprop": (
        RMSprop(0.001, decay=0.9, momentum=0.8, epsilon=0.0),  # torch's epsilon is outside the root
        lambda p: torch.optim.RMSprop(p, 0.001, 0.9, 0.0, momentum=0.8, centered=True),
    ),
}
"""Optimizers, and torch's with the same settings."""

ARRAYS = {
    "compiled": (NumbaBackend(), np.array),
    "plain": (NumpyBackend(), np.array),
    "torch": (None, torch.tensor),
}


@pytest.fixture(scope="module")
def few() -> Samples:
    train = data.load("digits").train
    return Samples(train.stored[:210], train.labels[:210], train.format)


def contents(run: Run) -> dict[str, Any]:
    """All that a run has changed, bit for bit."""
    net, optimizer, progress = run
    xp = backend_of(net.layers[0].weight)
    return {
        "network": {name: xp.numpy(x).tobytes() for name, x in net.tensors().items()},
        "optimizer": {key: [xp.numpy(x).tobytes() for x in words] for key, words in optimizer.state.items()},
        "ledger": progress.ledger.as_dict(),
    }


def begun(optimizer: Optimizer, seed: int = 3) -> Run:
    return Run(Network.build(SIZES, LINKS, seed), replace(optimizer, state={}), Progress())


def trained(run: Run, samples: Samples, epochs: int = 3, seed: Any = 7, mode: str = "plain", stop: Any = None) -> Run:
    steps = fit(run.net, DTP(), run.optimizer, samples, epochs, 25, seed, run.progress, mode)
    for _ in islice(steps, stop):
        pass
    return run


# --- equations --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("arrays", ARRAYS)
@pytest.mark.parametrize("name", EVERY)
def test_a_hundred_updates_are_those_of_torch(
    name: str, arrays: str, dtype: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, array = ARRAYS[arrays]
    if backend:
        monkeypatch.setitem(backends._backends, np.ndarray, backend)
    (kind, make), draw = EVERY[name], np.random.default_rng(0)
    optimizer, start = replace(kind, state={}), draw.standard_normal((37, 11)).astype(dtype)
    parameter, twin = array(start), torch.tensor(start, requires_grad=True)
    other = make([twin])
    for _ in range(100):
        gradient = (draw.standard_normal((37, 11)) * draw.random((37, 11)) ** 4 + 0.01).astype(dtype)
        twin.grad = torch.tensor(gradient)
        other.step()
        optimizer.update(("h1", "weight"), parameter, array(gradient))
    largest = 1e-6 if dtype == np.float64 or name.startswith("adam") else 2e-5
    np.testing.assert_allclose(np.asarray(parameter), twin.detach().numpy(), rtol=0, atol=largest)
    assert np.abs(np.asarray(parameter) - start).max() > 0.05


@pytest.mark.parametrize("optimizer", [HeavyBall(0.1), Adam(0.1)], ids=lambda x: type(x).__name__)
def test_a_gradient_that_is_not_yet_multiplied_is_an_array_for_change(optimizer: Optimizer) -> None:
    draw = np.random.default_rng(0)
    x, error = draw.random((20, 30)).astype(np.float32), draw.standard_normal((20, 64)).astype(np.float32)
    fmt = ufixed(8, 0)
    signal = Signal(fmt.encode(x * (x > 0.8)), fmt, x)
    gradient, _ = backend_of(x).gradients(signal, error, None)
    assert isinstance(gradient, LazyOuterProduct)
    found = []
    for given in (gradient, signal.values.T @ error):
        parameter = np.ones((30, 64), np.float32)
        replace(optimizer, state={}).update(("h1", "weight"), parameter, given)
        found.append(parameter)
    np.testing.assert_allclose(*found, rtol=1e-5, atol=1e-5)
    assert (found[0] != 1).any()


def test_a_subclass_with_a_change_of_its_own_is_not_its_parent() -> None:
    class Signs(SGD):
        def change(self, parameter: Any, gradient: Any, state: Any, rate: Any) -> None:
            parameter -= rate * np.sign(gradient)

    class Same(SGD):
        pass

    for kind, moved in ((Signs, 0.5), (Same, 1.5), (SGD, 1.5)):
        parameter = np.zeros(5, np.float32)
        kind(0.5).update(("h1", "bias"), parameter, np.full(5, -3, np.float32))
        assert parameter.tolist() == [moved] * 5


def test_decays_are_below_one() -> None:
    for name, value in (("decay", 1.0), ("square_decay", -0.1)):
        with pytest.raises(ValueError, match=re.escape(f"{name} must be 0 or more and below 1, not {value}")):
            Adam(0.1, **{name: value})


# --- runs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", [Adam(0.002, 0.001), HeavyBall(0.01)], ids=lambda x: type(x).__name__)
def test_recorded_steps_are_the_plain_ones(
    optimizer: Optimizer, few: Samples, recwarn: pytest.WarningsRecorder
) -> None:
    plain, recorded = (contents(trained(begun(optimizer), few, mode=mode)) for mode in ("plain", "recorded"))
    assert plain == recorded and not recwarn.list


@pytest.mark.parametrize("optimizer", [Adam(0.002), HeavyBall(0.01)], ids=lambda x: type(x).__name__)
def test_a_run_that_stops_goes_on_bit_for_bit(optimizer: Optimizer, few: Samples, tmp_path: Path) -> None:
    expected = contents(trained(begun(optimizer), few))
    run = trained(begun(optimizer), few, stop=13)
    checkpoint.save(tmp_path / "run", *run, {})
    net, fresh, _ = begun(optimizer)
    progress, _ = checkpoint.load(tmp_path / "run", net, fresh)
    assert contents(trained(Run(net, fresh, progress), few)) == expected


@pytest.mark.parametrize("arrays", ARRAYS)
@pytest.mark.parametrize("name", EVERY)
def test_members_of_an_ensemble_are_updated_as_if_alone(
    name: str, arrays: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit."""
    backend, array = ARRAYS[arrays]
    if backend:
        monkeypatch.setitem(backends._backends, np.ndarray, backend)
    draw = np.random.default_rng(0)
    start, *gradients = draw.standard_normal((6, 3, 37, 11)).astype(np.float32)
    together, each = array(start), [array(x) for x in start]
    optimizers = [replace(EVERY[name][0], state={}) for _ in range(4)]
    for g in gradients:
        optimizers[3].update(("h1", "weight"), together, array(g))
        for optimizer, parameter, own in zip(optimizers, each, g, strict=False):
            optimizer.update(("h1", "weight"), parameter, array(own))
    assert np.asarray(together).tobytes() == np.stack([np.asarray(x) for x in each]).tobytes()


@pytest.mark.parametrize("optimizer", [Adam(0.002), HeavyBall(0.01)], ids=lambda x: type(x).__name__)
def test_an_ensemble_that_is_taken_apart_goes_on_bit_for_bit(optimizer: Optimizer, few: Samples) -> None:
    whole = unstack(trained(stack([begun(optimizer, seed) for seed in SEEDS], "numpy"), few, 2, SEEDS))
    parts = unstack(trained(stack([begun(optimizer, seed) for seed in SEEDS], "numpy"), few, 1, SEEDS))
    for run, other in zip(whole, unstack(trained(stack(parts, "numpy"), few, 2, SEEDS)), strict=True):
        assert contents(run) == contents(other)
    own = begun(optimizer)
    trained(own, few, 1)
    shapes = {key: [x.shape for x in words] for key, words in own.optimizer.state.items()}
    assert shapes == {key: [x.shape for x in words] for key, words in whole[0].optimizer.state.items()}


def test_torch_records_adam(few: Samples) -> None:
    found = [
        trained(Run(begun(Adam(0.002)).net.on("cpu"), Adam(0.002), Progress()), few.on("cpu"), mode=mode)
        for mode in ("plain", "recorded")
    ]
    assert contents(found[0])["network"] == contents(found[1])["network"]


def test_one_line_in_the_table_names_an_optimizer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPTIMIZERS, "heavy-ball", HeavyBall)
    given = {"name": "heavy-ball", "learning_rate": 0.5, "momentum": 0.7}
    experiment = Experiment("digits", [64, 5, 10], "dtp", 1, 10, 0, optimizer=given)
    assert experiment.make_optimizer() == HeavyBall(0.5, momentum=0.7)
