"""One training step of the thesis' discrete network, through the public interface, against plain eager torch.

    .venv/bin/python tests/benchmarks/step.py

784-500-500-10, a minibatch of 100, one bit between h1 and h2; `dtp` as Algorithm 1 has it, and `straight-through`. Both
sides are first held to compute the same; then they take turns, so that whatever else the machine does falls on both.
Prints one table, and writes it to `results/step-<processor>.md`.
"""

import argparse
import datetime
import platform
import re
import shlex
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from eager import Eager

from lowbit_dtp import data
from lowbit_dtp.backends.numba_cpu import set_threads
from lowbit_dtp.data import Samples
from lowbit_dtp.experiment import Experiment, Plan, versions
from lowbit_dtp.randomness import Draws
from lowbit_dtp.rules import TargetProp
from lowbit_dtp.storage import write_text
from lowbit_dtp.training import fit

RULES = ("dtp", "straight-through")
RESULTS = Path(__file__).parent / "results"
TOLERANCE = 1e-4


def experiment(rule: str) -> Experiment:
    """The experiment on MNIST, with everything learned in each minibatch, which is what a step is here."""
    found = Plan.load("mnist").experiment(rule, seed=0)
    return replace(found, settings=found.settings | {"schedule": "minibatch"}) if rule == "dtp" else found


def samples(source: str, count: int) -> Samples:
    """`count` samples of MNIST, or random ones as sparse (19% of pixels are not zero) and in the same format."""
    if source == "mnist":
        return Samples(*data.load("mnist").train.part(slice(count)))
    random = np.random.default_rng(0)
    pixels = random.integers(1, 256, (count, 784)) * (random.random((count, 784)) < 0.19)
    return Samples((pixels / 256).astype(np.float32), random.integers(0, 10, count))


def ours(rule: str, on: Samples) -> tuple[Callable[[], float], Callable[[], dict[str, np.ndarray]]]:
    """One step of `fit` at each call, returning its loss; and the parameters."""
    setting = experiment(rule)
    net, optimizer = setting.network(), setting.make_optimizer()
    steps = fit(net, setting.learning_rule(), optimizer, on, 10**9, setting.batch, setting.seed)
    return lambda: float(next(steps).loss), net.tensors


def theirs(rule: str, on: Samples) -> tuple[Callable[[], float], Callable[[], dict[str, np.ndarray]]]:
    """One step of `Eager` at each call on the same minibatches, with the same noise; and the parameters."""
    setting = experiment(rule)
    rule_object, optimizer = setting.learning_rule(), setting.make_optimizer()
    parameters = {name: torch.from_numpy(x) for name, x in setting.network().tensors().items()}
    rate = optimizer.learning_rate
    net = Eager(parameters, rate, optimizer.feedback_learning_rate or rate)

    def steps() -> Iterator[float]:
        step, epoch = 0, 0
        pixels, labels = torch.from_numpy(on.pixels), torch.from_numpy(on.labels)
        while True:
            for indices in data.minibatches(len(on), setting.batch, setting.seed, epoch):
                chosen = torch.from_numpy(indices)
                batch = pixels[chosen], labels[chosen]
                if isinstance(rule_object, TargetProp):
                    shape = (len(indices), setting.sizes[1])
                    noise = torch.from_numpy(Draws(setting.seed, step).normal("noise h1", shape))
                    yield net.dtp(*batch, noise.mul_(rule_object.noise_at(epoch)), rule_object.target_step)
                else:
                    yield net.straight_through(*batch)
                step += 1
            epoch += 1

    going = steps()
    return lambda: next(going), lambda: {name: x.numpy() for name, x in net.parameters.items()}


