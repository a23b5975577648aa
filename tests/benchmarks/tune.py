"""Random search for each rule's learning rates and target step, with an equal budget, judged by validation error alone.

    .venv/bin/python tests/benchmarks/tune.py
    .venv/bin/python tests/benchmarks/tune.py --data mnist --stream 100 --device cuda

In processes of one thread, or, on a device, all trials of a rule in batches. Prints one table, and writes it to
`results/tune-<data set>.md`. The best values are copied by hand into the data set's experiment file, so that a search
never changes what a plain `lowbit-dtp compare` does.
"""

import argparse
import datetime
import shlex
import statistics
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import fields, replace
from itertools import groupby, islice, product
from pathlib import Path
from time import perf_counter
from typing import Any, TypeAlias

from lowbit_dtp import data
from lowbit_dtp.backends.devices import DEVICES, usable
from lowbit_dtp.backends.numba_cpu import set_threads
from lowbit_dtp.ensemble import Run, stack
from lowbit_dtp.experiment import Comparison, Experiment
from lowbit_dtp.randomness import generator
from lowbit_dtp.rules import RULES, TargetRule, rule_named
from lowbit_dtp.storage import write_text
from lowbit_dtp.training import Progress, evaluate, fit

RANGES = {"learning_rate": (-4.0, -2.0), "feedback_learning_rate": (-4.0, -2.5), "target_step": (-2.0, 0.3)}
"""Exponents of ten between which each setting is drawn, uniformly. What a rule does not take is not drawn."""

FIRST_SEED = 1000
"""Of the runs here, so that none is a run that an experiment reports."""

RESULTS = Path(__file__).parent / "results"


def candidates(rule: str, stream: int) -> list[dict[str, float]]:
    """`stream` settings for `rule`, each value rounded to the three digits that go into an experiment file."""
    kind = rule_named(rule)
    taken = {"learning_rate", *(f.name for f in fields(kind))}  # type: ignore[arg-type]
    if kind.uses_feedback_weights:
        taken.add("feedback_learning_rate")
    random = generator(0, f"tune {rule}")
    return [
        {name: float(f"{10 ** random.uniform(*ends):.3g}") for name, ends in RANGES.items() if name in taken}
        for _ in range(stream)
    ]


Task: TypeAlias = tuple[dict[str, Any], str, dict[str, float], int]
"""Content of a comparison, a rule, settings to try, and a seed."""


def experiment_of(task: Task) -> Experiment:
    """What a task is to train."""
    content, rule, settings, seed = task
    rules = content["rules"] | {rule: content["rules"].get(rule, {}) | settings}
    return Comparison(content | {"rules": rules}).experiment(rule, seed)


def valid_error_percent(task: Task) -> float:
    """Validation error after training by a rule with some settings and a seed."""
    set_threads(1)
    experiment, seed = experiment_of(task), task[-1]
    net, learning, optimizer = experiment.network(), experiment.learning_rule(), experiment.make_optimizer()
    samples = data.load(experiment.data)
    for _ in fit(net, learning, optimizer, samples.train, experiment.epochs, experiment.batch, seed):
        pass
    return evaluate(net.with_links(learning.inference_links(net.links)), samples.valid)


def valid_errors_percent(tasks: Sequence[Task], device: str) -> list[float]:
    """The same of many tasks of one rule, trained as one ensemble on `device`."""
    experiments = [experiment_of(task) for task in tasks]
    seeds, first = [x.seed for x in experiments], experiments[0]
    runs = [Run(x.network(), x.make_optimizer(), Progress()) for x in experiments]
    net, optimizer, progress = stack(runs, device)
    rules = [x.learning_rule() for x in experiments]
    rule: Any = rules[0]
    if isinstance(rule, TargetRule):
        rule = replace(rule, target_step=[each.target_step for each in rules])
    samples = data.load(first.data)
    for _ in fit(net, rule, optimizer, samples.train.on(device), first.epochs, first.batch, seeds, progress):
        pass
    return evaluate(net.with_links(rule.inference_links(net.links)), samples.valid.on(device)).tolist()


def main() -> None:
    """Search, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--stream", type=int, default=16, help="settings tried for each rule")
    parser.add_argument("--seeds", type=int, default=2, help="runs of each setting")
    parser.add_argument("--epochs", type=int, help="of each run; default as in the experiment file")
    parser.add_argument("--rules", nargs="+", choices=sorted(RULES), default=list(RULES))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--device", choices=DEVICES, default="numpy", help="where to train")
    parser.add_argument("--ensemble", type=int, default=64, help="trials in one batch on a device")
    options = parser.parse_args()
    comparison = Comparison.load(options.data, epochs=options.epochs)
    seeds = range(FIRST_SEED, FIRST_SEED + options.seeds)
    tried = {rule: candidates(rule, options.stream) for rule in options.rules}
    tasks = [(comparison.content, rule, s, seed) for rule in tried for s, seed in product(tried[rule], seeds)]
    started, device = perf_counter(), usable(options.device)

    def on_device() -> Iterator[float]:
        for _, of_rule in groupby(tasks, key=lambda task: task[1]):
            while batch := list(islice(of_rule, options.ensemble)):
                yield from valid_errors_percent(batch, device)

    with ProcessPoolExecutor(options.processes) as pool:
        errors = iter(pool.map(valid_error_percent, tasks) if device == "numpy" else on_device())
        lines = [
            "| rule | best settings | validation error, mean over seeds | median over stream | worst |",
            "|---|---|---|---|---|",
        ]
        for rule, settings in tried.items():
            means = [statistics.fmean(next(errors) for _ in seeds) for _ in settings]
            best = min(range(len(means)), key=means.__getitem__)
            shown = ", ".join(f"{name} = {value:g}" for name, value in settings[best].items())
            lines.append(
                f"| {rule} | {shown} | {means[best]:.2f} % | {statistics.median(means):.2f} % | {max(means):.2f} % |"
            )
            print(lines[-1], flush=True)
    text = "\n".join(
        [
            f"# Settings for {options.data}, by validation error",
            "",
            f"{datetime.date.today()}: `python {shlex.join(sys.argv)}`, {perf_counter() - started:.0f} s.",
            f"For each rule {options.stream} random settings, each trained {comparison.content['epochs']} epochs with "
            f"{options.seeds} seeds from {FIRST_SEED}; the rest as in the experiment file.",
            "",
            *lines,
            "",
        ]
    )
    write_text(RESULTS / f"tune-{options.data}.md", text)
    print(text)


if __name__ == "__main__":
    main()
