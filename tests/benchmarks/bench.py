"""Kernels and training steps beside their peers, in one run: `make bench`.

    .venv/bin/python tests/benchmarks/bench.py [--quick] [--target native|avx2]

Measures the processor as it is and, if it has AVX-512, once more as an AVX2 machine. Prints one table after the other,
with the goals last, and writes them to `results/<processor>.md` and `results/<processor>-avx2.md`. Sides take turns; a
ratio is the median of the rounds' ratios, with quartiles, and above 1 where lowbit-dtp is faster.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import epoch
import harness
import limits
import numpy as np
import peers
import step
import targets
from goals import EAGER, TORCH, Scores
from harness import in_threads, measure, shown, table

from lowbit_dtp.backends import backend_of, multiplied, packed
from lowbit_dtp.backends.numba_cpu import set_threads
from lowbit_dtp.formats import Format, binary, fixed, float32
from lowbit_dtp.ledger import Direction, Ledger
from lowbit_dtp.links import Link, Signal

Shape = tuple[int, int, int]
"""Rows, inputs and outputs."""


@dataclass(frozen=True)
class Extent:
    """How much is measured."""

    shapes: tuple[Shape, ...]
    threads: tuple[int, ...]
    rounds: int
    """Turns of each product."""
    turns: int
    """Turns of each side in an epoch."""
    samples: int
    """In an epoch."""
    processes: bool
    """Whether first steps and memory, which take new processes, are measured."""


FULL = Extent(
    (
        (100, 784, 500),
        (100, 500, 500),
        (100, 240, 240),
        (256, 1024, 1024),
        (1024, 4096, 4096),
        (1, 500, 500),
        (10_000, 784, 500),
    ),
    (1, 2),
    15,
    20,
    step.TRAINED,
    True,
)
QUICK = Extent(((100, 784, 500), (100, 240, 240), (1, 500, 500)), (1,), 5, 5, 2000, False)
"""For a look while developing."""

LONG = 10**10
"""Multiplications from which half as many turns are enough."""

SIGNED_2, SIGNED_4 = fixed(2, 2), fixed(4, 4)

READ, FMA = "bytes a second read, first cache", "float32 multiply-adds a second"
COSTS: Mapping[str, tuple[str, Callable[[packed.Levels, packed.Weights], float]]] = {
    "planes": ("popcount bits a second", lambda levels, weights: levels.highest.bit_length() * weights.orders),
    "look-up": (
        "byte-shuffle bytes a second",
        lambda levels, weights: levels.highest.bit_length() * weights.plain_orders / 4,
    ),
    "bytes": ("byte multiply-adds a second", lambda levels, weights: weights.digits[1]),
    "pairs": ("products of pairs by sums of bytes a second", lambda levels, weights: 1),
}
"""Which limit of the machine a way to multiply whole numbers runs into, and what one product takes of it."""

LIMITED = {
    FMA: "float32 x float32",
    READ: "binary x float32, by look-ups alone: tables must be made and sums kept, too",
    "popcount bits a second": "binary x binary, ternary, 2 bits",
    "byte-shuffle bytes a second": "the same where bits are not counted in vectors",
    "byte multiply-adds a second": "binary x int8 (two for int16)",
    "products of pairs by sums of bytes a second": "2 x 2 and 4 x 4 bits",
    "bytes a second read, second cache": "weights of a layer; packing",
    "bytes a second written, second cache": "unpacking",
    limits.CALL: "one sample at a time; packing and unpacking",
    "bytes a second read, memory": "parameters, gradients and optimizer state where the last cache is too small",
}
"""What of ours each limit of the machine bounds."""


def by(shape: tuple[int, ...]) -> str:
    """`100 x 784 x 500`."""
    return " x ".join(map(str, shape))


@dataclass(frozen=True)
class Side:
    """A product of ours, which limit of the machine it runs into, and what one multiplication takes of that."""

    call: Callable[[], object]
    limit: str | None = None
    cost: float = 0
    way: str = ""

    def share(self, products: int, seconds: float, most: Mapping[str, float]) -> float | None:
        """How much of the time that it takes on one thread its limit would take, with a call of a kernel."""
        if self.limit not in most:
            return None
        return (most[limits.CALL] + products * self.cost / most[self.limit]) / seconds


def sent(x: np.ndarray, fmt: Format) -> Signal:
    """`x` over a link."""
    return Link(fmt, fmt, "below", "above").send(x, Direction.FORWARD, "activations", Ledger())


def of_whole(call: Callable[[], object], levels: packed.Levels, weights: packed.Weights, rows: int) -> Side:
    """A product of whole numbers."""
    way = packed.way_of(levels, weights, rows)
    if way not in COSTS:
        return Side(call, way=way)
    limit, cost = COSTS[way]
    return Side(call, limit, cost(levels, weights), way)


def products(shape: Shape) -> dict[str, Side]:
    """Our products of `shape`. Activations are float32 and packed within the time, but for those given as words."""
    rows, inputs, outputs = shape
    random, weights = np.random.default_rng(0), (inputs, outputs)
    x, w = (random.standard_normal(size).astype(np.float32) for size in ((rows, inputs), weights))
    error, bias = random.standard_normal((rows, outputs)).astype(np.float32), np.zeros(outputs, np.float32)
    out, xp = np.empty((rows, outputs), np.int32), backend_of(x)
    signal, dense = sent(x, binary), sent(x, float32)

    def whole(low: int, high: int) -> packed.Weights:
        return packed.Weights.arrange(random.integers(low, high, weights, endpoint=True))

    def of_signs(arranged: packed.Weights) -> Side:
        levels = packed.levels_of(binary)
        product = arranged.by(levels)
        return of_whole(lambda: product.of(x, 0.0, out), levels, arranged, rows)

    def of_words(fmt: Format, arranged: packed.Weights) -> Side:
        words, levels = packed.pack(fmt.encode(x), fmt.bits), packed.levels_of(fmt)
        product = arranged.by(levels)
        return of_whole(lambda: product(words, out), levels, arranged, rows)

    signs = packed.Weights.arrange(2 * random.integers(0, 2, weights) - 1)
    return {
        "binary x binary": of_signs(signs),
        "binary x binary, from words": of_words(binary, signs),
        "binary x ternary": of_signs(whole(-1, 1)),
        "binary x 2 bits": of_signs(whole(-2, 1)),
        "binary x int8": of_signs(whole(-128, 127)),
        "binary x int16": of_signs(whole(-32768, 32767)),
        # one number of four bytes is looked up for four products
        "binary x float32": Side(lambda: xp.pre_activation(signal, w, bias), READ, 1.0),
        "weight gradient, binary x float32": Side(lambda: multiplied(xp.gradients(signal, error, None)[0]), READ, 1.0),
        "2 x 2 bits": of_words(SIGNED_2, whole(-2, 1)),
        "4 x 4 bits": of_words(SIGNED_4, whole(-8, 7)),
        "float32 x float32": Side(lambda: xp.pre_activation(dense, w, bias), FMA, 1.0),
    }


def product_tables(extent: Extent, threads: int, most: Mapping[str, float], scores: Scores) -> Iterator[str]:
    """A table for each shape."""
    for shape in extent.shapes:
        rows, inputs, outputs = shape
        random = np.random.default_rng(0)
        x, w = (random.standard_normal(s).astype(np.float32) for s in ((rows, inputs), (inputs, outputs)))
        mine, theirs = products(shape), peers.products(x, w, threads)
        count = rows * inputs * outputs
        rounds = extent.rounds if count < LONG else extent.rounds // 2
        timings = measure({name: side.call for name, side in mine.items()} | theirs, rounds)
        where = by(shape) if threads == 1 else f"{by(shape)}, {in_threads(threads)}"
        lines = []
        for name in timings.seconds:
            seconds, side = timings.median(name), mine.get(name, Side(lambda: None))
            share = side.share(count, seconds * threads, most)
            ratios = {peer: timings.ratio(peer, name)[1] for peer in theirs}
            goals = {peer: scores.note(name, where, peer, ratio, share) for peer, ratio in ratios.items()}
            stated = [goal if peer == TORCH else f"{goal} ({peer})" for peer, goal in goals.items() if goal]
            stated += filter(None, [scores.note(name, where, "", seconds * 1e6, share)])
            lines.append(
                [
                    name,
                    f"{seconds * 1e6:,.{1 if seconds < 1e-4 else 0}f}",
                    f"{count / seconds / 1e9:,.0f}",
                    shown(timings.ratio(TORCH, name)),
                    "; ".join(stated),
                    *(f"{ratio:.2f}" for peer, ratio in ratios.items() if peer != TORCH),
                    "" if share is None else f"{share:.0%}",
                    side.way,
                ]
            )
        others = [f"{peer} / it" for peer in theirs if peer != TORCH]
        yield from ("", f"**{by(shape)}**", "")
        yield from table(["", "µs", "10^9 products/s", f"{TORCH} / it", "goal", *others, "of the limit", "way"], lines)


def packing_table(rounds: int, most: Mapping[str, float], scores: Scores) -> Iterator[str]:
    """Packing and unpacking, in the cache. Their limit is to read, or write, the floats by one call of a kernel."""
    peer_of = {"pack": "np.packbits", "unpack": "np.unpackbits"}
    rates = {"pack": most["bytes a second read, second cache"], "unpack": most["bytes a second written, second cache"]}
    lines = []
    for shape in ((100, 500), (100, 784), (256, 1024)):
        x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        words, _ = packed.pack_signs(x)
        mine = {
            "pack": lambda x=x: packed.pack_signs(x),
            "unpack": lambda words=words, n=shape[1]: packed.unpack_signs(words, n, -1.0, 1.0),
        }
        timings = measure(mine | peers.packing(x), rounds)
        for name, peer in peer_of.items():
            seconds, ratio = timings.median(name), timings.ratio(peer, name)
            share = (most[limits.CALL] + x.nbytes / rates[name]) / seconds
            goal = scores.note(name, by(shape), peer, ratio[1], share)
            lines.append([f"{name} {by(shape)}", f"{seconds * 1e6:.1f}", peer, shown(ratio), goal, f"{share:.0%}"])
    yield from table(["", "µs", "peer", "peer / it", "goal", "of the limit"], lines)


def step_table(extent: Extent, scores: Scores) -> Iterator[str]:
    """Epochs of training."""
    lines = []
    for case in step.CASES:
        same = step.check_same(case, step.samples(case.dense, extent.samples // 10))
        for threads in extent.threads:
            timings = step.epochs(case, threads, extent.turns, extent.samples)
            milliseconds = (f"{timings.median(side) * 1e3:.2f}" for side in ("lowbit-dtp", "torch"))
            ratio = timings.ratio("torch", "lowbit-dtp")
            goal = scores.note(case.name, in_threads(threads), EAGER, ratio[1])
            lines.append([case.name, str(threads), *milliseconds, shown(ratio), goal, f"{same:.0e}"])
    header = ["", "threads", "lowbit-dtp, ms a step", "torch, ms a step", "torch / lowbit-dtp", "goal", "differ by"]
    yield from table(header, lines)


def where_time_goes(scores: Scores) -> Iterator[str]:
    """The kernels of a step, and what is left of one without them."""
    case = step.CASES[1]
    spent = sorted(step.shares(case).items(), key=lambda share: -share[1])
    yield f"Where a step of ours goes if taken as written, in Python, on one thread, of {case.name}:"
    yield ", ".join(f"{name} {ms:.2f} ms" for name, ms in spent if ms >= 0.02) + "."
    timings, what = step.small_steps(), f"a step of {'-'.join(map(str, step.SMALL))}, 8 samples"
    microseconds, ratio = 1e6 * timings.median("chosen"), timings.ratio("as written", "chosen")
    most = scores.note(what, in_threads(1), "", microseconds)
    least = scores.note(what, in_threads(1), "as written", ratio[1])
    yield f"{what.capitalize()}, where little but Python is left, takes {microseconds:.0f} µs (goal: {most}),"
    yield f"and as written {1e6 * timings.median('as written'):.0f} µs, {shown(ratio)} times as long (goal: {least})."


def first_steps(scores: Scores) -> Iterator[str]:
    """What a new process waits for."""
    compiled, cached = epoch.first_steps()
    goal = scores.note("first step, kernels compiled", "", "", compiled.cpu_seconds)
    yield f"The first step in a new process takes {compiled.cpu_seconds:.1f} s of CPU (goal: {goal}), or"
    yield f"{compiled.seconds:.1f} s by the clock, if kernels must be compiled, and {cached.seconds:.2f} s if they are"
    yield f"cached, beside {cached.numba:.2f} s in which Numba itself starts."


def memory() -> Iterator[str]:
    """Peak memory of an epoch, and what there is no way around."""
    ours, eager, as_bytes = (epoch.epoch_memory(side) / 1e6 for side in ("ours", "eager", "eager-bytes"))
    numba, images, state = (x / 1e6 for x in (epoch.numba_memory(), epoch.image_bytes(), epoch.state_bytes()))
    yield "Peak memory of a process that trains DTP for an epoch of MNIST (goal: half of eager torch's):"
    yield f"{ours:.0f} MB; eager torch {eager:.0f} MB, or {as_bytes:.0f} MB if it keeps inputs as bytes."
    yield f"A process that runs one cached kernel of Numba takes {numba:.0f} MB; the images are {images:.0f} MB, and"
    yield f"the parameters with their optimizer's state {state:.0f} MB: {numba + images + state:.0f} MB together."


def heading(target: str, says: Mapping[str, str]) -> Iterator[str]:
    """The machine, and which instructions each library uses."""
    limited = target == targets.AVX2
    yield from (f"# Benchmarks on {harness.machine()}{', as an AVX2 machine' * limited}", "", harness.described(), "")
    if missing := peers.missing():
        yield from (f"Not installed, and left out: {', '.join(missing)}.", "")
    if limited:
        wider = targets.unlimited(says)
        yield "Each library was told to use AVX2 and no more, and asked what it uses. Not limited, for nothing can tell"
        yield from (f"it, and so faster here than without AVX-512: {', '.join(wider) or 'none'}.", "")
    yield from table(["library: what uses it", "says that it uses"], [list(both) for both in says.items()])


def report(extent: Extent, scores: Scores) -> Iterator[str]:
    """All that is measured, line by line."""
    yield from ("", "## Limits of the machine, one thread", "")
    most = limits.measured()
    yield from table(
        ["", "", "limits"], [[name, f"{most[name]:.3g}", what] for name, what in LIMITED.items() if name in most]
    )
    for threads in extent.threads:
        set_threads(threads)
        yield from ("", f"## Products, {in_threads(threads)}")
        yield from product_tables(extent, threads, most, scores)
    set_threads(1)
    yield from ("", "## Packing, one thread", "", *packing_table(extent.rounds, most, scores))
    images = "MNIST" if step.has_mnist() else "random images as sparse as MNIST"
    yield from ("", f"## Training 784-500-500-10 on {images}, an epoch of each in {extent.turns} turns", "")
    yield from step_table(extent, scores)
    yield from ("", *where_time_goes(scores))
    if extent.processes:
        yield from first_steps(scores)
        if step.has_mnist():
            yield from ("", *memory())


def measure_target(target: str, extent: Extent) -> None:
    """Measure the processor as `target`, print as it goes, and write if the extent is the full one."""
    targets.enter(target)
    watch, says, lines = harness.Watch(), targets.found(), []
    peers_beyond = targets.peers(targets.unlimited(says)) if target == targets.AVX2 else ()
    scores = Scores(targets.has_avx512(), peers_beyond)
    above = list(heading(target, says))
    print(*above, sep="\n", flush=True)
    for line in report(extent, scores):
        print(line, flush=True)
        lines.append(line)
    goals = ["", "## Goals", "", *scores.lines(), "", watch.said()]
    print(*goals, sep="\n", flush=True)
    if extent is FULL:
        name = f"{harness.machine()} avx2" if target == targets.AVX2 else harness.machine()
        print(f"\nwritten to {harness.write([*above, *goals, *lines], name)}", flush=True)


def main() -> None:
    """Measure one target, or each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer shapes and rounds, one thread; written nowhere")
    parser.add_argument("--target", choices=targets.there(), help="the only one to measure")
    options = parser.parse_args()
    if options.target:
        measure_target(options.target, QUICK if options.quick else FULL)
        return
    for target in targets.there():
        command = [sys.executable, *sys.orig_argv[1:], "--target", target]
        subprocess.run(command, env=targets.environment(target), check=True)


if __name__ == "__main__":
    main()
