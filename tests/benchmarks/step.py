"""Epochs of the thesis' discrete network, through the public interface, beside the same in plain torch.

784-500-500-10, minibatches of 100 of MNIST, one bit between h1 and h2; 784-100-10 for a rule that settles. Each side
is first held to compute the same as ours; then they take turns of some steps until each has done an epoch.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from types import SimpleNamespace

import numpy as np
import torch
from eager import Eager, EagerAutoencoder, Settling, StochasticEager
from harness import Timings, measure_turns
from numba.core.dispatcher import Dispatcher

from lowbit_dtp import data
from lowbit_dtp.backends import numba_cpu
from lowbit_dtp.backends.numba_cpu import set_threads
from lowbit_dtp.data import Samples
from lowbit_dtp.experiment import Comparison, Experiment
from lowbit_dtp.formats import ufixed
from lowbit_dtp.randomness import RandomStream
from lowbit_dtp.training import fit

TOLERANCE = 1e-4
TRAINED = 50_000
"""Samples of MNIST in an epoch."""


@dataclass(frozen=True)
class Case:
    """A way to train, and the peer that does the same."""

    name: str
    rule: str
    schedule: str = "minibatch"
    autograd: bool = False
    compiled: bool = False
    dense: bool = False
    file: str = "mnist"
    """The file of experiments that the settings are from."""

    @property
    def settles(self) -> bool:
        """Whether it is a rule that settles, on 784-100-10."""
        return self.rule == "contrastive-hebbian"

    def experiment(self) -> Experiment:
        """The experiment on MNIST, with the schedule of this case."""
        found = Comparison.load(self.file).experiment(self.rule, seed=0)
        if self.rule == "dtp-autoencoder":  # torch has floats on every link
            return replace(found, links={})
        return replace(found, settings=found.settings | {"schedule": self.schedule}) if self.rule == "dtp" else found


CASES = (
    Case("DTP, alternating epochs (the thesis' scripts)", "dtp", "alternating-epochs"),
    Case("DTP, both in each minibatch (Algorithm 1)", "dtp"),
    Case("the same, torch.compile", "dtp", compiled=True),
    Case("the same, dense inputs", "dtp", dense=True),
    Case("straight-through, hand-made gradients", "straight-through"),
    Case("straight-through, autograd", "straight-through", autograd=True),
    Case("stochastic units, DTP, alternating epochs", "stochastic-dtp", file="table3.1"),
    Case("stochastic units, straight-through", "stochastic-straight-through", file="table3.1"),
    Case("contrastive Hebbian learning, 784-100-10", "contrastive-hebbian"),
    Case("denoising auto-encoder by DTP, 784-1000-784", "dtp-autoencoder"),
)


def samples(dense: bool = False, count: int = TRAINED) -> Samples:
    """Of MNIST, or random ones as sparse (19 % are not zero) where it is not found; `dense` ones hold no zero."""
    if has_mnist():
        train = data.load("mnist").train
        stored, labels = train.stored[:count], train.labels[:count]
    else:
        random = np.random.default_rng(0)
        stored = random.integers(1, 256, (count, 784), np.uint8) * (random.random((count, 784)) < 0.19)
        labels = random.integers(0, 10, count)
    return Samples(np.maximum(stored, 1) if dense else stored, labels, ufixed(8, 0))


def has_mnist() -> bool:
    """Whether MNIST is at hand."""
    return all(path for _, path in data.find("mnist"))


def ours(
    setting: Experiment, on: Samples, mode: str = "auto"
) -> tuple[Callable[[], object], Callable[[], dict[str, np.ndarray]]]:
    """One step of `fit` at each call; and the parameters."""
    net, rule, optimizer = setting.built()
    steps = fit(net, rule, optimizer, on, 10**9, setting.batch, setting.seed, mode=mode)
    return lambda: next(steps), net.tensors


def minibatches(
    setting: Experiment, phases: Sequence[str], count: int
) -> Iterator[tuple[RandomStream, int, str, torch.Tensor]]:
    """For each step of a run on `count` samples: random numbers, epoch, phase and indices, as `fit` has them."""
    step = 0
    for epoch in range(10**9):
        for phase, kind in enumerate(phases):
            order = data.order(count, setting.seed, epoch * len(phases) + phase)
            for chosen in torch.from_numpy(order).split(setting.batch):
                yield RandomStream(setting.seed, step), epoch, kind, chosen
                step += 1


def theirs(case: Case, on: Samples) -> tuple[Callable[[], object], Callable[[], dict[str, np.ndarray]]]:
    """One step of `Eager` at each call on the same minibatches, with the same noise; and the parameters."""
    if case.file == "table3.1":
        return their_stochastic(case, on)
    if case.rule == "dtp-autoencoder":
        return their_autoencoder(case, on)
    setting = case.experiment()
    built, rule, optimizer = setting.built()
    parameters = {name: torch.from_numpy(x.copy()) for name, x in built.tensors().items()}
    rate = optimizer.learning_rate
    net = Eager(parameters, rate, optimizer.feedback_learning_rate or rate)
    both = torch.compile(net.dtp) if case.compiled else net.dtp
    through = net.straight_through_autograd if case.autograd else net.straight_through
    if case.settles:
        through = Settling(parameters, rate, rule.steps, rule.gamma).contrastive_hebbian
    inputs, labels = torch.from_numpy(on.inputs), torch.from_numpy(on.labels)

    def steps() -> Iterator[object]:
        for stream, epoch, kind, chosen in minibatches(setting, rule.phases, len(on)):
            batch = inputs[chosen], labels[chosen]
            if kind == "forward":
                yield net.forward(*batch, rule.target_step)
            elif case.rule == "dtp":
                noise = torch.from_numpy(
                    stream.normal("noise h1", np.empty((len(chosen), setting.sizes[1]), np.float32))
                )
                noise.mul_(rule.noise_at(epoch))
                yield net.inverse(batch[0], noise) if kind == "inverse" else both(*batch, noise, rule.target_step)
            else:
                yield through(*batch)

    going = steps()
    return lambda: next(going), lambda: {name: x.detach().numpy() for name, x in net.parameters.items()}


def their_stochastic(case: Case, on: Samples) -> tuple[Callable[[], object], Callable[[], dict[str, np.ndarray]]]:
    """The same for `StochasticEager`."""
    setting = case.experiment()
    rule, optimizer = setting.learning_rule(), setting.make_optimizer()
    parameters = {name: torch.from_numpy(x.copy()) for name, x in setting.network().tensors().items()}
    rate = optimizer.learning_rate
    net = StochasticEager(parameters, rate, optimizer.feedback_learning_rate or rate)
    inputs, labels = torch.from_numpy(on.inputs), torch.from_numpy(on.labels)

    def steps() -> Iterator[object]:
        for stream, epoch, kind, chosen in minibatches(setting, rule.phases, len(on)):
            x, y = inputs[chosen], labels[chosen]
            x = x + rule.input_noise * torch.from_numpy(stream.normal("input noise", x.numpy()))
            h1, h2 = (np.empty((len(x), size), np.float32) for size in setting.sizes[1:3])
            if kind == "inverse":
                noise = torch.from_numpy(stream.normal("noise h1", h1)).mul_(rule.noise_at(epoch))
                uniform = torch.from_numpy(stream.uniform("h1-h2 forward noisy activations", h1))
                yield net.stochastic_inverse(x, noise, uniform)
            else:
                uniform1 = torch.from_numpy(stream.uniform("h1-h2 forward activations", h1))
                uniform2 = torch.from_numpy(stream.uniform("h2-output forward activations", h2))
                draws = x, y, uniform1, uniform2
                if kind == "forward":
                    yield net.stochastic_forward(*draws, rule.target_step)
                else:
                    yield net.stochastic_straight_through(*draws)

    going = steps()
    return lambda: next(going), lambda: {name: x.detach().numpy() for name, x in net.parameters.items()}


def their_autoencoder(case: Case, on: Samples) -> tuple[Callable[[], object], Callable[[], dict[str, np.ndarray]]]:
    """The same for `EagerAutoencoder`, which has no copy of the weights to refresh."""
    setting = case.experiment()
    net, rule, optimizer = setting.built()
    peer = EagerAutoencoder(
        {name: torch.from_numpy(x.copy()) for name, x in net.tensors().items()}, optimizer.learning_rate
    )
    inputs, sizes = torch.from_numpy(on.inputs), setting.sizes
    noise, input_noise, *rest = (torch.empty(setting.batch, n) for n in (sizes[1], sizes[0], sizes[1], sizes[0]))

    def steps() -> Iterator[object]:
        for stream, _, _, chosen in minibatches(setting, rule.phases, len(on)):
            for x, name, sigma in ((noise, "h1", rule.noise), (input_noise, "input", rule.input_noise)):
                x.copy_(torch.from_numpy(stream.normal(f"noise {name}", x.numpy()))).mul_(sigma)
            yield peer.step(inputs[chosen], noise, input_noise, *rest)

    going, trained = steps(), ("h1.weight", "h1.bias", "output.bias")
    return lambda: next(going), lambda: {name: peer.parameters[name].numpy() for name in trained}


def check_same(case: Case, on: Samples, steps: int = 3) -> float:
    """Largest difference between the parameters of the two after a few steps.

    Raises AssertionError if it is above 1e-4, or for any parameter above a hundredth of what training changed in it.
    """
    (step, parameters), (other_step, other_parameters) = ours(case.experiment(), on), theirs(case, on)
    before = {name: x.copy() for name, x in parameters().items()}
    for _ in range(steps):
        step()
        other_step()
    worst = 0.0
    for name, other in other_parameters().items():
        x = parameters()[name]
        difference = float(np.abs(x - other).max())
        change = float(np.abs(x - before[name]).max())
        assert difference <= min(TOLERANCE, change / 100), (
            f"{case.name}: {name} differs by {difference}, changed by {change}"
        )
        worst = max(worst, difference)
    return worst


def epochs(case: Case, threads: int, turns: int, count: int = TRAINED) -> Timings:
    """Seconds a step of ours and of theirs in turns that make an epoch of `count` samples each: the second of ours.

    In the first, steps are taken as they are written for a while; torch's are all the same.
    """
    set_threads(threads)
    torch.set_num_threads(threads)
    on = samples(case.dense, count)
    sides = {"lowbit-dtp": ours(case.experiment(), on)[0], "torch": theirs(case, on)[0]}
    steps = len(case.experiment().learning_rule().phases) * len(on) // case.experiment().batch
    for side, warm in (("lowbit-dtp", steps), ("torch", 5)):
        for _ in range(warm):
            sides[side]()
    return measure_turns(sides, turns, dict.fromkeys(sides, steps // turns))


SMALL = (80, 64, 64, 10)
"""Sizes of a network that takes no time but Python's: calls, checks and the ledger."""


