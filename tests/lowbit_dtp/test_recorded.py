"""Recorded steps on NumPy arrays: steps in Python are the oracle, to the bit."""

import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numba
import numpy as np
import pytest

from lowbit_dtp import data
from lowbit_dtp.backends import CannotRecord, backend_of, numba_cpu, numba_graph
from lowbit_dtp.backends.numba_cpu import set_threads
from lowbit_dtp.data import Samples
from lowbit_dtp.formats import binary, ufixed
from lowbit_dtp.ledger import Ledger
from lowbit_dtp.links import Link
from lowbit_dtp.network import Network
from lowbit_dtp.optimizers import SGD, Optimizer, RMSprop
from lowbit_dtp.rules import DTP, LearningRule, Step, StraightThrough
from lowbit_dtp.training import Progress, Trained, fit
from tests.conformance.cases import CLASSIFIERS, FORMATS

SIZES = [64, 80, 70, 10]
LINKS = [Link("ufixed(5,1)"), Link("binary", "binary"), Link()]
EPOCHS, BATCH = 3, 25


@pytest.fixture(scope="module")
def few() -> Samples:
    """260 digits: with 25 a minibatch, ten whole ones and a rest."""
    train = data.load("digits").train
    return Samples(train.stored[:260], train.labels[:260], train.format)


@dataclass
class Run:
    """A run, and all that it changes."""

    net: Network
    optimizer: Optimizer
    progress: Progress
    steps: list[Trained]

    def contents(self) -> dict[str, Any]:
        return {
            "network": {name: x.tobytes() for name, x in self.net.tensors().items()},
            "optimizer": {key: [x.tobytes() for x in words] for key, words in self.optimizer.state.items()},
            "wires": {key: (x.dtype, x.tobytes()) for key, x in self.progress.ledger.wires.items()},
            "ledger": self.progress.ledger.as_dict(),
            "losses": [(step.phase, step.loss, step.epoch_loss) for step in self.steps],
        }


def run(
    mode: str,
    rule: LearningRule,
    samples: Samples,
    links: Sequence[Link] = tuple(LINKS),
    optimizer: Optimizer | None = None,
    sizes: Sequence[int] = tuple(SIZES),
    epochs: int = EPOCHS,
) -> Run:
    net = Network.build(sizes, links, seed=3)
    done = Run(net, optimizer or RMSprop(0.002, 0.001), Progress(), [])
    for step in fit(net, rule, done.optimizer, samples, epochs, BATCH, 7, done.progress, mode):
        done.steps.append(step)
    return done


