"""What commands that train or test share: device, threads, progress on standard error, and logs."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..data import DataSet
    from ..experiment import Comparison
    from ..runs import Evaluation


def load_data(comparison: "Comparison", data_dir: Path | None, threads: int | None) -> "DataSet":
    from ..data import load

    use_threads(threads)
    return load(comparison.content["data"], data_dir)


def usable_device(device: str, tf32: bool) -> str:
    """The device to use, checked before anything else; its products are float32 unless `tf32`."""
    from ..backends.devices import DeviceError, multiply_in_tf32, usable

    device = usable(device)
    if tf32 and not device.startswith("cuda"):
        raise DeviceError(f"--tf32 is for products on a GPU: give --device cuda, not {device}")
    if device != "numpy":
        multiply_in_tf32(tf32)
    return device


def use_threads(threads: int | None) -> None:
    """Use so many threads, if any number is given, and say when kernels have to be compiled first."""
    from ..backends.numba_cpu import on_compile, set_threads

    on_compile(_report_compiling)
    if threads is not None:
        set_threads(threads)


def _report_compiling(kernel: str) -> None:
    """A line for each kernel where somebody watches, else one for all."""
    if sys.stderr.isatty():
        print(f"compiling, once for this machine: {kernel}", file=sys.stderr, flush=True)
    elif not _compiled:
        print("compiling kernels, once for this machine", file=sys.stderr, flush=True)
    _compiled.append(kernel)


_compiled: list[str] = []
"""Kernels compiled so far."""


@contextmanager
def progress() -> Iterator[Any]:
    """Bars on standard error: call with a label and a total, then call that with the number of steps done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description:32}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:

        def bar(label: str, total: int) -> Any:
            task, shown = progress.add_task(label, total=total), 0.0

            def update(done: int) -> None:
                nonlocal shown
                if done == total or monotonic() - shown > 0.1:  # a step may take less than showing it
                    shown = monotonic()
                    progress.update(task, completed=done)

            return update

        yield bar


@contextmanager
def logging(folders: Sequence[Path], tensorboard: bool) -> Iterator[Any]:
    """A function that takes the index of a run and an evaluation, and logs it for TensorBoard if asked to."""
    if not tensorboard:
        yield lambda index, evaluation: None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ImportError("--tensorboard needs TensorBoard: pip install 'lowbit-dtp[tensorboard]'") from None
    writers = [SummaryWriter(str(folder / "tensorboard")) for folder in folders]

    def log(index: int, evaluation: "Evaluation") -> None:
        for name, value in vars(evaluation).items():
            if name != "epoch":
                writers[index].add_scalar(name, value, evaluation.epoch)

    try:
        yield log
    finally:
        for writer in writers:
            writer.close()
