"""The GPU path beside eager torch on the same device: training of the thesis' network, exact products, memory.

    .venv/bin/python tests/benchmarks/gpu.py

Needs a CUDA device, and MNIST if it is to be the real one; random images as sparse take its place, since no time
depends on what they show. Prints what it measures and writes it to `results/gpu-<device>.md`. Meant to end within six
minutes, which has not been tried on a GPU yet.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import cycle
from time import perf_counter

import harness
import numpy as np
import step
import torch
from eager import Eager
from harness import Timings, measure, shown, table

from lowbit_dtp.backends import packed, torch_gpu, torch_products
from lowbit_dtp.backends.devices import described
from lowbit_dtp.data import Samples
from lowbit_dtp.ensemble import Run, stack
from lowbit_dtp.experiment import Comparison, Experiment
from lowbit_dtp.formats import binary
from lowbit_dtp.runs import commit
from lowbit_dtp.training import Evaluator, Progress, fit

METHODS = ("dtp", "straight-through", "fixed-lower", "backprop-then-sign")
"""The four of Fig. 3.3 of the thesis."""


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    device: str = "cuda"
    seeds: int = 10
    epochs: int = 500
    timed_epochs: int = 20
    samples: int = step.TRAINED
    tested: int = 10_000
    many: int = 64
    widths: tuple[int, ...] = (4096, 8192)
    rounds: int = 9
    seconds: float = 240
    """After so many, what takes minutes is not begun."""

    def wait(self) -> None:
        """For all that the device has been given to do."""
        if self.device != "cpu":
            torch.cuda.synchronize()


SMALL = Scale("cpu", 2, 2, 1, 200, 100, 3, (256,), 2)
"""Enough to see that everything here runs, on a CPU."""


def sides(scale: Scale, calls: dict[str, Callable[[], object]]) -> Timings:
    """Time calls, each until the device has done it."""

    def waited(call: Callable[[], object]) -> Callable[[], None]:
        def both() -> None:
            call()
            scale.wait()

        return both

    return measure({name: waited(call) for name, call in calls.items()}, scale.rounds)


def run_of(scale: Scale, experiment: Experiment, members: int) -> tuple[Run, Samples]:
    """Untrained networks of the thesis as one on the device, and samples."""
    networks = [replace(experiment, seed=seed) for seed in range(members)]
    runs = [Run(x.network(), x.make_optimizer(), Progress()) for x in networks]
    return stack(runs, scale.device), step.samples(count=scale.samples).on(scale.device)


def steps_of(scale: Scale, members: int, mode: str) -> Callable[[], object]:
    """One step of Algorithm 1 by `fit` at each call, with all that is done once behind it."""
    experiment = step.CASES[1].experiment()
    (net, optimizer, progress), samples = run_of(scale, experiment, members)
    steps = fit(
        net, experiment.learning_rule(), optimizer, samples, 10**9, experiment.batch, range(members), progress, mode
    )
    for _ in range(8):
        next(steps)
    return lambda: next(steps)


def eager_of(scale: Scale) -> Callable[[], object]:
    """The same by the peer, of one network."""
    experiment = step.CASES[1].experiment()
    rule, optimizer = experiment.learning_rule(), experiment.make_optimizer()
    parameters = {n: torch.from_numpy(x.copy()).to(scale.device) for n, x in experiment.network().tensors().items()}
    rate = optimizer.learning_rate
    net = Eager(parameters, rate, optimizer.feedback_learning_rate or rate)
    samples = step.samples(count=scale.samples)
    inputs, labels = (torch.from_numpy(x).to(scale.device) for x in (samples.inputs, samples.labels))
    batches = cycle(torch.randperm(scale.samples, device=scale.device).split(experiment.batch))

    def once() -> None:
        chosen = next(batches)
        noise = torch.randn(len(chosen), experiment.sizes[1], device=scale.device) * rule.noise
        net.dtp(inputs[chosen], labels[chosen], noise, rule.target_step)

    return once


def training(scale: Scale) -> Iterator[list[str]]:
    """Steps of one network and of many, each beside eager torch."""
    calls = {
        "eager torch": eager_of(scale),
        "plain": steps_of(scale, 1, "plain"),
        "recorded": steps_of(scale, 1, "recorded"),
        "recorded, many": steps_of(scale, scale.many, "recorded"),
    }
    if scale.device != "cpu":
        calls["compiled"] = steps_of(scale, 1, "compiled")
        calls["compiled, many"] = steps_of(scale, scale.many, "compiled")
    timings = sides(scale, calls)
    for name in calls:
        networks = scale.many if "many" in name else 1
        ratio = timings.ratio("eager torch", name)
        goal = {"recorded": "6", "compiled": "6", "recorded, many": "80", "compiled, many": "80"}.get(name, "")
        yield [f"{name.removesuffix(', many')}, {networks} network{'s' * (networks > 1)}",
               f"{timings.median(name) * 1e6:.0f}", shown(tuple(networks * x for x in ratio)), goal]  # fmt: skip


def epochs(scale: Scale, rule: str, count: int) -> tuple[float, float]:
    """Seconds until the first epoch is done, and of `count` more; both test on the valid and the test part."""
    experiment = Comparison.load("mnist").experiment(rule, 0)
    (net, optimizer, progress), samples = run_of(scale, experiment, scale.seeds)
    learning = experiment.learning_rule()
    inference = net.with_links(learning.inference_links(net.links))
    tested = Samples(samples.stored[: scale.tested], samples.labels[: scale.tested], samples.format)
    tests = [Evaluator(inference, tested) for _ in range(2)]
    mode = "compiled" if scale.device != "cpu" else "recorded"
    seeds = range(scale.seeds)
    steps = fit(net, learning, optimizer, samples, count + 1, experiment.batch, seeds, progress, mode)
    started, first = perf_counter(), 0.0
    for taken in steps:
        if taken.epoch_ends:
            for test in tests:
                test()
            first = first or perf_counter() - started
    return first, perf_counter() - started - first


def protocol(scale: Scale) -> Iterator[list[str]]:
    """The thesis' protocol: discrete DTP in full, and the four methods of Fig. 3.3 from some epochs of each."""
    whole, begun = {}, perf_counter()
    for rule in METHODS:
        first, rest = epochs(scale, rule, scale.timed_epochs)
        whole[rule] = first + rest / scale.timed_epochs * (scale.epochs - 1)
        yield [f"{rule}, from {scale.timed_epochs} epochs", f"{first:.0f}", f"{whole[rule]:.0f}", ""]
    yield ["all four", "", f"{sum(whole.values()):.0f}", "300"]
    if perf_counter() - begun + whole["dtp"] < scale.seconds:
        first, rest = epochs(scale, "dtp", scale.epochs - 1)
        yield [f"dtp, all {scale.epochs} epochs", f"{first:.0f}", f"{first + rest:.0f}", "60"]


