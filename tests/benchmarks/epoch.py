"""Memory that an epoch of DTP takes on MNIST, ours and plain torch's, and time that a first step takes.

    LOWBIT_DTP_DATA=<folder> .venv/bin/python tests/benchmarks/epoch.py eager|eager-bytes|ours [--threads N]

Trains 784-500-500-10 for one epoch of minibatches of 100. MNIST must have been downloaded. Peak memory needs Linux or
another system that tells the most memory its processes had.
"""

import argparse
import gzip
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

BATCH, TRAINED, SIZES = 100, 50_000, (784, 500, 500, 10)
TARGET_STEP, NOISE, RATE, FEEDBACK_RATE = 0.27965482616, 0.5, 6.60055346131e-4, 4.32831736994e-4
"""As in `lowbit_dtp/experiments/mnist.toml`; they do not change what memory is taken."""

_WATCH = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(done.returncode)
"""


def peak_memory(argv: Sequence[str]) -> int:
    """Most memory, in bytes, that a process running `argv` held. RuntimeError with its last words if it fails.

    A process begins with the peak of the one that starts it, so this has a small one do so: `argv` is its child.
    """
    done = subprocess.run([sys.executable, "-S", "-c", _WATCH, *argv], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)} failed: {done.stderr[-500:]}")
    return int(done.stdout) * (1 if sys.platform == "darwin" else 1024)


def epoch_memory(side: str, threads: int = 1) -> int:
    """Most memory, in bytes, of a process that trains `side`, one of `SIDES`, for an epoch."""
    return peak_memory([sys.executable, str(Path(__file__).resolve()), side, "--threads", str(threads)])


_ONE_KERNEL = """
import numba
import numpy

@numba.njit(parallel=True, cache=True)
def add_one(x):
    for i in numba.prange(x.size):
        x[i] += 1

add_one(numpy.zeros(3))
"""


def numba_memory() -> int:
    """Most memory, in bytes, of a process that runs one parallel kernel of Numba, which is cached."""
    with TemporaryDirectory() as folder:
        program = Path(folder) / "one_kernel.py"
        program.write_text(_ONE_KERNEL)
        return [peak_memory([sys.executable, str(program)]) for _ in range(2)][1]


def image_bytes() -> int:
    """Bytes of the images that are trained on."""
    return TRAINED * SIZES[0]


def state_bytes() -> int:
    """Bytes of the parameters of 784-500-500-10 in float32, with three numbers of RMSprop's state for each."""
    weights = sum(below * here for below, here in pairwise(SIZES)) + SIZES[1] * SIZES[2]
    return 4 * 4 * (weights + sum(SIZES[1:]) + SIZES[1])


def images_and_labels(folder: Path) -> tuple[bytearray, bytearray]:
    """Bytes of the images and labels to train on, from IDX files with or without gzip."""

    def content(name: str, header: int, count: int) -> bytearray:
        packed = folder / f"{name}.gz"
        with gzip.open(packed) if packed.exists() else (folder / name).open("rb") as file:
            file.read(header)
            found = bytearray(count)
            for begin in range(0, count, 2**20):  # gzip would hold what it reads at once a second time
                file.readinto(memoryview(found)[begin : begin + 2**20])
            return found

    images = content("train-images-idx3-ubyte", 16, TRAINED * SIZES[0])
    return images, content("train-labels-idx1-ubyte", 8, TRAINED)