def small_steps(turns: int = 15, steps: int = 200) -> Timings:
    """Seconds of a step of DTP on `SMALL` and 8 samples, taken as `fit` chooses, and "as written", in Python."""
    set_threads(1)
    random = np.random.default_rng(0)
    stored = random.integers(1, 256, (8 * steps, SMALL[0]), np.uint8) * (random.random((8 * steps, SMALL[0])) < 0.19)
    on = Samples(stored, random.integers(0, 10, len(stored)), ufixed(8, 0))
    experiment = replace(CASES[1].experiment(), sizes=list(SMALL), batch=8)

    def side(mode: str) -> Callable[[], object]:
        step, _ = ours(experiment, on, mode)
        for _ in range(20):
            step()
        return step

    sides = {"chosen": side("auto"), "as written": side("plain")}
    return measure_turns(sides, turns, dict.fromkeys(sides, steps))


def shares(case: Case, steps: int = 300) -> dict[str, float]:
    """Milliseconds of a step as written on one thread: in each kernel for floats, and in all else under "the rest"."""
    set_threads(1)
    step, _ = ours(case.experiment(), samples(case.dense, 5000), "plain")
    for _ in range(20):
        step()
    spent: dict[str, float] = {}
    plain = numba_cpu.kernels

    def timed(name: str, kernel: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object) -> object:
            started = perf_counter()
            result = kernel(*arguments)
            spent[name] = spent.get(name, 0.0) + perf_counter() - started
            return result

        return call

    watched = {
        name: timed(name, x) if isinstance(x, Dispatcher) and not name.startswith("_") else x
        for name, x in vars(plain).items()
    }
    try:
        numba_cpu.kernels = SimpleNamespace(**watched)
        started = perf_counter()
        for _ in range(steps):
            step()
        whole = perf_counter() - started
    finally:
        numba_cpu.kernels = plain
    spent["the rest"] = whole - sum(spent.values())
    return {name: seconds / steps * 1e3 for name, seconds in spent.items()}