def products(scale: Scale) -> Iterator[list[str]]:
    """Binary layers, exact: packed words in, int32 out; beside strict float32, and int8 on tensor cores."""
    rows, best = [], 0.0
    for width in scale.widths:
        draw = np.random.default_rng(0)
        signs = torch.from_numpy(draw.integers(0, 2, (width, width), np.uint8)).to(scale.device)
        words = torch_gpu.pack(signs, 1)
        weights = torch.from_numpy(draw.integers(0, 2, (width, width)).astype(np.int8) * 2 - 1).to(scale.device)
        arranged = torch_products.Weights.arrange(weights)
        x, w = signs.float() * 2 - 1, weights.float()
        halves, bytes_of_x = (x.bfloat16(), w.bfloat16()), x.to(torch.int8)
        calls: dict[str, Callable[[], object]] = {
            "float32": lambda x=x, w=w: x @ w,
            "words to int32": lambda a=words, b=arranged: torch_products.product(a, packed.levels_of(binary), b),
            "bfloat16 alone": lambda a=halves[0], b=halves[1]: a @ b,
        }
        if scale.device != "cpu":
            calls["int8 alone"] = lambda a=bytes_of_x, b=weights: torch._int_mm(a, b)
        assert torch.equal(calls["words to int32"]().to(torch.float32), x @ w)
        timings = sides(scale, calls)
        for name in calls:
            rate = 2 * width**3 / timings.median(name)
            best = max(best, rate if name == "bfloat16 alone" else 0)
            rows.append((f"{width} x {width} x {width}, {name}", rate, shown(timings.ratio("float32", name))))
    for what, rate, ratio in rows:
        goal = "8" if what.endswith("words to int32") else ""
        yield [what, f"{rate / 1e12:.1f}", f"{100 * rate / best:.0f} %", ratio, goal]


def memory(scale: Scale) -> str:
    """Most memory given out while many networks are trained and tested for an epoch, all samples on the device."""
    if scale.device == "cpu":
        return "not measured on a CPU"
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    experiment = Comparison.load("mnist").experiment("dtp", 0)
    (net, optimizer, progress), samples = run_of(scale, experiment, scale.many)
    test, seeds = Evaluator(net, samples), range(scale.many)
    for _ in fit(net, experiment.learning_rule(), optimizer, samples, 1, experiment.batch, seeds, progress):
        pass
    test()
    return f"{torch.cuda.max_memory_allocated() / 1e9:.2f} GB"


def report(scale: Scale) -> Iterator[str]:
    """Everything, line by line, as it is measured."""
    yield from (f"# The GPU path on {described(scale.device)}", "", harness.described(), f"Commit {commit()}.", "")
    images = "MNIST" if step.has_mnist() else "random images as sparse as MNIST"
    yield f"784-500-500-10 on {images}, minibatches of 100, one bit between h1 and h2; medians of {scale.rounds}"
    yield from ("rounds.", "", "## A step of DTP, both mappings in each minibatch", "")
    header = ["", "microseconds a step", "eager torch one by one / this (quartiles)", "goal"]
    yield from table(header, list(training(scale)))
    yield from ("", f"## {scale.epochs} epochs of {scale.seeds} seeds in one batch, tested after each", "")
    yield from table(["", "seconds to the end of the first", "seconds", "goal"], list(protocol(scale)))
    yield from ("", "## Binary layers", "")
    header = [
        "rows x in x out",
        "10^12 operations a second",
        "of bfloat16's best",
        "float32 / this (quartiles)",
        "goal",
    ]
    yield from table(header, list(products(scale)))
    yield from ("", "## Memory", "", f"{scale.many} networks with their samples: {memory(scale)} (goal: under 4 GB).")


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="little of everything on a CPU, written nowhere")
    options = parser.parse_args()
    if not options.small and not torch.cuda.is_available():
        parser.error("no CUDA device; --small shows on a CPU that everything runs")
    lines = []
    for line in report(SMALL if options.small else Scale()):
        print(line, flush=True)
        lines.append(line)
    if not options.small:
        print(f"\nwritten to {harness.write(lines, f'gpu {torch.cuda.get_device_name()}')}")


if __name__ == "__main__":
    main()