def check_same(rule: str, on: Samples, steps: int = 3) -> float:
    """Largest difference between the parameters of the two after a few steps.

    Raises AssertionError if it is above 1e-4, or for any parameter above a hundredth of what training changed in it.
    """
    (step, parameters), (other_step, other_parameters) = ours(rule, on), theirs(rule, on)
    before = {name: x.copy() for name, x in parameters().items()}
    for _ in range(steps):
        loss, other_loss = step(), other_step()
        assert abs(loss - other_loss) < TOLERANCE, f"{rule}: losses {loss} and {other_loss}"
    worst = 0.0
    for name, x in parameters().items():
        difference = float(np.abs(x - other_parameters()[name]).max())
        change = float(np.abs(x - before[name]).max())
        trained = rule == "dtp" or "feedback" not in name
        assert (change > 0) == trained, f"{rule}: {name} changed by {change}"
        assert difference <= min(TOLERANCE, change / 100), (
            f"{rule}: {name} differs by {difference}, changed by {change}"
        )
        worst = max(worst, difference)
    return worst


def measure(rule: str, on: Samples, threads: int, rounds: int, repeats: int) -> list[tuple[float, float]]:
    """Seconds a step of ours and of theirs in each of `rounds`, `repeats` steps of the one and then of the other."""
    set_threads(threads)
    torch.set_num_threads(threads)
    sides = [ours(rule, on)[0], theirs(rule, on)[0]]
    for step in sides * 5:
        step()
    taken = []
    for i in range(rounds):
        seconds = [0.0, 0.0]
        for side in (0, 1) if i % 2 else (1, 0):
            started = perf_counter()
            for _ in range(repeats):
                sides[side]()
            seconds[side] = (perf_counter() - started) / repeats
        taken.append((seconds[0], seconds[1]))
    return taken


def row(rule: str, threads: int, taken: list[tuple[float, float]]) -> str:
    """A row of the table: medians over rounds with quartiles, and the median of the rounds' ratios."""

    def shown(values: list[float], unit: float, form: str) -> str:
        low, middle, high = (x / unit for x in statistics.quantiles(values, n=4))
        return f"{middle:{form}} ({low:{form}} to {high:{form}})"

    mine, peer = zip(*taken, strict=True)
    ratios = [b / a for a, b in taken]
    columns = (shown(list(mine), 1e-3, ".2f"), shown(list(peer), 1e-3, ".2f"), shown(ratios, 1, ".2f"))
    return f"| {rule} | {threads} | {' | '.join(columns)} |"


def processor() -> str:
    """What the processor calls itself."""
    path = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.*)$", path.read_text(), re.MULTILINE) if path.exists() else None
    return found[1].strip() if found else platform.processor() or platform.machine()


def main() -> None:
    """Check, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=5, help="steps of each side in a round")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    here = data.find("mnist") and all(path for _, path in data.find("mnist"))
    on = samples("mnist" if here else "random", 5000)
    same = {rule: check_same(rule, on) for rule in RULES}
    lines = [
        "| rule | threads | lowbit-dtp, ms a step | eager torch, ms a step | eager / lowbit-dtp |",
        "|---|---|---|---|---|",
    ]
    for rule in RULES:
        for threads in options.threads:
            lines.append(row(rule, threads, measure(rule, on, threads, options.rounds, options.repeats)))
    text = "\n".join(
        [
            f"# One training step on {processor()}",
            "",
            f"{datetime.date.today()}: `python {shlex.join(sys.argv)}`; {platform.platform()}; "
            f"{', '.join(f'{name} {number}' for name, number in versions().items())}.",
            f"784-500-500-10, minibatches of 100 of {'MNIST' if here else 'random sparse pixels'}, one bit between h1 "
            f"and h2. Medians of {options.rounds} rounds of {options.repeats} steps, sides in turn, with quartiles; a "
            "ratio above 1 means that lowbit-dtp is faster. Both take their minibatch from the data and draw their "
            "noise (the same, from NumPy) within the time; lowbit-dtp also counts every bit, operation and access.",
            "Parameters after 3 steps agree to "
            + ", ".join(f"{difference:.0e} ({rule})" for rule, difference in same.items())
            + ".",
            "",
            *lines,
            "",
        ]
    )
    write_text(RESULTS / f"step-{re.sub(r'[^a-z0-9]+', '-', processor().lower()).strip('-')}.md", text)
    print(text)


if __name__ == "__main__":
    main()
