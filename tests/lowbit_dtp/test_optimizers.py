"""Optimizers against torch's, and the same bits in every mode."""

import re
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lowbit_dtp import backends, checkpoint, data, schedules
from lowbit_dtp.backends import LazyOuterProduct, backend_of
from lowbit_dtp.backends.numba_cpu import NumbaBackend
from lowbit_dtp.backends.numpy_plain import NumpyBackend
from lowbit_dtp.data import Samples
from lowbit_dtp.ensemble import Run, stack, unstack
from lowbit_dtp.experiment import Experiment
from lowbit_dtp.formats import ufixed
from lowbit_dtp.ledger import Ledger
from lowbit_dtp.links import Link, Signal
from lowbit_dtp.network import Network
from lowbit_dtp.optimizers import OPTIMIZERS, SGD, Adam, Optimizer, RMSprop
from lowbit_dtp.rules import DTP
from lowbit_dtp.training import Progress, fit
from tests.conformance.cases import OPTIMIZERS as CASES

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


EVERY = CASES | {
    "heavy-ball": (HeavyBall(0.01), lambda p: torch.optim.SGD(p, 0.01, momentum=0.9)),
    "sgd-momentum": (SGD(0.01, momentum=0.9), lambda p: torch.optim.SGD(p, 0.01, momentum=0.9)),
    "adam-decays": (
        Adam(0.01, decay=0.8, square_decay=0.95, epsilon=0.01),
        lambda p: torch.optim.Adam(p, 0.01, (0.8, 0.95), 0.01),
    ),
}
"""Optimizers, and torch's with the same settings."""

with_state = pytest.mark.parametrize(
    "optimizer",
    [Adam(0.002, 0.001), HeavyBall(0.01), SGD(0.01, momentum=0.9)],
    ids=lambda optimizer: type(optimizer).__name__,
)

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


@with_state
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
    for kind, name, value in ((Adam, "decay", 1.0), (Adam, "square_decay", -0.1), (SGD, "momentum", 1.0)):
        message = f"{name} must be 0 or more and below 1, not {value}"
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            kind(0.1, **{name: value})


def test_momentum_costs_a_word_and_two_operations_a_weight() -> None:
    """An update of 5 x 4 weights: rate g and the difference; with momentum, velocity times it, plus g, and its word."""
    for momentum, times, words in ((0.0, 20, 0), (0.9, 40, 20)):
        net, ledger = Network.build([5, 4], [Link()]), Ledger()
        SGD(0.1, momentum=momentum).apply(net, {("output", "weight"): np.ones((5, 4), np.float32)}, ledger)
        done = {(work.operation, work.purpose): number for work, number in ledger.work.items()}
        assert done == {("multiply", "update"): times, ("add", "update"): times}
        kept = [number for access, number in ledger.accesses.items() if access.array == "weight optimizer state"]
        assert kept == [words] * 2 * bool(words), "read and written"


# --- runs -------------------------------------------------------------------------------------------------------------


@with_state
def test_recorded_steps_are_the_plain_ones(
    optimizer: Optimizer, few: Samples, recwarn: pytest.WarningsRecorder
) -> None:
    plain, recorded = (contents(trained(begun(optimizer), few, mode=mode)) for mode in ("plain", "recorded"))
    assert plain == recorded and not recwarn.list


@with_state
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


@with_state
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


# --- schedules --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spelled", "make"),
    [
        ("step(3,0.5)", lambda o: torch.optim.lr_scheduler.StepLR(o, 3, 0.5)),
        ("step(2)", lambda o: torch.optim.lr_scheduler.StepLR(o, 2)),
        ("exponential(0.9)", lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.9)),
        ("cosine(12)", lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 12)),
        ("cosine(12, 0.1)", lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 12, 0.1)),
        ("warmup(4)", lambda o: torch.optim.lr_scheduler.LinearLR(o, 0.25, total_iters=3)),
        ("constant", lambda o: torch.optim.lr_scheduler.ConstantLR(o, 1.0)),
        (
            "warmup(4) * step(3,0.5)",
            lambda o: torch.optim.lr_scheduler.ChainedScheduler(
                [torch.optim.lr_scheduler.LinearLR(o, 0.25, total_iters=3), torch.optim.lr_scheduler.StepLR(o, 3, 0.5)]
            ),
        ),
    ],
)
def test_schedules_are_those_of_torch(spelled: str, make: Any) -> None:
    optimizer, schedule = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 1.0), schedules.parse(spelled)
    scheduler = make(optimizer)
    for epoch in range(12):
        assert schedule.factor(epoch) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
        optimizer.step()
        scheduler.step()


