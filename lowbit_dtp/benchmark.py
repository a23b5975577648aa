"""Speed of few-bit products and of training on this machine, compared with NumPy: a short `make bench`."""

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import perf_counter, sleep

import numpy as np

from .backends import backend_of, packed
from .data import Samples
from .experiment import Comparison
from .formats import binary, float32, ufixed
from .ledger import Direction, Ledger
from .links import Link, Signal
from .training import fit

SHAPES = ((100, 784, 500), (256, 1024, 1024))
"""Rows, inputs and outputs of the products that are timed."""

_ROUNDS, _TURN, _SETTLE = 9, 0.03, 0.1


@dataclass(frozen=True)
class Timing:
    """Median seconds of one call, and of the same in NumPy's float32, if NumPy has it, measured alternately."""

    name: str
    seconds: float
    numpy_seconds: float | None = None


def products() -> Iterator[Timing]:
    """Products of each of `SHAPES`, and their peer: float32 activations and weights in NumPy, on as many threads."""
    for shape in SHAPES:
        sides = _sides(*shape)
        seconds = _in_turn(sides)
        for name in list(sides)[1:]:
            yield Timing(f"{name}, {' x '.join(map(str, shape))}", seconds[name], seconds["NumPy"])


def _sides(rows: int, inputs: int, outputs: int) -> dict[str, Callable[[], object]]:
    random = np.random.default_rng(0)
    x, w = (random.standard_normal(s).astype(np.float32) for s in ((rows, inputs), (inputs, outputs)))
    out, bias, xp = np.empty((rows, outputs), np.float32), np.zeros(outputs, np.float32), backend_of(x)
    signal, signs = _sent(x), packed.levels_of(binary)

    def by(levels: np.ndarray) -> Callable[[], object]:
        weights = packed.Weights.arrange(levels.astype(np.int8))
        return lambda: packed.product_of(x, 0.0, signs, weights)

    return {
        "NumPy": lambda: np.matmul(x, w, out=out),
        "binary x binary": by(np.where(w > 0, 1, -1)),
        "binary x ternary": by(np.rint(w.clip(-1, 1))),
        "binary x int8": by(np.rint(30 * w).clip(-128, 127)),
        "binary x float32": lambda: xp.pre_activation(signal, w, bias),
    }


def steps() -> Iterator[Timing]:
    """Training steps of the thesis' network on random images as sparse as digits: a minibatch of 100."""
    random = np.random.default_rng(0)
    inputs = random.integers(1, 256, (1000, 784), np.uint8) * (random.random((1000, 784)) < 0.19)
    samples = Samples(inputs, random.integers(0, 10, len(inputs)), ufixed(8, 0))
    for rule in ("dtp", "straight-through"):
        setting = Comparison.load("mnist").experiment(rule, seed=0)
        going = fit(setting.network(), setting.learning_rule(), setting.make_optimizer(), samples, 10**9, setting.batch)
        phases = len(setting.learning_rule().phases)
        turn = phases * len(samples) // setting.batch  # an epoch: each phase as often as the others
        for _ in range(turn):
            next(going)
        taken = []
        for _ in range(_ROUNDS):
            started = perf_counter()
            for _ in range(turn):
                next(going)
            taken.append((perf_counter() - started) / turn * phases)
        yield Timing(f"a minibatch of {rule}, {'-'.join(map(str, setting.sizes))}", statistics.median(taken))


def _sent(x: np.ndarray) -> Signal:
    return Link(binary, float32, "below", "above").send(x, Direction.FORWARD, "activations", Ledger())


def _in_turn(sides: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median seconds a call, in turns of equal time."""
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for call in sides.values():
        call()
    for _ in range(_ROUNDS):
        for name, call in sides.items():
            sleep(_SETTLE)  # threads of NumPy's BLAS keep a core busy for a while after a call
            calls, started = 0, perf_counter()
            while (elapsed := perf_counter() - started) < _TURN:
                call()
                calls += 1
            taken[name].append(elapsed / calls)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}