@pytest.fixture
def repeated(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """Whether each repetition did what it was to do."""
    told: list[bool] = []
    plain = numba_graph.Program.__call__

    def call(self: numba_graph.Program) -> bool:
        told.append(plain(self))
        return told[-1]

    monkeypatch.setattr(numba_graph.Program, "__call__", call)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield told


def assert_same(rule: LearningRule, samples: Samples, **settings: Any) -> None:
    plain, recorded = (run(mode, rule, samples, **settings).contents() for mode in ("plain", "recorded"))
    for part, content in plain.items():
        assert recorded[part] == content, part


RECORDED = {name: rule for name, rule in CLASSIFIERS.items() if "mirror" not in name}
"""Mirrored weights are sent after the update, when an invalid number cannot be taken back: that is not recorded."""


@pytest.mark.parametrize("rule", RECORDED.values(), ids=RECORDED)
def test_recorded_steps_are_the_plain_ones(rule: LearningRule, few: Samples, repeated: list[bool]) -> None:
    assert_same(rule, few)
    # of the whole minibatches all but the first two, and of the rests the last
    assert all(repeated) and len(repeated) == len(rule.phases) * (10 * EPOCHS - 2 + EPOCHS - 2)


@pytest.mark.parametrize("rule", [DTP(half_noise_epoch=2), StraightThrough()], ids=lambda rule: rule.name)
@pytest.mark.parametrize("fmt", [f for f in FORMATS if f.name != "float64"], ids=str)
def test_in_any_format(fmt: Any, rule: LearningRule, few: Samples, repeated: list[bool]) -> None:
    assert_same(rule, few, links=[Link("ufixed(5,1)"), Link(fmt, fmt), Link()], epochs=2)
    assert any(repeated)


@pytest.mark.parametrize("sizes", [[64, 10], [64, 5, 10], [64, 80, 70, 66, 10]], ids=str)
def test_with_any_layers(sizes: list[int], few: Samples, repeated: list[bool]) -> None:
    for rule in (DTP(), StraightThrough()):
        assert_same(rule, few, sizes=sizes, links=[Link("ufixed(5,1)"), *[Link("binary", "binary")] * (len(sizes) - 2)])
    assert all(repeated)


def test_pixels_may_be_floats(few: Samples, repeated: list[bool]) -> None:
    assert_same(DTP(), Samples(few.inputs, few.labels))
    assert all(repeated)


@pytest.mark.parametrize("rule", [DTP(target_step=0.01), StraightThrough()], ids=lambda rule: rule.name)
def test_pixels_without_zeros(rule: LearningRule, repeated: list[bool]) -> None:
    """Of samples without an error the gradient is left out, of which DTP has many."""
    random = np.random.default_rng(0)
    samples = Samples(random.random((250, 900)).astype(np.float32), random.integers(0, 10, 250))
    assert_same(rule, samples, sizes=[900, 80, 70, 10], links=[Link(), Link("binary", "binary"), Link()])
    assert any(repeated)


def test_with_gradient_descent(few: Samples, repeated: list[bool]) -> None:
    plain, recorded = (run(mode, DTP(), few, optimizer=SGD(0.1, 0.01)).contents() for mode in ("plain", "recorded"))
    assert plain == recorded and all(repeated)


def test_long_runs_are_recorded_by_themselves(few: Samples, repeated: list[bool]) -> None:
    """After a while, in which the step as it is written takes less time than recording it."""
    assert run("auto", DTP(), few, epochs=30).contents() == run("plain", DTP(), few, epochs=30).contents()
    assert repeated == []
    assert run("auto", DTP(), few, epochs=42).contents() == run("plain", DTP(), few, epochs=42).contents()
    assert len(repeated) == 42 * 10 - numba_cpu.NumbaBackend.patience - 1


def test_a_run_goes_on_in_either_way(few: Samples) -> None:
    expected = run("plain", DTP(), few).contents()
    for stop in (1, 5, 14):
        net, optimizer, progress = Network.build(SIZES, LINKS, seed=3), RMSprop(0.002, 0.001), Progress()
        steps = []
        for mode in ("recorded", "plain"):
            for step in fit(net, DTP(), optimizer, few, EPOCHS, BATCH, 7, progress, mode):
                steps.append(step)
                if mode == "recorded" and len(steps) == stop:
                    break
        assert Run(net, optimizer, progress, steps).contents() == expected


def test_threads_change_no_number(few: Samples) -> None:
    if numba.config.NUMBA_NUM_THREADS < 2:
        pytest.skip("this machine has one thread")
    before, found = numba.get_num_threads(), []
    for count in (1, 2):
        set_threads(count)
        found.append(run("recorded", DTP(), few, sizes=[64, 300, 300, 10]).contents())
    set_threads(before)
    assert found[0] == found[1]


def test_runs_in_two_threads_do_not_meet(few: Samples) -> None:
    """One records while the other is trained as it is written."""
    expected = [run(mode, DTP(), few).contents() for mode in ("recorded", "plain")]
    found: dict[str, Any] = {}

    def work(mode: str) -> None:
        found[mode] = [run(mode, DTP(), few).contents() for _ in range(3)]

    workers = [threading.Thread(target=work, args=(mode,)) for mode in ("recorded", "plain")]
    numba_threads = numba.get_num_threads()
    set_threads(1)
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    set_threads(numba_threads)
    assert found["recorded"] == [expected[0]] * 3 and found["plain"] == [expected[1]] * 3


# --- what is not as it was when it was recorded -----------------------------------------------------------------------


def clip(net: Network, optimizer: Optimizer) -> None:
    net.layers[1].weight = np.clip(net.layers[1].weight, -0.3, 0.3)


def halve(net: Network, optimizer: Optimizer) -> None:
    optimizer.learning_rate = 0.5 * float(optimizer.learning_rate)  # type: ignore[arg-type]


def scale(net: Network, optimizer: Optimizer) -> None:
    net.layers[0].weight *= 0.9


@pytest.mark.parametrize("change", [clip, halve, scale])
def test_what_is_changed_between_steps_is_used(change: Callable, few: Samples) -> None:
    """Other arrays in the place of parameters, another learning rate, other numbers."""
    found = []
    for mode in ("plain", "recorded"):
        done = Run(Network.build(SIZES, LINKS, seed=3), RMSprop(0.002, 0.001), Progress(), [])
        for step in fit(done.net, DTP(), done.optimizer, few, EPOCHS, BATCH, 7, done.progress, mode):
            done.steps.append(step)
            if len(done.steps) in (7, 12, 20):
                change(done.net, done.optimizer)
        found.append(done.contents())
    assert found[0] == found[1]


def test_nan_is_refused_as_it_would_be(few: Samples, repeated: list[bool]) -> None:
    """In the step in which it comes, which has then changed no parameter."""
    inputs = few.inputs.copy()
    chosen = data.order(len(few), 7, 0)[BATCH * 5 + 3]
    samples, found = Samples(inputs, few.labels), []
    samples.stored[chosen, 7] = np.nan  # which `Samples` itself would refuse
    for mode in ("plain", "recorded"):
        net, taken = Network.build(SIZES, [Link(), *LINKS[1:]], seed=3), 0
        with pytest.raises(ValueError, match=r"^link input-h1, forward 'activations': float32 cannot send NaN$"):
            for _ in fit(net, DTP(), RMSprop(0.002), samples, 1, BATCH, 7, mode=mode):
                taken += 1
        found.append((taken, {name: x.tobytes() for name, x in net.tensors().items()}))
    assert found[0] == found[1] and found[0][0] == 5
    assert repeated == [True] * 3 + [False]


def test_a_label_of_no_class_is_refused_as_it_would_be(few: Samples, repeated: list[bool]) -> None:
    labels = few.labels.copy()
    labels[data.order(len(few), 7, 0)[BATCH * 4]] = 10
    for mode in ("plain", "recorded"):
        with pytest.raises(ValueError, match=r"^labels must be 0 to 9, not 0 to 10$"):
            run(mode, DTP(), replace(few, labels=labels))
    assert repeated == [True] * 2 + [False]


def test_each_way_through_a_step_is_recorded(few: Samples, repeated: list[bool]) -> None:
    """Every fourth minibatch of the first epoch has no zeros, for which other kernels are chosen."""
    stored, at = few.stored.copy(), data.order(len(few), 7, 0)
    for start in range(0, len(few), 4 * BATCH):
        stored[at[start : start + BATCH]] = np.maximum(stored[at[start : start + BATCH]], 1)
    assert_same(DTP(), replace(few, stored=stored))
    assert 0 < repeated.count(False) < repeated.count(True)


# --- rules of one's own -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Own(StraightThrough):
    """Straight-through, with a change of the gradients of h1."""

    change: Callable[[Any], Any] = lambda x: x

    def step(self, net: Network, inputs: Any, labels: Any, ledger: Ledger, context: Any) -> Step:
        step = super().step(net, inputs, labels, ledger, context)
        gradients = dict(step.gradients)
        gradients["h1", "bias"] = self.change(gradients["h1", "bias"])
        return Step(gradients, step.loss)


HELD = np.zeros(80, np.float32)


def through_memory_of_its_own(x: Any) -> Any:
    HELD[:] = x  # goes past the tape: `HELD` is an array like any other
    return HELD * 0.5


@pytest.mark.parametrize(
    "change",
    [
        lambda x: 2 * x - x / 3,
        lambda x: np.where(x > 0, x, 0.5 * x),
        lambda x: np.clip(x, -0.01, 0.01),
        lambda x: np.tanh(x) + x.sum() * x.mean(),
        lambda x: np.concatenate([x[40:], x[:40]]),
        lambda x: x.reshape(2, 40).T.astype(np.float64).reshape(-1).astype(np.float32),
        lambda x: x[np.arange(80)[::-1].copy()],
        lambda x: np.add.reduce(np.stack([x, x]), 0),
    ],
)
def test_operators_of_numpy_are_recorded(change: Callable, few: Samples, repeated: list[bool]) -> None:
    assert_same(Own(change=change), few)
    assert repeated and all(repeated)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x if float(x[0]) > 0 else 2 * x,
        lambda x: x if x[0] > 0 else 2 * x,
        lambda x: x[x > 0].sum() * x,
        lambda x: np.sort(x)[int(x.argmax())] * x,
        lambda x: x * x.tolist()[0],
    ],
)
def test_what_asks_for_numbers_is_done_as_written(change: Callable, few: Samples, repeated: list[bool]) -> None:
    assert_same(Own(change=change), few)
    assert repeated == []