def test_after_its_end_a_cosine_stays() -> None:
    assert schedules.parse("cosine(5,0.25)").factor(5) == schedules.parse("cosine(5,0.25)").factor(9) == 0.25


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("cosin(5)", "no schedule 'cosin'; there are: constant, cosine, exponential, step, warmup"),
        ("cosine(", "'cosine(' is no schedule; write a name and its arguments, as in cosine(100)"),
        ("cosine", "schedule 'cosine' is written cosine(epochs,least)"),
        ("constant(1)", "schedule 'constant(1)' is written constant"),
        (
            "cosine(0)",
            "schedule 'cosine(0)': epochs must be a whole number, 1 or more, not 0; it is written cosine(epochs,least)",
        ),
        (
            "step(2.5)",
            "schedule 'step(2.5)': epochs must be a whole number, 1 or more, not 2.5; it is written step(epochs,gamma)",
        ),
        (
            "exponential(inf)",
            "schedule 'exponential(inf)': gamma must be a finite number, 0 or more, not inf; it is written "
            "exponential(gamma)",
        ),
        (3, "schedule must be a text such as 'cosine(100)', or a Schedule, not 3"),
    ],
)
def test_schedules_that_are_none(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        SGD(0.1, schedule=given)


def test_a_schedule_multiplies_each_rate_in_each_epoch(few: Samples) -> None:
    """As a caller would who set the rates before each epoch."""
    spelled = "warmup(2)*exponential(0.5)"
    expected = begun(RMSprop(0.002, 0.001))
    for epoch in range(3):
        factor = schedules.parse(spelled).factor(epoch)
        expected.optimizer.learning_rate, expected.optimizer.feedback_learning_rate = 0.002 * factor, 0.001 * factor
        trained(expected, few, epoch + 1)
    assert contents(trained(begun(RMSprop(0.002, 0.001, schedule=spelled)), few)) == contents(expected)


SCHEDULED = [
    RMSprop(0.002, 0.001, schedule="step(1,0.5)"),
    SGD(0.1, 0.05, schedule="cosine(3)"),
    Adam(0.002, 0.001, schedule="warmup(3)"),
    HeavyBall(0.01, 0.005, schedule="exponential(0.3)"),
]


@pytest.mark.parametrize("optimizer", SCHEDULED, ids=lambda x: type(x).__name__)
def test_recorded_steps_follow_a_schedule_and_are_not_recorded_again(
    optimizer: Optimizer, few: Samples, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    records, record = [], NumbaBackend.record
    monkeypatch.setattr(NumbaBackend, "record", lambda self, *given: records.append(1) or record(self, *given))
    plain, recorded = (contents(trained(begun(optimizer), few, 4, mode=mode)) for mode in ("plain", "recorded"))
    assert plain == recorded and not recwarn.list
    assert len(records) == 2  # whole minibatches and the rest


def test_a_run_with_a_schedule_stops_and_goes_on_in_either_way(few: Samples, tmp_path: Path) -> None:
    optimizer = Adam(0.002, 0.001, schedule="cosine(4)")
    expected = contents(trained(begun(optimizer), few, 4))
    run = trained(begun(optimizer), few, 4, mode="recorded", stop=22)
    checkpoint.save(tmp_path / "run", *run, {})
    net, fresh, _ = begun(optimizer)
    progress, _ = checkpoint.load(tmp_path / "run", net, fresh)
    assert contents(trained(Run(net, fresh, progress), few, 4, mode="recorded")) == expected


@pytest.mark.parametrize("rates", [0.1, (0.1, 0.2, 0.3)])
def test_members_with_a_schedule_are_updated_as_if_alone(rates: Any) -> None:
    """Bit for bit, on torch also where the factor is read from an array."""
    draw = np.random.default_rng(0)
    start, gradient = draw.standard_normal((2, 3, 37, 11)).astype(np.float32)
    factor = schedules.parse("cosine(7)").factor(3)
    for array, factors in ((np.array, [factor]), (torch.tensor, [factor, torch.tensor(factor, dtype=torch.float64)])):
        for given in factors:
            together, found = array(start), []
            SGD(rates).update(("h1", "weight"), together, array(gradient), given)
            for i, rate in enumerate(rates if isinstance(rates, tuple) else [rates] * 3):
                found.append(array(start[i]))
                SGD(rate).update(("h1", "weight"), found[i], array(gradient[i]), factor)
            assert np.asarray(together).tobytes() == np.stack([np.asarray(x) for x in found]).tobytes()


def test_torch_records_a_schedule(few: Samples) -> None:
    optimizer = RMSprop(0.002, 0.001, schedule="cosine(3)")
    found = [
        contents(trained(Run(run.net.on("cpu"), run.optimizer, run.progress), few.on("cpu"), mode=mode))
        for mode in ("plain", "recorded")
        for run in [begun(optimizer)]
    ]
    assert found[0] == found[1]


def test_an_experiment_names_its_schedule() -> None:
    given = {"name": "adam", "learning_rate": 0.5, "schedule": "cosine(100)"}
    experiment = Experiment("digits", [64, 5, 10], "dtp", 1, 10, 0, optimizer=given)
    assert experiment.make_optimizer() == Adam(0.5, schedule=schedules.Cosine(100))


def test_every_optimizer_is_a_case() -> None:
    assert CASES.keys() == {name for name, kind in OPTIMIZERS.items() if not kind.integer}  # `test_integers` has others