def eager(folder: Path, threads: int, as_bytes: bool = False) -> None:
    """An epoch in plain torch, with inputs in float32; or in bytes, of which each minibatch makes its own numbers."""
    import torch
    from eager import Eager

    torch.set_num_threads(threads)
    images, labels_bytes = images_and_labels(folder)
    stored = torch.frombuffer(images, dtype=torch.uint8).view(-1, SIZES[0])
    inputs = stored if as_bytes else stored.float().mul_(1 / 256)
    labels = torch.frombuffer(labels_bytes, dtype=torch.uint8).long()
    del images, stored
    torch.manual_seed(0)
    shapes = dict(zip(("h1", "h2", "output"), pairwise(SIZES), strict=True))
    parameters = {f"{name}.weight": torch.nn.init.orthogonal_(torch.empty(shape)) for name, shape in shapes.items()}
    parameters |= {f"{name}.bias": torch.zeros(shape[1]) for name, shape in shapes.items()}
    parameters["h1.feedback"] = torch.nn.init.orthogonal_(torch.empty(SIZES[2], SIZES[1]))
    parameters["h1.feedback_bias"] = torch.zeros(SIZES[1])
    net = Eager(parameters, RATE, FEEDBACK_RATE)
    for chosen in torch.randperm(TRAINED).split(BATCH):
        batch = inputs[chosen].float().mul_(1 / 256) if as_bytes else inputs[chosen]
        net.dtp(batch, labels[chosen], torch.randn(BATCH, SIZES[1]).mul_(NOISE), TARGET_STEP)


def ours(folder: Path, threads: int) -> None:
    """An epoch of `lowbit_dtp.training.fit`."""
    from lowbit_dtp import data
    from lowbit_dtp.backends.numba_cpu import set_threads
    from lowbit_dtp.experiment import Comparison
    from lowbit_dtp.training import fit

    set_threads(threads)
    setting = Comparison.load("mnist").experiment("dtp", seed=0)
    setting = replace(setting, settings=setting.settings | {"schedule": "minibatch"})
    net, optimizer, rule = setting.network(), setting.make_optimizer(), setting.learning_rule()
    for _ in fit(net, rule, optimizer, data.load("mnist", folder).train, 1, BATCH, setting.seed):
        pass


_FIRST_STEP = """
import os, time
import numba
def seconds():
    return time.perf_counter(), sum(os.times()[:4])  # of the clock, and of CPUs, with those of child processes
started = seconds()
numba.njit(lambda x: x + 1)(1)
begun = seconds()
from step import CASES, ours, samples
on = samples(count=1000)
imported = seconds()
ours(CASES[1].experiment(), on)[0]()
taken = seconds()
print(begun[0] - started[0], taken[0] - imported[0], taken[1] - imported[1])
"""


@dataclass(frozen=True)
class FirstStep:
    """Seconds that a first step of DTP takes in a new process, after those in which Numba itself starts."""

    numba: float
    seconds: float
    cpu_seconds: float


def first_steps() -> tuple[FirstStep, FirstStep]:
    """The first with no kernel compiled, and the second with all in the cache."""
    here = str(Path(__file__).resolve().parent)
    with TemporaryDirectory() as cache:
        path = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = os.environ | {"NUMBA_CACHE_DIR": cache, "PYTHONPATH": path}
        command = [sys.executable, "-c", _FIRST_STEP]

        def run() -> FirstStep:
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            return FirstStep(*map(float, done.stdout.split()[-3:]))

        return run(), run()


SIDES: dict[str, Callable[[Path, int], None]] = {
    "eager": eager,
    "eager-bytes": lambda folder, threads: eager(folder, threads, as_bytes=True),
    "ours": ours,
}
"""Epochs by their names."""


def main() -> None:
    """Train one side for an epoch: the process whose memory is measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", choices=list(SIDES))
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    SIDES[options.side](mnist(), options.threads)


def mnist() -> Path:
    """The folder that holds MNIST: the one named by LOWBIT_DTP_DATA, or its folder `mnist`."""
    root = Path(os.environ.get("LOWBIT_DTP_DATA", "."))
    for folder in (root / "mnist", root):
        if any(folder.glob("train-images-idx3-ubyte*")):
            return folder
    raise FileNotFoundError(f"{root.absolute()}: no MNIST there; LOWBIT_DTP_DATA names the folder to look in")


if __name__ == "__main__":
    main()
