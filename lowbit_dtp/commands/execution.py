"""Device, threads, progress on standard error and logs, for commands that train or test."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from ..observer import Observer
from .tracking import MLflow, RunLog, TensorBoard, Tracker

if TYPE_CHECKING:
    from typing import Self

    from ..experiment import Experiment
    from ..runs import Evaluation


def usable_device(device: str, tf32: bool) -> str:
    """The device to use, checked first; its products are float32 unless `tf32`."""
    from ..backends.devices import DeviceError, multiply_in_tf32, usable

    device = usable(device)
    if tf32 and not device.startswith("cuda"):
        raise DeviceError(f"--tf32 is for products on a GPU: give --device cuda, not {device}")
    if device != "numpy":
        multiply_in_tf32(tf32)
    return device


def use_threads(threads: int | None) -> None:
    """Use so many threads, if a number is given, and report when kernels have to be compiled first."""
    from ..backends.devices import prepare_kernels

    prepare_kernels(threads, _report_compiling)


def _report_compiling(kernel: str) -> None:
    """A line for each kernel on a terminal, else one for all. Several processes may compile the same one."""
    if kernel in _compiled:
        return
    if sys.stderr.isatty():
        print(f"compiling, once for this machine: {kernel}", file=sys.stderr, flush=True)
    elif not _compiled:
        print("compiling kernels, once for this machine", file=sys.stderr, flush=True)
    _compiled.append(kernel)


_compiled: list[str] = []
"""Kernels compiled so far."""


@contextmanager
def observer(tensorboard: bool, mlflow: bool = False) -> Iterator[Observer]:
    """Progress on standard error: bars on a terminal, else a line an epoch. Logs for TensorBoard and MLflow."""
    trackers = [kind() for kind, is_wanted in ((TensorBoard, tensorboard), (MLflow, mlflow)) if is_wanted]
    if not sys.stderr.isatty():
        yield _Lines(trackers)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description:32}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:
        yield _Bars(bars, trackers)


class _Log(Observer):
    """Prints the formats of links, and logs each run with `trackers`."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self._trackers = trackers
        self._logs: list[list[RunLog]] = []
        self.rule = ""
        self.experiments: Sequence[Experiment] = ()

    def announce(self, rule: str, experiment: "Experiment") -> None:
        counting = "; codings are counted, so steps are plain" if experiment.codings else ""
        self.say(f"{rule}: {links_in_words(experiment)}{counting}")

    def begin(self, rule: str, experiments: Sequence["Experiment"], folders: Sequence[Path], samples: int) -> "Self":
        runs = copy(self)
        runs.rule, runs.experiments = rule, experiments
        runs._logs = [
            [tracker.begin(rule, experiment, folder) for tracker in self._trackers]
            for experiment, folder in zip(experiments, folders, strict=True)
        ]
        return runs

    def compiling(self, kernel: str) -> None:
        _report_compiling(kernel)

    def say(self, line: str) -> None:
        """Print `line` on standard error."""
        print(line, file=sys.stderr, flush=True)

    def evaluated(self, index: int, evaluation: "Evaluation") -> None:
        for log in self._logs[index]:
            log.evaluated(evaluation)

    def end(self) -> None:
        for log in (log for logs in self._logs for log in logs):
            log.end()


def score_text(score: float, measure: str) -> str:
    """A score with its name.

    >>> score_text(2.104, "error_percent"), score_text(12.3456, "squared_error")
    ('error 2.10 %', 'squared error 12.35')
    """
    from ..tasks import MEASURES

    return f"{MEASURES[measure]} " + (f"{score:.2f} %" if measure.endswith("percent") else f"{score:.4g}")


class _Lines(_Log):
    """A line for each epoch of each run."""

    def evaluated(self, index: int, evaluation: "Evaluation") -> None:
        super().evaluated(index, evaluation)
        experiment = self.experiments[index]
        self.say(
            f"{self.rule} seed {experiment.seed}: epoch {evaluation.epoch} of {experiment.epochs}, "
            f"test {score_text(evaluation.test_score, evaluation.measure)}, {evaluation.seconds:.2f} s"
        )


class _Bars(_Log):
    """A bar for the runs that are trained in one batch."""

    def __init__(self, bars: Any, trackers: Sequence[Tracker]) -> None:
        super().__init__(trackers)
        self._bars = bars
        self._task, self._total, self._shown = 0, 0, 0.0

    def say(self, line: str) -> None:
        self._bars.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def begin(self, rule: str, experiments: Sequence["Experiment"], folders: Sequence[Path], samples: int) -> "Self":
        runs = super().begin(rule, experiments, folders, samples)
        first, last = experiments[0].seed, experiments[-1].seed
        label = f"{rule} {first}" + (f"-{last}" if last > first else "")
        runs._total = experiments[0].steps(samples)
        runs._task = self._bars.add_task(label, total=runs._total)
        return runs

    def step(self, done: int) -> None:
        if done == self._total or monotonic() - self._shown > 0.1:  # a step may take less time than printing it
            self._shown = monotonic()
            self._bars.update(self._task, completed=done)


def links_in_words(experiment: "Experiment") -> str:
    """The formats of each link of `experiment` in training.

    Links that a rule adds are not included; the ledger and the report have those as well.
    """
    net, rule, _ = experiment.built()
    parts = []
    for i, link in enumerate(rule.training_links(net.links)):
        feedback = f", {link.feedback.name} feedback" if i else ""  # nothing is sent down to the inputs
        parts.append(f"{link.name} {link.forward.name} forward{feedback}")
    return f"network {'-'.join(map(str, experiment.sizes))}; links {'; '.join(parts)}"
