"""Batches of runs, several at once: the runs of a comparison, on processes of this machine or on a Dask cluster."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from .experiment import Experiment
from .jobs import cores, run_all, tell
from .observer import Observer
from .runs import command, is_finished, run_ensemble

if TYPE_CHECKING:
    from .data import DataSet
    from .runs import Evaluation


@dataclass(frozen=True)
class Batch:
    """Runs of one rule that differ only in their seeds, trained together as by `run_ensemble`."""

    rule: str
    experiments: tuple[Experiment, ...]
    folders: tuple[Path, ...]

    def __str__(self) -> str:
        first, last = self.experiments[0].seed, self.experiments[-1].seed
        return f"{self.rule} seed{f's {first} to {last}' if last > first else f' {first}'}"

    def train(
        self,
        data: "DataSet",
        observer: Observer,
        *,
        device: str = "numpy",
        diagnose: bool = False,
        command_line: str | None = None,
    ) -> None:
        """`run_ensemble`, followed by `observer`."""
        watching = observer.begin(self.rule, self.experiments, self.folders, len(data.train))
        try:
            run_ensemble(
                self.experiments, self.folders, data, device=device, diagnose=diagnose, on_step=watching.step,
                on_evaluation=watching.evaluated, command_line=command_line,
            )  # fmt: skip
        finally:
            watching.end()


def train_all(
    batches: Sequence[Batch],
    data: "DataSet",
    observer: Observer,
    *,
    data_dir: Path | None = None,
    device: str = "numpy",
    diagnose: bool = False,
    jobs: int | None = 1,
    threads: int | None = None,
    dask: str = "",
) -> None:
    """Train all `batches` on `data`, which workers find in `data_dir`; several at once, as `run_all` does.

    `jobs` None stands for as many as there are cores, or on another device than `numpy`, for one. Finished runs are not
    changed, and stopped ones continue. Raises ValueError before any training if one cannot be run, and JobsError, when
    the others are trained, if one fails.
    """
    left = []
    for batch in batches:
        for experiment in batch.experiments:
            experiment.check_sizes(data)
        if not all(map(is_finished, batch.folders, batch.experiments)):
            left.append(batch)
    if dask:
        left = [Batch(x.rule, x.experiments, tuple(path.absolute() for path in x.folders)) for x in left]
        data_dir = data_dir and Path(data_dir).absolute()
    watching: dict[tuple[Path, ...], Observer] = {}

    def follow(batch: Batch, told: tuple[str, Any]) -> None:
        what, arguments = told
        if what == "begin":
            stop(batch)  # if it was begun by a worker that has died
            watching[batch.folders] = observer.begin(batch.rule, batch.experiments, batch.folders, len(data.train))
        else:
            getattr(watching.get(batch.folders, observer), what)(*arguments)

    def stop(batch: Batch) -> None:
        if batch.folders in watching:
            watching.pop(batch.folders).end()

    jobs = jobs or (cores() if device == "numpy" else 1)
    trainer = _Trainer(data_dir, device, diagnose, command(), data)
    outcomes = run_all(trainer, left, jobs=jobs, threads=threads, dask=dask, on_message=follow)
    try:
        with closing(outcomes):
            for batch, _ in outcomes:
                stop(batch)
    finally:
        for batch in left:
            stop(batch)


@dataclass
class _Trainer:
    """Trains a batch, in any process."""

    data_dir: Path | None
    device: str
    diagnose: bool
    command_line: str
    data: "DataSet | None"
    """The data set, once it is loaded in this process."""

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"data": None}

    def __call__(self, batch: Batch) -> None:
        from .backends.devices import prepare_kernels
        from .data import load

        if self.data is None:
            self.data = load(batch.experiments[0].data, self.data_dir)
            prepare_kernels(on_compile=lambda kernel: tell(("compiling", (kernel,))))
        told = _Told(batch.experiments[0].steps(len(self.data.train)))
        batch.train(
            self.data, told, device=self.device, diagnose=self.diagnose, command_line=self.command_line
        )  # fmt: skip


class _Told(Observer):
    """Tells what it observes to the process that follows the training, steps a few times a second."""

    def __init__(self, steps: int) -> None:
        self.steps, self.told = steps, 0.0

    def begin(self, rule: str, experiments: Sequence[Experiment], folders: Sequence[Path], samples: int) -> Observer:
        tell(("begin", ()))
        return self

    def step(self, done: int) -> None:
        if done == self.steps or monotonic() - self.told > 0.2:
            self.told = monotonic()
            tell(("step", (done,)))

    def evaluated(self, index: int, evaluation: "Evaluation") -> None:
        tell(("evaluated", (index, evaluation)))