def test_where_no_code_can_be_made_it_is_done_as_written(few: Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: Any) -> None:
        raise RuntimeError("no compiler")

    expected = run("plain", DTP(), few).contents()
    monkeypatch.setattr(numba_graph.binding, "create_mcjit_compiler", fails)
    assert run("recorded", DTP(), few).contents() == expected


def test_a_recording_that_gives_other_numbers_is_found_out(few: Samples) -> None:
    rule = Own(change=through_memory_of_its_own)
    message = "a recorded step gives other numbers than the step as it is written; steps are taken as written"
    with pytest.warns(UserWarning, match=f"^{message}$"):
        recorded = run("recorded", rule, few)
    assert recorded.contents() == run("plain", rule, few).contents()


# --- the tape ---------------------------------------------------------------------------------------------------------


def traced(*shape: int) -> Any:
    return np.zeros(shape, np.float32).view(numba_graph.Traced)


def test_memory_is_used_again() -> None:
    """Memory of freed arrays is reused, and no array in use is overwritten."""
    x, out = traced(1000), traced(1000)
    tape = numba_graph.Tape([x, out])
    with tape.record():
        y = x
        for _ in range(50):
            y = y + 1
        held = x + 7
        for _ in range(50):
            y = y * 1
        out[...] = y + held
    assert len(tape.arena._all) <= 4
    program = tape.program()
    x[...] = 2
    assert program() and (out == 52 + 9).all()


def test_nothing_has_changed_where_a_repetition_gives_up() -> None:
    x, count = traced(70), np.zeros((), np.int64).view(numba_graph.Traced)
    xp: Any = backend_of(x)

    def work() -> None:
        count[...] = count + 1
        xp.transmit(x.reshape(1, 70), binary, None, None)

    recording = xp.record(work, [x, count])
    assert recording() is True and int(count) == 2
    x[3] = np.nan
    assert recording() is False and int(count) == 2
    x[3] = 0
    assert recording() is True and int(count) == 3


def test_an_array_from_nowhere_is_not_recorded() -> None:
    x = traced(8)
    tape = numba_graph.Tape([x])
    with tape.record(), pytest.raises(CannotRecord, match="made from others by an unknown operation"):
        np.ndarray.repeat(x, 2) + 1


def test_pixels_are_codes_of_the_link(few: Samples) -> None:
    assert few.format == ufixed(5, 1)
